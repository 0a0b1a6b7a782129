"""What job managers of the C daemon lose, mix up or crash on, from JSON bytes to lines and sets.

Everything goes through ``jobmgr_slurm``, the job service and ``test_jobmgr_sampler`` on a clock of
the tests.
"""

from __future__ import annotations

import gc
import json
from collections import defaultdict
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import ChannelTaken
from ldmsjob.events import JobEvent, JobStarted
from ldmsjob.plugins import builtin
from ldmsjob.replay import recorded_messages
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.testing import EventRecorder, FakeDaemon, replay, verify_plugin
from ldmsjob.wire.events import STRING
from tests.scenario_lines import expected_lines

T = 1_795_378_000
S = 1_000_000
SET = "node-1:411/job_slurm_7"


def message(event: str, second: int | None, **data: Any) -> bytes:
    """A message of the notifier about job 7, ``second`` seconds after ``T``, with its NUL."""
    content: dict[str, Any] = {"schema": "slurm_job_data", "event": event}
    if second is not None:
        content["timestamp"] = T + second
    content["context"] = "vm(slurmstepd),7,0"
    content["data"] = {"job_id": 7, "nodeid": 0, **data}
    return json.dumps(content).encode() + b"\0"


def init(second: int | None, **data: Any) -> bytes:
    """The prolog's message: counts are always 0 there."""
    counts = {"ncpus": 0, "nnodes": 0, "local_tasks": 0, "total_tasks": 0, "workflow_id": None}
    return message("init", second, **{"uid": 1000, "gid": 100} | counts | data)


def step_init(second: int | None, **data: Any) -> bytes:
    """A step's announcement, of one task unless told otherwise."""
    facts = {
        "step_id": 0,
        "subscriber_data": {},
        "job_name": "run",
        "job_user": "ann",
        "nnodes": 1,
        "local_tasks": 1,
        "total_tasks": 1,
    }
    return message("step_init", second, **facts | data)


def task_init(second: int | None, **data: Any) -> bytes:
    """A task's start."""
    facts = {"step_id": 0, "task_id": 0, "task_global_id": 0, "task_pid": 500}
    return message("task_init_priv", second, **facts | {"uid": 1000, "gid": 100} | data)


def task_exit(second: int | None, **data: Any) -> bytes:
    """A task's end."""
    facts = {"step_id": 0, "task_id": 0, "task_global_id": 0, "task_pid": 500}
    return message("task_exit", second, **facts | {"task_exit_status": 0} | data)


def job_exit(second: int | None, **data: Any) -> bytes:
    """The epilog's message."""
    return message("exit", second, **data)


class EdgeCase(SynchronousTestCase):
    """A daemon with a started job manager, an event file and a recorder of events."""

    def setUp(self) -> None:
        """Load the sampler first: consumers need not wait for the job manager."""
        self.daemon = FakeDaemon(users={"ann": (1000, 100)})
        self.path = self.mktemp()
        self.sampler = verify_plugin(
            builtin.test_jobmgr_sampler, {"file": self.path}, daemon=self.daemon
        )
        self.sampler.start()
        self.recorder = self.daemon.record()
        self.manager = verify_plugin(builtin.jobmgr_slurm, {}, daemon=self.daemon)
        self.manager.start()

    def send(self, *payloads: bytes | str) -> None:
        """Publish these, each as a read of its own."""
        for payload in payloads:
            self.daemon.publish(payload)

    def lines(self) -> list[str]:
        """The event file."""
        with open(self.path, encoding="utf-8") as file:
            return file.read().splitlines()

    def words(self) -> list[str]:
        """The kinds of its lines, and the task of a task's line."""
        words = []
        for line in self.lines():
            word, _, rest = line.partition(": ")
            task = rest.partition('"task_id":"')[2].partition('"')[0]
            words.append(f"{word} {task}" if task else word)
        return words

    def values(self, name: str = SET) -> dict[str, Any]:
        """The values of a set that peers can read."""
        return self.daemon.values(name)

    def counter(self, name: str) -> int:
        """A counter of the job table."""
        return self.daemon.stats.child("jobs").get(name)

    def rejected(self) -> int:
        """Messages that the job manager refused."""
        values = self.daemon.stats.child("jobmgr.test.test").values
        return sum(count for name, count in values.items() if name.startswith("rejected_"))

    def assert_alive(self) -> None:
        """The daemon still does its work, and nothing failed on the way."""
        self.assertEqual(self.daemon.stats.child("messages").get("receiver_failures"), 0)
        before = len(self.lines())
        self.daemon.publish({"event": "init", "timestamp": T, "data": {"job_id": 999}})
        self.assertEqual(len(self.lines()), before + 1)

    def assert_no_job(self) -> None:
        """Neither set nor event nor memory of a job."""
        self.assertEqual(self.lines(), [])
        self.assertEqual(len(self.daemon.registry), 0)
        self.assertEqual(self.daemon.jobs.jobs(), [])


