"""The records of a job: what the job table knows of it, its steps and its tasks.

Only the job table and its rules change them; everybody else reads them through ``IJob`` and
``Change``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from zope.interface import implementer

from ldmsjob.attempts import is_after
from ldmsjob.events import JobEvent, JobStarted, StepStarted, TaskStarted
from ldmsjob.facts import JobDetails, JobFacts, JobKey, Origin, StepFacts, TaskFacts
from ldmsjob.interfaces import IJob
from ldmsjob.jobnodes import JobNodes
from ldmsjob.notices import TaskInit

if TYPE_CHECKING:
    from ldmsjob.jobimage import JobOffer, JobSet

# Not tracked by the garbage collector: numbers and one another, in no cycle.


class Task(msgspec.Struct, eq=False, gc=False):
    """One task; its present facts."""

    step_id: int
    node_id: int
    task_id: int
    pid: int | None
    rank: int | None
    start_us: int | None
    position: int
    """Its index in ``Job.task_records``."""
    end_us: int | None = None
    exit_status: int | None = None
    reported: bool = False
    """Whether its end came from the resource manager and not from its job's end."""

    def facts(self) -> TaskFacts:
        """A snapshot."""
        return TaskFacts(
            self.step_id,
            self.node_id,
            self.task_id,
            self.pid,
            self.rank,
            self.start_us,
            self.end_us,
            self.exit_status,
        )

    def close(self, time_us: int, status: int, reported: bool) -> None:
        """It ends. ``reported``: the resource manager said so."""
        self.end_us = time_us
        self.exit_status = status
        self.reported = reported

    def is_other_run(self, notice: TaskInit, time_us: int) -> bool:
        """Whether the notice is about the same task id in a later run of the job."""
        if notice.pid is None or self.pid is None or notice.pid == self.pid:
            return False
        known_us = self.start_us if self.start_us is not None else self.end_us
        return known_us is not None and is_after(time_us, known_us)


class StepNode(msgspec.Struct, eq=False, gc=False):
    """One node's part of a step."""

    start_us: int | None = None
    """None until a step init named this node."""
    announced_tasks: int = 0
    exit_us: int | None = None
    """When it was told to be over; None while it was not."""
    tasks: dict[int, Task] = {}
    """Those of the node that are known, by task id."""

    @property
    def expected_tasks(self) -> int:
        """Tasks that it has or has announced."""
        return max(self.announced_tasks, len(self.tasks))

    @property
    def all_ended(self) -> bool:
        """Whether everything that this daemon knows of the node's part is over."""
        over = self.exit_us is not None or bool(self.tasks)
        return over and all(task.end_us is not None for task in self.tasks.values())

    @property
    def end_us(self) -> int | None:
        """When something of it ended last."""
        ends = [task.end_us for task in self.tasks.values() if task.end_us is not None]
        return max(ends if self.exit_us is None else [*ends, self.exit_us], default=None)


class Step(msgspec.Struct, eq=False, gc=False):
    """One step of a job."""

    step_id: int
    nodes: dict[int, StepNode] = {}
    started: bool = False
    """Whether its start was posted: a step known from its tasks alone has none yet."""
    start_us: int | None = None
    end_us: int | None = None
    node_count: int | None = None
    total_tasks: int | None = None
    local_tasks: int | None = None

    @property
    def open(self) -> bool:
        """Whether its start was posted and its end was not."""
        return self.started and self.end_us is None

    def facts(self) -> StepFacts:
        """A snapshot."""
        return StepFacts(
            self.step_id,
            tuple(self.nodes),
            self.start_us,
            self.end_us,
            self.node_count,
            self.total_tasks,
            self.local_tasks,
        )


