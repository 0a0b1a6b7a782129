"""Frames: the outermost layer (docs/wire.md, Frames).

The structures below are declared without what follows their fixed part. ``read_head`` and
``body_at`` are the only places that judge a frame's lengths.
"""

from __future__ import annotations

from construct import Bytes, Int16ub, Int32ub, Int64ub, Padding, Struct

from ldmsjob.errors import PeerError
from ldmsjob.wire.buffers import flat_struct

CONNECT = 1
SENDRECV = 2
RENDEZVOUS = 3
READ_REQ = 4
READ_RESP = 5
WRITE_REQ = 6
WRITE_RESP = 7
ACCEPTED = 8
REJECTED = 9
ACK_ACCEPTED = 10

NAMES = {
    CONNECT: "CONNECT",
    SENDRECV: "SENDRECV",
    RENDEZVOUS: "RENDEZVOUS",
    READ_REQ: "READ_REQ",
    READ_RESP: "READ_RESP",
    WRITE_REQ: "WRITE_REQ",
    WRITE_RESP: "WRITE_RESP",
    ACCEPTED: "ACCEPTED",
    REJECTED: "REJECTED",
    ACK_ACCEPTED: "ACK_ACCEPTED",
}

HEAD_BYTES = 20
"""The part that all frames have in common."""

MAX_FRAME = 1_048_576
"""The most that a frame may have, head included."""

MAX_PAYLOAD = MAX_FRAME - 40
"""The most that a C peer takes as the payload of a SENDRECV frame."""

VERSION = bytes((1, 3))
RELEASE = bytes((1, 0))
"""Patch and flags, which do not count."""
SIGNATURE = b"SOCKET\0\0"

REMOTE_PERMISSION = 19
"""Status of a WRITE_RESP: not allowed."""

FRAME_HEAD = Struct(
    "kind" / Int16ub,
    "reserved" / Int16ub,
    "length" / Int32ub,
    "frame_xid" / Bytes(4),
    "ctxt" / Bytes(8),
)
COUNTED_HEAD = Struct(*FRAME_HEAD.subcons, "data_len" / Int32ub)
"""SENDRECV, ACCEPTED, REJECTED and ACK_ACCEPTED, in front of their data."""
CONNECT_HEAD = Struct(
    *FRAME_HEAD.subcons,
    "version" / Bytes(2),
    "release" / Bytes(2),
    "signature" / Bytes(8),
    "data_len" / Int32ub,
)
RENDEZVOUS_HEAD = Struct(
    *FRAME_HEAD.subcons,
    "key" / Bytes(4),
    "access" / Int32ub,
    "address" / Int64ub,
    "region_len" / Int32ub,
)
READ_REQUEST = Struct(
    *FRAME_HEAD.subcons, "key" / Bytes(4), "address" / Int64ub, "data_len" / Int32ub
)
WRITE_REQUEST_HEAD = READ_REQUEST
READ_RESPONSE_HEAD = Struct(
    *FRAME_HEAD.subcons,
    "status" / Int16ub,
    Padding(2),
    "destination" / Bytes(8),
    "data_len" / Int32ub,
)
WRITE_RESPONSE = Struct(*FRAME_HEAD.subcons, "status" / Int16ub, Padding(2))

NO_XID = bytes(4)
"""Only READ and WRITE responses are paired by xid, so all other frames of ours have none."""
NO_CTXT = bytes(8)

_HEAD = flat_struct(FRAME_HEAD, only=("kind", "length"))
_IDENTITY = flat_struct(FRAME_HEAD, only=("frame_xid", "ctxt"))
_COUNTED = flat_struct(COUNTED_HEAD)
_CONNECT = flat_struct(CONNECT_HEAD)
CONNECT_BYTES = _CONNECT.size
"""Of a CONNECT frame without its connection message."""
_READ_REQUEST = flat_struct(READ_REQUEST)
_READ_RESPONSE_HEAD = flat_struct(
    READ_RESPONSE_HEAD, only=("kind", "length", "frame_xid", "ctxt", "status", "data_len")
)
READ_RESPONSE_BYTES = _READ_RESPONSE_HEAD.size
"""Of a READ_RESP frame without its data."""
_READ_RESPONSE_FIELDS = flat_struct(READ_RESPONSE_HEAD, only=("frame_xid", "ctxt", "status"))
_WRITE_RESPONSE = flat_struct(WRITE_RESPONSE)
_CONNECT_FIELDS = flat_struct(CONNECT_HEAD, only=("version", "signature"))
_OUR_FRAMING = VERSION, SIGNATURE

