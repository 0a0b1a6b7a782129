"""The set of one job, and what stands in it. docs/job-sets.md describes it for its readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from ldmsjob.facts import JobFacts
from ldmsjob.jobs import Change, Job, Task
from ldmsjob.jobschema import TEXT_SIZE, USER_SIZE, JobFields, text_word
from ldmsjob.sets.layout import TRANSACTION_FINISHED, SetLayout
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.offered import OfferedSet
from ldmsjob.values import timestamp_word

if TYPE_CHECKING:
    from ldmsjob.jobsets import JobSetPolicy


class JobOffer:
    """The set of a job as long as nobody has asked for it, which for most is for ever: what it
    would show, and its generations. Stands for the set in the registry.

    It refers to the job's facts and task records, not to the job, which refers to it.
    """

    __slots__ = (
        "_make",
        "capacity",
        "facts",
        "generation",
        "instance",
        "made",
        "meta_generation",
        "policy",
        "tasks",
        "time_us",
    )

    def __init__(
        self,
        job: Job,
        instance: str,
        capacity: int,
        make: Callable[[JobOffer], JobSet],
        now_us: int,
    ) -> None:
        """A set with room for ``capacity`` tasks. What is known of the job stands in it as by a
        transaction at wall-clock time ``now_us``. ``make`` makes it."""
        self.instance = instance
        self.capacity = capacity
        """Tasks that there is room for."""
        self._make = make
        self.made: JobSet | None = None
        """The set, when somebody has asked for it: what follows is out of date then."""
        self.policy: JobSetPolicy = job.policy
        self.facts = job.known_facts or job.new_facts()
        self.tasks = job.task_records
        self.time_us = now_us
        """When the last transaction ended."""
        self.generation = 2
        self.meta_generation = 1

    @property
    def metric_set(self) -> JobSet:
        """The set."""
        made = self.made
        if made is None:
            made = self.made = self._make(self)
        return made

    def take(self, change: Change, now_us: int) -> None:
        """Show what a change of the job has changed, as one transaction."""
        if self.made is not None:
            self.made.take(change, now_us)
            return
        self.time_us = now_us
        self.generation += 1
        if change.described or change.filled:
            job = change.job
            self.facts = job.known_facts or job.new_facts()
            if change.described:
                self.meta_generation += 1


class JobSet(MetricSet):
    """Keeps no more than the facts that it shows, until somebody looks at its image.

    It refers to the job's facts and task records, not to the job, which refers to it.
    """

    __slots__ = ("_facts", "_policy", "_shown", "_tasks", "capacity")

    def __init__(
        self,
        offer: JobOffer,
        layout: SetLayout,
        owner: tuple[int, int],
        clock: Callable[[], int],
    ) -> None:
        """The set of that offer, in a layout with room for its tasks."""
        policy = offer.policy
        # Laying out each set on its own is what takes long about new sets.
        OfferedSet.__init__(
            self, offer.instance, layout, clock=clock, uid=owner[0], gid=owner[1], perm=policy.perm
        )
        self.capacity = offer.capacity
        """Tasks that there is room for."""
        self._policy = policy
        self._facts = offer.facts
        self._tasks = offer.tasks
        self._shown = 0
        """How many of them are in the image."""
        self._time_us = offer.time_us
        self._state = TRANSACTION_FINISHED
        self._gn = offer.generation
        self._meta_gn = offer.meta_generation

    def take(self, change: Change, now_us: int) -> None:
        """Show what a change of the job has changed, as one transaction."""
        if change.described or change.filled:
            shown, self._facts = self._facts, change.job.facts
            if self._image is not None:
                self._write_changes(change, shown)
            if change.described:
                self.touch_meta()
        if change.tasks and self._image is not None:
            self._put_tasks(change.tasks)
        self._finish(now_us, 0)

    def _write_values(self) -> None:
        fields = self._policy.fields
        self._describe(fields, self._facts)
        self._count(fields, self._facts)
        self._tell_step(fields, self._facts)
        self._shown = min(len(self._tasks), self.capacity)
        if self._shown:
            fields.tasks.append(self, map(_record, islice(self._tasks, self._shown)))

    def _put_tasks(self, tasks: Iterable[Task]) -> None:
        """Append or change the records of these tasks."""
        records = self._policy.fields.tasks
        for task in tasks:
            if task.position < self._shown:
                records.change(self, task.position, _record(task))
            elif self._shown < self.capacity:
                records.append(self, (_record(task),))
                self._shown += 1

    def _write_changes(self, change: Change, shown: JobFacts) -> None:
        fields, facts = self._policy.fields, self._facts
        if change.described:
            self._describe(fields, facts)
        if change.filled:
            self._count(fields, facts)
            if facts.step_id != shown.step_id or facts.job_tag != shown.job_tag:
                self._tell_step(fields, facts)

    def _describe(self, fields: JobFields, facts: JobFacts) -> None:
        """Write what names the job."""
        fields.description.write(
            self,
            self._policy.component_text,
            text_word(facts.job_id, TEXT_SIZE),
            text_word(facts.user, USER_SIZE),
            text_word(facts.job_name, TEXT_SIZE),
            facts.uid or 0,
            facts.gid or 0,
        )
        if fields.has_details:
            fields.write_details(self, facts.details)

    def _count(self, fields: JobFields, facts: JobFacts) -> None:
        """Write times and counts, and the status of a job that has ended."""
        fields.counts.write(
            self,
            timestamp_word(facts.start_us) if facts.start_us else 0,
            timestamp_word(facts.end_us) if facts.end_us else 0,
            facts.node_count or 0,
            facts.total_tasks or 0,
            facts.local_tasks or 0,
        )
        if fields.has_details:
            fields.write_status(self, None if facts.end_us is None else facts.exit_status)

    def _tell_step(self, fields: JobFields, facts: JobFacts) -> None:
        """Write what step inits alone tell."""
        fields.step.write(self, facts.step_id or 0, text_word(facts.job_tag, TEXT_SIZE))


def _record(task: Task) -> tuple[Any, ...]:
    return (
        b"%d" % task.task_id,
        task.pid or 0,
        task.rank or 0,
        timestamp_word(task.start_us) if task.start_us else 0,
        timestamp_word(task.end_us) if task.end_us else 0,
        task.exit_status or 0,
        task.step_id,
    )
