"""Writing into metric sets; what is written is read back from the bytes alone."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import Busy, SchemaError, SetFull
from ldmsjob.interfaces import IMetricSet, IMetricWriter
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.decoded import DecodedElement, DecodedMember, DecodedRecordType, DecodedSet
from ldmsjob.sets.layout import TRANSACTION_OPEN
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.schema import Member, RecordLayout, Schema
from ldmsjob.values import (
    CHAR_ARRAY,
    LIST,
    RECORD_ARRAY,
    RECORD_TYPE,
    S16,
    S16_ARRAY,
    TIMESTAMP,
    U32,
    U64,
)
from tests.strategies import PLAIN_TYPES, counts, instance_names, plain_values, schemas


def sample_schema(array_card: int = 1) -> Schema:
    """A schema with some of everything."""
    schema = Schema("sample", array_card=array_card)
    schema.add_metric("id", U64, meta=True)
    schema.add_metric("n", U32)
    schema.add_metric("text", CHAR_ARRAY, 8)
    schema.add_metric("when", TIMESTAMP)
    schema.add_metric("row", S16_ARRAY, 3)
    schema.add_record_type("point", [Member("x", S16), Member("tag", CHAR_ARRAY, 5)])
    schema.add_list("points", 512)
    schema.add_list("plain")
    schema.add_record_array("pair", "point", 2)
    schema.add_metric("last", U32)
    return schema


def sample_set(schema: Schema | None = None, **options: Any) -> MetricSet:
    """A set of that schema."""
    return MetricSet("host/sample", schema or sample_schema(), clock=lambda: 0, **options)


def read(metric_set: MetricSet) -> DecodedSet:
    """The set as a peer reads it."""
    return decode_set(metric_set.meta_bytes(), metric_set.data_bytes())


def values(metric_set: MetricSet) -> dict[str, Any]:
    """The values that a peer reads."""
    return read(metric_set).values()


class MakingTests(SynchronousTestCase):
    """New sets."""

    def test_interfaces(self) -> None:
        """A set is its own writer."""
        metric_set = sample_set()
        verifyObject(IMetricSet, metric_set)
        with metric_set.transaction() as writer:
            verifyObject(IMetricWriter, writer)

    def test_fresh_set(self) -> None:
        """All values are zero and peers see owner and permissions."""
        metric_set = sample_set(uid=7, gid=8, perm=0o600)
        decoded = read(metric_set)
        self.assertEqual((decoded.uid, decoded.gid, decoded.perm), (7, 8, 0o600))
        self.assertEqual((metric_set.uid, metric_set.gid, metric_set.perm), (7, 8, 0o600))
        self.assertEqual((decoded.instance, decoded.schema), ("host/sample", "sample"))
        self.assertFalse(decoded.current_copy.is_consistent)
        empty = {"x": 0, "tag": ""}
        self.assertEqual(
            {name: value for name, value in decoded.values().items() if name != "point"},
            {
                **{"id": 0, "n": 0, "text": "", "when": 0, "row": [0, 0, 0], "points": []},
                **{"plain": [], "pair": [empty, empty], "last": 0},
            },
        )

    def test_sets_are_separate(self) -> None:
        """Sets of one schema share no values."""
        schema = sample_schema()
        first, second = sample_set(schema), sample_set(schema)
        first.put("n", 5)
        self.assertEqual(values(second)["n"], 0)

    def test_names(self) -> None:
        """Names that LDMS does not take are refused."""
        schema = sample_schema()
        MetricSet("n" * 254, schema, clock=lambda: 0)
        for name in ("", "n" * 255, "a\tb", 'a"b', "a'b", "a\\b", "caf\u00e9", "a\x7fb", "a\n"):
            self.assertRaises(SchemaError, MetricSet, name, schema, clock=lambda: 0)

    def test_more_heap(self) -> None:
        """The heap may be larger than the lists' budgets, never smaller."""
        schema = sample_schema()
        self.assertEqual(read(sample_set(schema, heap_size=5000)).heap_sz, 5120)
        self.assertEqual(read(sample_set(schema, heap_size=1)).heap_sz, 1024)

    def test_views_are_read_only(self) -> None:
        """What peers read cannot be written through, and is live."""
        metric_set = sample_set()
        meta, data = metric_set.meta_bytes(), metric_set.data_bytes()
        self.assertRaises(TypeError, meta.__setitem__, 0, 1)
        self.assertRaises(TypeError, data.__setitem__, 0, 1)
        metric_set.put("n", 5)
        metric_set.append("plain", U64, 1)
        self.assertEqual(decode_set(meta, data).values()["n"], 5)


