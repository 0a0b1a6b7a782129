"""``ldmsjob events``: job events, those of the past and, with ``--follow``, as they come."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from ldmsjob.cli.options import whole_number
from ldmsjob.cli.output import pause, printable
from ldmsjob.cli.past import (
    add_job_filters,
    add_journal_options,
    exit_text,
    job_filter,
    job_key,
    local_time,
    open_history,
    print_json,
)
from ldmsjob.errors import ConfigError
from ldmsjob.events import EVENT_WORDS
from ldmsjob.journal.history import EventEntry, History

FOLLOW_SECONDS = 0.2
"""How often the journal is looked at."""


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "events",
        help="list job events of the past, or follow them",
        description="List job events from the journal of a daemon, whether it runs or not: when it"
        " happened, what, which job, and in brackets how it is known, if nobody has told of it.",
        epilog="Times are local; --since and --until go by when the daemon heard of an event.",
    )
    add_job_filters(parser)
    parser.add_argument("--job", metavar="ID", help="of that job, such as 1001 or slurm_1001")
    parser.add_argument(
        "--kind",
        action="append",
        choices=sorted(EVENT_WORDS.values()),
        metavar="WORD",
        help=f"only of that kind, may be repeated: {', '.join(EVENT_WORDS.values())}",
    )
    parser.add_argument("--last", type=whole_number(0), metavar="N", help="only the newest N")
    parser.add_argument(
        *("-f", "--follow"),
        action="store_true",
        help="go on with new ones, also when the daemon is started again; ends at Ctrl-C",
    )
    add_journal_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status. Raises ``ConfigError``."""
    history = open_history(arguments)
    newest = history.last_notice()
    entries: Iterable[EventEntry] = chosen_events(history, arguments, 0, newest)
    if arguments.last is not None:
        entries = deque(entries, maxlen=arguments.last)
    _print(entries, arguments)
    if arguments.follow:
        for one in follow(history, newest, pause):
            _print(chosen_events(*one[:1], arguments, *one[1:]), arguments)
    history.close()
    return 0


def follow(
    history: History, after: int, wait: Callable[[float], None]
) -> Iterator[tuple[History, int, int]]:
    """Whenever there is something new: the journal to read, and the numbers of the last notice that
    was there before, and of the last one there is now.

    ``wait`` is given seconds. Raises ``ConfigError`` when the journal cannot be read any more.
    """
    version: tuple[int, int] | None = None
    while True:
        if history.is_replaced():
            try:
                anew = History(history.path)
            except ConfigError:
                wait(FOLLOW_SECONDS)  # its daemon is about to make it
                continue
            history.close()
            history, after, version = anew, 0, None
        found = history.version()
        if found != version:
            version, newest = found, history.last_notice()
            if newest > after:
                yield history, after, newest
                after = newest
        wait(FOLLOW_SECONDS)


def chosen_events(
    history: History, arguments: argparse.Namespace, after: int, upto: int
) -> Iterator[EventEntry]:
    """The events that the options choose, of notices behind ``after`` up to ``upto``."""
    chosen = job_filter(arguments)
    manager, job_id = (None, None) if arguments.job is None else job_key(arguments.job)
    for entry in history.events(after, upto, job_id=job_id, since_us=arguments.since or 0):
        if (
            chosen(entry.job)
            and manager in (None, entry.job.key.resource_manager)
            and (arguments.kind is None or entry.event.word in arguments.kind)
            and (arguments.until is None or entry.received_time_us <= arguments.until)
        ):
            yield entry


def _print(entries: Iterable[EventEntry], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(map(event_object, entries), flush=arguments.follow)
    else:
        for entry in entries:
            print(printable(event_line(entry), lines=False), flush=arguments.follow)


def event_object(entry: EventEntry) -> dict[str, Any]:
    """An event for programs: docs/journal.md, For programs."""
    event, key, facts = entry.event, entry.job.key, entry.job.facts
    return {
        "event": event.word,
        "sequence": event.sequence,
        "job_id": key.job_id,
        "attempt": key.attempt,
        "resource_manager": key.resource_manager,
        "user": facts.user,
        "uid": facts.uid,
        "job_name": facts.job_name,
        "source_time_us": event.source_time_us,
        "received_time_us": entry.received_time_us,
        "origin": event.origin,
        "step": None if event.step is None else msgspec.structs.asdict(event.step),
        "task": None if event.task is None else msgspec.structs.asdict(event.task),
    }


def event_line(entry: EventEntry, *, with_job: bool = True) -> str:
    """An event for people."""
    event, key = entry.event, entry.job.key
    stamp = f"{local_time(event.source_time_us)}.{event.source_time_us % 1_000_000:06}"
    words = [stamp, f"{event.word:<15}"]
    if with_job:
        words.append(key.text + (f".{key.attempt}" if key.attempt > 1 else ""))
    if event.step is not None:
        words.append(f"step {event.step.step_id}")
        if event.step.total_tasks is not None and event.word == "step_started":
            words.append(f"tasks {event.step.total_tasks}")
    if event.task is not None:
        task = event.task
        words.append(f"step {task.step_id} node {task.node_id} task {task.task_id}")
        if task.pid is not None:
            words.append(f"pid {task.pid}")
        if event.word == "task_ended":
            words.append(exit_text(task.exit_status))
    if event.word == "job_ended" and entry.job.facts.exit_status is not None:
        words.append(exit_text(entry.job.facts.exit_status))
    if event.origin != "message":
        words.append(f"({event.origin})")
    return " ".join(words).rstrip()
