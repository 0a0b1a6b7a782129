"""Connection messages, and the requests and replies inside SENDRECV frames.

docs/wire.md, Connection messages and Requests.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from construct import Bytes, Int32sb, Int32ub, Int64sb, Int64ub, Struct

from ldmsjob.errors import PeerError
from ldmsjob.wire.buffers import flat_struct
from ldmsjob.wire.events import UNLIMITED, PeerInfo

DIR = 0
DIR_CANCEL = 1
LOOKUP = 2
REQ_NOTIFY = 3
CANCEL_NOTIFY = 4
SEND_MSG = 5
AUTH_MSG = 6
CANCEL_PUSH = 7
SET_DELETE = 9
SEND_QUOTA = 10
MSG = 11
MSG_SUB = 12
MSG_UNSUB = 13
QGROUP_ASK = 14
QGROUP_DONATE = 15
QGROUP_DONATE_BACK = 16
QUOTA_RECONFIG = 17
RATE_RECONFIG = 18

FIRST_REPLY = 0x101
"""Codes from here to 0x7fffffff are replies, all others requests."""
LAST_REPLY = 0x7FFF_FFFF
DIR_REPLY = 0x101
DIR_CANCEL_REPLY = 0x102
DIR_UPDATE_REPLY = 0x103
LOOKUP_REPLY = 0x104
REQ_NOTIFY_REPLY = 0x105
PUSH_REPLY = 0x108
SET_DELETE_REPLY = 0x10A
MSG_SUB_REPLY = 0x10B
MSG_UNSUB_REPLY = 0x10C

LDMS_VERSION = bytes((4, 2, 0, 0))

RAIL = 1
"""The only type of connection that there is today."""

TERMS = Struct(
    "ldms_version" / Bytes(4),
    "auth" / Bytes(16),
    "connection_type" / Int32ub,
    "rate" / Int64sb,
    "quota" / Int64sb,
    "endpoints" / Int32sb,
    "endpoint" / Int32ub,
)
"""What the connection messages of many peers have in common."""
PARTICULARS = Struct("pid" / Int32sb, "rail_gn" / Int64ub, "messages_enabled" / Int32sb)
CONNECTION_MESSAGE = Struct(*TERMS.subcons, *PARTICULARS.subcons)
RAIL_GN_AT = TERMS.sizeof() + PARTICULARS.pid.sizeof()
RAIL_GN_BYTES = PARTICULARS.rail_gn.sizeof()
REQUEST_HEAD = Struct("xid" / Bytes(8), "command" / Int32ub, "request_len" / Int32ub)
REPLY_HEAD = Struct(*REQUEST_HEAD.subcons, "rc" / Int32ub)
COUNTED_REQUEST = Struct(*REQUEST_HEAD.subcons, "payload_len" / Int32ub)
"""SEND_MSG and AUTH_MSG, in front of their payload."""
RECONFIG = Struct(*REQUEST_HEAD.subcons, "limit" / Int64sb)
"""QUOTA_RECONFIG and RATE_RECONFIG: the new quota or rate, from now on."""

NO_XID = bytes(8)
"""For requests that get no reply."""

_TERMS = flat_struct(TERMS)
_CONNECTION = flat_struct(Struct("terms" / Bytes(_TERMS.size)), PARTICULARS)
_REQUEST = flat_struct(REQUEST_HEAD)
_REPLY = flat_struct(REPLY_HEAD)
_COUNTED = flat_struct(COUNTED_REQUEST)
_PAYLOAD_LEN = flat_struct(COUNTED_REQUEST, only=("payload_len",))
_RECONFIG = flat_struct(RECONFIG)

REQUEST_BYTES = _REQUEST.size
REPLY_BYTES = _REPLY.size

_VERSION_BYTES = 4
_AUTH_END = 20  # of the authentication name, which stands behind the version


class ConnectionMessage(msgspec.Struct, frozen=True, gc=False):
    """What a peer says of itself in CONNECT and ACCEPTED."""

    auth: str
    rate: int
    quota: int
    pid: int
    rail_gn: int
    messages_enabled: bool
    endpoints: int = 1
    endpoint: int = 0

    def peer_info(self) -> PeerInfo:
        """The part of it that an owner wants to know."""
        return PeerInfo(self.auth, self.pid, self.messages_enabled, self.quota, self.rate)

    def encode(self) -> bytes:
        """The 64 bytes on the wire."""
        terms = _packed_terms(self.auth, self.rate, self.quota, self.endpoints, self.endpoint)
        return _CONNECTION.pack(terms, self.pid, self.rail_gn, self.messages_enabled)


class ConnectionRefused(PeerError):
    """A connection message that cannot be accepted.

    ``answer`` is the text of the REJECTED frame; ``more``, behind it, is for our side only.
    """

    def __init__(self, answer: str, more: str = "") -> None:
        super().__init__(f"{answer}: {more}" if more else answer)
        self.answer = answer


class AuthMismatch(ConnectionRefused):
    """The two sides have different ways to authenticate; says which."""

    def __init__(self, theirs: bytes, ours: str) -> None:
        # What they sent may hold anything.
        name = ascii(theirs.decode("latin-1"))
        super().__init__("Auth mismatch", f"the peer's is {name}, ours '{ours}'")


class Unauthenticated(PeerError):
    """The peer has asked for something before it was authenticated."""


def _check_identity(message: bytes, auth_name: str) -> None:
    if len(message) < _VERSION_BYTES:
        raise ConnectionRefused("Bad conn msg")
    if message[:_VERSION_BYTES] != LDMS_VERSION:
        raise ConnectionRefused("Version mismatch")
    name = message[_VERSION_BYTES:_AUTH_END].partition(b"\0")[0]
    if name != auth_name.encode("ascii"):
        raise AuthMismatch(name, auth_name)


@lru_cache(maxsize=64)
def _packed_terms(auth: str, rate: int, quota: int, endpoints: int, endpoint: int) -> bytes:
    """Of ours there are few, and of most peers' no more."""
    return _TERMS.pack(LDMS_VERSION, auth.encode("ascii"), RAIL, rate, quota, endpoints, endpoint)


