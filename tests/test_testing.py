"""Tests of ldmsjob.testing, what plugin authors test with."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Invalid, implementer
from zope.interface.verify import verifyObject

from ldmsjob.errors import ChannelTaken, ConfigError
from ldmsjob.events import JobStarted
from ldmsjob.facts import JobKey
from ldmsjob.interfaces import (
    AttributeSpec,
    IJobManager,
    IJobManagerContext,
    IJobSubscriber,
    ISampler,
    ISamplerContext,
)
from ldmsjob.notices import JobExit, JobInit
from ldmsjob.plugin import JobManagerFactory, SamplerFactory
from ldmsjob.plugins import builtin
from ldmsjob.sets.schema import Schema
from ldmsjob.testing import (
    START_SECONDS,
    EventRecorder,
    FakeDaemon,
    FakeJobManagerContext,
    FakeSamplerContext,
    replay,
    verify_plugin,
)
from ldmsjob.values import U64, U64_ARRAY


@implementer(ISampler)
class Counting:
    """A sampler that counts running jobs."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.attributes: dict[str, str] = {}

    def configure(self, attributes: Any) -> None:
        """Keep them."""
        self.attributes = dict(attributes)

    def start(self) -> None:
        """Make the set."""
        schema = Schema("jobs")
        schema.add_metric("running", U64)
        schema.add_metric("pair", U64_ARRAY, 2)
        self.set = self.context.new_set("node-1:411/jobs", schema)

    def sample(self, now: float) -> None:
        """Count."""
        with self.set.transaction() as writer:
            writer.put("running", sum(not job.ended for job in self.context.jobs()))
            writer.put("pair", (1, 2))

    def stop(self) -> None:
        """Nothing."""


class Incomplete:
    """Not a sampler at all."""

    def __init__(self, context: Any) -> None:
        pass


def counting_factory(maker: str = "Counting") -> SamplerFactory:
    """A factory like those of drop-ins."""
    return SamplerFactory(
        "counting",
        "Counts.",
        (AttributeSpec("every", "Interval.", "seconds", "1"),),
        f"{__name__}:{maker}",
    )


class ContextTests(SynchronousTestCase):
    """The contexts."""

    def test_interfaces(self) -> None:
        """They provide what plugins are promised."""
        verifyObject(IJobManagerContext, FakeJobManagerContext())
        verifyObject(ISamplerContext, FakeSamplerContext())
        verifyObject(IJobSubscriber, EventRecorder())

    def test_sampler(self) -> None:
        """A sampler sees jobs, and its set is read from its bytes."""
        context = FakeSamplerContext()
        sampler = Counting(context)
        sampler.start()
        context.daemon.apply(JobInit("1"))
        sampler.sample(context.daemon.now())
        values = context.daemon.values("node-1:411/jobs")
        self.assertEqual(values, {"running": 1, "pair": [1, 2]})
        self.assertRaises(KeyError, context.daemon.values, "other")

    def test_job_manager(self) -> None:
        """A job manager's messages come from ``publish``, its notices are kept and applied."""
        context = FakeJobManagerContext(resource_manager="line")
        got: list[bytes] = []

        def receive(message: Any) -> None:
            got.append(message.body)
            context.apply(JobInit("7"), context.received_time_us())

        context.subscribe("jobs", receive)
        context.daemon.publish("start 7", channel="jobs")
        context.daemon.publish({"a": 1}, channel="jobs")
        context.daemon.publish("start 7", channel="other")
        self.assertEqual(got, [b"start 7", b'{"a":1}'])
        self.assertEqual(context.notices, [JobInit("7")] * 2)
        job = context.find_job(JobKey("line", "7"))
        assert job is not None
        self.assertEqual(job.facts.start_us, START_SECONDS * 1_000_000)

    def test_origin(self) -> None:
        """How a notice came to be known is kept next to it and stands in its events."""
        context = FakeJobManagerContext()
        recorder = context.daemon.record()
        context.apply(JobInit("7"), 1, origin="reconciliation")
        context.apply(JobInit("8"), 1)
        self.assertEqual(context.origins, ["reconciliation", "message"])
        self.assertEqual([event.origin for event in recorder.events], context.origins)

    def test_channels_are_exclusive(self) -> None:
        """As in the daemon."""
        first = FakeJobManagerContext()
        second = FakeJobManagerContext(first.daemon)
        subscription = first.subscribe("a", lambda message: None)
        self.assertRaises(ChannelTaken, second.subscribe, "a", lambda message: None)
        self.successResultOf(subscription.close())
        second.subscribe("a", lambda message: None)

    def test_events(self) -> None:
        """A recorder keeps events, and the clock turns only when told."""
        daemon = FakeDaemon()
        recorder = daemon.record()
        daemon.apply(JobInit("1"))
        daemon.apply(JobExit("1"))
        self.assertEqual(recorder.names, ["JobStarted", "JobEnded", "JobSetDeleted"])
        self.assertEqual(len(recorder.of(JobStarted)), 1)
        self.assertEqual(len(daemon.registry), 1)
        daemon.advance(10)
        self.assertEqual(len(daemon.registry), 0)
        self.assertEqual(daemon.now(), START_SECONDS + 10)
        self.successResultOf(daemon.jobs.close())
        self.assertEqual(recorder.closed, 1)

    def test_recorder_that_waits(self) -> None:
        """A recorder can be made slow, and keeps what it is told about losses."""
        daemon = FakeDaemon()
        gate: Deferred[None] = Deferred()
        recorder = EventRecorder(lambda event: gate if event.sequence == 1 else None)
        daemon.jobs.subscribe(recorder, name="slow")
        for number in range(12_000):
            daemon.apply(JobInit(str(number)))
        gate.callback(None)
        self.assertEqual(recorder.lost[0].count, 1999)
        self.assertEqual(len(recorder.events), 10_001)

    def test_replay(self) -> None:
        """Recorded scenarios come as the notifier sent them."""
        payloads = replay("srun_n2")
        self.assertEqual(len(payloads), 8)
        self.assertTrue(all(payload.endswith(b"}\0") for payload in payloads))
        self.assertRaises(KeyError, replay, "no such scenario")


class VerifyTests(SynchronousTestCase):
    """``verify_plugin``."""

    def test_sampler(self) -> None:
        """A sound sampler is returned, configured with defaults and in the daemon's spelling."""
        sampler = verify_plugin(counting_factory())
        self.assertEqual(sampler.attributes, {"every": "1"})
        sampler = verify_plugin(counting_factory(), {"every": "2m"})
        self.assertEqual(sampler.attributes, {"every": "120"})

    def test_job_manager(self) -> None:
        """A job manager gets its own resource manager's name."""
        daemon = FakeDaemon()
        manager = verify_plugin(builtin.jobmgr_slurm, {}, daemon=daemon)
        self.assertTrue(IJobManager.providedBy(manager))
        manager.start()
        daemon.publish(replay("srun_n2")[0])
        self.assertEqual(daemon.jobs.jobs()[0].key, JobKey("slurm", "6"))

    def test_what_is_wrong_is_told(self) -> None:
        """Missing methods, wrong factories and wrong attributes raise."""
        self.assertRaises(Invalid, verify_plugin, counting_factory("Incomplete"))
        self.assertRaises(Invalid, verify_plugin, object())
        self.assertRaises(ConfigError, verify_plugin, counting_factory(), {"evry": "1"})
        factory = JobManagerFactory("x", "x", (), f"{__name__}:Counting")
        self.assertRaises(Invalid, verify_plugin, factory)
