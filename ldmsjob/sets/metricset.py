"""Metric sets: writing values into the image that peers read (docs/sets.md, Metric sets)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any

from zope.interface import implementer

from ldmsjob.errors import Busy, SchemaError
from ldmsjob.interfaces import IMetricSet, IMetricWriter
from ldmsjob.sets import lists
from ldmsjob.sets.heap import Heap
from ldmsjob.sets.layout import (
    COPY_HEADER,
    DESCRIPTOR,
    LIST_ENTRY,
    PRODUCER_SIZE,
    RECORD_HEADER,
    RECORD_IS_INSTANCE,
    SET_HEADER,
    TRANSACTION_FINISHED,
    TRANSACTION_OPEN,
    layout_for,
)
from ldmsjob.sets.names import encode_instance_name, encode_name
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

_NO_INFO: Mapping[str, str] = MappingProxyType({})
_UINT32 = 0xFFFFFFFF
_MICROSECONDS = 1_000_000
_MAX_ELEMENT_COUNT = (1 << 24) - 1

_GENERATION = struct.Struct("<Q")
_WORD = struct.Struct("<I")
_META_GN = SET_HEADER.offsets["meta_gn"]
_ARRAY_CARD = SET_HEADER.offsets["array_card"]
_UID = SET_HEADER.offsets["uid"]
_GN = COPY_HEADER.offsets["gn"]
_COPY_META_GN = COPY_HEADER.offsets["meta_gn"]
_SET_OFF = COPY_HEADER.offsets["set_off"]
_CURR_IDX = COPY_HEADER.offsets["curr_idx"]
_HEAP_GN = COPY_HEADER.offsets["heap_gn"]
_TRANS_FLAGS = COPY_HEADER.offsets["trans_flags"]

_pack_owner = SET_HEADER.part("uid", "perm").pack_into
_pack_stamp = COPY_HEADER.part("ts_sec", "gn").pack_into
_pack_times = COPY_HEADER.part("ts_sec", "ts_usec").pack_into
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
class MetricSet:
    """A set under an instance name, and its own writer.

    Values may be written inside or outside of a transaction; peers take a set for changed when a
    transaction has ended. Metrics are named; unknown names, values that a metric cannot take and
    calls that do not fit the metric's type raise ``SchemaError`` and change nothing.

    List elements are known by a number, their *position*: the distance of their value from the
    start of the data copy. It stays valid until the element is deleted.

    ``image``, ``copy_offset``, ``layout`` and the methods of one underscore are for
    ``ldmsjob.sets.fields``, which writes many values at once.
    """

    __slots__ = (
        "_begun_us",
        "_gn",
        "_heap",
        "_heap_gn",
        "_index",
        "_meta_gn",
        "_open",
        "clock",
        "copy_offset",
        "gid",
        "image",
        "info",
        "instance",
        "layout",
        "perm",
        "producer",
        "schema",
        "uid",
        "watcher",
    )  # fmt: skip

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

        ``clock`` tells the wall-clock time in microseconds; ``transaction`` alone asks it.
        ``heap_size`` is how many bytes of heap are wanted where that is more than the lists'
        budgets. Raises ``SchemaError``.
        """
        name = encode_instance_name(instance)
        self.layout = layout = layout_for(schema, len(name), heap_size)
        self.instance = instance
        self.schema = schema
        self.clock = clock
        self.info: Mapping[str, str] = _NO_INFO
        """What the directory tells of the set besides; see ``SetRegistry.set_info``."""
        self.watcher: Callable[[MetricSet], None] | None = None
        """Called with the set at the end of each transaction."""
        self.producer = ""
        self.uid = uid & _UINT32
        self.gid = gid & _UINT32
        self.perm = perm & _UINT32
        self.image = image = bytearray(layout.total_size)
        head = layout.head
        image[: len(head)] = head
        at = layout.instance_offset
        image[at : at + len(name)] = name
        _pack_owner(image, _UID, self.uid, self.gid, self.perm)
        self._gn = 1
        self._meta_gn = 1
        self._heap: Heap | None = None
        self._heap_gn = 0
        self._open = False
        self._begun_us = 0
        self._index = 0
        self.copy_offset = layout.meta_size
        if schema.array_card > 1:
            self._make_copies(schema.array_card)

    def _make_copies(self, card: int) -> None:
        image, first, size = self.image, self.layout.meta_size, self.layout.data_size
        begin = self.layout.head[first:]
        for at in range(first + size, len(image), size):
            image[at : at + len(begin)] = begin
            _WORD.pack_into(image, at + _SET_OFF, at)
        # The first transaction goes to copy 0.
        self._index = card - 1
        self.copy_offset = first + self._index * size

    # ------------------------------------------------------------------ what peers read

    def meta_bytes(self) -> memoryview:
        """The metadata part, read-only view of the live image."""
        return memoryview(self.image).toreadonly()[: self.layout.meta_size]

    def data_bytes(self) -> memoryview:
        """All data copies, read-only view of the live image."""
        return memoryview(self.image).toreadonly()[self.layout.meta_size :]

    @property
    def meta_generation(self) -> int:
        """Raised whenever something in the metadata changes."""
        return self._meta_gn

    @property
    def data_generation(self) -> int:
        """Raised whenever values change, at least once a transaction."""
        return self._gn

    # ------------------------------------------------------------------ transactions

    def transaction(self) -> _Transaction:
        """Marks the set inconsistent, lets you write, then stamps time and duration and raises the
        generation number: also when the block raises. Must not wait for anything inside.

        In a set of several copies the block writes to the next copy. What it does not write there
        has, if no list was changed, the value that it had when that copy was written last.
        """
        return _Transaction(self)

    def begin(self, now_us: int) -> None:
        """Open a transaction at wall-clock time ``now_us``. Raises ``Busy`` when one is open."""
        if self._open:
            raise Busy(f"a transaction of {self.instance} is open already")
        if self.schema.array_card > 1:
            self._next_copy()
        seconds, microseconds = divmod(now_us, _MICROSECONDS)
        at = self.copy_offset
        _pack_times(self.image, at, seconds & _UINT32, microseconds)
        _WORD.pack_into(self.image, at + _TRANS_FLAGS, TRANSACTION_OPEN)
        self._open = True
        self._begun_us = now_us

    def end(self, now_us: int) -> None:
        """Finish the open transaction. Raises ``Busy`` when none is open."""
        if not self._open:
            raise Busy(f"no transaction of {self.instance} is open")
        self._open = False
        self._stamp(now_us, now_us - self._begun_us)

    def commit(self, now_us: int) -> None:
        """Begin and end a transaction of no duration around what was just written.

        Right where nobody could read in between, and in sets of one copy only: raises ``Busy`` for
        others, and while a transaction is open.
        """
        if self._open or self.schema.array_card > 1:
            raise Busy(f"{self.instance} needs its transactions begun and ended")
        seconds, microseconds = divmod(now_us, _MICROSECONDS)
        self._gn = gn = self._gn + 1
        at = self.copy_offset
        _pack_stamp(
            self.image, at, seconds & _UINT32, microseconds, 0, 0, TRANSACTION_FINISHED, at, gn
        )
        if self.watcher is not None:
            self.watcher(self)

    def _stamp(self, now_us: int, duration_us: int) -> None:
        seconds, microseconds = divmod(now_us, _MICROSECONDS)
        # A clock that was set back meanwhile gives a duration modulo 2**32 seconds, as in C.
        whole, part = divmod(duration_us, _MICROSECONDS)
        self._gn += 1
        at = self.copy_offset
        _pack_stamp(
            self.image, at, seconds & _UINT32, microseconds, whole & _UINT32, part,
            TRANSACTION_FINISHED, at, self._gn,
        )  # fmt: skip
        if self.watcher is not None:
            self.watcher(self)

    def _next_copy(self) -> None:
        image, layout, old = self.image, self.layout, self.copy_offset
        card = self.schema.array_card
        self._index = (self._index + 1) % card
        self.copy_offset = new = layout.meta_size + self._index * layout.data_size
        # Equal heap generations mean equal heaps: there is one line of changes through all copies.
        (heap_gn,) = _WORD.unpack_from(image, new + _HEAP_GN)
        size = COPY_HEADER_SIZE if heap_gn == self._heap_gn else layout.data_size
        image[new : new + size] = image[old : old + size]
        _WORD.pack_into(image, new + _SET_OFF, new)
        for at in range(layout.meta_size, len(image), layout.data_size):
            _WORD.pack_into(image, at + _CURR_IDX, self._index)

    def _touch(self) -> None:
        self._gn = gn = self._gn + 1
        _GENERATION.pack_into(self.image, self.copy_offset + _GN, gn)

    def _touch_meta(self) -> None:
        gn = self._meta_gn + 1
        if not gn & _UINT32:
            gn += 1  # readers look at the low 32 bits and take 0 for "never read"
        self._meta_gn = gn
        _GENERATION.pack_into(self.image, _META_GN, gn)
        _GENERATION.pack_into(self.image, self.copy_offset + _COPY_META_GN, gn)

    def _touch_heap(self) -> None:
        self._heap_gn = gn = (self._heap_gn + 1) & _UINT32
        _WORD.pack_into(self.image, self.copy_offset + _HEAP_GN, gn)

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
            self._touch_meta()
        else:
            at = offset + self.copy_offset + metric.offset
            self.image[at : at + len(data)] = data
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

    # ------------------------------------------------------------------ the set itself

    def set_owner(self, uid: int, gid: int, perm: int) -> None:
        """Change who may read the set. Peers that have it learn so with its next update."""
        self.uid, self.gid, self.perm = uid & _UINT32, gid & _UINT32, perm & _UINT32
        _pack_owner(self.image, _UID, self.uid, self.gid, self.perm)
        self._touch_meta()

    def set_producer(self, name: str) -> None:
        """Name the producer, in at most 63 bytes. Raises ``SchemaError``.

        Before the set is offered to peers: those that have it are not told.
        """
        data = encode_name(name)
        if len(data) >= PRODUCER_SIZE:
            raise SchemaError(f"producer name {name[:32]!r}… is longer than 63 bytes")
        self.producer = name
        self.image[:PRODUCER_SIZE] = data.ljust(PRODUCER_SIZE, b"\0")

    def set_user_data(self, metric: str, value: int) -> None:
        """Give a metric 64 bits that mean something to its readers. Raises ``SchemaError``."""
        definition = self.schema[metric]
        at = self.layout.descriptor_offsets[definition.index] + DESCRIPTOR.offsets["user_data"]
        _GENERATION.pack_into(self.image, at, value & 0xFFFFFFFF_FFFFFFFF)
        if definition.is_meta:
            self._touch_meta()
        else:
            self._touch()


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
