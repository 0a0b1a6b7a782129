"""Subscriptions with a rate, and those of rails, against links that remember."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.interfaces import ILink, IRail
from ldmsjob.messages import MessageHub
from ldmsjob.outlets import Subscriber
from ldmsjob.stats import Stats
from ldmsjob.turns import Turn
from ldmsjob.wire.events import Forward, Message, Publish
from ldmsjob.wire.msg import tag_hash
from ldmsjob.wire.rail import endpoint_of
from tests.fake_links import FakeLink, FakeRail, message

SIZE = message().credit


def hashed(channel: str, number: int = 0) -> Message:
    """A message whose hash is right."""
    made = message(channel, number=number)
    image = made.image[:84] + tag_hash(channel.encode()) + made.image[88:]
    return msgspec.structs.replace(made, image=image)


class HubTestCase(SynchronousTestCase):
    """A hub that is on, with a wall clock, and a publisher's link."""

    def setUp(self) -> None:
        """Make them."""
        self.stats = Stats()
        self.now_us = 1_000_000
        self.hub = MessageHub(self.stats, Turn(), wall_clock_us=lambda: self.now_us)
        self.hub.enable()
        self.publisher = FakeLink("publisher")

    def deliver(self, *numbers: int, channel: str = "slurm") -> None:
        """Have the publisher's link bring messages."""
        for number in numbers:
            self.hub.deliver([hashed(channel, number)], self.publisher)


class RateTests(HubTestCase):
    """Subscriptions with a rate."""

    def subscriber(self, rate: int) -> FakeLink:
        """A link with a subscription."""
        link = FakeLink()
        self.assertEqual(self.hub.subscribe_link(link, "slurm", False, rate), (0, "OK"))
        return link

    def test_window(self) -> None:
        """What does not fit into the second is dropped and counted; the next second is new."""
        link = self.subscriber(6)
        self.deliver(1, 2, 3)
        self.now_us = 2_000_000
        self.deliver(4)
        self.assertEqual(link.numbers, [1, 2, 4])
        self.assertEqual(self.stats.get("dropped_rate"), 1)

    def test_only_data_counts(self) -> None:
        """Not the channel's name: two messages of 3 bytes fit into 6."""
        link = self.subscriber(6)
        self.deliver(1, 2)
        self.assertEqual(link.numbers, [1, 2])

    def test_zero_blocks_everything(self) -> None:
        """And the publisher has its credit nevertheless."""
        link = self.subscriber(0)
        self.assertTrue(self.hub.deliver([hashed("slurm")], self.publisher)[0])
        self.assertEqual(link.numbers, [])

    def test_own_messages_count(self) -> None:
        """As others do."""
        link = self.subscriber(3)
        self.hub.publish("slurm", b"{}")
        self.hub.publish("slurm", b"{}")
        self.assertEqual(len(link.sent), 1)
        self.assertIsInstance(link.sent[0], Publish)

    def test_each_subscription_has_its_own(self) -> None:
        """A peer's other subscription to the same channel is not limited by the first."""
        link = self.subscriber(3)
        self.hub.subscribe_link(link, "slu.m", True)
        self.deliver(1, 2)
        self.assertEqual(sorted(link.numbers), [1, 1, 2])

    def test_unsubscribed_and_back(self) -> None:
        """A new subscription brings its own rate."""
        link = self.subscriber(0)
        self.hub.unsubscribe_link(link, "slurm")
        self.hub.subscribe_link(link, "slurm", False, -1)
        self.deliver(1)
        self.assertEqual(link.numbers, [1])

    def test_secrets_cost_no_rate(self) -> None:
        """What the peer may not read takes nothing off."""
        link = FakeLink(credential=type(self.publisher.credential)(7, 7))
        self.hub.subscribe_link(link, "slurm", False, 3)
        self.hub.deliver([message(perm=0o400)], self.publisher)
        self.hub.deliver([message(perm=0o444, number=9)], self.publisher)
        self.assertEqual(link.numbers, [9])

    def test_waiting_for_a_second_is_not_hanging(self) -> None:
        """Only what waits for more than the peer's rate is dropped in the end."""
        link = FakeLink(quota=0)
        link.peer = type(link.peer)("none", 1, True, -1, 10**6)
        self.hub.subscribe_link(link, "slurm")
        self.deliver(1)
        link.paced = True
        for _ in range(5):
            self.hub.drop_stuck()
        self.assertTrue(self.hub.waiting)
        link.paced = False
        self.hub.drop_stuck()
        self.assertEqual(self.stats.get("dropped_stuck"), 1)

    def test_more_than_a_second_of_the_connection(self) -> None:
        """A message that the peer's rate has never room for does not wait."""
        link = FakeLink(quota=0)
        link.peer = type(link.peer)("none", 1, True, -1, SIZE - 1)
        self.hub.subscribe_link(link, "slurm")
        self.assertTrue(self.hub.deliver([message()], self.publisher)[0])
        self.assertEqual(self.stats.get("dropped_too_large"), 1)