class PutTests(SynchronousTestCase):
    """Named setters."""

    def test_values(self) -> None:
        """Numbers are cut to their width, text to its length, times are microseconds."""
        metric_set = sample_set()
        metric_set.put("n", (1 << 32) + 3)
        metric_set.put("text", "1234567\u00e9")
        metric_set.put("when", 1_700_000_000_000_001)
        metric_set.put("row", [1, -2, 40_000])
        metric_set.put_element("row", 0, 9)
        metric_set.put("last", 1)
        read_back = values(metric_set)
        self.assertEqual(
            [read_back[name] for name in ("n", "text", "when", "row", "last")],
            [3, "1234567", 1_700_000_000_000_001, [9, -2, 40_000 - 65_536], 1],
        )

    def test_refused(self) -> None:
        """Mistakes raise SchemaError and change nothing."""
        metric_set = sample_set()
        before = bytes(metric_set.image)
        for method, *arguments in (
            (metric_set.put, "nothing", 1),
            (metric_set.put, "n", "1"),
            (metric_set.put, "n", None),
            (metric_set.put, "text", 5),
            (metric_set.put, "row", [1, 2]),
            (metric_set.put, "points", []),
            (metric_set.put, "point", 1),
            (metric_set.put, "pair", []),
            (metric_set.put_element, "row", 3, 1),
            (metric_set.put_element, "row", -1, 1),
            (metric_set.put_element, "text", 0, 1),
            (metric_set.put_element, "n", 0, 1),
            (metric_set.append, "n", U64, 1),
            (metric_set.append, "plain", LIST, []),
            (metric_set.append, "plain", U64, "1"),
            (metric_set.append, "plain", CHAR_ARRAY, "1", 1 << 24),
            (metric_set.append_record, "points", "n"),
            (metric_set.append_record, "points", "pair"),
            (metric_set.append_record, "points", "point", {"y": 1}),
            (metric_set.append_record, "points", "point", {"x": "1"}),
            (metric_set.record, "pair", 2),
            (metric_set.record, "points", 0),
            (metric_set.put_member, metric_set.record("pair", 0), "y", 1),
            (metric_set.put_member, 0, "x", 1),
            (metric_set.put_member, 104, "x", 1),
            (metric_set.put_member, 1 << 40, "x", 1),
            (metric_set.delete, "points", 5),
            (metric_set.purge, "n"),
            (metric_set.elements, "n"),
            (metric_set.set_producer, "p" * 64),
            (metric_set.set_user_data, "nothing", 1),
        ):
            self.assertRaises(SchemaError, method, *arguments)
        self.assertEqual(bytes(metric_set.image), before)

    def test_generations(self) -> None:
        """A change of a META value, and of nothing else, raises the metadata's generation; peers
        see both it and the data's where they look for them."""
        metric_set = sample_set()
        for change, meta, data in (
            (lambda: metric_set.put("id", 4), 1, 0),
            (lambda: metric_set.put("n", 4), 0, 1),
            (lambda: metric_set.put("n", 4), 0, 1),
            (lambda: metric_set.append("plain", U64, 4), 0, 1),
            (lambda: metric_set.set_owner(1, 2, 0o600), 1, 0),
            (lambda: metric_set.set_user_data("id", 5), 1, 0),
            (lambda: metric_set.set_user_data("n", 5), 0, 1),
            (lambda: metric_set.put_member(metric_set.record("pair", 1), "x", 5), 0, 1),
            (lambda: metric_set.set_producer("p"), 0, 0),
            (lambda: metric_set.commit(5), 0, 1),
        ):
            before = metric_set.meta_generation, metric_set.data_generation
            change()
            after = metric_set.meta_generation, metric_set.data_generation
            self.assertEqual((after[0] - before[0], after[1] - before[1]), (meta, data))
            decoded = read(metric_set)
            copy = decoded.current_copy
            self.assertEqual((decoded.meta_gn, copy.meta_gn, copy.gn), (after[0], *after))

    def test_meta_generation_is_never_zero(self) -> None:
        """Its low 32 bits skip 0, which readers take for "never read"."""
        metric_set = sample_set()
        metric_set._meta_gn = 0xFFFFFFFF
        metric_set.put("id", 1)
        self.assertEqual(metric_set.meta_generation, 0x1_0000_0001)


