"""A daemon run by root, with a munged of its own, and our tools run by other users."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest, TestCase

from tests.interop.peers import SOURCE, Program, reactor, wait_until
from tests.munge.munged import Munged, require_munge
from tests.real import require_real

ALICE, BOB, CAROL = "games", "nobody", "daemon"
"""Users that every system has: one with a job, one without, and one to be trusted."""


def can_be_run_by(user: str, python: str, path: str) -> bool:
    """Whether that user can run ldmsjob with that interpreter and module path."""
    try:
        done = subprocess.run(
            [python, "-c", "import ldmsjob.cli.main, twisted"],
            user=user,
            group=pwd.getpwnam(user).pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PYTHONPATH": path},
            capture_output=True,
            check=False,
            timeout=60,
        )
    except OSError:
        return False
    return done.returncode == 0


@lru_cache(maxsize=1)
def interpreter() -> tuple[str, str]:
    """An interpreter that ordinary users can run, and the module path with which it finds ldmsjob.

    Not always ours, which may stand in root's own directory. Skips the test when there is none.
    """
    path = ":".join([str(SOURCE), *(one for one in sys.path if one.endswith("site-packages"))])
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        if Path(python).exists() and can_be_run_by(BOB, python, path):
            return python, path
    raise SkipTest(f"user {BOB} can run no Python {version} that finds ldmsjob")


class PeopleTestCase(TestCase):
    """Has what it starts stopped at its end, and its directory removed."""

    timeout = 600

    def setUp(self) -> None:
        """Skip where users cannot be played."""
        require_real()
        if os.geteuid() != 0:
            raise SkipTest("only root can run programs as other users")
        for name in (ALICE, BOB, CAROL):
            try:
                pwd.getpwnam(name)
            except KeyError:
                raise SkipTest(f"there is no user {name}") from None
        self.python, self.path = interpreter()
        # Where everybody can reach it: trial's own may stand in root's.
        self.directory = Path(tempfile.mkdtemp(prefix="ldmsjob-users-"))
        self.directory.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def start(self, *command: str, user: str = "root") -> Program:
        """Start a program as that user, with all groups that he has."""
        program = Program(command[0])
        entry = pwd.getpwnam(user)
        ids = {} if user == "root" else {"uid": entry.pw_uid, "gid": entry.pw_gid}
        reactor.spawnProcess(
            program,
            command[0],
            command,
            env={
                "PYTHONPATH": self.path,
                "PATH": os.environ["PATH"],
                "STATE_DIRECTORY": str(self.directory / "state"),
            },
            path=str(self.directory),
            **ids,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(program.stop()))
        return program

    def start_munged(self) -> str:
        """A munged with a key of its own; returns its socket. Skips where there is none."""
        require_munge()
        munged = Munged()
        self.addCleanup(munged.remove)
        munged.start()
        return munged.socket

    async def start_daemon(self, configuration: str) -> Program:
        """Our daemon as root; returns when it is ready."""
        path = self.directory / "ldmsd.conf"
        path.write_text(configuration)
        program = self.start(
            *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()"),
            *("-n", "--pidfile=", "ldmsjob", "-c", str(path), "-v", "INFO"),
        )
        await wait_until(
            lambda: b"is ready" in program.output or program.status is not None, "the daemon"
        )
        self.assertIsNone(program.status, program.output + program.errors)
        return program

    async def tool(self, user: str, name: str, arguments: Sequence[str]) -> tuple[int, str]:
        """Run one of our tools as that user; its status and what it printed."""
        program = self.start(self.python, "-m", "ldmsjob.cli.main", name, *arguments, user=user)
        status = await program.end()
        return status, (program.output + program.errors).decode()
