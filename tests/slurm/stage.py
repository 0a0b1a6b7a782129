"""Plays all scenarios at once on one cluster, with one notifier, and keeps what came of it."""

from __future__ import annotations

import atexit
import os
import pty
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.slurm.cluster import WAIT_SECONDS, Cluster, require_slurm, wait_until
from tests.slurm.labdaemon import LabDaemon, Run, runs

NODES = 4
PLAYERS = 8
"""Scenarios that run at the same time. More would only wait for the processor."""

_JOB_IDS = re.compile(r"jobid (\d+): nodes|Granted job allocation (\d+)")


class Stage:
    """What a scenario has to work with. Each of its methods may be called from any thread.

    Its scenario starts jobs, waits for what has to be waited for, and returns the jobs' ids.
    """

    def __init__(self, cluster: Cluster, daemon: LabDaemon) -> None:
        self.cluster = cluster
        self.daemon = daemon
        self._lock = threading.Lock()
        self._size = -1
        self._runs: dict[str, list[Run]] = {}

    def file(self, name: str) -> Path:
        """A file in the directory where jobs run, by which a test and a job tell one another."""
        return self.cluster.work / name

    def srun(self, *arguments: str, **options: Any) -> list[str]:
        """Run ``srun`` to its end; returns the ids of its jobs."""
        return self._foreground("srun", "-v", *arguments, **options)

    def salloc(self, *arguments: str, **options: Any) -> list[str]:
        """Run ``salloc`` to its end; returns the job's id."""
        return self._foreground("salloc", *arguments, **options)

    def on_terminal(self, *command: str, typed: str = "") -> list[str]:
        """The same on a terminal of its own, into which ``typed`` is typed."""
        ours, theirs = pty.openpty()
        try:
            os.write(ours, typed.encode())
            own = ("setsid", "--ctty", "--wait")
            return self._foreground(*own, *command, stdin=theirs, stdout=theirs)
        finally:
            os.close(ours)
            os.close(theirs)

    def _foreground(self, *command: str, **options: Any) -> list[str]:
        # Its exit status says nothing: it is often that of a task, and srun is not always fit to
        # end itself properly. What became of the job is seen from its events.
        process = self.cluster.popen(*command, **options)
        try:
            _output, errors = process.communicate(timeout=WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _output, errors = process.communicate()
            for found in _JOB_IDS.findall(errors):
                self.cluster.run("scancel", "".join(found), check=False)
            raise AssertionError(f"{command} does not end: {errors}") from None
        jobs = ["".join(found) for found in _JOB_IDS.findall(errors)]
        if not jobs:
            raise AssertionError(f"{command} names no job: {errors}")
        return jobs

    def sbatch(
        self,
        script: str,
        *options: str,
        environment: Mapping[str, str] = {},
    ) -> str:
        """Submit a shell script; returns the job's id."""
        done = self.cluster.run(
            "sbatch",
            "--parsable",
            "--output=/dev/null",
            *options,
            input=f"#!/bin/sh\n{script}\n",
            environment=environment,
        )
        return done.stdout.split(";")[0].strip()

    def wait_files(self, paths: list[Path]) -> None:
        """Wait until all of these files are there."""
        wait_until(lambda: all(path.exists() for path in paths), f"files {paths}")

    def runs(self) -> dict[str, list[Run]]:
        """What the daemon has recorded until now."""
        with self._lock:
            size = self.daemon.record.stat().st_size
            if size != self._size:
                self._size, self._runs = size, self.daemon.runs()
            return self._runs

    def wait_for(self, job: str, kind: str, count: int = 1, attempt: int = 1) -> Run:
        """Wait until the daemon has had ``count`` events of a kind of an attempt of a job."""

        def there() -> Run | None:
            attempts = self.runs().get(job, [])
            if len(attempts) >= attempt and len(attempts[attempt - 1].of(kind)) >= count:
                return attempts[attempt - 1]
            return None

        wait_until(there, f"{kind} of job {job}")
        run = there()
        assert run is not None
        return run

    def state(self, job: str) -> str:
        """The short word that Slurm has for a job's state; empty when it has forgotten the job."""
        return self.cluster.run(
            "squeue", "-h", "-t", "all", "-o", "%t", f"--jobs={job}", check=False
        ).stdout.strip()

    def wait_state(self, job: str, state: str) -> None:
        """Wait until Slurm has a job in that state."""
        wait_until(lambda: self.state(job) == state, f"job {job} in state {state}")

    def control(self, *words: str) -> None:
        """Run ``scontrol``."""
        self.cluster.run("scontrol", *words)

    def cancel(self, job: str) -> None:
        """Cancel a job."""
        self.cluster.run("scancel", job)

    def cancel_step(self, step: str) -> None:
        """Cancel a step that runs."""
        # Its exit status says nothing: scancel goes through the jobs twice, pending ones first, may
        # ask for the step in both passes, and fails when the first request has ended it already.
        # What became of the step is seen from its events.
        self.cluster.run("scancel", step, check=False)

    @staticmethod
    def wait_past(moment: float) -> None:
        """Wait until the clock shows a moment: Slurm's own times have whole seconds."""
        wait_until(lambda: time.time() > moment, "the clock")


Play = Callable[[Stage], list[str]]


class Performance:
    """What came of playing all scenarios: the jobs of each, and the events of each job."""

    def __init__(self, cluster: Cluster, daemon: LabDaemon, plays: Mapping[str, Play]) -> None:
        stage = Stage(cluster, daemon)
        self.jobs: dict[str, list[str]] = {}
        self.errors: dict[str, Exception] = {}
        for left in cluster.work.iterdir():
            left.unlink(missing_ok=True)
        daemon.start()
        try:
            with ThreadPoolExecutor(PLAYERS) as players:
                playing = {name: players.submit(play, stage) for name, play in plays.items()}
                for name, future in playing.items():
                    try:
                        self.jobs[name] = future.result()
                    except (AssertionError, SkipTest, OSError) as error:
                        self.errors[name] = error
            # A job leaves the queue behind its epilogs, and those when they have their answers.
            cluster.wait_empty()
            wait_until(daemon.nothing_waits, "the spool to be read")
        finally:
            daemon.stop()
        self.daemon = daemon
        self.events = daemon.events()
        self.runs = runs(self.events)

    def of(self, scenario: str) -> list[list[Run]]:
        """The attempts of each job of a scenario. Raises what went wrong with it."""
        if scenario in self.errors:
            raise self.errors[scenario]
        return [self.runs.get(job, []) for job in self.jobs[scenario]]


def shared_cluster() -> Cluster:
    """The one cluster of this process's tests. Skips the test without Slurm."""
    require_slurm()
    return _started_cluster()


@cache
def _started_cluster() -> Cluster:
    cluster = Cluster(NODES)
    atexit.register(cluster.stop)
    cluster.start()
    return cluster
