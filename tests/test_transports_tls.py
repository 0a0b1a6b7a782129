"""The transport ``tls``, over the loopback interface: who comes in, and what is said to others."""

from __future__ import annotations

import importlib
import socket
import ssl
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ldmsjob.admission import Admission
from ldmsjob.errors import AuthFailed, PeerError
from ldmsjob.interfaces import SILENT, AuthStep, LinkSettings
from ldmsjob.limits import Limits
from ldmsjob.stats import Stats
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.identity import ProvenIdentity
from ldmsjob.transports.sock import SockTransport
from ldmsjob.transports.tls import TlsTransport
from ldmsjob.wire.events import MAX_MESSAGE_BYTES, Credential, Publish
from tests.certificates import Files, identity
from tests.test_transports_sock import WaitingSite, wait_until

SETTINGS = LinkSettings(messages_enabled=lambda: True)
NAMES = "tool.example 1234:56  # the tool\nserver.example 0\n"


def context() -> Any:
    """What a transport gets from the daemon."""
    return SimpleNamespace(clock=reactor, log=Logger(namespace="xprt.tls"))


class TlsTestCase(TestCase):
    """A listener ``server`` and those who connect to it."""

    timeout = 120

    def setUp(self) -> None:
        """Make the sites and a directory for files."""
        self.server, self.client = WaitingSite(), WaitingSite()
        self.files = Files(self.mktemp())
        self.addCleanup(self.end_links)

    def transport(self, name: str, *, server_name: str = "", **files: Any) -> TlsTransport:
        """A transport of somebody."""
        made = TlsTransport(context())
        attributes = self.files.attributes(name, **files)
        if server_name:
            attributes["server_name"] = server_name
        made.configure(attributes)
        return made

    def listen(
        self,
        name: str = "server",
        authenticator: Any = None,
        names: str | None = NAMES,
        limits: Limits | None = None,
        **files: Any,
    ) -> Any:
        """A listener on a free port, which ends with the test."""
        self.listening = TlsTransport(context())
        self.listening.configure(self.files.attributes(name, names=names, **files))
        return self.listen_by(self.listening, authenticator, limits or Limits())

    def listen_by(
        self, transport: Any, authenticator: Any = None, limits: Limits | None = None
    ) -> Any:
        """A listener of that transport."""
        self.admission = Admission(Stats(), limits)
        settings = replace(SETTINGS, limits=limits, admission=self.admission)
        listener = transport.listen("127.0.0.1", 0, self.server, authenticator, settings)
        listener.service.privilegedStartService()
        listener.service.startService()
        self.addCleanup(listener.service.stopService)
        return listener

    def connect(
        self,
        listener: Any,
        name: str = "tool",
        *,
        host: str = "localhost",
        authenticator: Any = None,
        rail: int = 1,
        **options: Any,
    ) -> Deferred[Any]:
        """A link of somebody."""
        transport = self.transport(name, **options)
        return transport.connect(host, listener.port, self.client, authenticator, SETTINGS, rail)

    @inlineCallbacks
    def refused(self, listener: Any, name: str = "tool", **options: Any) -> Iterator[Deferred[Any]]:
        """Connect and be refused; the lines of the listener and of the one who connects."""
        with self.assertRaises((AuthFailed, PeerError)) as caught:
            yield self.connect(listener, name, **options)
        yield self.server.until(lambda: self.server.refused)
        self.assertEqual(self.server.links, [])
        self.assertEqual(self.admission.unopened, 0)
        (line,) = self.server.refused
        self.assertNotIn("\n", line[1])
        return line[1], str(caught.exception)

    @inlineCallbacks
    def end_links(self) -> Iterator[Deferred[Any]]:
        """Close what is open and wait until it is closed."""
        for site in (self.client, self.server):
            for link in site.links:
                link.abort("end of test")
        for site in (self.client, self.server):
            yield site.until(lambda site=site: len(site.closed) == len(site.links))


