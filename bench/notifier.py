"""Wall time of ``srun true`` with each kind of notifier, and with the daemon in each state.

Needs Slurm, which it starts itself on the loopback interface; says so and does nothing without it.
Columns with C programs are there when LDMS_PREFIX, or for a C daemon with a job manager
LDMS_JOBMGR_PREFIX, names a build.

Usage: python bench/notifier.py [--rounds N] [--size small] [--output FILE]
"""

from __future__ import annotations

import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

from daemons import JOB_MANAGER, MESSAGES, c_environment, c_prefix, listens
from rounds import C, Rounds, Row, arguments, report

from tests.ports import free_port
from tests.slurm.cluster import Cluster, end_with_us, require_slurm, stop, wait_until
from tests.slurm.labdaemon import SOURCE, LabDaemon
from tests.slurm.notifiers import (
    c_notifier,
    c_plugin,
    c_plugstack,
    our_notifier,
    our_plugin,
)

RUNS = {"full": 3, "small": 1}
"""Of a case in each round."""
TASKS = (1, 4)
NOTHING = "nothing"

Preparation = Callable[[Cluster], contextlib.AbstractContextManager[None]]


@dataclass
class Case:
    """What is measured: what it is called, and how to bring it about for the runs of a round.

    ``prepare`` is a context in which the runs are made. It gets the cluster, whose slurmds it has
    started anew when it is entered, so that all cases are alike in that.
    """

    name: str
    prepare: Preparation


@contextlib.contextmanager
def nothing(cluster: Cluster) -> Iterator[None]:
    """Slurm alone."""
    cluster.restart_nodes("")
    yield


@contextlib.contextmanager
def ours(cluster: Cluster) -> Iterator[None]:
    """Our notifier into our daemon."""
    daemon, plugstack = our_notifier(cluster)
    cluster.restart_nodes(plugstack)
    with _running(daemon):
        yield


@contextlib.contextmanager
def ours_stopped(cluster: Cluster) -> Iterator[None]:
    """The same, while the daemon is stopped by SIGSTOP."""
    daemon, plugstack = our_notifier(cluster)
    cluster.restart_nodes(plugstack)
    with _running(daemon):
        daemon.pause()
        try:
            yield
        finally:
            daemon.resume()


@contextlib.contextmanager
def ours_absent(cluster: Cluster) -> Iterator[None]:
    """The same, without the daemon."""
    daemon, plugstack = our_notifier(cluster)
    cluster.restart_nodes(plugstack)
    with _running(daemon):
        pass
    yield


@contextlib.contextmanager
def ours_restarting(cluster: Cluster) -> Iterator[None]:
    """The same, while the daemon is killed and started again and again, once a second."""
    daemon, plugstack = our_notifier(cluster)
    cluster.restart_nodes(plugstack)
    enough = threading.Event()

    def restart() -> None:
        while not enough.wait(1.0):
            daemon.kill()
            daemon.start()

    with _running(daemon):
        restarter = threading.Thread(target=restart)
        restarter.start()
        try:
            yield
        finally:
            enough.set()
            restarter.join()


@contextlib.contextmanager
def c_into_ours(cluster: Cluster) -> Iterator[None]:
    """The C notifier into our daemon."""
    daemon, plugstack = c_notifier(cluster)
    cluster.restart_nodes(plugstack)
    with _running(daemon):
        yield


@contextlib.contextmanager
def _running(daemon: LabDaemon) -> Iterator[None]:
    daemon.start()
    try:
        yield
    finally:
        daemon.stop()


def c_into_c(prefix: Path, text: str) -> Preparation:
    """The C notifier into a C daemon."""

    @contextlib.contextmanager
    def prepare(cluster: Cluster) -> Iterator[None]:
        port = free_port()
        directory = cluster.directory / f"c.{port}"
        directory.mkdir()
        configuration = directory / "ldmsd.conf"
        configuration.write_text(text.format(port=port, events=directory / "lines.log"))
        files = ("-c", str(configuration), "-l", "ldmsd.log", "-r", "ldmsd.pid")
        process = subprocess.Popen(
            [str(prefix / "sbin" / "ldmsd"), "-F", *files],
            cwd=directory,
            env=c_environment(prefix),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_us,  # noqa: PLW1509 it calls nothing that locks
        )
        try:
            wait_until(lambda: listens(port), "the C daemon to listen")
            cluster.restart_nodes(c_plugstack(c_plugin(), port))
            yield
        finally:
            stop(process)

    return prepare


