"""The transport ``sock``, over the loopback interface."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace
from twisted.internet import reactor, tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionLost, DNSLookupError
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ldmsjob.errors import ConfigError, PeerError
from ldmsjob.interfaces import (
    IAuthenticator,
    IListener,
    ITransport,
    IUnaddressedAuthenticator,
    LinkSettings,
)
from ldmsjob.limits import Limits
from ldmsjob.transports import accepted, sock
from ldmsjob.transports.auth_none import NoneAuthentication, NoneAuthenticator
from ldmsjob.transports.link import LinkProtocol
from ldmsjob.wire.connection import LdmsConnection
from ldmsjob.wire.events import MAX_MESSAGE_BYTES, Publish, ReturnCredit, SourceAddress
from tests.fake_sites import FakeSite

SETTINGS = LinkSettings(messages_enabled=lambda: True)


def make_transport() -> sock.SockTransport:
    """A transport of its own on the real reactor."""
    return sock.SockTransport(SimpleNamespace(clock=reactor))


class WaitingSite(FakeSite):
    """A site on whose calls a test can wait."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[Any, Deferred[None]]] = []

    def until(self, condition: Any) -> Deferred[None]:
        """Fires when the condition holds after some call."""
        done: Deferred[None] = Deferred()
        self._waiting.append((condition, done))
        self._look()
        return done

    def _look(self) -> None:
        ready = [entry for entry in self._waiting if entry[0]()]
        self._waiting = [entry for entry in self._waiting if entry not in ready]
        for _, done in ready:
            done.callback(None)

    def link_opened(self, link: Any) -> None:
        """Remember it."""
        super().link_opened(link)
        self._look()

    def link_events(self, link: Any, events: Any) -> None:
        """Remember them."""
        super().link_events(link, events)
        self._look()

    def link_closed(self, link: Any, reason: Any) -> None:
        """Remember it."""
        super().link_closed(link, reason)
        self._look()

    def link_refused(self, peer_address: str, reason: str) -> None:
        """Remember it."""
        super().link_refused(peer_address, reason)
        self._look()


@implementer(IAuthenticator)
class Addressed:
    """Lets everybody in, and remembers our own addresses."""

    name = "none"

    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, *, local_address: str, **_: object) -> NoneAuthentication:
        """The conversation."""
        self.begun.append(local_address)
        return NoneAuthentication()


@implementer(IUnaddressedAuthenticator)
class Unaddressed(Addressed):
    """One that has no use for them."""


class SockTestCase(TestCase):
    """A listener's site and a client's."""

    timeout = 120

    def setUp(self) -> None:
        """Make the sites."""
        self.server, self.client = WaitingSite(), WaitingSite()
        self.transport = make_transport()

    def listen(
        self, host: str | None = "127.0.0.1", authenticator: Any = None, **limits: Any
    ) -> Any:
        """A listener on a free port, which ends with the test, and so do its links."""
        settings = replace(SETTINGS, limits=Limits(**limits))
        authenticator = authenticator or NoneAuthenticator()
        listener = make_transport().listen(host, 0, self.server, authenticator, settings)
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

    def connect(self, port: int, host: str = "127.0.0.1") -> Deferred[Any]:
        """A link of the client's site."""
        return self.transport.connect(host, port, self.client, NoneAuthenticator(), SETTINGS)


