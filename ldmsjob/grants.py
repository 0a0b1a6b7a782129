"""What one link was given of one set: handles to it, and what it wants to hear of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmsjob.wire.setevents import NOTIFY_ALL, NOTIFY_MODIFIED, NotifyWanted

if TYPE_CHECKING:
    from ldmsjob.readers import Reader
    from ldmsjob.sets.metricset import MetricSet


class Grant:
    """A set as it was announced to one link. ``number`` makes its handles; it is never 0.

    There is one for each set that a peer has looked up, so what is seldom asked for is not kept.
    """

    __slots__ = (
        "address",
        "key",
        "metric_set",
        "notify",
        "on_change",
        "push_id",
        "pushed_meta_gn",
        "reader",
    )

    def __init__(self, reader: Reader, metric_set: MetricSet, number: int) -> None:
        self.reader = reader
        self.metric_set = metric_set
        self.key = number.to_bytes(4, "big")
        self.address = number << 32
        self.push_id: bytes | None = None
        self.on_change = False
        self.pushed_meta_gn = 0
        self.notify: NotifyWanted | None = None

    @property
    def number(self) -> int:
        """What deletions of the set are known by."""
        return self.address >> 32

    @property
    def set_id(self) -> bytes:
        """What the peer calls the set in its wishes."""
        return self.number.to_bytes(8, "little")

    @property
    def wants_changes(self) -> bool:
        """Whether the end of each transaction is to be told."""
        return (self.push_id is not None and self.on_change) or self.notifies(NOTIFY_MODIFIED)

    def notifies(self, what: int) -> bool:
        """Whether the link wants to be notified of that."""
        notify = self.notify
        return notify is not None and (notify.what == NOTIFY_ALL or bool(notify.what & what))


def key_of_id(set_id: bytes) -> bytes:
    """The key of the grant with that ``set_id``; of none where there can be no such grant."""
    number = int.from_bytes(set_id, "little")
    return number.to_bytes(4, "big") if number < 1 << 32 else b""
