"""What a job manager plugin tells the core: six kinds of typed, validated notice.

A plugin turns the words of its resource manager into these and hands them to
``IJobManagerContext.apply``. The core decides what they mean (``jobrules.py``): they may be
repeated, late, out of order, or the first that anybody hears of a job.

``None`` means "not said". Times are microseconds since the epoch; without one the time of receipt
counts. ``job_id`` is the resource manager's own id as text, see ``check_opening``.

``node`` is a node's name. A job that some notice named nodes for ends when every node that started
it (``JobInit`` or ``StepInit``) has ended it (``JobExit``); any other at the first ``JobExit``.

The journal keeps their fields by place, behind the tag: a new field goes to the end, with a
default.
"""

# No "from __future__ import annotations": msgspec would compile each annotation from its text, and
# again for each class that inherits it: two thirds of the time that its decoders need.

import re

import msgspec

from ldmsjob.errors import NoticeError
from ldmsjob.facts import JobDetails


class JobInit(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="init"):
    """The job was allocated and starts on a node."""

    job_id: str
    time_us: int | None = None
    uid: int | None = None
    gid: int | None = None
    node_count: int | None = None
    total_tasks: int | None = None
    local_tasks: int | None = None
    user: str | None = None
    job_name: str | None = None
    node: str | None = None
    details: JobDetails | None = None


class StepInit(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="step_init"):
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
    node: str | None = None
    details: JobDetails | None = None


class TaskInit(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="task_init"):
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


class TaskExit(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="task_exit"):
    """A task ended with a raw wait status."""

    job_id: str
    step_id: int
    node_id: int
    task_id: int
    exit_status: int
    time_us: int | None = None
    pid: int | None = None


class StepExit(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="step_exit"):
    """A step ended on a node."""

    job_id: str
    step_id: int
    node_id: int
    time_us: int | None = None


class JobExit(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="exit"):
    """The job ended on a node; which one, only ``node`` tells.

    It carries no restart count: when a requeued job's end is told, Slurm already shows the next.
    """

    job_id: str
    time_us: int | None = None
    node: str | None = None
    exit_status: int | None = None
    """The job's raw wait status."""


Notice = JobInit | StepInit | TaskInit | TaskExit | StepExit | JobExit

Opening = JobInit | StepInit | TaskInit
"""What a job may begin with, and who owns it may be told by."""

OPENING = frozenset((JobInit, StepInit, TaskInit))

_MAX_ID_LENGTH = 64
_is_job_id = re.compile(rf"[A-Za-z0-9._:+-]{{1,{_MAX_ID_LENGTH}}}", re.ASCII).fullmatch
_MAX_IDENTITY = (1 << 32) - 1


def check_opening(notice: Opening) -> None:
    """Raise ``NoticeError`` for what cannot be a job's id or owner.

    Ids are 1 to 64 of the characters ``A-Z a-z 0-9 . _ : + -``: they stand in the names of metric
    sets and in the lines of event files. Owners are numbers from 0 to 4294967295.
    """
    job_id, uid, gid = notice.job_id, notice.uid, notice.gid
    # Most ids are digits, which is seen sooner without the expression.
    plain = job_id.isdigit() and job_id.isascii() and len(job_id) <= _MAX_ID_LENGTH
    if not plain and _is_job_id(job_id) is None:
        raise NoticeError(f"{job_id[:80]!r} is no job id")
    if uid is not None and not 0 <= uid <= _MAX_IDENTITY:
        raise NoticeError(f"{str(uid)[:20]} is no user id")
    if gid is not None and not 0 <= gid <= _MAX_IDENTITY:
        raise NoticeError(f"{str(gid)[:20]} is no group id")
