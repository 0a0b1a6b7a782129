"""``ldmsjob jobs``, ``job`` and ``events``: what they print, and how they end."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.cli import events as events_tool
from ldmsjob.cli.main import main
from ldmsjob.cli.output import pause
from ldmsjob.cli.past import exit_word, job_key, local_time
from ldmsjob.facts import JobDetails
from ldmsjob.journal.history import History
from ldmsjob.notices import JobExit, JobInit, StepInit, TaskInit
from tests.past import START, Past

JOB_KEYS = """
    job_id attempt resource_manager instance state uid gid user job_name start_us end_us node_count
    total_tasks local_tasks step_id job_tag adopted nodes exit_status recovered array_job_id
    array_task_id het_job_id het_job_offset restart_count partition account"""
EVENT_KEYS = """
    event sequence job_id attempt resource_manager user uid job_name source_time_us
    received_time_us origin step task"""
TASK_KEYS = "step_id node_id task_id pid rank start_us end_us exit_status"
STEP_KEYS = "step_id node_ids start_us end_us node_count total_tasks local_tasks"


class ToolCase(SynchronousTestCase):
    """A state directory with the journal of one daemon."""

    def setUp(self) -> None:
        """Make it; times are those of a place where it is not Greenwich's."""
        self.state = os.path.abspath(self.mktemp())
        self.past = self.daemon("node-1")
        self.addCleanup(self.past.end)
        self.use_zone("EST5")

    def daemon(self, name: str) -> Past:
        """A journal of a daemon of that name."""
        return Past(os.path.join(self.state, name, "journal.sqlite"))

    def use_zone(self, zone: str) -> None:
        """Let the local time be another one."""
        before = os.environ.get("TZ")

        def reset() -> None:
            os.environ.pop("TZ")
            if before is not None:
                os.environ["TZ"] = before
            time.tzset()
            local_time.__globals__["_local_second"].cache_clear()

        os.environ["TZ"] = zone
        time.tzset()
        local_time.__globals__["_local_second"].cache_clear()
        self.addCleanup(reset)

    def run_tool(self, *words: str) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        output, errors = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", output)
        self.patch(sys, "stderr", errors)
        if not {"--state", "--journal"} & set(words):
            words = (*words, "--state", self.state)
        try:
            status = main(words)
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        return status, output.getvalue(), errors.getvalue()

    def lines(self, *words: str) -> list[str]:
        """What it prints, without complaint."""
        status, output, errors = self.run_tool(*words)
        self.assertEqual((status, errors), (0, ""))
        return output.splitlines()

    def objects(self, *words: str) -> list[Any]:
        """The same for programs."""
        return [json.loads(line) for line in self.lines(*words, "--json")]

    def fails(self, *words: str) -> tuple[int, str]:
        """Exit status, and the one line of what is wrong."""
        status, output, errors = self.run_tool(*words)
        self.assertEqual((output, errors.count("\n")), ("", 1), errors)
        return status, errors


