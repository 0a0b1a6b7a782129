"""``twistd ldmsjob`` from this checkout, in a process of its own, beside a lab's Slurm."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ldmsjob
from tests.ports import free_port
from tests.slurm.cluster import end_with_us, stop, wait_until

SOURCE = Path(ldmsjob.__file__).parent.parent

CONFIGURATION = """\
log_level level=INFO name=ldmsd
msg_enable
listen xprt=sock port={port} host=127.0.0.1
{notifier}journal enabled={journal}
load name=jobmgr_slurm
config name=jobmgr_slurm {attributes}
jobmgr_start name=jobmgr_slurm
load name=test_jobmgr_sampler
config name=test_jobmgr_sampler file={lines} steps=true
load name=lab_recorder
config name=lab_recorder file={events}
"""


@dataclass
class Run:
    """One attempt of one job as its events tell it."""

    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """The job as it was at its last event."""
        return self.events[-1]["facts"]  # type: ignore[no-any-return]

    @property
    def kinds(self) -> list[str]:
        """What happened, in order."""
        return [event["kind"] for event in self.events]

    @property
    def ended(self) -> bool:
        """Whether the last event of an attempt was there."""
        return bool(self.events) and self.kinds[-1] == "jobset_delete"

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.events if event["kind"] == kind]


class LabDaemon:
    """A daemon with ``jobmgr_slurm`` whose files lie in ``directory``.

    It listens on ``port`` of the loopback interface for the C notifier, and with ``notifier`` on
    the unix socket ``path`` for ours. ``attributes`` are the job manager's. Without ``journal`` a
    daemon that is started again knows nothing of the jobs that run. Started again, it
    listens at the same places and appends to the same record of events; its event file begins
    anew.
    """

    def __init__(
        self,
        directory: Path,
        *,
        notifier: bool,
        attributes: str,
        environment: Mapping[str, str],
        journal: bool = False,
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.path = directory / "run" / "n.sock"
        self.lines = directory / "lines.log"
        self.record = directory / "events.jsonl"
        self.log = directory / "daemon.log"
        plugins = directory / "plugins" / "ldmsjob" / "plugins"
        plugins.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("recorder.py"), plugins / "lab_recorder.py")
        self._notifier = notifier
        self._environment = dict(environment)
        self._configuration = directory / "ldmsd.conf"
        self._configuration.write_text(
            CONFIGURATION.format(
                port=self.port,
                notifier=f"listen xprt=notifier path={self.path}\n" if notifier else "",
                attributes=attributes,
                journal="true" if journal else "false",
                lines=self.lines,
                events=self.record,
            )
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.lives = 0
        """How often it was started."""

    def start(self) -> None:
        """Start it and wait until it listens everywhere."""
        self.lives += 1
        with self.log.open("ab") as log:
            self.process = process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from twisted.scripts.twistd import run; run()",
                    "--nodaemon",
                    "--pidfile=",
                    "ldmsjob",
                    "-c",
                    str(self._configuration),
                ],
                cwd=self.directory,
                env={
                    **self._environment,
                    "PYTHONPATH": f"{SOURCE}:{self.directory / 'plugins'}",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "STATE_DIRECTORY": str(self.directory / "state"),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_us,  # noqa: PLW1509 it calls nothing that locks
            )
        wait_until(
            lambda: process.poll() is not None or self._listens(),
            lambda: f"the daemon to listen:\n{self.text()}",
        )
        if process.poll() is not None:
            raise AssertionError(f"the daemon ended:\n{self.text()}")

    def _listens(self) -> bool:
        return _answers(socket.AF_INET, ("127.0.0.1", self.port)) and (
            not self._notifier or _answers(socket.AF_UNIX, str(self.path))
        )

    def stop(self) -> None:
        """End it politely."""
        if self.process is not None:
            stop(self.process)
            self.process = None

    def kill(self) -> None:
        """``kill -9``. An event that it was writing down just then is none."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None
        with self.record.open("r+b") as record:
            record.truncate(record.read().rfind(b"\n") + 1)

    def pause(self) -> None:
        """It accepts and does not answer from now on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def nothing_waits(self) -> bool:
        """Whether our notifier's spool holds no line that it has not read. Nobody writes any
        more."""
        spool = Path(f"{self.path}.spool")
        try:
            is_empty = spool.stat().st_size == 0
        except FileNotFoundError:
            is_empty = True
        # In this order: the daemon renames the one to the other.
        return is_empty and not Path(f"{spool}.old").exists()

    def text(self) -> str:
        """What it logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def counters(self, group: str) -> dict[str, int]:
        """The counters of a group, whose name may be a part of the whole one, as logged at its
        last end; empty when there are none."""
        found = re.findall(rf"counters of \S*{re.escape(group)}\S*: (.*)", self.text())
        if not found:
            return {}
        return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", found[-1])}

    def events(self) -> list[dict[str, Any]]:
        """All job events so far. ``life`` of an event counts this daemon's starts from 1."""
        if not self.record.exists():
            return []
        life = 0
        result = []
        for line in self.record.read_text().rpartition("\n")[0].splitlines():
            event = json.loads(line)
            if event["kind"] == "start":
                life += 1
            else:
                result.append({**event, "life": life})
        return result

    def runs(self) -> dict[str, list[Run]]:
        """Job id -> its attempts, in order."""
        return runs(self.events())


def runs(events: list[dict[str, Any]]) -> dict[str, list[Run]]:
    """The events of each attempt of each job in each of the daemon's lives."""
    result: dict[str, dict[tuple[int, int], Run]] = {}
    for event in events:
        key = event["key"]
        attempts = result.setdefault(key["job_id"], {})
        attempts.setdefault((event["life"], key["attempt"]), Run()).events.append(event)
    return {job: [found[n] for n in sorted(found)] for job, found in result.items()}


def _answers(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True
