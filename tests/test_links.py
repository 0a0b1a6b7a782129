"""The daemon's side of its links, against links that remember."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import PeerError
from ldmsjob.interfaces import SILENT, ILink, ILinkSite, LinkSettings
from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.stats import MAX_NEW, Stats
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.turns import Turn
from ldmsjob.wire.events import (
    AnswerSubscribe,
    AnswerUnsubscribe,
    CreditReturned,
    Message,
    Publish,
    Refused,
    ReturnCredit,
    Subscribe,
    SubscribeAnswered,
    SubscribeWanted,
    UnsubscribeWanted,
)
from tests.fake_links import FakeLink, message
from tests.fake_sites import FakeSite

SIZE = message().credit


class SiteTestCase(SynchronousTestCase):
    """A site with a hub that is on, and two open links."""

    def setUp(self) -> None:
        """Make the site."""
        self.stats = Stats()
        self.hub_stats = Stats()
        self.turn = Turn()
        self.clock = Clock()
        self.hub = MessageHub(self.hub_stats, self.turn)
        self.hub.enable()
        self.site = LinkSite(self.hub, self.stats, self.turn, self.clock)
        self.logged: list[LogEvent] = []
        for limited in (self.site._limited, self.hub._limited):
            self.patch(limited, "_log", Logger(observer=self.logged.append))
        self.one, self.other = FakeLink("10.0.0.1:1"), FakeLink("10.0.0.2:2")
        self.site.link_opened(self.one)
        self.site.link_opened(self.other)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def subscribe(self, link: FakeLink) -> None:
        """Have the link's peer subscribe."""
        self.site.link_events(link, [SubscribeWanted(b"xid", "slurm", False, -1)])
        self.assertEqual(link.sent.pop(), AnswerSubscribe(b"xid", 0, "OK"))


