"""Tests of ldmsjob.jobsets: what peers read of a job."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob import jobsets
from ldmsjob.errors import ConfigError
from ldmsjob.facts import JobDetails, JobKey
from ldmsjob.jobs import Job
from ldmsjob.jobschema import job_set_schema
from ldmsjob.jobsets import (
    JOB_SET_ATTRIBUTES,
    MAX_ANNOUNCED_TASKS,
    JobSetPolicy,
    JobSets,
)
from ldmsjob.jobtable import JobTable
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.loader import check_attributes
from ldmsjob.notices import JobExit, JobInit, Notice, StepInit, TaskExit, TaskInit
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.decoded import DecodedSet
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.registry import Offer, SetRegistry
from ldmsjob.stats import Stats

S = 1_000_000
NOW = 1_800_000_000 * S
VECTOR = Path(__file__).parent / "vectors" / "sets" / "set-jobset.json"


class JobSetsCase(SynchronousTestCase):
    """A job table whose changes are written into sets."""

    daemon_name = "nodeJ"

    def setUp(self) -> None:
        """Begin without jobs."""
        self.clock = Clock()
        self.stats = Stats()
        self.registry = SetRegistry()
        self.changes: list[tuple[str, str]] = []
        self.registry.observe(lambda change, offer: self.changes.append((change, offer.instance)))
        self.table = JobTable(Stats())
        self.policy = JobSetPolicy()
        self.make_sets()

    def make_sets(self, daemon_name: str = "nodeJ") -> None:
        """New job sets, on the same registry."""
        self.sets = JobSets(
            self.registry,
            self.clock,
            self.stats,
            LimitedLog(Logger(namespace="test")),
            daemon_name,
            self.table.forget,
            lambda: NOW,
            most_lingering=100,
        )

    def apply(self, *notices: Notice, now_us: int = NOW) -> None:
        """Apply notices."""
        for notice in notices:
            for change in self.table.apply(notice, now_us, "slurm"):
                if change.opened:
                    change.job.policy = self.policy
                self.sets.apply(change, now_us)

    def job(self, job_id: str = "42", attempt: int = 1) -> Job:
        """A job that is known."""
        job = self.table.find(JobKey("slurm", job_id, attempt))
        assert job is not None
        return job

    def decoded(self, instance: str = "nodeJ/job_slurm_42") -> DecodedSet:
        """A set as a peer reads it."""
        metric_set = self.registry.get(instance)
        assert metric_set is not None, self.registry.names()
        return decode_set(metric_set.meta_bytes(), metric_set.data_bytes())

    def values(self, instance: str = "nodeJ/job_slurm_42") -> dict[str, Any]:
        """Its values."""
        return self.decoded(instance).values()

    def tasks(self, instance: str = "nodeJ/job_slurm_42") -> list[dict[str, Any]]:
        """Its task records."""
        return [element.value for element in self.values(instance)["task_list"]]


class SchemaTests(JobSetsCase):
    """The C job manager's schema."""

    def test_digest(self) -> None:
        """The digest is C's, whatever room the task list is given."""
        digest = "e5a8b601033277517da4ff71ba3323019873a976a1c9331db5a6b0e1d0f373a3"
        for budget in (512, 4096, 1_000_000):
            self.assertEqual(job_set_schema(budget).digest.hex(), digest)

    def test_detailed_schema(self) -> None:
        """Begins with C's metrics; what follows makes it another schema of another name."""
        plain, detailed = job_set_schema(), job_set_schema(details=True)
        self.assertEqual((plain.name, detailed.name), ("jobmgr_slurm", "jobmgr_slurm_details"))
        self.assertNotEqual(plain.digest, detailed.digest)
        begin = [(m.name, m.type, m.count, m.is_meta) for m in plain.metrics]
        both = [(m.name, m.type, m.count, m.is_meta) for m in detailed.metrics]
        self.assertEqual(both[: len(begin)], begin)
        self.assertEqual(
            [name for name, *_ in both[len(begin) :]],
            [
                *("array_job_id", "array_task_id", "het_job_id", "het_job_offset"),
                *("restart_count", "partition", "account", "job_exit_status"),
            ],
        )

    def test_image(self) -> None:
        """The messages of a recorded C job give C's image, where it does not differ on purpose.

        On purpose: generation numbers and times, what is private to the heap, and the step id of
        task records, which C leaves 0 (it is 0 here, too).
        """
        self.apply(
            JobInit("42", 1700000100 * S, 1000, 100, 1, 3, 3),
            StepInit("42", 0, 0, 1700000101 * S, "alice", "hello", "tagX", None, None, 1, 3, 3),
            *(
                TaskInit("42", 0, 0, task, (1700000110 + task) * S, 9000 + task, task)
                for task in range(3)
            ),
            TaskExit("42", 0, 0, 1, 256, 1700000120 * S, 9001),
        )
        vector = json.loads(VECTOR.read_text("utf-8"))
        metric_set = self.registry.get("nodeJ/job_slurm_42")
        assert metric_set is not None
        meta, data = bytearray(metric_set.meta_bytes()), bytearray(metric_set.data_bytes())
        c_meta, c_data = (bytearray.fromhex(vector[name]) for name in ("meta_hex", "data_hex"))
        owner = vector["set"]
        self.assertEqual(metric_set.perm, int(owner["perm"], 8))
        for image in (meta, c_meta):
            image[64:72] = bytes(8)  # metadata generation
            image[92:100] = bytes(8)  # uid and gid: those of who runs this
        self.assertEqual(meta.hex(), c_meta.hex())
        for image in (data, c_data):
            for begin, end in ((0, 16), (24, 32), (40, 48), (56, 64), (72, 96)):
                image[begin:end] = bytes(end - begin)
        self.assertEqual(data[:416].hex(), c_data[:416].hex())
        expected = [element["value"] for element in vector["decoded"]["metrics"][11]["value"]]
        for record in expected:
            for name in ("task_start", "task_end"):
                record[name] = record[name][0] * S
        self.assertEqual(self.tasks(), expected)

    def test_consistent_from_the_start(self) -> None:
        """A peer that sees a set at all sees it whole: it is offered with its first values."""
        seen: list[DecodedSet] = []

        def look(change: str, offer: Offer) -> None:
            metric_set = offer.metric_set
            seen.append(decode_set(metric_set.meta_bytes(), metric_set.data_bytes()))

        self.registry.observe(look)
        self.apply(JobInit("42", 5 * S, 1000, 100))
        (decoded,) = seen
        self.assertTrue(decoded.current_copy.is_consistent)
        self.assertEqual(decoded.values()["job_start"], 5 * S)
        self.assertEqual(decoded.current_copy.ts_us, NOW)