class LinkTests(SockTestCase):
    """Links over TCP."""

    @inlineCallbacks
    def test_messages_both_ways(self) -> Iterator[Deferred[Any]]:
        """A link opens at both ends and carries messages and credit both ways."""
        listener = self.listen()
        link = yield self.connect(listener.port)
        yield self.server.until(lambda: self.server.links)
        link.send(Publish("c", b"up\0"))
        self.server.links[0].send(Publish("c", b"down\0"))
        yield self.server.until(lambda: self.server.bodies)
        yield self.client.until(lambda: self.client.bodies)
        self.assertEqual((self.server.bodies, self.client.bodies), ([b"up"], [b"down"]))
        self.assertRegex(self.server.links[0].peer_address, r"^127\.0\.0\.1:\d+$")
        self.assertEqual(link.peer_address, f"127.0.0.1:{listener.port}")

    @inlineCallbacks
    def test_large_messages(self) -> Iterator[Deferred[Any]]:
        """The largest message goes over whole, also when several go in one turn."""
        listener = self.listen()
        link = yield self.connect(listener.port)
        data = b"x" * (MAX_MESSAGE_BYTES - 3) + b"\0"
        for _ in range(5):
            link.send(Publish("c", data))
        yield self.server.until(lambda: len(self.server.bodies) == 5)
        self.assertEqual({len(body) for body in self.server.bodies}, {len(data) - 1})

    @inlineCallbacks
    def test_socket_options(self) -> Iterator[Deferred[Any]]:
        """Both ends send without delay and probe idle peers as the C library does."""
        listener = self.listen()
        link = yield self.connect(listener.port)
        yield self.server.until(lambda: self.server.links)
        for end in (link, self.server.links[0]):
            handle = end.transport.getHandle()
            for level, option, expected in (
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
            ):
                self.assertEqual(handle.getsockopt(level, option), expected, option)

    @inlineCallbacks
    def test_acknowledges_each_read_at_once(self) -> Iterator[Deferred[Any]]:
        """After every read that was not answered the kernel is asked again not to delay the
        acknowledgement."""
        asked: list[Any] = []
        original = sock.acknowledge
        self.patch(sock, "acknowledge", lambda t: (asked.append(t), original(t)))
        listener = self.listen()
        link = yield self.connect(listener.port)
        yield self.server.until(lambda: self.server.links)
        server_end = self.server.links[0].transport
        # For the end of the handshake; what began it was answered.
        yield wait_until(lambda: asked.count(server_end) == 1)
        for number in (2, 3):
            link.send(Publish("c", b"1\0"))
            yield wait_until(lambda number=number: asked.count(server_end) == number)
        credit = ReturnCredit([4])
        self.server.on_events = lambda link, events: link.send(credit)
        link.send(Publish("c", b"1\0"))
        yield self.client.until(lambda: self.client.events)
        self.assertEqual(asked.count(server_end), 3)

    @inlineCallbacks
    def test_reads_at_once(self) -> Iterator[Deferred[Any]]:
        """What has come when a connection is accepted is answered in the same turn."""
        listener = self.listen()
        connection = LdmsConnection(False, auth_name="none", messages_enabled=True, pid=1)
        connection.connect()
        with socket.create_connection(("127.0.0.1", listener.port)) as client:
            client.sendall(connection.data_to_send())
            begin = accepted.begin
            answers: list[bytes] = []

            def begins(*arguments: Any) -> bool:
                taken = begin(*arguments)
                answers.append(client.recv(1000))
                return taken

            self.patch(accepted, "begin", begins)
            yield wait_until(lambda: answers)
        self.assertEqual(answers[0][:2], b"\0\x08")  # ACCEPTED
        yield self.server.until(lambda: self.server.refused)

    @inlineCallbacks
    def test_broken_at_once(self) -> Iterator[Deferred[Any]]:
        """A defect in the first read costs that connection alone."""
        listener = self.listen()
        original = LinkProtocol.dataReceived
        broken: list[Any] = []

        def received(link: Any, data: bytes) -> None:
            if not broken:
                broken.append(link)
                raise ZeroDivisionError
            original(link, data)

        self.patch(LinkProtocol, "dataReceived", received)
        connection = LdmsConnection(False, auth_name="none", messages_enabled=True, pid=1)
        connection.connect()
        with socket.create_connection(("127.0.0.1", listener.port)) as client:
            client.sendall(connection.data_to_send())
            yield self.server.until(lambda: self.server.refused)
            yield self.connect(listener.port)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    @inlineCallbacks
    def test_closed_by_the_peer(self) -> Iterator[Deferred[Any]]:
        """Each side hears once that the link has closed."""
        listener = self.listen()
        link = yield self.connect(listener.port)
        yield self.server.until(lambda: self.server.links)
        link.send(Publish("c", b"last\0"))
        link.close()
        yield self.server.until(lambda: self.server.closed)
        yield self.client.until(lambda: self.client.closed)
        self.assertEqual(self.server.calls, ["opened", "events", "closed"])
        self.assertEqual(self.client.calls, ["opened", "closed"])

    @inlineCallbacks
    def test_own_address(self) -> Iterator[Deferred[Any]]:
        """An authenticator gets the address that the peer came to; not one that has no use for
        it."""
        for authenticator, expected in ((Addressed(), "127.0.0.1:{}"), (Unaddressed(), "")):
            listener = self.listen(authenticator=authenticator)
            yield self.connect(listener.port)
            yield self.server.until(lambda: len(self.server.links) == len(self.client.links))
            self.assertEqual(authenticator.begun, [expected.format(listener.port)])

    @inlineCallbacks
    def test_aborted(self) -> Iterator[Deferred[Any]]:
        """The peer of a connection that is aborted is told that it broke; of one that is closed,
        that it ended. Each is closed once."""
        listener = self.listen()
        for end, expected in (("abortConnection", ConnectionLost), ("loseConnection", None)):
            link = yield self.connect(listener.port)
            yield self.server.until(lambda: len(self.server.links) == len(self.client.links))
            getattr(self.server.links[-1].transport, end)()
            yield self.client.until(lambda: len(self.client.closed) == len(self.client.links))
            reason = self.client.closed[-1]
            self.assertEqual(reason.check(ConnectionLost), expected, reason)
            self.assertIs(self.client.links[-1], link)
        transport = accepted.Accepted(socket.socket(), None, self, reactor)
        for _ in range(2):
            transport.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(len(self.lost), 1)

    def connectionLost(self, reason: Any) -> None:
        """As a protocol."""
        self.lost = [*getattr(self, "lost", []), reason]

    @inlineCallbacks
    def test_too_many_that_do_not_authenticate(self) -> Iterator[Deferred[Any]]:
        """Beyond the cap a new connection is closed at once; a link that opened does not count."""
        listener = self.listen(links_unopened=1)
        yield self.connect(listener.port)
        yield self.server.until(lambda: self.server.links)
        silent = socket.create_connection(("127.0.0.1", listener.port))
        self.addCleanup(silent.close)
        with self.assertRaises(PeerError):
            yield self.connect(listener.port)
        yield self.server.until(lambda: self.server.refused)
        self.assertTrue(self.server.refused[0][1].startswith("too many not authenticated: "))
        silent.close()
        yield self.server.until(lambda: len(self.server.refused) == 2)
        yield self.connect(listener.port)


