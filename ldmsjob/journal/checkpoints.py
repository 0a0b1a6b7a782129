"""Having the log beside the journal's file copied into it: when, and in a thread."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ldmsjob.interfaces import IStats

CHECKPOINT_BYTES = 20 << 20
"""When about so much has been written, the log is copied without waiting for the next tidying."""

_RESTARTS, _RESTART_SECONDS = 50, 0.005
"""How often, and after which pause, a log that is in use is tried to be begun anew."""

_TRANSACTION_BYTES = 8192
_NOTICE_BYTES = 200
"""About what a transaction takes of the log, and what each of its notices adds to that."""


class Checkpoints:
    """The copies of one journal's log. ``in_thread(function, argument)`` returns a Deferred.

    One that fails is counted as one of the disk's ``failures``; the next one makes up for it.
    """

    def __init__(self, path: str, in_thread: Callable[..., Deferred[Any]], stats: IStats) -> None:
        self._path = path
        self._in_thread = in_thread
        self._stats = stats
        self._unchecked = 0
        self._under_way = False

    def written(self, notices: int) -> None:
        """A transaction with so many notices was written."""
        self._unchecked += _TRANSACTION_BYTES + _NOTICE_BYTES * notices
        if self._unchecked >= CHECKPOINT_BYTES:
            self.begin_if_needed()

    def begin_if_needed(self) -> None:
        """Begin to copy, unless nothing was written since the last time."""
        if self._unchecked and not self._under_way:
            self.begin()

    def begin(self) -> None:
        """Begin to copy what there is."""
        self._under_way, self._unchecked = True, 0

        def done(_: object) -> None:
            self._under_way = False

        self._in_thread(checkpoint, self._path).addErrback(self._failed).addBoth(done)

    def _failed(self, failure: Failure) -> None:
        failure.trap(sqlite3.Error)
        self._stats.add("failures")


def checkpoint(path: str) -> None:
    """Move what was written from the log beside the file into the file; the log then begins anew.

    Waits for the disk: for a thread. Raises ``sqlite3.Error``.
    """
    database = sqlite3.connect(
        f"file:{quote(os.path.abspath(path))}?mode=rw", uri=True, isolation_level=None, timeout=1
    )
    try:
        # Without standing in the writer's way: nearly all of it.
        database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        # The log begins anew only when nothing was written meanwhile, which under load never
        # happens by itself. The writer waits for the little that is left, and we for nobody.
        database.execute("PRAGMA busy_timeout = 0")
        for _ in range(_RESTARTS):
            (is_busy, _, _) = database.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            if not is_busy:
                break
            time.sleep(_RESTART_SECONDS)
    finally:
        database.close()
