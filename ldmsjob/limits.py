"""What one daemon takes on: every number that an operator may want to set.

Peers, notices and subscribers can make things grow; each limit here is looked at before anything
grows by what they ask for (docs/operating.md, Limits). Limits that nobody would set stand where
they act.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


class LimitSpec(msgspec.Struct, frozen=True):
    """One limit, for people and for what reads their settings."""

    name: str
    default: int
    unit: str
    """``bytes``, ``seconds``, or empty for a number of things."""
    least: int
    most: int
    meaning: str
    """What there may be so much of, and what becomes of more."""


_said: list[dict[str, Any]] = []


def _limit(
    default: int, meaning: str, *, unit: str = "", least: int = 1, most: int = 10_000_000
) -> int:
    """The default of the next field of ``Limits``; what else there is to say goes to ``_said``."""
    _said.append({"unit": unit, "least": least, "most": most, "meaning": meaning})
    return default


class Limits(msgspec.Struct, frozen=True):
    """The limits of a daemon. ``LIMITS`` says what each one means and may be."""

    # Connections
    links: int = _limit(
        4096,
        "Connections of all listeners together. More are closed at once; see also"
        " [File descriptors](#file-descriptors).",
        least=8,
        most=1_000_000,
    )
    links_per_address: int = _limit(
        1024,
        "Connections from one IP address; on unix sockets, of one user. More are closed at once.",
        most=1_000_000,
    )
    links_unopened: int = _limit(
        1024,
        "Connections that have not authenticated; never more than half of all that there may be."
        " More are closed at once.",
        most=1_000_000,
    )
    handshake_seconds: float = _limit(
        10,
        "How long a connection may take to authenticate before it is closed.",
        unit="seconds",
        most=3600,
    )
    output_bytes: int = _limit(
        64 * _MIB,
        "What one peer may leave unread of what it asked for. Of more, it loses its link.",
        unit="bytes",
        least=_MIB,
        most=4 * _GIB,
    )

    # Messages
    message_bytes: int = _limit(
        16 * _MIB,
        "One message that comes in parts. A longer one is refused.",
        unit="bytes",
        least=_MIB,
        most=_GIB,
    )
    fragment_bytes: int = _limit(
        32 * _MIB,
        "Parts of unfinished messages of one link. What would be more is refused.",
        unit="bytes",
        least=_MIB,
        most=4 * _GIB,
    )
    subscriptions: int = _limit(
        100_000, "Subscriptions of all peers together. More are refused with errno 28."
    )
    subscriptions_per_link: int = _limit(
        1000, "Subscriptions of one link or rail. More are refused with errno 28.", most=100_000
    )
    queue_bytes: int = _limit(
        16 * _MIB,
        "Messages that wait for one slow subscriber. Further ones are dropped for it.",
        unit="bytes",
        least=_MIB,
        most=_GIB,
    )

    # Metric sets
    lookups: int = _limit(
        2_000_000, "Sets that all links together have looked up. A lookup of more ends in errno 12."
    )
    lookups_per_link: int = _limit(
        100_000, "Sets that one link has looked up. A lookup of more ends in errno 12."
    )
    waiting_bytes: int = _limit(
        4 * _MIB,
        "Requests about sets of one link that wait to be answered, 64 bytes each and what they"
        " search for. With more the link is closed.",
        unit="bytes",
        least=64 * _KIB,
        most=_GIB,
    )

    # Jobs
    jobs: int = _limit(
        100_000,
        "Jobs that run or whose sets linger. Each takes about 4 KiB, and 7 KiB more once its set is"
        " read. Of more, nothing is shown.",
    )
    lingering_jobs: int = _limit(
        5_000,
        "Jobs that have ended and whose sets linger. Of more, the oldest go before their time.",
    )
    steps_per_job: int = _limit(100_000, "Steps of one job. Further ones are left out.")
    nodes_per_step: int = _limit(20_000, "Nodes of one step. Further ones are left out.")
    tasks_per_job: int = _limit(
        1_000_000, "Tasks of one job. Further ones are left out.", most=1_000_000
    )
    event_queue: int = _limit(
        10_000,
        "Job events that wait for one slow subscriber. Of more, it loses the oldest and is told.",
        least=100,
    )


LIMITS: Sequence[LimitSpec] = tuple(
    LimitSpec(name=name, default=default, **more)
    for name, default, more in zip(
        Limits.__struct_fields__, Limits.__struct_defaults__, _said, strict=True
    )
)
"""All limits, in the order of ``Limits``."""


def changed(limits: Limits) -> str:
    """Those that are not at their defaults, as ``name=value`` with blanks in between."""
    values = ((one, getattr(limits, one.name)) for one in LIMITS)
    return " ".join(f"{one.name}={value}" for one, value in values if value != one.default)
