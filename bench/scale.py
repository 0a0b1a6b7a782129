"""Whether a message costs more where there is more: tasks of one job, live jobs.

Only ours: C's job sets have room for ten tasks.

Usage: python bench/scale.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from daemons import Side
from jobs import EventFile, check_lines, interleaved, job_payloads
from rounds import Figures, Part, Row, Target, arguments, report, run
from wirebytes import message_frame, open_link, send_all

SIZES = {"full": (1000, 100_000), "small": (20, 200)}
"""Few and many."""


def rows(few: int, many: int) -> list[Row]:
    """The table's lines."""
    return [
        Row(f"{many // few:,} jobs of {few:,} tasks: CPU", "few tasks", "us/message"),
        Row(f"one job of {many:,} tasks: CPU", "many tasks", "us/message"),
        Row("many tasks over few", "tasks", "", Target(value=1.5)),
        Row(f"{many:,} jobs, {few:,} live at once: CPU", "few jobs", "us/message"),
        Row(f"{many:,} jobs, all live at once: CPU", "many jobs", "us/message"),
        Row("many jobs over few", "jobs", "", Target(value=1.5)),
    ]


def cost(side: Side, jobs: int, tasks: int, live: int) -> float:
    """CPU microseconds of a message of such jobs, of which ``live`` run at once."""
    frames = [message_frame(one) for one in interleaved(job_payloads(jobs, tasks=tasks), live)]
    with side.running() as daemon, open_link(daemon.port) as link:
        events = EventFile(daemon)
        cpu = daemon.cpu_seconds()
        send_all(link, frames)
        events.wait(jobs * (3 + 2 * tasks))
        cpu = daemon.cpu_seconds_when_idle() - cpu
        check_lines(events.close(), jobs, tasks=tasks)
    return cpu / len(frames) * 1e6


def tasks_of_a_job(side: Side, few: int, many: int) -> Figures:
    """One job of many tasks, and as many tasks in jobs of few, one job after the other."""
    small, large = cost(side, many // few, few, 1), cost(side, 1, many, 1)
    return {"few tasks": small, "many tasks": large, "tasks": large / small}


def live_jobs(side: Side, few: int, many: int) -> Figures:
    """Many jobs of one task, few at once and all at once."""
    small, large = cost(side, many, 1, few), cost(side, many, 1, many)
    return {"few jobs": small, "many jobs": large, "jobs": large / small}


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "scale", given)
    few, many = SIZES[options.size]
    who = [Side("ours")]
    parts = [
        Part("tasks", who, lambda side: tasks_of_a_job(side, few, many)),
        Part("jobs", who, lambda side: live_jobs(side, few, many)),
    ]
    report("scale", rows(few, many), run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
