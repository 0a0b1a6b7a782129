"""The two notifiers: what a daemon and Slurm need to have one of them between them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import SkipTest

from tests.slurm.cluster import Cluster
from tests.slurm.labdaemon import SOURCE, LabDaemon

_C_PLUGIN = "lib/ovis-ldms/libslurm_notifier.so"


def new_daemon(cluster: Cluster, *, notifier: bool, attributes: str) -> LabDaemon:
    """A daemon with files in the cluster's directory, and commands that ask this Slurm."""
    return LabDaemon(
        Path(tempfile.mkdtemp(prefix="d.", dir=cluster.directory)),
        notifier=notifier,
        attributes=attributes,
        environment=cluster.environment,
    )


def c_plugin() -> Path:
    """The C notifier of the build that LDMS_PREFIX names. Skips the test without one."""
    prefix = os.environ.get("LDMS_PREFIX")
    if not prefix:
        raise SkipTest("LDMS_PREFIX names no C build of LDMS")
    path = Path(prefix) / _C_PLUGIN
    if not path.exists():
        raise SkipTest(f"there is no {path}")
    return path


def c_plugstack(plugin: Path, port: int) -> str:
    """The line that loads the C notifier."""
    return f"optional {plugin} client=sock:127.0.0.1:{port}:none timeout=2\n"


def c_notifier(cluster: Cluster, attributes: str = "reconcile=0") -> tuple[LabDaemon, str]:
    """A daemon, not started, and the plugstack.conf by which the C notifier speaks to it."""
    plugin = c_plugin()
    daemon = new_daemon(cluster, notifier=False, attributes=attributes)
    return daemon, c_plugstack(plugin, daemon.port)


def our_plugin(directory: Path) -> Path:
    """Our notifier, built for this Slurm into ``directory`` unless it is there already."""
    path = directory / "ldmsjob_notifier.so"
    if not path.exists():
        built = subprocess.run(
            [sys.executable, "-m", "ldmsjob.cli.main", "spank", "build", "--output", str(path)],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            check=False,
            capture_output=True,
            text=True,
        )
        if built.returncode != 0:
            raise AssertionError(f"ldmsjob spank build: {built.stderr}")
    return path


def our_plugstack(plugin: Path, path: Path) -> str:
    """The line that loads our notifier."""
    return f"optional {plugin} path={path}\n"


def our_notifier(cluster: Cluster, attributes: str = "reconcile=0") -> tuple[LabDaemon, str]:
    """A daemon, not started, and the plugstack.conf by which our notifier speaks to it."""
    plugin = our_plugin(cluster.directory)
    daemon = new_daemon(cluster, notifier=True, attributes=attributes)
    return daemon, our_plugstack(plugin, daemon.path)
