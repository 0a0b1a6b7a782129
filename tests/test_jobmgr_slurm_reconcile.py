"""What is believed after a look at the node and, perhaps, an answer from Slurm."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.facts import JobDetails
from ldmsjob.jobmgr.slurm_memory import (
    CONFIRM_SECONDS,
    LONGEST_ENDING_SECONDS,
    LONGEST_VOUCH_SECONDS,
    YOUNG_US,
)
from ldmsjob.jobmgr.slurm_node import NodeView, StepCgroup, StepProcess, TaskProcess
from ldmsjob.jobmgr.slurm_query import Answer, SlurmJob
from ldmsjob.jobmgr.slurm_reconcile import (
    SETTLE_SECONDS,
    Finding,
    Judge,
    Verdict,
)
from ldmsjob.jobs import Job
from ldmsjob.jobtable import JobTable
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.stats import Stats

START_US = 1_800_000_000_000_000
ROUND = 60.0
EMPTY: Answer = {}


def process(
    job_id: str = "7", step: str = "0", pid: int = 100, *, tasks: int = 1, **known: Any
) -> StepProcess:
    """A step process of node n1 that began at the epoch of these tests, with its tasks."""
    values: dict[str, Any] = {"node": "n1", "node_id": 0, "uid": 1000, **known}
    return StepProcess(
        job_id,
        step,
        pid,
        START_US,
        7,
        tasks=tuple(
            TaskProcess(number, number, pid + 1 + number, START_US + 10_000)
            for number in range(tasks)
        ),
        **values,
    )


def batch(job_id: str = "7", pid: int = 50) -> StepProcess:
    """A batch step's process."""
    return process(job_id, "batch", pid, tasks=0)


def job(job_id: str = "7", state: str = "RUNNING", **known: Any) -> SlurmJob:
    """A job as Slurm lists it."""
    return SlurmJob(job_id, state, **{"uid": 1000, "start_us": START_US, **known})


def answer(*jobs: SlurmJob) -> Answer:
    """What Slurm says."""
    return {each.job_id: each for each in jobs}


def view(*steps: StepProcess, **known: Any) -> NodeView:
    """What the node shows."""
    return NodeView(steps, **known)


class Node:
    """A judge and the real job table, on a clock of its own."""

    def __init__(self, **options: Any) -> None:
        self.stats = Stats()
        self.table = JobTable(self.stats)
        self.judge = Judge(**{"asked_nodes": frozenset({"n1"}), **options})
        self.now = 1000.0
        self.us = START_US + 60_000_000

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.us += int(seconds * 1e6)

    def tell(self, *notices: Notice) -> None:
        """Apply notices as messages."""
        for notice in notices:
            self.table.apply(notice, self.us, "slurm")

    def beliefs(self) -> list[Job]:
        """What the table has."""
        return self.table.jobs()

    def look(
        self,
        seen: NodeView,
        says: Answer | None = None,
        *,
        elsewhere: Answer | None = EMPTY,
        **options: Any,
    ) -> Verdict:
        """One look; its findings are applied. Slurm also knows the jobs ``elsewhere``; with None
        it does not say."""
        by_id = {}
        if says is not None and elsewhere is not None:
            unlisted = self.judge.unlisted(self.beliefs(), seen, says, self.now)
            by_id = {job_id: elsewhere.get(job_id) for job_id in unlisted}
        verdict = self.judge.decide(
            self.beliefs(), seen, says, by_id=by_id, now=self.now, now_us=self.us, **options
        )
        for finding in verdict.findings:
            self.table.apply(finding.notice, self.us, "slurm", "reconciliation")
        return verdict

    def rounds(
        self, count: int, seen: NodeView, says: Answer | None = None, **options: Any
    ) -> list[Finding]:
        """Several looks at the same, a round apart."""
        found: list[Finding] = []
        for _ in range(count):
            found += self.look(seen, says, **options).findings
            self.pass_time(ROUND)
        return found

    @property
    def running(self) -> list[str]:
        """Ids of the jobs that run."""
        return sorted(each.key.job_id for each in self.table.running())


def kinds(findings: Iterable[Finding]) -> list[str]:
    """The names of the notices."""
    return [type(finding.notice).__name__ for finding in findings]


