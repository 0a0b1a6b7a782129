"""Jobs come back from the journal as they would be if the daemon had never ended."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import execute, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.events import EVENT_WORDS, JobStarted
from ldmsjob.facts import JobDetails, Origin
from ldmsjob.jobs import Job
from ldmsjob.jobservice import JobService
from ldmsjob.jobsets import JobSetPolicy
from ldmsjob.journal.journal import Journal
from ldmsjob.journal.records import decode_turns
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.stats import Stats
from ldmsjob.testing import EventRecorder
from ldmsjob.turns import Turn
from ldmsjob.users import Users

START = 1_000_000
POLICY = JobSetPolicy.from_attributes({"owner": "job", "details": "true"})

_ids = st.sampled_from(("1", "2", "3"))
_small = st.integers(0, 2)
_times = st.none() | st.integers(0, 20).map(lambda n: START * 1_000_000 + n * 250_000)
_pids = st.none() | st.integers(100, 104)
_nodes = st.none() | st.sampled_from(("n1", "n2"))
_origins: st.SearchStrategy[Origin] = st.sampled_from(("message",) * 9 + ("reconciliation",))
_pauses = st.sampled_from((0.0,) * 9 + (60.0,))
_details = st.none() | st.builds(
    JobDetails, restart_count=st.none() | _small, partition=st.none() | st.just("main")
)
notices = st.one_of(
    st.builds(JobInit, _ids, _times, uid=st.none() | _small, node=_nodes, details=_details),
    st.builds(
        *(StepInit, _ids, _small, _small, _times),
        local_tasks=_small,
        node=_nodes,
        details=_details,
    ),
    st.builds(TaskInit, _ids, _small, _small, _small, _times, pid=_pids),
    st.builds(TaskExit, _ids, _small, _small, _small, st.just(256), _times, pid=_pids),
    st.builds(StepExit, _ids, _small, _small, _times),
    st.builds(JobExit, _ids, _times, node=_nodes, exit_status=st.none() | st.just(3)),
)


class Life:
    """The jobs of one daemon after another, on one journal, and the events of all."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.clock = Clock()
        self.clock.advance(START)
        self.journal: Journal | None = None
        self.seen: list[tuple[Any, ...]] = []
        self.begin()

    def begin(self, **policies: JobSetPolicy) -> tuple[int, int]:
        """A new daemon; what it recovered."""
        turn, stats = Turn(), Stats()
        if self.path is not None:
            self.journal = Journal(
                self.path,
                turn,
                self.clock,
                stats,
                max_age_seconds=1e9,
                max_bytes=1 << 40,
                in_thread=execute,
                wall_clock_us=self.now_us,
            )
            self.journal.open()
        self.registry = SetRegistry()
        self.jobs = JobService(
            self.registry,
            turn,
            self.clock,
            stats,
            "node-1",
            wall_clock_us=self.now_us,
            users=Users(self.clock, maybeDeferred, name_of=lambda uid: f"user{uid}"),
            journal=self.journal,
        )
        recovered = self.jobs.recover(policies or {"jm": POLICY})
        self.jobs.subscribe(EventRecorder(self.see), name="see")
        return recovered

    def see(self, event: Any) -> None:
        """Write down what an event says."""
        step, task = getattr(event, "step", None), getattr(event, "task", None)
        word = EVENT_WORDS[type(event)]
        self.seen.append((event.key, word, event.sequence, event.source_time_us, step, task))

    def end(self) -> None:
        """The daemon dies: nothing is said to anybody."""
        assert self.journal is not None
        self.journal.close()

    def apply(self, notice: Notice, origin: Origin = "message") -> None:
        """A notice comes, a while after the last one."""
        self.clock.advance(0.25)
        self.jobs.apply(notice, self.now_us(), "slurm", POLICY, origin, "jm")

    def now_us(self) -> int:
        """The wall clock in microseconds."""
        return int(self.clock.seconds() * 1e6)

    def state(self) -> list[Any]:
        """All that is known of the jobs."""
        return [described(job) for job in self.jobs.jobs()]

    def sets(self) -> dict[str, Any]:
        """The values of all sets."""
        return {
            found.instance: decode_set(found.meta_bytes(), found.data_bytes()).values()
            for found in self.registry
        }


def described(job: Job) -> tuple[Any, ...]:
    """A job as others see it, but for the fact that it was recovered."""
    facts = msgspec.structs.replace(job.facts, recovered=False)
    return job.key, facts, job.ended, job.steps(), job.tasks()


