"""Where everything stands in a set image (docs/sets.md, Image).

An image is the metadata followed by the data copies, each of them a header, the values and the
heap. The fields of every fixed part are declared with ``construct``, in one place and with their
names; what writes and reads images uses the ``struct`` layouts that are derived from that.
"""

from __future__ import annotations

import struct
from typing import Any

import construct as c

from ldmsjob.errors import SchemaError
from ldmsjob.sets.heap import GRAIN, GRAIN_BITS, SIGNATURE
from ldmsjob.sets.names import encode_name
from ldmsjob.sets.schema import (
    FLAG_DATA,
    FLAG_RECORD,
    MAX_UINT32,
    RECORD_ARRAY_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    Metric,
    RecordLayout,
    Schema,
    descriptor_size,
    round_up,
)
from ldmsjob.values import RECORD_ARRAY, RECORD_TYPE

VERSION = bytes((4, 2, 0, 0))
LITTLE_ENDIAN = 2
BIG_ENDIAN = 1
DIGEST_SIZE = 32
PRODUCER_SIZE = 64

TRANSACTION_OPEN = 1
TRANSACTION_FINISHED = 2
"""The state of a copy that is consistent."""

RECORD_IS_TYPE = 1
RECORD_IS_INSTANCE = 2

# What the reference implementation leaves in the user data of record members. Nobody reads it;
# with it our images are equal to the reference's.
_MEMBER_USER_DATA = 0x123456_78ABCDEF

_MAX_KEPT_LAYOUTS = 64

_WORD = struct.Struct("<I")


class Fields:
    """A ``construct`` declaration of fixed-size fields, and the ``struct`` layout of the same."""

    __slots__ = ("_formats", "_names", "declaration", "offsets", "size", "struct")

    def __init__(self, declaration: Any) -> None:
        """``declaration`` is a ``construct.Struct`` of integers, ``Bytes`` and ``Padding``."""
        self.declaration = declaration
        self.offsets: dict[str, int] = {}
        """Offset of each named field."""
        self._names: list[str] = []
        self._formats: list[str] = []
        offset = 0
        for field in declaration.subcons:
            self._names.append(field.name or "")
            if field.name:
                self.offsets[field.name] = offset
            plain = field.subcon if isinstance(field, c.Renamed) else field
            if isinstance(plain, c.FormatField):
                self._formats.append(plain.fmtstr[1:])
            else:
                letter = "s" if isinstance(plain, c.Bytes) else "x"
                self._formats.append(f"{plain.length}{letter}")
            offset += field.sizeof()
        self.size = offset
        self.struct = struct.Struct("<" + "".join(self._formats))
        """The named fields in order; reserved bytes are written as zero."""

    def part(self, first: str, last: str) -> struct.Struct:
        """The layout of the fields from ``first`` to ``last``; it starts at ``first``'s offset."""
        begin, end = self._names.index(first), self._names.index(last) + 1
        return struct.Struct("<" + "".join(self._formats[begin:end]))


SET_HEADER = Fields(
    c.Struct(
        "producer_name" / c.Bytes(PRODUCER_SIZE),
        "meta_gn" / c.Int64ul,
        "version" / c.Bytes(4),
        "flags" / c.Int8ul,
        c.Padding(3),
        "card" / c.Int32ul,
        "meta_sz" / c.Int32ul,
        "data_sz" / c.Int32ul,
        "uid" / c.Int32ul,
        "gid" / c.Int32ul,
        "perm" / c.Int32ul,
        "array_card" / c.Int32ul,
        "heap_sz" / c.Int32ul,
        c.Padding(28),
    )
)
"""The beginning of the metadata; the table of descriptor offsets follows directly."""

DESCRIPTOR = Fields(
    c.Struct(
        "user_data" / c.Int64ul,
        "offset" / c.Int32ul,
        "count" / c.Int32ul,
        c.Padding(8),
        "type" / c.Int8ul,
        "flags" / c.Int8ul,
        "text_length" / c.Int8ul,
    )
)
"""Of a metric or a record member; name and unit follow directly."""

