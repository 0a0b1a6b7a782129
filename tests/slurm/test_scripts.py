"""Jobs as Prolog and Epilog scripts tell them, without any plugin."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.slurm.check import Mismatch
from tests.slurm.cluster import Cluster, require_slurm, wait_until
from tests.slurm.labdaemon import SOURCE
from tests.slurm.notifiers import new_daemon
from tests.slurm.stage import Stage

EXITED_7 = 7 << 8

SCRIPT = """\
#!/bin/sh
export PYTHONPATH={source}
event=$SLURM_SCRIPT_CONTEXT.$SLURMD_NODENAME
if [ $event = epilog_slurmd.n2 ]; then
    while [ -d {work} ] && ! [ -e {work}/n2.may.end ]; do sleep 0.05; done
fi
{command}
touch {work}/told.$SLURM_JOB_ID.$event
"""


class ScriptTests(SynchronousTestCase):
    """``ldmsjob notify`` in Prolog and Epilog."""

    def check(self, *arguments: str) -> None:
        """Run it with these arguments, or run what it then prints; play some jobs."""
        require_slurm()
        command = [sys.executable, "-m", "ldmsjob.cli.main", "notify", *arguments]
        if arguments:
            printed = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": str(SOURCE)},
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            command = shlex.split(printed)
        cluster = Cluster(2)
        self.addCleanup(cluster.stop)
        daemon = new_daemon(cluster, notifier=True, attributes="reconcile=0")
        self.addCleanup(daemon.stop)
        script = cluster.directory / "notify.sh"
        script.write_text(
            SCRIPT.format(
                source=shlex.quote(str(SOURCE)),
                command=f"{shlex.join(command)} --path={daemon.path}",
                work=cluster.work,
            )
        )
        script.chmod(0o755)
        cluster.set_settings(f"Prolog={script}\nEpilog={script}\n")
        daemon.start()
        cluster.start()
        stage = Stage(cluster, daemon)
        failing = stage.sbatch("exit 7")
        (single,) = stage.srun("-n2", "true")
        (double,) = stage.srun("-N2", "-n2", "true")
        stage.wait_files([stage.file(f"told.{double}.epilog_slurmd.n1")])
        wait_until(daemon.nothing_waits, "the spool to be read")
        (run,) = stage.runs()[double]
        self.assertEqual(run.kinds, ["job_start"])
        stage.file("n2.may.end").touch()
        # Its second node has an epilog, but no prolog.
        partial = stage.sbatch("srun -N1 -n1 true", "-N2")
        (silent,) = stage.salloc("-n1", "true")
        cluster.wait_empty()
        wait_until(daemon.nothing_waits, "the spool to be read")
        found = daemon.runs()
        self.assertEqual(set(found), {failing, single, double, partial})
        for job, nodes, status in (
            (failing, 1, EXITED_7),
            (single, 1, 0),
            (double, 2, 0),
            (partial, 1, 0),
        ):
            (run,) = found[job]
            facts = run.facts
            if run.kinds != ["job_start", "job_end", "jobset_delete"]:
                raise Mismatch("not a start and an end", run)
            self.assertEqual(
                (facts["uid"], facts["exit_status"], len(facts["nodes"])),
                (os.getuid(), status, nodes),
            )
            self.assertEqual(facts["details"]["partition"], "main")
        self.assertNotIn(silent, found)

    def test_command(self) -> None:
        """The command itself: each job starts and ends, on all of its nodes."""
        self.check()

    def test_script(self) -> None:
        """The faster command that it prints does the same."""
        self.check("--script")
