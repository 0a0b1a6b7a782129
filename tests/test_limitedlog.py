"""Log lines at a limited rate."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.limitedlog import LimitedLog


class LimitedLogTests(SynchronousTestCase):
    """``LimitedLog``."""

    def setUp(self) -> None:
        """A limited log over a list and a clock."""
        self.clock = Clock()
        self.events: list[LogEvent] = []
        self.limited = LimitedLog(
            Logger(namespace="test", observer=self.events.append),
            seconds=10,
            now=self.clock.seconds,
            max_reasons=3,
        )

    def lines(self) -> list[str]:
        """What was logged, formatted."""
        return [formatEvent(event) for event in self.events]

    def test_first_line_is_written_at_once(self) -> None:
        """The first line of a reason goes out with its fields and level."""
        self.assertTrue(self.limited.warn("auth", "peer {peer} refused", peer="a:1"))
        self.assertEqual(self.lines(), ["peer a:1 refused"])
        self.assertIs(self.events[0]["log_level"], LogLevel.warn)

    def test_more_of_the_same_is_kept_back_and_counted(self) -> None:
        """Within the span nothing is written; the next line says how many were kept back."""
        for number in range(4):
            self.limited.info("auth", "refused {number}", number=number)
        self.clock.advance(9.9)
        self.assertFalse(self.limited.info("auth", "refused late"))
        self.clock.advance(0.1)
        self.limited.info("auth", "refused again")
        self.assertEqual(self.lines(), ["refused 0", "refused again (and 4 more like it)"])

    def test_the_count_begins_anew(self) -> None:
        """What one line has reported, the next one does not report again."""
        self.limited.info("auth", "one")
        self.limited.info("auth", "kept back")
        self.clock.advance(10)
        self.limited.info("auth", "two")
        self.clock.advance(10)
        self.limited.info("auth", "three")
        self.assertEqual(self.lines(), ["one", "two (and 1 more like it)", "three"])

    def test_reasons_do_not_quiet_each_other(self) -> None:
        """Each reason has its own span."""
        self.limited.info("auth", "one")
        self.limited.info("frame", "two")
        self.assertEqual(self.lines(), ["one", "two"])

    def test_memory_is_bounded(self) -> None:
        """However many reasons come up, only a bounded number is remembered."""
        for number in range(50):
            self.limited.info(f"reason {number}", "line")
        self.assertLessEqual(len(self.limited._quiet), 3)

    def test_old_reasons_are_forgotten_first(self) -> None:
        """Room is made by reasons whose span is over, so that live ones stay quiet."""
        self.limited.info("old", "line")
        self.clock.advance(10)
        self.limited.info("live", "line")
        self.limited.info("other", "line")
        self.limited.info("new", "line")
        self.assertFalse(self.limited.info("live", "line"))

    def test_failure_is_limited_too(self) -> None:
        """``failure`` logs the exception being handled, at most once in the span."""
        for _ in range(3):
            try:
                raise ValueError("broken")
            except ValueError:
                self.limited.failure("receiver", "receiver of {owner} failed", owner="j1")
        self.assertEqual(len(self.events), 1)
        self.assertEqual(self.events[0]["owner"], "j1")
        self.assertIsInstance(self.events[0]["log_failure"].value, ValueError)
