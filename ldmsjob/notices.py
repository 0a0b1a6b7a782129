"""What a job manager plugin tells the core: six kinds of typed, validated notice.

A plugin turns the words of its resource manager into these and hands them to
``IJobManagerContext.apply``. The core decides what they mean (``jobs.py``): they may be repeated,
late, out of order, or the first that anybody hears of a job.

``None`` means "not said". Times are microseconds since the epoch; without one the time of receipt
counts. ``job_id`` is the resource manager's own id as text.
"""

from __future__ import annotations

import msgspec


class JobInit(msgspec.Struct, frozen=True, gc=False):
    """The job was allocated and starts on a node."""

    job_id: str
    time_us: int | None = None
    uid: int | None = None
    gid: int | None = None
    node_count: int | None = None
    total_tasks: int | None = None
    local_tasks: int | None = None


class StepInit(msgspec.Struct, frozen=True, gc=False):
    """A step starts on a node."""

    job_id: str
    step_id: int
    node_id: int
    time_us: int | None = None
    user: str | None = None
    job_name: str | None = None
    job_tag: str | None = None
    uid: int | None = None
    gid: int | None = None
    node_count: int | None = None
    total_tasks: int | None = None
    local_tasks: int | None = None


class TaskInit(msgspec.Struct, frozen=True, gc=False):
    """A task starts. ``task_id`` is unique on its node within its step only."""

    job_id: str
    step_id: int
    node_id: int
    task_id: int
    time_us: int | None = None
    pid: int | None = None
    rank: int | None = None
    uid: int | None = None
    gid: int | None = None
    node_count: int | None = None
    total_tasks: int | None = None
    local_tasks: int | None = None


class TaskExit(msgspec.Struct, frozen=True, gc=False):
    """A task ended with a raw wait status."""

    job_id: str
    step_id: int
    node_id: int
    task_id: int
    exit_status: int
    time_us: int | None = None
    pid: int | None = None


class StepExit(msgspec.Struct, frozen=True, gc=False):
    """A step ended on a node."""

    job_id: str
    step_id: int
    node_id: int
    time_us: int | None = None


class JobExit(msgspec.Struct, frozen=True, gc=False):
    """The job ended on a node."""

    job_id: str
    time_us: int | None = None


Notice = JobInit | StepInit | TaskInit | TaskExit | StepExit | JobExit
