"""Tests of ldmsjob.attempts: which run of a job a notice is about. The rules as a whole are tested
with the table, in test_jobtable_runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.attempts import exact_time, is_after, is_not_before

S = 1_000_000
HALF = S // 2

wholes = st.integers(1, 50).map(lambda second: second * S)
exacts = st.builds(
    lambda second, rest: second * S + rest, st.integers(1, 50), st.integers(1, S - 1)
)


class TimeTests(SynchronousTestCase):
    """Whole seconds and exact times."""

    def test_one_kind(self) -> None:
        """Times of one kind are compared as they are."""
        self.assertTrue(is_after(11 * S, 10 * S))
        self.assertTrue(is_after(10 * S + 2, 10 * S + 1))
        self.assertFalse(is_after(10 * S, 10 * S))
        self.assertTrue(is_not_before(10 * S, 10 * S))
        self.assertFalse(is_not_before(10 * S + 1, 10 * S + 2))

    def test_a_whole_second_may_be_any_moment_in_it(self) -> None:
        """An exact time is after a whole second when that, and one tick, is over."""
        self.assertFalse(is_after(10 * S + HALF, 10 * S))
        self.assertFalse(is_not_before(10 * S + HALF, 10 * S))
        self.assertFalse(is_after(11 * S + 5_000, 10 * S))
        self.assertTrue(is_after(11 * S + 20_000, 10 * S))
        self.assertTrue(is_not_before(11 * S + 20_000, 10 * S))

    def test_a_whole_second_after_an_exact_time(self) -> None:
        """It is, when it begins after it."""
        self.assertTrue(is_after(11 * S, 10 * S + HALF))
        self.assertFalse(is_after(10 * S, 10 * S + HALF))
        self.assertTrue(is_not_before(11 * S, 10 * S + HALF))

    @given(wholes | exacts, wholes | exacts)
    def test_certain(self, first: int, second: int) -> None:
        """Never both ways, and the stronger says what the weaker says."""
        self.assertFalse(is_after(first, second) and is_not_before(second, first))
        self.assertFalse(is_after(first, second) and not is_not_before(first, second))

    @given(st.integers(0, 40 * S), st.integers(0, 40 * S))
    def test_what_is_certain_is_true(self, first: int, second: int) -> None:
        """Whichever notifier tells the moments."""
        for told in (first, first - first % S):
            for other in (second, second - second % S):
                if (told % S == 0) != (other % S == 0) and is_after(told, other):
                    self.assertGreater(first, second)

    def test_exact_time(self) -> None:
        """A fraction of a second is kept once it is known."""
        self.assertEqual(exact_time(10 * S, 10 * S + 1), 10 * S + 1)
        self.assertEqual(exact_time(10 * S + 1, 10 * S + 2), 10 * S + 1)
        self.assertEqual(exact_time(10 * S, 11 * S), 10 * S)