# The size of the fixed part, and what reads the count of the bytes behind it. Without a count:
# exactly that size, but for RENDEZVOUS, whose tail is as long as the frame is.
_SIZES = {
    kind: (declaration.sizeof(), flat_struct(declaration, only=("data_len",)) if counted else None)
    for kind, declaration, counted in (
        (CONNECT, CONNECT_HEAD, True),
        (SENDRECV, COUNTED_HEAD, True),
        (RENDEZVOUS, RENDEZVOUS_HEAD, False),
        (READ_REQ, READ_REQUEST, False),
        (READ_RESP, READ_RESPONSE_HEAD, True),
        (WRITE_REQ, WRITE_REQUEST_HEAD, True),
        (WRITE_RESP, WRITE_RESPONSE, False),
        (ACCEPTED, COUNTED_HEAD, True),
        (REJECTED, COUNTED_HEAD, True),
        (ACK_ACCEPTED, COUNTED_HEAD, True),
    )
}


def read_head(data: bytes, at: int, limit: int, read_limit: int | None = None) -> tuple[int, int]:
    """Kind and length of the frame at ``at``, of which at least ``HEAD_BYTES`` are there.

    Raises ``PeerError`` for a kind that does not exist, and for a length that is not possible or
    above ``limit``; for a READ_RESP above ``read_limit`` where there is one.
    """
    kind, length = _HEAD.unpack_from(data, at)
    size = _SIZES.get(kind)
    if size is None:
        raise PeerError(f"frame of unknown kind {kind}")
    if kind == READ_RESP and read_limit is not None:
        limit = read_limit
    if not size[0] <= length <= limit:
        raise PeerError(f"{NAMES[kind]} frame of {length} bytes")
    return kind, length


def body_at(kind: int, data: bytes, at: int, length: int) -> int:
    """Where the data of the whole frame at ``at`` begins. Raises ``PeerError`` where the lengths in
    it do not agree."""
    fixed, count = _SIZES[kind]
    if count is not None:
        consistent = fixed + count.unpack_from(data, at)[0] == length
    else:
        consistent = fixed == length or kind == RENDEZVOUS
    if not consistent:
        raise PeerError(f"{NAMES[kind]} frame whose lengths disagree")
    return at + fixed


def check_connect(data: bytes, at: int) -> None:
    """Raise ``PeerError`` unless a CONNECT frame is from a peer that speaks our framing."""
    if _CONNECT_FIELDS.unpack_from(data, at) != _OUR_FRAMING:
        raise PeerError("CONNECT frame of another framing version")


def counted_frame(kind: int, payload: bytes = b"") -> bytes:
    """A SENDRECV, ACCEPTED, REJECTED or ACK_ACCEPTED frame."""
    size = len(payload)
    return _COUNTED.pack(kind, 0, _COUNTED.size + size, NO_XID, NO_CTXT, size) + payload


def connect_frame(message: bytes) -> bytes:
    """A CONNECT frame around a connection message."""
    size = len(message)
    length = _CONNECT.size + size
    framing = (VERSION, RELEASE, SIGNATURE)
    head = _CONNECT.pack(CONNECT, 0, length, NO_XID, NO_CTXT, *framing, size)
    return head + message


def rejected_frame(reason: str) -> bytes:
    """A REJECTED frame; ``reason`` is ASCII."""
    return counted_frame(REJECTED, reason.encode("ascii") + b"\0")


def read_request_frame(xid: bytes, ctxt: bytes, key: bytes, address: int, size: int) -> bytes:
    """A READ_REQ frame."""
    return _READ_REQUEST.pack(READ_REQ, 0, _READ_REQUEST.size, xid, ctxt, key, address, size)


def read_response_head(xid: bytes, ctxt: bytes, status: int, size: int) -> bytes:
    """A READ_RESP frame in front of its ``size`` bytes of data."""
    return _READ_RESPONSE_HEAD.pack(READ_RESP, READ_RESPONSE_BYTES + size, xid, ctxt, status, size)


def read_response_fields(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """Xid, context and status of the READ_RESP frame at ``at``."""
    return _READ_RESPONSE_FIELDS.unpack_from(data, at)


def refuse_write(data: bytes, at: int) -> bytes:
    """The answer to the WRITE_REQ frame at ``at``: not allowed."""
    xid, ctxt = _IDENTITY.unpack_from(data, at)
    size = _WRITE_RESPONSE.size
    return _WRITE_RESPONSE.pack(WRITE_RESP, 0, size, xid, ctxt, REMOTE_PERMISSION)
