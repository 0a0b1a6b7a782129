"""The messages of many jobs, and the lines of the event file that must come of them."""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeVar

from daemons import STALL_SECONDS, Daemon

from ldmsjob.replay import recorded_messages

T = TypeVar("T")

FIRST_JOB = 100_000
WRITES_A_LINE = (True, False, True, True, True)
"""Which messages of a job of one task give at least a line: all but the step's announcement."""
LINES = (1, 0, 1, 1, 2)
"""How many each of them gives: the last one ``job_end`` and ``jobset_delete``."""

_LINE = re.compile(
    rb'(\w+): \{(?:"job_id":"slurm_(\d+)"|"task_id":"\d+","task_pid":(\d+),)[^\n]*\}\n'
)
_JOB, _PID, _TASK = 777000777, 888000888, 999000999


def _templates(tasks: int) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The five messages of a recorded job: its number, its task's pid and id are placeholders."""
    result = []
    for message in recorded_messages(["nonroot"]):
        content = json.loads(message.payload[:-1])
        data = content["data"]
        if content["event"] == "step_exit":
            continue
        data["job_id"] = _JOB
        if "task_pid" in data:
            data["task_pid"] = _PID
            data["task_id"] = data["task_global_id"] = _TASK
        for name in ("local_tasks", "total_tasks"):
            if data.get(name):
                data[name] = tasks
        result.append(json.dumps(content, separators=(",", ":")).encode() + b"\0")
    first, step, begin, end, last = result
    return first, step, begin, end, last


def job_payloads(count: int, *, tasks: int = 1, first_job: int = FIRST_JOB) -> list[list[bytes]]:
    """The messages of each of ``count`` jobs: job and step begin, each task begins, each task ends,
    the job ends. Every job has a job id of its own, and every task a pid of its own."""
    first, step, begin, end, last = _templates(tasks)
    job_text, pid_text, task_text = (b"%d" % one for one in (_JOB, _PID, _TASK))
    jobs = []
    for number in range(first_job, first_job + count):
        texts = [(b"%d" % (number * tasks + task), b"%d" % task) for task in range(tasks)]
        messages = [first, step]
        for template in (begin, end):
            for pid, task in texts:
                messages.append(template.replace(pid_text, pid).replace(task_text, task))
        messages.append(last)
        job = b"%d" % number
        jobs.append([message.replace(job_text, job) for message in messages])
    return jobs


def interleaved(jobs: Sequence[Sequence[T]], live: int) -> Iterator[T]:
    """The jobs' messages, or what else there is one of for each of them, with ``live`` jobs running
    at once: all first messages of a group of jobs, then all second ones, and so on."""
    for start in range(0, len(jobs), live):
        group = jobs[start : start + live]
        for position in range(len(group[0])):
            for job in group:
                yield job[position]


class EventFile:
    """The end of a daemon's event file as it grows."""

    def __init__(self, daemon: Daemon) -> None:
        # A daemon may listen for a moment before it has begun the file.
        daemon.wait_for(daemon.events.exists, "no event file")
        self._file = os.open(daemon.events, os.O_RDONLY)
        self._parts: list[bytes] = []
        self.lines = 0

    def read(self) -> int:
        """Read what is new; returns how many lines that were."""
        data = os.read(self._file, 1 << 20)
        if not data:
            return 0
        self._parts.append(data)
        lines = data.count(b"\n")
        self.lines += lines
        return lines

    def wait(self, count: int) -> None:
        """Until there are so many lines in all."""
        seen = time.monotonic()
        while self.lines < count:
            if self.read():
                seen = time.monotonic()
            elif time.monotonic() - seen > STALL_SECONDS:
                raise RuntimeError(f"{self.lines} of {count} lines in the event file")
            else:
                time.sleep(0.001)

    def close(self) -> bytes:
        """All that was read."""
        os.close(self._file)
        return b"".join(self._parts)


def check_lines(content: bytes, jobs: int, *, tasks: int = 1, ended: bool = True) -> None:
    """Every job's lines are there, in their order, and nothing else is. Without ``ended`` all its
    tasks run."""
    kinds: dict[int, list[bytes]] = defaultdict(list)
    task_kinds: dict[int, list[bytes]] = defaultdict(list)
    end = 0
    for match in _LINE.finditer(content):
        if match.start() != end:
            raise RuntimeError(f"no event line: {content[end : match.start()]!r}")
        end = match.end()
        kind, job, pid = match.groups()
        if pid is not None:
            task_kinds[int(pid)].append(kind)
        kinds[int(job) if job is not None else int(pid) // tasks].append(kind)
    if end != len(content) or len(kinds) != jobs or len(task_kinds) != jobs * tasks:
        found = f"{len(kinds)} jobs and {len(task_kinds)} tasks in {end} of {len(content)} bytes"
        raise RuntimeError(f"{found}, not {jobs} and {jobs * tasks}")
    task_order = [b"task_start", b"task_end"] if ended else [b"task_start"]
    last = [b"job_end", b"jobset_delete"] if ended else []
    for job, lines in kinds.items():
        middle = lines[1 : -len(last)] if last else lines[1:]
        if lines[:1] != [b"job_start"] or [*lines[:1], *middle, *last] != lines:
            raise RuntimeError(f"job {job}: {lines}")
    for pid, lines in task_kinds.items():
        if lines != task_order:
            raise RuntimeError(f"task {pid}: {lines}")
