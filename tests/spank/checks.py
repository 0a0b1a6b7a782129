"""The tests of the notifier again, in tools that see what it does to memory: valgrind and the
sanitizers of the compiler. Run with ``trial tests.spank.checks``."""

from __future__ import annotations

import re
import shutil

from tests import test_spank


class ValgrindTests(test_spank.NotifierTests):
    """No invalid access, no leak, no file left open."""

    prefix = (
        *("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--track-fds=yes"),
        "--trace-children=no",
    )
    skip = test_spank.MISSING or (None if shutil.which("valgrind") else "there is no valgrind")

    def check_complaints(self, complaints: str) -> None:
        """Valgrind tells which files are open at the end, and where that was done."""
        opened = re.findall(r"Open .*\n==\d+== +at 0x", complaints)
        self.assertLessEqual(len(opened), self.connections, complaints)


class SanitizerTests(test_spank.NotifierTests):
    """No invalid access, no leak, nothing that C leaves undefined."""

    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