class LinkSiteTests(SiteTestCase):
    """``LinkSite``."""

    def test_interfaces(self) -> None:
        """The site is what transports expect; so are the links of these tests."""
        verifyObject(ILinkSite, self.site)
        verifyObject(ILinkSite, FakeSite())
        verifyObject(ILink, self.one)

    def test_knows_its_links(self) -> None:
        """Open links are listed oldest first until they close."""
        self.assertEqual(self.site.links, (self.one, self.other))
        self.site.link_closed(self.one, Failure(ConnectionDone()))
        self.assertEqual(self.site.links, (self.other,))
        self.assertEqual((self.stats.get("opened"), self.stats.get("closed")), (2, 1))

    def test_credit_of_one_read_goes_back_together(self) -> None:
        """All credits of a read are one command, in order, one amount for each message."""
        events = [message(data=b"x" * size) for size in (1, 20, 3)]
        self.site.link_events(self.one, events)
        self.assertEqual(self.one.sent, [ReturnCredit([event.credit for event in events])])
        self.assertEqual(self.stats.get("messages"), 3)
        self.assertEqual(self.stats.get("message_bytes"), sum(event.credit for event in events))

    def test_credit_comes_after_the_turn(self) -> None:
        """What receivers put off to the turn's end is done before any credit goes back."""
        order: list[str] = []

        def write_file() -> None:
            order.append("file")
            self.assertEqual(self.one.sent, [])

        def receive(message: Message) -> None:
            order.append("message")
            self.turn.at_end(write_file)

        self.hub.subscribe("slurm", receive, owner="j1")
        self.site.link_events(self.one, [message(), message()])
        self.assertEqual(order, ["message", "message", "file"])
        self.assertEqual(self.one.credits, [SIZE, SIZE])

    def test_latency(self) -> None:
        """Of each read that brings messages: till what was put off to the turn's end is done."""
        site = LinkSite(self.hub, self.stats, self.turn, self.clock, now=self.clock.seconds)

        def write_file() -> None:
            self.clock.advance(0.25)

        self.hub.subscribe("slurm", lambda _: self.turn.at_end(write_file), owner="j1")
        site.link_events(self.one, [message(), message()])
        site.link_events(self.one, [CreditReturned(0, 1)])
        histogram = self.stats.histogram("latency")
        self.assertEqual((histogram.count, histogram.total), (1, 0.25))
        for _ in range(MAX_NEW + 2):
            site.link_events(self.one, [message()])
        self.assertEqual((len(histogram.new), histogram.count), (2, MAX_NEW + 3))

    def test_messages_are_forwarded(self) -> None:
        """What one link brings goes to the other that subscribed, and credit to the first."""
        self.subscribe(self.other)
        self.site.link_events(self.one, [message(number=1), message("else"), message(number=2)])
        self.assertEqual(self.other.numbers, [1, 2])
        self.assertEqual(len(self.one.credits), 3)

    def test_service_off(self) -> None:
        """While the service is off a message is refused with its whole credit and rc 95."""
        self.hub.disable()
        self.site.link_events(self.one, [message(), message()])
        self.assertEqual(self.one.sent, [ReturnCredit([SIZE, SIZE], rc=95)])
        self.assertEqual(self.stats.get("refused_off"), 2)
        self.assertEqual(self.stats.get("messages"), 2)

    def test_switched_off_during_a_read(self) -> None:
        """Each message is judged by the switch when its turn comes; all get their credit."""
        self.hub.subscribe("slurm", lambda message: self.hub.disable(), owner="j1")
        self.site.link_events(self.one, [message(), message(data=b"xyz")])
        self.assertEqual(self.one.sent, [ReturnCredit([SIZE]), ReturnCredit([9], rc=95)])

    def test_subscriptions_are_answered(self) -> None:
        """Each wish gets one answer under its own xid, good or bad."""
        self.site.link_events(
            self.one,
            [
                SubscribeWanted(b"1", "a", False, -1),
                SubscribeWanted(b"2", "(", True, -1),
                SubscribeWanted(b"3", "a", True, -1),
                UnsubscribeWanted(b"4", "a", False),
                UnsubscribeWanted(b"5", "a", False),
            ],
        )
        answers = [(type(each), each.xid, each.rc) for each in self.one.sent]  # type: ignore[union-attr]
        self.assertEqual(
            answers,
            [
                (AnswerSubscribe, b"1", 0),
                (AnswerSubscribe, b"2", 22),
                (AnswerSubscribe, b"3", 17),
                (AnswerUnsubscribe, b"4", 0),
                (AnswerUnsubscribe, b"5", 2),
            ],
        )
        self.assertEqual(self.stats.get("subscriptions_refused"), 2)

    def test_credit_of_a_subscriber_releases_what_waits(self) -> None:
        """Credit returned by a slow subscriber lets messages go on, and their credit back."""
        slow = FakeLink("slow", quota=SIZE)
        self.site.link_opened(slow)
        self.subscribe(slow)
        self.site.link_events(self.one, [message(number=1), message(number=2)])
        self.assertEqual(self.one.credits, [SIZE])
        slow.room = SIZE
        self.site.link_events(slow, [CreditReturned(SIZE, 0)])
        self.assertEqual(slow.numbers, [1, 2])
        self.assertEqual(self.one.credits, [SIZE, SIZE])
        self.clock.advance(1)

    def test_drained_link_gets_what_waits(self) -> None:
        """A link whose buffer has emptied is sent what waited for it."""
        slow = FakeLink("slow")
        self.site.link_opened(slow)
        self.subscribe(slow)
        slow.room = 0
        self.site.link_events(self.one, [message(number=1)])
        slow.room = None
        self.site.link_drained(slow)
        self.assertEqual(slow.numbers, [1])
        self.assertEqual(self.one.credits, [SIZE])
        self.clock.advance(1)

    def test_stuck_subscriber_holds_publishers_for_a_bounded_time(self) -> None:
        """After at most two looks a publisher has the credit that a stuck subscriber held."""
        stuck = FakeLink("stuck", quota=SIZE)
        self.site.link_opened(stuck)
        self.subscribe(stuck)
        self.site.link_events(self.one, [message(), message()])
        self.assertEqual(len(self.one.credits), 1)
        self.clock.pump([1, 1])
        self.assertEqual(len(self.one.credits), 2)
        self.assertIn("stuck", formatEvent(self.logged[-1]))

    def test_closing_subscriber_frees_credit(self) -> None:
        """The credit of what waited for a link goes back when that link closes."""
        slow = FakeLink("slow", quota=SIZE)
        self.site.link_opened(slow)
        self.subscribe(slow)
        self.site.link_events(self.one, [message(), message()])
        self.site.link_closed(slow, Failure(ConnectionLost()))
        self.assertEqual(self.one.credits, [SIZE, SIZE])
        self.clock.advance(1)

    def test_close(self) -> None:
        """At the daemon's end all links are closed politely and no timer is left."""
        slow = FakeLink("slow", quota=SIZE)
        self.site.link_opened(slow)
        self.subscribe(slow)
        self.site.link_events(self.one, [message(), message()])
        closed = self.site.close()
        self.assertEqual({link.state for link in (self.one, self.other, slow)}, {"closed"})
        for link in (self.one, self.other, slow):
            self.assertNoResult(closed)
            self.site.link_closed(link, Failure(ConnectionDone()))
        self.successResultOf(closed)

    def test_close_without_links(self) -> None:
        """There is nothing to wait for."""
        for link in (self.one, self.other):
            self.site.link_closed(link, Failure(ConnectionDone()))
        self.successResultOf(self.site.close())


