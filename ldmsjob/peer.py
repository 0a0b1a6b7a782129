"""Reading the metric sets of any LDMS daemon (docs/reading.md).

``Peer.connect`` gives a connection; ``Peer.dir`` and ``Peer.lookup`` find sets, and a ``RemoteSet``
reads one, or has its owner push it. Every Deferred here fails with an ``LdmsJobError`` and nothing
else, also when the peer does not answer in time or goes away.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.connecting import connect_error, find_transport, peer_name
from ldmsjob.errors import LdmsJobError, RequestFailed
from ldmsjob.interfaces import ILink, ILinkSite, LinkSettings
from ldmsjob.remoteset import PushSubscription, RemoteSet, Subscription, call
from ldmsjob.wire.events import (
    AnswerSubscribe,
    AnswerUnsubscribe,
    Message,
    ReturnCredit,
    SubscribeWanted,
    UnsubscribeWanted,
)
from ldmsjob.wire.setevents import (
    READ_NOT_ALLOWED,
    READ_OK,
    READ_OUTSIDE,
    READ_UNKNOWN_KEY,
    SET_ADDED,
    SET_DELETED,
    AcknowledgeDeletion,
    AnnouncedSet,
    AnswerDirectory,
    AnswerReads,
    CancelDirectory,
    DeletionWanted,
    DirectoryAnswered,
    DirectoryEntry,
    DirectoryUpdated,
    DirectoryWanted,
    FailLookup,
    LookUp,
    LookupFailed,
    LookupWanted,
    MemoryRead,
    Notified,
    Pushed,
    ReadMemory,
    ReadsWanted,
    SetAnnounced,
    WantDirectory,
)

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

REQUEST_SECONDS = 10.0
"""How long a peer may take to answer, or to go on with an answer in parts."""

MAX_SET_BYTES = 64 * 1024 * 1024
"""Sets whose images are larger than this are not read."""

MAX_PATH_BYTES = 511
"""Of a name or an expression in a lookup; a longer one C peers do not take."""

MAX_ANSWER_SETS = 1_000_000
"""One directory or lookup with more sets than this is not believed."""

_READ_ERRORS = {
    READ_UNKNOWN_KEY: (errno.ENOENT, "the set is gone"),
    READ_OUTSIDE: (errno.EPROTO, "it announced more than there is"),
    READ_NOT_ALLOWED: (errno.EACCES, "not allowed"),
}

DirectoryCallback = Callable[[int, Sequence[DirectoryEntry]], None]
"""Is called with ``SET_ADDED``, ``SET_CHANGED`` or ``SET_DELETED``, and the sets."""


class _Request:
    """Something asked. ``found`` collects an answer that comes in parts."""

    __slots__ = ("deferred", "found", "late", "what")

    def __init__(self, what: str, deferred: Deferred[Any], late: IDelayedCall) -> None:
        self.what = what
        self.deferred = deferred
        self.late = late
        self.found: list[Any] = []


@implementer(ILinkSite)
class Peer:
    """A connection to an LDMS daemon whose sets we read.

    Made by ``Peer.connect``; or made first and given to a transport as the site of one link.
    ``clock`` is a reactor or a ``task.Clock``, ``timeout`` is in seconds and counts for each
    request.
    """

    log = Logger(namespace="peer")
    settings = LinkSettings(messages_enabled=lambda: False)
    """What our side of the connection says of itself."""

    def __init__(
        self,
        clock: Any,
        *,
        timeout: float = REQUEST_SECONDS,
        max_set_bytes: int = MAX_SET_BYTES,
    ) -> None:
        self.clock = clock
        self.timeout = timeout
        self.max_set_bytes = max_set_bytes
        self.address = "not connected"
        """Where the peer is, for people."""
        self._link: ILink | None = None
        """The only one, or the first of a rail."""
        self._arrived: ILink | None = None
        """The one that brought the event that is being dealt with."""
        self._tokens = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        self._sets: WeakValueDictionary[str, RemoteSet] = WeakValueDictionary()
        self._watchers: dict[int, DirectoryCallback] = {}
        self._directory_token = 0
        self._on_delete: dict[int, Callable[[str], None]] = {}
        self.pushes: dict[bytes, PushSubscription] = {}
        """What is being pushed to us, by the handle that comes with it. For ``RemoteSet``."""
        self.notices: dict[int, Callable[[int, bytes], None]] = {}
        """Who hears of notifications, by token. For ``RemoteSet``."""
        self._closed: list[Deferred[None]] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            DirectoryAnswered: self._directory_answered,
            DirectoryUpdated: self._directory_updated,
            SetAnnounced: self._set_announced,
            LookupFailed: self._lookup_failed,
            MemoryRead: self._memory_read,
            Pushed: self._pushed,
            Notified: self._notified,
            DeletionWanted: self._deletion_wanted,
            Message: lambda event: self._reply(ReturnCredit([event.credit])),
            # C daemons may ask the same of us. We are no daemon: there is nothing to be had.
            DirectoryWanted: lambda event: self._reply(AnswerDirectory(event.xid)),
            LookupWanted: lambda event: self._reply(FailLookup(event.xid, errno.ENOENT)),
            ReadsWanted: lambda event: self._reply(
                AnswerReads([(read, READ_UNKNOWN_KEY, b"") for read in event.reads])
            ),
            SubscribeWanted: lambda event: self._reply(
                AnswerSubscribe(event.xid, errno.EOPNOTSUPP, "not supported")
            ),
            UnsubscribeWanted: lambda event: self._reply(
                AnswerUnsubscribe(event.xid, errno.ENOENT, "not subscribed")
            ),
        }

    @classmethod
    def connect(
        cls,
        reactor: Any,
        host: str,
        port: int = 411,
        *,
        xprt: str = "sock",
        auth: str | None = None,
        auth_options: Mapping[str, str] | None = None,
        xprt_options: Mapping[str, str] | None = None,
        timeout: float = REQUEST_SECONDS,
        max_set_bytes: int = MAX_SET_BYTES,
        rail: int = 1,
    ) -> Deferred[Peer]:
        """Connect to the daemon there, with the transport and authentication of those names.

        Without ``auth`` it is ``none``, or what the transport proves. ``host`` is a path for a
        transport without ports, such as ``unix``.

        With ``rail`` more than 1 there are that many connections, among which the sets that are
        looked up are shared out.

        Fails with ``RequestFailed`` when nobody answers, ``AuthFailed`` or ``PeerError`` when the
        daemon does not want us, ``ConfigError`` for a transport or authentication that is not there
        or options that it does not take.
        """
        peer = cls(reactor, timeout=timeout, max_set_bytes=max_set_bytes)
        try:
            transport, authenticator = find_transport(
                reactor, xprt, auth, auth_options or {}, xprt_options
            )
            opened = transport.connect(host, port, peer, authenticator, cls.settings, rail)
        except LdmsJobError:
            return fail(Failure())
        opened.addTimeout(timeout, reactor)

        def failed(failure: Failure) -> Failure:
            where = peer_name(host, port)
            if failure.check(DeferredTimeout):
                return Failure(RequestFailed(f"{where}: no answer", rc=errno.ETIMEDOUT))
            value: Any = failure.value
            error = connect_error(value, where)
            return failure if error is None else Failure(error)

        return opened.addCallbacks(lambda _link: peer, failed)

    # What there is

    def dir(self) -> Deferred[list[DirectoryEntry]]:
        """The sets that the peer lets us see, in its order."""
        return self._list(updates=bool(self._watchers))

    def subscribe_dir(self, callback: DirectoryCallback) -> Deferred[Subscription]:
        """Call ``callback`` with all sets, as added, and with what changes from then on.

        The Deferred fires when the sets that there are have been told; ``close`` of its result ends
        the calls. A set that is added meanwhile may be told twice. C daemons tell that a set is
        gone only for sets that were looked up on this connection, and then with its name only.
        """
        number = next(self._tokens)
        self._watchers[number] = callback

        def listed(entries: list[DirectoryEntry]) -> Subscription:
            if number in self._watchers and entries:
                self._call(callback, SET_ADDED, entries)
            return Subscription(close)

        def close() -> None:
            if self._watchers.pop(number, None) is not None and not self._watchers:
                self.send(CancelDirectory(self._directory_token))

        def failed(failure: Failure) -> Failure:
            close()
            return failure

        return self._list(updates=True).addCallbacks(listed, failed)

    def lookup(
        self, path: str, *, by_schema: bool = False, is_regex: bool = False
    ) -> Deferred[list[RemoteSet]]:
        """The sets of that instance name, or of that schema name, or those whose name the POSIX
        extended regular expression finds. Nothing found is an empty list.

        A set that was looked up before is the same ``RemoteSet`` again. A C daemon does not say
        that it has finished when the last set that matches may not be read by us: then what it did
        announce is the result, after the time-out.
        """
        size = len(path.encode("utf-8", "surrogateescape"))
        if not 0 < size <= MAX_PATH_BYTES or "\0" in path:
            return fail(
                RequestFailed(
                    f"a name of {size} bytes to look up; 1 to {MAX_PATH_BYTES} are possible",
                    rc=errno.EINVAL,
                )
            )
        known = None if by_schema or is_regex else self._sets.get(path)
        return self.ask(
            f"the lookup of {path!r}",
            lambda token: LookUp(token, path, by_schema, is_regex),
            None if known is None else known.link,
        )

    def on_delete(self, callback: Callable[[str], None]) -> Subscription:
        """Call ``callback`` with the instance name of each looked-up set that its owner deletes."""
        number = next(self._tokens)
        self._on_delete[number] = callback
        return Subscription(lambda: self._on_delete.pop(number, None))

    # The connection

    @property
    def is_open(self) -> bool:
        """Whether anything can be asked."""
        return self._link is not None

    def close(self) -> Deferred[None]:
        """Close the connection; fires when it is closed. What is outstanding fails."""
        closed = self.when_closed()
        if self._link is not None:
            self._link.close()
        return closed

    def when_closed(self) -> Deferred[None]:
        """Fires when the connection is closed, by whomever."""
        if self._link is None:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closed.append(closed)
        return closed

    # For RemoteSet

    def read(
        self, announced: AnnouncedSet, offset: int, length: int, link: ILink | None = None
    ) -> Deferred[bytes]:
        """Those bytes of a set's image, which was announced on that link."""
        return self.ask(
            f"a read of {announced.instance!r}",
            lambda token: ReadMemory(token, announced, offset, length),
            link,
        )

    def ask(
        self, what: str, command: Callable[[int], Any] | None, link: ILink | None = None
    ) -> Deferred[Any]:
        """Send the command that is made for a new token; fires with the answer.

        ``what`` names it in errors. ``link`` is as for ``send``.
        """
        if self._link is None:
            return fail(RequestFailed(f"{self.address}: not connected", rc=errno.ENOTCONN))
        token = next(self._tokens)

        def given_up(_deferred: Deferred[Any]) -> None:
            self._take(token)

        deferred: Deferred[Any] = Deferred(given_up)
        late = self.clock.callLater(self.timeout, self._too_late, token)
        self._requests[token] = _Request(what, deferred, late)
        if command is not None:
            self.send(command(token), link)
        return deferred

    def new_token(self) -> int:
        """A number that no other request of ours has."""
        return next(self._tokens)

    def send(self, command: Any, link: ILink | None = None) -> None:
        """Send it, if there is still a connection: on ``link``, for what concerns a set that was
        looked up there, or else as the rules of rails have it."""
        first = self._link
        if first is None:
            return
        if link is None:
            link = first if first.rail is None else first.rail.link_for(command)
        link.send(command)

    def _reply(self, command: Any) -> None:
        """Send it where what it answers came from."""
        if self._arrived is not None:
            self._arrived.send(command)

    # ILinkSite

    def link_opened(self, link: ILink) -> None:
        """There is a connection."""
        if link.endpoint == 0:
            self._link = link
            self.address = link.peer_address

    def link_events(self, link: ILink, events: Sequence[Any]) -> None:
        """Answers, updates, and requests that we refuse."""
        for event in events:
            self._arrived = link
            handle = self._handlers.get(type(event))
            if handle is not None:
                handle(event)

    def link_drained(self, link: ILink) -> None:
        """Nothing waits for room."""

    def link_closed(self, link: ILink, reason: Failure) -> None:
        """Fail all that is outstanding."""
        self._link = None
        requests, self._requests = self._requests, {}
        error = f"{self.address}: the connection was lost: {reason.getErrorMessage()}"
        for request in requests.values():
            request.late.cancel()
            request.deferred.errback(RequestFailed(error, rc=errno.ECONNRESET))
        pushes, self.pushes = self.pushes, {}
        for push in pushes.values():
            push.ended(RequestFailed(error, rc=errno.ECONNRESET))
        self._watchers.clear()
        self.notices.clear()
        closed, self._closed = self._closed, []
        for deferred in closed:
            deferred.callback(None)

    def link_refused(self, peer_address: str, reason: str) -> None:
        """The Deferred of ``connect`` tells."""

    # Answers

    def _list(self, updates: bool) -> Deferred[list[DirectoryEntry]]:
        def command(token: int) -> WantDirectory:
            if updates:
                self._directory_token = token
            return WantDirectory(token, updates)

        return self.ask("the directory", command)

    def _take(self, token: int) -> _Request | None:
        """The request, which then is over."""
        request = self._requests.pop(token, None)
        if request is not None and request.late.active():
            request.late.cancel()
        return request

    def _too_late(self, token: int) -> None:
        request = self._requests.pop(token)
        if request.found and isinstance(request.found[0], RemoteSet):
            request.deferred.callback(request.found)
            return
        request.deferred.errback(
            RequestFailed(
                f"{self.address}: no answer in {self.timeout:g} s to {request.what}",
                rc=errno.ETIMEDOUT,
            )
        )

    def _part(self, token: int, found: Sequence[Any], more: bool) -> None:
        """A part of an answer; each gives the peer more time."""
        request = self._requests.get(token)
        if request is None:
            return
        request.found += found
        if len(request.found) > MAX_ANSWER_SETS:
            self._refused(token, errno.EMSGSIZE, f"more than {MAX_ANSWER_SETS} sets")
        elif more:
            request.late.reset(self.timeout)
        else:
            self.answered(token, request.found)

    def answered(self, token: int, result: Any) -> None:
        """Give a request its answer."""
        request = self._take(token)
        if request is not None:
            request.deferred.callback(result)

    def _refused(self, token: int, rc: int, reason: str) -> None:
        request = self._take(token)
        if request is not None:
            request.deferred.errback(
                RequestFailed(f"{self.address}: {request.what}: {reason}", rc=rc)
            )

    def _directory_answered(self, event: DirectoryAnswered) -> None:
        if event.rc:
            self._refused(event.token, event.rc, f"refused with error {event.rc}")
        else:
            self._part(event.token, event.entries, event.more)

    def _directory_updated(self, event: DirectoryUpdated) -> None:
        for callback in list(self._watchers.values()):
            self._call(callback, event.kind, event.entries)

    def _set_announced(self, event: SetAnnounced) -> None:
        if event.token not in self._requests:
            return
        announced = event.announced
        known = self._sets.get(announced.instance)
        if known is None or not known.announced_again(announced):
            known = self._sets[announced.instance] = RemoteSet(self, announced)
        known.link = self._arrived
        self._part(event.token, [known], event.more)

    def _lookup_failed(self, event: LookupFailed) -> None:
        if event.rc == errno.ENOENT:
            self._part(event.token, [], False)
        else:
            self._refused(event.token, event.rc, f"refused with error {event.rc}")

    def _memory_read(self, event: MemoryRead) -> None:
        if event.status == READ_OK:
            self.answered(event.token, event.data)
        else:
            rc, reason = _READ_ERRORS.get(event.status, (errno.EIO, f"error {event.status}"))
            self._refused(event.token, rc, reason)

    def _pushed(self, event: Pushed) -> None:
        push = self.pushes.get(event.push_id)
        if push is not None:
            push.received(event)

    def _notified(self, event: Notified) -> None:
        callback = self.notices.get(event.token)
        if callback is not None:
            self._call(callback, event.what, event.data)

    def _deletion_wanted(self, event: DeletionWanted) -> None:
        """Consent. Reads that were sent before are still answered: the peer hears of it later."""
        self._reply(AcknowledgeDeletion(event.xid))
        known = self._sets.get(event.instance)
        if known is not None:
            if known.link is not self._arrived:
                return  # An earlier one of that name; ours was looked up on another link.
            del self._sets[event.instance]
            known.deleted()
        for watcher in list(self._watchers.values()):
            self._call(watcher, SET_DELETED, [DirectoryEntry(name=event.instance)])
        for callback in list(self._on_delete.values()):
            self._call(callback, event.instance)

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        call(self.log, callback, *arguments)
