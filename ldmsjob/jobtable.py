"""The job table: all jobs that this daemon knows, and notices in. Pure: no input, output or clock.

Which jobs there are, ``knownjobs.py`` keeps; what a notice does to one, ``jobrules.py`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ldmsjob.attempts import is_ahead
from ldmsjob.events import JobEvent
from ldmsjob.facts import JobFacts, JobKey, Origin
from ldmsjob.interfaces import IStats
from ldmsjob.jobroom import JobRoom
from ldmsjob.jobrules import JobRules
from ldmsjob.jobs import Change, Job
from ldmsjob.knownjobs import KnownJobs
from ldmsjob.limits import Limits
from ldmsjob.notices import OPENING, Notice, check_opening
from ldmsjob.stats import Stats


class JobTable:
    """All jobs that run or whose sets linger.

    ``stats`` counts what is repeated, late or unknown, by reason, and what is left out because of
    the ``limits``; ``refused`` is called for that: see ``JobRoom``.
    """

    def __init__(
        self,
        stats: IStats,
        limits: Limits | None = None,
        refused: Callable[[str, str], None] = lambda limit, job_id: None,
    ) -> None:
        limits = limits or Limits()
        self._stats = stats
        self._jobs = KnownJobs()
        self._last_time_us = 0
        self._room = JobRoom(self._jobs, stats, limits, refused)
        self._rules = JobRules(self._jobs, self._room, stats)
        # What is done again was counted and numbered when it came.
        uncounted = Stats()
        room = JobRoom(self._jobs, uncounted, limits, refused)
        self._rules_again = JobRules(self._jobs, room, uncounted)

    def apply(
        self,
        notice: Notice,
        received_us: int,
        resource_manager: str,
        origin: Origin = "message",
    ) -> list[Change]:
        """Change the jobs as the transition table says and return what changed, in order.

        Usually one change; two when a new attempt ends an old one; none for what is only counted. A
        change may show in no event and no fact: only the table remembers it.
        ``received_us`` is also the time of a notice that has none. An ``origin`` other than
        ``message`` stands in all events that the notice gives. Raises ``NoticeError``, and changes
        nothing, for what cannot be a job's id or owner.
        """
        if origin != "message":
            return self._apply_finding(notice, received_us, resource_manager, origin)
        rules = self._rules
        job = self._jobs.newest[resource_manager].get(notice.job_id)
        if type(notice) in OPENING:
            opening: Any = notice
            if job is None:
                check_opening(opening)
            else:
                uid, gid = opening.uid, opening.gid
                if (uid is not None and uid != job.uid) or (gid is not None and gid != job.gid):
                    check_opening(opening)
        time_us = notice.time_us
        if time_us is None:
            time_us = received_us
        # What happens in one second has one time: records of many tasks share the number.
        elif time_us == self._last_time_us:
            time_us = self._last_time_us
        else:
            self._last_time_us = time_us
        if job is None:
            if not self._room.takes_job(notice):
                return []
            return rules.unknown[type(notice)](resource_manager, notice, time_us, received_us)
        if not job.told_plainly:
            job = self._jobs.attempt_meant(job, notice, time_us)
            if job.exit_told_us and is_ahead(job, notice, time_us):
                self._stats.add("ahead")
                return []
        of_its_state = rules.lingering if job.ended else rules.running
        return of_its_state[type(notice)](job, notice, time_us, received_us)

    def _apply_finding(
        self, notice: Notice, received_us: int, resource_manager: str, origin: Origin
    ) -> list[Change]:
        """The same for a notice that no message brought."""
        self._rules.origin = origin
        try:
            changes = self.apply(notice, received_us, resource_manager)
        finally:
            self._rules.origin = "message"
        for change in changes:
            replaced = [msgspec.structs.replace(event, origin=origin) for event in change.events]
            change.events = replaced
        return changes

    def find(self, key: JobKey) -> Job | None:
        """The job, while it runs or its set lingers."""
        return self._jobs.by_key.get(key)

    def jobs(self) -> list[Job]:
        """All of them, in the order in which this daemon heard of them."""
        return list(self._jobs.by_key.values())

    def running(self) -> list[Job]:
        """Those that have not ended."""
        return [job for job in self._jobs.by_key.values() if not job.ended]

    def forget(self, job: Job) -> None:
        """Remember nothing of a job whose set is gone."""
        self._jobs.forget(job)

    @property
    def last_sequence(self) -> int:
        """The number of the last event posted; set it before the first one is."""
        return self._rules.sequence

    @last_sequence.setter
    def last_sequence(self, number: int) -> None:
        self._rules.sequence = number

    def recover(
        self,
        key: JobKey,
        start_us: int,
        adopted: bool,
        facts: JobFacts,
    ) -> Job:
        """Put a job back that an earlier daemon knew, as it began: ``relive`` makes it what it is.

        Attempts of a job come in order, all of them before any is relived.
        """
        job = self._jobs.begin(key, start_us, adopted)
        job.recovered = True
        job.uid, job.gid, job.user, job.details = facts.uid, facts.gid, facts.user, facts.details
        return job

    def relive(
        self, job: Job, end_us: int | None, notices: Iterable[tuple[int, Notice | None, Origin]]
    ) -> None:
        """Do again what was accepted about a recovered job, with times of receipt and origins.

        None stands for what another attempt's notice has meant for this one: its end, at
        ``end_us``. Nothing is posted or counted.
        """
        rules = self._rules_again
        for received_us, notice, origin in notices:
            if notice is None:
                if not job.ended:
                    rules.end_attempt(job, end_us or received_us, received_us, "implied")
                continue
            # Which attempt it meant was decided when it came.
            rules.origin = origin
            time_us = notice.time_us if notice.time_us is not None else received_us
            of_its_state = rules.lingering if job.ended else rules.running
            for change in of_its_state[type(notice)](job, notice, time_us, received_us):
                if change.job is not job:
                    self._forget_imagined(change.job, job)

    def _forget_imagined(self, imagined: Job, job: Job) -> None:
        """A notice that is understood in another way than by the daemon that got it makes no
        attempt that nobody was told of."""
        self._jobs.forget(imagined)
        self._jobs.newest[job.key.resource_manager].setdefault(job.key.job_id, job)

    def started_events(self, job: Job, received_us: int) -> list[JobEvent]:
        """Start events of the job and of its open steps and tasks, for a new subscriber.

        Their origin is ``replay``, or ``recovery`` when the job was recovered, and their sequence
        number that of the last event posted.
        """
        return job.started_events(self._rules.sequence, received_us)

    def describe(
        self,
        job: Job,
        *,
        user: str | None = None,
        uid: int | None = None,
        gid: int | None = None,
    ) -> Change:
        """Fill what is still unknown of these; they were looked up and not reported."""
        change = Change(job)
        for name, value in (("user", user), ("uid", uid), ("gid", gid)):
            if value is not None and getattr(job, name) is None:
                setattr(job, name, value)
                change.described = True
                job.known_facts = None
        return change
