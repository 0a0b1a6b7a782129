"""Reading a journal: what was, and what is, while its daemon runs and when it does not.

For tools. Nothing is written, and a daemon that writes at the same time is not held up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ldmsjob.facts import JobFacts, JobKey, Origin, StepFacts, TaskFacts
from ldmsjob.jobtable import JobTable
from ldmsjob.journal.places import unreadable
from ldmsjob.journal.records import StoredEvent, decode_facts, decode_record
from ldmsjob.journal.storage import Damaged, open_for_reading
from ldmsjob.stats import Stats


class JobEntry(msgspec.Struct, frozen=True):
    """One attempt of one job. Times are microseconds since the epoch."""

    number: int
    key: JobKey
    instance: str
    """The job manager that told of it."""
    ended: bool
    facts: JobFacts
    steps: Sequence[StepFacts] = ()
    tasks: Sequence[TaskFacts] = ()
    """Steps and tasks are there when they were asked for."""


class EventEntry(msgspec.Struct, frozen=True):
    """One job event, and whose it is."""

    notice: int
    """Of the notice that gave it: ``events`` goes on behind it."""
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
        self._entries: dict[int, JobEntry] = {}
        try:
            self._database = open_for_reading(path)
        except (OSError, sqlite3.Error, Damaged) as error:
            raise unreadable(path, error) from None

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def jobs(self, *, whole: bool = False, job_id: str | None = None) -> list[JobEntry]:
        """All jobs that the journal knows, or the attempts of one, oldest first.

        ``whole``: with their steps and tasks.
        """
        where, values = ("WHERE job_id = ?", (job_id,)) if job_id is not None else ("", ())
        rows = self._all(
            "SELECT job, first_notice, last_notice, resource_manager, job_id, attempt, instance,"
            f" adopted, start_us, ended_us, facts FROM jobs {where} ORDER BY job",
            values,
        )
        entries = {}
        for row in rows:
            entry = self._entry(row)
            if entry is not None:
                entries[entry.number] = entry
        replayed = {row[0]: row for row in rows if row[0] in entries and (whole or row[9] is None)}
        for number, entry in self._replay(replayed, entries).items():
            entries[number] = entry
        return list(entries.values())

    def events(
        self, after: int = 0, *, job: int | None = None, since_us: int = 0
    ) -> Iterator[EventEntry]:
        """Events in order: those of notices behind number ``after`` that were received at
        ``since_us`` or later, of that job or of all."""
        where, values = "", [after, since_us]
        if job is not None:
            where = "AND job = ?"
            values.append(job)
        rows = self._execute(
            "SELECT number, job, received_us, record FROM notices"
            f" WHERE number > ? AND received_us >= ? {where} ORDER BY number",
            values,
        )
        while True:
            try:
                row = rows.fetchone()
            except sqlite3.Error as error:
                raise unreadable(self.path, error) from None
            if row is None:
                return
            number, job_number, received_us, record = row
            events = self._record(record)[2]
            if not events:
                continue
            entry = self._job(job_number, fresh=any(e.word == "job_ended" for e in events))
            if entry is not None:
                for event in events:
                    yield EventEntry(number, received_us, entry, event)

    def last_notice(self) -> int:
        """The number of the newest notice."""
        return self._all("SELECT coalesce(max(number), 0) FROM notices", ())[0][0]

    def data_version(self) -> int:
        """Another number whenever the journal has been written to."""
        return self._all("PRAGMA data_version", ())[0][0]

    # Rows

    def _job(self, number: int, *, fresh: bool) -> JobEntry | None:
        """The row of a job, remembered: user and name of a job that runs come with its end."""
        if fresh or number not in self._entries:
            rows = self._all(
                "SELECT job, first_notice, last_notice, resource_manager, job_id, attempt,"
                " instance, adopted, start_us, ended_us, facts FROM jobs WHERE job = ?",
                (number,),
            )
            entry = self._entry(rows[0]) if rows else None
            if entry is None:
                return None
            self._entries[number] = entry
        return self._entries[number]

    def _entry(self, row: Sequence[Any]) -> JobEntry | None:
        number, _first, _last, manager, job_id, attempt, instance, *_, ended_us, facts = row
        try:
            known = decode_facts(facts)
        except msgspec.MsgspecError:
            self.unreadable += 1
            return None
        return JobEntry(
            number, JobKey(manager, job_id, attempt), instance, ended_us is not None, known
        )

    def _replay(
        self, rows: dict[int, Sequence[Any]], entries: dict[int, JobEntry]
    ) -> dict[int, JobEntry]:
        """What the notices of these jobs have made of them: one pass over the notices."""
        if not rows:
            return {}
        told: dict[int, list[Any]] = {number: [] for number in rows}
        first = min(row[1] for row in rows.values())
        lasts = [row[2] for row in rows.values()]
        last = self.last_notice() if None in lasts else max(lasts)
        for number, received_us, record in self._execute(
            "SELECT job, received_us, record FROM notices WHERE number BETWEEN ? AND ?"
            " ORDER BY number",
            (first, last),
        ):
            if number in told:
                notice, origin, _events = self._record(record)
                if notice is not None:
                    told[number].append((received_us, notice, origin))
        result = {}
        for number, row in rows.items():
            entry = entries[number]
            table = JobTable(Stats())
            job = table.recover(
                entry.key, row[8], bool(row[7]), entry.facts, told[number], last_sequence=0
            )
            facts = msgspec.structs.replace(job.facts, recovered=entry.facts.recovered)
            result[number] = JobEntry(
                number, entry.key, entry.instance, entry.ended, facts, job.steps(), job.tasks()
            )
        return result

    def _record(self, record: bytes) -> tuple[Any, Origin, list[StoredEvent]]:
        try:
            return decode_record(record)
        except (msgspec.MsgspecError, KeyError):
            self.unreadable += 1
            return None, "message", []

    def _all(self, query: str, values: Sequence[Any]) -> list[Any]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise unreadable(self.path, error) from None

    def _execute(self, query: str, values: Sequence[Any]) -> sqlite3.Cursor:
        try:
            return self._database.execute(query, values)
        except sqlite3.Error as error:
            raise unreadable(self.path, error) from None
