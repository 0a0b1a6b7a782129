"""For authors of plugins: the daemon's core without a network, on a clock that tests turn.

A sampler's test::

    class TestJobsRunning(SynchronousTestCase):
        def test_counts(self):
            context = FakeSamplerContext()
            sampler = JobsRunning(context)
            sampler.configure({})
            sampler.start()
            context.daemon.apply(JobInit("1", uid=1000))
            sampler.sample(context.daemon.now())
            self.assertEqual(context.daemon.values("node-1:411/jobs")["running"], 1)

A job manager's::

            context = FakeJobManagerContext(resource_manager="line")
            manager = LineJobManager(context)
            manager.configure({"message_channel": "jobs"})
            manager.start()
            context.daemon.publish("start 7 1000 100", channel="jobs")
            self.assertEqual(context.notices, [JobInit("7", uid=1000, gid=100)])

Job table, job sets, event delivery, message channels and metric sets are the real ones.
``verify_plugin`` checks a drop-in's factory and what it makes against the interfaces, and the
attributes of a configuration line against the factory's declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.plugin import IPlugin
from zope.interface.verify import verifyObject

from ldmsjob.contexts import Core, JobManagerContext, SamplerContext
from ldmsjob.events import (
    EventsLost,
    JobEnded,
    JobEvent,
    JobSetDeleted,
    JobStarted,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
)
from ldmsjob.facts import Origin
from ldmsjob.interfaces import (
    IJobManager,
    IJobManagerFactory,
    ISampler,
    ISamplerFactory,
    ISubscriber,
    ISubscriberFactory,
)
from ldmsjob.jobservice import JobService
from ldmsjob.jobsets import JobSetPolicy
from ldmsjob.loader import check_attributes
from ldmsjob.logformat import Levels
from ldmsjob.messages import MessageHub
from ldmsjob.notices import Notice
from ldmsjob.replay import recorded_messages
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.decoded import DecodedElement, DecodedSet
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.stats import Stats
from ldmsjob.subscriber import JobSubscriber
from ldmsjob.turns import Turn
from ldmsjob.users import Users
from ldmsjob.wire.events import JSON

START_SECONDS = 1_800_000_000
"""What the wall clock of a ``FakeDaemon`` shows at first."""


def replay(scenario: str) -> list[bytes]:
    """The payloads of one recorded Slurm scenario, as the notifier sent them, in order.

    Raises ``KeyError`` for a scenario that was not recorded.
    """
    return [message.payload for message in recorded_messages([scenario])]


class EventRecorder(JobSubscriber):
    """A subscriber that keeps what it gets.

    ``answer``, if given, is called with each event; what it returns, such as a Deferred, is what
    the subscriber's method returns.
    """

    def __init__(self, answer: Callable[[JobEvent], Deferred[None] | None] | None = None) -> None:
        self.events: list[JobEvent] = []
        self.lost: list[EventsLost] = []
        self.closed = 0
        """Times that ``subscription_closed`` was called."""
        self._answer = answer

    @property
    def names(self) -> list[str]:
        """The class names of the events, in order: ``["JobStarted", …]``."""
        return [type(event).__name__ for event in self.events]

    def of(self, kind: type) -> list[Any]:
        """The events of one class."""
        return [event for event in self.events if type(event) is kind]

    def _keep(self, event: JobEvent) -> Deferred[None] | None:
        self.events.append(event)
        return None if self._answer is None else self._answer(event)

    def job_started(self, event: JobStarted) -> Deferred[None] | None:
        """Keep it."""
        return self._keep(event)

    def step_started(self, event: StepStarted) -> Deferred[None] | None:
        """Keep it."""
        return self._keep(event)

    def task_started(self, event: TaskStarted) -> Deferred[None] | None:
        """Keep it."""
        return self._keep(event)

    def task_ended(self, event: TaskEnded) -> Deferred[None] | None:
        """Keep it."""
        return self._keep(event)

    def step_ended(self, event: StepEnded) -> Deferred[None] | None:
        """Keep it."""
        return self._keep(event)

    def job_ended(self, event: JobEnded) -> Deferred[None] | None:
        """Keep it."""
        return self._keep(event)

    def job_set_deleted(self, event: JobSetDeleted) -> Deferred[None] | None:
        """Keep it."""
        return self._keep(event)

    def events_lost(self, event: EventsLost) -> None:
        """Keep it apart from the others."""
        self.lost.append(event)

    def subscription_closed(self) -> None:
        """Count it."""
        self.closed += 1


class FakeDaemon:
    """The core of a daemon named ``node-1:411``, with messages on.

    ``users`` are the users that it can look up: name -> (uid, gid). Lookups answer at once.
    """

    def __init__(
        self,
        *,
        daemon_name: str = "node-1:411",
        users: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        known = dict(users or {})
        names = {uid: name for name, (uid, _) in known.items()}
        self.clock = Clock()
        """Monotonic. ``advance`` lets time pass, by both clocks; ``set_clock`` sets the other."""
        self._wall_offset: float = START_SECONDS
        self.turn = Turn()
        self.stats = Stats()
        self.registry = SetRegistry()
        self.hub = MessageHub(
            self.stats.child("messages"),
            self.turn,
            now=self.clock.seconds,
            wall_clock_us=self.now_us,
        )
        self.hub.enable()
        self.jobs = JobService(
            self.registry,
            self.turn,
            self.clock,
            self.stats,
            daemon_name,
            wall_clock_us=self.now_us,
            users=Users(self.clock, maybeDeferred, name_of=names.get, ids_of=known.get),
        )
        self.core = Core(
            self.clock,
            turn=self.turn,
            stats=self.stats,
            levels=Levels(),
            hub=self.hub,
            registry=self.registry,
            wall_clock_us=self.now_us,
        )
        self.core.daemon_name = daemon_name
        self.core.jobs = self.jobs

    def now(self) -> float:
        """The wall clock in seconds since the epoch."""
        return self._wall_offset + self.clock.seconds()

    def now_us(self) -> int:
        """The wall clock in microseconds since the epoch."""
        return round(self.now() * 1e6)

    def set_clock(self, by: float) -> None:
        """Set the wall clock forward by these seconds, or back where they are negative. No time
        passes by that."""
        self._wall_offset += by

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def publish(
        self, data: bytes | str | Mapping[str, Any], *, channel: str = "slurm", kind: int = JSON
    ) -> None:
        """Send a message, as one read of a socket would bring it. A mapping is sent as JSON."""
        if isinstance(data, Mapping):
            data = msgspec.json.encode(data)
        elif isinstance(data, str):
            data = data.encode()
        with self.turn:
            self.hub.publish(channel, data, kind=kind)

    def apply(
        self,
        notice: Notice,
        *,
        resource_manager: str = "slurm",
        policy: JobSetPolicy | None = None,
        origin: Origin = "message",
    ) -> None:
        """Do what a job manager does with a notice."""
        self.jobs.apply(notice, self.now_us(), resource_manager, policy or _DEFAULT_POLICY, origin)

    def record(self, *, replay: bool = False) -> EventRecorder:
        """A new subscriber of job events that keeps them."""
        recorder = EventRecorder()
        self.jobs.subscribe(recorder, name="recorder", replay=replay)
        return recorder

    def decoded(self, instance: str) -> DecodedSet:
        """A set that is offered to peers, read from its bytes as a peer does.

        Raises ``KeyError`` when there is none of that name.
        """
        metric_set = self.registry.get(instance)
        if metric_set is None:
            raise KeyError(instance)
        return decode_set(metric_set.meta_bytes(), metric_set.data_bytes())

    def values(self, instance: str) -> dict[str, Any]:
        """The values of such a set by metric name; a list of records as a list of dictionaries."""
        values = self.decoded(instance).values()
        return {name: _plain(value) for name, value in values.items()}


_DEFAULT_POLICY = JobSetPolicy()


def _plain(value: Any) -> Any:
    if isinstance(value, DecodedElement):
        return _plain(value.value)
    return [_plain(element) for element in value] if isinstance(value, list) else value


class FakeJobManagerContext(JobManagerContext):
    """What a job manager gets in a test. ``daemon`` is a new ``FakeDaemon`` unless given."""

    def __init__(
        self,
        daemon: FakeDaemon | None = None,
        *,
        instance: str = "test",
        resource_manager: str = "slurm",
        policy: JobSetPolicy | None = None,
    ) -> None:
        self.daemon = daemon or FakeDaemon()
        super().__init__(self.daemon.core, instance, f"jobmgr.test.{instance}")
        self.resource_manager = resource_manager
        self.policy = policy or JobSetPolicy()
        self.notices: list[Notice] = []
        """All notices that were applied."""

        self.origins: list[Origin] = []
        """How each of them came to be known."""

    def apply(self, notice: Notice, received_time_us: int, *, origin: Origin = "message") -> None:
        """Keep the notice and do what it means."""
        self.notices.append(notice)
        self.origins.append(origin)
        super().apply(notice, received_time_us, origin=origin)


class FakeSamplerContext(SamplerContext):
    """What a sampler gets in a test. ``daemon`` is a new ``FakeDaemon`` unless given."""

    def __init__(self, daemon: FakeDaemon | None = None, *, instance: str = "test") -> None:
        self.daemon = daemon or FakeDaemon()
        super().__init__(self.daemon.core, instance, f"sampler.test.{instance}")


def verify_plugin(
    factory: Any,
    attributes: Mapping[str, str] | None = None,
    *,
    daemon: FakeDaemon | None = None,
) -> Any:
    """Check a factory of job managers, samplers or subscribers; make, check, configure one.

    ``attributes`` are what a user writes behind ``config``; they are checked as the daemon does.
    Returns the configured instance, not started; its context is a fake one on ``daemon``. Raises
    ``zope.interface.Invalid`` for what an interface forbids, ``ConfigError`` for the attributes.
    """
    verifyObject(IPlugin, factory)
    context: FakeJobManagerContext | FakeSamplerContext
    if IJobManagerFactory.providedBy(factory):
        verifyObject(IJobManagerFactory, factory)
        context = FakeJobManagerContext(daemon)
        plugin = factory.create(context)
        verifyObject(IJobManager, plugin)
        context.resource_manager = plugin.resource_manager
    else:
        is_subscriber = ISubscriberFactory.providedBy(factory)
        verifyObject(ISubscriberFactory if is_subscriber else ISamplerFactory, factory)
        context = FakeSamplerContext(daemon)
        plugin = factory.create(context)
        verifyObject(ISubscriber if is_subscriber else ISampler, plugin)
    checked = check_attributes(factory.attributes, attributes or {}, f"plugin '{factory.name}'")
    plugin.configure(checked)
    return plugin
