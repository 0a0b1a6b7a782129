"""What it takes to read a daemon's sets: C's ``ldms_ls``, and a reader that costs little itself.

``ldms_ls`` is there where LDMS_PREFIX names a build; it is the same program on both sides. Against
C where LDMS_JOBMGR_PREFIX names a build that has a job manager.

Usage: python bench/sets.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from daemons import Side, c_environment, c_prefix, sides
from rounds import Figures, Part, Row, Target, arguments, report, run
from setreader import Reader, check_sets, make_sets

SIZES = {"full": (10_000, 1000), "small": (300, 10)}
"""Sets, and sets that are printed with their values."""
LS_SECONDS = 600
"""``ldms_ls`` gives up behind so many. C's daemon makes it wait 40 ms twice for each set."""

READER = [
    Row("reader, directory: seconds", "directory seconds", "s"),
    Row("reader, directory: until its first byte", "directory first", "s"),
    Row("reader, directory: CPU", "directory cpu", "us/set"),
    Row("reader, lookups: rate", "lookups rate", "sets/s"),
    Row("reader, lookups: CPU", "lookups cpu", "us/set"),
    Row("reader, lookups: memory", "lookups memory", "bytes/set"),
    Row("reader, metadata and data: rate", "reads rate", "sets/s"),
    Row("reader, metadata and data: CPU", "reads cpu", "us/set"),
    Row("reader, metadata and data: received", "reads bytes", "bytes/set"),
]


def rows(many: int, few: int) -> list[Row]:
    """The table's lines."""
    return [
        Row(f"ldms_ls of {many:,} sets", "ls", "s", Target(ratio=1.0)),
        Row(f"ldms_ls -l of {few:,} sets", "ls -l", "s", Target(ratio=0.05)),
        *READER,
    ]


def ldms_ls(side: Side, prefix: Path, sets: int, *options: str) -> float:
    """Seconds of one run of the C program, which must list so many sets."""
    with side.running() as daemon:
        make_sets(daemon, sets)
        daemon.cpu_seconds_when_idle()
        command = [str(prefix / "sbin" / "ldms_ls"), "-x", "sock", "-h", "127.0.0.1"]
        begin = time.perf_counter()
        done = subprocess.run(
            [*command, "-p", str(daemon.port), "-w", str(LS_SECONDS), *options],
            env=c_environment(prefix),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        seconds = time.perf_counter() - begin
    listed = done.stdout.count(b"/job_slurm_")
    values = done.stdout.count(b" job_id ")
    if done.returncode or listed < sets or values != (sets if "-l" in options else 0):
        raise RuntimeError(f"ldms_ls: {listed} sets, {values} with values:\n{done.stderr!r}")
    return seconds


def read_all(side: Side, sets: int) -> Figures:
    """Every set listed, looked up and read by one reader."""
    with side.running() as daemon:
        make_sets(daemon, sets)
        reader = Reader(daemon)
        cpu = [daemon.cpu_seconds_when_idle()]
        directory, entries = reader.directory(sets)
        cpu.append(daemon.cpu_seconds_when_idle())
        memory = daemon.resident_bytes()
        lookups, announced = reader.lookups(entries)
        cpu.append(daemon.cpu_seconds_when_idle())
        memory = daemon.resident_bytes() - memory
        reads = reader.reads(announced, metadata=True)
        cpu.append(daemon.cpu_seconds_when_idle())
        reader.close()
        check_sets(reads.answers, announced)
    used = [(after - before) / sets * 1e6 for before, after in itertools.pairwise(cpu)]
    return {
        "directory seconds": directory.seconds,
        "directory first": directory.first_seconds,
        "directory cpu": used[0],
        "lookups rate": sets / lookups.seconds,
        "lookups cpu": used[1],
        "lookups memory": memory / sets,
        "reads rate": sets / reads.seconds,
        "reads cpu": used[2],
        "reads bytes": reads.received_bytes / sets,
    }


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "sets", given)
    many, few = SIZES[options.size]
    who = sides("LDMS_JOBMGR_PREFIX")
    parts = []
    prefix = c_prefix("LDMS_PREFIX")
    if prefix is not None:
        parts = [
            Part("ls", who, lambda side: {"ls": ldms_ls(side, prefix, many)}),
            Part("ls -l", who, lambda side: {"ls -l": ldms_ls(side, prefix, few, "-l")}),
        ]
    parts.append(Part("reader", who, lambda side: read_all(side, many)))
    report("sets", rows(many, few), run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