@implementer(IJob)
class Job:
    """One attempt of one job. Only the table and its rules change it."""

    __slots__ = (
        "_steps",
        "adopted",
        "details",
        "end_us",
        "ended",
        "exit_status",
        "exit_told_us",
        "expected_tasks",
        "gid",
        "job_name",
        "job_tag",
        "key",
        "known_facts",
        "local_tasks",
        "node_count",
        "nodes",
        "offer",
        "over_us",
        "policy",
        "recovered",
        "start_us",
        "step_id",
        "task_records",
        "text",
        "told_plainly",
        "total_tasks",
        "uid",
        "user",
    )

    offer: JobOffer
    """What stands for its set. Set by the job sets when the job is new."""

    policy: Any
    """How its set is made; opaque here."""

    def __init__(self, key: JobKey, start_us: int, adopted: bool) -> None:
        self.key = key
        self.start_us = start_us
        self.adopted = adopted
        self.recovered = False
        """Whether an earlier daemon has followed it until it ended or was ended."""
        self.ended = False
        self.end_us: int | None = None
        self.uid: int | None = None
        self.gid: int | None = None
        self.user: str | None = None
        self.job_name: str | None = None
        self.job_tag: str | None = None
        self.step_id: int | None = None
        self.node_count: int | None = None
        self.total_tasks: int | None = None
        self.local_tasks: int | None = None
        self.details: JobDetails | None = None
        self.nodes: JobNodes | None = None
        """None while no notice has named one."""
        self.told_plainly = True
        """False when a notice may be of another run: there is an earlier one, or two notifiers do
        not agree that this one runs."""
        self.exit_told_us = 0
        """When a notifier that names no nodes told its end; 0 unless others name nodes."""
        self.over_us = 0
        """The end, for telling this attempt's notices from the next one's: ``end_us``, or what is
        known better."""
        self.exit_status: int | None = None
        self.expected_tasks = 0
        """Tasks that the set's list must have room for: started ones, and ones announced."""
        self.task_records: list[Task] = []
        self._steps: dict[int, Step] = {}
        self.known_facts: JobFacts | None = None
        """The last snapshot; None when the job has changed since."""
        self.text = key.text
        """The id as peers read it."""

    @property
    def metric_set(self) -> JobSet:
        """The set that peers read."""
        return self.offer.metric_set

    @property
    def facts(self) -> JobFacts:
        """A snapshot, shared until the job changes."""
        return self.known_facts or self.new_facts()

    def new_facts(self) -> JobFacts:
        """A new snapshot of what has changed."""
        nodes = self.nodes
        self.known_facts = facts = JobFacts(
            self.text,
            self.uid,
            self.gid,
            self.user,
            self.job_name,
            self.start_us,
            self.end_us,
            self.node_count,
            self.total_tasks,
            self.local_tasks,
            self.step_id,
            self.job_tag,
            self.adopted,
            self.details,
            nodes.names if nodes is not None else (),
            self.exit_status,
            self.recovered,
        )
        return facts

    def find_task(self, step_id: int, node_id: int, task_id: int) -> Task | None:
        """The record of a task; None when the job is not known to have it."""
        step = self._steps.get(step_id)
        part = step.nodes.get(node_id) if step is not None else None
        return part.tasks.get(task_id) if part is not None else None

    def started_events(self, sequence: int, received_us: int) -> list[JobEvent]:
        """Start events of itself and of its open steps and tasks. Their origin is ``replay``, or
        ``recovery`` when it was recovered."""
        origin: Origin = "recovery" if self.recovered else "replay"
        head = (self.key, self, self.facts, sequence)
        events: list[JobEvent] = [JobStarted(*head, self.start_us, received_us, origin)]
        for step in self._steps.values():
            if step.open:
                start_us = step.start_us or self.start_us
                events.append(StepStarted(*head, start_us, received_us, origin, step.facts()))
        for task in self.task_records:
            if task.end_us is None:
                start_us = task.start_us or self.start_us
                events.append(TaskStarted(*head, start_us, received_us, origin, task.facts()))
        return events

    def last_sign_us(self) -> int:
        """The latest time that any notice of this attempt told."""
        times = [self.start_us, self.nodes.end_us if self.nodes is not None else 0]
        for task in self.task_records:
            times += [task.start_us or 0, task.end_us or 0]
        for step in self._steps.values():
            for part in step.nodes.values():
                times += [part.start_us or 0, part.exit_us or 0]
        return max(times)

    def add_node(self, name: str, time_us: int) -> None:
        """A node starts it."""
        if self.nodes is None:
            self.nodes = JobNodes()
        self.nodes.start(name, time_us)

    def take_exit_status(self, exit_status: int | None) -> None:
        """Keep the first that is told. All nodes tell the same, those that did not run it, too."""
        if self.exit_status is None:
            self.exit_status = exit_status
            self.known_facts = None

    def add_details(self, details: JobDetails) -> bool:
        """Take what is still unknown; whether there was any."""
        known = self.details
        if known is None:
            self.details = details
            return True
        if details == known:
            return False
        missing = {
            name: value
            for name in JobDetails.__struct_fields__
            if (value := getattr(details, name)) is not None and getattr(known, name) is None
        }
        if not missing:
            return False
        self.details = msgspec.structs.replace(known, **missing)
        return True

    def steps(self) -> list[StepFacts]:
        """Snapshots of the steps, in order of arrival."""
        return [step.facts() for step in self._steps.values()]

    def tasks(self) -> list[TaskFacts]:
        """Snapshots of the tasks, in order of arrival, ended ones included."""
        return [task.facts() for task in self.task_records]


class Change(msgspec.Struct, eq=False, gc=False):
    """What one notice did to one job. Not tracked by the garbage collector: no job holds one."""

    job: Job
    events: list[JobEvent] = []
    tasks: Sequence[Task] = ()
    """Those that are new or changed."""
    opened: bool = False
    ended: bool = False
    described: bool = False
    """User, job name, uid or gid changed."""
    filled: bool = False
    """Times, counts, step or tag changed."""
