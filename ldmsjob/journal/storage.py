"""The journal's database: opening it, one transaction at a time, pruning."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import msgspec

from ldmsjob.errors import ConfigError
from ldmsjob.journal.records import (
    JobRow,
    StoredNotice,
    StoredTurn,
    decode_about,
    decode_turns,
    encode,
    turn_parts,
)
from ldmsjob.journal.tables import Damaged, check_format, look_through, make_tables
from ldmsjob.journal.tail import SIDE, Record, Tail, in_batches, read_tail

_PUT_JOB = "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?)"
_PUT_FOUND_JOB = "INSERT OR IGNORE INTO jobs VALUES (?, ?, ?, ?, ?, ?)"
_PUT_TURN = "INSERT INTO turns VALUES (?, ?, ?, ?, ?)"
_PUT_KEPT = "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)"
_DROP_KEPT = "DELETE FROM kept WHERE owner = ? AND name = ?"
_OLDEST = "SELECT * FROM turns WHERE number > ? ORDER BY number"
_NOT_FORGOTTEN = "SELECT job FROM jobs WHERE job <= ? AND (ended_us IS NULL OR ended_us >= ?)"
_TURNS_OF_JOBS = """
SELECT notices FROM turns
WHERE number >= (SELECT min(first_notice) FROM jobs WHERE ended_us IS NULL OR ended_us > ?)
ORDER BY number
"""
_NEWEST_NOTICE = """
SELECT max(
    coalesce((SELECT max(number) FROM turns), 0),
    coalesce((SELECT value FROM kept WHERE owner = ? AND name = 'number'), 0)
)
"""
_USED_BYTES = """
SELECT (page_count - freelist_count) * page_size
FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
_DROP_JOBS = "DELETE FROM jobs WHERE job <= ? AND ended_us < ? AND last_notice <= ?"

_OWN = "journal"
"""Owner of what the journal keeps of itself: the highest numbers, when their rows may be gone, and
how far jobs have rows."""

SETTLED = (_OWN, "settled")
"""Under which name is kept up to which notice jobs that began with it, and run, have their rows;
later ones are to be found in the turns."""

_SIDES = ("", "-wal", "-shm", SIDE)


TURNS_BEHIND = "SELECT number, notices FROM turns WHERE number > ? ORDER BY number"


def _told(error: Exception) -> Exception:
    """``Damaged`` for an error of which the file itself is at fault, and not the disk or the
    directory that it is in."""
    # SQLite quotes what it does not understand, whatever bytes these are.
    by_content = isinstance(error, (sqlite3.IntegrityError, UnicodeDecodeError))
    if by_content or type(error) is sqlite3.DatabaseError:
        return Damaged(str(error))
    return error


@contextmanager
def _telling_damage() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _told(error) from error