class ValueTests(JobSetsCase):
    """What is filled, and when peers are told."""

    def test_life_of_a_job(self) -> None:
        """Each notice shows at once; each is one transaction at the time of receipt."""
        self.apply(JobInit("42", 5 * S, 1000, 100), now_us=NOW)
        generation = self.decoded().current_copy.gn
        self.apply(
            StepInit("42", 3, 0, 6 * S, "ann", "n", "t", None, None, 2, 4, 1), now_us=NOW + 1
        )
        values, header = self.values(), self.decoded().current_copy
        self.assertEqual(
            [values[name] for name in ("job_id", "user", "job_name", "job_uid", "job_gid")],
            ["slurm_42", "ann", "n", 1000, 100],
        )
        self.assertEqual(
            [values[name] for name in ("node_count", "total_tasks", "local_tasks", "step_id")],
            [2, 4, 1, 3],
        )
        self.assertEqual((values["job_tag"], values["component_id"]), ("t", ""))
        self.assertEqual((header.ts_us, header.gn), (NOW + 1, generation + 1))
        self.apply(TaskInit("42", 3, 0, 7, 7 * S, 99, 8), JobExit("42", 9 * S))
        (task,) = self.tasks()
        self.assertEqual(
            task,
            {
                "task_id": "7",
                "task_pid": 99,
                "task_rank": 8,
                "task_start": 7 * S,
                "task_end": 9 * S,
                "task_exit_status": -1,
                "step_id": 3,
            },
        )
        self.assertEqual(self.values()["job_end"], 9 * S)

    def test_last_step_is_shown(self) -> None:
        """Counts, step and tag are those of the step announced last."""
        self.apply(
            JobInit("42", 5 * S),
            StepInit("42", 0, 0, 6 * S, "ann", "n", "t0", None, None, 1, 4, 4),
            StepInit("42", 1, 0, 7 * S, "ann", "n", "t1", None, None, 1, 2, 2),
        )
        values = self.values()
        self.assertEqual(
            (values["step_id"], values["local_tasks"], values["job_tag"]), (1, 2, "t1")
        )

    def test_description_raises_the_metadata_generation(self) -> None:
        """Peers read names and ids again when those have changed, and only then."""
        self.apply(JobInit("42", 5 * S, 1000, 100))
        first = self.decoded().meta_gn
        self.apply(StepInit("42", 0, 0, 6 * S, "ann", "n"))
        second = self.decoded().meta_gn
        self.apply(StepInit("42", 1, 0, 6 * S, "ann", "n"), TaskInit("42", 0, 0, 0, 7 * S, 9, 0))
        self.assertGreater(second, first)
        self.assertEqual(self.decoded().meta_gn, second)
        self.assertEqual(self.decoded().current_copy.meta_gn, second)

    def test_long_text(self) -> None:
        """Text is cut to the length of its field less one, between characters."""
        self.apply(
            JobInit("42", 5 * S),
            StepInit("42", 0, 0, 6 * S, "u" * 60, "n" * 254 + "\u00e9", "t" * 300),
        )
        values = self.values()
        self.assertEqual(values["user"], "u" * 31)
        self.assertEqual(values["job_name"], "n" * 254)
        self.assertEqual(values["job_tag"], "t" * 255)

    def test_text_that_cannot_be_held(self) -> None:
        """Text ends before a NUL, and half a character pair does no harm."""
        self.apply(JobInit("42", 5 * S), StepInit("42", 0, 0, 6 * S, "ann", "a\0b", "\udc80"))
        self.assertEqual((self.values()["job_name"], self.values()["job_tag"]), ("a", "?"))

    def test_any_numbers(self) -> None:
        """Numbers wider than their field are cut as in C; none raises."""
        big = 2**63 - 1
        self.apply(
            JobInit("42", big, 2**32 - 1, 2**32 - 1, big, big),
            TaskInit("42", big, big, big, big, big, big),
            TaskExit("42", big, big, big, big, big),
            JobExit("42", big),
        )
        values = self.values()
        self.assertEqual((values["job_uid"], values["node_count"]), (2**32 - 1, 2**32 - 1))
        self.assertEqual(self.tasks()[0]["task_exit_status"], -1)
        self.assertEqual(self.tasks()[0]["step_id"], big)

    def test_component_id(self) -> None:
        """It is what the configuration says."""
        self.policy = JobSetPolicy(component_id="rack 7")
        self.apply(JobInit("42", 5 * S))
        self.assertEqual(self.values()["component_id"], "rack 7")

    def test_late_exit(self) -> None:
        """A record that the job's end had closed gets its true end while the set lingers."""
        self.apply(
            JobInit("42", 5 * S),
            TaskInit("42", 0, 0, 0, 6 * S, 9, 0),
            JobExit("42", 7 * S),
            TaskExit("42", 0, 0, 0, 11, 6 * S, 9),
        )
        (task,) = self.tasks()
        self.assertEqual((task["task_end"], task["task_exit_status"]), (6 * S, 11))


