"""Faults while Slurm runs jobs: of the daemon, of a node, and jobs that end at awkward moments."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.slurm.check import check_attempt, check_exact, check_order, line
from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.expected import ONE_TASK, Attempt, Step
from tests.slurm.labdaemon import LabDaemon, Run, runs
from tests.slurm.notifiers import c_notifier, our_notifier
from tests.slurm.plays import UNTIL
from tests.slurm.stage import Stage, shared_cluster

ELEMENTS = 24
WAITING = 16
"""How many elements of the array wait in their second step until they are told to go on."""
AWAY_SECONDS = 5.0

RECONCILE_SECONDS = 2
SETTLE_SECONDS = 90.0
"""Until everything that is no more must have been found out."""

LINES = 10
"""Of our notifier about each job."""
ENDS = {"task_end", "step_end", "job_end"}

ARRAY = f"""\
echo $SLURM_JOB_ID > id.tmp.$SLURM_ARRAY_TASK_ID
mv id.tmp.$SLURM_ARRAY_TASK_ID id.$SLURM_ARRAY_TASK_ID
srun -n1 true
second="touch second.$SLURM_ARRAY_TASK_ID"
[ $SLURM_ARRAY_TASK_ID -ge {WAITING} ] || srun -n1 sh -c "$second; "'{UNTIL.format("go")}'
[ $SLURM_ARRAY_TASK_ID -lt {WAITING} ] || srun -n1 sh -c "$second; sleep 1"
"""


def told_of_array(stage: Stage) -> list[str]:
    """The ids of the array's jobs, by index, when all have come to their second steps."""
    ids = [stage.file(f"id.{index}") for index in range(ELEMENTS)]
    stage.wait_files([*ids, *(stage.file(f"second.{index}") for index in range(ELEMENTS))])
    return [path.read_text().strip() for path in ids]


class FaultCase(SynchronousTestCase):
    """A cluster, and a daemon that reconciles."""

    def prepare(
        self, notifier: Callable[[Cluster, str], tuple[LabDaemon, str]], *, start: bool = True
    ) -> Stage:
        """Bring both up."""
        cluster = shared_cluster()
        attributes = f"reconcile={RECONCILE_SECONDS} nodes={cluster.nodes_expression()}"
        daemon, plugstack = notifier(cluster, attributes)
        cluster.restart_nodes(plugstack)
        for left in cluster.work.iterdir():
            left.unlink(missing_ok=True)
        self.addCleanup(daemon.stop)
        self.addCleanup(cluster.clear)
        if start:
            daemon.start()
        return Stage(cluster, daemon)

    def settle(self, stage: Stage, jobs: list[str]) -> None:
        """Wait until Slurm has no job left and the daemon has none open."""
        stage.cluster.wait_empty()
        wait_until(stage.daemon.nothing_waits, "the spool to be read")
        wait_until(
            lambda: not self.still_open(stage, jobs),
            lambda: f"the end of {self.still_open(stage, jobs)}\n{stage.daemon.text()}",
            SETTLE_SECONDS,
        )

    @staticmethod
    def still_open(stage: Stage, jobs: list[str]) -> list[str]:
        """Jobs that the daemon, in its present life, takes for running."""
        life = stage.daemon.lives
        return [
            job
            for job in jobs
            for run in stage.runs().get(job, [])
            if run.events[0]["life"] == life and not run.ended
        ]

    def check_orders(self, found: dict[str, list[Run]], jobs: list[str]) -> None:
        """No attempt of any of these jobs has an event twice or in the wrong place. Those of which
        a daemon told that was killed may have no end."""
        last = max(run.events[0]["life"] for job in jobs for run in found.get(job, []))
        for job in jobs:
            for run in found.get(job, []):
                check_order(run, whole=run.events[0]["life"] == last)


