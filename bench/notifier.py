"""Wall time of ``srun true`` with each kind of notifier, and with the daemon in each state.

Needs Slurm, which it starts itself on the loopback interface; says so and does nothing without it.
Columns with C programs are there when LDMS_PREFIX, or for a C daemon with a job manager
LDMS_JOBMGR_PREFIX, names a build.

Usage: python bench/notifier.py [--rounds N] [--runs N] [--size small] [--output FILE]
"""

from __future__ import annotations

import argparse
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

from common import report

from tests.slurm.cluster import Cluster, end_with_us, free_ports, require_slurm, stop, wait_until
from tests.slurm.labdaemon import SOURCE, LabDaemon
from tests.slurm.notifiers import (
    c_notifier,
    c_plugin,
    c_plugstack,
    our_notifier,
    our_plugin,
)

SIZES = {"full": (8, 8), "small": (1, 3)}
"""Rounds, and runs of a row in each of them."""
TASKS = (1, 4)

C_CONFIGURATION = """\
msg_enable
listen xprt=sock port={port} host=127.0.0.1
"""
C_JOB_MANAGER = """\
load name=jobmgr_slurm
config name=jobmgr_slurm
jobmgr_start name=jobmgr_slurm
load name=test_jobmgr_sampler
config name=test_jobmgr_sampler component_id=1 instance=node-1/test_jobmgr_sampler \
producer=node-1 file={events}
"""


@dataclass
class Row:
    """One line of the table: what it is called, and how to bring it about for the runs of a round.

    ``prepare`` is a context in which the runs are made. It gets the cluster, whose slurmds it has
    started anew when it is entered, so that all rows are alike in that.
    """

    name: str
    prepare: Callable[[Cluster], contextlib.AbstractContextManager[None]]


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


def c_into_c(prefix: Path, *, job_manager: bool) -> Callable[[Cluster], object]:
    """The C notifier into a C daemon."""

    @contextlib.contextmanager
    def prepare(cluster: Cluster) -> Iterator[None]:
        (port,) = free_ports(1)
        directory = cluster.directory / f"c.{port}"
        directory.mkdir()
        text = C_CONFIGURATION + (C_JOB_MANAGER if job_manager else "")
        configuration = directory / "ldmsd.conf"
        configuration.write_text(text.format(port=port, events=directory / "lines.log"))
        plugins = prefix / "lib" / "ovis-ldms"
        files = ("-c", str(configuration), "-l", "ldmsd.log", "-r", "ldmsd.pid")
        process = subprocess.Popen(
            [str(prefix / "sbin" / "ldmsd"), "-F", *files],
            cwd=directory,
            env={
                **os.environ,
                "LD_LIBRARY_PATH": f"{prefix / 'lib'}:{plugins}",
                "ZAP_LIBPATH": str(plugins),
                "LDMSD_PLUGIN_LIBPATH": str(plugins),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_us,  # noqa: PLW1509 it calls nothing that locks
        )
        try:
            wait_until(lambda: _listens(port), "the C daemon to listen")
            cluster.restart_nodes(c_plugstack(c_plugin(), port))
            yield
        finally:
            stop(process)

    return prepare


def _listens(port: int) -> bool:
    wanted = f"0100007F:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(fields[1] == wanted and fields[3] == "0A" for fields in lines[1:])


def scripts(command: Sequence[str]) -> Callable[[Cluster], object]:
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


def rows() -> list[Row]:
    """All that can be measured here."""
    result = [
        Row("nothing", nothing),
        Row("our notifier", ours),
        Row("our notifier, daemon stopped", ours_stopped),
        Row("our notifier, daemon absent", ours_absent),
        Row("our notifier, daemon restarting", ours_restarting),
    ]
    result += script_rows()
    with contextlib.suppress(SkipTest):
        c_plugin()
        result.append(Row("C notifier into our daemon", c_into_ours))
        prefix = os.environ.get("LDMS_JOBMGR_PREFIX")
        where = Path(prefix or os.environ["LDMS_PREFIX"])
        if (where / "sbin" / "ldmsd").exists():
            result.append(
                Row("C notifier into a C daemon", c_into_c(where, job_manager=bool(prefix)))
            )
    return result


def script_rows() -> list[Row]:
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
        Row("Prolog and Epilog with 'ldmsjob notify'", scripts(command)),
        Row("the same as 'ldmsjob notify --script' prints it", scripts(shlex.split(fast))),
    ]


def measure(cluster: Cluster, tasks: int) -> float:
    """Milliseconds of one ``srun true``."""
    command = ["srun", f"-n{tasks}", "true"]
    before = time.perf_counter()
    subprocess.run(
        command,
        check=False,
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


def main(arguments: Sequence[str]) -> None:
    """Measure all rows, in turn, and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="default of the others")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--runs", type=int, help="of each row in each round")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "notifier.json"
    )
    options = parser.parse_args(arguments)
    os.environ["LDMSJOB_REAL"] = "1"
    try:
        require_slurm()
    except SkipTest as reason:
        print(f"notifier: nothing is measured. {reason}")
        return
    rounds, runs = SIZES[options.size]
    rounds, runs = options.rounds or rounds, options.runs or runs
    cluster = Cluster(1, settings="DebugFlags=NO_CONF_HASH\n")
    times: dict[tuple[str, int], list[float]] = {}
    try:
        cluster.start()
        our_plugin(cluster.directory)
        table = rows()
        for number in range(rounds):
            # In turns also within a round: what begins it may be at a disadvantage.
            for row in table[number % len(table) :] + table[: number % len(table)]:
                with row.prepare(cluster):
                    measure(cluster, 1)
                    for _ in range(runs):
                        for tasks in TASKS:
                            times.setdefault((row.name, tasks), []).append(measure(cluster, tasks))
                    cluster.wait_empty()
    finally:
        cluster.stop()
    figures = []
    for row in table:
        for tasks in TASKS:
            name = f"{row.name}: {tasks} task{'s' * (tasks > 1)}"
            figures.append((name, statistics.median(times[row.name, tasks]), "ms"))
    report("notifier", figures, options.output)


if __name__ == "__main__":
    main(sys.argv[1:])
