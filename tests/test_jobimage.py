"""Tests of ldmsjob.jobimage: a job's set needs no image until somebody looks at it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ldmsjob import jobsets
from ldmsjob.facts import JobDetails
from ldmsjob.interfaces import IMetricSet
from ldmsjob.jobimage import JobSet
from ldmsjob.jobsets import JobSetPolicy
from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.serving import SetService
from ldmsjob.setdescription import directory_entry
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.layout import SetLayout
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.stats import Stats
from ldmsjob.turns import Turn
from ldmsjob.wire.setevents import AnnounceSet, AnswerDirectory, DirectoryWanted, LookupWanted
from tests.fake_links import FakeLink
from tests.test_jobsets import NOW, JobSetsCase, S


def image(metric_set: IMetricSet) -> tuple[bytes, bytes]:
    """What a peer reads: metadata and data."""
    return bytes(metric_set.meta_bytes()), bytes(metric_set.data_bytes())


class UnseenTests(JobSetsCase):
    """What makes no image."""

    def setUp(self) -> None:
        """Have each image noted."""
        super().setUp()
        self.made: list[bytes] = []
        new_image = SetLayout.new_image

        def note(layout: SetLayout, instance: bytes) -> bytearray:
            self.made.append(instance)
            return new_image(layout, instance)

        self.patch(SetLayout, "new_image", note)

    def test_life_of_a_job(self) -> None:
        """All of it: beginning, change of owner, more room, end, linger, withdrawal. There is not
        even a set."""
        self.policy = JobSetPolicy(owned_by_job=True)
        self.apply(JobInit("42", 5 * S))
        job, first = self.job(), self.job().offer
        self.apply(
            StepInit("42", 0, 0, 6 * S, "ann", "n", "t", 1000, 100, 1, 50, 50),
            *(TaskInit("42", 0, 0, task, 7 * S, 100 + task, task) for task in range(50)),
            TaskExit("42", 0, 0, 3, 0, 8 * S),
            JobExit("42", 9 * S),
            TaskExit("42", 0, 0, 4, 1, 9 * S),
        )
        self.clock.advance(10)
        self.assertEqual(
            [change for change, _ in self.changes],
            ["added", "removed", "added", "removed"],
        )
        self.assertEqual((first.made, job.offer.made, self.made), (None, None, []))

    def test_recovery(self) -> None:
        """Jobs that come back, running or ended."""
        for number, ended in enumerate((False, True)):
            self.apply(JobInit(str(number), 5 * S))
            job = self.job(str(number))
            self.sets.drop([job])
            job.ended = ended
            self.sets.recover(job, NOW)
        self.assertEqual(len(self.registry), 2)
        self.assertEqual(self.made, [])

    def test_directory_and_lookup(self) -> None:
        """Peers that list and look sets up: sizes and generations are known without."""
        turn = Turn()
        site = LinkSite(
            MessageHub(Stats(), turn),
            Stats(),
            turn,
            self.clock,
            sets=SetService(self.registry, Stats(), turn, self.clock, now=self.clock.seconds),
        )
        link = FakeLink("10.0.0.1:1")
        site.link_opened(link)
        for number in range(100):
            self.apply(JobInit(str(number), 5 * S, 1000, 100))
        site.link_events(link, [DirectoryWanted(b"xid-----", updates=True)])
        answers = [each for each in link.sent if isinstance(each, AnswerDirectory)]
        self.assertEqual(sum(len(answer.entries) for answer in answers), 100)
        link.sent.clear()
        wanted = LookupWanted(b"xid-----", ".*", by_schema=False, is_regex=True)
        site.link_events(link, [wanted])
        self.assertEqual([type(each) for each in link.sent], [AnnounceSet] * 100)
        self.apply(JobExit("3", 9 * S))
        self.assertEqual(self.made, [])
        site.close()
        self.clock.advance(100)

    def test_watched(self) -> None:
        """Who watches a set hears of its transactions, and reads none of it for that."""
        self.apply(JobInit("42", 5 * S))
        metric_set = self.job().metric_set
        seen: list[int] = []
        metric_set.watcher = lambda watched: seen.append(watched.data_generation)
        before = metric_set.data_generation
        self.apply(TaskInit("42", 0, 0, 0, 6 * S), now_us=NOW + 1)
        self.assertEqual((seen, metric_set.stamp[1]), ([before + 1], (NOW + 1) % S))
        self.assertEqual(self.made, [])

    def test_made_once(self) -> None:
        """It is the same memory from the first look on, and up to date."""
        self.apply(JobInit("42", 5 * S))
        metric_set = self.job().metric_set
        assert isinstance(metric_set, JobSet)
        data = metric_set.data_bytes()
        looked = metric_set.image
        self.apply(TaskInit("42", 0, 0, 7, 6 * S, 99, 0), JobExit("42", 9 * S))
        self.assertIs(metric_set.image, looked)
        decoded = decode_set(metric_set.meta_bytes(), data)
        self.assertEqual(decoded.values()["job_end"], 9 * S)
        self.assertEqual(self.made, [b"nodeJ/job_slurm_42"])

    def test_read_when_all_is_over(self) -> None:
        """Who has a withdrawn set, or its job, can read it though nobody had looked before."""
        self.apply(JobInit("42", 5 * S), TaskInit("42", 0, 0, 7, 6 * S, 99, 0))
        job = self.job()
        self.apply(JobExit("42", 9 * S))
        self.clock.advance(10)
        self.assertEqual(len(self.registry), 0)
        values = decode_set(*image(job.metric_set)).values()
        self.assertEqual(values["job_end"], 9 * S)
        self.assertEqual(values["task_list"][0].value["task_pid"], 99)

    def test_set_that_was_laid_out_anew(self) -> None:
        """The old one shows as many tasks as it has room for."""
        self.apply(JobInit("42", 5 * S))
        old = self.job().metric_set
        self.apply(*(TaskInit("42", 0, 0, task, 7 * S, task) for task in range(30)))
        tasks = decode_set(*image(old)).values()["task_list"]
        self.assertEqual([each.value["task_pid"] for each in tasks], list(range(10)))

    def test_many_tasks(self) -> None:
        """Twenty thousand of them, written in one go."""
        self.apply(JobInit("42", 5 * S))
        self.apply(*(TaskInit("42", 0, 0, task, 7 * S, task, task) for task in range(20_000)))
        self.assertEqual(self.made, [])
        tasks = self.tasks()
        self.assertEqual([task["task_pid"] for task in tasks], list(range(20_000)))
        self.apply(TaskExit("42", 0, 0, 19_999, 9, 8 * S), TaskInit("42", 1, 0, 0, 7 * S, 5))
        self.assertEqual(self.tasks()[-2]["task_exit_status"], 9)
        self.assertEqual(self.tasks()[-1]["step_id"], 1)

    def test_more_tasks_than_can_be_shown(self) -> None:
        """They are left out of images that are made late, too."""
        self.patch(jobsets, "MAX_TASKS", 15)
        self.apply(JobInit("42", 5 * S))
        self.apply(*(TaskInit("42", 0, 0, task, 7 * S, task) for task in range(40)))
        metric_set = self.job().metric_set
        assert isinstance(metric_set, JobSet)
        capacity = metric_set.capacity
        self.assertEqual(len(self.tasks()), capacity)
        self.apply(TaskExit("42", 0, 0, 39, 9, 8 * S), TaskExit("42", 0, 0, 0, 3, 8 * S))
        self.assertEqual([task["task_exit_status"] for task in self.tasks()[:2]], [3, 0])
        self.assertEqual(self.stats.get("tasks_left_out"), 40 - capacity + 1)

    def test_status_before_the_end(self) -> None:
        """What the first of two nodes tells is shown when the job has ended, whoever looks."""
        self.policy = JobSetPolicy.from_attributes({"details": "true"})
        self.apply(JobInit("42", 5 * S, node="a"), JobInit("42", 5 * S + 1, node="b"))
        self.apply(JobExit("42", 8 * S + 1, "a", 256), StepInit("42", 0, 1, 8 * S, "ann", node="b"))
        self.assertEqual(self.values()["user"], "ann")
        self.assertEqual(self.values()["job_exit_status"], -1)
        self.apply(JobExit("42", 9 * S + 1, "b", 256))
        self.assertEqual(self.values()["job_exit_status"], 256)

    def test_tag_of_a_known_step(self) -> None:
        """It may be the only thing that a step's second node tells."""
        for job_id in ("1", "2"):
            self.apply(StepInit(job_id, 0, 0, 6 * S, job_tag="first"))
            if job_id == "1":
                self.assertEqual(self.values("nodeJ/job_slurm_1")["job_tag"], "first")
            self.apply(StepInit(job_id, 0, 1, 6 * S, job_tag="second"))
            self.assertEqual(self.values(f"nodeJ/job_slurm_{job_id}")["job_tag"], "second")


