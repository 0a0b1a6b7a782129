"""Tests of ldmsjob.jobmgr.slurm: Slurm's messages become notices, or counters."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import Busy, ChannelTaken
from ldmsjob.facts import JobDetails
from ldmsjob.interfaces import IChannelJobManager
from ldmsjob.jobmgr.slurm import SlurmJobManager
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.testing import FakeDaemon, FakeJobManagerContext
from ldmsjob.wire.events import AVRO, JSON, STRING, Message

TIME = 1_795_378_984
TIME_US = TIME * 1_000_000

INIT = {"job_id": 6, "nodeid": 0, "uid": 1000, "gid": 100, "nnodes": 0, "total_tasks": 0}
STEP = {
    "subscriber_data": {},
    "job_name": "sleep",
    "job_user": "ann",
    "job_id": 6,
    "nodeid": 1,
    "step_id": 2,
    "nnodes": 2,
    "local_tasks": 3,
    "total_tasks": 4,
}
TASK = {
    "job_id": 6,
    "step_id": 2,
    "task_id": 1,
    "task_global_id": 3,
    "task_pid": 17951,
    "nodeid": 1,
    "uid": 0,
    "gid": 0,
    "nnodes": 2,
    "local_tasks": 3,
    "total_tasks": 4,
}
TASK_EXIT = {
    "job_id": 6,
    "step_id": 2,
    "task_id": 1,
    "task_global_id": 3,
    "task_pid": 17951,
    "nodeid": 1,
    "task_exit_status": 256,
}


class SlurmCase(SynchronousTestCase):
    """A started job manager whose notices and counters can be looked at."""

    def setUp(self) -> None:
        """Start it on the default channel."""
        self.context = FakeJobManagerContext()
        self.daemon = self.context.daemon
        self.manager = SlurmJobManager(self.context)
        self.manager.configure({"message_channel": "slurm"})
        self.manager.start()

    def send(self, event: str, data: Any, **more: Any) -> list[Notice]:
        """Send a message; the notices that it gave."""
        return self.send_text(
            json.dumps({"schema": "s", "event": event, "timestamp": TIME, "data": data} | more)
        )

    def send_text(self, text: bytes | str) -> list[Notice]:
        """Send a payload as it is; the notices that it gave."""
        self.context.notices.clear()
        self.daemon.publish(text)
        return list(self.context.notices)

    def assert_rejected(self, reason: str, text: bytes | str) -> None:
        """The payload gives no notice and one count of that reason."""
        before = self.context.stats.get(f"rejected_{reason}")
        self.assertEqual(self.send_text(text), [])
        counters = self.daemon.stats.child(f"jobmgr.test.{self.context.instance}").values
        self.assertEqual(counters.get(f"rejected_{reason}"), before + 1, (text[:80], counters))


class DecodeTests(SlurmCase):
    """What the notifier sends."""

    def test_all_six(self) -> None:
        """Every kind of message becomes its notice, with everything that it says."""
        self.assertEqual(self.send("init", INIT), [JobInit("6", TIME_US, 1000, 100)])
        self.assertEqual(
            self.send("step_init", STEP),
            [
                StepInit(
                    "6", 2, 1, TIME_US, "ann", "sleep", None,
                    node_count=2, total_tasks=4, local_tasks=3,
                )
            ],
        )  # fmt: skip
        self.assertEqual(
            self.send("task_init_priv", TASK),
            [TaskInit("6", 2, 1, 1, TIME_US, 17951, 3, 0, 0, 2, 4, 3)],
        )
        self.assertEqual(
            self.send("task_exit", TASK_EXIT), [TaskExit("6", 2, 1, 1, 256, TIME_US, 17951)]
        )
        self.assertEqual(
            self.send("step_exit", {"job_id": 6, "nodeid": 1, "step_id": 2}),
            [StepExit("6", 2, 1, TIME_US)],
        )
        self.assertEqual(self.send("exit", {"job_id": 6, "nodeid": 0}), [JobExit("6", TIME_US)])
        self.assertEqual(self.context.stats.get("messages"), 6)

    def test_counted(self) -> None:
        """Messages are counted, dropped ones too."""
        with self.daemon.turn:
            self.send("init", INIT)
            self.send_text("{")
        self.assertEqual(self.context.stats.get("messages"), 2)
        self.send("exit", {"job_id": 6})
        self.assertEqual(self.context.stats.get("messages"), 3)

    def test_user_0_is_a_user(self) -> None:
        """uid and gid 0 are root's; counts of 0 are unknown."""
        self.assertEqual(
            self.send("init", INIT | {"uid": 0, "gid": 0, "local_tasks": 0}),
            [JobInit("6", TIME_US, 0, 0)],
        )

    def test_optional_keys(self) -> None:
        """What is absent or null is unknown; a step or node that is not named is 0."""
        self.assertEqual(self.send("init", {"job_id": 6}), [JobInit("6", TIME_US)])
        nothing = dict.fromkeys(STEP, None) | {"job_id": 6}
        self.assertEqual(self.send("step_init", nothing), [StepInit("6", 0, 0, TIME_US)])
        self.assertEqual(
            self.send("task_init_priv", {"job_id": 6, "task_id": 0}),
            [TaskInit("6", 0, 0, 0, TIME_US)],
        )

    def test_time_of_receipt(self) -> None:
        """Without a timestamp, or with 0 or null, the time of receipt counts."""
        for more in ({"timestamp": 0}, {"timestamp": None}):
            self.assertEqual(self.send("exit", {"job_id": 6}, **more), [JobExit("6")])
        self.send_text('{"event":"init","data":{"job_id":7}}')
        job = self.daemon.jobs.jobs()[0]
        self.assertEqual(job.facts.start_us, self.daemon.now_us())

    def test_time_of_the_message(self) -> None:
        """When a link brought it, that is the time of receipt."""
        body = msgspec.json.encode({"event": "init", "data": {"job_id": 6}})
        sent = ("slurm", JSON, 0, 0, 0o440, 1, 0, None, len(body) + 6)
        self.manager.received(Message(*sent, body, 0, TIME_US + 7))
        (job,) = self.daemon.jobs.jobs()
        self.assertEqual(job.facts.start_us, TIME_US + 7)

    def test_job_tag(self) -> None:
        """The tag is taken when it is text; other subscriber data does no harm."""

        def tag(subscriber_data: Any) -> str | None:
            (notice,) = self.send("step_init", STEP | {"subscriber_data": subscriber_data})
            assert isinstance(notice, StepInit)
            return notice.job_tag

        self.assertEqual(tag({"job_tag": "t1", "x": [1]}), "t1")
        for other in ({"job_tag": 5}, {"job_tag": None}, {"job_tag": ""}, [], "job_tag", None, 7):
            self.assertIsNone(tag(other))

    def test_unknown_keys(self) -> None:
        """They are ignored, wherever they stand."""
        self.assertEqual(
            self.send("exit", {"job_id": 6, "workflow_id": "w", "x": {"y": [1, 2]}}, z=None),
            [JobExit("6", TIME_US)],
        )

    def test_numbers_in_other_spellings(self) -> None:
        """Integral text and integral floats are integers."""
        self.assertEqual(
            self.send("init", {"job_id": "6", "uid": 7.0, "gid": "8"}, timestamp=float(TIME)),
            [JobInit("6", TIME_US, 7, 8)],
        )

    def test_signed_prints_of_unsigned_numbers(self) -> None:
        """Negative 32-bit numbers mean the unsigned ones of the same bits."""
        self.assertEqual(
            self.send("init", {"job_id": -2, "uid": -1, "gid": -(2**31)}),
            [JobInit("4294967294", TIME_US, 2**32 - 1, 2**31)],
        )
        (notice,) = self.send("task_init_priv", TASK | {"task_global_id": -1, "nodeid": -1})
        assert isinstance(notice, TaskInit)
        self.assertEqual((notice.rank, notice.node_id), (2**32 - 1, 2**32 - 1))

    def test_exit_status_is_signed(self) -> None:
        """4294967295 and -1 are the same wait status."""
        for status, expected in ((2**32 - 1, -1), (-1, -1), (2**31 - 1, 2**31 - 1), (9, 9)):
            (notice,) = self.send("task_exit", TASK_EXIT | {"task_exit_status": status})
            assert isinstance(notice, TaskExit)
            self.assertEqual(notice.exit_status, expected)

    def test_large_job_id(self) -> None:
        """Job ids have up to 63 bits."""
        self.assertEqual(
            self.send("exit", {"job_id": 2**63 - 1}), [JobExit(str(2**63 - 1), TIME_US)]
        )

    def test_special_steps(self) -> None:
        """Slurm's own steps are ignored and counted, in either spelling of their ids."""
        for step_id in (-5, -1, 0xFFFFFFFB, 0xFFFFFFF0):
            self.assertEqual(self.send("step_init", STEP | {"step_id": step_id}), [])
            self.assertEqual(self.send("task_init_priv", TASK | {"step_id": step_id}), [])
        self.assertEqual(self.context.stats.get("special_step"), 8)
        self.assertEqual(len(self.send("step_init", STEP | {"step_id": 0xFFFFFFEF})), 1)


