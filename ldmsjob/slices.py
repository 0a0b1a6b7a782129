"""Requests of one link, answered in their order: a slice of the answers in each turn.

What an answer takes, in bytes to send and in time to search, is counted against the slice that a
link has in one turn; what goes beyond, or comes from a peer that does not read our answers, waits
(docs/serving.md, Links that ask much).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ldmsjob.wire.setevents import LookupWanted, ReadsWanted

if TYPE_CHECKING:
    from ldmsjob.interfaces import ILink, IStats

SLICE_BYTES = 1024 * 1024
"""What one link may take in one turn; a step of an answer that was begun is finished."""

REQUEST_BYTES = 64
"""What any request counts for in a slice; one that waits counts for what it searches for, too."""


class Slices:
    """Whoever answers the requests of a link derives from it and defines ``answer``.

    ``may_wait`` tells whether so many bytes of requests may wait. ``continue_later`` is called with
    this object when a turn has ended and ``go_on`` is to be called in another one.
    """

    def __init__(
        self,
        link: ILink,
        stats: IStats,
        *,
        may_wait: Callable[[int], bool],
        continue_later: Callable[[Any], None],
    ) -> None:
        self.link = link
        self.spent = 0
        """Of this turn's slice."""
        self._stats = stats
        self._may_wait = may_wait
        self._continue_later = continue_later
        self._waiting: deque[Any] = deque()
        self._waiting_bytes = 0
        self._answering: Iterator[None] | None = None

    def answer(self, event: Any) -> Iterator[None] | None:
        """Answer a request at once; or, where that may take long, return the steps of the answer.
        A step ends when ``is_used_up``."""
        raise NotImplementedError

    def take(self, event: Any) -> None:
        """Answer a request, now or when those before it are answered."""
        if not self._waiting and self._answering is None and self._may_go_on():
            self._begin(event)
        elif self._may_wait(self._waiting_bytes + _size(event)):
            self._waiting.append(event)
            self._waiting_bytes += _size(event)
        else:
            self._waiting.clear()
            self._waiting_bytes = 0
            self._stats.add("refused.waiting")
            self.link.abort("does not read: too many of its requests wait for answers")

    def go_on(self) -> None:
        """Answer what waits, as much as a slice has room for."""
        while self._may_go_on():
            if self._answering is not None:
                self._step(self._answering)
            elif self._waiting:
                event = self._waiting.popleft()
                self._waiting_bytes -= _size(event)
                self._begin(event)
            else:
                return

    def end_slice(self) -> None:
        """A turn is over. What waits goes on in the next, or when the peer has read."""
        self.spent = 0
        if (self._waiting or self._answering is not None) and self.link.has_room():
            self._continue_later(self)

    def is_used_up(self) -> bool:
        """Whether the slice of this turn has no room left."""
        return self.spent >= SLICE_BYTES

    def drop_requests(self) -> None:
        """The link has closed: answer nothing any more."""
        self._waiting.clear()
        self._answering = None

    def _begin(self, event: Any) -> None:
        self.spent += REQUEST_BYTES
        steps = self.answer(event)
        if steps is not None:
            self._step(steps)

    def _step(self, steps: Iterator[None]) -> None:
        self._answering = steps
        for _pause in steps:
            return
        self._answering = None

    def _may_go_on(self) -> bool:
        return self.spent < SLICE_BYTES and self.link.has_room()


def _size(event: Any) -> int:
    """What a request that waits counts for."""
    if type(event) is ReadsWanted:
        return REQUEST_BYTES * len(event.reads)
    return REQUEST_BYTES + (len(event.path) if type(event) is LookupWanted else 0)
