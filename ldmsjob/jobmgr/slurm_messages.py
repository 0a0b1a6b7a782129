"""The messages of Slurm's SPANK plugin ``slurm_notifier`` and the lines of our own notifier, turned
into notices. Ours says the same with the same keys, and more; docs/events.md lists it.

A message is decoded and checked in one go against the declarations below: every integer has
bounds, integral text and integral floats count as integers, null counts as absent, unknown keys are
ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from ldmsjob.facts import JobDetails
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit

FIRST_SPECIAL_STEP = 0xFFFF_FFF0
"""Step ids from here on are Slurm's own: batch, extern, interactive, pending."""

MASK = 0xFFFF_FFFF

# The notifier prints unsigned 32-bit numbers with a signed format: what is 2**31 or more arrives
# negative. Both spellings are accepted and mean the same number.
_Unsigned = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**32 - 1)]
_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_JobId = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**63 - 1)]
_Pid = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**32 * 1_000_000_000 - 1)]
_Node = Annotated[str, msgspec.Meta(max_length=255)]

_NO_VALUE = 0xFFFF_FFFE
"""Slurm's numbers from here on mean that there is none."""


# What `data` holds. Keys that are not used have no declaration. 0 and "" mean "not available" for
# everything but uid, gid and the ids that count from 0.


class _Data(msgspec.Struct, kw_only=True, gc=False):
    job_id: _JobId


class _Owned(_Data, kw_only=True, gc=False):
    """Of what opens a job: whose it is and how large."""

    uid: _Unsigned | None = None
    gid: _Unsigned | None = None
    nnodes: _Natural | None = None
    total_tasks: _Natural | None = None
    local_tasks: _Natural | None = None


class _Described(_Owned, kw_only=True, gc=False):
    """And who it is, which our notifier tells in full."""

    job_user: str | None = None
    job_name: str | None = None
    node: _Node | None = None
    array_job_id: _Unsigned | None = None
    array_task_id: _Unsigned | None = None
    het_job_id: _Unsigned | None = None
    het_job_offset: _Unsigned | None = None
    restart_count: _Unsigned | None = None
    partition: str | None = None
    account: str | None = None


class _StepInitData(_Described, kw_only=True, gc=False):
    step_id: _Unsigned | None = None
    nodeid: _Unsigned | None = None
    subscriber_data: msgspec.Raw = msgspec.Raw()
    """Whatever the user put into his environment; looked into only when it holds anything."""


class _TaskInitData(_Owned, kw_only=True, gc=False):
    task_id: _Unsigned
    step_id: _Unsigned | None = None
    nodeid: _Unsigned | None = None
    task_pid: _Pid | None = None
    task_global_id: _Unsigned | None = None


class _TaskExitData(_Data, kw_only=True, gc=False):
    task_id: _Unsigned
    task_exit_status: _Unsigned
    step_id: _Unsigned | None = None
    nodeid: _Unsigned | None = None
    task_pid: _Pid | None = None


class _StepExitData(_Data, kw_only=True, gc=False):
    step_id: _Unsigned | None = None
    nodeid: _Unsigned | None = None


class _JobExitData(_Data, kw_only=True, gc=False):
    node: _Node | None = None
    job_exit_status: _Unsigned | None = None


class _Message(msgspec.Struct, tag_field="event", kw_only=True, gc=False):
    timestamp: _Natural | None = None
    timestamp_ns: _Nanoseconds | None = None


class _JobInit(_Message, tag="init", kw_only=True, gc=False):
    data: _Described


class _StepInit(_Message, tag="step_init", kw_only=True, gc=False):
    data: _StepInitData


class _TaskInit(_Message, tag="task_init_priv", kw_only=True, gc=False):
    data: _TaskInitData


class _TaskExit(_Message, tag="task_exit", kw_only=True, gc=False):
    data: _TaskExitData


class _StepExit(_Message, tag="step_exit", kw_only=True, gc=False):
    data: _StepExitData


class _JobExit(_Message, tag="exit", kw_only=True, gc=False):
    data: _JobExitData


class _SubscriberData(msgspec.Struct):
    job_tag: Any = None


_NO_DETAILS = JobDetails()

_SlurmMessage = _JobInit | _StepInit | _TaskInit | _TaskExit | _StepExit | _JobExit
decode = msgspec.json.Decoder(_SlurmMessage, strict=False).decode
"""One message; raises ``MsgspecError``, ``ValueError`` or ``RecursionError``: see ``reason_of``."""
_decode_subscriber_data = msgspec.json.Decoder(_SubscriberData).decode


def _unsigned(number: int | None) -> int | None:
    return number if number is None or number >= 0 else number & MASK


def _id(number: int | None) -> int:
    """Of a step, node or task; 0 when the sender does not say it, as the notifier itself does."""
    return (number & MASK) if number else 0


def _job_tag(text: bytes) -> str | None:
    try:
        tag = _decode_subscriber_data(text).job_tag
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return tag if isinstance(tag, str) and tag else None


def _count(number: int | None) -> int | None:
    """An id or a number that may be 0, or one of Slurm's for none."""
    if number is None:
        return None
    number &= MASK
    return number if number < _NO_VALUE else None


