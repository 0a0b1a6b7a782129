"""Streams that get far: mostly frames that are right, or nearly, out of an input's choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ldmsjob.wire import msg, request, xprt, zap
from ldmsjob.wire.events import BODY_OVERHEAD
from tests.fuzz.seeds import recorded_frames
from tests.fuzz.target import Script

MAX_STREAM = 6144
"""A few choices make a long frame; nothing is added to a stream of that length."""

_REQUESTS = (*range(20), *range(0x101, 0x10E), 0x7FFF_FFFF, 0x8000_0000)


def composed(script: Script) -> bytes:
    """A stream of frames out of choices: recorded ones, damaged ones, made ones."""
    stream = bytearray()
    frame = b""
    while script and len(stream) < MAX_STREAM:
        frame = script.choice(_COMPOSERS)(script, frame)
        stream += frame
    return bytes(stream)


def _recorded(script: Script, _last: bytes) -> bytes:
    frames = recorded_frames()
    return frames[script.number(2) % len(frames)]


def _damaged(script: Script, _last: bytes) -> bytes:
    """A recorded frame, some of whose fields have other values."""
    frame = bytearray(_recorded(script, b""))
    for _ in range(script.number() % 4 + 1):
        at, value = script.number(2) % len(frame), script.take(script.choice((1, 1, 2, 4, 8)))
        frame[at : at + len(value)] = value[: len(frame) - at]
    return bytes(frame)


def _resized(script: Script, _last: bytes) -> bytes:
    """A recorded request with a longer or shorter end, and lengths that are right again."""
    frame = _recorded(script, b"")
    keep = script.number(2) % (len(frame) + 1)
    if zap.FRAME_HEAD.parse(frame).kind != zap.SENDRECV or keep < 40:
        return frame[: max(keep, 20)]
    payload = bytearray(frame[24:keep] + script.text())
    payload[12:16] = len(payload).to_bytes(4, "big")
    return zap.counted_frame(zap.SENDRECV, bytes(payload))


def _request(script: Script, _last: bytes) -> bytes:
    command = script.choice(_REQUESTS)
    body = script.text()
    head = script.take(8).ljust(8, b"\0") + command.to_bytes(4, "big")
    return zap.counted_frame(zap.SENDRECV, head + (16 + len(body)).to_bytes(4, "big") + body)


def _message(script: Script, _last: bytes) -> bytes:
    return zap.counted_frame(zap.SENDRECV, fragment(script))


def _read(script: Script, _last: bytes) -> bytes:
    key = script.take(4).ljust(4, b"\0")
    return zap.read_request_frame(
        script.take(4).ljust(4, b"\0"), bytes(8), key, script.number(8), script.number(4)
    )


def _daemon_request(script: Script, _last: bytes) -> bytes:
    record = daemon_record(script)
    return zap.counted_frame(zap.SENDRECV, xprt.counted_request(xprt.SEND_MSG, record))


def _authentication(script: Script, _last: bytes) -> bytes:
    return zap.counted_frame(zap.SENDRECV, xprt.counted_request(xprt.AUTH_MSG, script.text()))


def _again(_script: Script, last: bytes) -> bytes:
    return last


def _raw(script: Script, _last: bytes) -> bytes:
    return script.text()


_COMPOSERS: Sequence[Callable[[Script, bytes], bytes]] = (
    _recorded,
    _damaged,
    _resized,
    _request,
    _message,
    _read,
    _daemon_request,
    _authentication,
    _again,
    _raw,
)


def fragment(script: Script) -> bytes:
    """A MSG whose own length is right."""
    number, flags = script.number() % 4, script.number()
    source = bytes((0, script.number() % 3 * 5, 0, 0)) + bytes((script.number() % 2,)) * 16
    body = script.choice((b"slurm\0", b"a\0", b"nothing", b"")) + script.text()
    if flags & msg.FIRST:
        length = script.choice((len(body), len(body) + script.number(), script.number(4)))
        fixed = bytearray(BODY_OVERHEAD)
        fixed[64:68] = length.to_bytes(4, "big")
        fixed[68:72] = script.number().to_bytes(4, "big")
        fixed[72:80] = bytes(3) + bytes((script.number(),)) + bytes(4)
        fixed[80:84] = (0o440).to_bytes(4, "big")
        fixed[88:92] = script.number(4 if flags & 4 else 1).to_bytes(4, "big")
        body = bytes(fixed) + body
    tail = source + number.to_bytes(8, "big") + bytes((flags, 0, 0, 0)) + body
    head = bytes(8) + xprt.MSG.to_bytes(4, "big")
    return head + (16 + len(tail)).to_bytes(4, "big") + tail


def daemon_record(script: Script) -> bytes:
    """A record of a daemon request or of an answer to one, mostly consistent."""
    kind, flags, number = script.number() % 4, script.number() % 4, script.number() % 8
    code = script.choice((request.STATUS, 1, 0x900, 0))
    body = bytearray()
    for _ in range(script.number() % 3):
        value = script.text()
        body += (1).to_bytes(4, "big") + script.number().to_bytes(4, "big")
        body += len(value).to_bytes(4, "big") + value
    body += script.choice((request.ATTRIBUTES_END, b"", b"\0\0\0\1"))
    length = 24 + len(body) + script.choice((0, 0, 0, 0, 1, -1, 1 << 21))
    numbers = (request.MARKER, kind, flags, number, code, length)
    return b"".join(one.to_bytes(4, "big") for one in numbers) + body


def composed_seeds() -> Iterator[bytes]:
    """Choices that give each recorded frame, whole and damaged, and one of each made one."""
    count = len(recorded_frames())
    for options in (1 | 2, 2 | 16, 1 | 2 | 32):
        head = bytes((options, 90))
        for start in range(0, count, 8):
            numbers = range(start, min(start + 8, count))
            yield head + b"".join(b"\0" + one.to_bytes(2, "big") for one in numbers)
        for kind in range(1, len(_COMPOSERS)):
            yield head + bytes((kind,)) + bytes(range(1, 24))
