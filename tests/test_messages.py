"""The message hub, against links that remember."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob import messages
from ldmsjob.errors import ChannelTaken, ConfigError, PublishError
from ldmsjob.interfaces import ISubscription
from ldmsjob.limits import Limits
from ldmsjob.messages import MAX_ROUTES, MessageHub
from ldmsjob.outlets import MAX_COMPILES, MAX_REGEX_SIZE
from ldmsjob.stats import Stats
from ldmsjob.turns import Turn
from ldmsjob.wire.events import (
    MAX_HOPS,
    MAX_MESSAGE_BYTES,
    STRING,
    Credential,
    Message,
    Publish,
)
from tests.fake_links import FakeLink, message

SIZE = message().credit
ROOT = Credential(0, 0)


class HubTestCase(SynchronousTestCase):
    """A hub that is on, and a publisher's link."""

    def setUp(self) -> None:
        """Make the hub."""
        self.stats = Stats()
        self.turn = Turn()
        self.clock = Clock()
        self.wall_clock_us = 0
        self.hub = MessageHub(
            self.stats,
            self.turn,
            now=self.clock.seconds,
            wall_clock_us=lambda: self.wall_clock_us,
        )
        self.hub.enable()
        self.publisher = FakeLink("publisher")

    def subscriber(
        self,
        match: str = "slurm",
        is_regex: bool = False,
        *,
        quota: int = -1,
        credential: Credential = ROOT,
    ) -> FakeLink:
        """A link with a subscription."""
        link = FakeLink(f"subscriber to {match}", quota=quota, credential=credential)
        self.assertEqual(self.hub.subscribe_link(link, match, is_regex), (0, "OK"))
        return link


class LocalReceiverTests(HubTestCase):
    """Receivers in this process."""

    def test_gets_messages_of_its_channel_only(self) -> None:
        """A receiver gets each message of exactly its channel, as it came."""
        got: list[Message] = []
        self.hub.subscribe("slurm", got.append, owner="j1")
        first, second = message(number=1), message(number=2)
        for each in (first, message("slurm2"), message("slur"), second):
            self.assertTrue(self.hub.deliver([each], self.publisher)[0])
        self.assertEqual(got, [first, second])

    def test_one_receiver_per_channel(self) -> None:
        """A channel that is taken names its owner; another channel is free."""
        self.hub.subscribe("slurm", lambda message: None, owner="j1")
        error = self.assertRaises(
            ChannelTaken, self.hub.subscribe, "slurm", lambda message: None, owner="j2"
        )
        self.assertIn("j1", str(error))
        self.hub.subscribe("flux", lambda message: None, owner="j2")

    def test_close_frees_the_channel(self) -> None:
        """After ``close`` nothing more comes and another may have the channel."""
        got: list[Message] = []
        subscription = self.hub.subscribe("slurm", got.append, owner="j1")
        verifyObject(ISubscription, subscription)
        self.hub.deliver([message()], self.publisher)
        self.successResultOf(subscription.close())
        self.hub.deliver([message()], self.publisher)
        self.assertEqual(len(got), 1)
        other = self.hub.subscribe("slurm", got.append, owner="j2")
        # Closing again does not take the channel from its new owner.
        self.successResultOf(subscription.close())
        self.hub.deliver([message()], self.publisher)
        self.assertEqual(len(got), 2)
        self.successResultOf(other.close())

    def test_refused_while_the_service_is_off(self) -> None:
        """Subscribing while the service is off is the user's mistake, with rc 95 and a hint."""
        self.hub.disable()
        error = self.assertRaises(
            ConfigError, self.hub.subscribe, "slurm", lambda message: None, owner="j1"
        )
        self.assertEqual(error.rc, 95)
        self.assertIn("msg_enable", str(error))

    def test_raising_receiver_hurts_only_itself(self) -> None:
        """A receiver that raises is logged by its owner's name, once in a while, and counted."""

        def broken(message: Message) -> None:
            raise ValueError("broken receiver")

        self.hub.subscribe("slurm", broken, owner="j1")
        subscriber = self.subscriber()
        for _ in range(3):
            self.assertTrue(self.hub.deliver([message()], self.publisher)[0])
        self.assertEqual(self.stats.get("receiver_failures"), 3)
        self.assertEqual(len(subscriber.sent), 3)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_permission_bits_are_not_for_local_receivers(self) -> None:
        """What this process receives is its own: permission bits guard forwarding only."""
        got: list[Message] = []
        self.hub.subscribe("slurm", got.append, owner="j1", publishers=[5])
        self.hub.deliver([message(uid=5, gid=5, perm=0)], self.publisher)
        self.assertEqual(len(got), 1)

    def test_publishers(self) -> None:
        """A receiver gets messages of root, of this process's user and of those it names; others
        are counted and logged by uid and channel, at a limited rate. Peers get them all."""
        lines: list[str] = []
        observer: Any = lambda event: lines.append(formatEvent(event))  # noqa: E731
        self.patch(MessageHub, "log", Logger(observer=observer))
        self.hub = MessageHub(self.stats, self.turn, now=self.clock.seconds, own_uid=7)
        self.hub.enable()
        got: list[Message] = []
        self.hub.subscribe("slurm", got.append, owner="j1", publishers=[8, 9])
        subscriber = self.subscriber()
        for number, uid in enumerate((0, 7, 8, 9, 10, 10, 2**32 - 1)):
            each = message(uid=uid, number=number)
            self.assertTrue(self.hub.deliver([each], self.publisher)[0])
        self.assertEqual([each.uid for each in got], [0, 7, 8, 9])
        self.assertEqual(len(subscriber.numbers), 7)
        self.assertEqual(self.stats.get("publisher_refused"), 3)
        self.assertEqual(len(lines), 1)
        for word in ("uid 10", "channel slurm", "j1", "publisher"):
            self.assertIn(word, lines[0])

    def test_daemon_that_becomes_another_user(self) -> None:
        """Believed is the user that the daemon runs as when the receiver subscribes, not whoever
        made it: root may start it, and it drops that afterwards."""
        self.patch(messages.os, "geteuid", lambda: 4711)
        got: list[Message] = []
        self.hub.subscribe("slurm", got.append, owner="j1")
        self.hub.deliver([message(uid=4711)], self.publisher)
        self.assertEqual([each.uid for each in got], [4711])

    def test_publishers_of_this_process(self) -> None:
        """The same holds for what this process publishes in somebody's name."""
        got: list[Message] = []
        self.hub.subscribe("slurm", got.append, owner="j1", publishers=[8])
        for uid in (0, 8, 9):
            self.hub.publish("slurm", b"{}", uid=uid)
        self.assertEqual([each.uid for each in got], [0, 8])
        self.assertEqual(self.stats.get("publisher_refused"), 1)


