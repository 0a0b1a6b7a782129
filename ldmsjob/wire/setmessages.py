"""Requests, replies and frames about metric sets (docs/wire.md, Metric sets): bytes, no state.

All readers take a whole request or frame as ``data[at:stop]``, whose outer lengths have been
judged, and raise ``PeerError`` where its own do not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from construct import Bytes, Int32ub, Int64ub, Padding, Struct

from ldmsjob.errors import PeerError
from ldmsjob.wire import directory, zap
from ldmsjob.wire.buffers import flat_struct
from ldmsjob.wire.setevents import READ_OK, AnnouncedSet, DirectoryEntry, Info, Read, ReadAnswer
from ldmsjob.wire.xprt import (
    CANCEL_NOTIFY,
    CANCEL_PUSH,
    DIR,
    DIR_CANCEL,
    DIR_REPLY,
    DIR_UPDATE_REPLY,
    LOOKUP,
    NO_XID,
    PUSH_REPLY,
    REPLY_HEAD,
    REQ_NOTIFY,
    REQ_NOTIFY_REPLY,
    REQUEST_HEAD,
    SET_DELETE,
    SET_DELETE_REPLY,
)

BY_SCHEMA, IS_REGEX = 1, 2
"""Flags of a LOOKUP."""

ANNOUNCE, REGISTER_PUSH = 1, 2
"""What the message of a RENDEZVOUS is about."""

READABLE = 2
"""The only access that we grant in a RENDEZVOUS."""

ON_CHANGE = 2
"""Flag of a registration for pushes, next to ``EXPLICIT``."""
EXPLICIT = 1

PUSH, LAST, MORE = 0x1000_0000, 0x2000_0000, 0x8000_0000
"""Flags of a PUSH_REPLY."""

DIR_REQUEST = Struct(*REQUEST_HEAD.subcons, "updates" / Int32ub)
DIR_REPLY_HEAD = Struct(
    *REPLY_HEAD.subcons, "dir_type" / Int32ub, "more" / Int32ub, "json_len" / Int32ub
)
LOOKUP_HEAD = Struct(*REQUEST_HEAD.subcons, "flags" / Int32ub, "path_len" / Int32ub)
SET_REQUEST = Struct(*REQUEST_HEAD.subcons, "set_id" / Bytes(8))
"""CANCEL_PUSH and CANCEL_NOTIFY."""
NOTIFY_REQUEST = Struct(*SET_REQUEST.subcons, "what" / Int32ub)
NOTIFICATION_HEAD = Struct(
    *REPLY_HEAD.subcons, "what" / Int32ub, Padding(4), "event_len" / Int32ub, Padding(4)
)
PUSH_HEAD = Struct(
    *REPLY_HEAD.subcons,
    "push_id" / Bytes(8),
    "flags" / Int32ub,
    "offset" / Int32ub,
    "data_len" / Int32ub,
)
SET_DELETE_HEAD = Struct(*REQUEST_HEAD.subcons, "name_len" / Int32ub)
SET_DELETE_REPLY_BODY = Struct(
    *REPLY_HEAD.subcons, "received_sec" / Int64ub, "received_nsec" / Int64ub
)
RENDEZVOUS_MESSAGE_HEAD = Struct("xid" / Bytes(8), "about" / Int32ub, "message_len" / Bytes(4))
"""The length is little-endian in announcements and big-endian in registrations."""
ANNOUNCEMENT_HEAD = Struct(
    *RENDEZVOUS_MESSAGE_HEAD.subcons,
    "set_id" / Bytes(8),
    "more" / Int32ub,
    "meta_size" / Int32ub,
    "data_size" / Int32ub,
    "card" / Int32ub,
    "schema_len" / Int32ub,
    "array_card" / Int32ub,
)
PUSH_REGISTRATION = Struct(
    *RENDEZVOUS_MESSAGE_HEAD.subcons,
    "set_id" / Bytes(8),
    "push_id" / Bytes(8),
    "flags" / Int32ub,
)

_RC = flat_struct(REPLY_HEAD, only=("rc",))
_REQUEST = flat_struct(REQUEST_HEAD)
_DIR = flat_struct(DIR_REQUEST)
_DIR_REPLY = flat_struct(DIR_REPLY_HEAD)
_DIR_REPLY_FIELDS = flat_struct(DIR_REPLY_HEAD, only=("rc", "dir_type", "more"))
_LOOKUP = flat_struct(LOOKUP_HEAD)
_LOOKUP_FIELDS = flat_struct(LOOKUP_HEAD, only=("flags", "path_len"))
_SET_REQUEST = flat_struct(SET_REQUEST)
_NOTIFY = flat_struct(NOTIFY_REQUEST)
_NOTIFICATION = flat_struct(NOTIFICATION_HEAD)
_NOTIFICATION_FIELDS = flat_struct(NOTIFICATION_HEAD, only=("what", "event_len"))
_PUSH = flat_struct(PUSH_HEAD)
_PUSH_FIELDS = flat_struct(PUSH_HEAD, only=("push_id", "flags", "offset", "data_len"))
_SET_DELETE = flat_struct(SET_DELETE_HEAD)
_SET_DELETE_FIELDS = flat_struct(SET_DELETE_HEAD, only=("name_len",))
_SET_DELETE_REPLY = flat_struct(SET_DELETE_REPLY_BODY)
_RENDEZVOUS = flat_struct(zap.RENDEZVOUS_HEAD)
_RENDEZVOUS_FIELDS = flat_struct(zap.RENDEZVOUS_HEAD, only=("key", "address", "region_len"))
_READ = flat_struct(
    zap.READ_REQUEST,
    only=("kind", "length", "frame_xid", "ctxt", "key", "address", "data_len"),
)
_MESSAGE_HEAD = flat_struct(RENDEZVOUS_MESSAGE_HEAD)
_ANNOUNCEMENT = flat_struct(ANNOUNCEMENT_HEAD)
_REGISTRATION = flat_struct(PUSH_REGISTRATION)

_EVENT_HEAD_BYTES = _NOTIFICATION.size - REPLY_HEAD.sizeof()
_SCHEMA_PADDING = 33
"""C programs count the set's digest, which they do not send, as part of the schema's name."""
_STRING_BYTES = 255
"""The most of a string in a list of strings, its NUL included."""

MAX_DIRECTORY_TEXT = zap.MAX_PAYLOAD - _DIR_REPLY.size
MAX_PUSH_DATA = zap.MAX_PAYLOAD - _PUSH.size
MAX_NOTIFICATION_DATA = zap.MAX_PAYLOAD - _NOTIFICATION.size


def _text(value: bytes) -> str:
    return value.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _bytes(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape") + b"\0"
    if data.find(b"\0") != len(data) - 1:
        raise ValueError(f"a NUL in {value!r}")
    return data


def _check_size(what: str, is_right: bool) -> None:
    if not is_right:
        raise PeerError(f"{what} whose lengths disagree")


# Directories


def dir_request(xid: bytes, updates: bool) -> bytes:
    """A DIR."""
    return _DIR.pack(xid, DIR, _DIR.size, int(updates))


def dir_cancel_request(xid: bytes) -> bytes:
    """A DIR_CANCEL."""
    return _REQUEST.pack(xid, DIR_CANCEL, _REQUEST.size)


def read_dir(data: bytes, at: int, stop: int) -> bool:
    """Whether updates are wanted."""
    _check_size("DIR", stop - at == _DIR.size)
    return _DIR.unpack_from(data, at)[-1] != 0


def dir_replies(
    xid: bytes, entries: Iterable[DirectoryEntry], more_follow: bool = False
) -> Iterator[bytes]:
    """The DIR_REPLY messages of one answer, or of a part of it when ``more_follow``."""
    texts = directory.directory_texts(entries, MAX_DIRECTORY_TEXT)
    text: bytes | None = next(texts)
    while text is not None:
        following = next(texts, None)
        size = len(text)
        more = int(more_follow or following is not None)
        yield _DIR_REPLY.pack(xid, DIR_REPLY, _DIR_REPLY.size + size, 0, 0, more, size) + text
        text = following


def dir_update(xid: bytes, kind: int, entry: DirectoryEntry) -> bytes:
    """A DIR_UPDATE_REPLY."""
    text = directory.update_text(entry, MAX_DIRECTORY_TEXT)
    size = len(text)
    return _DIR_REPLY.pack(xid, DIR_UPDATE_REPLY, _DIR_REPLY.size + size, 0, kind, 0, size) + text


def read_dir_reply(data: bytes, at: int, stop: int) -> tuple[int, int, bool, bytes]:
    """Errno, kind of update, whether more follows, and text of a DIR_REPLY or DIR_UPDATE_REPLY.

    The text's own count is not looked at: C programs do not either.
    """
    _check_size("directory", stop - at >= _DIR_REPLY.size)
    rc, kind, more = _DIR_REPLY_FIELDS.unpack_from(data, at)
    return rc, kind, more != 0, data[at + _DIR_REPLY.size : stop]


def read_rc(data: bytes, at: int) -> int:
    """The errno of a reply."""
    return int(_RC.unpack_from(data, at)[0])


# Lookups


def lookup_request(xid: bytes, path: str, by_schema: bool, is_regex: bool) -> bytes:
    """A LOOKUP. Raises ``ValueError`` for a NUL in the path."""
    name = _bytes(path)
    flags = by_schema * BY_SCHEMA | is_regex * IS_REGEX
    return _LOOKUP.pack(xid, LOOKUP, _LOOKUP.size + len(name), flags, len(name)) + name


def read_lookup(data: bytes, at: int, stop: int) -> tuple[str, bool, bool]:
    """Path, whether it is a schema's, and whether it is a regex."""
    start = at + _LOOKUP.size
    _check_size("LOOKUP", start < stop)
    flags, size = _LOOKUP_FIELDS.unpack_from(data, at)
    _check_size("LOOKUP", size == stop - start)
    return _text(data[start:stop]), flags & BY_SCHEMA != 0, flags & IS_REGEX != 0