class JobsTests(ToolCase):
    """``ldmsjob jobs``."""

    def ids(self, *words: str) -> list[str]:
        """Of the jobs that are listed."""
        return [one["job_id"] for one in self.objects("jobs", *words)]

    def test_table(self) -> None:
        """A line for each job, with local times; what nobody knows has no column."""
        self.past.run_job("1001")
        self.assertEqual(
            self.lines("jobs"),
            [
                "Job   User  Name  State  Start                Time      Tasks  Exit  Nodes",
                "1001  ann   sim   ended  2023-11-14 17:13:20  00:00:05  1      0     n1",
            ],
        )

    def test_empty(self) -> None:
        """No job, no line."""
        self.assertEqual(self.lines("jobs"), [])

    def test_array_and_attempt(self) -> None:
        """Elements of arrays, components of heterogeneous jobs, further attempts."""
        for count in (0, 1):
            details = JobDetails(array_job_id=7, array_task_id=3, restart_count=count)
            self.past.tell(JobInit("9", details=details))
        self.past.tell(JobInit("10", details=JobDetails(het_job_id=10, het_job_offset=1)))
        rows = [line.split()[:2] for line in self.lines("jobs")[1:]]
        self.assertEqual(rows, [["9", "7_3"], ["9.2", "7_3"], ["10", "10+1"]])

    def test_filters(self) -> None:
        """User by name and uid, job name, node, state, number."""
        self.past.run_job("1")
        self.past.run_job("2", user="bob", uid=1001)
        self.past.tell(JobInit("3", uid=1002, job_name="other", node="n2"))
        for words, ids in (
            ((), "123"),
            (("-u", "bob"), "2"),
            (("-u", "1000"), "1"),
            (("-u", "nobody"), ""),
            (("--name", "other"), "3"),
            (("--node", "n1"), "12"),
            (("-t", "running"), "3"),
            (("-t", "ended", "-u", "ann"), "1"),
            (("--last", "2"), "23"),
            (("--last", "0"), ""),
        ):
            self.assertEqual("".join(self.ids(*words)), ids, words)
        self.assertEqual(self.fails("jobs", "--last", "-1")[0], 2)
        self.assertEqual(self.fails("jobs", "-t", "waiting")[0], 2)

    def test_times(self) -> None:
        """Jobs that ran at some time between two, in local time or as a span before now."""
        self.past.run_job("1")  # from 17:13:20 for 5 s
        self.past.clock.advance(600)
        self.past.run_job("2")
        self.past.tell(JobInit("3"))
        for words, ids in (
            (("--since", "2023-11-14T17:13:26"), "23"),
            (("--since", "2023-11-14 22:13:25Z"), "123"),
            (("--until", "2023-11-14T17:20"), "1"),
            (("--since", "2023-11-15"), "3"),
            (("--since", "1h"), "3"),
            (("--until", "9999d"), ""),
        ):
            self.assertEqual("".join(self.ids(*words)), ids, words)
        for wrong in ("yesterday", "", "2023-13-01", "1y", "9" * 30):
            status, error = self.fails("jobs", "--since", wrong)
            self.assertEqual((status, "is no time" in error), (2, True), error)

    def test_given_up(self) -> None:
        """The end of a job that nobody told is when the daemon gave it up."""
        self.past.tell(JobInit("1"))
        self.past.jobs.drop_jobs(self.past.policy)
        (line,) = self.lines("jobs")[1:]
        self.assertIn("ended  2023-11-14 17:13:20  00:00:01", line)
        self.assertEqual(self.ids("--since", "2023-11-15"), [])

    def test_for_programs(self) -> None:
        """The keys are always the same."""
        self.past.run_job("1")
        self.past.tell(JobInit("2"))
        one, two = self.objects("jobs")
        self.assertEqual((list(one), list(two)), (JOB_KEYS.split(), JOB_KEYS.split()))
        self.assertEqual((one["state"], one["start_us"]), ("ended", START * 1_000_000))
        self.assertEqual((two["state"], two["end_us"], two["nodes"]), ("running", None, []))

    def test_hostile_name(self) -> None:
        """Nothing of what users choose steers a terminal, adds a line, or widens all others."""
        self.past.tell(JobInit("1", job_name="\x1b[2J\nfake\r\u202e"), JobInit("2", uid=5))
        self.past.tell(JobInit("3", job_name="x" * 2000))
        lines = self.lines("jobs")
        self.assertEqual(len(lines), 4)
        self.assertTrue(all(line.isprintable() for line in lines))
        self.assertIn(r"\x1b[2J\nfake\r\u202e", lines[1])
        self.assertLess(len(lines[1]), 120)
        (one, *_) = self.objects("jobs")
        self.assertEqual(one["job_name"], "\x1b[2J\nfake\r\u202e")

    def test_many(self) -> None:
        """Come in several tables, and each job once."""
        self.patch(sys.modules["ldmsjob.cli.jobs"], "AT_ONCE", 3)
        for number in range(7):
            self.past.tell(JobInit(str(number)))
        ids = [line.split()[0] for line in self.lines("jobs") if not line.startswith("Job")]
        self.assertEqual(ids, list("0123456"))


