"""Log lines about what peers do, at a rate that peers cannot drive up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

MAX_REASONS = 256
"""Reasons remembered at once; beyond it those that may be logged again are forgotten."""


def harmless(text: str) -> str:
    """A text of somebody else's for a log line: it can neither forge lines nor steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


class LimitedLog:
    """Writes at most one line per reason in a span of time, and says how many it kept back.

    ``now`` gives monotonic seconds. The number kept back since the last line stands behind the next
    one of the same reason, so a flood that has ended is told when its reason comes up again;
    counters, not the log, hold exact numbers.
    """

    def __init__(
        self,
        log: Logger,
        *,
        seconds: float = 10.0,
        now: Callable[[], float] = time.monotonic,
        max_reasons: int = MAX_REASONS,
    ) -> None:
        self._log = log
        self._seconds = seconds
        self._now = now
        self._max_reasons = max_reasons
        self._quiet: dict[str, list[float]] = {}

    def emit(self, reason: str, level: Any, format: str, /, **fields: object) -> bool:
        """Log ``format`` with ``fields`` unless ``reason`` was logged a short while ago.

        ``reason`` is the key that is limited; take it from a fixed vocabulary, not from a peer.
        Returns whether a line was written.
        """
        suppressed = self._pass(reason)
        if suppressed is None:
            return False
        if suppressed:
            format += " (and {suppressed} more like it)"
            fields["suppressed"] = suppressed
        self._log.emit(level, format, **fields)
        return True

    def warn(self, reason: str, format: str, /, **fields: object) -> bool:
        """``emit`` at level WARNING."""
        return self.emit(reason, LogLevel.warn, format, **fields)

    def info(self, reason: str, format: str, /, **fields: object) -> bool:
        """``emit`` at level INFO."""
        return self.emit(reason, LogLevel.info, format, **fields)

    def failure(self, reason: str, format: str, /, **fields: Any) -> bool:
        """Log the exception now being handled with its traceback, limited like ``emit``."""
        suppressed = self._pass(reason)
        if suppressed is None:
            return False
        if suppressed:
            format += " (and {suppressed} more like it)"
            fields["suppressed"] = suppressed
        self._log.failure(format, Failure(), **fields)
        return True

    def _pass(self, reason: str) -> int | None:
        """How many lines were kept back, or None when this one is to be kept back too."""
        now = self._now()
        entry = self._quiet.get(reason)
        if entry is None:
            if len(self._quiet) >= self._max_reasons:
                self._forget(now)
            self._quiet[reason] = [now + self._seconds, 0]
            return 0
        if now < entry[0]:
            entry[1] += 1
            return None
        suppressed = int(entry[1])
        entry[0] = now + self._seconds
        entry[1] = 0
        return suppressed

    def _forget(self, now: float) -> None:
        """Drop the reasons whose span is over; all of them when that frees nothing."""
        kept = {reason: entry for reason, entry in self._quiet.items() if now < entry[0]}
        self._quiet = kept if len(kept) < self._max_reasons else {}
