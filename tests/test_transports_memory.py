"""Links over memory, and with them the link protocol that all transports share."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ldmsjob.errors import AuthFailed, HandshakeTimeout, PeerError, PublishError
from ldmsjob.interfaces import (
    SILENT,
    AuthStep,
    IAuthentication,
    IAuthenticator,
    ILink,
    LinkSettings,
)
from ldmsjob.limits import Limits
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.transports.outbox import Outbox
from ldmsjob.wire.events import (
    UNLIMITED,
    Credential,
    CreditReturned,
    Message,
    Publish,
    ReturnCredit,
    Subscribe,
    SubscribeWanted,
)
from tests.fake_sites import FakeSite


@implementer(IAuthenticator, IAuthentication)
class WordsAuthenticator:
    """Each side sends its words, one per message, and wants to hear the other's.

    ``slow`` makes every answer a Deferred in ``pending``, fired by ``decide``.
    """

    name = "words"

    def __init__(self, own: list[bytes], wanted: list[bytes], *, slow: bool = False) -> None:
        self.own = list(own)
        self.wanted = list(wanted)
        self.slow = slow
        self.pending: list[tuple[Deferred[AuthStep], AuthStep]] = []
        self.began: list[bool] = []

    def configure(self, attributes: Any) -> None:
        """Nothing to configure."""

    def begin(self, *, passive: bool, local_address: str, peer_address: str) -> WordsAuthenticator:
        """One conversation per authenticator here."""
        self.began.append(passive)
        return self

    def first(self) -> AuthStep | Deferred[AuthStep]:
        """All of our words."""
        return self._answer(AuthStep(send=self.own))

    def received(self, payload: bytes) -> AuthStep | Deferred[AuthStep]:
        """The next word must be the one that is wanted."""
        if payload != self.wanted.pop(0):
            raise AuthFailed("wrong word")
        return self._answer(AuthStep(credential=None if self.wanted else Credential(7, 8)))

    def _answer(self, step: AuthStep) -> AuthStep | Deferred[AuthStep]:
        if not self.slow:
            return step
        verdict: Deferred[AuthStep] = Deferred()
        self.pending.append((verdict, step))
        return verdict

    def decide(self) -> None:
        """Let the oldest answer be there."""
        verdict, step = self.pending.pop(0)
        verdict.callback(step)


class PairTestCase(SynchronousTestCase):
    """A clock that must hold no forgotten calls, and two sites."""

    def setUp(self) -> None:
        """Make the sites."""
        self.clock = Clock()
        self.left, self.right = FakeSite(), FakeSite()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def pair(self, **arguments: Any) -> MemoryPair:
        """A pair of links between the sites."""
        return MemoryPair(self.left, self.right, self.clock, **arguments)

    def opened(self, **arguments: Any) -> MemoryPair:
        """An open pair."""
        pair = self.pair(**arguments)
        pair.settle()
        self.assertEqual((self.left.calls, self.right.calls), (["opened"], ["opened"]))
        return pair


class OpeningTests(PairTestCase):
    """From the first byte to an open link."""

    def test_both_sides_open(self) -> None:
        """Both sites get an open link that knows its peer, and with ``none`` everybody is root."""
        pair = self.opened(
            left_settings=LinkSettings(messages_enabled=lambda: False, quota=1000),
        )
        verifyObject(ILink, pair.left)
        self.assertEqual(pair.left.credential, Credential(0, 0))
        self.assertTrue(pair.left.peer.messages_enabled)
        self.assertEqual(pair.left.peer.quota, UNLIMITED)
        self.assertFalse(pair.right.peer.messages_enabled)
        self.assertEqual(pair.right.peer.quota, 1000)

    def test_no_authentication_message_is_expected(self) -> None:
        """The authenticator ``none`` is satisfied at once and fails on any word."""
        authenticator = NoneAuthenticator()
        verifyObject(IAuthenticator, authenticator)
        conversation = authenticator.begin(passive=True, local_address="", peer_address="")
        verifyObject(IAuthentication, conversation)
        self.assertEqual(conversation.first(), AuthStep(credential=Credential(0, 0)))
        self.assertRaises(AuthFailed, conversation.received, b"word")

    def test_authenticators_must_match(self) -> None:
        """Both sides learn that they do not agree on a way to authenticate; no link opens."""
        self.pair(right_authenticator=WordsAuthenticator([], [])).settle()
        self.assertEqual((self.left.calls, self.right.calls), (["refused"], ["refused"]))
        self.assertEqual(
            self.left.refused[0][1],
            "authentication mismatch: Auth mismatch: the peer's is 'words', ours 'none'",
        )
        self.assertIn("Auth mismatch", self.right.refused[0][1])

    def test_deadline(self) -> None:
        """A peer that does not finish the handshake in time is dropped."""
        pair = self.pair(limits=Limits(handshake_seconds=10))
        self.clock.advance(9.9)
        pair._ends[pair.right].written.clear()
        pair.settle()
        self.assertEqual(self.left.calls, [])
        self.clock.advance(0.1)
        pair.settle()
        self.assertEqual(self.left.refused, [("right", "handshake timeout: not done after 10 s")])
        self.assertIsInstance(pair.left._reason, HandshakeTimeout)

    def test_connection_lost_in_the_handshake(self) -> None:
        """A peer that goes away before the link is open is one refusal, and no link."""
        pair = self.pair()
        pair.right.abort("gone")
        pair.settle()
        self.assertEqual(self.left.calls, ["refused"])
        self.assertEqual(self.left.refused, [("right", SILENT)])
        self.assertEqual(self.right.calls, ["refused"])

    def test_connection_lost_behind_its_beginning(self) -> None:
        """One that brought something tells how it ended, in one phrase."""
        pair = self.pair()
        pair.left.dataReceived(b"\0")
        pair.right.abort("gone")
        pair.settle()
        self.assertEqual(len(self.left.refused), 1)
        self.assertRegex(self.left.refused[0][1], "^handshake lost: (?!.*handshake)")

    def test_rubbish(self) -> None:
        """Bytes that are no LDMS end the connection as a refusal that names the reason."""
        pair = self.pair()
        pair.left.dataReceived(b"GET / HTTP/1.1\r\n\r\n" * 3)
        pair.settle()
        self.assertEqual(self.left.calls, ["refused"])
        self.assertTrue(self.left.refused[0][1].startswith("handshake: "), self.left.refused)


class AuthenticationTests(PairTestCase):
    """Conversations of authenticators."""

    def words(self, *, slow: bool = False, wanted: bytes = b"b") -> dict[str, Any]:
        """Authenticators for both sides; the left one may be slow."""
        self.passive = WordsAuthenticator([b"x", b"y"], [b"a", wanted], slow=slow)
        self.active = WordsAuthenticator([b"a", b"b"], [b"x", b"y"])
        return {"left_authenticator": self.passive, "right_authenticator": self.active}

    def test_conversation(self) -> None:
        """Words go both ways until each side is satisfied; the credential is the link's."""
        pair = self.opened(**self.words())
        self.assertEqual(pair.left.credential, Credential(7, 8))
        self.assertEqual((self.passive.began, self.active.began), ([True], [False]))

    def test_what_else_is_to_be_known(self) -> None:
        """The owner may complete what a conversation gave, at once or later; the link waits."""
        full = AuthStep(credential=Credential(7, 8, frozenset({9})))
        later: Deferred[AuthStep] = Deferred()

        def identified(step: AuthStep | Deferred[AuthStep]) -> AuthStep | Deferred[AuthStep]:
            assert isinstance(step, AuthStep)
            return step if step.credential is None else later

        settings = LinkSettings(messages_enabled=lambda: True, identified=identified)
        pair = self.pair(left_settings=settings, **self.words())
        pair.settle()
        self.assertEqual((self.left.calls, self.right.calls), ([], ["opened"]))
        later.callback(full)
        self.assertEqual(self.left.calls, ["opened"])
        self.assertEqual(pair.left.credential, full.credential)

    def test_failure(self) -> None:
        """A side that is not satisfied closes; no link opens there, and the reason is told."""
        self.pair(**self.words(wanted=b"other")).settle()
        self.assertEqual(self.left.refused, [("right", "authentication: wrong word")])
        self.assertEqual(self.left.calls, ["refused"])

    def test_slow_verdict(self) -> None:
        """While a verdict is pending nothing is read; what came meanwhile is served after it."""
        pair = self.pair(**self.words(slow=True))
        pair.settle()
        self.passive.decide()
        pair.settle()
        self.assertEqual((self.left.calls, self.right.calls), ([], ["opened"]))
        pair.right.send(Publish("c", b"1\0", uid=7, gid=8))
        pair.settle()
        self.passive.decide()
        pair.settle()
        self.passive.decide()
        self.assertEqual(self.left.calls, ["opened"])
        pair.settle()
        self.assertEqual(self.left.calls, ["opened", "events"])
        self.assertEqual(self.left.bodies, [b"1"])

    def test_slow_refusal(self) -> None:
        """A Deferred that fails refuses like an exception; what waited is not served."""
        pair = self.pair(**self.words(slow=True))
        pair.settle()
        self.passive.pending.pop(0)[0].errback(AuthFailed("not you"))
        pair.settle()
        self.assertEqual(self.left.refused, [("right", "authentication: not you")])

    def test_verdict_after_the_deadline(self) -> None:
        """A verdict that comes when the link has gone changes nothing."""
        pair = self.pair(limits=Limits(handshake_seconds=10), **self.words(slow=True))
        pair.settle()
        self.clock.advance(10)
        pair.settle()
        self.passive.decide()
        self.assertEqual(self.left.calls, ["refused"])

    def test_broken_authenticator(self) -> None:
        """An authenticator that raises something else costs the link and is logged."""
        arguments = self.words()
        self.passive.wanted.clear()
        pair = self.pair(**arguments)
        pair.settle()
        self.assertEqual(self.left.calls, ["refused"])
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)