class LifeTests(EdgeCase):
    """Lives of jobs that lack something."""

    def test_no_step_at_all(self) -> None:
        """A batch script without srun: both job lines, and the user's name found by uid."""
        self.send(init(1), job_exit(5))
        self.assertEqual(self.words(), ["job_start", "job_end", "jobset_delete"])
        self.assertEqual((self.values()["user"], self.values()["job_uid"]), ("ann", 1000))

    def test_only_an_exit(self) -> None:
        """A node on which the job ran nothing hears only its exit: no set, no event, one count."""
        self.send(job_exit(5))
        self.assert_no_job()
        self.assertEqual(self.counter("exit_of_unknown_job"), 1)

    def test_several_steps(self) -> None:
        """Each step is kept; the job shows the last one; it starts once."""
        self.send(init(1))
        for step in range(3):
            self.send(
                step_init(2 + step, step_id=step, local_tasks=step + 1, total_tasks=step + 2),
                task_init(2 + step, step_id=step, task_pid=500 + step),
                task_exit(3 + step, step_id=step, task_pid=500 + step),
                message("step_exit", 3 + step, step_id=step),
            )
        self.assertEqual(self.words(), ["job_start"] + ["task_start 0", "task_end 0"] * 3)
        values = self.values()
        self.assertEqual(
            (values["step_id"], values["local_tasks"], values["total_tasks"]), (2, 3, 4)
        )
        self.assertEqual([task["step_id"] for task in values["task_list"]], [0, 1, 2])
        steps = self.daemon.jobs.jobs()[0].steps()
        self.assertEqual(
            [(step.step_id, step.local_tasks) for step in steps], [(0, 1), (1, 2), (2, 3)]
        )
        self.assertEqual(len(self.recorder.events), 1 + 4 * 3)

    def test_special_steps(self) -> None:
        """Batch, extern and interactive steps are ignored in either spelling."""
        self.send(init(1))
        for step_id in (-5, -4, -6, 0xFFFFFFFB, 0xFFFFFFFC, 0xFFFFFFFA):
            self.send(step_init(2, step_id=step_id), task_init(2, step_id=step_id))
        self.assertEqual(self.words(), ["job_start"])
        self.assertEqual(self.values()["step_id"], 0)

    def test_overlapping_steps(self) -> None:
        """Two steps with the same local task id at once are two tasks."""
        self.send(
            init(1),
            step_init(2, step_id=0),
            task_init(2, step_id=0, task_pid=500),
            step_init(3, step_id=1),
            task_init(3, step_id=1, task_pid=501),
            task_exit(4, step_id=0, task_pid=500, task_exit_status=256),
            task_exit(5, step_id=1, task_pid=501),
        )
        tasks = self.values()["task_list"]
        self.assertEqual(
            [(t["step_id"], t["task_pid"], t["task_exit_status"]) for t in tasks],
            [(0, 500, 256), (1, 501, 0)],
        )
        self.assertEqual(self.rejected(), 0)

    def test_pid_used_again(self) -> None:
        """A pid that comes again in a later step belongs to that step's task."""
        self.send(
            init(1),
            step_init(2),
            task_init(2, task_pid=500),
            task_exit(3, task_pid=500, task_exit_status=256),
            step_init(4, step_id=1),
            task_init(4, step_id=1, task_pid=500),
            task_exit(5, step_id=1, task_pid=500, task_exit_status=9),
        )
        tasks = self.values()["task_list"]
        self.assertEqual([t["task_exit_status"] for t in tasks], [256, 9])

    def test_job_that_never_ends(self) -> None:
        """Without an exit the job goes on, however long; a later run of its id ends it."""
        self.send(init(1), step_init(2), task_init(2), task_exit(3))
        self.daemon.advance(1_000_000)
        self.assertEqual(self.words()[-1], "task_end 0")
        self.assertFalse(self.daemon.jobs.jobs()[0].ended)
        self.send(step_init(50))
        self.assertEqual(self.words()[3:], ["job_end", "jobset_delete", "job_start"])
        self.assertEqual(self.recorder.events[-1].key.attempt, 2)

    def test_tasks_that_nobody_ended(self) -> None:
        """At the job's end its open tasks end with it, with a status that no task has."""
        self.send(init(1), step_init(2, local_tasks=2), task_init(2), task_init(2, task_id=1))
        self.send(task_exit(3), job_exit(9))
        self.assertEqual(self.words()[-3:], ["task_end 1", "job_end", "jobset_delete"])
        task = self.values()["task_list"][1]
        self.assertEqual((task["task_end"], task["task_exit_status"]), ((T + 9) * S, -1))
        self.assertIn('"task_exit_status":-1}', self.lines()[-3])
        implied = [type(e).__name__ for e in self.recorder.events if e.origin == "implied"]
        self.assertEqual(implied, ["TaskEnded", "StepEnded"])


