"""From a Slurm message to its line in the event file: rate, CPU time, latency, memory per job.

Usage: python bench/event_path.py [--jobs N] [--live N] [--rate N] [--size small] [--output FILE]
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from common import (
    LINES_PER_JOB,
    STALL_SECONDS,
    Conversation,
    Daemon,
    chunks,
    interleaved,
    job_payloads,
    report,
    running_daemon,
    send_all,
)

SIZES = {
    "full": {"jobs": 20_000, "live": 1000, "paced": 5000, "rate": 1000, "memory": 10_000},
    "small": {"jobs": 400, "live": 100, "paced": 200, "rate": 500, "memory": 400},
}
LINE = re.compile(rb'(\w+): \{(?:"job_id":"slurm_(\d+)"|"task_id":"0","task_pid":(\d+),)[^\n]*\}\n')
ORDER = [b"job_start", b"task_start", b"task_end", b"job_end", b"jobset_delete"]
WRITES_A_LINE = (True, False, True, True, True)
"""Which of a job's five messages give at least a line: all but the step's announcement."""


def wait_for_lines(daemon: Daemon, count: int) -> bytes:
    """The event file's content once it has that many lines."""
    deadline = time.monotonic() + STALL_SECONDS
    while True:
        content = daemon.events.read_bytes()
        lines = content.count(b"\n")
        if lines >= count:
            return content
        if time.monotonic() > deadline:
            raise RuntimeError(f"{lines} of {count} lines in the event file")
        time.sleep(0.01)


def check_lines(content: bytes, jobs: int) -> None:
    """Every job's five lines are there, in their order, and nothing else is."""
    kinds: dict[bytes, list[bytes]] = defaultdict(list)
    end = 0
    for match in LINE.finditer(content):
        if match.start() != end:
            raise RuntimeError(f"no event line: {content[end : match.start()]!r}")
        end = match.end()
        kinds[match[2] or match[3]].append(match[1])
    if end != len(content) or len(kinds) != jobs:
        raise RuntimeError(f"{len(kinds)} of {jobs} jobs in {end} of {len(content)} bytes")
    for job, lines in kinds.items():
        if lines != ORDER:
            raise RuntimeError(f"job {job.decode()}: {lines}")


def burst(jobs: int, live: int) -> tuple[float, float]:
    """Messages per second, and the daemon's CPU microseconds per message."""
    with running_daemon() as daemon:
        conversation = Conversation(daemon.port)
        frames = [conversation.frame(p) for p in interleaved(job_payloads(jobs), live)]
        pieces = chunks(frames)
        with conversation.open(daemon.port) as link:
            cpu = daemon.cpu_seconds()
            begin = time.perf_counter()
            send_all(link, pieces, len(frames) * conversation.credit_bytes)
            seconds = time.perf_counter() - begin
            content = wait_for_lines(daemon, jobs * LINES_PER_JOB)
            cpu = daemon.cpu_seconds() - cpu
        check_lines(content, jobs)
    return len(frames) / seconds, cpu / len(frames) * 1e6


def drain(link: socket.socket) -> None:
    """Drop what has been received."""
    try:
        while link.recv(65536):
            pass
    except BlockingIOError:
        pass


def paced(messages: int, rate: int) -> list[float]:
    """Sorted delays in seconds from before the ``send`` of a message to seeing its line.

    One message every 1/rate seconds on an open link. In between this process does nothing but read
    the end of the event file, so a delay includes the two system calls that see the line, and
    excludes the making of the message. Messages that give no line are sent but not measured.
    """
    jobs = job_payloads(-(-messages // 5))
    delays = []
    with running_daemon() as daemon:
        conversation = Conversation(daemon.port)
        frames = [conversation.frame(payload) for job in jobs for payload in job]
        gives_line = WRITES_A_LINE * len(jobs)
        with conversation.open(daemon.port) as link:
            link.setblocking(False)
            file = os.open(daemon.events, os.O_RDONLY)
            due = time.perf_counter()
            for frame, expected in zip(frames, gives_line, strict=True):
                due += 1 / rate
                while time.perf_counter() < due:
                    os.read(file, 65536)
                drain(link)
                begin = time.perf_counter()
                link.send(frame)
                while expected:
                    if os.read(file, 65536):
                        delays.append(time.perf_counter() - begin)
                        break
                    if time.perf_counter() - begin > STALL_SECONDS:
                        raise RuntimeError(f"no line within {STALL_SECONDS} s")
            os.close(file)
    return sorted(delays)


def memory(jobs: int) -> float:
    """Bytes of resident memory that each of ``jobs`` running jobs of one task adds."""
    with running_daemon() as daemon:
        conversation = Conversation(daemon.port)
        payloads = job_payloads(jobs + 100)
        warm, measured = payloads[:100], payloads[100:]
        with conversation.open(daemon.port) as link:
            for index, group in enumerate((warm, measured)):
                running = [job[:4] for job in group]
                frames = [conversation.frame(p) for p in interleaved(running, len(running))]
                before = daemon.resident_bytes()
                send_all(link, chunks(frames), len(frames) * conversation.credit_bytes)
                wait_for_lines(daemon, 3 * (len(warm) + index * len(measured)))
            return (daemon.resident_bytes() - before) / jobs


def main(arguments: Sequence[str]) -> None:
    """Run the three parts and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="defaults of the others")
    parser.add_argument("--jobs", type=int, help="jobs of 5 messages in the burst")
    parser.add_argument("--live", type=int, help="jobs that run at once in the burst")
    parser.add_argument("--paced", type=int, help="messages of the paced run")
    parser.add_argument("--rate", type=int, help="messages per second of the paced run")
    parser.add_argument("--memory", type=int, help="running jobs when memory is measured")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "event_path.json"
    )
    options = parser.parse_args(arguments)
    for name, value in SIZES[options.size].items():
        if getattr(options, name) is None:
            setattr(options, name, value)

    rate, cpu = burst(options.jobs, options.live)
    delays = paced(options.paced, options.rate)
    per_job = memory(options.memory)
    report(
        "event_path",
        [
            (f"burst of {options.jobs} jobs, {options.live} at once: rate", rate, "messages/s"),
            ("burst: CPU time of the daemon", cpu, "us/message"),
            (f"paced, {options.rate}/s: send to line, median", pick(delays, 0.5), "us"),
            ("paced: send to line, 99th percentile", pick(delays, 0.99), "us"),
            (f"memory per running job, of {options.memory}", per_job / 1024, "KiB"),
        ],
        options.output,
    )


def pick(delays: Sequence[float], quantile: float) -> float:
    """A quantile of sorted seconds, in microseconds."""
    return delays[min(len(delays) - 1, int(len(delays) * quantile))] * 1e6


if __name__ == "__main__":
    main(sys.argv[1:])
