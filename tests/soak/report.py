"""What a soak measured, in a table, and whether the daemon stood it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from tests.soak.jobs import EVENTS_PER_JOB

WARM_UP = 1 / 4
"""The part of the time in which memory may grow."""
SETTLING = 1 / 8
"""The part of the time behind the full disk in which what waited is written."""
GROWTH_BYTES = 2 << 20
GROWTH_PART = 0.02
"""Memory is flat when it grows by no more than this between the first and the last fifth of a
stretch: so much, and such a part of itself."""


JOURNAL_BYTES = 64 << 20
"""The journal may take so much of the disk, with the log beside it: ten times what it is given for
its rows, because the log is emptied by and by."""


class Sample(NamedTuple):
    """The daemon at one moment."""

    seconds: float
    resident: int
    descriptors: int
    cpu: float
    uncredited: int
    lines: int
    journal_bytes: int
    """On disk, with the log beside it."""


class Window(NamedTuple):
    """While the disk was full, in seconds of the run."""

    begin: float
    end: float


def growth(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """Memory in the first and in the last fifth of a stretch, and the slope over it, bytes an
    hour."""
    values = [sample.resident for sample in samples]
    fifth = max(len(values) // 5, 1)
    first, last = median(values[:fifth]), median(values[-fifth:])
    times = [sample.seconds for sample in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((one - middle) ** 2 for one in times) or 1.0
    both = sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True))
    return first, last, both / spread * 3600


def stretches(samples: Sequence[Sample], full: Window | None) -> list[list[Sample]]:
    """Those over which memory must be flat: behind the warm-up, before and behind the full disk."""
    end = samples[-1].seconds
    bounds = [(end * WARM_UP, end)]
    if full is not None:
        bounds = [(end * WARM_UP, full.begin), (full.end + end * SETTLING, end)]
    found = [[one for one in samples if low <= one.seconds <= high] for low, high in bounds]
    return [one for one in found if len(one) >= 10]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Of latencies, in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {
        name: round(ordered[int(last * part)] * 1000, 2)
        for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1))
    }


def report(
    *,
    arguments: dict[str, Any],
    alive: bool,
    exit_status: int,
    samples: Sequence[Sample],
    full: Window | None,
    why_not_full: str,
    publisher: Any,
    events: Any,
    crowd: dict[str, Any],
    heard: Sequence[dict[str, Any] | None],
    counters: dict[str, dict[str, int]],
    statuses: dict[str, str],
    document: str,
    failed: str,
) -> dict[str, Any]:
    """Print it, and return it; ``verdict`` in it has a line for each thing that is wrong."""
    wrong: list[str] = []

    def hold(condition: object, text: str) -> None:
        if not condition:
            wrong.append(text)

    hold(alive, "the daemon died")
    hold(exit_status == 0, f"the daemon's exit status is {exit_status}")
    hold(not failed, f"the soak itself failed: {failed}")
    hold(publisher.links == 1, f"the publisher was thrown out {publisher.links - 1} times")
    hold(
        publisher.credited == publisher.sent and not publisher.refused,
        f"{publisher.credited} of {publisher.sent} messages were credited,"
        f" {publisher.refused} refused",
    )
    memory = [growth(one) for one in stretches(samples, full)]
    for first, last, _ in memory:
        hold(
            last - first <= GROWTH_BYTES + GROWTH_PART * first,
            f"memory grew from {_mib(first)} to {_mib(last)}",
        )
    hold(memory, "not enough was measured to judge memory")

    expected = publisher.jobs * EVENTS_PER_JOB
    for number, told in enumerate(heard[:-1]):
        lost = expected - told["heard"] if told else expected
        hold(
            told and not lost and not told["gaps"] and not told["lost"],
            f"event subscriber {number} lacks {lost} of {expected} events: {told}",
        )
    subscribers = crowd.get("subscribers", [])
    hold(subscribers, "the crowd told nothing")
    for number, told in enumerate(subscribers[:-1]):
        hold(
            told["heard"] == publisher.sent and not told["gaps"],
            f"message subscriber {number} lacks {publisher.sent - told['heard']} of"
            f" {publisher.sent} messages: {told}",
        )
    journal = counters.get("journal", {})
    hold(not journal.get("lost"), f"the journal lost {journal.get('lost')} rows")
    file = next((one for name, one in counters.items() if name.endswith(".events")), {})
    lines_lost = file.get("lines_lost", 0)
    hold(
        events.lines + lines_lost == expected + 1 and not events.torn,
        f"the event file has {events.lines} lines, {lines_lost} were counted as lost to the disk,"
        f" {events.torn} are torn ({events.example!r}), of {expected + 1}",
    )
    hold(full is not None or lines_lost == 0, f"{lines_lost} lines were lost, the disk had room")
    hold(
        events.missing <= lines_lost,
        f"{events.missing} lines never came, of which {lines_lost} were counted as lost",
    )
    on_disk = max(sample.journal_bytes for sample in samples)
    hold(on_disk < JOURNAL_BYTES, f"the journal took {_mib(on_disk)} of the disk")
    if full is not None:
        hold(journal.get("failures"), "the disk was full and the journal did not notice")

    seconds = samples[-1].seconds - samples[0].seconds
    latencies = percentiles(events.latencies)
    without_full = percentiles(_outside(events.latencies, samples, full))
    peak = max(sample.resident for sample in samples)
    rows = [
        ("seconds", f"{seconds:.0f}"),
        ("disk full", f"{full.begin:.0f} to {full.end:.0f} s" if full else f"no: {why_not_full}"),
        ("jobs, messages, events", f"{publisher.jobs}, {publisher.sent}, {expected}"),
        ("events a second", f"{events.lines / seconds:.0f}"),
        ("latency, publish to line, ms", _pairs(latencies)),
        ("the same while the disk had room", _pairs(without_full)),
        *(
            (f"memory, stretch {number}", f"{_mib(one)} to {_mib(two)}, {_mib(slope)} an hour")
            for number, (one, two, slope) in enumerate(memory, 1)
        ),
        ("memory at the most", _mib(peak)),
        ("processor", f"{(samples[-1].cpu - samples[0].cpu) / seconds:.0%} of one"),
        (
            "descriptors",
            f"{median(s.descriptors for s in samples):.0f}, at the most"
            f" {max(s.descriptors for s in samples)}",
        ),
        ("journal", _pairs(journal)),
        ("journal on disk", f"at the most {_mib(on_disk)}"),
        ("event file", f"{events.rotations} rotations, {_pairs(file)}"),
        ("event subscribers", f"{len(heard) - 1} heard {expected}; the stuck one {heard[-1]}"),
        ("stuck message subscriber", str(subscribers[-1] if subscribers else None)),
        ("readers of sets", _pairs(crowd.get("readers", {}))),
        ("garbage", _pairs(crowd.get("garbage", {}))),
    ]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
    for when, text in statuses.items():
        print(f"\nldmsjob status, {when}:\n{text}")
    print("\n".join(f"WRONG: {text}" for text in wrong) or "well")
    return {
        "arguments": arguments,
        "figures": dict(rows),
        "latency_ms": latencies,
        "latency_ms_disk_has_room": without_full,
        "memory": memory,
        "memory_peak": peak,
        "counters": counters,
        "heard": list(heard),
        "crowd": crowd,
        "samples": [list(one) for one in samples],
        "worst_latency_ms": [
            round(max(events.latencies[one.lines : two.lines], default=0.0) * 1000, 1)
            for one, two in pairwise(samples)
        ],
        "statuses": statuses,
        "status_document": document,
        "verdict": wrong,
    }


def _outside(
    latencies: array[float], samples: Sequence[Sample], full: Window | None
) -> Sequence[float]:
    """Those of lines that were written while the disk had room."""
    if full is None:
        return latencies
    before = max((s.lines for s in samples if s.seconds <= full.begin), default=0)
    behind = min((s.lines for s in samples if s.seconds > full.end + 1), default=len(latencies))
    return [*latencies[:before], *latencies[behind:]]


def _mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
