"""The contracts between the daemon and its plugins.

Plugins import this module, the value modules (``facts``, ``notices``, ``events``, ``errors``,
``wire.events``) and nothing else of the daemon. All calls must be short: none may block. Work that
takes time returns a ``Deferred``. Everything runs on the reactor's thread.

A plugin that raises hurts only itself: the daemon logs it with the instance's name, counts it, and
goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import msgspec
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.application.service import IService
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime
    from twisted.logger import Logger
    from twisted.python.failure import Failure

    from ldmsjob.events import (
        EventsLost,
        JobEnded,
        JobSetDeleted,
        JobStarted,
        StepEnded,
        StepStarted,
        TaskEnded,
        TaskStarted,
    )
    from ldmsjob.facts import JobFacts, JobKey, Origin, StepFacts, TaskFacts
    from ldmsjob.limits import Limits
    from ldmsjob.notices import Notice
    from ldmsjob.sets.schema import Schema
    from ldmsjob.wire.events import Credential, Message, PeerInfo, WireCommand, WireEvent
    from ldmsjob.wire.setevents import SetCommand, SetEvent


# --------------------------------------------------------------------------------------------
# Finding plugins


class AttributeSpec(msgspec.Struct, frozen=True):
    """One attribute that ``config`` (or ``auth_add``, for an authenticator) accepts.

    The daemon checks what the user wrote against it before the plugin sees anything, and prints
    it in ``ldmsjob plugins NAME``.
    """

    name: str
    meaning: str
    """One sentence for the usage text."""
    kind: str = "text"
    """``text``, ``integer``, ``seconds`` (with units ``us ms s m h d``; a bare number is seconds),
    ``boolean``, ``octal``, ``path``, or words separated by ``|`` of which one must be given.

    The plugin gets text in one form: integers in decimal, seconds as a decimal number without a
    unit, booleans as ``true`` or ``false``, octal digits without a prefix."""
    default: str | None = None
    """What the plugin gets when the attribute is absent. None: it gets nothing."""
    required: bool = False


class IPluginFactory(Interface):
    """What a drop-in module provides, next to ``twisted.plugin.IPlugin``."""

    name: str = Attribute("The word after `load name=`, e.g. 'jobmgr_slurm'.")
    summary: str = Attribute("One line for help.")
    attributes: Sequence[AttributeSpec] = Attribute("What `config` accepts.")

    def create(context: Any) -> Any:
        """A new, unconfigured instance. Import heavy modules here, not at module level.

        ``context`` is an ``IJobManagerContext``, for samplers and subscribers an
        ``ISamplerContext``, for transports and authenticators an ``IPluginContext``.
        """


class IJobManagerFactory(IPluginFactory):
    """Makes ``IJobManager``."""


class ISamplerFactory(IPluginFactory):
    """Makes ``ISampler``."""


class ISubscriberFactory(IPluginFactory):
    """Makes ``ISubscriber``. ``config`` also accepts ``replay``, which the daemon takes."""


class ITransportFactory(IPluginFactory):
    """Makes ``ITransport``; ``name`` is the word of ``xprt=``.

    ``attributes`` are what `listen` accepts in addition to its own. The daemon makes one instance
    for all listeners with the same ones.
    """

    has_ports: bool = Attribute(
        "True: listeners and peers are at a host and a port. False: at a path in the file system."
    )
    authenticates: bool = Attribute(
        "True: it proves itself who peers are. An authenticator is used only where one is named."
    )


class IAuthenticatorFactory(IPluginFactory):
    """Makes ``IAuthenticator``; ``name`` is the word of ``plugin=`` in ``auth_add``."""


# --------------------------------------------------------------------------------------------
# What the core gives to plugins


class IStats(Interface):
    """Counters, gauges and histograms of one instance: what `ldmsjob status` and the metrics for
    Prometheus tell of it (docs/status.md).

    Names are yours, but few and fixed: never made of what peers or jobs say. What follows a dot in
    a name is a reason: ``refused.too_long``. They go when the instance does.
    """

    def add(counter: str, amount: int = 1) -> None:
        """Add to a counter, which starts at 0 when it is first named."""

    def get(counter: str) -> int:
        """The present value; 0 when nobody has added to it."""

    def counts(counter: str, read: Callable[[], int]) -> None:
        """Have ``read`` called for the value of a counter that you keep yourself, because it is
        counted with every message: adding to an attribute costs least. As quick as a gauge's, and
        what it tells may only grow. A further call with that name puts another in its place."""

    def gauge(name: str, read: Callable[[], float | None]) -> None:
        """Have ``read`` called whenever somebody wants to know a present value, which may be seldom
        or often: it must be quick and change nothing. None: there is none now. A further call with
        that name puts another in its place."""

    def observe(name: str, seconds: float) -> None:
        """Something took that long: count it in the histogram of that name."""


class IPluginContext(Interface):
    """What every plugin instance gets from the daemon."""

    instance: str = Attribute("The name after `load name=`. A plugin may have several instances.")
    daemon_name: str = Attribute("First part of set names, e.g. 'node-1:411'.")
    clock: IReactorTime = Attribute(
        "Monotonic, for waiting: callLater, and seconds() since no particular moment. Tests pass "
        "task.Clock."
    )
    log: Logger = Attribute("Already labelled with the instance.")
    stats: IStats = Attribute("Counters under this instance's name.")

    def now_us() -> int:
        """The wall clock in microseconds since the epoch. It may be set, also back: measure and
        wait by ``clock``."""

    def at_turn_end(call: Callable[[], None]) -> None:
        """Call ``call`` once when the present piece of work, such as one read of a socket, is done.

        For writing in one go what one read brought. Outside of any such work it is called at once.
        """

    def keep(name: str, value: int | None) -> None:
        """Have the next daemon find ``value`` (64 bits, signed) under that name; None: no longer.

        It is written together with the notices that are applied next: both stand in the journal, or
        neither does. Nothing is kept without a journal.
        """

    def kept() -> Mapping[str, int]:
        """What an instance of this plugin and name has kept. Not before the daemon starts."""


class ISubscription(Interface):
    """A standing wish for messages or job events."""

    def close() -> Deferred[None]:
        """Wish no more. May be called again. The Deferred fires when nothing more will come."""


class IJobManagerContext(IPluginContext):
    """What a job manager plugin gets from the daemon."""

    def subscribe(channel: str, receiver: Callable[[Message], None]) -> ISubscription:
        """Call ``receiver`` with each message of that channel from now on.

        Only with those of root, of the daemon's user and of the users whom the attribute
        ``publishers`` names, which every job manager has. Raises ``ChannelTaken`` when another job
        manager has that channel, and ``ConfigError`` with rc 95 when the message service is off.
        """

    def apply(notice: Notice, received_time_us: int, *, origin: Origin = "message") -> None:
        """Tell the core what happened. The only way to change a job.

        The core runs the transition table, the set and the events before this returns.
        ``received_time_us`` is wall-clock microseconds since the epoch; it stands in for the time
        of a notice that has none. ``origin`` is ``message`` when the resource manager said so just
        now; another one, such as ``reconciliation`` for what was found out by looking, stands in
        all events that the notice gives. Raises ``NoticeError``, a ``ValueError``, and does
        nothing, for what cannot be the id or the owner of a job; see docs/plugins.md.
        """

    def received_time_us() -> int:
        """The wall clock in microseconds since the epoch, read once a turn."""

    def find_job(key: JobKey) -> IJob | None:
        """The job, while it runs or its set lingers."""

    def jobs() -> Sequence[IJob]:
        """All jobs that run or whose sets linger, in the order in which they began."""


class IJob(Interface):
    """One attempt of one job, read-only. Stays valid after the job has ended."""

    key: JobKey = Attribute("Who it is.")
    facts: JobFacts = Attribute("What is known now.")
    ended: bool = Attribute("True from the job's end on.")
    metric_set: IMetricSet = Attribute("The set that peers read. Not to be written to.")

    def steps() -> Sequence[StepFacts]:
        """In order of arrival."""

    def tasks() -> Sequence[TaskFacts]:
        """In order of arrival, ended ones included."""


class ISamplerContext(IPluginContext):
    """What a sampler plugin gets from the daemon."""

    def jobs() -> Sequence[IJob]:
        """All jobs that run or whose sets linger, in the order in which they began."""

    def subscribe_jobs(subscriber: IJobSubscriber, *, replay: bool = False) -> ISubscription:
        """Deliver job events to ``subscriber`` from now on.

        With ``replay`` it first gets the start events of the jobs, steps and tasks that now run,
        with origin ``replay``.
        """

    def new_set(
        instance: str, schema: Schema, *, uid: int = 0, gid: int = 0, perm: int = 0o440
    ) -> IMetricSet:
        """A set of the sampler's own, offered to peers at once under exactly that name.

        It is withdrawn when the sampler is terminated. Raises ``SetExists``, ``SchemaError``.
        """


# --------------------------------------------------------------------------------------------
# Plugin contracts


class IConfigurable(Interface):
    """What ``config`` needs."""

    def configure(attributes: Mapping[str, str]) -> None:
        """Take these attributes, checked against the factory's specifications, defaults filled in.

        Check everything before changing anything. Raise ``ConfigError`` naming attribute and
        reason; the daemon adds file and line. May be called again while stopped.

        Remember, and no more: open, create, subscribe and connect to nothing here. `--check` makes
        this call and promises that nothing happens; what takes effect does so in ``start``.
        """


class IJobManager(IConfigurable):
    """Knows one resource manager's vocabulary: turns its messages into notices."""

    resource_manager: str = Attribute("Stands in front of job ids, e.g. 'slurm'.")

    def start() -> Deferred[None] | None:
        """Begin: subscribe to channels, open what is needed. Never called twice without ``stop``.
        Raise ``ConfigError`` if it cannot."""

    def stop() -> Deferred[None] | None:
        """Nothing more will be applied once this is done. Jobs and their sets stay."""


