"""What comes out of a set image (docs/sets.md, Reading): ``ldmsjob.sets.decode`` makes these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ldmsjob.sets.layout import TRANSACTION_FINISHED


@dataclass(frozen=True)
class DecodedMember:
    """The definition of one member of a record type."""

    name: str
    type: str
    count: int
    unit: str | None
    offset: int
    """From the start of a record."""


@dataclass(frozen=True)
class DecodedRecordType:
    """The value of a record type metric: what its records look like."""

    inst_sz: int
    members: tuple[DecodedMember, ...]


@dataclass(frozen=True)
class DecodedElement:
    """One element of a list; ``value`` is a dictionary by member name for a record, and a list of
    ``DecodedElement`` for a list."""

    type: str
    count: int
    value: Any
    record_type: int | None = field(default=None, compare=False)
    """Of a record: the index of the metric that is its type."""


@dataclass(frozen=True)
class DecodedMetric:
    """One metric and its value."""

    index: int
    name: str
    type: str
    flags: int
    count: int
    unit: str | None
    offset: int
    user_data: int
    value: Any
    """As ``values.unpack_value`` gives it; a list of ``DecodedElement`` for a list, a list of
    dictionaries by member name for a record array. None when the image has the value, or a part of
    it, outside of its bounds: some producers do that in sets that are otherwise sound."""
    record_type: int | None = field(default=None, compare=False)
    """Of a record array with records: the index of the metric that is their type."""


@dataclass(frozen=True)
class DecodedHeap:
    """What a copy's header says of its heap."""

    grain: int
    grain_bits: int
    size: int
    gn: int
    size_tree_root: int
    addr_tree_root: int


@dataclass(frozen=True)
class DecodedCopy:
    """The header of a data copy. Times are microseconds."""

    index: int
    curr_idx: int
    set_off: int
    gn: int
    meta_gn: int
    size: int
    ts_us: int
    dur_us: int
    trans_flags: int
    heap: DecodedHeap

    @property
    def is_consistent(self) -> bool:
        """Whether the copy's last transaction has been finished."""
        return self.trans_flags == TRANSACTION_FINISHED


@dataclass(frozen=True)
class DecodedSet:
    """A whole set with the values of one of its copies."""

    instance: str
    schema: str
    producer: str
    card: int
    meta_sz: int
    data_sz: int
    array_card: int
    heap_sz: int
    uid: int
    gid: int
    perm: int
    meta_gn: int
    digest: str
    """64 hexadecimal digits; zeros when the image has none."""
    current_copy: DecodedCopy
    metrics: tuple[DecodedMetric, ...]

    def values(self) -> dict[str, Any]:
        """The metrics' values by name."""
        return {metric.name: metric.value for metric in self.metrics}