class DetailsTests(JobSetsCase):
    """Sets with ``details=true``."""

    names = (
        *("array_job_id", "array_task_id", "het_job_id", "het_job_offset", "restart_count"),
        *("partition", "account", "job_exit_status"),
    )

    def setUp(self) -> None:
        """Ask for them."""
        super().setUp()
        self.policy = JobSetPolicy.from_attributes({"details": "true", "tasks": "1"})

    def details(self, instance: str = "nodeJ/job_slurm_42") -> tuple[Any, ...]:
        """Their values in a job's set."""
        values = self.values(instance)
        return tuple(values[name] for name in self.names)

    def test_life(self) -> None:
        """What nobody has told is 4294967295, empty and -1; what is told shows at once."""
        unknown = 0xFFFF_FFFF
        self.apply(JobInit("42", 5 * S, 1000, 100))
        self.assertEqual(self.details(), (*[unknown] * 5, "", "", -1))
        self.assertEqual(self.decoded().schema, "jobmgr_slurm_details")
        told = JobDetails(40, 2, restart_count=0, partition="main")
        self.apply(JobInit("42", 5 * S, details=told))
        self.assertEqual(self.details(), (40, 2, unknown, unknown, 0, "main", "", -1))
        self.apply(StepInit("42", 0, 0, 6 * S, details=JobDetails(1, 1, 41, 3, 0, "x", "chem")))
        self.assertEqual(self.details(), (40, 2, 41, 3, 0, "main", "chem", -1))
        self.apply(JobExit("42", 9 * S, exit_status=256))
        self.assertEqual(self.details()[-1], 256)
        values = self.values()
        self.assertEqual((values["job_uid"], values["job_end"]), (1000, 9 * S))

    def test_late_status(self) -> None:
        """A status that comes behind the job's end is shown while the set lingers."""
        self.apply(JobInit("42", 5 * S), JobExit("42", 9 * S))
        self.assertEqual(self.details()[-1], -1)
        self.apply(JobExit("42", 9 * S + 1, "a", 9))
        self.assertEqual(self.details()[-1], 9)

    def test_laid_out_anew(self) -> None:
        """They stay when the set gets more room."""
        self.apply(JobInit("42", 5 * S, details=JobDetails(40, 2, 41, 3, 1, "main", "chem")))
        before = self.details()
        self.apply(StepInit("42", 0, 0, 6 * S, local_tasks=100))
        self.apply(TaskInit("42", 0, 0, 0, 7 * S, 99, 8))
        self.assertEqual(self.details(), before)
        self.assertEqual((self.tasks()[0]["task_pid"], self.values()["local_tasks"]), (99, 100))
        self.assertEqual(self.stats.get("laid_out_anew"), 1)

    def test_attempts(self) -> None:
        """Each attempt has its own."""
        again = JobDetails(40, 2, restart_count=1)
        self.apply(JobInit("42", 5 * S, details=JobDetails(40, 2, restart_count=0)))
        self.apply(JobExit("42", 9 * S), JobInit("42", 10 * S, details=again))
        self.assertEqual(self.details()[4], 0)
        self.assertEqual(self.details("nodeJ/job_slurm_42.2")[4], 1)

    def test_long_words(self) -> None:
        """Are cut; numbers that are out of range do no harm."""
        self.apply(JobInit("42", 5 * S, details=JobDetails(2**40, -1, partition="p" * 400)))
        self.assertEqual(self.details()[5], "p" * 255)

    def test_off(self) -> None:
        """By default sets are those of C."""
        self.policy = JobSetPolicy.from_attributes({})
        self.apply(JobInit("42", 5 * S, details=JobDetails(40, 2)))
        self.assertNotIn("array_job_id", self.values())
        self.assertEqual(self.decoded().schema, "jobmgr_slurm")


