"""The daemons that are measured, each as a process of its own: ours, and C's where it is built.

A ``Side`` is one way to run a daemon. All sides get the same configuration and listen on loopback.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

START_SECONDS = 120.0
"""How long a daemon may take to listen."""
STALL_SECONDS = 60.0
"""How long nothing may happen before a benchmark gives up."""
C_MEMORY = "512M"
"""Set memory of a C daemon, which it cannot do without; ours takes what it needs."""

MESSAGES = """\
msg_enable
listen xprt=sock port={port} host=127.0.0.1
"""
# C takes a ``config`` without attributes only sometimes: whether it does hangs on memory that it
# does not initialise.
JOB_MANAGER = (
    MESSAGES
    + """\
load name=jobmgr_slurm
config name=jobmgr_slurm component_id=1
jobmgr_start name=jobmgr_slurm
load name=test_jobmgr_sampler
config name=test_jobmgr_sampler component_id=1 instance=node-1/test_jobmgr_sampler \
producer=node-1 file={events}
"""
)

IDLE_SHARE = 0.005
"""Of a processor's time: a daemon that uses no more is idle."""

idle_seconds = 1.0
"""How long it has to be so."""

pinned = False
"""Whether each daemon has the first processor for itself, and this process the others."""

_PR_SET_PDEATHSIG = 1
_CPUCLOCK_SCHED = 2


class Daemon:
    """A daemon that runs. ``events`` is its event file, where it has a job manager."""

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], directory: Path
    ) -> None:
        self.directory = directory
        self.events = directory / "events.log"
        self.port = 0
        self.output = directory / "output"
        self.start_seconds = 0.0
        """From before it was started until it listened, to the millisecond."""
        self.began = time.perf_counter()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_in_the_child,  # noqa: PLW1509 it calls nothing that locks
            )

    def wait_for(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Until it is so. Raises ``RuntimeError`` when it does not become so."""
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(otherwise)
            time.sleep(0.001)

    def wait_until_listening(self) -> None:
        """Sets ``start_seconds``. Raises ``RuntimeError`` when it does not listen."""
        self.wait_for(lambda: listens(self.port), "the daemon does not listen")
        self.start_seconds = time.perf_counter() - self.began

    def complaints(self) -> str:
        """What it printed and logged."""
        files = (self.output, self.directory / "daemon.log")
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far, those that have ended included. Of a
        thread that runs just now, what it used since the last tick of the clock is left out."""
        return time.clock_gettime((~self.process.pid << 3) | _CPUCLOCK_SCHED)

    def cpu_seconds_when_idle(self) -> float:
        """The same when it has done what it had put off, such as the rest of the journal."""
        deadline = time.monotonic() + STALL_SECONDS
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(idle_seconds)
            now = self.cpu_seconds()
            if now - before <= IDLE_SHARE * idle_seconds:
                return now
            before = now
        raise RuntimeError(f"stalled: the daemon is not idle within {STALL_SECONDS:g} s")

    def resident_bytes(self) -> int:
        """Memory that is resident now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def read_bytes(self) -> int:
        """What it has read so far from files and sockets."""
        text = Path(f"/proc/{self.process.pid}/io").read_text()
        return int(text.partition("rchar: ")[2].split()[0])

    def stop(self) -> None:
        """End it, politely first."""
        self.process.terminate()
        try:
            self.process.wait(15.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Side:
    """One way to run a daemon."""

    name: str
    """``ours``, ``C``, or another name for another way to run ours."""
    prefix: Path | None = None
    """Where the C build is; None: ours."""
    journal: bool = True
    """Whether ours keeps its journal. C has none."""

    @contextlib.contextmanager
    def running(
        self,
        configuration: str = JOB_MANAGER,
        *,
        memory: str = C_MEMORY,
    ) -> Iterator[Daemon]:
        """A daemon that listens; ended, and its directory removed, behind the block.

        ``configuration`` may name ``{port}`` and ``{events}``.
        """
        with tempfile.TemporaryDirectory(prefix="ldmsjob-bench.") as name:
            directory = Path(name)
            port = free_port()
            text = configuration.format(port=port, events=directory / "events.log")
            if self.prefix is None and not self.journal:
                text = "journal enabled=false\n" + text
            (directory / "ldmsd.conf").write_text(text)
            daemon = Daemon(*self._command(directory, memory), directory)
            daemon.port = port
            try:
                daemon.wait_until_listening()
                yield daemon
                if daemon.process.poll() is not None:
                    raise RuntimeError("the daemon ended by itself")
            except (RuntimeError, OSError) as error:
                raise RuntimeError(f"{error}\n{daemon.complaints()}") from error
            finally:
                daemon.stop()

    def _command(self, directory: Path, memory: str) -> tuple[list[str], dict[str, str]]:
        files = ["-c", "ldmsd.conf", "-l", "daemon.log"]
        if self.prefix is not None:
            program = str(self.prefix / "sbin" / "ldmsd")
            return (
                [program, "-F", "-m", memory, *files, "-r", "daemon.pid"],
                c_environment(self.prefix),
            )
        twistd = "from twisted.scripts.twistd import run; run()"
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "STATE_DIRECTORY": str(directory / "state"),
        }
        return (
            [sys.executable, "-c", twistd, "--nodaemon", "--pidfile=", "ldmsjob", *files],
            environment,
        )


def c_prefix(variable: str) -> Path | None:
    """The C build that an environment variable names, if it has a daemon."""
    named = os.environ.get(variable)
    if not named:
        return None
    prefix = Path(named)
    if not (prefix / "sbin" / "ldmsd").exists():
        raise SystemExit(f"{variable}: {prefix}/sbin has no ldmsd")
    return prefix


def sides(variable: str, *, without_journal: bool = False) -> list[Side]:
    """Ours, C where the variable names a build, and on request ours without its journal."""
    prefix = c_prefix(variable)
    result = [Side("ours")]
    if prefix is not None:
        result.append(Side("C", prefix))
    if without_journal:
        result.append(Side("ours, no journal", journal=False))
    return result


def c_environment(prefix: Path) -> dict[str, str]:
    """In which programs of a C build find their libraries and plugins."""
    plugins = str(prefix / "lib" / "ovis-ldms")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": f"{prefix / 'lib'}:{plugins}",
        "ZAP_LIBPATH": plugins,
        "LDMSD_PLUGIN_LIBPATH": plugins,
    }


def free_port() -> int:
    """A TCP port that nobody listens to at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody listens on that port of 127.0.0.1, without connecting to it."""
    wanted = f" 0100007F:{port:04X} 00000000:0000 0A "
    return wanted in Path("/proc/net/tcp").read_text()


def _in_the_child() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if pinned:
        os.sched_setaffinity(0, {0})
