"""Threads for calls that may hang."""

from __future__ import annotations

import queue
import threading
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.transports.workers import CallTooSlow, TooManyCalls, Workers

WAIT_SECONDS = 20.0


class ThreadedClock(Clock):
    """A clock to which threads can hand calls; ``turn`` waits for one and makes it."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: queue.Queue[Any] = queue.Queue()

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        """Keep it for ``turn``."""
        self._calls.put((function, arguments))

    def turn(self, count: int = 1) -> None:
        """Make so many calls."""
        for _ in range(count):
            function, arguments = self._calls.get(timeout=WAIT_SECONDS)
            function(*arguments)

    @property
    def quiet(self) -> bool:
        """Whether no thread has called."""
        return self._calls.empty()


class WorkersTests(SynchronousTestCase):
    """Results, deadlines, bounds."""

    def setUp(self) -> None:
        """Two threads."""
        self.clock = ThreadedClock()
        self.workers = Workers(self.clock, "test", threads=2, max_waiting=3, seconds=3)
        self.hung = threading.Event()
        self.addCleanup(self.hung.set)

    def hang(self, result: str = "late") -> str:
        """A call that hangs."""
        assert self.hung.wait(WAIT_SECONDS)
        return result

    def test_results(self) -> None:
        """Results and exceptions come back; nothing stays."""
        results: list[Any] = []
        for number in range(3):
            self.workers.call(divmod, 17, number).addBoth(results.append)
        self.clock.turn(3)
        (failure,) = [result for result in results if not isinstance(result, tuple)]
        self.assertIsNotNone(failure.check(ZeroDivisionError))
        self.assertEqual(sorted(set(results) - {failure}), [(8, 1), (17, 0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_more_threads_than_needed(self) -> None:
        """They begin with the first calls, and do not keep the process."""
        before = set(threading.enumerate())
        for _ in range(5):
            self.workers.call(int)
            self.clock.turn()
        new = set(threading.enumerate()) - before
        self.assertEqual([(thread.name, thread.daemon) for thread in new], [("test-1", True)])

    def test_thread_that_cannot_be_had(self) -> None:
        """Where the system has no thread left, the call waits, and the next one tries again."""
        start = threading.Thread.start
        left = [0]

        def limited(thread: threading.Thread) -> None:
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
            start(thread)

        self.patch(threading.Thread, "start", limited)
        refused = [self.workers.call(int) for _ in range(2)]
        self.clock.advance(3)
        for call in refused:
            self.failureResultOf(call, CallTooSlow)
        left[0] = 2
        results = [self.workers.call(int) for _ in range(2)]
        self.clock.turn(2)
        self.assertEqual([self.successResultOf(one) for one in results], [0, 0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deadline(self) -> None:
        """A call that hangs fails in time, and its late result is dropped. Others do not wait for
        it."""
        slow = self.workers.call(self.hang)
        quick = self.workers.call(int)
        self.clock.turn()
        self.assertEqual(self.successResultOf(quick), 0)
        self.clock.advance(3)
        self.failureResultOf(slow, CallTooSlow)
        self.hung.set()
        self.clock.turn()

    def test_deadline_of_those_that_wait(self) -> None:
        """Waiting counts; a call whose time is over is not made any more."""
        made: list[int] = []
        hanging = [self.workers.call(self.hang) for _ in range(2)]
        self.clock.advance(2)
        waiting = self.workers.call(made.append, 1)
        self.clock.advance(1)
        for one in hanging:
            self.failureResultOf(one, CallTooSlow)
        self.assertNoResult(waiting)
        self.clock.advance(2)
        self.failureResultOf(waiting, CallTooSlow)
        self.hung.set()
        self.clock.turn(2)
        self.assertEqual(self.successResultOf(self.again()), 0)
        self.assertEqual(made, [])

    def again(self) -> Deferred[Any]:
        """One more call."""
        result = self.workers.call(int)
        self.clock.turn()
        return result

    def test_all_hang(self) -> None:
        """When all threads hang, calls fail at once; when one comes back, they are made again."""
        for _ in range(2):
            self.workers.call(self.hang).addErrback(lambda _failure: None)
        self.clock.advance(3)
        self.failureResultOf(self.workers.call(int), CallTooSlow)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.hung.set()
        self.clock.turn(2)
        self.assertEqual(self.successResultOf(self.again()), 0)

    def test_too_many(self) -> None:
        """So many calls wait, and no more; those that were cancelled do not count."""
        for _ in range(2):
            self.workers.call(self.hang).addErrback(lambda _failure: None)
        waiting = [self.workers.call(int) for _ in range(3)]
        self.failureResultOf(self.workers.call(int), TooManyCalls)
        waiting[1].cancel()
        self.failureResultOf(waiting[1], CancelledError)
        waiting[1] = self.workers.call(int, "7")
        self.hung.set()
        self.clock.turn(5)
        self.assertEqual([self.successResultOf(one) for one in waiting], [0, 7, 0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled_while_it_hangs(self) -> None:
        """Cancelling a call does not hide that its thread hangs."""
        for _ in range(2):
            call = self.workers.call(self.hang)
            call.cancel()
            self.failureResultOf(call, CancelledError)
        self.clock.advance(3)
        self.failureResultOf(self.workers.call(int), CallTooSlow)
        self.hung.set()
        self.clock.turn(2)
        self.assertEqual(self.successResultOf(self.again()), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
