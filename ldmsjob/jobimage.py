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


class JobSet(MetricSet):
    """Keeps no more than the facts that it shows, until somebody looks at its image.

    It refers to the job's facts and task records, not to the job, which refers to it.
    """

    __slots__ = ("_facts", "_policy", "_shown", "_tasks", "capacity")

    def __init__(
        self,
        job: Job,
        instance: str,
        layout: SetLayout,
        capacity: int,
        owner: tuple[int, int],
        clock: Callable[[], int],
        now_us: int,
    ) -> None:
        """A set in that layout, which has room for ``capacity`` tasks. What is known of the job
        stands in it as by a transaction at wall-clock time ``now_us``."""
        policy: JobSetPolicy = job.policy
        # Laying out each set on its own is what takes long about new sets.
        OfferedSet.__init__(
            self, instance, layout, clock=clock, uid=owner[0], gid=owner[1], perm=policy.perm
        )
        self.capacity = capacity
        """Tasks that there is room for."""
        self._policy = policy
        self._facts = job.facts
        self._tasks = job.task_records
        self._shown = 0
        """How many of them are in the image."""
        self._time_us = now_us
        self._state = TRANSACTION_FINISHED
        self._gn = 2

    def take(self, change: Change, now_us: int) -> None:
        """Show what a change of the job has changed, as one transaction."""
        if change.described or change.filled:
            shown, self._facts = self._facts, change.job.facts
            if self._image is not None:
                self._write_changes(change, shown)
            if change.described:
                self.touch_meta()
        if self._image is None and self.watcher is None:
            # Of most sets nobody reads more than their names: only this is kept for who might.
            self._time_us = now_us
            self._gn += 1
            return
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
