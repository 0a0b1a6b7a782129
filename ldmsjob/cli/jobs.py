"""``ldmsjob jobs``: jobs that run and that ran, from the journal."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ldmsjob.cli.output import printable
from ldmsjob.cli.past import (
    add_job_filters,
    add_journal_options,
    array_element,
    duration,
    job_filter,
    job_object,
    local_time,
    open_history,
    print_json,
    state_of,
)
from ldmsjob.journal.history import JobEntry


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "jobs",
        help="list the jobs of this node, now and in the past",
        description="List jobs from the journal of a daemon, whether it runs or not.",
    )
    add_journal_options(parser)
    add_job_filters(parser)
    parser.add_argument(*("-t", "--in-state"), choices=("running", "ended"), help="only those")
    parser.add_argument("--last", type=int, metavar="N", help="only the newest N")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    history = open_history(arguments)
    chosen = job_filter(arguments)
    entries = [
        entry
        for entry in history.jobs()
        if chosen(entry)
        and arguments.in_state in (None, state_of(entry))
        and _within(entry, arguments.since, arguments.until)
    ]
    history.close()
    if arguments.last is not None:
        entries = entries[-arguments.last :] if arguments.last > 0 else []
    if arguments.json:
        print_json(map(job_object, entries))
    else:
        _print_table(entries)
    return 0


def _within(entry: JobEntry, since_us: int | None, until_us: int | None) -> bool:
    """Whether the job ran at some time between these."""
    start_us, end_us = entry.facts.start_us or 0, entry.facts.end_us
    if since_us is not None and end_us is not None and end_us < since_us:
        return False
    return until_us is None or start_us <= until_us


def _print_table(entries: list[JobEntry]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("Job", "Array", "User", "Name", "State", "Start", "Time", "Tasks", "Nodes"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("Start", "Time", "State"))
    now_us = int(time.time() * 1e6)
    for entry in entries:
        facts = entry.facts
        job = entry.key.job_id
        if entry.key.attempt > 1:
            job += f".{entry.key.attempt}"
        cells = (
            job,
            array_element(facts),
            facts.user or ("" if facts.uid is None else str(facts.uid)),
            facts.job_name or "",
            state_of(entry),
            local_time(facts.start_us),
            duration(facts.start_us, facts.end_us if entry.ended else now_us),
            "" if facts.total_tasks is None else str(facts.total_tasks),
            " ".join(facts.nodes),
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console(highlight=False).print(table)
