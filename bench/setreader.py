"""A reader of a daemon's job sets that costs little itself, and what it must find.

It sends all requests of a phase without waiting for answers, as C's aggregators do, and parses the
answers, but does nothing else while time is taken.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemons import STALL_SECONDS, Daemon
from jobs import FIRST_JOB, EventFile, check_lines, interleaved, job_payloads
from wirebytes import message_frame, now_us, open_link, parsing_link, send_all

from ldmsjob.sets.decode import decode_set
from ldmsjob.wire.setevents import (
    READ_OK,
    AnnouncedSet,
    DirectoryAnswered,
    DirectoryEntry,
    LookUp,
    MemoryRead,
    ReadMemory,
    SetAnnounced,
    WantDirectory,
)

MAX_OPEN = 32_768
"""Requests that wait for answers at once; of a link with many more our daemon would close."""


@dataclass
class Phase:
    """What one kind of request took, for all sets together."""

    answers: list[Any]
    received_bytes: int = 0
    first_seconds: float = 0.0
    """From before the first ``send`` to the first byte of an answer."""
    seconds: float = 0.0


class Reader:
    """A link to a daemon, and the sets that were found over it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._connection, self._link = parsing_link(daemon.port)

    def directory(self, sets: int) -> tuple[Phase, list[DirectoryEntry]]:
        """All sets, in one request; there must be one for each of so many jobs."""
        phase = self._ask([WantDirectory(1)])
        entries: list[DirectoryEntry] = []
        for answer in phase.answers:
            if not isinstance(answer, DirectoryAnswered) or answer.rc:
                raise RuntimeError(f"no directory: {answer}")
            entries += answer.entries
        jobs = {one.name.rpartition("_")[2] for one in entries if "/job_slurm_" in one.name}
        expected = {str(job) for job in range(FIRST_JOB, FIRST_JOB + sets)}
        if len(entries) != sets or jobs != expected:
            raise RuntimeError(f"{len(entries)} sets of {len(jobs)} jobs listed, not {sets}")
        return phase, entries

    def lookups(self, entries: Sequence[DirectoryEntry]) -> tuple[Phase, list[AnnouncedSet]]:
        """Each set by its name."""
        phase = self._ask([LookUp(token, one.name) for token, one in enumerate(entries, 1)])
        announced = [one.announced for one in phase.answers if isinstance(one, SetAnnounced)]
        if [one.instance for one in announced] != [one.name for one in entries]:
            raise RuntimeError(f"{len(announced)} of {len(entries)} sets were announced")
        return phase, announced

    def reads(self, announced: Sequence[AnnouncedSet], *, metadata: bool) -> Phase:
        """The data of each set, behind its metadata or alone. The answers are ``bytes``."""
        commands: list[ReadMemory] = []
        for one in announced:
            if metadata:
                commands.append(ReadMemory(len(commands) + 1, one, 0, one.meta_size))
            length = one.array_card * one.data_size
            commands.append(ReadMemory(len(commands) + 1, one, one.meta_size, length))
        phase = self._ask(commands)
        images = {
            one.token: one.data
            for one in phase.answers
            if isinstance(one, MemoryRead) and one.status == READ_OK
        }
        phase.answers = [images.get(command.token, b"") for command in commands]
        if [len(data) for data in phase.answers] != [command.length for command in commands]:
            raise RuntimeError(f"{len(images)} of {len(commands)} reads were answered")
        return phase

    def close(self) -> None:
        """Leave the daemon."""
        self._link.close()

    def _ask(self, commands: Sequence[Any]) -> Phase:
        """Send them all, and read until each has its last answer."""
        batches = []
        for start in range(0, len(commands), MAX_OPEN):
            batch = commands[start : start + MAX_OPEN]
            for command in batch:
                self._connection.send(command, now_us())
            batches.append((self._connection.data_to_send(), len(batch)))
        phase = Phase([])
        self._link.setblocking(False)
        begin = time.perf_counter()
        for requests, count in batches:
            self._converse(requests, count, phase, begin)
        phase.seconds = time.perf_counter() - begin
        return phase

    def _converse(self, requests: bytes, count: int, phase: Phase, begin: float) -> None:
        link, receive, view = self._link, self._connection.receive_data, memoryview(requests)
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
                if self._connection.error is not None:
                    raise RuntimeError(f"no answer: {self._connection.error}")
                phase.answers += events
                count -= sum(not getattr(event, "more", False) for event in events)
            if writable:
                view = view[link.send(view[: 1 << 18]) :]


def make_sets(daemon: Daemon, sets: int) -> None:
    """Have so many jobs with one running task each."""
    running = [job[:3] for job in job_payloads(sets)]
    events = EventFile(daemon)
    with open_link(daemon.port) as link:
        send_all(link, [message_frame(one) for one in interleaved(running, sets)])
        # What C's credit says has been done is not yet written.
        events.wait(2 * sets)
    check_lines(events.close(), sets, ended=False)


def check_sets(images: Sequence[bytes], announced: Sequence[AnnouncedSet]) -> None:
    """What was read, metadata and data in turn, are those sets, with the values of their jobs."""
    for number, one in enumerate(announced):
        decoded = decode_set(images[2 * number], images[2 * number + 1])
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
