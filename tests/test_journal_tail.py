"""The tail of a journal as a file: whatever is missing of it, what is in front can be read."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.journal.records import Rows, encode
from ldmsjob.journal.tail import Record, Tail, in_batches, make_record, read_tail
from ldmsjob.notices import JobInit

_lengths = st.lists(st.integers(0, 20), min_size=1, max_size=8)


def records_of(lengths: list[int]) -> list[Record]:
    """A record with so many notices for each number."""
    records = []
    number = 0
    for length in lengths:
        number += length
        told = [
            (1, None, 5, "message", JobInit(f"ldjt{length}"), [(0, 1, 5, "message", None)])
        ] * length
        rows: Rows | None = None if length % 2 else ([], [("owner", "name", length)])
        records.append(make_record(number, length, encode((number, 5, 1, 2, told)), rows))
    return records


class TailTests(SynchronousTestCase):
    """A file of records."""

    def setUp(self) -> None:
        """None yet."""
        self.path = self.mktemp()

    def write(self, data: bytes) -> None:
        """Make the file."""
        with open(self.path, "wb") as file:
            file.write(data)

    @given(_lengths, st.data())
    @settings(deadline=None)
    def test_cut(self, lengths: list[int], data: st.DataObject) -> None:
        """Cut anywhere it gives the records that are whole, and is not damaged."""
        records = records_of(lengths)
        frames = [record.framed for record in records]
        whole = b"".join(frames)
        cut = data.draw(st.integers(0, len(whole)))
        self.write(whole[:cut])
        left = 0
        while left < len(frames) and len(b"".join(frames[: left + 1])) <= cut:
            left += 1
        self.assertEqual(read_tail(self.path), (records[:left], True))

    @given(_lengths, st.data())
    @settings(deadline=None)
    def test_damage(self, lengths: list[int], data: st.DataObject) -> None:
        """A byte that has changed costs its record and those behind; it shows when there are any
        behind."""
        records = records_of(lengths)
        frames = [record.framed for record in records]
        whole = bytearray(b"".join(frames))
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] ^= data.draw(st.integers(1, 255))
        self.write(bytes(whole))
        hit = next(n for n in range(len(frames)) if len(b"".join(frames[: n + 1])) > at)
        self.assertEqual(read_tail(self.path), (records[:hit], hit == len(records) - 1))

    @given(st.binary(max_size=200))
    def test_anything(self, content: bytes) -> None:
        """What is no tail has no record."""
        self.write(content)
        self.assertEqual(read_tail(self.path), ([], True))

    def test_zeros(self) -> None:
        """What a power cut may leave behind the last record is its end."""
        records = records_of([1, 2])
        self.write(b"".join(record.framed for record in records) + bytes(5000))
        self.assertEqual(read_tail(self.path), (records, True))

    def test_no_file(self) -> None:
        """Nothing waits."""
        self.assertEqual(read_tail(self.path), ([], True))

    def test_emptied_while_open(self) -> None:
        """What is appended then stands at its beginning."""
        tail = Tail(self.path)
        first, second = records_of([3, 4])
        tail.append(first.framed)
        tail.empty()
        tail.append(second.framed)
        self.assertEqual(read_tail(self.path), ([second], True))
        tail.close()
        self.assertTrue(os.path.exists(self.path))

    def test_empty_one_goes(self) -> None:
        """When it is closed."""
        tail = Tail(self.path)
        tail.append(records_of([3])[0].framed)
        tail.empty()
        tail.close()
        self.assertFalse(os.path.exists(self.path))

    def test_batches(self) -> None:
        """As many as reach the size of one; the rest is one, too."""
        sizes = [sum(one.length for one in batch) for batch in in_batches(records_of([300] * 5))]
        self.assertEqual(sizes, [600, 600, 300])