def scripts(command: Sequence[str]) -> Preparation:
    """``ldmsjob notify`` from Prolog and Epilog, run as ``command`` tells."""

    @contextlib.contextmanager
    def prepare(cluster: Cluster) -> Iterator[None]:
        daemon, _plugstack = our_notifier(cluster)
        script = daemon.directory / "notify.sh"
        script.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(SOURCE))}\n"
            f"exec {shlex.join(command)} --path={daemon.path}\n"
        )
        script.chmod(0o755)
        before = cluster.settings
        cluster.set_settings(f"{before}Prolog={script}\nEpilog={script}\n")
        cluster.restart_nodes("")
        try:
            with _running(daemon):
                yield
        finally:
            cluster.set_settings(before)

    return prepare


def cases() -> list[Case]:
    """All that can be measured here. The C notifier with the C job manager is called ``C``."""
    result = [
        Case(NOTHING, nothing),
        Case("our notifier", ours),
        Case("our notifier, daemon stopped", ours_stopped),
        Case("our notifier, daemon absent", ours_absent),
        Case("our notifier, daemon restarting", ours_restarting),
        *script_cases(),
    ]
    with contextlib.suppress(SkipTest):
        c_plugin()
        result.append(Case("C notifier into our daemon", c_into_ours))
        job_manager = c_prefix("LDMS_JOBMGR_PREFIX")
        messages_only = c_prefix("LDMS_PREFIX")
        if job_manager is not None:
            result.append(Case(C, c_into_c(job_manager, JOB_MANAGER)))
        elif messages_only is not None:
            result.append(Case("C notifier into a C daemon", c_into_c(messages_only, MESSAGES)))
    return result


def script_cases() -> list[Case]:
    """``ldmsjob notify``, in the two ways to run it."""
    command = [sys.executable, "-m", "ldmsjob.cli.main", "notify"]
    fast = subprocess.run(
        [*command, "--script"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [
        Case("Prolog and Epilog with 'ldmsjob notify'", scripts(command)),
        Case("the same as 'ldmsjob notify --script' prints it", scripts(shlex.split(fast))),
    ]


def measure(cluster: Cluster, tasks: int) -> float:
    """Milliseconds of one ``srun true``."""
    command = ["srun", f"-n{tasks}", "true"]
    before = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        env=cluster.environment,
        cwd=cluster.work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    took = (time.perf_counter() - before) * 1e3
    # The next one is not to wait for the epilog of this one.
    cluster.wait_empty()
    return took


def measure_all(cluster: Cluster, table: list[Case], rounds: int, runs: int) -> Rounds:
    """The median of each case's runs in each round, and what that is more than nothing's."""
    result: Rounds = {case.name: {} for case in table}
    for number in range(rounds):
        # In turns also within a round: what begins it may be at a disadvantage.
        for case in table[number % len(table) :] + table[: number % len(table)]:
            print(f"round {number + 1} of {rounds}, {case.name}", file=sys.stderr)
            times: dict[int, list[float]] = {tasks: [] for tasks in TASKS}
            with case.prepare(cluster):
                measure(cluster, 1)
                for _ in range(runs):
                    for tasks in TASKS:
                        times[tasks].append(measure(cluster, tasks))
                cluster.wait_empty()
            for tasks in TASKS:
                median = statistics.median(times[tasks])
                result[case.name].setdefault(f"{tasks} wall", []).append(median)
    for figures in result.values():
        for tasks in TASKS:
            pairs = zip(figures[f"{tasks} wall"], result[NOTHING][f"{tasks} wall"], strict=True)
            figures[f"{tasks} added"] = [wall - alone for wall, alone in pairs]
    return result


def main(given: Sequence[str]) -> None:
    """Measure all cases, in turn, and report."""
    options = arguments(__doc__, "notifier", given)
    os.environ["LDMSJOB_REAL"] = "1"
    try:
        require_slurm()
    except SkipTest as reason:
        print(f"notifier: nothing is measured. {reason}")
        return
    cluster = Cluster(1, settings="DebugFlags=NO_CONF_HASH\n")
    try:
        cluster.start()
        our_plugin(cluster.directory)
        table = cases()
        rounds = measure_all(cluster, table, options.rounds, RUNS[options.size])
    finally:
        cluster.stop()
    rows = []
    for case in table:
        for tasks in TASKS:
            what = f"{case.name}: {tasks} task{'s' * (tasks > 1)}"
            if case.name == NOTHING:
                rows.append(Row(what, f"{tasks} wall", "ms", side=NOTHING, c_name="none"))
            elif case.name != C:
                rows.append(Row(what, f"{tasks} wall", "ms", side=case.name))
                rows.append(Row(f"{what}, added", f"{tasks} added", "ms", side=case.name))
    report("notifier", rows, rounds, options)


if __name__ == "__main__":
    main(sys.argv[1:])
