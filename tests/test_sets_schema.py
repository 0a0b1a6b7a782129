"""Schemas of metric sets."""

from __future__ import annotations

import hashlib

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import SchemaError
from ldmsjob.sets.layout import layout_for
from ldmsjob.sets.schema import Member, Schema
from ldmsjob.values import CHAR_ARRAY, D64, LIST, RECORD_TYPE, U8, U32, U64


class SchemaTests(SynchronousTestCase):
    """What a schema accepts, and what it says of itself."""

    def test_ids_are_counted(self) -> None:
        """Metrics get their ids in the order in which they are added."""
        schema = Schema("s")
        self.assertEqual(schema.add_metric("a", U64), 0)
        self.assertEqual(schema.add_list("l"), 1)
        self.assertEqual(schema.add_record_type("r", [Member("x", U8)]), 2)
        self.assertEqual(schema.add_record_array("ra", "r", 2), 3)
        self.assertEqual([metric.index for metric in schema.metrics], [0, 1, 2, 3])
        self.assertEqual(schema["ra"].record_index, 2)

    def test_digest(self) -> None:
        """It covers names and types, of members before their record's, and nothing else."""
        schema = Schema("s", array_card=3)
        schema.add_metric("a", U64, unit="kB", meta=True)
        schema.add_record_type("r", [Member("x", U8), Member("y", CHAR_ARRAY, 9)])
        schema.add_list("l", 4096)
        expected = b"a\x08\0\0\0x\x02\0\0\0y\x0c\0\0\0r\x19\0\0\0l\x17\0\0\0"
        self.assertEqual(schema.digest, hashlib.sha256(expected).digest())

    def test_heap_size(self) -> None:
        """All budgets together, or what is asked for, in units of 512; 0 without lists."""
        schema = Schema("s")
        self.assertEqual(schema.heap_size(), 0)
        self.assertEqual(schema.heap_size(1), 512)
        schema.add_list("a")
        schema.add_list("b", 513)
        self.assertEqual(schema.heap_size(), 1536)
        self.assertEqual(schema.heap_size(10_000), 10_240)
        self.assertEqual(schema["a"].count, 512)

    def test_frozen_by_use(self) -> None:
        """Once a set has been laid out nothing can be added."""
        schema = Schema("s")
        schema.add_metric("a", U64)
        layout_for(schema, 4)
        self.assertRaises(SchemaError, schema.add_metric, "b", U64)
        self.assertEqual(len(schema.metrics), 1)

    def test_unknown_metric(self) -> None:
        """A name that is not there is refused with the schema's name."""
        error = self.assertRaises(SchemaError, Schema("things").__getitem__, "a")
        self.assertIn("things", str(error))


class LimitTests(SynchronousTestCase):
    """What would not fit into the fields of an image is refused."""

    def test_schema_name(self) -> None:
        """1 to 221 bytes."""
        Schema("s" * 221)
        for name in ("", "s" * 222, "\u00e9" * 111, "a\0b", "\ud800"):
            self.assertRaises(SchemaError, Schema, name)

    def test_metric_name_and_unit(self) -> None:
        """Together 255 bytes with their NULs."""
        schema = Schema("s")
        schema.add_metric("n" * 254, U64)
        schema.add_metric("m" * 200, U64, unit="u" * 53)
        for name, unit in (
            ("n" * 255, None),
            ("n" * 200, "u" * 54),
            ("", None),
            ("a\0", None),
            ("a", "\0"),
            ("\ud800", None),
        ):
            self.assertRaises(SchemaError, schema.add_metric, name, U64, unit=unit)
            self.assertRaises(
                SchemaError, schema.add_record_type, "r", [Member(name, U64, 1, unit)]
            )
        self.assertEqual(len(schema.metrics), 2)

    def test_duplicates(self) -> None:
        """Names of metrics, and of the members of one record type, differ."""
        schema = Schema("s")
        schema.add_metric("a", U64)
        self.assertRaises(SchemaError, schema.add_list, "a")
        twice = [Member("x", U64), Member("x", U8)]
        self.assertRaises(SchemaError, schema.add_record_type, "r", twice)

    def test_kinds(self) -> None:
        """Only plain types are plain metrics and members; scalars are no arrays."""
        schema = Schema("s")
        self.assertRaises(SchemaError, schema.add_metric, "l", LIST)
        self.assertRaises(SchemaError, schema.add_metric, "d", D64, 2)
        self.assertRaises(SchemaError, schema.add_metric, "c", CHAR_ARRAY, -1)
        self.assertRaises(SchemaError, schema.add_record_type, "r", [Member("l", LIST)])
        self.assertRaises(SchemaError, schema.add_record_type, "r", [Member("t", RECORD_TYPE)])
        schema.add_metric("u", U32)
        self.assertRaises(SchemaError, schema.add_record_array, "ra", "u", 1)
        self.assertRaises(SchemaError, schema.add_record_array, "ra", "r", 1)

    def test_sizes(self) -> None:
        """Offsets have 32 bits."""
        schema = Schema("s")
        schema.add_metric("a", CHAR_ARRAY, 1 << 31)
        self.assertRaises(SchemaError, schema.add_metric, "b", CHAR_ARRAY, 1 << 31)
        self.assertRaises(SchemaError, schema.add_metric, "c", CHAR_ARRAY, 1 << 32)
        self.assertRaises(SchemaError, layout_for, schema, 1, 1 << 31)
        self.assertRaises(SchemaError, Schema, "s", array_card=-1)
