"""The tail: a file beside the database, to which each turn is appended when it is over.

That takes a fraction of what a transaction takes, and survives the end of the process just as well.
What stands in the tail is written to the database in batches, and the tail emptied.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from zlib import crc32

import msgspec

from ldmsjob.journal.records import count_notices, decode_rows, encode, renumbered

SIDE = "-tail"
"""How its name goes on behind that of the database."""

BATCH_NOTICES = 500
BATCH_BYTES = 1 << 18
"""What goes into the database at once, whichever is less: a few milliseconds' work."""

_HEAD = struct.Struct("<4sII")
"""In front of each record: a mark, the length of what follows, its CRC-32."""

_FIELDS = struct.Struct("<QqQQI")
"""A record begins with its numbers, as ``Record`` has them, and the length of the rows, which
follow. The notices are behind them."""

_MARK = b"ldjt"


class Record(msgspec.Struct, frozen=True, gc=False):
    """What one turn has brought."""

    number: int
    """Of its last notice: they are counted for ever. If it has none, of the last one before it."""
    received_us: int
    """When its last notice came."""
    job: int
    """The highest number of a job so far."""
    sequence: int
    """The highest number of an event so far."""
    notices: bytes
    """Encoded."""
    length: int
    """How many notices these are."""
    rows: bytes
    """Rows of jobs, and what is kept, encoded; empty when there are none."""

    def framed(self) -> bytes:
        """The record as it stands in the tail."""
        rows = self.rows
        numbers = self.number, self.received_us, self.job, self.sequence, len(rows)
        content = _FIELDS.pack(*numbers) + rows + self.notices
        return _HEAD.pack(_MARK, len(content), crc32(content)) + content

    def renumbered(self, by_notices: int, by_jobs: int) -> Record:
        """The same, with notices and jobs whose numbers are higher by that."""
        jobs, kept = decode_rows(self.rows) if self.rows else ([], [])
        rows = [
            (job + by_jobs, first + by_notices, last and last + by_notices, *rest)
            for job, first, last, *rest in jobs
        ]
        return msgspec.structs.replace(
            self,
            number=self.number + by_notices,
            job=self.job + by_jobs,
            notices=renumbered(self.notices, by_jobs),
            rows=encode((rows, kept)) if self.rows else b"",
        )


class Tail:
    """The open tail of a journal that this process writes. All methods raise ``OSError``."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        self.size = os.fstat(self._fd).st_size
        self._is_ragged = False

    def append(self, data: bytes) -> None:
        """Append framed records: all of them, or, when it raises, none."""
        if self._is_ragged:
            self._cut()
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        except OSError:
            self._is_ragged = True
            with suppress(OSError):  # It is tried again before anything else is appended.
                self._cut()
            raise
        self.size += len(data)

    def _cut(self) -> None:
        os.ftruncate(self._fd, self.size)
        self._is_ragged = False

    def empty(self) -> None:
        """All that stands in it is in the database."""
        if self.size:
            os.ftruncate(self._fd, 0)
            self.size = 0
            self._is_ragged = False

    def check_place(self) -> None:
        """Begin another one when somebody has taken the file away or put another one there. What
        stood in it must be in the database."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
                return
        os.close(self._fd)
        self._open()

    def close(self) -> None:
        """Close it; an empty one goes."""
        if not self.size:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
        os.close(self._fd)


def read_tail(path: str) -> tuple[list[Record], bool]:
    """The records in the tail, none if there is no file, and whether it is whole.

    A record at its end that is not whole is none: its turn has not been answered. Whole ones behind
    one that is not mean that the file is damaged. A writer may be at work meanwhile; then nothing
    is missing that was in the tail alone. Raises ``OSError``.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return [], True
    records: list[Record] = []
    at = 0
    while (found := _record_at(data, at)) is not None:
        content, at = found
        try:
            records.append(_parsed(content))
        except (struct.error, msgspec.MsgspecError):
            return records, False
    behind = at
    while (behind := data.find(_MARK, behind + 1)) >= 0:
        if _record_at(data, behind) is not None:
            return records, False
    return records, True


def _record_at(data: bytes, at: int) -> tuple[bytes, int] | None:
    """What is in the record there, and where it ends; None if there is no whole one."""
    begin = at + _HEAD.size
    if begin > len(data):
        return None
    mark, size, checksum = _HEAD.unpack_from(data, at)
    content = data[begin : begin + size]
    if mark != _MARK or len(content) != size or crc32(content) != checksum:
        return None
    return content, begin + size


def _parsed(content: bytes) -> Record:
    number, received_us, job, sequence, size = _FIELDS.unpack_from(content)
    rows = content[_FIELDS.size : _FIELDS.size + size]
    notices = content[_FIELDS.size + size :]
    length = count_notices(notices)
    return Record(number, received_us, job, sequence, notices, length, rows)


def in_batches(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    """The records in order, about so many at once as go into the database at once."""
    batch: list[Record] = []
    notices = size = 0
    for record in records:
        batch.append(record)
        notices += record.length
        size += len(record.notices) + len(record.rows)
        if notices >= BATCH_NOTICES or size >= BATCH_BYTES:
            yield batch
            batch = []
            notices = size = 0
    if batch:
        yield batch
