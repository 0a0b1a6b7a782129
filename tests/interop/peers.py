"""Starts and stops C programs, and our own tools, as processes of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

import ldmsjob
from tests.ports import free_port

reactor: Any = installed_reactor

SOURCE = Path(ldmsjob.__file__).parent.parent
STEP_SECONDS = 0.02
WAIT_SECONDS = 60.0
STOP_SECONDS = 5.0


def prefix() -> Path:
    """Where the C build is installed. Skips the test when none is named."""
    named = os.environ.get("LDMS_PREFIX")
    if not named:
        raise SkipTest("LDMS_PREFIX names no C build of LDMS")
    path = Path(named)
    for program in ("ldmsd", "ldms_msg_publish", "ldms_msg_subscribe"):
        if not (path / "sbin" / program).exists():
            raise SkipTest(f"{path}/sbin has no {program}")
    return path


def c_environment() -> dict[str, str]:
    """The environment in which C programs find their libraries and plugins."""
    root = prefix()
    plugins = root / "lib" / "ovis-ldms"
    python = next(iter(sorted(root.glob("lib/python3*/site-packages"))), root)
    return {
        **os.environ,
        "LD_LIBRARY_PATH": f"{root / 'lib'}:{plugins}",
        "ZAP_LIBPATH": str(plugins),
        "LDMSD_PLUGIN_LIBPATH": str(plugins),
        "PYTHONPATH": str(python),
    }


def listens(port: int) -> bool:
    """Whether somebody listens on that port, without connecting to it."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                return True
    return False


async def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Wait until the condition holds; fails when that takes too long."""
    waited = 0.0
    while not condition():
        if waited > WAIT_SECONDS:
            raise AssertionError(f"waited {WAIT_SECONDS:g} s in vain for {what}")
        await deferLater(reactor, STEP_SECONDS)
        waited += STEP_SECONDS


class Program(ProcessProtocol):
    """A running program. ``output`` and ``errors`` grow; ``ended`` fires with its status."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.output = b""
        self.errors = b""
        self.status: int | None = None
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        """Keep it."""
        self.output += data

    def errReceived(self, data: bytes) -> None:
        """Keep it."""
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        """Keep the status; a signal is a negative one."""
        value: Any = reason.value
        self.status = -value.signal if value.signal else value.exitCode
        self.ended.callback(self.status)

    async def end(self) -> int:
        """Wait for its end; returns the status."""
        await wait_until(lambda: self.status is not None, f"{self.name} to end")
        assert self.status is not None
        return self.status

    async def stop(self) -> None:
        """End it: ask first."""
        for signal in ("TERM", "KILL"):
            if self.status is not None:
                return
            try:
                self.transport.signalProcess(signal)  # type: ignore[union-attr]
            except ProcessExitedAlready:
                pass
            waited = 0.0
            while self.status is None and waited < STOP_SECONDS:
                await deferLater(reactor, STEP_SECONDS)
                waited += STEP_SECONDS


class InteropTestCase(TestCase):
    """Has the programs that it starts stopped at its end."""

    timeout = 600

    def setUp(self) -> None:
        """Skip without a C build."""
        self.environment = c_environment()
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)

    def start(
        self, *command: str, environment: dict[str, str] | None = None, text: bytes | None = None
    ) -> Program:
        """Start a program, with ``text`` as its standard input."""
        program = Program(command[0])
        reactor.spawnProcess(
            program,
            command[0],
            command,
            env=environment or self.environment,
            path=str(self.directory),
        )
        if text is not None:
            program.transport.write(text)  # type: ignore[union-attr]
            program.transport.closeStdin()  # type: ignore[union-attr]
        self.addCleanup(lambda: Deferred.fromCoroutine(program.stop()))
        return program

    def start_c(self, name: str, *arguments: str, text: bytes | None = None) -> Program:
        """Start a C program."""
        return self.start(str(prefix() / "sbin" / name), *arguments, text=text)

    def start_c_library(self, script: str, *arguments: str) -> Program:
        """Start a script that uses the C library through its Python bindings."""
        path = Path(__file__).parent / script
        return self.start(sys.executable, "-u", str(path), *arguments)

    def start_tool(self, *arguments: str, text: bytes | None = None) -> Program:
        """Start ``ldmsjob`` with these arguments."""
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        command = (sys.executable, "-u", "-m", "ldmsjob.cli.main", *arguments)
        return self.start(*command, environment=environment, text=text)

    async def start_daemon(self, configuration: str) -> tuple[Program, int]:
        """A C daemon that listens, and its port. ``configuration`` stands behind ``listen``."""
        port = free_port()
        path = self.directory / f"ldmsd-{port}.conf"
        path.write_text(f"listen xprt=sock port={port} host=127.0.0.1\n{configuration}")
        files = [str(self.directory / f"ldmsd-{port}.{kind}") for kind in ("log", "pid")]
        program = self.start_c(
            "ldmsd", "-F", "-c", path.name, "-l", Path(files[0]).name, "-r", Path(files[1]).name
        )
        await wait_until(lambda: listens(port) or program.status is not None, "ldmsd to listen")
        self.assertIsNone(program.status, program.errors)
        return program, port