def announcement_frame(xid: bytes, announced: AnnouncedSet, more: bool) -> bytes:
    """A RENDEZVOUS that announces a set's memory.

    Pairs of info that no list of strings can hold (more than 254 bytes) are left out. Raises
    ``ValueError`` for names like that.
    """
    info = _info_strings(announced.info) if announced.info else b""
    tail = b"".join((_schema_string(announced.schema), _string(announced.instance), info, b"\0"))
    message_size = _ANNOUNCEMENT.size + len(tail)
    region = announced.meta_size + announced.array_card * announced.data_size
    head = _rendezvous_head(announced.key, READABLE, announced.address, region, message_size)
    message = _ANNOUNCEMENT.pack(
        xid,
        ANNOUNCE,
        message_size.to_bytes(4, "little"),
        announced.set_id,
        int(more),
        announced.meta_size,
        announced.data_size,
        announced.card,
        0,
        announced.array_card,
    )
    return head + message + tail


def _rendezvous_head(
    key: bytes, access: int, address: int, region: int, message_size: int
) -> bytes:
    size = _RENDEZVOUS.size + message_size
    return _RENDEZVOUS.pack(
        zap.RENDEZVOUS, 0, size, zap.NO_XID, zap.NO_CTXT, key, access, address, region
    )


def _info_strings(info: Iterable[Info]) -> bytes:
    strings: list[bytes] = []
    room = zap.MAX_FRAME - _RENDEZVOUS.size - _ANNOUNCEMENT.size - 3 * _STRING_BYTES
    for pair in info:
        try:
            text = _string(pair.key) + _string(pair.value)
        except ValueError:
            continue
        room -= len(text)
        if room < 0:
            break
        strings.append(text)
    return b"".join(strings)