class LinkTests(TlsTestCase):
    """Links over TLS."""

    @inlineCallbacks
    def test_messages_both_ways(self) -> Iterator[Deferred[Any]]:
        """A link opens at both ends and carries messages both ways; each end knows the other: the
        listener by its map, whoever connects by the name that it connected to."""
        listener = self.listen()
        link = yield self.connect(listener)
        yield self.server.until(lambda: self.server.links)
        (end,) = self.server.links
        self.assertEqual(end.credential, Credential(1234, 56))
        self.assertEqual(link.credential, Credential(0, 0))
        self.assertRegex(end.peer_address, r"^127\.0\.0\.1:\d+$")
        link.send(Publish("c", b"up\0", uid=1234, gid=56))
        end.send(Publish("c", b"down\0"))
        yield self.server.until(lambda: self.server.bodies)
        yield self.client.until(lambda: self.client.bodies)
        self.assertEqual((self.server.bodies, self.client.bodies), ([b"up"], [b"down"]))
        for side in (end, link):
            self.assertIn(side.transport.getHandle().get_protocol_version_name(), ("TLSv1.3",))

    @inlineCallbacks
    def test_socket_options(self) -> Iterator[Deferred[Any]]:
        """The connection below TLS has the options of sock."""
        listener = self.listen()
        link = yield self.connect(listener)
        handle = link.transport.transport.getHandle()
        self.assertEqual(handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)
        self.assertEqual(handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1)

    @inlineCallbacks
    def test_large_messages_to_a_slow_reader(self) -> Iterator[Deferred[Any]]:
        """While a peer reads nothing the sender is told to stop; all arrives, whole and in order,
        when it reads again."""
        listener = self.listen()
        link = yield self.connect(listener)
        yield self.server.until(lambda: self.server.links)
        (end,) = self.server.links
        end.pause_reading()
        bodies = [bytes([65 + n]) * (MAX_MESSAGE_BYTES - 3) for n in range(12)]
        for body in bodies:
            link.send(Publish("c", body + b"\0", uid=1234, gid=56))
        self.assertFalse(link.has_room())
        yield wait_until(lambda: link.transport.transport.dataBuffer or not link.has_room())
        self.assertEqual(self.server.bodies, [])
        end.resume_reading()
        yield self.server.until(lambda: len(self.server.bodies) == len(bodies))
        self.assertEqual(self.server.bodies, bodies)
        yield wait_until(link.has_room)
        self.assertIn("drained", self.client.calls)

    @inlineCallbacks
    def test_many_small_messages(self) -> Iterator[Deferred[Any]]:
        """Thousands of messages in one turn arrive in order."""
        listener = self.listen()
        link = yield self.connect(listener)
        for number in range(5000):
            link.send(Publish("c", b"%d\0" % number, uid=1234, gid=56))
        yield self.server.until(lambda: len(self.server.bodies) == 5000)
        self.assertEqual(self.server.bodies, [b"%d" % number for number in range(5000)])

    @inlineCallbacks
    def test_broken_records(self) -> Iterator[Deferred[Any]]:
        """What is no TLS any more ends the link, with a reason on each side."""
        listener = self.listen()
        link = yield self.connect(listener)
        yield self.server.until(lambda: self.server.links)
        link.transport.transport.write(b"\x17\3\3\0\x20" + bytes(32))
        yield self.server.until(lambda: self.server.closed)
        yield self.client.until(lambda: self.client.closed)
        self.assertRegex(str(self.server.closed[0].value), "^tls failed: TLS failed: ")
        self.assertRegex(str(self.client.closed[0].value), "^tls refused by peer: ")
        self.assertEqual((self.server.refused, self.client.refused), ([], []))

    @inlineCallbacks
    def test_closed_by_the_peer(self) -> Iterator[Deferred[Any]]:
        """What was sent before a close arrives; each side hears once that the link has closed."""
        listener = self.listen()
        link = yield self.connect(listener)
        yield self.server.until(lambda: self.server.links)
        link.send(Publish("c", b"last\0", uid=1234, gid=56))
        link.close()
        yield self.server.until(lambda: self.server.closed)
        yield self.client.until(lambda: self.client.closed)
        self.assertEqual(self.server.calls, ["opened", "events", "closed"])
        self.assertEqual(self.client.calls, ["opened", "closed"])
        self.assertEqual([one.type.__name__ for one in self.server.closed], ["ConnectionDone"])

    @inlineCallbacks
    def test_rail(self) -> Iterator[Deferred[Any]]:
        """A rail of three is three TLS connections of one identity."""
        listener = self.listen()
        link = yield self.connect(listener, rail=3)
        yield self.server.until(lambda: len(self.server.links) == 3)
        self.assertEqual(sorted(link.rail.links), [0, 1, 2])
        self.assertEqual({end.rail for end in self.server.links}, {self.server.links[0].rail})
        self.assertEqual({end.credential for end in self.server.links}, {Credential(1234, 56)})

    @inlineCallbacks
    def test_chain(self) -> Iterator[Deferred[Any]]:
        """A certificate whose issuer is in its file, behind it, is followed to the CA."""
        listener = self.listen()
        yield self.connect(listener, "far", chain=("middle ca",))
        yield self.server.until(lambda: self.server.links)

    @inlineCallbacks
    def test_server_name(self) -> Iterator[Deferred[Any]]:
        """With server_name the certificate must be for that, whatever was connected to."""
        listener = self.listen()
        yield self.connect(listener, host="127.0.0.1", server_name="server.example")

    @inlineCallbacks
    def test_everybody_else(self) -> Iterator[Deferred[Any]]:
        """`*` in the map is for verified names that are not listed."""
        listener = self.listen(names=f"{NAMES}* 9:8\n")
        yield self.connect(listener, "stranger")
        yield self.server.until(lambda: self.server.links)
        self.assertEqual(self.server.links[0].credential, Credential(9, 8))

    @inlineCallbacks
    def test_authenticator_inside(self) -> Iterator[Deferred[Any]]:
        """An authenticator that is named runs inside TLS and says who the peer is; then no map is
        needed."""

        class Same(NoneAuthenticator):
            name = "same"

            def begin(self, **_where: Any) -> Any:
                return SimpleNamespace(first=lambda: AuthStep(credential=Credential(77, 88)))

        listener = self.listen(authenticator=Same(), names=None)
        link = yield self.connect(listener, authenticator=Same())
        yield self.server.until(lambda: self.server.links)
        self.assertEqual(self.server.links[0].credential, Credential(77, 88))
        self.assertEqual(link.credential, Credential(77, 88))

    @inlineCallbacks
    def test_files_that_change(self) -> Iterator[Deferred[Any]]:
        """New certificates and maps count from the next connection on; while one of them is wrong
        the old ones do."""
        listener = self.listen(names="tool.example 1:1\n")
        self.files.write("names", "tool.example 2:2\n")
        yield self.connect(listener)
        yield self.server.until(lambda: len(self.server.links) == 1)
        self.files.write("names", "tool.example nobody-of-that-name\n")
        yield self.connect(listener)
        yield self.server.until(lambda: len(self.server.links) == 2)
        found = [end.credential for end in self.server.links]
        self.assertEqual(found, [Credential(2, 2), Credential(2, 2)])


