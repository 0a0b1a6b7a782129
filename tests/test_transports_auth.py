"""Authentication on links: what is served when, and what refusals say."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ldmsjob.errors import AuthFailed
from ldmsjob.interfaces import (
    AuthStep,
    IAuthentication,
    IAuthenticator,
    LinkSettings,
)
from ldmsjob.transports.auth_naive import NaiveAuthenticator
from ldmsjob.transports.auth_ovis import OvisAuthentication
from ldmsjob.transports.link import LinkProtocol
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.transports.outbox import Outbox
from ldmsjob.transports.plainstream import PlainStream
from ldmsjob.wire import zap
from ldmsjob.wire.events import Credential, Publish, Subscribe
from ldmsjob.wire.setevents import DirectoryWanted
from tests.fake_sites import FakeSite
from tests.recorded import streams

CLAIM = bytes((0, 0, 0, 7, 0, 0, 0, 8))


@implementer(IAuthenticator, IAuthentication)
class Script:
    """Says what a test wants. Made with what it sends first, and for each message of the peer with
    a step, an exception, or a Deferred."""

    def __init__(self, name: str, first: Any, *answers: Any) -> None:
        self.name = name
        self._answers = [first, *answers]
        self.heard: list[bytes] = []

    def configure(self, attributes: Any) -> None:
        """Nothing to take."""

    def begin(self, *, passive: bool, local_address: str, peer_address: str) -> Script:
        """The one conversation."""
        return self

    def first(self) -> Any:
        """The first answer."""
        return self._next()

    def received(self, payload: bytes) -> Any:
        """The next one."""
        self.heard.append(payload)
        return self._next()

    def _next(self) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def content() -> AuthStep:
    """A step that takes the peer for root."""
    return AuthStep(credential=Credential(0, 0))


class Ovis:
    """``ovis`` with a word, for the tests to give."""

    name = "ovis"

    def __init__(self, secret: bytes, challenge: int) -> None:
        self._arguments = secret, challenge

    def begin(self, *, passive: bool, local_address: str, peer_address: str) -> OvisAuthentication:
        """A conversation."""
        return OvisAuthentication(*self._arguments, passive=passive)


class LinkTestCase(SynchronousTestCase):
    """Two sites and a clock."""

    def setUp(self) -> None:
        """Make them."""
        self.clock = Clock()
        self.left, self.right = FakeSite(), FakeSite()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def pair(self, left: Any, right: Any) -> MemoryPair:
        """``right`` has connected to ``left``; all that can be said has been."""
        pair = MemoryPair(
            self.left,
            self.right,
            self.clock,
            left_authenticator=left,
            right_authenticator=right,
        )
        pair.settle()
        return pair

    def server(self, authenticator: Any, transport: StringTransport) -> LinkProtocol:
        """The passive side of a connection whose bytes the test brings."""
        link = LinkProtocol(
            passive=True,
            site=self.left,
            authenticator=authenticator,
            settings=LinkSettings(messages_enabled=lambda: True),
            clock=self.clock,
            outbox=Outbox(),
            stream=PlainStream(),
            peer_address="peer",
        )
        link.makeConnection(transport)
        return link


class ServedTests(LinkTestCase):
    """Nothing is served to who has not authenticated."""

    def test_request_before_authentication(self) -> None:
        """A request in front of the peer's authentication message ends the connection, counted as
        such; the authenticator does not even see it."""
        for command in (Publish("c", b"1\0"), Subscribe("c")):
            self.setUp()
            ours = Script("naive", AuthStep())
            pair = self.pair(ours, Script("naive", content()))
            pair.right.send(command)
            pair.settle()
            self.assertEqual(self.left.calls, ["refused"])
            self.assertEqual(
                self.left.refused,
                [("right", "authentication missing: a request before the end of authentication")],
            )
            self.assertEqual(ours.heard, [])

    def test_frame_before_authentication(self) -> None:
        """The same holds for what has a frame of its own, such as reading."""
        transport = StringTransport()
        link = self.server(NaiveAuthenticator(), transport)
        link.dataReceived(streams("g_ls_auth_naive")[1, True][:124])
        transport.clear()
        link.dataReceived(zap.read_request_frame(bytes(4), bytes(8), b"\0\0\0\1", 1 << 32, 8))
        link.connectionLost()
        self.assertEqual(transport.value(), b"")
        self.assertEqual(
            self.left.refused, [("peer", "authentication missing: READ_REQ frame out of place")]
        )

    def test_request_between_two_messages(self) -> None:
        """Nor is a request served behind a part of the conversation."""
        pair = self.pair(
            Ovis(b"12345678", 1), Script("ovis", AuthStep(send=[b"\1\0\0\0" + bytes(8)]), content())
        )
        pair.right.send(Subscribe("c"))
        pair.settle()
        self.assertEqual(
            self.left.refused,
            [("right", "authentication missing: a request before the end of authentication")],
        )

    def test_all_at_once(self) -> None:
        """A C client that sends everything without waiting is served when the verdict is there, and
        is not read meanwhile."""
        verdict: Deferred[AuthStep] = Deferred()
        ours = Script("munge", AuthStep(send=[b"x\0"]), verdict)
        transport = StringTransport()
        link = self.server(ours, transport)
        link.dataReceived(streams("g_ls_auth_munge")[1, True])
        self.assertEqual(len(ours.heard), 1)
        self.assertTrue(ours.heard[0].startswith(b"MUNGE:"))
        self.assertEqual(transport.producerState, "paused")
        self.assertEqual(self.left.calls, [])
        verdict.callback(AuthStep(credential=Credential(7, 8)))
        self.assertEqual(self.left.calls, ["opened", "events"])
        self.assertIsInstance(self.left.events[0], DirectoryWanted)
        self.assertEqual(transport.producerState, "producing")
        self.assertEqual(self.left.links[0].credential, Credential(7, 8))
        link.abort("over")
        link.connectionLost()

    def test_all_at_once_and_refused(self) -> None:
        """What such a client has sent is dropped when it is refused."""
        verdict: Deferred[AuthStep] = Deferred()
        transport = StringTransport()
        link = self.server(Script("munge", AuthStep(), verdict), transport)
        link.dataReceived(streams("g_ls_auth_munge")[1, True])
        verdict.errback(AuthFailed("munge: too old", reason="expired"))
        self.assertTrue(transport.disconnecting)
        link.connectionLost()
        self.assertEqual(self.left.calls, ["refused"])
        self.assertEqual(self.left.refused, [("peer", "authentication expired: munge: too old")])

    def test_verdict_that_does_not_come(self) -> None:
        """The deadline of the handshake holds while a verdict is pending; the verdict is called
        off, so that whoever works on it can stop."""
        answers: list[Any]
        for answers in ([None], [AuthStep(), None]):
            self.setUp()
            called_off: list[Deferred[AuthStep]] = []
            verdict: Deferred[AuthStep] = Deferred(called_off.append)
            answers[-1] = verdict
            transport = StringTransport()
            link = self.server(Script("munge", *answers), transport)
            link.dataReceived(streams("g_ls_auth_munge")[1, True])
            self.clock.advance(9.9)
            self.assertEqual(self.left.calls, [])
            self.clock.advance(0.1)
            self.assertTrue(transport.disconnected)
            link.connectionLost()
            self.assertEqual(called_off, [verdict])
            self.assertEqual(
                self.left.refused, [("peer", "handshake timeout: not done after 10 s")]
            )

    def test_silence_between_the_messages(self) -> None:
        """It holds, too, for a peer that says one thing and no more."""
        pair = self.pair(
            Ovis(b"12345678", 1),
            Script("ovis", AuthStep(send=[b"\1\0\0\0" + bytes(8)]), AuthStep()),
        )
        self.clock.advance(10)
        pair.settle()
        self.assertEqual(self.left.calls, ["refused"])
        self.assertIn("handshake timeout", self.left.refused[0][1])

    def test_message_behind_the_last(self) -> None:
        """An authentication message behind the last one ends the link."""
        pair = self.pair(
            NaiveAuthenticator(), Script("naive", AuthStep(send=[CLAIM, CLAIM]), content())
        )
        pair.settle()
        self.assertEqual(self.left.calls, ["opened", "closed"])
        self.assertIn("after the end of authentication", str(self.left.closed[0].value))


class RefusalTests(LinkTestCase):
    """What either side learns."""

    def test_counted_by_reason(self) -> None:
        """The word in front of the colon, which is counted, tells the reasons apart; the peer is
        told that it was refused in its authentication."""
        self.pair(Ovis(b"12345678", 1), Ovis(b"12345679", 2))
        self.assertEqual(self.right.calls, ["refused"])
        reasons = sorted((self.left.refused[0][1], self.right.refused[0][1]))
        self.assertTrue(
            reasons[0].startswith("authentication wrong secret: ovis: the peer has another"),
            reasons,
        )
        self.assertEqual(
            reasons[1], "handshake lost: closed by the peer during ovis authentication"
        )

    def test_connecting_side_that_is_refused(self) -> None:
        """Whoever connects gets ``AuthFailed``, be it that he or the peer is not satisfied."""
        for server, client in (
            (Script("x", AuthFailed("no")), Script("x", AuthStep())),
            (Script("x", AuthStep(send=[b"1"])), Script("x", AuthStep(), AuthFailed("no"))),
        ):
            self.setUp()
            opened: Deferred[Any] = Deferred()
            MemoryPair(
                self.left,
                self.right,
                self.clock,
                left_authenticator=server,
                right_authenticator=client,
                right_options={"opened": opened},
            ).settle()
            self.failureResultOf(opened, AuthFailed)
