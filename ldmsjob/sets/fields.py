"""Writing many values of a set in one go, for those who write often.

Each of these is made once from a schema and then used for all its sets. Values are given in the
form that goes into the image: numbers within the range of their type, text as ``bytes`` from
``values.cut_text``, timestamps from ``values.timestamp_word``. Numbers that are out of range and
text as ``str`` are accepted as well but cost more.

None of them marks the set as changed but for META values: call ``MetricSet.commit`` or ``end``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from ldmsjob.errors import SchemaError
from ldmsjob.sets.heap import element_cost, heap_capacity, heap_size_for
from ldmsjob.sets.layout import (
    LIST_ENTRY,
    LIST_VALUE,
    RECORD_HEADER,
    RECORD_IS_INSTANCE,
)
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.schema import RecordLayout, Schema
from ldmsjob.values import (
    CHAR_ARRAY,
    LIST,
    RECORD,
    RECORD_TYPE,
    TIMESTAMP,
    ValueType,
    cut_value,
    pack_value,
)

_unpack_list = LIST_VALUE.struct.unpack_from
_pack_list = LIST_VALUE.struct.pack_into
_pack_word = struct.Struct("<I").pack_into
_ENTRY_SIZE = LIST_ENTRY.size
_ENTRY_TYPE = LIST_ENTRY.offsets["type_count"]


class _Row:
    """Neighbouring slots as one ``struct`` layout."""

    __slots__ = ("_kinds", "format", "names")

    def __init__(self, slots: Iterable[tuple[str, ValueType, int, int]]) -> None:
        """``slots``: name, type, array length and offset of each. Raises ``SchemaError``."""
        formats = []
        kinds = []
        names: list[str] = []
        expected = -1
        for name, kind, count, offset in slots:
            if not kind.is_plain or (kind.is_array and kind is not CHAR_ARRAY):
                raise SchemaError(f"{name}: a {kind.name} cannot be written in a group")
            if expected not in (-1, offset):
                raise SchemaError(f"{name} does not follow {names[-1]} in the image")
            size = kind.slot_size(count)
            expected = offset + size
            padding = size - kind.value_size(count)
            letters = f"{count}s" if kind is CHAR_ARRAY else kind.code
            formats.append(f"{letters}{padding}x" if padding else letters)
            kinds.append((kind, count))
            names.append(name)
        if not names:
            raise SchemaError("a group needs at least one value")
        self.format = "".join(formats)
        self.names = tuple(names)
        self._kinds = kinds

    def adapted(self, values: Sequence[Any]) -> list[Any]:
        """The same values so that ``struct`` takes them. Raises ``SchemaError``."""
        if len(values) != len(self.names):
            raise SchemaError(f"{len(values)} values given for {', '.join(self.names)}")
        result: list[Any] = []
        for name, (kind, count), value in zip(self.names, self._kinds, values, strict=True):
            try:
                if kind is CHAR_ARRAY:
                    result.append(pack_value(kind, count, value))
                elif kind is TIMESTAMP:
                    result.append(int(value) & 0xFFFFFFFF_FFFFFFFF)
                else:
                    result.append(cut_value(kind, value))
            except (TypeError, ValueError) as error:
                raise SchemaError(f"{name}: {error}") from None
        return result


class FieldGroup:
    """Neighbouring metrics of a schema, either all META or all DATA, written at once."""

    __slots__ = ("_is_meta", "_offset", "_pack", "_row", "names")

    def __init__(self, schema: Schema, *names: str) -> None:
        """``names`` in metric id order without gaps; plain types, of arrays ``char[]`` only.

        Raises ``SchemaError``.
        """
        metrics = [schema[name] for name in names]
        self._row = _Row((m.name, m.type, m.count, m.offset) for m in metrics)
        self._is_meta = metrics[0].is_meta
        if any(metric.is_meta != self._is_meta for metric in metrics):
            raise SchemaError(f"{', '.join(names)}: META and DATA metrics have no common group")
        self._offset = metrics[0].offset
        self._pack = struct.Struct("<" + self._row.format).pack_into
        self.names = names

    def write(self, metric_set: MetricSet, *values: Any) -> None:
        """Write one value for each name. META values raise the metadata generation once."""
        if self._is_meta:
            at = metric_set.layout.meta_base + self._offset
        else:
            at = metric_set.copy_offset + self._offset
        try:
            self._pack(metric_set.image, at, *values)
        except (struct.error, OverflowError):
            self._pack(metric_set.image, at, *self._row.adapted(values))
        if self._is_meta:
            metric_set._touch_meta()


class MemberGroup:
    """Neighbouring members of a record type, written at once."""

    __slots__ = ("_offset", "_pack", "_row", "names")

    def __init__(self, schema: Schema, record_type: str, *names: str) -> None:
        """``names`` in the order of the members without gaps. Raises ``SchemaError``."""
        record = _record_layout(schema, record_type)
        self._row = _Row(_member_slots(record, names))
        self._offset = record.offsets[record.index_of[names[0]]]
        self._pack = struct.Struct("<" + self._row.format).pack_into
        self.names = names

    def write(self, metric_set: MetricSet, position: int, *values: Any) -> None:
        """Write one value for each name into the record at ``position``, which is not checked."""
        at = metric_set.copy_offset + position + self._offset
        try:
            self._pack(metric_set.image, at, *values)
        except (struct.error, OverflowError):
            self._pack(metric_set.image, at, *self._row.adapted(values))


class RecordAppender:
    """Appends filled records of one type to one list. The type has no arrays but ``char[]``."""

    __slots__ = ("_list", "_list_name", "_pack", "_row", "_size", "_type", "record_cost")

    def __init__(self, schema: Schema, list_name: str, record_type: str) -> None:
        """Raises ``SchemaError``."""
        if schema[list_name].type is not LIST:
            raise SchemaError(f"{list_name} is not a list")
        record = _record_layout(schema, record_type)
        self._row = _Row(_member_slots(record, tuple(record.index_of)))
        entry_format = LIST_ENTRY.struct.format + RECORD_HEADER.struct.format.replace("<", "")
        self._pack = struct.Struct(entry_format + self._row.format).pack_into
        self._list_name = list_name
        self._list = schema[list_name].offset
        self._type = schema[record_type].index
        self._size = _ENTRY_SIZE + record.size
        self.record_cost = element_cost(record.size)
        """Bytes of heap that a record takes up."""

    def capacity(self, heap_size: int) -> int:
        """How many records a set with that heap holds when nothing else is in it."""
        return heap_capacity(heap_size) // self.record_cost

    def heap_size(self, records: int) -> int:
        """The heap that a set needs for that many records."""
        return heap_size_for(records * self.record_cost)

    def append(self, metric_set: MetricSet, *values: Any) -> int:
        """Append a record with one value for each member and return its position.

        Raises ``SetFull`` when the heap has no room, ``SchemaError`` for impossible values; then
        nothing is appended.
        """
        image = metric_set.image
        heap_base = metric_set.layout.heap_base
        base = metric_set.copy_offset + heap_base
        list_at = metric_set.copy_offset + self._list
        head, tail, count = _unpack_list(image, list_at)
        if head and image[base + head + _ENTRY_TYPE] != RECORD.type_id:
            raise SchemaError(f"{self._list_name} holds something else than records")
        entry = metric_set._allocate(self._size)
        position = heap_base + entry + _ENTRY_SIZE
        start = base + entry
        type_count = RECORD.type_id | 1 << 8
        try:
            self._pack(
                image, start, 0, tail, type_count, RECORD_IS_INSTANCE, position, self._type,
                *values,
            )  # fmt: skip
        except (struct.error, OverflowError):
            try:
                values = tuple(self._row.adapted(values))
            except SchemaError:
                metric_set._release(entry)
                raise
            self._pack(
                image, start, 0, tail, type_count, RECORD_IS_INSTANCE, position, self._type,
                *values,
            )  # fmt: skip
        if tail:
            _pack_word(image, base + tail, entry)
        _pack_list(image, list_at, head or entry, entry, count + 1)
        metric_set._touch_heap()
        return position


def _record_layout(schema: Schema, record_type: str) -> RecordLayout:
    metric = schema[record_type]
    if metric.type is not RECORD_TYPE or metric.record is None:
        raise SchemaError(f"{record_type} is not a record type")
    return metric.record


def _member_slots(
    record: RecordLayout, names: Sequence[str]
) -> Iterable[tuple[str, ValueType, int, int]]:
    for name in names:
        index = record.index_of.get(name)
        if index is None:
            raise SchemaError(f"the record has no member {name!r}")
        member = record.members[index]
        yield name, member.type, member.count, record.offsets[index]
