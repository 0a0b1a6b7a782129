"""A few threads for calls that may hang, and a deadline for each call.

They are threads of their own, so that calls that hang are in nobody else's way; and they do not
keep the process from ending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

MAX_THREADS = 4
MAX_WAITING = 1024
"""Calls that wait for a thread; more are refused at once."""

DEADLINE_SECONDS = 3.0
"""How long a call may take, waiting included."""


class CallTooSlow(Exception):
    """No result within the deadline; or all threads hang, and there is no use in waiting."""


class TooManyCalls(Exception):
    """So many calls wait that another one is not taken."""


class _Call:
    """A call; ``result`` is None once nobody waits for it any more."""

    __slots__ = ("arguments", "begun", "deadline", "function", "hangs", "result")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.result: Deferred[Any] | None = Deferred(self._cancelled)
        self.deadline: IDelayedCall | None = None
        self.begun = False
        self.hangs = False

    def taken(self) -> Deferred[Any] | None:
        """Whom to tell the result, if anybody waits for it; nobody does from now on."""
        result, self.result = self.result, None
        return result

    def stop_watch(self) -> None:
        """It is over in time."""
        if self.deadline is not None and self.deadline.active():
            self.deadline.cancel()

    def _cancelled(self, _result: Deferred[Any]) -> None:
        self.result = None
        if not self.begun:
            self.stop_watch()


class Workers:
    """Makes calls in threads, which begin when they are first needed.

    ``clock`` is the reactor: it has ``callLater`` and ``callFromThread``. Everything but the calls
    themselves happens on its thread.
    """

    def __init__(
        self,
        clock: Any,
        name: str,
        *,
        threads: int = MAX_THREADS,
        max_waiting: int = MAX_WAITING,
        seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._clock = clock
        self._name = name
        self._threads = threads
        self._max_waiting = max_waiting
        self._seconds = seconds
        self._started = 0
        self._idle: list[SimpleQueue[_Call]] = []
        self._waiting: deque[_Call] = deque()
        self._hanging = 0

    def call(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """The result of ``function(*arguments)``, made in a thread.

        Fails with what the function raises, with ``CallTooSlow`` or ``TooManyCalls``. Cancelling it
        ends the wait; a call that has begun goes on to its end, a result is then dropped.
        """
        if self._hanging >= self._threads:
            return fail(CallTooSlow())
        if len(self._waiting) >= self._max_waiting:
            # Calls that nobody waits for any more are in the queue still.
            self._waiting = deque(call for call in self._waiting if call.result is not None)
            if len(self._waiting) >= self._max_waiting:
                return fail(TooManyCalls())
        call = _Call(function, arguments)
        result = call.result
        assert result is not None
        call.deadline = self._clock.callLater(self._seconds, self._too_late, call)
        self._waiting.append(call)
        if not self._idle and self._started < self._threads:
            self._start()
        self._assign()
        return result

    def _start(self) -> None:
        inbox: SimpleQueue[_Call] = SimpleQueue()
        name = f"{self._name}-{self._started + 1}"
        thread = threading.Thread(target=self._work, args=(inbox,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # The system has no more of them now: the next call tries again.
        self._started += 1
        self._idle.append(inbox)

    def _assign(self) -> None:
        """Give waiting calls to idle threads."""
        while self._idle and self._waiting:
            call = self._waiting.popleft()
            if call.result is not None:
                call.begun = True
                self._idle.pop().put(call)

    def _work(self, inbox: SimpleQueue[_Call]) -> None:
        """What a thread does."""
        while True:
            call = inbox.get()
            result: Any
            try:
                result = call.function(*call.arguments)
            except BaseException:
                result = Failure()
            self._clock.callFromThread(self._done, inbox, call, result)
            del call, result

    def _done(self, inbox: SimpleQueue[_Call], call: _Call, result: Any) -> None:
        self._idle.append(inbox)
        call.stop_watch()
        self._hanging -= call.hangs
        waiting = call.taken()
        self._assign()
        if waiting is not None:
            waiting.callback(result)

    def _too_late(self, call: _Call) -> None:
        call.hangs = call.begun
        self._hanging += call.hangs
        waiting = call.taken()
        if waiting is not None:
            waiting.errback(CallTooSlow())