class RepetitionTests(EdgeCase):
    """Messages that come twice, too early or too late."""

    def test_init_twice(self) -> None:
        """The start stays what it was, and is told once."""
        self.send(init(1), init(3))
        self.assertEqual(self.words(), ["job_start"])
        self.assertEqual(self.values()["job_start"], (T + 1) * S)
        self.assertEqual(self.counter("repeated_init"), 1)

    def test_task_start_twice(self) -> None:
        """One record and one line."""
        self.send(init(1), step_init(2), task_init(2), task_init(2))
        self.assertEqual(self.words(), ["job_start", "task_start 0"])
        self.assertEqual(len(self.values()["task_list"]), 1)
        self.assertEqual(self.counter("repeated_task"), 1)

    def test_task_end_twice(self) -> None:
        """The first end counts."""
        self.send(init(1), step_init(2), task_init(2))
        self.send(task_exit(3, task_exit_status=256), task_exit(4, task_exit_status=9))
        self.assertEqual(self.words()[2:], ["task_end 0"])
        self.assertEqual(self.values()["task_list"][0]["task_exit_status"], 256)
        self.assertEqual(self.counter("repeated_task_exit"), 1)

    def test_task_before_its_job(self) -> None:
        """The job's start comes first in any case, marked as implied; a late init repeats it."""
        self.send(task_init(2), step_init(2), init(1))
        self.assertEqual(self.words(), ["job_start", "task_start 0"])
        self.assertEqual(self.recorder.events[0].origin, "implied")
        self.assertEqual(self.values()["user"], "ann")

    def test_end_of_a_task_that_nobody_started(self) -> None:
        """In a known job: a closed record without start, and both its lines."""
        self.send(init(1), task_exit(3, task_id=4, task_pid=77, task_exit_status=9))
        self.assertEqual(self.words(), ["job_start", "task_start 4", "task_end 4"])
        (task,) = self.values()["task_list"]
        self.assertEqual(
            (task["task_start"], task["task_end"], task["task_exit_status"]), (0, (T + 3) * S, 9)
        )

    def test_end_of_a_task_of_an_unknown_job(self) -> None:
        """Nothing but a count: what begins with an end is over."""
        self.send(task_exit(3), message("step_exit", 3, step_id=0))
        self.assert_no_job()
        self.assertEqual(self.counter("task_exit_of_unknown_job"), 1)
        self.assertEqual(self.counter("step_exit_of_unknown_job"), 1)

    def test_end_of_a_task_after_its_job(self) -> None:
        """The record gets its true end; no line follows the set's deletion."""
        self.send(init(1), step_init(2), task_init(2), job_exit(5))
        before = self.words()
        self.send(task_exit(4, task_exit_status=256))
        (task,) = self.values()["task_list"]
        self.assertEqual((task["task_end"], task["task_exit_status"]), ((T + 4) * S, 256))
        self.assertEqual(self.words(), before)
        self.assertEqual(self.counter("late"), 1)

    def test_requeue_within_the_linger(self) -> None:
        """The second run has its own set and all its lines while the first one's set lingers."""
        for begin in (1, 6):
            self.send(
                init(begin),
                step_init(begin + 1),
                task_init(begin + 1, task_pid=500 + begin),
                task_exit(begin + 2, task_pid=500 + begin),
                job_exit(begin + 3),
            )
            self.daemon.advance(4)
        run = ["job_start", "task_start 0", "task_end 0", "job_end", "jobset_delete"]
        self.assertEqual(self.words(), run * 2)
        self.assertEqual(self.values(SET)["job_start"], (T + 1) * S)
        self.assertEqual(self.values(f"{SET}.2")["job_start"], (T + 6) * S)
        self.assertEqual(self.values(f"{SET}.2")["job_id"], "slurm_7")
        self.daemon.advance(2)
        self.assertEqual(self.daemon.registry.names(), [f"{SET}.2"])
        self.daemon.advance(4)
        self.assertEqual(len(self.daemon.registry), 0)

    def test_requeue_without_init(self) -> None:
        """The second run starts nevertheless, with the owner that is known from the first."""
        self.send(init(1), step_init(2), task_init(2), task_exit(3), job_exit(4))
        self.send(step_init(5, job_user=None), task_init(5, task_pid=501, uid=None, gid=None))
        self.assertEqual(self.words()[5:], ["job_start", "task_start 0"])
        self.assertEqual(self.recorder.of(JobStarted)[1].origin, "implied")
        values = self.values(f"{SET}.2")
        self.assertEqual((values["job_uid"], values["job_gid"], values["user"]), (1000, 100, "ann"))


