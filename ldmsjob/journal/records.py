"""What stands in the journal's blobs: notices, events and facts as msgpack.

All fields go by their places. A newer version reads what an older one wrote, and the other way
round, as long as new fields go to the end.
"""

# No "from __future__ import annotations": msgspec would compile each annotation from its text, and
# again for each class that inherits it: two thirds of the time that its decoders need.

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ldmsjob.events import (
    EVENT_WORDS,
    JobEnded,
    JobEvent,
    JobSetDeleted,
    JobStarted,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
)
from ldmsjob.facts import JobFacts, Origin, StepFacts, TaskFacts
from ldmsjob.jobs import Job
from ldmsjob.notices import Notice

MAX_TIME_US = (1 << 62) - 1
"""The latest that is kept; what a notifier tells may be later."""

NewEvent = tuple[int, int, int, Origin, TaskFacts | StepFacts | None]
"""An event that is to be kept: number of its kind, its own number, source time, origin, detail."""

new_event: dict[type[JobEvent], Callable[[Any], NewEvent]] = {
    JobStarted: lambda e: (0, e.sequence, e.source_time_us, e.origin, None),
    StepStarted: lambda e: (1, e.sequence, e.source_time_us, e.origin, e.step),
    TaskStarted: lambda e: (2, e.sequence, e.source_time_us, e.origin, e.task),
    TaskEnded: lambda e: (3, e.sequence, e.source_time_us, e.origin, e.task),
    StepEnded: lambda e: (4, e.sequence, e.source_time_us, e.origin, e.step),
    JobEnded: lambda e: (5, e.sequence, e.source_time_us, e.origin, None),
    JobSetDeleted: lambda e: (6, e.sequence, e.source_time_us, e.origin, None),
}
"""What makes it of an event. Their numbers are for ever.

One function for each: attributes are found sooner by code that sees one class alone."""

_WORDS = [EVENT_WORDS[kind] for kind in new_event]


