"""Reading images that contradict themselves."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import SetImageError
from ldmsjob.sets.decode import MAX_LIST_DEPTH, decode_set
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.schema import Member, Schema
from ldmsjob.values import CHAR_ARRAY, LIST, RECORD, U8_ARRAY, U64
from tests.test_sets_metricset import sample_schema
from tests.test_sets_vectors import VECTORS


def filled_set() -> MetricSet:
    """A set with values, records and lists."""
    metric_set = MetricSet("host/sample", sample_schema(), clock=lambda: 5)
    with metric_set.transaction():
        metric_set.put("text", "abc")
        for number in range(3):
            metric_set.append_record("points", "point", {"x": number, "tag": "t"})
            metric_set.append("plain", U64, number)
    return metric_set


IMAGES = [
    (bytes.fromhex(snapshot["meta_hex"]), bytes.fromhex(snapshot["data_hex"]))
    for vector in VECTORS.values()
    for snapshot in vector["snapshots"][-1:]
    if len(snapshot["data_hex"]) < 20_000
]
"""Sound images of all kinds."""


class Patched:
    """A filled set whose image can be changed at places of the metadata and of the copy."""

    def __init__(self, metric_set: MetricSet | None = None) -> None:
        self.set = metric_set or filled_set()
        self.meta = bytearray(self.set.meta_bytes())
        self.data = bytearray(self.set.data_bytes())
        self.heap = self.set.layout.heap_base

    def descriptor(self, metric: str) -> int:
        """Where a metric's descriptor stands in the metadata."""
        return self.set.layout.descriptor_offsets[self.set.schema[metric].index]

    def value(self, metric: str) -> int:
        """Where a metric's value stands."""
        return self.set.layout.value_offset(self.set.schema[metric])

    def entry(self, metric: str, index: int) -> int:
        """Where a list's entry stands in the copy."""
        return self.set.elements(metric)[index] - 12

    def values(self) -> dict[str, Any]:
        """What a peer reads."""
        return decode_set(self.meta, self.data).values()


def put(image: bytearray, at: int, number: int) -> None:
    """Write 32 bits."""
    struct.pack_into("<I", image, at, number)


