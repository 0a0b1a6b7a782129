"""Gives memory back to the system when many jobs have gone.

What is freed stays with the process: the C library keeps it for later, nearly all of it between
pieces that are still in use. After a burst of jobs that would be more than the daemon itself.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

MANY = 1000
"""So many jobs have to go before it is worth the time."""

FEW = 50
"""No more than these may go in ``LOOK_SECONDS``: while more do, others take their memory."""

LOOK_SECONDS = 1.0


def giver() -> Callable[[], None]:
    """A function that gives back what is free, as far as the C library can, in some milliseconds.

    Make it early: what is loaded for it then does not stand among what is to be given back, where
    it would keep that from going.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def give_back() -> None:
        gc.collect()
        if trim is not None:
            trim(0)

    return give_back


class Memory:
    """Calls ``give_back`` in the pause after many jobs have gone, by default a ``giver``'s.

    ``let_go`` is called first: small things that are kept until there are enough of them, made
    while there were many jobs, would each keep a MiB.
    """

    def __init__(
        self,
        clock: IReactorTime,
        let_go: Callable[[], None],
        *,
        give_back: Callable[[], None] | None = None,
        many: int = MANY,
    ) -> None:
        self._clock = clock
        self._let_go = let_go
        self._give_back = give_back or giver()
        self._many = many
        self._gone = 0
        self._seen = 0
        self._timer: Any = None
        self._closed = False

    def job_gone(self) -> None:
        """A job has gone, with all that was known of it."""
        self._gone += 1
        if self._gone >= self._many and self._timer is None and not self._closed:
            self._look_later()

    def close(self) -> None:
        """Look no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._closed = True

    def _look_later(self) -> None:
        self._seen = self._gone
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._gone - self._seen > FEW:
            self._look_later()
        else:
            self._gone = 0
            self._let_go()
            self._give_back()
