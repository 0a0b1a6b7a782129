"""A daemon whose wall clock is set forward and back by hours, while the monotonic clock runs on."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

import ldmsjob
from tests.real import require_real

SOURCE = Path(ldmsjob.__file__).parent.parent

LINGER = 16.0
WATCHDOG = 8.0

CONFIGURATION = """
daemon_name name=node
msg_enable
log_level level=INFO
listen xprt=unix path={directory}/u/unix.sock
listen xprt=notifier path={directory}/n/notifier.sock
load name=jobmgr_slurm
config name=jobmgr_slurm linger={linger} reconcile=1s slurm_commands=none
jobmgr_start name=jobmgr_slurm
load name=test_jobmgr_sampler
config name=test_jobmgr_sampler file={directory}/events
start name=test_jobmgr_sampler interval=1s
"""

LIBRARIES = (
    "/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)


def library() -> str:
    """The library that fakes the wall clock. Skips where it is not installed."""
    for pattern in LIBRARIES:
        path = pattern.format(machine=os.uname().machine)
        if os.path.exists(path):
            return path
    raise SkipTest("libfaketime is not installed")


class Watcher:
    """A service manager: keeps what it is told, and when by the monotonic clock."""

    def __init__(self, name: str) -> None:
        self.told: list[tuple[float, bytes]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}")
        self._socket.settimeout(0.2)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                self.told.append((time.monotonic(), self._socket.recv(4096)))
            except TimeoutError:
                pass

    def longest_silence(self, until: float) -> float:
        """In seconds, from the first word on."""
        times = [when for when, _ in self.told if when <= until]
        return max(b - a for a, b in zip(times, [*times[1:], until], strict=True))

    def close(self) -> None:
        """Listen no more."""
        self._ended.set()
        self._thread.join()
        self._socket.close()


class ClockTests(TestCase):
    """Setting the wall clock."""

    timeout = 600

    def setUp(self) -> None:
        """A daemon with a faked wall clock, ready."""
        require_real()
        preloaded = library()
        # Short enough for the path of a socket.
        self.directory = Path(tempfile.mkdtemp(prefix="clock.", dir="/tmp"))
        self.addCleanup(subprocess.run, ["rm", "-r", str(self.directory)], check=True)
        (self.directory / "ldmsd.conf").write_text(
            CONFIGURATION.format(directory=self.directory, linger=LINGER)
        )
        self.offset = self.directory / "offset"
        self.set_clock(0)
        name = f"ldmsjob-clock-{os.getpid()}"
        self.watcher = Watcher(name)
        self.addCleanup(self.watcher.close)
        with open(self.directory / "log", "w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()"),
                    *("-n", "--pidfile=", "ldmsjob", "-c", "ldmsd.conf"),
                ],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": os.pathsep.join([str(SOURCE), *filter(None, sys.path)]),
                    "STATE_DIRECTORY": str(self.directory / "state"),
                    "LDMSD_LOG_TIME_SEC": "1",
                    "NOTIFY_SOCKET": f"@{name}",
                    "WATCHDOG_USEC": str(int(WATCHDOG * 1e6)),
                    "LD_PRELOAD": preloaded,
                    "FAKETIME_TIMESTAMP_FILE": str(self.offset),
                    "FAKETIME_NO_CACHE": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                },
            )
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)
        self.wait_for(lambda: bool(self.watcher.told))
        self.assertTrue(self.watcher.told[0][1].startswith(b"READY=1"))
        self.notifier = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.notifier.close)
        self.wait_for(self.connects)
        self.notifier.settimeout(60)
        self.sent = 0

    def connects(self) -> bool:
        """Whether the notifier's socket takes us."""
        return self.notifier.connect_ex(f"{self.directory}/n/notifier.sock") == 0

    def wait_for(self, condition: object) -> None:
        """Not longer than a minute."""
        end = time.monotonic() + 60
        while not condition():  # type: ignore[operator]
            self.assertIsNone(self.process.poll(), self.log())
            self.assertLess(time.monotonic(), end, self.log())
            time.sleep(0.05)

    def log(self) -> str:
        """What the daemon has said."""
        return (self.directory / "log").read_text()

    def set_clock(self, seconds: int) -> None:
        """Set the daemon's wall clock to so much beyond the real one."""
        path = self.directory / "offset.new"
        path.write_text(f"{seconds:+d}\n")
        path.rename(self.offset)

    def notify(self, event: str, job_id: int) -> None:
        """Tell of a job, as a notifier does."""
        self.sent += 1
        line = (
            '{"notifier":{"boot":"00000000-0000-0000-0000-000000000000","pid":1,"start":1,'
            f'"seq":{self.sent}}},"schema":"slurm_job_data","event":"{event}","timestamp":'
            f'{int(time.time())},"timestamp_ns":{time.time_ns()},"context":"n1(prolog),{job_id},0",'
            f'"data":{{"job_id":{job_id},"uid":0,"gid":0,"node":"n1"}}}}\n'
        )
        self.notifier.sendall(line.encode())
        self.assertEqual(self.notifier.recv(1), b"+")

    def sets(self) -> set[str]:
        """The names of the sets of our jobs: a Slurm that runs here, too, has higher numbers."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "ldmsjob.cli.main", "ls", "-x", "unix"),
                *("-h", f"{self.directory}/u/unix.sock"),
            ],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(SOURCE), *filter(None, sys.path)]),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return set(re.findall(r"node/job_slurm_\d\b", done.stdout))

    def only_the_first(self) -> bool:
        """Whether the first job's set, which has not ended, is the only one."""
        sets = self.sets()
        self.assertIn("node/job_slurm_1", sets)
        return len(sets) == 1

    async def test_set_back_and_forth(self) -> None:
        """No job ends, a set lingers for its time, readings come once a second, the watchdog hears
        of us in time, and the daemon ends when it is told to."""
        await deferToThread(self.play)

    def play(self) -> None:
        """All of it, in a thread."""
        began = time.monotonic()
        self.notify("init", 1)
        for number, offset in enumerate((3600, -3600, 3600, 0, -3600, 0), 2):
            self.notify("init", number)
            self.notify("exit", number)
            ended = time.monotonic()
            self.set_clock(offset)
            os.kill(self.process.pid, 1)
            self.wait_for(lambda count=number - 1: self.log().count("opened again") == count)
            if number < 4:
                self.wait_until(ended + 4)
                sets = self.sets()
                self.assertLess(time.monotonic(), ended + LINGER, "this host is too slow")
                self.assertIn(f"node/job_slurm_{number}", sets)
                self.wait_until(ended + LINGER)
                self.wait_for(self.only_the_first)
            else:
                self.wait_until(ended + 2)
        self.wait_until(ended + LINGER)
        self.wait_for(self.only_the_first)
        lasted = time.monotonic() - began
        silence = self.watcher.longest_silence(time.monotonic())
        self.process.terminate()
        self.assertEqual(self.process.wait(60), 0)
        self.assertLess(silence, WATCHDOG)

        events = (self.directory / "events").read_text()
        self.assertNotIn('job_end: {"job_id":"slurm_1"', events)
        self.assertEqual(len(re.findall(r'job_end: {"job_id":"slurm_\d"', events)), 6)
        log = self.log()
        stamps = [float(one) for one in re.findall(r"(?m)^(\d+\.\d+):.*opened again", log)]
        moved = [round((b - a) / 3600) for a, b in pairwise(stamps)]
        self.assertEqual(moved, [-2, 2, -1, -1, 1], "the clock was not faked")
        (samples,) = re.findall(r"sampler\.\S+: .*\bsamples=(\d+)", log)
        self.assertLess(abs(int(samples) - lasted), 12, f"{samples} readings in {lasted:.1f} s")
        self.assertNotIn("Traceback", log)

    def wait_until(self, when: float) -> None:
        """By the monotonic clock."""
        time.sleep(max(0.0, when - time.monotonic()))
