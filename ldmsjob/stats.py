"""What every layer reports into: counters, gauges and histograms, in named groups.

`ldmsjob status` and the metrics for Prometheus read here and nowhere else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from zope.interface import implementer

from ldmsjob.errors import PLUGIN_FAULTS
from ldmsjob.interfaces import IStats

BOUNDS = (
    *(0.000_05, 0.000_1, 0.000_25, 0.000_5),
    *(0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
"""Upper ends in seconds of a histogram's buckets; behind them is one for all that took longer."""

MAX_NEW = 256
"""Values that a histogram keeps before it puts them into its buckets."""

RECENT_SECONDS = 3600.0
"""What happened in this time is recent."""

LOOK_SECONDS = 300.0
"""How often the counters are noted down, to tell later what is recent."""


class Histogram:
    """How long something took, in buckets of fixed bounds."""

    __slots__ = ("_counts", "_largest", "_total", "new")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = self._largest = 0.0
        self.new: list[float] = []
        """What is in no bucket yet: many at once are put there in a fraction of the time. Who
        observes very often appends to it, and calls ``settle`` when there are ``MAX_NEW``."""

    def observe(self, seconds: float) -> None:
        """It took that long once more."""
        self.new.append(seconds)
        if len(self.new) >= MAX_NEW:
            self.settle()

    def settle(self) -> None:
        """Put into buckets what is new."""
        new = self.new
        if not new:
            return
        new.sort()
        self._total += sum(new)
        self._largest = max(self._largest, new[-1])
        below = 0
        for bucket, bound in enumerate(BOUNDS):
            reached = bisect_right(new, bound, below)
            self._counts[bucket] += reached - below
            below = reached
        self._counts[-1] += len(new) - below
        new.clear()

    @property
    def counts(self) -> Sequence[int]:
        """By bucket; the last one is without an upper end."""
        self.settle()
        return self._counts

    @property
    def total(self) -> float:
        """All seconds together."""
        self.settle()
        return self._total

    @property
    def largest(self) -> float:
        """The longest; 0 when nothing was observed."""
        self.settle()
        return self._largest

    @property
    def count(self) -> int:
        """How often it was observed."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Within how many seconds that share was done, at most: the upper end of its bucket, or
        the largest that there was. None when nothing was observed."""
        counts = self.counts
        wanted = share * sum(counts)
        if not wanted:
            return None
        reached = 0
        for bound, count in zip(BOUNDS, counts, strict=False):
            reached += count
            if reached >= wanted:
                return min(bound, self.largest)
        return self.largest


