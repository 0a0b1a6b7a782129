"""The tools and the daemon over ``tls`` and ``unix``: options, whole runs, and what is said when
they do not fit together."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import Clock
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ldmsjob.cli.client import find_plugins
from ldmsjob.cli.ls import split_address
from ldmsjob.connecting import peer_name
from ldmsjob.daemon import Daemon
from ldmsjob.errors import ConfigError, RequestFailed
from ldmsjob.interpreter import Interpreter
from ldmsjob.loader import Loader
from ldmsjob.peer import Peer
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.schema import Schema
from ldmsjob.transports.tls import TlsTransport
from ldmsjob.transports.unix import UnixTransport
from ldmsjob.values import U64
from tests.certificates import Files
from tests.test_cli_ls import parse

SOURCE = Path(__file__).parent.parent
OURS, ROOTS = "node-1/ours", "node-1/roots"
UID = 1234


def options(attributes: dict[str, str]) -> list[str]:
    """The attributes of a transport as a tool's options."""
    return [word for name, value in attributes.items() for word in ("-X", f"{name}={value}")]


class OptionTests(SynchronousTestCase):
    """How a tool's options name a transport and an identity."""

    def setUp(self) -> None:
        """A directory for files."""
        self.files = Files(self.mktemp())

    def find(self, *argv: str) -> Any:
        """The transport and the authenticator of these options."""
        return find_plugins(Clock(), parse(*argv))

    def test_attributes(self) -> None:
        """`-X` gives attributes of the transport; without `-a` the transport says who we are."""
        transport, authenticator = self.find("-x", "tls", *options(self.files.attributes("tool")))
        self.assertIsInstance(transport, TlsTransport)
        self.assertIsNone(authenticator)
        transport, authenticator = self.find("-x", "unix", "-h", "/run/x")
        self.assertIsInstance(transport, UnixTransport)
        self.assertIsNone(authenticator)

    def test_authenticator(self) -> None:
        """`-a` names one that runs inside TLS."""
        given = options(self.files.attributes("tool"))
        _, authenticator = self.find("-x", "tls", *given, "-a", "none")
        self.assertEqual(authenticator.name, "none")

    def test_mistakes(self) -> None:
        """Each is one line that says what is missing, with the status of such mistakes."""
        given = options(self.files.attributes("tool"))
        for words, text in (
            (("-x", "tls"), "'certificate' is required"),
            (("-x", "tls", *given, "-A", "conf=x"), "nothing to take 'conf'"),
            (("-x", "tls", *given, "-X", "colour=red"), "no attribute 'colour'"),
            (("-x", "tls", *given, "-X", "key=/no/such"), "key '/no/such' cannot be read"),
            (("-X", "key=x"), "transport 'sock' has no attribute 'key'"),
        ):
            error = self.assertRaises(ConfigError, self.find, *words)
            self.assertIn(text, str(error))
            self.assertEqual(error.rc, 2)

    def test_places(self) -> None:
        """A path is shown as it is."""
        self.assertEqual(peer_name("/run/x", 411), "/run/x")
        self.assertEqual(peer_name("::1", 411), "[::1]:411")
        self.assertEqual(split_address("/run/a:b"), ("/run/a:b", 0))


class CheckTests(SynchronousTestCase):
    """What the daemon says of its lines."""

    def setUp(self) -> None:
        """A directory for files."""
        self.files = Files(self.mktemp())
        self.given = self.files.attributes("server", names="tool.example 1:1\n")

    def read(self, *lines: str) -> Daemon:
        """A daemon with a configuration of these lines, not started."""
        daemon = Daemon(Clock(), loader=Loader(), hostname="node-1")
        Interpreter(daemon, {}).read([], [self.files.write("conf", "\n".join(lines))])
        return daemon

    def tls(self, **changes: str | None) -> str:
        """A line for TLS."""
        given = {**self.given, **changes}
        return "listen xprt=tls port=411 " + " ".join(
            f"{name}={value}" for name, value in given.items() if value is not None
        )

    def fails(self, *lines: str) -> str:
        """What is said of the last of these lines."""
        error = self.assertRaises(ConfigError, self.read, *lines)
        self.assertEqual(error.where.rpartition(":")[2], str(len(lines)))
        return str(error)

    def test_lines(self) -> None:
        """Nothing is bound when it is only read; two listeners with other files are two."""
        daemon = self.read(self.tls(), "listen xprt=unix path=/no/such/s mode=0600")
        self.assertIn("listen on tls:411", daemon.describe())
        self.assertIn("listen on unix:/no/such/s", daemon.describe())

    def test_mistakes(self) -> None:
        """What is wrong with the files is told with the line that names them."""
        other = self.files.attributes("tool")["key"]
        names = self.files.write("other names", "tool.example no-such-user\n")
        self.assertIn("is not the one of certificate", self.fails("", self.tls(key=other)))
        self.assertIn("'key' is required", self.fails(self.tls(key=None)))
        self.assertIn("'names' is required", self.fails("", "", self.tls(names=None)))
        expired = self.files.attributes("expired")
        self.assertIn("expired on", self.fails("", self.tls(**expired)))
        self.assertIn("no user 'no-such-user'", self.fails(self.tls(names=f'"{names}"')))

    def test_authenticators(self) -> None:
        """`default_auth` is not for transports that authenticate; `auth` is not for unix."""
        self.read("default_auth plugin=naive", self.tls(), "listen xprt=unix path=/s")
        self.read("auth_add name=a plugin=naive", self.tls(names=None, auth="a"))
        found = self.fails("auth_add name=a plugin=naive", "listen xprt=unix path=/s auth=a")
        self.assertIn("authentication is not for xprt=unix", found)


