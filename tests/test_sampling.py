"""Readings at an interval."""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.sampling import MAX_FAILURES, Sampling
from ldmsjob.stats import Stats


class SamplingTests(SynchronousTestCase):
    """``Sampling`` on a clock of its own."""

    def setUp(self):
        """A wall clock that stands at 1000.25 s, and a monotonic one."""
        self.clock = Clock()
        self.set = 1000.25
        self.times = []
        self.stats = Stats()
        self.gave_up = 0
        self.events = []

    def sampling(self, interval_us, offset_us=0, sample=None):
        """A started one, stopped at the test's end."""

        def give_up():
            self.gave_up += 1

        result = Sampling(
            self.clock,
            interval_us,
            offset_us,
            sample or self.times.append,
            stats=self.stats,
            log=Logger(observer=self.events.append),
            gave_up=give_up,
            wall_clock_us=lambda: round((self.set + self.clock.seconds()) * 1e6),
        )
        result.start()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(result.stop)
        return result

    def test_aligned(self):
        """Ticks fall on multiples of the interval since the epoch, plus the offset."""
        self.sampling(1_000_000)
        self.clock.pump([0.5, 0.25, 1, 1])
        self.assertEqual(self.times, [1001.0, 1002.0, 1003.0])

    def test_offset(self):
        """May be negative."""
        self.sampling(1_000_000, -100_000)
        self.clock.pump([0.7, 0.3, 0.7])
        self.assertEqual(self.times, [1000.9, 1001.9])

    def test_missed_ticks_are_counted(self):
        """What came and went while the daemon was busy is not made up for."""
        self.sampling(1_000_000)
        self.clock.advance(3.0)
        self.clock.advance(1.0)
        self.assertEqual(self.times, [1003.0, 1004.0])
        self.assertEqual(self.stats.get("skipped"), 2)

    def test_slow_reading_skips(self):
        """While a Deferred has not fired there are no further readings."""
        results = [Deferred(), None]

        def sample(now):
            self.times.append(now)
            return results.pop(0)

        slow = results[0]
        self.sampling(1_000_000, sample=sample)
        self.clock.pump([0.75, 1, 1])
        self.assertEqual(self.times, [1001.0])
        self.assertEqual(self.stats.get("skipped"), 2)
        slow.callback(None)
        self.clock.advance(1)
        self.assertEqual(self.times, [1001.0, 1004.0])

    def test_failing_readings_are_given_up(self):
        """After so many failures in a row, raised or from a Deferred; one success counts anew."""
        behaviour = [ValueError] * (MAX_FAILURES - 1) + [None] + [ValueError] * MAX_FAILURES

        def sample(now):
            kind = behaviour.pop(0)
            if kind is not None:
                if len(behaviour) % 2:
                    raise kind("no")
                result = Deferred()
                result.errback(kind("no"))
                return result

        self.sampling(1_000_000, sample=sample)
        self.clock.pump([0.75] + [1] * (2 * MAX_FAILURES + 3))
        self.assertEqual(self.gave_up, 1)
        self.assertEqual(behaviour, [])
        self.assertEqual(self.stats.get("sample_failures"), 2 * MAX_FAILURES - 1)
        self.assertIn("stopped", self.events[-1]["log_format"])

    def test_early_timer(self):
        """A timer that is early by a rounding error makes one reading, not two."""
        self.sampling(1_000_000)
        self.clock.advance(0.749)
        for call in self.clock.getDelayedCalls():
            call.reset(0)
        self.clock.pump([0, 0.002, 0.9])
        self.assertEqual(self.times, [1001.0])

    def test_clock_set_back(self):
        """Readings go on, at the next multiples of the time that it is now."""
        self.sampling(1_000_000)
        self.clock.advance(0.75)
        self.set -= 500.5
        self.clock.pump([0.25, 0.25, 0.25, 0.25] * 3)
        self.assertEqual(self.times, [1001.0, 502.0, 503.0])
        self.assertEqual(self.stats.get("skipped"), 0)

    def test_clock_set_forward(self):
        """There is one reading for all the ticks that never were, with the time that it is now."""
        self.sampling(1_000_000)
        self.clock.advance(0.75)
        self.set += 3600
        self.clock.pump([0.25] * 12)
        self.assertEqual(self.times, [1001.0, 4602.0, 4603.0, 4604.0])
        self.assertEqual(self.stats.get("skipped"), 3600)

    def test_clock_set_within_a_long_interval(self):
        """It is noticed within a minute: no reading is late or early by what the clock was set."""
        self.sampling(3_600_000_000)
        self.clock.advance(10)
        self.set += 1800
        self.clock.pump([60] * 14)
        self.assertEqual(self.times, [3600.0])
        self.clock.pump([60] * 50)
        self.set -= 1800
        self.clock.pump([60] * 35)
        self.assertEqual(self.times, [3600.0])
        self.clock.pump([60] * 10)
        self.assertEqual(self.times, [3600.0, 7200.0])

    def test_stop(self):
        """No tick after it; it may be called again."""
        sampling = self.sampling(1_000_000)
        sampling.stop()
        sampling.stop()
        self.clock.advance(5)
        self.assertEqual(self.times, [])

    def test_coroutine(self):
        """A reading may be a coroutine; the next tick waits for it."""
        first = Deferred()
        results = [first, None, None]

        async def sample(now):
            self.times.append(now)
            await (results.pop(0) or Deferred.fromCoroutine(nothing()))

        async def nothing():
            pass

        self.sampling(1_000_000, sample=sample)
        self.clock.pump([1, 1])
        self.assertEqual((self.times, self.stats.get("skipped")), ([1001.0], 1))
        first.callback(None)
        self.clock.pump([1, 1])
        self.assertEqual(self.times, [1001.0, 1003.0, 1004.0])

    def test_what_is_no_result(self):
        """What can neither be waited for nor is None is a failure, as an attempt to exit is."""
        for fault in (lambda now: 42, lambda now: sys.exit(1)):
            sampling = self.sampling(1_000_000, sample=fault)
            self.clock.advance(1)
            sampling.stop()
        self.assertEqual(self.stats.get("sample_failures"), 2)
        self.assertEqual(self.stats.get("skipped"), 0)

    def test_failures_in_a_row(self):
        """A Deferred that fires well ends a row of failures, as a reading at once does."""
        waiting = []

        def sample(now):
            waiting.append(Deferred())
            return waiting[-1]

        self.sampling(1_000_000, sample=sample)
        for number in range(2 * MAX_FAILURES):
            self.clock.advance(1)
            if number % MAX_FAILURES == MAX_FAILURES - 1:
                waiting[-1].callback(None)
            else:
                waiting[-1].errback(ZeroDivisionError())
        self.assertEqual(self.gave_up, 0)
