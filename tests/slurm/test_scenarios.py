"""Every scenario, with the C notifier and with ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.slurm.check import canonical, check_job
from tests.slurm.cluster import Cluster
from tests.slurm.expected import EXPECTED
from tests.slurm.labdaemon import LabDaemon
from tests.slurm.notifiers import c_notifier, c_plugin, c_plugstack, our_notifier
from tests.slurm.plays import PLAYS
from tests.slurm.stage import Performance, shared_cluster


def _both(cluster: Cluster) -> tuple[LabDaemon, str]:
    """Both notifiers into one daemon, which also reconciles as often as it can."""
    plugin = c_plugin()
    daemon, plugstack = our_notifier(cluster, f"reconcile=1 nodes={cluster.nodes_expression()}")
    return daemon, plugstack + c_plugstack(plugin, daemon.port)


@cache
def _outcome(kind: str) -> Performance | Exception:
    cluster = shared_cluster()
    prepare = {"c": c_notifier, "ours": our_notifier, "both": _both}[kind]
    try:
        daemon, plugstack = prepare(cluster)
        cluster.restart_nodes(plugstack)
        return Performance(cluster, daemon, PLAYS)
    except AssertionError as error:
        return error


def performance(kind: str) -> Performance:
    """All scenarios with one kind of notifier, ``c`` or ``ours``: played once, or failed once."""
    outcome = _outcome(kind)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _with_scenarios(case: Any) -> Any:
    """Give a test case a test for each scenario: its method ``check``."""

    def test_of(name: str) -> Callable[[Any], None]:
        def test(self: Any) -> None:
            self.check(name)

        test.__doc__ = PLAYS[name].__doc__
        return test

    for name in EXPECTED:
        setattr(case, f"test_{name}", test_of(name))
    return case


class ScenarioTests:
    """What each kind of notifier must pass."""

    kind = ""
    exact = False

    def check(self, scenario: str) -> None:
        """The jobs of a scenario are as expected."""
        found = performance(self.kind).of(scenario)
        expected = EXPECTED[scenario]
        assert len(found) == len(expected), found
        for runs, job in zip(found, expected, strict=True):
            check_job(runs, job, exact=self.exact)

    def test_all_expected(self) -> None:
        """Each scenario that is played has its expectations, and the other way round."""
        assert set(EXPECTED) == set(PLAYS)

    def test_event_file(self) -> None:
        """The event file has the same events in the same order, and nothing else."""
        played = performance(self.kind)
        lines = played.daemon.lines.read_text().splitlines()
        assert lines.pop() == "client_close"
        assert len(lines) == len(played.events)
        for line, event in zip(lines, played.events, strict=True):
            kind, _, rest = line.partition(": ")
            assert kind == event["kind"], (line, event)
            said = json.loads(rest)
            if event["task"]:
                task = event["task"]
                assert said["task_pid"] == task["pid"], (line, event)
                assert said["task_rank"] == task["rank"], (line, event)
                assert said["task_exit_status"] == (task["exit_status"] or 0), (line, event)
            else:
                assert said["job_id"] == event["facts"]["job_id"], (line, event)
            if event["step"]:
                assert said["step_id"] == event["step"]["step_id"], (line, event)

    def test_nothing_else(self) -> None:
        """There are no events of jobs that nobody started, and none was lost."""
        played = performance(self.kind)
        started = {job for jobs in played.jobs.values() for job in jobs}
        if not played.errors:
            assert set(played.runs) <= started

    def test_log(self) -> None:
        """The daemon has no error and no traceback to log, and rejects nothing."""
        played = performance(self.kind)
        text = played.daemon.text()
        assert "Traceback" not in text, text
        assert not re.search("ERROR|CRITICAL", text), text
        counters = played.daemon.counters("jobmgr_slurm")
        assert not [name for name in counters if name.startswith("rejected_")], counters


@_with_scenarios
class CNotifierTests(ScenarioTests, SynchronousTestCase):
    """The C notifier of the build that LDMS_PREFIX names, unchanged."""

    kind = "c"


@_with_scenarios
class OurNotifierTests(ScenarioTests, SynchronousTestCase):
    """Our notifier, built for this Slurm."""

    kind = "ours"
    exact = True


@_with_scenarios
class BothNotifiersTests(ScenarioTests, SynchronousTestCase):
    """Both notifiers tell of each job, while the daemon reconciles: nothing comes twice."""

    kind = "both"


@_with_scenarios
class EqualityTests(SynchronousTestCase):
    """Both notifiers bring the same events about, where both can know."""

    def check(self, scenario: str) -> None:
        """The jobs of a scenario look alike."""
        theirs, ours = performance("c").of(scenario), performance("ours").of(scenario)
        self.assertEqual(
            [[canonical(run) for run in job] for job in theirs],
            [[canonical(run) for run in job] for job in ours],
        )