class TransactionTests(SynchronousTestCase):
    """Beginning and ending."""

    def test_times(self) -> None:
        """The end and the duration are stamped, and the set is consistent then and only then."""
        now = iter((1_000_000_900_000, 1_000_002_100_000))
        metric_set = MetricSet("s", sample_schema(), clock=lambda: next(now))
        with metric_set.transaction() as writer:
            writer.put("n", 1)
            copy = read(metric_set).current_copy
            self.assertEqual((copy.ts_us, copy.is_consistent), (1_000_000_900_000, False))
        copy = read(metric_set).current_copy
        self.assertEqual((copy.ts_us, copy.dur_us), (1_000_002_100_000, 1_200_000))
        self.assertTrue(copy.is_consistent)

    def test_clock_set_back(self) -> None:
        """The duration then wraps at 32 bits of seconds."""
        metric_set = sample_set()
        metric_set.begin(10_500_000)
        metric_set.end(10_000_000)
        self.assertEqual(read(metric_set).current_copy.dur_us, (2**32 - 1) * 1_000_000 + 500_000)

    def test_failing_block(self) -> None:
        """A transaction whose block raises is finished all the same."""
        metric_set = sample_set()

        def fail() -> None:
            with metric_set.transaction():
                raise ValueError

        self.assertRaises(ValueError, fail)
        self.assertTrue(read(metric_set).current_copy.is_consistent)

    def test_order(self) -> None:
        """Transactions do not nest, and only an open one ends."""
        metric_set = sample_set()
        self.assertRaises(Busy, metric_set.end, 1)
        metric_set.begin(1)
        self.assertRaises(Busy, metric_set.begin, 1)
        self.assertRaises(Busy, metric_set.commit, 1)
        metric_set.end(1)
        metric_set.commit(2)
        copy = read(metric_set).current_copy
        self.assertEqual((copy.ts_us, copy.dur_us, copy.is_consistent), (2, 0, True))

    def test_copies(self) -> None:
        """Each transaction of a set of several copies goes to the next one."""
        metric_set = sample_set(sample_schema(3))
        self.assertRaises(Busy, metric_set.commit, 1)
        for number in range(5):
            metric_set.begin(number)
            metric_set.put("n", number)
            metric_set.end(number)
            decoded = read(metric_set)
            self.assertEqual(decoded.current_copy.index, number % 3)
            self.assertEqual(decoded.values()["n"], number)
        meta, data = metric_set.meta_bytes(), metric_set.data_bytes()
        copies = [decode_set(meta, data, copy_index=index) for index in range(3)]
        self.assertEqual([copy.values()["n"] for copy in copies], [3, 4, 2])
        self.assertEqual(len({copy.current_copy.curr_idx for copy in copies}), 1)

    def test_lists_of_copies(self) -> None:
        """The next copy has all list elements of the one before."""
        metric_set = sample_set(sample_schema(2))
        for number in range(6):
            metric_set.begin(number)
            metric_set.append("plain", U64, number)
            if number == 3:
                metric_set.delete("plain", metric_set.elements("plain")[1])
            metric_set.end(number)
        expected = [0, 2, 3, 4, 5]
        self.assertEqual([element.value for element in values(metric_set)["plain"]], expected)


class ImageTests(SynchronousTestCase):
    """The image is made when somebody asks for it."""

    def test_when_it_is_made(self) -> None:
        """Whether before or after what happened to the set, it is the same."""

        def happen(metric_set: MetricSet) -> None:
            metric_set.commit(1_000_005)
            metric_set.set_owner(1, 2, 0o640)
            metric_set.touch_meta()
            metric_set.set_producer("node")
            metric_set.begin(2_000_000)
            metric_set.end(3_500_000)
            metric_set.begin(4_000_007)

        early, late = sample_set(), sample_set()
        before = bytes(early.image)
        happen(early)
        happen(late)
        self.assertNotEqual(bytes(early.image), before)
        self.assertEqual(bytes(late.image), bytes(early.image))
        self.assertEqual(late.stamp, (4, 7, 1, 500_000, TRANSACTION_OPEN))
        for metric_set in (early, late):
            copy = read(metric_set).current_copy
            self.assertEqual((copy.gn, copy.meta_gn, copy.dur_us), (3, 3, 1_500_000))
            self.assertFalse(copy.is_consistent)

    def test_several_copies(self) -> None:
        """The same for sets that have several."""
        early, late = sample_set(sample_schema(3)), sample_set(sample_schema(3))
        self.assertEqual(len(early.image), early.layout.total_size)
        for metric_set in (early, late):
            metric_set.set_producer("node")
            for now_us in range(5):
                metric_set.begin(now_us)
                metric_set.end(now_us + 1)
        self.assertEqual(bytes(late.image), bytes(early.image))

    def test_it_stays(self) -> None:
        """Whoever asks gets the same memory."""
        metric_set = sample_set()
        self.assertIs(metric_set.image, metric_set.image)
        metric_set.put("n", 7)
        self.assertEqual(values(metric_set)["n"], 7)


