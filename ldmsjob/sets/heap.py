"""The heap of a set copy: where list elements live (docs/sets.md, Heap).

Chunks are multiples of a 64-byte grain and start at offset 8, behind the signature. No reader looks
at anything but the elements themselves, so what is free is kept here, in Python, and not in the
image. Free memory is always zero.
"""

from __future__ import annotations

import struct
from bisect import bisect_left

from ldmsjob.errors import SetFull

GRAIN = 64
GRAIN_BITS = 6
SIGNATURE = b"BOHEAP0\0"
FIRST_CHUNK = len(SIGNATURE)
"""Where the first chunk stands in a heap."""

_ENTRY_HEADER_SIZE = 12

PREFIX = struct.Struct("<I")
"""The beginning of each chunk: its number of grains."""


def _grains(size: int) -> int:
    return (size + PREFIX.size + GRAIN - 1) // GRAIN


def element_cost(value_size: int) -> int:
    """Bytes of heap that a list element with a value of that size takes up.

    For a record the value size is that of the whole record, its header included.
    """
    return GRAIN * _grains(_ENTRY_HEADER_SIZE + value_size)


def heap_size_for(cost: int) -> int:
    """The smallest ``heap_size`` that holds elements of that cost together: a multiple of 512."""
    return -(-(FIRST_CHUNK + cost) // 512) * 512


def heap_capacity(heap_size: int) -> int:
    """Bytes of ``heap_size`` that elements can take up: whole grains behind the signature.

    The reference implementation counts one grain more, whose last 8 bytes lie outside of the copy.
    """
    return max(heap_size - FIRST_CHUNK, 0) // GRAIN * GRAIN


class Heap:
    """Knows which chunks are free. One for all copies of a set: they change in step.

    The calls take the ``base`` of the copy at hand: where its heap starts in the image.
    """

    __slots__ = ("_grains", "_image", "_starts")

    def __init__(self, image: bytearray, heap_size: int) -> None:
        """A heap of which nothing is in use yet."""
        self._image = image
        # Free chunks by address: offset of each, and its length in grains.
        self._starts = [FIRST_CHUNK]
        self._grains = [heap_capacity(heap_size) // GRAIN]

    def allocate(self, base: int, size: int) -> int:
        """Offset from ``base`` of ``size`` zero bytes. Raises ``SetFull``.

        Takes the smallest chunk that is large enough, of equal ones the first.
        """
        needed = _grains(size)
        best = -1
        smallest = 0
        for index, grains in enumerate(self._grains):
            if grains >= needed and (best < 0 or grains < smallest):
                best, smallest = index, grains
        if best < 0:
            raise SetFull(f"no {size} bytes in one piece are left in the heap of the set")
        start = self._starts[best]
        if smallest == needed:
            del self._starts[best], self._grains[best]
        else:
            self._starts[best] = start + needed * GRAIN
            self._grains[best] = smallest - needed
        PREFIX.pack_into(self._image, base + start, needed)
        return start + PREFIX.size

    def release(self, base: int, offset: int) -> None:
        """Give back what ``allocate`` returned; its memory is cleared."""
        start = offset - PREFIX.size
        (grains,) = PREFIX.unpack_from(self._image, base + start)
        size = grains * GRAIN
        self._image[base + start : base + start + size] = bytes(size)
        starts, lengths = self._starts, self._grains
        index = bisect_left(starts, start)
        if index < len(starts) and starts[index] == start + size:
            grains += lengths[index]
            del starts[index], lengths[index]
        if index and starts[index - 1] + lengths[index - 1] * GRAIN == start:
            lengths[index - 1] += grains
        else:
            starts.insert(index, start)
            lengths.insert(index, grains)
