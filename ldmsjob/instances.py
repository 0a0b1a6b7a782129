"""Plugin instances as services: what `load`, `config`, `start`, `jobmgr_start` and `term` act on.

Commands may come before the daemon runs: what they ask for then happens when it starts. Afterwards
they act at once. Whatever a plugin raises is logged under its instance's name, counted as
``failures``, and becomes the command's own error; it touches no other instance.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any, Literal

from twisted.application.service import Service
from twisted.internet.defer import (
    Deferred,
    inlineCallbacks,
    maybeDeferred,
    succeed,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from ldmsjob.contexts import Core, JobManagerContext, SamplerContext
from ldmsjob.errors import PLUGIN_FAULTS, Busy, ChannelTaken, ConfigError, LdmsJobError, SetExists
from ldmsjob.interfaces import AttributeSpec, IChannelJobManager, IReopening
from ldmsjob.jobsets import JOB_SET_ATTRIBUTES, JobSetPolicy
from ldmsjob.loader import check_attributes
from ldmsjob.sampling import Sampling
from ldmsjob.users import parse_uids

State = Literal["loaded", "configured", "starting", "started", "stopping", "failed"]

_ERROR_NUMBERS = {Busy: errno.EBUSY, ChannelTaken: errno.EEXIST, SetExists: errno.EEXIST}
SUBSCRIBER_ATTRIBUTES = (
    AttributeSpec("replay", "First get the starts of what runs already.", "boolean", "false"),
)
"""What ``config`` of every subscriber accepts, whatever else it does."""

JOB_MANAGER_ATTRIBUTES = (
    *JOB_SET_ATTRIBUTES,
    AttributeSpec(
        "publishers",
        "Users or uids, with commas, whose messages count besides those of root and the daemon.",
        "text",
        "",
    ),
)
"""What ``config`` of every job manager accepts, whatever else it does."""

_JOB_MANAGER_NAMES = frozenset(spec.name for spec in JOB_MANAGER_ATTRIBUTES)


class PluginInstance(Service):
    """What job manager and sampler instances have in common.

    ``state`` is for people and for the commands below. ``where`` is the place of the command that
    made the instance do what it does when the daemon starts.
    """

    kind = "plugin"

    def __init__(self, core: Core, factory: Any, name: str, context: Any) -> None:
        self.setName(name)
        self.core = core
        self.factory = factory
        self.context = context
        self.log: Logger = context.log
        self.stats = context.stats
        self.state: State = "loaded"
        self.where = ""
        self._live = False
        """Whether the plugin's ``start`` has succeeded and its ``stop`` has not been called."""
        self._begun: Deferred[Any] = succeed(None)
        self._ending: Deferred[Any] = succeed(None)
        self.plugin = self._call("load", lambda: factory.create(context))

    def _call(self, what: str, call: Callable[[], Any]) -> Any:
        """Call into the plugin; what it raises comes out as a ``ConfigError``."""
        try:
            return call()
        except ConfigError as error:
            raise self._error(what, error.rc, error.message, error.hint) from None
        except LdmsJobError as error:
            rc = next((rc for kind, rc in _ERROR_NUMBERS.items() if isinstance(error, kind)), 22)
            raise self._error(what, rc, str(error)) from None
        except PLUGIN_FAULTS as error:
            self._failed(what, Failure())
            rc = errno.ENOENT if isinstance(error, ImportError) else errno.EINVAL
            raise self._error(
                what, rc, f"{type(error).__name__}: {error}", "this is a fault of the plugin"
            ) from None

    def _error(self, what: str, rc: int, message: str, hint: str = "") -> ConfigError:
        return ConfigError(
            f"{self.kind} {self.name} {what} error: {rc}: {message}", rc=rc, hint=hint
        )

    def _failed(self, what: str, failure: Failure) -> None:
        self.stats.add("failures")
        if failure.check(LdmsJobError):
            self.log.error("{what} failed: {reason}", what=what, reason=failure.getErrorMessage())
        else:
            self.log.failure("{what} failed", failure, what=what)

    def _begin(self) -> None:
        """Call the plugin's ``start``. Raises ``ConfigError`` when that fails at once."""
        self.state = "starting"
        at_once = True
        problem: Failure | None = None

        def succeeded(_: object) -> None:
            self._live = True
            if self.state == "starting":
                self.state = "started"

        def failed(failure: Failure) -> Deferred[Any]:
            nonlocal problem
            self.state = "failed"
            if at_once:
                problem = failure
            else:
                self._failed("start", failure)
            return self._release()

        self._begun = maybeDeferred(self._start_plugin)
        self._begun.addCallbacks(succeeded, failed)
        at_once = False
        if problem is not None:
            try:
                self._call("start", problem.raiseException)
            except ConfigError as error:
                error.where = self.where
                raise

    def _start_plugin(self) -> Any:
        return self.plugin.start()

    def _end(self) -> Deferred[Any]:
        """Stop the plugin; while that is under way, what was begun before. Never fails."""
        if self.state != "stopping":
            self._ending = self._stop_plugin()
        return self._ending

    @inlineCallbacks
    def _stop_plugin(self) -> Any:
        self.state = "stopping"
        yield self._begun
        yield self._before_stop()
        if self._live:
            self._live = False
            try:
                yield maybeDeferred(self.plugin.stop)
            except PLUGIN_FAULTS:
                self._failed("stop", Failure())
        yield self._release()
        self.state = "configured"

    def reopen(self) -> None:
        """Have the plugin open its files again, if it has any and is started. Never fails."""
        if self._live and self.state == "started" and IReopening.providedBy(self.plugin):
            try:
                self._call("reopen", self.plugin.reopen)
            except ConfigError as error:
                self.log.error("{error}", error=error)

    def _before_stop(self) -> Deferred[Any]:
        return succeed(None)

    def _release(self) -> Deferred[Any]:
        """Take back what the context has given out; also after a start that failed."""
        return succeed(None)

    def stopService(self) -> Any:
        """Stop the plugin if it was started."""
        super().stopService()
        if self._live or self.state in ("starting", "stopping"):
            return self._end()
        return None