class OurNotifierTests(SlurmCase):
    """What our own notifier says besides."""

    def tell(self, event: str, data: Any, **more: Any) -> list[Notice]:
        """Send a line as the intake delivers it."""
        notifier = {"boot": "b", "pid": 4, "start": 5, "seq": 1}
        line = {"notifier": notifier, "schema": "s", "event": event, "timestamp": TIME}
        line |= {"timestamp_ns": TIME * 10**9 + 123_456_789, "context": "n(c),6,0"}
        return self.send_text(json.dumps(line | more | {"data": data}) + "\0")

    exact_us = TIME_US + 123_456

    def test_init(self) -> None:
        """The exact time, names, the node and what places the job."""
        data = INIT | {"job_user": "ann", "job_name": "run", "node": "n1", "restart_count": 0}
        data |= {"partition": "main", "account": "chem", "array_job_id": 5, "array_task_id": 0}
        data |= {"het_job_id": 6, "het_job_offset": 0}
        details = JobDetails(5, 0, 6, 0, 0, "main", "chem")
        expected = JobInit(
            *("6", self.exact_us, 1000, 100),
            user="ann",
            job_name="run",
            node="n1",
            details=details,
        )
        self.assertEqual(self.tell("init", data), [expected])

    def test_step_init(self) -> None:
        """The node, and of the details those that are known."""
        data = STEP | {"node": "n1", "restart_count": 3}
        (notice,) = self.tell("step_init", data)
        assert isinstance(notice, StepInit)
        self.assertEqual((notice.time_us, notice.node), (self.exact_us, "n1"))
        self.assertEqual(notice.details, JobDetails(restart_count=3))

    def test_others_have_exact_times(self) -> None:
        """Tasks and ends."""
        self.tell("init", INIT)
        for event, data in (("task_init_priv", TASK), ("task_exit", TASK_EXIT)):
            self.assertEqual(self.tell(event, data)[0].time_us, self.exact_us)
        self.assertEqual(
            self.tell("step_exit", {"job_id": 6, "step_id": 2, "nodeid": 1}),
            [StepExit("6", 2, 1, self.exact_us)],
        )

    def test_exit(self) -> None:
        """The node and the job's status, which is signed."""
        for status, expected in ((256, 256), (0, 0), (2**32 - 1, -1)):
            data = {"job_id": 6, "node": "n1", "job_exit_status": status}
            self.assertEqual(self.tell("exit", data), [JobExit("6", self.exact_us, "n1", expected)])

    def test_no_values(self) -> None:
        """Empty text, Slurm's numbers for none, and arrays of id 0 are not known."""
        for none in (0xFFFF_FFFE, 0xFFFF_FFFF, -2, None):
            data = INIT | {"node": "", "partition": "", "array_job_id": 0, "restart_count": none}
            data |= {"array_task_id": none, "het_job_id": 0, "het_job_offset": none}
            (notice,) = self.tell("init", data)
            assert isinstance(notice, JobInit)
            self.assertEqual((notice.node, notice.details), (None, None), none)

    def test_exact_time_may_be_missing(self) -> None:
        """Then the whole second counts, or the time of receipt."""
        self.assertEqual(self.tell("init", INIT, timestamp_ns=None)[0].time_us, TIME_US)
        self.assertEqual(self.tell("init", INIT, timestamp_ns=0)[0].time_us, TIME_US)
        (notice,) = self.tell("init", INIT, timestamp_ns=None, timestamp=None)
        self.assertIsNone(notice.time_us)

    def test_bounds(self) -> None:
        """Of times, names of nodes and numbers."""
        message = {"event": "init", "data": INIT}
        for data in ({"node": "n" * 256}, {"restart_count": 2**32}, {"array_job_id": 2**40}):
            self.assert_rejected("range", json.dumps(message | {"data": INIT | data}))
        for nanoseconds in (-1, 2**32 * 10**9):
            self.assert_rejected("range", json.dumps(message | {"timestamp_ns": nanoseconds}))
        self.assert_rejected("type", json.dumps(message | {"data": INIT | {"node": 1}}))


