"""The transport ``unix``: who is at the other end, and where the socket is."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from ldmsjob.admission import Admission
from ldmsjob.errors import ConfigError, PeerError
from ldmsjob.interfaces import IListener, ITransport, LinkSettings
from ldmsjob.limits import Limits
from ldmsjob.stats import Stats
from ldmsjob.transports import unix, unixsocket
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.unix import UnixTransport
from ldmsjob.wire.events import Credential, Publish
from tests.test_transports_sock import WaitingSite

SETTINGS = LinkSettings(messages_enabled=lambda: True)


class UnixTestCase(TestCase):
    """A directory for sockets, with a short name; a listener's site and a client's."""

    timeout = 120

    def setUp(self) -> None:
        """Make them."""
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.path = str(self.directory / "s")
        self.server, self.client = WaitingSite(), WaitingSite()
        self.transport = self.make()

    def make(self, mode: str = "666") -> UnixTransport:
        """A transport."""
        made = UnixTransport(SimpleNamespace(clock=reactor))
        made.configure({"mode": mode})
        return made

    def listener(self, path: str = "", limits: Limits | None = None, **options: Any) -> Any:
        """A listener that is not bound."""
        self.listening = self.make(**options)
        self.admission = Admission(Stats(), limits)
        settings = replace(SETTINGS, limits=limits, admission=self.admission)
        return self.listening.listen(path or self.path, 0, self.server, None, settings)

    def listen(self, path: str = "", limits: Limits | None = None, **options: Any) -> Any:
        """A listener, which ends with the test, and so do its links."""
        listener = self.listener(path, limits, **options)
        listener.service.privilegedStartService()
        listener.service.startService()
        self.addCleanup(self.end_links)
        self.addCleanup(listener.service.stopService)
        return listener

    @inlineCallbacks
    def end_links(self) -> Iterator[Deferred[Any]]:
        """Close what is open and wait until it is closed."""
        for site in (self.client, self.server):
            for link in site.links:
                link.abort("end of test")
        for site in (self.client, self.server):
            yield site.until(lambda site=site: len(site.closed) == len(site.links))

    def connect(self, path: str = "", rail: int = 1) -> Deferred[Any]:
        """A link of the client's site."""
        return self.transport.connect(path or self.path, 0, self.client, None, SETTINGS, rail)


class LinkTests(UnixTestCase):
    """Links over unix sockets."""

    @inlineCallbacks
    def test_messages_both_ways(self) -> Iterator[Deferred[Any]]:
        """A link opens at both ends, carries messages, and each end knows from the system who the
        other is."""
        self.listen()
        link = yield self.connect()
        yield self.server.until(lambda: self.server.links)
        (end,) = self.server.links
        ours = Credential(os.getuid(), os.getgid())
        self.assertEqual((end.credential, link.credential), (ours, ours))
        self.assertEqual(end.peer_address, f"pid {os.getpid()} of uid {os.getuid()}")
        self.assertEqual(link.peer_address, self.path)
        who = {"uid": ours.uid, "gid": ours.gid}
        link.send(Publish("c", b"up\0", **who))
        end.send(Publish("c", b"down\0", **who))
        yield self.server.until(lambda: self.server.bodies)
        yield self.client.until(lambda: self.client.bodies)
        self.assertEqual((self.server.bodies, self.client.bodies), ([b"up"], [b"down"]))

    @inlineCallbacks
    def test_identity_is_the_systems(self) -> Iterator[Deferred[Any]]:
        """The ids are those that the system tells of the connection."""
        process = unixsocket.PeerProcess(7, 1234, 56)
        self.patch(unix, "peer_process", lambda _handle: process)
        self.listen()
        yield self.connect()
        yield self.server.until(lambda: self.server.links)
        self.assertEqual(self.server.links[0].credential, Credential(1234, 56))
        self.assertEqual(self.server.links[0].peer_address, "pid 7 of uid 1234")

    @inlineCallbacks
    def test_rail(self) -> Iterator[Deferred[Any]]:
        """A rail of two."""
        self.listen()
        link = yield self.connect(rail=2)
        yield self.server.until(lambda: len(self.server.links) == 2)
        self.assertEqual(sorted(link.rail.links), [0, 1])

    @inlineCallbacks
    def test_no_descriptor(self) -> Iterator[Deferred[Any]]:
        """A connection for which no descriptor is left is closed, and told of."""
        self.listen()
        real = self.listening.reactor.adoptStreamConnection

        def adopt(*arguments: Any) -> Any:
            self.listening.reactor.adoptStreamConnection = real
            raise OSError(24, "Too many open files")

        self.patch(reactor, "adoptStreamConnection", adopt)
        yield self.assertFailure(self.connect(), PeerError)
        self.assertEqual(self.server.refused, [(self.path, "no descriptor: Too many open files")])
        yield self.connect()

    @inlineCallbacks
    def test_silent(self) -> Iterator[Deferred[Any]]:
        """A connection that says nothing has a deadline, and counts till then."""
        self.listen(limits=Limits(handshake_seconds=0.05, links_unopened=1))
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(self.path)
            yield self.server.until(lambda: self.server.refused)
        self.assertRegex(self.server.refused[0][1], "^handshake timeout: ")
        self.assertEqual(self.server.refused[0][0], f"pid {os.getpid()} of uid {os.getuid()}")
        self.assertEqual(self.admission.unopened, 0)

    @inlineCallbacks
    def test_not_kept_out(self) -> Iterator[Deferred[Any]]:
        """However many have not authenticated, who is on this host gets in; of one user there are
        at most so many."""
        self.listen(limits=Limits(links_unopened=1, links_per_address=3))
        silent = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for one in silent:
            self.addCleanup(one.close)
            one.connect(self.path)
        yield self.connect()
        yield self.assertFailure(self.connect(), PeerError)
        self.assertRegex(self.server.refused[0][1], "^too many of one address: ")


