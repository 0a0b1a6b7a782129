"""``ldmsjob status``, against daemons over memory and over a socket."""

from __future__ import annotations

import argparse
import errno
import io
import json
import sys
from collections.abc import Iterator
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.internet.error import ConnectError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ldmsjob.cli import status as status_tool
from ldmsjob.cli.client import ToolError
from ldmsjob.cli.status_text import MAX_PROBLEMS, show
from ldmsjob.connecting import find_transport
from ldmsjob.daemon import Daemon
from ldmsjob.interfaces import ILink, ILinkSite, LinkSettings
from ldmsjob.interpreter import Interpreter
from ldmsjob.loader import Loader
from ldmsjob.notices import JobInit
from ldmsjob.transports.auth_naive import NaiveAuthenticator
from ldmsjob.transports.memory import MemoryPair
from tests.daemons import Rig
from tests.test_status import CONFIGURATION

reactor: Any = installed_reactor


def parse(*argv: str) -> argparse.Namespace:
    """The arguments of the sub-command."""
    parser = argparse.ArgumentParser()
    status_tool.add_parser(parser.add_subparsers())
    return parser.parse_args(["status", *argv])


def claim(uid: int) -> NaiveAuthenticator:
    """An authenticator that claims that uid."""
    result = NaiveAuthenticator(None)
    result.configure({"uid": str(uid), "gid": "0"})
    return result


