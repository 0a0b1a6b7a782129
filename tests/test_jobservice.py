"""Tests of ldmsjob.jobservice: table, sets, subscribers and user lookups together."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.events import JobEvent, JobStarted, TaskStarted
from ldmsjob.facts import JobKey
from ldmsjob.jobservice import JobService
from ldmsjob.jobsets import JobSetPolicy
from ldmsjob.notices import JobExit, JobInit, Notice, StepInit, TaskExit, TaskInit
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.stats import Stats
from ldmsjob.testing import EventRecorder, FakeDaemon
from ldmsjob.turns import Turn
from ldmsjob.users import Users
from tests.test_recovery import Life

S = 1_000_000


class ServiceCase(SynchronousTestCase):
    """The service of a daemon without a network."""

    def setUp(self) -> None:
        """Two known users."""
        self.daemon = FakeDaemon(users={"ann": (1000, 100), "root": (0, 0)})
        self.jobs = self.daemon.jobs

    def apply(self, *notices: Notice) -> None:
        """Apply notices."""
        for notice in notices:
            self.daemon.apply(notice)

    def values(self, job_id: str = "1") -> dict[str, Any]:
        """The values of a job's set."""
        return self.daemon.values(f"node-1:411/job_slurm_{job_id}")


class EventTests(ServiceCase):
    """Events and sets."""

    def test_set_shows_the_change_first(self) -> None:
        """When an event is delivered, the job's set shows it already."""
        seen: list[Any] = []

        def look(event: JobEvent) -> None:
            metric_set = event.job.metric_set
            values = decode_set(metric_set.meta_bytes(), metric_set.data_bytes()).values()
            tasks = [element.value["task_end"] for element in values["task_list"]]
            seen.append((type(event).__name__, values["job_end"], tasks))

        self.jobs.subscribe(EventRecorder(look), name="look")
        self.apply(
            JobInit("1", 5 * S), TaskInit("1", 0, 0, 0, 6 * S), TaskInit("1", 0, 0, 1, 6 * S)
        )
        self.apply(TaskExit("1", 0, 0, 0, 0, 7 * S), JobExit("1", 8 * S))
        self.assertEqual(
            seen,
            [
                ("JobStarted", 0, []),
                ("TaskStarted", 0, [0]),
                ("TaskStarted", 0, [0, 0]),
                ("TaskEnded", 0, [7 * S, 0]),
                ("TaskEnded", 8 * S, [7 * S, 8 * S]),
                ("JobEnded", 8 * S, [7 * S, 8 * S]),
                ("JobSetDeleted", 8 * S, [7 * S, 8 * S]),
            ],
        )

    def test_two_attempts_in_one_notice(self) -> None:
        """A notice that ends one attempt and begins the next shows both before any event."""
        names: list[list[str]] = []

        def look(event: JobEvent) -> None:
            names.append(self.daemon.registry.names())

        self.jobs.subscribe(EventRecorder(look), name="look")
        self.apply(JobInit("1", 5 * S), TaskInit("1", 0, 0, 0, 6 * S, 77))
        names.clear()
        self.apply(TaskInit("1", 0, 0, 0, 60 * S, 78))
        both = ["node-1:411/job_slurm_1", "node-1:411/job_slurm_1.2"]
        self.assertEqual(names, [both] * 5)

    def test_replay(self) -> None:
        """A late subscriber hears of what runs, then of what happens: no gap and nothing twice."""
        self.apply(JobInit("1", 5 * S), JobInit("2", 6 * S), JobInit("3", 7 * S))
        self.apply(StepInit("1", 0, 0, 8 * S), TaskInit("1", 0, 0, 0, 9 * S))
        self.apply(TaskInit("1", 0, 0, 1, 9 * S), TaskExit("1", 0, 0, 1, 0, 9 * S))
        self.apply(JobExit("2", 10 * S))
        recorder = self.daemon.record(replay=True)
        self.assertEqual(
            [(type(event).__name__, event.key.job_id, event.origin) for event in recorder.events],
            [
                ("JobStarted", "1", "replay"),
                ("StepStarted", "1", "replay"),
                ("TaskStarted", "1", "replay"),
                ("JobStarted", "3", "replay"),
            ],
        )
        recorder.events.clear()
        self.apply(TaskExit("1", 0, 0, 0, 0, 11 * S))
        self.assertEqual(recorder.names, ["TaskEnded"])

    def test_replay_from_inside_an_event(self) -> None:
        """A subscriber made in an event gets what the table knows, and only later events live."""
        late = EventRecorder()

        def subscribe(event: JobEvent) -> None:
            if type(event) is JobStarted:
                self.jobs.subscribe(late, name="late", replay=True)

        self.jobs.subscribe(EventRecorder(subscribe), name="first")
        self.apply(TaskInit("1", 0, 0, 0, 9 * S))
        self.assertEqual(late.names, ["JobStarted", "TaskStarted"])
        self.assertEqual({event.origin for event in late.events}, {"replay"})
        self.apply(TaskInit("1", 0, 0, 1, 9 * S))
        self.assertEqual(len(late.of(TaskStarted)), 2)

    def test_applying_from_inside_an_event(self) -> None:
        """What a subscriber causes comes behind what caused it, for everybody."""

        def cause(event: JobEvent) -> None:
            if type(event) is TaskStarted:
                self.apply(JobExit("1", 10 * S))

        self.jobs.subscribe(EventRecorder(cause), name="cause")
        recorder = self.daemon.record()
        self.apply(TaskInit("1", 0, 0, 0, 9 * S))
        self.assertEqual(
            recorder.names, ["JobStarted", "TaskStarted", "TaskEnded", "JobEnded", "JobSetDeleted"]
        )
        sequences = [event.sequence for event in recorder.events]
        self.assertEqual(sequences, sorted(set(sequences)))

    def test_facts_are_of_the_event(self) -> None:
        """An event that waits shows the job as it was, and its job as it is."""
        gate: Deferred[None] = Deferred()
        recorder = EventRecorder(lambda event: gate if event.sequence == 1 else None)
        self.jobs.subscribe(recorder, name="slow")
        self.apply(JobInit("1", 5 * S), TaskInit("1", 0, 0, 0, 6 * S), JobExit("1", 7 * S))
        gate.callback(None)
        task_started = recorder.of(TaskStarted)[0]
        self.assertIsNone(task_started.facts.end_us)
        self.assertIsNone(task_started.task.end_us)
        self.assertEqual(task_started.job.facts.end_us, 7 * S)

    def test_slow_subscriber_delays_nobody(self) -> None:
        """Sets and other subscribers do not wait for one that does not finish; it is told."""
        slow = EventRecorder(lambda event: Deferred())
        self.jobs.subscribe(slow, name="slow")
        other = self.daemon.record()
        for number in range(6000):
            self.apply(JobInit(str(number), 5 * S), JobExit(str(number), 6 * S))
        self.assertEqual(len(other.events), 18_000)
        self.assertEqual(len(slow.events), 1)
        self.assertEqual(
            self.daemon.stats.child("subscribers").child("slow").get("lost"), 18_000 - 1 - 10_000
        )

    def test_turn_around_several_events(self) -> None:
        """What a notice without a turn gives is one turn, so that it can be written at once."""
        ends: list[int] = []
        recorder = EventRecorder(lambda event: self.daemon.turn.at_end(note) and None)

        def note() -> None:
            ends.append(len(recorder.events))

        self.jobs.subscribe(recorder, name="turns")
        self.apply(JobInit("1", 5 * S), JobExit("1", 6 * S))
        self.assertEqual(ends, [1, 3])


