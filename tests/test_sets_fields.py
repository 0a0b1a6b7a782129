"""Writing many values of a set in one go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import SchemaError, SetFull
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.fields import FieldGroup, MemberGroup, RecordAppender
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.schema import Member, Schema
from ldmsjob.values import (
    CHAR_ARRAY,
    D64,
    S16_ARRAY,
    S32,
    TIMESTAMP,
    U8,
    U32,
    U64,
    timestamp_word,
)
from tests.strategies import PLAIN_TYPES, plain_values
from tests.test_sets_layout import job_set_schema

NOW_US = 1_700_000_000_000_005


def new_set(schema: Schema, **options: int) -> MetricSet:
    """A set of that schema."""
    return MetricSet("host/set", schema, clock=lambda: NOW_US, **options)


class FieldGroupTests(SynchronousTestCase):
    """Neighbouring metrics."""

    def setUp(self) -> None:
        """A job set."""
        self.schema = job_set_schema()
        self.set = new_set(self.schema)

    def values(self) -> dict[str, object]:
        """What a peer reads."""
        return decode_set(self.set.meta_bytes(), self.set.data_bytes()).values()

    def test_data(self) -> None:
        """Data values are written and a commit makes them a change."""
        group = FieldGroup(self.schema, "job_start", "job_end", "node_count", "total_tasks")
        group.write(self.set, timestamp_word(NOW_US), 0, 2, 64)
        self.set.commit(NOW_US)
        expected = new_set(self.schema)
        expected.put("job_start", NOW_US)
        expected.put("node_count", 2)
        expected.put("total_tasks", 64)
        values = decode_set(expected.meta_bytes(), expected.data_bytes()).values()
        self.assertEqual(self.values(), values)
        self.assertEqual((self.set.meta_generation, self.set.data_generation), (1, 2))

    def test_meta(self) -> None:
        """META values are written wherever the name's length has put them, and raise the metadata's
        generation once for all."""
        group = FieldGroup(self.schema, "user", "job_name", "job_uid")
        for name in ("n", "a/much/longer/name"):
            self.set = MetricSet(name, self.schema, clock=lambda: 0)
            group.write(self.set, b"alice", b"x" * 255, 1000)
            values = self.values()
            self.assertEqual(
                [values[key] for key in ("job_id", "user", "job_name", "job_uid", "job_gid")],
                ["", "alice", "x" * 255, 1000, 0],
            )
            self.assertEqual(self.set.meta_generation, 2)

    def test_nothing_else_is_touched(self) -> None:
        """Slots before and behind the group keep what they hold."""
        self.set.put("job_start", 1)
        self.set.put("local_tasks", 3)
        self.set.append_record("task_list", "task_rec_def")
        before = self.values()
        FieldGroup(self.schema, "job_end", "node_count", "total_tasks").write(self.set, 5, 6, 7)
        after = self.values()
        changed = {name for name in after if after[name] != before[name]}
        self.assertEqual(changed, {"job_end", "node_count", "total_tasks"})

    def test_values_are_cut(self) -> None:
        """Numbers out of range and text as str are taken too, and cut as the setters do."""
        group = FieldGroup(self.schema, "local_tasks")
        group.write(self.set, -1)
        FieldGroup(self.schema, "step_id", "job_tag").write(self.set, 1 << 64, "\u00e9" * 200)
        values = self.values()
        self.assertEqual(values["local_tasks"], 0xFFFFFFFF)
        self.assertEqual((values["step_id"], values["job_tag"]), (0, "\u00e9" * 128))

    def test_refused_values(self) -> None:
        """Impossible values and a wrong number of them raise SchemaError and change nothing."""
        group = FieldGroup(self.schema, "step_id", "job_tag")
        before = bytes(self.set.image)
        for values in ((1,), (1, b"a", 2), ("1", b"a"), (1, None), (None, b"a")):
            self.assertRaises(SchemaError, group.write, self.set, *values)
        self.assertEqual(bytes(self.set.image), before)

    def test_refused_groups(self) -> None:
        """Metrics with gaps, of both areas, of no plain type or unknown make no group."""
        for names in (
            (),
            ("job_start", "node_count"),
            ("job_end", "job_start"),
            ("job_gid", "job_start"),
            ("local_tasks", "task_list"),
            ("nothing",),
        ):
            self.assertRaises(SchemaError, FieldGroup, self.schema, *names)
        schema = Schema("s")
        schema.add_metric("row", S16_ARRAY, 2)
        self.assertRaises(SchemaError, FieldGroup, schema, "row")

    @given(st.data())
    def test_same_as_setters(self, data: st.DataObject) -> None:
        """A group writes what the named setters write, for all values of all its types."""
        scalars = [kind for kind in PLAIN_TYPES if not kind.is_array or kind is CHAR_ARRAY]
        kinds = data.draw(st.lists(st.sampled_from(scalars), min_size=1, max_size=6))
        schema = Schema("s")
        meta = data.draw(st.booleans())
        names = []
        for index, kind in enumerate(kinds):
            count = 11 if kind is CHAR_ARRAY else 1
            names.append(f"m{index}")
            schema.add_metric(names[-1], kind, count, meta=meta)
        expected, written = new_set(schema), new_set(schema)
        values = []
        for name in names:
            kind = schema[name].type
            value = data.draw(plain_values(kind, schema[name].count))
            expected.put(name, value)
            values.append(timestamp_word(value) if kind is TIMESTAMP else value)
        FieldGroup(schema, *names).write(written, *values)
        self.assertEqual(
            decode_set(written.meta_bytes(), written.data_bytes()).metrics,
            decode_set(expected.meta_bytes(), expected.data_bytes()).metrics,
        )


class RecordTests(SynchronousTestCase):
    """Records of lists."""

    def setUp(self) -> None:
        """A set with a list that has room for seven records."""
        schema = Schema("s")
        members = [Member("name", CHAR_ARRAY, 5), Member("n", U32), Member("b", U8)]
        schema.add_record_type("r", [*members, Member("at", TIMESTAMP)])
        schema.add_list("l", 512)
        schema.add_list("other", 0)
        self.schema = schema
        self.appender = RecordAppender(schema, "l", "r")
        self.set = new_set(schema)

    def records(self) -> list[object]:
        """The records that a peer reads."""
        decoded = decode_set(self.set.meta_bytes(), self.set.data_bytes())
        return [element.value for element in decoded.values()["l"]]

    def test_same_as_named(self) -> None:
        """Appending gives the very image that appending by name gives."""
        named = new_set(self.schema)
        for number in range(3):
            fields = {"name": f"r{number}", "n": number, "b": 9, "at": NOW_US + number}
            position = named.append_record("l", "r", fields)
            values = (f"r{number}".encode(), number, 9, timestamp_word(NOW_US + number))
            self.assertEqual(self.appender.append(self.set, *values), position)
        self.assertEqual(bytes(self.set.image), bytes(named.image))

    def test_changing_members(self) -> None:
        """Neighbouring members of one record are changed; the others stay."""
        positions = [self.appender.append(self.set, b"a", 1, 2, 3) for _ in range(2)]
        MemberGroup(self.schema, "r", "n", "b").write(self.set, positions[1], 7, 256 + 8)
        self.assertEqual([record["n"] for record in self.records()], [1, 7])
        self.assertEqual(self.records()[1], {"name": "a", "n": 7, "b": 8, "at": 3_000_000})

    def test_capacity(self) -> None:
        """A set holds as many records as is foretold, then raises SetFull and stays as it is."""
        heap_size = self.appender.heap_size(20)
        capacity = self.appender.capacity(heap_size)
        self.assertGreaterEqual(capacity, 20)
        self.assertLess(self.appender.capacity(heap_size - 512), 20)
        self.set = new_set(self.schema, heap_size=heap_size)
        for number in range(capacity):
            self.appender.append(self.set, b"", number, 0, 0)
        before = bytes(self.set.image)
        self.assertRaises(SetFull, self.appender.append, self.set, b"", 0, 0, 0)
        self.assertEqual(bytes(self.set.image), before)
        self.assertEqual([record["n"] for record in self.records()], list(range(capacity)))

    def test_job_set_capacity(self) -> None:
        """The job set's list holds ten tasks, and says what a thousand need."""
        schema = job_set_schema()
        appender = RecordAppender(schema, "task_list", "task_rec_def")
        self.assertEqual(appender.record_cost, 384)
        self.assertEqual(appender.capacity(4096), 10)
        self.set = new_set(schema, heap_size=appender.heap_size(1000))
        for number in range(1000):
            appender.append(self.set, b"%d" % number, number, number, 0, 0, 0, 0)
        decoded = decode_set(self.set.meta_bytes(), self.set.data_bytes())
        pids = [element.value["task_pid"] for element in decoded.values()["task_list"]]
        self.assertEqual(pids, list(range(1000)))
        self.assertEqual(decoded.digest, job_set_schema().digest.hex())

    def test_impossible_values(self) -> None:
        """They raise SchemaError, and the record's place is free again."""
        self.appender.append(self.set, b"a", 1, 2, 3)
        for _ in range(50):
            self.assertRaises(SchemaError, self.appender.append, self.set, b"a", "1", 2, 3)
            self.assertRaises(SchemaError, self.appender.append, self.set, b"a", 1, 2)
        self.appender.append(self.set, "\u00e9\u00e9\u00e9", -1, 258, 3)
        self.assertEqual(
            self.records()[1], {"name": "\u00e9\u00e9", "n": 0xFFFFFFFF, "b": 2, "at": 3_000_000}
        )
        self.assertEqual(len(self.records()), 2)

    def test_other_elements(self) -> None:
        """A list of plain values takes no records."""
        self.set.append("l", U64, 1)
        self.assertRaises(SchemaError, self.appender.append, self.set, b"a", 1, 2, 3)

    def test_refused(self) -> None:
        """Appenders and groups are of a list and a record type that the schema has."""
        schema = Schema("s")
        schema.add_list("l")
        schema.add_metric("n", S32)
        schema.add_record_type("rows", [Member("row", S16_ARRAY, 2)])
        schema.add_record_type("r", [Member("a", D64), Member("b", D64), Member("c", D64)])
        for list_name, record_type in (("n", "r"), ("l", "n"), ("l", "rows"), ("x", "r")):
            self.assertRaises(SchemaError, RecordAppender, schema, list_name, record_type)
        for names in (("a", "c"), ("b", "a"), ("x",), ()):
            self.assertRaises(SchemaError, MemberGroup, schema, "r", *names)