class IChannelJobManager(IJobManager):
    """A job manager that can tell its channels before it starts.

    The daemon then refuses two of one channel when their configuration is read, and `--check` does
    so too. One that provides ``IJobManager`` alone works as well: what it takes shows at its start.
    """

    channels: Collection[str] = Attribute(
        "What the next start subscribes to. Read after configure()."
    )


class ISampler(IConfigurable):
    """Takes readings at an interval, or reacts to job events, or both."""

    def start() -> Deferred[None] | None:
        """Begin: open files, make sets, subscribe to job events. Called once.

        It comes when the sampler is configured and the daemon runs, whether or not readings at an
        interval are asked for. Raise ``ConfigError`` if it cannot.
        """

    def sample(now: float) -> Deferred[None] | None:
        """Take one reading. ``now`` is wall-clock seconds, aligned to interval and offset.

        While a returned Deferred has not fired the following ticks are skipped and counted. May be
        a coroutine function.
        """

    def stop() -> Deferred[None] | None:
        """The last call: the instance is terminated or the daemon ends. Close what is open.

        Its subscriptions to job events have been closed before, and their last calls made.
        """


class IReopening(Interface):
    """What a job manager, sampler or subscriber provides besides when it writes files that may be
    moved away under it, as logrotate does."""

    def reopen() -> None:
        """The user has sent SIGHUP: close what is open and open the same paths again, without
        emptying what is there. Called while it is started. What cannot be opened is kept as it is;
        raise ``ConfigError`` then."""