class Reader:
    """A peer that keeps what it has read of each set, with the generations that it had."""

    def __init__(self) -> None:
        self.known: dict[MetricSet, tuple[tuple[bytes, bytes], int, int]] = {}

    def read(self, metric_set: MetricSet) -> None:
        """Read a set again: what has changed has another generation."""
        meta, data = image(metric_set)
        decoded = decode_set(meta, data)
        copy = decoded.current_copy
        assert copy.is_consistent
        assert (decoded.meta_gn, copy.meta_gn, copy.gn) == (
            metric_set.meta_generation,
            metric_set.meta_generation,
            metric_set.data_generation,
        )
        before = self.known.get(metric_set)
        if before is not None:
            (old_meta, old_data), meta_gn, data_gn = before
            assert (old_meta == meta) == (meta_gn == decoded.meta_gn)
            assert (old_data == data) == ((data_gn, meta_gn) == (copy.gn, decoded.meta_gn))
            assert meta_gn <= decoded.meta_gn and data_gn <= copy.gn
        self.known[metric_set] = (meta, data), decoded.meta_gn, copy.gn


ids = st.sampled_from(["1", "2"])
small = st.integers(0, 2)
unsure = st.none() | small
seconds = st.none() | st.integers(0, 40).map(lambda second: second * S + 1)
names = st.sampled_from([None, "ann", "b\u00e9a", "x" * 300, "a\0b"])
counts = st.none() | st.integers(0, 25)
nodes = st.sampled_from([None, None, "a", "b"])
details = st.none() | st.builds(
    JobDetails, unsure, unsure, restart_count=unsure, partition=names, account=names
)
tasks = st.integers(0, 30)
notices: st.SearchStrategy[Notice] = st.one_of(
    st.builds(
        JobInit, ids, seconds, unsure, unsure, counts, counts, counts, node=nodes, details=details
    ),
    st.builds(
        StepInit,
        *(ids, small, small, seconds, names, names, names, unsure, unsure, counts, counts, counts),
        node=nodes,
        details=details,
    ),
    st.builds(TaskInit, ids, small, small, tasks, seconds, unsure, small, unsure, unsure),
    st.builds(TaskExit, ids, small, small, tasks, st.integers(0, 65535), seconds, unsure),
    st.builds(StepExit, ids, small, small, seconds),
    st.builds(JobExit, ids, seconds, nodes, unsure),
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "details": st.just("true"),
        "owner": st.just("job"),
        "tasks": st.sampled_from(["1", "7", "100"]),
        "component_id": st.just("rack 7"),
    },
)


