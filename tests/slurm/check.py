"""Compares what the daemon told of a job with what was expected."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.slurm.expected import Attempt, Job, Step
from tests.slurm.labdaemon import Run


class Mismatch(AssertionError):
    """An attempt is not as expected; shows its events."""

    def __init__(self, what: str, run: Run) -> None:
        super().__init__(f"{what}; events:\n" + "\n".join(line(event) for event in run.events))


def line(event: dict[str, Any]) -> str:
    """One event for people."""
    detail = ""
    if event["step"]:
        detail = f" step {event['step']['step_id']}"
    if event["task"]:
        task = event["task"]
        detail = f" step {task['step_id']} rank {task['rank']} status {task['exit_status']}"
    return f"  {event['time_us']} {event['kind']}{detail} ({event['origin']})"


def check_job(runs: list[Run], job: Job, *, exact: bool) -> None:
    """The attempts of a job. ``exact``: as our notifier tells it, which knows more."""
    if len(runs) != len(job):
        shown = "\n".join(line(event) for run in runs for event in run.events)
        raise AssertionError(f"{len(runs)} attempts instead of {len(job)}:\n{shown}")
    for run, attempt in zip(runs, job, strict=True):
        check_attempt(run, attempt)
        if exact:
            check_exact(run, attempt)


def check_attempt(run: Run, attempt: Attempt) -> None:
    """What every notifier tells."""
    check_order(run)
    tasks = sum(step.tasks for step in attempt.steps)
    expected = Counter(
        job_start=1,
        step_start=len(attempt.steps),
        task_start=tasks,
        task_end=tasks,
        step_end=len(attempt.steps),
        job_end=1,
        jobset_delete=1,
    )
    if Counter(run.kinds) != +expected:
        raise Mismatch(f"not {dict(+expected)}", run)
    for number, step in enumerate(attempt.steps):
        _check_step(run, number, step)
    facts = run.facts
    wanted = {"uid": attempt.user_id}
    if attempt.steps:
        last = attempt.steps[-1]
        wanted["user"] = attempt.user
        wanted |= {"node_count": last.nodes, "total_tasks": last.tasks}
        wanted |= {"step_id": len(attempt.steps) - 1}
    if attempt.name is not None:
        wanted["job_name"] = attempt.name
    if attempt.tag is not None:
        wanted["job_tag"] = attempt.tag
    for name, value in wanted.items():
        if facts[name] != value:
            raise Mismatch(f"{name} is {facts[name]!r}, not {value!r}", run)


def _check_step(run: Run, number: int, step: Step) -> None:
    (start,) = (event for event in run.of("step_start") if event["step"]["step_id"] == number)
    (end,) = (event for event in run.of("step_end") if event["step"]["step_id"] == number)
    if (start["step"]["node_count"], start["step"]["total_tasks"]) != (step.nodes, step.tasks):
        raise Mismatch(f"step {number} has not {step.tasks} tasks on {step.nodes} nodes", run)
    if len(end["step"]["node_ids"]) != step.nodes:
        raise Mismatch(f"step {number} ended on {end['step']['node_ids']}", run)
    ended = {
        event["task"]["rank"]: event["task"]
        for event in run.of("task_end")
        if event["task"]["step_id"] == number
    }
    if sorted(ended) != list(range(step.tasks)):
        raise Mismatch(f"step {number} has the ranks {sorted(ended)}", run)
    for rank, task in ended.items():
        if task["exit_status"] not in step.statuses(rank):
            raise Mismatch(f"step {number}, rank {rank}: status {task['exit_status']}", run)
        if not task["pid"] or not task["start_us"] or task["end_us"] < task["start_us"]:
            raise Mismatch(f"step {number}, rank {rank}: {task}", run)
    if number:
        outer = number - 1 if step.within is None else step.within
        (before,) = (e for e in run.of("step_end") if e["step"]["step_id"] == outer)
        if (step.within is None) != (before["sequence"] < start["sequence"]):
            raise Mismatch(f"step {number} is not where it should be in respect to {outer}", run)
        if step.within is not None and before["sequence"] < end["sequence"]:
            raise Mismatch(f"step {number} does not lie within step {outer}", run)


def check_order(run: Run, *, whole: bool = True) -> None:
    """What docs/events.md promises about the order of every attempt's events. Not ``whole``: the
    daemon was killed meanwhile."""
    kinds = run.kinds
    if kinds[0] != "job_start":
        raise Mismatch("it does not begin as a job does", run)
    if whole and kinds[-2:] != ["job_end", "jobset_delete"]:
        raise Mismatch("it does not end as a job does", run)
    for last in ("jobset_delete", "job_end"):
        if kinds[-1] == last:
            kinds = kinds[:-1]
    if {"job_end", "jobset_delete"} & set(kinds):
        raise Mismatch("something comes behind its end", run)
    seen: set[tuple[Any, ...]] = set()
    for event in run.events:
        step, task = event["step"], event["task"]
        name: tuple[Any, ...] = ()
        if step:
            name = ("step", step["step_id"])
        if task:
            name = ("task", task["step_id"], task["node_id"], task["task_id"])
            if ("step", task["step_id"], "end") in seen:
                raise Mismatch("a task's event behind its step's end", run)
        what = event["kind"].rpartition("_")[2]
        if (*name, what) in seen:
            raise Mismatch(f"{event['kind']} came twice", run)
        if what == "end" and (*name, "start") not in seen:
            raise Mismatch(f"{event['kind']} before its start", run)
        seen.add((*name, what))


def check_exact(run: Run, attempt: Attempt) -> None:
    """What only our notifier tells."""
    facts = run.facts
    details = facts["details"] or {}
    if facts["exit_status"] not in attempt.exit_status:
        raise Mismatch(f"the job's exit status is {facts['exit_status']}", run)
    if len(set(facts["nodes"])) != attempt.nodes or not set(facts["nodes"]) <= {
        f"n{number}" for number in range(1, 10)
    }:
        raise Mismatch(f"it ran on {facts['nodes']}", run)
    # Slurm sometimes runs no prolog for a job that is back at once: its steps alone tell of it.
    untold = bool(attempt.restart) and facts["adopted"]
    if not untold and (details.get("restart_count") or 0) != attempt.restart:
        raise Mismatch(f"restart {details.get('restart_count')}, not {attempt.restart}", run)
    if details.get("partition") != "main":
        raise Mismatch(f"partition {details.get('partition')}", run)
    if details.get("array_task_id") != attempt.array_task:
        raise Mismatch(f"array task {details.get('array_task_id')}, not {attempt.array_task}", run)
    if details.get("het_job_offset") != attempt.het_offset:
        raise Mismatch(f"het offset {details.get('het_job_offset')}", run)
    if all(event["time_us"] % 1_000_000 == 0 for event in run.events):
        raise Mismatch("its times have whole seconds", run)
    if any(event["origin"] != "message" for event in run.events[1 if untold else 0 :]):
        raise Mismatch("an event came about otherwise than by a message", run)


def canonical(run: Run) -> list[tuple[Any, ...]]:
    """What both notifiers know, without pids, times and the order of what runs at once."""
    known = ["uid", "gid"]
    if run.of("step_start"):
        # Of a job without steps the C notifier tells no more.
        known += ["user", "job_name", "job_tag", "step_id", "node_count", "total_tasks"]
    result: list[tuple[Any, ...]] = [tuple(run.facts[name] for name in known)]
    for event in run.events:
        step, task = event["step"], event["task"]
        if step:
            named = (step["step_id"], step["node_count"], step["total_tasks"])
        elif task:
            named = (task["step_id"], task["rank"], task["exit_status"])
        else:
            named = ()
        result.append((event["kind"], *named))
    return sorted(result, key=repr)
