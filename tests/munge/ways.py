"""Ways to authenticate for tests with whole programs, and our daemon with each."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from tests.interop.peers import InteropTestCase, Program, listens, wait_until
from tests.munge.munged import Munged, require_munge
from tests.ports import free_port
from tests.real import require_real

OURS = """
auth_add name=way {way}
listen xprt=sock port={port} host=127.0.0.1 auth=way
daemon_name name=node-1
log_level level=INFO
msg_enable
load name=jobmgr_slurm
config name=jobmgr_slurm linger=60
jobmgr_start name=jobmgr_slurm
"""

JOB = (
    '{"schema":"slurm_job_data","event":"init","timestamp":1795378984,'
    '"context":"vm(prolog/epilog),6,0","data":{"job_id":6,"nodeid":0,"uid":1000,"gid":1000,'
    '"ncpus":1,"nnodes":1,"local_tasks":1,"total_tasks":1,"workflow_id":null}}'
)
"""A message of the notifier, which makes the job set ``JOB_SET``."""

JOB_SET = "node-1/job_slurm_6"


class Way(NamedTuple):
    """A way to authenticate."""

    name: str
    options: tuple[str, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """For the command line of C's tools and of ours."""
        pairs = [word for option in self.options for word in ("-A", option)]
        return ("-a", self.name, *pairs)

    @property
    def attributes(self) -> str:
        """For ``auth_add``."""
        return " ".join((f"plugin={self.name}", *self.options))


class WaysTestCase(InteropTestCase):
    """Starts our daemon with any way to authenticate."""

    def setUp(self) -> None:
        """No C build is needed."""
        require_real()
        self.prepare(dict(os.environ))

    def prepare(self, environment: dict[str, str]) -> None:
        """Take the environment of programs, and make a directory."""
        self.environment = environment
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)

    def naive(self) -> Way:
        """Claims to be root."""
        return Way("naive", ("uid=0", "gid=0"))

    def ovis(self, word: str = "a-secret-of-the-tests") -> Way:
        """With a secret file of its own."""
        path = self.directory / f"{word}.conf"
        path.touch(0o600)
        path.write_text(f"secretword={word}\n")
        return Way("ovis", (f"conf={path}",))

    def munge(self) -> Way:
        """With a munged of its own, ``self.munged``. Skips the test without munge."""
        require_munge()
        self.munged = Munged()
        self.addCleanup(self.munged.remove)
        self.munged.start()
        return Way("munge", (f"socket={self.munged.socket}",))

    async def start_ours(self, way: Way) -> tuple[Program, int]:
        """Our daemon, listening, and its port."""
        port = free_port()
        path = self.directory / f"ours-{port}.conf"
        path.write_text(OURS.format(way=way.attributes, port=port))
        code = "from twisted.scripts.twistd import run; run()"
        program = self.start(
            *(sys.executable, "-c", code, "--nodaemon", f"--pidfile={path}.pid", "ldmsjob"),
            *("-c", path.name),
            environment={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "STATE_DIRECTORY": str(self.directory.absolute() / "state"),
            },
        )
        await wait_until(lambda: listens(port) or program.status is not None, "our daemon")
        self.assertIsNone(program.status, program.output + program.errors)
        return program, port

    async def finish(self, program: Program) -> str:
        """Wait for its end, which is a good one; returns its output."""
        self.assertEqual(await program.end(), 0, program.output + program.errors)
        return program.output.decode()

    async def tool(self, name: str, port: int, way: Way, *arguments: str) -> str:
        """Run one of our tools against a local port."""
        return await self.finish(self.start_ours_tool(name, port, way, *arguments))

    def start_ours_tool(self, name: str, port: int, way: Way, *arguments: str) -> Program:
        """Start one of our tools."""
        return self.start_tool(name, "-h", "127.0.0.1", "-p", str(port), *way.arguments, *arguments)

    async def log_has(self, program: Program, text: str) -> None:
        """Wait for a part of a line in our daemon's log."""
        await wait_until(lambda: text in program.output.decode(), f"{text!r} in the log")