class SubscriptionTests(HubTestCase):
    """What peers are answered, and what their subscriptions match."""

    def test_answers(self) -> None:
        """The answers have the C daemon's errnos and texts; one match text is one subscription."""
        link = FakeLink()
        hub = self.hub
        self.assertEqual(hub.subscribe_link(link, "a", False), (0, "OK"))
        self.assertEqual(hub.subscribe_link(link, "a", False), (17, "Subscription already existed"))
        self.assertEqual(hub.subscribe_link(link, "a", True), (17, "Subscription already existed"))
        self.assertEqual(hub.unsubscribe_link(link, "b"), (2, "Subscription not found"))
        self.assertEqual(hub.unsubscribe_link(FakeLink(), "a"), (2, "Subscription not found"))
        self.assertEqual(hub.unsubscribe_link(link, "a"), (0, "OK"))
        self.assertEqual(hub.unsubscribe_link(link, "a"), (2, "Subscription not found"))
        hub.disable()
        self.assertEqual(
            hub.subscribe_link(link, "a", False), (95, "LDMS Message Service disabled")
        )

    def test_bad_expression_is_a_failure(self) -> None:
        """A bad expression gets the C daemon's text, with the reason, and an errno besides."""
        rc, text = self.hub.subscribe_link(FakeLink(), "(", True)
        self.assertEqual(rc, errno.EINVAL)
        self.assertTrue(text.startswith("Client allocation failure: "), text)

    def test_exact_and_regex(self) -> None:
        """Exact subscriptions match the whole name, expressions search in it."""
        exact = self.subscriber("slurm")
        searching = self.subscriber("l.r", is_regex=True)
        anchored = self.subscriber("^slurm$", is_regex=True)
        for number, channel in enumerate(("slurm", "slurm2", "lur", "other")):
            self.hub.deliver([message(channel, number=number)], self.publisher)
        self.assertEqual(exact.numbers, [0])
        self.assertEqual(searching.numbers, [0, 1, 2])
        self.assertEqual(anchored.numbers, [0])

    def test_once_per_matching_subscription(self) -> None:
        """A link with several subscriptions that match gets a copy for each, as from C."""
        link = self.subscriber("slurm")
        self.hub.subscribe_link(link, "sl", True)
        self.hub.deliver([message()], self.publisher)
        self.assertEqual(len(link.sent), 2)

    def test_changes_take_effect_at_once(self) -> None:
        """Channels already seen follow new and ended subscriptions, local and remote."""
        self.hub.deliver([message()], self.publisher)
        link = self.subscriber()
        got: list[Message] = []
        self.hub.deliver([message()], self.publisher)
        subscription = self.hub.subscribe("slurm", got.append, owner="j1")
        self.hub.deliver([message()], self.publisher)
        self.hub.unsubscribe_link(link, "slurm")
        self.hub.deliver([message()], self.publisher)
        subscription.close()
        self.hub.deliver([message()], self.publisher)
        self.assertEqual((len(link.sent), len(got)), (2, 2))

    def test_subscriptions_end_with_their_link(self) -> None:
        """Nothing is forwarded to a link that has closed."""
        link = self.subscriber()
        self.hub.forget_link(link)
        self.hub.deliver([message()], self.publisher)
        self.assertEqual(link.sent, [])

    def test_off_keeps_what_is_subscribed(self) -> None:
        """Switching the service off and on again keeps the subscriptions that exist."""
        got: list[Message] = []
        self.hub.subscribe("slurm", got.append, owner="j1")
        link = self.subscriber()
        self.hub.disable()
        self.hub.enable()
        self.hub.deliver([message()], self.publisher)
        self.assertEqual((len(got), len(link.sent)), (1, 1))

    def test_limits(self) -> None:
        """Subscriptions of one link are bounded in number, and their expressions in size."""
        link = FakeLink()
        for number in range(Limits().subscriptions_per_link):
            self.assertEqual(self.hub.subscribe_link(link, f"c{number}"), (0, "OK"))
        self.assertEqual(self.hub.subscribe_link(link, "more")[0], errno.ENOSPC)
        other = FakeLink()
        accepted = 0
        while self.hub.subscribe_link(other, "x" * 400 + str(accepted), True)[0] == 0:
            accepted += 1
        self.assertEqual(accepted, MAX_REGEX_SIZE // 400 - 1)
        self.assertEqual(self.hub.subscribe_link(other, "exact"), (0, "OK"))

    def test_expressions_in_one_second(self) -> None:
        """Compiling is bounded, of good and bad expressions, those ended again, and a new second
        begins anew; what has no room is not compiled at all."""
        link = FakeLink()

        def rc(match: str) -> int:
            return self.hub.subscribe_link(link, match, True)[0]

        for number in range(MAX_COMPILES // 2):
            self.assertEqual(rc(f"({number}"), errno.EINVAL)
            self.assertEqual(rc("[[:alpha:]]{1,90}"), 0)
            self.hub.unsubscribe_link(link, "[[:alpha:]]{1,90}")
        self.assertEqual((rc("x"), rc("(")), (errno.EAGAIN, errno.EAGAIN))
        self.assertEqual(rc("(" + "x" * MAX_REGEX_SIZE), errno.ENOSPC)
        self.assertEqual(self.hub.subscribe_link(link, "x"), (0, "OK"))
        self.subscriber("x", is_regex=True)
        self.wall_clock_us += 1_000_000
        self.assertEqual(rc("y"), 0)
        self.hub.forget_link(link)
        self.assertEqual(rc("y"), 0)

    def test_long_names_are_for_exact_subscriptions(self) -> None:
        """A very long channel name is not searched, and still found by its exact name."""
        name = "x" * 256
        exact, searching = self.subscriber(name), self.subscriber("x", is_regex=True)
        self.hub.deliver([message(name)], self.publisher)
        self.hub.deliver([message(name[:-1])], self.publisher)
        self.assertEqual((len(exact.sent), len(searching.sent)), (1, 1))

    def test_remembered_channels_are_bounded(self) -> None:
        """Peers that invent channel names do not fill memory, nor change who gets what."""
        link = self.subscriber("7$", is_regex=True)
        for number in range(3 * MAX_ROUTES):
            self.hub.deliver([message(f"c{number}")], self.publisher)
        self.assertLessEqual(len(self.hub._routes), MAX_ROUTES)
        self.assertEqual(
            len(link.sent), sum(str(number).endswith("7") for number in range(3 * MAX_ROUTES))
        )


class ForwardTests(HubTestCase):
    """Who gets what was published."""

    def test_permission(self) -> None:
        """A link gets what its identity may read; what it may not is counted."""
        owner = self.subscriber(credential=Credential(100, 1))
        group = self.subscriber(credential=Credential(101, 200))
        other = self.subscriber(credential=Credential(102, 2))
        root = self.subscriber()
        for number, perm in enumerate((0o400, 0o040, 0o004, 0o000)):
            self.hub.deliver([message(uid=100, gid=200, perm=perm, number=number)], self.publisher)
        self.assertEqual(owner.numbers, [0, 2])
        self.assertEqual(group.numbers, [1, 2])
        self.assertEqual(other.numbers, [2])
        self.assertEqual(root.numbers, [0, 1, 2, 3])
        self.assertEqual(self.stats.get("forward_denied"), 7)

    def test_supplementary_groups(self) -> None:
        """Any group of a link's user will do."""
        link = self.subscriber(credential=Credential(102, 2, frozenset({200})))
        self.hub.deliver([message(uid=100, gid=200, perm=0o040)], self.publisher)
        self.assertEqual(len(link.sent), 1)

    def test_no_echo(self) -> None:
        """A message never goes back over the link that brought it."""
        link = self.subscriber()
        self.assertTrue(self.hub.deliver([message()], link)[0])
        self.assertEqual(link.sent, [])

    def test_hop_limit(self) -> None:
        """What came over too many hops is delivered here, not forwarded, and counted."""
        got: list[Message] = []
        self.hub.subscribe("slurm", got.append, owner="j1")
        link = self.subscriber()
        self.assertTrue(self.hub.deliver([message(hop_count=MAX_HOPS)], self.publisher)[0])
        self.assertTrue(self.hub.deliver([message(hop_count=MAX_HOPS + 1)], self.publisher)[0])
        self.assertEqual((len(got), len(link.sent)), (2, 1))
        self.assertEqual(self.stats.get("dropped_hops"), 1)

    def test_peer_that_can_never_have_it(self) -> None:
        """What a peer can never be sent is dropped for it alone, and counted by reason."""
        link, other = self.subscriber(), self.subscriber()
        for rc in (errno.EOPNOTSUPP, errno.EMSGSIZE):
            link.refuse_rc = rc
            self.assertTrue(self.hub.deliver([message()], self.publisher)[0])
        self.assertEqual(len(other.sent), 2)
        self.assertEqual(self.stats.get("dropped_refused"), 1)
        self.assertEqual(self.stats.get("dropped_too_large"), 1)


class PublishTests(HubTestCase):
    """Messages of this process."""

    def test_reaches_receiver_and_links(self) -> None:
        """A message published here reaches the local receiver and the subscribed links."""
        got: list[Message] = []
        self.hub.subscribe("out", got.append, owner="j1", publishers=[3])
        link = self.subscriber("out")
        self.hub.publish("out", b'{"a": 1}', uid=3, gid=4, perm=0o444)
        self.assertEqual(got[0].body, b'{"a": 1}')
        self.assertEqual((got[0].uid, got[0].gid, got[0].perm), (3, 4, 0o444))
        self.assertEqual(
            link.sent, [Publish(channel="out", data=b'{"a": 1}\0', uid=3, gid=4, perm=0o444)]
        )

    def test_nul_is_added_once_and_to_text_only(self) -> None:
        """Text ends in exactly one NUL; other types are left as they are."""
        link = self.subscriber("out")
        self.hub.publish("out", b"a", kind=STRING)
        self.hub.publish("out", b"b\0", kind=STRING)
        self.hub.publish("out", b"c", kind=2)
        self.assertEqual([command.data for command in link.sent], [b"a\0", b"b\0", b"c"])

    def test_refusals(self) -> None:
        """Too long, no name, or a service that is off: ``PublishError`` with the errno."""
        fits = MAX_MESSAGE_BYTES - len("out") - 2
        self.hub.publish("out", bytes(b"x" * fits))
        for channel, data, rc in (
            ("out", b"x" * (fits + 1), errno.EMSGSIZE),
            ("", b"x", errno.EINVAL),
            ("a\0b", b"x", errno.EINVAL),
        ):
            error = self.assertRaises(PublishError, self.hub.publish, channel, data)
            self.assertEqual(error.rc, rc)
        self.hub.disable()
        error = self.assertRaises(PublishError, self.hub.publish, "out", b"x")
        self.assertEqual(error.rc, errno.EOPNOTSUPP)

    def test_waits_for_a_slow_subscriber(self) -> None:
        """A message of ours waits for room like any other; there is no credit to hold."""
        link = self.subscriber("out", quota=10)
        self.hub.publish("out", b"123", kind=STRING)
        self.hub.publish("out", b"456", kind=STRING)
        self.assertEqual(len(link.sent), 1)
        link.room = 10
        self.hub.link_has_room(link)
        self.assertEqual([command.data for command in link.sent], [b"123\0", b"456\0"])
        self.assertFalse(self.hub.waiting)


class WaitingTests(HubTestCase):
    """Slow subscribers."""

    def deliver(self, *numbers: int, size: int = 3) -> list[bool]:
        """Deliver messages with these numbers; the results."""
        return [
            bool(self.hub.deliver([message(data=b"x" * size, number=number)], self.publisher)[0])
            for number in numbers
        ]

    def test_credit_is_held_until_forwarded(self) -> None:
        """A message that waits keeps its publisher's credit until it has been forwarded."""
        link = self.subscriber(quota=SIZE)
        self.assertEqual(self.deliver(1, 2, 3), [True, False, False])
        self.assertEqual(link.numbers, [1])
        self.assertEqual(self.publisher.credits, [])
        link.room = SIZE
        self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 2])
        self.assertEqual(self.publisher.credits, [SIZE])
        link.room = SIZE
        self.hub.link_has_room(link)
        self.assertEqual(self.publisher.credits, [SIZE, SIZE])
        self.assertFalse(self.hub.waiting)

    def test_held_credit_goes_back_in_one_command(self) -> None:
        """Credit of several messages that are done in one turn goes back together."""
        link = self.subscriber(quota=3 * SIZE)
        link.room = 0
        self.deliver(1, 2, 3)
        link.room = 3 * SIZE
        with self.turn:
            self.hub.link_has_room(link)
            self.assertEqual(self.publisher.sent, [])
        self.assertEqual(len(self.publisher.sent), 1)
        self.assertEqual(self.publisher.credits, [SIZE, SIZE, SIZE])

    def test_order_is_kept(self) -> None:
        """A smaller message that would fit does not overtake one that waits."""
        link = self.subscriber(quota=100)
        link.room = 20
        self.deliver(1, size=50)
        self.deliver(2, size=1)
        self.assertEqual(link.numbers, [])
        link.room = 100
        self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 2])

    def test_slow_subscriber_delays_no_other(self) -> None:
        """Others get the message at once; its credit waits for the slow one alone."""
        slow, quick = self.subscriber(quota=SIZE), self.subscriber()
        slow.room = 0
        self.deliver(1, 2)
        self.assertEqual(quick.numbers, [1, 2])
        slow.room = SIZE
        self.hub.link_has_room(slow)
        self.assertEqual(self.publisher.credits, [SIZE])

    def test_waits_for_the_last_of_several(self) -> None:
        """Credit goes back once, when the last slow subscriber has the message."""
        first, second = self.subscriber(quota=SIZE), self.subscriber(quota=SIZE)
        first.room = second.room = 0
        self.deliver(1)
        first.room = second.room = SIZE
        self.hub.link_has_room(first)
        self.assertEqual(self.publisher.credits, [])
        self.hub.link_has_room(second)
        self.assertEqual(self.publisher.credits, [SIZE])

    def test_larger_than_the_whole_quota(self) -> None:
        """What can never fit is dropped and counted instead of blocking what comes behind it."""
        link = self.subscriber(quota=2 * SIZE)
        link.room = 0
        self.assertEqual(self.deliver(1), [False])
        self.assertEqual(self.deliver(2, size=3 * SIZE), [True])
        self.assertEqual(self.deliver(3), [False])
        link.room = 2 * SIZE
        self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 3])
        self.assertEqual(self.stats.get("dropped_too_large"), 1)

    def test_queue_is_bounded(self) -> None:
        """Beyond its bound the queue takes nothing more: dropped, counted, credit free at once."""
        self.hub = MessageHub(self.stats, self.turn, limits=Limits(queue_bytes=2 * SIZE))
        self.hub.enable()
        link = self.subscriber(quota=10 * SIZE)
        link.room = 0
        self.assertEqual(self.deliver(1, 2, 3), [False, False, True])
        self.assertEqual(self.stats.get("dropped_queue_full"), 1)
        link.room = 10 * SIZE
        self.hub.link_has_room(link)
        self.assertEqual(self.deliver(4), [True])
        self.assertEqual(link.numbers, [1, 2, 4])

    def test_subscriber_closes(self) -> None:
        """The credit of what waited for a link that closes goes back to the publishers."""
        link = self.subscriber(quota=SIZE)
        self.deliver(1, 2, 3)
        self.hub.forget_link(link)
        self.assertEqual(self.publisher.credits, [SIZE, SIZE])
        self.assertEqual(self.stats.get("dropped_closed"), 2)
        self.assertFalse(self.hub.waiting)

    def test_publisher_closes(self) -> None:
        """What waits is still forwarded when its publisher has gone; it gets no credit."""
        link = self.subscriber(quota=SIZE)
        self.deliver(1, 2)
        self.hub.forget_link(self.publisher)
        link.room = SIZE
        self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 2])
        self.assertEqual(self.publisher.credits, [])

    def test_stuck_subscriber_is_not_waited_for(self) -> None:
        """One that takes nothing between two looks loses its queue, until it has room again."""
        link = self.subscriber(quota=SIZE)
        self.deliver(1, 2)
        self.hub.drop_stuck()
        self.assertEqual(self.publisher.credits, [])
        self.hub.drop_stuck()
        self.assertEqual(self.publisher.credits, [SIZE])
        self.assertEqual(self.deliver(3), [True])
        self.assertEqual(self.stats.get("dropped_stuck"), 2)
        link.room = SIZE
        self.hub.link_has_room(link)
        self.assertEqual(self.deliver(4, 5), [True, False])
        self.assertEqual(link.numbers, [1, 4])

    def test_slow_is_not_stuck(self) -> None:
        """A subscriber that takes something between two looks keeps its queue."""
        link = self.subscriber(quota=SIZE)
        self.deliver(1, 2, 3, 4)
        for _ in range(3):
            self.hub.drop_stuck()
            link.room = SIZE
            self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 2, 3, 4])

    def test_publisher_is_paused_and_resumed(self) -> None:
        """A publisher of whom much waits is read no further until half of it has gone."""
        self.hub = MessageHub(self.stats, self.turn, pause_bytes=4 * SIZE)
        self.hub.enable()
        link = self.subscriber(quota=10 * SIZE)
        link.room = 0
        self.deliver(1, 2, 3, 4)
        self.assertTrue(self.publisher.reading)
        self.deliver(5, 6)
        self.assertFalse(self.publisher.reading)
        link.room = 3 * SIZE
        self.hub.link_has_room(link)
        self.assertFalse(self.publisher.reading)
        link.room = SIZE
        self.hub.link_has_room(link)
        self.assertTrue(self.publisher.reading)

    def test_publisher_for_whom_something_waits_is_read(self) -> None:
        """Two that publish to each other do not stop each other: their credit is still read."""
        self.hub = MessageHub(self.stats, self.turn, pause_bytes=SIZE)
        self.hub.enable()
        one, other = self.subscriber(quota=SIZE), self.subscriber(quota=SIZE)
        one.room = other.room = 0
        for number in range(3):
            self.hub.deliver([message(number=number)], one)
        self.assertFalse(one.reading)
        for number in range(3):
            self.hub.deliver([message(number=number)], other)
        self.assertTrue(one.reading)
        self.assertTrue(other.reading)

    def test_watcher_is_called_when_waiting_begins(self) -> None:
        """``watch_waiting`` tells once for each time that messages begin to wait."""
        calls: list[bool] = []
        self.hub.watch_waiting(lambda: calls.append(self.hub.waiting))
        link = self.subscriber(quota=SIZE)
        self.deliver(1)
        self.assertEqual(calls, [])
        self.deliver(2, 3)
        self.assertEqual(calls, [True])
        link.room = 2 * SIZE
        self.hub.link_has_room(link)
        self.deliver(4)
        self.assertEqual(calls, [True, True])


