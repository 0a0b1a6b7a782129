"""Job sets: what the job table knows, shown in the metric sets that peers read.

One set for each attempt of a job, in the schema of the C job manager. docs/job-sets.md describes
it for its readers.
"""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import cached_property, lru_cache
from math import ceil

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ldmsjob.errors import ConfigError, SchemaError, SetExists
from ldmsjob.facts import JobFacts
from ldmsjob.interfaces import AttributeSpec, IStats
from ldmsjob.jobimage import JobOffer, JobSet
from ldmsjob.jobs import Change, Job
from ldmsjob.jobschema import (
    DETAILED_JOB_FIELDS,
    JOB_FIELDS,
    TEXT_SIZE,
    JobFields,
    job_set_schema,
)
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.sets.layout import SetLayout, layout_for
from ldmsjob.sets.names import check_instance_name
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.sets.schema import Schema
from ldmsjob.values import cut_text

DEFAULT_TASKS = 10
"""Tasks that a job set has room for at first: what C's list of 4096 bytes holds."""

MAX_TASKS = 1_000_000
"""Tasks that a set can show at most; further ones are counted and left out."""

MAX_ANNOUNCED_TASKS = 16_384
"""Room is made for announced tasks up to this number; for more when they have started. A wrong
number in a message must not take the daemon's memory."""

MOMENTS = 8
"""Of a second: a set may linger longer by one of them."""

JOB_SET_ATTRIBUTES = (
    AttributeSpec("component_id", "Text for the metric component_id of job sets.", "text", ""),
    AttributeSpec("linger", "How long a job's set stays after the job's end.", "seconds", "10"),
    AttributeSpec("perm", "Who may read job sets, as octal digits.", "octal", "640"),
    AttributeSpec(
        "owner", "Who owns job sets: the daemon's user or the job's.", "daemon|job", "daemon"
    ),
    AttributeSpec(
        "tasks", "Tasks that a job set has room for at first.", "integer", str(DEFAULT_TASKS)
    ),
    AttributeSpec(
        "details",
        "Whether job sets show arrays, requeues, partition, account and status as well.",
        "boolean",
        "false",
    ),
)
"""How the sets of a job manager are made."""


def _integer(mapping: Mapping[str, str], name: str, default: str, base: int = 10) -> int:
    text = mapping.get(name, default)
    try:
        return int(text, base)
    except ValueError:
        raise ConfigError(f"{name}={text} is not a number") from None


class JobSetPolicy(msgspec.Struct, frozen=True, eq=False, dict=True):
    """How the sets of one job manager instance are made. Two policies are never equal."""

    component_id: str = ""
    linger_seconds: float = 10.0
    perm: int = 0o640
    owned_by_job: bool = False
    """Whether a set belongs to the job's user, as soon as that is known, or to the daemon's."""
    tasks: int = DEFAULT_TASKS
    schema: Schema = JOB_FIELDS.schema
    fields: JobFields = JOB_FIELDS

    @cached_property
    def component_text(self) -> bytes:
        """``component_id`` as it stands in images."""
        return cut_text(self.component_id, TEXT_SIZE)

    @classmethod
    def from_attributes(cls, mapping: Mapping[str, str]) -> JobSetPolicy:
        """From the attributes of ``JOB_SET_ATTRIBUTES``; those that are absent have defaults.

        ``linger`` is a number of seconds and ``perm`` octal digits. Raises ``ConfigError``.
        """
        text = mapping.get("linger", "10")
        try:
            linger = float(text)
        except ValueError:
            linger = -1.0
        if not 0 <= linger < 1e9:
            raise ConfigError(f"linger={text} is not a time", hint="it may be 0 or more seconds")
        perm = _integer(mapping, "perm", "640", 8)
        if not 0 <= perm <= 0o777:
            raise ConfigError(f"perm={perm:o} is not a permission", hint="it may be 0 to 777")
        owner = mapping.get("owner", "daemon")
        if owner not in ("daemon", "job"):
            raise ConfigError(f"owner={owner} is unknown", hint="it may be daemon or job")
        tasks = _integer(mapping, "tasks", str(DEFAULT_TASKS))
        if not 1 <= tasks <= MAX_TASKS:
            raise ConfigError(f"tasks={tasks} is out of range", hint=f"it may be 1 to {MAX_TASKS}")
        fields = DETAILED_JOB_FIELDS if mapping.get("details") == "true" else JOB_FIELDS
        schema = fields.schema
        if tasks != DEFAULT_TASKS:
            schema = job_set_schema(fields.tasks.heap_size(tasks), details=fields.has_details)
        return cls(
            mapping.get("component_id", ""),
            linger,
            perm,
            owner == "job",
            tasks,
            schema,
            fields,
        )


