"""What a daemon takes that has nothing to do: time to start, processor, memory.

Against C where LDMS_JOBMGR_PREFIX names a build that has a job manager.

Usage: python bench/resources.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from daemons import Side, sides
from rounds import Figures, Part, Row, Target, arguments, report, run
from wirebytes import open_link

SIZES = {"full": (30.0, 3.0), "small": (1.0, 0.2)}
"""Seconds over which processor time is taken, and how long after the start."""

ROWS = [
    Row("start to listening", "start", "s", Target(value=0.5)),
    Row("start to the first handshake", "handshake", "s"),
    Row("CPU when idle", "cpu", "%", Target(value=0.1)),
    Row("memory when idle", "memory", "MiB", Target(value=48)),
]


def idle(side: Side, seconds: float, settle: float) -> Figures:
    """A daemon with a job manager and an event file, and nobody who talks to it."""
    with side.running() as daemon:
        open_link(daemon.port).close()
        handshake = time.perf_counter() - daemon.began
        time.sleep(settle)
        begin, cpu = time.perf_counter(), daemon.cpu_seconds()
        time.sleep(seconds)
        share = (daemon.cpu_seconds() - cpu) / (time.perf_counter() - begin)
        memory = daemon.resident_bytes()
    return {
        "start": daemon.start_seconds,
        "handshake": handshake,
        "cpu": share * 100,
        "memory": memory / (1 << 20),
    }


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "resources", given)
    who = sides("LDMS_JOBMGR_PREFIX")
    parts = [Part("idle", who, lambda side: idle(side, *SIZES[options.size]))]
    report("resources", ROWS, run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
