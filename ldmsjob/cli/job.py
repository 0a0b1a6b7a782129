"""``ldmsjob job ID``: everything that the journal knows of one job."""

from __future__ import annotations

import argparse
from typing import Any

from ldmsjob.cli.events import event_line
from ldmsjob.cli.output import printable
from ldmsjob.cli.past import (
    add_journal_options,
    array_element,
    duration,
    job_object,
    local_time,
    open_history,
    print_json,
    state_of,
    status_text,
)
from ldmsjob.errors import ConfigError
from ldmsjob.journal.history import History, JobEntry

NOT_FOUND = 1


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "job",
        help="show one job: what is known of it, its steps, tasks and events",
        description="Show all attempts of a job from the journal of a daemon, whether it runs or"
        " not.",
        epilog=f"Exit status: 0; {NOT_FOUND} when the journal does not know the job.",
    )
    parser.add_argument("job_id", metavar="ID", help="the job's id, such as 1001 or slurm_1001")
    add_journal_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    history = open_history(arguments)
    wanted = arguments.job_id
    entries = history.jobs(whole=True, job_id=wanted)
    if not entries and "_" in wanted:
        manager, _, job_id = wanted.partition("_")
        found = history.jobs(whole=True, job_id=job_id)
        entries = [entry for entry in found if entry.key.resource_manager == manager]
    if not entries:
        raise ConfigError(
            f"the journal {history.path} does not know job {wanted}",
            rc=NOT_FOUND,
            hint="`ldmsjob jobs` lists those that it does",
        )
    if arguments.json:
        print_json(_whole_object(history, entry) for entry in entries)
    else:
        print("\n\n".join(_text(history, entry) for entry in entries))
    history.close()
    return 0


def _whole_object(history: History, entry: JobEntry) -> dict[str, Any]:
    from ldmsjob.cli.events import event_object

    result = job_object(entry, whole=True)
    result["events"] = [event_object(one) for one in history.events(job=entry.number)]
    return result


def _text(history: History, entry: JobEntry) -> str:
    facts, details = entry.facts, entry.facts.details
    attempt = f", attempt {entry.key.attempt}" if entry.key.attempt > 1 else ""
    lines = [f"job {entry.key.text}{attempt}: {state_of(entry)}"]
    pairs = [
        ("user", f"{facts.user or ''} ({facts.uid}:{facts.gid})"),
        ("name", facts.job_name),
        ("array or het", array_element(facts)),
        ("restarts", None if details is None else details.restart_count),
        ("partition", None if details is None else details.partition),
        ("account", None if details is None else details.account),
        ("tag", facts.job_tag),
        ("start", local_time(facts.start_us)),
        ("end", local_time(facts.end_us)),
        ("time", duration(facts.start_us, facts.end_us)),
        ("exit", status_text(facts.exit_status)),
        ("nodes", " ".join(facts.nodes)),
        ("known by", _known_by(entry)),
    ]
    lines += [f"  {name:<13}{value}" for name, value in pairs if value not in (None, "")]
    for step in entry.steps:
        lines.append(
            f"  step {step.step_id:<8}{local_time(step.start_us)}"
            f"  {duration(step.start_us, step.end_us) or 'running'}"
            f"  tasks {step.total_tasks if step.total_tasks is not None else '?'}"
        )
        for task in entry.tasks:
            if task.step_id == step.step_id:
                ended = status_text(task.exit_status) or "not told"
                lines.append(
                    f"    task {task.task_id} of node {task.node_id}"
                    f"  rank {'?' if task.rank is None else task.rank}"
                    f"  pid {'?' if task.pid is None else task.pid}"
                    f"  {local_time(task.start_us) or '?'}"
                    f"  {'running' if task.end_us is None else f'exit {ended}'}"
                )
    lines.append("  events")
    lines += [f"    {event_line(one, with_job=False)}" for one in history.events(job=entry.number)]
    return printable("\n".join(lines))


def _known_by(entry: JobEntry) -> str:
    words = [entry.instance]
    if entry.facts.adopted:
        words.append("its start was not seen")
    if entry.facts.recovered:
        words.append("brought over from an earlier daemon")
    return ", ".join(words)