class ContradictionTests(SynchronousTestCase):
    """Each of these is a SetImageError."""

    def refuse(self, where: str, offset: int, *numbers: int) -> None:
        """The image with any of these 32-bit numbers there is refused."""
        for number in numbers:
            patched = Patched()
            put(getattr(patched, where), offset, number)
            self.assertRaises(SetImageError, patched.values)

    def test_sound(self) -> None:
        """The image is sound before it is changed."""
        self.assertEqual(len(Patched().values()["points"]), 3)

    def test_sizes(self) -> None:
        """Sizes in the header agree with the bytes that there are."""
        patched = Patched()
        self.assertRaises(SetImageError, decode_set, patched.meta[:-8], patched.data)
        self.assertRaises(SetImageError, decode_set, patched.meta + bytes(8), patched.data)
        self.assertRaises(SetImageError, decode_set, patched.meta, patched.data[:-8])
        self.assertRaises(SetImageError, decode_set, patched.meta, b"")
        self.assertRaises(SetImageError, decode_set, b"", b"")
        self.refuse("meta", 84, 0, 0xFFFFFFFF)
        self.refuse("meta", 88, 0, 1, 0xFFFFFFFF)
        self.refuse("meta", 104, 0, 2, 0xFFFFFFFF)
        self.refuse("meta", 108, len(patched.data), 0xFFFFFFFF)

    def test_kind_of_image(self) -> None:
        """Other versions and big-endian producers are refused; no flag at all is accepted."""
        self.refuse("meta", 72, 0, 0x0304, 0x010204)
        self.refuse("meta", 76, 1)
        patched = Patched()
        put(patched.meta, 76, 0)
        self.assertEqual(patched.values()["text"], "abc")

    def test_copy_index(self) -> None:
        """Only copies that there are can be read."""
        self.refuse("data", 48, 1, 0xFFFFFFFF)
        patched = Patched()
        for index in (-1, 1):
            self.assertRaises(
                SetImageError, decode_set, patched.meta, patched.data, copy_index=index
            )

    def test_table_of_metrics(self) -> None:
        """Descriptors and names lie in the metadata and end there."""
        self.refuse("meta", 80, 1 << 31, 1000)
        end = len(Patched().meta)
        self.refuse("meta", 140, end, end - 27, 0xFFFFFFFF)
        for type_id in (0, 24, RECORD.type_id, 29):
            patched = Patched()
            patched.meta[patched.descriptor("last") + 24] = type_id
            self.assertRaises(SetImageError, patched.values)

    def test_metric_names(self) -> None:
        """A metric's name ends inside of its place, and that inside of the metadata."""
        for length, text in ((0, b""), (3, b"xyz")):
            patched = Patched()
            at = patched.descriptor("last") + 26
            patched.meta[at] = length
            patched.meta[at + 1 : at + 1 + length] = text
            self.assertRaises(SetImageError, patched.values)
        patched = Patched()
        at = len(patched.meta) - 32
        put(patched.meta, 140 + 4 * 9, at)
        patched.meta[at : at + 32] = bytes(24) + b"\x06\x01\x06a\0\0\0\0"
        self.assertRaises(SetImageError, patched.values)
        patched.meta[at + 26] = 5
        self.assertIsNotNone(patched.values()["a"])

    def test_flags(self) -> None:
        """A metric is data or meta; lists and record arrays are data; record types are both meta
        and record."""
        for metric, flags in (("n", 0), ("plain", 2), ("pair", 2), ("point", 2), ("point", 4)):
            patched = Patched()
            patched.meta[patched.descriptor(metric) + 25] = flags
            self.assertRaises(SetImageError, patched.values)

    def test_names(self) -> None:
        """Instance and schema name end inside of their places."""
        at = 140 + 4 * 10
        for offset in (at, at + 1 + len("host/sample") + 1):
            for length in (0, 1, 3):
                patched = Patched()
                patched.meta[offset] = length
                self.assertRaises(SetImageError, patched.values)

    def test_no_digest(self) -> None:
        """A schema name without a digest behind it is read; the digest is then zeros."""
        patched = Patched(MetricSet("x", Schema("s"), clock=lambda: 0))
        at = 140 + 1 + 2
        patched.meta[at] = 2
        decoded = decode_set(patched.meta, patched.data)
        self.assertEqual((decoded.schema, decoded.digest), ("s", "0" * 64))

    def test_record_types(self) -> None:
        """Members lie in their record and are plain; definitions lie in the metadata."""
        body = Patched().value("point")
        end = len(Patched().meta)
        self.refuse("meta", body + 8, 1000, 0xFFFFFFFF)
        self.refuse("meta", body + 12, 0, 15, 16, 24)
        self.refuse("meta", body + 16, end, 0xFFFFFFFF)
        member = body + 16 + 2 * 4
        self.refuse("meta", member + 8, 0, 31, 0xFFFFFFFF)
        for kind in (LIST.type_id, RECORD.type_id, 0):
            patched = Patched()
            patched.meta[member + 24] = kind
            self.assertRaises(SetImageError, patched.values)
        schema = Schema("s")
        schema.add_record_type("r", [])
        patched = Patched(MetricSet("x", schema, clock=lambda: 0))
        self.assertEqual(patched.values()["r"].inst_sz, 16)
        put(patched.meta, patched.value("r") + 12, 15)
        self.assertRaises(SetImageError, patched.values)
        patched = Patched()
        put(patched.meta, patched.descriptor("point") + 8, end - 16)
        patched.meta[-16:] = struct.pack("<4I", 1, 0, 1, 32)
        self.assertRaises(SetImageError, patched.values)
        offset = Patched().descriptor("point") + 8
        self.refuse("meta", offset, end, end - 8, 0xFFFFFFFF)

    def test_record_arrays(self) -> None:
        """The size and type of records are those of the definition."""
        at = Patched().value("pair")
        self.refuse("data", at, 0, 31, 1 << 31)
        self.refuse("data", at + 4, 0, 9, 10, 0xFFFFFFFF)

    def test_lists(self) -> None:
        """Lists have as many elements as they say, of known types, and do not run in circles."""
        patched = Patched()
        at = patched.value("points")
        self.refuse("data", at + 8, 0, 2, 4, 0xFFFFFFFF)
        entry = patched.entry("points", 2)
        self.refuse("data", entry, patched.entry("points", 0) - patched.heap)
        self.refuse("data", entry + 8, 0x100, 24 | 0x100, 27 | 0x100, 0xFF)
        self.refuse("data", entry + 12 + 12, 0, 10, 0xFFFFFFFF)
        self.refuse("data", patched.heap, 0)

    def test_endless_list(self) -> None:
        """A circle of elements ends when they would be larger than the heap."""
        patched = Patched()
        put(patched.data, patched.value("plain") + 8, 0xFFFFFFFF)
        last, first = patched.entry("plain", 2), patched.entry("plain", 0)
        put(patched.data, last, first - patched.heap)
        self.assertRaises(SetImageError, patched.values)

    def test_overlapping_values(self) -> None:
        """Values that together are larger than their area are refused before they are read."""
        for meta in (False, True):
            schema = Schema("s")
            for name in ("a", "b", "c"):
                schema.add_metric(name, U8_ARRAY, 400, meta=meta)
            patched = Patched(MetricSet("x", schema, clock=lambda: 0))
            for name in ("a", "b", "c"):
                at = patched.descriptor(name)
                put(patched.meta, at + 8, 100)
                put(patched.meta, at + 12, 1100)
            self.assertRaises(SetImageError, patched.values)

    def test_members_without_size(self) -> None:
        """Records of many empty members cost what their members cost, not what they measure."""
        schema = Schema("s")
        members = [Member(f"m{index}", U8_ARRAY, 0) for index in range(200)]
        schema.add_record_type("r", members)
        schema.add_record_array("ra", "r", 50)
        patched = Patched(MetricSet("x", schema, clock=lambda: 0))
        self.assertRaises(SetImageError, patched.values)