class About(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What an attempt of a job is."""

    resource_manager: str
    job_id: str
    attempt: int
    instance: str
    """The job manager that told of it."""
    adopted: bool
    """Whether its start was not seen."""
    start_us: int
    facts: JobFacts | None
    """None where its notices tell all of them."""


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """One job event as it is kept. Times are microseconds since the epoch."""

    word: str
    sequence: int
    source_time_us: int
    origin: Origin
    task: TaskFacts | None = None
    step: StepFacts | None = None


class StoredNotice(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One notice as it is kept.

    What is in it is read when it is asked for; what is damaged, or not known to this version,
    raises ``msgspec.MsgspecError`` then.
    """

    job: int
    """Number of the job."""
    about_blob: msgspec.Raw
    received_us: int
    origin: Origin
    notice_blob: msgspec.Raw
    events_blob: msgspec.Raw

    def has_about(self) -> bool:
        """Whether it tells what its job is."""
        return bytes(self.about_blob) != _NIL

    def notice(self) -> Notice | None:
        """What was told; None when another job's notice, the next one in its turn, has ended this
        one."""
        return _decoded(_decode_notice, self.notice_blob)

    def events(self) -> list[StoredEvent]:
        """What it gave."""
        events = []
        for code, sequence, source_time_us, origin, detail in _decoded(
            _decode_events, self.events_blob
        ):
            if not 0 <= code < len(_WORDS):
                raise msgspec.ValidationError(f"there is no event {code}")
            word = _WORDS[code]
            task = _decoded(_decode_task, detail) if word.startswith("task_") else None
            step = _decoded(_decode_step, detail) if word.startswith("step_") else None
            events.append(StoredEvent(word, sequence, source_time_us, origin, task, step))
        return events


NewAbout = tuple[str, str, int, str, bool, int, JobFacts | None]
NewNotice = tuple[int, NewAbout | None, int, Origin, Notice | None, Sequence[NewEvent]]
"""``About`` and the same before they are kept: tuples take the least time to make."""


class StoredTurn(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one turn has brought."""

    number: int
    """Of its last notice: they are counted for ever. If it has none, of the last one before it."""
    received_us: int
    """When its last notice came."""
    job: int
    """The highest number of a job so far."""
    sequence: int
    """The highest number of an event so far."""
    notices: list[StoredNotice]


class TurnParts(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The same, with nothing said of what is in the notices."""

    number: int
    received_us: int
    job: int
    sequence: int
    notices: list[msgspec.Raw]


NewTurn = tuple[int, int, int, int, Sequence[NewNotice | StoredNotice]]
"""The same before it is kept."""

JobRow = tuple[int, int, int | None, str, int | None, bytearray]
"""Number of the job, of the first notice about it and of the last one, its own id, when it ended,
and what else is known about it. The first number may be too low, the last one too high. Of one that
runs, neither the last notice nor the end is known."""

KeptRow = tuple[str, str, int | None]
"""Owner, name and value of what is kept; None: no longer."""


Rows = tuple[list[JobRow], list[KeptRow]]
"""What a turn changes besides bringing notices."""

encode = msgspec.msgpack.Encoder().encode
"""What takes ``NewAbout``, ``NewTurn``, lists of encoded turns, and ``Rows``.

Raises ``ValueError``, ``OverflowError`` or ``TypeError`` for what msgpack does not take."""

UNENCODABLE = (ValueError, OverflowError, TypeError)

_NIL = encode(None)
_decode_about = msgspec.msgpack.Decoder(About).decode
_decode_turn = msgspec.msgpack.Decoder(StoredTurn).decode
_decode_rows = msgspec.msgpack.Decoder(Rows).decode
_decode_turns = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_parts = msgspec.msgpack.Decoder(TurnParts).decode
_decode_part = msgspec.msgpack.Decoder(StoredNotice).decode
_decode_events = msgspec.msgpack.Decoder(list[tuple[int, int, int, Origin, msgspec.Raw]]).decode
_decode_notice = msgspec.msgpack.Decoder(Notice | None).decode
_decode_task = msgspec.msgpack.Decoder(TaskFacts).decode
_decode_step = msgspec.msgpack.Decoder(StepFacts).decode


def about_job(job: Job, instance: str, facts: JobFacts | None) -> NewAbout:
    """What a job is."""
    key = job.key
    start_us = job.start_us if job.start_us < MAX_TIME_US else MAX_TIME_US
    return key.resource_manager, key.job_id, key.attempt, instance, job.adopted, start_us, facts


def encodable(
    notices: Sequence[NewNotice], refused: Callable[[NewNotice, Exception], None]
) -> list[NewNotice]:
    """Those of them that ``encode`` takes; ``refused`` is told of the others. Of a job the first of
    whose notices is none of them, the others are not either."""
    found = []
    without_beginning = set()
    for notice in notices:
        number, about = notice[:2]
        try:
            if number in without_beginning:
                raise ValueError("its beginning is not there")
            encode(notice)
        except UNENCODABLE as error:
            if about is not None:
                without_beginning.add(number)
            refused(notice, error)
        else:
            found.append(notice)
    return found


def turn_parts(data: bytes) -> TurnParts:
    """What ``encode`` made of a turn. Raises ``msgspec.MsgspecError``."""
    parts: TurnParts = _decoded(_decode_parts, data)
    return parts


def decode_turn(data: bytes, unreadable: Callable[[Exception], None] | None = None) -> StoredTurn:
    """What ``encode`` made of a turn. Raises ``msgspec.MsgspecError``.

    ``unreadable`` is told of notices that are damaged, and the others are there.
    """
    try:
        turn: StoredTurn = _decoded(_decode_turn, data)
    except msgspec.MsgspecError:
        parts = turn_parts(data)
        found = []
        for part in parts.notices:
            try:
                found.append(_decoded(_decode_part, part))
            except msgspec.MsgspecError as error:
                if unreadable is not None:
                    unreadable(error)
        return StoredTurn(parts.number, parts.received_us, parts.job, parts.sequence, found)
    return turn


def decode_rows(data: bytes) -> Rows:
    """What ``encode`` made of them. Raises ``msgspec.MsgspecError``."""
    rows: Rows = _decoded(_decode_rows, data)
    return rows


def decode_turns(
    data: bytes, unreadable: Callable[[Exception], None] | None = None
) -> list[StoredNotice]:
    """The notices of all turns in what ``encode`` made of a list of encoded turns; so damage costs
    no other turn than that which it is in.

    ``unreadable`` is told of what is damaged, and the rest is returned.
    """
    try:
        turns = _decoded(_decode_turns, data)
    except msgspec.MsgspecError as error:
        if unreadable is not None:
            unreadable(error)
        return []
    found = []
    for data in turns:
        try:
            found += decode_turn(data, unreadable).notices
        except msgspec.MsgspecError as error:
            if unreadable is not None:
                unreadable(error)
    return found


def decode_about(data: bytes | bytearray) -> About:
    """What ``encode`` made of it. Raises ``msgspec.MsgspecError``."""
    return _decoded(_decode_about, data)


def _decoded(decode: Callable[[Any], Any], data: Any) -> Any:
    try:
        return decode(data)
    except (UnicodeDecodeError, TypeError) as error:  # what is no text, or no bytes at all
        raise msgspec.DecodeError(str(error)) from None
