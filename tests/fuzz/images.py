"""Targets for images: metric sets as peers send them, and rows of the journal."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

from ldmsjob.errors import SetImageError
from ldmsjob.events import JobEvent
from ldmsjob.facts import JobDetails, JobFacts
from ldmsjob.jobmgr.slurm import SlurmJobManager
from ldmsjob.journal.records import (
    About,
    decode_about,
    decode_rows,
    decode_turn,
    decode_turns,
    encode,
    new_event,
    turn_parts,
)
from ldmsjob.notices import Notice
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.layout import SET_HEADER
from ldmsjob.sets.reader import SetReader
from ldmsjob.testing import FakeDaemon, FakeJobManagerContext, replay
from tests.fuzz.seeds import recorded_images
from tests.fuzz.target import expect

_ANNOUNCED = struct.Struct(">HHBH")


def set_image(data: bytes) -> None:
    """An image is a set or a ``SetImageError``; what is a set can be shown."""
    size = int.from_bytes(data[:2], "big")
    meta, rest = data[2 : 2 + size], data[2 + size :]
    for index in (None, 0, 1):
        try:
            decoded = decode_set(meta, rest, copy_index=index)
        except SetImageError:
            continue
        for name, value in decoded.values().items():
            expect(isinstance(name, str), "a name that is none")
            repr(value)


def image_seeds() -> Iterator[bytes]:
    """The recorded sets."""
    for meta, data in recorded_images():
        yield len(meta).to_bytes(2, "big") + meta + data


def set_reader(data: bytes) -> None:
    """A reader of a set reads what was announced and never without end, whatever it is sent."""
    head = data[: _ANNOUNCED.size].ljust(_ANNOUNCED.size, b"\0")
    meta_size, data_size, copies, card = _ANNOUNCED.unpack(head)
    image = data[_ANNOUNCED.size :]
    try:
        reader = SetReader(meta_size, data_size, copies, card=card, max_bytes=16_384)
    except SetImageError:
        return
    whole = reader.size
    # What comes is the image, which goes on behind its end with what stands there.
    versions = [image[:whole], image[whole : 2 * whole] or image[:whole], image[:whole]]
    for version in versions:
        version = version.ljust(whole, b"\0")
        reads = reader.update()
        answer = None
        try:
            for _ in range(4 * copies + 8):
                offset, length = reads.send(answer)  # type: ignore[arg-type]
                expect(0 <= offset <= offset + length <= whole, "a read outside of the set")
                answer = version[offset : offset + length]
            expect(False, "reads without end")
        except StopIteration as end:
            expect(end.value, "no reading")
        except SetImageError:
            pass
        try:
            half = len(version) // 2
            reader.push(0, version[:half])
            reader.push(half, version[half:])
            reader.pushed()
        except SetImageError:
            pass


def reader_seeds() -> Iterator[bytes]:
    """The recorded sets, read twice."""
    for meta, data in recorded_images():
        card, copies, size = _shape(meta)
        if copies * size == len(data) and copies < 256 and size < 65_536:
            yield _ANNOUNCED.pack(len(meta), size, copies, card) + meta + data


def _shape(meta: bytes) -> tuple[int, int, int]:
    values = dict(zip(SET_HEADER.offsets, SET_HEADER.struct.unpack_from(meta), strict=True))
    return values["card"], values["array_card"], values["data_sz"]


def journal_rows(data: bytes) -> None:
    """What is damaged in the journal is told from what is whole by the declared errors alone."""
    failures: list[Exception] = []
    notices = decode_turns(data, failures.append)
    with suppress(msgspec.MsgspecError):
        notices += decode_turn(data, failures.append).notices
    for notice in notices:
        with suppress(msgspec.MsgspecError):
            encode(notice.notice())
            for event in notice.events():
                expect(isinstance(event.word, str), "no word")
            if notice.has_about():
                expect(isinstance(decode_about(notice.about_blob), About), "about no job")
    for decode in (decode_about, decode_rows, turn_parts):
        with suppress(msgspec.MsgspecError):
            decode(data)


def kept_turn(notice: Notice | None, events: Sequence[JobEvent], about: About | None) -> bytes:
    """What the journal makes of these."""
    kept = [new_event[type(event)](event) for event in events]
    return encode((1, 1, 1, 9, [(1, about, 1, "message", notice, kept)]))


def row_seeds() -> Iterator[bytes]:
    """Turns of a recorded job, alone and together, and what a job is."""
    fake = FakeDaemon()
    context = FakeJobManagerContext(fake)
    manager = SlurmJobManager(context)
    manager.configure({})
    manager.start()
    recorder = fake.record()
    for payload in replay("nonroot"):
        fake.publish(payload)
    about = About("slurm", "7", 1, "m", False, 1, JobFacts("7", details=JobDetails(account="a")))
    turns = [kept_turn(notice, recorder.events[:3], about) for notice in context.notices]
    turns.append(kept_turn(None, recorder.events, None))
    yield from turns
    yield encode(turns)
    yield encode(about)
    yield encode(([(1, 1, None, "7", None, b"")], [("m", "n", 1)]))
