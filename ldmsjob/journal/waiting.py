"""Turns that are over, until the database has them."""

from __future__ import annotations

from collections.abc import Sequence

from ldmsjob.journal.tail import Record, in_batches, is_batch

_MAX_BYTES = 500
"""What a notice takes of the tail at most, on the average, with all that belongs to it. It takes
twice that of the memory: as it goes into the tail, and as it goes into the database."""


class WaitingTurns:
    """Their records, in order. The last ``missing`` of them are not in the tail, but in memory
    alone: those since the tail has refused them.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.missing = 0
        self.notices = 0
        """How many are in the records."""
        self.size = 0
        """The bytes of all records."""
        self.is_batch = False
        """Whether as much waits as goes into the database at once."""

    def add(self, record: Record) -> None:
        """A turn is over, whose record is in the tail or about to be there."""
        self.records.append(record)
        self.notices += record.length
        self.size += len(record.framed)
        self.is_batch = is_batch(self.notices, self.size)

    def missing_records(self) -> list[Record]:
        """What the tail does not have."""
        return self.records[len(self.records) - self.missing :]

    def missing_notices(self) -> int:
        """How many notices the tail does not have."""
        return sum(record.length for record in self.missing_records())

    def batch(self) -> Sequence[Record]:
        """The oldest ones, as many as go into the database at once."""
        records = self.records
        if not records or is_batch(
            self.notices - records[-1].length, self.size - len(records[-1].framed)
        ):
            return next(in_batches(records), ())
        return list(records)  # as nearly always: the last one has made it a batch, if it is one

    def remove(self, records: int) -> int:
        """So many of the oldest wait no more; returns how many notices that are."""
        gone, self.records = self.records[:records], self.records[records:]
        if self.records:
            notices = sum([record.length for record in gone])
            self.notices -= notices
            self.size -= sum([len(record.framed) for record in gone])
        else:
            notices = self.notices
            self.notices = self.size = 0
        self.is_batch = is_batch(self.notices, self.size)
        self.missing = min(self.missing, len(self.records))
        return notices

    def trim(self, at_most: int) -> int:
        """With more than so many notices, or what takes more memory than these would, give up the
        oldest turns, a tenth of that at least; returns how many notices are lost."""
        if self.notices <= at_most and self.size <= at_most * _MAX_BYTES:
            return 0
        records, notices, size = 0, self.notices, self.size
        while notices > at_most * 9 // 10 or size > at_most * _MAX_BYTES * 9 // 10:
            record = self.records[records]
            notices -= record.length
            size -= len(record.framed)
            records += 1
        return self.remove(records)

    def renumber(self, by_notices: int, by_jobs: int) -> None:
        """Raise the numbers of all notices and jobs."""
        self.records = [record.renumbered(by_notices, by_jobs) for record in self.records]
