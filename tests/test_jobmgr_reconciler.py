"""When jobs are compared with the node and Slurm, and what is done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import ConfigError
from ldmsjob.events import JobEnded, JobStarted
from ldmsjob.jobmgr.reconciler import (
    FIRST_ROUND_SECONDS,
    GAP_SECONDS,
    MAX_NODES,
    SOON_SECONDS,
    WATCH_SECONDS,
    Reconciler,
    expand,
)
from ldmsjob.jobmgr.slurm import SlurmJobManager
from ldmsjob.jobmgr.slurm_node import NodeView, StepProcess, TaskProcess
from ldmsjob.jobmgr.slurm_query import MAX_ASKED_ID, MAX_ASKED_JOBS, Answer, SlurmJob
from ldmsjob.notices import JobExit, JobInit, StepInit, TaskInit
from ldmsjob.testing import START_SECONDS, FakeJobManagerContext

ATTRIBUTES = {"reconcile": "60", "stale": "3600", "nodes": "n[1-2]", "message_channel": "slurm"}
START_US = (START_SECONDS - 100) * 1_000_000


class FakeQuery:
    """Slurm, as tests want it."""

    def __init__(self) -> None:
        self.asked = 0
        self.stopped = 0
        self.answer: Answer | None = {}
        self.waiting: Deferred[Answer | None] | None = None
        self.elsewhere: Answer | None = {}
        self.knows_nodes = True
        self.asked_jobs: list[list[str]] = []
        self.waiting_jobs: Deferred[Answer | None] | None = None

    def ask_jobs(self, job_ids: Sequence[str]) -> Deferred[Answer | None]:
        """What it says of jobs by their ids."""
        self.asked_jobs.append(list(job_ids))
        return self.waiting_jobs or succeed(self.elsewhere)

    def ask(self) -> Deferred[Answer | None]:
        """Answer at once, or when ``waiting`` fires."""
        self.asked += 1
        return self.waiting if self.waiting is not None else succeed(self.answer)

    def stop(self) -> None:
        """A query under way has no answer."""
        self.stopped += 1
        for waiting in (self.waiting, self.waiting_jobs):
            if waiting is not None and not waiting.called:
                waiting.callback(None)


class Rounds(SynchronousTestCase):
    """A reconciler on a clock, with a node and a Slurm that tests set."""

    def setUp(self) -> None:
        """It has started."""
        self.context = FakeJobManagerContext()
        self.daemon = self.context.daemon
        self.clock = self.daemon.clock
        self.recorder = self.daemon.record()
        self.query = FakeQuery()
        self.view = NodeView()
        self.looks: list[tuple[float, frozenset[int]]] = []
        self.looking: Deferred[NodeView] | None = None
        self.reconciler = Reconciler(self.context, "slurm", look=self.look, query=self.query)
        self.began = self.clock.seconds()
        self.start()

    def start(self, **attributes: str) -> None:
        """Configure and start."""
        self.reconciler.configure({**ATTRIBUTES, **attributes})
        self.reconciler.start()

    def look(self, now_us: int, pids: frozenset[int]) -> Deferred[NodeView]:
        """What the node shows."""
        self.looks.append((self.clock.seconds() - self.began, pids))
        return self.looking if self.looking is not None else succeed(self.view)

    def pass_time(self, seconds: float) -> None:
        """In small steps."""
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)

    def runs(self, job_id: str = "7") -> None:
        """The node shows a job, and Slurm lists it."""
        task = TaskProcess(0, 0, 101, START_US)
        step = StepProcess(job_id, "0", 100, START_US, 7, "n1", 0, 1000, tasks=(task,))
        self.view = NodeView((step,))
        self.query.answer = {job_id: SlurmJob(job_id, "RUNNING", 1000, start_us=START_US)}

    def gone(self) -> None:
        """Neither does any more."""
        self.view = NodeView()
        self.query.answer = {}

    def test_first_round_adopts(self) -> None:
        """A moment after the start, and Slurm is asked."""
        self.runs()
        self.clock.advance(FIRST_ROUND_SECONDS - 0.1)
        self.assertEqual(self.context.notices, [])
        self.clock.advance(0.1)
        self.assertEqual(
            [type(notice) for notice in self.context.notices], [JobInit, StepInit, TaskInit]
        )
        (started,) = self.recorder.of(JobStarted)
        self.assertEqual((started.origin, started.facts.adopted), ("reconciliation", True))
        self.assertEqual(started.source_time_us, START_US)
        self.assertEqual(self.context.stats.get("adopted_jobs"), 1)

    def test_interval(self) -> None:
        """Rounds come at the interval; Slurm is asked by the first only when all is well."""
        self.runs()
        self.pass_time(200)
        self.assertEqual([when for when, _pids in self.looks], [1.5, 61.5, 121.5, 181.5])
        self.assertEqual(self.query.asked, 1)
        self.assertEqual(self.looks[1][1], {101})

    def test_ends(self) -> None:
        """A job that is gone ends after a second look soon."""
        self.runs()
        self.pass_time(30)
        self.gone()
        self.pass_time(60)
        (ended,) = self.recorder.of(JobEnded)
        self.assertEqual(ended.origin, "reconciliation")
        self.assertEqual([when for when, _pids in self.looks], [1.5, 61.5, 61.5 + SOON_SECONDS])
        self.assertEqual(self.context.stats.get("ended_jobs"), 1)

    def test_jobs_of_other_nodes(self) -> None:
        """What is not among our nodes' jobs is asked for by its id, and lives as long as Slurm says
        so, or does not say."""
        for job_id in ("7", "8"):
            self.daemon.apply(JobInit(job_id))
        self.query.elsewhere = {
            job_id: SlurmJob(job_id, "RUNNING", 1000) for job_id in ("7", "8", "9")
        }
        self.pass_time(2)
        self.assertEqual(self.query.asked_jobs, [["7", "8"]])
        self.pass_time(200)
        self.query.elsewhere = None
        self.pass_time(2000)
        self.assertEqual(self.context.notices, [])
        self.query.elsewhere = {"7": SlurmJob("7", "RUNNING", 1000)}
        self.pass_time(700)
        (ended,) = self.recorder.of(JobEnded)
        self.assertEqual(ended.facts.job_id, "slurm_8")

    def test_many_jobs_of_other_nodes(self) -> None:
        """Are asked for in turns."""
        for number in range(MAX_ASKED_JOBS + 1):
            self.daemon.apply(JobInit(f"1{number}"))
        self.query.elsewhere = {
            f"1{number}": SlurmJob(f"1{number}", "RUNNING", 1) for number in range(MAX_ASKED_JOBS)
        }
        self.pass_time(2)
        self.assertEqual([len(job_ids) for job_ids in self.query.asked_jobs], [MAX_ASKED_JOBS])
        self.pass_time(60)
        self.assertEqual(self.query.asked_jobs[1][0], f"1{MAX_ASKED_JOBS}")

    def test_ids_that_cannot_be_asked_for(self) -> None:
        """Do not spoil the question for others."""
        for job_id in ("7", str(MAX_ASKED_ID), str(MAX_ASKED_ID + 1), str(2**40), "0", "x7"):
            self.daemon.apply(JobInit(job_id))
        self.pass_time(2)
        self.assertEqual(self.query.asked_jobs, [["7", str(MAX_ASKED_ID)]])
        self.pass_time(60)
        self.assertEqual(
            [event.facts.job_id for event in self.recorder.of(JobEnded)],
            ["slurm_7", f"slurm_{MAX_ASKED_ID}"],
        )

    def test_unknown_nodes(self) -> None:
        """That Slurm does not know our nodes is told once."""
        told: list[str] = []

        def warn(text: str, **values: Any) -> None:
            told.append(text.format(**values))

        self.patch(self.context.log, "warn", warn)
        self.query.knows_nodes = False
        self.daemon.apply(JobInit("7"))
        self.pass_time(200)
        self.assertGreater(self.query.asked, 1)
        (text,) = told
        self.assertIn("does not know the node n[1-2]", text)

    def test_slurm_down_at_the_start(self) -> None:
        """It is asked for what the node does not show until it answers once."""
        self.query.answer = None
        self.pass_time(100)
        self.assertEqual(self.query.asked, 2)
        self.query.answer = {"9": SlurmJob("9", "RUNNING", 1000, start_us=START_US)}
        self.pass_time(130)
        self.assertEqual([notice.job_id for notice in self.context.notices], ["9"])

    def test_job_that_begins_in_the_middle(self) -> None:
        """Is a sign of missed notices: a round follows soon, and not one for each."""
        self.pass_time(20)
        self.runs("8")
        assert self.query.answer is not None
        others = (SlurmJob(f"5{number}", "COMPLETING") for number in range(20))
        self.query.answer = {**self.query.answer, **{other.job_id: other for other in others}}
        for number in range(20):
            self.daemon.apply(StepInit(f"5{number}", 0, 0))
            self.pass_time(1.0)
        self.pass_time(15)
        self.assertEqual(self.looks[1][0], 1.5 + GAP_SECONDS)
        self.assertIn("8", [notice.job_id for notice in self.context.notices])
        self.assertEqual(len(self.looks), 2)

    def test_dropped_message(self) -> None:
        """So is a message that could not be read."""
        self.pass_time(40)
        self.context.stats.add("rejected_syntax")
        self.pass_time(WATCH_SECONDS)
        self.assertEqual(len(self.looks), 2)
        self.assertEqual(self.query.asked, 2)

    def test_notices_during_a_round(self) -> None:
        """What comes while Slurm is asked counts."""
        self.runs()
        self.query.waiting = Deferred()
        self.pass_time(2)
        self.daemon.apply(JobInit("7"))
        self.daemon.apply(JobExit("7"))
        self.query.waiting.callback(self.query.answer)
        self.assertEqual(self.context.notices, [])

    def test_forgotten_during_a_round(self) -> None:
        """A job that ended and was forgotten while Slurm was asked is not taken up again."""
        self.runs()
        self.daemon.apply(JobInit("7"))
        self.query.waiting = Deferred()
        self.pass_time(2)
        self.daemon.apply(JobExit("7"))
        self.pass_time(20)
        self.assertEqual(list(self.context.jobs()), [])
        self.query.waiting.callback(self.query.answer)
        self.assertEqual(self.context.notices, [])

    def test_one_round_at_a_time(self) -> None:
        """However long it takes."""
        self.query.waiting = Deferred()
        self.pass_time(300)
        self.assertEqual((len(self.looks), self.query.asked), (1, 1))
        self.query.waiting.callback({})
        self.query.waiting = None
        self.pass_time(5)
        self.assertEqual(len(self.looks), 2)

    def test_failing_look(self) -> None:
        """Is logged and counted; the next round comes."""
        self.looking = fail(RuntimeError("no"))
        self.pass_time(2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.context.stats.get("reconcile_failures"), 1)
        self.looking = None
        self.runs()
        self.pass_time(60)
        self.assertEqual(self.context.stats.get("adopted_jobs"), 1)

    def test_held_up(self) -> None:
        """After a stop of the whole daemon what has come meanwhile is read first; then what did
        not come is looked for."""
        self.pass_time(10)
        self.clock.advance(1000)
        self.assertEqual((len(self.looks), self.query.asked), (1, 1))
        self.pass_time(3)
        self.assertEqual((len(self.looks), self.query.asked), (2, 2))

    def test_held_up_between_rounds(self) -> None:
        """The next one comes sooner, but not for each stop."""
        self.pass_time(35)
        self.clock.advance(10)
        self.pass_time(3)
        self.assertEqual((len(self.looks), self.query.asked), (2, 2))
        self.clock.advance(10)
        self.pass_time(10)
        self.assertEqual(len(self.looks), 2)
        self.pass_time(GAP_SECONDS)
        self.assertEqual((len(self.looks), self.query.asked), (3, 3))

    def test_always_late(self) -> None:
        """Rounds come all the same."""
        for _ in range(20):
            self.clock.advance(10)
        self.assertGreater(len(self.looks), 3)

    def test_refused(self) -> None:
        """What the core does not take is counted; the rest is done."""
        self.query.answer = {
            "x y": SlurmJob("x y", "RUNNING", 1, start_us=START_US),
            "9": SlurmJob("9", "RUNNING", 1, start_us=START_US),
        }
        self.pass_time(2)
        self.assertEqual(self.context.stats.get("not_adopted"), 1)
        self.assertEqual(self.context.stats.get("adopted_jobs"), 1)

    def test_other_resource_managers(self) -> None:
        """Their jobs are not touched."""
        self.daemon.apply(JobInit("1"), resource_manager="other")
        self.pass_time(300)
        self.assertEqual(self.recorder.of(JobEnded), [])

    def test_stop(self) -> None:
        """Nothing comes any more, and no timer is left."""
        self.pass_time(10)
        self.assertIsNone(self.successResultOf(self.reconciler.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_during_a_query(self) -> None:
        """It is killed; nothing is applied."""
        self.runs()
        self.query.waiting = Deferred()
        self.pass_time(2)
        self.assertIsNone(self.successResultOf(self.reconciler.stop()))
        self.assertEqual((self.query.stopped, self.context.notices), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_while_jobs_are_asked_for(self) -> None:
        """The same."""
        self.daemon.apply(JobInit("7"))
        self.query.waiting_jobs = Deferred()
        self.pass_time(2)
        self.assertIsNone(self.successResultOf(self.reconciler.stop()))
        self.assertEqual((self.query.stopped, self.context.notices), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_during_a_look(self) -> None:
        """It is waited for; nothing is applied."""
        self.runs()
        self.looking = Deferred()
        self.pass_time(2)
        stopping = self.reconciler.stop()
        self.assertNoResult(stopping)
        self.looking.callback(self.view)
        self.successResultOf(stopping)
        self.assertEqual((self.query.asked, self.context.notices), (0, []))

    def test_start_again(self) -> None:
        """After a stop it begins anew."""
        self.pass_time(10)
        self.reconciler.stop()
        self.runs()
        self.start()
        self.pass_time(2)
        self.assertEqual(self.context.stats.get("adopted_jobs"), 1)

    def test_switched_off(self) -> None:
        """With 0 nothing is ever looked at."""
        self.reconciler.stop()
        self.start(reconcile="0")
        self.pass_time(200)
        self.assertEqual(self.looks, [])
        self.successResultOf(self.reconciler.stop())


class WithManager(SynchronousTestCase):
    """In the job manager."""

    def test_on_a_clock(self) -> None:
        """On a test's clock no process is started and no file read."""
        context = FakeJobManagerContext()
        manager = SlurmJobManager(context)
        manager.configure(ATTRIBUTES)
        manager.start()
        self.assertEqual(context.daemon.clock.getDelayedCalls(), [])
        self.successResultOf(manager.stop())
        self.assertEqual(manager.state, "STOPPED")

    def test_bad_nodes(self) -> None:
        """A mistake is told before anything is changed."""
        manager = SlurmJobManager(FakeJobManagerContext())
        error = self.assertRaises(
            ConfigError, manager.configure, {"nodes": "n[1-", "message_channel": "other"}
        )
        self.assertIn("n[1-", str(error))
        self.assertEqual(manager.channels, ("slurm",))


class HostLists(SynchronousTestCase):
    """Slurm's way to write names."""

    def test_lists(self) -> None:
        """Ranges, widths, several brackets, several words."""
        cases: dict[str, Any] = {
            "n1": {"n1"},
            "n[1-3]": {"n1", "n2", "n3"},
            "n[08-10,12],login": {"n08", "n09", "n10", "n12", "login"},
            "r[1-2]n[1-2]": {"r1n1", "r1n2", "r2n1", "r2n2"},
            "n[1-2]-ib": {"n1-ib", "n2-ib"},
        }
        for text, names in cases.items():
            self.assertEqual(expand(text), names, text)

    def test_mistakes(self) -> None:
        """All are told as such."""
        for text in (
            "",
            "n[1",
            "n1]",
            "n[]",
            "n[2-1]",
            "n[a]",
            "a,,b",
            "a b",
            f"n[0-{MAX_NODES}]",
            "n[0-999][0-999]",
            f"n[0-{MAX_NODES - 1}],m",
            f"n[0-{MAX_NODES - 1},0]",
            "n[1-9999999999]",
        ):
            self.assertRaises(ConfigError, expand, text)
