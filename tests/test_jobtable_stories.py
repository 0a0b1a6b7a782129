"""Stories of jobs as Slurm's notifier and ours tell them, mixed, late, repeated and with gaps.

What happens is made up first, with exact times. Slurm's notifier then tells it in whole seconds,
without nodes and restart counts; ours with all of it. Each tells in order; how far the one is
behind the other is arbitrary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.events import (
    JobEnded,
    JobEvent,
    JobSetDeleted,
    JobStarted,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
)
from ldmsjob.facts import JobDetails
from ldmsjob.jobtable import JobTable
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.stats import Stats

S = 1_000_000
RECEIVED = 5_000 * S
PAIRS = (
    (JobStarted, JobEnded),
    (JobStarted, JobSetDeleted),
    (StepStarted, StepEnded),
    (TaskStarted, TaskEnded),
)


class Run:
    """One run of job 7: two lists of notices that tell it."""

    def __init__(self, random: Random, begin_us: int, restart_count: int, first_pid: int) -> None:
        self.now_us = begin_us
        self.by_slurm: list[Notice] = []
        self.by_us: list[Notice] = []
        self.tasks = 0
        self.steps: int = random.randint(0, 2)
        nodes = ["n1", "n2"][: random.randint(1, 2)]
        has_init = restart_count == 0 or self.steps == 0 or random.random() < 0.5
        details = JobDetails(restart_count=restart_count)
        known = details if restart_count else None
        if has_init:
            for node in nodes:
                self.tell(random, JobInit("7"), {"node": node, "details": details})
        for step in range(self.steps):
            where = nodes[: random.randint(1, len(nodes))]
            for node_id, node in enumerate(where):
                more = {"node": node, "details": known}
                self.tell(random, StepInit("7", step, node_id, local_tasks=1), more)
            pids = []
            for node_id in range(len(where)):
                pids.append(first_pid + self.tasks)
                self.tasks += 1
                self.tell(random, TaskInit("7", step, node_id, 0, pid=pids[-1]), {})
            for node_id, pid in enumerate(pids):
                self.tell(random, TaskExit("7", step, node_id, 0, 0, pid=pid), {})
            for node_id in range(len(where)):
                self.tell(random, StepExit("7", step, node_id), {})
        for node in nodes:
            self.tell(random, JobExit("7"), {"node": node})

    def tell(self, random: Random, notice: Notice, more: dict[str, Any]) -> None:
        """Something happens a while later; both notifiers tell it, ours a bit after the other."""
        self.now_us += random.choice([1_000, 40_000, 700_000, 3 * S])
        values = {name: getattr(notice, name) for name in notice.__struct_fields__}
        whole = dict(values, time_us=self.now_us - self.now_us % S)
        self.by_slurm.append(type(notice)(**whole))
        self.now_us += random.choice([7, 50_000])
        self.by_us.append(type(notice)(**dict(values, time_us=self.now_us, **more)))


class Story:
    """Up to three runs of job 7, and what the table made of them."""

    def __init__(self, random: Random, gaps_us: Sequence[int]) -> None:
        self.runs: list[Run] = []
        begin_us = 1_000 * S + random.randint(1, 999_999)
        for restart_count in range(random.randint(1, 3)):
            run = Run(random, begin_us, restart_count, 500 + 100 * restart_count)
            self.runs.append(run)
            begin_us = run.now_us + random.choice(gaps_us)
        self.table = JobTable(Stats())
        self.events: list[JobEvent] = []
        self.told: list[Notice] = []

    def tell(self, notice: Notice) -> None:
        """Apply a notice."""
        self.told.append(notice)
        for change in self.table.apply(notice, RECEIVED, "slurm"):
            self.events += change.events

    @property
    def by_us(self) -> list[Notice]:
        """All that ours tells."""
        return [notice for run in self.runs for notice in run.by_us]


class StoryTests(SynchronousTestCase):
    """What the table makes of stories."""

    def check(self, story: Story) -> None:
        """Every event of every attempt once, in pairs, and not one that did not happen."""
        told: dict[object, Counter[type]] = {}
        over: set[object] = set()
        for event in story.events:
            self.assertNotIn(event.key, over)
            if type(event) is JobSetDeleted:
                over.add(event.key)
            what: object = None
            if isinstance(event, StepStarted | StepEnded):
                what = event.step.step_id
            elif isinstance(event, TaskStarted | TaskEnded):
                task = event.task
                what = (task.step_id, task.node_id, task.task_id)
            kinds = told.setdefault((event.key, what), Counter())
            kinds[type(event)] += 1
            self.assertEqual(kinds[type(event)], 1)
        kinds = Counter(type(event) for event in story.events)
        self.assertLessEqual(kinds[JobStarted], len(story.runs))
        self.assertLessEqual(kinds[StepStarted], sum(run.steps for run in story.runs))
        self.assertLessEqual(kinds[TaskStarted], sum(run.tasks for run in story.runs))
        self.assertEqual(story.table.running(), [])
        for start, end in PAIRS:
            self.assertEqual(kinds[start], kinds[end])

    @given(st.integers(0, 2**32).map(Random))
    def test_our_notifier_alone(self, random: Random) -> None:
        """Each run is one attempt with all its tasks, and repetitions change nothing."""
        story = Story(random, [400_000, 900_000, 5 * S])
        for notice in story.by_us:
            story.tell(notice)
            if random.random() < 0.5:
                story.tell(random.choice(story.told))
        self.check(story)
        kinds = Counter(type(event) for event in story.events)
        self.assertEqual(kinds[JobStarted], len(story.runs))

    @given(st.integers(0, 2**32).map(Random))
    def test_both_notifiers(self, random: Random) -> None:
        """They tell of the same runs, though the one is behind the other, by up to a run.

        The runs lie more than a second apart. If not, whole seconds do not always tell them apart.
        """
        story = Story(random, [1_100_000, 5 * S])
        by_slurm = [(index, one) for index, run in enumerate(story.runs) for one in run.by_slurm]
        by_us = [(index, one) for index, run in enumerate(story.runs) for one in run.by_us]
        begun = {id(by_slurm): 0, id(by_us): 0}
        while by_slurm or by_us:
            first, other = random.sample([by_slurm, by_us], 2)
            for _ in range(random.randint(1, 8)):
                if first and not (other and first[0][0] > begun[id(other)]):
                    begun[id(first)] = first[0][0] + 1
                    story.tell(first.pop(0)[1])
            repeated = [one for one in story.told if one.time_us and one.time_us % S]
            if repeated and random.random() < 0.2:
                story.tell(random.choice(repeated))
        self.check(story)
