"""What the message hub knows of the peers that want messages: what each wants, what waits for it.

A peer's connection is a link, or it is a rail of several; either is one ``Subscriber``. Messages
wait for a link in its ``Outlet``, so a rail has several of those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from ldmsjob.interfaces import ILink, IRail
from ldmsjob.wire.events import UNLIMITED, Forward, PeerInfo, Publish
from ldmsjob.wire.rail import endpoint_of
from ldmsjob.wire.rates import RateWindow

if TYPE_CHECKING:
    from ldmsjob.ere import Ere
    from ldmsjob.heldcredit import Held
    from ldmsjob.wire.events import Credential, WireCommand
    from ldmsjob.wire.setevents import SetCommand

MAX_REGEX_SIZE = 2000
"""Sizes of a subscriber's expressions together: what one character of a channel name may cost."""

MAX_COMPILES = 50
"""Expressions that a subscriber may send in one second, good or bad: compiling takes time."""

MAX_REGEX_CHANNEL = 255
"""Channel names longer than this are found by exact subscriptions only."""


class Outlet:
    """A link to a peer that has subscriptions."""

    __slots__ = ("link", "moved", "open", "queue", "queued", "queued_bytes", "stuck")

    def __init__(self, link: ILink) -> None:
        self.link = link
        self.open = True
        self.queue: deque[tuple[Forward | Publish, Held | None]] = deque()
        self.queued = 0
        """How many messages that is."""
        self.queued_bytes = 0
        self.moved = True
        """Something was sent from the queue since it was last looked at."""
        self.stuck = False
        """Its queue was dropped: nothing waits for it until it has room again."""

    @property
    def hangs(self) -> bool:
        """Whether messages wait for more than the time that they must for the peer's rate."""
        return not self.moved and not self.link.waits_for_second(self.queue[0][0].credit)

    @property
    def waits_to_read(self) -> bool:
        """Whether more messages would wait for the peer to read, and not for its quota or rate."""
        link = self.link
        peer = link.peer
        return peer.quota < 0 and peer.rate < 0 and bool(self.queue or not link.has_room())

    def append(self, command: Forward | Publish, held: Held | None) -> None:
        """Have it wait behind what waits already."""
        self.queue.append((command, held))
        self.queued += command.count
        self.queued_bytes += command.credit
        if held is not None:
            held.waiting += 1

    def pop(self) -> Held | None:
        """Take the first off the queue; returns whose credit was held meanwhile."""
        command, held = self.queue.popleft()
        self.queued -= command.count
        self.queued_bytes -= command.credit
        return held

    def split_first(self) -> None:
        """Have the messages of the first command wait one by one."""
        command, held = self.queue.popleft()
        singles: Sequence[Forward | Publish] = command.singly()
        self.queue.extendleft((one, held) for one in reversed(singles))
        if held is not None:
            held.waiting += len(singles) - 1


class Wish:
    """One subscription: ``expression``, or exactly the channel ``match``, at a ``rate``."""

    __slots__ = ("expression", "match", "subscriber", "window")

    def __init__(
        self, subscriber: Subscriber, match: str, expression: Ere | None, rate: int
    ) -> None:
        self.subscriber = subscriber
        self.match = match
        self.expression = expression
        self.window = None if rate < 0 else RateWindow(rate)

    def matches(self, channel: str) -> bool:
        """Whether messages of that channel are wanted."""
        if self.expression is None:
            return channel == self.match
        return len(channel) <= MAX_REGEX_CHANNEL and self.expression.search(channel)


class Subscriber:
    """A link, or all the links of a rail: what its peer wants."""

    __slots__ = ("credential", "open", "outlets", "rail", "wishes")

    def __init__(self, link: ILink) -> None:
        self.rail: IRail | None = link.rail
        self.credential = link.credential
        self.open = True
        self.wishes: dict[str, Wish] = {}
        """By match text."""
        self.outlets: dict[int, Outlet] = {} if self.rail else {0: Outlet(link)}
        """By the index of the endpoint; those of a rail are made when they are needed."""

    def has_room_for(self, regex_size: int) -> bool:
        """Whether its expressions stay within their limit with one more, of that many bytes; 0 of a
        subscription without one."""
        wishes = self.wishes
        if not regex_size:
            return True
        sizes = sum(one.expression.size for one in wishes.values() if one.expression is not None)
        return sizes + regex_size <= MAX_REGEX_SIZE

    def is_origin(self, origin: ILink) -> bool:
        """Whether a message of that link came from here."""
        return origin.rail is self.rail if self.rail else origin is self.outlets[0].link

    def close(self) -> None:
        """Its links have closed: nothing waits for them any more."""
        self.open = False
        for outlet in self.outlets.values():
            outlet.open = False

    def outlet_for(self, command: Forward | Publish) -> Outlet:
        """Where a message goes out: on a rail, always the same for one source and channel."""
        rail = self.rail
        if rail is None:
            return self.outlets[0]
        index = endpoint_of(command, rail.size)
        outlet = self.outlets.get(index)
        if outlet is None:
            links: Mapping[int, ILink] = rail.links
            outlet = Outlet(links.get(index) or _AbsentLink(self.credential))
            outlet.open = self.open
            self.outlets[index] = outlet
        return outlet


class Route:
    """Who gets the messages of one channel: the receiver in this process, or None, and peers.

    ``outlets`` has those that get every message, over their only link; once for each subscription.
    ``wishes`` has the others: they have a rate, or a rail.
    """

    __slots__ = ("forwards", "local", "outlets", "wishes")

    def __init__(self, local: Any, wishes: list[Wish]) -> None:
        self.local = local
        self.forwards = bool(wishes)
        """Whether there are any peers."""
        self.outlets = tuple(
            wish.subscriber.outlets[0]
            for wish in wishes
            if wish.window is None and wish.subscriber.rail is None
        )
        self.wishes = tuple(
            wish for wish in wishes if wish.window is not None or wish.subscriber.rail is not None
        )


@implementer(ILink)
class _AbsentLink:
    """Stands for an endpoint of a rail that is not open yet: takes nothing."""

    peer_address = "a rail's endpoint that is not open yet"
    peer = PeerInfo(auth="", pid=0, messages_enabled=True, quota=UNLIMITED, rate=UNLIMITED)
    rail = None
    endpoint = 0

    def __init__(self, credential: Credential) -> None:
        self.credential = credential

    def can_publish(self, size: int) -> bool:
        """No."""
        return False

    def waits_for_second(self, size: int) -> bool:
        """For more than that."""
        return False

    def has_room(self) -> bool:
        """No."""
        return False

    def send(self, command: WireCommand | SetCommand) -> None:
        """Nothing is sent."""

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def close(self) -> None:
        """It is not open."""

    def abort(self, reason: str) -> None:
        """It is not open."""