class TrafficTests(PairTestCase):
    """What open links carry."""

    def test_messages_and_credit(self) -> None:
        """A message goes over, and its credit comes back, each as one event."""
        pair = self.opened()
        pair.right.send(Publish("c", b"hello\0"))
        pair.settle()
        self.assertEqual(self.left.bodies, [b"hello"])
        pair.left.send(ReturnCredit([8]))
        pair.settle()
        self.assertEqual(self.right.events, [CreditReturned(8, 0)])

    def test_one_call_per_read(self) -> None:
        """All that a read brings is one call, in order."""
        pair = self.opened()
        for number in range(10):
            pair.right.send(Publish("c", b"%d\0" % number))
        pair.right.send(Subscribe("d"))
        pair._ends[pair.right].write(b"".join(pair._ends[pair.right].written))
        while len(pair._ends[pair.right].written) > 1:
            pair._ends[pair.right].take(1 << 20)
        pair.settle()
        self.assertEqual(len(self.left.reads), 1)
        self.assertEqual(self.left.bodies, [b"%d" % number for number in range(10)])
        self.assertIsInstance(self.left.events[-1], SubscribeWanted)

    @given(st.integers(1, 700))
    def test_any_cut_gives_the_same(self, cut: int) -> None:
        """However the bytes are cut, the same events come."""
        self.setUp()
        pair = self.pair(cut=cut)
        pair.settle()
        for number in range(5):
            pair.right.send(Publish("c", b"%d\0" % number))
        pair.settle()
        self.assertEqual(self.left.bodies, [b"0", b"1", b"2", b"3", b"4"])

    def test_quota(self) -> None:
        """What the peer's quota has no room for is refused; its credit makes room again."""
        pair = self.opened(
            left_settings=LinkSettings(messages_enabled=lambda: True, quota=10),
        )
        self.assertTrue(pair.right.can_publish(8))
        pair.right.send(Publish("c", b"12345\0"))
        self.assertFalse(pair.right.can_publish(8))
        self.assertRaises(PublishError, pair.right.send, Publish("c", b"12345\0"))
        pair.settle()
        pair.left.send(ReturnCredit([8]))
        pair.settle()
        self.assertTrue(pair.right.can_publish(8))

    def test_answers_of_one_read_are_one_write(self) -> None:
        """What is sent while a read is dealt with is written once per link, also to others."""
        outbox = Outbox()
        pair = self.opened(outbox=outbox)
        other_left, other_right = FakeSite(), FakeSite()
        other = MemoryPair(other_left, other_right, self.clock, outbox=outbox)
        other.settle()

        def forward(link: ILink, events: Any) -> None:
            for event in events:
                other.left.send(Publish("c", event.body + b"\0"))
                link.send(ReturnCredit([event.credit]))
            self.assertEqual(len(other._ends[other.left].written), 0)

        self.left.on_events = forward
        with pair.right._outbox:
            for number in range(5):
                pair.right.send(Publish("c", b"%d\0" % number))
        pair._move(pair.right, pair.left)
        self.assertEqual(len(other._ends[other.left].written), 1)
        self.assertEqual(len(pair._ends[pair.left].written), 1)
        pair.settle()
        other.settle()
        self.assertEqual(self.right.events, [CreditReturned(20, 0, 5)])
        self.assertEqual(other_right.bodies, [b"0", b"1", b"2", b"3", b"4"])

    def test_read_within_a_block(self) -> None:
        """A read that is dealt with while an outbox is open writes when that ends."""
        pair = self.opened()
        self.left.on_events = lambda link, events: link.send(ReturnCredit([1]))
        pair.right.send(Publish("c", b"1"))
        with pair.left._outbox:
            pair._move(pair.right, pair.left)
            self.assertEqual(len(pair._ends[pair.left].written), 0)
        self.assertEqual(len(pair._ends[pair.left].written), 1)

    def test_paused_by_owner(self) -> None:
        """A link that its owner paused reads nothing until it is resumed."""
        pair = self.opened()
        pair.left.pause_reading()
        pair.right.send(Publish("c", b"1\0"))
        pair.settle()
        self.assertEqual(self.left.events, [])
        pair.left.resume_reading()
        pair.settle()
        self.assertEqual(self.left.bodies, [b"1"])

    def test_peer_that_does_not_read(self) -> None:
        """A full buffer stops publishing, and its emptying is told; nobody loses a link."""
        pair = self.opened(buffer_bytes=1000)
        pair.right.pause_reading()
        sent = 0
        while pair.left.can_publish(500):
            pair.left.send(Publish("c", b"x" * 500))
            sent += 1
        self.assertEqual(sent, 2)
        pair.settle()
        self.assertEqual(self.left.calls, ["opened"])
        pair.right.resume_reading()
        pair.settle()
        self.assertEqual(self.left.calls, ["opened", "drained"])
        self.assertTrue(pair.left.can_publish(500))
        self.assertEqual(len(self.right.bodies), 2)

    def test_output_limit(self) -> None:
        """A peer that asks on and never reads the answers loses its link at the hard limit."""
        pair = self.opened(buffer_bytes=1000, limits=Limits(output_bytes=5000))
        pair.right.pause_reading()
        for _ in range(200):
            pair.left.send(ReturnCredit([1]))
        pair.settle()
        self.assertEqual(self.left.calls, ["opened", "closed"])
        self.assertTrue(self.left.closed[0].check(PeerError))
        self.assertIn("does not read", self.left.closed[0].getErrorMessage())


