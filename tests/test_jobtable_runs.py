"""Tests of ldmsjob.jobtable: nodes, restart counts, and two notifiers that tell of one job."""

from __future__ import annotations

from ldmsjob.facts import JobDetails
from ldmsjob.jobtable import JobTable
from ldmsjob.notices import JobExit, JobInit, StepExit, StepInit, TaskExit, TaskInit
from tests.test_jobtable import RECEIVED, S, TableCase

MS = 1_000


def restarted(count: int) -> JobDetails:
    """Details of a run that is the count-th repetition."""
    return JobDetails(restart_count=count)


class NodeTests(TableCase):
    """Jobs of which notices name nodes."""

    def setUp(self) -> None:
        """A job of two nodes."""
        super().setUp()
        self.apply(JobInit("7", 10 * S + 1, node="a"))
        self.apply(JobInit("7", 11 * S + 1, node="b"))

    def test_ends_with_its_last_node(self) -> None:
        """When each that started it has ended, at the later of their times."""
        self.assertEqual(self.job().facts.nodes, ("a", "b"))
        self.assertEqual(self.apply(JobExit("7", 21 * S + 1, "b", 256)), [])
        self.assertFalse(self.job().ended)
        self.assertEqual(self.apply(JobExit("7", 20 * S + 1, "a", 256)), ["job-", "gone"])
        facts = self.job().facts
        self.assertEqual((facts.end_us, facts.exit_status), (21 * S + 1, 256))

    def test_a_node_that_never_started_it(self) -> None:
        """Its end, and a second one of a node, are counted."""
        self.assertEqual(self.apply(JobExit("7", 20 * S + 1, "c")), [])
        self.assertEqual(self.apply(JobExit("7", 20 * S + 1, "a")), [])
        self.assertEqual(self.apply(JobExit("7", 21 * S + 1, "a")), [])
        self.assertEqual(self.stats.get("exit_of_other_node"), 1)
        self.assertEqual(self.stats.get("repeated_exit"), 1)
        self.assertEqual(self.apply(JobExit("7", 21 * S + 1, "b")), ["job-", "gone"])

    def test_only_an_end(self) -> None:
        """Of a job that ran elsewhere only: nothing opens."""
        self.assertEqual(self.apply(JobExit("8", 20 * S + 1, "a")), [])
        self.assertEqual(self.stats.get("exit_of_unknown_job"), 1)

    def test_a_step_starts_a_node(self) -> None:
        """A node whose prolog did not run, also one that comes when others have ended."""
        self.apply(JobExit("7", 20 * S + 1, "a"))
        self.assertEqual(self.apply(StepInit("7", 0, 2, 21 * S + 1, node="c")), ["step+"])
        self.assertEqual(self.apply(JobExit("7", 22 * S + 1, "b")), [])
        self.assertEqual(self.apply(JobExit("7", 22 * S + 5, "c"))[-2:], ["job-", "gone"])

    def test_a_start_that_comes_behind_its_end(self) -> None:
        """The node has ended; the job ends with the others."""
        self.apply(JobExit("7", 20 * S + 1, "c"))
        self.assertEqual(self.apply(JobInit("7", 12 * S + 1, node="c")), [])
        self.apply(JobExit("7", 20 * S + 1, "a"))
        self.assertEqual(self.apply(JobExit("7", 20 * S + 1, "b")), ["job-", "gone"])

    def test_an_end_without_a_node(self) -> None:
        """Is counted when a message says it; when we found it out, it ends the job."""
        self.assertEqual(self.apply(JobExit("7", 20 * S)), [])
        self.assertEqual(self.stats.get("exit_without_node"), 1)
        changes = self.table.apply(JobExit("7"), RECEIVED, "slurm", "reconciliation")
        self.assertTrue(changes[0].ended)

    def test_nodes_that_nobody_started(self) -> None:
        """A job of which no notice names a node ends at the first end, whoever tells it."""
        self.apply(JobInit("8", 10 * S))
        self.assertEqual(self.apply(JobExit("8", 9 * S + 1, "a")), [])
        self.assertEqual(self.apply(JobExit("8", 20 * S + 1, "a")), ["job-", "gone"])
        self.assertEqual(self.stats.get("late"), 1)

    def test_late_node(self) -> None:
        """The start of a node that comes behind the job's end begins no attempt."""
        self.apply(JobExit("7", 20 * S + 1, "a"))
        self.apply(JobExit("7", 20 * S + 1, "b"))
        self.assertEqual(self.apply(JobInit("7", 12 * S + 1, node="c")), [])
        self.assertEqual(self.job().facts.nodes, ("a", "b", "c"))

    def test_a_node_starts_again(self) -> None:
        """A start behind the end of that very node is one of the next run."""
        self.apply(JobExit("7", 20 * S + 1, "a"))
        self.assertEqual(self.apply(JobInit("7", 10 * S + 1, node="a")), [])
        self.assertEqual(
            self.apply(StepInit("7", 0, 0, 21 * S + 1, node="a")),
            ["(job-)", "(gone)", "(job+)", "step+"],
        )
        self.assertEqual(self.apply(JobExit("7", 20 * S + 9, "b")), [])
        self.assertEqual(self.apply(JobExit("7", 22 * S + 1, "a"))[-1], "gone")