COPY_HEADER = Fields(
    c.Struct(
        "ts_sec" / c.Int32ul,
        "ts_usec" / c.Int32ul,
        "dur_sec" / c.Int32ul,
        "dur_usec" / c.Int32ul,
        "trans_flags" / c.Int32ul,
        "set_off" / c.Int32ul,
        "gn" / c.Int64ul,
        "size" / c.Int64ul,
        "meta_gn" / c.Int64ul,
        "curr_idx" / c.Int32ul,
        c.Padding(4),
        "heap_grain" / c.Int32ul,
        c.Padding(4),
        "heap_size" / c.Int64ul,
        "heap_gn" / c.Int32ul,
        c.Padding(4),
        "size_tree_root" / c.Int64ul,
        "addr_tree_root" / c.Int64ul,
    )
)
"""The beginning of a data copy. ``heap_grain``: 8 bits of grain bits, 24 bits of grain."""

RECORD_TYPE_HEADER = Fields(
    c.Struct(
        "flags" / c.Int32ul,
        c.Padding(4),
        "card" / c.Int32ul,
        "inst_sz" / c.Int32ul,
    )
)
"""The beginning of a record type's definition; the table of member offsets follows directly."""

RECORD_HEADER = Fields(
    c.Struct(
        "flags" / c.Int32ul,
        c.Padding(4),
        "set_data_off" / c.Int32ul,
        "rec_type" / c.Int32ul,
    )
)
"""The beginning of a record. ``set_data_off``: distance from the start of the copy."""

RECORD_ARRAY_HEADER = Fields(
    c.Struct("inst_sz" / c.Int32ul, "rec_type" / c.Int32ul, "array_len" / c.Int32ul)
)
LIST_VALUE = Fields(c.Struct("head" / c.Int32ul, "tail" / c.Int32ul, "count" / c.Int32ul))
"""``head`` and ``tail`` count from the start of the copy's heap."""

LIST_ENTRY = Fields(c.Struct("next" / c.Int32ul, "prev" / c.Int32ul, "type_count" / c.Int32ul))
"""Before the value of a list element. ``type_count``: 8 bits of type, 24 bits of array length."""


class SetLayout:
    """Where things stand in the sets of one schema, instance name length and heap size."""

    __slots__ = (
        "_parts",
        "data_size",
        "descriptor_offsets",
        "heap_base",
        "heap_size",
        "instance_offset",
        "last_copy",
        "last_copy_offset",
        "meta_base",
        "meta_size",
        "schema",
        "total_size",
    )

    def __init__(self, schema: Schema, name_length: int, heap_size: int) -> None:
        """Lay out sets whose instance name has ``name_length`` bytes. Raises ``SchemaError``."""
        card = len(schema.metrics)
        self.schema = schema
        self.heap_size = heap_size
        self.heap_base = schema.data_end
        """From the start of a copy."""
        self.data_size = schema.data_end + heap_size
        """Bytes of one copy."""
        schema_name = encode_name(schema.name)
        names = SET_HEADER.size + 4 * card
        self.instance_offset = names + 1
        schema_offset = self.instance_offset + name_length + 1
        schema_length = len(schema_name) + 1 + DIGEST_SIZE + 1
        offset = round_up(schema_offset + 1 + schema_length)
        descriptor_offsets = []
        for metric in schema.metrics:
            descriptor_offsets.append(offset)
            offset += descriptor_size(metric.text_area)
        self.descriptor_offsets = tuple(descriptor_offsets)
        """From the start of the image, by metric id."""
        self.meta_base = round_up(offset)
        """Where the first META value stands."""
        self.meta_size = self._meta_size(len(schema_name), name_length)
        self.last_copy = schema.array_card - 1
        self.last_copy_offset = self.meta_size + self.last_copy * self.data_size
        self.total_size = self.meta_size + schema.array_card * self.data_size
        if self.total_size > MAX_UINT32:
            raise SchemaError(f"a set of {schema.name} would take {self.total_size} bytes")

        meta = bytearray(self.meta_size)
        SET_HEADER.struct.pack_into(
            meta, 0, b"", 1, VERSION, LITTLE_ENDIAN, card, self.meta_size, self.data_size,
            0, 0, 0, schema.array_card, heap_size,
        )  # fmt: skip
        struct.pack_into(f"<{card}I", meta, SET_HEADER.size, *descriptor_offsets)
        meta[names] = name_length + 1
        meta[schema_offset] = schema_length
        text = schema_name + b"\0" + schema.digest
        meta[schema_offset + 1 : schema_offset + 1 + len(text)] = text
        copy = bytearray(schema.data_end)
        for metric in schema.metrics:
            self._put_metric(meta, copy, metric)
        grain = heap_size and GRAIN_BITS | GRAIN << 8
        COPY_HEADER.struct.pack_into(
            copy, 0, 0, 0, 0, 0, 0, self.meta_size, 1, self.data_size, 1, schema.array_card - 1,
            grain, heap_size, 0, 0, 0,
        )  # fmt: skip
        head = bytes(meta + copy) + (SIGNATURE if heap_size else b"")
        self._parts = head[: self.instance_offset], head[self.instance_offset + name_length :]

    def new_image(self, instance: bytes) -> bytearray:
        """The image of a set of that name. Owner and permissions are still to be filled in; all
        values are zero, all lists empty."""
        begin, end = self._parts
        rest = self.total_size - len(begin) - len(instance) - len(end)
        image = bytearray().join((begin, instance, end, bytes(rest)))
        first, size = self.meta_size, self.data_size
        for at in range(first + size, self.total_size, size):
            image[at : at + size] = image[first : first + size]
            _WORD.pack_into(image, at + COPY_HEADER.offsets["set_off"], at)
        return image

    def value_offset(self, metric: Metric) -> int:
        """As in the descriptor: from the start of the metadata for META, of the copy for DATA."""
        return metric.offset + self.meta_base if metric.is_meta else metric.offset

    def _meta_size(self, schema_name_length: int, name_length: int) -> int:
        # As the reference implementation counts: 4 bytes more for its header than it takes up,
        # and the definition of a record type twice. Peers allocate what we announce.
        size = 144 + schema_name_length + 2 + DIGEST_SIZE + name_length + 2
        for metric in self.schema.metrics:
            size += descriptor_size(metric.text_area) + 4
            if metric.is_meta:
                size += metric.slot_size
            if metric.record is not None and metric.type is RECORD_TYPE:
                size += metric.record.descriptors_size
        return round_up(size)

    def _put_metric(self, meta: bytearray, copy: bytearray, metric: Metric) -> None:
        at = self.descriptor_offsets[metric.index]
        value_offset = self.value_offset(metric)
        _put_descriptor(
            meta, at, 0, value_offset, metric.count, metric.type.type_id, metric.flags,
            metric.text_area,
        )  # fmt: skip
        if metric.record is None:
            return
        if metric.type is RECORD_ARRAY:
            _put_record_array(copy, metric, metric.record)
        else:
            _put_record_type(meta, value_offset, metric.record)