class MessageTests(EdgeCase):
    """Messages that are not what they should be."""

    def test_no_timestamp(self) -> None:
        """The time of receipt stands in."""
        self.send(init(None), step_init(None), task_init(None), task_exit(None), job_exit(None))
        self.assertEqual(len(self.words()), 5)
        values = self.values()
        now = self.daemon.now_us()
        self.assertEqual((values["job_start"], values["job_end"]), (now, now))

    def test_init_without_counts(self) -> None:
        """The job starts; its counts come with its first step."""
        self.send(message("init", 1, uid=1000, gid=100), step_init(2, nnodes=2, total_tasks=4))
        self.assertEqual(self.words(), ["job_start"])
        self.assertEqual((self.values()["node_count"], self.values()["total_tasks"]), (2, 4))

    def test_syntax_errors(self) -> None:
        """Dropped and counted."""
        bad = ("", "{", '{"event":"init"', "\xff\xfe", '{"event":"init","data":{"job_id":1}},')
        self.send(*bad)
        self.assertEqual(self.rejected(), len(bad))
        self.assert_alive()

    def test_roots_that_are_no_objects(self) -> None:
        """Dropped and counted."""
        self.send("[]", "[1,2]", "7", '"init"', "null", "true")
        self.assertEqual(self.rejected(), 6)
        self.assert_alive()

    def test_values_of_other_types(self) -> None:
        """Numbers in other spellings are taken; what is no number is dropped and counted."""
        self.send(init(1, job_id="7", uid=1000.0))
        self.assertEqual(self.values()["job_uid"], 1000)
        bad = (
            init(1, job_id=[7]),
            init(1, job_id="seven"),
            init(1, job_id=7.5),
            init(1, uid={}),
            message("init", 1, data=1).replace(b'"timestamp": ', b'"timestamp": "x", "y": '),
            b'{"event":"init","timestamp":1.5,"data":{"job_id":7}}',
            b'{"event":["init"],"data":{"job_id":7}}',
            b'{"event":"init","data":[7]}',
        )
        self.send(*bad)
        self.assertEqual(self.rejected(), len(bad))
        self.assertEqual(self.words(), ["job_start"])
        self.assert_alive()

    def test_names_are_exact(self) -> None:
        """``initXYZ`` is not ``init``."""
        self.send(init(1).replace(b'"init"', b'"initXYZ"'), job_exit(2).replace(b"exit", b"exit_"))
        self.assert_no_job()
        self.assertEqual(self.rejected(), 2)

    def test_string_messages(self) -> None:
        """Messages of type string are not for the job manager."""
        self.daemon.publish(init(1), kind=STRING)
        self.assert_no_job()

    def test_unescaped_job_name(self) -> None:
        """The recorded name that the notifier did not escape arrives as the user wrote it."""
        self.send(*replay("name_special"))
        values = self.values("node-1:411/job_slurm_39")
        self.assertEqual(values["job_name"], 'we"ird \\name \u00e9')
        self.assertEqual((values["user"], values["local_tasks"]), ("root", 1))
        self.assertEqual(self.rejected(), 0)

    def test_unescaped_long_job_name(self) -> None:
        """Such a name, too, is cut between characters."""
        name = '"' * 254 + "\u00e9"
        self.send(init(1), step_init(2, job_name="NAME").replace(b"NAME", name.encode()))
        self.assertEqual(self.values()["job_name"], '"' * 254)

    def test_long_strings(self) -> None:
        """Cut to the length of their fields."""
        self.send(
            init(1),
            step_init(
                2, job_name="n" * 400, job_user="u" * 60, subscriber_data={"job_tag": "t" * 300}
            ),
        )
        values = self.values()
        self.assertEqual(
            (values["job_name"], values["user"], values["job_tag"]),
            ("n" * 255, "u" * 31, "t" * 255),
        )

    def test_numbers_at_their_limits(self) -> None:
        """The largest rank leaves its neighbours alone; -1 and 4294967295 are one status."""
        self.send(init(1, uid=4294967294, gid=-2), step_init(2, local_tasks=2))
        for task, status in ((0, -1), (1, 4294967295)):
            self.send(
                task_init(3, task_id=task, task_global_id=4294967295, task_pid=2**40),
                task_exit(4, task_id=task, task_pid=2**40, task_exit_status=status),
            )
        for task in self.values()["task_list"]:
            self.assertEqual(
                (task["task_pid"], task["task_rank"], task["task_start"], task["task_exit_status"]),
                (2**40, 4294967295, (T + 3) * S, -1),
            )
        self.assertEqual(
            self.lines()[1:3],
            [
                f'task_start: {{"task_id":"0","task_pid":{2**40},"task_rank":4294967295,'
                f'"task_start":{T + 3}.000000,"task_end":0.000000,"task_exit_status":0}}',
                f'task_end: {{"task_id":"0","task_pid":{2**40},"task_rank":4294967295,'
                f'"task_start":{T + 3}.000000,"task_end":{T + 4}.000000,"task_exit_status":-1}}',
            ],
        )
        self.assertIn('"uid":-2,"gid":-2,', self.lines()[0])
        self.assertEqual(self.values()["job_uid"], 4294967294)

    def test_long_job_id(self) -> None:
        """More than 32 bits."""
        self.send(init(1, job_id=2**40 + 1))
        self.assertEqual(
            self.values(f"node-1:411/job_slurm_{2**40 + 1}")["job_id"], f"slurm_{2**40 + 1}"
        )