def _details(data: _Described) -> JobDetails | None:
    """What places the job in Slurm. The notifier of Slurm tells none of it."""
    if (
        data.restart_count is None
        and data.partition is None
        and data.account is None
        and data.array_task_id is None
        and data.array_job_id is None
        and data.het_job_id is None
        and data.het_job_offset is None
    ):
        return None
    details = JobDetails(
        _count(data.array_job_id) or None,
        _count(data.array_task_id),
        _count(data.het_job_id) or None,
        _count(data.het_job_offset),
        _count(data.restart_count),
        data.partition or None,
        data.account or None,
    )
    return details if details != _NO_DETAILS else None


# One function for each kind of message. They run once a message: what is nearly always so is
# written out here, and calls are kept for what is rare.


def _job_init(message: _JobInit) -> Notice:
    data = message.data
    seconds = message.timestamp
    exact = message.timestamp_ns
    return JobInit(
        str(data.job_id),
        exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
        _unsigned(data.uid),
        _unsigned(data.gid),
        data.nnodes or None,
        data.total_tasks or None,
        data.local_tasks or None,
        data.job_user or None,
        data.job_name or None,
        data.node or None,
        _details(data),
    )


def _step_init(message: _StepInit) -> Notice:
    data = message.data
    seconds = message.timestamp
    exact = message.timestamp_ns
    subscriber_data = bytes(data.subscriber_data)
    return StepInit(
        str(data.job_id),
        _id(data.step_id),
        _id(data.nodeid),
        exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
        data.job_user or None,
        data.job_name or None,
        _job_tag(subscriber_data) if len(subscriber_data) > 2 else None,
        _unsigned(data.uid),
        _unsigned(data.gid),
        data.nnodes or None,
        data.total_tasks or None,
        data.local_tasks or None,
        data.node or None,
        _details(data),
    )


def _task_init(message: _TaskInit) -> Notice:
    data = message.data
    seconds = message.timestamp
    exact = message.timestamp_ns
    return TaskInit(
        str(data.job_id),
        _id(data.step_id),
        _id(data.nodeid),
        _id(data.task_id),
        exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
        data.task_pid or None,
        _unsigned(data.task_global_id),
        _unsigned(data.uid),
        _unsigned(data.gid),
        data.nnodes or None,
        data.total_tasks or None,
        data.local_tasks or None,
    )


def _task_exit(message: _TaskExit) -> Notice:
    data = message.data
    seconds = message.timestamp
    exact = message.timestamp_ns
    status = data.task_exit_status
    return TaskExit(
        str(data.job_id),
        _id(data.step_id),
        _id(data.nodeid),
        _id(data.task_id),
        status if status < 2**31 else status - 2**32,
        exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
        data.task_pid or None,
    )


def _step_exit(message: _StepExit) -> Notice:
    data = message.data
    seconds = message.timestamp
    exact = message.timestamp_ns
    return StepExit(
        str(data.job_id),
        _id(data.step_id),
        _id(data.nodeid),
        exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
    )


def _job_exit(message: _JobExit) -> Notice:
    data = message.data
    seconds = message.timestamp
    exact = message.timestamp_ns
    status = data.job_exit_status
    return JobExit(
        str(data.job_id),
        exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
        data.node or None,
        status if status is None or status < 2**31 else status - 2**32,
    )


NOTICES: Mapping[type, Callable[[Any], Notice]] = {
    _JobInit: _job_init,
    _StepInit: _step_init,
    _TaskInit: _task_init,
    _TaskExit: _task_exit,
    _StepExit: _step_exit,
    _JobExit: _job_exit,
}
"""For each kind of message what makes a notice of it."""

HAS_STEP = frozenset((_StepInit, _TaskInit, _TaskExit, _StepExit))


_REASONS = (
    ("missing required field", "missing"),
    ("Invalid value", "event"),
    ("`int` <=", "range"),
    ("`int` >=", "range"),
    ("`str` of length", "range"),
)


def reason_of(error: Exception) -> str:
    """Why a message could not be decoded, as the word of a counter: rejected_<word>."""
    if isinstance(error, msgspec.ValidationError):
        detail = str(error)
        return next((reason for words, reason in _REASONS if words in detail), "type")
    if isinstance(error, UnicodeDecodeError):
        return "utf8"
    return "nesting" if isinstance(error, RecursionError) else "syntax"


# Repair. The notifier writes the job name between quotes as it is. A name with a quote, a backslash
# or a control character then gives text that is not JSON.

_MAX_REPAIR_BYTES = 65_536
_MAX_REPAIR_TRIES = 8
_NAME_BEGINS = re.compile(rb'"job_name"\s*:\s*"')
_NAME_ENDS = re.compile(
    rb'"\s*(?:\}|,\s*"(?:subscriber_data|job_user|job_id|nodeid|step_id|alloc_mb|ncpus|nnodes'
    rb'|local_tasks|total_tasks|workflow_id|uid|gid)"\s*:)'
)


def repair(body: bytes) -> Any | None:
    """Decode a step announcement whose job name is not escaped, or return None.

    The name is taken to end at the first place from which on everything is valid.
    """
    if len(body) > _MAX_REPAIR_BYTES:
        return None
    begin = _NAME_BEGINS.search(body)
    if begin is None:
        return None
    for tries, end in enumerate(_NAME_ENDS.finditer(body, begin.end())):
        if tries == _MAX_REPAIR_TRIES:
            return None
        try:
            name = msgspec.json.encode(body[begin.end() : end.start()].decode())
            message = decode(body[: begin.end() - 1] + name + body[end.start() + 1 :])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        if type(message) is not _StepInit:
            return None
        if message.data.job_user is not None or b'"job_user"' not in body:
            return message
        # The name has swallowed the user: that is not where it ends.
    return None
