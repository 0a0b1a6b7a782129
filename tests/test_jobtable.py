"""Tests of ldmsjob.jobtable: every cell of the transition table (jobrules), and its invariants."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.events import JobEvent, JobStarted
from ldmsjob.facts import JobDetails, JobKey
from ldmsjob.jobrules import TRANSITIONS, State
from ldmsjob.jobs import Job
from ldmsjob.jobtable import JobTable
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.stats import Stats

S = 1_000_000
RECEIVED = 5_000 * S
WORDS = {
    "JobStarted": "job+",
    "StepStarted": "step+",
    "TaskStarted": "task+",
    "TaskEnded": "task-",
    "StepEnded": "step-",
    "JobEnded": "job-",
    "JobSetDeleted": "gone",
}


def words(events: list[JobEvent]) -> list[str]:
    """Short names of events; implied ones in brackets."""
    names = [WORDS[type(event).__name__] for event in events]
    return [
        f"({name})" if event.origin == "implied" else name
        for name, event in zip(names, events, strict=True)
    ]


class TableCase(SynchronousTestCase):
    """A table, its counters and every event that it posted."""

    def setUp(self) -> None:
        """Begin with an empty table."""
        self.stats = Stats()
        self.table = JobTable(self.stats)
        self.posted: list[JobEvent] = []

    def apply(self, notice: Notice) -> list[str]:
        """Apply a notice; the events that it gave, as words."""
        changes = self.table.apply(notice, RECEIVED, "slurm")
        events = [event for change in changes for event in change.events]
        self.posted += events
        return words(events)

    def job(self, attempt: int = 1, job_id: str = "7") -> Job:
        """The job, which must be known."""
        job = self.table.find(JobKey("slurm", job_id, attempt))
        assert job is not None
        return job

    def run_job(self) -> None:
        """A job with one step and one task, all running since second 10."""
        self.apply(JobInit("7", 10 * S, 100, 200))
        self.apply(StepInit("7", 0, 0, 10 * S, "ann", "run", local_tasks=1))
        self.apply(TaskInit("7", 0, 0, 0, 10 * S, 500, 0))

    def end_job(self) -> None:
        """The same job, ended at second 20 without a word about its task."""
        self.run_job()
        self.apply(JobExit("7", 20 * S))


class UnknownJobTests(TableCase):
    """The row «unknown»: never seen, or its set is gone."""

    def test_init(self) -> None:
        """Opens the job, with what it says and nothing invented."""
        self.assertEqual(self.apply(JobInit("7", 10 * S, 100, 200)), ["job+"])
        facts = self.job().facts
        self.assertEqual((facts.job_id, facts.uid, facts.gid), ("slurm_7", 100, 200))
        self.assertEqual((facts.start_us, facts.end_us, facts.node_count), (10 * S, None, None))
        self.assertFalse(facts.adopted)

    def test_step_init(self) -> None:
        """Adopts: the start is implied, at the time of this first notice, already filled."""
        notice = StepInit("7", 0, 0, 10 * S, "ann", "run", node_count=1, local_tasks=2)
        self.assertEqual(self.apply(notice), ["(job+)", "step+"])
        facts = self.posted[0].facts
        self.assertEqual((facts.start_us, facts.user, facts.local_tasks), (10 * S, "ann", 2))
        self.assertTrue(facts.adopted)

    def test_task_init(self) -> None:
        """Adopts, and takes uid and gid from the task."""
        notice = TaskInit("7", 0, 0, 3, 10 * S, 500, 8, uid=100, gid=200)
        self.assertEqual(self.apply(notice), ["(job+)", "task+"])
        self.assertEqual((self.job().facts.uid, self.job().tasks()[0].rank), (100, 8))

    def test_ends(self) -> None:
        """Ends of what nobody knows open nothing; each is counted by its reason."""
        self.assertEqual(self.apply(TaskExit("7", 0, 0, 0, 0, 10 * S)), [])
        self.assertEqual(self.apply(StepExit("7", 0, 0, 10 * S)), [])
        self.assertEqual(self.apply(JobExit("7", 10 * S)), [])
        self.assertEqual(self.table.jobs(), [])
        self.assertEqual(
            self.stats.values,
            {
                "task_exit_of_unknown_job": 1,
                "step_exit_of_unknown_job": 1,
                "exit_of_unknown_job": 1,
            },
        )

    def test_forgotten(self) -> None:
        """A job whose set is gone is unknown again, and its next run is a first attempt."""
        self.end_job()
        self.table.forget(self.job())
        self.assertEqual(self.apply(JobExit("7", 30 * S)), [])
        self.assertEqual(self.apply(JobInit("7", 40 * S)), ["job+"])
        self.assertEqual(self.posted[-1].key.attempt, 1)


class RunningJobTests(TableCase):
    """The row «running»."""

    def test_init(self) -> None:
        """Fills what is unknown; never a second start, never a new attempt."""
        self.apply(StepInit("7", 0, 0, 10 * S, "ann"))
        self.assertEqual(self.apply(JobInit("7", 90 * S, 100, 200)), [])
        self.assertEqual((self.job().facts.uid, self.job().facts.start_us), (100, 10 * S))
        self.assertEqual(self.apply(JobInit("7", 90 * S, 1, 2)), [])
        self.assertEqual(self.job().facts.uid, 100)
        self.assertEqual(self.stats.get("repeated_init"), 2)

    def test_new_step(self) -> None:
        """A further step starts; the job shows the step announced last."""
        self.run_job()
        self.assertEqual(self.apply(StepInit("7", 1, 0, 11 * S, total_tasks=9)), ["step+"])
        self.assertEqual((self.job().facts.step_id, self.job().facts.total_tasks), (1, 9))

    def test_further_node(self) -> None:
        """A step starts once, however many nodes announce it."""
        self.run_job()
        self.assertEqual(self.apply(StepInit("7", 0, 1, 10 * S, local_tasks=5)), [])
        self.assertEqual(self.job().steps()[0].node_ids, (0, 1))
        self.assertEqual(self.job().expected_tasks, 6)

    def test_repeated_step(self) -> None:
        """The same or a later start of a known step that still runs is counted."""
        self.run_job()
        self.assertEqual(self.apply(StepInit("7", 0, 0, 10 * S, "eve")), [])
        self.assertEqual(self.apply(StepInit("7", 0, 0, 15 * S, "eve")), [])
        self.assertEqual(self.stats.get("repeated_step"), 2)
        self.assertEqual(self.job().facts.user, "ann")

    def test_step_of_next_attempt(self) -> None:
        """A known step that is over and starts again later: the exit between was lost."""
        self.run_job()
        self.apply(TaskExit("7", 0, 0, 0, 0, 12 * S, 500))
        self.assertEqual(
            self.apply(StepInit("7", 0, 0, 15 * S)),
            ["(step-)", "(job-)", "(gone)", "(job+)", "step+"],
        )
        self.assertEqual(self.job(1).facts.end_us, 15 * S)
        self.assertEqual(self.job(2).facts.uid, 100)

    def test_repeated_step_between_start_and_exit(self) -> None:
        """A step init older than the exit of its node is no sign of another run."""
        self.apply(StepInit("7", 0, 0, 10 * S))
        self.apply(StepExit("7", 0, 0, 20 * S))
        self.assertEqual(self.apply(StepInit("7", 0, 0, 15 * S)), [])
        self.assertEqual(self.stats.get("repeated_step"), 1)
        self.assertEqual(self.apply(StepInit("7", 0, 0, 20 * S))[-2:], ["(job+)", "step+"])

    def test_repeated_step_that_is_over(self) -> None:
        """The same start again is a repetition, also when the step's tasks have all ended."""
        self.run_job()
        self.apply(TaskExit("7", 0, 0, 0, 0, 12 * S, 500))
        self.assertEqual(self.apply(StepInit("7", 0, 0, 10 * S)), [])
        self.assertEqual(self.stats.get("repeated_step"), 1)

    def test_later_start_of_a_step_without_tasks(self) -> None:
        """A step of which nothing is known to have ended is not over."""
        self.apply(JobInit("7", 10 * S))
        self.apply(StepInit("7", 0, 0, 10 * S))
        self.assertEqual(self.apply(StepInit("7", 0, 0, 11 * S)), [])
        self.assertEqual(self.apply(StepExit("7", 0, 0, 12 * S)), ["step-"])
        self.assertEqual(self.apply(StepInit("7", 0, 0, 13 * S))[-2:], ["(job+)", "step+"])

    def test_repeated_task(self) -> None:
        """The same task again, whatever its time."""
        self.run_job()
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 0, 10 * S, 500, 0)), [])
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 0, 12 * S, 500, 0)), [])
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 0, 10 * S, 501, 0)), [])
        self.assertEqual(self.stats.get("repeated_task"), 3)
        self.assertEqual(len(self.job().tasks()), 1)

    def test_task_of_next_attempt(self) -> None:
        """A known task with another pid and a later time: what came between was lost."""
        self.run_job()
        self.assertEqual(
            self.apply(TaskInit("7", 0, 0, 0, 15 * S, 501, 0)),
            ["(task-)", "(step-)", "(job-)", "(gone)", "(job+)", "task+"],
        )
        self.assertEqual(self.job(1).tasks()[0].exit_status, -1)

    def test_task_ids_are_local(self) -> None:
        """The same task id on another node or in another step is another task."""
        self.run_job()
        self.assertEqual(self.apply(TaskInit("7", 0, 1, 0, 10 * S, 500, 1)), ["task+"])
        self.assertEqual(self.apply(TaskInit("7", 1, 0, 0, 10 * S, 500, 0)), ["task+"])
        self.assertEqual(self.apply(TaskExit("7", 0, 1, 0, 9, 11 * S, 500)), ["task-"])
        self.assertEqual([task.exit_status for task in self.job().tasks()], [None, 9, None])

    def test_task_exit(self) -> None:
        """Ends the task once."""
        self.run_job()
        self.assertEqual(self.apply(TaskExit("7", 0, 0, 0, 256, 12 * S, 500)), ["task-"])
        self.assertEqual(self.apply(TaskExit("7", 0, 0, 0, 0, 13 * S, 500)), [])
        self.assertEqual(self.job().tasks()[0].exit_status, 256)
        self.assertEqual(self.stats.get("repeated_task_exit"), 1)

    def test_exit_of_unknown_task(self) -> None:
        """Leaves a closed record with unknown start, which a late start then completes."""
        self.run_job()
        self.assertEqual(self.apply(TaskExit("7", 0, 0, 1, 0, 12 * S, 501)), ["(task+)", "task-"])
        task = self.job().tasks()[1]
        self.assertEqual((task.start_us, task.end_us), (None, 12 * S))
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 1, 11 * S, 501, 4)), [])
        task = self.job().tasks()[1]
        self.assertEqual((task.start_us, task.rank, task.end_us), (11 * S, 4, 12 * S))

    def test_exit_of_earlier_attempts_task(self) -> None:
        """An exit with the pid of an earlier attempt's task ends nothing of the present one."""
        self.end_job()
        self.apply(StepInit("7", 0, 0, 20 * S))
        self.apply(TaskInit("7", 0, 0, 0, 20 * S, 600, 0))
        self.assertEqual(self.apply(TaskExit("7", 0, 0, 0, 9, 20 * S, 500)), [])
        self.assertEqual(self.job(1).tasks()[0].exit_status, 9)
        self.assertIsNone(self.job(2).tasks()[0].end_us)

    def test_step_exit(self) -> None:
        """A step ends with its last known node, once; unknown ones are counted."""
        self.run_job()
        self.apply(StepInit("7", 0, 1, 10 * S))
        self.assertEqual(self.apply(StepExit("7", 0, 1, 12 * S)), [])
        self.assertEqual(self.apply(StepExit("7", 0, 1, 12 * S)), [])
        self.assertEqual(self.apply(StepExit("7", 0, 0, 13 * S)), ["step-"])
        self.assertEqual(self.apply(StepExit("7", 5, 0, 13 * S)), [])
        self.assertEqual(self.job().steps()[0].end_us, 13 * S)
        self.assertEqual(self.stats.get("repeated_step_exit"), 1)
        self.assertEqual(self.stats.get("step_exit_of_unknown_step"), 1)

    def test_exit(self) -> None:
        """What is open ends by implication, tasks before steps before the job."""
        self.run_job()
        self.assertEqual(self.apply(JobExit("7", 20 * S)), ["(task-)", "(step-)", "job-", "gone"])
        task = self.job().tasks()[0]
        self.assertEqual((task.end_us, task.exit_status), (20 * S, -1))

    def test_all_tasks_ended(self) -> None:
        """A job whose tasks have all ended still runs."""
        self.run_job()
        self.apply(TaskExit("7", 0, 0, 0, 0, 12 * S, 500))
        self.apply(StepExit("7", 0, 0, 12 * S))
        self.assertFalse(self.job().ended)

    def test_time_of_receipt(self) -> None:
        """A notice without a time happened when it was received."""
        self.assertEqual(self.apply(JobInit("7")), ["job+"])
        self.assertEqual(self.posted[0].source_time_us, RECEIVED)