class SizeTests(EdgeCase):
    """Many of everything."""

    def test_a_thousand_tasks(self) -> None:
        """All are kept, and the set is laid out anew once."""
        self.send(init(1), step_init(2, local_tasks=1000, total_tasks=1000))
        with self.daemon.turn:
            for task in range(1000):
                self.send(task_init(3, task_id=task, task_global_id=task, task_pid=1000 + task))
            for task in range(1000):
                self.send(task_exit(4, task_id=task, task_pid=1000 + task, task_exit_status=task))
        self.assertEqual(len(self.words()), 2001)
        tasks = self.values()["task_list"]
        self.assertEqual([task["task_exit_status"] for task in tasks], list(range(1000)))
        self.assertEqual(self.daemon.stats.child("job_sets").get("laid_out_anew"), 1)

    def test_hundreds_of_sets(self) -> None:
        """Nothing like C's 70 sets is the limit, live or lingering."""
        for job in range(300):
            self.send(init(1, job_id=1000 + job))
            if job % 2:
                self.send(job_exit(2, job_id=1000 + job))
        self.assertEqual(len(self.daemon.registry), 300)
        self.assertEqual(len(self.lines()), 300 + 2 * 150)

    def test_many_jobs_at_once(self) -> None:
        """Interleaved jobs arrive complete and in order for each, 100 of them live at once."""
        steps = (init, step_init, task_init, task_exit, job_exit)
        for first in range(1, 501, 100):
            for second, step in enumerate(steps):
                with self.daemon.turn:
                    for job in range(first, first + 100):
                        self.send(step(second, job_id=job))
        events: dict[str, list[str]] = defaultdict(list)
        for event in self.recorder.events:
            events[event.key.job_id].append(type(event).__name__)
        self.assertEqual(len(events), 500)
        life = "JobStarted StepStarted TaskStarted TaskEnded StepEnded JobEnded JobSetDeleted"
        self.assertEqual({" ".join(names) for names in events.values()}, {life})
        self.assertEqual(len(self.lines()), 500 * 5)
        self.daemon.advance(10)
        self.assertEqual(len(self.daemon.registry), 0)

    def test_several_nodes(self) -> None:
        """Messages of two nodes are one job with the tasks of both; the first exit ends it."""
        self.send(init(1), init(1))
        for node in (0, 1):
            self.send(step_init(2, nodeid=node, nnodes=2, total_tasks=2))
        for node in (0, 1):
            self.send(task_init(3, nodeid=node, task_global_id=node, task_pid=500 + node))
        for node in (0, 1):
            self.send(
                task_exit(4, nodeid=node, task_global_id=node, task_pid=500 + node),
                message("step_exit", 4, nodeid=node, step_id=0),
            )
        self.send(job_exit(5), job_exit(6))
        self.assertEqual(
            self.words(),
            [
                *("job_start", "task_start 0", "task_start 0", "task_end 0", "task_end 0"),
                *("job_end", "jobset_delete"),
            ],
        )
        self.assertEqual([t["task_rank"] for t in self.values()["task_list"]], [0, 1])
        self.assertEqual(self.recorder.names.count("StepEnded"), 1)
        self.assertEqual(self.counter("repeated_exit"), 1)