class RefusalTests(TlsTestCase):
    """Whoever does not fit is refused, and each side says why in one line."""

    @inlineCallbacks
    def test_untrusted_client(self) -> Iterator[Deferred[Any]]:
        """A certificate of another CA, also of one with the same name."""
        for name in ("untrusted", "forged"):
            listener = self.listen()
            seen, told = yield self.refused(listener, name)
            self.assertRegex(seen, r"^tls untrusted: .*tool\.example.* is not signed by a CA of")
            self.assertIn("does not accept our certificate", told)
            del self.server.refused[:]

    @inlineCallbacks
    def test_untrusted_server(self) -> Iterator[Deferred[Any]]:
        """The same on the side that connects."""
        listener = self.listen("untrusted")
        seen, told = yield self.refused(listener)
        self.assertRegex(told, r"localhost.* is not signed by a CA of '.*ca\.pem'")
        self.assertRegex(seen, r"^tls refused by peer: .*not signed by a CA that it knows")

    @inlineCallbacks
    def test_expired_client(self) -> Iterator[Deferred[Any]]:
        """A certificate that has expired names the date."""
        self.patch(
            importlib.import_module("ldmsjob.transports.tlsfiles"), "check_valid", lambda *_: None
        )
        listener = self.listen()
        seen, told = yield self.refused(listener, "expired")
        self.assertRegex(seen, r"^tls expired: its certificate \(.*\) expired on 20\d\d-.* UTC;")
        self.assertIn("does not accept our certificate: expired", told)

    @inlineCallbacks
    def test_expired_server(self) -> Iterator[Deferred[Any]]:
        """The same on the side that connects."""
        self.patch(
            importlib.import_module("ldmsjob.transports.tlsfiles"), "check_valid", lambda *_: None
        )
        listener = self.listen("expired")
        seen, told = yield self.refused(listener)
        self.assertRegex(told, r"its certificate \(.*\) expired on 20\d\d-.* UTC; it must be")
        self.assertRegex(seen, "^tls refused by peer: .*expired, or its clock is wrong")

    @inlineCallbacks
    def test_early(self) -> Iterator[Deferred[Any]]:
        """A certificate that is not valid yet, or a clock that is wrong."""
        listener = self.listen()
        seen, _ = yield self.refused(listener, "early")
        self.assertRegex(seen, "^tls not yet valid: .* are both clocks right")

    @inlineCallbacks
    def test_wrong_purpose(self) -> Iterator[Deferred[Any]]:
        """A certificate that may be used by the other side only."""
        seen, _ = yield self.refused(self.listen(), "for servers")
        self.assertRegex(seen, "^tls purpose: .* not made for TLS clients")
        del self.server.refused[:]
        _, told = yield self.refused(self.listen("for clients"))
        self.assertIn("not made for TLS servers", told)

    @inlineCallbacks
    def test_wrong_name_of_the_server(self) -> Iterator[Deferred[Any]]:
        """A certificate for another host than the one that was connected to."""
        listener = self.listen()
        seen, told = yield self.refused(listener, host="127.0.0.1")
        self.assertIn("is for localhost, server.example, not for 127.0.0.1", told)
        self.assertIn("server_name=", told)
        self.assertRegex(seen, r"^tls refused by peer: .*\(localhost, server\.example\)")

    @inlineCallbacks
    def test_unknown_name_of_the_client(self) -> Iterator[Deferred[Any]]:
        """A verified name that is not in the map, and a certificate with a common name only."""
        for name in ("stranger", "nameless"):
            listener = self.listen()
            seen, told = yield self.refused(listener, name)
            self.assertRegex(seen, r"^tls unknown name: no DNS name of its certificate .*names'")
            self.assertIn("in the listener's names=", told)
            del self.server.refused[:]

    @inlineCallbacks
    def test_strange_name(self) -> Iterator[Deferred[Any]]:
        """What is in a certificate does not reach the log as it is."""
        seen, _ = yield self.refused(self.listen(), "strange")
        self.assertLess(len(seen), 300)
        self.assertTrue(seen.isprintable(), seen)

    @inlineCallbacks
    def test_no_certificate(self) -> Iterator[Deferred[Any]]:
        """A client that shows none."""
        listener = self.listen()
        yield talk_tls(listener.port)
        yield self.server.until(lambda: self.server.refused)
        self.assertEqual(self.server.refused[0][1], "tls no certificate: it showed no certificate")
        self.assertEqual(self.admission.unopened, 0)

    @inlineCallbacks
    def test_old_versions(self) -> Iterator[Deferred[Any]]:
        """TLS 1.2 is spoken, and nothing below."""
        listener = self.listen()
        yield talk_tls(listener.port, ssl.TLSVersion.TLSv1_2)
        yield self.server.until(lambda: self.server.refused)
        self.assertRegex(self.server.refused[0][1], "^tls no certificate:")
        del self.server.refused[:]
        hello = b"\3\2" + bytes(32) + b"\0" + b"\0\2\0\x2f" + b"\1\0"  # TLS 1.1
        with socket.create_connection(("127.0.0.1", listener.port)) as old:
            old.sendall(b"\x16\3\1\0" + bytes([len(hello) + 4]) + b"\1\0\0" + bytes([len(hello)]))
            old.sendall(hello)
            yield self.server.until(lambda: self.server.refused)
        self.assertEqual(
            self.server.refused[0][1],
            "tls failed: it speaks no TLS that we speak: 1.2 or later",
        )

    @inlineCallbacks
    def test_plain_text_to_tls(self) -> Iterator[Deferred[Any]]:
        """A client of sock is told in its own protocol; other text gets no answer."""
        listener = self.listen()
        plain = SockTransport(context())
        with self.assertRaises(PeerError) as caught:
            yield plain.connect(
                "127.0.0.1", listener.port, self.client, NoneAuthenticator(), SETTINGS
            )
        self.assertIn("connect with xprt=tls", str(caught.exception))
        yield self.server.until(lambda: self.server.refused)
        self.assertRegex(self.server.refused[0][1], "^no tls: it does not speak TLS")
        with socket.create_connection(("127.0.0.1", listener.port)) as other:
            other.sendall(b"GET / HTTP/1.0\r\n\r\n")
            yield self.server.until(lambda: len(self.server.refused) == 2)
            other.settimeout(5)
            self.assertEqual(other.recv(100), b"")
        self.assertRegex(self.server.refused[1][1], "^no tls: ")
        self.assertEqual(self.admission.unopened, 0)

    @inlineCallbacks
    def test_tls_to_plain_sock(self) -> Iterator[Deferred[Any]]:
        """A listener of sock says that somebody speaks TLS to it; who does, what may be wrong."""
        self.listening = SockTransport(context())
        listener = self.listen_by(self.listening, NoneAuthenticator())
        seen, told = yield self.refused(listener)
        self.assertRegex(seen, "^speaks tls: it speaks TLS, and this is plain sock")
        self.assertIn("is xprt=tls there?", told)

    @inlineCallbacks
    def test_silent(self) -> Iterator[Deferred[Any]]:
        """One who connects and says nothing, as port scans do, is told apart from failures."""
        listener = self.listen()
        socket.create_connection(("127.0.0.1", listener.port)).close()
        yield self.server.until(lambda: self.server.refused)
        self.assertEqual(self.server.refused[0][1], SILENT)

    @inlineCallbacks
    def test_deadline(self) -> Iterator[Deferred[Any]]:
        """The deadline of the handshake is that of TLS, too."""
        listener = self.listen(limits=Limits(handshake_seconds=0.05))
        with socket.create_connection(("127.0.0.1", listener.port)) as silent:
            silent.sendall(b"\x16\x03\x01")
            yield self.server.until(lambda: self.server.refused)
        self.assertRegex(self.server.refused[0][1], "^handshake timeout: ")
        self.assertEqual(self.admission.unopened, 0)

    @inlineCallbacks
    def test_too_many_in_the_handshake(self) -> Iterator[Deferred[Any]]:
        """Connections in the TLS handshake count for the cap."""
        listener = self.listen(limits=Limits(links_unopened=1))
        with socket.create_connection(("127.0.0.1", listener.port)):
            yield wait_until(lambda: self.admission.unopened == 1)
            seen = yield self.assertFailure(self.connect(listener), AuthFailed)
            self.assertIn("is xprt=tls there?", str(seen))
            self.assertRegex(self.server.refused[0][1], "^too many not authenticated: ")
        yield self.server.until(lambda: len(self.server.refused) == 2)
        yield self.connect(listener)

    @inlineCallbacks
    def test_unchecked(self) -> Iterator[Deferred[Any]]:
        """Should OpenSSL ever not ask about a certificate, its owner is not let in, whatever else
        would authenticate him."""
        for authenticator in (None, NoneAuthenticator()):
            listener = self.listen(authenticator=authenticator)
            layer = sys.modules["ldmsjob.transports.tlslayer"]
            checks = self.patch(layer._Check, "__call__", lambda *_: True)
            with self.assertRaises((AuthFailed, PeerError)):
                yield self.connect(listener, authenticator=authenticator)
            checks.restore()
            yield self.server.until(lambda: self.server.refused)
            self.assertEqual(self.server.links, [])
            del self.server.refused[:]


