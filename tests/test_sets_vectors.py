"""Set images recorded from the reference implementation, read and made again."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import SetFull
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.decoded import DecodedElement, DecodedRecordType, DecodedSet
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.schema import Member, Schema
from ldmsjob.values import (
    CHAR,
    CHAR_ARRAY,
    D64,
    D64_ARRAY,
    F32,
    F32_ARRAY,
    LIST,
    RECORD,
    RECORD_ARRAY,
    RECORD_TYPE,
    TIMESTAMP,
    TYPES,
    TYPES_BY_ID,
    ValueType,
)

TYPES_BY_NAME = {kind.name: kind for kind in TYPES}

VECTORS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "vectors" / "sets").glob("set-*.json"))
}

# ------------------------------------------------------------------ decoded form of the vectors


def pair(time_us: int) -> list[int]:
    """A time as the vectors have it: seconds and microseconds."""
    return list(divmod(time_us, 1_000_000))


def vector_value(kind: str, value: Any, member_types: dict[str, str]) -> Any:
    """A decoded value in the form of the vectors."""
    if value is None:
        return None
    if kind == "timestamp":
        return pair(value)
    if isinstance(value, DecodedRecordType):
        return {
            "inst_sz": value.inst_sz,
            "members": [dataclasses.asdict(member) for member in value.members],
        }
    if isinstance(value, dict):
        return {
            name: vector_value(member_types[name], member, member_types)
            for name, member in value.items()
        }
    if kind == "record[]":
        return [vector_value("record_inst", record, member_types) for record in value]
    if isinstance(value, list) and value and isinstance(value[0], DecodedElement):
        return [
            {
                "type": element.type,
                "count": element.count,
                "value": vector_value(element.type, element.value, member_types),
            }
            for element in value
        ]
    return value


def vector_form(decoded: DecodedSet) -> dict[str, Any]:
    """A decoded set in the form of the vectors."""
    member_types = {
        member.name: member.type
        for metric in decoded.metrics
        if isinstance(metric.value, DecodedRecordType)
        for member in metric.value.members
    }
    copy = dataclasses.asdict(decoded.current_copy)
    copy["ts"] = pair(copy.pop("ts_us"))
    copy["dur"] = pair(copy.pop("dur_us"))
    result = {
        name: getattr(decoded, name)
        for name in (field.name for field in dataclasses.fields(decoded))
        if name not in ("perm", "metrics", "current_copy")
    }
    result["perm"] = oct(decoded.perm)
    result["current_copy"] = copy
    result["metrics"] = [
        {
            **{
                field.name: getattr(metric, field.name)
                for field in dataclasses.fields(metric)
                if field.compare and field.name != "value"
            },
            "value": vector_value(metric.type, metric.value, member_types),
        }
        for metric in decoded.metrics
    ]
    return result


class DecodingTests(SynchronousTestCase):
    """What the reference implementation wrote is read as it meant it."""

    def test_every_snapshot(self) -> None:
        """Each recorded image decodes to the values that stand beside it."""
        self.assertEqual(len(VECTORS), 23)
        for name, vector in VECTORS.items():
            for number, snapshot in enumerate(vector["snapshots"]):
                with self.subTest(vector=name, snapshot=number):
                    decoded = decode_set(
                        bytes.fromhex(snapshot["meta_hex"]), bytes.fromhex(snapshot["data_hex"])
                    )
                    self.assertEqual(vector_form(decoded), snapshot["decoded"])

    def test_named_copy(self) -> None:
        """Any copy of a set of several can be read, not only the current one."""
        snapshot = VECTORS["set-array3"]["snapshots"][-1]
        meta, data = bytes.fromhex(snapshot["meta_hex"]), bytes.fromhex(snapshot["data_hex"])
        values = [decode_set(meta, data, copy_index=index).values() for index in range(3)]
        self.assertEqual([value["a"] for value in values], [103, 104, 102])


# ------------------------------------------------------------------ making the images again


def schema_of(vector: dict[str, Any]) -> Schema:
    """The schema that a vector describes."""
    described = vector["schema"]
    schema = Schema(described["name"], array_card=described["array_card"])
    for metric in described["metrics"]:
        kind = TYPES_BY_NAME[metric["type"]]
        name, unit = metric["name"], metric["unit"]
        if kind is LIST:
            schema.add_list(name, metric["heap"], unit=unit)
        elif kind is RECORD_TYPE:
            members = [
                Member(item["name"], TYPES_BY_NAME[item["type"]], item["count"], item["unit"])
                for item in metric["members"]
            ]
            schema.add_record_type(name, members, unit=unit)
        elif kind is RECORD_ARRAY:
            schema.add_record_array(name, metric["record"], metric["count"], unit=unit)
        else:
            meta = metric["flags"] == 2
            schema.add_metric(name, kind, metric["count"], unit=unit, meta=meta)
    return schema


def parsed(kind: ValueType, word: str) -> Any:
    """One word of an operation as a value of that type."""
    if kind in (CHAR, CHAR_ARRAY):
        return word
    if kind is TIMESTAMP:
        seconds, microseconds = word.split(".")
        return int(seconds) * 1_000_000 + int(microseconds)
    return float(word) if kind in (F32, D64, F32_ARRAY, D64_ARRAY) else int(word)


class Player:
    """Does the operations of a vector on a set of ours."""

    def __init__(self, vector: dict[str, Any]) -> None:
        self.now_us = 0
        given = vector["set"]
        self.schema = schema_of(vector)
        self.set = MetricSet(
            given["instance"],
            self.schema,
            clock=lambda: self.now_us,
            uid=given["uid"],
            gid=given["gid"],
            perm=int(given["perm"], 8),
            heap_size=given["requested_heap"],
        )

    def name(self, index: str) -> str:
        """The name of the metric of that id."""
        return self.schema.metrics[int(index)].name

    def play(self, operation: str) -> None:
        """Do one operation."""
        verb, *words = operation.split(" ")
        getattr(self, f"_do_{verb}")(*words)

    def _do_producer(self, name: str) -> None:
        self.set.set_producer(name)

    def _do_time(self, seconds: str, microseconds: str) -> None:
        self.now_us = int(seconds) * 1_000_000 + int(microseconds)

    def _do_begin(self) -> None:
        self.set.begin(self.now_us)

    def _do_end(self) -> None:
        self.set.end(self.now_us)

    def _do_set(self, metric: str, word: str) -> None:
        definition = self.schema.metrics[int(metric)]
        self.set.put(definition.name, parsed(definition.type, word))

    def _do_seta(self, metric: str, index: str, word: str) -> None:
        definition = self.schema.metrics[int(metric)]
        self.set.put_element(definition.name, int(index), parsed(definition.type, word))

    def _do_str(self, metric: str, *words: str) -> None:
        self.set.put(self.name(metric), " ".join(words))

    def _do_lapp(self, metric: str, type_id: str, count: str, *words: str) -> None:
        kind = TYPES_BY_ID[int(type_id)]
        values = [parsed(kind, word) for word in words]
        numbers = kind.is_array and kind is not CHAR_ARRAY
        value = values if numbers else values[0]
        self.set.append(self.name(metric), kind, value, int(count))

    def _do_rapp(self, metric: str, record_type: str, *words: str) -> None:
        record = self.schema.metrics[int(record_type)].record
        numbers, texts = {}, {}
        rest = list(words)
        for member in record.members:
            many = member.type.is_array and member.type is not CHAR_ARRAY
            count = member.count if many else 1
            values = [parsed(member.type, word) for word in rest[:count]]
            del rest[:count]
            target = texts if member.type is CHAR_ARRAY else numbers
            target[member.name] = values if many else values[0]
        position = self.set.append_record(self.name(metric), self.name(record_type), numbers)
        # The reference writes numbers into the record's memory and calls a setter for text.
        for name, text in texts.items():
            self.set.put_member(position, name, text)

    def _do_rset(self, metric: str, index: str, member: str, word: str) -> None:
        self._put_member(self.set.elements(self.name(metric))[int(index)], member, word)

    def _do_raset(self, metric: str, index: str, member: str, word: str) -> None:
        self._put_member(self.set.record(self.name(metric), int(index)), member, word)

    def _put_member(self, position: int, member: str, word: str) -> None:
        (record_type,) = struct.unpack_from(
            "<I", self.set.image, self.set.copy_offset + position + 12
        )
        definition = self.schema.metrics[record_type].record.members[int(member)]
        self.set.put_member(position, definition.name, parsed(definition.type, word))

    def _do_ldel(self, metric: str, index: str) -> None:
        name = self.name(metric)
        self.set.delete(name, self.set.elements(name)[int(index)])

    def _do_purge(self, metric: str) -> None:
        self.set.purge(self.name(metric))

    def _do_auth(self, uid: str, gid: str, perm: str) -> None:
        self.set.set_owner(int(uid), int(gid), int(perm, 8))

    def _do_udata(self, metric: str, value: str) -> None:
        self.set.set_user_data(self.name(metric), int(value))


class JobPlayer(Player):
    """Knows what the reference's job manager does to the job set for each message."""

    def _do_message(self, kind: str, *words: str) -> None:
        body = " ".join(words).replace("subscriber_data {job_tag ", "job_tag ").strip("{}")
        fields = dict(item.split(" ", 1) for item in body.split(", "))
        start_us = int(fields["timestamp"]) * 1_000_000
        metrics = self.set
        metrics.begin(self.now_us)
        # The reference writes into the set's memory, so only the end of the transaction counts.
        generation = metrics.data_generation
        if kind == "init":
            metrics.put("job_id", "slurm_" + fields["job_id"])
            metrics.put("job_start", start_us)
        for metric, field in (
            ("job_uid", "uid"),
            ("job_gid", "gid"),
            ("node_count", "nnodes"),
            ("total_tasks", "total_tasks"),
            ("local_tasks", "local_tasks"),
        ):
            if field in fields:
                metrics.put(metric, int(fields[field]))
        if kind == "step_init":
            metrics.put("user", fields["job_user"])
            metrics.put("job_name", fields["job_name"])
            metrics.put("step_id", int(fields["step_id"]))
            metrics.put("job_tag", fields["job_tag"])
        if kind == "task_init_priv":
            record = {
                "task_id": fields["task_id"],
                "task_pid": int(fields["task_pid"]),
                "task_rank": int(fields["task_global_id"]),
                "task_start": start_us,
            }
            metrics.append_record("task_list", "task_rec_def", record)
        if kind == "task_exit":
            tasks = decode_set(metrics.meta_bytes(), metrics.data_bytes()).values()["task_list"]
            pids = [task.value["task_pid"] for task in tasks]
            position = metrics.elements("task_list")[pids.index(int(fields["task_pid"]))]
            metrics.put_member(position, "task_end", start_us)
            metrics.put_member(position, "task_exit_status", int(fields["task_exit_status"]))
        metrics._gn = generation
        metrics.end(self.now_us)


