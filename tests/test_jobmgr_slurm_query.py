"""Asking Slurm: one ``squeue`` at a time, bounded, and its answer."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ldmsjob.facts import JobDetails
from ldmsjob.jobmgr.slurm_query import (
    DEADLINE_SECONDS,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MAX_OUTPUT_BYTES,
    UNKNOWN_NODE,
    Answer,
    CommandFailed,
    SlurmJob,
    SlurmQuery,
    arguments,
    environment,
    new_separator,
    parse,
    process_runner,
)
from ldmsjob.stats import Stats

SEPARATOR = "|5e9a12|"
PLAIN = [
    *("3", "RUNNING", "1000", "100", "1795396425", "NONE", "3", "N/A", "N/A", "N/A", "0", "0"),
    *("2", "alice", "main", "(null)", "sleep"),
]
ELEMENT = [
    *("7", "COMPLETED", "0", "0", "1795396025", "1795396425", "2", "0", "N/A", "N/A", "1", "15"),
    *("1", "root", "main", "acct", "wrap"),
]
COMPONENT = [
    *("6", "COMPLETING", "0", "0", "1795396426", "NONE", "6", "N/A", "5", "1", "0", "0"),
    *("1", "root", "main", "(null)", "x\n77|y"),
]


def output(*records: list[str]) -> bytes:
    """What squeue writes."""
    return "".join(
        "".join(field + SEPARATOR for field in record) + "\n" for record in records
    ).encode()


class Parsing(SynchronousTestCase):
    """Records as Slurm 22.05 wrote them."""

    def test_records(self) -> None:
        """All that is known of a job, an array's element, a component."""
        jobs, bad = parse(output(PLAIN, ELEMENT, COMPONENT), SEPARATOR)
        self.assertEqual(bad, 0)
        self.assertEqual(
            jobs["3"],
            SlurmJob(
                "3",
                "RUNNING",
                1000,
                100,
                "alice",
                "sleep",
                1795396425_000000,
                None,
                2,
                0,
                JobDetails(restart_count=0, partition="main"),
            ),
        )
        self.assertEqual(
            jobs["7"].details,
            JobDetails(
                array_job_id=2,
                array_task_id=0,
                restart_count=1,
                partition="main",
                account="acct",
            ),
        )
        self.assertEqual((jobs["7"].end_us, jobs["7"].exit_status), (1795396425_000000, 15))
        self.assertEqual(
            jobs["6"].details,
            JobDetails(het_job_id=5, het_job_offset=1, restart_count=0, partition="main"),
        )

    def test_name_with_a_line_end(self) -> None:
        """A job's name may hold anything, and forges no record."""
        jobs, bad = parse(output(COMPONENT, PLAIN), SEPARATOR)
        self.assertEqual((bad, sorted(jobs)), (0, ["3", "6"]))
        self.assertEqual(jobs["6"].job_name, "x\n77|y")

    def test_no_jobs(self) -> None:
        """An empty answer is one."""
        self.assertEqual(parse(b"", SEPARATOR), ({}, 0))

    def test_states(self) -> None:
        """A state that is not known counts as alive."""
        for state, running, over in (
            ("RUNNING", True, False),
            ("SUSPENDED", True, False),
            ("COMPLETING", False, False),
            ("CONFIGURING", False, False),
            ("NEW_STATE", False, False),
            ("COMPLETED", False, True),
            ("OUT_OF_MEMORY", False, True),
            ("PENDING", False, True),
            ("REQUEUE_HOLD", False, True),
        ):
            jobs, _ = parse(output([PLAIN[0], state, *PLAIN[2:]]), SEPARATOR)
            self.assertEqual((jobs["3"].running, jobs["3"].over), (running, over), state)

    def test_nonsense_is_counted(self) -> None:
        """Records that are cut off, or hold no job id or state."""
        for text in (
            output(PLAIN)[:-30],
            output(["x", *PLAIN[1:]]),
            output(["0", *PLAIN[1:]]),
            output(["99999999999", *PLAIN[1:]]),
            output(["3", "", *PLAIN[2:]]),
            b"slurm_load_jobs error\n",
        ):
            self.assertEqual(parse(text, SEPARATOR), ({}, 1), text)

    @given(st.binary(max_size=300), st.integers(0, 400))
    def test_any_bytes(self, noise: bytes, where: int) -> None:
        """Nothing that comes raises."""
        text = output(PLAIN, ELEMENT)
        parse(text[:where] + noise + text[where:], SEPARATOR)

    def test_separator_is_new(self) -> None:
        """Nobody can know it when he names his job."""
        self.assertNotEqual(new_separator(), new_separator())
        self.assertNotIn(",", new_separator())

    def test_environment(self) -> None:
        """Nothing that the daemon inherits filters the answer; all else is kept."""
        inherited = {"SQUEUE_USERS": "bob", "SLURM_CLUSTERS": "x", "SLURM_CONF": "/c", "PATH": "p"}
        self.assertEqual(
            environment(inherited), {"SLURM_CONF": "/c", "PATH": "p", "SLURM_TIME_FORMAT": "%s"}
        )

    def test_nodes_are_passed_on(self) -> None:
        """As one argument, just as the user wrote them."""
        self.assertIn("--nodelist=n[1-4]", arguments("--nodelist=n[1-4]", SEPARATOR))