class RejectTests(SlurmCase):
    """What is dropped: each time one counter, and never an exception."""

    def test_syntax(self) -> None:
        """Text that is not JSON, or not all of it."""
        for text in ("", "{", '{"event":"exit","data":{"job_id":1}} x', "no", '{"a":NaN}', "\0"):
            self.assert_rejected("syntax", text)

    def test_utf8(self) -> None:
        """Bytes that are not UTF-8 in a value that is used."""
        self.assert_rejected("utf8", b'{"event":"step_init","data":{"job_id":1,"job_name":"\xff"}}')
        self.assert_rejected("utf8", b'{"event":"\xff","data":{"job_id":1}}')

    def test_type(self) -> None:
        """A root that is no object, and values of the wrong type."""
        for text in ("[1]", "3", '"x"', "null"):
            self.assert_rejected("type", text)
        for data in (
            {"job_id": 1.5},
            {"job_id": True},
            {"job_id": None},
            {"job_id": [1]},
            {"job_id": {}},
            {"job_id": "six"},
            {"job_id": ""},
            {"job_id": 1, "uid": "x"},
            7,
            None,
            [],
        ):
            self.assert_rejected("type", json.dumps({"event": "init", "data": data}))
        self.assert_rejected("type", '{"event":5,"data":{"job_id":1}}')
        self.assert_rejected("type", '{"event":"exit","timestamp":1.5,"data":{"job_id":1}}')
        self.assert_rejected("type", '{"event":"step_init","data":{"job_id":1,"job_name":5}}')

    def test_range(self) -> None:
        """Numbers that nothing real has."""
        for data in (
            {"job_id": 2**63},
            {"job_id": 10**30},
            {"job_id": "1" + "0" * 30},
            {"job_id": -(2**31) - 1},
            {"job_id": 1, "uid": 2**32},
            {"job_id": 1, "uid": -(2**31) - 1},
            {"job_id": 1, "local_tasks": -1},
        ):
            self.assert_rejected("range", json.dumps({"event": "init", "data": data}))
        self.assert_rejected("range", '{"event":"exit","timestamp":4294967296,"data":{"job_id":1}}')

    def test_missing(self) -> None:
        """Without event, data, job id, task id or exit status there is nothing to tell."""
        for text in (
            "{}",
            '{"data":{"job_id":1}}',
            '{"event":"init"}',
            '{"event":"init","data":{}}',
            '{"event":"task_init_priv","data":{"job_id":1}}',
            '{"event":"task_exit","data":{"job_id":1,"task_id":1}}',
        ):
            self.assert_rejected("missing", text)

    def test_event(self) -> None:
        """Names that are not exactly one of the six."""
        for name in ("initXYZ", "exit_foo", "Init", "task_init", ""):
            self.assert_rejected("event", json.dumps({"event": name, "data": {"job_id": 1}}))

    def test_job_id_0(self) -> None:
        """0 is how the notifier spells that it has no job id."""
        self.assert_rejected("job_id", '{"event":"init","data":{"job_id":0}}')

    def test_nesting(self) -> None:
        """Nesting without end is refused and takes no memory with it."""
        for opening in ("[", '{"a":'):
            text = '{"event":"init","data":{"job_id":1,"x":' + opening * 100_000
            self.assert_rejected("nesting", text)

    def test_long_numbers(self) -> None:
        """A number of many digits is refused like any other that is too large."""
        digits = "9" * 20_000
        for value in (digits, f'"{digits}"', f"-{digits}", f"{digits}.0", f"1e{digits}"):
            self.assertEqual(self.send_text(f'{{"event":"init","data":{{"job_id":{value}}}}}'), [])
        counters = self.context.stats
        self.assertEqual(
            sum(counters.get(f"rejected_{reason}") for reason in ("range", "type", "syntax")), 5
        )

    def test_other_types_of_message(self) -> None:
        """Messages that are not JSON by their type are ignored, whatever they hold."""
        for kind in (STRING, AVRO, 9):
            self.daemon.publish('{"event":"init","data":{"job_id":1}}', kind=kind)
        self.assertEqual(self.context.notices, [])
        self.assertEqual(self.context.stats.get("not_json"), 3)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """No bytes raise anything."""
        self.send_text(data)
        self.assertEqual(self.daemon.stats.child("messages").get("receiver_failures"), 0)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
        st.sampled_from((*TASK, *TASK_EXIT, *STEP, "event", "timestamp", "data")),
        st.sampled_from(("init", "step_init", "task_init_priv", "task_exit", "step_exit", "exit")),
    )
    def test_any_value_anywhere(self, value: Any, key: str, event: str) -> None:
        """A message with any value in any place gives a notice of bounded numbers or a count."""
        message: dict[str, Any] = {"event": event, "timestamp": TIME}
        message["data"] = {**STEP, **TASK, **TASK_EXIT}
        if key in ("event", "timestamp", "data"):
            message[key] = value
        else:
            message["data"][key] = value
        stats = self.context.stats
        before = dict(self.daemon.stats.child("jobmgr.test.test").values)
        notices = self.send_text(json.dumps(message))
        after = self.daemon.stats.child("jobmgr.test.test").values
        reasons = after.keys() - {"messages", "notices"}
        counted = sum(after[name] - before.get(name, 0) for name in reasons)
        self.assertEqual(len(notices) + counted, 1)
        self.assertEqual(self.daemon.stats.child("messages").get("receiver_failures"), 0)
        for notice in notices:
            for field in msgspec.structs.asdict(notice).values():
                self.assertTrue(not isinstance(field, int) or -(2**31) <= field < 2**63)
        self.assertGreater(stats.get("messages"), 0)

    def test_reasons_are_there_from_the_start(self) -> None:
        """Every reason is counted as 0 before anything is dropped: alerts need to see it grow."""
        counters = self.context.stats.values
        self.assertEqual(
            {name: value for name, value in counters.items() if name.startswith("rejected_")},
            {
                f"rejected_{reason}": 0
                for reason in (
                    *("syntax", "utf8", "nesting", "type"),
                    *("range", "missing", "event", "job_id"),
                )
            },
        )