class ListenTests(SockTestCase):
    """Where a listener listens."""

    @inlineCallbacks
    def test_without_host(self) -> Iterator[Deferred[Any]]:
        """Without a host one listener takes IPv4 and IPv6; IPv4 peers are shown as such."""
        listener = self.listen(None)
        yield self.connect(listener.port, "127.0.0.1")
        yield self.server.until(lambda: len(self.server.links) == 1)
        self.assertRegex(self.server.links[0].peer_address, r"^127\.0\.0\.1:\d+$")
        if not has_ipv6():
            raise SkipTest("this machine has no IPv6")
        yield self.connect(listener.port, "::1")
        yield self.server.until(lambda: len(self.server.links) == 2)
        self.assertRegex(self.server.links[1].peer_address, r"^\[::1\]:\d+$")

    @inlineCallbacks
    def test_without_ipv6(self) -> Iterator[Deferred[Any]]:
        """On a machine without IPv6 a listener without host takes IPv4."""
        real = accepted.Listening

        def without_ipv6(family: int) -> socket.socket:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")
            return real(family)

        self.patch(accepted, "Listening", without_ipv6)
        listener = self.listen(None)
        link = yield self.connect(listener.port)
        self.assertEqual(link.peer_address, f"127.0.0.1:{listener.port}")

    def test_port_is_known_after_binding(self) -> None:
        """Port 0 becomes the real port when the service starts."""
        listener = self.transport.listen("localhost", 0, self.server, NoneAuthenticator(), SETTINGS)
        verifyObject(IListener, listener)
        self.assertEqual(listener.port, 0)
        listener.service.privilegedStartService()
        self.addCleanup(listener.service.stopService)
        self.assertGreater(listener.port, 0)
        port = listener.port
        listener.service.startService()
        self.assertEqual(listener.port, port)

    def test_port_in_use(self) -> None:
        """A port that is taken is the user's mistake: rc 7, the endpoint and a hint."""
        taken = self.listen()
        listener = self.transport.listen(
            "127.0.0.1", taken.port, self.server, NoneAuthenticator(), SETTINGS
        )
        error = self.assertRaises(ConfigError, listener.service.privilegedStartService)
        self.assertEqual(error.rc, 7)
        self.assertIn(f"sock 127.0.0.1:{taken.port}", str(error))
        self.assertIn("ss -ltnp", error.hint)

    def test_unknown_host(self) -> None:
        """A host that does not resolve is named."""
        listener = self.transport.listen(
            "no-such-host.invalid", 0, self.server, NoneAuthenticator(), SETTINGS
        )
        error = self.assertRaises(ConfigError, listener.service.privilegedStartService)
        self.assertIn("no-such-host.invalid", str(error))


