"""Schemas: what a metric set consists of (docs/sets.md, Schemas).

A schema is built by its ``add_`` methods and then shared by all sets of its kind. It does not
change any more once the first set has been laid out from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ldmsjob.errors import SchemaError
from ldmsjob.sets.names import encode_name
from ldmsjob.values import LIST, RECORD_ARRAY, RECORD_TYPE, ValueType

if TYPE_CHECKING:
    from ldmsjob.sets.layout import SetLayout

FLAG_DATA = 1
FLAG_META = 2
FLAG_RECORD = 4

COPY_HEADER_SIZE = 96
"""Bytes before the first value of a data copy."""
RECORD_HEADER_SIZE = 16
"""Bytes before the first member of a record."""
RECORD_ARRAY_HEADER_SIZE = 12
"""Bytes before the first record of a record array."""
LIST_SLOT_SIZE = 16

# A byte holds the length of the schema's name with its NUL, 32 bytes of digest and one spare byte.
MAX_SCHEMA_NAME = 221
MAX_METRIC_TEXT = 255
MAX_UINT32 = 0xFFFFFFFF

_HEAP_UNIT = 512


def round_up(size: int, unit: int = 8) -> int:
    """``size`` rounded up to a multiple of ``unit``."""
    return -(-size // unit) * unit


def _text_area(name: str, unit: str | None) -> bytes:
    """Name and unit as they stand in a descriptor. Raises ``SchemaError``."""
    if not name:
        raise SchemaError("a metric needs a name")
    area = encode_name(name) + b"\0"
    if unit is not None:
        area += encode_name(unit) + b"\0"
    if len(area) > MAX_METRIC_TEXT:
        raise SchemaError(
            f"name and unit of {name[:32]!r}… take {len(area)} bytes with their ends; "
            f"there is room for {MAX_METRIC_TEXT}"
        )
    return area


def _check_count(name: str, count: int) -> None:
    if not 0 <= count <= MAX_UINT32:
        raise SchemaError(f"{name}: {count} is not a possible array length")


class Member(msgspec.Struct, frozen=True):
    """One member of a record type. Only plain types; ``count`` is the length of an array."""

    name: str
    type: ValueType
    count: int = 1
    unit: str | None = None
    """None: no unit, which is not the same as an empty one."""


class RecordLayout:
    """Where the members of a record type stand in each of its records."""

    __slots__ = ("index_of", "members", "offsets", "size", "text_areas")

    def __init__(self, name: str, members: Sequence[Member]) -> None:
        """Raises ``SchemaError`` for members that cannot be."""
        self.members = tuple(members)
        self.index_of: dict[str, int] = {}
        self.text_areas = tuple(_text_area(member.name, member.unit) for member in self.members)
        offsets = []
        size = RECORD_HEADER_SIZE
        for index, member in enumerate(self.members):
            where = f"{name}.{member.name}"
            if not member.type.is_plain:
                raise SchemaError(f"{where}: a {member.type.name} cannot be member of a record")
            _check_count(where, member.count)
            if self.index_of.setdefault(member.name, index) != index:
                raise SchemaError(f"{where}: there is such a member already")
            offsets.append(size)
            size += member.type.slot_size(member.count)
        if size > MAX_UINT32:
            raise SchemaError(f"records of {name} would take {size} bytes")
        self.offsets = tuple(offsets)
        """From the start of a record, by member index."""
        self.size = size
        """Bytes of one record, its header included."""

    @property
    def body_size(self) -> int:
        """Bytes of the definition in the metadata."""
        return RECORD_HEADER_SIZE + self.descriptors_size

    @property
    def descriptors_size(self) -> int:
        """Bytes of the members' descriptors together with their table."""
        return sum(4 + descriptor_size(area) for area in self.text_areas)


def descriptor_size(text_area: bytes) -> int:
    """Bytes of a metric descriptor with that name and unit."""
    return round_up(28 + len(text_area))


class Metric(msgspec.Struct, frozen=True):
    """One metric of a schema."""

    index: int
    """The metric id."""
    name: str
    type: ValueType
    count: int
    """Array length; for a list its heap budget in bytes, for a record array its records."""
    unit: str | None
    flags: int
    offset: int
    """For DATA from the start of a data copy; for META from the first META value of the set."""
    slot_size: int
    text_area: bytes
    record: RecordLayout | None = None
    """Of a record type and of a record array."""
    record_index: int = 0
    """Metric id of the record type, for a record type and a record array."""

    @property
    def is_meta(self) -> bool:
        """Whether the value stands in the metadata, which all data copies share."""
        return bool(self.flags & FLAG_META)


