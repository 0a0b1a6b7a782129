"""Reading a set image, be it of a peer or our own, without trusting it (docs/sets.md, Reading).

Every offset, length and count is checked before it is used. What an image says of its own address
(``set_off``, ``set_data_off``) is reported but never followed. Depth of nesting is bounded, and the
work is bounded by the size of the image: values of one area together cannot be larger than it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from ldmsjob.errors import SetImageError
from ldmsjob.sets.decoded import (
    DecodedCopy,
    DecodedElement,
    DecodedHeap,
    DecodedMember,
    DecodedMetric,
    DecodedRecordType,
    DecodedSet,
)
from ldmsjob.sets.heap import SIGNATURE
from ldmsjob.sets.layout import (
    BIG_ENDIAN,
    COPY_HEADER,
    DESCRIPTOR,
    DIGEST_SIZE,
    LIST_ENTRY,
    LIST_VALUE,
    RECORD_ARRAY_HEADER,
    RECORD_HEADER,
    RECORD_TYPE_HEADER,
    SET_HEADER,
    VERSION,
    Fields,
)
from ldmsjob.sets.schema import FLAG_DATA, FLAG_META, FLAG_RECORD
from ldmsjob.values import (
    LIST,
    RECORD,
    RECORD_TYPE,
    TYPES_BY_ID,
    ValueType,
    unpack_value,
    word_time,
)

Image = bytes | bytearray | memoryview

MAX_LIST_DEPTH = 8
"""A list in a list in a list … deeper than this is taken for damage."""


class _Outside(Exception):
    """A value reaches outside of the image."""


@dataclass(frozen=True)
class _Descriptor:
    user_data: int
    offset: int
    count: int
    kind: ValueType
    flags: int
    name: str
    unit: str | None


@dataclass(frozen=True)
class _RecordType:
    size: int
    members: tuple[_Descriptor, ...]

    @property
    def cost(self) -> int:
        """What reading a record takes from a budget: its size, or more if members have none."""
        return max(self.size, len(self.members))


def decode_set(meta: Image, data: Image, *, copy_index: int | None = None) -> DecodedSet:
    """Read a set from its metadata and all its data copies.

    ``copy_index`` is the copy to read; by default it is the one that the set calls current.
    Raises ``SetImageError``, and nothing else, for an image that contradicts itself.
    """
    return _Decoder(bytes(meta), bytes(data), copy_index).decoded()


class _Decoder:
    def __init__(self, meta: bytes, data: bytes, copy_index: int | None) -> None:
        header = _fields(SET_HEADER, meta, 0, "the header")
        if header["version"] != VERSION:
            raise SetImageError(f"set version {header['version'].hex()} is not known")
        if header["flags"] == BIG_ENDIAN:
            raise SetImageError("the set is of a big-endian producer")
        if header["meta_sz"] != len(meta):
            raise SetImageError(f"{len(meta)} bytes of metadata, not {header['meta_sz']}")
        copies, size = header["array_card"], header["data_sz"]
        if not copies or size < COPY_HEADER.size or copies * size != len(data):
            raise SetImageError(f"{len(data)} bytes of data, not {copies} copies of {size}")
        if header["heap_sz"] > size - COPY_HEADER.size:
            raise SetImageError(f"a heap of {header['heap_sz']} in a copy of {size} bytes")
        self._header = header
        self._meta = meta
        self._heap_base = size - header["heap_sz"]
        current = _fields(COPY_HEADER, data, 0, "a copy")["curr_idx"]
        self._index = current if copy_index is None else copy_index
        if not 0 <= self._index < copies:
            raise SetImageError(f"copy {self._index} of {copies}")
        self._copy = data[self._index * size : (self._index + 1) * size]
        self._descriptors: list[_Descriptor] = []
        self._record_types: dict[int, _RecordType] = {}
        # Bytes that values may still take up. Values do not overlap in a sound image, so this
        # bounds the work that an unsound one can cause.
        self._meta_budget = len(meta)
        self._copy_budget = size
        self._heap_budget = header["heap_sz"]

    def decoded(self) -> DecodedSet:
        header, meta = self._header, self._meta
        card = header["card"]
        if SET_HEADER.size + 4 * card > len(meta):
            raise SetImageError(f"{card} metrics in {len(meta)} bytes of metadata")
        for at in struct.unpack_from(f"<{card}I", meta, SET_HEADER.size):
            self._descriptors.append(self._descriptor(at, len(meta)))
        instance, schema, digest = self._names(SET_HEADER.size + 4 * card)
        return DecodedSet(
            instance=instance,
            schema=schema,
            producer=_text(header["producer_name"].partition(b"\0")[0]),
            card=card,
            meta_sz=len(meta),
            data_sz=len(self._copy),
            array_card=header["array_card"],
            heap_sz=header["heap_sz"],
            uid=header["uid"],
            gid=header["gid"],
            perm=header["perm"],
            meta_gn=header["meta_gn"],
            digest=digest.hex(),
            current_copy=self._copy_header(),
            metrics=tuple(
                self._metric(index, descriptor)
                for index, descriptor in enumerate(self._descriptors)
            ),
        )

    # ------------------------------------------------------------------ metadata

    def _names(self, at: int) -> tuple[str, str, bytes]:
        instance, at, _area = self._name(at, "the instance name")
        schema, at, area = self._name(at, "the schema name")
        digest = area[:DIGEST_SIZE] if len(area) >= DIGEST_SIZE else bytes(DIGEST_SIZE)
        return instance, schema, digest

    def _name(self, at: int, what: str) -> tuple[str, int, bytes]:
        """A text behind its length: the text, where it ends, and what follows its NUL."""
        if at >= len(self._meta):
            raise SetImageError(f"{what} is outside of the metadata")
        end = at + 1 + self._meta[at]
        text, nul, rest = self._meta[at + 1 : end].partition(b"\0")
        if end > len(self._meta) or not nul:
            raise SetImageError(f"{what} does not end")
        return _text(text), end, rest

    def _descriptor(self, at: int, end: int) -> _Descriptor:
        """The descriptor at that place of the metadata, which must lie before ``end``."""
        if at + DESCRIPTOR.size > end:
            raise SetImageError(f"a metric's descriptor at {at} is outside of its place")
        user_data, offset, count, type_id, flags, length = DESCRIPTOR.struct.unpack_from(
            self._meta, at
        )
        at += DESCRIPTOR.size
        if at + length > end:
            raise SetImageError(f"a metric's name at {at} is outside of its place")
        name, nul, rest = self._meta[at : at + length].partition(b"\0")
        if not nul:
            raise SetImageError(f"a metric's name at {at} does not end")
        kind = TYPES_BY_ID.get(type_id)
        if kind is None or kind is RECORD:
            raise SetImageError(f"metric {_text(name)!r} is of type {type_id}")
        unit = _text(rest.partition(b"\0")[0]) if rest else None
        return _Descriptor(user_data, offset, count, kind, flags, _text(name), unit)

    def _record_type(self, index: int) -> _RecordType:
        """The record type that is metric ``index``."""
        known = self._record_types.get(index)
        if known is not None:
            return known
        if index >= len(self._descriptors):
            raise SetImageError(f"a record is of type {index}, and there is no such metric")
        descriptor = self._descriptors[index]
        if descriptor.kind is not RECORD_TYPE or descriptor.flags != FLAG_META | FLAG_RECORD:
            raise SetImageError(f"a record is of type {descriptor.name!r}, which is no record type")
        start = descriptor.offset
        header = _fields(RECORD_TYPE_HEADER, self._meta, start, f"record type {descriptor.name!r}")
        card, size = header["card"], header["inst_sz"]
        table = start + RECORD_TYPE_HEADER.size
        # Each member takes its place in the table and a descriptor.
        self._spend_meta(RECORD_TYPE_HEADER.size + card * (4 + DESCRIPTOR.size))
        if table + 4 * card > len(self._meta):
            raise SetImageError(f"record type {descriptor.name!r} has {card} members")
        members = tuple(
            self._descriptor(start + offset, len(self._meta))
            for offset in struct.unpack_from(f"<{card}I", self._meta, table)
        )
        room = size - RECORD_HEADER.size
        for member in members:
            if not member.kind.is_plain:
                raise SetImageError(f"member {member.name!r} of a record is a {member.kind.name}")
            needed = member.kind.value_size(member.count)
            room -= needed
            if room < 0 or not RECORD_HEADER.size <= member.offset <= size - needed:
                raise SetImageError(f"member {member.name!r} is outside of its record")
        if room < 0:
            raise SetImageError(f"records of {size} bytes")
        result = self._record_types[index] = _RecordType(size, members)
        return result

    def _spend_meta(self, size: int) -> None:
        self._meta_budget -= size
        if self._meta_budget < 0:
            raise SetImageError("the values in the metadata are larger than the metadata")

    # ------------------------------------------------------------------ values

    def _copy_header(self) -> DecodedCopy:
        header = _fields(COPY_HEADER, self._copy, 0, "a copy")
        return DecodedCopy(
            index=self._index,
            curr_idx=header["curr_idx"],
            set_off=header["set_off"],
            gn=header["gn"],
            meta_gn=header["meta_gn"],
            size=header["size"],
            ts_us=word_time(header["ts_sec"] | header["ts_usec"] << 32),
            dur_us=word_time(header["dur_sec"] | header["dur_usec"] << 32),
            trans_flags=header["trans_flags"],
            heap=DecodedHeap(
                grain=header["heap_grain"] >> 8,
                grain_bits=header["heap_grain"] & 0xFF,
                size=header["heap_size"],
                gn=header["heap_gn"],
                size_tree_root=header["size_tree_root"],
                addr_tree_root=header["addr_tree_root"],
            ),
        )

    def _metric(self, index: int, descriptor: _Descriptor) -> DecodedMetric:
        kind = descriptor.kind
        is_meta = kind is RECORD_TYPE or bool(descriptor.flags & FLAG_META)
        if not is_meta and not descriptor.flags & FLAG_DATA:
            raise SetImageError(f"metric {descriptor.name!r} is neither data nor meta")
        value: Any
        record_type = None
        try:
            if kind is RECORD_TYPE:
                value = self._record_type_value(index)
            elif kind.is_plain:
                value = self._plain(descriptor, is_meta)
            elif is_meta:
                raise SetImageError(f"metric {descriptor.name!r} is a {kind.name} in the metadata")
            elif kind is LIST:
                value = self._list(descriptor.offset, self._heap_base, 1)
            else:
                value = self._record_array(descriptor)
                if value:
                    record_type = self._record_array_type(descriptor)
        except _Outside:
            value = None
        return DecodedMetric(
            index=index,
            name=descriptor.name,
            type=kind.name,
            flags=descriptor.flags,
            count=descriptor.count,
            unit=descriptor.unit,
            offset=descriptor.offset,
            user_data=descriptor.user_data,
            value=value,
            record_type=record_type,
        )

    def _plain(self, descriptor: _Descriptor, is_meta: bool) -> Any:
        size = descriptor.kind.value_size(descriptor.count)
        if is_meta:
            area, end = self._meta, len(self._meta)
        else:
            area, end = self._copy, self._heap_base
        if descriptor.offset + size > end:
            raise _Outside
        if is_meta:
            self._spend_meta(size)
        else:
            self._spend_copy(size)
        return unpack_value(descriptor.kind, descriptor.count, area, descriptor.offset)

    def _spend_copy(self, size: int) -> None:
        self._copy_budget -= size
        if self._copy_budget < 0:
            raise SetImageError("the values of a copy are larger than the copy")

    def _record_type_value(self, index: int) -> DecodedRecordType:
        record_type = self._record_type(index)
        return DecodedRecordType(
            record_type.size,
            tuple(
                DecodedMember(
                    member.name, member.kind.name, member.count, member.unit, member.offset
                )
                for member in record_type.members
            ),
        )

    def _record_array_type(self, descriptor: _Descriptor) -> int:
        """The index of the type of an array's records; the array has been found to be inside."""
        _size, type_index, _length = RECORD_ARRAY_HEADER.struct.unpack_from(
            self._copy, descriptor.offset
        )
        return int(type_index)

    def _record_array(self, descriptor: _Descriptor) -> list[dict[str, Any]]:
        at = descriptor.offset
        if at + RECORD_ARRAY_HEADER.size > self._heap_base:
            raise _Outside
        size, type_index, length = RECORD_ARRAY_HEADER.struct.unpack_from(self._copy, at)
        if not size and not type_index and not length:
            return []  # nothing has been read into this copy yet
        record_type = self._record_type(type_index)
        if size != record_type.size:
            raise SetImageError(f"records of {size} bytes in {descriptor.name!r}")
        at += RECORD_ARRAY_HEADER.size
        if at + size * length > self._heap_base:
            raise _Outside
        self._spend_copy(record_type.cost * length)
        return [self._record(start, type_index) for start in range(at, at + size * length, size)]

    def _record(self, at: int, type_index: int) -> dict[str, Any]:
        """The record at that place of the copy, inside of which it has been found to lie."""
        return {
            member.name: unpack_value(member.kind, member.count, self._copy, at + member.offset)
            for member in self._record_type(type_index).members
        }

    def _list(self, at: int, end: int, depth: int) -> list[DecodedElement]:
        if at + LIST_VALUE.size > end:
            raise _Outside
        if depth > MAX_LIST_DEPTH:
            raise SetImageError(f"lists are nested deeper than {MAX_LIST_DEPTH}")
        offset, _tail, count = LIST_VALUE.struct.unpack_from(self._copy, at)
        if offset and self._copy[self._heap_base : self._heap_base + 8] != SIGNATURE:
            raise SetImageError("there is a list element, but no heap")
        elements: list[DecodedElement] = []
        while offset:
            start = self._heap_base + offset
            if start + LIST_ENTRY.size > len(self._copy):
                raise _Outside
            following, _previous, type_count = LIST_ENTRY.struct.unpack_from(self._copy, start)
            elements.append(self._element(start + LIST_ENTRY.size, type_count, depth))
            offset = following
        if len(elements) != count:
            raise SetImageError(f"a list has {len(elements)} elements and not its {count}")
        return elements

    def _element(self, at: int, type_count: int, depth: int) -> DecodedElement:
        count = type_count >> 8
        kind = TYPES_BY_ID.get(type_count & 0xFF)
        end = len(self._copy)
        if kind is LIST:
            self._spend_heap(LIST_VALUE.size)
            return DecodedElement(kind.name, count, self._list(at, end, depth + 1))
        if kind is RECORD:
            if at + RECORD_HEADER.size > end:
                raise _Outside
            _flags, _distance, type_index = RECORD_HEADER.struct.unpack_from(self._copy, at)
            record_type = self._record_type(type_index)
            if at + record_type.size > end:
                raise _Outside
            self._spend_heap(record_type.cost)
            return DecodedElement(kind.name, count, self._record(at, type_index), type_index)
        if kind is None or not kind.is_plain:
            raise SetImageError(f"a list element is of type {type_count & 0xFF}")
        size = kind.value_size(count)
        if at + size > end:
            raise _Outside
        self._spend_heap(size)
        return DecodedElement(kind.name, count, unpack_value(kind, count, self._copy, at))

    def _spend_heap(self, size: int) -> None:
        self._heap_budget -= LIST_ENTRY.size + size
        if self._heap_budget < 0:
            raise SetImageError("the list elements of a copy are larger than its heap")


def _fields(fields: Fields, image: bytes, at: int, what: str) -> dict[str, Any]:
    """The named fields at that place of an image."""
    if at + fields.size > len(image):
        raise SetImageError(f"{what} is outside of the image")
    return dict(zip(fields.offsets, fields.struct.unpack_from(image, at), strict=True))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