# What may differ from the reference's bytes, and why. Offsets are from the start of the metadata,
# of a data copy or of a record in the heap.
FREE_IN_COPY_HEADER = {
    "roots of the trees of free chunks": range(80, 96),
}
FREE_IN_HEAP_RECORD = {
    "": {"never written by the reference": range(4, 8)},
    # The task ids there have one digit; the reference writes that and a NUL.
    "set-jobset": {"old contents in the rest of member task_id": range(18, 272)},
}
# Everything in the heap but the signature, the elements and the length before each is free too:
# old contents and the reference's lists of free chunks. So is the padding of record members there.
FREE_IN_META = {
    # The job manager of the reference does not raise the metadata's generation.
    "set-jobset": {"meta_gn": range(64, 72)},
    # Its offset lies outside of the copy in the reference.
    "set-recordarray-overrun": {"descriptor of 'after': offset": range(288, 292)},
}
FREE_IN_COPY = {
    "set-jobset": {"meta_gn": range(40, 48), "clock of the recording": range(0, 16)},
}


def compared_in_heap(name: str, metric_set: MetricSet) -> set[int]:
    """The offsets in the current copy's heap that must be equal: from the copy's start."""
    copy = bytes(metric_set.image[metric_set.copy_offset :])
    base = metric_set.layout.heap_base
    compared = set(range(base, base + 8)) if metric_set.layout.heap_size else set()
    for metric in metric_set.schema.metrics:
        if metric.type is not LIST:
            continue
        for position in metric_set.elements(metric.name):
            compared |= set(range(position - 12 - 4, position))
            (type_count,) = struct.unpack_from("<I", copy, position - 4)
            kind, count = TYPES_BY_ID[type_count & 0xFF], type_count >> 8
            if kind is not RECORD:
                compared |= set(range(position, position + kind.slot_size(count)))
                continue
            compared |= set(range(position, position + 16))
            (record_type,) = struct.unpack_from("<I", copy, position + 12)
            record = metric_set.schema.metrics[record_type].record
            for member, offset in zip(record.members, record.offsets, strict=True):
                start = position + offset
                compared |= set(range(start, start + member.type.value_size(member.count)))
            for areas in (FREE_IN_HEAP_RECORD[""], FREE_IN_HEAP_RECORD.get(name, {})):
                compared -= {position + offset for free in areas.values() for offset in free}
    return compared


