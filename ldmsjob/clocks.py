"""The two clocks, which are never mixed.

Waiting is measured by the monotonic clock, which nobody can set: timers, deadlines, lingers and
limits of rate in time. What is shown, stored or compared with times of others goes by the wall
clock. Whoever sets the wall clock, by any amount, neither fires nor holds up a timer.
"""

from __future__ import annotations

import time
from typing import Any


def wall_clock_us() -> int:
    """Microseconds since the epoch. May be set forward and back at any time."""
    return time.time_ns() // 1000


def use_monotonic_clock(reactor: Any) -> None:
    """Have this reactor measure its timers by the monotonic clock; Twisted's go by the wall clock.

    ``reactor.seconds()`` then counts from no particular moment. To be called before any timer is
    set. A ``task.Clock`` needs nothing of the kind.
    """
    reactor.seconds = time.monotonic