class Ending(SynchronousTestCase):
    """Jobs that are believed to run."""

    def setUp(self) -> None:
        """A job with a step of one task."""
        self.node = Node()
        self.node.tell(
            JobInit("7", time_us=START_US, uid=1000),
            StepInit("7", 0, 0, time_us=START_US, local_tasks=1),
            TaskInit("7", 0, 0, 0, time_us=START_US, pid=101),
        )

    def test_all_is_well(self) -> None:
        """Belief, node and Slurm agree: nothing is found, nobody need be asked."""
        seen = view(batch(), process())
        verdict = self.node.look(seen, answer(job()))
        self.assertEqual((list(verdict.findings), verdict.unsettled), ([], False))
        self.assertFalse(self.node.judge.is_in_doubt(self.node.beliefs(), seen, self.node.now))

    def test_gone_by_slurm(self) -> None:
        """Twice in a row not listed, and not changed meanwhile."""
        self.assertEqual(self.node.rounds(1, view(), answer(job("8", state="PENDING"))), [])
        verdict = self.node.look(view(), answer())
        self.assertEqual(kinds(verdict.findings), ["JobExit"])
        self.assertEqual(self.node.running, [])

    def test_forgetting(self) -> None:
        """What is remembered of jobs that run stays, and nothing else."""
        node = self.node
        node.look(view(), answer(job()))
        node.judge.forget_ended(node.beliefs())
        self.assertFalse(node.judge.is_in_doubt(node.beliefs(), view(), node.now))
        node.judge.forget_ended([])
        self.assertTrue(node.judge.is_in_doubt(node.beliefs(), view(), node.now))

    def test_two_looks_at_once_are_one(self) -> None:
        """The second must come some seconds later."""
        self.node.look(view(), answer())
        self.node.pass_time(1)
        verdict = self.node.look(view(), answer())
        self.assertEqual((list(verdict.findings), verdict.unsettled), ([], True))

    def test_job_that_changes(self) -> None:
        """Notices still come: their sender is not gone."""
        self.node.pass_time(ROUND)
        for number in range(5):
            self.node.tell(TaskInit("7", 0, 0, 10 + number, time_us=self.node.us, pid=900 + number))
            self.assertEqual(list(self.node.look(view(), answer()).findings), [])
            self.node.pass_time(SETTLE_SECONDS - 1)
        self.node.look(view(), answer())
        self.node.pass_time(SETTLE_SECONDS)
        self.assertEqual(kinds(self.node.look(view(), answer()).findings), ["JobExit"])

    def test_end_as_slurm_has_it(self) -> None:
        """Its time and status, where Slurm still knows them."""
        end_us = self.node.us + 3_000_000
        ended = answer(job(state="FAILED", end_us=end_us, exit_status=768))
        notice = self.node.rounds(3, view(), ended)[0].notice
        self.assertEqual(notice, JobExit("7", time_us=end_us, exit_status=768))

    def test_end_in_the_future(self) -> None:
        """A time that cannot be is not taken."""
        for end_us in (START_US - 1, START_US + 10**12, None):
            self.setUp()
            ended = answer(job(state="TIMEOUT", end_us=end_us))
            notice = self.node.rounds(2, view(), ended)[0].notice
            self.assertEqual(notice.time_us, self.node.us - int(ROUND * 1e6))

    def test_completing_is_not_over(self) -> None:
        """Its epilog will tell its end."""
        self.assertEqual(self.node.rounds(5, view(), answer(job(state="COMPLETING"))), [])

    def test_idle_allocation(self) -> None:
        """Nothing on the node, but Slurm lists it: it lives, and is asked for less and less."""
        asked = []
        for _ in range(40):
            if self.node.judge.is_in_doubt(self.node.beliefs(), view(), self.node.now):
                asked.append(self.node.now)
                says = answer(job())
            else:
                says = None
            self.assertEqual(list(self.node.look(view(), says).findings), [])
            self.node.pass_time(ROUND)
        gaps = [after - before for before, after in pairwise(asked)]
        self.assertEqual(gaps[0], 60.0)
        self.assertEqual(gaps[-1], LONGEST_VOUCH_SECONDS)
        self.assertEqual(gaps, sorted(gaps))

    def test_long_completing(self) -> None:
        """A job of a node that died is asked for more often: its end will not be told."""
        self.node.rounds(20, view(), answer(job(state="COMPLETING")))
        self.node.pass_time(LONGEST_ENDING_SECONDS - ROUND)
        self.assertTrue(self.node.judge.is_in_doubt(self.node.beliefs(), view(), self.node.now))

    def test_trace_against_slurm(self) -> None:
        """A job with processes here is not over, whatever Slurm says."""
        for seen in (view(process()), view(cgroups=frozenset({StepCgroup("7", "batch")}))):
            self.node.rounds(4, seen, answer())
            self.assertEqual(self.node.running, ["7"])

    def test_hidden_jobs(self) -> None:
        """Where Slurm shows no job of other users, not to be listed says nothing."""
        self.node.judge = Judge(asked_nodes=frozenset({"n1"}), own_uid=500)
        self.assertEqual(self.node.rounds(4, view(), answer(job("1", uid=500))), [])
        self.assertTrue(self.node.rounds(2, view(), answer(job("1", uid=501))))
        self.setUp()
        self.node.judge = Judge(asked_nodes=frozenset({"n1"}), own_uid=500)
        self.node.tell(JobInit("9", time_us=START_US))
        others = answer(job("9", uid=501))
        self.assertTrue(self.node.rounds(2, view(), answer(), elsewhere=others))

    def test_job_of_other_nodes(self) -> None:
        """That it is not among the jobs of our nodes says nothing: what counts is what Slurm says
        of that very job."""
        for node in (None, "n1", "n9"):
            self.setUp()
            self.node.tell(JobInit("9", time_us=START_US, node=node))
            runs = answer(job("7"), job("9"))
            self.assertEqual(self.node.rounds(4, view(), answer(), elsewhere=runs), [])
            self.assertEqual(self.node.rounds(4, view(), answer(), elsewhere=None), [])
            over = answer(job("7"), job("9", "COMPLETED", exit_status=256))
            findings = self.node.rounds(12, view(), answer(), elsewhere=over)
            self.assertEqual([one.notice.job_id for one in findings], ["9"])
            self.assertEqual(findings[0].notice.exit_status, 256)

    def test_who_is_asked_for(self) -> None:
        """Jobs of which neither node nor Slurm shows anything, and not those that Slurm has just
        vouched for."""
        self.node.tell(*(JobInit(job_id, time_us=START_US) for job_id in ("8", "9", "10")))
        self.node.tell(JobInit("6", time_us=START_US), JobExit("6"))

        def unlisted() -> list[str]:
            beliefs = self.node.beliefs()
            return self.node.judge.unlisted(beliefs, view(batch()), says, self.node.now)

        says = answer(job("8"))
        self.assertEqual(unlisted(), ["9", "10"])
        self.node.look(view(batch()), says, elsewhere=answer(job("9"), job("10", "COMPLETING")))
        self.assertEqual(unlisted(), [])
        self.node.pass_time(ROUND)
        self.assertEqual(unlisted(), ["9", "10"])

    def test_requeued_to_other_nodes(self) -> None:
        """The run that was here is over."""
        self.node = Node()
        self.node.tell(JobInit("7", time_us=START_US, details=JobDetails(restart_count=0)))
        again_us = self.node.us - 30_000_000
        runs = answer(job(start_us=again_us, details=JobDetails(restart_count=1)))
        findings = self.node.rounds(3, view(), answer(), elsewhere=runs)
        self.assertEqual(kinds(findings), ["JobExit"])
        self.assertEqual(findings[0].notice.time_us, again_us)

    def test_batch_step_left_and_slurm_is_down(self) -> None:
        """A batch job lives no longer than its batch step."""
        self.node.look(view(batch(), process()))
        self.node.pass_time(ROUND)
        self.assertEqual(kinds(self.node.rounds(2, view())), ["JobExit"])

    def test_no_batch_step_and_slurm_is_down(self) -> None:
        """An allocation may be idle between steps."""
        self.node.look(view(process()))
        self.assertEqual(self.node.rounds(50, view()), [])

    def find_stale(self, init: JobInit, *looks: NodeView, **options: Any) -> list[str]:
        """What an hour's rounds without Slurm's word find of job 7, and what the one after it; the
        node shows others' jobs, after those looks."""
        other = view(batch("8"))
        self.node = Node(stale=3600.0, **options)
        self.node.tell(init)
        for seen in looks:
            self.node.rounds(1, seen)
        findings = self.node.rounds(60, other)
        self.assertEqual([one for one in findings if one.notice.job_id == "7"], [])
        findings = self.node.rounds(2, other)
        return kinds(one for one in findings if one.notice.job_id == "7")

    def test_stale(self) -> None:
        """In the end a job without any trace is given up, when it was here, or must have been, and
        the node does show others'."""
        init = JobInit("7", time_us=START_US)
        self.assertEqual(self.find_stale(init, view(process())), ["JobExit"])
        groups = frozenset({StepCgroup("7", "0")})
        self.assertEqual(self.find_stale(init, view(cgroups=groups)), ["JobExit"])
        self.assertEqual(self.find_stale(JobInit("7", time_us=START_US, node="n1")), ["JobExit"])
        self.assertEqual(self.find_stale(init, shared=True), ["JobExit"])

    def test_not_stale_elsewhere(self) -> None:
        """A job that may run on another node is not."""
        self.assertEqual(self.find_stale(JobInit("7", time_us=START_US)), [])
        several = {"asked_nodes": frozenset({"n1", "n2"}), "shared": True}
        for node in (None, "n2"):
            init = JobInit("7", time_us=START_US, node=node)
            self.assertEqual(self.find_stale(init, **several), [])
        self.assertEqual(self.find_stale(JobInit("7", time_us=START_US, node="n9")), [])

    def test_stale_where_nothing_shows(self) -> None:
        """A node that never shows anything of Slurm's is not looked at rightly."""
        self.node = Node(stale=3600.0)
        self.node.tell(JobInit("7", time_us=START_US))
        self.assertEqual(self.node.rounds(100, view()), [])

    def test_orphan_of_a_step(self) -> None:
        """A task that outlives its step process keeps the job while Slurm is silent."""
        alive = {101: START_US + 20_000}
        self.node.look(view(batch(), process(), alive=alive))
        self.node.pass_time(ROUND)
        self.assertEqual(self.node.rounds(5, view(alive=alive)), [])
        self.assertEqual(self.node.rounds(2, view(alive={101: START_US + 10**9}))[0].why[:3], "its")

    def test_orphan_while_the_clock_is_set(self) -> None:
        """Setting the wall clock makes no other process of a task."""
        self.node.look(view(batch(), process(), alive={101: START_US}))
        self.node.pass_time(ROUND)
        for by_us in (3_600_000_000, -3_600_000_000):
            seen = view(alive={101: START_US + by_us}, boot_us=by_us)
            self.assertEqual(self.node.rounds(5, seen), [])

    def test_pid_of_another(self) -> None:
        """A process younger than the task is not the task."""
        alive = {101: START_US + YOUNG_US * 2}
        self.node.look(view(batch(), process(), alive=alive))
        self.node.pass_time(ROUND)
        self.assertEqual(kinds(self.node.rounds(2, view(alive=alive))), ["JobExit"])

    def test_later_run(self) -> None:
        """A requeued job runs again, and neither the end nor the start was told."""
        self.node = Node()
        self.node.tell(JobInit("7", time_us=START_US, details=JobDetails(restart_count=0)))
        again_us = self.node.us - 30_000_000
        says = answer(job(start_us=again_us, details=JobDetails(restart_count=1)))
        seen = view(batch("7", pid=900))
        findings = self.node.rounds(3, seen, says)
        self.assertEqual(kinds(findings), ["JobExit", "JobInit"])
        self.assertEqual([finding.notice.time_us for finding in findings], [again_us, again_us])
        keys = [(each.key.attempt, each.ended) for each in self.node.table.jobs()]
        self.assertEqual(keys, [(1, True), (2, False)])