@lru_cache(maxsize=64)
def _read_terms(terms: bytes, auth_name: str) -> tuple[int, int, int, int] | None:
    """Rate, quota, endpoints and endpoint; None for another type of connection."""
    _check_identity(terms, auth_name)
    _, _, kind, *numbers = _TERMS.unpack(terms)
    return tuple(numbers) if kind == RAIL else None


def _decode(message: bytes, auth_name: str) -> ConnectionMessage | None:
    """None for the older and the other forms of the message."""
    if len(message) != _CONNECTION.size:
        _check_identity(message, auth_name)
        return None
    terms, pid, rail_gn, enabled = _CONNECTION.unpack(message)
    known = _read_terms(terms, auth_name)
    if known is None:
        return None
    rate, quota, endpoints, endpoint = known
    return ConnectionMessage(
        auth_name, rate, quota, pid, rail_gn, enabled != 0, endpoints, endpoint
    )


def read_connect(message: bytes, auth_name: str) -> ConnectionMessage:
    """What a peer that connects to us says of itself.

    The checks and their order are those of the C daemon. What concerns the other connections of
    a rail is left to ``ldmsjob.wire.rail``. Raises ``ConnectionRefused``.
    """
    peer = _decode(message, auth_name)
    if peer is None:
        raise ConnectionRefused("Bad msg")
    if peer.endpoints <= 0:
        raise ConnectionRefused("passive rail create error: 22")
    if peer.endpoints == 1:
        check_index(peer.endpoint, 1)
    return peer


def check_index(index: int, endpoints: int) -> None:
    """Raises ``ConnectionRefused`` for a connection that is out of its rail's range."""
    if index >= endpoints:
        raise ConnectionRefused(f"bad ep_idx {index} (should be in 0..{endpoints - 1} range)")


def read_accepted(message: bytes, auth_name: str) -> PeerInfo:
    """What the peer that accepted our connection says of itself.

    One that answers in an older form has no message service for us, and no limits. Raises
    ``ConnectionRefused`` for another version or way to authenticate.
    """
    peer = _decode(message, auth_name)
    if peer is None:
        return PeerInfo(auth_name, 0, False, UNLIMITED, UNLIMITED)
    return peer.peer_info()


def read_request_head(data: bytes, at: int, stop: int) -> tuple[bytes, int]:
    """Xid and command of the request or reply that is ``data[at:stop]``.

    Raises ``PeerError`` where it is shorter than its head or contradicts its own length.
    """
    size = stop - at
    if size >= REQUEST_BYTES:
        xid, command, length = _REQUEST.unpack_from(data, at)
        is_reply = FIRST_REPLY <= command <= LAST_REPLY
        if length == size and (not is_reply or size >= REPLY_BYTES):
            return xid, command
    raise PeerError("request whose length is wrong")


def read_counted(data: bytes, at: int, stop: int) -> bytes:
    """The payload of the SEND_MSG or AUTH_MSG that is ``data[at:stop]``."""
    start = at + _COUNTED.size
    if start > stop or _PAYLOAD_LEN.unpack_from(data, at)[0] != stop - start:
        raise PeerError("request whose payload length is wrong")
    return data[start:stop]


def counted_request(command: int, payload: bytes) -> bytes:
    """A SEND_MSG or an AUTH_MSG."""
    size = len(payload)
    return _COUNTED.pack(NO_XID, command, _COUNTED.size + size, size) + payload


def limit_change(command: int, limit: int) -> bytes:
    """A QUOTA_RECONFIG or a RATE_RECONFIG; -1 is unlimited."""
    return _RECONFIG.pack(NO_XID, command, _RECONFIG.size, limit)


def read_limit_change(data: bytes, at: int, stop: int) -> int:
    """The new limit in the QUOTA_RECONFIG or RATE_RECONFIG that is ``data[at:stop]``."""
    if stop - at != _RECONFIG.size:
        raise PeerError("change of a limit of a wrong length")
    limit: int = _RECONFIG.unpack_from(data, at)[-1]
    return limit


def plain_reply(xid: bytes, command: int, rc: int) -> bytes:
    """A reply of which there is only the head."""
    return _REPLY.pack(xid, command, _REPLY.size, rc)