@lru_cache(maxsize=256)
def _schema_string(name: str) -> bytes:
    """Many sets have the same one."""
    return _string(name, _SCHEMA_PADDING)


def _string(value: str, padding: int = 0) -> bytes:
    data = _bytes(value)
    if len(data) > _STRING_BYTES:
        raise ValueError(f"more than {_STRING_BYTES - 1} bytes: {value!r}")
    size = min(len(data) + padding, _STRING_BYTES)
    return bytes((size,)) + data.ljust(size, b"\0")


def read_rendezvous(data: bytes, at: int, stop: int) -> tuple[bytes, int, int]:
    """Xid, what it is about, and the place of its message, of the RENDEZVOUS frame at ``at``."""
    start = at + _RENDEZVOUS.size
    _check_size("RENDEZVOUS", stop - start >= _MESSAGE_HEAD.size)
    xid, about, size = _MESSAGE_HEAD.unpack_from(data, start)
    count = stop - start
    is_right = count in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
    _check_size("RENDEZVOUS", is_right)
    return xid, about, start


def read_announcement(data: bytes, at: int, stop: int) -> tuple[AnnouncedSet, bool]:
    """The set that the RENDEZVOUS frame at ``at`` announces, and whether more of them follow.

    That sizes, count of copies and region fit together has been checked. What stands behind the
    list of strings is not looked at.
    """
    start = at + _RENDEZVOUS.size
    _check_size("announcement", stop - start > _ANNOUNCEMENT.size)
    key, address, region = _RENDEZVOUS_FIELDS.unpack_from(data, at)
    _, _, _, set_id, more, meta_size, data_size, card, _, array_card = _ANNOUNCEMENT.unpack_from(
        data, start
    )
    _check_size("announcement", array_card > 0 and region == meta_size + array_card * data_size)
    schema, instance, *info = _read_strings(data, start + _ANNOUNCEMENT.size, stop)
    announced = AnnouncedSet(
        key,
        address,
        set_id,
        meta_size,
        data_size,
        card,
        array_card,
        schema,
        instance,
        tuple(map(Info, info[::2], info[1::2])),
    )
    return announced, more != 0


