"""The chain of a list's elements in a set image (docs/sets.md, Heap).

``at`` is where the list's value is in the image and ``base`` where the heap of that copy starts. An
element is known by its *entry*: the distance of its head from ``base``, which is never 0.
"""

from __future__ import annotations

import struct

from ldmsjob.sets.layout import LIST_ENTRY, LIST_VALUE

_value = LIST_VALUE.struct
_entry = LIST_ENTRY.struct
_WORD = struct.Struct("<I")
_TYPE = LIST_ENTRY.offsets["type_count"]


def entries(image: bytearray, at: int, base: int) -> list[int]:
    """The elements, in order."""
    entry, _tail, _count = _value.unpack_from(image, at)
    result = []
    while entry:
        result.append(entry)
        (entry,) = _WORD.unpack_from(image, base + entry)
    return result


def type_of_elements(image: bytearray, at: int, base: int) -> int | None:
    """The type id that all elements have; None of an empty list."""
    (head,) = _WORD.unpack_from(image, at)
    return image[base + head + _TYPE] if head else None


def link(image: bytearray, at: int, base: int, entry: int, type_count: int) -> None:
    """Put an element, whose value has been written, at the end."""
    head, tail, count = _value.unpack_from(image, at)
    _entry.pack_into(image, base + entry, 0, tail, type_count)
    if tail:
        _WORD.pack_into(image, base + tail, entry)
    _value.pack_into(image, at, head or entry, entry, count + 1)


def unlink(image: bytearray, at: int, base: int, entry: int) -> None:
    """Take one of its elements out. Its memory stays as it is."""
    head, tail, count = _value.unpack_from(image, at)
    following, previous, _type_count = _entry.unpack_from(image, base + entry)
    if previous:
        _WORD.pack_into(image, base + previous, following)
    else:
        head = following
    if following:
        _WORD.pack_into(image, base + following + _WORD.size, previous)
    else:
        tail = previous
    _value.pack_into(image, at, head, tail, count - 1)


def clear(image: bytearray, at: int) -> None:
    """Take all of its elements out."""
    _value.pack_into(image, at, 0, 0, 0)