class RestartTests(TableCase):
    """Where both the job and the notice have a restart count, it decides."""

    def setUp(self) -> None:
        """The second run of a job, as the first that this daemon sees."""
        super().setUp()
        self.apply(JobInit("7", 10 * S + 1, 100, 200, node="a", details=restarted(1)))

    def test_running(self) -> None:
        """Equal: the same run. Higher: the next. Lower: late."""
        self.assertEqual(self.apply(JobInit("7", 12 * S + 1, node="b", details=restarted(1))), [])
        self.assertEqual(self.apply(JobInit("7", 9 * S + 1, node="c", details=restarted(0))), [])
        self.assertEqual(self.apply(StepInit("7", 0, 0, 9 * S + 1, details=restarted(0))), [])
        self.assertEqual(self.job().facts.nodes, ("a", "b"))
        self.assertEqual(self.stats.values, {"repeated_init": 1, "late": 2})
        notice = JobInit("7", 13 * S + 1, node="a", details=restarted(2))
        self.assertEqual(self.apply(notice), ["(job-)", "(gone)", "job+"])
        notice = StepInit("7", 0, 0, 14 * S + 1, node="a", details=restarted(3))
        self.assertEqual(self.apply(notice), ["(job-)", "(gone)", "(job+)", "step+"])
        self.assertEqual(self.job(3).facts.uid, None)

    def test_lingering(self) -> None:
        """The same, whatever the times."""
        self.apply(JobExit("7", 20 * S + 1, "a"))
        self.assertEqual(self.apply(JobInit("7", 30 * S + 1, node="b", details=restarted(1))), [])
        self.assertEqual(self.apply(StepInit("7", 0, 0, 30 * S + 1, details=restarted(1))), [])
        self.assertEqual(self.apply(StepInit("7", 0, 0, 30 * S + 1, details=restarted(0))), [])
        self.assertEqual(self.stats.get("late"), 3)
        notice = StepInit("7", 0, 0, 30 * S + 1, node="a", details=restarted(2))
        self.assertEqual(self.apply(notice), ["(job+)", "step+"])
        self.assertEqual(self.job(2).facts.uid, 100)
        self.apply(JobExit("7", 40 * S + 1, "a"))
        notice2 = JobInit("7", 41 * S + 1, node="a", details=restarted(3))
        self.assertEqual(self.apply(notice2), ["job+"])

    def test_next_attempt_keeps_what_lasts(self) -> None:
        """The array and the heterogeneous job; partition and account may change."""
        details = JobDetails(5, 2, 3, 1, 1, "main", "chem")
        self.apply(JobInit("8", 10 * S + 1, node="a", details=details))
        self.apply(JobExit("8", 20 * S + 1, "a"))
        self.apply(StepInit("8", 0, 0, 21 * S + 1, node="a"))
        self.assertEqual(self.job(2, "8").facts.details, JobDetails(5, 2, 3, 1))

    def test_told_of_an_earlier_attempt(self) -> None:
        """A notice of each attempt finds it, while its set lingers."""
        self.apply(JobExit("7", 20 * S + 1, "a"))
        self.apply(JobInit("7", 30 * S))
        notice = JobInit("7", 30 * S - 9, user="ann", node="b", details=restarted(1))
        self.assertEqual(self.apply(notice), [])
        self.assertEqual(self.job(1).facts.user, "ann")
        self.assertIsNone(self.job(2).facts.user)


