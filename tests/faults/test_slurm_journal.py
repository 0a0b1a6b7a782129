"""The daemon is killed while Slurm runs jobs: its journal lacks nothing afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.test_slurm import (
    ARRAY,
    AWAY_SECONDS,
    ELEMENTS,
    WAITING,
    FaultCase,
    told_of_array,
)
from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.labdaemon import SOURCE, LabDaemon
from tests.slurm.notifiers import our_plugin, our_plugstack
from tests.slurm.stage import Stage

WANTED = Counter(
    {("job_started",): 1, ("job_ended",): 1, ("job_set_deleted",): 1}
    | {(f"{what}_{word}", step): 1 for what in ("step", "task") for word in ("started", "ended")
       for step in (0, 1)}
)  # fmt: skip
"""The events of each job."""


def with_journal(cluster: Cluster, attributes: str) -> tuple[LabDaemon, str]:
    """A daemon with a journal, not started, and the plugstack.conf of our notifier."""
    daemon = LabDaemon(
        Path(tempfile.mkdtemp(prefix="d.", dir=cluster.directory)),
        notifier=True,
        attributes=attributes,
        environment=cluster.environment,
        journal=True,
    )
    return daemon, our_plugstack(our_plugin(cluster.directory), daemon.path)


class JournalTests(FaultCase):
    """``kill -9`` in the middle of an array of 24 jobs of two steps, and a start 5 s later."""

    def tool(self, daemon: LabDaemon, *words: str) -> list[dict[str, Any]]:
        """What a tool prints for programs about that daemon's journal."""
        done = subprocess.run(
            [sys.executable, "-m", "ldmsjob.cli.main", *words, "--json"],
            env={
                "PYTHONPATH": str(SOURCE),
                "STATE_DIRECTORY": str(daemon.directory / "state"),
            },
            check=True,
            capture_output=True,
            text=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def killed(self, events_before: int) -> None:
        """Kill it when it has told of so many events, and look at what it knows at the end."""
        stage = self.prepare(with_journal)
        daemon = stage.daemon
        stage.sbatch(ARRAY, f"--array=0-{ELEMENTS - 1}")
        wait_until(lambda: len(daemon.events()) >= events_before, "events")
        daemon.kill()
        away_until = time.monotonic() + AWAY_SECONDS
        jobs = told_of_array(stage)
        wait_until(lambda: time.monotonic() >= away_until, "the daemon's return")
        daemon.start()
        self.go_on(stage, jobs)

    def go_on(self, stage: Stage, jobs: list[str]) -> None:
        """Let the jobs end, and check what the journal says of them."""
        daemon = stage.daemon
        running = [job["job_id"] for job in self.tool(daemon, "jobs", "-t", "running")]
        self.assertLessEqual(set(jobs[:WAITING]), set(running))
        stage.file("go").touch()
        stage.cluster.wait_empty()
        wait_until(daemon.nothing_waits, "the spool to be read")
        wait_until(
            lambda: not self.tool(daemon, "jobs", "-t", "running"),
            lambda: f"the end of {self.tool(daemon, 'jobs', '-t', 'running')}\n{daemon.text()}",
        )
        daemon.stop()
        events = self.tool(daemon, "events")
        numbers = [event["sequence"] for event in events]
        self.assertEqual(numbers, list(range(1, len(events) + 1)))
        for job in jobs:
            its = [event for event in events if event["job_id"] == job]
            found = Counter(
                (event["event"], *(one["step_id"] for one in (event["step"], event["task"]) if one))
                for event in its
            )
            self.assertEqual(found, WANTED, f"job {job}: {its}")
            self.assertEqual({event["attempt"] for event in its}, {1})
            self.assertEqual({event["origin"] for event in its}, {"message"}, its)
            self.assertEqual(its[0]["event"], "job_started")
            self.assertEqual([e["event"] for e in its[-2:]], ["job_ended", "job_set_deleted"])
            (facts,) = self.tool(daemon, "job", job)
            self.assertEqual((facts["state"], facts["exit_status"]), ("ended", 0))
        self.assertEqual(len(events), len(jobs) * WANTED.total())

    def test_in_the_second_steps(self) -> None:
        """Killed when some jobs are in their second steps."""
        self.killed(ELEMENTS * 4)

    def test_at_the_beginning(self) -> None:
        """Killed when the first jobs have begun."""
        self.killed(10)
