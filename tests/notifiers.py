"""Notifiers for tests: lines, processes that write them, and a directory for a socket."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from typing import Any

BOOT = "6f3a2b1c-0000-4000-8000-00000000abcd"


def line(
    seq: int = 1, *, pid: int = 100, start: int = 5000, boot: str = BOOT, **more: Any
) -> bytes:
    """A line, without its newline."""
    notifier = {"boot": boot, "pid": pid, "start": start, "seq": seq}
    return json.dumps({"notifier": notifier, **more}, separators=(",", ":")).encode()


def short_directory(test: Any) -> str:
    """A directory that goes with the test; its path is short enough for sockets."""
    path = tempfile.mkdtemp(prefix="ldmsjob-")
    test.addCleanup(shutil.rmtree, path, True)
    return path


def spool(path: str, *lines: bytes, ends: bytes = b"\n") -> None:
    """Append lines to the spool of a socket, as a notifier does."""
    file = os.open(f"{path}.spool", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        for one in lines:
            os.write(file, one + ends)
    finally:
        os.close(file)


class Writer:
    """The socket of one notifier process; its lines count from 1."""

    def __init__(self, path: str, pid: int = 100) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.socket.connect(path)
        self.pid = pid
        self.seq = 0

    def send(self, **more: Any) -> bytes:
        """Send the next line; returns it."""
        self.seq += 1
        sent = line(self.seq, pid=self.pid, **more)
        self.socket.sendall(sent + b"\n")
        return sent

    def answers(self) -> bytes | None:
        """What has been answered and not been asked for yet; None when the connection ended."""
        try:
            return self.socket.recv(4096) or None
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            return None

    def close(self) -> None:
        """The process ends."""
        self.socket.close()