class InstanceTests(EdgeCase):
    """Instances of the job manager and of consumers."""

    def test_two_on_one_channel(self) -> None:
        """The second one is refused."""
        second = verify_plugin(builtin.jobmgr_slurm, {}, daemon=self.daemon)
        self.assertRaises(ChannelTaken, second.start)
        self.send(init(1))
        self.assertEqual(self.words(), ["job_start"])

    def test_two_on_two_channels(self) -> None:
        """Both work, and an explicitly named channel is as good as the default."""
        second = verify_plugin(
            builtin.jobmgr_slurm, {"message_channel": "other"}, daemon=self.daemon
        )
        second.start()
        self.send(init(1))
        self.daemon.publish(init(1, job_id=8), channel="other")
        self.assertEqual(self.words(), ["job_start"] * 2)

    def test_stop_and_start(self) -> None:
        """Jobs survive a stop, and go on being followed after the next start."""
        self.send(init(1))
        self.successResultOf(self.manager.stop())
        self.send(step_init(2))
        self.manager.start()
        self.send(task_init(3), job_exit(4))
        self.assertEqual(
            self.words(), ["job_start", "task_start 0", "task_end 0", "job_end", "jobset_delete"]
        )

    def test_closing_a_consumer(self) -> None:
        """It has its last line once, after everything before it; the daemon and others go on."""
        self.send(init(1))
        context = self.sampler._context
        self.successResultOf(context.close_subscriptions())
        self.successResultOf(context.close_subscriptions())
        self.send(job_exit(2))
        self.assertEqual(self.words(), ["job_start", "client_close"])
        self.assertEqual(len(self.recorder.events), 3)

    def test_events_are_snapshots(self) -> None:
        """However late an event is delivered, it shows the job as it was."""
        gate: Deferred[None] = Deferred()

        def wait(event: JobEvent) -> Deferred[None] | None:
            return gate if type(event) is JobStarted else None

        slow = EventRecorder(wait)
        self.daemon.jobs.subscribe(slow, name="slow")
        self.send(init(1), step_init(2), task_init(3), task_exit(4), job_exit(5))
        gate.callback(None)
        self.assertEqual([event.facts.end_us for event in slow.events[:-2]], [None] * 5)
        self.assertEqual(slow.events[-1].facts.end_us, (T + 5) * S)
        self.assertIn('"job_end":0.000000', self.lines()[0])

    def test_late_consumer(self) -> None:
        """A consumer that asks for it hears of what runs already."""
        self.send(init(1), step_init(2), task_init(3))
        late = self.daemon.record(replay=True)
        self.assertEqual(late.names, ["JobStarted", "StepStarted", "TaskStarted"])

    def test_sets_are_freed(self) -> None:
        """After the linger nothing holds a set: events, tasks and messages leave no reference."""
        self.send(init(1), step_init(2, local_tasks=30), task_init(3), job_exit(4))
        self.assertEqual(len(list(self.daemon.registry)), 1)
        self.recorder.events.clear()
        gc.collect()  # What other tests have left does not count.
        before = sum(isinstance(one, MetricSet) for one in gc.get_objects())
        self.daemon.advance(10)
        after = sum(isinstance(one, MetricSet) for one in gc.get_objects())
        self.assertEqual(before - after, 1)


