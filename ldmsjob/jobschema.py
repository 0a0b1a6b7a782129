"""The schemas of job sets, and their fields as groups that are written at once.

docs/job-sets.md describes them for their readers.
"""

from __future__ import annotations

from ldmsjob.facts import JobDetails
from ldmsjob.sets.fields import FieldGroup, RecordList
from ldmsjob.sets.offered import OfferedSet
from ldmsjob.sets.schema import Member, Schema
from ldmsjob.values import CHAR_ARRAY, S32, TIMESTAMP, U32, U64, cut_text

SCHEMA_NAME = "jobmgr_slurm"
DETAILED_SCHEMA_NAME = "jobmgr_slurm_details"

NONE = 0xFFFF_FFFF
"""What numbers of the details show that nobody has told, or that there are none."""

NO_STATUS = -1
"""The job's status before its end, and when nobody tells it."""

TEXT_SIZE = 256
USER_SIZE = 32

_TASK_LIST = "task_list"
_TASK_RECORD = "task_rec_def"
_NUMBERS = ("array_job_id", "array_task_id", "het_job_id", "het_job_offset", "restart_count")
_WORDS = ("partition", "account")
_STATUS = "job_exit_status"


def job_set_schema(task_budget: int = 4096, *, details: bool = False) -> Schema:
    """The schema of job sets. ``task_budget`` is the heap of the task list in bytes.

    Its digest does not depend on the budget. Without ``details`` it is that of the C job manager;
    with them, a schema of another name that begins with the same metrics.
    """
    schema = Schema(DETAILED_SCHEMA_NAME if details else SCHEMA_NAME)
    for name, size in (("component_id", TEXT_SIZE), ("job_id", TEXT_SIZE), ("user", USER_SIZE)):
        schema.add_metric(name, CHAR_ARRAY, size, meta=True)
    schema.add_metric("job_name", CHAR_ARRAY, TEXT_SIZE, meta=True)
    schema.add_metric("job_uid", U32, meta=True)
    schema.add_metric("job_gid", U32, meta=True)
    schema.add_metric("job_start", TIMESTAMP)
    schema.add_metric("job_end", TIMESTAMP)
    for name in ("node_count", "total_tasks", "local_tasks"):
        schema.add_metric(name, U32)
    schema.add_list(_TASK_LIST, task_budget)
    schema.add_record_type(
        _TASK_RECORD,
        (
            Member("task_id", CHAR_ARRAY, TEXT_SIZE),
            Member("task_pid", U64),
            Member("task_rank", U32),
            Member("task_start", TIMESTAMP),
            Member("task_end", TIMESTAMP),
            Member("task_exit_status", S32),
            Member("step_id", U64),
        ),
    )
    schema.add_metric("step_id", U64)
    schema.add_metric("job_tag", CHAR_ARRAY, TEXT_SIZE)
    if details:
        for name in _NUMBERS:
            schema.add_metric(name, U32, meta=True)
        for name in _WORDS:
            schema.add_metric(name, CHAR_ARRAY, TEXT_SIZE, meta=True)
        schema.add_metric(_STATUS, S32)
    return schema


class JobFields:
    """The fields of job sets of one schema, whatever the room for tasks."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.description = FieldGroup(
            schema, "component_id", "job_id", "user", "job_name", "job_uid", "job_gid"
        )
        self.counts = FieldGroup(
            schema, "job_start", "job_end", "node_count", "total_tasks", "local_tasks"
        )
        self.step = FieldGroup(schema, "step_id", "job_tag")
        self.tasks = RecordList(schema, _TASK_LIST, _TASK_RECORD)
        self.has_details = schema.name == DETAILED_SCHEMA_NAME
        if self.has_details:
            self._details = FieldGroup(schema, *_NUMBERS, *_WORDS)
            self._status = FieldGroup(schema, _STATUS)

    def write_details(self, metric_set: OfferedSet, details: JobDetails | None) -> None:
        """Write what places the job; of a schema that has it."""
        known = details or _NO_DETAILS
        numbers = [getattr(known, name) for name in _NUMBERS]
        words = [getattr(known, name) for name in _WORDS]
        self._details.write(
            metric_set,
            *(NONE if number is None else number for number in numbers),
            *(text_word(word, TEXT_SIZE) for word in words),
        )

    def write_status(self, metric_set: OfferedSet, exit_status: int | None) -> None:
        """Write the job's status; of a schema that has it."""
        self._status.write(metric_set, NO_STATUS if exit_status is None else exit_status)


def text_word(text: str | None, size: int) -> bytes:
    """Text as it stands in a field of ``size`` bytes."""
    if not text:
        return b""
    data = text.encode("utf-8", "replace")
    return data if len(data) < size and 0 not in data else cut_text(data, size)


_NO_DETAILS = JobDetails()

JOB_FIELDS = JobFields(job_set_schema())
DETAILED_JOB_FIELDS = JobFields(job_set_schema(details=True))
