"""Sends messages to the links of subscribers, now or when they have room (docs/messages.md).

Messages that came together and go the same way stay together, in one command, as long as the peer
has room for all of them: so they cost little more than one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from ldmsjob.errors import PublishError

if TYPE_CHECKING:
    from ldmsjob.heldcredit import Held, HeldCredit
    from ldmsjob.limitedlog import LimitedLog
    from ldmsjob.limits import Limits
    from ldmsjob.outlets import Outlet
    from ldmsjob.stats import Stats
    from ldmsjob.wire.events import Forward, Publish


class Waiting:
    """What waits in the queues of outlets.

    ``credit`` holds the credit of it. ``limits`` may be set at any time, and ``on_begun``, which is
    called when something waits after nothing did; ``drop_stuck`` should then be called every few
    seconds while there is something.
    """

    def __init__(
        self, stats: Stats, limited: LimitedLog, credit: HeldCredit, limits: Limits
    ) -> None:
        self.limits = limits
        self.on_begun: Callable[[], None] = lambda: None
        self._stats = stats
        self._limited = limited
        self._credit = credit
        self._outlets: dict[Outlet, None] = {}
        self._forwarded = 0
        stats.counts("forwarded", lambda: self._forwarded)
        stats.gauge("waiting", lambda: sum(one.queued for one in self._outlets))
        stats.gauge("waiting_bytes", lambda: sum(one.queued_bytes for one in self._outlets))

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self._outlets)

    def send(self, outlet: Outlet, command: Forward | Publish) -> bool:
        """Send it, past what waits there, if there is room for all of it. False: nothing was done;
        of several messages perhaps some can be sent."""
        link = outlet.link
        if not link.can_publish(command.credit):
            return False
        outlet.stuck = False
        try:
            link.send(command)
        except PublishError as error:
            if command.count > 1:
                return False
            # It can never have it; for instance its service went off after it had subscribed.
            too_large = error.rc == errno.EMSGSIZE
            self._stats.add("dropped_too_large" if too_large else "dropped_refused")
        else:
            self._forwarded += command.count
        return True

    def offer(self, outlet: Outlet, command: Forward | Publish, held: Held | None) -> None:
        """Send it, or let it wait, or drop it. ``held`` is whose credit is held meanwhile, if
        anybody's. Several messages may be offered together where ``outlet.waits_to_read``."""
        if outlet.queue or not self.send(outlet, command):
            self._enqueue(outlet, command, held)

    def _enqueue(self, outlet: Outlet, command: Forward | Publish, held: Held | None) -> None:
        """Let it wait for room, unless it would wait for ever or too much waits already."""
        peer, size, count = outlet.link.peer, command.credit, command.count
        if not outlet.open:
            self._stats.add("dropped_closed", count)
        elif outlet.stuck:
            self._stats.add("dropped_stuck", count)
        elif count == 1 and (size > peer.quota >= 0 or size > peer.rate >= 0):
            self._stats.add("dropped_too_large")
        elif outlet.queued_bytes + size <= self.limits.queue_bytes:
            outlet.append(command, held)
            self._stats.add("queued", count)
            if outlet not in self._outlets:
                outlet.moved = True
                self._outlets[outlet] = None
                # It must be read for its credit to arrive.
                self._credit.resume(outlet.link)
                if len(self._outlets) == 1:
                    self.on_begun()
        elif count > 1:
            for one in command.singly():
                self._enqueue(outlet, one, held)
        else:
            self._stats.add("dropped_queue_full")

    def has_room(self, outlet: Outlet) -> None:
        """Send what waits for it, as much as there is room for."""
        outlet.stuck = False
        queue, link = outlet.queue, outlet.link
        while queue:
            command = queue[0][0]
            if self.send(outlet, command):
                outlet.moved = True
                self._credit.settle(outlet.pop())
            elif command.count > 1 and link.has_room():
                outlet.split_first()
            else:
                return
        self._outlets.pop(outlet, None)

    def drop_stuck(self) -> None:
        """Drop what waits for subscribers that took nothing since the last call of this.

        So one that hangs holds its publishers up for a bounded time. Nothing waits for it again
        before it has shown that it has room.
        """
        for outlet in list(self._outlets):
            if not outlet.hangs:
                outlet.moved = False
                continue
            outlet.stuck = True
            self._limited.warn(
                "stuck",
                "{peer} takes no messages: dropped {count} that waited for it",
                peer=outlet.link.peer_address,
                count=outlet.queued,
            )
            self.drop(outlet, "dropped_stuck")

    def drop(self, outlet: Outlet, counter: str) -> None:
        """Drop all that waits there."""
        self._outlets.pop(outlet, None)
        if outlet.queue:
            self._stats.add(counter, outlet.queued)
        while outlet.queue:
            self._credit.settle(outlet.pop())
