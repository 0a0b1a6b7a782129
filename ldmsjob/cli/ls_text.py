"""The text of ``ldms_ls``: values, sets and the directory, byte for byte as C prints it.

A ``char`` that is no ASCII is a surrogate escape in the text, so that encoding with that error
handler gives its byte back. Where C's lines depend on what it finds outside of a set, there is a
note in brackets instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ldmsjob.sets.decoded import (
    DecodedElement,
    DecodedMember,
    DecodedMetric,
    DecodedRecordType,
    DecodedSet,
)
from ldmsjob.sets.schema import FLAG_DATA
from ldmsjob.wire.setevents import DirectoryEntry, Time

OUTSIDE = "(outside of the set)"

UPDATE_HINT = "updt_hint_us"
"""The key of a set's info that has its interval and offset in microseconds."""

_RULE = (
    "-------------- ------------------------ ------ ------ ------ ------ ------ ------"
    " ---------- ----------------- ----------------- --------"
)
_DIGEST_RULE = "-" * 64


def size(text: str) -> int:
    """What C counts as the text's length: its bytes."""
    return len(text.encode("utf-8", "surrogateescape"))


def padded(text: str, width: int) -> str:
    """The text, filled up to ``width`` bytes."""
    return text + " " * (width - size(text))


def time_text(time_us: int) -> str:
    """Seconds with six decimals."""
    return f"{time_us // 1_000_000}.{time_us % 1_000_000:06}"


# Values


def plain_text(kind: str, value: Any) -> str:
    """A scalar, text, array or timestamp."""
    if kind == "char[]":
        return f'"{value}"'
    if kind == "char":
        return f"'{value if value < chr(128) else chr(0xDC00 + ord(value))}'"
    if kind == "timestamp":
        return time_text(value)
    if kind == "u8[]":
        return ",".join(f"0x{element:02x}" for element in value)
    if isinstance(value, list):
        return ",".join(_number(element) for element in value)
    return _number(value)


def _number(value: int | float) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "-nan" if math.copysign(1, value) < 0 else "nan"
        return f"{value:f}"
    return str(value)


def value_text(reading: DecodedSet, metric: DecodedMetric) -> str:
    """The value of any metric. Records come in lines of their own, behind a line with names."""
    value = metric.value
    if metric.type == "list<>" and not reading.current_copy.is_consistent:
        return "[]"  # C does not look into the heap then.
    if value is None:
        return OUTSIDE
    if metric.type == "record_type":
        return "LDMS_V_RECORD_TYPE"
    if metric.type == "record[]":
        return "\n" + _records(reading, [(metric.record_type, record) for record in value])
    if metric.type == "list<>":
        return _list(reading, value)
    return plain_text(metric.type, value)


def _list(reading: DecodedSet, elements: Sequence[DecodedElement]) -> str:
    if elements and elements[0].type == "record_inst":
        return "\n" + _records(
            reading, [(element.record_type, element.value) for element in elements]
        )
    return "[" + ",".join(_element(reading, element) for element in elements) + "]"


def _element(reading: DecodedSet, element: DecodedElement) -> str:
    if element.type == "list<>":
        return _list(reading, element.value)
    text = plain_text(element.type, element.value)
    return f"[{text}]" if element.type.endswith("[]") and element.type != "char[]" else text


def _records(reading: DecodedSet, records: Sequence[tuple[int | None, dict[str, Any]]]) -> str:
    """A line with the members' names and units, and a line for each record, in columns."""
    if not records:
        return ""
    members = record_members(reading, records[0][0])
    rows = [[_heading(member) for member in members]]
    for index, record in records:
        rows.append(
            [
                # In a column C ends a value at a NUL, and still counts what is behind it.
                plain_text(member.type, record[member.name])
                for member in record_members(reading, index)
            ]
        )
    widths = [max(map(size, column)) for column in zip(*rows, strict=False)]
    return "\n".join(
        "  "
        + " ".join(
            padded(text.partition("\0")[0], width) for text, width in zip(row, widths, strict=False)
        )
        for row in rows
    )


def record_members(reading: DecodedSet, index: int | None) -> Sequence[DecodedMember]:
    """The members of the record type that is metric ``index``."""
    definition = None if index is None else reading.metrics[index].value
    return definition.members if isinstance(definition, DecodedRecordType) else ()


def _heading(member: DecodedMember) -> str:
    return f"{member.name} ({member.unit})" if member.unit else member.name


# Sets


def kind_letter(metric: DecodedMetric) -> str:
    """``D`` for data, ``M`` for what is in the metadata."""
    return "D" if metric.flags & FLAG_DATA else "M"


def set_text(
    reading: DecodedSet, *, metrics: bool = True, user_data: bool = False, pushed: bool = False
) -> str:
    """A set as ``ldms_ls -l`` shows it, with the empty line behind it."""
    copy = reading.current_copy
    state = "consistent" if copy.is_consistent else "inconsistent"
    push = "PUSH LAST " if pushed else ""
    lines = [
        f"{reading.instance}: {state}, last update: {date_text(copy.ts_us)}"
        f" [{copy.ts_us % 1_000_000}us] {push}"
    ]
    if metrics:
        for metric in reading.metrics:
            data = f"0x{metric.user_data:x} " if user_data else ""
            unit = "" if metric.unit is None else f" {metric.unit}"
            lines.append(
                f"{kind_letter(metric)} {padded(metric.type, 12)} {padded(metric.name, 42)}"
                f" {data}{value_text(reading, metric)}{unit}"
            )
    return "\n".join([*lines, "", ""])