class IJobSubscriber(Interface):
    """One method per thing that can happen, so that a reader sees the whole life of a job here.

    A method may return a Deferred, or be a coroutine function: this subscriber's next event then
    waits for it, and nobody else's does. ``ldmsjob.subscriber.JobSubscriber`` has them all doing
    nothing.
    """

    def job_started(event: JobStarted) -> Deferred[None] | None:
        """The first event of every attempt of a job."""

    def step_started(event: StepStarted) -> Deferred[None] | None:
        """The first node of a step was announced."""

    def task_started(event: TaskStarted) -> Deferred[None] | None:
        """A task started."""

    def task_ended(event: TaskEnded) -> Deferred[None] | None:
        """A task ended; comes after its start and before its job's end."""

    def step_ended(event: StepEnded) -> Deferred[None] | None:
        """The last known node of a step ended."""

    def job_ended(event: JobEnded) -> Deferred[None] | None:
        """The job ended."""

    def job_set_deleted(event: JobSetDeleted) -> Deferred[None] | None:
        """Directly behind ``job_ended``. The set stays readable for the linger."""

    def events_lost(event: EventsLost) -> Deferred[None] | None:
        """This subscriber was too slow. ``jobs()`` of its context is the way back to the truth."""

    def subscription_closed() -> None:
        """The last call, exactly once."""


class ISubscriber(IConfigurable, IJobSubscriber):
    """A plugin that does nothing but take job events: the daemon subscribes it."""

    def start() -> Deferred[None] | None:
        """Called once, when it is configured and the daemon runs. Open here what is needed.

        Job events follow; with ``replay=true`` first the start events of what runs already. Raise
        ``ConfigError`` if it cannot.
        """

    def stop() -> Deferred[None] | None:
        """The last call, after ``subscription_closed``: close what is open."""


