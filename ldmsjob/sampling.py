"""Calls a sampler at wall-clock multiples of its interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ldmsjob.clocks import wall_clock_us
from ldmsjob.errors import PLUGIN_FAULTS
from ldmsjob.interfaces import IStats

MAX_FAILURES = 10
"""A sampler that fails this often in a row is stopped."""

LOOK_SECONDS = 60.0
"""How long it takes at most to notice that the wall clock was set."""

EARLY_US = 1000
"""What a timer may be early by, for rounding, and still count as in time."""


class Sampling:
    """The readings of one sampler, at multiples of the interval since the epoch, plus offset.

    ``clock`` makes the calls, ``wall_clock_us`` tells when it is time. ``sample`` gets the
    wall-clock seconds that the reading was due at. A tick while the Deferred of an earlier one has
    not fired, and one that came and went while the daemon was busy or that the wall clock was set
    past, is skipped and counted as ``skipped``. Where the wall clock was set back readings go on at
    the times that it shows now. Other counters: ``samples``, ``sample_failures``. After
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
        wall_clock_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self.interval_us = interval_us
        self.offset_us = offset_us
        self._clock = clock
        self._now_us = wall_clock_us
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

    def _wait(self, from_us: int) -> None:
        interval, offset = self.interval_us, self.offset_us
        self._due_us = ((from_us - offset) // interval + 1) * interval + offset
        delay = (self._due_us - self._now_us()) / 1e6
        self._call = self._clock.callLater(min(max(0.0, delay), LOOK_SECONDS), self._tick)

    def _tick(self) -> None:
        due, now = self._due_us, self._now_us()
        if now < due - EARLY_US:
            # Not yet, or not any more: the wall clock was set back.
            self._wait(now)
            return
        self._wait(max(now, due))
        missed = (self._due_us - due) // self.interval_us - 1
        if missed > 0:
            self._stats.add("skipped", missed)
            due = self._due_us - self.interval_us
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
