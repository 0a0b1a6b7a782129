"""The credit of messages that wait for slow subscribers (docs/messages.md).

It is returned when messages have reached the last of them or are dropped. A publisher of whom much
waits is read no further meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ldmsjob.wire.events import ReturnCredit

if TYPE_CHECKING:
    from ldmsjob.interfaces import ILink, IStats
    from ldmsjob.turns import Turn
    from ldmsjob.wire.events import Forward

PAUSE_BYTES = 256 * 1024
"""A publisher of whom more than this waits for slow subscribers is read no further for a while."""


class Held:
    """Messages that are handed out together and have not reached all their subscribers, and whom to
    credit when they have.

    ``waiting`` counts what of them is in queues, and one more while they are being handed out.
    """

    __slots__ = ("credit", "messages", "origin", "waiting")

    def __init__(self, origin: ILink, run: Forward) -> None:
        self.origin = origin
        self.messages = run.messages
        self.credit = run.credit
        self.waiting = 1


class HeldCredit:
    """What is held of each publisher.

    ``awaits_credit`` tells whether messages wait for that link: it is read on, or its credit could
    not arrive.
    """

    def __init__(
        self,
        turn: Turn,
        stats: IStats,
        pause_bytes: int,
        awaits_credit: Callable[[ILink], bool],
    ) -> None:
        self._turn = turn
        self._stats = stats
        self._pause_bytes = pause_bytes
        self._awaits_credit = awaits_credit
        self._bytes: dict[ILink, int] = {}
        self._paused: set[ILink] = set()
        self._due: dict[ILink, list[int]] = {}

    def hold(self, held: Held) -> None:
        """They wait. Read their publisher no further when that becomes much."""
        origin = held.origin
        total = self._bytes.get(origin, 0) + held.credit
        self._bytes[origin] = total
        if total <= self._pause_bytes or origin in self._paused:
            return
        if not self._awaits_credit(origin):
            self._paused.add(origin)
            self._stats.add("publishers_paused")
            origin.pause_reading()

    def settle(self, held: Held | None) -> None:
        """Something of them that waited is dealt with."""
        if held is None:
            return
        held.waiting -= 1
        if held.waiting:
            return
        origin = held.origin
        if origin not in self._bytes:
            return  # It closed meanwhile.
        total = self._bytes[origin] - held.credit
        if total > 0:
            self._bytes[origin] = total
        else:
            del self._bytes[origin]
        if total <= self._pause_bytes // 2:
            self.resume(origin)
        due = self._due.setdefault(origin, [])
        due += [message.credit for message in held.messages]
        self._turn.at_end(self._return_due)

    def resume(self, link: ILink) -> None:
        """Read that link on."""
        if link in self._paused:
            self._paused.discard(link)
            link.resume_reading()

    def forget(self, link: ILink) -> None:
        """It has closed."""
        if self._bytes or self._due:
            self._bytes.pop(link, None)
            self._paused.discard(link)
            self._due.pop(link, None)

    def _return_due(self) -> None:
        """Return the credit of all messages that waited and have been dealt with."""
        due, self._due = self._due, {}
        for link, amounts in due.items():
            link.send(ReturnCredit(amounts))
