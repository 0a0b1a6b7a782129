"""What a node says of Slurm's jobs: its processes and its cgroups, read and never changed.

Every step that runs on a node has one process of Slurm's, ``slurmstepd``, whose title names job and
step; the step's tasks are its children, and their environment says which task each one is. Where
Slurm uses cgroups, each job and step has a directory with their processes.

A title can be had by anybody, so a ``slurmstepd`` counts only when its *real* user is one of those
that the caller trusts. Directories of cgroups count while a process is in them: empty ones are
known to be left behind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
"""The unit of start times in /proc."""

KEEPERS = frozenset({"batch", "extern"})
"""Slurm's own steps that last as long as their job does on the node."""

_MAX_ENVIRONMENT_BYTES = 2 << 20
_MAX_TASKS_PER_NODE = 1 << 20

_TITLE = (
    rb"slurmstepd: \[([1-9][0-9]{0,9})\.([0-9]{1,10}|batch|extern|interactive|TBD)"
    rb"(?:\+[0-9]+)?(?: stepmgr)?\]"
)
_JOB_DIRECTORY = r"job_([1-9][0-9]{0,9})"
_STEP_DIRECTORY = r"step_([0-9]{1,10}|batch|extern|interactive|TBD)(?:\+[0-9]+)?"
_UID_DIRECTORY = r"uid_([0-9]{1,10})"
_REAL_UID = rb"(?m)^Uid:\t([0-9]+)"
_TASKS_OF_NODES = r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?"


class TaskProcess(msgspec.Struct, frozen=True):
    """A task that runs."""

    task_id: int
    rank: int | None
    pid: int
    start_us: int
    """Microseconds since the epoch, exact to a hundredth of a second."""


class StepProcess(msgspec.Struct, frozen=True):
    """A ``slurmstepd`` that runs, and what its tasks' environment says of the step."""

    job_id: str
    step: str
    """The step's number, or ``batch``, ``extern``, ``interactive``."""
    pid: int
    start_us: int
    ticks: int
    """Its start in /proc's clock ticks since the boot, which no setting of a clock changes."""
    node: str | None = None
    """Slurm's name of the node; None when no task says it."""
    node_id: int | None = None
    """The node's index in the step; None when no task says it, as in all but the first component
    of a heterogeneous job."""
    uid: int | None = None
    """Who its tasks run as."""
    node_count: int | None = None
    total_tasks: int | None = None
    local_tasks: int | None = None
    tasks: tuple[TaskProcess, ...] = ()

    @property
    def step_id(self) -> int | None:
        """The number of an ordinary step; None for one of Slurm's own."""
        return int(self.step) if self.step.isdigit() else None

    @property
    def identity(self) -> tuple[int, int]:
        """What tells it from every other process of this boot."""
        return self.pid, self.ticks


class StepCgroup(msgspec.Struct, frozen=True):
    """A step's cgroup directory with a process in it."""

    job_id: str
    step: str


class NodeView(msgspec.Struct, frozen=True):
    """What ran on the node when it was looked at."""

    steps: tuple[StepProcess, ...] = ()
    cgroups: frozenset[StepCgroup] = frozenset()
    alive: Mapping[int, int] = {}
    """Those of the asked pids that run, with their start in microseconds since the epoch."""
    boot_us: int = 0
    """The boot in microseconds since the epoch, as the wall clock and the uptime have it at this
    look: what all starts are counted from. Two looks differ in it, by much where the wall clock was
    set meanwhile."""


class _Process(msgspec.Struct, frozen=True):
    pid: int
    parent: int
    start_us: int
    ticks: int