class ClosingTests(PairTestCase):
    """The end of a link."""

    def test_close_sends_what_is_buffered(self) -> None:
        """A polite close comes behind what was sent; each site hears of it once."""
        pair = self.opened()
        pair.right.send(Publish("c", b"last\0"))
        pair.right.close()
        pair.right.close()
        pair.settle()
        self.assertEqual(self.left.bodies, [b"last"])
        self.assertEqual(self.left.calls, ["opened", "events", "closed"])
        self.assertEqual(self.right.calls, ["opened", "closed"])

    def test_close_does_not_wait_for_ever(self) -> None:
        """A peer that does not read cannot keep a link that is being closed."""
        pair = self.opened(close_seconds=5)
        pair.left.pause_reading()
        pair.right.send(Publish("c", b"last\0"))
        pair.right.close()
        pair.settle()
        self.assertEqual(self.right.calls, ["opened"])
        self.clock.advance(5)
        pair.settle()
        self.assertEqual(self.right.calls, ["opened", "closed"])

    def test_violation(self) -> None:
        """What came before a violation is dealt with, then the link closes with the reason."""
        pair = self.opened()
        pair.right.send(Publish("c", b"good\0"))
        pair._ends[pair.right].write(b"\0\x63" + bytes(30))
        pair.settle()
        self.assertEqual(self.left.bodies, [b"good"])
        self.assertEqual(self.left.calls, ["opened", "events", "closed"])
        self.assertTrue(self.left.closed[0].check(PeerError))
        self.assertIn("protocol error: ", self.left.closed[0].getErrorMessage())

    def test_credit_for_what_came_before_a_violation(self) -> None:
        """The answers to good events reach the peer before the link closes."""
        pair = self.opened()
        self.left.on_events = lambda link, events: link.send(
            ReturnCredit([event.credit for event in events if isinstance(event, Message)])
        )
        with pair.right._outbox:
            pair.right.send(Publish("c", b"good\0"))
        pair._ends[pair.right].write(b"\0\x63" + bytes(30))
        pair.settle()
        self.assertEqual(self.right.events, [CreditReturned(7, 0)])

    def test_nothing_is_sent_after_the_end(self) -> None:
        """Commands to a link that has closed do nothing; neither does closing it again."""
        pair = self.opened()
        pair.right.abort("enough")
        pair.settle()
        for link in (pair.left, pair.right):
            link.send(Publish("c", b"x\0"))
            link.send(ReturnCredit([1]))
            link.close()
            link.abort("again")
            link.pause_reading()
            link.resume_reading()
        self.assertEqual(self.left.calls, ["opened", "closed"])
        self.assertEqual(self.right.calls, ["opened", "closed"])
        self.assertEqual(self.right.closed[0].getErrorMessage(), "enough")

    def test_closed_by_the_owner_while_it_deals_with_a_read(self) -> None:
        """An owner may close in the middle of a read; nothing more is reported."""
        pair = self.opened()
        self.left.on_events = lambda link, events: link.close()
        pair.right.send(Publish("c", b"1\0"))
        pair.right.send(Publish("c", b"2\0"))
        pair.settle()
        self.assertEqual(self.left.calls, ["opened", "events", "closed"])