class LingeringJobTests(TableCase):
    """The row «lingering»: ended, the set still readable."""

    def setUp(self) -> None:
        """A job that ended at second 20."""
        super().setUp()
        self.end_job()

    def test_init(self) -> None:
        """The next attempt; but not for the very init that began this one."""
        self.assertEqual(self.apply(JobInit("7", 10 * S)), [])
        self.assertEqual(self.apply(JobInit("7", 20 * S, 100, 200)), ["job+"])
        self.assertEqual(self.posted[-1].key.attempt, 2)
        self.assertFalse(self.job(2).facts.adopted)

    def test_init_in_the_second_of_an_adopted_start(self) -> None:
        """An adopted job's start was no init, so an init of that second repeats nothing."""
        self.apply(StepInit("8", 0, 0, 10 * S))
        self.apply(JobExit("8", 10 * S))
        self.assertEqual(self.apply(JobInit("8", 10 * S)), ["job+"])

    def test_step_init_in_the_second_of_the_end(self) -> None:
        """The next attempt, adopted; who it belongs to is known from the first."""
        self.assertEqual(self.apply(StepInit("7", 0, 0, 20 * S)), ["(job+)", "step+"])
        facts = self.job(2).facts
        self.assertEqual((facts.uid, facts.gid, facts.user), (100, 200, "ann"))

    def test_late_step_init(self) -> None:
        """An older one fills what is unknown, without an event."""
        self.assertEqual(self.apply(StepInit("7", 3, 0, 19 * S, "eve", node_count=4)), [])
        facts = self.job().facts
        self.assertEqual((facts.user, facts.node_count), ("ann", 4))
        self.assertEqual(self.stats.get("late"), 1)

    def test_repeated_step_init(self) -> None:
        """The same start again is no new attempt, even in the second in which the job ended."""
        self.apply(JobInit("8", 20 * S))
        self.apply(StepInit("8", 0, 0, 20 * S))
        self.apply(JobExit("8", 20 * S))
        self.assertEqual(self.apply(StepInit("8", 0, 0, 20 * S)), [])

    def test_task_init(self) -> None:
        """Not older than the end and not a repetition: the next attempt."""
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 0, 20 * S, 500, 0)), [])
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 0, 20 * S, 600, 0)), ["(job+)", "task+"])

    def test_late_task_init(self) -> None:
        """An older, unknown one leaves a closed record, without an event."""
        self.assertEqual(self.apply(TaskInit("7", 0, 0, 1, 19 * S, 501, 1)), [])
        task = self.job().tasks()[1]
        self.assertEqual((task.start_us, task.end_us, task.exit_status), (19 * S, 20 * S, -1))

    def test_late_task_exit(self) -> None:
        """Completes a task that the job's end had closed, once, without an event."""
        self.assertEqual(self.apply(TaskExit("7", 0, 0, 0, 768, 19 * S, 500)), [])
        self.assertEqual(self.apply(TaskExit("7", 0, 0, 0, 9, 19 * S, 500)), [])
        task = self.job().tasks()[0]
        self.assertEqual((task.end_us, task.exit_status), (19 * S, 768))
        self.assertEqual(self.stats.get("late"), 2)

    def test_ends(self) -> None:
        """Further ends are counted."""
        self.assertEqual(self.apply(StepExit("7", 0, 0, 20 * S)), [])
        self.assertEqual(self.apply(JobExit("7", 21 * S)), [])
        self.assertEqual(self.stats.get("late"), 1)
        self.assertEqual(self.stats.get("repeated_exit"), 1)
        self.assertEqual(self.job().facts.end_us, 20 * S)


