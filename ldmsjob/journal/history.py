"""Reading a journal: what was, and what is, while its daemon runs and when it does not.

For tools. Nothing is written, and a daemon that writes at the same time is not held up: no row is
read for longer than a moment, however slowly the caller goes on.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ldmsjob.facts import JobFacts, JobKey, Origin, StepFacts, TaskFacts
from ldmsjob.jobs import Job
from ldmsjob.jobtable import JobTable
from ldmsjob.journal.places import unreadable
from ldmsjob.journal.records import StoredEvent, decode_facts, decode_record
from ldmsjob.journal.storage import Damaged, open_for_reading
from ldmsjob.limits import Limits
from ldmsjob.notices import Notice
from ldmsjob.stats import Stats

_ROWS = 500
"""What is read at once."""

_REMEMBERED_JOBS = 4096

_WITHOUT_LIMITS = Limits(
    jobs=1 << 62, steps_per_job=1 << 62, nodes_per_step=1 << 62, tasks_per_job=1 << 62
)
"""The daemon has kept to its own when it accepted what the journal has."""

_JOB = (
    "SELECT job, first_notice, last_notice, resource_manager, job_id, attempt, instance, adopted,"
    " start_us, ended_us, facts FROM jobs"
)


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
    """Number of the notice that gave it."""
    received_time_us: int
    job: JobEntry
    event: StoredEvent


class History:
    """A journal, opened for reading.

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
        of_id, values = ("job_id = ?", [job_id]) if job_id is not None else ("1", [])
        at_hand = of_id if whole else f"{of_id} AND ended_us IS NULL"
        replayed = self._replay(at_hand, values)
        after = 0
        while True:
            rows = self._all(
                f"{_JOB} WHERE job > ? AND {of_id} ORDER BY job LIMIT {_ROWS}", [after, *values]
            )
            for row in rows:
                after = row[0]
                entry = replayed.pop(after, None) or self._entry(row)
                if entry is not None:
                    yield entry
            if len(rows) < _ROWS:
                return

    def events(
        self,
        after: int = 0,
        upto: int | None = None,
        *,
        job: int | None = None,
        job_id: str | None = None,
        since_us: int = 0,
    ) -> Iterator[EventEntry]:
        """Events in order: those of notices behind number ``after``, ``upto`` that number or the
        newest now, that were received at ``since_us`` or later; of that attempt, of all of that
        job, or of all jobs."""
        if upto is None:
            upto = self.last_notice()
        whose: str = ""
        values: list[Any] = []
        if job is not None:
            whose, values = "job = ?", [job]
        elif job_id is not None:
            whose, values = "job IN (SELECT job FROM jobs WHERE job_id = ?)", [job_id]
        if whose:
            # Nothing finds the notices of a job but a look at all since its beginning.
            ((first,),) = self._all(f"SELECT min(first_notice) FROM jobs WHERE {whose}", values)
            after = max(after, (first or upto + 1) - 1)
            whose = f"AND {whose}"
        query = (
            "SELECT number, job, received_us, record FROM notices WHERE number > ? AND number <= ?"
            f" AND received_us >= ? {whose} ORDER BY number LIMIT {_ROWS}"
        )
        entries: dict[int, JobEntry | None] = {}
        while True:
            rows = self._all(query, [after, upto, since_us, *values])
            for after, number, received_us, record in rows:
                events = (self._record(record) or _NOTHING)[2]
                if not events:
                    continue
                if number not in entries:
                    if len(entries) >= _REMEMBERED_JOBS:
                        entries.clear()
                    entries[number] = self._job(number)
                entry = entries[number]
                if entry is not None:
                    for event in events:
                        yield EventEntry(after, received_us, entry, event)
            if len(rows) < _ROWS:
                return

    def last_notice(self) -> int:
        """The number of the newest notice."""
        ((number,),) = self._all("SELECT coalesce(max(number), 0) FROM notices", ())
        return int(number)

    def data_version(self) -> int:
        """Another number whenever the journal has been written to."""
        ((version,),) = self._all("PRAGMA data_version", ())
        return int(version)

    # Rows

    def _job(self, number: int) -> JobEntry | None:
        rows = self._all(f"{_JOB} WHERE job = ?", (number,))
        return self._entry(rows[0]) if rows else None

    def _entry(self, row: Sequence[Any]) -> JobEntry | None:
        number, _first, _last, manager, job_id, attempt, instance, *_, ended_us, facts = row
        try:
            known = decode_facts(facts)
        except msgspec.MsgspecError:
            self.unreadable += 1
            return None
        key = JobKey(manager, job_id, attempt)
        return JobEntry(number, key, instance, ended_us is not None, ended_us, known)

    def _replay(self, which: str, values: Sequence[Any]) -> dict[int, JobEntry]:
        """What the notices of these jobs have made of them: one pass over the notices."""
        lives: dict[int, _Life] = {}
        table = JobTable(Stats(), _WITHOUT_LIMITS)
        for row in self._all(f"{_JOB} WHERE {which} ORDER BY job", values):
            entry = self._entry(row)
            if entry is not None:
                job = table.recover(entry.key, row[8], bool(row[7]), entry.facts)
                lives[entry.number] = _Life(entry, job, table)
        if not lives:
            return {}
        rows = self._execute(
            "SELECT job, received_us, record FROM notices"
            f" WHERE number >= (SELECT min(first_notice) FROM jobs WHERE {which})"
            f" AND job IN (SELECT job FROM jobs WHERE {which}) ORDER BY number",
            [*values, *values],
        )
        for number, received_us, record in rows:
            told = self._record(record)
            if told is not None and number in lives:
                lives[number].go_on(received_us, *told[:2])
        return {number: life.result() for number, life in lives.items()}

    def _record(self, record: bytes) -> _Told | None:
        try:
            return decode_record(record)
        except (msgspec.MsgspecError, KeyError):
            self.unreadable += 1
            return None

    def _all(self, query: str, values: Sequence[Any]) -> list[Any]:
        return list(self._execute(query, values))

    def _execute(self, query: str, values: Sequence[Any]) -> Iterator[Any]:
        try:
            yield from self._database.execute(query, values)
        except sqlite3.Error as error:
            raise unreadable(self.path, error) from None


_Told = tuple[Notice | None, Origin, list[StoredEvent]]
_NOTHING: _Told = (None, "message", [])


class _Life:
    """One job as it goes through what was accepted about it."""

    def __init__(self, entry: JobEntry, job: Job, table: JobTable) -> None:
        self._entry, self._job, self._table = entry, job, table

    def go_on(self, received_us: int, notice: Notice | None, origin: Origin) -> None:
        end_us = self._entry.facts.end_us
        self._table.relive(self._job, end_us, ((received_us, notice, origin),))

    def result(self) -> JobEntry:
        entry, job = self._entry, self._job
        facts = entry.facts
        if not entry.ended:
            facts = msgspec.structs.replace(job.facts, recovered=facts.recovered)
        return msgspec.structs.replace(
            entry, ended=entry.ended or job.ended, facts=facts, steps=job.steps(), tasks=job.tasks()
        )
