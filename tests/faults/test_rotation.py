"""The spool, written by many processes while the daemon's part of it is renamed and read."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob import notify
from ldmsjob.spank import SOURCE
from ldmsjob.stats import Stats
from ldmsjob.transports.notifier_lines import LineBook
from ldmsjob.transports.spool import Spool
from tests.real import require_real
from tests.spank.harness import COMPILER

WRITERS = 6
ROUNDS = 40
LINES = 50
"""Of each writer in each round."""
SPOOLER = Path(__file__).parent.parent / "spank" / "spooler.c"
LONGEST_SECONDS = 300.0


class RotationTests(SynchronousTestCase):
    """Nothing is lost, and nothing counts twice, whoever renames and reads when."""

    def setUp(self) -> None:
        """A place for the files."""
        require_real()
        self.directory = Path(tempfile.mkdtemp(prefix="rotation.", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = str(self.directory / "n.sock")
        self.stats = Stats()
        self.book = LineBook()
        self.fresh: list[bytes] = []

    def take(self, lines: list[bytes]) -> None:
        """What the daemon does with lines of the spool."""
        batch = self.book.take(lines, 0.0, mend=True)
        self.fresh += batch.fresh
        self.assertEqual(batch.refused, {})

    def read_while(self, writers: list[subprocess.Popen[bytes]]) -> None:
        """Read while they write, in rounds, and what is left; now and then as a daemon that was
        killed in the middle and is there again."""
        rng = random.Random(4)
        spool = Spool(self.path, self.stats.add)
        rounds = 0
        has_come = True
        until = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < until:
            alive = any(writer.poll() is None for writer in writers)
            if has_come and rounds < ROUNDS:
                rounds += 1
                for writer in writers:
                    assert writer.stdin is not None
                    writer.stdin.write(b".")
                    if rounds == ROUNDS:
                        writer.stdin.close()
            has_come = False
            while (piece := spool.read(rng.choice((7, 500, 1 << 18)))) is not None:
                has_come = True
                self.take(piece[0])
                if rng.random() < 0.01:
                    spool.close()
                    spool = Spool(self.path, self.stats.add)
            if not alive and not spool.grown():
                return
        self.fail("the writers have not come to an end")

    def check(self, pids: list[int]) -> None:
        """Each line of each writer is there, once."""
        # One that was being written when all was read; its writer has seen that and written again.
        self.assertLessEqual(set(self.stats.values), {"spool_truncated"})
        self.assertFalse(Path(f"{self.path}.lost").exists())
        found: dict[int, list[int]] = {pid: [] for pid in pids}
        for line in self.fresh:
            notifier = json.loads(line)["notifier"]
            found[notifier["pid"]].append(notifier["seq"])
        for sequence in found.values():
            self.assertEqual(sequence, list(range(1, ROUNDS * LINES + 1)))

    def start(self, command: list[str]) -> list[subprocess.Popen[bytes]]:
        """So many processes; each byte that they get lets them write."""
        writers = []
        for _ in range(WRITERS):
            writer = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
            writers.append(writer)
            assert writer.stdin is not None
            self.addCleanup(writer.stdin.close)
            self.addCleanup(writer.wait)
            self.addCleanup(writer.kill)
        return writers

    def test_plugin(self) -> None:
        """The notifier's own way to write."""
        program = str(self.directory / "spooler")
        include = f"-I{SOURCE.parent}"
        flags = ["-std=c11", "-O2", "-Wno-unused-function"]
        subprocess.run(
            [*COMPILER.split(), *flags, include, "-o", program, str(SPOOLER)], check=True
        )
        writers = self.start([program, self.path, str(LINES)])
        self.read_while(writers)
        self.check([writer.pid for writer in writers])

    def test_script(self) -> None:
        """That of ``ldmsjob notify``."""
        code = (
            "import os, sys, notify\n"
            "number = 0\n"
            "while os.read(0, 1):\n"
            f" for _ in range({LINES}):\n"
            "  number += 1\n"
            '  line = f\'{{"notifier":{{"boot":"b","pid":{os.getpid()},"start":1,\'\n'
            "  line += f'\"seq\":{number}}}}}\\n'\n"
            f"  notify.spool(line.encode(), {self.path!r})\n"
        )
        directory = str(Path(notify.__file__).parent)
        code = f"import sys; sys.path.append({directory!r})\n{code}"
        writers = self.start([sys.executable, "-IS", "-c", code])
        self.read_while(writers)
        self.check([writer.pid for writer in writers])
