"""Slurm's messages to their lines in the event file: how many a second, and at what cost.

*Burst*: all on one link as fast as they are taken. *Lock-step*: each waits for the credit of the
one before. Against C where LDMS_JOBMGR_PREFIX names a build that has a job manager.

Usage: python bench/pipeline.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Sequence

from daemons import Side, sides
from jobs import LINES, EventFile, check_lines, interleaved, job_payloads
from rounds import Figures, Part, Row, Target, arguments, report, run
from wirebytes import (
    CREDIT_BYTES,
    check_credit,
    credit_of,
    message_frame,
    open_link,
    receive_exactly,
    send_all,
)

SIZES = {
    "full": {"burst": (20_000, 1000), "lock-step": (1000, 10)},
    "small": {"burst": (400, 100), "lock-step": (20, 10)},
}
"""Jobs of five messages, and how many of them run at once."""

NO_JOURNAL = "ours, no journal"
ROWS = [
    Row("burst: rate", "burst rate", "messages/s", Target(ratio=1.5, at_least=True)),
    Row("burst: CPU", "burst cpu", "us/message", Target(ratio=0.6)),
    Row("burst without journal: rate", "burst rate", "messages/s", side=NO_JOURNAL),
    Row("burst without journal: CPU", "burst cpu", "us/message", side=NO_JOURNAL),
    Row("lock-step: CPU", "lock-step cpu", "us/message", Target(ratio=1.6)),
    Row("lock-step: median latency", "lock-step latency", "us", Target(ratio=1.6)),
    Row(
        "lock-step without journal: CPU",
        "lock-step cpu",
        "us/message",
        Target(ratio=1.1),
        NO_JOURNAL,
    ),
    Row(
        "lock-step without journal: median latency",
        "lock-step latency",
        "us",
        Target(ratio=1.1),
        NO_JOURNAL,
    ),
]


@functools.cache
def frames_of(jobs: int, live: int) -> list[bytes]:
    """The jobs' messages, in the order in which they are sent."""
    return [message_frame(payload) for payload in interleaved(job_payloads(jobs), live)]


def burst(side: Side, jobs: int, live: int) -> Figures:
    """All messages at once. The rate is that from the first ``send`` until all credit has come
    back and all lines are in the file."""
    frames = frames_of(jobs, live)
    with side.running() as daemon, open_link(daemon.port) as link:
        events = EventFile(daemon)
        cpu = daemon.cpu_seconds()
        begin = time.perf_counter()
        send_all(link, frames)
        events.wait(jobs * sum(LINES))
        seconds = time.perf_counter() - begin
        cpu = daemon.cpu_seconds_when_idle() - cpu
        check_lines(events.close(), jobs)
    return {"burst rate": len(frames) / seconds, "burst cpu": cpu / len(frames) * 1e6}


def lock_step(side: Side, jobs: int, live: int) -> Figures:
    """One message at a time. The latency is that from before ``send`` until the credit is there."""
    frames = frames_of(jobs, live)
    delays = []
    credit = []
    with side.running() as daemon, open_link(daemon.port) as link:
        events = EventFile(daemon)
        cpu = daemon.cpu_seconds()
        for frame in frames:
            begin = time.perf_counter()
            link.sendall(frame)
            credit.append(receive_exactly(link, CREDIT_BYTES))
            delays.append(time.perf_counter() - begin)
        events.wait(jobs * sum(LINES))
        cpu = daemon.cpu_seconds_when_idle() - cpu
        check_lines(events.close(), jobs)
    check_credit(b"".join(credit), [credit_of(frame) for frame in frames])
    return {
        "lock-step cpu": cpu / len(frames) * 1e6,
        "lock-step latency": statistics.median(delays) * 1e6,
    }


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "pipeline", given)
    size = SIZES[options.size]
    who = sides("LDMS_JOBMGR_PREFIX", without_journal=True)
    parts = [
        Part("burst", who, lambda side: burst(side, *size["burst"])),
        Part("lock-step", who, lambda side: lock_step(side, *size["lock-step"])),
    ]
    report("pipeline", ROWS, run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