class EncodingTests(SynchronousTestCase):
    """The same operations give the bytes that the reference has."""

    def _assert_same(self, ours: bytes, theirs: bytes, free: set[int], what: str) -> None:
        self.assertEqual(len(ours), len(theirs), what)
        differing = [
            offset
            for offset in range(len(ours))
            if ours[offset] != theirs[offset] and offset not in free
        ]
        self.assertEqual(differing, [], what)

    def _compare(self, name: str, player: Player, snapshot: dict[str, Any]) -> None:
        metric_set = player.set
        what = f"{name} {snapshot['label']}"
        free = {offset for area in FREE_IN_META.get(name, {}).values() for offset in area}
        theirs = bytes.fromhex(snapshot["meta_hex"])
        self._assert_same(bytes(metric_set.meta_bytes()), theirs, free, what + " metadata")

        free = {
            offset
            for areas in (FREE_IN_COPY_HEADER, FREE_IN_COPY.get(name, {}))
            for area in areas.values()
            for offset in area
        }
        size = metric_set.layout.data_size
        heap = set(range(metric_set.layout.heap_base, size))
        current = metric_set.copy_offset - metric_set.layout.meta_size
        theirs = bytes.fromhex(snapshot["data_hex"])
        ours = bytes(metric_set.data_bytes())
        self.assertEqual(len(ours), len(theirs), what)
        for start in range(0, len(ours), size):
            # Which elements an older copy has is not known any more: its values are compared.
            copy_free = free | heap
            if start == current:
                copy_free -= compared_in_heap(name, metric_set)
            self._assert_same(
                ours[start : start + size], theirs[start : start + size], copy_free, what
            )

    def test_same_bytes(self) -> None:
        """Doing a vector's operations gives its image, and its digest, snapshot by snapshot."""
        played = 0
        for name, vector in VECTORS.items():
            if vector["schema"] is None or name == "set-heapend":
                continue
            player = (JobPlayer if name == "set-jobset" else Player)(vector)
            self.assertEqual(player.schema.digest.hex(), vector["digest"])
            for snapshot in vector["snapshots"]:
                with self.subTest(vector=name, snapshot=snapshot["label"]):
                    for operation in snapshot["operations"]:
                        player.play(operation)
                    self._compare(name, player, snapshot)
            played += 1
        self.assertEqual(played, 16)

    def test_metric_behind_record_array(self) -> None:
        """It stands directly behind the array; the reference's image has it outside of the copy."""
        player = Player(VECTORS["set-recordarray-overrun"])
        player.set.put("after", 7)
        decoded = decode_set(player.set.meta_bytes(), player.set.data_bytes())
        self.assertEqual((decoded.metrics[2].offset, decoded.metrics[2].value), (184, 7))
        self.assertEqual(decoded.data_sz, 192)

    def test_last_grain_of_heap(self) -> None:
        """Only whole grains are used; the reference writes the last element beyond the copy."""
        vector = VECTORS["set-heapend"]
        player = Player(vector)
        operations = vector["operations"]
        self.assertEqual(len(operations), 8)
        for operation in operations[:7]:
            player.play(operation)
        before = bytes(player.set.image)
        self.assertRaises(SetFull, player.play, operations[7])
        self.assertEqual(bytes(player.set.image), before)
        decoded = decode_set(player.set.meta_bytes(), player.set.data_bytes())
        self.assertEqual(
            [element.value[0] for element in decoded.values()["l"]], [0, 10, 20, 30, 40, 50, 60]
        )
