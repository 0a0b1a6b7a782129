"""``ldmsjob ls``: its options, what it prints on the whole, its exit statuses."""

from __future__ import annotations

import argparse
import errno
import gc
import io
import json
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.cli import ls
from ldmsjob.cli.ls import Listing, Selection, memory_size
from ldmsjob.cli.main import main
from ldmsjob.cli.output import printable
from ldmsjob.errors import LdmsJobError, PeerError, RequestFailed
from ldmsjob.interfaces import ILink
from ldmsjob.wire.setevents import (
    Info,
    MemoryRead,
    Pushed,
    ReadMemory,
    WantPush,
)
from tests.interop.record_ls import recorded_sets
from tests.set_owners import JOB, Image, Owner
from tests.test_cli_ls_text import UtcTestCase, golden


def parse(*argv: str) -> argparse.Namespace:
    """The arguments of the sub-command."""
    parser = argparse.ArgumentParser()
    ls.add_parser(parser.add_subparsers())
    return parser.parse_args(["ls", *argv])


class Output(io.TextIOWrapper):
    """A standard output that remembers; a terminal, if ``is_terminal``."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8", write_through=True)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        """As it was made."""
        return self._is_terminal

    @property
    def text(self) -> str:
        """All that was written."""
        self.flush()
        return self.bytes.getvalue().decode("utf-8", "surrogateescape")


class ToolTests(UtcTestCase):
    """A run of the tool against an owner of two sets."""

    def setUp(self) -> None:
        """Make the owner's sets."""
        super().setUp()
        self.clock = Clock()
        self.job = Image.recorded("set-jobset")
        self.other = Image.recorded("set-scalars")
        self.images = [self.other, self.job]
        self.errors = io.StringIO()
        self.before: Any = lambda owner: None

    def tearDown(self) -> None:
        """No timer is left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def start(self, *argv: str, is_terminal: bool = False) -> tuple[Deferred[int], Output]:
        """Begin a run."""
        arguments = parse("-h", "node1", *argv)
        output = Output(is_terminal=is_terminal)
        listing = Listing(arguments, Selection(arguments), output)

        def connect(site: Any, settings: Any) -> Deferred[ILink]:
            self.owner = Owner(site, *self.images)
            self.owner.closes_at_once = True
            self.before(self.owner)
            return succeed(self.owner)

        changed = patch("sys.stderr", self.errors)
        changed.start()
        self.addCleanup(changed.stop)
        return Deferred.fromCoroutine(listing.run(self.clock, connect)), output

    def run_tool(self, *argv: str, is_terminal: bool = False) -> tuple[int, str]:
        """Exit status and output of a run."""
        done, output = self.start(*argv, is_terminal=is_terminal)
        return self.successResultOf(done), output.text

    def test_names(self) -> None:
        """Without options the names, in the order of the C program: 0."""
        self.assertEqual(self.run_tool(), (0, f"{JOB}\nhostA/scalars\n"))

    def test_directories_as_in_c(self) -> None:
        """Names and -v are byte for byte what the C program prints of the same sets."""
        self.images = list(recorded_sets().values())
        by_name = {image.names[0]: image for image in self.images}
        self.images = [by_name[name] for name in by_name]
        for ending, options in (("", ()), (".v", ("-v",)), (".tab", ("-f", "tab"))):
            status, text = self.run_tool(*options)
            self.assertEqual((status, text), (0, golden(f"directory{ending}")))
        _, text = self.run_tool("-v", "-v")
        head, _, rest = text.partition("Schema Digest")
        self.assertEqual(rest, golden("directory.vv").partition("Schema Digest")[2])
        self.assertEqual(
            head.splitlines(),
            *(
                [
                    "Hostname     : node1",
                    "IP Address   : owner",
                    "Port         : 411",
                    "Transport    : sock",
                ],
            ),
        )

    def test_long(self) -> None:
        """With -l the sets as the C program prints them, one behind the other."""
        status, text = self.run_tool("-l")
        self.assertEqual(status, 0)
        self.assertEqual(text, golden("set-jobset.l") + golden("set-scalars.l"))

    def test_long_and_verbose(self) -> None:
        """With -l and -v first the directory, then the sets."""
        _, text = self.run_tool("-l", "-v", JOB)
        self.assertIn("Total Sets: 1,", text)
        self.assertTrue(text.endswith("=" * 71 + "\n\n" + golden("set-jobset.l")))

    def test_choosing(self) -> None:
        """By name, by schema, by expression of either."""
        for argv, expected in (
            ((JOB,), [JOB]),
            (("-S", "scalars"), ["hostA/scalars"]),
            (("-E", "^host", "slurm"), [JOB, "hostA/scalars"]),
            (("-E", "-S", "^job"), [JOB]),
            (("-S", "-I", JOB), [JOB]),
        ):
            status, text = self.run_tool(*argv)
            self.assertEqual((status, text.split()), (0, expected), argv)

    def test_groups(self) -> None:
        """The members of a group are shown with it."""
        self.other.names = ("group", "ldmsd_grp_schema")
        self.other.info = (Info(f"    grp_member: {JOB}", "-"), Info("    grp_member: gone", "-"))
        status, text = self.run_tool("group")
        self.assertEqual((status, sorted(text.split())), (0, ["group", JOB]))

    def test_nothing_found(self) -> None:
        """A name that means no set, or no sets at all: 1, and a line for each such name."""
        status, text = self.run_tool("nothing", JOB)
        self.assertEqual((status, text), (1, f"{JOB}\n"))
        self.assertIn("'nothing'", self.errors.getvalue())
        self.images = []
        self.assertEqual(self.run_tool()[0], 1)
        self.assertEqual(self.run_tool("--json")[0], 1)

    def test_json(self) -> None:
        """A JSON document with the peer and the sets by name; with -l their metrics too."""
        _, text = self.run_tool("--json")
        document = json.loads(text)
        self.assertEqual(document["peer"]["address"], "owner")
        self.assertEqual([each["instance"] for each in document["sets"]], ["hostA/scalars", JOB])
        self.assertNotIn("metrics", document["sets"][0])
        status, text = self.run_tool("-f", "json", "-l", JOB)
        [job] = json.loads(text)["sets"]
        self.assertEqual(status, 0)
        values = {metric["name"]: metric["value"] for metric in job["metrics"]}
        self.assertEqual((values["user"], values["total_tasks"]), ("alice", 3))

    def test_tab(self) -> None:
        """With tabs: the directory with -v, the values with -l."""
        _, text = self.run_tool("-f", "tab", "-l", JOB)
        self.assertEqual(text, golden("set-jobset.tab"))
        _, text = self.run_tool("-f", "tab", "-v", "-v", JOB)
        lines = text.splitlines()
        self.assertEqual(lines[0], "#hostname\tip_address\tport\ttransport")
        self.assertTrue(lines[2].startswith("#schema_digest\tschema\t"))
        self.assertEqual(lines[-2], "#total_sets\tmeta_data_kb\tdata_kb\tmemory_kb")

    def test_decomposition(self) -> None:
        """-d prints a template as JSON."""
        _, text = self.run_tool("-d", JOB)
        self.assertEqual(json.loads(text)["type"], "flex")

    def test_table(self) -> None:
        """On a terminal the directory is a table, with nothing in it that steers the terminal."""
        self.images[0].names = ("evil\x1b[2J", "scalars")
        self.images[0].info = (Info("updt_hint_us", "500000:0"),)
        self.images[1].put_copy("ts_sec", 0)
        self.images[1].put_copy("ts_usec", 0)
        for options in ((), ("-v",), ("-v", "-v")):
            _, text = self.run_tool(*options, is_terminal=True)
            self.assertIn("Schema", text)
            self.assertIn("never" if options else "Age", text)
            self.assertIn("evil\\x1b", text)
            self.assertNotIn("\x1b[2J", text)
            self.assertEqual("0.5s" in text, bool(options))
            self.assertEqual("ABABAB" in text, len(options) > 1)

    def test_values_on_a_terminal(self) -> None:
        """With -l a terminal gets the same text."""
        _, text = self.run_tool("-l", JOB, is_terminal=True)
        self.assertEqual(text, golden("set-jobset.l"))

    def test_printable(self) -> None:
        """Line ends stay; what steers a terminal is made visible."""
        self.assertEqual(printable("a\nä\x1b\x9b\udce9"), "a\nä\\x1b\\x9b\\udce9")

    def test_push(self) -> None:
        """-P shows what the owner pushes, and ends the pushes."""

        def push(owner: Owner) -> None:
            answers = owner.answers

            def pushing(command: Any) -> Any:
                yield from answers(command)
                if isinstance(command, WantPush):
                    image = owner.images[command.announced.instance]
                    yield Pushed(command.push_id, 0, image.whole, False, False)

            owner.answers = pushing  # type: ignore[method-assign]

        self.before = push
        status, text = self.run_tool("-P", JOB)
        self.assertEqual(status, 0)
        self.assertEqual(text, golden("set-jobset.l").replace("us] \n", "us] PUSH LAST \n"))
        self.assertEqual(self.owner.pushes, {})

    def test_no_push(self) -> None:
        """A set that is not pushed in time is told, and the others are shown."""
        done, output = self.start("-P", "-w", "3")
        self.clock.advance(3)
        self.assertEqual(self.successResultOf(done), errno.ENODATA)
        self.assertIn("was not pushed in 3 s", self.errors.getvalue())
        self.assertEqual(output.text, "")

    def test_set_that_is_gone(self) -> None:
        """A set that goes between the listing and its lookup: a line, and 1; others are shown."""

        def vanish(owner: Owner) -> None:
            answers = owner.answers

            def vanishing(command: Any) -> Any:
                yield from answers(command)
                owner.images.pop(JOB, None)

            owner.answers = vanishing  # type: ignore[method-assign]

        self.before = vanish
        status, text = self.run_tool("-l")
        self.assertEqual((status, text), (1, golden("set-scalars.l")))
        self.assertIn(f"{JOB!r} is gone", self.errors.getvalue())
        _, text = self.run_tool("-l", "--json")
        self.assertEqual(len(json.loads(text)["sets"]), 1)

    def test_set_that_is_none(self) -> None:
        """What is no metric set is told, with EPROTO; the others are shown."""
        self.job.put_meta("card", 100_000)
        remembered = self.job.announced

        def lie(number: int) -> Any:
            announced = remembered(number)
            return announced

        self.job.announced = lie  # type: ignore[method-assign]
        status, text = self.run_tool("-l")
        self.assertEqual((status, text), (errno.EPROTO, golden("set-scalars.l")))
        self.assertIn(JOB, self.errors.getvalue())

    def test_too_large(self) -> None:
        """Sets beyond -m are not read."""
        status, _ = self.run_tool("-l", "-m", "1K", JOB)
        self.assertEqual(status, errno.EPROTO)
        self.assertEqual(self.owner.reads, [])

    def test_reader_that_leaves(self) -> None:
        """What was wrong till then decides the status; with a full disk it is the error's."""
        for error in (BrokenPipeError(), OSError(errno.ENOSPC, "full")):
            # For no longer than that: what is forgotten flushes once more.
            with patch.object(Output, "flush", side_effect=error):
                done, _ = self.start("nothing", JOB)
            if isinstance(error, BrokenPipeError):
                self.assertEqual(self.successResultOf(done), 1)
            else:
                self.failureResultOf(done, OSError)

    def test_nothing_is_left_to_fail(self) -> None:
        """Sets that were asked for when the reader left are no errors when the link goes."""

        class Broken(Output):
            """Cannot write."""

            def write(self, text: str) -> int:
                """Fail."""
                raise BrokenPipeError

        def slow(owner: Owner) -> None:
            answers = owner.answers

            def answer(command: Any) -> Any:
                if not (isinstance(command, ReadMemory) and owner.sent_of(ReadMemory)[1:]):
                    yield from answers(command)

            owner.answers = answer  # type: ignore[method-assign]

        self.before = slow
        with patch("tests.test_cli_ls.Output", Broken):
            done, _ = self.start("-l", is_terminal=True)
        self.assertEqual(self.successResultOf(done), 0)
        self.owner.peer_of.link_closed(self.owner, Failure(PeerError("gone")))
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def failed_rc(self, done: Deferred[int]) -> int:
        """The errno of the error that ends the tool."""
        error = self.failureResultOf(done, LdmsJobError).value
        assert isinstance(error, RequestFailed)
        return error.rc

    def test_no_answer(self) -> None:
        """An owner that falls silent ends the run with ETIMEDOUT, at the listing or later."""
        self.before = lambda owner: setattr(owner, "silent", True)
        done, _ = self.start("-w", "2")
        self.clock.advance(2)
        self.assertEqual(self.failed_rc(done), errno.ETIMEDOUT)

        def silent_reads(owner: Owner) -> None:
            answers = owner.answers
            owner.answers = lambda command: (  # type: ignore[method-assign]
                iter(()) if isinstance(command, ReadMemory) else answers(command)
            )

        self.before = silent_reads
        done, _ = self.start("-l", "-w", "2")
        self.clock.advance(2)
        self.assertEqual(self.failed_rc(done), errno.ETIMEDOUT)

    def test_link_lost(self) -> None:
        """A link that is lost while sets are read ends the run with ECONNRESET."""

        def lose(owner: Owner) -> None:
            answers = owner.answers

            def losing(command: Any) -> Any:
                if isinstance(command, ReadMemory):
                    owner.silent = True
                    owner.peer_of.link_closed(owner, Failure(PeerError("gone")))
                    return iter(())
                return answers(command)

            owner.answers = losing  # type: ignore[method-assign]

        self.before = lose
        done, _ = self.start("-l", JOB)
        self.assertEqual(self.failed_rc(done), errno.ECONNRESET)

    def test_connection_not_in_time(self) -> None:
        """-w counts for the connection too."""
        arguments = parse("-w", "2")
        listing = Listing(arguments, Selection(arguments), Output())
        done = Deferred.fromCoroutine(listing.run(self.clock, lambda *_: Deferred()))
        self.clock.advance(2)
        error: Any = self.failureResultOf(done).value
        self.assertEqual(error.rc, errno.ETIMEDOUT)

    def test_read_that_is_refused(self) -> None:
        """A set that may not be read is told with its errno."""

        def refuse(owner: Owner) -> None:
            answers = owner.answers
            owner.answers = lambda command: (  # type: ignore[method-assign]
                iter([MemoryRead(command.token, 19, b"")])
                if isinstance(command, ReadMemory)
                else answers(command)
            )

        self.before = refuse
        status, text = self.run_tool("-l", JOB)
        self.assertEqual((status, text), (errno.EACCES, ""))


