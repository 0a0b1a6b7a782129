"""``ldmsjob jobs``: jobs that run and that ran, from the journal."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ldmsjob.cli.options import whole_number
from ldmsjob.cli.output import printable
from ldmsjob.cli.past import (
    add_job_filters,
    add_journal_options,
    array_element,
    duration,
    end_of,
    exit_word,
    job_filter,
    job_object,
    local_time,
    open_history,
    print_json,
    state_of,
)
from ldmsjob.journal.history import History, JobEntry

HEADINGS = ("Job", "Array", "User", "Name", "State", "Start", "Time", "Tasks", "Exit", "Nodes")

MAX_WIDTH = 32
"""Of a column; longer words stand out."""

AT_ONCE = 1000
"""Jobs in one table. With more there are several, so that nobody waits for the first."""


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "jobs",
        help="list the jobs of this node, now and in the past",
        description="List jobs from the journal of a daemon, whether it runs or not, in the order"
        " in which it heard of them.",
        epilog="Times are local. A job that began before --until and had not ended at --since is"
        " listed. A further attempt of a job is written JOB.ATTEMPT.",
    )
    add_job_filters(parser)
    parser.add_argument(*("-t", "--in-state"), choices=("running", "ended"), help="only those")
    parser.add_argument("--last", type=whole_number(0), metavar="N", help="only the newest N")
    add_journal_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status. Raises ``ConfigError``."""
    history = open_history(arguments)
    entries: Iterable[JobEntry] = chosen_jobs(history, arguments)
    if arguments.last is not None:
        entries = deque(entries, maxlen=arguments.last)
    if arguments.json:
        print_json(map(job_object, entries))
    else:
        _print_tables(entries)
    history.close()
    return 0


def chosen_jobs(history: History, arguments: argparse.Namespace) -> Iterator[JobEntry]:
    """The jobs that the options choose."""
    chosen = job_filter(arguments)
    for entry in history.jobs():
        if (
            chosen(entry)
            and arguments.in_state in (None, state_of(entry))
            and _within(entry, arguments.since, arguments.until)
        ):
            yield entry


def _within(entry: JobEntry, since_us: int | None, until_us: int | None) -> bool:
    """Whether the job ran at some time between these."""
    start_us, end_us = entry.facts.start_us or 0, end_of(entry)
    if since_us is not None and end_us is not None and end_us < since_us:
        return False
    return until_us is None or start_us <= until_us


def _print_tables(entries: Iterable[JobEntry]) -> None:
    some: list[Sequence[str]] = []
    for entry in entries:
        some.append(_cells(entry))
        if len(some) == AT_ONCE:
            _print_table(some)
            some = []
    if some:
        _print_table(some)


def _print_table(rows: list[Sequence[str]]) -> None:
    """One line for each job, also on a narrow terminal: other programs read it, too."""
    columns = []
    for heading, cells in zip(HEADINGS, zip(*rows, strict=True), strict=True):
        if any(cells):  # what nobody knows takes no room
            width = min(max(map(len, (heading, *cells))), MAX_WIDTH)
            columns.append([cell.ljust(width) for cell in (heading, *cells)])
    for line in zip(*columns, strict=True):
        print("  ".join(line).rstrip())


def _cells(entry: JobEntry) -> Sequence[str]:
    facts = entry.facts
    job = entry.key.job_id
    if entry.key.attempt > 1:
        job += f".{entry.key.attempt}"
    now_us = int(time.time() * 1e6)
    cells = (
        job,
        array_element(facts),
        facts.user or ("" if facts.uid is None else str(facts.uid)),
        facts.job_name or "",
        state_of(entry),
        local_time(facts.start_us),
        duration(facts.start_us, end_of(entry) if entry.ended else now_us),
        "" if facts.total_tasks is None else str(facts.total_tasks),
        exit_word(facts.exit_status),
        " ".join(facts.nodes),
    )
    return [printable(cell, lines=False) for cell in cells]
