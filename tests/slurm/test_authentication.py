"""The C notifier of a real Slurm, by munge and by a secret word."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.interop.peers import c_environment
from tests.munge.munged import Munged, require_munge
from tests.slurm.cluster import Cluster, require_slurm, wait_until
from tests.slurm.notifiers import c_plugin, new_daemon

DEFAULT_SOCKET = Path("/run/munge/munge.socket.2")
"""Where the notifier asks munged: it has no option for another place."""


IN_STEPS = ["step_start", "task_start", "task_end", "step_end"]
"""Events of what the notifier says in ``slurmstepd`` and tasks."""


class NotifierTests(SynchronousTestCase):
    """A job gets through, each message over a connection of its own."""

    def check(self, auth: str, environment: dict[str, str], kinds: list[str]) -> None:
        """Run a job, with the notifier and the daemon authenticating that way; ``kinds`` are the
        events that it brings about."""
        require_slurm()
        plugin = c_plugin()
        cluster = Cluster(1)
        self.addCleanup(cluster.stop)
        # Without this the notifier finds the plugins of no way to authenticate but none.
        libraries = {
            name: value
            for name, value in c_environment().items()
            if name in ("LD_LIBRARY_PATH", "ZAP_LIBPATH")
        }
        cluster.environment.update({**libraries, **environment})
        daemon = new_daemon(
            cluster, notifier=False, attributes=f"reconcile=0\ndefault_auth plugin={auth}"
        )
        self.addCleanup(daemon.stop)
        daemon.start()
        cluster.set_plugstack(
            f"optional {plugin} client=sock:127.0.0.1:{daemon.port}:{auth} timeout=5\n"
        )
        cluster.start()
        cluster.run("srun", "-n2", "true")

        def told() -> list[str]:
            events = [event["kind"] for event in daemon.events()]
            return [kind for kind in kinds if kind in events]

        wait_until(lambda: told() == kinds, lambda: f"{kinds}, not {told()}; {daemon.text()}")
        daemon.stop()
        self.assertEqual(daemon.counters("links")["messages"], len(kinds) + 2)  # two tasks
        self.assertNotIn("not accepted", daemon.text())

    def test_munge(self) -> None:
        """Unless it is told otherwise it authenticates so."""
        require_munge()
        if os.geteuid() or DEFAULT_SOCKET.parent.exists():
            raise SkipTest(f"{DEFAULT_SOCKET} is not for tests: we are not root, or it is in use")
        munged = Munged()
        self.addCleanup(munged.remove)
        DEFAULT_SOCKET.parent.mkdir(mode=0o755)
        self.addCleanup(shutil.rmtree, DEFAULT_SOCKET.parent)
        munged.socket = str(DEFAULT_SOCKET)
        munged.start()
        self.check("munge", {}, ["job_start", *IN_STEPS, "job_end"])

    def test_ovis(self) -> None:
        """Its file with the secret word is that of ``LDMS_AUTH_FILE``, which slurmd hands on to
        steps, but not to prolog and epilog."""
        path = Path(self.mktemp()).absolute()
        path.touch(0o600)
        path.write_text("secretword=of-the-notifier\n")
        self.check("ovis", {"LDMS_AUTH_FILE": str(path)}, IN_STEPS)
