"""Writing many values of a set in one go, for those who write often.

Each of these is made once from a schema and then used for all its sets. Values are given in the
form that goes into the image: numbers within the range of their type, text as ``bytes`` from
``values.cut_text``, timestamps from ``values.timestamp_word``. Numbers that are out of range and
text as ``str`` are accepted as well but cost more.

None of them marks the set as changed: call ``OfferedSet.commit`` or ``end``, and behind META values
``touch_meta``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from ldmsjob.errors import SchemaError, SetFull
from ldmsjob.sets.heap import (
    FIRST_CHUNK,
    GRAIN,
    PREFIX,
    element_cost,
    heap_capacity,
    heap_size_for,
)
from ldmsjob.sets.layout import (
    LIST_ENTRY,
    LIST_VALUE,
    RECORD_HEADER,
    RECORD_IS_INSTANCE,
)
from ldmsjob.sets.offered import OfferedSet
from ldmsjob.sets.schema import Schema
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
_FIRST_ENTRY = FIRST_CHUNK + PREFIX.size
"""Of a heap that nothing else was put into."""
_ONE_RECORD = RECORD.type_id | 1 << 8


class _Row:
    """Neighbouring slots as one ``struct`` layout."""

    __slots__ = ("_kinds", "_names", "format", "pack_into")

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
        self.pack_into = struct.Struct("<" + self.format).pack_into
        self._names = tuple(names)
        self._kinds = kinds

    def adapted(self, values: Sequence[Any]) -> list[Any]:
        """The same values so that ``struct`` takes them. Raises ``SchemaError``."""
        if len(values) != len(self._names):
            raise SchemaError(f"{len(values)} values given for {', '.join(self._names)}")
        result: list[Any] = []
        for name, (kind, count), value in zip(self._names, self._kinds, values, strict=True):
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

    __slots__ = ("_is_meta", "_offset", "_row")

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

    def write(self, metric_set: OfferedSet, *values: Any) -> None:
        """Write one value for each name. Raises ``SchemaError`` for impossible ones, which may
        leave the group zero."""
        if self._is_meta:
            at = metric_set.layout.meta_base + self._offset
        else:
            at = metric_set.copy_offset + self._offset
        try:
            self._row.pack_into(metric_set.image, at, *values)
        except (struct.error, OverflowError):
            self._row.pack_into(metric_set.image, at, *self._row.adapted(values))


class RecordList:
    """Filled records of one type, in a list that has the heap of its set to itself.

    They stand one behind the other, and are known by their number, from 0. The type has no arrays
    but ``char[]``.
    """

    __slots__ = ("_first", "_grains", "_list", "_pack_all", "_row", "_type", "record_cost")

    def __init__(self, schema: Schema, list_name: str, record_type: str) -> None:
        """Raises ``SchemaError``."""
        if schema[list_name].type is not LIST:
            raise SchemaError(f"{list_name} is not a list")
        metric = schema[record_type]
        record = metric.record
        if metric.type is not RECORD_TYPE or record is None:
            raise SchemaError(f"{record_type} is not a record type")
        self._row = _Row(
            (member.name, member.type, member.count, offset)
            for member, offset in zip(record.members, record.offsets, strict=True)
        )
        heads = (PREFIX.format, LIST_ENTRY.struct.format, RECORD_HEADER.struct.format)
        formats = [head.replace("<", "") for head in heads]
        self._pack_all = struct.Struct("<" + "".join(formats) + self._row.format).pack_into
        self._list = schema[list_name].offset
        self._type = metric.index
        self.record_cost = element_cost(record.size)
        """Bytes of heap that a record takes up."""
        self._grains = self.record_cost // GRAIN
        self._first = schema.data_end + _FIRST_ENTRY + LIST_ENTRY.size + RECORD_HEADER.size
        # From the start of the copy to the first member of the first record.

    def capacity(self, heap_size: int) -> int:
        """How many records a set with that heap holds."""
        return heap_capacity(heap_size) // self.record_cost

    def heap_size(self, records: int) -> int:
        """The heap that a set needs for that many records."""
        return heap_size_for(records * self.record_cost)

    def change(self, metric_set: OfferedSet, number: int, values: Sequence[Any]) -> None:
        """Write one value for each member of a record that there is. Raises ``SchemaError`` for
        impossible ones, which may leave the record zero."""
        at = metric_set.copy_offset + self._first + number * self.record_cost
        try:
            self._row.pack_into(metric_set.image, at, *values)
        except (struct.error, OverflowError):
            self._row.pack_into(metric_set.image, at, *self._row.adapted(values))

    def append(self, metric_set: OfferedSet, rows: Iterable[Sequence[Any]]) -> None:
        """Append records, with one value for each member.

        Raises ``SetFull`` when there is no room for one, ``SchemaError`` for impossible values;
        those before it are appended then.
        """
        image, cost = metric_set.image, self.record_cost
        list_at = metric_set.copy_offset + self._list
        heap_base = metric_set.layout.heap_base
        base = metric_set.copy_offset + heap_base
        _head, last, count = _unpack_list(image, list_at)
        entry = begin = _FIRST_ENTRY + count * cost
        end = _FIRST_ENTRY + self.capacity(metric_set.layout.heap_size) * cost
        try:
            for values in rows:
                if entry >= end:
                    raise SetFull(f"there is no room for more records in {metric_set.instance}")
                head = (
                    base + entry - PREFIX.size, self._grains, entry + cost, last, _ONE_RECORD,
                    RECORD_IS_INSTANCE, heap_base + entry + LIST_ENTRY.size, self._type,
                )  # fmt: skip
                try:
                    self._pack_all(image, *head, *values)
                except (struct.error, OverflowError):
                    self._pack_all(image, *head, *self._row.adapted(values))
                last = entry
                entry += cost
        finally:
            if entry > begin:
                if count:
                    _pack_word(image, base + begin - cost, begin)  # what was the last has a next
                _pack_word(image, base + last, 0)
                count += (entry - begin) // cost
                _pack_list(image, list_at, _FIRST_ENTRY, last, count)
                metric_set._touch_heap((entry - begin) // cost)
