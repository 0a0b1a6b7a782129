"""One publisher, the daemon, its subscribers: cost per message and rate.

Against C where LDMS_PREFIX names a build.

Usage: python bench/broker.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import functools
import selectors
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from daemons import MESSAGES, STALL_SECONDS, Daemon, Side, sides
from rounds import Figures, Part, Row, Target, arguments, report, run
from wirebytes import (
    CREDIT_BYTES,
    FRAME_OVERHEAD,
    check_credit,
    chunks,
    credit_frame,
    credit_of,
    message_frame,
    open_link,
    receive_exactly,
    subscribe_frame,
)

CHANNEL = "bench"
PAYLOAD_BYTES = 300
SIZES = {
    "full": {"burst": (100_000, 1), "paced": (15_000, 1), "fan-out": (1000, 100)},
    "small": {"burst": (2000, 1), "paced": (600, 1), "fan-out": (50, 10)},
}
"""Messages and subscribers."""
RATE = 3000

ROWS = [
    Row("burst: CPU", "burst cpu", "us/message", Target(ratio=0.5)),
    Row(
        "burst: rate at the subscriber",
        "burst rate",
        "messages/s",
        Target(ratio=1.2, at_least=True),
    ),
    Row(f"{RATE:,}/s: CPU", "paced cpu", "us/message", Target(ratio=2.0)),
    Row("{subscribers} subscribers: CPU", "fan-out cpu", "us/delivery", Target(ratio=0.5)),
    Row("{subscribers} subscribers: rate of all", "fan-out rate", "deliveries/s"),
]


@functools.cache
def payloads(count: int) -> list[bytes]:
    """So many numbered messages of one length."""
    texts = [b'{"number":%09d,"text":"' % number for number in range(count)]
    return [text.ljust(PAYLOAD_BYTES - 3, b".") + b'"}\0' for text in texts]


@functools.cache
def frames_of(count: int) -> list[bytes]:
    """The messages as they go over the wire."""
    return [message_frame(payload, CHANNEL) for payload in payloads(count)]


FRAME_BYTES = FRAME_OVERHEAD + len(CHANNEL) + 1 + PAYLOAD_BYTES


class Subscriber:
    """Takes messages, and gives back the credit of each as C's library does.

    The credits of what one ``recv`` brought leave with one ``send``, which C's library, with a
    thread of its own for that, may or may not do.
    """

    _credit = credit_frame(len(CHANNEL) + 1 + PAYLOAD_BYTES)

    def __init__(self, daemon: Daemon) -> None:
        self.link = open_link(daemon.port)
        self.link.sendall(subscribe_frame(CHANNEL))
        # The frame's length is in its head.
        head = receive_exactly(self.link, 20)
        answer = receive_exactly(self.link, int.from_bytes(head[4:8], "big") - 20)
        if not answer.endswith(b"OK\0"):
            raise RuntimeError(f"not subscribed: {answer!r}")
        self.link.setblocking(False)
        self.messages = 0
        self._parts: list[bytes] = []
        self._length = 0
        self._owed = b""

    def readable(self) -> int:
        """Take what has come; returns how many messages that completed."""
        data = self.link.recv(1 << 20)
        if not data:
            raise RuntimeError("the daemon closed a subscriber's link")
        self._parts.append(data)
        self._length += len(data)
        new = self._length // FRAME_BYTES - self.messages
        self.messages += new
        if new or self._owed:
            self._owed += self._credit * new
            self.flush()
        return new

    def flush(self) -> None:
        """Send what is owed, as far as the kernel takes it."""
        try:
            self._owed = self._owed[self.link.send(self._owed) :]
        except BlockingIOError:
            pass

    def check(self, count: int) -> None:
        """Every message came, whole, once, in order. Closes the link."""
        self.link.close()
        data = b"".join(self._parts)
        if len(data) != count * FRAME_BYTES:
            raise RuntimeError(f"{len(data) / FRAME_BYTES:g} of {count} messages at a subscriber")
        start = FRAME_OVERHEAD + len(CHANNEL) + 1
        for number, payload in enumerate(payloads(count)):
            at = number * FRAME_BYTES
            if data[at + start : at + FRAME_BYTES] != payload:
                raise RuntimeError(f"message {number} came as {data[at : at + FRAME_BYTES]!r}")


class Publisher:
    """Sends what it is given, and takes the credit."""

    def __init__(self, daemon: Daemon) -> None:
        self.link = open_link(daemon.port)
        self.link.setblocking(False)
        self._credit: list[bytes] = []
        self.credit_bytes = 0

    def readable(self) -> None:
        """Take credit."""
        data = self.link.recv(1 << 20)
        if not data:
            raise RuntimeError("the daemon closed the publisher's link")
        self._credit.append(data)
        self.credit_bytes += len(data)

    def check(self, frames: Sequence[bytes]) -> None:
        """Each message gave back its credit. Closes the link."""
        self.link.close()
        check_credit(b"".join(self._credit), [credit_of(frame) for frame in frames])


def exchange(side: Side, name: str, count: int, subscribers: int, rate: int = 0) -> Figures:
    """Publish ``count`` messages to so many subscribers, ``rate`` a second or as fast as they are
    taken, until all have all and all credit is back; figures whose names begin with ``name``."""
    frames = frames_of(count)
    pieces = frames if rate else chunks(frames)
    deliveries = count * subscribers
    with side.running(MESSAGES) as daemon, selectors.DefaultSelector() as selector:
        many = [Subscriber(daemon) for _ in range(subscribers)]
        for one in many:
            selector.register(one.link, selectors.EVENT_READ, one.readable)
        publisher = Publisher(daemon)
        read, write = selectors.EVENT_READ, selectors.EVENT_READ | selectors.EVENT_WRITE
        selector.register(publisher.link, read if rate else write)
        position = offset = delivered = 0
        cpu = daemon.cpu_seconds()
        begin = time.perf_counter()
        last = begin
        while delivered < deliveries or publisher.credit_bytes < count * CREDIT_BYTES:
            wait = STALL_SECONDS
            if rate and position < count:
                wait = begin + position / rate - time.perf_counter()
                if wait <= 0:
                    if publisher.link.send(pieces[position]) != len(pieces[position]):
                        raise RuntimeError(f"stalled: no room for message {position}")
                    position += 1
                    continue
            ready = selector.select(wait)
            if not ready and wait == STALL_SECONDS:
                raise RuntimeError(
                    f"stalled: {delivered} of {deliveries} delivered,"
                    f" {publisher.credit_bytes // CREDIT_BYTES} of {count} credits"
                )
            for key, mask in ready:
                if key.fileobj is not publisher.link:
                    delivered += key.data()
                    last = time.perf_counter()
                    continue
                if mask & selectors.EVENT_READ:
                    publisher.readable()
                if mask & selectors.EVENT_WRITE:
                    piece = pieces[position]
                    offset += publisher.link.send(memoryview(piece)[offset:])
                    if offset == len(piece):
                        position, offset = position + 1, 0
                        if position == len(pieces):
                            selector.modify(publisher.link, read)
        cpu = daemon.cpu_seconds_when_idle() - cpu
        for one in many:
            one.check(count)
        publisher.check(frames)
    return {f"{name} rate": deliveries / (last - begin), f"{name} cpu": cpu / deliveries * 1e6}


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "broker", given)
    size = SIZES[options.size]
    who = sides("LDMS_PREFIX")
    parts = [
        Part("burst", who, lambda side: exchange(side, "burst", *size["burst"])),
        Part("paced", who, lambda side: exchange(side, "paced", *size["paced"], RATE)),
        Part("fan-out", who, lambda side: exchange(side, "fan-out", *size["fan-out"])),
    ]
    rows = [replace(row, what=row.what.format(subscribers=size["fan-out"][1])) for row in ROWS]
    report("broker", rows, run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
