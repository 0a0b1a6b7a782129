"""The messages of Slurm's SPANK plugin ``slurm_notifier`` and the lines of our own notifier, turned
into notices. Ours says the same with the same keys, and more; docs/events.md lists it.

A message is decoded and checked in one go against the declarations below: every integer has
bounds, integral text and integral floats count as integers, null counts as absent, unknown keys are
ignored.
"""

# No "from __future__ import annotations": msgspec would compile each annotation from its text, and
# again for each class that inherits it: two thirds of the time that its decoders need.

import re
from sys import intern
from typing import Annotated, Any

import msgspec

from ldmsjob.facts import JobDetails
from ldmsjob.notices import JobExit, JobInit, StepExit, StepInit, TaskExit, TaskInit

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
# everything but uid, gid and the ids that count from 0. Fields stand in the order in which Slurm's
# notifier sends them, in which they are found soonest.


class _Data(msgspec.Struct, kw_only=True, gc=False):
    job_id: _JobId


class _Owned(_Data, kw_only=True, gc=False):
    """Of what opens a job: whose it is and how large."""

    uid: _Unsigned | None = None
    gid: _Unsigned | None = None
    nnodes: _Natural | None = None
    local_tasks: _Natural | None = None
    total_tasks: _Natural | None = None


class _Described(_Owned, kw_only=True, gc=False):
    """And who it is, which our notifier tells in full."""

    job_name: str | None = None
    job_user: str | None = None
    node: _Node | None = None
    array_job_id: _Unsigned | None = None
    array_task_id: _Unsigned | None = None
    het_job_id: _Unsigned | None = None
    het_job_offset: _Unsigned | None = None
    restart_count: _Unsigned | None = None
    partition: str | None = None
    account: str | None = None

    def details(self) -> JobDetails | None:
        """What places the job in Slurm. The notifier of Slurm tells none of it."""
        if (
            self.restart_count is None
            and self.partition is None
            and self.account is None
            and self.array_task_id is None
            and self.array_job_id is None
            and self.het_job_id is None
            and self.het_job_offset is None
        ):
            return None
        details = JobDetails(
            _count(self.array_job_id) or None,
            _count(self.array_task_id),
            _count(self.het_job_id) or None,
            _count(self.het_job_offset),
            _count(self.restart_count),
            self.partition or None,
            self.account or None,
        )
        return details if details != _NO_DETAILS else None


class _StepInitData(_Described, kw_only=True, gc=False):
    nodeid: _Unsigned | None = None
    step_id: _Unsigned | None = None
    subscriber_data: msgspec.Raw = msgspec.Raw()
    """Whatever the user put into his environment; looked into only when it holds anything."""


class _TaskInitData(_Owned, kw_only=True, gc=False):
    step_id: _Unsigned | None = None
    task_id: _Unsigned
    task_global_id: _Unsigned | None = None
    task_pid: _Pid | None = None
    nodeid: _Unsigned | None = None


class _TaskExitData(_Data, kw_only=True, gc=False):
    step_id: _Unsigned | None = None
    task_id: _Unsigned
    task_pid: _Pid | None = None
    nodeid: _Unsigned | None = None
    task_exit_status: _Unsigned


class _StepExitData(_Data, kw_only=True, gc=False):
    nodeid: _Unsigned | None = None
    step_id: _Unsigned | None = None


class _JobExitData(_Data, kw_only=True, gc=False):
    node: _Node | None = None
    job_exit_status: _Unsigned | None = None


class _SubscriberData(msgspec.Struct):
    job_tag: Any = None


_NO_DETAILS = JobDetails()

_decode_subscriber_data = msgspec.json.Decoder(_SubscriberData).decode


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


# The messages. `notice` runs once for each: what is nearly always so is written out in it, and
# calls are kept for what is rare. A step, a node or a task that is not named is 0, as in the
# notifier itself.


class _Message(msgspec.Struct, tag_field="event", kw_only=True, gc=False):
    timestamp: _Natural | None = None
    timestamp_ns: _Nanoseconds | None = None


class _JobInit(_Message, tag="init", kw_only=True, gc=False):
    data: _Described

    def notice(self) -> JobInit | None:
        data = self.data
        job_id = data.job_id
        if not job_id:
            return None
        seconds, exact = self.timestamp, self.timestamp_ns
        uid, gid = data.uid, data.gid
        user, job_name = data.job_user, data.job_name
        return JobInit(
            str(job_id if job_id > 0 else job_id & MASK),
            exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
            uid if uid is None or uid >= 0 else uid & MASK,
            gid if gid is None or gid >= 0 else gid & MASK,
            data.nnodes or None,
            data.total_tasks or None,
            data.local_tasks or None,
            # Many jobs have the same.
            intern(user) if user else None,
            intern(job_name) if job_name else None,
            data.node or None,
            data.details(),
        )