class RecoveryTests(SynchronousTestCase):
    """A daemon that ends after any notice, and the next one."""

    def path(self) -> str:
        """Where a journal may be."""
        return os.path.join(self.mktemp(), "journal.sqlite")

    @given(
        st.lists(st.tuples(notices, _origins, _pauses), max_size=25),
        st.lists(st.integers(0, 25), max_size=3),
    )
    @settings(deadline=None)
    def test_as_without_an_end(
        self, told: list[tuple[Notice, Origin, float]], ends: list[int]
    ) -> None:
        """Jobs, sets, events and their numbers are those of one daemon that never ended; and the
        journal has every event once, in order. Lingers begin anew, so none is over meanwhile,
        or all are."""
        whole, parts = Life(None), Life(self.path())
        for number, (notice, origin, pause) in enumerate(told):
            for life in (whole, parts):
                life.clock.advance(pause)
                life.apply(notice, origin)
            for _ in range(ends.count(number)):
                parts.end()
                parts.begin()
            self.assertEqual(parts.state(), whole.state())
        self.assertEqual(parts.seen, whole.seen)
        self.assertEqual(parts.sets(), whole.sets())
        assert parts.journal is not None and parts.journal._file is not None
        parts.journal.flush()
        kept = [
            (event.word, event.sequence, event.source_time_us, event.step, event.task)
            for (data,) in parts.journal._file._all("SELECT notices FROM turns ORDER BY number")
            for notice in decode_turns(data)
            for event in notice.events()
        ]
        self.assertEqual(kept, [event[1:] for event in whole.seen])
        parts.end()

    def test_what_shows_in_no_event(self) -> None:
        """A step on two nodes ends when the second ends, though the first did before."""
        life = Life(self.path())
        for notice in (StepInit("1", 0, 0), StepInit("1", 0, 1), StepExit("1", 0, 0)):
            life.apply(notice)
        life.end()
        life.begin()
        life.apply(StepExit("1", 0, 1))
        self.assertEqual(life.seen[-1][1], "step_ended")

    def test_recovered(self) -> None:
        """A recovered job says so, to those who ask for what runs, too."""
        life = Life(self.path())
        life.apply(JobInit("1"))
        life.apply(TaskInit("1", 0, 0, 0))
        life.end()
        self.assertEqual(life.begin(), (1, 0))
        (job,) = life.jobs.jobs()
        self.assertTrue(job.facts.recovered)
        late = EventRecorder()
        life.jobs.subscribe(late, name="late", replay=True)
        self.assertEqual([event.origin for event in late.events], ["recovery", "recovery"])
        self.assertIsInstance(late.events[0], JobStarted)

    def test_attempt_that_another_one_ended(self) -> None:
        """What came for the next attempt has ended it: it does not run again."""
        life = Life(self.path())
        for count in (0, 1):
            life.apply(JobInit("1", details=JobDetails(restart_count=count)))
        life.end()
        life.begin()
        self.assertEqual([job.ended for job in life.jobs.jobs()], [True, False])
        self.assertEqual(sorted(life.sets()), ["node-1/job_slurm_1", "node-1/job_slurm_1.2"])

    def test_late_notice_of_an_attempt(self) -> None:
        """A notice of an earlier attempt, which came when there was a later one, begins none."""
        life, whole = Life(self.path()), Life(None)
        for one in (life, whole):
            one.apply(JobInit("1"))
            one.apply(TaskInit("1", 0, 0, 0, pid=5))
            one.apply(JobExit("1"))
            one.apply(TaskInit("1", 0, 0, 0, pid=6))
            one.apply(TaskExit("1", 0, 0, 0, 256, pid=5))
        life.end()
        life.begin()
        self.assertEqual(life.state(), whole.state())
        self.assertEqual(len(life.state()), 2)

    def test_numbers_go_on_without_a_job(self) -> None:
        """Events are numbered on, also when no job is left to come back."""
        life = Life(self.path())
        life.apply(JobInit("1"))
        life.apply(JobExit("1"))
        life.clock.advance(60)
        life.end()
        self.assertEqual(life.begin(), (0, 0))
        life.apply(JobInit("2"))
        self.assertEqual([event[2] for event in life.seen], [1, 2, 3, 4])

    def test_dropped(self) -> None:
        """Jobs of a job manager that was terminated do not come back; what is told of them when
        there is another one begins them anew, once."""
        life = Life(self.path())
        life.apply(JobInit("1"))
        life.jobs.drop_jobs(POLICY)
        life.apply(TaskInit("1", 0, 0, 0))
        life.end()
        self.assertEqual(life.begin(), (1, 0))
        (job,) = life.jobs.jobs()
        self.assertTrue(job.adopted)

    def test_begun_anew(self) -> None:
        """Of two jobs of one key, which a daemon leaves that could not read what there was, the
        newer one comes back and the other one has ended."""
        life = Life(self.path())
        life.apply(JobInit("1"))
        life.jobs._table.forget(life.jobs.jobs()[0])
        life.apply(TaskInit("1", 0, 0, 0))
        life.end()
        self.assertEqual(life.begin(), (1, 0))
        (job,) = life.jobs.jobs()
        self.assertEqual((job.adopted, len(job.tasks())), (True, 1))
        life.end()
        life.begin()
        self.assertEqual(len(life.jobs.jobs()), 1)

    def test_looked_up(self) -> None:
        """What was looked up need not be looked up again."""
        life = Life(self.path())
        life.apply(StepInit("1", 0, 0, uid=5))
        life.end()
        life.begin()
        self.assertEqual(life.jobs.jobs()[0].facts.user, "user5")

    def test_job_manager_that_is_gone(self) -> None:
        """Its jobs are left out, and do not come back when it does."""
        life = Life(self.path())
        life.apply(JobInit("1"))
        life.end()
        self.assertEqual(life.begin(other=POLICY), (0, 1))
        life.end()
        life.clock.advance(60)
        self.assertEqual(life.begin(), (0, 0))

    def test_linger(self) -> None:
        """The set of a job that ended a short while ago lingers anew, and then goes."""
        life = Life(self.path())
        life.apply(JobInit("1"))
        life.apply(JobExit("1"))
        life.clock.advance(5)
        life.end()
        self.assertEqual(life.begin(), (1, 0))
        life.apply(JobInit("1", uid=5, time_us=1))  # late: it writes the job's row again
        self.assertEqual(list(life.sets()), ["node-1/job_slurm_1"])
        life.clock.advance(10)
        self.assertEqual((life.sets(), life.state()), ({}, []))
        life.end()
        self.assertEqual(life.begin(), (0, 0))
