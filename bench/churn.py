"""Connect, publish, wait for the credit, close: what Slurm's notifier does for each event.

Usage: python bench/churn.py [--cycles N] [--size small] [--output FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common import (
    Conversation,
    connect,
    interleaved,
    job_payloads,
    receive_exactly,
    report,
    running_daemon,
)

SIZES = {"full": 5000, "small": 100}


def churn(cycles: int, *, nodelay: bool) -> tuple[float, float, float]:
    """Cycles per second, milliseconds of a median cycle, CPU microseconds of the daemon per cycle.

    Each part of the dialogue is a ``send`` of its own, as in C. With Nagle's algorithm on, the
    client's kernel keeps the message back until the daemon's has acknowledged what was sent before.
    """
    with running_daemon() as daemon:
        conversation = Conversation(daemon.port)
        jobs = job_payloads(-(-cycles // 5))
        frames = [conversation.frame(payload) for payload in interleaved(jobs, 10)][:cycles]
        durations = []
        cpu = daemon.cpu_seconds()
        begin = time.perf_counter()
        for frame in frames:
            cycle = time.perf_counter()
            link = connect(daemon.port, nodelay=nodelay)
            link.sendall(conversation.hello)
            receive_exactly(link, conversation.accepted_bytes)
            link.sendall(conversation.acknowledgement)
            link.sendall(frame)
            receive_exactly(link, conversation.credit_bytes)
            link.close()
            durations.append(time.perf_counter() - cycle)
        seconds = time.perf_counter() - begin
        cpu = daemon.cpu_seconds() - cpu
    durations.sort()
    return cycles / seconds, durations[cycles // 2] * 1e3, cpu / cycles * 1e6


def main(arguments: Sequence[str]) -> None:
    """Run both kinds of client and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="default of --cycles")
    parser.add_argument("--cycles", type=int)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "churn.json"
    )
    options = parser.parse_args(arguments)
    cycles = options.cycles or SIZES[options.size]
    rows = []
    for nodelay, client in ((True, "Nagle off"), (False, "Nagle on")):
        rate, median, cpu = churn(cycles, nodelay=nodelay)
        rows += [
            (f"{client}: rate", rate, "cycles/s"),
            (f"{client}: median cycle", median, "ms"),
            (f"{client}: CPU time of the daemon", cpu, "us/cycle"),
        ]
    report("churn", rows, options.output)


if __name__ == "__main__":
    main(sys.argv[1:])