class WatcherTests(SynchronousTestCase):
    """Who is told of the end of a transaction."""

    def test_told_at_the_end(self) -> None:
        """The watcher sees the finished set: after a commit, and after begin and end."""
        metric_set = sample_set()
        metric_set.commit(1)
        seen: list[tuple[bool, int]] = []
        metric_set.watcher = lambda one: seen.append(
            (read(one).current_copy.is_consistent, one.data_generation)
        )
        metric_set.put("n", 1)
        self.assertEqual(seen, [])
        metric_set.commit(2)
        with metric_set.transaction():
            metric_set.put("n", 2)
            self.assertEqual(len(seen), 1)
        self.assertEqual([consistent for consistent, _ in seen], [True, True])
        self.assertEqual(seen[-1][1], metric_set.data_generation)


class ListTests(SynchronousTestCase):
    """Lists and records."""

    def test_one_type(self) -> None:
        """A list takes elements of the type of its first; array lengths may differ."""
        metric_set = sample_set()
        metric_set.append("plain", CHAR_ARRAY, "ab", 2)
        metric_set.append("plain", CHAR_ARRAY, "abcdefgh", 4)
        self.assertRaises(SchemaError, metric_set.append, "plain", U64, 1)
        self.assertRaises(SchemaError, metric_set.append_record, "plain", "point")
        self.assertEqual([element.value for element in values(metric_set)["plain"]], ["ab", "abcd"])
        metric_set.purge("plain")
        metric_set.append("plain", U64, 1)

    def test_records(self) -> None:
        """Records are written at once or member by member, and found by position."""
        metric_set = sample_set()
        first = metric_set.append_record("points", "point", {"x": 3})
        second = metric_set.append_record("points", "point")
        metric_set.put_member(first, "tag", "abcdef")
        metric_set.put_member(second, "x", -1)
        metric_set.put_member(metric_set.record("pair", 1), "tag", "z")
        self.assertEqual(metric_set.elements("points"), [first, second])
        read_back = values(metric_set)
        self.assertEqual(
            [element.value for element in read_back["points"]],
            [{"x": 3, "tag": "abcde"}, {"x": -1, "tag": ""}],
        )
        self.assertEqual(read_back["pair"], [{"x": 0, "tag": ""}, {"x": 0, "tag": "z"}])

    def test_deleted_record(self) -> None:
        """It cannot be written any more, and nothing of it is left in the next one."""
        metric_set = sample_set()
        position = metric_set.append_record("points", "point", {"x": 3, "tag": "abc"})
        metric_set.delete("points", position)
        self.assertRaises(SchemaError, metric_set.put_member, position, "x", 1)
        self.assertRaises(SchemaError, metric_set.delete, "points", position)
        self.assertEqual(metric_set.append_record("points", "point"), position)
        self.assertEqual(values(metric_set)["points"][0].value, {"x": 0, "tag": ""})

    def test_what_looks_like_a_record(self) -> None:
        """Values that happen to look like a record's beginning are not taken for one."""
        metric_set = sample_set()
        metric_set.put("n", 2)
        metric_set.put("text", b"abcd\x05")
        offset = metric_set.schema["n"].offset
        self.assertRaises(SchemaError, metric_set.put_member, offset, "x", 1)

    def test_full(self) -> None:
        """A full heap raises SetFull and everything stays as it was; what is purged is room."""
        metric_set = sample_set()
        while True:
            before = bytes(metric_set.image)
            try:
                metric_set.append("plain", U64, 1)
            except SetFull:
                break
        self.assertEqual(bytes(metric_set.image), before)
        self.assertRaises(SetFull, metric_set.append_record, "points", "point")
        self.assertEqual(len(values(metric_set)["plain"]), 15)
        metric_set.purge("plain")
        metric_set.append_record("points", "point")
        self.assertEqual(values(metric_set)["plain"], [])

    @given(st.lists(st.tuples(st.sampled_from("aaadp"), st.integers(0, 30)), max_size=60))
    def test_like_a_list(self, steps: list[tuple[str, int]]) -> None:
        """Appending, deleting and purging give what they give for a list in Python."""
        metric_set = sample_set()
        expected: list[list[int]] = []
        for number, (step, choice) in enumerate(steps):
            if step == "a":
                row = [number] * choice
                try:
                    metric_set.append("plain", S16_ARRAY, row, choice)
                    expected.append(row)
                except SetFull:
                    pass
            elif step == "p" and choice > 25:
                metric_set.purge("plain")
                expected.clear()
            elif expected:
                index = choice % len(expected)
                metric_set.delete("plain", metric_set.elements("plain")[index])
                del expected[index]
        self.assertEqual([element.value for element in values(metric_set)["plain"]], expected)