class CreditMachine(RuleBasedStateMachine):
    """Any order of events: each message is credited exactly once, and order is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.stats = Stats()
        self.hub = MessageHub(
            self.stats, Turn(), limits=Limits(queue_bytes=40 * SIZE), pause_bytes=5 * SIZE
        )
        self.hub.enable()
        self.number = 0
        self.links: list[FakeLink] = []
        self.owed: dict[FakeLink, list[int]] = {}
        self.settled: dict[FakeLink, list[int]] = {}

    @initialize(count=st.integers(2, 5))
    def open_links(self, count: int) -> None:
        """Begin with some links."""
        for _ in range(count):
            self.open_link(10 * SIZE)

    @rule(quota=st.sampled_from([-1, 1, SIZE, 4 * SIZE, 10 * SIZE]))
    def open_link(self, quota: int) -> None:
        """One more link, which may publish and subscribe."""
        link = FakeLink(f"link {len(self.links)}", quota=quota)
        self.links.append(link)
        self.owed[link] = []
        self.settled[link] = []

    def pick(self, index: int) -> FakeLink:
        """One of the links that are open."""
        open_links = [link for link in self.links if link.state == "open"]
        if not open_links:
            self.open_link(-1)
            return self.links[-1]
        return open_links[index % len(open_links)]

    @rule(index=st.integers(0, 9), channel=st.sampled_from(["a", "b"]))
    def subscribe(self, index: int, channel: str) -> None:
        """A link subscribes, perhaps once more."""
        self.hub.subscribe_link(self.pick(index), channel, False)

    @rule(index=st.integers(0, 9), channel=st.sampled_from(["a", "b"]))
    def unsubscribe(self, index: int, channel: str) -> None:
        """A link unsubscribes, perhaps from nothing."""
        self.hub.unsubscribe_link(self.pick(index), channel)

    @rule(
        index=st.integers(0, 9),
        channel=st.sampled_from(["a", "b"]),
        size=st.integers(0, 6 * SIZE),
        hops=st.integers(1, MAX_HOPS + 1),
        perm=st.sampled_from([0o440, 0o777]),
    )
    def publish(self, index: int, channel: str, size: int, hops: int, perm: int) -> None:
        """A link brings a message."""
        link = self.pick(index)
        self.number += 1
        event = message(
            channel, b"x" * size, number=self.number, hop_count=hops, perm=perm, uid=7, gid=7
        )
        self.owed[link].append(event.credit)
        if self.hub.deliver([event], link)[0]:
            self.settled[link].append(event.credit)

    @rule(index=st.integers(0, 9), room=st.integers(0, 10 * SIZE))
    def credit(self, index: int, room: int) -> None:
        """A peer returns credit."""
        link = self.pick(index)
        if link.room is not None:
            link.room = min(link.room + room, link.peer.quota)
        self.hub.link_has_room(link)

    @rule(index=st.integers(0, 9), rc=st.sampled_from([0, 95]))
    def refuse(self, index: int, rc: int) -> None:
        """A peer's service goes off or on."""
        self.pick(index).refuse_rc = rc

    @rule()
    def look(self) -> None:
        """Time passes."""
        self.hub.drop_stuck()

    @rule(index=st.integers(0, 9))
    def close(self, index: int) -> None:
        """A link closes."""
        link = self.pick(index)
        link.close()
        self.hub.forget_link(link)

    @invariant()
    def never_too_much(self) -> None:
        """No publisher has been returned what it did not spend; nothing is out of order."""
        for link in self.links:
            returned = sorted(self.settled[link] + link.credits)
            owed = sorted(self.owed[link])
            while returned:
                assert returned[-1] in owed
                owed.remove(returned.pop())
            assert link.numbers == sorted(link.numbers)

    def teardown(self) -> None:
        """When nothing waits any more, every open publisher has all its credit back."""
        for _ in range(2):
            self.hub.drop_stuck()
        assert not self.hub.waiting
        for link in self.links:
            if link.state == "open":
                assert sorted(self.settled[link] + link.credits) == sorted(self.owed[link])
                assert link.reading


class CreditTests(SynchronousTestCase):
    """Credit exactness."""

    def test_any_order_of_events(self) -> None:
        """Exactly one credit of exactly its size for each message, in every outcome."""
        run_state_machine_as_test(CreditMachine)