@implementer(IStats)
class Stats:
    """A named group of counters, gauges and histograms, with named groups below it."""

    __slots__ = ("_children", "_gauges", "_kept", "histograms", "name", "values")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.values: dict[str, int] = {}
        """What was added, by counter."""
        self._kept: dict[str, Callable[[], int]] = {}
        self.histograms: dict[str, Histogram] = {}
        self._gauges: dict[str, Callable[[], float | None]] = {}
        self._children: dict[str, Stats] = {}

    def add(self, counter: str, amount: int = 1) -> None:
        """Add ``amount`` to a counter that starts at 0 when it is first named."""
        values = self.values
        values[counter] = values.get(counter, 0) + amount

    def get(self, counter: str) -> int:
        """The present value; 0 for a counter that nobody has added to."""
        value = self.values.get(counter, 0)
        return value + self._kept[counter]() if counter in self._kept else value

    def counts(self, counter: str, read: Callable[[], int]) -> None:
        """Have ``read`` tell a counter that is kept elsewhere, because it is counted too often for
        ``add``. What was added all the same is added to that. In the place of any earlier one."""
        self._kept[counter] = read

    def counters(self) -> dict[str, int]:
        """All present values by counter."""
        if not self._kept:
            return self.values
        return self.values | {counter: self.get(counter) for counter in self._kept}

    def gauge(self, name: str, read: Callable[[], float | None]) -> None:
        """Have ``read`` tell a present value whenever somebody asks, in the place of any earlier
        one of that name. None: there is no value now."""
        self._gauges[name] = read

    def remove_gauge(self, name: str) -> None:
        """Tell that value no longer."""
        self._gauges.pop(name, None)

    def gauges(self) -> dict[str, float]:
        """The present values, by name, sorted. One that cannot be read is left out and counted as
        ``gauge_failures``."""
        values = {}
        for name, read in sorted(self._gauges.items()):
            try:
                value = read()
            except PLUGIN_FAULTS:
                self.add("gauge_failures")
            else:
                if value is not None:
                    values[name] = value
        return values

    def histogram(self, name: str) -> Histogram:
        """The histogram of that name, made at its first use. Who observes often keeps it."""
        histogram = self.histograms.get(name)
        if histogram is None:
            histogram = self.histograms[name] = Histogram()
        return histogram

    def observe(self, name: str, seconds: float) -> None:
        """Something took that long: count it in the histogram of that name."""
        self.histogram(name).observe(seconds)

    def child(self, name: str) -> Stats:
        """The group of that name below this one, made at its first use."""
        group = self._children.get(name)
        if group is None:
            group = self._children[name] = Stats(name)
        return group

    def remove_child(self, name: str) -> None:
        """Forget a group with all that is in it, e.g. that of an instance that is terminated."""
        self._children.pop(name, None)

    def walk(self) -> Iterator[tuple[tuple[str, ...], Stats]]:
        """All groups below this one, sorted, each with its name and those above it."""
        for name, group in sorted(self._children.items()):
            yield (name,), group
            for path, below in group.walk():
                yield (name, *path), below

    def settle(self) -> None:
        """Have all histograms put into buckets what is new, here and below."""
        for histogram in self.histograms.values():
            histogram.settle()
        for group in self._children.values():
            group.settle()

    def groups(self) -> Iterator[tuple[str, dict[str, int]]]:
        """The groups below this one as ``a/b`` and their counters, without those that are 0.

        Groups and counters are sorted; a group without counters is left out.
        """
        for path, group in self.walk():
            counted = {
                counter: value for counter, value in sorted(group.counters().items()) if value
            }
            if counted:
                yield "/".join(path), counted


class Recently:
    """Remembers what the counters were, so that it can be told what they counted recently.

    ``clock`` makes the calls, ``now`` gives monotonic seconds. ``start`` and ``stop`` it.
    """

    def __init__(
        self,
        stats: Stats,
        clock: Any,
        now: Callable[[], float],
        *,
        recent_seconds: float = RECENT_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._stats = stats
        self._clock = clock
        self._now = now
        self._recent_seconds = recent_seconds
        self._look_seconds = look_seconds
        self._noted: deque[tuple[float, Mapping[str, Mapping[str, int]]]] = deque()
        self._call: Any = None

    def start(self) -> None:
        """Everything that was counted before now is recent, too."""
        self._noted.append((self._now(), {}))
        self._call = self._clock.callLater(self._look_seconds, self._look)

    def stop(self) -> None:
        """Note nothing down any more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        now = self._now()
        self._noted.append((now, dict(self._stats.groups())))
        # The oldest but one is old enough.
        while len(self._noted) > 1 and now - self._noted[1][0] >= self._recent_seconds:
            self._noted.popleft()
        self._call = self._clock.callLater(self._look_seconds, self._look)

    def counted(self) -> tuple[float, dict[str, dict[str, int]]]:
        """For how many seconds back, and what was counted in these: groups as ``a/b``, and their
        counters that have grown."""
        if not self._noted:
            return 0.0, dict(self._stats.groups())
        since, before = self._noted[0]
        result = {}
        for group, counters in self._stats.groups():
            known = before.get(group, {})
            grown = {
                name: value - known.get(name, 0)
                for name, value in counters.items()
                if value > known.get(name, 0)
            }
            if grown:
                result[group] = grown
        return self._now() - since, result
