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

from ldmsjob.journal.records import Rows, decode_rows, decode_turn, encode, turn_parts

SIDE = "-tail"
"""How its name goes on behind that of the database."""

BATCH_NOTICES = 500
BATCH_BYTES = 1 << 18
"""What goes into the database at once, whichever is less: a few milliseconds' work."""

_HEAD = struct.Struct("<4sIII")
"""In front of each record: a mark; the length of what follows; its CRC-32, which begins with the
next number; how much of it the rows take, which are behind the turn."""

_MARK = b"ldjt"


class Record(msgspec.Struct, frozen=True, gc=False):
    """What one turn has brought."""

    number: int
    """Of its last notice: they are counted for ever. If it has none, of the last one before it."""
    length: int
    """How many notices these are."""
    turn: bytes
    """It, encoded."""
    rows: Rows | None
    framed: bytes
    """The record as it stands in the tail."""

    def renumbered(self, by_notices: int, by_jobs: int) -> Record:
        """The same, with notices and jobs whose numbers are higher by that."""
        old = decode_turn(self.turn)
        number = old.number + by_notices
        notices = [msgspec.structs.replace(one, job=one.job + by_jobs) for one in old.notices]
        turn = encode((number, old.received_us, old.job + by_jobs, old.sequence, notices))
        rows: Rows | None = None
        if self.rows is not None:
            jobs = [
                (row[0] + by_jobs, row[1] + by_notices, row[2] and row[2] + by_notices, *row[3:])
                for row in self.rows[0]
            ]
            rows = jobs, self.rows[1]
        return make_record(number, len(notices), turn, rows)


def make_record(number: int, length: int, turn: bytes, rows: Rows | None) -> Record:
    """The record of an encoded turn of so many notices, the last of which has that number."""
    if rows is None:
        size = 0
        content = turn
    else:
        encoded = encode(rows)
        size = len(encoded)
        content = turn + encoded
    framed = _HEAD.pack(_MARK, len(content), crc32(content, size), size) + content
    return Record(number, length, turn, rows, framed)


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
            written = os.write(self._fd, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        except OSError:
            self._is_ragged = True
            with suppress(OSError):  # It is tried again before anything else is appended.
                self._cut()
            raise
        self.size += written

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
    while (found := _content_at(data, at)) is not None:
        turn, rows, at = found
        try:
            parts = turn_parts(turn)
            told = decode_rows(rows) if rows else None
        except msgspec.MsgspecError:
            return records, False
        records.append(make_record(parts.number, len(parts.notices), turn, told))
    behind = at
    while (behind := data.find(_MARK, behind + 1)) >= 0:
        if _content_at(data, behind) is not None:
            return records, False
    return records, True


def _content_at(data: bytes, at: int) -> tuple[bytes, bytes, int] | None:
    """Turn and rows of the record there, and where it ends; None if there is no whole one."""
    begin = at + _HEAD.size
    if begin > len(data):
        return None
    mark, length, checksum, size = _HEAD.unpack_from(data, at)
    content = data[begin : begin + length]
    if mark != _MARK or len(content) != length or crc32(content, size) != checksum:
        return None
    return content[: length - size], content[length - size :], begin + length


def is_batch(notices: int, size: int) -> bool:
    """Whether that many notices, and bytes, are as many as go into the database at once."""
    return notices >= BATCH_NOTICES or size >= BATCH_BYTES


def in_batches(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    """The records in order, about so many at once as go into the database at once."""
    batch: list[Record] = []
    notices = size = 0
    for record in records:
        batch.append(record)
        notices += record.length
        size += len(record.framed)
        if is_batch(notices, size):
            yield batch
            batch = []
            notices = size = 0
    if batch:
        yield batch
