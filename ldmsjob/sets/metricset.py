"""Metric sets: writing values into the image that peers read (docs/sets.md, Metric sets)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from zope.interface import implementer

from ldmsjob.errors import SchemaError
from ldmsjob.interfaces import IMetricSet, IMetricWriter
from ldmsjob.sets import lists
from ldmsjob.sets.heap import Heap
from ldmsjob.sets.layout import (
    DESCRIPTOR,
    LIST_ENTRY,
    RECORD_HEADER,
    RECORD_IS_INSTANCE,
    layout_for,
)
from ldmsjob.sets.names import check_instance_name
from ldmsjob.sets.offered import OfferedSet
from ldmsjob.sets.schema import (
    COPY_HEADER_SIZE,
    RECORD_ARRAY_HEADER_SIZE,
    Metric,
    RecordLayout,
    Schema,
)
from ldmsjob.values import (
    CHAR_ARRAY,
    LIST,
    RECORD,
    RECORD_ARRAY,
    RECORD_TYPE,
    TYPES_BY_ID,
    ValueType,
    pack_value,
)

_MAX_ELEMENT_COUNT = (1 << 24) - 1

_USER_DATA = struct.Struct("<Q")
_record_header = RECORD_HEADER.struct
_ENTRY_SIZE = LIST_ENTRY.size


class _Transaction:
    """What ``MetricSet.transaction`` returns."""

    __slots__ = ("_set",)

    def __init__(self, metric_set: MetricSet) -> None:
        self._set = metric_set

    def __enter__(self) -> MetricSet:
        self._set.begin(self._set.clock())
        return self._set

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._set.end(self._set.clock())


@implementer(IMetricSet, IMetricWriter)
class MetricSet(OfferedSet):
    """A set under an instance name, and its own writer.

    Values may be written inside or outside of a transaction; peers take a set for changed when a
    transaction has ended. Metrics are named; unknown names, values that a metric cannot take and
    calls that do not fit the metric's type raise ``SchemaError`` and change nothing.

    List elements are known by a number, their *position*: the distance of their value from the
    start of the data copy. It stays valid until the element is deleted.
    """

    __slots__ = ()

    def __init__(
        self,
        instance: str,
        schema: Schema,
        *,
        clock: Callable[[], int],
        uid: int = 0,
        gid: int = 0,
        perm: int = 0o440,
        heap_size: int = 0,
    ) -> None:
        """Lay out a set. All values are zero, all lists empty; its sizes never change.

        ``heap_size`` is how many bytes of heap are wanted where that is more than the lists'
        budgets. Raises ``SchemaError``.
        """
        check_instance_name(instance)
        layout = layout_for(schema, len(instance), heap_size)
        super().__init__(instance, layout, clock=clock, uid=uid, gid=gid, perm=perm)

    @property
    def made(self) -> MetricSet:
        """Itself, for the registry: it was made."""
        return self

    @property
    def metric_set(self) -> MetricSet:
        """Itself."""
        return self

    def transaction(self) -> _Transaction:
        """Marks the set inconsistent, lets you write, then stamps time and duration and raises the
        generation number: also when the block raises. Must not wait for anything inside.

        In a set of several copies the block writes to the next copy. What it does not write there
        has, if no list was changed, the value that it had when that copy was written last.
        """
        return _Transaction(self)

    # ------------------------------------------------------------------ values

    def put(self, metric: str, value: Any) -> None:
        """Set a scalar, text, array or timestamp (integer microseconds). Numbers are cut to the
        metric's width as C does, text to its length on a UTF-8 boundary. Raises ``SchemaError``."""
        definition = self.schema[metric]
        self._put_at(definition, definition.count, 0, value)

    def put_element(self, metric: str, index: int, value: Any) -> None:
        """Set one number of an array. Raises ``SchemaError``."""
        definition = self.schema[metric]
        kind = definition.type
        if not kind.is_array or kind is CHAR_ARRAY or not 0 <= index < definition.count:
            raise SchemaError(f"{metric} has no element {index}")
        self._put_at(definition, 1, index * kind.size, (value,))

    def _put_at(self, metric: Metric, count: int, offset: int, value: Any) -> None:
        data = _packed(metric.name, metric.type, count, value)
        if metric.is_meta:
            at = offset + self.layout.meta_base + metric.offset
            self.image[at : at + len(data)] = data
            self.touch_meta()
        else:
            at = offset + self.copy_offset + metric.offset
            self.image[at : at + len(data)] = data
            self._touch()

    def set_user_data(self, metric: str, value: int) -> None:
        """Give a metric 64 bits that mean something to its readers. Raises ``SchemaError``."""
        definition = self.schema[metric]
        at = self.layout.descriptor_offsets[definition.index] + DESCRIPTOR.offsets["user_data"]
        _USER_DATA.pack_into(self.image, at, value & 0xFFFFFFFF_FFFFFFFF)
        if definition.is_meta:
            self.touch_meta()
        else:
            self._touch()

    # ------------------------------------------------------------------ records

    def record(self, metric: str, index: int) -> int:
        """The position of one record of a record array. Raises ``SchemaError``."""
        definition = self.schema[metric]
        record = definition.record
        if definition.type is not RECORD_ARRAY or record is None:
            raise SchemaError(f"{metric} is not a record array")
        if not 0 <= index < definition.count:
            raise SchemaError(f"{metric} has no record {index}")
        return definition.offset + RECORD_ARRAY_HEADER_SIZE + index * record.size

    def put_member(self, position: int, member: str, value: Any) -> None:
        """Set a member of the record at ``position``, as ``put`` does. Raises ``SchemaError``."""
        record = self._record_at(position)
        offset, data = _packed_member(record, member, value)
        at = self.copy_offset + position + offset
        self.image[at : at + len(data)] = data
        self._touch()

    def _record_at(self, position: int) -> RecordLayout:
        if COPY_HEADER_SIZE <= position <= self.layout.data_size - _record_header.size:
            flags, distance, record_type = _record_header.unpack_from(
                self.image, self.copy_offset + position
            )
            metrics = self.schema.metrics
            if flags == RECORD_IS_INSTANCE and distance == position and record_type < len(metrics):
                record = metrics[record_type].record
                if record is not None:
                    return record
        raise SchemaError(f"there is no record at {position}")

    # ------------------------------------------------------------------ lists

    def append(self, metric: str, value_type: ValueType, value: Any, count: int = 1) -> int:
        """Append a plain value to a list and return its position.

        All elements of a list have one type; ``count`` is the length of an array and may differ.
        Raises ``SchemaError``, and ``SetFull`` when the heap has no room.
        """
        at = self._list_at(metric)
        if not value_type.is_array:
            count = 1
        if not 0 <= count <= _MAX_ELEMENT_COUNT:
            raise SchemaError(f"{metric}: {count} is not a possible array length")
        data = _packed(metric, value_type, count, value)
        self._check_element_type(metric, at, value_type)
        entry = self._allocate(_ENTRY_SIZE + value_type.slot_size(count))
        base = self.copy_offset + self.layout.heap_base
        start = base + entry + _ENTRY_SIZE
        self.image[start : start + len(data)] = data
        lists.link(self.image, at, base, entry, value_type.type_id | count << 8)
        self._touch()
        return self.layout.heap_base + entry + _ENTRY_SIZE

    def append_record(
        self, metric: str, record_type: str, values: Mapping[str, Any] | None = None
    ) -> int:
        """Append a record to a list and return its position.

        ``values`` by member name, in the form that ``put`` takes; other members are zero.
        Raises ``SchemaError``, and ``SetFull`` when the heap has no room. To append records that
        are filled at once, and quickly, see ``ldmsjob.sets.fields.RecordAppender``.
        """
        at = self._list_at(metric)
        definition = self.schema[record_type]
        if definition.type is not RECORD_TYPE or definition.record is None:
            raise SchemaError(f"{record_type} is not a record type")
        record = definition.record
        members = [_packed_member(record, name, value) for name, value in (values or {}).items()]
        self._check_element_type(metric, at, RECORD)
        entry = self._allocate(_ENTRY_SIZE + record.size)
        position = self.layout.heap_base + entry + _ENTRY_SIZE
        start = self.copy_offset + position
        _record_header.pack_into(self.image, start, RECORD_IS_INSTANCE, position, definition.index)
        for offset, data in members:
            self.image[start + offset : start + offset + len(data)] = data
        base = self.copy_offset + self.layout.heap_base
        lists.link(self.image, at, base, entry, RECORD.type_id | 1 << 8)
        self._touch_heap()
        return position

    def elements(self, metric: str) -> list[int]:
        """The positions of a list's elements, in order. Raises ``SchemaError``."""
        at = self._list_at(metric)
        base = self.copy_offset + self.layout.heap_base
        first = self.layout.heap_base + _ENTRY_SIZE
        return [first + entry for entry in lists.entries(self.image, at, base)]

    def delete(self, metric: str, position: int) -> None:
        """Delete the element at ``position`` from its list. Raises ``SchemaError``."""
        if position not in self.elements(metric):
            raise SchemaError(f"{metric} has no element at {position}")
        base = self.copy_offset + self.layout.heap_base
        entry = position - self.layout.heap_base - _ENTRY_SIZE
        lists.unlink(self.image, self._list_at(metric), base, entry)
        self._release(entry)

    def purge(self, metric: str) -> None:
        """Delete all elements of a list. Raises ``SchemaError``."""
        at = self._list_at(metric)
        positions = self.elements(metric)
        lists.clear(self.image, at)
        for position in positions:
            self._release(position - self.layout.heap_base - _ENTRY_SIZE)

    def _list_at(self, metric: str) -> int:
        definition = self.schema[metric]
        if definition.type is not LIST:
            raise SchemaError(f"{metric} is not a list")
        return self.copy_offset + definition.offset

    def _check_element_type(self, metric: str, at: int, value_type: ValueType) -> None:
        base = self.copy_offset + self.layout.heap_base
        present = lists.type_of_elements(self.image, at, base)
        if present not in (None, value_type.type_id):
            name = TYPES_BY_ID[present].name
            raise SchemaError(f"{metric} holds {name} and takes no {value_type.name}")

    def _allocate(self, size: int) -> int:
        heap = self._heap
        if heap is None:
            heap = self._heap = Heap(self.image, self.layout.heap_size)
        entry = heap.allocate(self.copy_offset + self.layout.heap_base, size)
        self._touch_heap()
        return entry

    def _release(self, entry: int) -> None:
        if self._heap is not None:
            self._heap.release(self.copy_offset + self.layout.heap_base, entry)
            self._touch_heap()


def _packed_member(record: RecordLayout, name: str, value: Any) -> tuple[int, bytes]:
    index = record.index_of.get(name)
    if index is None:
        raise SchemaError(f"the record has no member {name!r}")
    member = record.members[index]
    return record.offsets[index], _packed(name, member.type, member.count, value)


def _packed(name: str, value_type: ValueType, count: int, value: Any) -> bytes:
    try:
        return pack_value(value_type, count, value)
    except ValueError as error:
        raise SchemaError(f"{name}: {error}") from None