class JournalFile:
    """An open journal, held by this process alone for writing; anybody may read it.

    ``tail`` is the file beside it for what is not in the database yet. Every other method raises
    ``sqlite3.Error`` when the disk fails, after which nothing of that transaction has been written,
    and ``Damaged`` when the file turns out to be damaged.
    """

    def __init__(self, path: str) -> None:
        """Open or make it. Raises ``ConfigError`` with rc 16 when another process writes it,
        ``OSError`` and ``sqlite3.Error`` when it cannot be opened, ``Damaged``."""
        self.path = path
        self._lock = _lock(f"{path}.lock")
        try:
            self._database = _open(path)
            # All that is done again and again goes through this one. A connection remembers up to
            # 200 of its dead cursors, and each keeps the memory around it.
            self._cursor = self._database.cursor()
            self._place = _place(path)
            try:
                self.tail = Tail(path + SIDE)
            except BaseException:
                self._database.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise

    def check_place(self) -> None:
        """Raise ``Damaged`` when somebody has taken the file away or put another one there: what
        is written would be lost, and nobody would know. Raises ``OSError``."""
        try:
            place = _place(self.path)
        except FileNotFoundError:
            raise Damaged("somebody has removed it") from None
        if place != self._place:
            raise Damaged("somebody has put another file in its place")
        self.tail.check_place()

    def close(self) -> None:
        """Close it; all that was written is in the one file then, if the tail was emptied.
        Raises ``OSError``, too."""
        try:
            self._database.close()
            self.tail.close()
        finally:
            os.close(self._lock)

    def take_tail(self) -> str | None:
        """Write what a daemon that was killed has left in the tail, and empty it; returns the new
        name of one that is damaged in the middle. Raises ``OSError``, too."""
        records, is_whole = read_tail(self.tail.path)
        for batch in in_batches(records):
            self.write(batch)
        if is_whole:
            self.tail.empty()
            return None
        aside = set_aside(self.tail.path)
        self.tail.check_place()
        return aside

    def last_numbers(self) -> tuple[int, int, int]:
        """The highest numbers that were ever in use: of jobs, of notices, and of events."""
        pruned = self.kept(_OWN)
        (in_rows,) = self._all("SELECT max(job) FROM jobs")[0]
        newest = self._all(
            "SELECT job, number, sequence FROM turns ORDER BY number DESC LIMIT 1"
        ) or [(0, 0, 0)]
        job, number, sequence = newest[0]
        return (
            max(job, in_rows or 0, pruned.get("job", 0)),
            max(number, pruned.get("number", 0)),
            max(sequence, pruned.get("sequence", 0)),
        )

    def kept(self, owner: str) -> dict[str, int]:
        """What that owner keeps."""
        return dict(self._all("SELECT name, value FROM kept WHERE owner = ?", owner))

    def settle(self) -> None:
        """Write the rows of jobs of which only the turns tell that they have begun, in a
        transaction."""
        settled = read_settled(self._cursor)
        found: list[JobRow] = []
        with _telling_damage():
            for number, data in self._database.execute(TURNS_BEHIND, (settled,)):
                settled = number
                found += begun_jobs(number, decode_turns(data))
        if found:
            with self._transaction() as cursor:
                cursor.executemany(_PUT_FOUND_JOB, found)
                cursor.execute(_PUT_KEPT, (*SETTLED, settled))

    def jobs(self, ended_after_us: int) -> list[JobRow]:
        """Rows of jobs that have not ended, or ended after that time, oldest first."""
        return self._all(
            "SELECT * FROM jobs WHERE ended_us IS NULL OR ended_us > ? ORDER BY job", ended_after_us
        )

    def turns(self, ended_after_us: int) -> Iterator[bytes]:
        """The notices of all turns since the first of these jobs has begun, in order."""
        with _telling_damage():
            for (data,) in self._database.execute(_TURNS_OF_JOBS, (ended_after_us,)):
                yield data

    def write(self, records: Sequence[Record]) -> None:
        """One transaction with all that these records tell, their notices as one row. Notices that
        are there already are not written again."""
        with _telling_damage():
            newest = newest_notice(self._cursor)
        told = [record.turn for record in records if record.length and record.number > newest]
        changed = [record.rows for record in records if record.rows is not None]
        jobs = [row for of_jobs, _ in changed for row in of_jobs]
        with self._transaction() as cursor:
            if jobs:
                cursor.executemany(_PUT_JOB, jobs)
            if told:
                last = turn_parts(told[-1])
                row = last.number, last.received_us, last.job, last.sequence, encode(told)
                cursor.execute(_PUT_TURN, row)
            for owner, name, value in [row for _, of_keepers in changed for row in of_keepers]:
                if value is None:
                    cursor.execute(_DROP_KEPT, (owner, name))
                else:
                    cursor.execute(_PUT_KEPT, (owner, name, value))

    def end_job(self, job: int, ended_us: int, last_notice: int) -> None:
        """Mark a job as ended that has no end, in a transaction."""
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE jobs SET ended_us = ?, last_notice = ? WHERE job = ? AND ended_us IS NULL",
                (ended_us, last_notice, job),
            )

    def prune(self, after: int, ended_before_us: int, at_most: int) -> tuple[int, int]:
        """Go through about ``at_most`` notices of turns behind number ``after``, and delete those
        of jobs that ended before that time, and such jobs when they have none any more.

        A turn is written anew only when half of it is to go: what is left of it then is of jobs
        that have no rows. Returns where to go on, 0 when that is at the beginning, and how many
        notices were deleted.
        """
        old, last, is_more = self._old_turns(after, ended_before_us, at_most)
        # This also ends the reading above, which may have stopped half-way.
        numbers = zip(("job", "number", "sequence"), self.last_numbers(), strict=True)
        if not old:
            return 0, 0
        newest_job = max(turn.job for turn in old)
        wanted = {job for (job,) in self._all(_NOT_FORGOTTEN, newest_job, ended_before_us)}
        deleted, rewritten, count = [], [], 0
        for turn in old:
            left = [notice for notice in turn.notices if notice.job in wanted]
            if 2 * len(left) <= len(turn.notices):
                count += len(turn.notices) - len(left)
                if left:
                    rest = msgspec.structs.replace(turn, notices=left)
                    rewritten.append((encode([encode(rest)]), turn.number))
                else:
                    deleted.append((turn.number,))
        with self._transaction() as cursor:
            if deleted or rewritten:
                cursor.executemany(_PUT_KEPT, [(_OWN, *number) for number in numbers])
                cursor.executemany("DELETE FROM turns WHERE number = ?", deleted)
                cursor.executemany("UPDATE turns SET notices = ? WHERE number = ?", rewritten)
            cursor.execute(_DROP_JOBS, (newest_job, ended_before_us, last))
        # Turns that a clock has told to be of the future must not end it.
        return last if is_more else 0, count

    def _old_turns(
        self, after: int, before_us: int, at_most: int
    ) -> tuple[list[StoredTurn], int, bool]:
        """Turns behind that number that came before that time, those of one row as one; the number
        of the last one looked at, and whether there are more."""
        old: list[StoredTurn] = []
        last, count = after, 0
        settled = read_settled(self._cursor)
        with _telling_damage():
            for number, received_us, job, sequence, data in self._cursor.execute(_OLDEST, (after,)):
                if number > settled:
                    break
                if count >= at_most:
                    return old, last, True
                last = number
                count += 1
                if received_us < before_us:
                    notices = decode_turns(data)
                    old.append(StoredTurn(number, received_us, job, sequence, notices))
                    count += len(notices) - 1
        return old, last, False

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self._cursor
        try:
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            cursor.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # What made the transaction fail is what is told.
                if self._database.in_transaction:
                    cursor.execute("ROLLBACK")
            if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):
                raise _told(error) from error
            raise

    def has_log(self) -> bool:
        """Whether something stands in the log beside the file."""
        try:
            return os.path.getsize(f"{self.path}-wal") > 0
        except OSError:
            return False

    def used_bytes(self) -> int:
        """Bytes of the file that are in use: what is deleted is used again."""
        ((size,),) = self._all(_USED_BYTES)
        return int(size)

    def _all(self, query: str, *values: Any) -> list[Any]:
        with _telling_damage():
            return self._cursor.execute(query, values).fetchall()


