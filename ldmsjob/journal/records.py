"""What stands in the journal's blobs: notices, events and facts as msgpack.

Fields go by their names, and what is not known is left out where that is the default: a newer
version reads what an older one wrote, and the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ldmsjob.events import (
    EVENT_WORDS,
    JobEvent,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
)
from ldmsjob.facts import JobFacts, Origin, StepFacts, TaskFacts
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit

_NOTICES: dict[str, type[Any]] = {
    "init": JobInit,
    "step_init": StepInit,
    "task_init": TaskInit,
    "task_exit": TaskExit,
    "step_exit": StepExit,
    "exit": JobExit,
}
_NOTICE_WORDS = {kind: word for word, kind in _NOTICES.items()}

_DETAILS = {TaskStarted: "task", TaskEnded: "task", StepStarted: "step", StepEnded: "step"}


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """One job event as it is kept. Times are microseconds since the epoch."""

    word: str
    sequence: int
    source_time_us: int
    origin: Origin
    task: TaskFacts | None = None
    step: StepFacts | None = None


encode = msgspec.msgpack.Encoder().encode
_decode_facts = msgspec.msgpack.Decoder(JobFacts).decode
_decode_record = msgspec.msgpack.Decoder(
    tuple[str, Origin, msgspec.Raw, list[tuple[str, int, int, Origin, msgspec.Raw]]]
).decode
_decode_notice = {word: msgspec.msgpack.Decoder(kind).decode for word, kind in _NOTICES.items()}
_decode_task = msgspec.msgpack.Decoder(TaskFacts).decode
_decode_step = msgspec.msgpack.Decoder(StepFacts).decode


def encode_record(
    notice: Notice | None, events: Sequence[JobEvent], origin: Origin = "message"
) -> bytes:
    """A notice, how it came to be known, and what it gave; None for what another row's notice
    tells."""
    stored = []
    for event in events:
        kind = type(event)
        detail = _DETAILS.get(kind)
        stored.append(
            (
                EVENT_WORDS[kind],
                event.sequence,
                event.source_time_us,
                event.origin,
                None if detail is None else getattr(event, detail),
            )
        )
    return encode((_NOTICE_WORDS.get(type(notice), ""), origin, notice, stored))


def decode_record(data: bytes) -> tuple[Notice | None, Origin, list[StoredEvent]]:
    """The opposite: notice, origin, events.

    Raises ``msgspec.MsgspecError`` for what is none, and ``KeyError`` for a kind of notice that
    this version does not know.
    """
    try:
        return _decoded_record(data)
    except UnicodeDecodeError as error:  # which is no error of msgspec's own
        raise msgspec.DecodeError(str(error)) from None


def _decoded_record(data: bytes) -> tuple[Notice | None, Origin, list[StoredEvent]]:
    word, origin, raw, stored = _decode_record(data)
    notice = _decode_notice[word](raw) if word else None
    events = []
    for event_word, sequence, source_time_us, event_origin, detail in stored:
        task = _decode_task(detail) if event_word.startswith("task_") else None
        step = _decode_step(detail) if event_word.startswith("step_") else None
        events.append(StoredEvent(event_word, sequence, source_time_us, event_origin, task, step))
    return notice, origin, events


def decode_facts(data: bytes) -> JobFacts:
    """What ``encode`` made of them. Raises ``msgspec.MsgspecError``."""
    try:
        return _decode_facts(data)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None
