"""``jobmgr_slurm``: the messages of Slurm's SPANK plugin ``slurm_notifier``, turned into notices.

A message is decoded and checked in one go against the declarations below: every integer has
bounds, integral text and integral floats count as integers, null counts as absent, unknown keys are
ignored. Whatever fails is dropped, counted by reason and logged at a limited rate; nothing is ever
raised to the sender of a message. docs/events.md lists the counters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.errors import Busy
from ldmsjob.interfaces import IChannelJobManager, IJobManagerContext, ISubscription
from ldmsjob.jobmgr.reconciler import Reconciler
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.wire.events import JSON, Message

DEFAULT_CHANNEL = "slurm"

FIRST_SPECIAL_STEP = 0xFFFF_FFF0
"""Step ids from here on are Slurm's own: batch, extern, interactive, pending."""

_MASK = 0xFFFF_FFFF

# The notifier prints unsigned 32-bit numbers with a signed format: what is 2**31 or more arrives
# negative. Both spellings are accepted and mean the same number.
_Unsigned = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**32 - 1)]
_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_JobId = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**63 - 1)]
_Pid = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


# What `data` holds. Keys that are not used have no declaration. 0 and "" mean "not available" for
# everything but uid, gid and the ids that count from 0.


class _JobInitData(msgspec.Struct, gc=False):
    job_id: _JobId
    uid: _Unsigned | None = None
    gid: _Unsigned | None = None
    nnodes: _Natural | None = None
    total_tasks: _Natural | None = None
    local_tasks: _Natural | None = None


class _StepInitData(msgspec.Struct, gc=False):
    job_id: _JobId
    step_id: _Unsigned | None = None
    nodeid: _Unsigned | None = None
    job_user: str | None = None
    job_name: str | None = None
    subscriber_data: msgspec.Raw = msgspec.Raw()
    """Whatever the user put into his environment; looked into only when it holds anything."""
    uid: _Unsigned | None = None
    gid: _Unsigned | None = None
    nnodes: _Natural | None = None
    total_tasks: _Natural | None = None
    local_tasks: _Natural | None = None


class _TaskInitData(msgspec.Struct, gc=False):
    job_id: _JobId
    task_id: _Unsigned
    step_id: _Unsigned | None = None
    nodeid: _Unsigned | None = None
    task_pid: _Pid | None = None
    task_global_id: _Unsigned | None = None
    uid: _Unsigned | None = None
    gid: _Unsigned | None = None
    nnodes: _Natural | None = None
    total_tasks: _Natural | None = None
    local_tasks: _Natural | None = None


class _TaskExitData(msgspec.Struct, gc=False):
    job_id: _JobId
    task_id: _Unsigned
    task_exit_status: _Unsigned
    step_id: _Unsigned | None = None
    nodeid: _Unsigned | None = None
    task_pid: _Pid | None = None


class _StepExitData(msgspec.Struct, gc=False):
    job_id: _JobId
    step_id: _Unsigned | None = None
    nodeid: _Unsigned | None = None


class _JobExitData(msgspec.Struct, gc=False):
    job_id: _JobId


class _JobInit(msgspec.Struct, tag_field="event", tag="init", gc=False):
    data: _JobInitData
    timestamp: _Natural | None = None


class _StepInit(msgspec.Struct, tag_field="event", tag="step_init", gc=False):
    data: _StepInitData
    timestamp: _Natural | None = None


class _TaskInit(msgspec.Struct, tag_field="event", tag="task_init_priv", gc=False):
    data: _TaskInitData
    timestamp: _Natural | None = None


class _TaskExit(msgspec.Struct, tag_field="event", tag="task_exit", gc=False):
    data: _TaskExitData
    timestamp: _Natural | None = None


class _StepExit(msgspec.Struct, tag_field="event", tag="step_exit", gc=False):
    data: _StepExitData
    timestamp: _Natural | None = None


class _JobExit(msgspec.Struct, tag_field="event", tag="exit", gc=False):
    data: _JobExitData
    timestamp: _Natural | None = None


class _SubscriberData(msgspec.Struct):
    job_tag: Any = None


_SlurmMessage = _JobInit | _StepInit | _TaskInit | _TaskExit | _StepExit | _JobExit
_decode = msgspec.json.Decoder(_SlurmMessage, strict=False).decode
_decode_subscriber_data = msgspec.json.Decoder(_SubscriberData).decode


def _unsigned(number: int | None) -> int | None:
    return number if number is None or number >= 0 else number & _MASK


def _id(number: int | None) -> int:
    """Of a step, node or task; 0 when the sender does not say it, as the notifier itself does."""
    return (number & _MASK) if number else 0


def _job_tag(text: bytes) -> str | None:
    try:
        tag = _decode_subscriber_data(text).job_tag
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return tag if isinstance(tag, str) and tag else None


# One function for each kind of message. They run once a message: what is nearly always so is
# written out here, and calls are kept for what is rare.


def _job_init(message: _JobInit) -> Notice:
    data = message.data
    seconds = message.timestamp
    return JobInit(
        str(data.job_id),
        seconds * 1_000_000 if seconds else None,
        _unsigned(data.uid),
        _unsigned(data.gid),
        data.nnodes or None,
        data.total_tasks or None,
        data.local_tasks or None,
    )


def _step_init(message: _StepInit) -> Notice:
    data = message.data
    seconds = message.timestamp
    subscriber_data = bytes(data.subscriber_data)
    return StepInit(
        str(data.job_id),
        _id(data.step_id),
        _id(data.nodeid),
        seconds * 1_000_000 if seconds else None,
        data.job_user or None,
        data.job_name or None,
        _job_tag(subscriber_data) if len(subscriber_data) > 2 else None,
        _unsigned(data.uid),
        _unsigned(data.gid),
        data.nnodes or None,
        data.total_tasks or None,
        data.local_tasks or None,
    )


