"""Daemon requests: what travels inside SEND_MSG (docs/wire.md, Daemon requests).

Those that the owner of a connection takes are given to it; any other gets the answer that it is
not implemented.
"""

from __future__ import annotations

import errno
from collections.abc import Collection

from construct import Int32ub, Struct

from ldmsjob.wire.buffers import Limits, flat_struct
from ldmsjob.wire.events import DaemonAnswer, DaemonRequest, WireEvent

MARKER = 0xFFFF_FFFF
REQUEST = 1
RESPONSE = 2
START = 1
"""Record flag: the message's first record."""
END = 2
"""Record flag: the message's last record."""

STRING = 16
"""Attribute: the text of a response."""
JSON = 26
"""Attribute: a response for programs."""
RECORD_LEN = 25
"""Attribute: the most that a record may have. Its value is little-endian."""

MAX_RECORD = 1_048_516

STATUS = 0x6A6F_6201
"""Our own request: how the daemon is, answered in JSON. Far from all numbers of the C daemon, which
says that it does not implement it."""

STREAM_REQUESTS = range(0x900, 0x906)
"""Requests of the stream service that end where that service is disabled."""

RECORD_HEAD = Struct(
    "marker" / Int32ub,
    "record_type" / Int32ub,
    "flags" / Int32ub,
    "msg_no" / Int32ub,
    "code" / Int32ub,  # request id, or error of a response
    "record_len" / Int32ub,
)
ATTRIBUTE_HEAD = Struct("present" / Int32ub, "attribute" / Int32ub, "value_len" / Int32ub)
ATTRIBUTES_END = bytes(4)

_RECORD = flat_struct(RECORD_HEAD)
_ATTRIBUTE = flat_struct(ATTRIBUTE_HEAD)


def response(msg_no: int, error: int, attribute: int, value: bytes) -> bytes:
    """A response of one record with one attribute, without which some C tools show nothing."""
    size = _RECORD.size + _ATTRIBUTE.size + len(value) + len(ATTRIBUTES_END)
    head = _RECORD.pack(MARKER, RESPONSE, START | END, msg_no, error, size)
    return head + _ATTRIBUTE.pack(1, attribute, len(value)) + value + ATTRIBUTES_END


def responses(msg_no: int, error: int, attribute: int, value: bytes) -> list[bytes]:
    """The same in as many records as it takes."""
    whole = response(msg_no, error, attribute, value)
    if len(whole) <= MAX_RECORD:
        return [whole]
    body = memoryview(whole)[_RECORD.size :]
    room = MAX_RECORD - _RECORD.size
    records = []
    for at in range(0, len(body), room):
        part = body[at : at + room]
        flags = (START if not at else 0) | (END if at + room >= len(body) else 0)
        head = _RECORD.pack(MARKER, RESPONSE, flags, msg_no, error, _RECORD.size + len(part))
        records.append(head + part)
    return records


def request(msg_no: int, code: int) -> bytes:
    """A request of one record without attributes."""
    size = _RECORD.size + len(ATTRIBUTES_END)
    return _RECORD.pack(MARKER, REQUEST, START | END, msg_no, code, size) + ATTRIBUTES_END


def _text_response(msg_no: int, error: int, text: str) -> bytes:
    return response(msg_no, error, STRING, text.encode("ascii") + b"\0")


def read_attributes(body: bytes) -> list[tuple[int, bytes]] | None:
    """(id, value) of each attribute; None where the list runs over its end or has none."""
    attributes = []
    at, end = 0, len(body)
    while at + _ATTRIBUTE.size <= end:
        present, attribute, size = _ATTRIBUTE.unpack_from(body, at)
        if present != 1:
            break
        at += _ATTRIBUTE.size
        if size > end - at:
            return None
        attributes.append((attribute, body[at : at + size]))
        at += size
    return attributes if body[at:] == ATTRIBUTES_END else None


