"""The bytes that a C client's life consists of, made before time is taken, and sending them.

One connection: ``open_link`` does the handshake; then come message frames, each of which is
answered by ``CREDIT_BYTES`` of credit. C's daemons and ours get the same bytes.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence

from daemons import STALL_SECONDS

from ldmsjob.replay import CHANNEL
from ldmsjob.wire.connection import LdmsConnection
from ldmsjob.wire.events import (
    JSON,
    Credential,
    LinkUp,
    Publish,
    ReturnCredit,
    Subscribe,
    WireCommand,
)

ACCEPTED_BYTES = 88
"""The answer to the first frame of a connection."""
CREDIT_BYTES = 48
"""What comes back for each message: a frame with one request in it."""
FRAME_OVERHEAD = 456
"""Bytes of a message's frame in front of the channel name."""

_RAIL_NUMBER = 88
"""Where 8 bytes of the first frame tell apart the connections of one process."""
_CREDIT = struct.Struct(">32xIIIi")
"""Command, length, bytes that are given back, errno."""
_ACCEPTED = struct.Struct(">H46xqq")
"""Frame type, and what the daemon wants to get: bytes per second, bytes under way."""


def now_us() -> int:
    """Wall-clock microseconds since the epoch."""
    return time.time_ns() // 1000


def _client() -> LdmsConnection:
    return LdmsConnection(False, auth_name="none", messages_enabled=True, pid=os.getpid())


class _Bytes:
    """A handshake with nobody, for the bytes of one side."""

    def __init__(self) -> None:
        self.connection = _client()
        self.connection.connect()
        self.hello = self.connection.data_to_send()
        daemon = LdmsConnection(True, auth_name="none", messages_enabled=True, pid=1)
        daemon.receive_data(self.hello, 0)
        self.connection.receive_data(daemon.data_to_send(), 0)
        self.connection.authentication_step((), Credential(0, 0), 0)
        self.acknowledgement = self.connection.data_to_send()

    def of(self, command: WireCommand) -> bytes:
        """What a command is on the wire."""
        self.connection.send(command, now_us())
        return self.connection.data_to_send()


_BYTES = _Bytes()
ACKNOWLEDGEMENT = _BYTES.acknowledgement
"""Sent for the daemon's answer; message frames may follow at once."""


def message_frame(payload: bytes, channel: str = CHANNEL) -> bytes:
    """A JSON message as it goes over the wire."""
    return _BYTES.of(
        Publish(channel, payload, kind=JSON, uid=os.geteuid(), gid=os.getegid(), perm=0o777)
    )


def subscribe_frame(channel: str) -> bytes:
    """The wish to get a channel's messages."""
    return _BYTES.of(Subscribe(channel))


def credit_frame(size: int) -> bytes:
    """The credit of a message of that size: its channel name with NUL, and its data."""
    return _BYTES.of(ReturnCredit((size,)))


def hello() -> bytes:
    """The first frame of one more connection."""
    sample = _BYTES.hello
    return (
        sample[:_RAIL_NUMBER] + secrets.token_bytes(7).rjust(8, b"\0") + sample[_RAIL_NUMBER + 8 :]
    )


def connect(port: int, *, nodelay: bool = True) -> socket.socket:
    """A TCP connection to this host, with Nagle's algorithm off or on."""
    link = socket.create_connection(("127.0.0.1", port), STALL_SECONDS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(nodelay))
    return link


def open_link(port: int) -> socket.socket:
    """A link that is ready for message frames, which the daemon takes without limit."""
    link = connect(port)
    link.sendall(hello())
    kind, rate, quota = _ACCEPTED.unpack_from(receive_exactly(link, ACCEPTED_BYTES))
    if (kind, rate, quota) != (8, -1, -1):
        raise RuntimeError(f"not accepted without limits: {kind}, {rate}, {quota}")
    link.sendall(ACKNOWLEDGEMENT)
    return link


def parsing_link(port: int) -> tuple[LdmsConnection, socket.socket]:
    """The same with what reads the daemon's answers."""
    connection = _client()
    connection.connect()
    link = connect(port)
    link.sendall(connection.data_to_send())
    events = connection.receive_data(receive_exactly(link, ACCEPTED_BYTES), now_us())
    if not any(isinstance(event, LinkUp) for event in events):
        raise RuntimeError(f"no link: {connection.error}")
    connection.authentication_step((), Credential(0, 0), now_us())
    link.sendall(connection.data_to_send())
    return connection, link


def receive_exactly(link: socket.socket, count: int) -> bytes:
    """The next ``count`` bytes."""
    data = b""
    while len(data) < count:
        try:
            more = link.recv(count - len(data))
        except TimeoutError:
            raise RuntimeError(f"stalled: {len(data)} of {count} bytes came") from None
        if not more:
            raise RuntimeError("the daemon closed the link")
        data += more
    return data


def check_credit(data: bytes, sizes: Sequence[int]) -> None:
    """That ``data`` gives back those sizes, in any order."""
    if len(data) != len(sizes) * CREDIT_BYTES:
        raise RuntimeError(f"{len(data)} bytes of credit for {len(sizes)} messages")
    given = []
    for command, length, size, error in _CREDIT.iter_unpack(data):
        if (command, length, error) != (10, 24, 0):
            raise RuntimeError(f"no credit: request {command} of {length} bytes, errno {error}")
        given.append(size)
    if sorted(given) != sorted(sizes):
        raise RuntimeError(f"{sum(given)} bytes of credit for {sum(sizes)}")


def credit_of(frame: bytes) -> int:
    """What comes back for a message frame."""
    return len(frame) - FRAME_OVERHEAD


def chunks(frames: Iterable[bytes], size: int = 256 * 1024) -> list[bytes]:
    """The frames joined to pieces of about ``size`` bytes, one for each system call."""
    result: list[bytes] = []
    waiting: list[bytes] = []
    length = 0
    for frame in frames:
        waiting.append(frame)
        length += len(frame)
        if length >= size:
            result.append(b"".join(waiting))
            waiting, length = [], 0
    if waiting:
        result.append(b"".join(waiting))
    return result


def send_all(link: socket.socket, frames: Sequence[bytes]) -> float:
    """Send everything as fast as it is taken, and read the credit meanwhile and behind it.

    Returns the seconds until the last credit was there; raises unless each message had its own.
    """
    pieces = chunks(frames)
    wanted = len(frames) * CREDIT_BYTES
    credit: list[bytes] = []
    position = offset = 0
    link.setblocking(False)
    begin = time.perf_counter()
    while position < len(pieces) or wanted > 0:
        want_write = [link] if position < len(pieces) else []
        readable, writable, _ = select.select([link], want_write, [], STALL_SECONDS)
        if not readable and not writable:
            raise RuntimeError(f"stalled with {wanted // CREDIT_BYTES} credits to come")
        if readable:
            data = link.recv(1 << 20)
            if not data:
                raise RuntimeError("the daemon closed the link")
            credit.append(data)
            wanted -= len(data)
        if writable:
            piece = pieces[position]
            offset += link.send(memoryview(piece)[offset:])
            if offset == len(piece):
                position, offset = position + 1, 0
    seconds = time.perf_counter() - begin
    link.setblocking(True)
    link.settimeout(STALL_SECONDS)
    check_credit(b"".join(credit), [credit_of(frame) for frame in frames])
    return seconds
