"""Messages on the wire (docs/wire.md, Messages).

``MessageReader`` is the hot path of the daemon: one unpacking per frame, no object but the message.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import lru_cache

from construct import Bytes, Int8ub, Int16ub, Int32ub, Int64sb, Int64ub, Padding
from construct import Struct as Declaration

from ldmsjob.errors import PeerError, PublishError
from ldmsjob.permissions import may_publish
from ldmsjob.wire.buffers import Limits, flat_struct
from ldmsjob.wire.credit import credit_frame
from ldmsjob.wire.events import (
    BODY_OVERHEAD,
    MAX_HOPS,
    MAX_MESSAGE_BYTES,
    Credential,
    Forward,
    Message,
    Publish,
    Refused,
    SourceAddress,
    WireEvent,
)
from ldmsjob.wire.xprt import MSG, REQUEST_HEAD
from ldmsjob.wire.zap import COUNTED_HEAD, MAX_FRAME, SENDRECV

MORE = 1
"""Fragment flag: this is not the last one."""
FIRST = 2
"""Fragment flag: this is the first one."""

SHARED_US = 10_000
"""How long after a message was first sent on the same bytes are sent to other peers. The time of
departure in them is wrong by so much at most."""

SOURCE = Declaration("family" / Int16ub, "port" / Int16ub, "address" / Bytes(16))
FRAGMENT_HEAD = Declaration(
    *REQUEST_HEAD.subcons,
    *SOURCE.subcons,
    "number" / Int64ub,
    # The low byte of a little-endian word. C peers leave garbage in its other bits.
    "flags" / Int8ub,
    Padding(3),
)
MESSAGE_FIXED = Declaration(
    # The source again. The one in the fragment's head is right where they differ.
    "inner_family" / Int16ub,
    "inner_port" / Int16ub,
    "inner_address" / Bytes(16),
    Padding(4 + 32),
    "inner_number" / Int64ub,
    "body_len" / Int32ub,
    "type" / Int32ub,
    "uid" / Int32ub,
    "gid" / Int32ub,
    "perm" / Int32ub,
    "tag_hash" / Bytes(4),  # little-endian; nobody checks it
    "hop_count" / Int32ub,
    Padding(4),
)
HOP = Declaration(
    "received_sec" / Int64sb,
    "received_nsec" / Int64sb,
    "sent_sec" / Int64sb,
    "sent_nsec" / Int64sb,
)
"""One of ``MAX_HOPS + 1`` records between the fixed part and the channel name. The first one is the
publisher's."""
_FAST = flat_struct(
    COUNTED_HEAD,
    FRAGMENT_HEAD,
    MESSAGE_FIXED,
    only=(
        *("kind", "length", "data_len", "command", "request_len"),
        *("family", "number", "flags"),
        *("body_len", "type", "uid", "gid", "perm", "hop_count"),
    ),
)
_HEADS = [
    flat_struct(
        *(COUNTED_HEAD, FRAGMENT_HEAD, MESSAGE_FIXED),
        *(Declaration("records" / Bytes(hops * HOP.sizeof())), HOP),
        Declaration(Padding((MAX_HOPS - hops) * HOP.sizeof())),
        only=(
            *("kind", "length", "data_len", "command", "request_len", "number", "flags"),
            *("inner_number", "body_len", "type", "uid", "gid", "perm", "tag_hash", "hop_count"),
            *("records", "received_sec", "received_nsec", "sent_sec", "sent_nsec"),
        ),
    )
    for hops in range(MAX_HOPS + 1)
]
"""All in front of the channel name of a message that comes over so many hops, by that number: with
the records of those hops as they are, and ours. But without its source."""
_FRAGMENT = flat_struct(FRAGMENT_HEAD, only=("family", "port", "address", "number", "flags"))
_SOURCE = flat_struct(SOURCE)
_MESSAGE = flat_struct(MESSAGE_FIXED, only=("body_len", "type", "uid", "gid", "perm", "hop_count"))
_TAG_HASH = flat_struct(MESSAGE_FIXED, only=("tag_hash",))
_SOURCE_AT = REQUEST_HEAD.sizeof()
_HOPS_AT = MESSAGE_FIXED.sizeof()
_HOP_BYTES = HOP.sizeof()
_FRAGMENT_AT = COUNTED_HEAD.sizeof()
_MESSAGE_AT = _FRAGMENT_AT + FRAGMENT_HEAD.sizeof()
_SOURCES_AT = _FRAGMENT_AT + _SOURCE_AT, _MESSAGE_AT
TAG_AT = _MESSAGE_AT + BODY_OVERHEAD
"""Where the channel name of an unfragmented message begins in its frame."""
_TAG_AT = TAG_AT - _FRAGMENT_AT  # in the payload
_HASH_PRIME = 0x0100_0193


