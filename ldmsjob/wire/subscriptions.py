"""Subscriptions to messages: their bytes, and what one connection remembers of them (docs/wire.md,
Messages)."""

from __future__ import annotations

import errno

from construct import Bytes, Int32ub, Int64sb
from construct import Struct as Declaration

from ldmsjob.errors import PeerError
from ldmsjob.wire import xprt, zap
from ldmsjob.wire.buffers import Limits, flat_struct
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
from ldmsjob.wire.msg import wire_text

SUBSCRIPTION_HEAD = Declaration(*xprt.REQUEST_HEAD.subcons, "word" / Bytes(4), "rate" / Int64sb)
"""MSG_SUB and MSG_UNSUB in front of the match string. See ``match_word``."""
SUBSCRIPTION_REPLY_HEAD = Declaration(*xprt.REPLY_HEAD.subcons, "text_len" / Int32ub)

_SUBSCRIPTION = flat_struct(SUBSCRIPTION_HEAD)
_SUBSCRIPTION_REPLY = flat_struct(SUBSCRIPTION_REPLY_HEAD)

_CODES = frozenset((xprt.MSG_SUB, xprt.MSG_UNSUB, xprt.MSG_SUB_REPLY, xprt.MSG_UNSUB_REPLY))


def match_word(length: int, is_regex: bool) -> bytes:
    """The odd word in front of a match string of ``length`` bytes, its NUL included.

    It is little-endian and holds the byte-swapped length above the flag, so that the length's
    highest bit gets lost.
    """
    swapped = int.from_bytes(length.to_bytes(4, "big"), "little")
    return (((swapped << 1) & 0xFFFF_FFFF) | is_regex).to_bytes(4, "little")


def subscription_request(command: Subscribe | Unsubscribe, xid: bytes) -> bytes:
    """A MSG_SUB or MSG_UNSUB. Raises ``PublishError`` (rc 22) for text that cannot be sent."""
    match = wire_text(command.match)
    code, rate = (
        (xprt.MSG_SUB, command.rate) if isinstance(command, Subscribe) else (xprt.MSG_UNSUB, -1)
    )
    word = match_word(len(match), command.is_regex)
    return _SUBSCRIPTION.pack(xid, code, _SUBSCRIPTION.size + len(match), word, rate) + match


def read_subscription(data: bytes, at: int, stop: int) -> tuple[bytes, bool, int]:
    """Match string without its NUL, regex flag and rate of a MSG_SUB or MSG_UNSUB.

    The string ends at its NUL; nobody believes the length in the word.
    """
    start = at + _SUBSCRIPTION.size
    end = data.find(b"\0", start, stop)
    if end < 0:
        raise PeerError("subscription without an end")
    word, rate = _SUBSCRIPTION.unpack_from(data, at)[-2:]
    return data[start:end], bool(word[0] & 1), rate


def subscription_reply(xid: bytes, command: int, rc: int, text: str) -> bytes:
    """A MSG_SUB_REPLY or MSG_UNSUB_REPLY."""
    encoded = wire_text(text)
    size = _SUBSCRIPTION_REPLY.size + len(encoded)
    return _SUBSCRIPTION_REPLY.pack(xid, command, size, rc, len(encoded)) + encoded


def read_subscription_reply(data: bytes, at: int, stop: int) -> tuple[int, str]:
    """rc and text of a MSG_SUB_REPLY or MSG_UNSUB_REPLY."""
    start = at + _SUBSCRIPTION_REPLY.size
    if start <= stop:
        rc, size = _SUBSCRIPTION_REPLY.unpack_from(data, at)[-2:]
        if size == stop - start:
            return rc, data[start:stop].partition(b"\0")[0].decode("utf-8", "replace")
    raise PeerError("subscription reply whose length is wrong")


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
            match, is_regex, rate = read_subscription(data, at, stop)
            if self._may_subscribe(xid, xprt.MSG_SUB_REPLY, match, enabled, events):
                events.append(SubscribeWanted(xid, _text(match), is_regex, rate))
        elif command == xprt.MSG_UNSUB:
            match, is_regex, _ = read_subscription(data, at, stop)
            if self._may_subscribe(xid, xprt.MSG_UNSUB_REPLY, match, enabled, events):
                events.append(UnsubscribeWanted(xid, _text(match), is_regex))
        else:
            rc, text = read_subscription_reply(data, at, stop)
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
        self._send(subscription_reply(xid, reply, rc, text))
        events.append(Refused(reason))
        return False

    def ask(self, command: Subscribe | Unsubscribe) -> None:
        """Send a request. Raises ``PublishError`` for a match that cannot be sent."""
        self._xid += 1
        xid = self._xid.to_bytes(8, "big")
        self._send(subscription_request(command, xid))
        asked = self._subscribes if isinstance(command, Subscribe) else self._unsubscribes
        asked[xid] = command.match

    def answer(self, command: AnswerSubscribe | AnswerUnsubscribe) -> None:
        """Send an answer."""
        answers = isinstance(command, AnswerSubscribe)
        code = xprt.MSG_SUB_REPLY if answers else xprt.MSG_UNSUB_REPLY
        self._send(subscription_reply(command.xid, code, command.rc, command.text))

    def _send(self, request: bytes) -> None:
        self._output.append(zap.counted_frame(zap.SENDRECV, request))


def _text(match: bytes) -> str:
    return match.decode("utf-8", "surrogateescape")