class IdentityTests(SynchronousTestCase):
    """Who the transport says that a peer is."""

    def check(self) -> tuple[Any, Any]:
        """What asks about a peer's certificate, and what it finds."""
        files = Files(self.mktemp())
        transport = TlsTransport(context())
        transport.configure(files.attributes("server", names=NAMES))
        layer = sys.modules["ldmsjob.transports.tlslayer"]
        verdict = layer.Verdict()
        return layer._Check(transport.current(), verdict, None), verdict

    def test_certificate_that_cannot_be_looked_at(self) -> None:
        """It is refused, whatever the reason."""
        check, verdict = self.check()
        for depth in (0, 1):
            self.assertFalse(check(None, SimpleNamespace(), 0, depth, True))
            self.assertEqual(verdict.refusal[0], "tls certificate")

    def test_objection_behind_the_name(self) -> None:
        """Nobody is known whose own certificate OpenSSL objects to after all."""
        check, verdict = self.check()
        shown = SimpleNamespace(to_cryptography=lambda: identity("tool").certificate)
        self.assertTrue(check(None, shown, 0, 0, True))
        self.assertEqual(verdict.credential, Credential(1234, 56))
        self.assertFalse(check(None, shown, 47, 0, False))
        self.assertIs(verdict.credential, None)
        self.assertEqual(verdict.refusal[0], "tls certificate")

    def test_unknown(self) -> None:
        """A peer that it does not know is refused; so is one that wants to authenticate."""
        conversation = ProvenIdentity(lambda: None).begin(
            passive=True, local_address="", peer_address=""
        )
        self.assertRaises(AuthFailed, conversation.first)
        self.assertRaises(AuthFailed, conversation.received, b"")


def talk_tls(port: int, highest: ssl.TLSVersion | None = None) -> Deferred[Any]:
    """Speak TLS without a certificate until the other side ends it."""
    from twisted.internet.threads import deferToThread

    def talk() -> str:
        settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        settings.check_hostname = False
        settings.verify_mode = ssl.CERT_NONE
        if highest is not None:
            settings.maximum_version = highest
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                settings.wrap_socket(plain) as wrapped,
            ):
                wrapped.recv(1)
        except OSError as error:
            return str(error)
        return ""

    return deferToThread(talk)
