"""Jobs as the rest of the daemon sees them: notices in; job sets and job events out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from ldmsjob.clocks import wall_clock_us
from ldmsjob.events import JobEvent
from ldmsjob.facts import JobKey, Origin
from ldmsjob.fanout import Fanout, Subscription
from ldmsjob.interfaces import IJobSubscriber
from ldmsjob.jobs import Change, Job
from ldmsjob.jobsets import JobSetPolicy, JobSets
from ldmsjob.jobtable import JobTable
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.limits import Limits
from ldmsjob.memory import Memory
from ldmsjob.notices import Notice
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.stats import Stats
from ldmsjob.turns import Turn
from ldmsjob.users import Users

if TYPE_CHECKING:
    from ldmsjob.journal.journal import Journal


class JobService:
    """The job table, the job sets and the subscribers of job events, joined.

    A set shows a change when the event of that change is delivered. ``clock`` is monotonic: it
    measures lingers and makes the calls; ``wall_clock_us`` tells the time. ``users`` looks up what
    notices do not tell; by default in threads of the reactor. ``journal`` keeps what is accepted.

    Counters stand in the groups ``jobs``, ``job_sets`` and ``subscribers`` of ``stats``.
    """

    log = Logger(namespace="jobmgr")

    def __init__(
        self,
        registry: SetRegistry,
        turn: Turn,
        clock: IReactorTime,
        stats: Stats,
        daemon_name: str,
        *,
        wall_clock_us: Callable[[], int] = wall_clock_us,
        users: Users | None = None,
        journal: Journal | None = None,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self._limited = log = LimitedLog(self.log)
        self._turn = turn
        self._now_us = wall_clock_us
        self._stats = stats.child("jobs")
        self._table = JobTable(self._stats, limits, self._refused)
        self._sets = JobSets(
            registry,
            clock,
            stats.child("job_sets"),
            log,
            daemon_name,
            self._forget,
            wall_clock_us,
            most_lingering=limits.lingering_jobs,
        )
        self._fanout = Fanout(
            stats.child("subscribers"), log, limit=limits.event_queue, now=clock.seconds
        )
        self._memory = Memory(clock, stats.settle)
        self._users = users or Users(clock, deferToThread)
        self._journal = journal
        self._stats.gauge("running", lambda: len(self._table.running()))
        self._stats.gauge("lingering", lambda: sum(job.ended for job in self._table.jobs()))

    def apply(
        self,
        notice: Notice,
        received_time_us: int,
        resource_manager: str,
        policy: JobSetPolicy,
        origin: Origin = "message",
        instance: str = "",
    ) -> None:
        """Do all that a notice means: change jobs, write sets and the journal, deliver events.

        ``policy`` is for the sets of jobs that begin with this notice; ``origin`` says how it came
        to be known. May be called from inside a
        job event; what it gives is then delivered behind what was there before.
        """
        changes = self._table.apply(notice, received_time_us, resource_manager, origin)
        if not changes:
            return
        for change in changes:
            if change.opened:
                change.job.policy = policy
            self._sets.apply(change, received_time_us)
        if self._journal is not None:
            sequence = self._table.last_sequence
            self._journal.append(notice, received_time_us, origin, changes, sequence, instance)
        events = changes[0].events
        if len(changes) > 1:
            events = [event for change in changes for event in change.events]
        if len(events) == 1 or (events and self._turn.depth):
            self._fanout.post(events)
        elif events:
            with self._turn:  # so that subscribers need not write each event on its own
                self._fanout.post(events)
        for change in changes:
            if change.ended or (change.described and change.job.adopted):
                self._look_up(change.job)

    def _refused(self, limit: str, job_id: str) -> None:
        self._limited.warn(
            f"limit {limit}",
            "job {job} is left out, or a part of it: the limit {limit} is reached",
            job=job_id,
            limit=limit,
        )

    def subscribe(
        self, subscriber: IJobSubscriber, *, name: str, replay: bool = False
    ) -> Subscription:
        """Deliver job events from now on; ``name`` stands in logs and counters.

        With ``replay`` the subscriber first gets the start events of the jobs, steps and tasks that
        run, with origin ``replay``; then every event from now on, none missing and none twice.
        """
        events: list[JobEvent] = []
        if replay:
            now_us = self._now_us()
            for job in self._table.running():
                events += self._table.started_events(job, now_us)
        return self._fanout.subscribe(subscriber, name=name, replay=events)

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """The open ones, the oldest first."""
        return self._fanout.open

    def jobs(self) -> list[Job]:
        """All jobs that run or whose sets linger, in the order in which they began."""
        return self._table.jobs()

    def find_job(self, key: JobKey) -> Job | None:
        """The job, while it runs or its set lingers."""
        return self._table.find(key)

    def recover(self, policies: Mapping[str, JobSetPolicy]) -> tuple[int, int]:
        """Put the jobs of the journal back that run, as far as it knows, or whose sets linger.

        ``policies`` are those of the job managers that there are, by instance. Returns how many
        jobs were put back, and how many were left out because their job manager is gone. Before
        anybody subscribes.
        """
        journal = self._journal
        if journal is None:
            return 0, 0
        now_us = self._now_us()
        linger_us = int(1e6 * max((p.linger_seconds for p in policies.values()), default=0.0))
        left_out = 0
        recoverable = journal.recoverable(now_us - linger_us)
        self._table.last_sequence = journal.last_sequence
        newest = {stored.key: stored for stored in recoverable}
        jobs = []
        for stored in recoverable:
            policy = policies.get(stored.instance)
            if policy is None:
                left_out += 1
                journal.abandon(stored)
            elif newest[stored.key] is not stored:
                # A daemon that could not read its journal has begun the job anew.
                journal.abandon(stored)
            else:
                job = self._table.recover(stored.key, stored.start_us, stored.adopted, stored.facts)
                job.policy = policy
                journal.recovered(job, stored)
                jobs.append((job, stored))
        for job, stored in jobs:
            self._table.relive(job, stored.facts.end_us, stored.notices)
            self._sets.recover(job, now_us)
        journal.commit()  # that they are recovered
        return len(jobs), left_out

    def _forget(self, job: Job) -> None:
        self._table.forget(job)
        if self._journal is not None:
            self._journal.forget(job)
        self._memory.job_gone()

    def drop_jobs(self, policy: JobSetPolicy) -> None:
        """Forget the jobs that were opened with this very policy, and withdraw their sets now.

        For a job manager that is terminated. The jobs have not ended, so there are no events;
        running ones are counted as ``dropped``.
        """
        jobs = [job for job in self._table.jobs() if job.policy is policy]
        running = [job for job in jobs if not job.ended]
        self._stats.add("dropped", len(running))
        if self._journal is not None:
            for job in running:
                self._journal.dropped(job, self._now_us())
        self._sets.drop(jobs)

    def close(self) -> Deferred[None]:
        """Deliver what is queued, then every subscriber's last call; fires when all are done.

        Sets stay where they are; lingers end no more.
        """
        self._sets.close()
        self._memory.close()
        with self._turn:
            return self._fanout.close()

    def abandon(self, name: str | None = None) -> int:
        """Wait no longer for the subscribers of that name, or for any; what they had still to get
        is ``discarded``, and the number returned."""
        return self._fanout.abandon(name)

    # Looking up users

    def _look_up(self, job: Job) -> None:
        """Ask the user database for what notices have not told and may not tell any more.

        For an adopted job at once, because its set may belong to its user; for others at the end.
        """
        looking = self._users.missing_facts(job.facts)
        if looking is not None:
            looking.addCallback(self._looked_up, job)
            looking.addErrback(self._look_up_failed)

    def _looked_up(self, found: dict[str, Any], job: Job) -> None:
        if found and self._table.find(job.key) is job:
            change: Change = self._table.describe(job, **found)
            if change.described:
                self._sets.apply(change, self._now_us())
                if self._journal is not None:
                    self._journal.described(job)

    def _look_up_failed(self, failure: Any) -> None:
        self.log.failure("looking up the user of a job failed", failure)
