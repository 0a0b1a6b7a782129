"""What the benchmarks share: the daemon in a process of its own, a cheap sender, and the report."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from ldmsjob.replay import CHANNEL, recorded_messages  # noqa: E402
from ldmsjob.wire.connection import LdmsConnection  # noqa: E402
from ldmsjob.wire.events import JSON, Credential, LinkUp, Publish, WireEvent  # noqa: E402

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_SECONDS = 30.0
"""How long the daemon may take to listen."""
STALL_SECONDS = 30.0
"""How long nothing may happen before a benchmark gives up."""

CONFIGURATION = """\
msg_enable
listen xprt=sock port={port}
load name=jobmgr_slurm
config name=jobmgr_slurm
jobmgr_start name=jobmgr_slurm
load name=test_jobmgr_sampler
config name=test_jobmgr_sampler component_id=1 instance=node-1/test_jobmgr_sampler \
producer=node-1 file={events}
"""

LINES_PER_JOB = 5
"""job_start, task_start, task_end, job_end, jobset_delete."""


class Daemon:
    """``twistd -n ldmsjob`` on a free port of this host, in a temporary directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.events = directory / "events.log"
        self.log = directory / "daemon.log"
        configuration = directory / "ldmsd.conf"
        configuration.write_text(CONFIGURATION.format(port=self.port, events=self.events))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from twisted.scripts.twistd import run; run()",
                    "--nodaemon",
                    "--pidfile=",
                    "ldmsjob",
                    "-c",
                    str(configuration),
                ],
                cwd=directory,
                env={
                    **os.environ,
                    "PYTHONPATH": str(REPOSITORY),
                    "STATE_DIRECTORY": str(directory / "state"),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_listening(self) -> None:
        """Raises ``RuntimeError`` with the daemon's log when it does not come up."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"the daemon does not listen:\n{self.log.read_text()}")

    def cpu_seconds(self) -> float:
        """User and system time so far, in steps of 10 ms."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def resident_bytes(self) -> int:
        """Memory that is resident now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it, politely first."""
        self.process.terminate()
        try:
            self.process.wait(15.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running_daemon() -> Iterator[Daemon]:
    """A daemon that listens; ended, and its directory removed, behind the block."""
    with tempfile.TemporaryDirectory(prefix="ldmsjob-bench.") as name:
        daemon = Daemon(Path(name))
        try:
            daemon.wait_until_listening()
            yield daemon
        finally:
            daemon.stop()


def free_port() -> int:
    """A TCP port that nobody listens to at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Conversation:
    """The bytes that one connection's life consists of, learnt by having one.

    ``hello``, then ``accepted_bytes`` come; ``acknowledgement``; from then on message frames, each
    of which is answered by ``credit_bytes``. All of them can be sent again as they are.
    """

    def __init__(self, port: int) -> None:
        self.connection = LdmsConnection(
            False, auth_name="none", messages_enabled=True, pid=os.getpid()
        )
        self.connection.connect()
        self.hello = self.connection.data_to_send()
        with connect(port, nodelay=True) as link:
            link.sendall(self.hello)
            self.accepted_bytes, events = self._receive(link)
            if not any(isinstance(event, LinkUp) for event in events):
                raise RuntimeError(f"no link: {self.connection.error}")
            self.connection.authentication_step((), Credential(0, 0), now_us())
            self.acknowledgement = self.connection.data_to_send()
            # Of a type that the job manager ignores.
            link.sendall(self.acknowledgement + self.frame(b"learn\0", kind=0))
            self.credit_bytes, _ = self._receive(link)

    def _receive(self, link: socket.socket) -> tuple[int, list[WireEvent]]:
        count = 0
        events: list[WireEvent] = []
        while not events:
            data = link.recv(65536)
            if not data:
                raise RuntimeError(f"the daemon closed the link: {self.connection.error}")
            count += len(data)
            events += self.connection.receive_data(data, now_us())
            if self.connection.error is not None:
                raise RuntimeError(f"no conversation: {self.connection.error}")
        return count, events

    def frame(self, payload: bytes, *, kind: int = JSON) -> bytes:
        """A message to the job manager's channel as it goes over the wire."""
        self.connection.send(
            Publish(CHANNEL, payload, kind=kind, uid=os.geteuid(), gid=os.getegid()), now_us()
        )
        return self.connection.data_to_send()

    def open(self, port: int, *, nodelay: bool = True) -> socket.socket:
        """A link that is ready for message frames."""
        link = connect(port, nodelay=nodelay)
        link.sendall(self.hello)
        receive_exactly(link, self.accepted_bytes)
        link.sendall(self.acknowledgement)
        return link


def connect(port: int, *, nodelay: bool) -> socket.socket:
    """A TCP connection to this host, with Nagle's algorithm off or on."""
    link = socket.create_connection(("127.0.0.1", port), STALL_SECONDS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(nodelay))
    return link


def receive_exactly(link: socket.socket, count: int) -> None:
    """Read and drop ``count`` bytes."""
    while count:
        data = link.recv(count)
        if not data:
            raise RuntimeError("the daemon closed the link")
        count -= len(data)


def now_us() -> int:
    """Wall-clock microseconds since the epoch."""
    return time.time_ns() // 1000


def job_payloads(count: int, first_job: int = 100_000) -> list[list[bytes]]:
    """Five messages for each of ``count`` jobs, made from a recorded job of one task.

    Every job has a job id, and its task a pid, of its own.
    """
    template = []
    for message in recorded_messages(["nonroot"]):
        content = json.loads(message.payload[:-1])
        if content["event"] != "step_exit":
            content["data"]["job_id"] = 777000777
            if "task_pid" in content["data"]:
                content["data"]["task_pid"] = 888000888
            template.append(json.dumps(content, separators=(",", ":")).encode() + b"\0")
    jobs = []
    for number in range(first_job, first_job + count):
        text = b"%d" % number
        jobs.append(
            [
                payload.replace(b"777000777", text).replace(b"888000888", text)
                for payload in template
            ]
        )
    return jobs


def interleaved(jobs: Sequence[Sequence[bytes]], live: int) -> Iterator[bytes]:
    """The jobs' messages with ``live`` jobs running at once: all first messages of a group of
    jobs, then all second ones, and so on."""
    for start in range(0, len(jobs), live):
        group = jobs[start : start + live]
        for position in range(len(group[0])):
            for job in group:
                yield job[position]


def chunks(frames: Iterable[bytes], size: int = 256 * 1024) -> list[bytes]:
    """The frames joined to pieces of about ``size`` bytes, one for each system call."""
    result: list[bytes] = []
    waiting: list[bytes] = []
    length = 0
    for frame in frames:
        waiting.append(frame)
        length += len(frame)
        if length >= size:
            result.append(b"".join(waiting))
            waiting, length = [], 0
    if waiting:
        result.append(b"".join(waiting))
    return result


def send_all(link: socket.socket, pieces: Sequence[bytes], credit_bytes: int) -> None:
    """Send everything, and read ``credit_bytes`` of credit meanwhile and behind it."""
    link.setblocking(False)
    position = offset = 0
    while position < len(pieces) or credit_bytes > 0:
        want_write = [link] if position < len(pieces) else []
        readable, writable, _ = select.select([link], want_write, [], STALL_SECONDS)
        if not readable and not writable:
            raise RuntimeError(f"stalled with {credit_bytes} bytes of credit to come")
        if readable:
            data = link.recv(1 << 20)
            if not data:
                raise RuntimeError("the daemon closed the link")
            credit_bytes -= len(data)
        if writable:
            piece = pieces[position]
            offset += link.send(memoryview(piece)[offset:])
            if offset == len(piece):
                position, offset = position + 1, 0
    if credit_bytes:
        raise RuntimeError(f"{-credit_bytes} bytes came that are no credit")
    link.setblocking(True)


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.release(),
    }


def report(name: str, rows: Sequence[tuple[str, float, str]], output: Path) -> None:
    """Print a table of (what, figure, unit) and write it, with the machine, as JSON."""
    width = max(len(what) for what, _, _ in rows)
    print(name)
    for what, figure, unit in rows:
        print(f"  {what:<{width}}  {figure:>12,.1f} {unit}")
    output.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": name,
        "machine": machine(),
        "figures": [{"what": what, "figure": figure, "unit": unit} for what, figure, unit in rows],
    }
    output.write_text(json.dumps(document, indent=2) + "\n")