def open_for_reading(path: str) -> sqlite3.Connection:
    """A connection that reads what has been committed. Raises ``OSError``, ``sqlite3.Error``,
    ``Damaged``."""
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    try:
        return _connect_for_reading(path, "mode=ro")
    except sqlite3.OperationalError:
        if not os.path.exists(f"{path}-wal"):
            # Where nothing can be written SQLite cannot make the files by which readers and writers
            # know of one another. Without a log there is no writer.
            return _connect_for_reading(path, "mode=ro&immutable=1")
        raise


def _connect_for_reading(path: str, how: str) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"file:{quote(os.path.abspath(path))}?{how}", uri=True, isolation_level=None, timeout=2
    )
    try:
        check_format(database)
    except BaseException:
        database.close()
        raise
    return database


def newest_notice(database: sqlite3.Connection | sqlite3.Cursor) -> int:
    """The number of the newest notice that ever was in it. Raises ``sqlite3.Error``."""
    found = database.execute(_NEWEST_NOTICE, (_OWN,))
    return int(found.fetchone()[0])


def read_settled(database: sqlite3.Connection | sqlite3.Cursor) -> int:
    """Up to which notice jobs that run have rows. Raises ``sqlite3.Error``."""
    found = database.execute("SELECT value FROM kept WHERE owner = ? AND name = ?", SETTLED)
    row = found.fetchone()
    return int(row[0]) if row else 0


def begun_jobs(number: int, notices: Sequence[StoredNotice]) -> Iterator[JobRow]:
    """The rows that jobs which begin with these notices have at first, the last of which has that
    number; without what cannot be read."""
    for this, notice in enumerate(notices, number - len(notices) + 1):
        if notice.has_about():
            about = bytearray(notice.about_blob)
            with suppress(msgspec.MsgspecError):
                yield notice.job, this, None, decode_about(about).job_id, None, about


def set_aside(path: str) -> str:
    """Rename a damaged journal, so that a new one can be made; returns its new name, which is
    empty when there is none.

    Raises ``OSError``.
    """
    is_there = os.path.lexists(path)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    aside, count = f"{path}.damaged-{stamp}", 1
    while os.path.exists(aside):
        count += 1
        aside = f"{path}.damaged-{stamp}.{count}"
    for side in _SIDES:
        if os.path.exists(path + side):
            os.rename(path + side, aside + side)
    return aside if is_there else ""


def _place(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _lock(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ConfigError(
            f"another ldmsjob writes {path.removesuffix('.lock')}",
            rc=16,
            hint="stop it, or give each its own: journal path=…",
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(path: str) -> sqlite3.Connection:
    made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.close(made)
    database = sqlite3.connect(path, isolation_level=None, timeout=1)
    database.text_factory = bytes.decode  # which raises what is told from faults of the disk
    try:
        with _telling_damage():
            _prepare(database)
    except BaseException:
        database.close()
        raise
    return database


def _prepare(database: sqlite3.Connection) -> None:
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables:
        look_through(database)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    # Copying the log into the file waits for the disk; a thread does it.
    database.execute("PRAGMA wal_autocheckpoint = 0")
    if not tables:
        make_tables(database)
