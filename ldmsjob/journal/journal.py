"""Keeps what is accepted: collects it during a turn, writes it at the turn's end.

The disk may be full, read-only or broken: then the daemon goes on with what it has in memory, says
so, and writes what it has collected as soon as the disk lets it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ldmsjob.clocks import wall_clock_us
from ldmsjob.errors import ConfigError
from ldmsjob.facts import Origin
from ldmsjob.interfaces import IStats
from ldmsjob.jobs import Change, Job
from ldmsjob.journal.checkpoints import Checkpoints
from ldmsjob.journal.records import (
    EVENT_PARTS,
    MAX_TIME_US,
    UNENCODABLE,
    About,
    NewNotice,
    about_job,
    encodable,
)
from ldmsjob.journal.storage import (
    SETTLED,
    Damaged,
    JournalFile,
    set_aside,
)
from ldmsjob.journal.storedjobs import Known, StoredJob, job_row, read_jobs
from ldmsjob.journal.waiting import WaitingTurns
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.notices import Notice
from ldmsjob.turns import Turn

MAX_WAITING = 100_000
"""Notices that are kept in memory while the disk refuses them; of more, the oldest go."""

RETRY_SECONDS = 5.0
"""How often a disk that refuses is tried."""

TIDY_SECONDS = 30.0
"""How often the file is tidied."""

_PRUNE_NOTICES = 500
_SETTLE_JOBS = 200
_PRUNE_SECONDS = 0.05
"""Notices that are looked at, and rows of jobs that run that are written, in one go, which takes a
few milliseconds; and the pause between."""

_DISK_FAULTS = (sqlite3.Error, OSError)


class Journal:
    """One journal file, opened for writing.

    ``in_thread(function, argument)`` returns a Deferred: what waits for the disk for long is done
    there. ``clock`` makes the calls, ``wall_clock_us`` tells how old rows are.

    Counters: ``rows`` written (each is a notice), ``transactions``, ``failures`` (of the disk),
    ``lost`` (rows that nobody wrote), ``pruned``, ``damaged`` (files that were set aside),
    ``unreadable`` (what recovery left out). Gauges: ``waiting`` rows, ``lag_seconds`` for which the
    disk has refused them, ``file_bytes`` with the log beside the file.
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
        self._turn = turn
        self._clock = clock
        self._stats = stats
        self._max_age_us = int(max_age_seconds * 1e6)
        self._max_bytes = max_bytes
        self._now_us = wall_clock_us
        self.max_waiting = max_waiting
        self._file: JournalFile | None = None
        self._due = False
        self._failing = False
        self._failing_since = 0.0
        self.problem = ""
        """What the disk says; empty while all that is accepted can be written."""
        self._said_lost = False
        self._limited = LimitedLog(self.log, now=clock.seconds)
        self._notices: list[NewNotice] = []
        """What the turn has brought so far."""
        self._waiting = WaitingTurns()
        self._changed: dict[Job, Known] = {}
        """Jobs whose own row is out of date."""
        self._begun: dict[Job, Known] = {}
        """Jobs that run and have no row yet, in the order in which they began: most end soon, and
        a row then is enough."""
        self._settled = 0
        self._kept: dict[tuple[str, str], int | None] = {}
        self._known: dict[Job, Known] = {}
        self._job = self._number = self._sequence = 0
        self.last_sequence = 0
        """The number of the last event that the file knows, when it was opened."""
        self._retry: IDelayedCall | None = None
        self._tidying: IDelayedCall | None = None
        self._pruned_to = 0
        self._checkpoints = Checkpoints(path, in_thread, stats)
        stats.gauge("waiting", lambda: self.waiting)
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
        self._job, self._number, self.last_sequence = numbers
        self._settled = self._number
        if file.has_log():
            # Of a daemon that was killed. Daemons that are killed again and again before they copy
            # it would leave a log that grows.
            self._checkpoints.begin()

    def _opened(self) -> tuple[JournalFile, tuple[int, int, int]]:
        file = JournalFile(self.path)
        try:
            file.settle()
            return file, file.last_numbers()
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Write what waits, and close. A disk that has refused it is tried once more."""
        if self._failing and self.waiting:
            if self._retry is not None:
                self._retry.cancel()
            self._try_again()
        else:
            self.commit()
        for call in (self._retry, self._tidying):
            if call is not None and call.active():
                call.cancel()
        self._retry = self._tidying = None
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
        """Notices of turns that are over, which are not written yet."""
        return self._waiting.notices

    @property
    def lag_seconds(self) -> float:
        """For how long the disk has refused what is accepted."""
        return self._clock.seconds() - self._failing_since if self._failing else 0.0

    def _file_bytes(self) -> float | None:
        """What the journal takes of the disk; None when it is not there."""
        try:
            size = os.path.getsize(self.path)
        except OSError:
            return None
        try:
            return size + os.path.getsize(f"{self.path}-wal")
        except OSError:
            return size

    def append(
        self,
        notice: Notice,
        received_us: int,
        origin: Origin,
        changes: Sequence[Change],
        sequence: int,
        instance: str,
    ) -> None:
        """Keep a notice and the changes that it made, at the end of the turn.

        ``sequence`` is the number of the last event so far; ``instance`` the job manager that told.
        """
        # This is on the path of every message: it calls nothing that it need not call.
        last = changes[-1]
        for change in changes:
            job = change.job
            about = None
            its = self._known.get(job)
            if its is None:
                if not change.opened:
                    self._unwritable(job.key.job_id, "its beginning is not there")
                    continue
                its, about = self._begin(job, instance)
            if change.ended or its.ended_us is not None or (change.described and its.has_row):
                if change.ended:
                    its.ended_us = received_us
                self._row_changed(job, its)
            events = []
            for event in change.events:
                word, detail = EVENT_PARTS[type(event)]
                events.append(
                    (
                        word,
                        event.sequence,
                        event.source_time_us,
                        event.origin,
                        getattr(event, detail) if detail else None,
                    )
                )
            told = notice if change is last else None
            self._notices.append((its.number, about, received_us, origin, told, events))
        self._sequence = sequence
        if not self._due:
            self._commit_soon()

    def _begin(self, job: Job, instance: str) -> tuple[Known, About]:
        self._job += 1
        its = Known(self._job, self._number + 1, instance)
        self._known[job] = self._begun[job] = its
        # What a further attempt knows of the one before it, its notices do not tell.
        facts = job.facts if job.key.attempt > 1 else None
        return its, about_job(job, instance, facts)

    def _row_changed(self, job: Job, its: Known) -> None:
        """Write the job's row with what comes next."""
        self._changed[job] = its
        if not its.has_row:
            its.has_row = True
            self._begun.pop(job, None)

    def described(self, job: Job) -> None:
        """Keep what was looked up about a job that is not forgotten."""
        its = self._known.get(job)
        if its is not None:
            self._row_changed(job, its)
            self._commit_soon()

    def dropped(self, job: Job, now_us: int) -> None:
        """Nobody will tell of that job any more, which has not ended: it counts as ended now."""
        its = self._known.get(job)
        if its is not None:
            its.ended_us = now_us
            self.described(job)

    def _unwritable(self, job_id: str, why: object) -> None:
        """A job manager has told what no file takes: that costs the notice, and nothing else."""
        self._stats.add("lost")
        self._limited.warn("unwritable", "a notice of job {job}: {why}", job=job_id[:80], why=why)

    def forget(self, job: Job) -> None:
        """The job's set is gone: no more will be said of it."""
        self._known.pop(job, None)
        if not self._known:
            self._known.clear()  # else it stays as large as it ever was

    def keep(self, owner: str, name: str, value: int | None) -> None:
        """Keep a number under that name, in the same transaction as the notices that come next;
        None: no longer. Without any it is written when the file is tidied."""
        self._kept[owner, name] = value

    def kept(self, owner: str) -> Mapping[str, int]:
        """What that owner keeps; nothing when that cannot be read."""
        found: dict[str, int] = {}
        if self._file is not None:
            with self._surviving():
                found = self._file.kept(owner)
        return found

    def _commit_soon(self) -> None:
        if not self._due:
            self._due = True
            self._turn.at_end(self.commit, first=True)

    def commit(self) -> None:
        """Write what the turn has brought, in one transaction."""
        self._due = False
        if self._notices:
            self._end_turn()
        file = self._file
        if file is None or self._failing:
            self._trim()
            return
        try:
            self._write(file)
        except (*_DISK_FAULTS, Damaged) as error:
            self._see_to(error)

    def _end_turn(self) -> None:
        notices, self._notices = self._notices, []
        try:
            self._waiting.add(self._number + 1, notices, self._job, self._sequence)
        except UNENCODABLE:
            notices = encodable(notices, self._unencodable)
            if not notices:
                return
            self._waiting.add(self._number + 1, notices, self._job, self._sequence)
        self._number += 1

    def _unencodable(self, notice: NewNotice, error: Exception) -> None:
        number, about = notice[:2]
        job = next((job for job, known in self._known.items() if known.number == number), None)
        self._unwritable(str(number) if job is None else job.key.job_id, error)
        if job is not None and about is not None:  # Nothing more that is told of it can be kept.
            for where in (self._known, self._begun, self._changed):
                where.pop(job, None)

    def _write(self, file: JournalFile) -> None:
        waiting, changed, kept = self._waiting, self._changed, self._kept
        if not (waiting.rows or changed or kept):
            return
        last = self._number
        jobs = [job_row(job, its, last) for job, its in changed.items()] if changed else ()
        file.write(jobs, waiting.rows, kept)
        self._stats.add("transactions")
        self._stats.add("rows", waiting.notices)
        self._checkpoints.written(waiting.notices)
        waiting.clear()
        changed.clear()
        kept.clear()

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
                numbers = self._job, self._number
                self._open()
                self._renumber(*numbers)
            assert self._file is not None
            self._write(self._file)
        except Damaged as error:
            self._replace(error)
        except (*_DISK_FAULTS, ConfigError) as error:
            self._fails(error)
        else:
            self._failing = False
            self.problem = ""
            self.log.info("{path} is written again", path=self.path)

    def _renumber(self, jobs: int, turns: int) -> None:
        """The file that could not be opened at the start is not empty: what has been collected,
        with these last numbers, comes behind what it has."""
        by_jobs, by_turns = self._job, self._number
        self._job += jobs
        self._number += turns
        self._waiting.renumber(by_turns, by_jobs)
        for known in {*self._known.values(), *self._changed.values()}:
            known.number += by_jobs
            known.first_turn += by_turns

    def _trim(self) -> None:
        """Keep no more in memory than is allowed."""
        lost = self._waiting.trim(self.max_waiting)
        if lost:
            self._lose(lost)
        while len(self._changed) > self.max_waiting:
            del self._changed[next(iter(self._changed))]
        while len(self._kept) > self.max_waiting:
            del self._kept[next(iter(self._kept))]

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
        for job, its in self._known.items():
            self._row_changed(job, its)
        try:
            self._set_aside(error)
            self._file = JournalFile(self.path)
            self._write(self._file)
        except (*_DISK_FAULTS, ConfigError, Damaged) as failure:
            self._fails(failure)
        else:
            self._failing = False
            self.problem = ""

    def _set_aside(self, error: Damaged) -> None:
        aside = set_aside(self.path)
        self._stats.add("damaged")
        self.log.error(
            "{path} is damaged ({error}) and now {aside}; a new journal begins"
            if aside
            else "{path}: {error}; a new journal begins",
            path=self.path,
            error=error,
            aside=aside,
        )

    # Tidying

    def _tidy(self) -> None:
        """Delete what is old or too much, in slices; have the log beside the file copied."""
        self._tidying = None
        delay = TIDY_SECONDS
        self.commit()
        if self._file is not None and not self._failing:
            with self._surviving():
                self._file.check_place()
                self._settle(self._file)
                if self._prune(self._file) or self._begun:
                    delay = _PRUNE_SECONDS
        self._checkpoints.begin_if_needed()
        self._tidying = self._clock.callLater(delay, self._tidy)

    def _settle(self, file: JournalFile) -> None:
        """Give rows to jobs that run: else readers, and the next daemon, would have to look for
        them further and further back."""
        for job, its in list(islice(self._begun.items(), _SETTLE_JOBS)):
            self._row_changed(job, its)
        oldest = next(iter(self._begun.values()), None)
        settled = self._number if oldest is None else oldest.first_turn - 1
        if settled != self._settled:
            self._settled = self._kept[SETTLED] = settled
            self._write(file)

    def _prune(self, file: JournalFile) -> bool:
        """Go through some rows; returns whether there are more to go through."""
        # What is too much goes whenever it came: the clock may have been set back since.
        before_us = MAX_TIME_US
        if file.used_bytes() <= self._max_bytes:
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

    def recovered(self, job: Job, stored: StoredJob) -> None:
        """That job is this one: what is said of it from now on belongs to the stored one."""
        self._known[job] = stored.known
        self._row_changed(job, stored.known)

    def abandon(self, stored: StoredJob) -> None:
        """Nobody will tell of that job any more: it counts as ended with its last notice."""
        if self._file is not None and stored.known.ended_us is None:
            last_us = stored.notices[-1][0] if stored.notices else stored.start_us
            with self._surviving():
                self._file.end_job(stored.known.number, last_us, self._number)
