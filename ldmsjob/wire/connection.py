"""One LDMS connection without its socket: bytes to events, commands to bytes.

The dialogue (docs/wire.md), seen from the side that connects::

    CONNECT  ->                 what we are, in a connection message
             <-  ACCEPTED       what the peer is; or REJECTED and a reason
    ACK_ACCEPTED ->             the link is up: ``LinkUp``
    AUTH_MSG <->  AUTH_MSG      as the way to authenticate has it: ``AuthReceived``
    SENDRECV <->  SENDRECV      requests, replies, messages
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from ldmsjob.errors import PeerError
from ldmsjob.wire import msg, xprt, zap
from ldmsjob.wire.allowance import NOBODY, Allowance
from ldmsjob.wire.buffers import Limits, ReceiveBuffer
from ldmsjob.wire.credit import credit_frame, read_credit_run
from ldmsjob.wire.events import (
    UNLIMITED,
    AnswerDaemonRequest,
    AnswerSubscribe,
    AnswerUnsubscribe,
    AskDaemon,
    AuthReceived,
    ChangeQuota,
    ChangeRate,
    Credential,
    CreditReturned,
    Forward,
    LinkUp,
    PeerInfo,
    Publish,
    QuotaChanged,
    RateChanged,
    Refused,
    ReturnCredit,
    SourceAddress,
    Subscribe,
    Unsubscribe,
    WireCommand,
    WireEvent,
)
from ldmsjob.wire.handshake import Own, accepted_frame, connect_frame
from ldmsjob.wire.request import RequestReader, request, responses
from ldmsjob.wire.setexchange import SetExchange
from ldmsjob.wire.subscriptions import SubscriptionExchange

if TYPE_CHECKING:
    from ldmsjob.wire.setevents import SetCommand

_FrameAction = Callable[["LdmsConnection", bytes, int, int, list[WireEvent]], None]
_RequestAction = Callable[["LdmsConnection", bytes, bytes, int, int, list[WireEvent]], None]


_NOBODYS = Allowance(NOBODY)
"""Of peers that have not said what they are. It never changes."""


_ALWAYS: dict[bool, Callable[[], bool]] = {False: lambda: False, True: lambda: True}


class LdmsConnection:
    """The state of one connection.

    Its owner moves the bytes: it gives to ``receive_data`` what the socket brings, and after each
    call of any method writes what ``data_to_send`` has. Only the active side calls ``connect``.

    ``receive_data`` and ``authentication_step`` raise nothing for what a peer sends. When the peer
    breaks the protocol, or one side refuses the other, they set ``error`` and return the events
    that came before. The owner handles those, writes ``data_to_send`` a last time, and closes.

    The owner must see to it that each ``Message`` gets its credit back exactly once, with
    ``ReturnCredit``, when it is done with it. Messages that the connection refuses itself never
    become events; it has returned their credit when their ``Refused`` is reported.
    """

    # Of most connections these never change.
    error: PeerError | None = None
    """Why the connection is to be closed."""
    _request_reader: RequestReader | None = None
    _subscription_exchange: SubscriptionExchange | None = None
    _number = 0

    def __init__(
        self,
        passive: bool,
        auth_name: str,
        messages_enabled: bool | Callable[[], bool],
        pid: int,
        quota: int = UNLIMITED,
        rate: int = UNLIMITED,
        rail_gn: int | None = None,
        endpoints: int = 1,
        endpoint: int = 0,
        join_rail: Callable[[xprt.ConnectionMessage], None] | None = None,
        peer_source: SourceAddress | None = None,
        requests: Collection[int] = (),
        limits: Limits | None = None,
    ) -> None:
        """``passive``: the peer connected to us.

        ``messages_enabled`` tells whether our message service is on; it is asked when a connection
        message is sent, and once for each ``receive_data`` of a peer that is authenticated.
        ``quota`` and ``rate`` are what the peer is asked to keep to. ``rail_gn`` tells apart the
        rails of one client process; by default it is random. ``endpoints`` and ``endpoint`` are the
        size of a client's rail and the place of this connection in it. ``join_rail`` is called on
        the passive side with what a peer says that has more than one endpoint, and raises
        ``ConnectionRefused`` where it does not belong; without it no such peer is accepted.
        ``peer_source`` is what messages that name no source get as theirs: the address of the peer,
        or None when it is on this host. ``requests`` are the codes of those daemon requests that
        the owner answers.
        """
        self.peer: PeerInfo | None = None
        """What the peer said of itself; from ``LinkUp`` on."""
        self._auth_name = auth_name
        self._enabled = (
            messages_enabled if callable(messages_enabled) else _ALWAYS[messages_enabled]
        )
        self._pid = pid
        self._quota = quota
        self._rate = rate
        self._rail_gn = rail_gn
        self._endpoints = endpoints
        self._endpoint = endpoint
        self._join_rail = join_rail
        self._peer_source = peer_source
        self._limits = limits or Limits()
        self._frames: dict[int, _FrameAction] = _WAIT_CONNECT if passive else _WAIT_ACCEPTED
        self._frame_limit = min(self._limits.frame_before_authentication, zap.MAX_FRAME)
        self._paused = False
        self._buffer = ReceiveBuffer()
        self._output: list[bytes] = []
        self._now_us = 0
        self._enabled_now = False
        self._reader: msg.MessageReader | None = None  # once the peer is authenticated
        self._taken_requests = requests
        self._set_exchange: SetExchange | None = None
        self.allowance = _NOBODYS
        """What the peer lets us publish. To be looked at only."""

    # Most connections only bring messages: what they have no use for is made when there is one.

    @property
    def _requests(self) -> RequestReader:
        if self._request_reader is None:
            self._request_reader = RequestReader(self._limits, self._taken_requests)
        return self._request_reader

    @property
    def _subscriptions(self) -> SubscriptionExchange:
        if self._subscription_exchange is None:
            self._subscription_exchange = SubscriptionExchange(self._output, self._limits)
        return self._subscription_exchange

    @property
    def _sets(self) -> SetExchange:
        if self._set_exchange is None:
            self._set_exchange = SetExchange(self._output, self._limits)
        return self._set_exchange

    @property
    def buffered_bytes(self) -> int:
        """How much of the peer's input is kept: unfinished frames, messages and requests."""
        readers = (self._request_reader, self._reader)
        return len(self._buffer) + sum(one.kept_bytes for one in readers if one is not None)

    def connect(self) -> None:
        """Begin, as the active side."""
        if self._rail_gn is None:
            self._rail_gn = secrets.randbits(63)
        self._output.append(connect_frame(self._own(), self._rail_gn))

    def data_to_send(self) -> bytes:
        """What is to be written to the peer now; each byte is handed out once."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    def close(self) -> None:
        """The transport has gone: let go of what was to be sent and of who was to be asked.

        Only ``peer`` and what reads it may be used from then on.
        """
        self._output.clear()
        self._buffer.clear()
        self._join_rail = None

    # Receiving

    def receive_data(self, data: bytes, now_us: int) -> list[WireEvent]:
        """What ``data`` brings. ``now_us`` is wall-clock microseconds since the epoch.

        ``LinkUp`` and ``AuthReceived`` are the last event of a list: nothing more is parsed until
        ``authentication_step``. What comes meanwhile is kept, up to a limit, so the owner should
        read no more from the socket.
        """
        events: list[WireEvent] = []
        if self.error is not None:
            return events
        if self._paused:
            self._buffer.keep(data, 0, 0)
            if len(self._buffer) > self._limits.paused_bytes:
                self._fail(PeerError("too much data before the end of authentication"))
            return events
        if self._buffer.kept:
            whole = self._buffer.take(data)
            if whole is None:
                return events
            data = whole
        at = 0
        reader = self._reader
        if reader is not None:
            self._enabled_now = enabled = self._enabled()
            if enabled:
                # Mostly that is all.
                at = reader.read_run(data, 0, now_us, events)
        if at < len(data):
            self._parse(data, at, now_us, events)
        return events

    def authentication_step(
        self, send: Sequence[bytes], credential: Credential | None, now_us: int
    ) -> list[WireEvent]:
        """Answer ``LinkUp`` or ``AuthReceived``.

        ``send`` are the payloads to send to the peer, in order. With a ``credential`` the peer is
        authenticated; without one its next authentication message is waited for. Returns what
        comes out of the input that waited.
        """
        if not self._paused:
            raise RuntimeError("not waiting for a step of authentication")
        self._paused = False
        for payload in send:
            self._send_request(xprt.counted_request(xprt.AUTH_MSG, payload))
        if credential is not None:
            self._reader = msg.MessageReader(
                credential, self._peer_source, self._output, self._limits
            )
            self._frames = _OPEN
            self._frame_limit = zap.MAX_FRAME
        return self.receive_data(b"", now_us) if self._buffer.kept else []

    def _parse(self, data: bytes, at: int, now_us: int, events: list[WireEvent]) -> None:
        """Deal with frames of all kinds; the first is none that ``read_run`` takes."""
        self._now_us = now_us
        end = len(data)
        wanted = zap.HEAD_BYTES
        reader = self._reader
        try:
            while at < end and not self._paused:
                if reader is not None:
                    at, count, credit, rc = read_credit_run(data, at, end)
                    if count:
                        self._credit_returned(count, credit, rc, events)
                        if self._enabled_now:
                            at = reader.read_run(data, at, now_us, events)
                        continue
                if end - at < zap.HEAD_BYTES:
                    break
                sets = self._set_exchange
                reads = zap.READ_RESPONSE_BYTES if sets is None else sets.read_limit
                kind, length = zap.read_head(data, at, self._frame_limit, reads)
                action = self._frames.get(kind)
                if action is None:
                    text = f"{zap.NAMES[kind]} frame out of place"
                    if self._frames is _AUTHENTICATE:
                        raise xprt.Unauthenticated(text)
                    raise PeerError(text)
                if end - at < length:
                    wanted = length
                    break
                body = zap.body_at(kind, data, at, length)
                at, start = at + length, at
                action(self, data, body if kind in _COUNTED_KINDS else start, at, events)
                if kind == zap.READ_REQ:  # mostly the first of many
                    at = self._sets.reads_wanted(data, at, end, events)
                if reader is not None and self._enabled_now:
                    at = reader.read_run(data, at, now_us, events)
        except PeerError as error:
            self._fail(error)
        if at < end and self.error is None:
            self._buffer.keep(data, at, wanted)

    def _fail(self, error: PeerError) -> None:
        # Its traceback refers to this connection, and to all that was read.
        self.error = error.with_traceback(None)
        self._buffer.clear()
        for reader in (self._request_reader, self._reader):
            if reader is not None:
                reader.clear()

    # Frames

    def _connect_frame(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        zap.check_connect(data, at)
        message = data[at + zap.CONNECT_BYTES : stop]
        try:
            peer = xprt.read_connect(message, self._auth_name)
            # Asked once, then dropped: it refers to the owner of this connection.
            join_rail, self._join_rail = self._join_rail, None
            if peer.endpoints > 1:
                if join_rail is None:
                    raise xprt.ConnectionRefused("Insufficient resources")
                join_rail(peer)
        except xprt.ConnectionRefused as refusal:
            self._output.append(zap.rejected_frame(refusal.answer))
            raise
        self._endpoints, self._endpoint = peer.endpoints, peer.endpoint
        self.peer = peer.peer_info()
        self._output.append(accepted_frame(self._own(), peer.rail_gn))
        self._frames = _WAIT_ACK

    def _ack_frame(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        if at != stop:
            raise PeerError("ACK_ACCEPTED frame with data")
        self._link_up(events)

    def _accepted_frame(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        self.peer = xprt.read_accepted(data[at:stop], self._auth_name)
        self._output.append(zap.counted_frame(zap.ACK_ACCEPTED))
        self._link_up(events)

    def _rejected_frame(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        reason = data[at:stop].partition(b"\0")[0].decode("ascii", "replace")
        if reason == "Auth mismatch":
            reason = f"{reason}: ours is '{self._auth_name}'"
        raise PeerError(f"the peer rejected the connection: {reason}")

    def _link_up(self, events: list[WireEvent]) -> None:
        peer = self.peer
        assert peer is not None
        self.allowance = Allowance(peer)
        self._frames = _AUTHENTICATE
        self._paused = True
        events.append(LinkUp(peer))

    def _authentication_frame(
        self, data: bytes, at: int, stop: int, events: list[WireEvent]
    ) -> None:
        _, command = xprt.read_request_head(data, at, stop)
        if command != xprt.AUTH_MSG:
            raise xprt.Unauthenticated("a request before the end of authentication")
        payload = xprt.read_counted(data, at, stop)
        self._paused = True
        events.append(AuthReceived(payload))

    def _request_frame(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        xid, command = xprt.read_request_head(data, at, stop)
        action = _REQUESTS.get(command)
        if action is not None:
            action(self, xid, data, at, stop, events)
            return
        place = command, xid, data, at, stop
        if self._sets.receive(*place, self._now_us, events):
            return
        if self._subscriptions.receive(*place, self._enabled_now, events):
            return
        if command in _IGNORED:
            events.append(Refused(_IGNORED[command]))
        elif xprt.FIRST_REPLY <= command <= xprt.LAST_REPLY:
            events.append(Refused("unknown_reply"))
        else:
            events.append(Refused("unknown_command"))

    def _read_frame(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        self._sets.reads_wanted(data, at, stop, events)

    def _read_answer_frame(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        self._sets.read_answered(data, at, stop, events)

    def _write_frame(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        self._output.append(zap.refuse_write(data, at))
        events.append(Refused("write"))

    def _rendezvous_frame(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        self._sets.rendezvous(data, at, stop, events)

    def _late_rejected_frame(
        self, data: bytes, at: int, stop: int, events: list[WireEvent]
    ) -> None:
        events.append(Refused("rejected"))

    # Requests and replies

    def _message(
        self, xid: bytes, data: bytes, at: int, stop: int, events: list[WireEvent]
    ) -> None:
        assert self._reader is not None
        self._reader.read_fragment(data, at, stop, self._enabled_now, self._now_us, events)

    def _wrong_credit(
        self, xid: bytes, data: bytes, at: int, stop: int, events: list[WireEvent]
    ) -> None:
        raise PeerError("SEND_QUOTA of a wrong length")

    def _credit_returned(self, count: int, credit: int, rc: int, events: list[WireEvent]) -> None:
        self.allowance.returned(credit)
        if rc == errno.EOPNOTSUPP:
            self.allowance.refuse()
        events.append(CreditReturned(credit, rc, count))

    def _quota_changed(
        self, xid: bytes, data: bytes, at: int, stop: int, events: list[WireEvent]
    ) -> None:
        changed = QuotaChanged(xprt.read_limit_change(data, at, stop))
        self.change_limit(changed)
        events.append(changed)

    def _rate_changed(
        self, xid: bytes, data: bytes, at: int, stop: int, events: list[WireEvent]
    ) -> None:
        changed = RateChanged(xprt.read_limit_change(data, at, stop))
        self.change_limit(changed)
        events.append(changed)

    def _daemon_request(
        self, xid: bytes, data: bytes, at: int, stop: int, events: list[WireEvent]
    ) -> None:
        answer, reason = self._requests.receive(xprt.read_counted(data, at, stop))
        if answer is not None:
            self._send_request(xprt.counted_request(xprt.SEND_MSG, answer))
        if self._requests.events:
            events += self._requests.events
            self._requests.events.clear()
        if reason is not None:
            events.append(Refused(reason))

    def _late_authentication(
        self, xid: bytes, data: bytes, at: int, stop: int, events: list[WireEvent]
    ) -> None:
        raise PeerError("an authentication message after the end of authentication")

    # Sending

    def can_publish(self, size: int, now_us: int = 0) -> bool:
        """Whether there is nothing to wait for before sending a message of ``size`` bytes of
        channel name, NUL and data (its ``credit``).

        False: the peer's quota has no room for it until ``CreditReturned``, or its rate until the
        next second of the wall clock, for which alone ``now_us`` is wanted. True: ``send`` will
        send it, or raise ``PublishError`` because this peer can never get it.
        """
        return self.allowance.admits(size, now_us)

    def waits_for_second(self, size: int, now_us: int) -> bool:
        """Whether only the peer's rate keeps a message of that size waiting."""
        return self.allowance.waits_for_second(size, now_us)

    def change_limit(self, changed: QuotaChanged | RateChanged) -> None:
        """The peer has changed a limit, here or on another endpoint of the same rail."""
        assert self.peer is not None
        if isinstance(changed, QuotaChanged):
            self.allowance.change_quota(changed.quota)
            self.peer = msgspec.structs.replace(self.peer, quota=changed.quota)
        else:
            self.allowance.change_rate(changed.rate)
            self.peer = msgspec.structs.replace(self.peer, rate=changed.rate)

    def send(self, command: WireCommand, now_us: int) -> None:
        """Send one command. Only once the peer is authenticated.

        For ``Publish`` and ``Forward`` this raises ``PublishError``, and nothing is sent, with rc

        * 95 when the peer has no message service,
        * 90 when the message is too long for a frame, or for the peer's whole quota or rate,
        * 11 when the peer's quota or rate has no room now (see ``can_publish``),
        * 40 when it came over too many hops already,
        * 22 when its channel's name cannot be sent; so do ``Subscribe`` and ``Unsubscribe``.

        A command about sets raises ``ValueError`` when no frame can carry it or when it contradicts
        what was sent before (docs/wire.md, Metric sets).
        """
        if self._reader is None:
            raise RuntimeError("the peer is not authenticated")
        # `isinstance` asks Python code of msgspec's for each kind that it is not.
        if type(command) is ReturnCredit:
            output, rc = self._output, command.rc
            for amount in command.amounts:
                output.append(credit_frame(amount, rc) if rc else credit_frame(amount))
        elif type(command) is Forward:
            frames = msg.forwarded(command, now_us)
            self.allowance.spend(command.credit, now_us)
            self._output.append(frames)
        elif type(command) is Publish:
            frame = msg.publish_frame(command, self._number, now_us)
            self.allowance.spend(len(frame) - msg.TAG_AT, now_us)
            self._number += 1
            self._output.append(frame)
        elif type(command) is Subscribe or type(command) is Unsubscribe:
            self._subscriptions.ask(command)
        elif type(command) is ChangeQuota:
            self._send_request(xprt.limit_change(xprt.QUOTA_RECONFIG, command.quota))
        elif type(command) is ChangeRate:
            self._send_request(xprt.limit_change(xprt.RATE_RECONFIG, command.rate))
        elif type(command) is AnswerSubscribe or type(command) is AnswerUnsubscribe:
            self._subscriptions.answer(command)
        elif type(command) is AskDaemon:
            self._requests.asked(command.number)
            record = request(command.number, command.code)
            self._send_request(xprt.counted_request(xprt.SEND_MSG, record))
        elif type(command) is AnswerDaemonRequest:
            for record in responses(
                command.number, command.error, command.attribute, command.value
            ):
                self._send_request(xprt.counted_request(xprt.SEND_MSG, record))
        else:
            self._sets.send(cast("SetCommand", command), now_us)

    def _send_request(self, request: bytes) -> None:
        self._output.append(zap.counted_frame(zap.SENDRECV, request))

    def _own(self) -> Own:
        return (
            self._auth_name,
            self._rate,
            self._quota,
            self._pid,
            self._enabled(),
            self._endpoints,
            self._endpoint,
        )