def _read_strings(data: bytes, at: int, stop: int) -> list[str]:
    """Schema, instance, and as many keys as values."""
    strings: list[str] = []
    while at < stop:
        size = data[at]
        if not size:
            _check_size("announcement", len(strings) >= 2 and len(strings) % 2 == 0)
            return strings
        at += 1
        _check_size("announcement", size <= stop - at)
        strings.append(_text(data[at : at + size]))
        at += size
    raise PeerError("announcement whose strings have no end")


# Reads


def take_reads(data: bytes, at: int, end: int, reads: list[Read]) -> int:
    """Take whole READ_REQ frames, up to the first that is not one. Returns where that begins."""
    unpack = _READ.unpack_from
    take = reads.append
    size = _READ.size
    last = end - size
    while at <= last:
        kind, length, xid, context, key, address, wanted = unpack(data, at)
        if kind != zap.READ_REQ or length != size:
            break
        take(Read(xid, context, key, address, wanted))
        at += size
    return at


def read_responses(answers: Iterable[ReadAnswer]) -> bytes:
    """READ_RESP frames. Raises ``ValueError`` for data of another length than was asked for."""
    head = zap.read_response_head
    parts: list[bytes | memoryview] = []
    for read, status, data in answers:
        size = len(data)
        if size != (read.length if status == READ_OK else 0):
            raise ValueError(f"{size} bytes for a read of {read.length}")
        parts += (head(read.xid, read.context, status, size), data)
    return b"".join(parts)


# Pushes


def push_registration_frame(
    key: bytes, address: int, region: int, set_id: bytes, push_id: bytes, on_change: bool
) -> bytes:
    """A RENDEZVOUS that asks for pushes."""
    size = _REGISTRATION.size
    flags = EXPLICIT | on_change * ON_CHANGE
    message = _REGISTRATION.pack(
        NO_XID, REGISTER_PUSH, size.to_bytes(4, "big"), set_id, push_id, flags
    )
    return _rendezvous_head(key, READABLE, address, region, size) + message


def read_push_registration(data: bytes, at: int, stop: int) -> tuple[bytes, bytes, bool]:
    """Set id, push id, and whether each change is wanted, of the RENDEZVOUS frame at ``at``."""
    start = at + _RENDEZVOUS.size
    _check_size("registration for pushes", stop - start == _REGISTRATION.size)
    _, _, _, set_id, push_id, flags = _REGISTRATION.unpack_from(data, start)
    return set_id, push_id, flags & ON_CHANGE != 0