class RoomTests(JobSetsCase):
    """Task lists of any length."""

    def start(self, count: int, first: int = 0) -> None:
        """Start so many tasks."""
        self.apply(
            *(TaskInit("42", 0, 0, task, 7 * S, task, task) for task in range(first, first + count))
        )

    def test_ten_fit(self) -> None:
        """C's ten tasks fit into C's list of 4096 bytes."""
        self.apply(JobInit("42", 5 * S))
        self.start(10)
        self.assertEqual(self.decoded().heap_sz, 4096)
        self.assertEqual(self.stats.get("laid_out_anew"), 0)
        self.assertEqual(len(self.tasks()), 10)

    def test_announced_tasks(self) -> None:
        """A step that announces more than there is room for gives one new layout, at once."""
        self.apply(JobInit("42", 5 * S, 1000, 100))
        before = self.job().metric_set
        self.apply(StepInit("42", 0, 0, 6 * S, "ann", "n", "t", local_tasks=1000))
        self.assertEqual(
            self.changes,
            [
                ("added", "nodeJ/job_slurm_42"),
                ("removed", "nodeJ/job_slurm_42"),
                ("added", "nodeJ/job_slurm_42"),
            ],
        )
        digest = self.decoded().digest
        self.start(1000)
        self.assertEqual(self.stats.get("laid_out_anew"), 1)
        self.assertEqual([task["task_id"] for task in self.tasks()], [str(n) for n in range(1000)])
        self.assertEqual(self.decoded().digest, digest)
        self.assertIsNot(self.job().metric_set, before)
        values = self.values()
        self.assertEqual((values["job_uid"], values["user"], values["job_tag"]), (1000, "ann", "t"))

    def test_unannounced_tasks(self) -> None:
        """Without an announcement the room doubles; no task is lost and all keep their values."""
        self.apply(JobInit("42", 5 * S))
        self.start(1000)
        self.assertEqual([task["task_pid"] for task in self.tasks()], list(range(1000)))
        self.assertLess(self.stats.get("laid_out_anew"), 8)
        self.apply(TaskExit("42", 0, 0, 500, 3, 8 * S))
        self.assertEqual(self.tasks()[500]["task_exit_status"], 3)

    def test_steps_share_the_list(self) -> None:
        """Tasks of several steps and nodes stand in one list; their steps tell them apart."""
        self.apply(JobInit("42", 5 * S))
        for step in range(4):
            self.apply(StepInit("42", step, 0, 6 * S, local_tasks=5))
            for task in range(5):
                self.apply(TaskInit("42", step, 0, task, 7 * S))
        self.assertEqual(
            [task["step_id"] for task in self.tasks()], [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
        )
        self.assertEqual(self.stats.get("laid_out_anew"), 1)

    def test_first_capacity(self) -> None:
        """The attribute ``tasks`` says how many fit at first; less takes less memory."""
        sizes = []
        for tasks in (1, 10, 100):
            self.policy = JobSetPolicy.from_attributes({"tasks": str(tasks)})
            job_id = str(100 + tasks)
            self.apply(JobInit(job_id, 5 * S))
            name = f"nodeJ/job_slurm_{job_id}"
            sizes.append(self.decoded(name).heap_sz)
            self.assertGreaterEqual(self.job(job_id).metric_set.capacity, tasks)
            self.assertEqual(self.decoded(name).values()["task_list"], [])
        self.assertEqual(sizes[1], 4096)
        self.assertLess(sizes[0], 1024)
        self.assertGreater(sizes[2], 100 * 384)

    def test_absurd_announcement(self) -> None:
        """A wrong number of tasks in a message does not take the memory for them."""
        self.apply(JobInit("42", 5 * S), StepInit("42", 0, 0, 6 * S, local_tasks=2**32 - 1))
        self.assertLess(self.decoded().heap_sz, (MAX_ANNOUNCED_TASKS + 10) * 384)
        self.start(3)
        self.assertEqual(len(self.tasks()), 3)

    def test_more_tasks_than_can_be_shown(self) -> None:
        """Beyond the most that a set shows, tasks are left out and counted."""
        self.patch(jobsets, "MAX_TASKS", 15)
        self.apply(JobInit("42", 5 * S))
        self.start(20)
        self.assertEqual(len(self.tasks()), self.job().metric_set.capacity)
        self.assertEqual(self.stats.get("tasks_left_out"), 20 - self.job().metric_set.capacity)
        self.apply(TaskExit("42", 0, 0, 19, 3, 8 * S))

    def test_new_layout_of_a_lingering_set(self) -> None:
        """A late task may need room, too."""
        self.apply(JobInit("42", 5 * S))
        self.start(10)
        self.apply(JobExit("42", 20 * S), TaskInit("42", 0, 0, 10, 7 * S, 77, 10))
        self.assertEqual(len(self.tasks()), 11)
        self.clock.advance(10)
        self.assertEqual(len(self.registry), 0)

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=60))
    def test_any_order(self, starts: list[tuple[int, int]]) -> None:
        """Whatever starts and ends, the set shows the table's task records, in their order."""
        self.setUp()
        self.apply(JobInit("42", 5 * S))
        for index, (step, task) in enumerate(starts):
            if index % 3 == 2:
                self.apply(TaskExit("42", step, 0, task, index, 8 * S))
            else:
                self.apply(TaskInit("42", step, 0, task, 7 * S, task + 1, task))
        shown = [(t["step_id"], t["task_id"], t["task_exit_status"]) for t in self.tasks()]
        known = [(t.step_id, str(t.task_id), t.exit_status or 0) for t in self.job().tasks()]
        self.assertEqual(shown, known)