class JobTests(ServiceCase):
    """Finding jobs, and their end."""

    def test_jobs(self) -> None:
        """Jobs are found while they run or linger."""
        self.apply(JobInit("1", 5 * S), JobInit("2", 5 * S), JobExit("1", 6 * S))
        self.assertEqual([job.key.job_id for job in self.jobs.jobs()], ["1", "2"])
        self.daemon.advance(10)
        self.assertIsNone(self.jobs.find_job(JobKey("slurm", "1")))
        job = self.jobs.find_job(JobKey("slurm", "2"))
        assert job is not None
        self.assertFalse(job.ended)

    def test_resource_managers_do_not_mix(self) -> None:
        """The same id under two resource managers is two jobs."""
        self.apply(JobInit("1", 5 * S))
        self.daemon.apply(JobInit("1", 6 * S), resource_manager="flux")
        self.assertEqual(
            self.daemon.registry.names(), ["node-1:411/job_flux_1", "node-1:411/job_slurm_1"]
        )

    def test_drop_jobs(self) -> None:
        """Jobs of one policy are forgotten without events; those of another stay."""
        policy = JobSetPolicy()
        recorder = self.daemon.record()
        self.apply(JobInit("1", 5 * S))
        for number in "23":
            self.daemon.apply(JobInit(number, 5 * S), policy=policy)
        self.daemon.apply(JobExit("3", 6 * S), policy=policy)
        events = len(recorder.events)
        self.jobs.drop_jobs(policy)
        self.assertEqual([job.key.job_id for job in self.jobs.jobs()], ["1"])
        self.assertEqual(self.daemon.registry.names(), ["node-1:411/job_slurm_1"])
        self.assertEqual(len(recorder.events), events)
        self.assertEqual(self.daemon.stats.child("jobs").get("dropped"), 1)
        self.assertEqual(self.daemon.clock.getDelayedCalls(), [])

    def test_close(self) -> None:
        """What is queued is delivered, everybody has his last call, and no timer is left."""
        gate: Deferred[None] = Deferred()
        slow = EventRecorder(lambda event: gate)
        self.jobs.subscribe(slow, name="slow")
        recorder = self.daemon.record()
        self.apply(JobInit("1", 5 * S), JobExit("1", 6 * S))
        closed = self.jobs.close()
        self.assertNoResult(closed)
        self.assertEqual((recorder.closed, slow.closed), (1, 0))
        gate.callback(None)
        self.successResultOf(closed)
        self.assertEqual((len(slow.events), slow.closed), (3, 1))
        self.assertEqual(self.daemon.clock.getDelayedCalls(), [])

    def test_memory(self) -> None:
        """Nothing is remembered of jobs that are gone."""
        for number in range(100):
            self.apply(JobInit(str(number), 5 * S), JobExit(str(number), 6 * S))
            self.daemon.advance(11)
        self.assertEqual(self.jobs.jobs(), [])
        self.assertEqual(len(self.daemon.registry), 0)


