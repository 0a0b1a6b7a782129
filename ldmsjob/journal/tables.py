"""The tables of the journal's database, and whether a file has them, whole."""

from __future__ import annotations

import sqlite3

FORMAT = 4
"""``user_version`` of the file; one with another number is set aside. Another text of a table is
another format, too."""

CHECKED_BYTES = 64 << 20
"""A journal up to this size is looked through when it is opened, which takes a quarter of a second
at most: rows in a damaged table may be missing without a word. Of a larger one damage shows when it
is met."""

_APPLICATION = 0x6C646A6D
"""``application_id`` of the file: "ldjm"."""

_TABLES = {
    "jobs": """CREATE TABLE jobs (
    job INTEGER PRIMARY KEY,
    first_notice INTEGER NOT NULL,
    last_notice INTEGER,
    job_id TEXT NOT NULL,
    ended_us INTEGER,
    about BLOB NOT NULL
)""",
    "turns": """CREATE TABLE turns (
    number INTEGER PRIMARY KEY,
    received_us INTEGER NOT NULL,
    job INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    notices BLOB NOT NULL
)""",
    "kept": """CREATE TABLE kept (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) WITHOUT ROWID""",
}
# No further indexes: each would be written with every job, and is read by nobody but people.

# A column holds values of any type, whatever its table says.
_MISTYPED = """
SELECT 1 FROM jobs WHERE
    (typeof(first_notice), typeof(job_id), typeof(about)) != ('integer', 'text', 'blob')
    OR typeof(last_notice) NOT IN ('integer', 'null') OR typeof(ended_us) NOT IN ('integer', 'null')
UNION ALL SELECT 1 FROM turns WHERE
    (typeof(received_us), typeof(job), typeof(sequence), typeof(notices))
    != ('integer', 'integer', 'integer', 'blob')
UNION ALL SELECT 1 FROM kept WHERE
    (typeof(owner), typeof(name), typeof(value)) != ('text', 'text', 'integer')
LIMIT 1
"""


class Damaged(Exception):
    """The file is no journal, or is not whole."""


def make_tables(database: sqlite3.Connection) -> None:
    """Make a journal of an empty database. Raises ``sqlite3.Error``."""
    tables = ";".join(_TABLES.values())
    database.executescript(
        f"BEGIN; {tables}; PRAGMA user_version = {FORMAT};"
        f"PRAGMA application_id = {_APPLICATION}; COMMIT;"
    )


def check_format(database: sqlite3.Connection) -> None:
    """Raise ``Damaged`` unless it is a journal of this format. Raises ``sqlite3.Error``."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    if (version, application) != (FORMAT, _APPLICATION):
        if application == _APPLICATION:
            raise Damaged(f"it has format {version}, and this version of ldmsjob format {FORMAT}")
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        raise Damaged("it is no journal" if tables or version or application else "it is empty")
    found = dict(database.execute("SELECT name, sql FROM sqlite_master"))
    if not _TABLES.items() <= found.items():
        raise Damaged("tables are missing, or not as they should be")


def look_through(database: sqlite3.Connection) -> None:
    """Raise ``Damaged`` unless it is a journal of this format and, if that takes no long time, all
    of it is whole. Raises ``sqlite3.Error``."""
    check_format(database)
    (pages,), (size,) = (
        database.execute(f"PRAGMA {word}").fetchone() for word in ("page_count", "page_size")
    )
    if pages * size <= CHECKED_BYTES:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise Damaged(" ".join(found.split()))
        if database.execute(_MISTYPED).fetchone():
            raise Damaged("a value is of another type than its column")