class NameTests(JobSetsCase):
    """Names of sets."""

    def test_attempts(self) -> None:
        """The first attempt has C's name; one that overlaps it has its number behind that."""
        self.apply(JobInit("42", 5 * S), JobExit("42", 6 * S), JobInit("42", 7 * S))
        self.assertEqual(self.registry.names(), ["nodeJ/job_slurm_42", "nodeJ/job_slurm_42.2"])
        self.assertEqual(self.values("nodeJ/job_slurm_42.2")["job_id"], "slurm_42")

    def test_after_the_linger(self) -> None:
        """When nothing is left of an attempt, the next one has the first name again."""
        self.apply(JobInit("42", 5 * S), JobExit("42", 6 * S))
        self.clock.advance(10)
        self.apply(JobInit("42", 30 * S))
        self.assertEqual(self.registry.names(), ["nodeJ/job_slurm_42"])

    def test_name_taken(self) -> None:
        """A job whose set's name is taken goes on without being seen, and touches nothing else."""
        other = MetricSet("nodeJ/job_slurm_42", job_set_schema(), clock=lambda: 0)
        self.registry.add(other)
        self.apply(
            JobInit("42", 5 * S),
            StepInit("42", 0, 0, 6 * S, "ann", "n", local_tasks=100),
            JobExit("42", 7 * S),
        )
        self.assertIs(self.registry.get("nodeJ/job_slurm_42"), other)
        self.assertEqual(self.stats.get("not_offered"), 1)
        self.clock.advance(10)
        self.assertIs(self.registry.get("nodeJ/job_slurm_42"), other)
        self.assertEqual(self.stats.get("removed"), 0)
        self.assertEqual(self.table.jobs(), [])

    def test_name_that_cannot_be(self) -> None:
        """Names with characters that a set's name cannot have: the same."""
        self.make_sets('a"b')
        self.apply(JobInit("42", 5 * S), JobExit("42", 6 * S))
        self.make_sets("n" * 254)
        self.apply(JobInit("43", 5 * S))
        self.assertEqual(self.registry.names(), [])
        self.assertEqual(self.stats.get("not_offered"), 2)


