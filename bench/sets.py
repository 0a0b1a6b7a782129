"""What it costs the daemon to serve many sets to one reader: time, bytes, CPU time, memory.

Usage: python bench/sets.py [--sets N] [--size small] [--output FILE]
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import (
    STALL_SECONDS,
    Conversation,
    Daemon,
    chunks,
    interleaved,
    job_payloads,
    now_us,
    report,
    running_daemon,
    send_all,
)

from ldmsjob.sets.decode import decode_set
from ldmsjob.wire.connection import LdmsConnection
from ldmsjob.wire.setevents import (
    READ_OK,
    AnnouncedSet,
    DirectoryAnswered,
    LookUp,
    MemoryRead,
    ReadMemory,
    SetAnnounced,
    WantDirectory,
)

SIZES = {"full": 10_000, "small": 300}
WARM_JOBS = 100
"""Jobs that are there before memory is measured."""
FIRST_JOB = 100_000
MAX_OPEN = 32_768
"""Requests that wait for answers at once; of a link with many more the daemon would close."""


@dataclass
class Phase:
    """What one kind of request took, for all sets together."""

    answers: list[Any]
    sent_bytes: int
    received_bytes: int
    first_seconds: float
    """From before the first ``send`` to the first byte of an answer."""
    seconds: float
    cpu_seconds: float
    """Of the daemon."""


class Client:
    """A reader of sets that sends all its requests without waiting for answers."""

    def __init__(self, daemon: Daemon, connection: LdmsConnection, link: socket.socket) -> None:
        self.daemon = daemon
        self.connection = connection
        self.link = link

    def ask(self, commands: Sequence[Any]) -> Phase:
        """Send them all, and read until each has its last answer."""
        batches = []
        for start in range(0, len(commands), MAX_OPEN):
            batch = commands[start : start + MAX_OPEN]
            for command in batch:
                self.connection.send(command, now_us())
            batches.append((self.connection.data_to_send(), len(batch)))
        phase = Phase([], sum(len(requests) for requests, _ in batches), 0, 0.0, 0.0, 0.0)
        self.link.setblocking(False)
        cpu = self.daemon.cpu_seconds()
        begin = time.perf_counter()
        for requests, count in batches:
            self._converse(requests, count, phase, begin)
        phase.seconds = time.perf_counter() - begin
        phase.cpu_seconds = self.daemon.cpu_seconds() - cpu
        self.link.setblocking(True)
        return phase

    def _converse(self, requests: bytes, count: int, phase: Phase, begin: float) -> None:
        """Send ``count`` requests, and read until each has its last answer."""
        link, receive, view = self.link, self.connection.receive_data, memoryview(requests)
        while count:
            readable, writable, _ = select.select([link], [link] if view else [], [], STALL_SECONDS)
            if not readable and not writable:
                raise RuntimeError(f"stalled with {count} requests to be answered")
            if readable:
                data = link.recv(1 << 20)
                if not data:
                    raise RuntimeError("the daemon closed the link")
                if not phase.received_bytes:
                    phase.first_seconds = time.perf_counter() - begin
                phase.received_bytes += len(data)
                events = receive(data, now_us())
                if self.connection.error is not None:
                    raise RuntimeError(f"no answer: {self.connection.error}")
                phase.answers += events
                count -= sum(not getattr(event, "more", False) for event in events)
            if writable:
                view = view[link.send(view[: 1 << 18]) :]


def make_sets(daemon: Daemon, conversation: Conversation, jobs: Sequence[Sequence[bytes]]) -> float:
    """Have a job with a running task for each; returns the growth of the daemon in bytes."""
    running = [job[:3] for job in jobs]
    frames = [conversation.frame(payload) for payload in interleaved(running, len(running))]
    before = daemon.resident_bytes()
    with conversation.open(daemon.port) as link:
        # The credit of a message comes back when what it says is in the sets.
        send_all(link, chunks(frames), len(frames) * conversation.credit_bytes)
    return daemon.resident_bytes() - before


def check_names(directory: Phase, sets: int) -> list[str]:
    """The names of all sets, one for each job."""
    names = []
    for answer in directory.answers:
        if not isinstance(answer, DirectoryAnswered) or answer.rc:
            raise RuntimeError(f"no directory: {answer}")
        names += [entry.name for entry in answer.entries]
    jobs = {name.rpartition("_")[2] for name in names if "/job_slurm_" in name}
    expected = {str(job) for job in range(FIRST_JOB, FIRST_JOB + sets)}
    if len(names) != sets or jobs != expected:
        raise RuntimeError(f"{len(names)} sets of {len(jobs)} jobs in the directory, not {sets}")
    return names


def check_announcements(lookups: Phase, names: Sequence[str]) -> list[AnnouncedSet]:
    """What was announced: each set that was looked up, in that order."""
    announced = [answer.announced for answer in lookups.answers if isinstance(answer, SetAnnounced)]
    if [one.instance for one in announced] != list(names):
        raise RuntimeError(f"{len(announced)} of {len(names)} sets were announced")
    return announced


def check_sets(reads: Phase, announced: Sequence[AnnouncedSet]) -> None:
    """What was read are the sets that were announced, each with the values of its job."""
    images = {
        answer.token: answer.data
        for answer in reads.answers
        if isinstance(answer, MemoryRead) and answer.status == READ_OK
    }
    for number, one in enumerate(announced):
        meta, data = images.pop(2 * number + 1), images.pop(2 * number + 2)
        decoded = decode_set(meta, data)
        values = decoded.values()
        job = "slurm_" + one.instance.rpartition("_")[2]
        if (
            decoded.instance != one.instance
            or decoded.schema != one.schema
            or not decoded.current_copy.is_consistent
            or values["job_id"] != job
            or len(values["task_list"]) != 1
        ):
            raise RuntimeError(f"{one.instance}: {values}")
    if images:
        raise RuntimeError(f"{len(images)} answers to nothing")


def serve(sets: int) -> list[tuple[str, float, str]]:
    """The figures for that many job sets, all looked up and read by one client."""
    with running_daemon() as daemon:
        conversation = Conversation(daemon.port)
        jobs = job_payloads(sets, FIRST_JOB)
        warm = min(WARM_JOBS, sets // 2)
        make_sets(daemon, conversation, jobs[:warm])
        per_set = make_sets(daemon, conversation, jobs[warm:]) / (sets - warm)
        with conversation.open(daemon.port) as link:
            client = Client(daemon, conversation.connection, link)
            before = daemon.resident_bytes()
            directory = client.ask([WantDirectory(1)])
            names = check_names(directory, sets)
            after_directory = daemon.resident_bytes()
            lookups = client.ask([LookUp(token, name) for token, name in enumerate(names, 1)])
            announced = check_announcements(lookups, names)
            per_lookup = (daemon.resident_bytes() - after_directory) / sets
            reads = client.ask(
                [
                    read
                    for number, one in enumerate(announced)
                    for read in (
                        ReadMemory(2 * number + 1, one, 0, one.meta_size),
                        ReadMemory(
                            2 * number + 2, one, one.meta_size, one.array_card * one.data_size
                        ),
                    )
                ]
            )
            served = (daemon.resident_bytes() - before) / sets
        check_sets(reads, announced)
    phases = {"directory": directory, "lookups": lookups, "reads": reads}
    rows = []
    for name, phase in phases.items():
        of = f" of {sets} sets" if phase is directory else ""
        rows += [
            (f"{name}{of}: rate", sets / phase.seconds, "sets/s"),
            (f"{name}: until the first byte of an answer", phase.first_seconds * 1e3, "ms"),
            (f"{name}: sent to the daemon", phase.sent_bytes / sets, "bytes/set"),
            (f"{name}: received from it", phase.received_bytes / sets, "bytes/set"),
            (f"{name}: CPU time of the daemon", phase.cpu_seconds / sets * 1e6, "us/set"),
        ]
    return [
        *rows,
        ("memory of a running job of one task and its set", per_set / 1024, "KiB/set"),
        ("memory of a lookup", per_lookup / 1024, "KiB/set"),
        ("memory of all that was served, buffers included", served / 1024, "KiB/set"),
    ]


def main(arguments: Sequence[str]) -> None:
    """Run it and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="default of --sets")
    parser.add_argument("--sets", type=int, help="job sets to be served")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "sets.json"
    )
    options = parser.parse_args(arguments)
    report("sets", serve(options.sets or SIZES[options.size]), options.output)


if __name__ == "__main__":
    main(sys.argv[1:])