def set_tab(reading: DecodedSet, *, user_data: bool = False, pushed: bool = False) -> str:
    """A set as ``ldms_ls -l -f tab`` shows it."""
    copy = reading.current_copy
    state = (
        f"{reading.instance}\t{copy.is_consistent:d}\t{date_text(copy.ts_us)}"
        f"\t{copy.ts_us % 1_000_000}\t{pushed:d}\t{pushed:d}"
    )
    lines = ["#instance\tconsistent\tupdate\tupdate.usec\tpush\tlast_push", state]
    if reading.metrics:
        lines.append("#type\tkind\tname" + "\tudata" * user_data + "\tvalue\tunit")
    for metric in reading.metrics:
        data = f"0x{metric.user_data:x}\t" if user_data else ""
        unit = "" if metric.unit is None else f"\t{metric.unit}"
        lines.append(
            f"{kind_letter(metric)}\t{metric.type}\t{metric.name}\t{data}"
            f"{value_text(reading, metric)}{unit}"
        )
    return "\n".join([*lines, ""])


def date_text(time_us: int) -> str:
    """A time for people, in the time zone of the environment."""
    return time.strftime("%a %b %d %H:%M:%S %Y %z", time.localtime(time_us // 1_000_000))


# The directory


def directory_head(*, digest: bool) -> str:
    """What stands above the sets of ``ldms_ls -v``."""
    columns = (
        *(("Schema", 14), ("Instance", 24), ("Flags", 6), ("Msize", 6), ("Dsize", 6), ("Hsize", 6)),
        *(("UID", 6), ("GID", 6), ("Perm", 10), ("Update", 17), ("Duration", 17), ("Info", 8)),
    )
    head = " ".join(f"{name:<{width}}" for name, width in columns)
    if digest:
        return f"{'Schema Digest':<64} {head}\n{_DIGEST_RULE} {_RULE}\n"
    return f"{head}\n{_RULE}\n"


def entry_line(entry: DirectoryEntry, *, digest: bool) -> str:
    """A set in ``ldms_ls -v``."""
    fields = [
        padded(entry.schema, 14),
        padded(entry.name, 24),
        f"{entry.flags:>6} {entry.meta_size:>6} {entry.data_size:>6} {entry.heap_size:>6}",
        f"{_signed(entry.uid):>6} {_signed(entry.gid):>6} {entry.perm:>10}",
        _time(entry.timestamp, 10),
        _time(entry.duration, 10),
    ]
    if digest:
        fields.insert(0, padded(entry.digest, 64))
    return f"{' '.join(fields)} {_info(entry)}\n"


def directory_foot(entries: Sequence[DirectoryEntry], *, digest: bool, long: bool) -> str:
    """What stands below the sets of ``ldms_ls -v``."""
    meta, data = _totals(entries)
    rule = f"{_DIGEST_RULE} {_RULE}" if digest else _RULE
    text = (
        f"{rule}\nTotal Sets: {len(entries)}, Meta Data (kB): {meta:.2f}, Data (kB) {data:.2f},"
        f" Memory (kB): {meta + data:.2f}\n"
    )
    return f"{text}\n{'=' * 71}\n\n" if long else text


def directory_tab(entries: Sequence[DirectoryEntry], *, digest: bool, now: float) -> Iterator[str]:
    """The lines of ``ldms_ls -v -f tab``; ``now`` is the time in seconds."""
    yield (
        "#" + "schema_digest\t" * digest + "schema\tinstance\tflags\tmsize\tdsize\thsize\tuid\tgid"
        "\tperm\tupdate\tduration\tage_seconds\tage_intervals\tinfo\n"
    )
    for entry in entries:
        age = age_of(entry, now)
        fields: Iterable[Any] = (
            *((entry.digest,) if digest else ()),
            *(entry.schema, entry.name, entry.flags),
            *(entry.meta_size, entry.data_size, entry.heap_size),
            *(_signed(entry.uid), _signed(entry.gid), entry.perm),
            *(_time(entry.timestamp), _time(entry.duration)),
            *(f"{age:.3f}", age_intervals(entry, age), _info(entry)),
        )
        yield "\t".join(map(str, fields)) + "\n"
    meta, data = _totals(entries)
    yield "#total_sets\tmeta_data_kb\tdata_kb\tmemory_kb\n"
    yield f"{len(entries)}\t{meta:.2f}\t {data:.2f}\t{meta + data:.2f}\n"


def age_of(entry: DirectoryEntry, now: float) -> float:
    """Seconds since the set's last transaction."""
    return now - entry.timestamp.sec - entry.timestamp.usec / 1e6


def age_intervals(entry: DirectoryEntry, age: float) -> int:
    """The same in intervals of its update hint; -1 without one."""
    for item in entry.info:
        if item.key == UPDATE_HINT:
            interval = item.value.partition(":")[0].strip()
            if interval.isascii() and interval.isdigit() and int(interval):
                return int(age / (int(interval) * 1e-6))
    return -1


def _signed(number: int) -> int:
    """A user or group as C prints it here."""
    return number - (1 << 32) if number >= 1 << 31 else number


def _time(moment: Time, width: int = 0) -> str:
    return f"{moment.sec:{width}}.{moment.usec:06}"


def _info(entry: DirectoryEntry) -> str:
    return "".join(f'"{item.key}"="{item.value}" ' for item in entry.info)


def _totals(entries: Sequence[DirectoryEntry]) -> tuple[float, float]:
    return (
        sum(entry.meta_size for entry in entries) / 1000,
        sum(entry.data_size for entry in entries) / 1000,
    )