class ILink(Interface):
    """One LDMS connection."""

    peer_address: str = Attribute("Where the other side is, for people: '10.0.0.7:41234'.")
    peer: PeerInfo = Attribute("What it said of itself. Not before link_opened.")
    credential: Credential = Attribute("Who it proved to be. Not before link_opened.")
    rail: IRail | None = Attribute("What it is an endpoint of; None: it is alone.")
    endpoint: int = Attribute("Its index in the rail; 0 when it is alone.")

    def can_publish(size: int) -> bool:
        """Whether there is room now for a message of ``size`` (its ``credit``): in the peer's quota
        and rate, and in what is buffered for it. When it is False, ``CreditReturned`` or
        ``link_drained`` tell of new room."""

    def waits_for_second(size: int) -> bool:
        """Whether only the peer's rate keeps a message of ``size`` from being sent now, so that
        room is certain to come with the next second."""

    def has_room() -> bool:
        """Whether the peer reads what is sent to it: less than the transport's high-water mark is
        buffered for it. When it is False, ``link_drained`` tells when all has gone out."""

    def send(command: WireCommand | SetCommand) -> None:
        """Send. Raises ``PublishError`` for a message that this peer must not get. After the link
        has closed: does nothing."""

    def pause_reading() -> None:
        """Read nothing from the peer until ``resume_reading``."""

    def resume_reading() -> None:
        """Read again."""

    def close() -> None:
        """Send what is buffered, then close."""

    def abort(reason: str) -> None:
        """Close at once."""


class IRail(Interface):
    """Several links between the same two processes that a peer, or we, made together.

    Each is a link like any other: requests are answered on the link that brought them, and what
    was looked up on one is read on that one. But subscriptions are of the rail: a message goes out
    once, on the link that ``ldmsjob.wire.rail.endpoint_of_message`` names. All its links have the
    same credential. When one closes, all do.
    """

    size: int = Attribute("How many links there are when all are open.")
    links: Mapping[int, ILink] = Attribute("Those that are open, by index.")

    def link_for(command: WireCommand | SetCommand) -> ILink:
        """The link that a request or message of our own goes out on, once all are open: lookups
        take turns, messages go by their hash, all else, but what concerns a set that was looked
        up, on the first."""


class ILinkSite(Interface):
    """The owner's side of a link. A transport calls this and knows nothing else of the daemon."""

    def link_opened(link: ILink) -> None:
        """Handshake and authentication are done."""

    def link_events(link: ILink, events: Sequence[WireEvent | SetEvent]) -> None:
        """All that one read brought, in order. Never before ``link_opened``."""

    def link_drained(link: ILink) -> None:
        """There may be room again: so much was buffered for the peer that ``has_room`` was False,
        and now it has gone out; or ``can_publish`` was False because of the peer's rate, and a new
        second has begun."""

    def link_closed(link: ILink, reason: Failure) -> None:
        """Gone. Called once for each link that was opened, and for none that was not."""

    def link_refused(peer_address: str, reason: str) -> None:
        """A connection that ended before it was opened: for counting and logging.

        ``reason`` is ``SILENT`` for one that brought nothing at all.
        """


SILENT = "closed without a word"
"""Why a connection was not opened over which nothing came: somebody only looked who listens."""


def _as_it_is(step: AuthStep | Deferred[AuthStep]) -> AuthStep | Deferred[AuthStep]:
    return step


class IPlace(Interface):
    """One connection that is counted. See ``IAdmission``."""

    def opened() -> None:
        """It is a link now. May be called again."""

    def left() -> None:
        """It is closed. May be called again."""


class IAdmission(Interface):
    """Counts the connections of all listeners, and says who may still come.

    A transport asks before it keeps a connection that has come; it closes one that is not wanted,
    and tells its site by ``link_refused``.
    """

    def may_accept(on_this_host: bool) -> bool:
        """Whether the next connection may be accepted now. If not, it can wait in the system's
        queue. ``on_this_host``: only processes of this host can connect there."""

    def no_descriptor(problem: str) -> None:
        """The system had no file descriptor for a connection."""

    def wait(call: Callable[[], None]) -> None:
        """Call ``call`` once when there may be room."""

    def wait_no_more(call: Callable[[], None]) -> None:
        """Forget that ``call``, if it waits."""

    def objection(address: str, on_this_host: bool) -> str:
        """Why no further connection of ``address`` is wanted, as for ``link_refused``; else empty.
        On unix sockets it is the user who counts: ``uid 0``."""

    def enter(address: str) -> IPlace:
        """Count one more."""


