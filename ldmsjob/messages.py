"""The message hub: who in this process and which peers get a message (docs/messages.md).

A message comes from a link (``deliver``) or from this process (``publish``). It goes to the one
local receiver of its channel and to every link whose peer subscribed to it. Nothing is stored: no
subscriber, no delivery.

What a publisher may have under way is bounded by the credit that it gets back. The credit of a
message is held while the message waits for a slow subscriber, and returned exactly once, whatever
becomes of the message.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from ldmsjob.clocks import wall_clock_us
from ldmsjob.ere import Ere, EreError, size_of
from ldmsjob.errors import PLUGIN_FAULTS, ChannelTaken, ConfigError, PublishError
from ldmsjob.heldcredit import PAUSE_BYTES, Held, HeldCredit
from ldmsjob.interfaces import ILink, IRail, ISubscription
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.limits import Limits
from ldmsjob.outlets import MAX_COMPILES, Outlet, Route, Subscriber, Wish
from ldmsjob.permissions import READ, may_access, trusted_publishers
from ldmsjob.waiting import Waiting
from ldmsjob.wire.events import (
    JSON,
    MAX_HOPS,
    MAX_MESSAGE_BYTES,
    STRING,
    UNLIMITED,
    Forward,
    Message,
    Publish,
)
from ldmsjob.wire.rates import RateWindow

if TYPE_CHECKING:
    from ldmsjob.stats import Stats
    from ldmsjob.turns import Turn

Receiver = Callable[[Message], None]

MAX_ROUTES = 1024
"""Channels whose subscribers are remembered. Peers invent channel names, so there is a bound."""


@implementer(ISubscription)
class _LocalSubscription:
    """The one receiver in this process of one channel."""

    __slots__ = ("_hub", "channel", "owner", "publishers", "receiver")

    def __init__(
        self,
        hub: MessageHub,
        channel: str,
        receiver: Receiver,
        owner: str,
        publishers: frozenset[int],
    ) -> None:
        self._hub = hub
        self.channel = channel
        self.receiver = receiver
        self.owner = owner
        self.publishers = publishers

    def close(self) -> Deferred[None]:
        """Receive no more from now on."""
        self._hub._unsubscribe_local(self)
        return succeed(None)


class MessageHub:
    """Channels, subscribers and what waits for them.

    Starts disabled, like ``ldmsd``. ``now`` gives monotonic seconds, for log limits only;
    ``wall_clock_us`` is what the rates of subscriptions go by. ``own_uid`` is whom this process
    runs as, by default its effective uid when a receiver subscribes: a daemon that root started may
    have become another user by then.
    """

    log = Logger(namespace="ldmsd")

    def __init__(
        self,
        stats: Stats,
        turn: Turn,
        *,
        now: Callable[[], float] = time.monotonic,
        wall_clock_us: Callable[[], int] = wall_clock_us,
        own_uid: int | None = None,
        limits: Limits | None = None,
        pause_bytes: int = PAUSE_BYTES,
    ) -> None:
        self.enabled = False
        self._stats = stats
        self._limited = LimitedLog(self.log, now=now)
        self._wall_clock_us = wall_clock_us
        self._own_uid = own_uid
        self._subscriptions = 0
        self._locals: dict[str, _LocalSubscription] = {}
        self._subscribers: dict[ILink | IRail, Subscriber] = {}
        self._compiles: dict[ILink | IRail, RateWindow] = {}
        self._outlets: dict[ILink, Outlet] = {}
        """Of the links that are open. A rail's are added when messages first go there."""
        self._routes: dict[str, Route] = {}
        self._credit = HeldCredit(turn, stats, pause_bytes, self._awaits_credit)
        self._waiting = Waiting(stats, self._limited, self._credit, limits or Limits())
        self._published = 0
        stats.gauge("subscribers", lambda: len(self._subscribers))
        stats.gauge("subscriptions", lambda: self._subscriptions)

    @property
    def limits(self) -> Limits:
        """What subscriptions and queues keep to. May be set at any time."""
        return self._waiting.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._waiting.limits = limits

    # The switch

    def enable(self) -> None:
        """Accept subscriptions and messages from now on."""
        self.enabled = True

    def disable(self) -> None:
        """Refuse new subscriptions and messages from now on. Those that exist, and messages that
        wait for a subscriber, stay."""
        self.enabled = False

    # Receivers in this process

    def subscribe(
        self, channel: str, receiver: Receiver, owner: str, publishers: Iterable[int] = ()
    ) -> ISubscription:
        """Call ``receiver`` with each message of exactly that channel that root, the user of this
        process or one of the uids ``publishers`` has published.

        ``owner`` is the name of the plugin instance, for messages to people. Raises
        ``ChannelTaken`` when the channel has a receiver, ``ConfigError`` with rc 95 when the
        service is off.
        """
        if not self.enabled:
            raise ConfigError(
                "the message service is off",
                rc=errno.EOPNOTSUPP,
                hint="put msg_enable in front of this line",
            )
        taken = self._locals.get(channel)
        if taken is not None:
            raise ChannelTaken(f"{taken.owner} already receives channel {channel!r}")
        own_uid = os.geteuid() if self._own_uid is None else self._own_uid
        trusted = trusted_publishers(own_uid, publishers)
        subscription = _LocalSubscription(self, channel, receiver, owner, trusted)
        self._locals[channel] = subscription
        self._routes.clear()
        return subscription

    def _unsubscribe_local(self, subscription: _LocalSubscription) -> None:
        if self._locals.get(subscription.channel) is subscription:
            del self._locals[subscription.channel]
            self._routes.clear()

    # Subscriptions of links

    def subscribe_link(
        self, link: ILink, match: str, is_regex: bool = False, rate: int = UNLIMITED
    ) -> tuple[int, str]:
        """Forward messages of channels that fit ``match`` to that link, or to the rail that it is
        part of; ends when it closes. ``rate`` is in bytes of data per second: what does not fit is
        dropped for this subscription. 0 blocks everything; negative is unlimited.

        Returns the errno and the text to answer a peer that asked for it: ``(0, "OK")``, or why
        not.
        """
        if not self.enabled:
            return errno.EOPNOTSUPP, "LDMS Message Service disabled"
        subscriber = self._subscribers.get(link.rail or link)
        if subscriber is not None and match in subscriber.wishes:
            return errno.EEXIST, "Subscription already existed"
        if subscriber is None:
            subscriber = Subscriber(link)
        limits = self.limits
        if self._subscriptions >= limits.subscriptions:
            return errno.ENOSPC, "Too many subscriptions of all peers"
        if len(subscriber.wishes) >= limits.subscriptions_per_link or not (
            subscriber.has_room_for(size_of(match) if is_regex else 0)
        ):
            return errno.ENOSPC, "Too many subscriptions on this connection"
        expression = None
        if is_regex:
            if not self._may_compile(link):
                return errno.EAGAIN, "Too many expressions in one second"
            try:
                expression = Ere(match)
            except EreError as error:
                return errno.EINVAL, f"Client allocation failure: {error}"
        if link.rail is None:
            self._outlets[link] = subscriber.outlets[0]
        self._subscribers[link.rail or link] = subscriber
        subscriber.wishes[match] = Wish(subscriber, match, expression, rate)
        self._subscriptions += 1
        self._routes.clear()
        return 0, "OK"

    def _may_compile(self, link: ILink) -> bool:
        """Whether the link, or its rail, may send one more expression in this second."""
        window = self._compiles.get(link.rail or link)
        if window is None:
            window = self._compiles[link.rail or link] = RateWindow(MAX_COMPILES)
        return window.take(1, self._wall_clock_us())

    def unsubscribe_link(self, link: ILink, match: str) -> tuple[int, str]:
        """End the subscription with that text, exact or not. Returns what to answer the peer.

        Messages that already wait for the link are still sent.
        """
        subscriber = self._subscribers.get(link.rail or link)
        if subscriber is None or match not in subscriber.wishes:
            return errno.ENOENT, "Subscription not found"
        del subscriber.wishes[match]
        self._subscriptions -= 1
        self._routes.clear()
        return 0, "OK"

    def endpoint_opened(self, link: ILink) -> None:
        """One more endpoint of a rail is open: send what waits for it."""
        subscriber = self._subscribers.get(link.rail or link)
        outlet = None if subscriber is None else subscriber.outlets.get(link.endpoint)
        if outlet is not None:
            self._outlets.pop(outlet.link, None)
            outlet.link = link
            self._outlets[link] = outlet
            self.link_has_room(link)

    def forget_link(self, link: ILink) -> None:
        """The link has closed, and its rail with it: end their subscriptions, and settle what
        waited for them."""
        peer = link.rail or link
        self._compiles.pop(peer, None)
        subscriber = self._subscribers.pop(peer, None)
        if subscriber is not None:
            self._routes.clear()
            self._subscriptions -= len(subscriber.wishes)
            subscriber.close()
            for outlet in subscriber.outlets.values():
                self._outlets.pop(outlet.link, None)
                self._waiting.drop(outlet, "dropped_closed")
        self._credit.forget(link)

    # Messages

    def deliver(self, messages: Sequence[Message], origin: ILink) -> tuple[list[int], list[int]]:
        """Hand out messages that ``origin`` brought, in their order.

        Returns the credit of each of those whose credit may go back at the end of the turn, and of
        each of those that are refused because the service is off. The others wait for slow
        subscribers, and the hub itself returns their credit.
        """
        credits: list[int] = []
        refused: list[int] = []
        routes = self._routes
        # Those that the same peers may read, one behind the other.
        together: list[Message] = []
        way: Route | None = None
        uid = gid = perm = 0
        for message in messages:
            if not self.enabled:
                refused.append(message.credit)
                continue
            route = routes.get(message.channel)
            if route is None:
                route = self._find_route(message.channel)
            if route.local is not None:
                self._receive(route.local, message, origin.peer_address)
            if not route.forwards:
                credits.append(message.credit)
            elif message.hop_count > MAX_HOPS:
                self._stats.add("dropped_hops")
                credits.append(message.credit)
            elif (
                route is way and message.uid == uid and message.gid == gid and message.perm == perm
            ):
                together.append(message)
            else:
                if way is not None:
                    credits += self._forward(way, together, origin)
                together, way = [message], route
                uid, gid, perm = message.uid, message.gid, message.perm
        if way is not None:
            credits += self._forward(way, together, origin)
        return credits, refused

    def publish(
        self,
        channel: str,
        data: bytes,
        *,
        kind: int = JSON,
        uid: int = 0,
        gid: int = 0,
        perm: int = 0o440,
    ) -> None:
        """Publish a message of this process. Text is given the NUL at its end that C readers need.

        Raises ``PublishError``: rc 95 when the service is off, 90 when it is too long, 22 when the
        channel's name cannot be one. No subscriber is no error.
        """
        if not self.enabled:
            raise PublishError("the message service is off", rc=errno.EOPNOTSUPP)
        if not channel or "\0" in channel:
            raise PublishError(f"{channel!r} is no name of a channel", rc=errno.EINVAL)
        if kind in (STRING, JSON) and not data.endswith(b"\0"):
            data += b"\0"
        size = len(channel.encode("utf-8", "surrogateescape")) + 1 + len(data)
        if size > MAX_MESSAGE_BYTES:
            raise PublishError(
                f"a message of {size} bytes is longer than {MAX_MESSAGE_BYTES}", rc=errno.EMSGSIZE
            )
        message = Message(
            channel=channel,
            kind=kind,
            uid=uid,
            gid=gid,
            perm=perm,
            hop_count=0,
            number=self._published,
            source=None,
            credit=size,
            image=data,
            body_offset=0,
        )
        self._published += 1
        route = self._find_route(channel)
        if route.local is not None:
            self._receive(route.local, message, "this process")
        command = Publish(channel=channel, data=data, kind=kind, uid=uid, gid=gid, perm=perm)
        for outlet in route.outlets:
            if self._may_read(outlet.link, message):
                self._waiting.offer(outlet, command, None)
        for wish in route.wishes:
            self._offer_to_wish(wish, command, message, None)

    def _find_route(self, channel: str) -> Route:
        """The channel's route, worked out when it is not remembered."""
        route = self._routes.get(channel)
        if route is None:
            route = Route(
                self._locals.get(channel),
                [
                    wish
                    for subscriber in self._subscribers.values()
                    for wish in subscriber.wishes.values()
                    if wish.matches(channel)
                ],
            )
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[channel] = route
        return route

    def _receive(self, local: _LocalSubscription, message: Message, peer: str) -> None:
        """Hand it to the receiver in this process."""
        if message.uid not in local.publishers:
            self._stats.add("publisher_refused")
            self._limited.warn(
                f"publisher {local.owner}",
                "message of uid {uid} on channel {channel} kept from {owner}, whose publishers="
                " does not name that uid; it came from {peer}",
                uid=message.uid,
                channel=local.channel,
                owner=local.owner,
                peer=peer,
            )
            return
        try:
            local.receiver(message)
        except PLUGIN_FAULTS:
            self._stats.add("receiver_failures")
            self._limited.failure(
                f"receiver {local.owner}",
                "{owner} failed on a message of channel {channel}",
                owner=local.owner,
                channel=local.channel,
            )

    def _forward(self, route: Route, messages: list[Message], origin: ILink) -> list[int]:
        """Send messages that are alike to the peers that may read them, or let them wait there.

        Returns their credit, but for what is held.
        """
        credits = [message.credit for message in messages]
        command = Forward(messages, len(messages), sum(credits))
        alike = messages[0]
        uid, gid, perm = alike.uid, alike.gid, alike.perm
        send = self._waiting.send
        slow = []
        for outlet in route.outlets:
            link = outlet.link
            if link is origin:
                continue
            if not may_access(link.credential, uid, gid, perm, READ):
                self._stats.add("forward_denied", command.count)
            elif outlet.queue or not send(outlet, command):
                slow.append(outlet)
        if not slow and not route.wishes:
            return credits
        together = not route.wishes and all(outlet.waits_to_read for outlet in slow)
        credits = []
        for part in (command,) if together else command.singly():
            held = Held(origin, part)
            for outlet in slow:
                self._waiting.offer(outlet, part, held)
            for wish in route.wishes:
                if not wish.subscriber.is_origin(origin):
                    self._offer_to_wish(wish, part, part.messages[0], held)
            held.waiting -= 1
            if held.waiting:
                self._credit.hold(held)
            else:
                credits += [message.credit for message in part.messages]
        return credits

    def _offer_to_wish(
        self, wish: Wish, command: Forward | Publish, message: Message, held: Held | None
    ) -> None:
        """Send one message for a subscription that has a rate, or belongs to a rail."""
        outlet = wish.subscriber.outlet_for(command)
        if outlet.open:
            self._outlets[outlet.link] = outlet
        window, data_bytes = wish.window, len(message.image) - message.body_offset
        if not self._may_read(outlet.link, message):
            return
        if window is not None and not window.take(data_bytes, self._wall_clock_us()):
            self._stats.add("dropped_rate")
        else:
            self._waiting.offer(outlet, command, held)

    def _may_read(self, link: ILink, message: Message, count: int = 1) -> bool:
        """Whether its peer may; if not, so many messages like that are counted."""
        if may_access(link.credential, message.uid, message.gid, message.perm, READ):
            return True
        self._stats.add("forward_denied", count)
        return False

    # Waiting

    def watch_waiting(self, on_waiting: Callable[[], None]) -> None:
        """Call ``on_waiting`` when messages begin to wait; ``drop_stuck`` should then be called
        every few seconds while ``waiting``."""
        self._waiting.on_begun = on_waiting

    @property
    def waiting(self) -> bool:
        """Whether messages wait for slow subscribers."""
        return bool(self._waiting)

    def link_has_room(self, link: ILink) -> None:
        """The link's peer returned credit, or what was buffered for it went out: send what waits
        for it, as much as there is room for."""
        outlet = self._outlets.get(link)
        if outlet is not None:
            self._waiting.has_room(outlet)

    def drop_stuck(self) -> None:
        """Drop what waits for subscribers that took nothing since the last call of this."""
        self._waiting.drop_stuck()

    def _awaits_credit(self, link: ILink) -> bool:
        """Whether messages wait for that link's peer: it must be read for its credit to arrive."""
        outlet = self._outlets.get(link)
        return outlet is not None and bool(outlet.queue)
