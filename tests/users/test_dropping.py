"""A daemon that binds as root and goes on as a user."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

from twisted.internet.threads import deferToThread

from tests.interop.peers import Program, wait_until
from tests.users.people import BOB, CAROL, PeopleTestCase

CONFIGURATION = """
msg_enable
log_file path={directory}/log
listen xprt=sock port={port} host=127.0.0.1
listen xprt=notifier path={directory}/run/notifier.sock
load name=jobmgr_slurm
config name=jobmgr_slurm reconcile=0
jobmgr_start name=jobmgr_slurm
load name=test_jobmgr_sampler
config name=test_jobmgr_sampler file={directory}/events/events.log
"""


def privileged_port() -> int:
    """A port that root alone may bind, and that is free."""
    for port in range(1023, 600, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no privileged port is free")


class DroppingTests(PeopleTestCase):
    """``twistd --uid``."""

    def setUp(self) -> None:
        """Directories as docs/operating.md wants them."""
        super().setUp()
        self.owner = pwd.getpwnam(BOB)
        for name in ("run", "events"):
            path = self.directory / name
            path.mkdir(mode=0o700)
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)
        (self.directory / "state").mkdir(mode=0o711)
        self.port = privileged_port()
        self.configuration = self.directory / "ldmsd.conf"
        self.configuration.write_text(
            CONFIGURATION.format(directory=self.directory, port=self.port)
        )

    def log(self) -> str:
        """What has been logged to the present file."""
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    async def daemon(self, *options: str) -> Program:
        """A daemon that changes to BOB, ready."""
        program = self.start(
            *(self.python, "-c", "from twisted.scripts.twistd import run; run()"),
            *("-n", "--pidfile=", "--uid", BOB, "ldmsjob", "-c", str(self.configuration)),
            *("-v", "INFO", "--state", str(self.directory / "state"), *options),
        )
        await wait_until(
            lambda: "is ready" in self.log() or program.status is not None, "the daemon"
        )
        self.assertIsNone(program.status, program.output + program.errors)
        return program

    def owners(self, *names: str) -> set[str]:
        """Whom these files belong to."""
        return {pwd.getpwuid(os.lstat(self.directory / name).st_uid).pw_name for name in names}

    async def test_life(self) -> None:
        """Bound, journalled, notified, opened again, ended: all as that user."""
        program = await self.daemon()
        status = Path(f"/proc/{program.transport.pid}/status").read_text()
        self.assertIn(f"Uid:\t{self.owner.pw_uid}\t{self.owner.pw_uid}\t", status)
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        (own,) = os.listdir(self.directory / "state")
        self.assertEqual(
            self.owners(
                f"state/{own}",
                f"state/{own}/journal.sqlite",
                "run/notifier.sock",
                "events/events.log",
                "log",
            ),
            {BOB},
        )
        self.assertEqual(os.stat(self.directory / "state" / own).st_mode & 0o777, 0o700)

        socket_path = str(self.directory / "run" / "notifier.sock")
        with socket.socket(socket.AF_UNIX) as notifier:
            notifier.connect(socket_path)
            line = (
                b'{"notifier":{"boot":"00000000-0000-0000-0000-000000000000","pid":1,"start":1,'
                b'"seq":1},"schema":"slurm_job_data","event":"init","timestamp":1,'
                b'"timestamp_ns":1000000000,"context":"n1(prolog),7,0","data":{"job_id":7,'
                b'"uid":0,"gid":0,"node":"n1"}}\n'
            )
            notifier.sendall(line)
            notifier.settimeout(20)
            answer = await deferToThread(notifier.recv, 1)
        self.assertEqual(answer, b"+")
        events = self.directory / "events" / "events.log"
        self.assertIn("job_start: ", events.read_text())

        (self.directory / "log").rename(self.directory / "log.1")
        (self.directory / "log").touch()
        os.chown(self.directory / "log", self.owner.pw_uid, self.owner.pw_gid)
        events.rename(f"{events}.1")
        program.transport.signalProcess("HUP")
        await wait_until(lambda: "opened again" in self.log(), "the new log")
        self.assertEqual(self.owners("events/events.log"), {BOB})

        program.transport.signalProcess("TERM")
        self.assertEqual(await program.end(), 0)
        self.assertIn("exiting...status 0", self.log())
        self.assertEqual(os.listdir(self.directory / "run"), ["notifier.sock.lock"])

    async def test_again(self) -> None:
        """What the first one has left is what the second one needs."""
        for _ in range(2):
            program = await self.daemon()
            program.transport.signalProcess("TERM")
            self.assertEqual(await program.end(), 0)
            (self.directory / "log").unlink()

    async def test_directory_of_another(self) -> None:
        """Where the user may not put the notifier's socket the daemon ends and says so."""
        other = pwd.getpwnam(CAROL)
        os.chown(self.directory / "run", other.pw_uid, other.pw_gid)
        program = self.start(
            *(self.python, "-c", "from twisted.scripts.twistd import run; run()"),
            *("-n", "--pidfile=", "--uid", BOB, "ldmsjob", "-c", str(self.configuration)),
            *("--state", str(self.directory / "state")),
        )
        self.assertEqual(await program.end(), 7)
        self.assertIn(b"ldmsd.conf:5: ", program.errors)
        self.assertNotIn(b"Traceback", program.errors)
