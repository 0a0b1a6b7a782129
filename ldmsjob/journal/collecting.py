"""Collects what a turn brings: notices, jobs whose rows change, numbers that plugins keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from twisted.logger import Logger

from ldmsjob.facts import Origin
from ldmsjob.interfaces import IStats
from ldmsjob.jobs import Change, Job
from ldmsjob.journal.records import (
    UNENCODABLE,
    NewAbout,
    NewEvent,
    NewNotice,
    Rows,
    about_job,
    encodable,
    encode,
    new_event,
)
from ldmsjob.journal.storedjobs import Known, StoredJob, job_row
from ldmsjob.journal.tail import Record, make_record
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.notices import Notice
from ldmsjob.turns import Turn


class Collector:
    """What has been accepted since the last record was made. One is made, and given to ``write``,
    at the end of each turn, and at once outside of turns.

    What no file takes is counted as ``lost`` and logged.
    """

    log = Logger(namespace="journal")

    def __init__(
        self,
        turn: Turn,
        write: Callable[[Record], None],
        stats: IStats,
        now: Callable[[], float],
    ) -> None:
        self._turn = turn
        self._write = write
        turn.at_every_end(self.commit)
        self._stats = stats
        self._limited = LimitedLog(self.log, now=now)
        self._notices: list[NewNotice] = []
        self._changed: dict[Job, Known] = {}
        """Jobs whose own row is out of date."""
        self._begun: dict[Job, Known] = {}
        """Jobs that run and have no row yet, in the order in which they began: most end soon, and
        a row then is enough."""
        self._kept: dict[tuple[str, str], int | None] = {}
        self._known: dict[Job, Known] = {}
        """Jobs of which more may be said."""
        self.job = self.number = self.sequence = 0
        """The highest numbers so far: of a job, of a notice in a record, of an event."""

    def append(
        self,
        notice: Notice,
        received_us: int,
        origin: Origin,
        changes: Sequence[Change],
        sequence: int,
        instance: str,
    ) -> None:
        """Keep a notice and the changes that it made.

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
            if change.ended:
                its.ended_us = received_us
                self._row_changed(job, its)
            elif its.ended_us is not None or (change.described and its.has_row):
                self._row_changed(job, its)
            told = notice if change is last else None
            happened = change.events
            events: Sequence[NewEvent]
            if len(happened) == 1:
                event = happened[0]
                events = (new_event[type(event)](event),)
            else:
                events = [new_event[type(event)](event) for event in happened]
            self._notices.append((its.number, about, received_us, origin, told, events))
        self.sequence = sequence
        if not self._turn.depth:
            self.commit()

    def _begin(self, job: Job, instance: str) -> tuple[Known, NewAbout]:
        self.job += 1
        its = Known(self.job, self.number + 1, instance)
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
            if not self._turn.depth:
                self.commit()

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
        """Keep a number under that name, in the record of the notices that come next; None: no
        longer."""
        self._kept[owner, name] = value

    def recovered(self, job: Job, stored: StoredJob) -> None:
        """That job is this one: what is said of it from now on belongs to the stored one."""
        self._known[job] = stored.known
        self._row_changed(job, stored.known)

    def all_rows_changed(self) -> None:
        """There is a new file: write the rows of all jobs."""
        for job, its in self._known.items():
            self._row_changed(job, its)

    def begun_jobs_changed(self, at_most: int) -> int:
        """Write the rows of so many of the jobs that have none. Returns up to which notice all
        jobs that began with it have theirs then."""
        for job, its in list(islice(self._begun.items(), at_most)):
            self._row_changed(job, its)
        oldest = next(iter(self._begun.values()), None)
        return self.number if oldest is None else oldest.first_notice - 1

    @property
    def is_job_without_row(self) -> bool:
        """Whether there is a job that runs and has no row."""
        return bool(self._begun)

    def commit(self, kept: bool = False) -> None:
        """Have what was collected written. Numbers to keep can wait for notices unless ``kept``."""
        notices = self._notices
        if not (notices or self._changed or (kept and self._kept)):
            return
        self._notices = []
        received_us = notices[-1][2] if notices else 0
        number = self.number + len(notices)
        try:
            turn = encode((number, received_us, self.job, self.sequence, notices))
        except UNENCODABLE:
            notices = encodable(notices, self._unencodable)
            number = self.number + len(notices)
            turn = encode((number, received_us, self.job, self.sequence, notices))
        self.number = number
        rows = self._rows() if self._changed or self._kept else None
        self._write(make_record(number, len(notices), turn, rows))

    def _rows(self) -> Rows:
        jobs = []
        for job, its in self._changed.items():
            jobs.append(job_row(job, its, self.number))  # a list of its own costs more
        self._changed.clear()
        kept = [(*name, value) for name, value in self._kept.items()] if self._kept else []
        self._kept.clear()
        return jobs, kept

    def _unencodable(self, notice: NewNotice, error: Exception) -> None:
        number, about = notice[:2]
        job = next((job for job, known in self._known.items() if known.number == number), None)
        self._unwritable(str(number) if job is None else job.key.job_id, error)
        if job is not None and about is not None:  # Nothing more that is told of it can be kept.
            for where in (self._known, self._begun, self._changed):
                where.pop(job, None)

    def renumber(self, by_notices: int, by_jobs: int) -> None:
        """Raise the numbers of all jobs and notices."""
        self.job += by_jobs
        self.number += by_notices
        for known in {*self._known.values(), *self._changed.values()}:
            known.number += by_jobs
            known.first_notice += by_notices