class KilledDaemonTests(FaultCase):
    """``kill -9`` of the daemon in the middle of an array of 24 jobs of two steps, and its return
    after five seconds."""

    def play(self, notifier: Callable[[Cluster, str], tuple[LabDaemon, str]]) -> tuple[Any, ...]:
        """Do that. Returns the stage, the jobs by index, and those of them that live all the
        time."""
        stage = self.prepare(notifier)
        stage.sbatch(ARRAY, f"--array=0-{ELEMENTS - 1}")

        def half_way() -> bool:
            started = [run for attempts in stage.runs().values() for run in attempts]
            return sum(len(run.of("step_start")) > 1 for run in started) >= WAITING // 2

        wait_until(half_way, "second steps of half of the jobs")
        stage.daemon.kill()
        away_until = time.monotonic() + AWAY_SECONDS
        jobs = told_of_array(stage)
        wait_until(lambda: time.monotonic() >= away_until, "the daemon's return")
        stage.daemon.start()
        alive = jobs[:WAITING]
        self.assertEqual({stage.state(job) for job in alive}, {"R"})
        wait_until(
            lambda: not [job for job in alive if not self.adopted(stage, job)],
            lambda: f"adoption of {[job for job in alive if not self.adopted(stage, job)]}",
            SETTLE_SECONDS,
        )
        stage.file("go").touch()
        self.settle(stage, jobs)
        stage.daemon.stop()
        return stage, jobs, alive

    @staticmethod
    def adopted(stage: Stage, job: str) -> bool:
        """Whether the daemon in its second life knows the job's second step and its task."""
        return any(
            event["life"] == 2 and event["kind"] == "task_start" and event["task"]["step_id"] == 1
            for run in stage.runs().get(job, [])
            for event in run.events
        )

    def test_ours(self) -> None:
        """Each line that was not answered arrives, once; every job that lives is adopted; each
        ends."""
        stage, jobs, alive = self.play(our_notifier)
        found = stage.daemon.runs()
        self.check_orders(found, jobs)
        applied_before = 0
        for job in jobs:
            attempts = found[job]
            told = Counter(
                (event["life"], event["kind"], *_named(event))
                for run in attempts
                for event in run.events
                if event["origin"] == "message" and event["kind"] != "jobset_delete"
            )
            self.assertEqual(set(told.values()), {1}, self.shown(attempts))
            applied_before += sum(life == 1 for life, *_ in told)
            wanted: set[tuple[Any, ...]] = {("job_start",), ("job_end",)}
            for step in (0, 1):
                wanted |= {("step_start", step), ("step_end", step)}
                wanted |= {("task_start", step, 0), ("task_end", step, 0)}
            self.assertEqual(len(wanted), LINES)
            lines = {name[1:] for name in told}
            self.assertLessEqual(lines, wanted, self.shown(attempts))
            # Of what it has not heard of a daemon tells no end, though it got the line.
            self.assertLessEqual({kind for kind, *_ in wanted - lines}, ENDS, self.shown(attempts))
        for job in alive:
            self.assertTrue(found[job][-1].ended, self.shown(found[job]))
        delivered = stage.daemon.counters("xprt.notifier")["lines"]
        # A spool that a daemon had read in part is read again by the next, which knows nothing.
        self.assertGreaterEqual(applied_before + delivered, ELEMENTS * LINES, "lines were lost")
        self.assertLessEqual(delivered, ELEMENTS * LINES, "lines came twice")

    def test_c(self) -> None:
        """What was said to nobody is lost, but each job that lives is adopted, says so, and
        ends."""
        stage, _jobs, alive = self.play(c_notifier)
        found = stage.daemon.runs()
        self.check_orders({job: found.get(job, [])[-1:] for job in alive}, alive)
        for job in alive:
            last = found[job][-1]
            self.assertEqual(last.events[0]["life"], 2, self.shown(found[job]))
            self.assertTrue(last.ended, self.shown(found[job]))
            self.assertTrue(last.facts["adopted"], self.shown(found[job]))
            self.assertIn(last.events[0]["origin"], ("implied", "reconciliation"))

    @staticmethod
    def shown(attempts: list[Run]) -> str:
        """A job's events for people."""
        return "\n".join(
            f"{event['life']} {line(event)}" for run in attempts for event in run.events
        )


def _named(event: dict[str, Any]) -> tuple[int, ...]:
    if event["step"]:
        return (event["step"]["step_id"],)
    if event["task"]:
        return (event["task"]["step_id"], event["task"]["rank"])
    return ()


class AbsentDaemonTests(FaultCase):
    """A daemon that is stopped, or not there, while jobs run from beginning to end."""

    expected = Attempt((Step(2), Step()))
    script = "srun -n2 true\nsrun -n1 true"

    def check(self, stage: Stage, jobs: list[str]) -> None:
        """All has been heard of each job, exactly once, as if nothing had been."""
        self.settle(stage, jobs)
        found = stage.daemon.runs()
        for job in jobs:
            (run,) = found[job]
            check_attempt(run, self.expected)
            check_exact(run, self.expected)

    def test_stopped(self) -> None:
        """SIGSTOP, and SIGCONT when the jobs are over: nothing is lost."""
        stage = self.prepare(our_notifier)
        stage.daemon.pause()
        jobs = [stage.sbatch(self.script, "-n2") for _ in range(6)]
        stage.cluster.wait_empty()
        stage.daemon.resume()
        self.check(stage, jobs)

    def test_stopped_between(self) -> None:
        """SIGSTOP and SIGCONT again and again while jobs run: nothing is lost."""
        stage = self.prepare(our_notifier)
        jobs = [stage.sbatch(self.script, "-n2") for _ in range(12)]
        paused = False
        while stage.cluster.queue():
            (stage.daemon.resume if paused else stage.daemon.pause)()
            paused = not paused
        stage.daemon.resume()
        self.check(stage, jobs)

    def test_absent(self) -> None:
        """A daemon that is started when the jobs are over: all has waited for it."""
        stage = self.prepare(our_notifier, start=False)
        jobs = [stage.sbatch(self.script, "-n2") for _ in range(6)]
        stage.cluster.wait_empty()
        stage.daemon.start()
        self.check(stage, jobs)

    def test_restarted(self) -> None:
        """A daemon that is ended and started while a job runs: the job is adopted and ends."""
        stage = self.prepare(our_notifier)
        job = stage.sbatch(f"srun -n1 sh -c '{UNTIL.format('go')}'")
        stage.wait_for(job, "task_start")
        stage.daemon.stop()
        stage.daemon.start()
        stage.wait_for(job, "task_start", attempt=2)
        stage.file("go").touch()
        self.settle(stage, [job])
        run = stage.daemon.runs()[job][-1]
        self.assertTrue(run.facts["adopted"])
        self.assertTrue(run.ended)
        if run.events[0]["origin"] != "implied":
            check_attempt(run, ONE_TASK[0])
            self.assertEqual(run.events[0]["origin"], "reconciliation")
        # Else the first daemon was ended before it answered for the task: it was told again.


