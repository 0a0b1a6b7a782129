"""How much of a rate is left in the present second (docs/wire.md, Limits of the peer)."""

from __future__ import annotations

SECOND_US = 1_000_000


class RateWindow:
    """A budget of bytes that is whole again at the start of each wall-clock second.

    ``rate`` is in bytes per second, not negative; 0 lets only empty messages through. A clock that
    is set back begins a new second like any other.
    """

    __slots__ = ("_left", "_second", "rate")

    def __init__(self, rate: int) -> None:
        if rate < 0:
            raise ValueError(f"no limit: {rate}")
        self.rate = rate
        self._left = rate
        self._second = -1

    def fits(self, size: int, now_us: int) -> bool:
        """Whether ``take`` would allow it."""
        if now_us // SECOND_US != self._second:
            return size <= self.rate
        return size <= self._left

    def take(self, size: int, now_us: int) -> bool:
        """Take ``size`` bytes off what is left of the second of ``now_us``; False, and nothing is
        taken, where that is less."""
        second = now_us // SECOND_US
        if second != self._second:
            self._second = second
            self._left = self.rate
        if size > self._left:
            return False
        self._left -= size
        return True

    def change(self, rate: int) -> None:
        """Another rate, in force at once: what this second has used stays used."""
        if rate < 0:
            raise ValueError(f"no limit: {rate}")
        self._left += rate - self.rate
        self.rate = rate


def us_to_next_second(now_us: int) -> int:
    """How long until budgets are whole again: 1 to 1,000,000 microseconds."""
    return SECOND_US - now_us % SECOND_US