class Steps(SynchronousTestCase):
    """Steps of jobs that live."""

    def setUp(self) -> None:
        """A batch job whose first step has one task."""
        self.node = Node()
        self.node.tell(
            JobInit("7", time_us=START_US, uid=1000),
            StepInit("7", 0, 0, time_us=START_US, local_tasks=1),
            TaskInit("7", 0, 0, 0, time_us=START_US, pid=101),
        )

    def test_left(self) -> None:
        """Its open tasks end with a status that nobody reported, then the step."""
        self.node.look(view(batch(), process()))
        self.node.pass_time(ROUND)
        findings = self.node.rounds(6, view(batch()))
        self.assertEqual(kinds(findings), ["TaskExit", "StepExit"])
        self.assertEqual(findings[0].notice.exit_status, -1)
        self.assertEqual(self.node.running, ["7"])

    def test_never_here(self) -> None:
        """A step that this node has not shown may run on another one; unless its notifier says that
        the job is here."""
        self.assertEqual(self.node.rounds(6, view(batch())), [])
        self.node.tell(StepInit("7", 0, 0, time_us=START_US, node="n1"))
        self.assertEqual(kinds(self.node.rounds(2, view(batch()))), ["TaskExit", "StepExit"])

    def test_two_looks_at_once_are_one(self) -> None:
        """Its own message may be under way."""
        self.node.look(view(batch(), process()))
        for _ in range(3):
            self.assertEqual(list(self.node.look(view(batch())).findings), [])
            self.node.pass_time(1)
        self.node.pass_time(CONFIRM_SECONDS)
        self.assertEqual(kinds(self.node.look(view(batch())).findings), ["TaskExit", "StepExit"])

    def test_left_right_after_it_was_adopted(self) -> None:
        """That it was seen here once is enough, where steps may run on other nodes."""
        self.node = Node(shared=True)
        self.node.look(view(batch(), process()), answer(job()), gap=True)
        self.node.pass_time(ROUND)
        findings = self.node.rounds(3, view(batch()), answer(job()))
        self.assertEqual(kinds(findings), ["TaskExit", "StepExit"])

    def test_cgroup_of_a_step(self) -> None:
        """A process in its cgroup keeps it."""
        groups = frozenset({StepCgroup("7", "0")})
        self.assertEqual(self.node.rounds(4, view(batch(), cgroups=groups)), [])

    def test_orphaned_task(self) -> None:
        """A task that lives keeps it."""
        seen = view(batch(), alive={101: START_US})
        self.assertEqual(self.node.rounds(4, seen), [])

    def test_ended_task_of_a_living_step(self) -> None:
        """Is left alone: the step process will report it."""
        self.assertEqual(self.node.rounds(4, view(batch(), process(tasks=0))), [])

    def test_one_node_of_two(self) -> None:
        """On a daemon of several nodes each node's part ends by itself."""
        self.node = Node(asked_nodes=frozenset({"n1", "n2"}), shared=True)
        first = process("7", "0", 100, node="n1", node_id=0)
        second = process("7", "0", 200, node="n2", node_id=1)
        self.node.tell(
            JobInit("7", time_us=START_US),
            StepInit("7", 0, 0, time_us=START_US),
            StepInit("7", 0, 1, time_us=START_US),
        )
        self.node.look(view(batch(), first, second))
        self.node.pass_time(ROUND)
        findings = self.node.rounds(4, view(batch(), first))
        self.assertEqual(
            [one.notice.node_id for one in findings if type(one.notice) is StepExit], [1]
        )
        self.assertIsNone(self.node.beliefs()[0].steps()[0].end_us)

    def test_step_of_another_node(self) -> None:
        """A step that was never seen here may run on another of the daemon's nodes."""
        self.node.judge = Judge(asked_nodes=frozenset({"n1", "n2"}), shared=True)
        self.assertEqual(self.node.rounds(5, view(batch())), [])

    def test_unknown_node_id(self) -> None:
        """A step process without tasks does not tell its node's index: it lives."""
        bare = process(tasks=0, node=None, node_id=None)
        self.assertEqual(self.node.rounds(4, view(batch(), bare)), [])

    def test_missing_step(self) -> None:
        """A step whose notices were lost is taken in, once, at the second look."""
        seen = view(batch(), process(), process("7", "1", 200, tasks=2))
        self.assertEqual(kinds(self.node.rounds(1, seen)), [])
        findings = self.node.rounds(4, seen)
        self.assertEqual(kinds(findings), ["StepInit", "TaskInit", "TaskInit"])
        self.assertEqual(self.node.stats.values, {})

    def test_missing_task(self) -> None:
        """A task whose notice was lost."""
        self.node.tell(TaskExit("7", 0, 0, 0, 0, time_us=START_US + 1, pid=101))
        findings = self.node.rounds(5, view(batch(), process(tasks=3)))
        self.assertEqual([one.notice.task_id for one in findings], [1, 2])

    def test_ended_step_stays_ended(self) -> None:
        """Its process may need a moment to leave."""
        self.node.tell(
            TaskExit("7", 0, 0, 0, 0, time_us=START_US + 1), StepExit("7", 0, 0, START_US + 2)
        )
        self.assertEqual(self.node.rounds(4, view(batch(), process(tasks=2))), [])