class WhichTests(ToolCase):
    """Which journal."""

    def test_several_daemons(self) -> None:
        """One must be named, as it is called."""
        other = self.daemon("node_411")
        other.run_job("5")
        other.end()
        status, error = self.fails("jobs")
        self.assertEqual(status, 2)
        self.assertIn("-n with one of: node-1, node_411", error)
        self.assertEqual(len(self.lines("jobs", "-n", "node/411")), 2)
        status, error = self.fails("events", "-n", "node_41")
        self.assertEqual((status, "node_411" in error), (2, True), error)
        path = os.path.join(self.state, "node_411", "journal.sqlite")
        self.assertEqual(len(self.lines("jobs", "--journal", path)), 2)

    def test_none(self) -> None:
        """Nobody has kept one there; or there is nothing at all."""
        empty = self.mktemp()
        os.mkdir(empty)
        for directory in (empty, empty + "/no"):
            for words in (("jobs",), ("job", "1"), ("events",)):
                status, error = self.fails(*words, "--state", directory)
                self.assertEqual((status, "--state" in error), (2, True), error)
        status, error = self.fails("jobs", "--journal", "/no/such")
        self.assertEqual((status, "No such file" in error), (2, True), error)

    def test_what_is_no_journal(self) -> None:
        """A damaged one is said to be."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"no database" * 1000)
        status, error = self.fails("events", "--journal", path)
        self.assertEqual((status, "not a database" in error), (5, True), error)


class JobTests(ToolCase):
    """``ldmsjob job``."""

    def test_text(self) -> None:
        """What is known, the steps and tasks, and the events."""
        self.past.run_job("1001")
        self.assertEqual(
            self.lines("job", "1001"),
            """\
job slurm_1001: ended
  user       ann (uid 1000, gid 100)
  name       sim
  start      2023-11-14 17:13:20
  end        2023-11-14 17:13:25
  time       00:00:05
  exit       0
  nodes      n1
  told by    jm
  step 0  tasks 1  start 2023-11-14 17:13:21  time 00:00:03
    node 0 task 0  pid 77  start 2023-11-14 17:13:22  time 00:00:01  exit 1
  events
    2023-11-14 17:13:20.000000 job_started
    2023-11-14 17:13:21.000000 step_started    step 0 tasks 1
    2023-11-14 17:13:22.000000 task_started    step 0 node 0 task 0 pid 77
    2023-11-14 17:13:23.000000 task_ended      step 0 node 0 task 0 pid 77 exit 1
    2023-11-14 17:13:24.000000 step_ended      step 0
    2023-11-14 17:13:25.000000 job_ended       exit 0
    2023-11-14 17:13:25.000000 job_set_deleted""".splitlines(),
        )

    def test_attempts(self) -> None:
        """All of them, an empty line between."""
        for count in (0, 1):
            self.past.tell(JobInit("9", details=JobDetails(restart_count=count, account="phys")))
        lines = self.lines("job", "slurm_9")
        heads = [line for line in lines if line.startswith("job ")]
        self.assertEqual(heads, ["job slurm_9: ended", "job slurm_9, attempt 2: running"])
        self.assertEqual(lines.count(""), 1)
        self.assertIn("  restarts   1", lines)
        self.assertIn("  account    phys", lines)

    def test_notes(self) -> None:
        """An adopted job, one that a second daemon has taken over, one that nobody ended."""
        self.past.tell(TaskInit("1", 0, 0, 0))
        self.past.end()
        self.past.begin()
        text = "\n".join(self.lines("job", "1"))
        self.assertIn("start      2023-11-14 17:13:20, or earlier", text)
        self.assertIn("did not see its start; the daemon was started again", text)
        self.assertIn("running", text)
        self.past.jobs.drop_jobs(self.past.policy)
        text = "\n".join(self.lines("job", "1"))
        self.assertIn("end        2023-11-14 17:13:21, or later", text)
        self.assertIn("nobody told its end", text)

    def test_unknown(self) -> None:
        """Is exit status 1."""
        for wanted in ("5", "slurm_5", "pbs_1", "\x1b", ""):
            status, error = self.fails("job", wanted)
            self.assertEqual((status, "does not know job" in error), (1, True), error)
            self.assertNotIn("\x1b", error)

    def test_hostile(self) -> None:
        """Names steer no terminal and add no line."""
        self.past.tell(
            JobInit("1", user="a\x1b]0;x\x07", job_name="b\nexit 0", node="n\r1"),
            StepInit("1", 0, 0, job_tag="c\u2028"),
        )
        lines = self.lines("job", "1")
        self.assertTrue(all(line.isprintable() for line in lines), lines)
        self.assertFalse([line for line in lines if line.startswith("exit")])

    def test_thousands_of_tasks(self) -> None:
        """Of a job that runs."""
        self.past.tell(JobInit("1"))
        with self.past.turn:
            self.past.tell(*(TaskInit("1", 0, 0, task, pid=task + 1) for task in range(3000)))
        lines = self.lines("job", "1")
        self.assertEqual(len([line for line in lines if line.endswith("running")]), 3001)
        (job,) = self.objects("job", "1")
        self.assertEqual((len(job["tasks"]), len(job["events"])), (3000, 3001))

    def test_for_programs(self) -> None:
        """The job's keys, and its steps, tasks and events."""
        self.past.run_job("1")
        (job,) = self.objects("job", "1")
        self.assertEqual(list(job), [*JOB_KEYS.split(), "steps", "tasks", "events"])
        self.assertEqual(list(job["steps"][0]), STEP_KEYS.split())
        self.assertEqual(list(job["tasks"][0]), TASK_KEYS.split())
        self.assertEqual(list(job["events"][0]), EVENT_KEYS.split())