# Sending messages


def wire_text(text: str) -> bytes:
    """Text with its NUL. Bytes that were no UTF-8 when they came go out as they came.

    Raises ``PublishError`` (rc 22) for text with a NUL, or that is no Unicode.
    """
    try:
        encoded = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise PublishError("a name that is not valid Unicode", rc=errno.EINVAL) from None
    if b"\0" in encoded:
        raise PublishError("a name with a NUL in it", rc=errno.EINVAL)
    return encoded + b"\0"


@lru_cache(maxsize=256)
def tag_hash(channel: bytes) -> bytes:
    """The hash of a channel name, without its NUL: FNV-1a, but it starts from the prime."""
    value = _HASH_PRIME
    for byte in channel:
        # C widens a signed char.
        value = ((value ^ byte ^ (0xFFFF_FF00 if byte & 0x80 else 0)) * _HASH_PRIME) & 0xFFFF_FFFF
    return value.to_bytes(4, "little")


def hash_of_channel(channel: str) -> int:
    """The hash of a channel name as a number."""
    return int.from_bytes(tag_hash(wire_text(channel)[:-1]), "little")


def hash_of_message(message: Message) -> int:
    """The hash in a message that a link brought. Whoever published it may have put anything."""
    return int.from_bytes(_TAG_HASH.unpack_from(message.image, 0)[0], "little")


def forwarded(command: Forward, now_us: int) -> bytes:
    """The frames of what is to be forwarded: those that were made for another peer, when that is
    not long ago. Raises what ``forward_frames`` does."""
    if not command.frames or not 0 <= now_us - command.framed_us <= SHARED_US:
        command.frames = forward_frames(command.messages, now_us)
        command.framed_us = now_us
    return command.frames


def publish_frame(command: Publish, number: int, now_us: int) -> bytes:
    """The frame of a message of our own. Raises ``PublishError``: rc 90 too long, 22 bad name."""
    tag = wire_text(command.channel)
    size = len(tag) + len(command.data)
    if size > MAX_MESSAGE_BYTES:
        raise _too_long(size)
    payload = _TAG_AT + size
    seconds, micros = divmod(now_us, 1_000_000)
    head = _HEADS[0].pack(
        *(SENDRECV, TAG_AT + size, payload, MSG, payload, number, FIRST, number, size),
        *(command.kind, command.uid, command.gid, command.perm, tag_hash(tag[:-1])),
        *(0, b"", seconds, micros * 1000, seconds, micros * 1000),
    )
    return b"".join((head, tag, command.data))


def forward_frames(messages: Sequence[Message], now_us: int) -> bytes:
    """The frames of messages that other links brought, with our hop records.

    What their senders left in places without meaning is not passed on. Raises ``PublishError``: rc
    90 too long for one frame, 40 too many hops.
    """
    seconds, micros = divmod(now_us, 1_000_000)
    nanos = micros * 1000
    came_us, came_seconds, came_nanos = -1, 0, 0
    parts: list[bytes | bytearray] = []
    for message in messages:
        hops, size, image = message.hop_count, message.credit, message.image
        if hops > MAX_HOPS:
            raise PublishError("a message that came over too many hops", rc=errno.ELOOP)
        if size > MAX_MESSAGE_BYTES:
            raise _too_long(size)
        payload = _TAG_AT + size
        number = message.number
        if message.received_us != came_us:
            came_us = message.received_us
            came_seconds, micros = divmod(came_us or now_us, 1_000_000)
            came_nanos = micros * 1000
        head: bytes | bytearray = _HEADS[hops].pack(
            SENDRECV,
            TAG_AT + size,
            payload,
            MSG,
            payload,
            number,
            FIRST,
            number,
            size,
            message.kind,
            message.uid,
            message.gid,
            message.perm,
            _TAG_HASH.unpack_from(image)[0],
            hops,
            image[_HOPS_AT : _HOPS_AT + hops * _HOP_BYTES],
            came_seconds,
            came_nanos,
            seconds,
            nanos,
        )
        source = message.source
        if source is not None:
            head = bytearray(head)
            for at in _SOURCES_AT:
                _SOURCE.pack_into(head, at, source.family, source.port, source.address)
        parts.append(head)
        parts.append(image[BODY_OVERHEAD:])
    return b"".join(parts)


