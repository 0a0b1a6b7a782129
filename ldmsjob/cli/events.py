"""``ldmsjob events``: job events, those of the past and, with ``--follow``, as they come."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from ldmsjob.cli.output import printable
from ldmsjob.cli.past import (
    add_job_filters,
    add_journal_options,
    job_filter,
    open_history,
    print_json,
    status_text,
)
from ldmsjob.journal.history import EventEntry, History
from ldmsjob.journal.records import EVENT_WORDS

FOLLOW_SECONDS = 0.2
"""How often the journal is looked at."""


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "events",
        help="list job events of the past, or follow them",
        description="List job events from the journal of a daemon, whether it runs or not.",
    )
    add_journal_options(parser)
    add_job_filters(parser)
    parser.add_argument("--job", metavar="ID", help="of that job")
    parser.add_argument(
        "--kind", action="append", choices=sorted(EVENT_WORDS.values()), help="only these"
    )
    parser.add_argument("--last", type=int, metavar="N", help="only the newest N")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on with new ones; ends at Ctrl-C"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    history = open_history(arguments)
    seen = history.last_notice()
    entries: Any = _chosen(history, arguments, 0)
    if arguments.last is not None:
        entries = deque(entries, maxlen=max(arguments.last, 0))
    _print(entries, arguments)
    while arguments.follow:
        version = history.data_version()
        for entry in _chosen(history, arguments, seen):
            _print([entry], arguments)
            seen = entry.notice
        while history.data_version() == version:
            time.sleep(FOLLOW_SECONDS)
    history.close()
    return 0


def _chosen(history: History, arguments: argparse.Namespace, after: int) -> Iterator[EventEntry]:
    chosen = job_filter(arguments)
    for entry in history.events(after, since_us=arguments.since or 0):
        if (
            chosen(entry.job)
            and arguments.job in (None, entry.job.key.job_id, entry.job.key.text)
            and (arguments.kind is None or entry.event.word in arguments.kind)
            and (arguments.until is None or entry.received_time_us <= arguments.until)
        ):
            yield entry


def _print(entries: Any, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(map(event_object, entries))
    else:
        for entry in entries:
            print(printable(event_line(entry)), flush=arguments.follow)


def event_object(entry: EventEntry) -> dict[str, Any]:
    """An event for programs."""
    event, key = entry.event, entry.job.key
    result: dict[str, Any] = {
        "event": event.word,
        "sequence": event.sequence,
        "job_id": key.job_id,
        "attempt": key.attempt,
        "resource_manager": key.resource_manager,
        "source_time_us": event.source_time_us,
        "received_time_us": entry.received_time_us,
        "origin": event.origin,
    }
    for name, value in (("step", event.step), ("task", event.task)):
        if value is not None:
            result[name] = msgspec.to_builtins(value)
    return result


def event_line(entry: EventEntry, *, with_job: bool = True) -> str:
    """An event for people."""
    event, key = entry.event, entry.job.key
    seconds, microseconds = divmod(event.source_time_us, 1_000_000)
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    words = [f"{stamp}.{microseconds:06}", f"{event.word:<16}"]
    if with_job:
        words.append(key.text + (f".{key.attempt}" if key.attempt > 1 else ""))
    if event.step is not None:
        words.append(f"step {event.step.step_id}")
    if event.task is not None:
        task = event.task
        words.append(f"step {task.step_id} node {task.node_id} task {task.task_id}")
        if task.pid is not None:
            words.append(f"pid {task.pid}")
        if event.word == "task_ended":
            words.append(f"exit {status_text(task.exit_status) or 'not told'}")
    if event.origin != "message":
        words.append(f"({event.origin})")
    return " ".join(words)