class OutsideTests(SynchronousTestCase):
    """A value that reaches outside is None and the rest is read."""

    def test_scalars_and_arrays(self) -> None:
        """So it is with an offset and with a length that are too large, in both areas."""
        for metric, field, number in (
            ("n", 8, 0xFFFFFFFF),
            ("n", 8, 5000),
            ("id", 8, 0xFFFFFFFF),
            ("text", 12, 1 << 20),
            ("points", 8, 5000),
            ("pair", 8, 5000),
        ):
            patched = Patched()
            put(patched.meta, patched.descriptor(metric) + field, number)
            values = patched.values()
            self.assertIsNone(values[metric])
            self.assertEqual(values["last"], 0)

    def test_no_plain_value_in_the_heap(self) -> None:
        """A data value ends before the heap begins."""
        patched = Patched()
        put(patched.meta, patched.descriptor("last") + 8, patched.heap - 3)
        self.assertIsNone(patched.values()["last"])

    def test_list_elements(self) -> None:
        """A list of which an element leaves the heap is None."""
        for metric, offset, number in (
            ("points", 0, 5000),
            ("plain", 8, U8_ARRAY.type_id | 5000 << 8),
            ("plain", 0, 0xFFFFFFFF),
        ):
            patched = Patched()
            put(patched.data, patched.entry(metric, 1) + offset, number)
            self.assertIsNone(patched.values()[metric])

    def test_records_in_lists(self) -> None:
        """So is one of which a record, or a record's header, does."""
        for room in (12 + 8, 12 + 16):
            patched = Patched()
            start = len(patched.data) - room
            put(patched.data, patched.entry("points", 1), start - patched.heap)
            record = struct.pack("<7I", 0, 0, RECORD.type_id | 1 << 8, 2, 0, start + 12, 5)
            patched.data[start:] = record[:room]
            self.assertIsNone(patched.values()["points"])

    def test_long_record_array(self) -> None:
        """A record array that is longer than the copy is None."""
        patched = Patched()
        put(patched.data, patched.value("pair") + 8, 1 << 30)
        self.assertIsNone(patched.values()["pair"])

    def test_own_address_is_not_trusted(self) -> None:
        """What copies and records say of their own place is not followed."""
        patched = Patched()
        put(patched.data, 20, 0xFFFFFFFF)
        put(patched.data, patched.entry("points", 0) + 12 + 8, 0xFFFFFFFF)
        self.assertEqual(patched.values()["points"][0].value, {"x": 0, "tag": "t"})


