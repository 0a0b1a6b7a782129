"""``ldmsjob.wire.rates``: budgets of one second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.wire.rates import SECOND_US, RateWindow, us_to_next_second

STEPS = st.lists(st.tuples(st.integers(0, 1_500_000), st.integers(0, 120)), max_size=40)


class RateWindowTests(SynchronousTestCase):
    """What a second lets through."""

    @given(st.integers(0, 100), st.integers(0, 10 * SECOND_US), STEPS)
    def test_no_second_exceeds_the_rate(self, rate, now_us, steps):
        """And nothing is refused that the present second still has room for."""
        window = RateWindow(rate)
        used: dict[int, int] = {}
        for pause, size in steps:
            now_us += pause
            second = now_us // SECOND_US
            room = rate - used.get(second, 0)
            self.assertEqual(window.fits(size, now_us), size <= room)
            self.assertEqual(window.take(size, now_us), size <= room)
            if size <= room:
                used[second] = used.get(second, 0) + size
        self.assertTrue(all(total <= rate for total in used.values()))

    @given(st.integers(0, 100), st.lists(st.tuples(st.integers(0, 100), st.integers(0, 60))))
    def test_changes(self, rate, steps):
        """After each change the present second holds the new rate less what it has used."""
        window = RateWindow(rate)
        used = 0
        for rate, size in steps:
            window.change(rate)
            fits = size <= rate - used
            self.assertEqual(window.take(size, 5), fits)
            used += size * fits
        self.assertTrue(window.take(window.rate, SECOND_US))
        self.assertFalse(window.take(1, SECOND_US))

    def test_clock_set_back(self):
        """It is a new second, not a long wait."""
        window = RateWindow(10)
        self.assertTrue(window.take(10, 90 * SECOND_US))
        self.assertTrue(window.take(10, 30 * SECOND_US))
        self.assertFalse(window.take(1, 30 * SECOND_US))

    def test_zero(self):
        """Rate 0 blocks everything that has a size."""
        self.assertFalse(RateWindow(0).take(1, 0))

    def test_no_limit_is_no_window(self):
        """A negative rate is a mistake of the caller."""
        self.assertRaises(ValueError, RateWindow, -1)
        self.assertRaises(ValueError, RateWindow(1).change, -1)

    @given(st.integers(0, 10**17))
    def test_the_next_second(self, now_us):
        """It begins exactly there, and never now."""
        wait = us_to_next_second(now_us)
        self.assertTrue(0 < wait <= SECOND_US)
        self.assertEqual((now_us + wait) % SECOND_US, 0)