class LinkSettings(msgspec.Struct, frozen=True):
    """What a listener or an outgoing connection says of itself."""

    messages_enabled: Callable[[], bool]
    """Asked when a connection message is sent."""
    quota: int = -1
    """Bytes of messages that one peer may have under way to us; -1 = unlimited."""
    rx_rate: int = -1
    """Bytes of messages per second that we want from one peer; -1 = unlimited."""
    identified: Callable[[AuthStep | Deferred[AuthStep]], AuthStep | Deferred[AuthStep]] = _as_it_is
    """Called with what each step of an authentication gave, for what is to be known of a peer
    besides what it proves. A transport that knows its peers by other means calls it likewise."""
    requests: Collection[int] = ()
    """Codes of the daemon requests that the site answers. Others are answered for it."""
    limits: Limits | None = None
    """What a link may make grow. None: the defaults."""
    admission: IAdmission | None = None
    """Asked about connections that come. None: the listener counts its own alone."""


class ITransport(IConfigurable):
    """Makes links of one kind. sock, tls and unix share one link protocol.

    ``authenticator`` is None where none was named and the factory says ``authenticates``. One that
    takes none at all raises ``ConfigError`` for any other. ``configure`` may read, and so check,
    the files that the attributes name.
    """

    def listen(
        host: str | None,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator | None,
        settings: LinkSettings,
    ) -> IListener:
        """A service that listens while it runs. ``host`` None: everywhere, IPv6 and IPv4.
        ``port`` 0: any free one, see ``IListener.port``. Where there are no ports ``host`` is the
        path, and ``port`` 0. Raises ``ConfigError`` for what does not fit together."""

    def connect(
        host: str,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator | None,
        settings: LinkSettings,
        rail: int = 1,
    ) -> Deferred[ILink]:
        """Connect once. Fires with an opened link, or fails with the reason that it is not.

        With ``rail`` more than 1, connect that many links as one rail: it fires with the first of
        them when all are open; see ``ILink.rail``.
        """


class IListener(Interface):
    """A listening service; provides ``IService`` too. Binds in ``privilegedStartService``."""

    service: IService = Attribute("The service itself, to be given a parent.")
    port: int = Attribute("The port; after binding the real one.")


class AuthStep(msgspec.Struct, frozen=True):
    """What an authentication conversation does next."""

    send: Sequence[bytes] = ()
    """Payloads for the peer, in order."""
    credential: Credential | None = None
    """Set when we are satisfied. The conversation is then over."""


class IAuthenticator(IConfigurable):
    """A way to authenticate. Makes one conversation per link."""

    name: str = Attribute("What both sides must call it in their connection messages: 'none'.")

    def begin(*, passive: bool, local_address: str, peer_address: str) -> IAuthentication:
        """A conversation. ``passive``: the peer connected to us."""


class IUnaddressedAuthenticator(IAuthenticator):
    """An authenticator to which our own address means nothing: the system is not asked for it, and
    ``local_address`` is empty."""


class ICheckedAuthenticator(IAuthenticator):
    """An authenticator that can be tried before any peer comes. One that provides
    ``IAuthenticator`` alone works as well: what is wrong with it shows with the first peer."""

    def check() -> str:
        """Try what authentication will need, for `--check`: called once, behind ``configure``.

        Returns one line that says what works, fit for users; raises ``ConfigError`` for what does
        not. The reactor does not run: it may block, for some seconds at most, and must change
        nothing.
        """


class IAuthentication(Interface):
    """One conversation. Both calls may answer at once or with a Deferred, and fail (raise, or
    errback) with ``AuthFailed``. The link reads nothing while a Deferred has not fired, and cancels
    it when it closes before."""

    def first() -> AuthStep | Deferred[AuthStep]:
        """What to send unasked when the link is up."""

    def received(payload: bytes) -> AuthStep | Deferred[AuthStep]:
        """What to do about the peer's next authentication message."""


# --------------------------------------------------------------------------------------------
# Metric sets


class IMetricWriter(Interface):
    """Writes values inside a transaction."""

    def put(metric: str, value: Any) -> None:
        """Set a scalar, text, array or timestamp (integer microseconds). Numbers are cut to the
        metric's width as C does, text to its length on a UTF-8 boundary. Raises ``SchemaError``."""


class IMetricSet(Interface):
    """A metric set: what peers look up under ``instance``."""

    instance: str = Attribute("The name that peers look up.")
    schema: Schema = Attribute("Definitions that this image was laid out from.")

    def transaction() -> AbstractContextManager[IMetricWriter]:
        """Marks the set inconsistent, lets you write, then stamps time and duration and raises the
        generation number: also when the block raises. Must not wait for anything inside."""

    def meta_bytes() -> memoryview:
        """The metadata part, read-only view of the live image."""

    def data_bytes() -> memoryview:
        """All data copies, read-only view of the live image."""
