"""Compiles and drives harness.c, and plays the daemon for it. Everything happens in turn: while the
notifier waits, the test decides what it is that it waits for."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ldmsjob.spank import SOURCE

HARNESS = Path(__file__).parent / "harness.c"
STRICT = (
    *("-std=c11", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion"),
    *("-Wformat=2", "-Werror"),
)
WRAPPED = tuple(f"-Wl,--wrap={name}" for name in ("clock_gettime", "open", "ppoll", "write"))
COMPILER = os.environ.get("CC") or "cc"


def missing() -> str | None:
    """Why the notifier cannot be compiled here; ``None`` if it can."""
    if shutil.which(COMPILER.split()[0]) is None:
        return f"there is no compiler '{COMPILER}'"
    result = subprocess.run(
        [*COMPILER.split(), "-E", "-x", "c", "-"],
        input=b"#include <slurm/spank.h>\n",
        capture_output=True,
        check=False,
    )
    return None if result.returncode == 0 else "there are no headers of Slurm (libslurm-dev)"


@cache
def compiled(flags: Sequence[str]) -> Path:
    """The harness with the notifier in it, compiled with all warnings as errors, once."""
    output = Path("spank-harness" + "".join(re.sub(r"\W+", "-", flag) for flag in flags)).absolute()
    sources = [str(HARNESS), str(SOURCE)]
    command = [*COMPILER.split(), *STRICT, *flags, "-o", str(output), *sources, *WRAPPED]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0 or result.stderr:
        raise AssertionError(f"{' '.join(command)}\n{result.stderr}")
    return output


class Daemon:
    """The other end of the socket, and the files next to it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ldmsjob-"))  # addresses are 107 bytes
        self.path = self.directory / "n.sock"
        self.lines: list[bytes] = []
        self._listening: socket.socket | None = None
        self._links: dict[socket.socket, int] = {}

    def listen(self, backlog: int = 16) -> None:
        """Be there."""
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.path))
        self._listening.listen(backlog)
        self._listening.setblocking(False)

    def take(self) -> list[bytes]:
        """Read what there is; gives the whole lines that were read now, and keeps them."""
        assert self._listening is not None
        try:
            while True:
                link, _ = self._listening.accept()
                link.setblocking(False)
                self._links[link] = 0
        except BlockingIOError:
            pass
        taken: list[bytes] = []
        for link in self._links:
            try:
                while data := link.recv(1 << 16):
                    taken += data.splitlines(keepends=True)
                    self._links[link] += data.count(b"\n")
            except (BlockingIOError, ConnectionResetError):
                pass
        self.lines += taken
        return taken

    def answer(self, answers: bytes) -> None:
        """Send these on the connection that came last."""
        list(self._links)[-1].send(answers)

    def serve(self) -> str:
        """Read and answer all; what a waiting notifier is told by default."""
        self.take()
        for link, unanswered in self._links.items():
            if unanswered:
                link.send(b"+" * unanswered)
                self._links[link] = 0
        return "after 0"

    def stop_reading(self) -> None:
        """Let the other side write nothing any more."""
        for link in self._links:
            link.shutdown(socket.SHUT_RD)

    def hang_up(self) -> None:
        """Close the connections, whatever was not read."""
        for link in self._links:
            link.close()
        self._links = {}

    def close(self) -> None:
        """Be gone, with the files."""
        self.hang_up()
        if self._listening is not None:
            self._listening.close()
        shutil.rmtree(self.directory)

    def file(self, suffix: str) -> Path:
        """One of the files next to the socket."""
        return Path(f"{self.path}.{suffix}")

    def spooled(self) -> list[bytes]:
        """The lines of the spool."""
        spool = self.file("spool")
        return spool.read_bytes().splitlines(keepends=True) if spool.exists() else []


def decoded(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The objects that the lines are."""
    return [json.loads(line.decode("utf-8")) for line in lines]


class Harness:
    """A process with the notifier in it. ``polls`` has how long it wanted to wait each time."""

    def __init__(self, command: Sequence[str], path: Path) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "SLURMD_NODENAME": "n1"},
        )
        self.pid = self._process.pid
        self.polls: list[int] = []
        self.said: list[str] = []
        self.on_poll: Callable[[], str] = lambda: "late"
        self.on_open: Callable[[str], None] = lambda _: None
        self.on_write: Callable[[], str] = lambda: "go"
        if path.name:
            self.run(f"argument path={path}")

    def run(self, command: str | bytes) -> int:
        """Run a command of harness.c; gives its result."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = command if isinstance(command, bytes) else command.encode()
        self._write(line)
        while True:
            reply = self._process.stdout.readline().decode("utf-8", "replace").rstrip("\n")
            word, _, rest = reply.partition(" ")
            if word == "done":
                return int(rest)
            if word == "poll":
                self.polls.append(int(rest))
                self._write(self.on_poll().encode())
            elif word == "open":
                self.on_open(rest)
                self._write(b"go")
            elif word == "write":
                self._write(self.on_write().encode())
            elif word:
                self.said.append(reply)
            else:
                raise AssertionError(f"the harness died at {line!r}: {self.close()}")

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def step(self, *, tasks: int = 1, step: int = 0) -> None:
        """Be slurmstepd with a step of job 7 of that many tasks."""
        self.run("context remote")
        known = {
            **{"S_JOB_ID": 7, "S_JOB_STEPID": step, "S_JOB_NODEID": 1, "S_JOB_NNODES": 2},
            **{"S_JOB_UID": 1000, "S_JOB_GID": 100, "S_JOB_NCPUS": 4, "S_STEP_ALLOC_MEM": 512},
            **{"S_JOB_LOCAL_TASK_COUNT": tasks, "S_JOB_TOTAL_TASK_COUNT": 2 * tasks},
            **{"S_JOB_ARRAY_ID": 7, "S_JOB_ARRAY_TASK_ID": 0xFFFF_FFFE},
        }
        for name, value in known.items():
            self.run(f"item {name} {value}")

    def task(self, number: int = 0) -> None:
        """Have callbacks be about this task."""
        self.run(f"item S_TASK_ID {number}")
        self.run(f"item S_TASK_GLOBAL_ID {number + 10}")
        self.run(f"item S_TASK_PID {number + 5000}")

    def script(self) -> None:
        """Be the process of a prolog or epilog of job 7."""
        self.run("context script")
        for name, value in {"S_JOB_ID": 7, "S_JOB_UID": 1000, "S_JOB_GID": 100}.items():
            self.run(f"item {name} {value}")

    def close(self) -> tuple[int, str]:
        """Have it leave; gives its exit status and what it, or what runs it, has complained of."""
        assert self._process.stdin is not None
        try:
            self._write(b"leave")
        except BrokenPipeError:
            pass
        _, complaints = self._process.communicate()
        return self._process.returncode, complaints.decode("utf-8", "replace")
