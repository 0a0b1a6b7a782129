"""A munged of a test's own: its key, socket and files are in a directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from unittest import SkipTest

SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin"
START_SECONDS = 60.0
STEP_SECONDS = 0.01


def require_munge() -> None:
    """Skip the test unless munge is here."""
    for program in ("munged", "munge"):
        if shutil.which(program, path=SEARCHED) is None:
            raise SkipTest(f"munge is not installed: there is no {program}")


class Munged:
    """A munged. ``socket`` is where it listens. To be ended with ``remove``."""

    def __init__(self, key: bytes = b"") -> None:
        # The path of a unix socket must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="mg-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.socket = str(self.directory / "s")
        self.key = key or os.urandom(128)
        path = self.directory / "key"
        path.touch(0o600)
        path.write_bytes(self.key)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        name = shutil.which("munged", path=SEARCHED)
        assert name is not None
        log = self.directory / "log"
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [
                    *(name, "--foreground", "--force"),
                    *(f"--key-file={self.directory}/key", f"--socket={self.socket}"),
                    *(f"--pid-file={self.directory}/pid", f"--seed-file={self.directory}/seed"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                text = log.read_text("utf-8", "replace")
                self.remove()
                raise AssertionError(f"munged does not start: {text}")
            time.sleep(STEP_SECONDS)

    def _answers(self) -> bool:
        if not os.path.exists(self.socket):
            return False
        return not subprocess.run(
            ["munge", "-n", "-S", self.socket], capture_output=True, check=False
        ).returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by that signal; its files stay."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.wait()

    def remove(self) -> None:
        """End it and remove its files."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def credential(self, payload: bytes, *options: str, user: int | None = None) -> bytes:
        """What ``munge`` with these options makes, as ``user``."""
        made = subprocess.run(
            ["munge", "-S", self.socket, *options],
            input=payload,
            capture_output=True,
            check=True,
            user=user,
        )
        return made.stdout.strip()
