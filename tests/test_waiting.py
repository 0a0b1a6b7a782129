"""Messages that come with one read, to links that remember."""

from __future__ import annotations

import errno

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import PublishError
from ldmsjob.limits import Limits
from ldmsjob.messages import MessageHub
from ldmsjob.stats import Stats
from ldmsjob.turns import Turn
from ldmsjob.wire.events import MAX_HOPS, Credential, Forward, Message, WireCommand
from ldmsjob.wire.setevents import SetCommand
from tests.fake_links import FakeLink, message

SIZE = message().credit


def several(*numbers: int) -> list[Message]:
    """Messages with these numbers."""
    return [message(number=number) for number in numbers]


class Narrow(FakeLink):
    """A link on which no more than ``most`` can be sent at once."""

    most = SIZE

    def send(self, command: WireCommand | SetCommand) -> None:
        """Refuse what is more."""
        if isinstance(command, Forward) and command.credit > self.most:
            raise PublishError("too long", rc=errno.EMSGSIZE)
        super().send(command)


class TogetherTests(SynchronousTestCase):
    """Messages of one read."""

    def setUp(self) -> None:
        """A hub that is on, and a publisher's link."""
        self.stats = Stats()
        self.turn = Turn()
        self.hub = MessageHub(self.stats, self.turn, limits=Limits(queue_bytes=5 * SIZE))
        self.hub.enable()
        self.publisher = FakeLink("publisher")

    def subscribe(self, link: FakeLink, match: str = "slurm") -> FakeLink:
        """That link, with a subscription."""
        self.assertEqual(self.hub.subscribe_link(link, match), (0, "OK"))
        return link

    def slow(self) -> FakeLink:
        """A subscriber without limits that does not read."""
        link = self.subscribe(FakeLink())
        link.choked, link.room = True, 0
        return link

    def deliver(self, *numbers: int) -> int:
        """Have the publisher's link bring messages; how many of them have their credit."""
        credits, refused = self.hub.deliver(several(*numbers), self.publisher)
        self.assertEqual((set(credits) - {SIZE}, refused), (set(), []))
        return len(credits)

    def test_one_command_for_all_subscribers(self) -> None:
        """They are sent together, and all subscribers are sent the same."""
        links = [self.subscribe(FakeLink()) for _ in range(3)]
        self.assertEqual(self.deliver(1, 2, 3), 3)
        (command,) = links[0].sent
        self.assertEqual(links[0].numbers, [1, 2, 3])
        for link in links[1:]:
            self.assertEqual(len(link.sent), 1)
            self.assertIs(link.sent[0], command)
        self.assertEqual(self.stats.get("forwarded"), 9)

    def test_order_of_channels_is_kept(self) -> None:
        """Messages of several channels reach a subscriber to all of them as they came."""
        link = self.subscribe(FakeLink(), "a")
        self.subscribe(link, "b")
        messages = [message(channel, number=n) for n, channel in enumerate("aabaxbb")]
        messages.append(message("a", number=9, hop_count=MAX_HOPS + 1))
        credits, _ = self.hub.deliver(messages, self.publisher)
        self.assertEqual(link.numbers, [0, 1, 2, 3, 5, 6])
        self.assertEqual(len(credits), len(messages))

    def test_each_by_its_own_permission(self) -> None:
        """What a peer may not read is kept from it, whatever stands beside it."""
        link = self.subscribe(FakeLink(credential=Credential(100, 200)))
        messages = [
            message(uid=uid, gid=gid, perm=perm, number=number)
            for number, (uid, gid, perm) in enumerate(
                [
                    *((100, 1, 0o400), (100, 1, 0o400), (101, 1, 0o400), (101, 200, 0o400)),
                    *((101, 200, 0o440), (101, 1, 0o440), (101, 1, 0o444)),
                ]
            )
        ]
        self.hub.deliver(messages, self.publisher)
        self.assertEqual(link.numbers, [0, 1, 4, 6])
        self.assertEqual(self.stats.get("forward_denied"), 3)

    def test_wait_together(self) -> None:
        """For a peer that does not read they wait together; so does their credit."""
        link, quick = self.slow(), self.subscribe(FakeLink())
        self.assertEqual(self.deliver(1, 2), 0)
        self.assertEqual(self.deliver(3), 0)
        self.assertEqual(quick.numbers, [1, 2, 3])
        self.assertEqual(self.stats.gauges()["waiting"], 3)
        self.assertEqual(self.stats.gauges()["waiting_bytes"], 3 * SIZE)
        link.choked, link.room = False, 2 * SIZE
        self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 2])
        self.assertEqual(self.publisher.credits, [SIZE, SIZE])
        link.room = SIZE
        self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 2, 3])
        self.assertEqual(self.publisher.credits, [SIZE] * 3)
        self.assertFalse(self.hub.waiting)
        self.assertEqual((self.stats.get("queued"), self.stats.get("forwarded")), (3, 6))

    def test_one_by_one_where_there_is_a_limit(self) -> None:
        """What a quota has room for is sent and credited, the rest waits one by one."""
        link = self.subscribe(FakeLink(quota=2 * SIZE))
        other = self.slow()
        other.choked, other.room = False, None
        self.assertEqual(self.deliver(1, 2, 3, 4), 2)
        self.assertEqual(link.numbers, [1, 2])
        self.assertEqual(other.numbers, [1, 2, 3, 4])
        for number in (3, 4):
            link.room = SIZE
            self.hub.link_has_room(link)
            self.assertEqual(link.numbers[-1], number)
            self.assertEqual(self.publisher.credits, [SIZE] * (number - 2))

    def test_credit_of_each_when_others_wait_together(self) -> None:
        """A subscriber with a limit has them wait one by one for all."""
        link, other = self.subscribe(FakeLink(quota=SIZE)), self.slow()
        self.assertEqual(self.deliver(1, 2), 0)
        other.choked, other.room = False, None
        self.hub.link_has_room(other)
        self.assertEqual(self.publisher.credits, [SIZE])
        link.room = SIZE
        self.hub.link_has_room(link)
        self.assertEqual(self.publisher.credits, [SIZE, SIZE])

    def test_what_fits_into_the_queue(self) -> None:
        """Where not all fit, as many wait as do; the others are dropped and counted."""
        self.slow()
        self.assertEqual(self.deliver(1, 2, 3), 0)
        self.deliver(4, 5, 6)
        self.assertEqual(self.stats.get("dropped_queue_full"), 1)
        self.assertEqual(self.stats.gauges()["waiting"], 5)

    def test_too_much_at_once(self) -> None:
        """What cannot be sent together is sent one by one, now or later."""
        link = self.subscribe(Narrow())
        self.assertEqual(self.deliver(1, 2), 2)
        link.choked, link.room = True, 0
        self.assertEqual(self.deliver(3, 4), 0)
        self.assertEqual(self.deliver(5), 0)
        link.choked, link.room = False, None
        with self.turn:
            self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 2, 3, 4, 5])
        self.assertEqual(self.publisher.credits, [SIZE] * 3)
        self.assertEqual(self.stats.get("dropped_too_large"), 0)

    def test_limited_meanwhile(self) -> None:
        """They waited together, and then the peer took less at a time."""
        link = self.slow()
        self.deliver(1, 2, 3)
        link.choked, link.room = False, 2 * SIZE
        self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 2])
        self.assertEqual(self.publisher.credits, [])
        link.room = SIZE
        self.hub.link_has_room(link)
        self.assertEqual(link.numbers, [1, 2, 3])
        self.assertEqual(self.publisher.credits, [SIZE] * 3)

    def test_dropped(self) -> None:
        """All that waited is counted, one by one."""
        link = self.slow()
        self.deliver(1, 2)
        self.deliver(3)
        self.hub.forget_link(link)
        self.assertEqual(self.stats.get("dropped_closed"), 3)
        self.assertEqual(self.publisher.credits, [SIZE] * 3)

    def test_refused(self) -> None:
        """A peer that takes none has all of them counted, and nothing waits."""
        link = self.subscribe(FakeLink())
        link.refuse_rc = errno.EOPNOTSUPP
        self.assertEqual(self.deliver(1, 2), 2)
        self.assertEqual(self.stats.get("dropped_refused"), 2)