class LogTests(SiteTestCase):
    """What is counted and logged of links."""

    def lines(self) -> list[str]:
        """What was logged."""
        return [formatEvent(event) for event in self.logged]

    def test_polite_close_is_not_logged(self) -> None:
        """A peer that closes its connection is counted, no more."""
        self.site.link_closed(self.one, Failure(ConnectionDone()))
        self.assertEqual(self.lines(), [])

    def test_violations_are_named(self) -> None:
        """A link lost to a broken protocol is logged with its peer and reason, by kind once."""
        for link in (self.one, self.other):
            self.site.link_closed(link, Failure(PeerError("protocol error: frame of 3 bytes")))
        self.assertEqual(self.stats.get("closed.protocol error"), 2)
        self.assertEqual(
            self.lines(), ["link with 10.0.0.1:1 closed: protocol error: frame of 3 bytes"]
        )

    def test_lost_connections_are_counted_by_kind(self) -> None:
        """A connection that breaks is counted under the name of its error."""
        self.site.link_closed(self.one, Failure(ConnectionLost()))
        self.assertEqual(self.stats.get("closed.ConnectionLost"), 1)
        self.assertEqual(len(self.lines()), 1)

    def test_refused_connections_are_counted_by_the_first_words(self) -> None:
        """Reasons are counted up to their colon, so peers cannot make counters up."""
        for number in range(50):
            self.site.link_refused("10.0.0.9:9", f"handshake: bad byte {number}")
        self.site.link_refused("10.0.0.9:9", "handshake timeout: not done after 10 s")
        self.assertEqual(self.stats.get("not_opened.handshake"), 50)
        self.assertEqual(self.stats.get("not_opened.handshake timeout"), 1)
        self.assertEqual(len(self.lines()), 2)

    def test_failed_authentication(self) -> None:
        """It is an error, which the log shows unless told otherwise, once for each reason."""
        for reason in ("expired", "wrong key", "expired"):
            self.site.link_refused("10.0.0.9:9", f"authentication {reason}: munge: …")
        self.assertEqual(self.stats.get("not_opened.authentication expired"), 2)
        self.assertEqual([event["log_level"] for event in self.logged], [LogLevel.error] * 2)
        for word in ("tls unknown name", "no tls", "speaks tls", "too many"):
            self.site.link_refused("10.0.0.9:9", f"{word}: …")
        self.assertEqual([event["log_level"] for event in self.logged], [LogLevel.error] * 6)

    def test_connections_without_a_word(self) -> None:
        """Somebody who only looks who listens is counted, and is nothing to warn of."""
        self.site.link_refused("10.0.0.9:9", SILENT)
        self.assertEqual(self.stats.get(f"not_opened.{SILENT}"), 1)
        self.assertEqual(self.lines(), [f"connection with 10.0.0.9:9 not accepted: {SILENT}"])
        self.assertEqual(self.logged[-1]["log_level"], LogLevel.info)

    def test_refused_requests_are_counted(self) -> None:
        """What a connection refused on its own is counted by its word."""
        self.site.link_events(self.one, [Refused("dir"), Refused("dir"), Refused("lookup")])
        self.assertEqual(self.stats.get("refused.dir"), 2)
        self.assertEqual(self.stats.get("refused.lookup"), 1)
        self.assertEqual(len(self.lines()), 2)

    def test_refused_subscription_of_ours_is_logged(self) -> None:
        """A peer that does not take a subscription of ours is told of in the log."""
        self.site.link_events(
            self.one,
            [
                SubscribeAnswered("a", 0, "OK"),
                SubscribeAnswered("b", 95, "LDMS Message Service disabled"),
            ],
        )
        self.assertEqual(self.stats.get("answers_failed"), 1)
        self.assertIn("LDMS Message Service disabled (error 95)", self.lines()[0])

    def test_peer_that_refuses_messages_is_counted(self) -> None:
        """Credit with rc 95, from a peer whose service went off, is counted."""
        self.site.link_events(self.one, [CreditReturned(0, 95)])
        self.assertEqual(self.stats.get("peer_refuses_messages"), 1)