class _StepInit(_Message, tag="step_init", kw_only=True, gc=False):
    data: _StepInitData

    def notice(self) -> StepInit | None:
        data = self.data
        job_id = data.job_id
        step_id = data.step_id or 0
        if not (job_id and 0 <= step_id < FIRST_SPECIAL_STEP):
            return None
        seconds, exact = self.timestamp, self.timestamp_ns
        node_id = data.nodeid or 0
        uid, gid = data.uid, data.gid
        subscriber_data = data.subscriber_data
        return StepInit(
            str(job_id if job_id > 0 else job_id & MASK),
            step_id,
            node_id if node_id >= 0 else node_id & MASK,
            exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
            data.job_user or None,
            data.job_name or None,
            _job_tag(subscriber_data) if len(subscriber_data) > 2 else None,
            uid if uid is None or uid >= 0 else uid & MASK,
            gid if gid is None or gid >= 0 else gid & MASK,
            data.nnodes or None,
            data.total_tasks or None,
            data.local_tasks or None,
            data.node or None,
            data.details(),
        )


class _TaskInit(_Message, tag="task_init_priv", kw_only=True, gc=False):
    data: _TaskInitData

    def notice(self) -> TaskInit | None:
        data = self.data
        job_id = data.job_id
        step_id = data.step_id or 0
        if not (job_id and 0 <= step_id < FIRST_SPECIAL_STEP):
            return None
        seconds, exact = self.timestamp, self.timestamp_ns
        node_id, task_id = data.nodeid or 0, data.task_id
        rank, uid, gid = data.task_global_id, data.uid, data.gid
        return TaskInit(
            str(job_id if job_id > 0 else job_id & MASK),
            step_id,
            node_id if node_id >= 0 else node_id & MASK,
            task_id if task_id >= 0 else task_id & MASK,
            exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
            data.task_pid or None,
            rank if rank is None or rank >= 0 else rank & MASK,
            uid if uid is None or uid >= 0 else uid & MASK,
            gid if gid is None or gid >= 0 else gid & MASK,
            data.nnodes or None,
            data.total_tasks or None,
            data.local_tasks or None,
        )


class _TaskExit(_Message, tag="task_exit", kw_only=True, gc=False):
    data: _TaskExitData

    def notice(self) -> TaskExit | None:
        data = self.data
        job_id = data.job_id
        step_id = data.step_id or 0
        if not (job_id and 0 <= step_id < FIRST_SPECIAL_STEP):
            return None
        seconds, exact = self.timestamp, self.timestamp_ns
        node_id, task_id, status = data.nodeid or 0, data.task_id, data.task_exit_status
        return TaskExit(
            str(job_id if job_id > 0 else job_id & MASK),
            step_id,
            node_id if node_id >= 0 else node_id & MASK,
            task_id if task_id >= 0 else task_id & MASK,
            status if status < 2**31 else status - 2**32,
            exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
            data.task_pid or None,
        )


class _StepExit(_Message, tag="step_exit", kw_only=True, gc=False):
    data: _StepExitData

    def notice(self) -> StepExit | None:
        data = self.data
        job_id = data.job_id
        step_id = data.step_id or 0
        if not (job_id and 0 <= step_id < FIRST_SPECIAL_STEP):
            return None
        seconds, exact = self.timestamp, self.timestamp_ns
        node_id = data.nodeid or 0
        return StepExit(
            str(job_id if job_id > 0 else job_id & MASK),
            step_id,
            node_id if node_id >= 0 else node_id & MASK,
            exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
        )


class _JobExit(_Message, tag="exit", kw_only=True, gc=False):
    data: _JobExitData

    def notice(self) -> JobExit | None:
        data = self.data
        job_id = data.job_id
        if not job_id:
            return None
        seconds, exact = self.timestamp, self.timestamp_ns
        status = data.job_exit_status
        return JobExit(
            str(job_id if job_id > 0 else job_id & MASK),
            exact // 1000 if exact else seconds * 1_000_000 if seconds else None,
            data.node or None,
            status if status is None or status < 2**31 else status - 2**32,
        )


SlurmMessage = _JobInit | _StepInit | _TaskInit | _TaskExit | _StepExit | _JobExit
"""Each has a method ``notice()``: what it tells the core. None for one of Slurm's own steps, and
for job id 0, which names no job."""

decode = msgspec.json.Decoder(SlurmMessage, strict=False).decode
"""One message; raises ``MsgspecError``, ``ValueError`` or ``RecursionError``: see ``reason_of``."""


def is_of_special_step(message: SlurmMessage) -> bool:
    """Whether it is about one of Slurm's own steps."""
    step_id: int | None = getattr(message.data, "step_id", None)
    return step_id is not None and not 0 <= step_id < FIRST_SPECIAL_STEP


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
_NAME_BEGINS = rb'"job_name"\s*:\s*"'
_NAME_ENDS = (
    rb'"\s*(?:\}|,\s*"(?:subscriber_data|job_user|job_id|nodeid|step_id|alloc_mb|ncpus|nnodes'
    rb'|local_tasks|total_tasks|workflow_id|uid|gid)"\s*:)'
)


def repair(body: bytes) -> SlurmMessage | None:
    """Decode a step announcement whose job name is not escaped, or return None.

    The name is taken to end at the first place from which on everything is valid.
    """
    if len(body) > _MAX_REPAIR_BYTES:
        return None
    begin = re.search(_NAME_BEGINS, body)
    if begin is None:
        return None
    for tries, end in enumerate(re.compile(_NAME_ENDS).finditer(body, begin.end())):
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