class JobManagerInstance(PluginInstance):
    """An instance of a job manager plugin."""

    kind = "jobmgr"

    def __init__(self, core: Core, factory: Any, name: str) -> None:
        self.wanted = False
        self._policies: list[JobSetPolicy] = []
        context = JobManagerContext(core, name, f"jobmgr.{factory.name}.{name}")
        super().__init__(core, factory, name, context)
        self.stats.gauge("jobs_running", lambda: self.count_jobs(ended=False))
        self.stats.gauge("jobs_lingering", lambda: self.count_jobs(ended=True))

    def count_jobs(self, *, ended: bool) -> int:
        """How many of its jobs run; or have ended, but their sets linger."""
        own = {id(policy) for policy in self._policies}
        return sum(job.ended is ended and id(job.policy) in own for job in self.core.jobs.jobs())

    def configure(self, given: Mapping[str, str | None], where: str) -> None:
        """Take the attributes of `config`: those of every job manager and the plugin's own."""
        if self.wanted or self.state in ("starting", "started", "stopping"):
            raise self._error(
                "config", errno.EBUSY, "it is started", f"jobmgr_stop name={self.name}"
            )
        subject = f"plugin '{self.factory.name}'"
        declared = {spec.name for spec in self.factory.attributes}
        for_all = {n: v for n, v in given.items() if n in _JOB_MANAGER_NAMES - declared}
        for_plugin = {n: v for n, v in given.items() if n not in for_all}
        attributes = check_attributes(
            self.factory.attributes, for_plugin, subject, also=_JOB_MANAGER_NAMES
        )
        common = check_attributes(JOB_MANAGER_ATTRIBUTES, for_all, subject)
        policy = JobSetPolicy.from_attributes(common)
        publishers = parse_uids("publishers", common["publishers"])
        self._call("config", lambda: self.plugin.configure(attributes))
        self.context.policy = policy
        self.context.publishers = publishers
        self._policies.append(policy)
        self.state = "configured"
        self.where = where

    def describe(self) -> str:
        """What it would do when the daemon runs, for people."""
        will = "starts" if self.wanted else "configured" if self.state != "loaded" else "loaded"
        return f"job manager {self.name} (plugin {self.factory.name}): {will}"

    def request_start(self, where: str) -> None:
        """`jobmgr_start`. Raises ``ConfigError``: 22 not configured, 16 already started, 17 when
        it wants a channel of another that is to run."""
        if self.state == "loaded":
            raise self._error(
                "start",
                errno.EINVAL,
                "it is not configured",
                f"put 'config name={self.name}' in front",
            )
        if self.wanted or self.state == "stopping":
            raise self._error(
                "start", errno.EBUSY, "it is stopping" if not self.wanted else "it is started"
            )
        self._check_channels()
        self.where = where
        self.wanted = True
        if self.running:
            self._start()

    def _check_channels(self) -> None:
        """Find two of one channel before they start, which a check of a configuration never does.

        What is not declared, or is still held by one that stops, shows in ``subscribe``.
        """
        channels = self._channels()
        for other in self.parent or ():
            if other is not self and other.wanted:
                for channel in sorted(channels & other._channels()):
                    raise self._error(
                        "start",
                        errno.EEXIST,
                        f"{other.name} already receives channel {channel!r}",
                        f"{other.where} starts it; give one of them another channel",
                    )

    def _channels(self) -> frozenset[str]:
        if not IChannelJobManager.providedBy(self.plugin):
            return frozenset()
        return frozenset(self._call("start", lambda: self.plugin.channels))

    def _start(self) -> None:
        self.context.resource_manager = self.plugin.resource_manager
        self._begin()

    def request_stop(self) -> None:
        """`jobmgr_stop`: begins to stop and returns. Raises ``ConfigError`` 16 if not started."""
        if not self.wanted:
            raise self._error("stop", errno.EBUSY, "it is not started")
        self.wanted = False
        if self.running:
            self._end()

    def check_terminable(self) -> None:
        """Raise ``ConfigError`` 16 while it is started or stopping."""
        if self.wanted or self.state in ("starting", "started", "stopping"):
            raise self._error("term", errno.EBUSY, "it is started", f"jobmgr_stop name={self.name}")

    def terminated(self) -> None:
        """It is gone: its job sets go at once."""
        for policy in self._policies:
            self.core.jobs.drop_jobs(policy)

    def startService(self) -> None:
        """Start the plugin if a command asked for it."""
        super().startService()
        if self.wanted:
            self._start()

    def _release(self) -> Deferred[Any]:
        if self.state == "failed":
            self.wanted = False
        result: Deferred[Any] = self.context.close()
        return result