class LingerTests(JobSetsCase):
    """The end of sets."""

    def test_ten_seconds(self) -> None:
        """A set stays readable for the linger; then it and the job are gone."""
        self.apply(JobInit("42", 5 * S), JobExit("42", 6 * S))
        self.clock.advance(9.9)
        self.assertEqual(self.values()["job_end"], 6 * S)
        self.clock.advance(0.1)
        self.assertEqual(self.registry.names(), [])
        self.assertEqual(self.table.jobs(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_timer(self) -> None:
        """However many sets linger there is one timer; each goes in its time."""
        for number in range(100):
            self.apply(JobInit(str(number), 5 * S), JobExit(str(number), 6 * S))
            self.clock.advance(0.0625)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(3.75)
        self.assertEqual(len(self.registry), 99)
        self.clock.advance(3.125)
        self.assertEqual(len(self.registry), 49)
        self.clock.advance(10)
        self.assertEqual(len(self.registry), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_linger(self) -> None:
        """Of more than may linger, the oldest go when the present work is done; none that runs."""
        self.apply(JobInit("runs", 5 * S))
        for number in range(130):
            self.apply(JobInit(str(number), 5 * S), JobExit(str(number), 6 * S))
            self.clock.advance(0.01 if number < 90 else 0)
        first, last = self.table.jobs()[0].key.job_id, self.table.jobs()[1].key.job_id
        self.assertEqual((first, last, len(self.registry)), ("runs", "30", 101))
        for number in range(130, 150):
            self.apply(JobInit(str(number), 5 * S), JobExit(str(number), 6 * S))
        self.assertEqual(len(self.registry), 121)
        self.sets.drop(self.table.jobs()[1:11])
        self.clock.advance(0)
        self.assertEqual([job.key.job_id for job in self.table.jobs()[1:3]], ["50", "51"])
        self.assertEqual(self.stats.get("cut_short"), 40)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(20)
        self.assertEqual([job.key.job_id for job in self.table.jobs()], ["runs"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_different_lingers(self) -> None:
        """A shorter linger that begins later may end earlier."""
        self.apply(JobInit("1", 5 * S), JobExit("1", 6 * S))
        self.policy = JobSetPolicy(linger_seconds=1.0)
        self.apply(JobInit("2", 5 * S), JobExit("2", 6 * S))
        self.clock.advance(1)
        self.assertEqual(self.registry.names(), ["nodeJ/job_slurm_1"])
        self.clock.advance(9)
        self.assertEqual(self.registry.names(), [])

    def test_no_linger(self) -> None:
        """With a linger of 0 the set goes as soon as the present work is done."""
        self.policy = JobSetPolicy(linger_seconds=0.0)
        self.apply(JobInit("1", 5 * S), JobExit("1", 6 * S))
        self.assertEqual(len(self.registry), 1)
        self.clock.advance(0)
        self.assertEqual(len(self.registry), 0)

    def test_drop(self) -> None:
        """Dropped jobs are gone at once, lingering or not, and others are not touched."""
        self.apply(JobInit("1", 5 * S), JobInit("2", 5 * S), JobInit("3", 5 * S))
        self.apply(JobExit("1", 6 * S), JobExit("3", 6 * S))
        self.sets.drop([self.job("1"), self.job("2")])
        self.assertEqual(self.registry.names(), ["nodeJ/job_slurm_3"])
        self.apply(JobInit("1", 7 * S))
        self.clock.advance(10)
        self.assertEqual(self.registry.names(), ["nodeJ/job_slurm_1"])

    def test_close(self) -> None:
        """No timer is left behind."""
        self.apply(JobInit("1", 5 * S), JobExit("1", 6 * S))
        self.sets.close()
        self.sets.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class OwnerTests(JobSetsCase):
    """Whose a set is."""

    def test_daemon(self) -> None:
        """By default the daemon's user owns it, 0640."""
        self.apply(JobInit("42", 5 * S, 1000, 100))
        decoded = self.decoded()
        self.assertEqual(
            (decoded.uid, decoded.gid, decoded.perm), (os.geteuid(), os.getegid(), 0o640)
        )

    def test_daemon_that_becomes_another_user(self) -> None:
        """It is whom the daemon runs as when the job begins: root may have started it."""
        self.patch(jobsets.os, "geteuid", lambda: 4711)
        self.patch(jobsets.os, "getegid", lambda: 4712)
        self.apply(JobInit("42", 5 * S, 1000, 100))
        decoded = self.decoded()
        self.assertEqual((decoded.uid, decoded.gid), (4711, 4712))

    def test_job(self) -> None:
        """On request the job's user does, from the beginning where it is known then."""
        self.policy = JobSetPolicy(owned_by_job=True, perm=0o440)
        self.apply(JobInit("42", 5 * S, 1000, 100))
        decoded = self.decoded()
        self.assertEqual((decoded.uid, decoded.gid, decoded.perm), (1000, 100, 0o440))
        self.assertEqual(self.changes, [("added", "nodeJ/job_slurm_42")])

    def test_job_known_later(self) -> None:
        """Until the job's user is known the daemon's owns it; then peers are told."""
        self.policy = JobSetPolicy(owned_by_job=True)
        self.apply(StepInit("42", 0, 0, 5 * S, "ann", "n"))
        before = self.decoded()
        self.assertEqual(before.uid, os.geteuid())
        self.apply(TaskInit("42", 0, 0, 0, 6 * S, 9, 0, 1000, 100))
        after = self.decoded()
        self.assertEqual((after.uid, after.gid), (1000, 100))
        self.assertGreater(after.meta_gn, before.meta_gn)
        self.assertEqual(self.changes[-1], ("changed", "nodeJ/job_slurm_42"))

    def test_new_layout_keeps_the_owner(self) -> None:
        """Also a set that is laid out anew belongs to the job's user."""
        self.policy = JobSetPolicy(owned_by_job=True)
        self.apply(JobInit("42", 5 * S, 1000, 100), StepInit("42", 0, 0, 6 * S, local_tasks=50))
        self.assertEqual(self.decoded().uid, 1000)


class PolicyTests(SynchronousTestCase):
    """The attributes of ``config``."""

    def policy(self, **given: str) -> JobSetPolicy:
        """As the daemon makes one."""
        return JobSetPolicy.from_attributes(check_attributes(JOB_SET_ATTRIBUTES, given, "test"))

    def test_defaults(self) -> None:
        """They are C's."""
        for policy in (self.policy(), JobSetPolicy.from_attributes({}), JobSetPolicy()):
            self.assertEqual(
                (
                    policy.component_id,
                    policy.linger_seconds,
                    policy.perm,
                    policy.owned_by_job,
                    policy.tasks,
                ),
                ("", 10.0, 0o640, False, 10),
            )

    def test_all(self) -> None:
        """Each attribute arrives."""
        policy = self.policy(component_id="c", linger="1m", perm="0440", owner="job", tasks="200")
        self.assertEqual(
            (
                policy.component_id,
                policy.linger_seconds,
                policy.perm,
                policy.owned_by_job,
                policy.tasks,
            ),
            ("c", 60.0, 0o440, True, 200),
        )

    def test_mistakes(self) -> None:
        """Each is named."""
        for name, value in (
            ("linger", "soon"),
            ("linger", "-1"),
            ("linger", "nan"),
            ("perm", "1000"),
            ("perm", "9"),
            ("owner", "me"),
            ("tasks", "0"),
            ("tasks", "many"),
            ("tasks", "10000000"),
        ):
            error = self.assertRaises(ConfigError, JobSetPolicy.from_attributes, {name: value})
            self.assertIn(name, str(error))

    def test_identity(self) -> None:
        """Two instances with the same attributes have two policies."""
        self.assertNotEqual(JobSetPolicy(), JobSetPolicy())