class RunTests(TestCase):
    """A daemon with a listener, its sets, and those who look at them."""

    timeout = 120

    def setUp(self) -> None:
        """A daemon that is not started, with a set of root's and one of another user."""
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = f"{directory.name}/s"
        self.files = Files(self.mktemp())
        self.daemon = Daemon(reactor, loader=Loader(), hostname="node-1")
        self.lines: list[str] = []

        def observe(event: Any) -> None:
            self.lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def start(self, xprt: str, host: str, attributes: dict[str, str], uid: int) -> int:
        """Start the daemon; returns its port."""
        self.daemon.listen(xprt, host, 0, attributes=attributes)
        Interpreter(self.daemon, {}).read([], [self.files.write("conf", "msg_enable\n")])
        for name, owner in ((OURS, uid), (ROOTS, uid + 1)):
            schema = Schema("meminfo")
            schema.add_metric("MemTotal", U64)
            made = MetricSet(name, schema, clock=lambda: 1, perm=0o400, uid=owner)
            made.commit(1)
            self.daemon.registry.add(made)
        self.daemon.privilegedStartService()
        self.daemon.startService()
        self.addCleanup(self.daemon.stopService)
        (listener,) = self.daemon.listeners
        port: int = listener.port
        return port

    def tool(self, *argv: str) -> Deferred[tuple[bytes, bytes, int]]:
        """Run a tool as a process of its own; its output, errors and status."""
        return getProcessOutputAndValue(
            sys.executable,
            ("-m", "ldmsjob.cli.main", *argv),
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            reactor=reactor,
        )

    @inlineCallbacks
    def test_tls(self) -> Iterator[Deferred[Any]]:
        """Who a tool is, and so what it sees, follows from its certificate."""
        port = self.start(
            "tls",
            "127.0.0.1",
            self.files.attributes("server", names=f"tool.example {UID}:5\nstranger.example 0\n"),
            UID,
        )
        given = options(self.files.attributes("tool"))
        out, errors, status = yield self.tool("ls", "-p", str(port), "-x", "tls", *given)
        self.assertEqual((out, errors, status), (f"{OURS}\n".encode(), b"", 0))
        peer = yield Peer.connect(
            reactor, "localhost", port, xprt="tls", xprt_options=self.files.attributes("stranger")
        )
        self.addCleanup(peer.close)
        entries = yield peer.dir()
        self.assertEqual(sorted(entry.name for entry in entries), [OURS, ROOTS])

    @inlineCallbacks
    def test_many_sets_over_tls(self) -> Iterator[Deferred[Any]]:
        """A directory of several parts, and all its sets, come over TLS."""
        given = self.files.attributes("server", names=f"tool.example {UID}:5\n")
        port = self.start("tls", "127.0.0.1", given, UID)
        schema = Schema("s")
        schema.add_metric("x", U64)
        for number in range(3000):
            made = MetricSet(f"n/{number:04}", schema, clock=lambda: 1, perm=0o444)
            made.commit(1)
            self.daemon.registry.add(made)
        peer = yield Peer.connect(
            reactor, "localhost", port, xprt="tls", xprt_options=self.files.attributes("tool")
        )
        self.addCleanup(peer.close)
        entries = yield peer.dir()
        self.assertEqual(len(entries), 3001)
        found = yield gatherResults([peer.lookup(entry.name) for entry in entries])
        self.assertEqual([len(sets) for sets in found], [1] * 3001)

    @inlineCallbacks
    def test_tls_refused(self) -> Iterator[Deferred[Any]]:
        """Whoever is refused is told in one line, and so is the log; and it is counted."""
        port = self.start(
            "tls",
            "127.0.0.1",
            self.files.attributes("server", names=f"tool.example {UID}:5\n"),
            UID,
        )
        for name, line in (
            ("untrusted", r"its certificate \(.*\) is not signed by a CA of"),
            ("stranger", r"no DNS name of its certificate \(stranger\.example\) is in"),
        ):
            given = options(self.files.attributes(name))
            out, errors, status = yield self.tool("ls", "-p", str(port), "-x", "tls", *given)
            self.assertEqual((out, status), (b"", 13))
            self.assertRegex(
                errors.decode(),
                r"\Aldmsjob: localhost:\d+: not authenticated: it does not accept our .*\n\Z",
            )
            self.assertRegex("\n".join(self.lines), f"connection with .* not accepted: .*{line}")
        counted = dict(self.daemon.stats.groups())["links"]
        self.assertEqual(counted["not_opened.tls untrusted"], 1)
        self.assertEqual(counted["not_opened.tls unknown name"], 1)

    @inlineCallbacks
    def test_unix(self) -> Iterator[Deferred[Any]]:
        """Over a unix socket a tool is the user that runs it."""
        self.start("unix", self.path, {}, os.getuid())
        out, errors, status = yield self.tool("ls", "-x", "unix", "-h", self.path, "-vv")
        self.assertEqual((errors, status), (b"", 0))
        self.assertIn(OURS.encode(), out)
        self.assertIn(self.path.encode(), out)
        out, errors, status = yield self.tool("ls", "-x", "unix", "-h", "/no/such")
        self.assertEqual((out, status), (b"", 2))
        self.assertEqual(errors, b"ldmsjob: /no/such: there is no such socket\n")
        out, errors, status = yield self.tool("ls", "-x", "unix")
        self.assertEqual((out, status), (b"", 2))
        self.assertIn(b"not to 'localhost'", errors)
        missing = yield self.assertFailure(
            Peer.connect(reactor, "/no/such", xprt="unix"), RequestFailed
        )
        self.assertEqual(missing.rc, 2)
        yield self.assertFailure(Peer.connect(reactor, "localhost", xprt="unix"), ConfigError)