def read_node(
    root: Path, now_us: int, pids: Collection[int] = (), trusted_uids: Collection[int] = (0,)
) -> NodeView:
    """Look at ``root/proc`` and ``root/sys/fs/cgroup``; ``root`` is ``/`` but for tests.

    ``now_us`` is the wall clock. ``pids`` are processes that the caller wants to know about.
    ``trusted_uids`` are the users whose ``slurmstepd`` is believed. Blocks, for about 20 µs for
    each process of the node: call it in a thread. Processes that end meanwhile count as ended, and
    what may not be read as not there; nothing is raised.
    """
    processes = root / "proc"
    boot_us = now_us - _uptime_us(processes)
    steps, alive = _read_processes(processes, boot_us, frozenset(pids), trusted_uids)
    cgroups = root / "sys" / "fs" / "cgroup"
    return NodeView(steps, frozenset(_populated_steps(cgroups)), alive, boot_us)


# Processes


def _read(path: str, size: int = 65_536) -> bytes:
    """The file's beginning; nothing when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, size)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _read_all(path: str, limit: int) -> bytes:
    """The file up to ``limit`` bytes; /proc hands out long ones in pieces."""
    try:
        with open(path, "rb", buffering=0) as file:
            parts: list[bytes] = []
            while limit > 0 and (part := file.read(min(limit, 65_536))):
                parts.append(part)
                limit -= len(part)
    except OSError:
        return b""
    return b"".join(parts)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _uptime_us(processes: Path) -> int:
    words = _read(f"{processes}/uptime").split()
    try:
        return int(float(words[0]) * 1_000_000)
    except (IndexError, ValueError, OverflowError):
        return 0


def _read_processes(
    processes: Path, boot_us: int, pids: frozenset[int], trusted_uids: Collection[int]
) -> tuple[tuple[StepProcess, ...], dict[int, int]]:
    daemons: dict[int, tuple[_Process, str, str]] = {}
    children: dict[int, list[_Process]] = {}
    alive: dict[int, int] = {}
    for name in _names(str(processes)):
        if not name.isdigit():
            continue
        stat = _read(f"{processes}/{name}/stat", 1024)
        begin, end = stat.find(b"("), stat.rfind(b")")
        fields = stat[end + 2 :].split(None, 20)
        if begin < 0 or len(fields) < 20 or fields[0] in (b"Z", b"X"):
            continue
        pid = int(name)
        ticks = int(fields[19])
        start_us = boot_us + ticks * 1_000_000 // TICKS_PER_SECOND
        process = _Process(pid, int(fields[1]), start_us, ticks)
        if pid in pids:
            alive[pid] = start_us
        children.setdefault(process.parent, []).append(process)
        if stat[begin + 1 : end] == b"slurmstepd":
            title = re.match(_TITLE, _read(f"{processes}/{name}/cmdline", 256))
            if title is None:
                continue
            uid = re.search(_REAL_UID, _read(f"{processes}/{name}/status", 4096))
            if uid is not None and int(uid[1]) in trusted_uids:
                daemons[pid] = (process, title[1].decode(), title[2].decode())
    steps = [
        _step(processes, process, job_id, step, children.get(process.pid, ()))
        for process, job_id, step in daemons.values()
        # A task that was forked and has not become its program yet has the title of its parent.
        if daemons.get(process.parent, (None,))[1:] != (job_id, step)
    ]
    steps.sort(key=lambda one: (one.start_us, one.pid))
    return tuple(steps), alive


def _step(
    processes: Path, process: _Process, job_id: str, step: str, children: Iterable[_Process]
) -> StepProcess:
    known: dict[str, str] = {}
    uid: int | None = None
    found: dict[int, tuple[_Process, int | None]] = {}
    # A process that a task left behind may have become a child, too, with the task's environment:
    # it is younger than the task.
    for child in sorted(children, key=lambda one: (one.start_us, one.pid)):
        environment = _environment(f"{processes}/{child.pid}/environ")
        if "SLURM_JOB_ID" not in environment:
            continue
        if not known:
            known = environment
            owner = re.search(_REAL_UID, _read(f"{processes}/{child.pid}/status", 4096))
            uid = int(owner[1]) if owner is not None else None
        task_id = _number(environment, "SLURM_LOCALID")
        if environment.get("SLURM_STEP_ID") == step and task_id is not None:
            found.setdefault(task_id, (child, _number(environment, "SLURM_PROCID")))
    # In a heterogeneous job all components have the environment of the whole: the first one's job
    # id, and nodes and ranks counted through. Who announces steps counts by component.
    is_first = known.get("SLURM_JOB_ID") == job_id
    is_whole = is_first and "SLURM_HET_SIZE" not in known
    node_id = _number(known, "SLURM_NODEID") if is_first else None
    tasks_per_node = known.get("SLURM_STEP_TASKS_PER_NODE", "") if is_whole else ""
    return StepProcess(
        job_id,
        step,
        process.pid,
        process.start_us,
        process.ticks,
        known.get("SLURMD_NODENAME") or None,
        node_id,
        uid,
        _number(known, "SLURM_STEP_NUM_NODES") if is_whole else None,
        _number(known, "SLURM_STEP_NUM_TASKS") if is_whole else None,
        tasks_of_node(tasks_per_node, node_id),
        tuple(
            TaskProcess(task_id, rank if is_first else None, child.pid, child.start_us)
            for task_id, (child, rank) in found.items()
        ),
    )


_WANTED = frozenset(
    {
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
        "SLURM_LOCALID",
        "SLURM_PROCID",
        "SLURM_NODEID",
        "SLURMD_NODENAME",
        "SLURM_HET_SIZE",
        "SLURM_STEP_NUM_NODES",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_STEP_TASKS_PER_NODE",
    }
)


def _environment(path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in _read_all(path, _MAX_ENVIRONMENT_BYTES).split(b"\0"):
        if entry.startswith(b"SLURM"):
            name, _, value = entry.decode("utf-8", "replace").partition("=")
            if name in _WANTED:
                found.setdefault(name, value)
    return found


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def tasks_of_node(text: str, node_id: int | None) -> int | None:
    """The task count of one node out of Slurm's ``4(x2),3``; None when it does not say."""
    if node_id is None:
        return None
    first = 0
    for part in text.split(","):
        match = re.fullmatch(_TASKS_OF_NODES, part)
        if match is None:
            return None
        first += int(match[2] or 1)
        if node_id < first:
            tasks = int(match[1])
            return tasks if tasks <= _MAX_TASKS_PER_NODE else None
    return None