class OptionTests(SynchronousTestCase):
    """The command line."""

    def run_main(self, *argv: str) -> tuple[int, str, str]:
        """Exit status, output and errors of ``ldmsjob ls``."""
        output, errors = io.StringIO(), io.StringIO()
        with patch("sys.stdout", output), patch("sys.stderr", errors):
            try:
                status: Any = main(["ls", *argv])
            except SystemExit as ended:
                status = ended.code
        return status, output.getvalue(), errors.getvalue()

    def test_versions(self) -> None:
        """-V prints versions and asks nobody."""
        status, text, _ = self.run_main("-V")
        self.assertEqual(status, 0)
        self.assertIn("LDMS Protocol Version: 4.2.0.0\n", text)

    def test_help(self) -> None:
        """The exit statuses stand in the help; -h is the host."""
        status, text, _ = self.run_main("--help")
        self.assertEqual(status, 0)
        self.assertIn("exit status:", text)
        self.assertEqual(parse("-h", "node7").host, "node7")

    def test_mistakes(self) -> None:
        """Mistakes end with 2 before anybody is asked."""
        argvs: Sequence[tuple[str, ...]] = (
            ("-E", "("),
            ("-f", "xml"),
            ("-w", "0"),
            ("-m", "much"),
            ("-p", "0"),
        )
        for argv in argvs:
            status, _, errors = self.run_main(*argv)
            self.assertEqual(status, 2, argv)
            self.assertTrue(errors, argv)

    def test_sizes(self) -> None:
        """Sizes with and without units, in either case."""
        for text, size in (("4096", 4096), ("20M", 20 << 20), ("20mb", 20 << 20), ("1 g", 1 << 30)):
            self.assertEqual(memory_size(text), size)
