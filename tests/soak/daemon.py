"""The daemon of a soak: a real process, with its state on a small disk of its own where that can
be."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ldmsjob
from tests.ports import free_port
from tests.soak.subscriber import DROPIN

SOURCE = Path(ldmsjob.__file__).parent.parent
DISK_BYTES = 96 << 20
NAME = "soak"

CONFIGURATION = """\
daemon_name name={name}
log_level level=INFO
msg_enable
journal max_size=6M
listen xprt=sock port={port} host=127.0.0.1
listen xprt=unix path={directory}/s
load name=jobmgr_slurm
config name=jobmgr_slurm linger=2 reconcile=0
jobmgr_start name=jobmgr_slurm
load name=events plugin=test_jobmgr_sampler
config name=events file={disk}/events.log steps=true
"""
SUBSCRIBER = """\
load name=hears{number} plugin=soak_subscriber
config name=hears{number} file={directory}/hears{number}.json stuck={stuck}
"""

_COUNTERS = re.compile(r"counters of (\S+): (.*)")


class Disk:
    """A file system of its own for state and event file; ``why_not`` says why there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.why_not = ""
        path.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "soak", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            self.why_not = mounted.stderr.strip() or "not mounted"

    def fill(self) -> None:
        """Leave no room."""
        file = os.open(self.path / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(file, bytes(size))
        finally:
            os.close(file)

    def free(self) -> None:
        """Make room again."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path / "filler")

    def close(self) -> None:
        """Give it back."""
        if not self.why_not:
            subprocess.run(["umount", "-l", str(self.path)], check=False)


class Daemon:
    """``twistd -n ldmsjob`` with subscribers, of which the last one is stuck."""

    def __init__(self, directory: Path, disk: Path, subscribers: int) -> None:
        self.directory = directory
        self.events = disk / "events.log"
        self.log = directory / "daemon.log"
        self._state = disk / "state"
        self.subscribers = subscribers
        self.port = free_port()
        text = CONFIGURATION.format(name=NAME, port=self.port, directory=directory, disk=disk)
        for number in range(subscribers):
            stuck = "true" if number == subscribers - 1 else "false"
            text += SUBSCRIBER.format(number=number, directory=directory, stuck=stuck)
        (directory / "ldmsd.conf").write_text(text)
        plugins = directory / "path" / "ldmsjob" / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "soak_dropin.py").write_text(DROPIN)
        code = "from twisted.scripts.twistd import run; run()"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "-n", "--pidfile=", "ldmsjob", "-c", "ldmsd.conf"],
                cwd=directory,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join((str(SOURCE), str(directory / "path"))),
                    "STATE_DIRECTORY": str(self._state),
                },
                stdout=log,
                stderr=log,
            )

    def wait_until_listening(self) -> None:
        """Raises ``RuntimeError`` with the log when it does not come up."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"the daemon does not listen:\n{self.log.read_text()}")

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def resident_bytes(self) -> int:
        """Memory that is resident now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """How many files it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def journal_bytes(self) -> int:
        """What the journal takes of the disk."""
        return sum(path.stat().st_size for path in self._state.rglob("journal.sqlite*"))

    def hang_up(self) -> None:
        """Have it open its files again."""
        self.process.send_signal(signal.SIGHUP)

    def status(self, *options: str) -> str:
        """What ``ldmsjob status`` says of it, to a person or, with ``--json``, to a program."""
        code = "import sys; from ldmsjob.cli.main import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, "status", "-h", f"{self.directory}/s", *options],
            env={**os.environ, "PYTHONPATH": str(SOURCE), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout or done.stderr

    def stop(self) -> int:
        """End it politely; its exit status."""
        if self.is_alive:
            self.process.terminate()
        try:
            return self.process.wait(120.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return -9

    def counters(self) -> dict[str, dict[str, int]]:
        """What it counted, by group, as it told at its end."""
        found: dict[str, dict[str, int]] = {}
        for group, text in _COUNTERS.findall(self.log.read_text("utf-8", "replace")):
            pairs = (pair.partition("=") for pair in text.split())
            found[group] = {name: int(value) for name, _, value in pairs if value.isdigit()}
        return found

    def heard(self) -> list[dict[str, Any] | None]:
        """What each subscriber told at its end; None for one that told nothing."""
        result: list[dict[str, Any] | None] = []
        for number in range(self.subscribers):
            try:
                result.append(json.loads((self.directory / f"hears{number}.json").read_text()))
            except (OSError, ValueError):
                result.append(None)
        return result