class World(JobSetsCase):
    """Job sets, and somebody who looks at them at times."""

    def __init__(self, policy: dict[str, str], always: bool = False) -> None:
        super().__init__()
        self.setUp()
        self.policy = JobSetPolicy.from_attributes(policy)
        self.reader = Reader()
        if always:
            self.registry.observe(lambda change, offer: self.reader.read(offer.metric_set))

    def runTest(self) -> None:
        """It is no test of its own."""

    def look(self) -> None:
        """Read all sets that are offered."""
        for metric_set in self.registry:
            self.reader.read(metric_set)

    def shown(self) -> list[Any]:
        """All that peers can know of all sets."""
        return [(directory_entry(one), image(one)) for one in self.registry]


class SameTests(JobSetsCase):
    """When somebody looks makes no difference."""

    @given(policies, st.lists(st.tuples(notices, st.booleans()), max_size=40))
    def test_any_story(self, policy: dict[str, str], story: list[tuple[Notice, bool]]) -> None:
        """Images that were there from the start, that were made at any moment, and that are made at
        the end are equal to the byte, also of sets of which only the name was asked for until
        then; and a reader sees by the generations what has changed."""
        always, sometimes, never = World(policy, always=True), World(policy), World(policy)
        unasked = World(policy)
        worlds = (always, sometimes, never)
        for number, (notice, looks) in enumerate(story):
            for world in (*worlds, unasked):
                world.apply(notice, now_us=NOW + number)
            self.assertEqual(unasked.registry.names(), always.registry.names())
            if looks:
                sometimes.look()
            entries = [[directory_entry(one) for one in world.registry] for world in worlds]
            self.assertEqual(entries[0], entries[1])
            self.assertEqual(entries[0], entries[2])
        self.assertEqual(sometimes.changes, never.changes)
        sometimes.look()
        expected = always.shown()
        self.assertEqual(sometimes.shown(), expected)
        self.assertEqual(never.shown(), expected)
        self.assertEqual(unasked.changes, never.changes)
        self.assertEqual(unasked.shown(), expected)
