"""Connect, publish, wait for the credit, close: what Slurm's notifier does for each event.

One client, several at once, and one that leaves Nagle's algorithm on as C's notifier does. Against
C where LDMS_JOBMGR_PREFIX names a build that has a job manager. Ours keeps no journal, as C does.

Usage: python bench/churn.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import errno
import functools
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from daemons import STALL_SECONDS, Side, sides
from jobs import LINES, EventFile, check_lines, interleaved, job_payloads
from rounds import Figures, Part, Row, Target, arguments, report, run
from wirebytes import (
    ACCEPTED_BYTES,
    ACKNOWLEDGEMENT,
    CREDIT_BYTES,
    check_credit,
    credit_of,
    hello,
    message_frame,
)

SIZES = {"full": (1000, 8, 20), "small": (20, 4, 2)}
"""Jobs of five messages; clients at once; jobs of the client with Nagle's algorithm."""
LIVE = 100
"""Jobs at once: so many that no client overtakes another with a message of the same job."""

ROWS = [
    Row("one client: CPU", "one cpu", "us/cycle", Target(ratio=1.5)),
    Row("one client: median cycle", "one cycle", "ms"),
    Row("one client: rate", "one rate", "cycles/s"),
    Row("{clients} clients at once: CPU", "many cpu", "us/cycle", Target(ratio=1.1)),
    Row("{clients} clients at once: rate", "many rate", "cycles/s"),
    Row("a client with Nagle on: median cycle", "nagle cycle", "ms", Target(ratio=0.05)),
    Row("a client with Nagle on: CPU", "nagle cpu", "us/cycle"),
]


@functools.cache
def frames_of(jobs: int) -> list[bytes]:
    """The jobs' messages, in the order in which they are sent."""
    return [message_frame(payload) for payload in interleaved(job_payloads(jobs), LIVE)]


class Client:
    """Cycles through connections, one for each message that it takes from ``frames``.

    Each part of the dialogue is a ``send`` of its own, as in C. With Nagle's algorithm on, the
    client's kernel keeps the message back until the daemon's has acknowledged what was sent before.
    """

    def __init__(
        self,
        port: int,
        frames: Iterator[bytes],
        selector: selectors.BaseSelector,
        *,
        nodelay: bool,
    ) -> None:
        self.durations: list[float] = []
        self.credit: list[bytes] = []
        self._address = ("127.0.0.1", port)
        self._frames = frames
        self._selector = selector
        self._nodelay = nodelay

    def begin(self) -> bool:
        """Open the next connection; false when there is no message left."""
        frame = next(self._frames, None)
        if frame is None:
            return False
        self._frame = frame
        self._hello = hello()
        self._begin = time.perf_counter()
        self._link = socket.socket()
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(self._nodelay))
        self._link.setblocking(False)
        # On loopback a connection is there at once, unless the daemon's queue is full.
        code = self._link.connect_ex(self._address)
        if code not in (0, errno.EINPROGRESS):
            raise RuntimeError(f"no connection: errno {code}")
        self._selector.register(self._link, selectors.EVENT_WRITE, self._connected)
        return True

    def _connected(self) -> bool:
        code = self._link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise RuntimeError(f"no connection: errno {code}")
        self._link.send(self._hello)
        self._await(ACCEPTED_BYTES, self._accepted)
        return True

    def _await(self, count: int, then: Callable[[bytes], bool]) -> None:
        self._received = b""
        self._wanted, self._then = count, then
        self._selector.modify(self._link, selectors.EVENT_READ, self._readable)

    def _readable(self) -> bool:
        data = self._link.recv(self._wanted - len(self._received))
        if not data:
            raise RuntimeError("the daemon closed the link")
        self._received += data
        return self._then(self._received) if len(self._received) == self._wanted else True

    def _accepted(self, data: bytes) -> bool:
        self._link.send(ACKNOWLEDGEMENT)
        self._link.send(self._frame)
        self._await(CREDIT_BYTES, self._credited)
        return True

    def _credited(self, data: bytes) -> bool:
        self._selector.unregister(self._link)
        self._link.close()
        self.durations.append(time.perf_counter() - self._begin)
        self.credit.append(data)
        return self.begin()


def churn(side: Side, name: str, jobs: int, clients: int, *, nodelay: bool = True) -> Figures:
    """The jobs' messages by so many clients; figures whose names begin with ``name``."""
    frames = frames_of(jobs)
    waiting = iter(frames)
    with side.running() as daemon, selectors.DefaultSelector() as selector:
        events = EventFile(daemon)
        many = [Client(daemon.port, waiting, selector, nodelay=nodelay) for _ in range(clients)]
        cpu = daemon.cpu_seconds()
        begin = time.perf_counter()
        working = sum(client.begin() for client in many)
        while working:
            ready = selector.select(STALL_SECONDS)
            if not ready:
                raise RuntimeError(f"stalled with {working} connections open")
            for key, _ in ready:
                working -= not key.data()
        seconds = time.perf_counter() - begin
        events.wait(jobs * sum(LINES))
        cpu = daemon.cpu_seconds_when_idle() - cpu
        check_lines(events.close(), jobs)
    credit = b"".join(part for client in many for part in client.credit)
    check_credit(credit, [credit_of(frame) for frame in frames])
    durations = [one for client in many for one in client.durations]
    return {
        f"{name} rate": len(frames) / seconds,
        f"{name} cycle": statistics.median(durations) * 1e3,
        f"{name} cpu": cpu / len(frames) * 1e6,
    }


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "churn", given)
    jobs, clients, slow_jobs = SIZES[options.size]
    who = [replace(side, journal=False) for side in sides("LDMS_JOBMGR_PREFIX")]
    parts = [
        Part("one", who, lambda side: churn(side, "one", jobs, 1)),
        Part("many", who, lambda side: churn(side, "many", jobs, clients)),
        Part("nagle", who, lambda side: churn(side, "nagle", slow_jobs, 1, nodelay=False)),
    ]
    rows = [replace(row, what=row.what.format(clients=clients)) for row in ROWS]
    report("churn", rows, run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