class EventsTests(ToolCase):
    """``ldmsjob events``."""

    def test_filters(self) -> None:
        """Job, kind, user, name, node, time, number."""
        self.past.run_job("1")
        middle = self.past.clock.seconds()
        self.past.run_job("2", user="bob", uid=5)
        stamp = f"{int(middle) - START + 20}s"
        for words, count in (
            ((), 14),
            (("--job", "1"), 7),
            (("--job", "slurm_2"), 7),
            (("--job", "pbs_2"), 0),
            (("--job", "3"), 0),
            (("--kind", "job_ended", "--kind", "job_started"), 4),
            (("-u", "bob"), 7),
            (("-u", "1000", "--last", "3"), 3),
            (("--name", "sim"), 14),
            (("--node", "n2"), 0),
            (("--last", "0"), 0),
            (("--since", "2023-11-14T17:13:26"), 7),
            (("--until", "2023-11-14T17:13:20"), 1),
            (("--since", stamp), 0),
        ):
            self.assertEqual(len(self.lines("events", *words)), count, words)
            self.assertEqual(len(self.objects("events", *words)), count, words)
        status, error = self.fails("events", "--kind", "job_end")
        self.assertEqual((status, "job_ended" in error), (2, True), error)

    def test_lines(self) -> None:
        """Time, what, whose; and how it is known when nobody told."""
        self.past.tell(TaskInit("5", 1, 0, 2, pid=9), JobExit("5"))
        self.assertEqual(
            self.lines("events", "--last", "4"),
            [
                "2023-11-14 17:13:20.000000 task_started    slurm_5 step 1 node 0 task 2 pid 9",
                "2023-11-14 17:13:21.000000 task_ended      slurm_5 step 1 node 0 task 2 pid 9"
                " exit unknown (implied)",
                "2023-11-14 17:13:21.000000 job_ended       slurm_5",
                "2023-11-14 17:13:21.000000 job_set_deleted slurm_5",
            ],
        )

    def test_for_programs(self) -> None:
        """The keys are always the same."""
        self.past.run_job("1")
        found = self.objects("events")
        self.assertEqual({tuple(one) for one in found}, {tuple(EVENT_KEYS.split())})
        self.assertEqual([one["sequence"] for one in found], list(range(1, 8)))
        self.assertEqual(list(found[1]["step"]), STEP_KEYS.split())
        self.assertEqual((list(found[2]["task"]), found[2]["step"]), (TASK_KEYS.split(), None))
        self.assertEqual(found[0]["user"], "ann")