class UserTests(ServiceCase):
    """What notices do not tell is looked up."""

    def test_name_at_the_end(self) -> None:
        """A job that ran no step has its user's name at its end, by its uid."""
        self.apply(JobInit("1", 5 * S, 1000, 100))
        self.assertEqual(self.values()["user"], "")
        self.apply(JobExit("1", 6 * S))
        self.assertEqual(self.values()["user"], "ann")

    def test_name_that_was_told_stays(self) -> None:
        """A name from a notice is not looked up."""
        self.apply(
            JobInit("1", 5 * S, 1000, 100), StepInit("1", 0, 0, 6 * S, "bob"), JobExit("1", 7 * S)
        )
        self.assertEqual(self.values()["user"], "bob")

    def test_ids_of_an_adopted_job(self) -> None:
        """A job whose beginning was missed has its user's ids, by the user's name, at once."""
        self.apply(StepInit("1", 0, 0, 6 * S, "ann"))
        values = self.values()
        self.assertEqual((values["job_uid"], values["job_gid"]), (1000, 100))
        job = self.jobs.jobs()[0]
        self.assertTrue(job.facts.adopted)

    def test_owner_of_an_adopted_job(self) -> None:
        """Then its set can belong to its user."""
        self.daemon.apply(StepInit("1", 0, 0, 6 * S, "ann"), policy=JobSetPolicy(owned_by_job=True))
        self.assertEqual(self.daemon.decoded("node-1:411/job_slurm_1").uid, 1000)

    def test_root(self) -> None:
        """uid 0 is a user like others."""
        self.apply(JobInit("1", 5 * S, 0, 0), JobExit("1", 6 * S))
        self.assertEqual(self.values()["user"], "root")

    def test_unknown_user(self) -> None:
        """Nobody of that uid: the name stays empty."""
        self.apply(JobInit("1", 5 * S, 7, 7), JobExit("1", 6 * S))
        self.assertEqual(self.values()["user"], "")

    def test_answer_that_comes_too_late(self) -> None:
        """An answer is dropped when the set is gone, and touches no later job of that id."""
        answers: list[Deferred[Any]] = []

        def in_thread(function: Any, question: Any) -> Deferred[Any]:
            answers.append(Deferred())
            return answers[-1]

        clock = Clock()
        registry = SetRegistry()
        service = JobService(registry, Turn(), clock, Stats(), "n", users=Users(clock, in_thread))
        policy = JobSetPolicy()
        for notice in (JobInit("1", 5 * S, 1000, 100), JobExit("1", 6 * S)):
            service.apply(notice, 6 * S, "slurm", policy)
        clock.advance(10)
        service.apply(JobInit("1", 30 * S, 1001, 100), 30 * S, "slurm", policy)
        answers[0].callback("ann")
        self.assertIsNone(service.jobs()[0].facts.user)

    def test_lookup_in_a_thread_by_default(self) -> None:
        """Without lookups of its own the service asks in a thread of the reactor."""
        service = JobService(SetRegistry(), Turn(), Clock(), Stats(), "n")
        self.assertEqual(service._users._in_thread.__name__, "deferToThread")


class JournalTests(SynchronousTestCase):
    """What the service has the journal remember."""

    def test_jobs_that_are_gone(self) -> None:
        """Nothing, or its memory would grow with every job."""
        life = Life(os.path.join(self.mktemp(), "journal.sqlite"))
        assert life.journal is not None
        self.addCleanup(life.end)
        for job_id in ("1", "2"):
            life.apply(JobInit(job_id))
        life.apply(JobExit("1"))
        self.assertEqual(len(life.journal._collector._known), 2)
        life.clock.advance(60)
        self.assertEqual([job.key.job_id for job in life.journal._collector._known], ["2"])
