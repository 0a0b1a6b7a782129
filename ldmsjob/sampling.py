"""Calls a sampler at wall-clock multiples of its interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ldmsjob.errors import PLUGIN_FAULTS
from ldmsjob.interfaces import IStats

MAX_FAILURES = 10
"""A sampler that fails this often in a row is stopped."""


class Sampling:
    """The readings of one sampler, at multiples of the interval since the epoch, plus offset.

    ``sample`` gets the wall-clock seconds that the reading was due at. A tick while the Deferred of
    an earlier one has not fired, and one that came and went while the daemon was busy, is skipped
    and counted as ``skipped``. Other counters: ``samples``, ``sample_failures``. After
    ``MAX_FAILURES`` failures in a row it stops and calls ``gave_up``.
    """

    def __init__(
        self,
        clock: Any,
        interval_us: int,
        offset_us: int,
        sample: Callable[[float], Any],
        *,
        stats: IStats,
        log: Logger,
        gave_up: Callable[[], None],
    ) -> None:
        self.interval_us = interval_us
        self.offset_us = offset_us
        self._clock = clock
        self._sample = sample
        self._stats = stats
        self._log = log
        self._gave_up = gave_up
        self._due_us = 0
        self._call: Any = None
        self._waiting = False
        self._failures = 0

    def start(self) -> None:
        """Wait for the first tick."""
        self._wait(self._now_us())

    def stop(self) -> None:
        """No further tick. One whose Deferred has not fired is left to end by itself."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _now_us(self) -> int:
        return int(self._clock.seconds() * 1e6)

    def _wait(self, from_us: int) -> None:
        interval, offset = self.interval_us, self.offset_us
        self._due_us = ((from_us - offset) // interval + 1) * interval + offset
        delay = (self._due_us - self._now_us()) / 1e6
        self._call = self._clock.callLater(max(0.0, delay), self._tick)

    def _tick(self) -> None:
        due, now = self._due_us, self._now_us()
        # A clock that was set back must not silence the sampler until it has caught up; a timer
        # that is early by a rounding error must not tick twice.
        self._wait(due if due - self.interval_us < now < due else now)
        missed = (self._due_us - due) // self.interval_us - 1
        if missed > 0:
            self._stats.add("skipped", missed)
        if self._waiting:
            self._stats.add("skipped")
            return
        self._stats.add("samples")
        try:
            result = self._sample(due / 1e6)
            if result is not None and not isinstance(result, Deferred):
                result = Deferred.fromCoroutine(result)
        except PLUGIN_FAULTS:
            self._failed(Failure())
            return
        if result is None:
            self._failures = 0
        else:
            self._waiting = True
            result.addCallbacks(self._finished, self._failed)

    def _finished(self, _: object) -> None:
        self._waiting = False
        self._failures = 0

    def _failed(self, failure: Failure) -> None:
        self._waiting = False
        self._failures += 1
        self._stats.add("sample_failures")
        self._log.failure("sample() failed", failure)
        if self._failures >= MAX_FAILURES and self._call is not None:
            self.stop()
            self._log.error("stopped: sample() failed {count} times in a row", count=self._failures)
            self._gave_up()
