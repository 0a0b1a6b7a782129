"""Deadlines of handshakes."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.transports.deadlines import Deadlines


class Waiting:
    """A link that remembers when it was called, and what else is to be done then."""

    def __init__(self, clock: Clock, then: Any = lambda: None) -> None:
        self.clock = clock
        self.then = then
        self.called: list[float] = []

    def too_late(self) -> None:
        """Too late."""
        self.called.append(self.clock.seconds())
        self.then()


class DeadlineTests(SynchronousTestCase):
    """Ten seconds for each."""

    def setUp(self) -> None:
        """Make the deadlines of a listener."""
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock, 10, lasting=True)

    def test_each_at_its_time(self) -> None:
        """Each is called when its own time is over, but for those that are done before."""
        links = []
        for _ in range(4):
            links.append(Waiting(self.clock))
            self.deadlines.begin(links[-1])
            self.clock.advance(2)
        self.deadlines.end(links[0])
        self.deadlines.end(links[2])
        self.clock.pump([1] * 10)
        self.assertEqual([link.called for link in links], [[], [12], [], [16]])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_timer(self) -> None:
        """It is set once for all that begin in its time; the next one begins a new one."""
        for _ in range(5):
            link = Waiting(self.clock)
            self.deadlines.begin(link)
            self.deadlines.end(link)
            self.clock.advance(1)
            self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [10])
        self.clock.advance(5)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        late = Waiting(self.clock)
        self.deadlines.begin(late)
        self.clock.advance(10)
        self.assertEqual(late.called, [20])

    def test_end_of_the_listener(self) -> None:
        """Nobody is left waiting, and there is no timer without somebody who waits."""
        links = [Waiting(self.clock), Waiting(self.clock)]
        self.deadlines.begin(links[0])
        self.deadlines.end_timer()
        self.clock.advance(10)
        self.assertEqual((links[0].called, self.clock.getDelayedCalls()), ([10], []))
        self.deadlines.begin(links[1])
        self.deadlines.end(links[1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_ends_others(self) -> None:
        """Those that a call ends are not called; one that begins then has its own time."""
        links = [Waiting(self.clock) for _ in range(3)]

        def then() -> None:
            self.deadlines.end(links[1])
            self.deadlines.begin(links[2])

        links[0].then = then
        for link in links[:2]:
            self.deadlines.begin(link)
        self.clock.advance(10)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(10)
        self.assertEqual([link.called for link in links], [[10], [], [20]])
