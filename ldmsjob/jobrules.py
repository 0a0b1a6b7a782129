"""The transition table: what each kind of notice does to a job in each state. Pure.

docs/architecture.md, Transition table, is the reading version of ``TRANSITIONS``. Steps are known
by step id, with their nodes; tasks by (step id, node id, task id), because a task id is unique on
its node only. A pid is a fact, not a key: it tells a repeated notice from the same task id in
another run of the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar

from ldmsjob.attempts import (
    exact_time,
    is_after,
    is_next_init,
    is_next_step,
    is_not_before,
    restart_order,
    starts_again,
)
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
from ldmsjob.facts import JobKey, Origin, StepFacts, TaskFacts
from ldmsjob.filling import (
    announce,
    complete,
    complete_task,
    fill_new,
    fill_unknown,
    known_part,
    lasting_details,
    new_task,
)
from ldmsjob.interfaces import IStats
from ldmsjob.jobroom import JobRoom
from ldmsjob.jobs import Change, Job, Task
from ldmsjob.knownjobs import KnownJobs
from ldmsjob.notices import (
    JobExit,
    JobInit,
    Notice,
    StepExit,
    StepInit,
    TaskExit,
    TaskInit,
)

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


class JobRules:
    """The rules of ``TRANSITIONS``, by state and kind of notice. Each changes the jobs and returns
    what it changed, in order, with the events.

    Those for an ``unknown`` job are called with the resource manager, the notice, its time and the
    time of receipt; the others with the job in place of the resource manager. ``stats`` counts
    what is repeated, late or unknown, by reason.
    """

    def __init__(self, jobs: KnownJobs, room: JobRoom, stats: IStats) -> None:
        self._jobs = jobs
        self._room = room
        self._stats = stats
        self.sequence = 0
        """The number of the last event."""
        self.origin: Origin = "message"
        """Of the notice that is being applied."""
        self.unknown, self.running, self.lingering = (
            {kind: getattr(self, f"_{names[state]}") for kind, names in TRANSITIONS.items()}
            for state in State
        )

    # Posting

    def _event(
        self,
        kind: type[_Event],
        job: Job,
        time_us: int,
        received_us: int,
        origin: Origin,
        *detail: StepFacts | TaskFacts,
    ) -> _Event:
        """The next event. The rules that most notices meet make theirs themselves."""
        self.sequence = sequence = self.sequence + 1
        return kind(job.key, job, job.facts, sequence, time_us, received_us, origin, *detail)

    # Opening

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
        job = self._jobs.begin(key, time_us, self.origin != "message")
        fill_new(job, notice, time_us)
        self.sequence = sequence = self.sequence + 1
        facts = job.new_facts()
        event = JobStarted(key, job, facts, sequence, time_us, received_us, "message")
        return [Change(job, [event], (), True, False, True, True)]

    def _adopt(self, resource_manager: str, job_id: str, time_us: int) -> Change:
        """A job whose start this daemon did not see."""
        job = self._jobs.begin(JobKey(resource_manager, job_id), time_us, True)
        return Change(job, opened=True, filled=True)

    def _adopt_by_step(
        self, resource_manager: str, notice: StepInit, time_us: int, received_us: int
    ) -> list[Change]:
        """Step init of a job whose start this daemon did not see."""
        change = self._adopt(resource_manager, notice.job_id, time_us)
        return self._begin_adopted_by_step(change, notice, time_us, received_us)

    def _begin_adopted_by_step(
        self, change: Change, notice: StepInit, time_us: int, received_us: int
    ) -> list[Change]:
        job = change.job
        step = announce(change, notice, time_us)
        change.events = [
            self._event(JobStarted, job, time_us, received_us, "implied"),
            self._event(StepStarted, job, time_us, received_us, "message", step.facts()),
        ]
        return [change]

    def _adopt_by_task(
        self, resource_manager: str, notice: TaskInit, time_us: int, received_us: int
    ) -> list[Change]:
        """Task init of a job whose start this daemon did not see."""
        change = self._adopt(resource_manager, notice.job_id, time_us)
        return self._begin_adopted_by_task(change, notice, time_us, received_us)

    def _begin_adopted_by_task(
        self, change: Change, notice: TaskInit, time_us: int, received_us: int
    ) -> list[Change]:
        job = change.job
        fill_unknown(change, notice)
        task = new_task(job, None, notice, time_us, notice.rank)
        change.tasks = (task,)
        change.events = [
            self._event(JobStarted, job, time_us, received_us, "implied"),
            self._event(TaskStarted, job, time_us, received_us, "message", task.facts()),
        ]
        return [change]

    def _next_change(self, old: Job, time_us: int) -> Change:
        """A further attempt, adopted: who owns it is known from the earlier one."""
        key = JobKey(old.key.resource_manager, old.key.job_id, old.key.attempt + 1)
        job = self._jobs.begin(key, time_us, True)
        job.uid, job.gid, job.user = old.uid, old.gid, old.user
        job.details = lasting_details(old)
        return Change(job, opened=True, described=True, filled=True)

    # Rules for a running job

    def _fill(self, job: Job, notice: JobInit, time_us: int, received_us: int) -> list[Change]:
        """Job init of a running job, e.g. of its second node; or of a run whose forerunner's end
        was lost, which only a restart count or a node that starts again can tell."""
        order = restart_order(job, notice.details)
        if order == 1 or (order is None and starts_again(job, notice, time_us)):
            changes = self.end_attempt(job, time_us, received_us, "implied")
            if not self._room.takes_job(notice):
                return changes
            return changes + self._open_next(job, notice, time_us, received_us)
        if order == -1:
            self._stats.add("late")
            return []
        self._stats.add("repeated_init")
        return complete(job, notice, time_us)

    def _add_step(self, job: Job, notice: StepInit, time_us: int, received_us: int) -> list[Change]:
        """A new step, a further node of a known one, a repetition, or a run that we missed."""
        step = job._steps.get(notice.step_id)
        part = step.nodes.get(notice.node_id) if step is not None else None
        order = None
        if notice.details is not None or notice.node is not None:
            order = restart_order(job, notice.details)
            if order == -1:
                self._stats.add("late")
                return []
            if order is None and starts_again(job, notice, time_us):
                order = 1
        if order == 1 or (order is None and part is not None and is_next_step(part, time_us)):
            changes = self.end_attempt(job, time_us, received_us, "implied")
            if not self._room.takes_job(notice):
                return changes
            change = self._next_change(job, time_us)
            return changes + self._begin_adopted_by_step(change, notice, time_us, received_us)
        if part is not None and part.start_us is not None:
            self._stats.add("repeated_step")
            return complete(job, notice, time_us)
        maybe_full = step is not None or len(job._steps) >= self._room.max_steps
        if part is None and maybe_full and not self._room.takes_part(job, notice):
            return []
        change = Change(job, filled=True)
        first = step is None or not step.started
        step = announce(change, notice, time_us)
        if first:
            self.sequence = sequence = self.sequence + 1
            facts, detail = job.new_facts(), step.facts()
            change.events.append(
                StepStarted(job.key, job, facts, sequence, time_us, received_us, "message", detail)
            )
        return [change]

    def _add_task(self, job: Job, notice: TaskInit, time_us: int, received_us: int) -> list[Change]:
        """A new task, a repetition, or a task of a run whose beginning we missed."""
        step = job._steps.get(notice.step_id)
        part = step.nodes.get(notice.node_id) if step is not None else None
        task = part.tasks.get(notice.task_id) if part is not None else None
        if task is None:
            maybe_full = part is None or len(job.task_records) >= self._room.max_tasks
            if maybe_full and not self._room.takes_part(job, notice):
                return []
            events: list[JobEvent] = []
            task = new_task(job, part, notice, time_us, notice.rank)
            change = Change(job, events, (task,))
            if job.uid is None or job.gid is None or job.local_tasks is None:
                fill_unknown(change, notice)
            self.sequence = sequence = self.sequence + 1
            facts, detail = job.known_facts or job.new_facts(), task.facts()
            events.append(
                TaskStarted(job.key, job, facts, sequence, time_us, received_us, "message", detail)
            )
            return [change]
        if task.is_other_run(notice, time_us):
            changes = self.end_attempt(job, time_us, received_us, "implied")
            if not self._room.takes_job(notice):
                return changes
            change = self._next_change(job, time_us)
            return changes + self._begin_adopted_by_task(change, notice, time_us, received_us)
        self._stats.add("repeated_task")
        return complete_task(job, task, notice, time_us)

    def _end_task(self, job: Job, notice: TaskExit, time_us: int, received_us: int) -> list[Change]:
        """A task's end; that of a task whose start we missed; or one of an earlier attempt."""
        step = job._steps.get(notice.step_id)
        part = step.nodes.get(notice.node_id) if step is not None else None
        task = part.tasks.get(notice.task_id) if part is not None else None
        if task is not None and task.reported:
            self._stats.add("repeated_task_exit")
            return []
        if task is None or (notice.pid is not None and notice.pid != task.pid):
            earlier = self._jobs.earlier(job)
            if earlier is not None:
                old = earlier.find_task(notice.step_id, notice.node_id, notice.task_id)
                if old is not None and old.pid is not None and old.pid == notice.pid:
                    return self._fill_late_exit(earlier, notice, time_us, received_us)
            if task is not None and task.start_us is not None and is_after(task.start_us, time_us):
                self._stats.add("late")
                return []
        events: list[JobEvent] = []
        if task is None:
            if not self._room.takes_part(job, notice):
                return []
            task = new_task(job, part, notice, None, None)
            started = self._event(TaskStarted, job, time_us, received_us, "implied", task.facts())
            events.append(started)
        task.close(time_us, notice.exit_status, True)
        self.sequence = sequence = self.sequence + 1
        facts, detail = job.known_facts or job.new_facts(), task.facts()
        events.append(
            TaskEnded(job.key, job, facts, sequence, time_us, received_us, "message", detail)
        )
        return [Change(job, events, (task,))]

    def _end_step(self, job: Job, notice: StepExit, time_us: int, received_us: int) -> list[Change]:
        """A node's part of a step is over; the step, when it was the last known node."""
        step, part = known_part(job, notice)
        if step is None or part is None:
            self._stats.add("step_exit_of_unknown_step")
            return []
        if part.exit_us is not None:
            self._stats.add("repeated_step_exit")
            return []
        if part.start_us is not None and is_after(part.start_us, time_us):
            self._stats.add("late")
            return []
        part.exit_us = time_us
        if not step.open or any(each.exit_us is None for each in step.nodes.values()):
            return [Change(job)]
        step.end_us = time_us
        event = self._event(StepEnded, job, time_us, received_us, "message", step.facts())
        return [Change(job, [event])]

    def _end_job(self, job: Job, notice: JobExit, time_us: int, received_us: int) -> list[Change]:
        """The end of the last node that started the job; the first end, if no notice named any."""
        nodes = job.nodes
        if nodes is None:
            if notice.node is not None and not job.adopted and is_after(job.start_us, time_us):
                self._stats.add("late")
                return []
        elif notice.node is not None:
            counter = nodes.end(notice.node, time_us)
            if counter:
                self._stats.add(counter)
                return [Change(job)]
            if not nodes.all_ended:
                job.take_exit_status(notice.exit_status)
                return [Change(job)]
            time_us = nodes.end_us
        elif self.origin == "message":
            self._stats.add("exit_without_node")
            job.exit_told_us = time_us
            job.told_plainly = False
            return [Change(job)]
        if notice.exit_status is not None:
            job.take_exit_status(notice.exit_status)
        return self.end_attempt(job, time_us, received_us, "message")

    def end_attempt(self, job: Job, time_us: int, received_us: int, origin: Origin) -> list[Change]:
        """It ends, with its open tasks and steps; ``implied``: nobody has told its end."""
        # An implied end is only the time at which it was noticed.
        job.over_us = job.last_sign_us() if origin == "implied" else time_us
        key, sequence = job.key, self.sequence
        tasks: list[Task] = []
        events: list[JobEvent] = []
        for task in job.task_records:
            if task.end_us is None:
                task.close(time_us, UNREPORTED_STATUS, False)
                tasks.append(task)
                sequence += 1
                facts, its = job.known_facts or job.new_facts(), task.facts()
                events.append(
                    TaskEnded(key, job, facts, sequence, time_us, received_us, "implied", its)
                )
        for step in job._steps.values():
            if step.started and step.end_us is None:
                step.end_us = time_us
                sequence += 1
                facts, part = job.known_facts or job.new_facts(), step.facts()
                events.append(
                    StepEnded(key, job, facts, sequence, time_us, received_us, "implied", part)
                )
        job.ended = True
        job.end_us = time_us
        facts = job.new_facts()
        events.append(JobEnded(key, job, facts, sequence + 1, time_us, received_us, origin))
        events.append(JobSetDeleted(key, job, facts, sequence + 2, time_us, received_us, origin))
        self.sequence = sequence + 2
        return [Change(job, events, tasks, False, True, False, True)]

    # Rules for a job whose set lingers

    def _next_attempt(
        self, job: Job, notice: JobInit, time_us: int, received_us: int
    ) -> list[Change]:
        """The job was requeued; or an init of this attempt is repeated, or comes late."""
        order = restart_order(job, notice.details)
        is_next = order == 1 or (order is None and is_next_init(job, time_us))
        if is_next and self._jobs.is_newest(job):
            if not self._room.takes_job(notice):
                return []
            return self._open_next(job, notice, time_us, received_us)
        self._stats.add("late")
        return complete(job, notice, time_us) if order != -1 else []

    def _open_next(self, job: Job, notice: JobInit, time_us: int, received_us: int) -> list[Change]:
        key = job.key
        return self._open(key.resource_manager, notice, time_us, received_us, key.attempt + 1)

    def _step_after_end(
        self, job: Job, notice: StepInit, time_us: int, received_us: int
    ) -> list[Change]:
        """A requeued job whose init is missing, or a notice that comes late."""
        order = restart_order(job, notice.details)
        if order is None:
            _step, part = known_part(job, notice)
            repeated = part is not None and part.start_us == time_us
            if not repeated and is_not_before(time_us, job.over_us):
                order = 1
        if order == 1 and self._jobs.is_newest(job):
            if not self._room.takes_job(notice):
                return []
            change = self._next_change(job, time_us)
            return self._begin_adopted_by_step(change, notice, time_us, received_us)
        self._stats.add("late")
        return complete(job, notice, time_us) if order != -1 else []

    def _task_after_end(
        self, job: Job, notice: TaskInit, time_us: int, received_us: int
    ) -> list[Change]:
        """A requeued job whose init is missing, or a notice that comes late."""
        task = job.find_task(notice.step_id, notice.node_id, notice.task_id)
        repeated = task is not None and (notice.pid is None or notice.pid == task.pid)
        if not repeated and is_not_before(time_us, job.over_us) and self._jobs.is_newest(job):
            if not self._room.takes_job(notice):
                return []
            change = self._next_change(job, time_us)
            return self._begin_adopted_by_task(change, notice, time_us, received_us)
        self._stats.add("late")
        if task is not None:
            return complete_task(job, task, notice, time_us) if repeated else []
        if not self._room.takes_part(job, notice):
            return []
        _step, part = known_part(job, notice)
        task = new_task(job, part, notice, time_us, notice.rank)
        task.close(job.end_us or time_us, UNREPORTED_STATUS, False)
        return [Change(job, tasks=(task,))]

    def _fill_late_exit(
        self, job: Job, notice: TaskExit, time_us: int, received_us: int
    ) -> list[Change]:
        """The true end of a task that its job's end had closed. No event follows a set deletion."""
        self._stats.add("late")
        task = job.find_task(notice.step_id, notice.node_id, notice.task_id)
        if task is None or task.reported:
            return []
        task.close(time_us, notice.exit_status, True)
        return [Change(job, tasks=(task,))]

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
        """Which may still know the job's status, and its end better."""
        self._stats.add("repeated_exit")
        if job.nodes is not None:
            if notice.node is None:
                job.exit_told_us = time_us
            elif not job.nodes.end(notice.node, time_us):
                job.over_us = exact_time(job.over_us, max(job.over_us, time_us))
        change = Change(job)
        if job.exit_status is None and notice.exit_status is not None:
            job.take_exit_status(notice.exit_status)
            change.filled = True
        return [change] if change.filled or job.nodes is not None else []