class AnySchemaTests(SynchronousTestCase):
    """Random schemas and values."""

    @given(schemas(), instance_names, st.data())
    def test_read_back_from_bytes(self, schema: Schema, name: str, data: st.DataObject) -> None:
        """Whatever is written into a set of any schema is read from its bytes alone."""
        now = data.draw(st.integers(0, (1 << 32) * 1_000_000 - 1))
        metric_set = MetricSet(name, schema, clock=lambda: now)
        expected: dict[str, Any] = {}
        with metric_set.transaction():
            for metric in schema.metrics:
                expected[metric.name] = self._write(metric_set, metric, data)
        decoded = read(metric_set)
        self.assertEqual(decoded.values(), expected)
        self.assertEqual((decoded.instance, decoded.schema), (name, schema.name))
        self.assertEqual(decoded.digest, schema.digest.hex())
        self.assertEqual(decoded.current_copy.ts_us, now)
        self.assertEqual(
            [(m.name, m.type, m.unit, m.flags) for m in decoded.metrics],
            [(m.name, m.type.name, m.unit, m.flags) for m in schema.metrics],
        )

    def _write(self, metric_set: MetricSet, metric: Any, data: st.DataObject) -> Any:
        if metric.type is RECORD_TYPE:
            return self._definition(metric.record)
        if metric.type is LIST:
            return self._write_list(metric_set, metric.name, data)
        if metric.type is RECORD_ARRAY:
            records = []
            for index in range(metric.count):
                record = self._record(metric.record, data)
                for member, value in record.items():
                    metric_set.put_member(metric_set.record(metric.name, index), member, value)
                records.append(record)
            return records
        value = data.draw(plain_values(metric.type, metric.count))
        metric_set.put(metric.name, value)
        return value

    def _write_list(self, metric_set: MetricSet, name: str, data: st.DataObject) -> Any:
        types = [m for m in metric_set.schema.metrics if m.type is RECORD_TYPE]
        kind = data.draw(st.sampled_from(PLAIN_TYPES))
        of_records = bool(types) and data.draw(st.booleans())
        elements = []
        for _ in range(data.draw(st.integers(0, 4))):
            try:
                if of_records:
                    record_type = data.draw(st.sampled_from(types))
                    record = self._record(record_type.record, data)
                    metric_set.append_record(name, record_type.name, record)
                    elements.append(DecodedElement("record_inst", 1, record))
                else:
                    count = data.draw(counts(kind))
                    value = data.draw(plain_values(kind, count))
                    metric_set.append(name, kind, value, count)
                    elements.append(DecodedElement(kind.name, count, value))
            except SetFull:
                break
        return elements

    def _record(self, record: RecordLayout, data: st.DataObject) -> dict[str, Any]:
        return {m.name: data.draw(plain_values(m.type, m.count)) for m in record.members}

    def _definition(self, record: RecordLayout) -> DecodedRecordType:
        return DecodedRecordType(
            record.size,
            tuple(
                DecodedMember(m.name, m.type.name, m.count, m.unit, offset)
                for m, offset in zip(record.members, record.offsets, strict=True)
            ),
        )
