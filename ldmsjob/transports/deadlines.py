"""Deadlines of handshakes: one timer for all links of a listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from ldmsjob.transports.link import LinkProtocol


class Deadlines:
    """Calls ``too_late`` of links whose handshakes take longer than ``seconds``.

    Nearly all are done long before that, so the timer stays when nobody is waited for: it looks
    seldom, which costs less than to set and cancel one for each link. Not so where it is not
    ``lasting``, nor after ``end_timer``.
    """

    def __init__(self, clock: IReactorTime, seconds: float, *, lasting: bool = False) -> None:
        self.seconds = seconds
        self._clock = clock
        self._lasting = lasting
        self._due: dict[LinkProtocol, float] = {}  # the one that is due first comes first
        self._timer: IDelayedCall | None = None

    def begin(self, link: LinkProtocol) -> None:
        """Its handshake begins."""
        self._due[link] = self._clock.seconds() + self.seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self.seconds, self._look)

    def end(self, link: LinkProtocol) -> None:
        """Its handshake is done or given up."""
        if self._due.pop(link, None) is not None and not self._lasting:
            self.end_timer()

    def end_timer(self) -> None:
        """No more links are expected: have no timer when there is none left."""
        self._lasting = False
        if self._timer is not None and not self._due:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        while self._due:
            link, due = next(iter(self._due.items()))
            wait = due - self._clock.seconds()
            if wait > 0:
                if self._timer is None:
                    self._timer = self._clock.callLater(wait, self._look)
                return
            del self._due[link]
            link.too_late()
