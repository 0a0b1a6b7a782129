"""Counters, gauges, histograms, and what is recent."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.interfaces import IStats
from ldmsjob.stats import BOUNDS, MAX_NEW, Histogram, Recently, Stats


class StatsTests(SynchronousTestCase):
    """One tree of groups."""

    def test_interface(self) -> None:
        """A group is what plugins get."""
        verifyObject(IStats, Stats())

    def test_gauges(self) -> None:
        """They are read when they are asked for; one without a value is left out, one that fails is
        counted."""
        stats = Stats()
        values = [1.0]
        stats.gauge("b", lambda: values[0])
        stats.gauge("a", lambda: None)
        stats.gauge("broken", lambda: 1 / 0)
        values[0] = 2.0
        self.assertEqual(stats.gauges(), {"b": 2.0})
        self.assertEqual(stats.get("gauge_failures"), 1)
        stats.gauge("b", lambda: 3)
        self.assertEqual(stats.gauges(), {"b": 3})
        stats.remove_gauge("b")
        stats.remove_gauge("b")
        self.assertEqual(stats.gauges(), {})

    def test_counted_elsewhere(self) -> None:
        """Such a counter is read wherever others are; what was added here is added to it."""
        stats = Stats()
        group = stats.child("a")
        group.counts("c", lambda: 3)
        group.counts("none", lambda: 0)
        self.assertEqual(group.get("c"), 3)
        group.add("c", 2)
        group.add("b")
        self.assertEqual(group.get("c"), 5)
        self.assertEqual(group.counters(), {"b": 1, "c": 5, "none": 0})
        self.assertEqual(list(stats.groups()), [("a", {"b": 1, "c": 5})])

    def test_removed_with_their_group(self) -> None:
        """Nothing of a group is left when it is removed."""
        stats = Stats()
        group = stats.child("x").child("y")
        group.gauge("g", lambda: 1)
        group.observe("h", 1)
        group.add("c")
        self.assertEqual([path for path, _ in stats.walk()], [("x",), ("x", "y")])
        stats.remove_child("x")
        self.assertEqual(list(stats.walk()), [])
        self.assertEqual(stats.child("x").child("y").gauges(), {})

    def test_groups(self) -> None:
        """Counters that are not 0, by the path of their group."""
        stats = Stats()
        stats.child("b").child("c").add("one")
        stats.child("b").child("c").add("none", 0)
        stats.child("a").add("two", 2)
        self.assertEqual(list(stats.groups()), [("a", {"two": 2}), ("b/c", {"one": 1})])


class HistogramTests(SynchronousTestCase):
    """Fixed buckets."""

    def test_buckets(self) -> None:
        """A bound belongs to the bucket below it; what is beyond all has a bucket, too."""
        histogram = Histogram()
        for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] + 1):
            histogram.observe(seconds)
        self.assertEqual(histogram.counts[:2], [2, 1])
        self.assertEqual(histogram.counts[-2:], [1, 1])
        self.assertEqual((histogram.count, histogram.largest), (5, BOUNDS[-1] + 1))

    @settings(deadline=None)
    @given(st.lists(st.sampled_from((0.0, 0.0005, *BOUNDS, 20.0)), max_size=3 * MAX_NEW))
    def test_many(self, took: list[float]) -> None:
        """However many there are, each is counted once, and is found at any time."""
        histogram = Histogram()
        for number, seconds in enumerate(took):
            histogram.observe(seconds)
            if number % 100 == 0:
                self.assertEqual(histogram.count, number + 1)
        bounds = (-1.0, *BOUNDS, float("inf"))
        self.assertEqual(
            list(histogram.counts),
            [sum(low < s <= high for s in took) for low, high in itertools.pairwise(bounds)],
        )
        self.assertAlmostEqual(histogram.total, sum(took))
        self.assertEqual(histogram.largest, max(took, default=0.0))

    def test_few_are_kept(self) -> None:
        """What is in no bucket yet is a bounded number."""
        histogram = Histogram()
        for _ in range(MAX_NEW + 5):
            histogram.observe(1.0)
        self.assertEqual(len(histogram.new), 5)

    def test_settled(self) -> None:
        """Nothing is left that is in no bucket, in no group."""
        stats = Stats()
        groups = stats, stats.child("a").child("b")
        for group in groups:
            group.observe("wait", 1.0)
        stats.settle()
        for group in groups:
            histogram = group.histogram("wait")
            self.assertEqual(len(histogram.new), 0)
            self.assertEqual(histogram.count, 1)

    def test_nothing(self) -> None:
        """There is no quantile of nothing."""
        self.assertIsNone(Histogram().quantile(0.99))

    @settings(deadline=None)
    @given(st.lists(st.floats(0, 20), min_size=1), st.floats(0.01, 1))
    def test_quantile(self, took: list[float], share: float) -> None:
        """At least that share took no longer, and it is no more than a bucket too much."""
        histogram = Histogram()
        for seconds in took:
            histogram.observe(seconds)
        value = histogram.quantile(share)
        assert value is not None
        self.assertGreaterEqual(sum(seconds <= value for seconds in took), share * len(took))
        self.assertLessEqual(value, max(took))

    def test_half(self) -> None:
        """Of two the smaller one is half."""
        histogram = Histogram()
        for seconds in (0.001, 1.0):
            histogram.observe(seconds)
        self.assertEqual((histogram.quantile(0.5), histogram.quantile(0.51)), (0.001, 1.0))

    def test_by_name(self) -> None:
        """The one of a name is always the same."""
        stats = Stats()
        kept = stats.histogram("h")
        stats.observe("h", 2)
        self.assertEqual((kept.count, kept.total), (1, 2))


class RecentlyTests(SynchronousTestCase):
    """What was counted in the last while."""

    def setUp(self) -> None:
        """Recent is what happened in 100 s; looked at every 10."""
        self.clock = Clock()
        self.stats = Stats()
        self.recently = Recently(
            self.stats, self.clock, self.clock.seconds, recent_seconds=100, look_seconds=10
        )

    def test_before_the_start(self) -> None:
        """All that was counted is recent."""
        self.stats.child("a").add("x", 2)
        self.assertEqual(self.recently.counted(), (0, {"a": {"x": 2}}))

    def test_at_first(self) -> None:
        """What was counted while the daemon started is recent."""
        self.stats.child("a").add("x")
        self.recently.start()
        self.clock.pump([10, 10, 5])
        self.stats.child("a").add("x")
        self.assertEqual(self.recently.counted(), (25, {"a": {"x": 2}}))
        self.recently.stop()

    def test_later(self) -> None:
        """What is older than the time is no longer told; its memory stays bounded."""
        self.recently.start()
        self.stats.child("a").add("old")
        self.clock.pump([10] * 50)
        self.stats.child("a").add("x")
        self.assertEqual(self.recently.counted(), (100, {"a": {"x": 1}}))
        self.clock.pump([10] * 5)
        self.assertEqual(self.recently.counted()[1], {"a": {"x": 1}})
        self.clock.pump([10] * 10)
        self.assertEqual(self.recently.counted()[1], {})
        self.assertLess(len(self.recently._noted), 13)
        self.recently.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_groups_that_began_anew(self) -> None:
        """A group that was removed and made again counts from 0."""
        self.recently.start()
        self.stats.child("a").add("x", 5)
        self.clock.pump([10] * 20)
        self.stats.remove_child("a")
        self.stats.child("a").add("x", 2)
        self.assertEqual(self.recently.counted()[1], {})
        self.stats.child("a").add("x", 6)
        self.assertEqual(self.recently.counted()[1], {"a": {"x": 3}})
        self.recently.stop()