class JobSets:
    """Makes, fills and withdraws the sets of all jobs.

    A set is withdrawn when its job has ended and its linger is over; ``forget`` is then called with
    the job. ``clock`` is monotonic, measures lingers and makes the calls; ``wall_clock_us`` is
    for what stands in sets.

    Counters: ``made``, ``laid_out_anew`` (for more tasks), ``removed``, ``not_offered`` (sets that
    peers do not see because their name is taken or cannot be one), ``tasks_left_out`` (of a job
    with more than ``MAX_TASKS``) and ``cut_short`` (lingers, because more than ``most_lingering``
    jobs had ended).
    """

    def __init__(
        self,
        registry: SetRegistry,
        clock: IReactorTime,
        stats: IStats,
        log: LimitedLog,
        daemon_name: str,
        forget: Callable[[Job], None],
        wall_clock_us: Callable[[], int],
        most_lingering: int,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._stats = stats
        self._log = log
        self._daemon_name = daemon_name
        self._forget = forget
        self._wall_clock_us = wall_clock_us
        self._daemon_owner: tuple[int, int] | None = None
        self._most_lingering = most_lingering
        self._lingering_jobs = 0
        self._lingering: dict[float, deque[Job]] = {}
        """The jobs whose lingers end, by when, in the order in which they ended."""
        self._deadlines: list[float] = []
        """A heap of these times."""
        self._timer: IDelayedCall | None = None
        self._timer_deadline = 0.0
        self._make_set = self._make  # one for all
        self._sets_made = self._sets_removed = 0
        stats.counts("made", lambda: self._sets_made)
        stats.counts("removed", lambda: self._sets_removed)

    def apply(self, change: Change, now_us: int) -> None:
        """Show one change in the job's set, as one transaction at wall-clock time ``now_us``."""
        job = change.job
        if change.opened:
            self._open(job, now_us)
        elif change.described or change.filled or change.tasks:
            offer = job.offer
            is_full = job.expected_tasks > offer.capacity
            if not is_full or not self._lay_out_anew(job, now_us):
                if change.described and job.policy.owned_by_job:
                    self._own(job, offer)
                offer.take(change, now_us)
                if is_full:
                    left_out = [task.position >= offer.capacity for task in change.tasks]
                    self._stats.add("tasks_left_out", sum(left_out))
        if change.ended:
            self._linger(job)

    def recover(self, job: Job, now_us: int) -> None:
        """Make the set of a job that was recovered; one that has ended lingers anew."""
        change = Change(job, opened=True)
        change.ended = job.ended
        self.apply(change, now_us)

    def drop(self, jobs: Collection[Job]) -> None:
        """Withdraw the sets of these jobs now."""
        dropped = set(jobs)
        for deadline, lingering in self._lingering.items():
            self._lingering[deadline] = deque(job for job in lingering if job not in dropped)
        self._lingering_jobs = sum(map(len, self._lingering.values()))
        if not self._lingering_jobs:
            self.close()
        for job in jobs:
            self._remove(job)

    def close(self) -> None:
        """End no lingers any more. Sets stay as they are."""
        self._lingering.clear()
        self._lingering_jobs = 0
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Making

    def _open(self, job: Job, now_us: int) -> None:
        key = job.key
        name = f"{self._daemon_name}/job_{job.text}"
        if key.attempt > 1:
            name = f"{name}.{key.attempt}"
        tasks = job.policy.tasks
        if job.expected_tasks > tasks:
            tasks = max(tasks, _room_wanted(job))
        try:
            check_instance_name(name)
            self._registry.add(self._offer(job, name, tasks, now_us))
            self._sets_made += 1
        except (SchemaError, SetExists) as error:
            self._stats.add("not_offered")
            self._log.warn(
                "set name",
                "no peer can see the set of job {job}: {error}",
                job=key.text,
                error=error,
            )
            self._offer(job, "not_offered", tasks, now_us)

    def _offer(self, job: Job, name: str, tasks: int, now_us: int) -> JobOffer:
        """A set with everything that is known of the job, for the registry."""
        capacity = _capacity(tasks)
        offer = JobOffer(job, name, capacity, self._make_set, now_us)
        if len(job.task_records) > capacity:
            self._stats.add("tasks_left_out", len(job.task_records) - capacity)
        job.offer = offer
        return offer

    def _make(self, offer: JobOffer) -> JobSet:
        """The set itself, for somebody who wants to know more than its name."""
        layout = _layout(offer.policy.schema, len(offer.instance), offer.capacity)
        return JobSet(offer, layout, self._owner(offer.policy, offer.facts), self._wall_clock_us)

    def _lay_out_anew(self, job: Job, now_us: int) -> bool:
        """Replace the set by one with at least twice the room, in which everything stands.

        False when no more room is wanted than there is.
        """
        old = job.offer
        wanted = _room_wanted(job)
        if wanted <= old.capacity:
            return False
        tasks = min(max(wanted, 2 * old.capacity), MAX_TASKS)
        new = self._offer(job, old.instance, tasks, now_us)
        self._stats.add("laid_out_anew")
        if self._registry.offers(old):
            self._registry.remove(old.instance)
            self._registry.add(new)
        return True

    def _owner(self, policy: JobSetPolicy, facts: JobFacts) -> tuple[int, int]:
        """The uid and gid that a job's set belongs to."""
        daemon = self._daemon_owner
        if daemon is None:
            # A daemon that root has started is another user by now.
            daemon = self._daemon_owner = (os.geteuid(), os.getegid())
        if policy.owned_by_job and facts.uid is not None:
            return facts.uid, daemon[1] if facts.gid is None else facts.gid
        return daemon

    def _own(self, job: Job, offer: JobOffer) -> None:
        """Give the set to the job's user, if it is not his."""
        owner = self._owner(job.policy, job.facts)
        made = offer.made
        if made is None:
            if owner == self._owner(job.policy, offer.facts):
                return
            offer.meta_generation += 1
        elif owner == (made.uid, made.gid):
            return
        else:
            made.set_owner(*owner, made.perm)
        if self._registry.offers(offer):
            self._registry.changed(offer.instance)

    # Withdrawing

    def _linger(self, job: Job) -> None:
        seconds = job.policy.linger_seconds
        now = self._clock.seconds()
        if seconds >= 1.0:
            # Those that end in the same moment go together: of them only a list has to be kept.
            now = ceil(now * MOMENTS) / MOMENTS
        deadline = now + seconds
        self._lingering_jobs += 1
        jobs = self._lingering.get(deadline)
        if jobs is not None:
            jobs.append(job)
        else:
            self._lingering[deadline] = deque((job,))
            heapq.heappush(self._deadlines, deadline)
            if self._timer is None or deadline < self._timer_deadline:
                self._set_timer(self._deadlines[0])
        if self._lingering_jobs > self._most_lingering and self._timer_deadline > 0:
            self._set_timer(0)

    def _set_timer(self, deadline: float) -> None:
        """One timer for all: for the next deadline, or 0, when there are too many."""
        delay = max(0.0, deadline - self._clock.seconds())
        self._timer_deadline = deadline
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._expire)
        else:
            self._timer.reset(delay)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        deadlines = self._deadlines
        while deadlines and deadlines[0] <= now:
            jobs = self._lingering.pop(heapq.heappop(deadlines))
            self._lingering_jobs -= len(jobs)
            for job in jobs:
                self._remove(job)
        while self._lingering_jobs > self._most_lingering:
            self._end_first_linger()
        if deadlines:
            self._set_timer(deadlines[0])

    def _end_first_linger(self) -> None:
        """End the linger that would end next."""
        deadline = self._deadlines[0]
        jobs = self._lingering[deadline]
        if jobs:
            self._lingering_jobs -= 1
            self._stats.add("cut_short")
            self._remove(jobs.popleft())
        if not jobs:
            heapq.heappop(self._deadlines)
            del self._lingering[deadline]

    def _remove(self, job: Job) -> None:
        offer = job.offer
        if self._registry.offers(offer):
            self._registry.remove(offer.instance)
            self._sets_removed += 1
        self._forget(job)


@lru_cache(maxsize=64)
def _capacity(tasks: int) -> int:
    """For how many tasks there really is room in a set that has room for so many."""
    return JOB_FIELDS.tasks.capacity(JOB_FIELDS.tasks.heap_size(tasks))


@lru_cache(maxsize=64)
def _layout(schema: Schema, name_length: int, tasks: int) -> SetLayout:
    """The layout of sets with room for so many tasks."""
    return layout_for(schema, name_length, JOB_FIELDS.tasks.heap_size(tasks))


def _room_wanted(job: Job) -> int:
    """The number of tasks that the job's set should have room for."""
    announced = min(job.expected_tasks, MAX_ANNOUNCED_TASKS)
    return min(max(announced, len(job.task_records)), MAX_TASKS)
