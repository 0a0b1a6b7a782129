"""What stands in the journal's blobs: notices, events and facts as msgpack.

Facts of jobs, steps and tasks go by the names of their fields, all else by its place. A newer
version reads what an older one wrote, and the other way round, as long as new fields go to the end.
"""

# No "from __future__ import annotations": msgspec would compile each annotation from its text, and
# again for each class that inherits it: two thirds of the time that its decoders need.

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ldmsjob.events import EVENT_WORDS, StepEnded, StepStarted, TaskEnded, TaskStarted
from ldmsjob.facts import JobFacts, Origin, StepFacts, TaskFacts
from ldmsjob.jobs import Job
from ldmsjob.notices import Notice

MAX_TIME_US = (1 << 62) - 1
"""The latest that is kept; what a notifier tells may be later."""

_DETAILS = {TaskStarted: "task", TaskEnded: "task", StepStarted: "step", StepEnded: "step"}
_WORDS = list(EVENT_WORDS.values())
EVENT_PARTS = {kind: (code, _DETAILS.get(kind)) for code, kind in enumerate(EVENT_WORDS)}
"""The number of each kind of event, for ever, and which of its attributes is kept besides what all
have."""


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


NewNotice = tuple[int, About | None, int, Origin, Notice | None, Sequence[tuple[Any, ...]]]
"""The same before it is kept, with a tuple for each event: tuples take the least time to make."""

JobRow = tuple[int, int, int | None, str, int | None, bytes]
"""Number of the job, of the first notice about it and of the last one, its own id, when it ended,
and what else is known about it. The first number may be too low, the last one too high. Of one that
runs, neither the last notice nor the end is known."""

KeptRow = tuple[str, str, int | None]
"""Owner, name and value of what is kept; None: no longer."""


Rows = tuple[list[JobRow], list[KeptRow]]
"""What a turn changes besides bringing notices."""

encode = msgspec.msgpack.Encoder().encode
"""What takes About, lists of notices that are new or stored, lists of such, and ``Rows``.

Raises ``ValueError``, ``OverflowError`` or ``TypeError`` for what msgpack does not take."""

UNENCODABLE = (ValueError, OverflowError, TypeError)

_NIL = encode(None)
_decode_about = msgspec.msgpack.Decoder(About).decode
_decode_turn = msgspec.msgpack.Decoder(list[StoredNotice]).decode
_decode_rows = msgspec.msgpack.Decoder(Rows).decode
_decode_turns = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_part = msgspec.msgpack.Decoder(StoredNotice).decode
_decode_events = msgspec.msgpack.Decoder(list[tuple[int, int, int, Origin, msgspec.Raw]]).decode
_decode_notice = msgspec.msgpack.Decoder(Notice | None).decode
_decode_task = msgspec.msgpack.Decoder(TaskFacts).decode
_decode_step = msgspec.msgpack.Decoder(StepFacts).decode


def about_job(job: Job, instance: str, facts: JobFacts | None) -> About:
    """What a job is."""
    key = job.key
    start_us = job.start_us if job.start_us < MAX_TIME_US else MAX_TIME_US
    return About(
        key.resource_manager, key.job_id, key.attempt, instance, job.adopted, start_us, facts
    )


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


def decode_turn(
    data: bytes, unreadable: Callable[[Exception], None] | None = None
) -> list[StoredNotice]:
    """What ``encode`` made of a list of notices.

    ``unreadable`` is told of what is damaged, and the rest is returned.
    """
    try:
        return _decoded(_decode_turn, data)
    except msgspec.MsgspecError as error:
        found: list[StoredNotice] = []
        failures: list[Exception] = []
        try:
            parts = _decoded(_decode_parts, data)
        except msgspec.MsgspecError:
            parts, failures = [], [error]
        for part in parts:
            try:
                found.append(_decoded(_decode_part, part))
            except msgspec.MsgspecError as part_error:
                failures.append(part_error)
        if unreadable is not None:
            for failure in failures:
                unreadable(failure)
        return found


def decode_rows(data: bytes) -> Rows:
    """What ``encode`` made of them. Raises ``msgspec.MsgspecError``."""
    rows: Rows = _decoded(_decode_rows, data)
    return rows


def count_notices(data: bytes) -> int:
    """How many there are in what ``encode`` made of a list of notices. Raises
    ``msgspec.MsgspecError``."""
    return len(_decoded(_decode_parts, data))


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
    return [notice for turn in turns for notice in decode_turn(turn, unreadable)]


def renumbered(data: bytes, by_jobs: int) -> bytes:
    """The same notices, of jobs whose numbers are higher by that."""
    return encode(
        [msgspec.structs.replace(one, job=one.job + by_jobs) for one in decode_turn(data)]
    )


def decode_about(data: bytes) -> About:
    """What ``encode`` made of it. Raises ``msgspec.MsgspecError``."""
    return _decoded(_decode_about, data)


def _decoded(decode: Callable[[Any], Any], data: Any) -> Any:
    try:
        return decode(data)
    except (UnicodeDecodeError, TypeError) as error:  # what is no text, or no bytes at all
        raise msgspec.DecodeError(str(error)) from None
