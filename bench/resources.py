"""What a daemon takes that has nothing to do: time to start, processor, memory.

Against C where LDMS_JOBMGR_PREFIX names a build that has a job manager.

Usage: python bench/resources.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from daemons import Daemon, Side, free_port, sides
from rounds import Figures, Part, Row, Target, arguments, report, run
from wirebytes import open_link

SIZES = {"full": (30.0, 3.0), "small": (1.0, 0.2)}
"""Seconds over which processor time is taken, and how long after the start."""

ROWS = [
    Row("start to listening", "start", "s", Target(value=0.5)),
    Row("start to listening: CPU", "start_cpu", "s"),
    Row("start to the first handshake", "handshake", "s"),
    Row("start of a twistd that only listens", "bare", "s"),
    Row("start of a twistd that only listens: CPU", "bare_cpu", "s"),
    Row("CPU when idle", "cpu", "%", Target(value=0.1)),
    Row("memory when idle", "memory", "MiB", Target(value=48)),
]

BARE = {
    "twisted/plugins/bare_plugin.py": """
from twisted.application.service import ServiceMaker
bare = ServiceMaker("bare", "bare", "Listens.", "bare")
""",
    "bare.py": """
import os
from twisted.application.internet import TCPServer
from twisted.internet.protocol import ServerFactory
from twisted.python.usage import Options

def makeService(options):
    return TCPServer(int(os.environ["BARE_PORT"]), ServerFactory(), interface="127.0.0.1")
""",
}
"""A plugin of twistd that takes as little as can be."""


def bare(side: Side) -> Figures:
    """What of a start is Python's and Twisted's own."""
    with tempfile.TemporaryDirectory(prefix="ldmsjob-bench.") as name:
        directory = Path(name)
        for path, text in BARE.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text)
        port = free_port()
        environment = {**os.environ, "PYTHONPATH": name, "BARE_PORT": str(port)}
        twistd = "from twisted.scripts.twistd import run; run()"
        command = [sys.executable, "-c", twistd, "--nodaemon", "--pidfile=", "bare"]
        daemon = Daemon(command, environment, directory)
        daemon.port = port
        try:
            daemon.wait_until_listening()
            return {"bare": daemon.start_seconds, "bare_cpu": daemon.cpu_seconds()}
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{daemon.complaints()}") from error
        finally:
            daemon.stop()


def idle(side: Side, seconds: float, settle: float) -> Figures:
    """A daemon with a job manager and an event file, and nobody who talks to it."""
    with side.running() as daemon:
        start_cpu = daemon.cpu_seconds()
        open_link(daemon.port).close()
        handshake = time.perf_counter() - daemon.began
        time.sleep(settle)
        begin, cpu = time.perf_counter(), daemon.cpu_seconds()
        time.sleep(seconds)
        share = (daemon.cpu_seconds() - cpu) / (time.perf_counter() - begin)
        memory = daemon.resident_bytes()
    return {
        "start": daemon.start_seconds,
        "start_cpu": start_cpu,
        "handshake": handshake,
        "cpu": share * 100,
        "memory": memory / (1 << 20),
    }


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "resources", given)
    who = sides("LDMS_JOBMGR_PREFIX")
    parts = [
        Part("idle", who, lambda side: idle(side, *SIZES[options.size])),
        Part("bare", who[:1], bare),
    ]
    report("resources", ROWS, run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