class StatusToolTests(SynchronousTestCase):
    """The tool and a daemon in one process."""

    def setUp(self) -> None:
        """Make the daemon."""
        self.rig = Rig(self)
        self.rig.read(CONFIGURATION)
        self.rig.start()
        self.codes: Any = self.rig.daemon.requests.codes
        self.uid = 0
        self.output = io.StringIO()
        self.patch(sys, "stdout", self.output)

    def connect(self, site: ILinkSite, settings: LinkSettings) -> Deferred[ILink]:
        """Connect the tool to the daemon."""
        pair = MemoryPair(
            self.rig.daemon.site,
            site,
            self.rig.clock,
            left_settings=LinkSettings(lambda: True, requests=self.codes),
            right_settings=settings,
            left_authenticator=claim(0),
            right_authenticator=claim(self.uid),
        )
        pair.settle()
        self.rig.clock.callLater(0, pair.settle)
        self.rig.clock.callLater(1, pair.settle)
        return succeed(pair.right)

    def run_tool(self, *argv: str) -> Deferred[int]:
        """Run it."""
        result = Deferred.fromCoroutine(
            status_tool.status(parse(*argv), self.rig.clock, self.connect)
        )
        self.rig.clock.pump([0, 1, 20])
        return result

    def test_all_is_well(self) -> None:
        """Status 0, and the first screen."""
        self.assertEqual(self.successResultOf(self.run_tool()), 0)
        lines = self.output.getvalue().splitlines()
        self.assertRegex(lines[0], r"^ldmsjob \S+, daemon node-1, pid \d+, up 0 s$")
        self.assertEqual(lines[1], "nothing is wrong")
        self.assertIn("Journal    off", lines)

    def test_problems(self) -> None:
        """Status 1, and the problems in front of all else."""
        self.rig.plugin("sub").behave["job_started"] = Deferred()
        for number in "123":
            self.rig.plugin("a").context.apply(JobInit(job_id=number), 1)
        self.rig.clock.advance(30)
        self.assertEqual(self.successResultOf(self.run_tool()), 1)
        lines = self.output.getvalue().splitlines()
        self.assertRegex(lines[1], "^ERROR subscriber sub is stuck: .* for 30 s; 2 events wait")

    def test_json(self) -> None:
        """The whole document."""
        self.assertEqual(self.successResultOf(self.run_tool("--json")), 0)
        document = json.loads(self.output.getvalue())
        self.assertEqual((document["format"], document["name"]), (1, "node-1"))

    def error(self) -> ToolError:
        """What the tool ends with."""
        value = self.failureResultOf(self.run_tool(), ToolError).value
        assert isinstance(value, ToolError)
        self.assertEqual(self.output.getvalue(), "")
        return value

    def test_not_permitted(self) -> None:
        """A user who may not ask is told so; the exit status is not that of problems."""
        self.uid = 54_321
        error = self.error()
        self.assertEqual(error.rc, 13)
        self.assertIn("only root", str(error))

    def test_other_daemon(self) -> None:
        """One that does not know the request."""
        self.codes = ()
        self.assertEqual(self.error().rc, 38)

    def test_no_socket(self) -> None:
        """What may be the matter when there is no socket; other reasons are told as they are."""
        self.patch(self, "connect", lambda *_: fail(ConnectError(errno.ENOENT)))
        error = self.error()
        self.assertEqual(error.rc, 2)
        self.assertIn("listen xprt=unix path=/run/ldmsjob/ldmsjob.sock", str(error))
        self.patch(self, "connect", lambda *_: fail(ConnectError(errno.EACCES)))
        self.failureResultOf(self.run_tool(), ConnectError)

    def test_failing_answer(self) -> None:
        """What the daemon says of it."""
        self.rig.daemon.requests.answer(*self.codes, lambda: bytes(1 // 0))
        self.assertEqual(self.error().rc, 5)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_answer_of_another_version(self) -> None:
        """It is not shown by halves."""
        self.rig.daemon.requests.answer(*self.codes, lambda: b"[]")
        self.assertEqual(self.error().rc, 71)

    def test_where(self) -> None:
        """The socket of the node unless something else is said."""
        peers: list[tuple[str, str]] = []
        self.patch(
            sys.modules["ldmsjob.cli.client"],
            "run_tool",
            lambda arguments, start, interrupted: peers.append((arguments.xprt, arguments.host)),
        )
        for argv in ((), ("-x", "sock"), ("-x", "sock", "-h", "a"), ("-h", "/x")):
            status_tool.run(parse(*argv))
        self.assertEqual(
            peers,
            [
                ("unix", "/run/ldmsjob/ldmsjob.sock"),
                ("sock", "localhost"),
                ("sock", "a"),
                ("unix", "/x"),
            ],
        )


class ScreenTests(SynchronousTestCase):
    """What people see."""

    def screen(self, **changes: Any) -> list[str]:
        """The lines for a daemon's document with these changes."""
        rig = Rig(self, state_directory=self.mktemp())
        rig.read(CONFIGURATION)
        rig.start()
        document = json.loads(rig.daemon.health.encoded())
        document.update(changes)
        stream = io.StringIO()
        show(document, stream)
        return stream.getvalue().splitlines()

    def test_one_screen(self) -> None:
        """However much is wrong and however much there is, it fits."""
        problem = {"severity": "warning", "what": "w" * 180, "advice": "a" * 90}
        manager = {
            "name": "n" * 100,
            "state": "started",
            "jobs_running": 1.0,
            "jobs_lingering": 0.0,
            "notices": 1_000_000,
            "last_notice_seconds": None,
            "rejected": {"syntax": 5},
        }
        subscriber = dict.fromkeys(("delivered", "queued", "lost", "failed", "busy_seconds"), 9)
        lines = self.screen(
            problems=[problem] * 30,
            notes=["n"] * 9,
            job_managers=[manager] * 50,
            subscribers=[{"name": "s", **subscriber}] * 50,
        )
        self.assertLessEqual(len(lines), 55)
        self.assertLessEqual(max(map(len, lines)), 100)
        self.assertIn(f"and {30 - MAX_PROBLEMS} more problems; --json tells all", "\n".join(lines))

    def test_worst_subscribers_first(self) -> None:
        """Those that have lost events, then those that wait for most."""
        lines = self.screen(
            subscribers=[
                {
                    "name": name,
                    "delivered": 1,
                    "queued": queued,
                    "lost": lost,
                    "failed": 0,
                    "busy_seconds": 0,
                }
                for name, queued, lost in (("well", 0, 0), ("slow", 90, 0), ("loser", 5, 7))
            ]
        )
        names = [line.split()[0] for line in lines[-3:]]
        self.assertEqual(names, ["loser", "slow", "well"])

    def test_names_do_not_steer_the_terminal(self) -> None:
        """Control characters are made visible."""
        lines = self.screen(notes=["a\x1b[31mb"])
        self.assertIn("note: a\\x1b[31mb", lines)


class SocketTests(TestCase):
    """Over a real socket of this host, with the daemon in this process."""

    @inlineCallbacks
    def test_daemon_that_runs(self) -> Iterator[Deferred[Any]]:
        """It is asked and answers."""
        daemon = Daemon(reactor, loader=Loader(), hostname="node-1", state_directory=self.mktemp())
        daemon.listen("sock", "127.0.0.1", 0)
        Interpreter(daemon, {}).read((), ())
        daemon.privilegedStartService()
        daemon.startService()
        self.addCleanup(daemon.stopService)
        (listener,) = daemon.listeners
        transport, authenticator = find_transport(reactor, "sock", None, {})

        def connect(site: ILinkSite, settings: LinkSettings) -> Any:
            return transport.connect("127.0.0.1", listener.port, site, authenticator, settings)

        text = yield Deferred.fromCoroutine(status_tool.ask(reactor, connect))
        document = json.loads(text)
        self.assertEqual(document["links"]["by_transport"], {"sock": 1})
        self.assertEqual(document["problems"], [])
        self.assertEqual(document["links"]["top_addresses"], [["127.0.0.1", 1]])