# Cgroups


def _populated_steps(cgroups: Path) -> Iterator[StepCgroup]:
    top = str(cgroups)
    for name in _names(top):
        if name.endswith(".slice"):  # version 2: scopes of systemd, one for each slurmd
            for scope in _names(f"{top}/{name}"):
                if scope == "slurmstepd.scope" or scope.endswith("_slurmstepd.scope"):
                    yield from _jobs_below(f"{top}/{name}/{scope}", _is_populated)
            continue
        for group in _names(f"{top}/{name}"):  # version 1: a tree for each controller
            if group == "slurm" or group.startswith("slurm_"):
                for owner in _names(f"{top}/{name}/{group}"):
                    if re.fullmatch(_UID_DIRECTORY, owner) is not None:
                        yield from _jobs_below(f"{top}/{name}/{group}/{owner}", _has_process)


def _jobs_below(path: str, alive: Callable[[str], bool]) -> Iterator[StepCgroup]:
    for job in _names(path):
        is_job = re.fullmatch(_JOB_DIRECTORY, job)
        if is_job is None:
            continue
        for step in _names(f"{path}/{job}"):
            is_step = re.fullmatch(_STEP_DIRECTORY, step)
            if is_step is not None and alive(f"{path}/{job}/{step}"):
                yield StepCgroup(is_job[1], is_step[1])


def _is_populated(path: str) -> bool:
    """Version 2 says it of a directory and all below."""
    return b"populated 1" in _read(f"{path}/cgroup.events", 256)


def _has_process(path: str) -> bool:
    """Version 1 says it of each directory: the step's, and its tasks' below."""
    if _read(f"{path}/cgroup.procs", 16):
        return True
    return any(
        _read(f"{path}/{name}/cgroup.procs", 16)
        for name in _names(path)
        if name.startswith("task_")
    )
