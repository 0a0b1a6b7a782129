"""Many notifiers at once, without Slurm."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.writer import LINES_PER_JOB, tell_job
from tests.real import require_real
from tests.slurm.check import check_order
from tests.slurm.cluster import wait_until
from tests.slurm.labdaemon import LabDaemon, Run

WRITERS = 256
FIRST_JOB = 5000
KINDS = Counter(
    ("job_start", "step_start", "task_start", "task_end", "step_end", "job_end", "jobset_delete")
)


class WritersTests(SynchronousTestCase):
    """256 processes, each of which tells of a job, let loose at one moment."""

    def setUp(self) -> None:
        """A daemon."""
        require_real()
        directory = Path(tempfile.mkdtemp(prefix="writers.", dir="/tmp"))
        self.addCleanup(shutil.rmtree, directory)
        self.daemon = LabDaemon(
            directory, notifier=True, attributes="reconcile=0", environment=os.environ
        )
        self.addCleanup(self.daemon.stop)
        self.daemon.start()

    def release(self) -> list[int]:
        """Start the writers; returns their pids when they have been let loose."""
        gate, opener = os.pipe()
        pids = []
        for number in range(WRITERS):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    os.close(opener)
                    os.read(gate, 1)
                    tell_job(self.daemon.path, FIRST_JOB + number)
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            pids.append(pid)
        os.close(gate)
        os.close(opener)
        return pids

    def join(self, pids: list[int]) -> None:
        """Wait for the writers' ends."""
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            self.assertEqual(status, 0)

    def finished(self) -> dict[str, list[Run]]:
        """End the daemon when it has read everything; returns what it told."""
        wait_until(self.daemon.nothing_waits, "the spool to be read")
        self.daemon.stop()
        return self.daemon.runs()

    def test_burst(self) -> None:
        """No job stays open, no event is missing, none comes twice; and nobody is held up."""
        began = time.monotonic()
        self.join(self.release())
        took = time.monotonic() - began
        found = self.finished()
        self.assertEqual(len(found), WRITERS)
        for runs in found.values():
            (run,) = runs
            check_order(run)
            self.assertEqual(Counter(run.kinds), KINDS)
            self.assertEqual({event["origin"] for event in run.events}, {"message"})
        counters = self.daemon.counters("xprt.notifier")
        self.assertEqual(counters["lines"], WRITERS * LINES_PER_JOB)
        self.assertNotIn("lost_by_notifiers", counters)
        # All of it is the time that as many processes need to begin and to end.
        self.assertLess(took, 60.0)

    def test_killed(self) -> None:
        """The daemon is killed meanwhile and started again: what it had not answered arrives."""
        pids = self.release()
        wait_until(lambda: self.daemon.record.stat().st_size > 10_000, "the first events")
        self.daemon.kill()
        self.join(pids)
        self.daemon.start()
        found = self.finished()
        self.assertEqual(len(found), WRITERS)
        applied = Counter(
            event["life"]
            for runs in found.values()
            for run in runs
            for event in run.events
            if event["origin"] == "message" and event["kind"] != "jobset_delete"
        )
        for runs in found.values():
            for run in runs:
                check_order(run, whole=run.events[0]["life"] == 2)
        delivered = self.daemon.counters("xprt.notifier").get("lines", 0)
        # A spool that a daemon had read in part is read again by the next, which knows nothing.
        self.assertGreaterEqual(applied[1] + delivered, WRITERS * LINES_PER_JOB, "lines were lost")
        self.assertLessEqual(delivered, WRITERS * LINES_PER_JOB, "lines came twice")
