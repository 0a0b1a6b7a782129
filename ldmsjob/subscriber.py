"""A base for things that react to job events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from ldmsjob.interfaces import IJobSubscriber

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ldmsjob.events import (
        EventsLost,
        JobEnded,
        JobSetDeleted,
        JobStarted,
        StepEnded,
        StepStarted,
        TaskEnded,
        TaskStarted,
    )


@implementer(IJobSubscriber)
class JobSubscriber:
    """Does nothing about anything: override what you want to hear of.

    Each method but the last may return a Deferred; this subscriber's next event then waits for it.
    ``docs/events.md`` tells in which order the calls come and what is promised about them.
    """

    def job_started(self, event: JobStarted) -> Deferred[None] | None:
        """The first event of every attempt of a job."""
        return None

    def step_started(self, event: StepStarted) -> Deferred[None] | None:
        """The first node of a step was announced."""
        return None

    def task_started(self, event: TaskStarted) -> Deferred[None] | None:
        """A task started."""
        return None

    def task_ended(self, event: TaskEnded) -> Deferred[None] | None:
        """A task ended; comes after its start and before its job's end."""
        return None

    def step_ended(self, event: StepEnded) -> Deferred[None] | None:
        """The last known node of a step ended."""
        return None

    def job_ended(self, event: JobEnded) -> Deferred[None] | None:
        """The job ended."""
        return None

    def job_set_deleted(self, event: JobSetDeleted) -> Deferred[None] | None:
        """Directly behind ``job_ended``. The set stays readable for the linger."""
        return None

    def events_lost(self, event: EventsLost) -> Deferred[None] | None:
        """This subscriber was too slow, and its oldest waiting events were dropped."""
        return None

    def subscription_closed(self) -> None:
        """The last call, exactly once."""