def _task_init(message: _TaskInit) -> Notice:
    data = message.data
    seconds = message.timestamp
    return TaskInit(
        str(data.job_id),
        _id(data.step_id),
        _id(data.nodeid),
        _id(data.task_id),
        seconds * 1_000_000 if seconds else None,
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
    status = data.task_exit_status
    return TaskExit(
        str(data.job_id),
        _id(data.step_id),
        _id(data.nodeid),
        _id(data.task_id),
        status if status < 2**31 else status - 2**32,
        seconds * 1_000_000 if seconds else None,
        data.task_pid or None,
    )


def _step_exit(message: _StepExit) -> Notice:
    data = message.data
    seconds = message.timestamp
    return StepExit(
        str(data.job_id),
        _id(data.step_id),
        _id(data.nodeid),
        seconds * 1_000_000 if seconds else None,
    )


def _job_exit(message: _JobExit) -> Notice:
    seconds = message.timestamp
    return JobExit(str(message.data.job_id), seconds * 1_000_000 if seconds else None)


_NOTICES: Mapping[type, Callable[[Any], Notice]] = {
    _JobInit: _job_init,
    _StepInit: _step_init,
    _TaskInit: _task_init,
    _TaskExit: _task_exit,
    _StepExit: _step_exit,
    _JobExit: _job_exit,
}
_HAS_STEP = frozenset((_StepInit, _TaskInit, _TaskExit, _StepExit))


_REASONS = (
    ("missing required field", "missing"),
    ("Invalid value", "event"),
    ("`int` <=", "range"),
    ("`int` >=", "range"),
)


def _reason(error: Exception) -> str:
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
            message = _decode(body[: begin.end() - 1] + name + body[end.start() + 1 :])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        if type(message) is not _StepInit:
            return None
        if message.data.job_user is not None or b'"job_user"' not in body:
            return message
        # The name has swallowed the user: that is not where it ends.
    return None


@implementer(IChannelJobManager)
class SlurmJobManager:
    """Listens to one channel of the message service.

    Attributes: ``message_channel``, an exact channel name, by default ``slurm``, and those of
    ``Reconciler``, which holds the jobs against the node and Slurm.

    Counters: ``messages`` (all that came), ``not_json`` (of another type, ignored),
    ``special_step`` (about Slurm's own steps, ignored), ``repaired``, and ``rejected_<reason>``
    with the reasons ``syntax``, ``utf8``, ``nesting``, ``type``, ``range``, ``missing``, ``event``
    (a name that is not known) and ``job_id`` (0, which names no job).
    """

    resource_manager = "slurm"

    def __init__(self, context: IJobManagerContext) -> None:
        self._context = context
        self._log = LimitedLog(context.log)
        self._channel = DEFAULT_CHANNEL
        self._subscription: ISubscription | None = None
        self._reconciler = Reconciler(context, self.resource_manager)
        self._state = "STOPPED"

    @property
    def state(self) -> str:
        """``STOPPED``, ``STARTED`` or ``STOPPING``."""
        return self._state

    @property
    def channels(self) -> tuple[str, ...]:
        """The channel that ``start`` listens to."""
        return (self._channel,)

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Take the attributes, for the next start. Raises ``ConfigError``."""
        self._reconciler.configure(attributes)
        self._channel = attributes.get("message_channel", DEFAULT_CHANNEL)

    def start(self) -> None:
        """Listen. Raises ``Busy`` unless stopped, ``ChannelTaken`` when another listens there."""
        self._expect("STOPPED", "start")
        self._subscription = self._context.subscribe(self._channel, self.received)
        self._reconciler.start()
        self._state = "STARTED"

    def stop(self) -> Deferred[None]:
        """Listen no more. Jobs and their sets stay. Raises ``Busy`` unless started."""
        self._expect("STARTED", "stop")
        subscription, self._subscription = self._subscription, None
        assert subscription is not None
        self._state = "STOPPING"
        closing = [subscription.close(), self._reconciler.stop()]
        return gatherResults(closing).addBoth(self._stopped)

    def received(self, message: Message) -> None:
        """Apply what one message says."""
        context = self._context
        stats = context.stats
        stats.add("messages")
        if message.kind != JSON:
            stats.add("not_json")
            return
        body = message.body
        try:
            content = _decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            reason = _reason(error)
            content = repair(body) if reason == "syntax" else None
            if content is None:
                self._reject(reason, str(error))
                return
            stats.add("repaired")
        kind = type(content)
        data = content.data
        if kind in _HAS_STEP and data.step_id is not None:
            step_id = data.step_id
            if step_id < 0 or step_id >= FIRST_SPECIAL_STEP:
                stats.add("special_step")
                return
        if data.job_id <= 0:
            if not data.job_id:
                self._reject("job_id", "job id 0 names no job")
                return
            data.job_id &= _MASK
        context.apply(_NOTICES[kind](content), context.received_time_us())

    def _reject(self, reason: str, detail: str) -> None:
        self._context.stats.add(f"rejected_{reason}")
        self._log.warn(
            reason,
            "message on channel {channel} dropped: {detail}",
            channel=self._channel,
            # May quote the message: that must neither fill the log nor forge lines in it.
            detail="".join(c if c.isprintable() else "?" for c in detail[:200]),
        )

    def _expect(self, state: str, verb: str) -> None:
        if self._state != state:
            raise Busy(f"cannot {verb}, state: JOBMGR_SLURM_{self._state}")

    def _stopped(self, result: Any) -> Any:
        self._state = "STOPPED"
        return result if isinstance(result, Failure) else None