def push_replies(
    push_id: bytes, offset: int, data: bytes | memoryview, last: bool
) -> Iterator[bytes]:
    """The PUSH_REPLY messages of one push."""
    flags = PUSH | last * LAST
    end = len(data)
    at = 0
    while True:
        size = min(end - at, MAX_PUSH_DATA)
        more = MORE if at + size < end else 0
        total = _PUSH.size + size
        head = _PUSH.pack(NO_XID, PUSH_REPLY, total, 0, push_id, flags | more, offset + at, size)
        yield b"".join((head, data[at : at + size]))
        at += size
        if at >= end:
            return


def read_push(data: bytes, at: int, stop: int) -> tuple[bytes, int, int, bytes]:
    """Push id, flags, offset and data of a PUSH_REPLY."""
    start = at + _PUSH.size
    _check_size("PUSH_REPLY", start <= stop)
    push_id, flags, offset, size = _PUSH_FIELDS.unpack_from(data, at)
    _check_size("PUSH_REPLY", size == stop - start)
    return push_id, flags, offset, data[start:stop]


def cancel_push_request(set_id: bytes) -> bytes:
    """A CANCEL_PUSH."""
    return _SET_REQUEST.pack(NO_XID, CANCEL_PUSH, _SET_REQUEST.size, set_id)


def read_set_id(data: bytes, at: int, stop: int) -> bytes:
    """The set of a CANCEL_PUSH or CANCEL_NOTIFY."""
    _check_size("request about a set", stop - at == _SET_REQUEST.size)
    return bytes(_SET_REQUEST.unpack_from(data, at)[-1])


# Notifications


def notify_request(xid: bytes, set_id: bytes, what: int) -> bytes:
    """A REQ_NOTIFY."""
    return _NOTIFY.pack(xid, REQ_NOTIFY, _NOTIFY.size, set_id, what)


def read_notify_request(data: bytes, at: int, stop: int) -> tuple[bytes, int]:
    """Set and kind of a REQ_NOTIFY."""
    _check_size("REQ_NOTIFY", stop - at == _NOTIFY.size)
    _, _, _, set_id, what = _NOTIFY.unpack_from(data, at)
    return set_id, what


def cancel_notify_request(set_id: bytes) -> bytes:
    """A CANCEL_NOTIFY."""
    return _SET_REQUEST.pack(NO_XID, CANCEL_NOTIFY, _SET_REQUEST.size, set_id)


def notification(xid: bytes, what: int, data: bytes) -> bytes:
    """A REQ_NOTIFY_REPLY. Raises ``ValueError`` for data that is too long for a frame."""
    if len(data) > MAX_NOTIFICATION_DATA:
        raise ValueError(f"{len(data)} bytes in a notification")
    size = _NOTIFICATION.size + len(data)
    event_size = _EVENT_HEAD_BYTES + len(data)
    return _NOTIFICATION.pack(xid, REQ_NOTIFY_REPLY, size, 0, what, event_size) + data


def read_notification(data: bytes, at: int, stop: int) -> tuple[int, bytes]:
    """Kind and data of a REQ_NOTIFY_REPLY."""
    start = at + _NOTIFICATION.size
    _check_size("notification", start <= stop)
    what, event_size = _NOTIFICATION_FIELDS.unpack_from(data, at)
    _check_size("notification", event_size - _EVENT_HEAD_BYTES == stop - start)
    return what, data[start:stop]


# Deletions


def set_delete_request(xid: bytes, instance: str) -> bytes:
    """A SET_DELETE. Raises ``ValueError`` for a NUL in the name."""
    name = _bytes(instance)
    return _SET_DELETE.pack(xid, SET_DELETE, _SET_DELETE.size + len(name), len(name)) + name


def read_set_delete(data: bytes, at: int, stop: int) -> str:
    """The instance name of a SET_DELETE."""
    start = at + _SET_DELETE.size
    _check_size("SET_DELETE", start < stop)
    _check_size("SET_DELETE", _SET_DELETE_FIELDS.unpack_from(data, at)[0] == stop - start)
    return _text(data[start:stop])


def set_delete_reply(xid: bytes, now_us: int) -> bytes:
    """The reply to a SET_DELETE: we do not use that set (any more)."""
    seconds, micros = divmod(now_us, 1_000_000)
    size = _SET_DELETE_REPLY.size
    return _SET_DELETE_REPLY.pack(xid, SET_DELETE_REPLY, size, 0, seconds, micros * 1000)
