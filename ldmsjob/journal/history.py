"""Reading a journal: what was, and what is, while its daemon runs and when it does not.

For tools. Nothing is written, and a daemon that writes at the same time is not held up: no row is
read for longer than a moment, however slowly the caller goes on.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import merge
from operator import itemgetter
from typing import Any

import msgspec

from ldmsjob.facts import JobFacts, JobKey, StepFacts, TaskFacts
from ldmsjob.jobs import Job
from ldmsjob.jobtable import JobTable
from ldmsjob.journal.places import unreadable
from ldmsjob.journal.records import (
    About,
    JobRow,
    StoredEvent,
    StoredNotice,
    decode_about,
    decode_turns,
    encode,
)
from ldmsjob.journal.storage import begun_jobs, newest_notice, open_for_reading, read_settled
from ldmsjob.journal.tables import Damaged
from ldmsjob.journal.tail import SIDE, Record, read_tail
from ldmsjob.limits import Limits
from ldmsjob.stats import Stats

_ROWS = 500
_BYTES = 1 << 18
"""What is read at once, whichever is less."""

_REMEMBERED_JOBS = 4096

_WITHOUT_LIMITS = Limits(
    jobs=1 << 62, steps_per_job=1 << 62, nodes_per_step=1 << 62, tasks_per_job=1 << 62
)
"""The daemon has kept to its own when it accepted what the journal has."""


class JobEntry(msgspec.Struct, frozen=True):
    """One attempt of one job. Times are microseconds since the epoch."""

    number: int
    key: JobKey
    instance: str
    """The job manager that told of it."""
    ended: bool
    heard_end_us: int | None
    """When the daemon heard of its end, by its own clock; None while it runs."""
    facts: JobFacts
    steps: Sequence[StepFacts] = ()
    tasks: Sequence[TaskFacts] = ()
    """Steps and tasks are there when they were asked for."""


class EventEntry(msgspec.Struct, frozen=True):
    """One job event, and whose it is."""

    notice: int
    """Number of the notice from which the daemon heard of it."""
    received_time_us: int
    job: JobEntry
    event: StoredEvent


class History:
    """A journal, opened for reading: its database and what only its tail has.

    The tail is read first, and what the database has by then is not taken from it: so nothing is
    missing, and nothing there twice, when the daemon writes it to the database meanwhile.

    Every method raises ``ConfigError`` when the file cannot be read or is damaged; single rows that
    cannot are left out and counted in ``unreadable``.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.unreadable = 0
        try:
            found = os.stat(path)
            self._database = open_for_reading(path)
        except (OSError, sqlite3.Error, Damaged) as error:
            raise unreadable(path, error) from None
        self._place = found.st_dev, found.st_ino

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def is_replaced(self) -> bool:
        """Whether another file is there now: a daemon sets one aside that it finds damaged."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) != self._place

    def jobs(self, *, whole: bool = False, job_id: str | None = None) -> Iterator[JobEntry]:
        """All jobs that the journal knows, or the attempts of one, oldest first.

        ``whole``: with their steps and tasks, which takes memory for those of all at once.
        """
        tail = self._tail()
        begun = [row for row in self._begun(tail) if job_id in (None, row[3])]
        of_id, values = ("job_id = ?", [job_id]) if job_id is not None else ("1", [])
        at_hand = of_id if whole else f"{of_id} AND ended_us IS NULL"
        running = self._all(f"SELECT * FROM jobs WHERE {at_hand} ORDER BY job", values)
        replayed = self._replay(merge(tail.newer(running), begun, key=itemgetter(0)), tail)
        last = 0
        rows = tail.newer(self._job_rows(of_id, values))
        for row in merge(rows, begun, key=itemgetter(0)):
            if row[0] == last:
                continue  # It has begun, and got its row since.
            last = row[0]
            entry = replayed.pop(last, None) or self._entry(row)
            if entry is not None:
                yield entry

    def events(
        self,
        after: int = 0,
        upto: int | None = None,
        *,
        job: int | None = None,
        job_id: str | None = None,
        since_us: int = 0,
    ) -> Iterator[EventEntry]:
        """Events in order: those of notices behind number ``after``, up to number ``upto`` or the
        newest now, that were received at ``since_us`` or later; of that attempt, of all of that
        job, or of all jobs."""
        if upto is None:
            upto = self.last_notice()
        tail = self._tail()
        begun = self._begun(tail)
        wanted: Collection[int] | None = None
        if job is not None or job_id is not None:
            rows = self._all("SELECT * FROM jobs WHERE job = ? OR job_id = ?", [job, job_id])
            begun = [row for row in begun if row[0] == job or row[3] == job_id]
            rows = [*tail.newer(rows), *begun]
            wanted = {row[0] for row in rows}
            first, last = _range(rows)
            after, upto = max(after, first - 1), min(upto, last)
        entries: dict[int, JobEntry | None] = {**self._replay(begun, tail)}
        for number, stored in self._notices(after, upto, tail, since_us):
            job = stored.job
            if not after < number <= upto or stored.received_us < since_us:
                continue
            if wanted is not None and job not in wanted:
                continue
            events = self._events(stored)
            if not events:
                continue
            if job not in entries:
                if len(entries) >= _REMEMBERED_JOBS + len(begun):
                    entries = {**self._replay(begun, tail)}
                entries[job] = self._job(job, tail)
            entry = entries[job]
            if entry is not None:
                for event in events:
                    yield EventEntry(number, stored.received_us, entry, event)

    def last_notice(self) -> int:
        """The number of the newest notice."""
        tail = self._tail()
        return max(tail.last_notice, self._newest())

    def version(self) -> tuple[int, int]:
        """Another one whenever the journal has been written to."""
        try:
            size = os.stat(self.path + SIDE).st_size
        except OSError:
            size = 0
        ((version,),) = self._all("PRAGMA data_version", ())
        return version, size

    # Rows

    def _job_rows(self, which: str, values: Sequence[Any]) -> Iterator[JobRow]:
        """Rows of these jobs, the oldest first."""
        after = 0
        while True:
            rows = self._all(
                f"SELECT * FROM jobs WHERE job > ? AND {which} ORDER BY job LIMIT {_ROWS}",
                [after, *values],
            )
            yield from rows
            if len(rows) < _ROWS:
                return
            after = rows[-1][0]

    def _tail(self) -> _Tail:
        """What the tail has and the database has not. To be read before the database is."""
        path = self.path + SIDE
        try:
            records, _ = read_tail(path)
        except OSError as error:
            raise unreadable(path, error) from None
        newest = self._newest()
        return _Tail([record for record in records if record.number >= newest], newest)

    def _newest(self) -> int:
        """The number of the newest notice that the database has, or has had."""
        try:
            return newest_notice(self._database)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise unreadable(self.path, error) from None

    def _notices(
        self, after: int, upto: int, tail: _Tail, since_us: int = 0
    ) -> Iterator[tuple[int, StoredNotice]]:
        """Notices with their numbers: those behind one number and up to another, that were
        received at ``since_us`` or later, and others that came in the same turns."""
        for last, data in self._turns(after, upto, tail, since_us):
            notices = decode_turns(data, self._count_unreadable)
            yield from enumerate(notices, last - len(notices) + 1)

    def _turns(
        self, after: int, upto: int, tail: _Tail, since_us: int = 0
    ) -> Iterator[tuple[int, bytes]]:
        """Notices of turns with some of these, and the number of the last of them."""
        is_more = True
        while is_more:
            some, size, is_more = [], 0, False
            for row in self._execute(
                "SELECT number, notices FROM turns WHERE number > ?"
                " AND received_us >= ? ORDER BY number",
                (after, since_us),
            ):
                some.append(row)
                after = row[0]
                if after >= upto:
                    break
                size += len(row[1])
                if size >= _BYTES or len(some) >= _ROWS:
                    is_more = True
                    break
            yield from some
        yield from tail.turns(after, upto)

    def _begun(self, tail: _Tail) -> list[JobRow]:
        """Jobs that have no row in the database, as the tail has them or as they were when they
        began, oldest first: the daemon writes the row of a job when it ends, or when it has run for
        a while."""
        try:
            settled = read_settled(self._database)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise unreadable(self.path, error) from None
        begun: dict[int, JobRow] = {}
        for number, data in self._turns(settled, _ALL, tail):
            begun.update((row[0], row) for row in begun_jobs(number, decode_turns(data)))
        begun.update(tail.jobs)
        return [
            row
            for job, row in sorted(begun.items())
            if not self._all("SELECT 1 FROM jobs WHERE job = ?", (job,))
        ]

    def _job(self, number: int, tail: _Tail) -> JobEntry | None:
        rows = self._all("SELECT * FROM jobs WHERE job = ?", (number,))
        return next(map(self._entry, tail.newer(rows)), None)

    def _entry(self, row: JobRow) -> JobEntry | None:
        about = self._about(row)
        return None if about is None else _make_entry(row, about)

    def _about(self, row: JobRow) -> About | None:
        try:
            return decode_about(row[5])
        except msgspec.MsgspecError as error:
            self._count_unreadable(error)
            return None

    def _replay(self, rows: Iterable[JobRow], tail: _Tail) -> dict[int, JobEntry]:
        """What the notices of these jobs, the oldest first, have made of them: one pass over the
        turns."""
        lives: dict[int, _Life] = {}
        table = JobTable(Stats(), _WITHOUT_LIMITS)
        rows = list(rows)
        for row in rows:
            about = self._about(row)
            if about is not None:
                entry = _make_entry(row, about)
                job = table.recover(entry.key, about.start_us, about.adopted, entry.facts)
                lives[entry.number] = _Life(entry, job, table)
        if lives:
            first, last = _range(rows)
            for _number, stored in self._notices(first - 1, last, tail):
                if stored.job in lives:
                    self._go_on(lives[stored.job], stored)
        return {number: life.result() for number, life in lives.items()}

    def _go_on(self, life: _Life, stored: StoredNotice) -> None:
        try:
            life.go_on(stored)
        except msgspec.MsgspecError as error:
            self._count_unreadable(error)

    def _events(self, stored: StoredNotice) -> Sequence[StoredEvent]:
        try:
            return stored.events()
        except msgspec.MsgspecError as error:
            self._count_unreadable(error)
            return ()

    def _count_unreadable(self, error: Exception) -> None:
        self.unreadable += 1

    def _all(self, query: str, values: Sequence[Any]) -> list[Any]:
        return list(self._execute(query, values))

    def _execute(self, query: str, values: Sequence[Any]) -> Iterator[Any]:
        try:
            yield from self._database.execute(query, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise unreadable(self.path, error) from None


def _make_entry(row: JobRow, about: About) -> JobEntry:
    number, _first, _last, _job_id, ended_us, _blob = row
    key = JobKey(about.resource_manager, about.job_id, about.attempt)
    facts = about.facts or JobFacts(key.text)
    return JobEntry(number, key, about.instance, ended_us is not None, ended_us, facts)


_ALL = 1 << 62
"""A notice behind all."""


def _range(rows: Sequence[JobRow]) -> tuple[int, int]:
    """Numbers of the notices between which stands all that was told of these jobs."""
    first = min((row[1] for row in rows), default=_ALL)
    return first, max((row[2] or _ALL for row in rows), default=0)


class _Tail:
    """What the tail has that the database does not, whose newest notice has that number."""

    def __init__(self, records: Sequence[Record], newest: int) -> None:
        self._records = [record for record in records if record.number > newest]
        self.jobs = {
            row[0]: row for record in records if record.rows is not None for row in record.rows[0]
        }
        """Rows of jobs."""
        self.last_notice = records[-1].number if records else 0

    def turns(self, after: int, upto: int) -> Iterator[tuple[int, bytes]]:
        """Notices of turns with some of these, and the number of the last of them."""
        for record in self._records:
            if record.number > after and record.length:
                yield record.number, encode([record.turn])
                if record.number >= upto:
                    break

    def newer(self, rows: Iterable[JobRow]) -> Iterator[JobRow]:
        """These rows, or what the tail has instead."""
        return (self.jobs.get(row[0], row) for row in rows)


class _Life:
    """One job as it goes through what was accepted about it."""

    def __init__(self, entry: JobEntry, job: Job, table: JobTable) -> None:
        self._entry, self._job, self._table = entry, job, table

    def go_on(self, stored: StoredNotice) -> None:
        end_us = self._entry.facts.end_us
        told = stored.received_us, stored.notice(), stored.origin
        self._table.relive(self._job, end_us, (told,))

    def result(self) -> JobEntry:
        entry, job = self._entry, self._job
        facts = entry.facts
        if not entry.ended:
            facts = msgspec.structs.replace(job.facts, recovered=facts.recovered)
        return msgspec.structs.replace(
            entry, ended=entry.ended or job.ended, facts=facts, steps=job.steps(), tasks=job.tasks()
        )
