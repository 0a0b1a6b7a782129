"""Resident memory: with many live jobs, and when many have ended.

Default settings on both sides; C gets as much set memory as it needs. Against C where
LDMS_JOBMGR_PREFIX names a build that has a job manager.

Usage: python bench/memory.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from daemons import Side, sides
from jobs import FIRST_JOB, LINES, EventFile, check_lines, interleaved, job_payloads
from rounds import Figures, Part, Row, Target, arguments, report, run
from wirebytes import message_frame, open_link, send_all

MIB = 1 << 20
TASKS = 4
"""Of a live job."""
C_MEMORY = "1G"
"""C runs out of set memory when many ended jobs linger at once."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    live: int
    ended: tuple[int, int]
    """Jobs that have ended when memory is read, and when it is read again."""
    at_once: int
    """How many of these run at the same time."""
    settle: float
    """Seconds from the last job's end to the reading: longer than sets linger."""


SIZES = {
    "full": Size(10_000, (10_000, 100_000), 1000, 15.0),
    "small": Size(300, (100, 400), 50, 0.5),
}


def rows(size: Size) -> list[Row]:
    """The table's lines."""
    few, many = size.ended
    return [
        Row(f"{size.live:,} live jobs of {TASKS} tasks", "live", "MiB", Target(ratio=0.9)),
        Row("before the first job", "base", "MiB"),
        Row("each live job", "job", "KiB"),
        Row(f"{few:,} ended jobs", "few", "MiB"),
        Row(f"{many:,} ended jobs", "many", "MiB"),
        Row(f"{many:,} ended jobs over {few:,}", "growth", "", Target(value=1.05)),
    ]


def live(side: Side, jobs: int) -> Figures:
    """Memory with so many jobs whose tasks all run, when the last of their lines is written."""
    running = [job[: 2 + TASKS] for job in job_payloads(jobs, tasks=TASKS)]
    frames = [message_frame(payload) for payload in interleaved(running, jobs)]
    with side.running(memory=C_MEMORY) as daemon, open_link(daemon.port) as link:
        events = EventFile(daemon)
        base = daemon.resident_bytes()
        send_all(link, frames)
        events.wait(jobs * (1 + TASKS))
        full = daemon.resident_bytes()
        check_lines(events.close(), jobs, tasks=TASKS, ended=False)
    return {"live": full / MIB, "base": base / MIB, "job": (full - base) / jobs / 1024}


def ended(side: Side, size: Size) -> Figures:
    """Memory of one daemon when the first jobs have ended and gone, and when many more have."""
    memory = []
    done = 0
    with side.running(memory=C_MEMORY) as daemon, open_link(daemon.port) as link:
        events = EventFile(daemon)
        for count in size.ended:
            jobs = job_payloads(count - done, first_job=FIRST_JOB + done)
            send_all(link, [message_frame(one) for one in interleaved(jobs, size.at_once)])
            done = count
            events.wait(done * sum(LINES))
            time.sleep(size.settle)
            memory.append(daemon.resident_bytes())
        check_lines(events.close(), done)
    few, many = memory
    return {"few": few / MIB, "many": many / MIB, "growth": many / few}


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "memory", given)
    size = SIZES[options.size]
    who = sides("LDMS_JOBMGR_PREFIX")
    parts = [
        Part("live", who, lambda side: live(side, size.live)),
        Part("ended", who, lambda side: ended(side, size)),
    ]
    report("memory", rows(size), run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
