"""What it costs a daemon when an aggregator reads all its sets again and again.

The aggregator is C's ldmsd where LDMS_PREFIX names a build, and a reader that sends the same
requests anyway. Against C where LDMS_JOBMGR_PREFIX names a build that has a job manager.

Usage: python bench/aggregator.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from daemons import STALL_SECONDS, Daemon, Side, c_prefix, sides
from rounds import Figures, Part, Row, Target, arguments, report, run
from setreader import Reader, make_sets

SIZES = {"full": (10_000, 10, 2), "small": (300, 1, 1)}
"""Sets, passes over all of them, and seconds from pass to pass of C's aggregator."""
HEAD_BYTES = 36
"""Of an answer, in front of a set's data."""

AGGREGATOR = """\
listen xprt=sock port={{port}} host=127.0.0.1
prdcr_add name=measured host=127.0.0.1 port={port} xprt=sock type=active interval=1000000
prdcr_start name=measured
updtr_add name=all interval={interval} offset=0
updtr_prdcr_add name=all regex=.*
updtr_start name=all
"""


def rows(sets: int) -> list[Row]:
    """The table's lines."""
    return [
        Row(f"C aggregator, {sets:,} sets: CPU", "c cpu", "ms/pass", Target(ratio=1.2)),
        Row(f"reader, {sets:,} sets: CPU", "reader cpu", "ms/pass"),
        Row(f"reader, {sets:,} sets: time", "reader seconds", "ms/pass"),
    ]


def end_of_a_pass(interval: int) -> None:
    """Sleep until a pass that has begun at a multiple of the interval must have ended."""
    time.sleep(interval - (time.time() - 0.75 * interval) % interval)


def steady_pass(
    daemon: Daemon, aggregator: Daemon, expected: int, interval: int
) -> tuple[bool, float]:
    """Whether the aggregator read the data of all sets and little more within one interval, and the
    daemon's CPU seconds in it."""
    read, cpu = aggregator.read_bytes(), daemon.cpu_seconds()
    end_of_a_pass(interval)
    read, cpu = aggregator.read_bytes() - read, daemon.cpu_seconds() - cpu
    return expected <= read < 1.1 * expected, cpu


def by_c(side: Side, prefix: Path, sets: int, passes: int, interval: int) -> Figures:
    """The daemon's CPU time for a pass of a C aggregator that has looked up all its sets."""
    with side.running() as daemon:
        make_sets(daemon, sets)
        reader = Reader(daemon)
        _, entries = reader.directory(sets)
        reader.close()
        expected = sum(HEAD_BYTES + one.array_card * one.data_size for one in entries)
        configuration = AGGREGATOR.format(port=daemon.port, interval=interval * 1_000_000)
        with Side("aggregator", prefix).running(configuration) as aggregator:
            end_of_a_pass(interval)
            deadline = time.monotonic() + STALL_SECONDS + 2 * passes * interval
            used: list[float] = []
            while len(used) < passes:
                steady, cpu = steady_pass(daemon, aggregator, expected, interval)
                if steady:
                    used.append(cpu)
                elif time.monotonic() > deadline:
                    raise RuntimeError("stalled: the aggregator does not read all sets\n")
    return {"c cpu": sum(used) / passes * 1e3}


def by_reader(side: Side, sets: int, passes: int) -> Figures:
    """The same for a reader of ours, pass after pass without a pause."""
    with side.running() as daemon:
        make_sets(daemon, sets)
        reader = Reader(daemon)
        _, entries = reader.directory(sets)
        _, announced = reader.lookups(entries)
        cpu = daemon.cpu_seconds_when_idle()
        seconds = sum(reader.reads(announced, metadata=False).seconds for _ in range(passes))
        cpu = daemon.cpu_seconds_when_idle() - cpu
        reader.close()
    return {"reader cpu": cpu / passes * 1e3, "reader seconds": seconds / passes * 1e3}


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "aggregator", given)
    sets, passes, interval = SIZES[options.size]
    who = sides("LDMS_JOBMGR_PREFIX")
    parts = []
    prefix = c_prefix("LDMS_PREFIX")
    if prefix is not None:
        parts = [Part("C aggregator", who, lambda side: by_c(side, prefix, sets, passes, interval))]
    parts.append(Part("reader", who, lambda side: by_reader(side, sets, passes)))
    report("aggregator", rows(sets), run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
