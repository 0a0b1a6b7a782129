"""The job table: what every notice means for a job. Pure: no input, output or clock.

docs/architecture.md, Transition table, is the reading version of ``TRANSITIONS``. Steps are known
by step id, with their nodes; tasks by (step id, node id, task id), because a task id is unique on
its node only. A pid is a fact, not a key: it tells a repeated notice from the same task id in
another run of the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import TypeVar

from ldmsjob.events import (
    JobEnded,
    JobEvent,
    JobSetDeleted,
    JobStarted,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
)
from ldmsjob.facts import JobFacts, JobKey, Origin, StepFacts, TaskFacts
from ldmsjob.interfaces import IStats
from ldmsjob.jobs import Change, Job, Step, StepNode, Task
from ldmsjob.limits import Limits
from ldmsjob.notices import (
    OPENING,
    JobExit,
    JobInit,
    Notice,
    StepExit,
    StepInit,
    TaskExit,
    TaskInit,
)
from ldmsjob.stats import Stats

UNREPORTED_STATUS = -1
"""Exit status of a task whose end nobody reported before its job ended."""


class State(IntEnum):
    """Where a job is in its life, as far as this daemon knows."""

    UNKNOWN = 0
    """Never heard of, or its set is gone."""
    RUNNING = 1
    LINGERING = 2
    """Ended; its set can still be read."""


TRANSITIONS: Mapping[type, tuple[str, str, str]] = {
    # notice:  when unknown,          when running,    when lingering
    JobInit: ("open", "fill", "next_attempt"),
    StepInit: ("adopt_by_step", "add_step", "step_after_end"),
    TaskInit: ("adopt_by_task", "add_task", "task_after_end"),
    TaskExit: ("count_unknown", "end_task", "fill_late_exit"),
    StepExit: ("count_unknown", "end_step", "count_late"),
    JobExit: ("count_unknown", "end_job", "count_repeated_exit"),
}
"""For each kind of notice the rule in each ``State``; a rule is the method ``_<name>``."""

_UNKNOWN_COUNTERS = {
    TaskExit: "task_exit_of_unknown_job",
    StepExit: "step_exit_of_unknown_job",
    JobExit: "exit_of_unknown_job",
}


_Event = TypeVar("_Event", bound=JobEvent)

_NOT_COUNTED = Stats()
"""What recovery counts into: those notices have been counted when they came."""


class JobTable:
    """All jobs that run or whose sets linger.

    ``stats`` counts what is repeated, late or unknown, by reason, and what is left out because of
    the ``limits``: ``refused.jobs`` by their job inits, ``refused.job_notices`` that would have
    begun a job otherwise, ``refused.<limit>``. ``refused`` is called with the limit's name and the
    job's id.
    """

    def __init__(
        self,
        stats: IStats,
        limits: Limits | None = None,
        refused: Callable[[str, str], None] = lambda limit, job_id: None,
    ) -> None:
        limits = limits or Limits()
        self._max_jobs = limits.jobs
        self._max_steps = limits.steps_per_job
        self._max_nodes = limits.nodes_per_step
        self._max_tasks = limits.tasks_per_job
        self._on_refused = refused
        self._stats = stats
        self._sequence = 0
        self._origin: Origin = "message"
        """Of the notice that is being applied."""
        self._newest: dict[tuple[str, str], Job] = {}
        self._all: dict[JobKey, Job] = {}
        self._rules: dict[type, tuple[Callable[..., list[Change]], ...]] = {
            kind: tuple(getattr(self, f"_{name}") for name in names)
            for kind, names in TRANSITIONS.items()
        }

    def apply(
        self,
        notice: Notice,
        received_us: int,
        resource_manager: str,
        origin: Origin = "message",
    ) -> list[Change]:
        """Change the jobs as the transition table says and return what changed, in order.

        Usually one change; two when a new attempt ends an old one; none for what is only counted.
        ``received_us`` is also the time of a notice that has none. An ``origin`` other than
        ``message`` stands in all events that the notice gives.
        """
        self._origin = origin
        job = self._newest.get((resource_manager, notice.job_id))
        state = 0 if job is None else 2 if job.ended else 1
        time_us = notice.time_us
        if time_us is None:
            time_us = received_us
        if state != 1 and len(self._all) >= self._max_jobs and type(notice) in OPENING:
            self._stats.add(f"refused.{'jobs' if type(notice) is JobInit else 'job_notices'}")
            self._on_refused("jobs", notice.job_id)
            return []
        rule = self._rules[type(notice)][state]
        if job is None:
            return rule(resource_manager, notice, time_us, received_us)
        return rule(job, notice, time_us, received_us)

    def find(self, key: JobKey) -> Job | None:
        """The job, while it runs or its set lingers."""
        return self._all.get(key)

    def jobs(self) -> list[Job]:
        """All of them, in the order in which this daemon heard of them."""
        return list(self._all.values())

    def running(self) -> list[Job]:
        """Those that have not ended."""
        return [job for job in self._all.values() if not job.ended]

    def forget(self, job: Job) -> None:
        """Remember nothing of a job whose set is gone."""
        self._all.pop(job.key, None)
        newest = (job.key.resource_manager, job.key.job_id)
        if self._newest.get(newest) is job:
            del self._newest[newest]

    def newest(self, resource_manager: str, job_id: str) -> Job | None:
        """The last attempt of that job, while it runs or its set lingers."""
        return self._newest.get((resource_manager, job_id))

    @property
    def last_sequence(self) -> int:
        """The number of the last event posted."""
        return self._sequence

    def recover(
        self,
        key: JobKey,
        start_us: int,
        adopted: bool,
        facts: JobFacts,
        notices: Iterable[tuple[int, Notice]],
        last_sequence: int,
    ) -> Job:
        """Put a job back that an earlier daemon knew, from how it began and what was accepted
        about it with the times of receipt. Nothing is posted or counted; the next event will have
        a number above ``last_sequence``."""
        stats, self._stats = self._stats, _NOT_COUNTED
        job = self._new_job(key, start_us, adopted=adopted).job
        job.recovered = True
        job.uid, job.gid, job.user, job.details = facts.uid, facts.gid, facts.user, facts.details
        try:
            for received_us, notice in notices:
                self.apply(notice, received_us, key.resource_manager)
        finally:
            self._stats = stats
            self._sequence = last_sequence
        return job

    def started_events(self, job: Job, received_us: int) -> list[JobEvent]:
        """Start events of the job and of its open steps and tasks, for a new subscriber.

        Their origin is ``replay``, or ``recovery`` when the job was recovered, and their sequence
        number that of the last event posted.
        """
        key, facts, sequence = job.key, job.facts, self._sequence
        head = (key, job, facts, sequence)
        origin: Origin = "recovery" if job.recovered else "replay"
        events: list[JobEvent] = [JobStarted(*head, job.start_us, received_us, origin)]
        for step in job._steps.values():
            if step.open:
                start_us = step.start_us or job.start_us
                events.append(StepStarted(*head, start_us, received_us, origin, step.facts()))
        for task in job.task_records:
            if task.end_us is None:
                start_us = task.start_us or job.start_us
                events.append(TaskStarted(*head, start_us, received_us, origin, task.facts()))
        return events

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
                job.facts_changed()
        return change

    # Limits

    def _has_room(self, job: Job, notice: TaskInit | TaskExit | StepInit) -> bool:
        """Whether one more task, or step, of that job is taken; counted when it is not."""
        step = job._steps.get(notice.step_id)
        if type(notice) is not StepInit and len(job.task_records) >= self._max_tasks:
            limit = "tasks_per_job"
        elif step is None and len(job._steps) >= self._max_steps:
            limit = "steps_per_job"
        elif (
            step is not None
            and len(step.nodes) >= self._max_nodes
            and notice.node_id not in step.nodes
        ):
            limit = "nodes_per_step"
        else:
            return True
        self._stats.add(f"refused.{limit}")
        self._on_refused(limit, job.key.text)
        return False

    # Posting

    def _post(
        self,
        change: Change,
        kind: type[_Event],
        time_us: int,
        received_us: int,
        origin: Origin,
        *detail: StepFacts | TaskFacts,
    ) -> None:
        self._sequence = sequence = self._sequence + 1
        if self._origin != "message":
            origin = self._origin
        job = change.job
        change.events.append(
            kind(job.key, job, job.facts, sequence, time_us, received_us, origin, *detail)
        )

    # Opening

    def _new_job(self, key: JobKey, time_us: int, *, adopted: bool) -> Change:
        job = Job(key, time_us, adopted)
        self._all[key] = job
        self._newest[key.resource_manager, key.job_id] = job
        return Change(job, opened=True)

    def _open(
        self,
        resource_manager: str,
        notice: JobInit,
        time_us: int,
        received_us: int,
        attempt: int = 1,
    ) -> list[Change]:
        """Job init of a job that is not running: it starts."""
        key = JobKey(resource_manager, notice.job_id, attempt)
        change = self._new_job(key, time_us, adopted=self._origin != "message")
        self._fill_unknown(change, notice)
        self._fill_identity(change, notice)
        self._post(change, JobStarted, time_us, received_us, "message")
        return [change]

    def _adopt_by_step(
        self, resource_manager: str, notice: StepInit, time_us: int, received_us: int
    ) -> list[Change]:
        """Step init of a job whose start this daemon did not see."""
        change = self._new_job(JobKey(resource_manager, notice.job_id), time_us, adopted=True)
        return self._begin_adopted_by_step(change, notice, time_us, received_us)

    def _begin_adopted_by_step(
        self, change: Change, notice: StepInit, time_us: int, received_us: int
    ) -> list[Change]:
        step = self._announce(change, notice, time_us)
        self._post(change, JobStarted, time_us, received_us, "implied")
        self._post(change, StepStarted, time_us, received_us, "message", step.facts())
        return [change]

    def _adopt_by_task(
        self, resource_manager: str, notice: TaskInit, time_us: int, received_us: int
    ) -> list[Change]:
        """Task init of a job whose start this daemon did not see."""
        change = self._new_job(JobKey(resource_manager, notice.job_id), time_us, adopted=True)
        return self._begin_adopted_by_task(change, notice, time_us, received_us)

    def _begin_adopted_by_task(
        self, change: Change, notice: TaskInit, time_us: int, received_us: int
    ) -> list[Change]:
        self._fill_unknown(change, notice)
        self._post(change, JobStarted, time_us, received_us, "implied")
        task = self._new_task(change, notice, time_us)
        self._post(change, TaskStarted, time_us, received_us, "message", task.facts())
        return [change]

    def _next_change(self, old: Job, time_us: int) -> Change:
        """A further attempt, adopted: who owns it is known from the earlier one."""
        change = self._new_job(self._next_key(old), time_us, adopted=True)
        job = change.job
        job.uid, job.gid, job.user = old.uid, old.gid, old.user
        change.described = True
        return change

    @staticmethod
    def _next_key(old: Job) -> JobKey:
        return JobKey(old.key.resource_manager, old.key.job_id, old.key.attempt + 1)

    # Filling

    @staticmethod
    def _fill_unknown(change: Change, notice: JobInit | TaskInit | StepInit) -> None:
        """Take from the notice what nobody has told yet."""
        job = change.job
        if job.uid is None and notice.uid is not None:
            job.uid = notice.uid
            change.described = True
        if job.gid is None and notice.gid is not None:
            job.gid = notice.gid
            change.described = True
        if job.node_count is None and notice.node_count is not None:
            job.node_count = notice.node_count
            change.filled = True
        if job.total_tasks is None and notice.total_tasks is not None:
            job.total_tasks = notice.total_tasks
            change.filled = True
        if job.local_tasks is None and notice.local_tasks is not None:
            job.local_tasks = notice.local_tasks
            change.filled = True
        job.facts_changed()

    @staticmethod
    def _fill_identity(change: Change, notice: JobInit | StepInit) -> None:
        """Take names, node and details from the notice where nobody has told them yet."""
        job = change.job
        if job.user is None and notice.user is not None:
            job.user = notice.user
            change.described = True
        if job.job_name is None and notice.job_name is not None:
            job.job_name = notice.job_name
            change.described = True
        if notice.details is not None:
            change.described |= job.add_details(notice.details)
        job.facts_changed()

    def _announce(self, change: Change, notice: StepInit, time_us: int) -> Step:
        """Take a step init's facts; the job shows those of the step announced last."""
        job = change.job
        if notice.user is not None and notice.user != job.user:
            job.user = notice.user
            change.described = True
        if notice.job_name is not None and notice.job_name != job.job_name:
            job.job_name = notice.job_name
            change.described = True
        if notice.uid is not None and notice.uid != job.uid:
            job.uid = notice.uid
            change.described = True
        if notice.gid is not None and notice.gid != job.gid:
            job.gid = notice.gid
            change.described = True
        step, node = self._step_node(job, notice.step_id, notice.node_id)
        if notice.node_count is not None:
            job.node_count = step.node_count = notice.node_count
        if notice.total_tasks is not None:
            job.total_tasks = step.total_tasks = notice.total_tasks
        if notice.local_tasks is not None:
            job.local_tasks = step.local_tasks = notice.local_tasks
        if notice.job_tag is not None:
            job.job_tag = notice.job_tag
        if notice.details is not None:
            self._fill_identity(change, notice)
        job.step_id = notice.step_id
        job.facts_changed()
        change.filled = True
        before = node.expected_tasks
        node.start_us = time_us
        node.announced_tasks = notice.local_tasks or 0
        job.expected_tasks += node.expected_tasks - before
        step.started = True
        if step.start_us is None:
            step.start_us = time_us
        return step

    @staticmethod
    def _known_step_node(
        job: Job, notice: StepInit | StepExit
    ) -> tuple[Step | None, StepNode | None]:
        """What is known of the step, and of its part on the notice's node."""
        step = job._steps.get(notice.step_id)
        return step, step.nodes.get(notice.node_id) if step is not None else None

    @staticmethod
    def _step_node(job: Job, step_id: int, node_id: int) -> tuple[Step, StepNode]:
        step = job._steps.get(step_id)
        if step is None:
            step = job._steps[step_id] = Step(step_id)
        node = step.nodes.get(node_id)
        if node is None:
            node = step.nodes[node_id] = StepNode()
        return step, node

    def _new_task(self, change: Change, notice: TaskInit | TaskExit, start_us: int | None) -> Task:
        job = change.job
        task = Task(notice, len(job.task_records))
        task.start_us = start_us
        if type(notice) is TaskInit:
            task.rank = notice.rank
        job._tasks[notice.step_id, notice.node_id, notice.task_id] = task
        job.task_records.append(task)
        _step, node = self._step_node(job, notice.step_id, notice.node_id)
        node.open_tasks += 1
        node.known_tasks += 1
        if node.known_tasks > node.announced_tasks:
            job.expected_tasks += 1
        change.tasks.append(task)
        return task

    @staticmethod
    def _close_task(job: Job, task: Task, time_us: int, status: int, *, reported: bool) -> None:
        if task.end_us is None:
            job._steps[task.step_id].nodes[task.node_id].open_tasks -= 1
        task.end_us = time_us
        task.exit_status = status
        task.reported = reported

    # Rules for a running job

    def _fill(self, job: Job, notice: JobInit, time_us: int, received_us: int) -> list[Change]:
        """Job init of a running job, e.g. of its second node. Never a new attempt."""
        self._stats.add("repeated_init")
        change = Change(job)
        self._fill_unknown(change, notice)
        self._fill_identity(change, notice)
        return [change] if change.described or change.filled else []

    def _add_step(self, job: Job, notice: StepInit, time_us: int, received_us: int) -> list[Change]:
        """A new step, a further node of a known one, a repetition, or a run that we missed."""
        step, node = self._known_step_node(job, notice)
        if node is not None and node.start_us is not None:
            if time_us > node.start_us and node.all_ended:
                changes = self._end_attempt(job, time_us, received_us, "implied")
                change = self._next_change(job, time_us)
                return changes + self._begin_adopted_by_step(change, notice, time_us, received_us)
            self._stats.add("repeated_step")
            return []
        if node is None and not self._has_room(job, notice):
            return []
        change = Change(job)
        first = step is None or not step.started
        step = self._announce(change, notice, time_us)
        if first:
            self._post(change, StepStarted, time_us, received_us, "message", step.facts())
        return [change]

    def _add_task(self, job: Job, notice: TaskInit, time_us: int, received_us: int) -> list[Change]:
        """A new task, a repetition, or a task of a run whose beginning we missed."""
        task = job._tasks.get((notice.step_id, notice.node_id, notice.task_id))
        if task is None:
            if not self._has_room(job, notice):
                return []
            change = Change(job)
            if job.uid is None or job.gid is None or job.local_tasks is None:
                self._fill_unknown(change, notice)
            task = self._new_task(change, notice, time_us)
            self._post(change, TaskStarted, time_us, received_us, "message", task.facts())
            return [change]
        if task.is_other_run(notice, time_us):
            changes = self._end_attempt(job, time_us, received_us, "implied")
            change = self._next_change(job, time_us)
            return changes + self._begin_adopted_by_task(change, notice, time_us, received_us)
        self._stats.add("repeated_task")
        return self._fill_task_start(job, task, notice, time_us)

    @staticmethod
    def _fill_task_start(job: Job, task: Task, notice: TaskInit, time_us: int) -> list[Change]:
        """Complete a record that its exit made. Its start and end events stand as posted."""
        if task.start_us is not None:
            return []
        task.start_us = time_us
        task.rank = notice.rank
        if task.pid is None:
            task.pid = notice.pid
        change = Change(job)
        change.tasks.append(task)
        return [change]

    def _end_task(self, job: Job, notice: TaskExit, time_us: int, received_us: int) -> list[Change]:
        """A task's end; that of a task whose start we missed; or one of an earlier attempt."""
        key = (notice.step_id, notice.node_id, notice.task_id)
        task = job._tasks.get(key)
        if task is not None and task.reported:
            self._stats.add("repeated_task_exit")
            return []
        if task is None or (notice.pid is not None and notice.pid != task.pid):
            earlier = self._all.get(
                JobKey(job.key.resource_manager, job.key.job_id, job.key.attempt - 1)
            )
            if earlier is not None:
                old = earlier._tasks.get(key)
                if old is not None and old.pid is not None and old.pid == notice.pid:
                    return self._fill_late_exit(earlier, notice, time_us, received_us)
        if task is None and not self._has_room(job, notice):
            return []
        change = Change(job)
        if task is None:
            task = self._new_task(change, notice, None)
            self._post(change, TaskStarted, time_us, received_us, "implied", task.facts())
        else:
            change.tasks.append(task)
        self._close_task(job, task, time_us, notice.exit_status, reported=True)
        self._post(change, TaskEnded, time_us, received_us, "message", task.facts())
        return [change]

    def _end_step(self, job: Job, notice: StepExit, time_us: int, received_us: int) -> list[Change]:
        """A node's part of a step is over; the step, when it was the last known node."""
        step, node = self._known_step_node(job, notice)
        if step is None or node is None:
            self._stats.add("step_exit_of_unknown_step")
            return []
        if node.ended:
            self._stats.add("repeated_step_exit")
            return []
        node.ended = True
        if not step.open or not all(each.ended for each in step.nodes.values()):
            return []
        step.end_us = time_us
        change = Change(job)
        self._post(change, StepEnded, time_us, received_us, "message", step.facts())
        return [change]

    def _end_job(self, job: Job, notice: JobExit, time_us: int, received_us: int) -> list[Change]:
        """The first job exit: the C notifier does not say of which node, so it is the job's."""
        if notice.exit_status is not None:
            job.exit_status = notice.exit_status
        return self._end_attempt(job, time_us, received_us, "message")

    def _end_attempt(
        self, job: Job, time_us: int, received_us: int, origin: Origin
    ) -> list[Change]:
        change = Change(job)
        for task in job.task_records:
            if task.end_us is None:
                self._close_task(job, task, time_us, UNREPORTED_STATUS, reported=False)
                change.tasks.append(task)
                self._post(change, TaskEnded, time_us, received_us, "implied", task.facts())
        for step in job._steps.values():
            if step.open:
                step.end_us = time_us
                self._post(change, StepEnded, time_us, received_us, "implied", step.facts())
        job.ended = change.ended = change.filled = True
        job.end_us = time_us
        job.facts_changed()
        self._post(change, JobEnded, time_us, received_us, origin)
        self._post(change, JobSetDeleted, time_us, received_us, origin)
        return [change]

    # Rules for a job whose set lingers

    def _next_attempt(
        self, job: Job, notice: JobInit, time_us: int, received_us: int
    ) -> list[Change]:
        """The job was requeued; but the very init that began this attempt is only repeated."""
        if not job.adopted and time_us == job.start_us:
            self._stats.add("late")
            return []
        key = self._next_key(job)
        return self._open(key.resource_manager, notice, time_us, received_us, key.attempt)

    def _step_after_end(
        self, job: Job, notice: StepInit, time_us: int, received_us: int
    ) -> list[Change]:
        """A requeued job whose init is missing, or a notice that comes late."""
        _step, node = self._known_step_node(job, notice)
        repeated = node is not None and node.start_us == time_us
        if not repeated and time_us >= (job.end_us or 0):
            change = self._next_change(job, time_us)
            return self._begin_adopted_by_step(change, notice, time_us, received_us)
        self._stats.add("late")
        change = Change(job)
        self._fill_unknown(change, notice)
        for name in ("user", "job_name"):
            value = getattr(notice, name)
            if value is not None and getattr(job, name) is None:
                setattr(job, name, value)
                job.facts_changed()
                change.described = True
        return [change] if change.described or change.filled else []

    def _task_after_end(
        self, job: Job, notice: TaskInit, time_us: int, received_us: int
    ) -> list[Change]:
        """A requeued job whose init is missing, or a notice that comes late."""
        task = job._tasks.get((notice.step_id, notice.node_id, notice.task_id))
        repeated = task is not None and (notice.pid is None or notice.pid == task.pid)
        if not repeated and time_us >= (job.end_us or 0):
            change = self._next_change(job, time_us)
            return self._begin_adopted_by_task(change, notice, time_us, received_us)
        self._stats.add("late")
        if task is not None:
            return self._fill_task_start(job, task, notice, time_us) if repeated else []
        if not self._has_room(job, notice):
            return []
        change = Change(job)
        task = self._new_task(change, notice, time_us)
        self._close_task(job, task, job.end_us or time_us, UNREPORTED_STATUS, reported=False)
        return [change]

    def _fill_late_exit(
        self, job: Job, notice: TaskExit, time_us: int, received_us: int
    ) -> list[Change]:
        """The true end of a task that its job's end had closed. No event follows a set deletion."""
        self._stats.add("late")
        task = job._tasks.get((notice.step_id, notice.node_id, notice.task_id))
        if task is None or task.reported:
            return []
        self._close_task(job, task, time_us, notice.exit_status, reported=True)
        change = Change(job)
        change.tasks.append(task)
        return [change]

    # Counting only

    def _count_unknown(
        self, resource_manager: str, notice: Notice, time_us: int, received_us: int
    ) -> list[Change]:
        self._stats.add(_UNKNOWN_COUNTERS[type(notice)])
        return []

    def _count_late(
        self, job: Job, notice: StepExit, time_us: int, received_us: int
    ) -> list[Change]:
        self._stats.add("late")
        return []

    def _count_repeated_exit(
        self, job: Job, notice: JobExit, time_us: int, received_us: int
    ) -> list[Change]:
        self._stats.add("repeated_exit")
        return []
