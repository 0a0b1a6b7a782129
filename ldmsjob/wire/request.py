"""Daemon requests: what travels inside SEND_MSG (docs/wire.md, Daemon requests).

No request is implemented, and each gets the answer that says so.
"""

from __future__ import annotations

import errno

from construct import Int32ub, Struct

from ldmsjob.wire.buffers import Limits, flat_struct

MARKER = 0xFFFF_FFFF
REQUEST = 1
RESPONSE = 2
START = 1
"""Record flag: the message's first record."""
END = 2
"""Record flag: the message's last record."""

STRING = 16
"""Attribute: the text of a response."""
RECORD_LEN = 25
"""Attribute: the most that a record may have. Its value is little-endian."""

MAX_RECORD = 1_048_516

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
    """Puts the records of one peer's requests together and answers them."""

    __slots__ = ("_limits", "_partials", "kept_bytes")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._partials: dict[int, bytearray] = {}
        self.kept_bytes = 0
        """Bytes of records that wait for the rest of their messages."""

    def receive(self, record: bytes) -> tuple[bytes | None, str | None]:
        """The answer to a record, and a word for a counter; None where there is neither.

        Any bytes are good for an answer.
        """
        if len(record) < _RECORD.size or _RECORD.unpack_from(record)[0] != MARKER:
            text = "Config request is missing record marker"
            return _text_response(MARKER, errno.EINVAL, text), "bad_daemon_request"
        _, kind, flags, msg_no, code, length = _RECORD.unpack_from(record)
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
        if read_attributes(bytes(body)) is None:
            return self._malformed(msg_no)
        if code in STREAM_REQUESTS:
            text = "The stream service is DISABLED on this system."
        else:
            text = "The request is not implemented"
        return _text_response(msg_no, errno.ENOSYS, text), "daemon_request"

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