class Adopting(SynchronousTestCase):
    """Jobs that nobody told us of."""

    def setUp(self) -> None:
        """No job."""
        self.node = Node()

    def test_first_look(self) -> None:
        """All that Slurm lists as running, with all that is known."""
        details = JobDetails(array_job_id=5, array_task_id=1, restart_count=0, partition="main")
        listed = job(gid=100, user="alice", job_name="x", node_count=1, details=details)
        seen = view(batch(), process(tasks=2, node_count=1, total_tasks=2, local_tasks=2))
        findings = self.node.look(seen, answer(listed, job("9")), gap=True).findings
        self.assertEqual(
            [finding.notice for finding in findings],
            [
                JobInit(
                    "7",
                    time_us=START_US,
                    uid=1000,
                    gid=100,
                    node_count=1,
                    user="alice",
                    job_name="x",
                    details=details,
                ),
                StepInit(
                    "7",
                    0,
                    0,
                    time_us=START_US + 10_000,
                    uid=1000,
                    node_count=1,
                    total_tasks=2,
                    local_tasks=2,
                ),
                TaskInit("7", 0, 0, 0, time_us=START_US + 10_000, pid=101, rank=0, uid=1000),
                TaskInit("7", 0, 0, 1, time_us=START_US + 10_000, pid=102, rank=1, uid=1000),
                JobInit("9", time_us=START_US, uid=1000, details=JobDetails()),
            ],
        )
        self.assertEqual(self.node.rounds(5, seen, answer(listed, job("9"))), [])

    def test_late_notices_are_repetitions(self) -> None:
        """What comes after all about an adopted job opens nothing and ends nothing."""
        self.node.look(view(batch(), process()), answer(job()), gap=True)
        self.node.tell(
            JobInit("7", time_us=START_US + 1000),
            StepInit("7", 0, 0, time_us=START_US + 5000),
            TaskInit("7", 0, 0, 0, time_us=START_US + 20_000, pid=101),
            TaskExit("7", 0, 0, 0, 0, time_us=START_US + 30_000, pid=101),
            StepExit("7", 0, 0, time_us=START_US + 40_000),
            JobExit("7", time_us=START_US + 50_000),
        )
        self.assertEqual([each.key.attempt for each in self.node.table.jobs()], [1])
        self.assertEqual(self.node.running, [])

    def test_without_gap_only_what_runs_here(self) -> None:
        """An allocation that runs nothing here is not taken up in passing."""
        findings = self.node.rounds(3, view(batch()), answer(job(), job("9")))
        self.assertEqual([one.notice.job_id for one in findings], ["7"])

    def test_just_begun(self) -> None:
        """Its own notice is expected first."""
        says = answer(job(start_us=self.node.us - YOUNG_US + 1))
        verdict = self.node.look(view(batch()), says, gap=True)
        self.assertEqual((list(verdict.findings), verdict.unsettled), ([], True))
        self.node.tell(JobInit("7"))
        self.assertEqual(self.node.rounds(3, view(batch()), says), [])

    def test_states(self) -> None:
        """Only jobs that run, and have not begun to end."""
        for state, adopted in (
            ("RUNNING", True),
            ("SUSPENDED", True),
            ("COMPLETING", False),
            ("COMPLETED", False),
            ("CONFIGURING", False),
            ("PENDING", False),
        ):
            self.setUp()
            self.node.look(view(batch()), answer(job(state=state)), gap=True)
            self.assertEqual(self.node.running, ["7"] if adopted else [], state)

    def test_lingering(self) -> None:
        """A job that has just ended here is not taken up again."""
        self.node.tell(JobInit("7", time_us=START_US), JobExit("7"))
        self.assertEqual(self.node.rounds(3, view(batch()), answer(job())), [])
        self.assertEqual(list(self.node.look(view(batch()), answer(job()), gap=True).findings), [])

    def test_ended_during_the_look(self) -> None:
        """Nor is one that was forgotten while Slurm was asked."""
        verdict = self.node.look(view(batch()), answer(job()), gap=True, vanished=frozenset({"7"}))
        self.assertEqual(list(verdict.findings), [])

    def test_slurm_is_down(self) -> None:
        """The node's word is enough, at the second look."""
        seen = view(batch(), process())
        verdict = self.node.look(seen, gap=True)
        self.assertEqual((list(verdict.findings), verdict.unsettled), ([], True))
        self.node.pass_time(10)
        findings = self.node.look(seen).findings
        self.assertEqual(kinds(findings), ["JobInit", "StepInit", "TaskInit"])
        self.assertEqual(findings[0].notice, JobInit("7", time_us=START_US, uid=1000))

    def test_process_of_a_job_that_ended(self) -> None:
        """A step process that cannot end is not the beginning of another run."""
        self.node.tell(JobInit("7", time_us=START_US))
        self.node.look(view(batch()))
        self.node.tell(JobExit("7"))
        self.node.table.forget(self.node.table.jobs()[0])
        self.assertEqual(self.node.rounds(5, view(batch())), [])
        self.assertFalse(
            self.node.judge.is_in_doubt(self.node.beliefs(), view(batch()), self.node.now)
        )

    def test_disowned_process(self) -> None:
        """Slurm is not asked again about a process of whose job it said that it is over."""
        seen = view(batch())
        self.assertTrue(self.node.judge.is_in_doubt([], seen, self.node.now))
        self.node.look(seen, answer(job(state="COMPLETED")))
        self.assertFalse(self.node.judge.is_in_doubt([], seen, self.node.now))

    def test_node_that_slurm_does_not_know(self) -> None:
        """What runs here is asked for by its id, and adopted as always; what runs elsewhere is
        not."""
        runs = answer(job("7"), job("9"))
        self.node.tell(JobInit("9", time_us=START_US))
        seen = view(batch("7"), batch("8", 90))
        beliefs = self.node.beliefs()
        asked = self.node.judge.unlisted(beliefs, seen, answer(), self.node.now)
        self.assertEqual(asked, ["7", "8", "9"])
        self.node.table.forget(self.node.table.jobs()[0])
        look = {"by_id": {"7": job("7"), "8": None, "9": job("9")}, "gap": True}
        findings = self.node.judge.decide(
            [], seen, answer(), now=self.node.now, now_us=self.node.us, **look
        ).findings
        self.assertEqual([one.notice.job_id for one in findings], ["7"])
        self.setUp()
        findings = self.node.rounds(3, seen, answer(), elsewhere=runs)
        self.assertEqual(kinds(findings), ["JobInit"])
        self.assertEqual(self.node.running, ["7"])
        self.assertFalse(self.node.judge.is_in_doubt(self.node.beliefs(), seen, self.node.now))

    def test_not_told_of_a_process(self) -> None:
        """Slurm has not disowned what it was not asked about."""
        seen = view(batch())
        for elsewhere, in_doubt in ((None, True), (answer(), False)):
            self.node.look(seen, answer(), elsewhere=elsewhere)
            self.assertIs(self.node.judge.is_in_doubt([], seen, self.node.now), in_doubt)

    def test_other_nodes_of_the_machine(self) -> None:
        """Where several slurmd run, those that are not ours are not looked at."""
        self.node = Node(shared=True)
        seen = view(process("7", pid=100), process("8", pid=200, node="n2"))
        findings = self.node.rounds(3, seen)
        self.assertEqual({one.notice.job_id for one in findings}, {"7"})
        seen = view(process("7", pid=100), process("9", pid=300, node=None, node_id=None))
        self.assertEqual(self.node.rounds(3, seen), [])

    def test_several_nodes(self) -> None:
        """A job on several of our nodes ends when all have ended; so they are named."""
        self.node = Node(asked_nodes=frozenset({"n1", "n2"}), shared=True)
        seen = view(process(), process("7", "0", 200, node="n2", node_id=1))
        self.node.look(seen, answer(job(node_count=2)), gap=True)
        (found,) = self.node.table.running()
        self.assertEqual(found.facts.nodes, ("n1", "n2"))
        self.node.tell(JobExit("7", node="n2"))
        self.assertEqual(self.node.running, ["7"])
        self.node.tell(JobExit("7", node="n1"))
        self.assertEqual(self.node.running, [])

    def test_component_of_one_node(self) -> None:
        """The index of a job's only node is known without being told."""
        seen = view(process(node_id=None))
        findings = self.node.look(seen, answer(job(node_count=1)), gap=True).findings
        self.assertEqual(findings[1].notice.node_id, 0)

    def test_hidden_jobs(self) -> None:
        """What Slurm may hide is taken up by the node's word."""
        self.node = Node(own_uid=500)
        findings = self.node.rounds(2, view(batch()), answer())
        self.assertEqual(kinds(findings), ["JobInit"])