class EndTests(FaultCase):
    """Jobs that end where it is awkward: none stays open, none has an event twice."""

    def check(self, stage: Stage, jobs: list[str]) -> dict[str, list[Run]]:
        """That."""
        self.settle(stage, jobs)
        found = runs(stage.daemon.events())
        self.check_orders(found, jobs)
        for job in jobs:
            for run in found.get(job, []):
                self.assertTrue(run.ended, job)
        return found

    def cancelled(self, notifier: Callable[[Cluster, str], tuple[LabDaemon, str]]) -> None:
        """Cancel a job in each of its phases."""
        stage = self.prepare(notifier)
        script = "srun -n2 sleep 0.3\nsrun -n2 sleep 100"
        jobs = [stage.sbatch(script, "-n2") for _ in range(8)]
        for job, phase in zip(
            jobs,
            (
                lambda job: None,
                lambda job: stage.wait_state(job, "R"),
                lambda job: stage.wait_for(job, "job_start"),
                lambda job: stage.wait_for(job, "step_start"),
                lambda job: stage.wait_for(job, "task_start"),
                lambda job: stage.wait_for(job, "task_end"),
                lambda job: stage.wait_for(job, "step_end"),
                lambda job: stage.wait_for(job, "task_start", 4),
            ),
            strict=True,
        ):
            phase(job)
            stage.cancel(job)
        found = self.check(stage, jobs)
        for job in jobs[2:]:
            self.assertEqual(len(found[job]), 1, job)

    def test_cancelled_ours(self) -> None:
        """A job cancelled in each of its phases, with our notifier."""
        self.cancelled(our_notifier)

    def test_cancelled_c(self) -> None:
        """A job cancelled in each of its phases, with the C notifier."""
        self.cancelled(c_notifier)

    def requeued(self, notifier: Callable[[Cluster, str], tuple[LabDaemon, str]]) -> None:
        """Requeue jobs so that they start again while their sets linger."""
        stage = self.prepare(notifier)
        script = '[ -n "$SLURM_RESTART_COUNT" ] || srun -n1 sleep 100\nsrun -n1 true'
        jobs = [stage.sbatch(script, "--requeue") for _ in range(4)]
        for job in jobs:
            stage.wait_for(job, "task_start")
            stage.control("requeue", job)
        # Else it would wait for two minutes. Started at once, it may lack its prolog, or fail.
        for job in jobs:
            stage.wait_state(job, "PD")
            stage.control("update", f"JobId={job}", "StartTime=now")
        found = self.check(stage, jobs)
        for job in jobs:
            self.assertIn(len(found[job]), (1, 2), job)

    def test_requeued_ours(self) -> None:
        """Requeues within the linger, with our notifier."""
        self.requeued(our_notifier)

    def test_requeued_c(self) -> None:
        """Requeues within the linger, with the C notifier."""
        self.requeued(c_notifier)

    def dead_node(self, notifier: Callable[[Cluster, str], tuple[LabDaemon, str]]) -> None:
        """Kill the slurmd of one node of a job's two, and give the node up."""
        stage = self.prepare(notifier)
        cluster = stage.cluster
        job = stage.sbatch(
            f"srun -n2 sh -c '{UNTIL.format('go')}'", "-N2", "-n2", "-wn1,n2", "--no-requeue"
        )
        stage.wait_for(job, "task_start", 2)
        cluster.kill_node("n2")
        try:
            cluster.give_up("n2")
            # Its task is not killed by anybody: it ends by itself.
            stage.file("go").touch()
            found = self.check(stage, [job])
            (run,) = found[job]
            self.assertEqual(len(run.of("task_end")), 2)
        finally:
            cluster.start_node("n2")
            cluster.wait_idle()

    def test_dead_node_ours(self) -> None:
        """A node whose slurmd dies, with our notifier."""
        self.dead_node(our_notifier)

    def test_dead_node_c(self) -> None:
        """A node whose slurmd dies, with the C notifier."""
        self.dead_node(c_notifier)
