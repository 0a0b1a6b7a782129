"""What ``ldmsjob ls --json`` and ``-d`` print: sets, and decompositions for them, as JSON values.

Everything here goes through ``json.dumps(…, allow_nan=False)`` and comes back equal. Times are
integers, microseconds; numbers that JSON does not have are the texts ``NaN``, ``Infinity`` and
``-Infinity``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ldmsjob.cli.ls_text import record_members
from ldmsjob.sets.decoded import DecodedElement, DecodedMetric, DecodedRecordType, DecodedSet
from ldmsjob.sets.schema import FLAG_DATA
from ldmsjob.wire.setevents import DirectoryEntry, Time

Json = dict[str, Any]


def entry_record(entry: DirectoryEntry) -> Json:
    """A set as the directory has it."""
    return {
        "instance": entry.name,
        "schema": entry.schema,
        "digest": entry.digest,
        "flags": entry.flags,
        "meta_size": entry.meta_size,
        "data_size": entry.data_size,
        "heap_size": entry.heap_size,
        "uid": entry.uid,
        "gid": entry.gid,
        "perm": entry.perm,
        "card": entry.card,
        "array_card": entry.array_card,
        "meta_gn": entry.meta_gn,
        "data_gn": entry.data_gn,
        "timestamp_us": _microseconds(entry.timestamp),
        "duration_us": _microseconds(entry.duration),
        "info": {item.key: item.value for item in entry.info},
    }


def reading_record(reading: DecodedSet) -> Json:
    """What a reading has beyond the directory: state, times and metrics."""
    copy = reading.current_copy
    return {
        "producer": reading.producer,
        "meta_gn": reading.meta_gn,
        "data_gn": copy.gn,
        "consistent": copy.is_consistent,
        "timestamp_us": copy.ts_us,
        "duration_us": copy.dur_us,
        "metrics": [_metric(metric) for metric in reading.metrics],
    }


def _metric(metric: DecodedMetric) -> Json:
    record: Json = {
        "name": metric.name,
        "type": metric.type,
        "kind": "data" if metric.flags & FLAG_DATA else "meta",
        "count": metric.count,
        "unit": metric.unit,
        "user_data": metric.user_data,
        "value": json_value(metric.value),
    }
    if metric.type == "list<>":
        record["element_type"] = metric.value[0].type if metric.value else None
    return record


def json_value(value: Any) -> Any:
    """A metric's value; None, JSON's null, when it is outside of the image."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, DecodedElement):
        return json_value(value.value)
    if isinstance(value, list):
        return [json_value(element) for element in value]
    if isinstance(value, dict):
        return {name: json_value(member) for name, member in value.items()}
    if isinstance(value, DecodedRecordType):
        return {
            "size": value.inst_sz,
            "members": [
                {
                    "name": member.name,
                    "type": member.type,
                    "count": member.count,
                    "unit": member.unit,
                }
                for member in value.members
            ],
        }
    return value


def _microseconds(moment: Time) -> int:
    return moment.sec * 1_000_000 + moment.usec


def decomposition(readings: Sequence[DecodedSet]) -> Json:
    """A template for a store's decomposition, with a row for each digest among the sets."""
    rows: Json = {}
    digests: Json = {}
    for reading in readings:
        digest = reading.digest.upper()
        if digest in digests:
            continue
        name = f"{reading.schema}_decomp"
        if name in rows:  # another digest of the same schema name
            name = f"{name}_{len(rows)}"
        rows[name] = {
            "type": "static",
            "rows": [{"schema": reading.schema, "cols": _columns(reading), "indices": []}],
        }
        digests[digest] = name
    return {"type": "flex", "decomposition": rows, "digest": digests}


def _columns(reading: DecodedSet) -> list[Json]:
    columns: list[Json] = []
    if all(metric.name != "timestamp" for metric in reading.metrics):
        columns.append({"src": "timestamp", "dst": "timestamp", "type": "ts"})
    for metric in reading.metrics:
        name = metric.name
        if metric.type == "record_type":
            continue
        if metric.type == "list<>":
            columns += _list_columns(reading, metric)
            continue
        column: Json = {"src": name, "dst": name, "type": metric.type}
        if metric.type.endswith("[]"):
            column["array_len"] = metric.count
        columns.append(column)
    return columns


def _list_columns(reading: DecodedSet, metric: DecodedMetric) -> list[Json]:
    if not metric.value:
        error = "ERROR: Cannot generate decomposition for an empty list"
        return [{"src": metric.name, "dst": error}]
    columns: list[Json] = []
    for member in record_members(reading, metric.value[0].record_type):
        column: Json = {
            "src": metric.name,
            "rec_member": member.name,
            "dst": member.name,
            "type": member.type,
        }
        if member.type.endswith("[]"):
            column["array_len"] = member.count
        columns.append(column)
    return columns