class ReactingInstance(PluginInstance):
    """An instance that starts as soon as it is configured and the daemon runs."""

    context: SamplerContext

    def __init__(self, core: Core, factory: Any, name: str) -> None:
        context = SamplerContext(core, name, f"{self.kind}.{factory.name}.{name}")
        super().__init__(core, factory, name, context)

    def configure(self, given: Mapping[str, str | None], where: str) -> None:
        """Take the attributes of `config`; starts the plugin when the daemon runs."""
        if self.state in ("starting", "started", "stopping"):
            raise self._error("config", errno.EBUSY, "it is running", f"term name={self.name}")
        self._take(given, f"plugin '{self.factory.name}'")
        self.state = "configured"
        self.where = where
        if self.running:
            self._begin()

    def _take(self, given: Mapping[str, str | None], subject: str) -> None:
        attributes = check_attributes(self.factory.attributes, given, subject)
        self._call("config", lambda: self.plugin.configure(attributes))

    def describe(self) -> str:
        """What it would do when the daemon runs, for people."""
        will = "starts" if self.state == "configured" else "loaded, not configured"
        return f"{self.kind} {self.name} (plugin {self.factory.name}): {will}"

    def check_terminable(self) -> None:
        """It may always be terminated."""

    def terminated(self) -> None:
        """It is gone."""

    def startService(self) -> None:
        """Start the plugin if it is configured."""
        super().startService()
        if self.state == "configured":
            self._begin()

    def _before_stop(self) -> Deferred[Any]:
        return self.context.close_subscriptions()

    def abandon(self) -> int:
        """Its time to stop is over: discard the job events that it has still to get, and tell how
        many these are."""
        return self.core.jobs.abandon(str(self.name))

    def _release(self) -> Deferred[Any]:
        self.context.withdraw_sets()
        return self.context.close_subscriptions()


