"""Jobs as the journal has them: their rows, and what recovery reads of them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ldmsjob.facts import JobFacts, JobKey, Origin
from ldmsjob.jobs import Job
from ldmsjob.journal.records import (
    UNENCODABLE,
    About,
    JobRow,
    StoredNotice,
    about_job,
    decode_about,
    decode_turns,
    encode,
)
from ldmsjob.journal.storage import JournalFile
from ldmsjob.notices import Notice


class Known(msgspec.Struct, eq=False, gc=False):
    """What the journal knows of a job that more may be said of."""

    number: int
    first_notice: int
    instance: str
    has_row: bool = False
    """Whether it has a row of its own, or is about to get one."""
    ended_us: int | None = None
    """When its end was heard of, by the clock of this daemon and not of the notifier."""


class StoredJob:
    """A job as the journal has it, for recovery."""

    def __init__(self, known: Known, about: About) -> None:
        self.known = known
        self.key = JobKey(about.resource_manager, about.job_id, about.attempt)
        self.adopted = about.adopted
        self.start_us = about.start_us
        self.facts = about.facts or JobFacts(self.key.text)
        """As they were when its row was last written: some time while it ran, unless it has
        ended."""
        self.notices: list[tuple[int, Notice | None, Origin]] = []
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

    def damaged(error: Exception) -> None:
        unreadable("a notice", error)

    try:
        for row in file.jobs(ended_after_us):
            _find_job(row, found, unreadable)
        for data in file.turns(ended_after_us):
            for stored in decode_turns(data, damaged):
                if stored.job in found:
                    _find_notice(found[stored.job], stored, unreadable)
    finally:
        for job in found.values():
            if job.known.ended_us is not None:  # even if the notice is not there that ended it
                job.notices.append((job.known.ended_us, None, "message"))


def _find_job(
    row: JobRow, found: dict[int, StoredJob], unreadable: Callable[[str, Exception], None]
) -> None:
    number, first_notice, _last, job_id, ended_us, blob = row
    try:
        about = decode_about(blob)
    except msgspec.MsgspecError as error:
        unreadable(f"job {job_id}", error)
        return
    known = Known(number, first_notice, about.instance)
    known.ended_us = ended_us
    known.has_row = True
    job = StoredJob(known, about)
    if ended_us is None or job.facts.end_us is not None:  # else nobody will tell of it any more
        found[number] = job


def _find_notice(
    job: StoredJob, stored: StoredNotice, unreadable: Callable[[str, Exception], None]
) -> None:
    try:
        job.notices.append((stored.received_us, stored.notice(), stored.origin))
    except msgspec.MsgspecError as error:
        unreadable(f"a notice of job {job.key.job_id}", error)


def job_row(job: Job, known: Known, last_notice: int) -> JobRow:
    """The row of a job; ``last_notice`` is the number of the newest one, whatever it told."""
    facts = job.known_facts or job.new_facts()
    try:
        about = encode(about_job(job, known.instance, facts))
    except UNENCODABLE:  # as its notices may have been
        facts = JobFacts(job.key.text, end_us=known.ended_us)
        about = encode(about_job(job, known.instance, facts))
    ended_us = known.ended_us
    return (
        known.number,
        known.first_notice,
        None if ended_us is None else last_notice,
        job.key.job_id,
        ended_us,
        bytearray(about),  # SQLite's module looks for an adapter of bytes for longer than this
    )
