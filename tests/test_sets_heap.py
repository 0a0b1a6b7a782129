"""The heap of a set copy."""

from __future__ import annotations

import itertools
import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import SetFull
from ldmsjob.sets.heap import Heap, element_cost, heap_capacity, heap_size_for


class HeapTests(SynchronousTestCase):
    """Allocation and release."""

    def setUp(self) -> None:
        """A heap of 1024 bytes at offset 100 of an image."""
        self.image = bytearray(100 + 1024 + 100)
        self.heap = Heap(self.image, 1024)

    def test_costs(self) -> None:
        """Whole grains of 64 bytes, for the length before it, the entry's header and the value."""
        self.assertEqual(element_cost(0), 64)
        self.assertEqual(element_cost(48), 64)
        self.assertEqual(element_cost(49), 128)
        self.assertEqual(element_cost(320), 384)

    def test_last_grain_is_not_used(self) -> None:
        """The signature takes 8 bytes, so the last grain would end outside of the heap."""
        self.assertEqual(heap_capacity(0), 0)
        self.assertEqual(heap_capacity(512), 448)
        self.assertEqual(heap_capacity(4096) // element_cost(320), 10)
        self.assertEqual(heap_size_for(448), 512)
        self.assertEqual(heap_size_for(512), 1024)
        for _ in range(15):
            self.heap.allocate(100, 60)
        self.assertRaises(SetFull, self.heap.allocate, 100, 1)

    def test_offsets_and_lengths(self) -> None:
        """Memory stands 4 bytes behind a grain's beginning, where its length in grains is."""
        self.assertEqual(self.heap.allocate(100, 332), 12)
        self.assertEqual(self.heap.allocate(100, 20), 8 + 6 * 64 + 4)
        self.assertEqual(struct.unpack_from("<I", self.image, 108), (6,))

    def test_smallest_chunk_that_fits(self) -> None:
        """A gap that fits is taken before the rest of the heap, the smallest first."""
        first, _, second, _ = (self.heap.allocate(100, size) for size in (200, 20, 100, 20))
        self.heap.release(100, first)
        self.heap.release(100, second)
        self.assertEqual(self.heap.allocate(100, 100), second)
        self.assertEqual(self.heap.allocate(100, 100), first)

    def test_neighbours_merge(self) -> None:
        """Released neighbours are one piece again, in whatever order they are released."""
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
            chunks = [self.heap.allocate(100, 60) for _ in range(3)]
            for index in order:
                self.heap.release(100, chunks[index])
            whole = self.heap.allocate(100, 15 * 64 - 4)
            self.assertEqual(whole, 12)
            self.heap.release(100, whole)

    @given(
        st.lists(st.tuples(st.booleans(), st.integers(1, 300), st.integers(0, 100)), max_size=60)
    )
    def test_no_overlap(self, steps: list[tuple[bool, int, int]]) -> None:
        """Pieces in use never overlap or leave the heap; free memory is zero, all comes back."""
        image = bytearray(100 + 1024 + 100)
        heap = Heap(image, 1024)
        used: list[tuple[int, int]] = []
        for take, size, choice in steps:
            if take:
                try:
                    offset = heap.allocate(100, size)
                except SetFull:
                    continue
                piece = slice(100 + offset, 100 + offset + size)
                self.assertEqual(bytes(image[piece]), bytes(size))
                image[piece] = b"\xff" * size
                used.append((offset, size))
            elif used:
                offset, _size = used.pop(choice % len(used))
                heap.release(100, offset)
        spans = sorted((offset - 4, offset + size) for offset, size in used)
        for (_, end), (start, _) in itertools.pairwise(spans):
            self.assertLessEqual(end, start)
        self.assertTrue(all(start >= 8 and end <= 1024 for start, end in spans))
        for offset, _size in used:
            heap.release(100, offset)
        self.assertEqual(bytes(image), bytes(len(image)))
        self.assertEqual(heap.allocate(100, 15 * 64 - 4), 12)
