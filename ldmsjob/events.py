"""The job events that subscribers receive.

Every event is immutable and carries the facts as they were when it was posted, however late it is
delivered. ``job`` is a handle on the job itself, whose present state may be further on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ldmsjob.facts import JobFacts, JobKey, Origin, StepFacts, TaskFacts

if TYPE_CHECKING:
    from ldmsjob.interfaces import IJob


class JobEvent(msgspec.Struct, frozen=True, gc=False):
    """What all events have.

    Not tracked by the garbage collector: ``job`` reaches no event, queue or subscriber, so no
    reference cycle can run through an event.
    """

    key: JobKey
    job: IJob
    facts: JobFacts
    """The job when this event was posted."""
    sequence: int
    """Increases by one with every event of this daemon."""
    source_time_us: int
    """When the notifier says it happened."""
    received_time_us: int
    """When this daemon heard of it. The two clocks are never mixed."""
    origin: Origin


class JobStarted(JobEvent, frozen=True, gc=False):
    """The first event of every attempt of a job."""


class StepStarted(JobEvent, frozen=True, gc=False):
    """A step was announced by its first node."""

    step: StepFacts


class TaskStarted(JobEvent, frozen=True, gc=False):
    """A task started on a node."""

    task: TaskFacts


class TaskEnded(JobEvent, frozen=True, gc=False):
    """A task ended."""

    task: TaskFacts


class StepEnded(JobEvent, frozen=True, gc=False):
    """A step ended on the last of its nodes that this daemon knows."""

    step: StepFacts


class JobEnded(JobEvent, frozen=True, gc=False):
    """The job ended; its tasks and steps have all been reported ended before."""


class JobSetDeleted(JobEvent, frozen=True, gc=False):
    """The job's set begins its linger: the last event of an attempt."""


class EventsLost(msgspec.Struct, frozen=True, gc=False):
    """A subscriber was too slow and its oldest waiting events were dropped."""

    count: int
    first_sequence: int
    """Sequence number of the first event that was dropped."""
    last_sequence: int


EVENT_WORDS: dict[type[JobEvent], str] = {
    JobStarted: "job_started",
    StepStarted: "step_started",
    TaskStarted: "task_started",
    TaskEnded: "task_ended",
    StepEnded: "step_ended",
    JobEnded: "job_ended",
    JobSetDeleted: "job_set_deleted",
}
"""The kinds of events and their words in tools and docs, in the order of a job's life."""