class OriginTests(TableCase):
    """Notices that no message brought."""

    def tell(self, notice: Notice) -> list[JobEvent]:
        """Apply a notice that was found out by looking; its events."""
        changes = self.table.apply(notice, RECEIVED, "slurm", "reconciliation")
        return [event for change in changes for event in change.events]

    def test_adopted(self) -> None:
        """A job that was found running is adopted, also with its init."""
        (event,) = self.tell(JobInit("7", 10 * S, 100, 200))
        self.assertEqual((type(event), event.origin), (JobStarted, "reconciliation"))
        self.assertTrue(event.facts.adopted)

    def test_all_events_tell_it(self) -> None:
        """Also those that follow from the notice; the next message's events do not."""
        self.run_job()
        events = self.tell(JobExit("7", 20 * S))
        self.assertEqual(words(events), ["task-", "step-", "job-", "gone"])
        self.assertEqual({event.origin for event in events}, {"reconciliation"})
        self.apply(JobInit("8"))
        self.assertEqual(self.posted[-1].origin, "message")


class IdentityTests(TableCase):
    """Who a job is."""

    def test_details(self) -> None:
        """What is unknown is filled by whoever tells it; what is known stays."""
        self.apply(JobInit("7", 10 * S, details=JobDetails(array_job_id=5, partition="main")))
        self.assertEqual(self.posted[0].facts.details, JobDetails(array_job_id=5, partition="main"))
        later = JobDetails(array_job_id=6, array_task_id=2, account="chem")
        self.apply(StepInit("7", 0, 0, 11 * S, details=later))
        self.assertEqual(
            self.job().facts.details, JobDetails(5, 2, partition="main", account="chem")
        )
        self.apply(JobInit("7", 10 * S, details=JobDetails(restart_count=0)))
        details = self.job().facts.details
        assert details is not None
        self.assertEqual((details.array_task_id, details.restart_count), (2, 0))

    def test_names_in_an_init(self) -> None:
        """Prolog scripts know the job's user and name."""
        self.apply(JobInit("7", 10 * S, user="ann", job_name="run"))
        facts = self.posted[0].facts
        self.assertEqual((facts.user, facts.job_name), ("ann", "run"))

    def test_user_of_a_step(self) -> None:
        """Is believed only while nobody else has told whose job it is: users can set it."""
        self.apply(StepInit("7", 0, 0, 10 * S, user="ann", job_name="a"))
        self.apply(StepInit("7", 1, 0, 11 * S, user="root", job_name="b"))
        facts = self.posted[-1].facts
        self.assertEqual((facts.user, facts.job_name), ("ann", "b"))

    def test_exit_status(self) -> None:
        """Stands in the events of the job's end."""
        self.apply(JobInit("7", 10 * S))
        self.apply(JobExit("7", 20 * S, exit_status=256))
        self.assertEqual([event.facts.exit_status for event in self.posted], [None, 256, 256])