class NestingTests(SynchronousTestCase):
    """Lists in lists."""

    def nested(self, depth: int) -> Patched:
        """A list that holds a list that holds … , ``depth`` lists in all."""
        schema = Schema("s")
        schema.add_list("l", 4096)
        metric_set = MetricSet("x", schema, clock=lambda: 0)
        for _ in range(depth - 1):
            metric_set.append("l", CHAR_ARRAY, "", 12)
        patched = Patched(metric_set)
        entries = [position - 12 for position in metric_set.elements("l")]
        places = [patched.value("l"), *[entry + 12 for entry in entries]]
        for place, entry in zip(places, entries, strict=False):
            struct.pack_into("<III", patched.data, place, entry - patched.heap, 0, 1)
            struct.pack_into("<III", patched.data, entry, 0, 0, LIST.type_id | 1 << 8)
        return patched

    def test_depth(self) -> None:
        """So many lists may stand in one another, and no more."""
        value = self.nested(MAX_LIST_DEPTH).values()["l"]
        depth = 1
        while value:
            value = value[0].value
            depth += 1
        self.assertEqual(depth, MAX_LIST_DEPTH)
        self.assertRaises(SetImageError, self.nested(MAX_LIST_DEPTH + 1).values)

    def test_list_in_itself(self) -> None:
        """A list that is its own element is refused."""
        patched = self.nested(2)
        place = patched.entry("l", 0) + 12
        struct.pack_into("<III", patched.data, place, place - 12 - patched.heap, 0, 1)
        self.assertRaises(SetImageError, patched.values)


class AnyBytesTests(SynchronousTestCase):
    """Damage of any kind gives a SetImageError or a value, and nothing else."""

    def read(self, meta: bytes, data: bytes) -> None:
        """Read what may be damaged."""
        try:
            decode_set(meta, data)
        except SetImageError:
            pass

    @given(st.binary(max_size=400), st.binary(max_size=400))
    def test_random(self, meta: bytes, data: bytes) -> None:
        """Random bytes, also behind a plausible header."""
        self.read(meta, data)
        header = bytearray(IMAGES[0][0][:140]) + meta
        card = len(meta) // 40
        struct.pack_into("<III", header, 80, card, len(header), 96 + len(data))
        struct.pack_into("<II", header, 104, 1, len(data) // 2)
        self.read(bytes(header), bytes(48) + bytes(48) + data)

    @given(st.sampled_from(IMAGES), st.data())
    def test_damaged(self, image: tuple[bytes, bytes], data: st.DataObject) -> None:
        """Recorded images of which some bytes or words were changed."""
        parts = [bytearray(image[0]), bytearray(image[1])]
        words = st.sampled_from([0, 1, 8, 64, 255, 0x1701, 0x117, 0x11A, 0x7FFFFFFF, 0xFFFFFFFF])
        for _ in range(data.draw(st.integers(1, 6))):
            part = parts[data.draw(st.integers(0, 1))]
            at = data.draw(st.integers(0, len(part) - 1))
            if data.draw(st.booleans()):
                part[at] = data.draw(st.integers(0, 255))
            else:
                at = min(at // 4 * 4, len(part) - 4)
                struct.pack_into("<I", part, at, data.draw(words | st.integers(0, len(part))))
        self.read(bytes(parts[0]), bytes(parts[1]))

    @given(st.sampled_from(IMAGES), st.integers(0, 5000), st.integers(0, 5000))
    def test_cut_short(self, image: tuple[bytes, bytes], meta: int, data: int) -> None:
        """Recorded images of which the end is missing, with sizes that say so."""
        cut = bytearray(image[0][:meta])
        copy = image[1][:data]
        if len(cut) >= 140:
            struct.pack_into("<II", cut, 84, len(cut), len(copy))
            struct.pack_into("<I", cut, 104, 1)
        self.read(bytes(cut), copy)