class RequestReader:
    """Puts the records of one peer's requests, and of its answers to ours, together.

    Requests whose codes are in ``taken`` are for the owner; the others are answered here.
    """

    __slots__ = ("_answers", "_limits", "_partials", "_taken", "events", "kept_bytes")

    def __init__(self, limits: Limits, taken: Collection[int] = ()) -> None:
        self._limits = limits
        self._taken = taken
        self._partials: dict[int, bytearray] = {}
        self._answers: dict[int, bytearray] = {}
        """What there is of the answers to our requests; they may be as long as several requests."""
        self.events: list[WireEvent] = []
        """What was read for the owner: to be taken after each record."""
        self.kept_bytes = 0
        """Bytes of records that wait for the rest of their messages."""

    def clear(self) -> None:
        """Forget all that is not complete: nothing more comes."""
        self._partials.clear()
        self._answers.clear()
        self.kept_bytes = 0

    def asked(self, msg_no: int) -> None:
        """We have sent a request with that number: its answer is wanted."""
        self._answers[msg_no] = bytearray()

    def receive(self, record: bytes) -> tuple[bytes | None, str | None]:
        """The answer to a record, and a word for a counter; None where there is neither.

        Any bytes are good for an answer.
        """
        if len(record) < _RECORD.size or _RECORD.unpack_from(record)[0] != MARKER:
            text = "Config request is missing record marker"
            return _text_response(MARKER, errno.EINVAL, text), "bad_daemon_request"
        _, kind, flags, msg_no, code, length = _RECORD.unpack_from(record)
        if kind == RESPONSE and msg_no in self._answers and length == len(record):
            return None, self._answered(msg_no, flags, code, record)
        if kind != REQUEST:
            return None, "daemon_response" if kind == RESPONSE else "bad_daemon_request"
        if length > MAX_RECORD:
            value = MAX_RECORD.to_bytes(4, "little")
            return response(msg_no, errno.E2BIG, RECORD_LEN, value), "bad_daemon_request"
        if length != len(record):
            return self._malformed(msg_no)
        if flags & START:
            if msg_no in self._partials:
                text = f"Duplicate message number {msg_no}:{msg_no}received"
                return _text_response(msg_no, errno.EADDRINUSE, text), "bad_daemon_request"
            body = bytearray()
        elif msg_no in self._partials:
            body = self._partials.pop(msg_no)
            self.kept_bytes -= len(body)
        else:
            text = f"The message no {msg_no} was not found."
            return _text_response(msg_no, errno.ENOENT, text), "bad_daemon_request"
        body += record[_RECORD.size :]
        if not flags & END:
            return self._keep(msg_no, body)
        attributes = read_attributes(bytes(body))
        if attributes is None:
            return self._malformed(msg_no)
        if code in self._taken:
            self.events.append(DaemonRequest(msg_no, code, attributes))
            return None, None
        if code in STREAM_REQUESTS:
            text = "The stream service is DISABLED on this system."
        else:
            text = "The request is not implemented"
        return _text_response(msg_no, errno.ENOSYS, text), "daemon_request"

    def _answered(self, msg_no: int, flags: int, error: int, record: bytes) -> str | None:
        """One record of the answer to a request of ours; returns a word for a counter, or None."""
        body = self._answers[msg_no]
        body += record[_RECORD.size :]
        self.kept_bytes += len(record) - _RECORD.size
        if not flags & END and len(body) <= self._limits.daemon_answer:
            return None
        del self._answers[msg_no]
        self.kept_bytes -= len(body)
        attributes = read_attributes(bytes(body)) if flags & END else None
        if attributes is None:
            self.events.append(DaemonAnswer(msg_no, errno.EPROTO))
            return "bad_daemon_response"
        self.events.append(DaemonAnswer(msg_no, error, attributes))
        return None

    def _keep(self, msg_no: int, body: bytearray) -> tuple[bytes | None, str | None]:
        limits = self._limits
        if (
            len(self._partials) >= limits.partial_requests
            or self.kept_bytes + len(body) > limits.partial_request_bytes
        ):
            text = "The request is too long."
            return _text_response(msg_no, errno.E2BIG, text), "bad_daemon_request"
        self._partials[msg_no] = body
        self.kept_bytes += len(body)
        return None, None

    def _malformed(self, msg_no: int) -> tuple[bytes, str]:
        """Answer a request that cannot be read, and forget what there is of it."""
        self.kept_bytes -= len(self._partials.pop(msg_no, b""))
        text = "LDMSD received a bad request."
        return _text_response(msg_no, errno.EINVAL, text), "bad_daemon_request"