class SubscriberInstance(ReactingInstance):
    """An instance of a subscriber plugin: gets job events from its start on."""

    kind = "subscriber"
    replay = False

    def _take(self, given: Mapping[str, str | None], subject: str) -> None:
        own = {spec.name for spec in SUBSCRIBER_ATTRIBUTES}
        for_plugin = {name: value for name, value in given.items() if name not in own}
        attributes = check_attributes(self.factory.attributes, for_plugin, subject, also=own)
        for_us = {name: value for name, value in given.items() if name in own}
        replay = check_attributes(SUBSCRIBER_ATTRIBUTES, for_us, subject)["replay"]
        self._call("config", lambda: self.plugin.configure(attributes))
        self.replay = replay == "true"

    def _start_plugin(self) -> Any:
        return maybeDeferred(self.plugin.start).addCallback(self._subscribe)

    def _subscribe(self, _: object) -> None:
        self.context.subscribe_jobs(self.plugin, replay=self.replay)


class SamplerInstance(ReactingInstance):
    """An instance of a sampler plugin: takes readings when `start` asks for them."""

    kind = "sampler"

    def __init__(self, core: Core, factory: Any, name: str) -> None:
        self.sampling: Sampling | None = None
        super().__init__(core, factory, name)

    def describe(self) -> str:
        """What it would do when the daemon runs, for people."""
        text = super().describe()
        if self.sampling is not None:
            text += f", sampling every {self.sampling.interval_us / 1e6:g} s"
        return text

    def check_samplable(self) -> None:
        """Raise ``ConfigError`` 16 when it is sampling already or not configured."""
        if self.sampling is not None:
            raise self._error("start", errno.EBUSY, "it is already running")
        if self.state in ("loaded", "failed"):
            raise self._error(
                "start",
                errno.EBUSY,
                f"it is {self._state_text()}",
                f"see 'config name={self.name} …'",
            )

    def _state_text(self) -> str:
        return "not configured" if self.state == "loaded" else self.state

    def request_sampling(self, interval_us: int, offset_us: int) -> None:
        """`start`: take readings at this interval and offset from now on."""
        self.check_samplable()
        self.sampling = Sampling(
            self.core.clock,
            interval_us,
            offset_us,
            self._sample,
            stats=self.stats,
            log=self.log,
            gave_up=self._gave_up,
            wall_clock_us=self.core.now_us,
        )
        if self.running:
            self.sampling.start()

    def _sample(self, now: float) -> Deferred[None] | None:
        if self.state != "started":
            return None
        with self.core.turn:
            result: Deferred[None] | None = self.plugin.sample(now)
        return result

    def _gave_up(self) -> None:
        self.stats.add("failures")
        self.sampling = None
        self.state = "failed"

    def request_stop(self) -> None:
        """`stop`: take no more readings. Raises ``ConfigError`` 22 when it takes none."""
        if self.sampling is None:
            raise self._error("stop", errno.EINVAL, "it is not running")
        self.sampling.stop()
        self.sampling = None

    def check_terminable(self) -> None:
        """Raise ``ConfigError`` 16 while it takes readings."""
        if self.sampling is not None:
            raise self._error("term", errno.EBUSY, "it is running", f"stop name={self.name}")

    def startService(self) -> None:
        """Start the plugin if it is configured, and its readings if a command asked for them."""
        super().startService()
        if self.sampling is not None:
            self.sampling.start()

    def stopService(self) -> Any:
        """Stop readings and the plugin."""
        if self.sampling is not None:
            self.sampling.stop()
        return super().stopService()