class ReplayTests(TableCase):
    """What a new subscriber is told of the jobs that run."""

    def test_started_events(self) -> None:
        """Start events of the job and of what is open in it, marked as replay."""
        self.run_job()
        self.apply(StepInit("7", 1, 0, 11 * S))
        self.apply(StepExit("7", 1, 0, 12 * S))
        events = self.table.started_events(self.job(), RECEIVED)
        self.assertEqual(words(events), ["job+", "step+", "task+"])
        self.assertEqual({event.origin for event in events}, {"replay"})

    def test_snapshots(self) -> None:
        """An event keeps the facts of its moment."""
        self.run_job()
        self.apply(JobExit("7", 20 * S))
        self.assertIsInstance(self.posted[0], JobStarted)
        self.assertIsNone(self.posted[0].facts.end_us)
        self.assertEqual([e.sequence for e in self.posted], list(range(1, len(self.posted) + 1)))


whole_times = st.integers(0, 30).map(lambda second: second * S)
exact_times = st.integers(0, 300).map(lambda tenth: tenth * S // 10 + 1)
times = st.one_of(st.none(), whole_times, exact_times)
nodes = st.sampled_from([None, None, "a", "b", "c"])
details = st.none() | st.builds(JobDetails, restart_count=st.none() | st.integers(0, 2))
job_ids = st.sampled_from(["1", "2"])
small = st.integers(0, 2)
pids = st.one_of(st.none(), st.integers(500, 504))
counts = st.one_of(st.none(), st.integers(1, 20))
notices = st.one_of(
    st.builds(
        JobInit,
        *(job_ids, times, st.none() | small, st.none() | small, counts),
        node=nodes,
        details=details,
    ),
    st.builds(
        StepInit, job_ids, small, small, times, local_tasks=counts, node=nodes, details=details
    ),
    st.builds(TaskInit, job_ids, small, small, small, times, pids, small),
    st.builds(TaskExit, job_ids, small, small, small, st.integers(0, 65535), times, pids),
    st.builds(StepExit, job_ids, small, small, times),
    st.builds(JobExit, job_ids, times, nodes, st.none() | small),
)


def plain(notice: Notice) -> Notice:
    """The notice as the C notifier would tell it."""
    names = {"node", "details"} & set(notice.__struct_fields__)
    return msgspec.structs.replace(notice, **dict.fromkeys(names))


class InvariantTests(SynchronousTestCase):
    """What holds for any notices in any order, lost, repeated or made up."""

    def test_table_is_complete(self) -> None:
        """Every notice has a rule for every state."""
        self.assertEqual(
            set(TRANSITIONS), {JobInit, StepInit, TaskInit, TaskExit, StepExit, JobExit}
        )
        for rules in TRANSITIONS.values():
            self.assertEqual(len(rules), len(State))

    @given(st.lists(st.one_of(notices, st.sampled_from(["forget"])), max_size=60))
    def test_any_notices(self, story: list[Notice | str]) -> None:
        """Starts and ends pair up, nothing follows a set deletion, set and events can agree."""
        table = JobTable(Stats())
        lives: dict[int, list[JobEvent]] = {}
        handles: list[Job] = []
        last = 0
        for entry in story:
            if isinstance(entry, str):
                for job in [job for job in table.jobs() if job.ended]:
                    table.forget(job)
                continue
            for change in table.apply(entry, RECEIVED, "slurm"):
                job = change.job
                if change.opened:
                    handles.append(job)
                    lives[id(job)] = []
                self.assertEqual(change.opened, any(type(e) is JobStarted for e in change.events))
                for event in change.events:
                    self.assertEqual(event.sequence, last + 1)
                    last += 1
                    lives[id(job)].append(event)
                self.assertGreaterEqual(job.expected_tasks, len(job.task_records))
        for job in handles:
            self.check_life(job, lives[id(job)])
        self.assertLessEqual(len(table.running()), 2)

    def check_life(self, job: Job, events: list[JobEvent]) -> None:
        """The events of one attempt."""
        kinds = [WORDS[type(event).__name__] for event in events]
        self.assertEqual(kinds[0], "job+")
        self.assertEqual(Counter(kinds)["job+"], 1)
        self.assertEqual("job-" in kinds, job.ended)
        if job.ended:
            self.assertEqual(kinds[-2:], ["job-", "gone"])
            self.assertEqual(Counter(kinds)["job-"] + Counter(kinds)["gone"], 2)
        for start, end in (("step+", "step-"), ("task+", "task-")):
            begun: set[object] = set()
            over: set[object] = set()
            for kind, event in zip(kinds, events, strict=True):
                if kind not in (start, end):
                    continue
                what = getattr(event, start[:-1])
                key = what.step_id
                if start == "task+":
                    key = (what.step_id, what.node_id, what.task_id)
                seen = begun if kind == start else over
                self.assertNotIn(key, seen)
                seen.add(key)
                self.assertLessEqual(over, begun)
            if job.ended:
                self.assertEqual(begun, over)
        keys = [(task.step_id, task.node_id, task.task_id) for task in job.tasks()]
        self.assertEqual(len(keys), len(set(keys)))
        self.assertEqual([task.position for task in job.task_records], list(range(len(keys))))

    @given(st.lists(notices, max_size=25))
    def test_repetition_changes_nothing(self, story: list[Notice]) -> None:
        """A story in which each notice is said twice at once gives the events of the story.

        It names no nodes and restart counts: with those, what only seems to be repeated may tell of
        another run, as tests/test_jobtable_stories.py has it.
        """
        story = [plain(notice) for notice in story]
        once, twice = JobTable(Stats()), JobTable(Stats())
        single: list[tuple[object, ...]] = []
        double: list[tuple[object, ...]] = []
        for notice in story:
            for table, events in ((once, single), (twice, double), (twice, double)):
                for change in table.apply(notice, RECEIVED, "slurm"):
                    events += [(type(e), e.key, e.facts, e.sequence) for e in change.events]
        self.assertEqual(single, double)
