"""The daemon: a tree of services, built by commands.

Its life: make a ``Daemon``, let an ``Interpreter`` read the configuration, then start it as any
Twisted service. Job managers start first, then samplers; listeners accept last. It stops in the
reverse order.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import CannotListenError
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from ldmsjob import __version__
from ldmsjob.admission import Admission
from ldmsjob.authentications import Authentications
from ldmsjob.clocks import wall_clock_us
from ldmsjob.config import nearest
from ldmsjob.contexts import Core, PluginContext
from ldmsjob.errors import ConfigError
from ldmsjob.instances import (
    JobManagerInstance,
    PluginInstance,
    SamplerInstance,
    SubscriberInstance,
)
from ldmsjob.interfaces import (
    IJobManagerFactory,
    ISubscriberFactory,
    ITransport,
    LinkSettings,
)
from ldmsjob.jobservice import JobService
from ldmsjob.keeping import JournalSettings, make_journal, recover
from ldmsjob.limits import Limits, changed
from ldmsjob.links import LinkSite, ListenerSite
from ldmsjob.listeners import LISTEN_ATTRIBUTES, Endpoint, Listeners, cannot_listen
from ldmsjob.loader import Loader, check_attributes
from ldmsjob.logformat import Levels, LineObserver
from ldmsjob.memberships import Memberships
from ldmsjob.messages import MessageHub
from ldmsjob.requests import DaemonRequests
from ldmsjob.services import STOP_SECONDS, Closing, Opening, OrderedServices, ServiceGroup
from ldmsjob.serving import SetService
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.stats import Stats
from ldmsjob.status import Health
from ldmsjob.turns import Turn
from ldmsjob.users import Users

if TYPE_CHECKING:
    from ldmsjob.journal.journal import Journal

# What may stand in a set's name.
_DAEMON_NAME = re.compile(r"[!#-\[\]-~]{1,128}")


class Daemon(OrderedServices):
    """The whole daemon.

    ``clock`` is a reactor that goes by the monotonic clock, see ``ldmsjob.clocks``, or a
    ``task.Clock`` in tests; ``wall_clock_us`` tells the time. ``observer``, if given, is where log
    lines go; `log_file` redirects it. Below ``state_directory`` the daemon has a directory of its
    own, for the journal; without one there is a journal only if the configuration says where.
    """

    log = Logger(namespace="ldmsd")

    def __init__(
        self,
        clock: Any,
        *,
        loader: Loader,
        levels: Levels | None = None,
        observer: LineObserver | None = None,
        wall_clock_us: Callable[[], int] = wall_clock_us,
        hostname: str | None = None,
        state_directory: str | None = None,
    ) -> None:
        super().__init__("ldmsjob", clock)
        self.journal_settings = JournalSettings(enabled=state_directory is not None)
        self._state_directory = state_directory
        self.loader = loader
        self.observer = observer
        self.levels = levels or Levels()
        self.stats = Stats()
        self.hub = MessageHub(
            self.stats.child("messages"),
            turn := Turn(),
            now=clock.seconds,
            wall_clock_us=wall_clock_us,
        )
        self.registry = SetRegistry()
        self.core = Core(
            clock,
            turn=turn,
            stats=self.stats.child("plugins"),
            levels=self.levels,
            hub=self.hub,
            registry=self.registry,
            wall_clock_us=wall_clock_us,
        )
        self.sets = SetService(
            self.registry, self.stats.child("sets"), turn, clock, now=clock.seconds
        )
        links = self.stats.child("links")
        self.limits = Limits()
        self.admission = Admission(links, now=clock.seconds)
        self.requests = DaemonRequests(links)
        self.site = LinkSite(self.hub, links, turn, clock, sets=self.sets, requests=self.requests)
        self.users = Users(clock, deferToThread)
        self.memberships = Memberships(self.users, clock, self.stats.child("groups"))
        self.settled = False
        self.pid_file: str | None = None
        self.exit_status = 0
        self.endpoints: list[Endpoint] = []
        self.authentications = Authentications(loader, lambda name: self._context("auth", name))
        self._metrics: Any = None
        self._turn = turn
        self._run_as: tuple[int, int] | None = None
        self._hostname = hostname or socket.gethostname()
        self._given: dict[str, tuple[str, str]] = {}
        self._transports: dict[tuple[str, frozenset[tuple[str, str]]], ITransport] = {}
        self.job_managers = ServiceGroup("job managers", clock, STOP_SECONDS)
        self.samplers = ServiceGroup("samplers", clock, STOP_SECONDS)
        self.listeners = Listeners("listeners", clock, STOP_SECONDS)
        self.listeners.endpoints = {}
        self.listeners.sites = {}

    # Settings

    def set_once(self, setting: str, value: str, where: str) -> bool:
        """Whether a single-valued setting may be set: at start-up only the first one counts.

        A further one is an ERROR line. When the daemon has started only the log can still be
        changed; the others raise ``ConfigError`` with rc 16.
        """
        if self.settled:
            if setting in ("log_level", "log_file"):
                return True
            raise ConfigError(f"'{setting}' can only be set at the start", rc=errno.EBUSY)
        if setting in self._given:
            first, first_where = self._given[setting]
            self.log.error(
                "{where}: {setting} is already {first} ({first_where}); {value} is ignored",
                where=where,
                setting=setting,
                first=first,
                first_where=first_where,
                value=value,
            )
            return False
        self._given[setting] = value, where
        return True

    def use_name(self, name: str) -> None:
        """Set the first part of set names."""
        if _DAEMON_NAME.fullmatch(name) is None:
            raise ConfigError(
                f"daemon_name '{name}' invalid",
                hint="it may have 1 to 128 ASCII characters, but no blanks, quotes or backslashes",
            )
        self.core.daemon_name = name

    def use_log_file(self, path: str) -> None:
        """Write log lines to that file, or to syslog. Raises ``ConfigError``."""
        if self.observer is not None:
            self.observer.open(path)

    def use_limit(self, name: str, value: int) -> None:
        """Set one of the limits, by its name in ``Limits``."""
        self.limits = msgspec.structs.replace(self.limits, **{name: value})

    def settle(self) -> None:
        """End the first pass: the name, the authentication and the listeners are known now."""
        if not self.core.daemon_name:
            ports = [f":{one.port}" for one in self.endpoints if not one.is_path]
            self.use_name("".join([self._hostname, *ports[:1]]))
        self.authentications.settle()
        self.hub.limits = self.sets.limits = self.admission.limits = self.limits
        journal = self.core.journal = self._make_journal()
        self.core.jobs = JobService(
            self.registry,
            self._turn,
            self.core.clock,
            self.stats,
            self.core.daemon_name,
            wall_clock_us=self.core.now_us,
            users=self.users,
            journal=journal,
            limits=self.limits,
        )
        self.settled = True
        self.health = Health(self)
        self.health.setServiceParent(self)
        if journal is not None:
            Opening("journal", journal.open, journal.close).setServiceParent(self)
        closing = ServiceGroup("hubs", self._clock, STOP_SECONDS)
        jobs = self.core.jobs
        Closing("job events", jobs.close, jobs.abandon).setServiceParent(closing)
        closing.setServiceParent(self)
        self.job_managers.setServiceParent(self)
        Opening("recovery", lambda: recover(jobs, self.job_managers)).setServiceParent(self)
        self.samplers.setServiceParent(self)
        sending = ServiceGroup("links", self._clock, STOP_SECONDS)
        Closing("open links", self.site.close).setServiceParent(sending)
        sending.setServiceParent(self)
        self.listeners.setServiceParent(self)
        if self._metrics is not None:
            self._metrics.setServiceParent(self)
        for problem in self.loader.problems:
            self.log.error("{problem}", problem=problem)
        for endpoint in self.endpoints:
            self._add_listener(endpoint)

    # The journal

    def use_journal(self, settings: JournalSettings) -> None:
        """Say whether and where there is a journal, and what bounds it."""
        self.journal_settings = settings

    @property
    def journal_path(self) -> str | None:
        """Where the journal is; None when there is none. Not before the name is known."""
        return self.journal_settings.place(self._state_directory, self.core.daemon_name)

    def _make_journal(self) -> Journal | None:
        path = self.journal_path
        if path is None:
            return None
        return make_journal(
            path, self.journal_settings, self._turn, self.core, self.stats.child("journal")
        )

    # Listeners

    def _context(self, logger: str, name: str) -> PluginContext:
        return PluginContext(self.core, name, f"{logger}.{name}")

    def has_ports(self, xprt: str) -> bool:
        """Whether that transport is addressed by host and port, or else by a path. Raises
        ``ConfigError`` with rc 2 when there is none of that name."""
        return bool(self.loader.find("transport", xprt).has_ports)

    def _transport(self, xprt: str, attributes: Mapping[str, str | None]) -> ITransport:
        """The transport of that name and these attributes, one for all listeners with the same."""
        factory = self.loader.find("transport", xprt)
        checked = check_attributes(
            factory.attributes, attributes, f"'listen xprt={xprt}'", also=LISTEN_ATTRIBUTES
        )
        key = xprt, frozenset(checked.items())
        if key not in self._transports:
            transport: ITransport = factory.create(self._context("xprt", xprt))
            transport.configure(checked)
            self._transports[key] = transport
        return self._transports[key]

    def listen(
        self,
        xprt: str,
        host: str | None,
        port: int,
        *,
        attributes: Mapping[str, str | None] | None = None,
        auth: str | None = None,
        quota: int = -1,
        rx_rate: int = -1,
        where: str = "",
    ) -> Endpoint:
        """Accept connections there: from the start of the daemon, or now when it runs.

        ``port`` 0 takes a free one. ``attributes`` are the transport's own. Raises ``ConfigError``:
        17 for the same one twice, 2 for an unknown ``auth`` domain or transport, 7 when it cannot
        be bound.
        """
        transport = self._transport(xprt, attributes or {})
        endpoint = Endpoint(xprt, host, port, auth, quota, rx_rate, where, transport)
        if auth is not None:
            self.authentications.expect(auth)
        known_name = port or endpoint.is_path
        if known_name and any(str(known) == str(endpoint) for known in self.endpoints):
            raise ConfigError(f"{endpoint} is listened on already", rc=errno.EEXIST)
        if self.settled:
            self._add_listener(endpoint)
        self.endpoints.append(endpoint)
        return endpoint

    def _add_listener(self, endpoint: Endpoint) -> None:
        auth = self.authentications.of(endpoint)
        site = ListenerSite(self.site)
        try:
            listener = endpoint.transport.listen(
                endpoint.host,
                endpoint.port,
                site,
                auth,
                LinkSettings(
                    lambda: self.hub.enabled,
                    endpoint.quota,
                    endpoint.rx_rate,
                    self.memberships.identified,
                    self.requests.codes,
                    self.limits,
                    self.admission,
                ),
            )
        except ConfigError as error:
            error.where = error.where or endpoint.where
            raise
        service = listener.service
        name = str(endpoint)
        if name in self.listeners.namedServices:
            name = f"{name}#{len(list(self.listeners))}"
        service.setName(name)
        self.listeners.endpoints[name] = endpoint
        self.listeners.sites[name] = site
        self.stats.child("links").gauge(
            f"by_transport.{endpoint.xprt}", lambda: self.listeners.links_over(endpoint.xprt)
        )
        try:
            service.setServiceParent(self.listeners)
        except (ConfigError, CannotListenError, OSError) as error:
            service.disownServiceParent()
            raise cannot_listen(endpoint, error) from None

    def serve_metrics(self, host: str, port: int, where: str) -> None:
        """Let Prometheus read the counters there. Before ``settle``. Raises ``ConfigError`` with
        rc 2 when what that needs is not installed."""
        from ldmsjob.webmetrics import MetricsListener  # memory that most daemons save

        self._metrics = MetricsListener(self.core.clock, self.stats, host, port, where)

    # Plugin instances

    def load(self, name: str, plugin: str) -> PluginInstance:
        """Make an instance. Raises ``ConfigError``: 2 no such plugin, 17 the name is in use."""
        factory = self.loader.find("plugin", plugin)
        kind, group = self._kind_of(factory)
        if name in group.namedServices:
            raise ConfigError(
                f"there is an instance '{name}' already",
                rc=errno.EEXIST,
                hint=f"choose another name: load name=… plugin={plugin}",
            )
        instance: PluginInstance = kind(self.core, factory, name)
        instance.setServiceParent(group)
        return instance

    def _kind_of(self, factory: Any) -> tuple[Any, OrderedServices]:
        if IJobManagerFactory.providedBy(factory):
            return JobManagerInstance, self.job_managers
        if ISubscriberFactory.providedBy(factory):
            return SubscriberInstance, self.samplers
        return SamplerInstance, self.samplers

    def instance(self, name: str) -> Any:
        """The sampler or job manager instance of that name. Raises ``ConfigError`` with rc 2."""
        for group in (self.samplers, self.job_managers):
            if name in group.namedServices:
                return group.namedServices[name]
        raise self._unknown(f"plugin instance '{name}' does not exist", name)

    def sampler(self, name: str) -> SamplerInstance:
        """The sampler instance of that name. Raises ``ConfigError``: 2, or 22 if it is none."""
        found = self.samplers.namedServices.get(name)
        if isinstance(found, SamplerInstance):
            return found
        if found is not None:
            raise ConfigError(
                f"'{name}' is not a sampler",
                hint="subscribers take job events as they come; there is nothing to start",
            )
        if name in self.job_managers.namedServices:
            raise ConfigError(
                f"'{name}' is not a sampler",
                hint=f"job managers are started and stopped by jobmgr_start and jobmgr_stop "
                f"name={name}",
            )
        raise self._unknown(f"Sampler instance '{name}' not found", name)

    def job_manager(self, name: str) -> JobManagerInstance:
        """The job manager instance of that name. Raises ``ConfigError`` with rc 2."""
        found = self.job_managers.namedServices.get(name)
        if found is not None:
            return found
        raise self._unknown(f"jobmgr '{name}' not found", name)

    def _unknown(self, message: str, name: str) -> ConfigError:
        names = [*self.samplers.namedServices, *self.job_managers.namedServices]
        hint = nearest(name, [one for one in names if one != name])
        if not hint:
            hint = (
                f"'{name}' is a sampler"
                if name in names
                else f"put 'load name={name}' in front of this line"
            )
        return ConfigError(message, rc=errno.ENOENT, hint=hint)

    def terminate(self, name: str) -> Deferred[None]:
        """Remove an instance that is stopped; fires when it is gone. Raises ``ConfigError``."""
        instance = self.instance(name)
        instance.check_terminable()
        return self._terminate(instance)

    @inlineCallbacks
    def _terminate(self, instance: Any) -> Any:
        yield instance.disownServiceParent()
        instance.terminated()
        self.core.stats.remove_child(instance.context.log.namespace)

    # Life

    def describe(self) -> list[str]:
        """What would run, for people: one line for each listener and instance."""
        lines = [f"daemon name {self.core.daemon_name}"]
        lines += [f"listen on {endpoint}" for endpoint in self.endpoints]
        lines.append(f"messages {'enabled' if self.hub.enabled else 'disabled'}")
        lines.append(f"journal {self.journal_path or 'off'}")
        if limits := changed(self.limits):
            lines.append(f"limits {limits}")
        if self._metrics is not None:
            lines.append(self._metrics.describe())
        for instance in [*self.job_managers, *self.samplers]:
            lines.append(instance.describe())
        return lines

    def privilegedStartService(self) -> None:
        """See to file descriptors for all links, and bind the listeners."""
        self.admission.prepare()
        super().privilegedStartService()
        self._hand_over()

    def startService(self) -> None:
        """Write the pid file and start everything; the listeners have been bound before.

        Raises ``ConfigError`` when something fails; what had started is being stopped then.
        """
        self._write_pid_file()
        try:
            super().startService()
        except ConfigError as error:
            self.exit_status = error.rc
            self.stopService()
            raise

    def will_run_as(self, uid: int, gid: int) -> None:
        """Between binding and starting the process goes on as that user: to be called before
        ``privilegedStartService``, which then also gives the user what this one has made."""
        self._run_as = uid, gid
        self.listeners.changes_user = True

    def _hand_over(self) -> None:
        if self._run_as is None:
            return
        path = self.journal_path
        try:
            if path is not None:
                self.journal_settings.hand_over(path, *self._run_as)
            if self.observer is not None:
                self.observer.hand_over(*self._run_as)
        except OSError as error:
            raise ConfigError(
                f"cannot give '{error.filename or 'the log file'}' to uid {self._run_as[0]}: "
                f"{error.strerror}",
                rc=error.errno or errno.EIO,
            ) from None

    def reopen(self) -> None:
        """Open files again that may have been moved away: the log and those of plugins."""
        if self.observer is not None:
            try:
                self.observer.reopen()
            except ConfigError as error:
                self.log.error("{error}", error=error)
        for instance in [*self.job_managers, *self.samplers]:
            instance.reopen()

    def announce(self) -> None:
        """Log that it is ready. To be called once the reactor runs and signals are dealt with."""
        self.log.info(
            "ldmsjob {version} is ready: {name} {endpoints}",
            version=__version__,
            name=self.core.daemon_name,
            endpoints=" ".join(map(str, self.endpoints)) or "without a listener",
            always=True,
        )
        self._warn_of_open_listeners()

    def _warn_of_open_listeners(self) -> None:
        """Say what it means where peers are believed; also of listeners on this host alone, since
        all its users can connect to those."""
        believing = self.authentications.believing(self.endpoints)
        if believing:
            self.log.warn(
                "peers are believed without a proof: whoever can connect to {endpoints} may be"
                " root, read every set and message, and start or end jobs here in anybody's name;"
                " auth=munge asks who they are",
                endpoints=", ".join(believing),
                always=True,
            )

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop everything, remove the pid file, and log what was counted."""
        yield super().stopService()
        self._remove_pid_file()
        for group, counters in self.stats.groups():
            self.log.info(
                "counters of {group}: {counters}",
                group=group,
                counters=" ".join(f"{name}={value}" for name, value in counters.items()),
            )
        self.log.info("LDMS Daemon exiting...status {rc}", rc=self.exit_status, always=True)

    def _remove_pid_file(self) -> None:
        if self.pid_file is not None:
            try:
                os.remove(self.pid_file)
            except FileNotFoundError:
                pass
            except OSError as error:
                self.log.error("{error}", error=error)

    def _write_pid_file(self) -> None:
        if self.pid_file is None:
            return
        try:
            with open(self.pid_file, "w") as file:
                file.write(f"{os.getpid()}\n")
        except OSError as error:
            _, where = self._given["pid_file"]
            raise ConfigError(
                f"the pid file '{self.pid_file}' cannot be written: {error.strerror}",
                rc=error.errno or errno.EIO,
                where=where,
            ) from None