class FakeTransport:
    """A process that does what tests tell."""

    def __init__(self) -> None:
        self.signals: list[str] = []
        self.stdin_closed = False

    def closeStdin(self) -> None:
        """Take note."""
        self.stdin_closed = True

    def signalProcess(self, name: str) -> None:
        """Take note."""
        self.signals.append(name)


@implementer(IReactorProcess)
class FakeReactor(Clock):
    """A clock that can start processes."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Any] = []
        self.error: OSError | None = None

    def spawnProcess(self, protocol: Any, path: str, args: Any, env: Any, **kw: Any) -> None:
        """Start nothing."""
        if self.error is not None:
            raise self.error
        self.started.append((protocol, path, args, env))
        protocol.makeConnection(FakeTransport())


class Running(SynchronousTestCase):
    """The process."""

    def setUp(self) -> None:
        """A command that runs."""
        self.reactor = FakeReactor()
        self.done, self.kill = process_runner(self.reactor)("/bin/squeue", ["-h"], {"A": "b"})
        self.protocol = self.reactor.started[0][0]

    def end(self, status: int = 0) -> None:
        """The process ends."""
        reason = ProcessTerminated(status) if status else ProcessDone(0)
        self.protocol.processEnded(Failure(reason))

    def test_output(self) -> None:
        """All that it wrote, and no timer left."""
        self.assertEqual(
            self.reactor.started[0][1:], ("/bin/squeue", ["/bin/squeue", "-h"], {"A": "b"})
        )
        self.protocol.outReceived(b"ab")
        self.protocol.outReceived(b"c")
        self.end()
        self.assertEqual(self.successResultOf(self.done), b"abc")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_error(self) -> None:
        """The first line that it wrote says why, safe for a log."""
        self.protocol.errReceived(b"\n squeue: error: \x1b[1mInvalid node name\nmore")
        self.end(1)
        failure = self.failureResultOf(self.done, CommandFailed)
        self.assertEqual(failure.getErrorMessage(), "squeue: error: ?[1mInvalid node name")

    def test_error_without_a_word(self) -> None:
        """Then its exit status must do."""
        self.end(3)
        self.assertIn("3", self.failureResultOf(self.done, CommandFailed).getErrorMessage())

    def test_deadline(self) -> None:
        """It is killed, and the failure comes when it has ended."""
        self.protocol.outReceived(b"ab")
        self.reactor.advance(DEADLINE_SECONDS)
        self.assertEqual(self.protocol._process.signals, ["KILL"])
        self.assertNoResult(self.done)
        self.end(9)
        self.assertIn("no answer", self.failureResultOf(self.done).getErrorMessage())

    def test_too_much_output(self) -> None:
        """It is killed once, and nothing is kept."""
        for _ in range(10):
            self.protocol.outReceived(bytes(MAX_OUTPUT_BYTES // 8))
        self.assertEqual(self.protocol._process.signals, ["KILL"])
        self.end()
        self.assertIn("output", self.failureResultOf(self.done).getErrorMessage())

    def test_kill(self) -> None:
        """Its starter can end it."""
        self.kill()
        self.end(9)
        self.failureResultOf(self.done, CommandFailed)

    def test_cannot_be_started(self) -> None:
        """As when there are no more processes."""
        self.reactor.error = OSError(11, "Resource temporarily unavailable")
        done, _kill = process_runner(self.reactor)("/bin/squeue", [], {})
        self.failureResultOf(done, CommandFailed)
        self.end()
        self.successResultOf(self.done)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class Asking(SynchronousTestCase):
    """When it is asked, and what is told."""

    def setUp(self) -> None:
        """A directory with a squeue."""
        self.clock = Clock()
        self.stats = Stats()
        self.told: list[str | None] = []
        self.runs: list[tuple[str, list[str], Deferred[bytes]]] = []
        self.killed = 0
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.command = self.directory / "squeue"
        self.command.write_text("")
        self.command.chmod(stat.S_IRWXU)
        self.query = self.new(str(self.directory))

    def new(self, directory: str | None) -> SlurmQuery:
        """A query of two nodes."""
        return SlurmQuery(
            self.run_command,
            "n[1-2]",
            directory,
            self.stats,
            self.clock.seconds,
            self.told.append,
        )

    def run_command(
        self, path: str, args: list[str], env: dict[str, str]
    ) -> tuple[Deferred[bytes], Callable[[], None]]:
        """Run nothing."""
        done: Deferred[bytes] = Deferred()
        self.runs.append((path, args, done))

        def kill() -> None:
            self.killed += 1
            done.errback(CommandFailed("stopped"))

        return done, kill

    def answer(self, *records: list[str]) -> None:
        """The last command ends."""
        _path, args, done = self.runs[-1]
        form = next(each for each in args if each.startswith("--Format="))
        separator = form.partition(":")[2].partition(",")[0]
        done.callback(output(*records).replace(SEPARATOR.encode(), separator.encode()))

    def fail(self) -> None:
        """The last command fails."""
        self.runs[-1][2].errback(CommandFailed("connection refused"))

    def ask(self) -> Deferred[Answer | None]:
        """Ask."""
        return self.query.ask()

    def test_answer(self) -> None:
        """The jobs by id."""
        asking = self.ask()
        self.answer(PLAIN, ELEMENT)
        answer = self.successResultOf(asking)
        assert answer is not None
        self.assertEqual(list(answer), ["3", "7"])
        self.assertEqual(self.runs[0][0], str(self.command))
        self.assertEqual(self.stats.values, {"slurm_queries": 1})

    def test_jobs_by_id(self) -> None:
        """Wherever they run. A single one is named twice: squeue fails when it does not know it."""
        for job_ids, option in ((["3"], "--jobs=3,3"), (["3", "7"], "--jobs=3,7")):
            asking = self.query.ask_jobs(job_ids)
            self.assertIsNone(self.successResultOf(self.ask()))
            self.answer(PLAIN)
            self.assertEqual(list(self.successResultOf(asking) or ()), ["3"])
            arguments = self.runs[-1][1]
            self.assertIn(option, arguments)
            self.assertEqual([each for each in arguments if "node" in each], [])
        self.ask()
        self.assertIn("--nodelist=n[1-2]", self.runs[-1][1])

    def test_unknown_node(self) -> None:
        """Slurm answers then, and lists none."""
        asking = self.ask()
        error = CommandFailed(f"squeue: error: {UNKNOWN_NODE} n2")
        self.runs[-1][2].errback(error)
        self.assertEqual(self.successResultOf(asking), {})
        self.assertEqual((self.query.knows_nodes, self.told), (False, [None]))
        asking = self.query.ask_jobs(["3"])
        self.answer(PLAIN)
        self.assertIn("3", self.successResultOf(asking) or ())
        self.assertFalse(self.query.knows_nodes)
        self.ask()
        self.answer()
        self.assertTrue(self.query.knows_nodes)

    def test_one_at_a_time(self) -> None:
        """Another meanwhile has no answer and starts nothing."""
        first = self.ask()
        self.assertTrue(self.query.in_flight)
        self.assertIsNone(self.successResultOf(self.ask()))
        self.assertEqual(len(self.runs), 1)
        self.answer()
        self.assertEqual(self.successResultOf(first), {})
        self.ask()
        self.assertEqual(len(self.runs), 2)

    def test_pause_after_failures(self) -> None:
        """It doubles up to a limit, and ends with an answer."""
        pause = FIRST_PAUSE_SECONDS
        for _ in range(8):
            runs = len(self.runs)
            asking = self.ask()
            self.fail()
            self.assertIsNone(self.successResultOf(asking))
            self.clock.advance(pause - 0.5)
            self.assertIsNone(self.successResultOf(self.ask()))
            self.assertEqual(len(self.runs), runs + 1)
            self.clock.advance(0.5)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        self.ask()
        self.answer()
        self.ask()
        self.fail()
        self.clock.advance(FIRST_PAUSE_SECONDS)
        runs = len(self.runs)
        self.ask()
        self.assertEqual(len(self.runs), runs + 1)

    def test_told_once_a_change(self) -> None:
        """Slurm being down is normal: a line when it goes, a line when it comes."""
        for _ in range(3):
            self.ask()
            self.fail()
            self.clock.advance(LONGEST_PAUSE_SECONDS)
        for _ in range(3):
            self.ask()
            self.answer()
        self.ask()
        self.fail()
        self.assertEqual(self.told, ["connection refused", None, "connection refused"])

    def test_bad_records(self) -> None:
        """An answer of which something is missing is none."""
        asking = self.ask()
        self.answer(PLAIN, ["x", *PLAIN[1:]])
        self.assertIsNone(self.successResultOf(asking))
        self.assertEqual(self.stats.get("slurm_bad_records"), 1)
        self.assertEqual(len(self.told), 1)

    def test_no_squeue(self) -> None:
        """It is looked for each time, and not run."""
        self.command.unlink()
        self.assertIsNone(self.successResultOf(self.ask()))
        self.assertEqual((self.runs, self.told), ([], ["squeue not found"]))

    def test_on_path(self) -> None:
        """Without a directory it is looked for on PATH, and run by its absolute path."""
        self.patch(os, "environ", {**os.environ, "PATH": f"/nonexistent:{self.directory}"})
        self.query = self.new(None)
        self.ask()
        self.assertEqual(self.runs[0][0], str(self.command))

    def test_stop(self) -> None:
        """A query under way is killed and gives no answer."""
        asking = self.ask()
        self.query.stop()
        self.assertEqual(self.killed, 1)
        self.assertIsNone(self.successResultOf(asking))
        self.query.stop()
        self.assertEqual(self.killed, 1)
