"""When memory is given back."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.memory import FEW, LOOK_SECONDS, Memory, giver


class MemoryTests(SynchronousTestCase):
    """Jobs go, and time passes."""

    def setUp(self) -> None:
        """One that counts."""
        self.clock = Clock()
        self.given = self.let_go = 0
        self.memory = Memory(self.clock, self.letting_go, give_back=self.give_back, many=100)

    def letting_go(self) -> None:
        """Count it."""
        self.let_go += 1

    def give_back(self) -> None:
        """Count it; all that could be let go was."""
        self.given += 1
        self.assertEqual(self.let_go, self.given)

    def go(self, jobs: int) -> None:
        """So many jobs go, and then a look's time passes."""
        for _ in range(jobs):
            self.memory.job_gone()
        self.clock.advance(LOOK_SECONDS)

    def test_in_the_pause_behind_many(self) -> None:
        """Not while many more go, and once."""
        self.go(100)
        self.assertEqual(self.given, 1)
        self.go(100 + FEW)
        self.assertEqual(self.given, 2)
        for _ in range(3):
            self.memory.job_gone()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_more_go(self) -> None:
        """Others take their memory: it is waited for a pause."""
        for _ in range(100):
            self.memory.job_gone()
        for _ in range(5):
            self.go(FEW + 1)
            self.assertEqual(self.given, 0)
        self.go(FEW)
        self.assertEqual(self.given, 1)

    def test_few(self) -> None:
        """Are not worth a timer; they add up."""
        self.go(99)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.go(1)
        self.assertEqual(self.given, 1)

    def test_closed(self) -> None:
        """Nothing is left to be called, and nothing begins."""
        for _ in range(100):
            self.memory.job_gone()
        self.memory.close()
        self.go(1000)
        self.assertEqual((self.given, self.clock.getDelayedCalls()), (0, []))

    def test_for_real(self) -> None:
        """It can be called wherever we run."""
        giver()()