class ConnectTests(SockTestCase):
    """Connections that come to nothing."""

    @inlineCallbacks
    def test_refused(self) -> Iterator[Deferred[Any]]:
        """Where nobody listens the Deferred fails, and the site hears nothing."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            with self.assertRaises(ConnectError):
                yield self.connect(free.getsockname()[1])
        self.assertEqual(self.client.calls, [])

    @inlineCallbacks
    def test_rejected(self) -> Iterator[Deferred[Any]]:
        """A peer that wants another authentication says so; the reason is in the failure."""
        listener = self.listen()
        other = NoneAuthenticator()
        other.name = "munge"  # type: ignore[misc]
        with self.assertRaises(PeerError) as caught:
            yield self.transport.connect("127.0.0.1", listener.port, self.client, other, SETTINGS)
        self.assertIn("Auth mismatch", str(caught.exception))
        self.assertEqual(self.client.calls, ["refused"])

    @inlineCallbacks
    def test_no_host_name(self) -> Iterator[Deferred[Any]]:
        """What cannot be the name of a host is a host that there is not."""
        for host in ("", "a..b", "a b", "a" * 300, "a\udcff"):
            yield self.assertFailure(
                self.transport.connect(host, 411, self.client, NoneAuthenticator(), SETTINGS),
                DNSLookupError,
            )

    @inlineCallbacks
    def test_given_up(self) -> Iterator[Deferred[Any]]:
        """Cancelling during the handshake drops the connection."""
        heard: list[bytes] = []
        silent = Factory.forProtocol(type("Silent", (Protocol,), {}))
        silent.protocol.dataReceived = lambda _, data: heard.append(data)
        port = reactor.listenTCP(0, silent, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        connecting = self.connect(port.getHost().port)
        yield wait_until(lambda: heard)
        connecting.cancel()
        yield self.assertFailure(connecting, CancelledError)
        yield self.client.until(lambda: self.client.refused)
        self.assertEqual(self.client.calls, ["refused"])


class AddressTests(TestCase):
    """How addresses are shown and passed on."""

    def test_interface(self) -> None:
        """The transport is one."""
        verifyObject(ITransport, make_transport())

    def test_text(self) -> None:
        """IPv6 in brackets; IPv4 in its IPv6 form is IPv4."""
        for host, expected in (
            ("10.0.0.7", "10.0.0.7:411"),
            ("::ffff:10.0.0.7", "10.0.0.7:411"),
            ("fe80::1", "[fe80::1]:411"),
        ):
            self.assertEqual(sock.address_text(host, 411), expected)

    def test_twisteds(self) -> None:
        """As Twisted has them; one that is good on one interface only says on which."""
        four = accepted.twisted_address(("10.0.0.7", 411))
        self.assertEqual(four, IPv4Address("TCP", "10.0.0.7", 411))
        six = accepted.twisted_address(("fe80::1", 411, 0, 0))
        self.assertEqual(six, IPv6Address("TCP", "fe80::1", 411, 0, 0))
        name = socket.if_indextoname(1)
        here = accepted.twisted_address(("fe80::1", 411, 0, 1))
        self.assertEqual(here, IPv6Address("TCP", f"fe80::1%{name}", 411, 0, 1))

    @inlineCallbacks
    def test_of_a_connection(self) -> Iterator[Deferred[Any]]:
        """An accepted connection knows both of its ends."""
        waiting = WaitingSite()
        transport = make_transport()
        listener = transport.listen("127.0.0.1", 0, waiting, NoneAuthenticator(), SETTINGS)
        listener.service.privilegedStartService()
        self.addCleanup(listener.service.stopService)
        link = yield transport.connect(
            "127.0.0.1", listener.port, FakeSite(), NoneAuthenticator(), SETTINGS
        )
        yield waiting.until(lambda: waiting.links)
        client, server = link.transport, waiting.links[0].transport
        self.assertEqual(server.getHost(), client.getPeer())
        self.assertEqual(server.getPeer(), client.getHost())
        link.close()
        yield waiting.until(lambda: waiting.closed)

    def test_source(self) -> None:
        """The source of a peer's messages: its address, and none for this host."""
        four = SourceAddress(2, 411, bytes([10, 0, 0, 7]) + bytes(12))
        six = SourceAddress(10, 411, bytes([0xFE, 0x80]) + bytes(13) + b"\1")
        for host, expected in (
            ("10.0.0.7", four),
            ("::ffff:10.0.0.7", four),
            ("fe80::1%eth0", six),
            ("127.0.0.3", None),
            ("::1", None),
            ("::ffff:127.0.0.1", None),
        ):
            self.assertEqual(sock.source_address(host, 411), expected, host)


