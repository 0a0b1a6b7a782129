"""What the daemon loads to start: each module more costs every node time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent

PLAIN = """msg_enable
listen xprt=sock port=10411
load name=jobmgr_slurm
config name=jobmgr_slurm
jobmgr_start name=jobmgr_slurm
load name=test_jobmgr_sampler
config name=test_jobmgr_sampler file=events
"""

# Prints the names of the modules that are loaded beyond those of twistd and its reactor.
LOAD = """
import json, os, sys
import twisted.plugin, twisted.scripts.twistd
from twisted.application.service import IServiceMaker
from twisted.internet import reactor
makers = {maker.tapname: maker for maker in twisted.plugin.getPlugins(IServiceMaker)}
before = set(sys.modules)
options = makers["ldmsjob"].options()
options.parseOptions(["-c", "plain.conf", "--state", os.getcwd()])
makers["ldmsjob"].makeService(options)
print(json.dumps(sorted(set(sys.modules) - before)))
"""

# Of what is wanted only where it is configured, or asked for.
OTHERS = {
    *("OpenSSL", "cryptography", "prometheus_client", "re2", "rich", "service_identity"),
    *("asyncio", "concurrent", "ctypes", "email", "html", "http", "multiprocessing", "unittest"),
    *("urllib", "xml", "twisted.trial", "twisted.web"),
    *("ldmsjob.connecting", "ldmsjob.peer", "ldmsjob.recordings", "ldmsjob.replay"),
    *("ldmsjob.spank", "ldmsjob.testing", "ldmsjob.journal.history", "ldmsjob.webmetrics"),
    *("ldmsjob.transports.auth_munge", "ldmsjob.transports.auth_ovis"),
    *("ldmsjob.transports.notifier", "ldmsjob.transports.tls", "ldmsjob.transports.unix"),
    *("ldmsjob.transports.workers",),
}


class LoadedTests(SynchronousTestCase):
    """Modules of a daemon that has been built and not started."""

    def loaded(self, configuration: str) -> set[str]:
        """Modules and packages that this configuration has loaded."""
        directory = self.mktemp()
        os.mkdir(directory)
        Path(directory, "plain.conf").write_text(configuration, encoding="utf-8")
        run = subprocess.run(
            [sys.executable, "-c", LOAD],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            check=True,
        )
        names: set[str] = set()
        for name in json.loads(run.stdout):
            parts = name.split(".")
            names.update(".".join(parts[: end + 1]) for end in range(len(parts)))
        return names

    def test_plain(self) -> None:
        """As in the example: nothing that only others need."""
        loaded = self.loaded(PLAIN)
        self.assertIn("ldmsjob.daemon", loaded)
        self.assertIn("ldmsjob.samplers.jobevents", loaded)
        self.assertIn("sqlite3", loaded)
        self.assertEqual(loaded & OTHERS, set())

    def test_without_a_journal(self) -> None:
        """SQLite is for the journal only."""
        loaded = self.loaded("journal enabled=false\n" + PLAIN)
        self.assertEqual(loaded & {*OTHERS, "sqlite3", "ldmsjob.journal.journal"}, set())
