"""Writing many values of a set in one go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import SchemaError, SetFull
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.fields import FieldGroup, RecordList
from ldmsjob.sets.layout import COPY_HEADER
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
        """META values are written wherever the name's length has put them; that something in the
        metadata has changed is for the caller to say."""
        group = FieldGroup(self.schema, "user", "job_name", "job_uid")
        for name in ("n", "a/much/longer/name"):
            self.set = MetricSet(name, self.schema, clock=lambda: 0)
            group.write(self.set, b"alice", b"x" * 255, 1000)
            values = self.values()
            self.assertEqual(
                [values[key] for key in ("job_id", "user", "job_name", "job_uid", "job_gid")],
                ["", "alice", "x" * 255, 1000, 0],
            )
            self.assertEqual(self.set.meta_generation, 1)
            self.set.touch_meta()
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
        """Impossible values and a wrong number of them raise SchemaError; nothing but the group's
        own values is touched."""
        group = FieldGroup(self.schema, "step_id", "job_tag")
        self.set.put("local_tasks", 3)
        before = self.values()
        for values in ((1,), (1, b"a", 2), ("1", b"a"), (1, None), (None, b"a")):
            self.assertRaises(SchemaError, group.write, self.set, *values)
        after = self.values()
        self.assertEqual({**after, "step_id": 0}, {**before, "step_id": 0})

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
    """Records of lists that have the heap to themselves."""

    def setUp(self) -> None:
        """A set with a list that has room for seven records."""
        schema = Schema("s")
        members = [Member("name", CHAR_ARRAY, 5), Member("n", U32), Member("b", U8)]
        schema.add_record_type("r", [*members, Member("at", TIMESTAMP)])
        schema.add_list("l", 512)
        self.schema = schema
        self.list = RecordList(schema, "l", "r")
        self.set = new_set(schema)

    def records(self) -> list[dict[str, object]]:
        """The records that a peer reads."""
        decoded = decode_set(self.set.meta_bytes(), self.set.data_bytes())
        return [element.value for element in decoded.values()["l"]]

    def test_same_as_named(self) -> None:
        """One by one or several at once: the image that appending by name gives, but for how often
        the heap has changed."""
        named = new_set(self.schema)
        rows = []
        for number in range(5):
            fields = {"name": f"r{number}", "n": number, "b": 9, "at": NOW_US + number}
            named.append_record("l", "r", fields)
            rows.append((f"r{number}".encode(), number, 9, timestamp_word(NOW_US + number)))
        for cuts in ([5], [1, 5], [1, 2, 3, 4, 5], [0, 4, 5, 5]):
            self.set = new_set(self.schema)
            begin = 0
            for end in cuts:
                self.list.append(self.set, iter(rows[begin:end]))
                begin = end
            images = [bytearray(named.image), bytearray(self.set.image)]
            for image in images:
                at = self.set.layout.meta_size + COPY_HEADER.offsets["heap_gn"]
                image[at : at + 4] = bytes(4)
            self.assertEqual(images[0].hex(), images[1].hex())

    def test_several_copies(self) -> None:
        """Records go to the copy that is written."""
        schema = Schema("s", array_card=3)
        schema.add_record_type("r", [Member("n", U32)])
        schema.add_list("l", 512)
        records = RecordList(schema, "l", "r")
        self.set = new_set(schema)
        for number in range(5):
            self.set.begin(number)
            records.append(self.set, [(number,)])
            records.change(self.set, 0, (number,))
            self.set.end(number)
            self.assertEqual(
                [record["n"] for record in self.records()], [number, *range(1, number + 1)]
            )

    def test_change(self) -> None:
        """A record of any number is changed; the others stay."""
        self.list.append(self.set, [(b"a", 1, 2, 3), (b"b", 4, 5, 6), (b"c", 7, 8, 9)])
        self.list.change(self.set, 1, (b"x", 7, 256 + 8, 0))
        self.assertEqual([record["n"] for record in self.records()], [1, 7, 7])
        self.assertEqual(self.records()[1], {"name": "x", "n": 7, "b": 8, "at": 0})

    def test_capacity(self) -> None:
        """A set holds as many records as is foretold, then raises SetFull; what fits is there."""
        heap_size = self.list.heap_size(20)
        capacity = self.list.capacity(heap_size)
        self.assertGreaterEqual(capacity, 20)
        self.assertLess(self.list.capacity(heap_size - 512), 20)
        self.set = new_set(self.schema, heap_size=heap_size)
        rows = [(b"", number, 0, 0) for number in range(capacity + 1)]
        self.list.append(self.set, rows[:3])
        self.assertRaises(SetFull, self.list.append, self.set, rows[3:])
        self.assertEqual([record["n"] for record in self.records()], list(range(capacity)))
        before = bytes(self.set.image)
        self.assertRaises(SetFull, self.list.append, self.set, rows[:1])
        self.assertEqual(bytes(self.set.image), before)

    def test_job_set_capacity(self) -> None:
        """The job set's list holds ten tasks, and says what a thousand need."""
        schema = job_set_schema()
        records = RecordList(schema, "task_list", "task_rec_def")
        self.assertEqual(records.record_cost, 384)
        self.assertEqual(records.capacity(4096), 10)
        self.set = new_set(schema, heap_size=records.heap_size(1000))
        rows = ((b"%d" % number, number, number, 0, 0, 0, 0) for number in range(1000))
        records.append(self.set, rows)
        decoded = decode_set(self.set.meta_bytes(), self.set.data_bytes())
        pids = [element.value["task_pid"] for element in decoded.values()["task_list"]]
        self.assertEqual(pids, list(range(1000)))
        self.assertEqual(decoded.digest, job_set_schema().digest.hex())

    def test_impossible_values(self) -> None:
        """They raise SchemaError, and what was there before them is there."""
        self.list.append(self.set, [(b"a", 1, 2, 3)])
        for _ in range(50):
            for row in ((b"a", "1", 2, 3), (b"a", 1, 2)):
                self.assertRaises(SchemaError, self.list.append, self.set, [row])
        self.list.append(self.set, [("\u00e9\u00e9\u00e9", -1, 258, 3)])
        self.assertEqual(
            self.records()[1], {"name": "\u00e9\u00e9", "n": 0xFFFFFFFF, "b": 2, "at": 3_000_000}
        )
        self.assertEqual(len(self.records()), 2)
        self.assertRaises(SchemaError, self.list.change, self.set, 0, (b"a", "1", 2, 3))

    def test_refused(self) -> None:
        """Record lists are of a list and a record type that the schema has."""
        schema = Schema("s")
        schema.add_list("l")
        schema.add_metric("n", S32)
        schema.add_record_type("rows", [Member("row", S16_ARRAY, 2)])
        schema.add_record_type("r", [Member("a", D64)])
        for list_name, record_type in (("n", "r"), ("l", "n"), ("l", "rows"), ("x", "r")):
            self.assertRaises(SchemaError, RecordList, schema, list_name, record_type)
