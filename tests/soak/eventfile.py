"""Follows the daemon's event file: how long each line took, and which never came."""

from __future__ import annotations

import os
import re
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.inotify import IN_CREATE, IN_MODIFY, INotify
from twisted.python.filepath import FilePath

ROTATE_BYTES = 2 << 20

CLOSED = b"client_close"
"""The last line."""

_LINE = re.compile(rb'(\w+): \{"(?:job_id":"(?:slurm_)?(\d+)"|task_id":"\d+","task_pid":(\d+))')


class EventFile:
    """Reads lines as they are written, and has the file rotated as an operator's tools do.

    ``hang_up`` tells the daemon to open its files again.
    """

    def __init__(self, path: Path, hang_up: Callable[[], None], reactor: Any) -> None:
        self.lines = 0
        self.torn = 0
        """Lines that are none; ``example`` is the last one."""
        self.example = b""
        self.latencies = array("d")
        """Seconds from the publishing of a message to its line, in the order of the lines."""
        self.rotations = 0
        self._path = path
        self._hang_up = hang_up
        self._sent: dict[tuple[bytes, int], float] = {}
        self._rotating = False
        self._size = 0
        self._fd = os.open(path, os.O_RDONLY)
        self._watch = INotify(reactor)
        self._watch.startReading()
        self._watch.watch(
            FilePath(str(path.parent)), IN_MODIFY | IN_CREATE, callbacks=[self._changed]
        )

    def expect(self, word: str, number: int) -> None:
        """A message was published just now that brings a line of that word and job."""
        self._sent[word.encode(), number] = time.monotonic()

    @property
    def missing(self) -> int:
        """Lines that have not come."""
        return len(self._sent)

    def close(self) -> None:
        """Read what is left."""
        self.read()
        self._watch.stopReading()
        os.close(self._fd)

    def _changed(self, _watch: Any, path: Any, _mask: int) -> None:
        if path.basename() == self._path.name.encode():
            self.read()

    def read(self) -> None:
        """Take the lines that are there."""
        self._take()
        if self._rotating and self._path.exists():
            self._take()  # what was written before the new file was opened
            os.close(self._fd)
            self._fd = os.open(self._path, os.O_RDONLY)
            self._old.unlink()
            self._rotating = False
            self._size = 0
            self._take()
        elif not self._rotating and self._size > ROTATE_BYTES:
            self._rotating = True
            self.rotations += 1
            self._path.rename(self._old)
            self._hang_up()

    @property
    def _old(self) -> Path:
        return self._path.with_name(f"{self._path.name}.1")

    def _take(self) -> None:
        """Take whole lines. Half of one may be cut off again by a daemon whose disk is full."""
        now = time.monotonic()
        while data := os.pread(self._fd, 1 << 20, self._size):
            whole = data.rfind(b"\n") + 1
            if not whole:
                return
            self._size += whole
            for line in data[: whole - 1].split(b"\n"):
                self._line(line, now)

    def _line(self, line: bytes, now: float) -> None:
        self.lines += 1
        match = _LINE.match(line)
        if match is None:
            if line != CLOSED:
                self.torn += 1
                self.example = line[:200]
            return
        word, job, pid = match.groups()
        sent = self._sent.pop((word, int(job) if job else int(pid) - 1_000_000), None)
        if sent is not None:
            self.latencies.append(now - sent)
