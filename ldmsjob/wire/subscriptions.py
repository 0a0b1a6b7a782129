"""What one connection remembers about subscriptions to messages (docs/wire.md, Messages)."""

from __future__ import annotations

import errno

from ldmsjob.wire import msg, xprt, zap
from ldmsjob.wire.buffers import Limits
from ldmsjob.wire.events import (
    AnswerSubscribe,
    AnswerUnsubscribe,
    Refused,
    Subscribe,
    SubscribeAnswered,
    SubscribeWanted,
    Unsubscribe,
    UnsubscribeAnswered,
    UnsubscribeWanted,
    WireEvent,
)

_CODES = frozenset((xprt.MSG_SUB, xprt.MSG_UNSUB, xprt.MSG_SUB_REPLY, xprt.MSG_UNSUB_REPLY))


class SubscriptionExchange:
    """The part of an ``LdmsConnection`` that knows about subscriptions.

    It appends frames to ``output``. An answer belongs to the question with its xid.
    """

    __slots__ = ("_limits", "_output", "_subscribes", "_unsubscribes", "_xid")

    def __init__(self, output: list[bytes], limits: Limits) -> None:
        self._output = output
        self._limits = limits
        self._xid = 0
        self._subscribes: dict[bytes, str] = {}  # match of what is not answered, by xid
        self._unsubscribes: dict[bytes, str] = {}

    def receive(
        self,
        command: int,
        xid: bytes,
        data: bytes,
        at: int,
        stop: int,
        enabled: bool,
        events: list[WireEvent],
    ) -> bool:
        """Deal with a request or reply, or return False when it is none about subscriptions.

        ``enabled`` tells whether our message service is on.
        """
        if command not in _CODES:
            return False
        if command == xprt.MSG_SUB:
            match, is_regex, rate = msg.read_subscription(data, at, stop)
            if self._may_subscribe(xid, xprt.MSG_SUB_REPLY, match, enabled, events):
                events.append(SubscribeWanted(xid, _text(match), is_regex, rate))
        elif command == xprt.MSG_UNSUB:
            match, is_regex, _ = msg.read_subscription(data, at, stop)
            if self._may_subscribe(xid, xprt.MSG_UNSUB_REPLY, match, enabled, events):
                events.append(UnsubscribeWanted(xid, _text(match), is_regex))
        else:
            rc, text = msg.read_subscription_reply(data, at, stop)
            subscribes = command == xprt.MSG_SUB_REPLY
            asked = (self._subscribes if subscribes else self._unsubscribes).pop(xid, None)
            if asked is None:
                events.append(Refused("unknown_reply"))
            elif subscribes:
                events.append(SubscribeAnswered(asked, rc, text))
            else:
                events.append(UnsubscribeAnswered(asked, rc, text))
        return True

    def _may_subscribe(
        self, xid: bytes, reply: int, match: bytes, enabled: bool, events: list[WireEvent]
    ) -> bool:
        if not enabled:
            rc, text, reason = errno.EOPNOTSUPP, "LDMS Message Service disabled", "subscribe_off"
        elif len(match) > self._limits.match_bytes:
            rc, text, reason = errno.ENAMETOOLONG, "Match string too long", "subscribe_too_long"
        else:
            return True
        self._send(msg.subscription_reply(xid, reply, rc, text))
        events.append(Refused(reason))
        return False

    def ask(self, command: Subscribe | Unsubscribe) -> None:
        """Send a request. Raises ``PublishError`` for a match that cannot be sent."""
        self._xid += 1
        xid = self._xid.to_bytes(8, "big")
        self._send(msg.subscription_request(command, xid))
        asked = self._subscribes if isinstance(command, Subscribe) else self._unsubscribes
        asked[xid] = command.match

    def answer(self, command: AnswerSubscribe | AnswerUnsubscribe) -> None:
        """Send an answer."""
        answers = isinstance(command, AnswerSubscribe)
        code = xprt.MSG_SUB_REPLY if answers else xprt.MSG_UNSUB_REPLY
        self._send(msg.subscription_reply(command.xid, code, command.rc, command.text))

    def _send(self, request: bytes) -> None:
        self._output.append(zap.counted_frame(zap.SENDRECV, request))


def _text(match: bytes) -> str:
    return match.decode("utf-8", "surrogateescape")
