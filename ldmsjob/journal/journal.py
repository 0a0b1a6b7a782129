"""Keeps what is accepted: in the tail from the end of a turn on, in the database soon afterwards.

The disk may be full, read-only or broken: then the daemon goes on with what it has in memory, says
so, and writes what it has collected as soon as the disk lets it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ldmsjob.clocks import wall_clock_us
from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import IStats
from ldmsjob.journal.checkpoints import Checkpoints
from ldmsjob.journal.collecting import Collector
from ldmsjob.journal.records import MAX_TIME_US
from ldmsjob.journal.storage import SETTLED, JournalFile, set_aside
from ldmsjob.journal.storedjobs import StoredJob, read_jobs
from ldmsjob.journal.tables import Damaged
from ldmsjob.journal.tail import SIDE, Record
from ldmsjob.journal.waiting import WaitingTurns
from ldmsjob.turns import Turn

MAX_WAITING = 100_000
"""Notices that are kept in memory while the disk refuses them; of more, the oldest go."""

MOVE_SECONDS = 1.0
"""How long what the tail has waits for the database, if it is not much."""

RETRY_SECONDS = 5.0
"""How often a disk that refuses is tried."""

TIDY_SECONDS = 30.0
"""How often the file is tidied."""

_PRUNE_NOTICES = 500
_SETTLE_JOBS = 200
_PAUSE_SECONDS = 0.05
"""Notices that are looked at, and rows of jobs that run that are written, in one go, which takes a
few milliseconds; and the pause between."""

_DISK_FAULTS = (sqlite3.Error, OSError)


class Journal:
    """One journal, opened for writing: a database and its tail.

    ``in_thread(function, argument)`` returns a Deferred: what waits for the disk for long is done
    there. ``clock`` makes the calls, ``wall_clock_us`` tells how old rows are.

    Counters: ``rows`` in the database (each is a notice), ``transactions``, ``failures`` (of the
    disk), ``lost`` (rows that nobody wrote), ``pruned``, ``damaged`` (files that were set aside),
    ``unreadable`` (what recovery left out). Gauges: ``waiting`` rows that no file has, ``in_tail``
    those that only the tail has, ``lag_seconds`` for which the disk has refused to take rows,
    ``file_bytes`` with log and tail.
    """

    log = Logger(namespace="journal")

    def __init__(
        self,
        path: str,
        turn: Turn,
        clock: IReactorTime,
        stats: IStats,
        *,
        max_age_seconds: float,
        max_bytes: int,
        in_thread: Callable[..., Deferred[Any]],
        wall_clock_us: Callable[[], int] = wall_clock_us,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.path = path
        self._clock = clock
        self._stats = stats
        self._max_age_us = int(max_age_seconds * 1e6)
        self._max_bytes = max_bytes
        self._now_us = wall_clock_us
        self.max_waiting = max_waiting
        self._file: JournalFile | None = None
        self._failing = False
        self._failing_since = 0.0
        self._tail_fails = False
        """Whether the tail does not take what waits; it may while the database does not."""
        self.problem = ""
        """What the disk says; empty while all that is accepted can be written."""
        self._said_lost = False
        self._collector = Collector(turn, self._write, stats, clock.seconds)
        self.append = self._collector.append  # on the path of every message
        self.commit = self._collector.commit
        self.keep = self._collector.keep
        self.described = self._collector.described
        self.dropped = self._collector.dropped
        self.forget = self._collector.forget
        self.recovered = self._collector.recovered
        self._waiting = WaitingTurns()
        self._settled = 0
        self.last_sequence = 0
        """The number of the last event that the file knows, when it was opened."""
        self._moving: IDelayedCall | None = None
        self._retry: IDelayedCall | None = None
        self._tidying: IDelayedCall | None = None
        self._pruned_to = 0
        self._checkpoints = Checkpoints(path, in_thread, stats)
        stats.gauge("waiting", lambda: self.waiting)
        stats.gauge("in_tail", lambda: self._waiting.notices - self.waiting)
        stats.gauge("lag_seconds", lambda: self.lag_seconds)
        stats.gauge("file_bytes", self._file_bytes)

    # Life

    def open(self) -> None:
        """Open the file, or say why that cannot be and try again later.

        A damaged file is set aside. Raises ``ConfigError`` when another process writes it.
        """
        try:
            self._open()
        except (*_DISK_FAULTS, Damaged) as error:
            self._fails(error)
        self._tidying = self._clock.callLater(TIDY_SECONDS, self._tidy)

    def _open(self) -> None:
        os.makedirs(os.path.dirname(self.path) or ".", mode=0o700, exist_ok=True)
        try:
            file, numbers = self._opened()
        except Damaged as error:
            self._set_aside(error)
            file, numbers = self._opened()
        self._file = file
        self._collector.job, self._collector.number, self.last_sequence = numbers
        self._settled = self._collector.number
        if file.has_log():
            # Of a daemon that was killed. Daemons that are killed again and again before they copy
            # it would leave a log that grows.
            self._checkpoints.begin()

    def _opened(self) -> tuple[JournalFile, tuple[int, int, int]]:
        file = JournalFile(self.path)
        try:
            aside = file.take_tail()
            if aside is not None:
                self._say_damaged(file.tail.path, "records in it are not whole", aside)
            file.settle()
            return file, file.last_numbers()
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Write what waits to the database, and close. A disk that has refused it is tried once
        more."""
        self.commit(kept=True)
        if self._file is None and self._waiting.records:
            self._try_again()
        if self._file is not None:
            with self._surviving():
                self._move_all(self._file)
        if self._file is not None and self._waiting.missing:
            with suppress(OSError):
                self._append_missing(self._file)
        for call in (self._moving, self._retry, self._tidying):
            if call is not None and call.active():
                call.cancel()
        self._moving = self._retry = self._tidying = None
        if self.waiting:
            self._lose(self.waiting)
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except _DISK_FAULTS as error:
                self.log.error("{path}: {error}", path=self.path, error=error)

    # Writing

    @property
    def waiting(self) -> int:
        """Notices of turns that are over, which no file has yet."""
        return self._waiting.missing_notices()

    @property
    def lag_seconds(self) -> float:
        """For how long the disk has refused what is accepted."""
        return self._clock.seconds() - self._failing_since if self._failing else 0.0

    def _file_bytes(self) -> float | None:
        """What the journal takes of the disk; None when it is not there."""
        sizes = []
        for side in ("", "-wal", SIDE):
            with suppress(OSError):
                sizes.append(os.path.getsize(self.path + side))
        return sum(sizes) if sizes else None

    def kept(self, owner: str) -> Mapping[str, int]:
        """What that owner keeps; nothing when that cannot be read."""
        found: dict[str, int] = {}
        self.flush()
        if self._file is not None:
            with self._surviving():
                found = self._file.kept(owner)
        return found

    def flush(self) -> None:
        """Write what waits to the database, unless the disk has refused it."""
        if self._file is not None and not self._failing:
            with self._surviving():
                self._move_all(self._file)

    def _write(self, record: Record) -> None:
        """Have what a turn has brought on disk."""
        waiting, file = self._waiting, self._file
        waiting.add(record)
        try:
            if file is None or self._failing:
                waiting.missing += 1
                self._trim()
                if file is not None and not self._tail_fails:
                    self._append_missing(file)
                return
            try:
                file.tail.append(record.framed)
            except OSError:
                waiting.missing = 1
                self._tail_fails = True
                raise
            if waiting.is_batch:
                self._move(file)
            elif self._moving is None:
                self._move_soon()
        except (*_DISK_FAULTS, Damaged) as error:
            self._see_to(error)

    def _append_missing(self, file: JournalFile) -> None:
        """Append to the tail what it does not have."""
        waiting = self._waiting
        self._tail_fails = True
        file.tail.append(b"".join([one.framed for one in waiting.missing_records()]))
        self._tail_fails = False
        waiting.missing = 0

    def _move_soon(self) -> None:
        if self._moving is None and self._waiting.records:
            delay = _PAUSE_SECONDS if self._waiting.is_batch else MOVE_SECONDS
            self._moving = self._clock.callLater(delay, self._move_later)

    def _move_later(self) -> None:
        self._moving = None
        if self._file is None or self._failing:
            return
        with self._surviving():
            self._move(self._file)
            self._move_soon()

    def _move(self, file: JournalFile) -> None:
        """Write the oldest of what waits to the database."""
        waiting = self._waiting
        batch = waiting.batch()
        if not batch:
            return
        file.write(batch)
        notices = waiting.remove(len(batch))
        self._stats.add("transactions")
        self._stats.add("rows", notices)
        self._checkpoints.written(notices)
        if waiting.missing == len(waiting.records):
            file.tail.empty()

    def _move_all(self, file: JournalFile) -> None:
        while self._waiting.records:
            self._move(file)

    # When the disk fails

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Do something with the file; what it does wrong ends the block, and is seen to."""
        try:
            yield
        except (*_DISK_FAULTS, Damaged) as error:
            self._see_to(error)

    def _see_to(self, error: Exception) -> None:
        if isinstance(error, Damaged):
            self._replace(error)
        else:
            self._fails(error)

    def _fails(self, error: Exception) -> None:
        """Go on in memory, and try again by and by."""
        self._stats.add("failures")
        self.problem = str(error)
        if not self._failing:
            self._failing = True
            self._failing_since = self._clock.seconds()
            self.log.error(
                "{path} cannot be written: {error}; up to {rows} rows wait in memory",
                path=self.path,
                error=error,
                rows=self.max_waiting,
            )
        self._trim()
        if self._retry is None:
            self._retry = self._clock.callLater(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        try:
            if self._file is None:
                job, number = self._collector.job, self._collector.number
                self._open()
                self._renumber(job, number)
            assert self._file is not None
            self._move(self._file)
        except Damaged as error:
            self._replace(error)
        except (*_DISK_FAULTS, ConfigError) as error:
            self._fails(error)
            if self._file is not None and self._waiting.missing:
                with suppress(OSError):
                    self._append_missing(self._file)
        else:
            self._go_on(self._file)

    def _go_on(self, file: JournalFile) -> None:
        """The database takes rows again."""
        try:
            if self._waiting.missing:
                self._append_missing(file)
        except OSError:  # The tail does not: so one batch goes into the database after another.
            self._retry = self._clock.callLater(_PAUSE_SECONDS, self._try_again)
            return
        self._failing = self._tail_fails = False
        self.problem = ""
        self.log.info("{path} is written again", path=self.path)
        self._move_soon()

    def _renumber(self, job: int, number: int) -> None:
        """The file that could not be opened at the start is not empty: what has been collected,
        with these last numbers, comes behind what it has."""
        collector = self._collector
        by_jobs, by_notices = collector.job, collector.number
        collector.job, collector.number = job, number
        collector.renumber(by_notices, by_jobs)
        self._waiting.renumber(by_notices, by_jobs)

    def _trim(self) -> None:
        """Keep no more than is allowed, neither in memory nor in the tail."""
        waiting, file = self._waiting, self._file
        turns = len(waiting.records)
        is_in_tail = waiting.missing < turns
        lost = waiting.trim(self.max_waiting)
        if lost:
            self._lose(lost)
        if len(waiting.records) < turns and is_in_tail and file is not None:
            waiting.missing = len(waiting.records)
            with suppress(OSError):  # It is tried again.
                file.tail.empty()
                self._append_missing(file)

    def _lose(self, count: int) -> None:
        self._stats.add("lost", count)
        if not self._said_lost:
            self._said_lost = True
            self.log.error(
                "rows are lost for {path}: the disk has refused them for too long", path=self.path
            )

    def _replace(self, error: Damaged) -> None:
        """The file is damaged: begin another with the jobs that there are."""
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except _DISK_FAULTS:
            pass
        self._collector.all_rows_changed()
        self._waiting.missing = len(self._waiting.records)
        try:
            self._set_aside(error)
            self.commit(kept=True)
            self._file = JournalFile(self.path)
            self._move_all(self._file)
        except (*_DISK_FAULTS, ConfigError, Damaged) as failure:
            self._fails(failure)
        else:
            self._failing = self._tail_fails = False
            self.problem = ""

    def _set_aside(self, error: Damaged) -> None:
        self._say_damaged(self.path, error, set_aside(self.path))

    def _say_damaged(self, path: str, error: object, aside: str) -> None:
        self._stats.add("damaged")
        self.log.error(
            "{path} is damaged ({error}) and now {aside}; a new one begins"
            if aside
            else "{path}: {error}; a new one begins",
            path=path,
            error=error,
            aside=aside,
        )

    # Tidying

    def _tidy(self) -> None:
        """Delete what is old or too much, in slices; have the log beside the file copied."""
        self._tidying = None
        delay = TIDY_SECONDS
        self.commit(kept=True)
        if self._file is not None and not self._failing:
            with self._surviving():
                self._move(self._file)
                if self._waiting.records or self._tidied(self._file):
                    delay = _PAUSE_SECONDS
        self._checkpoints.begin_if_needed()
        self._tidying = self._clock.callLater(delay, self._tidy)

    def _tidied(self, file: JournalFile) -> bool:
        """Do some of it; returns whether there is more to do soon. All that waited was written."""
        file.check_place()
        self._settle(file)
        return self._prune(file) or self._collector.is_job_without_row

    def _settle(self, file: JournalFile) -> None:
        """Give rows to jobs that run: else readers, and the next daemon, would have to look for
        them further and further back."""
        settled = self._collector.begun_jobs_changed(_SETTLE_JOBS)
        if settled != self._settled:
            self._settled = settled
            self.keep(*SETTLED, settled)
            self.commit(kept=True)
            self._move(file)

    def _prune(self, file: JournalFile) -> bool:
        """Go through some rows; returns whether there are more to go through."""
        # What is too much goes whenever it came: the clock may have been set back since.
        before_us = MAX_TIME_US
        if file.used_bytes() + file.tail.size <= self._max_bytes:
            before_us = self._now_us() - self._max_age_us
        self._pruned_to, deleted = file.prune(self._pruned_to, before_us, _PRUNE_NOTICES)
        self._stats.add("pruned", deleted)
        return self._pruned_to > 0

    # Recovery

    def recoverable(self, ended_after_us: int) -> list[StoredJob]:
        """Jobs that have not ended, or ended after that time, oldest first.

        What cannot be read is counted as ``unreadable``, logged and left out.
        """
        if self._file is None:
            return []
        found: dict[int, StoredJob] = {}
        with self._surviving():
            read_jobs(self._file, ended_after_us, found, self._unreadable)
        return list(found.values())

    def _unreadable(self, what: str, error: Exception) -> None:
        self._stats.add("unreadable")
        self.log.error("{what} in {path}: {error}", what=what, path=self.path, error=error)

    def abandon(self, stored: StoredJob) -> None:
        """Nobody will tell of that job any more: it counts as ended with its last notice."""
        if self._file is not None and stored.known.ended_us is None:
            last_us = stored.notices[-1][0] if stored.notices else stored.start_us
            with self._surviving():
                self._file.end_job(stored.known.number, last_us, self._collector.number)
