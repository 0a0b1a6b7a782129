"""What `--check` prints for broken configuration files.

Each ``tests/configs/NAME.conf`` has a ``NAME.txt`` beside it: the exit status, then what must stand
on standard error, with ``DIR`` for the directory of the files.
"""

import io
import os
import shutil
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.tap import Options, check

CONFIGS = Path(__file__).parent / "configs"


class BrokenConfigTests(SynchronousTestCase):
    """One test for all files, so that none is left out."""

    def test_all(self):
        """Each message names file and line, says what is wrong and what to do about it."""
        directory = os.path.abspath(self.mktemp())
        shutil.copytree(CONFIGS, directory)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(directory)
        before = sorted(os.listdir("."))
        names = sorted(path.stem for path in CONFIGS.glob("*.conf"))
        self.assertGreaterEqual(len(names), 10)
        for name in names:
            expected = (CONFIGS / f"{name}.txt").read_text()
            self.assertEqual(self.output(f"{name}.conf", directory), expected)
        self.assertEqual(sorted(os.listdir(".")), before)

    def output(self, file, directory):
        """Status and standard error of a check."""
        options = Options()
        options.files = [file]
        options.check = True
        stdout, stderr = io.StringIO(), io.StringIO()
        status = check(options, Clock(), stdout, stderr, lambda *_, **__: None)
        self.assertEqual(stdout.getvalue(), "")
        return f"exit status {status}\n" + stderr.getvalue().replace(directory, "DIR")
