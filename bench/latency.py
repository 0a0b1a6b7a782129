"""How long it takes from a message to its line in the event file, at a given pace.

Ours keeps its journal. Against C where LDMS_JOBMGR_PREFIX names a build that has a job manager.

Usage: python bench/latency.py [--rounds N] [--size small] [--pin] [--only PART] [--output FILE]
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence

from daemons import STALL_SECONDS, Side, sides
from jobs import LINES, EventFile, check_lines, interleaved, job_payloads
from rounds import Figures, Part, Row, Target, arguments, report, run
from wirebytes import (
    CREDIT_BYTES,
    check_credit,
    credit_of,
    message_frame,
    open_link,
    receive_exactly,
)

SIZES = {"full": {200: 300, 3300: 4000}, "small": {200: 10, 3300: 100}}
"""Jobs of five messages, by messages per second."""
LIVE = 10

ROWS = [
    row
    for rate in SIZES["full"]
    for row in (
        Row(f"{rate:,}/s: median", f"{rate} median", "ms", Target(ratio=1.0)),
        Row(f"{rate:,}/s: 99th percentile", f"{rate} 99th", "ms", Target(value=5.0)),
        Row(f"{rate:,}/s: longest", f"{rate} longest", "ms"),
    )
]


@functools.cache
def frames_of(jobs: int) -> tuple[list[bytes], list[int]]:
    """The jobs' messages in the order in which they are sent, and how many lines each gives."""
    frames = [message_frame(payload) for payload in interleaved(job_payloads(jobs), LIVE)]
    return frames, list(interleaved([LINES] * jobs, LIVE))


def paced(side: Side, rate: int, jobs: int) -> Figures:
    """Send a message every 1/rate seconds, whatever has become of those before; the delay is from
    just before its ``send`` until its line has been read.

    In between this process does nothing but read the end of the event file, so the two system calls
    that see the line count in. Messages that give no line are sent and not measured.
    """
    frames, lines = frames_of(jobs)
    delays: list[float] = []
    credit: list[bytes] = []
    with side.running() as daemon, open_link(daemon.port) as link:
        link.setblocking(False)
        events = EventFile(daemon)
        expected = 0
        awaited: list[tuple[int, float]] = []  # the number of a message's first line, and its send
        position = met = 0
        due = seen = time.perf_counter()
        while position < len(frames) or met < len(awaited):
            now = time.perf_counter()
            if position < len(frames) and now >= due:
                due += 1 / rate
                try:
                    credit.append(link.recv(65536))
                except BlockingIOError:
                    pass
                begin = time.perf_counter()
                if link.send(frames[position]) != len(frames[position]):
                    raise RuntimeError(f"stalled: no room for message {position}")
                if lines[position]:
                    awaited.append((expected + 1, begin))
                expected += lines[position]
                position += 1
            if events.read():
                seen = time.perf_counter()
                while met < len(awaited) and awaited[met][0] <= events.lines:
                    delays.append(seen - awaited[met][1])
                    met += 1
            elif met < len(awaited) and now - max(seen, awaited[met][1]) > STALL_SECONDS:
                raise RuntimeError(f"stalled: {events.lines} of {expected} lines")
        events.wait(expected)
        check_lines(events.close(), jobs)
        link.settimeout(STALL_SECONDS)
        missing = len(frames) * CREDIT_BYTES - sum(map(len, credit))
        credit.append(receive_exactly(link, missing))
        check_credit(b"".join(credit), [credit_of(frame) for frame in frames])
    delays.sort()
    return {
        f"{rate} median": delays[len(delays) // 2] * 1e3,
        f"{rate} 99th": delays[int(len(delays) * 0.99)] * 1e3,
        f"{rate} longest": delays[-1] * 1e3,
    }


def main(given: Sequence[str]) -> None:
    """Measure and report."""
    options = arguments(__doc__, "latency", given)
    who = sides("LDMS_JOBMGR_PREFIX")
    parts = [
        Part(f"{rate}/s", who, functools.partial(paced, rate=rate, jobs=jobs))
        for rate, jobs in SIZES[options.size].items()
    ]
    report("latency", ROWS, run(parts, options), options)


if __name__ == "__main__":
    main(sys.argv[1:])
