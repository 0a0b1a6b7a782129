"""The table of sets that ``ldmsjob ls`` draws on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ldmsjob.cli.ls_text import UPDATE_HINT, age_of
from ldmsjob.cli.output import printable
from ldmsjob.wire.setevents import DirectoryEntry

DIGEST_DIGITS = 6
"""What a person compares."""


def print_table(
    entries: Sequence[DirectoryEntry], output: TextIO, *, verbose: int, now: float
) -> None:
    """Draw the sets by name; more of them if ``verbose``, and the beginnings of digests if
    it is 2.

    ``now`` is the time in seconds.
    """
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Set", overflow="fold", min_width=12)
    table.add_column("Schema", overflow="fold", min_width=8)
    table.add_column("Age", justify="right", no_wrap=True)
    if verbose:
        for heading in ("Flags", "Perm", "Owner"):
            table.add_column(heading, no_wrap=True)
        for heading in ("Metrics", "Bytes", "Every"):
            table.add_column(heading, justify="right", no_wrap=True)
    if verbose > 1:
        table.add_column("Digest", no_wrap=True, min_width=DIGEST_DIGITS)
    for entry in sorted(entries, key=lambda entry: entry.name):
        cells = [entry.name, entry.schema, _age(entry, now)]
        if verbose:
            cells += [entry.flags.strip(), entry.perm, f"{entry.uid}:{entry.gid}"]
            cells += [str(entry.card), str(_bytes(entry)), _interval(entry)]
        if verbose > 1:
            cells.append(entry.digest[:DIGEST_DIGITS])
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console = Console(file=output, highlight=False)
    console.print(table)
    if verbose:
        console.print(f"{len(entries)} sets, {sum(map(_bytes, entries))} bytes")


def _bytes(entry: DirectoryEntry) -> int:
    return entry.meta_size + entry.array_card * entry.data_size


def _age(entry: DirectoryEntry, now: float) -> str:
    """How long ago the set was last written, in two or three digits."""
    if not entry.timestamp.sec:
        return "never"
    age = max(age_of(entry, now), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if age >= 2 * size:
            return f"{age / size:.0f}{unit}"
    return f"{age:.0f}s"


def _interval(entry: DirectoryEntry) -> str:
    for item in entry.info:
        if item.key == UPDATE_HINT:
            interval = item.value.partition(":")[0]
            if interval.isascii() and interval.isdigit():
                return f"{int(interval) / 1e6:g}s"
    return ""