class Schema:
    """An ordered collection of metric definitions under a name.

    ``array_card`` is the number of data copies that a set of it keeps; each transaction fills the
    next of them.
    """

    __slots__ = (
        "_budget",
        "_frozen",
        "_hash",
        "_index_of",
        "_meta_size",
        "array_card",
        "data_end",
        "layouts",
        "metrics",
        "name",
    )

    def __init__(self, name: str, *, array_card: int = 1) -> None:
        """Raises ``SchemaError``."""
        if not 0 < len(encode_name(name)) <= MAX_SCHEMA_NAME:
            raise SchemaError(f"{name[:32]!r}… cannot be the name of a schema: 1 to 221 bytes")
        if not 0 <= array_card <= MAX_UINT32:
            raise SchemaError(f"a set of {array_card} copies cannot be")
        self.name = name
        self.array_card = array_card or 1
        self.metrics: list[Metric] = []
        """In metric id order; not to be changed from outside."""
        self.data_end = COPY_HEADER_SIZE
        """Bytes of one data copy without its heap."""
        self.layouts: dict[tuple[int, int], SetLayout] = {}
        """Kept by ``ldmsjob.sets.layout.layout_for``."""
        self._index_of: dict[str, int] = {}
        self._meta_size = 0
        self._budget = 0
        self._hash = hashlib.sha256()
        self._frozen = False

    @property
    def digest(self) -> bytes:
        """32 bytes that depend on the names and types of the metrics, and on nothing else."""
        return self._hash.digest()

    def __getitem__(self, name: str) -> Metric:
        """The metric of that name. Raises ``SchemaError``."""
        try:
            return self.metrics[self._index_of[name]]
        except KeyError:
            raise SchemaError(f"schema {self.name} has no metric {name!r}") from None

    def heap_size(self, requested: int = 0) -> int:
        """Bytes of heap in each copy of a set: at least ``requested`` and all list budgets."""
        return round_up(max(requested, self._budget), _HEAP_UNIT)

    def freeze(self) -> None:
        """Accept no more metrics. Laying out a set does this."""
        self._frozen = True

    def add_metric(
        self,
        name: str,
        value_type: ValueType,
        count: int = 1,
        *,
        unit: str | None = None,
        meta: bool = False,
    ) -> int:
        """Add a plain metric and return its id. ``count`` is the length of an array.

        A META metric holds what rarely changes: peers read it again only when it has changed.
        """
        if not value_type.is_plain:
            raise SchemaError(f"{name}: a {value_type.name} is not added as a plain metric")
        _check_count(name, count)
        if not value_type.is_array and count != 1:
            raise SchemaError(f"{name}: a {value_type.name} is no array")
        flags = FLAG_META if meta else FLAG_DATA
        return self._add(name, value_type, count, unit, flags, value_type.slot_size(count))

    def add_list(self, name: str, budget: int = 0, *, unit: str | None = None) -> int:
        """Add a list and return its id.

        ``budget`` is the heap in bytes that it is meant to need, see ``ldmsjob.sets.heap``; all
        lists of a set share one heap. 0 counts as 512.
        """
        _check_count(name, budget)
        budget = budget or _HEAP_UNIT
        index = self._add(name, LIST, budget, unit, FLAG_DATA, LIST_SLOT_SIZE)
        self._budget += budget
        return index

    def add_record_type(
        self, name: str, members: Sequence[Member], *, unit: str | None = None
    ) -> int:
        """Add a record type, for lists and record arrays of this schema, and return its id."""
        record = RecordLayout(name, members)
        digested = b"".join(
            encode_name(member.name) + member.type.type_id.to_bytes(4, "little")
            for member in record.members
        )
        flags = FLAG_META | FLAG_RECORD
        index = len(self.metrics)
        return self._add(
            name, RECORD_TYPE, 0, unit, flags, record.body_size, digested, record, index
        )

    def add_record_array(
        self, name: str, record_type: str, count: int, *, unit: str | None = None
    ) -> int:
        """Add ``count`` records of a type that was added before, and return the array's id."""
        metric = self[record_type]
        record = metric.record
        if record is None or metric.type is not RECORD_TYPE:
            raise SchemaError(f"{name}: {record_type} is not a record type")
        _check_count(name, count)
        slot_size = round_up(RECORD_ARRAY_HEADER_SIZE + count * record.size)
        return self._add(
            name, RECORD_ARRAY, count, unit, FLAG_DATA, slot_size, b"", record, metric.index
        )

    def _add(
        self,
        name: str,
        value_type: ValueType,
        count: int,
        unit: str | None,
        flags: int,
        slot_size: int,
        digested: bytes = b"",
        record: RecordLayout | None = None,
        record_index: int = 0,
    ) -> int:
        if self._frozen:
            raise SchemaError(f"schema {self.name} is in use and cannot get {name} any more")
        if name in self._index_of:
            raise SchemaError(f"schema {self.name} has a metric {name} already")
        area = _text_area(name, unit)
        offset = self._meta_size if flags & FLAG_META else self.data_end
        if offset + slot_size > MAX_UINT32:
            raise SchemaError(f"{name} does not fit into a set of 4 GiB")
        index = len(self.metrics)
        self.metrics.append(
            Metric(
                index, name, value_type, count, unit, flags, offset, slot_size, area, record,
                record_index,
            )
        )  # fmt: skip
        self._index_of[name] = index
        if flags & FLAG_META:
            self._meta_size += slot_size
        else:
            self.data_end += slot_size
        self._hash.update(digested)
        self._hash.update(encode_name(name))
        self._hash.update(value_type.type_id.to_bytes(4, "little"))
        return index