# What is legal when, and what it does. Any other kind of frame ends the connection.

_WAIT_CONNECT: dict[int, _FrameAction] = {zap.CONNECT: LdmsConnection._connect_frame}
_WAIT_ACK: dict[int, _FrameAction] = {zap.ACK_ACCEPTED: LdmsConnection._ack_frame}
_WAIT_ACCEPTED: dict[int, _FrameAction] = {
    zap.ACCEPTED: LdmsConnection._accepted_frame,
    zap.REJECTED: LdmsConnection._rejected_frame,
}
_AUTHENTICATE: dict[int, _FrameAction] = {zap.SENDRECV: LdmsConnection._authentication_frame}
_OPEN: dict[int, _FrameAction] = {
    zap.SENDRECV: LdmsConnection._request_frame,
    zap.RENDEZVOUS: LdmsConnection._rendezvous_frame,
    zap.READ_REQ: LdmsConnection._read_frame,
    zap.READ_RESP: LdmsConnection._read_answer_frame,
    zap.WRITE_REQ: LdmsConnection._write_frame,
    zap.REJECTED: LdmsConnection._late_rejected_frame,
}
_COUNTED_KINDS = frozenset((zap.SENDRECV, zap.ACCEPTED, zap.REJECTED, zap.ACK_ACCEPTED))
"""Frames whose data, and not whose head, is what an action gets."""

_REQUESTS: dict[int, _RequestAction] = {
    xprt.SEND_MSG: LdmsConnection._daemon_request,
    xprt.AUTH_MSG: LdmsConnection._late_authentication,
    xprt.SEND_QUOTA: LdmsConnection._wrong_credit,
    xprt.QUOTA_RECONFIG: LdmsConnection._quota_changed,
    xprt.RATE_RECONFIG: LdmsConnection._rate_changed,
    xprt.MSG: LdmsConnection._message,
}
_IGNORED = {
    xprt.QGROUP_ASK: "quota_group",
    xprt.QGROUP_DONATE: "quota_group",
    xprt.QGROUP_DONATE_BACK: "quota_group",
}
"""Requests that have no answer in the protocol, and what they are counted as."""