class SocketTests(UnixTestCase):
    """The socket in the file system."""

    def mode(self, path: str = "") -> int:
        """The permission bits of a file."""
        return stat.S_IMODE(os.stat(path or self.path).st_mode)

    def fails(self, path: str = "") -> ConfigError:
        """What is said of a path."""
        service = self.listener(path).service
        error = self.assertRaises(ConfigError, service.privilegedStartService)
        self.assertEqual(error.rc, 7)
        return error

    def test_interfaces(self) -> None:
        """Transport and listener are what they should be."""
        verifyObject(ITransport, self.transport)
        verifyObject(IListener, self.listener())

    @inlineCallbacks
    def test_life(self) -> Iterator[Deferred[Any]]:
        """The socket is there while the listener runs, with its mode, whatever the umask."""
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        listener = self.listen(mode="660")
        self.assertEqual(self.mode(), 0o660)
        yield listener.service.stopService()
        self.assertFalse(os.path.exists(self.path))

    def test_everybody(self) -> None:
        """Without a mode everybody may connect."""
        self.listen()
        self.assertEqual(self.mode(), 0o666)

    def test_directory_is_made(self) -> None:
        """A directory that is missing is made for everybody to come to; only the last one."""
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        self.listen(str(self.directory / "new" / "s"))
        self.assertEqual(self.mode(str(self.directory / "new")), 0o755)
        error = self.fails(str(self.directory / "no" / "such" / "s"))
        self.assertIn("cannot be made: No such file", str(error))

    def test_directory_of_all(self) -> None:
        """In a directory where others may write they could take the socket's place."""
        os.chmod(self.directory, 0o777)
        self.assertIn("may be written to by others; chmod 0755", str(self.fails()))
        os.chmod(self.directory, 0o1777)
        self.assertNotIn("chmod", str(self.fails()))

    def test_directory_of_another_user(self) -> None:
        """He could replace the socket, too."""
        real = os.stat

        def status(path: Any, *arguments: Any, **options: Any) -> Any:
            found = real(path, *arguments, **options)
            if path != str(self.directory):
                return found
            return SimpleNamespace(st_mode=found.st_mode, st_uid=os.geteuid() + 1)

        self.patch(os, "stat", status)
        self.assertIn(f"belongs to uid {os.geteuid() + 1}; chown", str(self.fails()))

    def test_nobody_connects_too_early(self) -> None:
        """The socket is closed to others until its mode is set, and to those whom that leaves out
        at all times."""
        modes = []
        real = os.chmod

        def change(path: Any, mode: int) -> None:
            if path == self.path:
                modes.append(self.mode())
            real(path, mode)

        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.patch(os, "chmod", change)
        self.listen(mode="660")
        self.assertEqual((modes, self.mode()), ([0o600], 0o660))

    @inlineCallbacks
    def test_stale_socket(self) -> Iterator[Deferred[Any]]:
        """The socket of a daemon that is gone is replaced."""
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(self.path)
        yield self.assertFailure(self.connect(), ConnectionRefusedError)
        self.listen()
        yield self.connect()

    def test_live_socket(self) -> None:
        """That of one that listens is not."""
        self.listen()
        self.assertIn("another daemon listens there; see it with `ss -xlp", str(self.fails()))

    def test_no_socket(self) -> None:
        """Any other file stays."""
        Path(self.path).write_text("precious")
        self.assertIn("is there, and no socket", str(self.fails()))
        self.assertEqual(Path(self.path).read_text(), "precious")

    @inlineCallbacks
    def test_replaced_by_another(self) -> Iterator[Deferred[Any]]:
        """A socket that somebody else has put there meanwhile is not removed."""
        listener = self.listen()
        os.rename(self.path, self.path + "2")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.path)
            yield listener.service.stopService()
        self.assertTrue(os.path.exists(self.path))

    def test_long_path(self) -> None:
        """The system takes 107 bytes."""
        path = str(self.directory / ("x" * 120))
        self.assertIn("more than 107 bytes", str(self.fails(path)))

    @inlineCallbacks
    def test_no_connection(self) -> Iterator[Deferred[Any]]:
        """A path that is not there, and one that cannot be."""
        missing = yield self.assertFailure(self.connect(), ConnectError)
        self.assertEqual(missing.osError, 2)
        long = yield self.assertFailure(self.connect("/" + "x" * 120), ConnectError)
        self.assertIn("more than 107 bytes", str(long))

    def test_mistakes(self) -> None:
        """An authenticator, a host for a path, a mode that is none."""
        listen, connect = self.transport.listen, self.transport.connect
        rest = 0, self.server, NoneAuthenticator(), SETTINGS
        for call in (listen, connect):
            error = self.assertRaises(ConfigError, call, self.path, *rest)
            self.assertIn("authentication is not for xprt=unix", str(error))
        error = self.assertRaises(
            ConfigError, connect, "localhost", 411, self.client, None, SETTINGS
        )
        self.assertIn("not to 'localhost'", str(error))
        self.assertRaises(ConfigError, self.make, "1777")
