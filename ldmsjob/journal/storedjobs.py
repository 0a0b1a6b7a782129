"""Jobs as the journal has them: their rows, and what recovery reads of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ldmsjob.facts import JobFacts, JobKey, Origin
from ldmsjob.jobs import Job
from ldmsjob.journal.records import decode_facts, decode_record, encode
from ldmsjob.journal.storage import JournalFile
from ldmsjob.notices import Notice

MAX_TIME_US = (1 << 62) - 1
"""The latest that a column takes."""


class Known:
    """What the journal knows of a job that more may be said of."""

    __slots__ = ("ended_us", "first_notice", "instance", "number")

    def __init__(self, number: int, first_notice: int, instance: str) -> None:
        self.number = number
        self.first_notice = first_notice
        self.instance = instance
        self.ended_us: int | None = None
        """When its end was heard of, by the clock of this daemon and not of the notifier."""


class StoredJob:
    """A job as the journal has it, for recovery."""

    def __init__(
        self,
        known: Known,
        key: JobKey,
        adopted: bool,
        start_us: int,
        facts: JobFacts,
        notices: list[tuple[int, Notice | None, Origin]],
    ) -> None:
        self.known = known
        self.key = key
        self.adopted = adopted
        self.start_us = start_us
        self.facts = facts
        """As they were when its row was last written: at its beginning, unless it has ended."""
        self.notices = notices
        """What was accepted about it, with times of receipt and origins, in order. None: another
        attempt's notice ended it."""

    @property
    def instance(self) -> str:
        """The job manager that told of it."""
        return self.known.instance


def read_jobs(
    file: JournalFile,
    ended_after_us: int,
    found: dict[int, StoredJob],
    unreadable: Callable[[str, Exception], None],
) -> None:
    """Add to ``found``, by their numbers, jobs that have not ended, or ended after that time, with
    their notices.

    ``unreadable`` is told of rows that are left out. Raises what ``file`` does, with what was read
    until then in ``found``.
    """
    try:
        for row in file.jobs(ended_after_us):
            _find_job(row, found, unreadable)
        for number, received_us, record in file.notices(ended_after_us):
            if number in found:
                _find_notice(found[number], received_us, record, unreadable)
    finally:
        for stored in found.values():
            if stored.known.ended_us is not None:  # even if the notice is not there that ended it
                stored.notices.append((stored.known.ended_us, None, "message"))


def _find_job(
    row: Sequence[Any],
    found: dict[int, StoredJob],
    unreadable: Callable[[str, Exception], None],
) -> None:
    number, first_notice, _last, manager, job_id, attempt, *rest = row
    instance, adopted, start_us, ended_us, facts = rest
    known = Known(number, first_notice, instance)
    known.ended_us = ended_us
    try:
        key, as_known = JobKey(manager, job_id, attempt), decode_facts(facts)
    except msgspec.MsgspecError as error:
        unreadable(f"job {job_id}", error)
        return
    if ended_us is None or as_known.end_us is not None:  # else nobody will tell of it any more
        found[number] = StoredJob(known, key, bool(adopted), start_us, as_known, [])


def _find_notice(
    job: StoredJob, received_us: int, record: bytes, unreadable: Callable[[str, Exception], None]
) -> None:
    try:
        notice, origin, _events = decode_record(record)
    except (msgspec.MsgspecError, KeyError) as error:
        unreadable(f"a notice of job {job.key.job_id}", error)
    else:
        job.notices.append((received_us, notice, origin))


def job_row(job: Job, known: Known, last_notice: int) -> tuple[Any, ...]:
    """The row of a job; ``last_notice`` is the number of the newest one, of whomever."""
    key = job.key
    try:
        facts = encode(job.facts)
    except (ValueError, OverflowError, TypeError):  # as its rows may have been
        facts = encode(JobFacts(key.text, end_us=known.ended_us))
    return (
        known.number,
        known.first_notice,
        last_notice if known.ended_us is not None else None,
        key.resource_manager,
        key.job_id,
        key.attempt,
        known.instance,
        job.adopted,
        min(job.start_us, MAX_TIME_US),
        known.ended_us,
        facts,
    )
