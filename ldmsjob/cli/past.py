"""What the tools that read a journal share: which one, whose jobs, when, and how times look."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from ldmsjob.cli.output import printable
from ldmsjob.config import nearest, parse_time
from ldmsjob.errors import ConfigError
from ldmsjob.facts import JobDetails, JobFacts
from ldmsjob.journal.history import History, JobEntry
from ldmsjob.journal.places import directory_name, find_journals, state_directory


def add_journal_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a journal."""
    parser.add_argument("--state", metavar="DIR", help="the daemon's state directory")
    parser.add_argument(
        *("-n", "--daemon"), metavar="NAME", help="the daemon's name, if there are several"
    )
    parser.add_argument("--journal", metavar="FILE", help="the journal itself, wherever it is")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")


def open_history(arguments: argparse.Namespace) -> History:
    """The journal that the options name. Raises ``ConfigError``."""
    if arguments.journal is not None:
        return History(arguments.journal)
    directory = arguments.state or state_directory(os.environ)
    found = find_journals(directory)
    names = ", ".join(found)
    if arguments.daemon is not None:
        name = directory_name(arguments.daemon)
        if name not in found:
            hint = nearest(name, found) or (f"there are: {names}" if found else "")
            raise ConfigError(
                f"there is no journal of {printable(arguments.daemon)} in {directory}",
                rc=2,
                hint=hint,
            )
        return History(found[name])
    if len(found) == 1:
        return History(*found.values())
    if found:
        raise ConfigError(
            f"there are several journals in {directory}", rc=2, hint=f"-n with one of: {names}"
        )
    raise ConfigError(
        f"there is no journal in {directory}",
        rc=2,
        hint="no daemon has kept one there; --state names another place",
    )


def add_job_filters(parser: argparse.ArgumentParser) -> None:
    """The options that choose jobs."""
    parser.add_argument("-u", "--user", help="of that user, by name or uid")
    parser.add_argument("--name", help="with that job name")
    parser.add_argument("--node", help="on that node, where the notifier tells nodes")
    parser.add_argument(
        "--since",
        type=moment,
        metavar="TIME",
        help="not before: 90s, 2h or 3d ago, or 2026-11-23T10:00",
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="not after, likewise")


def job_key(text: str) -> tuple[str | None, str]:
    """Resource manager, if it is named, and job id of what a user calls a job: ``1001`` or
    ``slurm_1001``."""
    manager, underline, job_id = text.partition("_")
    return (manager, job_id) if underline else (None, text)


def moment(text: str) -> int:
    """A time for argparse, in microseconds since the epoch: a span before now, or a date."""
    try:
        return int(time.time() * 1e6) - parse_time("time", text, "s")
    except ConfigError:
        pass
    try:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1e6)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: a span before now such as 90s, 2h or 3d, or a date such as"
            " 2026-11-23 or 2026-11-23T10:00"
        ) from None


def job_filter(arguments: argparse.Namespace) -> Callable[[JobEntry], bool]:
    """Whether a job is one of those that the options choose, but for the times."""

    def chosen(entry: JobEntry) -> bool:
        facts = entry.facts
        return (
            arguments.user in (None, facts.user, str(facts.uid))
            and arguments.name in (None, facts.job_name)
            and (arguments.node is None or arguments.node in facts.nodes)
        )

    return chosen


def array_element(facts: JobFacts) -> str:
    """``7_2`` for element 2 of array 7, ``7+1`` for component 1 of heterogeneous job 7."""
    details = facts.details
    if details is not None:
        if details.array_job_id is not None and details.array_task_id is not None:
            return f"{details.array_job_id}_{details.array_task_id}"
        if details.het_job_id is not None and details.het_job_offset is not None:
            return f"{details.het_job_id}+{details.het_job_offset}"
    return ""


def local_time(time_us: int | None) -> str:
    """A time of the day in local time, with the date; empty for none."""
    return _local_second(time_us // 1_000_000) if time_us else ""


@lru_cache(maxsize=64)
def _local_second(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(seconds)  # Anybody may have told it.


def duration(start_us: int | None, end_us: int | None) -> str:
    """``1-02:03:04``, as Slurm writes it."""
    if not start_us or end_us is None:
        return ""
    minutes, seconds = divmod(max(end_us - start_us, 0) // 1_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:{seconds:02}"


def exit_word(status: int | None) -> str:
    """A raw wait status for people: ``0``, ``3``, ``signal 9``; empty when it is not known."""
    if status is None or not 0 <= status < 1 << 16:
        return "" if status in (None, -1) else str(status)
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return str(os.WEXITSTATUS(status))


def exit_text(status: int | None) -> str:
    """The same in words: ``exit 0``, ``signal 9``, ``exit unknown``."""
    word = exit_word(status) or "unknown"
    return word if word.startswith("signal") else f"exit {word}"


def end_of(entry: JobEntry) -> int | None:
    """When the job ended; of one whose end nobody told, when the daemon gave it up."""
    return entry.facts.end_us or entry.heard_end_us


def print_json(objects: Iterable[Any], *, flush: bool = False) -> None:
    """One line for each."""
    for one in objects:
        print(msgspec.json.encode(one).decode(), flush=flush)


def job_object(entry: JobEntry, *, whole: bool = False) -> dict[str, Any]:
    """A job for programs: docs/journal.md, For programs."""
    facts = msgspec.structs.asdict(entry.facts)
    details = msgspec.structs.asdict(facts.pop("details") or JobDetails())
    result = {
        "job_id": entry.key.job_id,
        "attempt": entry.key.attempt,
        "resource_manager": entry.key.resource_manager,
        "instance": entry.instance,
        "state": state_of(entry),
        **{name: value for name, value in facts.items() if name != "job_id"},
        **details,
    }
    if whole:
        result["steps"] = [msgspec.structs.asdict(step) for step in entry.steps]
        result["tasks"] = [msgspec.structs.asdict(task) for task in entry.tasks]
    return result


def state_of(entry: JobEntry) -> str:
    """``running`` or ``ended``."""
    return "ended" if entry.ended else "running"