class RailTests(HubTestCase):
    """Subscriptions of rails."""

    CHANNELS = ("slurm", "plain", "tagA", "x", "y", "z")

    def test_interfaces(self) -> None:
        """The rail of these tests is one, and what stands for absent endpoints is a link."""
        rail = FakeRail(2)
        verifyObject(IRail, rail)
        subscriber = Subscriber(rail.link(0))
        rail.links.clear()
        absent = subscriber.outlet_for(Publish("x", b"")).link
        verifyObject(ILink, absent)
        self.assertFalse(absent.can_publish(0) or absent.has_room() or absent.waits_for_second(0))

    def test_messages_go_by_hash(self) -> None:
        """Each channel has its endpoint, whichever one asked for it; each message goes once."""
        rail = FakeRail(3)
        links = [rail.link(index) for index in range(3)]
        self.assertEqual(self.hub.subscribe_link(links[2], ".", True), (0, "OK"))
        self.assertEqual(self.hub.subscribe_link(links[0], ".", True)[0], 17)
        expected: list[list[int]] = [[], [], []]
        for number, channel in enumerate(self.CHANNELS * 2):
            self.deliver(number, channel=channel)
            where = endpoint_of(Forward.of(hashed(channel)), 3)
            self.assertEqual(where, endpoint_of(Publish(channel, b""), 3))
            expected[where].append(number)
        self.assertEqual([link.numbers for link in links], expected)
        self.assertGreater(sum(1 for numbers in expected if numbers), 1)
        self.assertEqual(self.hub.unsubscribe_link(links[1], "."), (0, "OK"))
        self.deliver(99)
        self.assertEqual([link.numbers for link in links], expected)

    def test_not_back(self) -> None:
        """A message does not go back to the rail that brought it, on any endpoint."""
        rail = FakeRail(2)
        links = [rail.link(0), rail.link(1)]
        self.hub.subscribe_link(links[0], ".", True)
        for channel in self.CHANNELS:
            for link in links:
                self.assertTrue(self.hub.deliver([hashed(channel)], link)[0])
        self.assertEqual([link.sent for link in links], [[], []])

    def test_endpoint_that_is_not_open_yet(self) -> None:
        """What belongs there waits for it, in order."""
        rail = FakeRail(2)
        first = rail.link(0)
        self.hub.subscribe_link(first, ".", True)
        for number, channel in enumerate(self.CHANNELS):
            self.deliver(number, channel=channel)
        self.assertTrue(self.hub.waiting)
        second = rail.link(1)
        self.hub.endpoint_opened(second)
        self.assertFalse(self.hub.waiting)
        self.assertEqual(sorted(first.numbers + second.numbers), list(range(6)))
        self.assertEqual(second.numbers, sorted(second.numbers))
        self.assertTrue(second.numbers)
        # Its room is its own.
        self.assertEqual(
            sum(self.publisher.credits),
            sum(hashed(self.CHANNELS[number]).credit for number in second.numbers),
        )

    def test_one_full_endpoint(self) -> None:
        """Messages of the other endpoint are not held up by it."""
        rail = FakeRail(2)
        rail.link(0, quota=0)
        rail.link(1)
        for link in rail.links.values():
            link.peer = type(link.peer)("none", 1, True, -1, -1)
        self.hub.subscribe_link(rail.links[1], ".", True)
        for number, channel in enumerate(self.CHANNELS):
            self.deliver(number, channel=channel)
        there = [
            number
            for number, channel in enumerate(self.CHANNELS)
            if endpoint_of(Forward.of(hashed(channel)), 2) == 1
        ]
        self.assertEqual(rail.links[1].numbers, there)
        rail.links[0].room = None
        self.hub.link_has_room(rail.links[0])
        self.assertEqual(len(rail.links[0].numbers), 6 - len(there))

    def test_closing(self) -> None:
        """With one endpoint the subscriptions of all end, and what waits is settled."""
        rail = FakeRail(2)
        first = rail.link(0)
        self.hub.subscribe_link(first, ".", True)
        self.deliver(*range(3), channel="x")
        self.deliver(*range(3), channel="plain")
        waiting = self.stats.get("queued")
        self.assertGreater(waiting, 0)
        self.hub.forget_link(first)
        self.assertEqual(self.stats.get("dropped_closed"), waiting)
        self.assertFalse(self.hub.waiting)
        self.assertEqual((self.hub._outlets, self.hub._subscribers), ({}, {}))
        self.hub.endpoint_opened(rail.link(1))
        self.deliver(7)
        self.assertEqual(self.hub._outlets, {})
