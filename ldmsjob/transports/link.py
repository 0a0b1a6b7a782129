"""A link over any byte stream of Twisted: what the transports sock and memory have in common.

The protocol here moves bytes between a transport and an ``LdmsConnection``, runs the authentication
conversation, and tells an ``ILinkSite`` what happens. It knows nothing of sockets or the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.clocks import wall_clock_us
from ldmsjob.errors import AuthFailed, HandshakeTimeout, PeerError
from ldmsjob.interfaces import (
    SILENT,
    AuthStep,
    IAuthenticator,
    ILink,
    ILinkSite,
    IPlace,
    IUnaddressedAuthenticator,
    LinkSettings,
)
from ldmsjob.limits import Limits
from ldmsjob.transports.deadlines import Deadlines
from ldmsjob.wire import buffers
from ldmsjob.wire.connection import LdmsConnection
from ldmsjob.wire.events import (
    AuthReceived,
    Forward,
    LinkUp,
    QuotaChanged,
    RateChanged,
    ReturnCredit,
    SourceAddress,
    WireCommand,
    WireEvent,
)
from ldmsjob.wire.rates import SECOND_US, us_to_next_second
from ldmsjob.wire.xprt import AuthMismatch, Unauthenticated

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from ldmsjob.transports.outbox import Outbox
    from ldmsjob.transports.plainstream import PlainStream
    from ldmsjob.transports.rail import Rail
    from ldmsjob.wire.events import Credential, PeerInfo
    from ldmsjob.wire.setevents import SetCommand
    from ldmsjob.wire.xprt import ConnectionMessage

CLOSE_SECONDS = 5.0
"""How long what is buffered may take to go out when we close."""

BATCH_BYTES = 256 * 1024
"""What collects for one link during a read is written early beyond this."""

_REFUSALS: dict[type[PeerError], str] = {
    AuthMismatch: "authentication mismatch",
    Unauthenticated: "authentication missing",
}
"""What peers that break the protocol before their link is open are counted as; others as
``handshake``."""


@lru_cache(maxsize=4)
def wire_limits(message_bytes: int, fragment_bytes: int) -> buffers.Limits:
    """What of the limits one connection keeps to."""
    return buffers.Limits(message=message_bytes, partial_message_bytes=fragment_bytes)


@lru_cache(maxsize=16)
def _is_unaddressed(authenticator: type[Any]) -> bool:
    return bool(IUnaddressedAuthenticator.implementedBy(authenticator))


@implementer(ILink, IPushProducer)
class LinkProtocol(Protocol):
    """One LDMS connection of ours.

    ``passive``: the peer connected to us. ``opened`` fires with the link when it is open, or fails
    with the reason that it is not. ``place`` is where a connection that came is counted.
    ``deadlines`` is what its handshake has, by default for itself.
    ``peer_source`` is the address that is put into messages of the peer that name none.
    ``join_rail`` is asked about peers that connect with more than one endpoint, and sets ``rail``
    and ``endpoint`` or raises ``ConnectionRefused``. ``rail``, ``rail_gn`` and ``endpoint`` are
    given to links that we make as part of a rail.

    What the peer does not read collects in the transport. While it is more than the transport's
    high-water mark, ``can_publish`` is False; a peer for whom the limit ``output_bytes`` collects
    nevertheless, in answers to what it asks for, loses its link. Reading goes on meanwhile: two
    peers that each waited for the other to read would wait for ever.
    """

    log = Logger(namespace="ldmsd")

    credential: Credential = cast("Credential", None)  # once it is open

    # What each read looks at. As attributes of the class these would take six times the time.
    __slots__ = (
        *("_answered", "_batched", "_choked", "_closing"),
        *("_heard", "_is_open", "_lost", "_to_write"),
    )

    # Of most links these never change.
    _authentication: Any = None
    _verdict: Deferred[AuthStep] | None = None
    _reason: Exception | None = None
    _refusal = ""
    _deadline: IDelayedCall | None = None
    _second: IDelayedCall | None = None
    _unsent = 0
    _reading_paused: frozenset[str] = frozenset()
    """Why nothing is read."""

    def __init__(
        self,
        passive: bool,
        site: ILinkSite,
        authenticator: IAuthenticator,
        settings: LinkSettings,
        clock: IReactorTime,
        outbox: Outbox,
        stream: PlainStream,
        peer_address: str,
        peer_source: SourceAddress | None = None,
        opened: Deferred[ILink] | None = None,
        place: IPlace | None = None,
        deadlines: Deadlines | None = None,
        join_rail: Callable[[LinkProtocol, ConnectionMessage], None] | None = None,
        rail: Rail | None = None,
        rail_gn: int | None = None,
        endpoint: int = 0,
        wall_clock_us: Callable[[], int] = wall_clock_us,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self.peer_address = peer_address
        self.rail = rail
        self.endpoint = endpoint
        self._passive = passive
        self._site = site
        self._authenticator = authenticator
        self._identified = settings.identified
        self._clock = clock
        self._outbox = outbox
        self._stream = stream
        self._opened = opened
        self._place = place
        self._join_rail = join_rail
        self._wall_clock_us = wall_clock_us
        limits = settings.limits or Limits()
        self._deadlines = deadlines or Deadlines(clock, limits.handshake_seconds)
        self._close_seconds = close_seconds
        self._output_limit_bytes = limits.output_bytes
        # Arguments with names take much of the time of making an object.
        self._connection = LdmsConnection(
            passive,
            authenticator.name,
            settings.messages_enabled,
            os.getpid(),
            settings.quota,
            settings.rx_rate,
            rail_gn,
            1 if rail is None else rail.size,
            endpoint,
            None if join_rail is None else self._asks_to_join,
            peer_source,
            settings.requests,
            wire_limits(limits.message_bytes, limits.fragment_bytes),
        )
        self._is_open = self._closing = self._lost = False
        self._heard = self._answered = False
        self._choked = self._to_write = False
        self._batched = 0

    def _asks_to_join(self, claim: ConnectionMessage) -> None:
        assert self._join_rail is not None
        self._join_rail(self, claim)

    # Protocol

    def connectionMade(self) -> None:
        """Begin the handshake and its deadline."""
        transport = self._twisted
        stream = self._stream
        stream.made(transport)
        unaddressed = _is_unaddressed(type(self._authenticator))
        self.peer_address = stream.peer_address or self.peer_address
        transport.registerProducer(self, True)
        self._deadlines.begin(self)
        self._authentication = self._authenticator.begin(
            passive=self._passive,
            local_address="" if unaddressed else stream.local_address(transport),
            peer_address=self.peer_address,
        )
        if not self._passive:
            if self.rail is not None:
                self.rail.add(self)
                if self.rail.closed:
                    self.abort("another endpoint of its rail is lost")
                    return
            self._connection.connect()
            self.flush()

    def dataReceived(self, data: bytes) -> None:
        """Deal with one read: events to the site, then one write per link."""
        if self._closing:
            return
        if not self._heard:
            self._heard = True
            objection = self._stream.objection(data)
            if objection:
                self._refusal, _, text = objection.partition(": ")
                self._leave(AuthFailed(text))
                return
        self._answered = False
        self._to_write = True  # in any case, below
        outbox = self._outbox
        outbox.depth += 1
        try:
            events = self._connection.receive_data(data, self._wall_clock_us())
            if self._is_open and self.rail is None and self._connection.error is None:
                # As nearly always.
                if events:
                    self._site.link_events(self, events)
            else:
                self._take(events)
        finally:
            outbox.end(self)
        if not self._answered and not self._closing:
            self._stream.unanswered(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the site, once."""
        self._lost = True
        self._closing = True
        if not self._is_open:
            self._deadlines.end(self)
        if self._deadline is not None or self._second is not None:
            self._cancel_timers()
        self._connection.close()
        if self._verdict is not None:
            self._verdict.cancel()
        if self._place is not None:
            self._place.left()
        self._tell_lost(reason)
        if self.rail is not None:
            self.rail.leave(self)
        # It has a buffer of its own, with what was not sent.
        self.transport = None

    def _tell_lost(self, reason: Failure) -> None:
        if self._reason is None:
            known = self._stream.lost(reason)
            if known is not None:
                self._refusal, why = known
                self._reason = PeerError(": ".join(known)) if self._is_open else AuthFailed(why)
        if self._reason is not None:
            reason = Failure(self._reason)
        if self._is_open:
            self._is_open = False
            self._site.link_closed(self, reason)
            return
        if self._reason is None:
            clean = reason.check(ConnectionDone)
            why = "closed by the peer" if clean else reason.getErrorMessage()
            error: Exception = PeerError(f"the connection was lost in the handshake: {why}")
            if self._connection.peer is not None:
                # Neither side says why it refuses the other.
                why = f"{why} during {self._authenticator.name} authentication"
                if clean:
                    error = AuthFailed(f"{why}; its log may say why", reason="refused")
            reason = Failure(error)
            text = f"handshake lost: {why}" if self._heard else SILENT
        else:
            text = f"{self._refusal}: {reason.getErrorMessage()}"
        self._site.link_refused(self.peer_address, text)
        self._answer_opener(reason)

    # ILink

    @property
    def peer(self) -> PeerInfo:
        """What the peer said of itself, with the limits that it changed since."""
        return cast("PeerInfo", self._connection.peer)

    def can_publish(self, size: int) -> bool:
        """Whether the peer takes a message of that size now."""
        if self._choked:
            return False
        allowance = self._connection.allowance
        if allowance.free:
            return True
        now_us = self._wall_clock_us()
        if allowance.admits(size, now_us):
            return True
        if self._second is None and allowance.waits_for_second(size, now_us):
            self._await_second(now_us)
        return False

    def waits_for_second(self, size: int) -> bool:
        """Whether only the peer's rate stands in the way."""
        if self._choked or self._closing:
            return False
        return self._connection.allowance.waits_for_second(size, self._wall_clock_us())

    def change_limit(self, changed: QuotaChanged | RateChanged) -> None:
        """The peer has changed a limit of its rail over another endpoint."""
        self._connection.change_limit(changed)

    def has_room(self) -> bool:
        """Whether the transport has less than its high-water mark buffered."""
        return not self._choked

    def send(self, command: WireCommand | SetCommand) -> None:
        """Send it: at once, or with all else that the read being dealt with brings."""
        if self._closing:
            return
        if type(command) is ReturnCredit:
            # It goes out with every read, and has no time in it.
            self._connection.send(command, 0)
            if self._to_write:
                return
        else:
            self._connection.send(command, self._wall_clock_us())
        if not self._outbox.depth:
            self.flush()
            return
        if not self._to_write:
            self._to_write = True
            self._outbox.add(self)
        if type(command) is Forward:
            self._batched += command.credit
            if self._batched >= BATCH_BYTES:
                # A long queue may empty itself in one read. Stop where the transport chokes.
                self.flush()

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._pause("owner")

    def resume_reading(self) -> None:
        """Read again."""
        self._resume("owner")

    def close(self) -> None:
        """Send what is buffered, then close; at once when that takes too long."""
        if self._closing:
            return
        self._leave(None)

    def abort(self, reason: str) -> None:
        """Close at once."""
        if not self._lost:
            self._reason = self._reason or PeerError(reason)
            self._refusal = self._refusal or "aborted"
            self._closing = True
            self._twisted.abortConnection()

    # IPushProducer: the transport tells what it has buffered

    def pauseProducing(self) -> None:
        """The transport has buffered much: publish no more to this peer."""
        self._choked = True

    def resumeProducing(self) -> None:
        """The transport has sent all."""
        self._choked = False
        self._unsent = 0
        if self._is_open and not self._closing:
            with self._outbox:
                self._site.link_drained(self)

    def stopProducing(self) -> None:
        """The transport has gone; ``connectionLost`` follows."""

    # The peer's rate

    def _await_second(self, now_us: int) -> None:
        """Tell the site when the next second of the wall clock begins."""
        wait = us_to_next_second(now_us) / SECOND_US
        self._second = self._clock.callLater(wait, self._second_begins)

    def _second_begins(self) -> None:
        self._second = None
        if self._is_open and not self._closing:
            with self._outbox:
                self._site.link_drained(self)

    # Writing

    @property
    def _twisted(self) -> Any:
        """The transport; its many interfaces are Twisted's."""
        return self.transport

    def flush(self) -> None:
        """Write what the connection has to send."""
        self._to_write = False
        self._batched = 0
        data = self._connection.data_to_send()
        if not data or self._lost:
            return
        self._answered = True
        transport: Any = self.transport
        transport.write(data)
        if self._choked:
            self._unsent += len(data)
            if self._unsent > self._output_limit_bytes and not self._closing:
                self.abort(f"does not read: more than {self._output_limit_bytes} bytes wait for it")

    def _leave(self, reason: Exception | None) -> None:
        """Close politely, with a deadline."""
        self._closing = True
        self._reason = self._reason or reason
        self.flush()
        self._deadlines.end(self)
        self._cancel_timers()
        self._twisted.unregisterProducer()
        self._twisted.loseConnection()
        if not self._lost:
            self._deadline = self._clock.callLater(
                self._close_seconds, self._twisted.abortConnection
            )

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._second):
            if timer is not None and timer.active():
                timer.cancel()
        self._deadline = self._second = None

    # Reading

    def _pause(self, why: str) -> None:
        if not self._reading_paused and not self._closing:
            self._twisted.pauseProducing()
        self._reading_paused |= {why}

    def _resume(self, why: str) -> None:
        self._reading_paused -= {why}
        if not self._reading_paused and not self._closing:
            self._twisted.resumeProducing()

    def _take(self, events: Sequence[WireEvent]) -> None:
        """Deal with the events, then with an error that stands behind them."""
        while events and not self._is_open:
            # The connection reports one event at a time until it is authenticated.
            event = events[0]
            step: AuthStep | Deferred[AuthStep]
            try:
                if type(event) is LinkUp:
                    step = self._authentication.first()
                else:
                    step = self._authentication.received(cast(AuthReceived, event).payload)
                step = self._identified(step)
            except Exception:
                self._authentication_failed(Failure())
                return
            if isinstance(step, Deferred):
                self._await(step)
                return
            events = self._step(step)
            if self._closing:
                return
        if events:
            if self.rail is not None:
                self.rail.spread(events)
            self._site.link_events(self, events)
        error = self._connection.error
        if error is not None and not self._closing:
            self._refusal = _REFUSALS.get(type(error), "handshake")
            self._leave(PeerError(f"protocol error: {error}") if self._is_open else error)

    # Authentication

    def _step(self, step: AuthStep) -> Sequence[WireEvent]:
        """Do what the conversation says; with a credential the link is open."""
        credential = step.credential
        if credential is not None:
            self.credential = credential
            if self.rail is not None and not self.rail.admit(self):
                self._refusal = "rail"
                self.abort("another identity than that of the rail's other endpoints")
                return ()
        events = self._connection.authentication_step(step.send, credential, self._wall_clock_us())
        self._to_write = True
        self._outbox.add(self)
        if credential is not None:
            self._is_open = True
            self._deadlines.end(self)
            if self._place is not None:
                self._place.opened()
            self._site.link_opened(self)
            self._answer_opener(self)
        return events

    def _await(self, step: Deferred[AuthStep]) -> None:
        """The verdict takes time: read nothing until it is there."""
        self._pause("authentication")
        self._verdict = step
        step.addCallbacks(self._stepped, self._authentication_failed)
        step.addErrback(self._broken)

    def _stepped(self, step: AuthStep) -> None:
        self._verdict = None
        if self._closing:
            return
        self._resume("authentication")
        with self._outbox:
            self._take(self._step(step))

    def _authentication_failed(self, failure: Failure) -> None:
        self._verdict = None
        if self._closing:
            return
        if failure.check(AuthFailed):
            error = cast(AuthFailed, failure.value)
            self._refusal = f"authentication {error.reason}".rstrip()
            self._leave(error)
        else:
            self._broken(failure)

    def _broken(self, failure: Failure) -> None:
        """A defect of ours, or of an authenticator: costs this link only."""
        self.log.failure("link with {peer} failed", failure, peer=self.peer_address)
        self.abort("internal error")

    def _answer_opener(self, result: Any) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and not opened.called:
            opened.callback(result)

    def too_late(self) -> None:
        """The handshake has taken too long."""
        self._refusal = "handshake timeout"
        text = f"not done after {self._deadlines.seconds:g} s"
        self._reason = self._reason or HandshakeTimeout(text)
        self.abort(text)
