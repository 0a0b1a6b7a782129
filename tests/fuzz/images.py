"""Targets for images: metric sets as peers send them, and rows of the journal."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from ldmsjob.errors import SetImageError
from ldmsjob.facts import JobDetails, JobFacts
from ldmsjob.jobmgr.slurm import SlurmJobManager
from ldmsjob.journal.records import decode_facts, decode_record, encode, encode_record
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
    """A damaged row of the journal is told from a whole one by the declared errors alone."""
    try:
        notice, _origin, events = decode_record(data)
        encode(notice)
        for event in events:
            expect(isinstance(event.word, str), "no word")
    except (msgspec.MsgspecError, KeyError):
        pass
    try:
        expect(isinstance(decode_facts(data), JobFacts), "no facts")
    except msgspec.MsgspecError:
        pass


def row_seeds() -> Iterator[bytes]:
    """Rows of a recorded job."""
    fake = FakeDaemon()
    context = FakeJobManagerContext(fake)
    manager = SlurmJobManager(context)
    manager.configure({})
    manager.start()
    recorder = fake.record()
    for payload in replay("nonroot"):
        fake.publish(payload)
    for notice in context.notices:
        yield encode_record(notice, recorder.events[:3])
    yield encode_record(None, recorder.events)
    yield encode(JobFacts("7", uid=1, details=JobDetails(account="a")))