class TwoNotifierTests(TableCase):
    """Slurm's notifier in whole seconds, ours with exact times and nodes."""

    def by_slurm(self, begin: int = 10) -> list[str]:
        """A run of ten seconds as Slurm's notifier tells it."""
        return [
            word
            for notice in (
                JobInit("7", begin * S, 100, 200),
                StepInit("7", 0, 0, (begin + 1) * S, "ann", "run", local_tasks=1),
                TaskInit("7", 0, 0, 0, (begin + 1) * S, 490 + begin, 0),
                TaskExit("7", 0, 0, 0, 0, (begin + 9) * S, 490 + begin),
                StepExit("7", 0, 0, (begin + 9) * S),
                JobExit("7", (begin + 10) * S),
            )
            for word in self.apply(notice)
        ]

    def by_us(self, begin: int = 10, count: int = 0) -> list[str]:
        """The same run as ours tells it, half a second into each of those."""
        half = 500 * MS
        return [
            word
            for notice in (
                JobInit("7", begin * S + half, 100, 200, node="a", details=restarted(count)),
                StepInit("7", 0, 0, (begin + 1) * S + half, "ann", "run", node="a"),
                TaskInit("7", 0, 0, 0, (begin + 1) * S + half, 490 + begin, 0),
                TaskExit("7", 0, 0, 0, 0, (begin + 9) * S + half, 490 + begin),
                StepExit("7", 0, 0, (begin + 9) * S + half),
                JobExit("7", (begin + 10) * S + half, "a", 256),
            )
            for word in self.apply(notice)
        ]

    LIFE = ("job+", "step+", "task+", "task-", "step-", "job-", "gone")

    def test_ours_behind(self) -> None:
        """Ours comes when the job has ended: it completes what is known, and is no new run."""
        self.assertEqual(self.by_slurm(), [*self.LIFE])
        self.assertEqual(self.by_us(), [])
        facts = self.job().facts
        self.assertEqual((facts.nodes, facts.details), (("a",), restarted(0)))
        self.assertEqual((facts.exit_status, facts.end_us), (256, 20 * S))

    def test_slurms_behind(self) -> None:
        """The same the other way round."""
        self.assertEqual(self.by_us(), [*self.LIFE])
        self.assertEqual(self.by_slurm(), [])
        self.assertEqual(self.stats.get("repeated_exit"), 1)

    def test_two_runs_in_any_order(self) -> None:
        """A requeue is the next attempt and nothing else, whoever is first."""
        for order in ("susu", "ssuu", "uuss", "suus", "usus"):
            self.table, runs = JobTable(self.stats), {"s": 0, "u": 0}
            seen: list[str] = []
            for who in order:
                begin = 10 + 11 * runs[who]
                seen += self.by_slurm(begin) if who == "s" else self.by_us(begin, runs[who])
                runs[who] += 1
            self.assertEqual(seen, [*self.LIFE, *self.LIFE], order)
            self.assertEqual(self.job(2).facts.details, restarted(1), order)

    def test_requeue_in_the_second_of_the_end(self) -> None:
        """Ours tells the runs apart though whole seconds do not; its init may be missing."""
        self.by_slurm()
        self.by_us()
        self.assertEqual(self.apply(StepInit("7", 0, 0, 20 * S)), [])
        notice = StepInit("7", 0, 0, 20 * S + 900 * MS, node="a")
        self.assertEqual(self.apply(notice), ["(job+)", "step+"])
        self.assertEqual(self.apply(StepInit("7", 0, 0, 20 * S)), [])
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 0, 20 * S, 600, 0)), ["task+"])
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 0, 20 * S + 910 * MS, 600, 0)), [])

    def test_slurms_end_first(self) -> None:
        """Does not end a job that ours tells; what follows it there belongs to the next run."""
        self.apply(JobInit("7", 10 * S + 1, node="a", details=restarted(0)))
        self.assertEqual(self.apply(JobExit("7", 20 * S)), [])
        self.assertEqual(self.apply(StepInit("7", 0, 0, 22 * S)), [])
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 0, 22 * S, 600)), [])
        self.assertEqual(self.stats.get("ahead"), 2)
        self.assertEqual(self.apply(StepInit("7", 3, 0, 19 * S)), ["step+"])
        ends = self.apply(JobExit("7", 20 * S + 1, "a"))
        self.assertEqual(ends, ["(step-)", "job-", "gone"])
        self.assertEqual(self.by_us(21, 1), [*self.LIFE])

    def test_late_ends_of_an_earlier_run(self) -> None:
        """End nothing of the present one."""
        self.apply(JobInit("7", 30 * S + 1, node="a"))
        self.apply(StepInit("7", 0, 0, 30 * S + 2, node="a"))
        self.apply(TaskInit("7", 0, 0, 0, 30 * S + 3, 500))
        self.assertEqual(self.apply(TaskExit("7", 0, 0, 0, 9, 20 * S, 400)), [])
        self.assertEqual(self.apply(StepExit("7", 0, 0, 20 * S)), [])
        self.assertEqual(self.apply(JobExit("7", 20 * S + 1, "a")), [])
        self.assertEqual(self.stats.get("late"), 3)

    def test_slurm_has_ended_the_next_run_too(self) -> None:
        """Then what follows is of the run behind that, whose beginning ours has yet to tell."""
        for slow in (True, False):
            self.table = JobTable(self.stats)
            self.apply(JobInit("7", 10 * S + 1, node="a", details=restarted(0)))
            self.apply(JobExit("7", 20 * S))
            if slow:
                self.assertEqual(self.apply(JobExit("7", 23 * S)), [])
            self.assertEqual(self.apply(JobExit("7", 20 * S + 9, "a")), ["job-", "gone"])
            if not slow:
                self.assertEqual(self.apply(JobExit("7", 23 * S)), [])
            self.assertEqual(
                self.apply(JobInit("7", 22 * S + 9, node="a", details=restarted(1))), ["job+"]
            )
            self.assertEqual(self.apply(StepInit("7", 0, 0, 25 * S)), [])
            self.assertEqual(self.apply(JobExit("7", 23 * S + 9, "a")), ["job-", "gone"])

    def test_slurms_end_in_the_second_of_the_beginning(self) -> None:
        """May be that of a short run: what follows is of the next one."""
        self.by_us()
        self.assertEqual(self.apply(JobInit("7", 30 * S + 1, node="a")), ["job+"])
        self.assertEqual(self.apply(JobExit("7", 30 * S)), [])
        self.assertEqual(self.apply(StepInit("7", 0, 0, 32 * S)), [])
        self.assertEqual(self.stats.get("ahead"), 1)

    def test_our_end_in_the_second_of_the_next_beginning(self) -> None:
        """Is that of the attempt that runs on the node, as far as ours has told."""
        self.by_slurm()
        self.assertEqual(self.apply(JobInit("7", 20 * S)), ["job+"])
        self.apply(JobInit("7", 10 * S + 1, node="a", details=restarted(0)))
        self.assertEqual(self.job(1).facts.nodes, ("a",))
        self.assertEqual(self.apply(JobExit("7", 20 * S + 9, "a")), [])
        self.assertFalse(self.job(2).ended)
        self.assertEqual(
            self.apply(JobInit("7", 20 * S + 900 * MS, node="a", details=restarted(1))), []
        )
        self.assertEqual(self.apply(JobExit("7", 30 * S + 1, "a")), ["job-", "gone"])

    def test_job_of_one_second(self) -> None:
        """Its init, told once more, begins nothing."""
        self.apply(JobInit("7", 10 * S))
        self.apply(JobExit("7", 10 * S))
        self.assertEqual(self.apply(JobInit("7", 10 * S)), [])
        self.assertEqual(self.apply(JobInit("7", 10 * S + 1, node="a")), [])

    def test_what_came_before_the_first_notice_of_a_run(self) -> None:
        """Belongs to it, when the end of the run before was lost and nothing tells its time."""
        self.apply(JobInit("7", 10 * S + 1))
        self.apply(TaskInit("7", 0, 0, 0, 11 * S + 1, 500))
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 0, 30 * S + 9, 600))[-1], "task+")
        self.assertEqual(self.apply(StepInit("7", 0, 0, 30 * S + 5)), ["step+"])
        self.assertEqual(self.posted[-1].key.attempt, 2)

    def test_end_of_a_job_that_was_found(self) -> None:
        """Counts, though it may be older than the moment at which we found it."""
        self.table.apply(JobInit("7"), RECEIVED, "slurm", "reconciliation")
        self.assertEqual(self.apply(JobExit("7", RECEIVED - 1, "a")), ["job-", "gone"])
