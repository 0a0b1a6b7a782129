"""Turns that are over, until they are written: a moment, or as long as the disk refuses them."""

from __future__ import annotations

from collections.abc import Sequence

from ldmsjob.journal.records import NewNotice, count_notices, encode, renumbered
from ldmsjob.journal.storage import TurnRow


class WaitingTurns:
    """The turns that are to be written, encoded."""

    def __init__(self) -> None:
        self.rows: list[TurnRow] = []
        self.notices = 0
        """How many notices are in them."""

    def add(self, number: int, notices: Sequence[NewNotice], job: int, sequence: int) -> None:
        """A turn is over; ``job`` and ``sequence`` are the highest numbers of a job and of an event
        so far. Raises one of ``UNENCODABLE``."""
        self.rows.append((number, notices[-1][2], job, sequence, encode(notices)))
        self.notices += len(notices)

    def clear(self) -> None:
        """They are written."""
        self.rows.clear()
        self.notices = 0

    def trim(self, at_most: int) -> int:
        """Give up the oldest turns until no more than so many notices are left; returns how many
        notices are lost."""
        lost = turns = 0
        while self.notices - lost > at_most:
            lost += count_notices(self.rows[turns][4])
            turns += 1
        del self.rows[:turns]
        self.notices -= lost
        return lost

    def renumber(self, by_turns: int, by_jobs: int) -> None:
        """Raise the numbers of all turns and jobs."""
        self.rows = [
            (number + by_turns, received_us, job + by_jobs, sequence, renumbered(data, by_jobs))
            for number, received_us, job, sequence, data in self.rows
        ]
