"""``ldmsjob spank``: our notifier, compiled and set up."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.cli import spank
from ldmsjob.cli.main import main
from tests.test_spank import MISSING

HEADER = """
#define SLURM_VERSION_NUMBER 0x170b02
"""


def run(*words: str) -> tuple[int, str, str]:
    """(status, output, errors) of ``ldmsjob spank``."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(["spank", *words])
    return status, output.getvalue(), errors.getvalue()


class BuildTests(SynchronousTestCase):
    """``ldmsjob spank build``."""

    def setUp(self) -> None:
        """A directory to write to."""
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.output = self.directory / "plugin.so"

    def build(self, *words: str, installed: str | None = None) -> tuple[int, str, str]:
        """Build it where that version of Slurm is installed."""
        with mock.patch.object(spank, "installed_version", return_value=installed):
            return run("build", "--output", str(self.output), *words)

    def test_plugin(self) -> None:
        """What is written is a library, for everybody to read, and the version is told."""
        version = spank.headers_version(["cc"])
        status, output, errors = self.build(installed=version)
        self.assertEqual((status, errors), (0, ""))
        self.assertIn(f"for Slurm {version}", output)
        self.assertEqual(self.output.stat().st_mode & 0o777, 0o755)
        self.assertEqual(os.listdir(self.directory), ["plugin.so"])
        # Not loaded: what it needs of Slurm is not here, and it is linked to be refused then.
        with self.assertRaisesRegex(OSError, "undefined symbol"):
            ctypes.CDLL(str(self.output.absolute()))

    def test_loaded_plugin_is_replaced_not_changed(self) -> None:
        """Whoever has the old one open keeps it."""
        self.output.write_text("old")
        with self.output.open() as old:
            self.assertEqual(self.build()[0], 0)
            self.assertEqual(old.read(), "old")

    def test_other_version_of_slurm(self) -> None:
        """It is told that the plugin would be refused; the micro version does not matter."""
        major, minor, micro = spank.headers_version(["cc"]).split(".")
        self.assertEqual(self.build(installed=f"{major}.{minor}.{int(micro) + 1}")[0], 0)
        status, _, errors = self.build(installed="20.11.9")
        self.assertEqual(status, 1)
        self.assertRegex(errors, r"\Aldmsjob: .*20\.11\.9, will refuse it: its headers are of")
        self.assertTrue(self.output.exists())

    if MISSING:
        for _test in (test_plugin, test_loaded_plugin_is_replaced_not_changed):
            _test.skip = MISSING  # type: ignore[attr-defined]
        test_other_version_of_slurm.skip = MISSING  # type: ignore[attr-defined]

    def test_no_slurm_here(self) -> None:
        """On a build host there is nothing to compare with; that is told."""
        with mock.patch("shutil.which", return_value=None):
            self.assertIsNone(spank.installed_version())

    def test_installed_version(self) -> None:
        """It is that which the programs print."""
        program = self.directory / "slurmd"
        program.write_text("#!/bin/sh\necho slurm 23.11.4-1.el9\n")
        program.chmod(0o755)
        with mock.patch.dict(os.environ, {"PATH": str(self.directory.absolute())}):
            self.assertEqual(spank.installed_version(), "23.11.4")

    def test_no_compiler(self) -> None:
        """Clear words, and status 2."""
        status, _, errors = self.build("--cc", "nonesuch")
        self.assertEqual(status, 2)
        self.assertIn("there is no compiler 'nonesuch'; install gcc", errors)

    def test_no_headers(self) -> None:
        """The packages are named."""
        empty = self.directory / "include"
        (empty / "slurm").mkdir(parents=True)
        status, _, errors = self.build("--cc", f"cc -nostdinc -I{empty}")
        self.assertEqual(status, 2)
        self.assertIn("libslurm-dev", errors)
        self.assertIn("slurm-devel", errors)
        self.assertFalse(self.output.exists())

    def test_no_headers_there(self) -> None:
        """Those of the system do not take the place of those that were named."""
        status, _, errors = self.build("--include", str(self.directory))
        self.assertEqual(status, 2)
        self.assertIn(f"no {self.directory}/slurm/spank.h", errors)
        self.assertFalse(self.output.exists())

    def test_headers_elsewhere(self) -> None:
        """Those of ``--include`` are used, and those that do not fit are told as such."""
        (self.directory / "slurm").mkdir()
        (self.directory / "slurm" / "spank.h").write_text(HEADER)
        self.assertEqual(spank.headers_version(["cc", "-I", str(self.directory)]), "23.11.2")
        status, _, errors = self.build("--include", str(self.directory))
        self.assertEqual(status, 1)
        self.assertIn("the notifier does not compile", errors)
        self.assertEqual(os.listdir(self.directory), ["slurm"])

    def test_nowhere_to_write(self) -> None:
        """One line, no traceback."""
        self.output = self.directory / "missing" / "plugin.so"
        with mock.patch.object(spank, "headers_version", return_value="22.05.8"):
            status, _, errors = self.build()
        self.assertEqual(status, 1)
        self.assertRegex(errors, r"\Aldmsjob: cannot write .*plugin\.so: .*\n\Z")


class PlugstackTests(SynchronousTestCase):
    """``ldmsjob spank plugstack``."""

    def test_line(self) -> None:
        """Only the line goes to standard output; a plugin that is not there is told."""
        status, output, errors = run("plugstack", "--plugin", "/x/p.so", "--path", "/run/n.sock")
        self.assertEqual((status, output), (0, "optional /x/p.so path=/run/n.sock\n"))
        self.assertIn("restart slurmd", errors)
        self.assertIn("there is no /x/p.so yet", errors)

    def test_defaults(self) -> None:
        """What ``build`` writes, by its absolute path, and where the daemon listens."""
        output = run("plugstack")[1]
        path = Path("ldmsjob_notifier.so").absolute()
        self.assertEqual(output, f"optional {path} path=/run/ldmsjob/notifier.sock\n")

    def test_paths_that_cannot_be(self) -> None:
        """plugstack.conf knows no quotes, and the address of a socket is short."""
        for words in (
            ("--path", "relative"),
            ("--path", "/" + "x" * 107),
            ("--path", "/a b"),
            ("--plugin", "/a b"),
        ):
            status, output, errors = run("plugstack", *words)
            self.assertEqual((status, output), (2, ""), words)
            self.assertRegex(errors, r"\Aldmsjob: --p.*\n\Z")
