"""``ldmsjob job ID``: everything that the journal knows of one job."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ldmsjob.cli.events import event_line, event_object
from ldmsjob.cli.output import printable
from ldmsjob.cli.past import (
    add_journal_options,
    array_element,
    duration,
    end_of,
    exit_text,
    exit_word,
    job_key,
    job_object,
    local_time,
    open_history,
    print_json,
    state_of,
)
from ldmsjob.errors import ConfigError
from ldmsjob.facts import JobDetails, StepFacts, TaskFacts
from ldmsjob.journal.history import History, JobEntry

NOT_FOUND = 1


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "job",
        help="show one job: what is known of it, its steps, tasks and events",
        description="Show all attempts of a job from the journal of a daemon, whether it runs or"
        " not.",
        epilog=f"Times are local. Exit status: 0; {NOT_FOUND} when the journal does not know the"
        " job.",
    )
    parser.add_argument("job_id", metavar="ID", help="the job's id, such as 1001 or slurm_1001")
    add_journal_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status. Raises ``ConfigError``."""
    history = open_history(arguments)
    manager, job_id = job_key(arguments.job_id)
    entries = [
        entry
        for entry in history.jobs(whole=True, job_id=job_id)
        if manager in (None, entry.key.resource_manager)
    ]
    if not entries:
        raise ConfigError(
            f"{history.path} does not know job {printable(arguments.job_id)}",
            rc=NOT_FOUND,
            hint="`ldmsjob jobs` lists those that it does",
        )
    if arguments.json:
        print_json(_whole_object(history, entry) for entry in entries)
    else:
        for number, entry in enumerate(entries):
            if number:
                print()
            _print(history, entry)
    history.close()
    return 0


def _whole_object(history: History, entry: JobEntry) -> dict[str, Any]:
    result = job_object(entry, whole=True)
    result["events"] = [event_object(one) for one in history.events(job=entry.number)]
    return result


def _print(history: History, entry: JobEntry) -> None:
    for line in (*_head(entry), *_steps(entry), "  events"):
        print(printable(line, lines=False))
    for one in history.events(job=entry.number):
        print(printable(f"    {event_line(one, with_job=False)}", lines=False))


def _head(entry: JobEntry) -> list[str]:
    facts, details = entry.facts, entry.facts.details or JobDetails()
    attempt = f", attempt {entry.key.attempt}" if entry.key.attempt > 1 else ""
    end_us = end_of(entry)
    pairs = [
        ("user", _owner(entry)),
        ("name", facts.job_name),
        ("array", array_element(facts) if details.array_job_id is not None else ""),
        ("component", array_element(facts) if details.array_job_id is None else ""),
        ("restarts", details.restart_count),
        ("partition", details.partition),
        ("account", details.account),
        ("tag", facts.job_tag),
        ("start", local_time(facts.start_us) + (", or earlier" if facts.adopted else "")),
        ("end", local_time(end_us) + ("" if facts.end_us is not None else ", or later")),
        ("time", duration(facts.start_us, end_us if entry.ended else _now_us())),
        ("exit", exit_word(facts.exit_status)),
        ("nodes", " ".join(facts.nodes)),
        ("told by", entry.instance),
        ("note", _note(entry)),
    ]
    if end_us is None:
        pairs = [pair for pair in pairs if pair[0] != "end"]
    lines = [f"job {entry.key.text}{attempt}: {state_of(entry)}"]
    return lines + [f"  {name:<10} {value}" for name, value in pairs if value]


def _owner(entry: JobEntry) -> str:
    facts = entry.facts
    numbers = [
        f"{word} {n}" for word, n in (("uid", facts.uid), ("gid", facts.gid)) if n is not None
    ]
    if not facts.user:
        return ", ".join(numbers)
    return facts.user + (f" ({', '.join(numbers)})" if numbers else "")


def _note(entry: JobEntry) -> str:
    notes = []
    if entry.facts.adopted:
        notes.append("the daemon did not see its start")
    if entry.facts.recovered:
        notes.append("the daemon was started again while it ran")
    if entry.ended and entry.facts.end_us is None:
        notes.append("nobody told its end")
    return "; ".join(notes)


def _steps(entry: JobEntry) -> list[str]:
    lines = []
    tasks: dict[int, list[TaskFacts]] = {}
    for task in entry.tasks:
        tasks.setdefault(task.step_id, []).append(task)
    steps = {step.step_id: step for step in entry.steps}
    for step_id in dict.fromkeys((*steps, *tasks)):
        lines.append(_step_line(steps.get(step_id, StepFacts(step_id)), entry))
        lines += [_task_line(task, entry) for task in tasks.get(step_id, ())]
    return lines


def _step_line(step: StepFacts, entry: JobEntry) -> str:
    words = [f"  step {step.step_id}"]
    if step.total_tasks is not None:
        words.append(f"tasks {step.total_tasks}")
    if step.node_count is not None:
        words.append(f"nodes {step.node_count}")
    if step.start_us is not None:
        words.append(f"start {local_time(step.start_us)}")
        if step.end_us is not None or not entry.ended:
            words.append(f"time {duration(step.start_us, step.end_us or _now_us())}")
    if step.end_us is None and not entry.ended and step.start_us is not None:
        words.append("running")
    return "  ".join(words)


def _task_line(task: TaskFacts, entry: JobEntry) -> str:
    words = [f"    node {task.node_id} task {task.task_id}"]
    if task.rank is not None:
        words.append(f"rank {task.rank}")
    if task.pid is not None:
        words.append(f"pid {task.pid}")
    if task.start_us is not None:
        words.append(f"start {local_time(task.start_us)}")
        if task.end_us is not None or not entry.ended:
            words.append(f"time {duration(task.start_us, task.end_us or _now_us())}")
    if task.end_us is None and not entry.ended:
        words.append("running")
    elif task.end_us is not None:
        words.append(exit_text(task.exit_status))
    return "  ".join(words)


def _now_us() -> int:
    return int(time.time() * 1e6)
