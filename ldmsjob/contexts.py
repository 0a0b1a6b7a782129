"""What the core hands to each plugin instance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from ldmsjob.clocks import wall_clock_us
from ldmsjob.interfaces import (
    IJob,
    IJobManagerContext,
    IMetricSet,
    IPluginContext,
    ISamplerContext,
    ISubscription,
)
from ldmsjob.logformat import LevelLogger, Levels
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.stats import Stats
from ldmsjob.turns import Turn

if TYPE_CHECKING:
    from ldmsjob.facts import JobKey, Origin
    from ldmsjob.interfaces import IJobSubscriber
    from ldmsjob.jobservice import JobService
    from ldmsjob.jobsets import JobSetPolicy
    from ldmsjob.journal.journal import Journal
    from ldmsjob.messages import MessageHub
    from ldmsjob.notices import Notice
    from ldmsjob.sets.registry import SetRegistry
    from ldmsjob.sets.schema import Schema
    from ldmsjob.wire.events import Message


class Core:
    """The parts of the daemon that contexts draw on.

    ``clock`` is monotonic and makes calls; ``wall_clock_us`` tells the time.

    ``daemon_name`` and ``jobs`` are set when the daemon's name is known, before any job manager or
    sampler is loaded.
    """

    daemon_name: str = ""
    jobs: JobService
    journal: Journal | None = None

    def __init__(
        self,
        clock: Any,
        *,
        turn: Turn,
        stats: Stats,
        levels: Levels,
        hub: MessageHub,
        registry: SetRegistry,
        wall_clock_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self.clock = clock
        self.now_us = wall_clock_us
        """The wall clock in microseconds since the epoch."""
        self.turn = turn
        self.stats = stats
        self.levels = levels
        self.hub = hub
        self.registry = registry
        self._time_us = 0

    def time_us(self) -> int:
        """The wall clock, read once in each turn."""
        now = self._time_us
        if not now:
            now = self._time_us = self.now_us()
            self.turn.at_end(self._forget_time)
        return now

    def _forget_time(self) -> None:
        self._time_us = 0


@implementer(IPluginContext)
class PluginContext:
    """What every plugin gets; transports and authenticators get no more."""

    def __init__(self, core: Core, instance: str, logger: str) -> None:
        self.core = core
        self.instance = instance
        self.clock = core.clock
        self.now_us: Callable[[], int] = core.now_us
        self.log: Logger = LevelLogger(logger, core.levels)
        self.stats = core.stats.child(logger)
        self.at_turn_end: Callable[[Callable[[], None]], None] = core.turn.at_end
        self._keeper = logger

    def keep(self, name: str, value: int | None) -> None:
        """See ``IPluginContext``."""
        if self.core.journal is not None:
            self.core.journal.keep(self._keeper, name, value)

    def kept(self) -> Mapping[str, int]:
        """See ``IPluginContext``."""
        return {} if self.core.journal is None else self.core.journal.kept(self._keeper)

    @property
    def daemon_name(self) -> str:
        """First part of set names; empty until it is known."""
        return self.core.daemon_name


class _Subscriptions:
    """The open subscriptions of one instance, closed for it when it ends."""

    def __init__(self) -> None:
        self._open: dict[int, ISubscription] = {}

    def add(self, subscription: ISubscription) -> ISubscription:
        self._open[id(subscription)] = subscription
        return subscription

    def close(self) -> Deferred[Any]:
        """Close all; fires when nothing more will come from any."""
        subscriptions, self._open = list(self._open.values()), {}
        if not subscriptions:
            return succeed(None)
        return gatherResults([maybeDeferred(one.close) for one in subscriptions])


@implementer(IJobManagerContext)
class JobManagerContext(PluginContext):
    """What a job manager gets. ``resource_manager``, ``policy`` and ``publishers`` are set before
    it starts."""

    resource_manager: str = ""
    policy: JobSetPolicy
    publishers: frozenset[int] = frozenset()
    """Uids that it believes besides root and the daemon's user."""

    def __init__(self, core: Core, instance: str, logger: str) -> None:
        super().__init__(core, instance, logger)
        self.received_time_us: Callable[[], int] = core.time_us
        self._subscriptions = _Subscriptions()
        self._notices = 0
        self._last_received_us = -1
        self._last_notice = -1.0
        self.stats.counts("notices", lambda: self._notices)
        self.stats.gauge("last_notice_seconds", lambda: self.last_notice_seconds)

    @property
    def last_notice_seconds(self) -> float | None:
        """How long ago a message told of anything; None when none has."""
        return None if self._last_notice < 0 else self.core.clock.seconds() - self._last_notice

    def subscribe(self, channel: str, receiver: Callable[[Message], None]) -> ISubscription:
        """See ``IJobManagerContext``."""
        return self._subscriptions.add(
            self.core.hub.subscribe(channel, receiver, self.instance, self.publishers)
        )

    def apply(self, notice: Notice, received_time_us: int, *, origin: Origin = "message") -> None:
        """See ``IJobManagerContext``."""
        self.core.jobs.apply(
            notice, received_time_us, self.resource_manager, self.policy, origin, self.instance
        )
        self._notices += 1
        if origin == "message" and received_time_us != self._last_received_us:
            # Those that came together have one time.
            self._last_received_us = received_time_us
            self._last_notice = self.core.clock.seconds()

    def find_job(self, key: JobKey) -> IJob | None:
        """See ``IJobManagerContext``."""
        return self.core.jobs.find_job(key)

    def jobs(self) -> Sequence[IJob]:
        """See ``IJobManagerContext``."""
        return self.core.jobs.jobs()

    def close(self) -> Deferred[Any]:
        """End the subscriptions that the plugin has left open."""
        return self._subscriptions.close()


@implementer(ISamplerContext)
class SamplerContext(PluginContext):
    """What a sampler gets."""

    def __init__(self, core: Core, instance: str, logger: str) -> None:
        super().__init__(core, instance, logger)
        self._subscriptions = _Subscriptions()
        self._sets: list[str] = []

    def jobs(self) -> Sequence[IJob]:
        """See ``ISamplerContext``."""
        return self.core.jobs.jobs()

    def subscribe_jobs(self, subscriber: IJobSubscriber, *, replay: bool = False) -> ISubscription:
        """See ``ISamplerContext``."""
        return self._subscriptions.add(
            self.core.jobs.subscribe(subscriber, name=self.instance, replay=replay)
        )

    def new_set(
        self, instance: str, schema: Schema, *, uid: int = 0, gid: int = 0, perm: int = 0o440
    ) -> IMetricSet:
        """See ``ISamplerContext``."""
        metric_set = MetricSet(
            instance, schema, clock=self.core.now_us, uid=uid, gid=gid, perm=perm
        )
        self.core.registry.add(metric_set)
        self._sets.append(instance)
        return metric_set

    def close_subscriptions(self) -> Deferred[Any]:
        """End its subscriptions; fires when each subscriber has had its last call."""
        return self._subscriptions.close()

    def withdraw_sets(self) -> None:
        """Take its sets away from peers."""
        sets, self._sets = self._sets, []
        for instance in sets:
            self.core.registry.remove(instance)