class RepairTests(SlurmCase):
    """Job names that the notifier does not escape."""

    def name_of(self, raw: bytes | str, following: str = '"job_user":"ann","job_id":6') -> Any:
        """The job name that a step announcement with that name, as it stands, gives."""
        name = raw if isinstance(raw, bytes) else raw.encode()
        notices = self.send_text(
            b'{"schema":"slurm_step_data","event":"step_init","timestamp":1,"data":{'
            b'"subscriber_data":{},"job_name":"' + name + b'",' + following.encode() + b"}}"
        )
        return getattr(notices[0], "job_name", None) if notices else None

    def test_characters_that_need_escapes(self) -> None:
        """Quotes, backslashes and control characters come out as the user wrote them."""
        for name in (
            'we"ird \\name \u00e9',
            '"',
            '""',
            'a","b',
            "tab\tnewline\n",
            "back\\slash\\q",
            '{"job_id":7}"',
            'x","job_user":"root"y',
            "\x01",
        ):
            self.assertEqual(self.name_of(name), name)
        self.assertEqual(self.context.stats.get("repaired"), 9)

    def test_other_orders_of_keys(self) -> None:
        """The name is found wherever it stands."""
        self.assertEqual(self.name_of('a"b', '"nodeid":0,"job_id":6'), 'a"b')
        text = '{"event":"step_init","data":{"job_id":6,"job_name" : "a"b" } }'
        (notice,) = self.send_text(text)
        assert isinstance(notice, StepInit)
        self.assertEqual(notice.job_name, 'a"b')

    def test_believes_only_what_is_valid(self) -> None:
        """Where nothing valid comes out, the message is dropped as it would have been."""
        self.assertIsNone(self.name_of('a"b', '"job_user":"an"n","job_id":6'))
        self.assertIsNone(self.name_of('a"b', '"job_user":"ann"'))
        self.assertIsNone(self.name_of(b'a"\xff'))
        self.assertIsNone(self.name_of('a"b' * 30_000))
        self.assertEqual(self.context.stats.get("repaired"), 0)
        self.assertEqual(self.context.stats.get("rejected_syntax"), 4)
        self.assert_rejected("syntax", '{"event":"init","data":{"job_id":1,"job_name":"a"b"}}')

    def test_bounded_effort(self) -> None:
        """A name made to look like its own end many times is given up."""
        self.assertIsNone(self.name_of('"b","job_user":' * 100))


