"""The examples' configurations do what the comments in them say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.interop.peers import SOURCE, Program, listens, wait_until
from tests.ports import free_port

reactor: Any = installed_reactor

CODE = {
    "twistd": "from twisted.scripts.twistd import run; run()",
    "ldmsjob": "from ldmsjob.cli.main import main; raise SystemExit(main())",
}
"""What the commands run."""


class LineJobsTests(TestCase):
    """The job manager that reads lines."""

    timeout = 120

    def start(self, command: str) -> Program:
        """Start a command of the comment."""
        name, *words = shlex.split(command)
        program = Program(name)
        path = [str(self.directory), *filter(None, sys.path)]
        reactor.spawnProcess(
            program,
            sys.executable,
            (sys.executable, "-c", CODE[name], *words),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path),
                "STATE_DIRECTORY": str(self.directory / "state"),
            },
            path=str(self.directory),
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(program.stop()))
        return program

    async def test_comment(self) -> None:
        """The commands in the comment start a daemon, a job, and show the job's set."""
        self.directory = Path(self.mktemp()).absolute()
        # A copy, because Twisted leaves a cache beside the drop-in.
        shutil.copytree(SOURCE / "examples" / "jobmgr-example", self.directory)
        file, port = self.directory / "line_jobs.conf", free_port()
        text = file.read_text().replace("10411", str(port))
        file.write_text(text)
        start, *commands = re.findall(r"(?m)^#   (.*)$", text)
        daemon = self.start(start)
        await wait_until(lambda: listens(port) or daemon.status is not None, "the daemon")
        self.assertIsNone(daemon.status, daemon.output + daemon.errors)
        output = b""
        for command in commands:
            tool = self.start(command)
            self.assertEqual((await tool.end(), tool.errors), (0, b""), command)
            output += tool.output
        self.assertRegex(output, rb"job_id +\"line_7\"")
        self.assertEqual(daemon.errors, b"")