JOBS = ("1", "2", "3")
LOOK = st.fixed_dictionaries(
    {
        "traced": st.sets(st.sampled_from(JOBS)),
        "listed": st.none()
        | st.dictionaries(
            st.sampled_from(JOBS), st.sampled_from(["RUNNING", "COMPLETING", "COMPLETED"])
        ),
        "seconds": st.sampled_from([0.5, 10.0, 60.0, 4000.0]),
        "gap": st.booleans(),
        "told": st.lists(
            st.tuples(st.sampled_from(["init", "step", "exit"]), st.sampled_from(JOBS)), max_size=3
        ),
    }
)


class Anything(SynchronousTestCase):
    """Whatever node, Slurm and messages do."""

    @given(st.lists(LOOK, max_size=12), st.booleans())
    def test_promises(self, looks: list[dict[str, Any]], shared: bool) -> None:
        """A job that Slurm lists as alive, or that shows, is never ended; none is adopted that is
        known or that does not run; and in the end all is as Slurm says."""
        node = Node(stale=3600.0, shared=shared)
        for look in looks:
            for what, job_id in look["told"]:
                node.tell(
                    JobInit(job_id)
                    if what == "init"
                    else JobExit(job_id)
                    if what == "exit"
                    else StepInit(job_id, 0, 0)
                )
            listed = look["listed"]
            says = None
            if listed is not None:
                says = answer(*(job(job_id, state) for job_id, state in listed.items()))
            seen = view(*(process(job_id, "0", int(job_id) * 100) for job_id in look["traced"]))
            known = {one.key.job_id for one in node.beliefs()}
            running = set(node.running)
            findings = node.look(seen, says, gap=look["gap"]).findings
            for notice in [finding.notice for finding in findings]:
                if type(notice) is JobExit:
                    self.assertIn(notice.job_id, running)
                    self.assertNotIn(notice.job_id, look["traced"])
                    self.assertIn((listed or {}).get(notice.job_id), (None, "COMPLETED"))
                elif type(notice) is JobInit:
                    self.assertNotIn(notice.job_id, known)
                    if listed is not None:
                        self.assertEqual(listed.get(notice.job_id), "RUNNING")
                    known.add(notice.job_id)
            node.pass_time(look["seconds"])
        node.rounds(4, view(process("1", "0", 100)), answer(job("1"), job("2")))
        self.assertNotIn("3", node.running)
        verdict = node.look(view(process("1", "0", 100)), answer(job("1"), job("2")))
        self.assertEqual((list(verdict.findings), verdict.unsettled), ([], False))
