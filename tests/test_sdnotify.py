"""What a service manager is told."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ldmsjob.sdnotify import ServiceManager

UNITS = Path(__file__).parent.parent / "examples" / "systemd"


class ManagerTests(SynchronousTestCase):
    """A manager's socket, and us."""

    def listen(self, address: str) -> socket.socket:
        """A socket of that name."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.addCleanup(listener.close)
        listener.bind(address)
        return listener

    def test_path(self) -> None:
        """Each call is one datagram; what is told has one line for each thing."""
        path = self.mktemp()
        listener = self.listen(path)
        manager = ServiceManager.from_environment({"NOTIFY_SOCKET": os.path.abspath(path)})
        self.assertTrue(manager.is_there)
        manager.ready("3 jobs\nREADY=0")
        self.assertEqual(listener.recv(4096), b"READY=1\nSTATUS=3 jobs READY=0")
        manager.alive("well")
        self.assertEqual(listener.recv(4096), b"WATCHDOG=1\nSTATUS=well")
        manager.reloading()
        self.assertRegex(listener.recv(4096), rb"\ARELOADING=1\nMONOTONIC_USEC=\d+\Z")
        manager.stopping("bye")
        self.assertEqual(listener.recv(4096), b"STOPPING=1\nSTATUS=bye")

    def test_abstract(self) -> None:
        """A name with an at sign stands for one outside of the file system."""
        name = f"ldmsjob-test-{os.getpid()}"
        listener = self.listen(f"\0{name}")
        ServiceManager.from_environment({"NOTIFY_SOCKET": f"@{name}"}).tell("READY=1")
        self.assertEqual(listener.recv(4096), b"READY=1")

    def test_environment(self) -> None:
        """It is taken out, with all that belongs to it; other things stay."""
        environ = {
            "NOTIFY_SOCKET": "/run/systemd/notify",
            "WATCHDOG_USEC": "30000000",
            "WATCHDOG_PID": str(os.getpid()),
            "HOME": "/root",
        }
        manager = ServiceManager.from_environment(environ)
        self.assertEqual(environ, {"HOME": "/root"})
        self.assertEqual(manager.watchdog_seconds, 30.0)

    def test_watchdog_of_another(self) -> None:
        """One that watches another process, or nothing that is a number, does not watch us."""
        for pid, usec in (("1", "30000000"), ("", "x"), ("", "0"), ("", "-1"), ("", "")):
            manager = ServiceManager.from_environment(
                {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
            )
            self.assertIsNone(manager.watchdog_seconds)

    def test_nobody(self) -> None:
        """Without a manager, or with an address of another kind, nothing happens."""
        for address in ("", "/", "@", "vsock:2:1234", "relative"):
            manager = ServiceManager.from_environment(
                {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"}
            )
            self.assertFalse(manager.is_there)
            self.assertIsNone(manager.watchdog_seconds)
            manager.ready("well")

    def test_manager_that_does_not_listen(self) -> None:
        """One that is gone, or reads nothing, neither fails nor holds up."""
        ServiceManager(os.path.abspath(self.mktemp())).ready("well")
        path = self.mktemp()
        self.listen(path)
        manager = ServiceManager(os.path.abspath(path))
        for _ in range(1000):
            manager.alive("well")
        ServiceManager("/" + "x" * 200).ready("well")

    def test_ready_is_heard(self) -> None:
        """A manager that has no time to read when we are ready hears of it later, once."""
        path = self.mktemp()
        listener = self.listen(path)
        manager = ServiceManager(os.path.abspath(path))
        while manager.tell("x"):
            pass
        manager.ready("well")
        while True:
            try:
                self.assertEqual(listener.recv(4096), b"x")
            except BlockingIOError:
                break
        manager.alive("well")
        self.assertEqual(listener.recv(4096), b"READY=1\nWATCHDOG=1\nSTATUS=well")
        manager.alive("well")
        self.assertEqual(listener.recv(4096), b"WATCHDOG=1\nSTATUS=well")

    def test_end_is_not_ready(self) -> None:
        """One that was never heard is not ready any more when it ends."""
        path = os.path.abspath(self.mktemp())
        manager = ServiceManager(path)
        manager.ready("well")
        listener = self.listen(path)
        manager.stopping("bye")
        manager.alive("stopping")
        self.assertEqual(listener.recv(4096), b"STOPPING=1\nSTATUS=bye")
        self.assertEqual(listener.recv(4096), b"WATCHDOG=1\nSTATUS=stopping")


class UnitTests(SynchronousTestCase):
    """examples/systemd."""

    def setUp(self) -> None:
        """The unit's text."""
        self.text = (UNITS / "ldmsjob.service").read_text("utf-8")

    def test_verify(self) -> None:
        """systemd finds nothing wrong with the unit."""
        tool = shutil.which("systemd-analyze")
        if tool is None:
            raise SkipTest("there is no systemd-analyze")
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        program = directory / "twistd"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        unit = directory / "ldmsjob.service"
        # It looks whether the program is there, which depends on where ldmsjob was installed.
        unit.write_text(self.text.replace("/opt/ldmsjob/bin/twistd", str(program)))
        done = subprocess.run(
            [tool, "verify", "--man=no", str(unit)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        ours = [line for line in done.stderr.splitlines() if "ldmsjob" in line]
        self.assertEqual((done.returncode, ours), (0, []), done.stderr)

    def test_stop_timeout(self) -> None:
        """systemd waits for longer than the daemon may take to end."""
        (seconds,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", self.text)
        self.assertGreater(int(seconds), 25)

    def test_start_timeout(self) -> None:
        """systemd waits until the jobs of a large journal are back."""
        (seconds,) = re.findall(r"(?m)^TimeoutStartSec=(\d+)$", self.text)
        self.assertGreaterEqual(int(seconds), 300)

    def test_every_setting_has_a_reason(self) -> None:
        """Each block of settings stands under a comment."""
        for block in self.text.split("\n\n"):
            lines = block.strip().splitlines()
            if lines and not lines[0].startswith("["):
                self.assertTrue(lines[0].startswith("#"), block)