def _put_descriptor(
    image: bytearray,
    at: int,
    user_data: int,
    offset: int,
    count: int,
    type_id: int,
    flags: int,
    text_area: bytes,
) -> None:
    DESCRIPTOR.struct.pack_into(image, at, user_data, offset, count, type_id, flags, len(text_area))
    at += DESCRIPTOR.size
    image[at : at + len(text_area)] = text_area


def _put_record_type(image: bytearray, at: int, record: RecordLayout) -> None:
    card = len(record.members)
    RECORD_TYPE_HEADER.struct.pack_into(image, at, RECORD_IS_TYPE, card, record.size)
    table = at + RECORD_HEADER_SIZE
    offset = RECORD_HEADER_SIZE + 4 * card
    for index, member in enumerate(record.members):
        struct.pack_into("<I", image, table + 4 * index, offset)
        _put_descriptor(
            image, at + offset, _MEMBER_USER_DATA, record.offsets[index], member.count,
            member.type.type_id, FLAG_DATA | FLAG_RECORD, record.text_areas[index],
        )  # fmt: skip
        offset += descriptor_size(record.text_areas[index])


def _put_record_array(copy: bytearray, metric: Metric, record: RecordLayout) -> None:
    RECORD_ARRAY_HEADER.struct.pack_into(
        copy, metric.offset, record.size, metric.record_index, metric.count
    )
    first = metric.offset + RECORD_ARRAY_HEADER_SIZE
    for at in range(first, first + metric.count * record.size, record.size):
        RECORD_HEADER.struct.pack_into(copy, at, RECORD_IS_INSTANCE, at, metric.record_index)


def layout_for(schema: Schema, name_length: int, heap_request: int = 0) -> SetLayout:
    """The layout of a new set, kept with the schema for the next one. Freezes the schema.

    ``heap_request`` is how much heap is wanted beyond the lists' budgets. Raises ``SchemaError``.
    """
    key = (name_length, schema.heap_size(heap_request))
    layouts = schema.layouts
    layout = layouts.get(key)
    if layout is None:
        schema.freeze()
        layout = SetLayout(schema, *key)
        if len(layouts) >= _MAX_KEPT_LAYOUTS:
            del layouts[next(iter(layouts))]
        layouts[key] = layout
    return layout
