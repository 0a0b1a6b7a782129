"""Where things stand in set images."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.sets import layout as module
from ldmsjob.sets.layout import Fields, layout_for
from ldmsjob.sets.schema import COPY_HEADER_SIZE, Member, Schema
from ldmsjob.values import CHAR_ARRAY, S32, TIMESTAMP, U32, U64


def job_set_schema() -> Schema:
    """The schema of the job sets of the reference's Slurm job manager."""
    schema = Schema("jobmgr_slurm")
    for name, count in (("component_id", 256), ("job_id", 256), ("user", 32), ("job_name", 256)):
        schema.add_metric(name, CHAR_ARRAY, count, meta=True)
    schema.add_metric("job_uid", U32, meta=True)
    schema.add_metric("job_gid", U32, meta=True)
    schema.add_metric("job_start", TIMESTAMP)
    schema.add_metric("job_end", TIMESTAMP)
    for name in ("node_count", "total_tasks", "local_tasks"):
        schema.add_metric(name, U32)
    schema.add_list("task_list", 4096)
    members = [
        Member("task_id", CHAR_ARRAY, 256),
        Member("task_pid", U64),
        Member("task_rank", U32),
        Member("task_start", TIMESTAMP),
        Member("task_end", TIMESTAMP),
        Member("task_exit_status", S32),
        Member("step_id", U64),
    ]
    schema.add_record_type("task_rec_def", members)
    schema.add_metric("step_id", U64)
    schema.add_metric("job_tag", CHAR_ARRAY, 256)
    return schema


class DeclarationTests(SynchronousTestCase):
    """The declared structures and the layouts derived from them are the same thing."""

    def setUp(self) -> None:
        """All declarations by name."""
        self.declarations = {
            name: value for name, value in vars(module).items() if isinstance(value, Fields)
        }

    def test_sizes(self) -> None:
        """The fixed parts have the sizes of the C structures on the wire."""
        self.assertEqual(
            {name: fields.size for name, fields in self.declarations.items()},
            {
                "SET_HEADER": 140,
                "DESCRIPTOR": 27,
                "COPY_HEADER": COPY_HEADER_SIZE,
                "RECORD_TYPE_HEADER": 16,
                "RECORD_HEADER": 16,
                "RECORD_ARRAY_HEADER": 12,
                "LIST_VALUE": 12,
                "LIST_ENTRY": 12,
            },
        )

    @given(st.data())
    def test_struct_equals_declaration(self, data: st.DataObject) -> None:
        """Any bytes are read alike by both, and each field stands at its offset."""
        for fields in self.declarations.values():
            image = data.draw(st.binary(min_size=fields.size, max_size=fields.size))
            parsed = fields.declaration.parse(image)
            values = fields.struct.unpack(image)
            self.assertEqual([parsed[name] for name in fields.offsets], list(values))
            for name, value in zip(fields.offsets, values, strict=True):
                self.assertEqual(
                    fields.part(name, name).unpack_from(image, fields.offsets[name]), (value,)
                )


class LayoutTests(SynchronousTestCase):
    """Offsets and sizes of whole sets."""

    def test_job_set(self) -> None:
        """The job set has the digest, offsets and sizes that its readers know."""
        schema = job_set_schema()
        self.assertEqual(
            schema.digest.hex(), "e5a8b601033277517da4ff71ba3323019873a976a1c9331db5a6b0e1d0f373a3"
        )
        layout = layout_for(schema, len("nodeJ/job_slurm_42"))
        self.assertEqual(
            {
                metric.index: layout.value_offset(metric)
                for metric in schema.metrics
                if not metric.is_meta
            },
            {6: 96, 7: 104, 8: 112, 9: 120, 10: 128, 11: 136, 13: 152, 14: 160},
        )
        record = schema["task_rec_def"].record
        assert record is not None
        self.assertEqual(record.size, 320)
        self.assertEqual(record.offsets, (16, 272, 280, 288, 296, 304, 312))
        self.assertEqual(layout.heap_base, 416)
        self.assertEqual((layout.data_size, layout.heap_size), (4512, 4096))
        self.assertEqual(layout.descriptor_offsets[0], 272)
        self.assertEqual(layout.value_offset(schema.metrics[0]), 888)
        self.assertEqual(layout.meta_size, 2352)

    def test_kept_with_the_schema(self) -> None:
        """Sets with names of one length and equal heaps share a layout; only so many are kept."""
        schema = job_set_schema()
        first = layout_for(schema, 10)
        self.assertIs(layout_for(schema, 10, 4096), first)
        self.assertIsNot(layout_for(schema, 10, 4097), first)
        self.assertIsNot(layout_for(schema, 11), first)
        for length in range(12, 112):
            layout_for(schema, length)
        self.assertLess(len(schema.layouts), 100)
        self.assertEqual(layout_for(schema, 10).new_image(b"n" * 10), first.new_image(b"n" * 10))
