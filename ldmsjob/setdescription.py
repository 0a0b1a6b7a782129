"""What peers are told of a set before they read it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ldmsjob.sets.layout import TRANSACTION_FINISHED
from ldmsjob.wire.setevents import DirectoryEntry, Info, Time

if TYPE_CHECKING:
    from ldmsjob.sets.metricset import MetricSet
    from ldmsjob.sets.schema import Schema

_RIGHTS = ("---", "--x", "-w-", "-wx", "r--", "r-x", "rw-", "rwx")


def directory_entry(metric_set: MetricSet) -> DirectoryEntry:
    """What the directory says of a set now. Does not need its image."""
    layout = metric_set.layout
    schema = layout.schema
    seconds, microseconds, took_s, took_us, state = metric_set.stamp
    return DirectoryEntry(
        # These without their names: of more keywords Python makes a dictionary first.
        metric_set.instance,
        schema.name,
        _digest_text(schema),
        "CL " if state == TRANSACTION_FINISHED else " L ",
        meta_size=layout.meta_size,
        data_size=layout.data_size,
        heap_size=layout.heap_size,
        uid=metric_set.uid,
        gid=metric_set.gid,
        perm=permission_text(metric_set.perm),
        card=len(schema.metrics),
        array_card=schema.array_card,
        meta_gn=metric_set.meta_generation,
        data_gn=metric_set.data_generation,
        timestamp=Time(seconds, microseconds),
        duration=Time(took_s, took_us),
        info=info_of(metric_set),
    )


@lru_cache(maxsize=64)
def _digest_text(schema: Schema) -> str:
    return schema.digest.hex().upper()


@lru_cache(maxsize=512)
def permission_text(perm: int) -> str:
    """Permission bits as the directory shows them: ``-rw-r-----``."""
    return f"-{_RIGHTS[perm >> 6 & 7]}{_RIGHTS[perm >> 3 & 7]}{_RIGHTS[perm & 7]}"


def info_of(metric_set: MetricSet) -> tuple[Info, ...]:
    """A set's info as peers are told of it."""
    info = metric_set.info
    return tuple([Info(key, value) for key, value in info.items()]) if info else ()