class LifeTests(SlurmCase):
    """Configuration, start and stop."""

    def test_interface(self) -> None:
        """It is a job manager."""
        verifyObject(IChannelJobManager, self.manager)

    def test_other_channel(self) -> None:
        """An explicit channel is listened to, exactly."""
        context = FakeJobManagerContext()
        manager = SlurmJobManager(context)
        manager.configure({"message_channel": "cluster2"})
        manager.start()
        context.daemon.publish({"event": "init", "data": {"job_id": 1}}, channel="cluster2")
        context.daemon.publish({"event": "init", "data": {"job_id": 2}})
        self.assertEqual(context.notices, [JobInit("1")])

    def test_default_channel(self) -> None:
        """Without an attribute the channel is ``slurm``."""
        context = FakeJobManagerContext()
        manager = SlurmJobManager(context)
        manager.configure({})
        manager.start()
        context.daemon.publish({"event": "init", "data": {"job_id": 1}})
        self.assertEqual(context.notices, [JobInit("1")])

    def test_states(self) -> None:
        """Start and stop follow one another; anything else is refused and changes nothing."""
        self.assertEqual(self.manager.state, "STARTED")
        self.assertRaises(Busy, self.manager.start)
        self.successResultOf(self.manager.stop())
        self.assertEqual(self.manager.state, "STOPPED")
        self.assertRaises(Busy, self.manager.stop)
        self.assertEqual(self.send("init", INIT), [])
        self.manager.start()
        self.assertEqual(len(self.send("init", INIT)), 1)

    def test_stopping_takes_time(self) -> None:
        """While the subscription closes it is neither started nor stopped."""
        closed: Deferred[None] = Deferred()

        class SlowSubscription:
            """Closes when the test says so."""

            def close(self) -> Deferred[None]:
                """Begin to close."""
                return closed

        self.patch(self.context, "subscribe", lambda channel, receiver: SlowSubscription())
        manager = SlurmJobManager(self.context)
        manager.start()
        stopped = manager.stop()
        self.assertEqual(manager.state, "STOPPING")
        self.assertRaises(Busy, manager.start)
        self.assertRaises(Busy, manager.stop)
        closed.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(manager.state, "STOPPED")

    def test_jobs_stay_while_stopped(self) -> None:
        """A stop and a start leave the jobs as they are."""
        self.send("init", INIT)
        self.successResultOf(self.manager.stop())
        self.assertEqual(self.daemon.values("node-1:411/job_slurm_6")["job_uid"], 1000)
        self.manager.start()
        self.send("exit", {"job_id": 6})
        self.assertTrue(self.daemon.jobs.jobs()[0].ended)

    def test_channel_taken(self) -> None:
        """A second instance cannot have the channel, and can be started when it is free."""
        other = SlurmJobManager(FakeJobManagerContext(self.daemon, instance="other"))
        self.assertRaises(ChannelTaken, other.start)
        self.assertEqual(other.state, "STOPPED")
        self.successResultOf(self.manager.stop())
        other.start()

    def test_two_instances(self) -> None:
        """Two instances on two channels do not hear each other."""
        context = FakeJobManagerContext(self.daemon, instance="other")
        other = SlurmJobManager(context)
        other.configure({"message_channel": "second"})
        other.start()
        self.daemon.publish({"event": "init", "data": {"job_id": 1}}, channel="second")
        self.assertEqual((len(context.notices), len(self.context.notices)), (1, 0))

    def test_log_is_limited(self) -> None:
        """A flood of bad messages gives one log line."""
        lines: list[Any] = []
        self.patch(type(self.context.log), "emit", lambda *args, **kwargs: lines.append(args))
        for _ in range(100):
            self.send_text("{")
        self.assertEqual(len(lines), 1)
        self.assertEqual(self.context.stats.get("rejected_syntax"), 100)

    def test_log_quotes_little(self) -> None:
        """What a publisher wrote appears in the log short and on one line."""
        lines: list[str] = []
        self.patch(
            type(self.context.log),
            "emit",
            lambda log, level, format, **fields: lines.append(format.format(**fields)),
        )
        self.send_text(json.dumps({"event": "a\nERROR: b" * 1000, "data": {}}))
        (line,) = lines
        self.assertIn("a?ERROR: b", line)
        self.assertLess(len(line), 300)


class NoDaemonTests(SynchronousTestCase):
    """Without the message service."""

    def test_messages_off(self) -> None:
        """Start fails with the error of the context, and can be repeated."""
        from ldmsjob.errors import ConfigError

        daemon = FakeDaemon()
        daemon.hub.disable()
        manager = SlurmJobManager(FakeJobManagerContext(daemon))
        error = self.assertRaises(ConfigError, manager.start)
        self.assertEqual(error.rc, 95)
        daemon.hub.enable()
        manager.start()
