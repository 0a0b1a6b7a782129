"""A notifier: writes lines as docs/slurm.md, How the lines arrive, says that notifiers do."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from pathlib import Path

BUDGET_SECONDS = 0.002
"""How long a process may wait for answers in all its life."""
MARK_SECONDS = 5.0

NODE = "n1"


class Writer:
    """Speaks for this process to the daemon at the socket ``path``, or to the spool next to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        self._identity = {
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "pid": os.getpid(),
            "start": int(fields[19]),
        }
        self._sequence = 0
        self._left = BUDGET_SECONDS
        self._unanswered: list[bytes] = []
        self._socket: socket.socket | None = None
        mark = Path(f"{path}.mark")
        if mark.exists() and time.time() - mark.stat().st_mtime < MARK_SECONDS:
            return
        link = socket.socket(socket.AF_UNIX)
        link.setblocking(False)
        try:
            link.connect(str(path))
        except OSError:
            link.close()
        else:
            self._socket = link

    def tell(self, event: str, schema: str, **data: object) -> None:
        """Tell of an event."""
        self._sequence += 1
        now = time.time_ns()
        content = {
            "notifier": {**self._identity, "seq": self._sequence},
            "schema": schema,
            "event": event,
            "timestamp": now // 10**9,
            "timestamp_ns": now,
            "context": f"{NODE}(script),{data['job_id']},0",
            "data": {**data, "node": NODE},
        }
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        self._unanswered.append(line)
        if self._socket is not None:
            try:
                self._converse(line)
            except (BlockingIOError, TimeoutError):
                Path(f"{self._path}.mark").touch()
                self._give_up()
            except OSError:
                self._give_up()
        else:
            self._give_up()

    def _converse(self, line: bytes) -> None:
        link = self._socket
        assert link is not None
        if link.send(line, socket.MSG_NOSIGNAL) != len(line):
            raise BlockingIOError
        poll = select.poll()
        poll.register(link, select.POLLIN)
        while self._unanswered:
            before = time.monotonic()
            ready = poll.poll(max(0.0, self._left) * 1000)
            self._left -= time.monotonic() - before
            if not ready:
                raise TimeoutError
            answers = link.recv(4096)
            if not answers:
                raise ConnectionResetError
            del self._unanswered[: len(answers)]

    def _give_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        spool = f"{self._path}.spool"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        for line in self._unanswered:
            written = None
            while written is None or not _same(spool, written):
                fd = os.open(spool, flags, 0o600)
                os.write(fd, line)
                written = os.fstat(fd)
                os.close(fd)
        self._unanswered.clear()


def _same(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except FileNotFoundError:
        return False


def tell_job(path: Path, job: int) -> None:
    """Tell of a job of one task from its beginning to its end, in one process."""
    writer = Writer(path)
    known = {"job_id": job, "uid": 0, "gid": 0}
    step = {**known, "step_id": 0, "nodeid": 0}
    task = {**step, "task_id": 0, "task_global_id": 0, "task_pid": os.getpid()}
    counts = {"nnodes": 1, "local_tasks": 1, "total_tasks": 1}
    writer.tell("init", "slurm_job_data", **known)
    writer.tell("step_init", "slurm_step_data", **step, **counts, job_user="root", job_name="x")
    writer.tell("task_init_priv", "slurm_task_data", **task, **counts)
    writer.tell("task_exit", "slurm_task_data", **task, task_exit_status=0)
    writer.tell("step_exit", "slurm_step_data", **step)
    writer.tell("exit", "slurm_job_data", job_id=job, job_exit_status=0)


LINES_PER_JOB = 6