def _too_long(size: int) -> PublishError:
    return PublishError(
        f"a message of {size} bytes is longer than {MAX_MESSAGE_BYTES}, the most that fits a"
        " frame together with its channel's name",
        rc=errno.EMSGSIZE,
    )


# Receiving messages


class MessageReader:
    """Takes the messages out of what one authenticated peer sends.

    Messages go to the list of events given with each call. Those that are refused are answered
    here, in ``output``, and leave a ``Refused`` among the events.
    """

    __slots__ = (
        *("_channel", "_credential", "_limits", "_output", "_partial_bytes", "_partials"),
        *("_source", "_tag"),
    )

    def __init__(
        self,
        credential: Credential,
        peer_source: SourceAddress | None,
        output: list[bytes],
        limits: Limits,
    ) -> None:
        """``peer_source`` becomes the source of messages without one."""
        self._credential = credential
        self._source = peer_source
        self._output = output
        self._limits = limits
        self._partials: dict[tuple[bytes, int], tuple[bytearray, int]] = {}
        self._partial_bytes = 0
        # Of the last message: mostly the next one's again.
        self._tag, self._channel = b"\0", ""

    @property
    def kept_bytes(self) -> int:
        """Bytes of fragments that wait for the rest of their messages."""
        return self._partial_bytes

    def clear(self) -> None:
        """Forget unfinished messages: nothing more comes."""
        self._partials.clear()
        self._partial_bytes = 0

    def read_run(self, data: bytes, at: int, now_us: int, events: list[WireEvent]) -> int:
        """Take whole frames with one unfragmented message each, up to the first that is not one.

        Returns where that begins. It takes nothing that ``read_fragment`` would refuse, but for
        messages with somebody else's credential.
        """
        end = len(data)
        last = end - TAG_AT
        if at >= last:
            return at
        peer_source = self._source
        own = self._credential
        own_uid, own_gid = own.uid, own.gid  # a message of theirs needs no question
        tag, channel = self._tag, self._channel
        while at < last:
            (
                frame_kind,
                length,
                data_len,
                command,
                request_len,
                family,
                number,
                flags,
                body_len,
                kind,
                uid,
                gid,
                perm,
                hops,
            ) = _FAST.unpack_from(data, at)
            stop = at + length
            start = at + TAG_AT
            payload = length - _FRAGMENT_AT
            if (
                command != MSG
                or frame_kind != SENDRECV
                or flags & 3 != FIRST
                or data_len != payload
                or request_len != payload
                or body_len + _TAG_AT != payload
                or stop > end
                or length > MAX_FRAME
            ):
                break
            body_at = start + len(tag)
            if data[start:body_at] != tag or body_at > stop:
                body_at = data.find(b"\0", start, stop) + 1
                if not body_at:
                    break
                self._tag = tag = data[start:body_at]
                self._channel = channel = tag[:-1].decode("utf-8", "surrogateescape")
            if (uid != own_uid or gid != own_gid) and not may_publish(own, uid, gid):
                self._refuse("bad_credential", body_len, events)
            else:
                image_at = at + _MESSAGE_AT
                events.append(
                    Message(
                        channel,
                        kind,
                        uid,
                        gid,
                        perm,
                        hops + 1,
                        number,
                        _source(data, at + _FRAGMENT_AT) if family else peer_source,
                        body_len,
                        data[image_at:stop],
                        body_at - image_at,
                        now_us,
                    )
                )
            at = stop
        return at

    def read_fragment(
        self,
        data: bytes,
        at: int,
        stop: int,
        enabled: bool,
        now_us: int,
        events: list[WireEvent],
    ) -> None:
        """Take the MSG that is ``data[at:stop]``, which may be a part of a message.

        While the service is not ``enabled`` it is refused.
        """
        start = at + _FRAGMENT.size
        if start > stop:
            raise PeerError("MSG without its head")
        number, flags = _FRAGMENT.unpack_from(data, at)[-2:]
        if not enabled:
            if flags & FIRST:
                self._output.append(credit_frame(0, errno.EOPNOTSUPP))
            events.append(Refused("messages_off"))
            return
        key = (data[at + _SOURCE_AT : at + _SOURCE_AT + 20], number)
        if flags & FIRST:
            self._first(key, data, at, start, stop, flags, now_us, events)
        else:
            self._next(key, data, at, start, stop, flags, now_us, events)

    def _first(
        self,
        key: tuple[bytes, int],
        data: bytes,
        at: int,
        start: int,
        stop: int,
        flags: int,
        now_us: int,
        events: list[WireEvent],
    ) -> None:
        if key in self._partials:
            self._drop(key, "broken_message", events)
        size = stop - start
        if size < BODY_OVERHEAD:
            self._refuse("broken_message", 0, events)
            return
        body_len = _MESSAGE.unpack_from(data, start)[0]
        whole = BODY_OVERHEAD + body_len
        if whole > self._limits.message:
            self._refuse("message_too_long", body_len, events)
        elif not flags & MORE:
            if size == whole:
                self._deliver(data[start:stop], data, at, now_us, events)
            else:
                self._refuse("broken_message", body_len, events)
        elif size > whole:
            self._refuse("broken_message", body_len, events)
        elif (
            len(self._partials) >= self._limits.partial_messages
            or self._partial_bytes + size > self._limits.partial_message_bytes
        ):
            self._refuse("too_many_fragments", body_len, events)
        else:
            self._partials[key] = (bytearray(data[start:stop]), whole)
            self._partial_bytes += size

    def _next(
        self,
        key: tuple[bytes, int],
        data: bytes,
        at: int,
        start: int,
        stop: int,
        flags: int,
        now_us: int,
        events: list[WireEvent],
    ) -> None:
        partial = self._partials.get(key)
        if partial is None:
            self._refuse("fragment_without_start", 0, events)
            return
        image, whole = partial
        size = len(image) + stop - start
        if size > whole or (size < whole and not flags & MORE):
            self._drop(key, "broken_message", events)
        elif self._partial_bytes + stop - start > self._limits.partial_message_bytes:
            self._drop(key, "too_many_fragments", events)
        else:
            image += data[start:stop]
            self._partial_bytes += stop - start
            if not flags & MORE:
                self._forget(key)
                self._deliver(bytes(image), data, at, now_us, events)

    def _deliver(
        self, image: bytes, data: bytes, at: int, now_us: int, events: list[WireEvent]
    ) -> None:
        """A whole message; ``data`` at ``at`` has the head of one of its fragments."""
        body_len, kind, uid, gid, perm, hops = _MESSAGE.unpack_from(image)
        family, _, _, number, _ = _FRAGMENT.unpack_from(data, at)
        nul = image.find(b"\0", BODY_OVERHEAD)
        if nul < 0:
            self._refuse("broken_message", body_len, events)
        elif not may_publish(self._credential, uid, gid):
            self._refuse("bad_credential", body_len, events)
        else:
            channel = image[BODY_OVERHEAD:nul].decode("utf-8", "surrogateescape")
            source = _source(data, at) if family else self._source
            hops += 1
            origin = (kind, uid, gid, perm, hops, number, source)
            events.append(Message(channel, *origin, body_len, image, nul + 1, now_us))

    def _drop(self, key: tuple[bytes, int], reason: str, events: list[WireEvent]) -> None:
        whole = self._forget(key)
        self._refuse(reason, whole - BODY_OVERHEAD, events)

    def _forget(self, key: tuple[bytes, int]) -> int:
        image, whole = self._partials.pop(key)
        self._partial_bytes -= len(image)
        return whole

    def _refuse(self, reason: str, credit: int, events: list[WireEvent]) -> None:
        """Count it, and return the credit that the peer spent on it, if that is known."""
        if credit:
            self._output.append(credit_frame(credit))
        events.append(Refused(reason))


def _source(data: bytes, at: int) -> SourceAddress:
    """The source in the head of the fragment at ``at``."""
    return SourceAddress(*_SOURCE.unpack_from(data, at + _SOURCE_AT))