class WriteTests(SynchronousTestCase):
    """Writing without waiting for the reactor."""

    def setUp(self) -> None:
        """Nothing has been left for the reactor to write."""
        self.left: list[bytes] = []
        self.patch(tcp.Connection, "write", lambda transport, data: self.left.append(data))

    def transport(self, send: Callable[[bytes], int], **state: Any) -> Any:
        """A connection whose socket does that with what is sent."""
        transport = object.__new__(accepted.Accepted)
        transport.__dict__.update(
            {
                "dataBuffer": b"",
                "_tempDataBuffer": [],
                "connected": True,
                "disconnecting": False,
                "_aborting": False,
                "socket": SimpleNamespace(send=send),
            },
            **state,
        )
        return transport

    def test_what_the_socket_does_not_take_is_written(self) -> None:
        """The rest is left for the reactor, in order; all of it after an error."""

        def fail(data: bytes) -> int:
            raise OSError

        for send, left in (
            (lambda data: 0, [b"data"]),
            (lambda data: 3, [b"a"]),
            (lambda data: 4, []),
            (fail, [b"data"]),
        ):
            self.left.clear()
            self.transport(send).write(b"data")
            self.assertEqual(self.left, left)

    def test_order_is_kept(self) -> None:
        """While something waits to be written, or the connection ends, nothing overtakes."""
        for state in (
            {"_tempDataBuffer": [b"first"]},
            {"dataBuffer": b"first"},
            {"connected": False},
            {"disconnecting": True},
            {"_aborting": True},
        ):
            self.left.clear()
            self.transport(lambda data: self.fail("overtakes"), **state).write(b"second")
            self.assertEqual(self.left, [b"second"])

    def test_our_connections(self) -> None:
        """One that we made is written to in the same way."""
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as mine:
            mine.connect(server.getsockname())
            other = server.accept()[0]
            self.addCleanup(other.close)
            other.settimeout(5)
            transport = object.__new__(tcp.Client)
            transport.__dict__.update(self.transport(mine.send).__dict__, socket=mine)
            sock.TcpStream().made(transport)
            transport.write(b"data")
            self.assertEqual((other.recv(5), self.left), (b"data", []))


def has_ipv6() -> bool:
    """Whether the loopback interface has IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def wait_until(condition: Any) -> Deferred[None]:
    """Fires when the condition holds, looked at in every turn of the reactor."""
    done: Deferred[None] = Deferred()

    def look() -> None:
        if condition():
            done.callback(None)
        else:
            reactor.callLater(0, look)  # type: ignore[attr-defined]

    look()
    return done