class FollowTests(ToolCase):
    """``ldmsjob events --follow``."""

    def follow(self, *steps: Any, words: tuple[str, ...] = ()) -> list[str]:
        """Follow while these are done one after another, and end with Ctrl-C; the events."""
        left = [*steps, None]

        def wait(_seconds: float) -> None:
            step = left.pop(0)
            if step is None:
                raise KeyboardInterrupt
            step()

        self.patch(events_tool, "pause", wait)
        status, output, errors = self.run_tool("events", "--follow", "--json", *words)
        self.assertEqual((status, errors, left), (130, "", []))
        events = [json.loads(line) for line in output.splitlines()]
        return [f"{one['job_id']} {one['event']}" for one in events]

    def begin(self, job_id: str) -> Any:
        """A step of ``follow``: a job begins."""
        return lambda: self.past.tell(JobInit(job_id))

    def nothing(self) -> None:
        """A step of ``follow``."""

    def test_new_ones(self) -> None:
        """Behind those that there are come those that are new, each once."""
        self.past.tell(JobInit("1"))
        found = self.follow(self.begin("2"), self.nothing, self.begin("3"), self.begin("4"))
        self.assertEqual(found, [f"{n} job_started" for n in "1234"])

    def test_only_new_ones(self) -> None:
        """With ``--last 0``; filters hold."""
        self.past.run_job("1")
        found = self.follow(
            self.begin("2"),
            lambda: self.past.tell(JobExit("2")),
            self.begin("3"),
            words=("--last", "0", "--job", "2", "--kind", "job_ended"),
        )
        self.assertEqual(found, ["2 job_ended"])

    def test_while_the_past_is_printed(self) -> None:
        """What comes meanwhile is there once."""
        self.past.run_job("1")
        events = History.events

        def busy(history: History, *arguments: Any, **words: Any) -> Any:
            self.patch(History, "events", events)
            self.past.tell(JobInit("2"))
            return events(history, *arguments, **words)

        self.patch(History, "events", busy)
        found = self.follow(self.nothing)
        self.assertEqual((len(found), found[-1]), (8, "2 job_started"))

    def test_next_daemon(self) -> None:
        """It goes on when the daemon ends and another one goes on with the journal."""

        def restart() -> None:
            self.past.end()
            self.past.begin()

        found = self.follow(self.begin("1"), restart, self.nothing, self.begin("2"))
        self.assertEqual(found, ["1 job_started", "2 job_started"])

    def test_pruned(self) -> None:
        """What is forgotten meanwhile does not matter."""
        self.past.run_job("1")

        def prune() -> None:
            file = self.past.journal._file
            assert file is not None
            file.prune(0, 1 << 62, 100)

        found = self.follow(prune, self.begin("2"), words=("--last", "0"))
        self.assertEqual(found, ["2 job_started"])

    def test_replaced(self) -> None:
        """A journal that is begun anew, because it was damaged, is followed on."""
        self.past.run_job("1")

        def replace() -> None:
            self.past.end()
            with open(self.past.path, "wb") as file:
                file.write(b"no database" * 1000)
            os.rename(self.past.path, self.past.path + ".away")

        def half_made() -> None:
            with open(self.past.path, "wb"):
                pass

        found = self.follow(
            *(replace, half_made, self.past.begin, self.begin("2"), self.begin("3")),
            words=("--last", "0"),
        )
        self.assertEqual(found, ["2 job_started", "3 job_started"])

    def test_reader_that_leaves(self) -> None:
        """Is noticed even when there is nothing to print."""
        ours, theirs = os.pipe()
        stream = os.fdopen(theirs, "w")
        self.addCleanup(stream.close)
        self.patch(sys, "stdout", stream)
        pause(0)
        os.close(ours)
        self.assertRaises(BrokenPipeError, pause, 60)

    def test_no_reader_to_leave(self) -> None:
        """Waiting needs no file."""
        self.patch(sys, "stdout", io.StringIO())
        pause(0)


class WordTests(SynchronousTestCase):
    """How values look."""

    def test_exit(self) -> None:
        """A wait status; what is none is shown as it is."""
        for status, word in (
            *((None, ""), (-1, ""), (0, "0"), (256, "1"), (9, "signal 9")),
            *((128 + signal.SIGSEGV, "signal 11"), (1 << 40, str(1 << 40)), (-7, "-7")),
        ):
            self.assertEqual(exit_word(status), word)

    def test_job_key(self) -> None:
        """With or without its resource manager."""
        self.assertEqual(job_key("7"), (None, "7"))
        self.assertEqual(job_key("slurm_7"), ("slurm", "7"))

    def test_time_that_is_none(self) -> None:
        """A notifier may tell any."""
        self.assertEqual(local_time(1 << 62), str((1 << 62) // 1_000_000))
        self.assertEqual(local_time(None), "")