class BrokerTests(SynchronousTestCase):
    """A publisher and a subscriber through hub and site, in real bytes."""

    @given(
        sizes=st.lists(st.integers(0, 3000), max_size=30),
        quotas=st.tuples(st.sampled_from([-1, 4000, 2000]), st.sampled_from([-1, 4000, 2000])),
        cut=st.integers(1, 5000),
    )
    def test_every_publish_is_credited_once(
        self, sizes: list[int], quotas: tuple[int, int], cut: int
    ) -> None:
        """Whatever the quotas and however bytes are cut: order is kept, all credit comes back."""
        turn, clock, stats = Turn(), Clock(), Stats()
        hub = MessageHub(stats, turn)
        hub.enable()
        site = LinkSite(hub, stats, turn, clock)
        daemon = LinkSettings(messages_enabled=lambda: True, quota=quotas[0])
        reader = LinkSettings(messages_enabled=lambda: True, quota=quotas[1])
        publisher, subscriber = FakeSite(), FakeSite()
        subscriber.on_events = lambda link, events: link.send(  # type: ignore[assignment]
            ReturnCredit([event.credit for event in events if isinstance(event, Message)])
        )
        pairs = [
            MemoryPair(site, publisher, clock, left_settings=daemon, cut=cut),
            MemoryPair(site, subscriber, clock, right_settings=reader, cut=cut),
        ]

        def settle() -> None:
            for _ in range(2 + len(sizes)):
                for pair in pairs:
                    pair.settle()

        settle()
        pairs[1].right.send(Subscribe("c"))
        settle()
        expected: list[int] = []
        forwarded: list[bytes] = []
        for number, size in enumerate(sizes):
            data = b"%d:" % number + b"x" * size
            credit = len(data) + 2
            if not pairs[0].right.can_publish(credit):
                settle()
            if quotas[0] not in (-1,) and credit > quotas[0]:
                continue
            pairs[0].right.send(Publish("c", data))
            expected.append(credit)
            if quotas[1] == -1 or credit <= quotas[1]:
                forwarded.append(data)
        settle()
        returned = [e for e in publisher.events if isinstance(e, CreditReturned)]
        self.assertEqual(sum(event.credit for event in returned), sum(expected))
        self.assertEqual(sum(event.count for event in returned), len(expected))
        self.assertEqual(subscriber.bodies, forwarded)