class RecordedTests(EdgeCase):
    """Real jobs, as the notifier told of them."""

    def test_lines(self) -> None:
        """Every recorded scenario gives the lines that are written down for it."""
        for scenario, lines in expected_lines().items():
            with self.subTest(scenario=scenario):
                self.setUp()
                self.send(*replay(scenario))
                self.assertEqual(self.lines(), lines)
                self.assertEqual(self.rejected(), 0)

    def test_sets_agree_with_jobs(self) -> None:
        """After each message of all scenarios every set shows what the job table knows."""
        for number, recorded in enumerate(recorded_messages()):
            self.send(recorded.payload)
            if number % 7:
                continue
            for job in self.daemon.jobs.jobs():
                metric_set: Any = job.metric_set
                values = decode_set(metric_set.meta_bytes(), metric_set.data_bytes()).values()
                facts = job.facts
                self.assertEqual(
                    [values[name] for name in ("job_id", "user", "job_name", "job_uid")],
                    [facts.job_id, facts.user or "", facts.job_name or "", facts.uid or 0],
                )
                self.assertEqual(
                    [values[name] for name in ("job_start", "job_end", "local_tasks", "step_id")],
                    [
                        facts.start_us or 0,
                        facts.end_us or 0,
                        facts.local_tasks or 0,
                        facts.step_id or 0,
                    ],
                )
                self.assertEqual(
                    [
                        (e.value["step_id"], e.value["task_pid"], e.value["task_end"])
                        for e in values["task_list"]
                    ],
                    [(t.step_id, t.pid or 0, t.end_us or 0) for t in job.tasks()],
                )
