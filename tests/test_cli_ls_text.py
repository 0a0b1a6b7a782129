"""What ``ldmsjob ls`` prints of a set: its text against C's ``ldms_ls``, and its JSON."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.cli.ls_json import decomposition, entry_record, json_value, reading_record
from ldmsjob.cli.ls_text import age_intervals, directory_tab, set_tab, set_text
from ldmsjob.peer import Peer
from ldmsjob.sets.decoded import DecodedSet
from ldmsjob.values import pack_value, unpack_value
from ldmsjob.wire.setevents import (
    DirectoryEntry,
    Info,
    Time,
)
from tests.interop.record_ls import GOLDEN, SHOWN_MORE, recorded_sets
from tests.set_owners import Image, Owner
from tests.strategies import PLAIN_TYPES


def golden(name: str) -> str:
    """What the C program printed."""
    return (GOLDEN / f"{name}.txt").read_bytes().decode("utf-8", "surrogateescape")


class UtcTestCase(SynchronousTestCase):
    """In the time zone in which the C program was run."""

    def setUp(self) -> None:
        """Change to it."""
        changed = patch.dict(os.environ, TZ="UTC")
        changed.start()
        time.tzset()
        self.addCleanup(time.tzset)
        self.addCleanup(changed.stop)


def reading_of(image: Image) -> DecodedSet:
    """A set as a peer reads it."""
    peer = Peer(Clock())
    Owner(peer, image)
    results: list[Any] = []
    peer.lookup(image.names[0]).addCallback(lambda found: found[0].update()).addBoth(results.append)
    assert isinstance(results[0], DecodedSet), results
    return results[0]


OUTSIDE_OF_THE_SET = {
    "set-chararrays": ('"longerthz"', '"longerth"'),
    "set-recordarray-overrun": (
        "after" + 38 * " " + "0",
        "after" + 38 * " " + "(outside of the set)",
    ),
}
"""Text that fills its array, and a value that is not there: C prints what lies behind."""


class TextTests(UtcTestCase):
    """The text of sets and directories."""

    def test_every_recorded_set(self) -> None:
        """With -l each recorded set is printed byte for byte as by the C program."""
        for name, image in recorded_sets().items():
            with self.subTest(vector=name):
                expected = golden(f"{name}.l").replace(*OUTSIDE_OF_THE_SET.get(name, ("", "")))
                self.assertEqual(set_text(reading_of(image)), expected)

    def test_user_data_and_tabs(self) -> None:
        """So are the user data, and the form with tabs."""
        for name in SHOWN_MORE:
            reading = reading_of(recorded_sets()[name])
            with self.subTest(vector=name):
                self.assertEqual(set_text(reading, user_data=True), golden(f"{name}.lu"))
                self.assertEqual(set_tab(reading), golden(f"{name}.tab"))
                self.assertEqual(set_tab(reading, user_data=True), golden(f"{name}.tabu"))

    def test_pushed(self) -> None:
        """A set that was pushed says so."""
        text = set_text(reading_of(Image.recorded("set-metagn")), pushed=True)
        self.assertTrue(text.splitlines()[0].endswith("us] PUSH LAST "), text)

    def test_numbers_that_are_none(self) -> None:
        """Numbers beyond all numbers look as in C."""
        reading = reading_of(Image.recorded("set-metagn"))
        metric = replace(reading.metrics[0], type="d64", unit=None)
        for value, text in (
            (math.inf, "inf"),
            (-math.inf, "-inf"),
            (math.nan, "nan"),
            (math.copysign(math.nan, -1), "-nan"),
            (1e22, "10000000000000000000000.000000"),
        ):
            changed = replace(reading, metrics=(replace(metric, value=value),))
            self.assertTrue(set_text(changed).endswith(f" {text}\n\n"), text)

    def test_single_characters(self) -> None:
        """Any byte of a char comes out as that byte."""
        reading = reading_of(Image.recorded("set-metagn"))
        metric = replace(reading.metrics[0], type="char", unit=None, value="\xe9")
        text = set_text(replace(reading, metrics=(metric,)))
        self.assertIn(b" '\xe9'\n", text.encode("utf-8", "surrogateescape"))

    def test_columns_count_bytes(self) -> None:
        """Names that are no ASCII are padded as C pads them."""
        reading = reading_of(Image.recorded("set-metagn"))
        metric = replace(reading.metrics[0], type="u8", unit=None, name="größe", value=1)
        text = set_text(replace(reading, metrics=(metric,)))
        self.assertIn("größe" + 36 * " " + "1\n", text)

    def test_age(self) -> None:
        """The age of a set in seconds and in intervals of its hint."""
        entry = DirectoryEntry(
            name="a", timestamp=Time(100, 500_000), info=[Info("updt_hint_us", "2000000:0")]
        )
        lines = list(directory_tab([entry], digest=False, now=105.0))
        self.assertEqual(lines[1].split("\t")[-3:-1], ["4.500", "2"])
        for hint in ("0:0", "soon", ""):
            changed = DirectoryEntry(name="a", info=[Info("updt_hint_us", hint)])
            self.assertEqual(age_intervals(changed, 4.5), -1)


class JsonTests(SynchronousTestCase):
    """What scripts get."""

    def test_every_recorded_set(self) -> None:
        """Every metric type becomes JSON that parses, and comes back equal."""
        types = set()
        for name, image in recorded_sets().items():
            record = entry_record(image.entry) | reading_record(reading_of(image))
            with self.subTest(vector=name):
                text = json.dumps(record, allow_nan=False)
                self.assertEqual(json.loads(text, parse_constant=self.fail), record)
            types |= {metric["type"] for metric in record["metrics"]}
        self.assertLessEqual({kind.name for kind in PLAIN_TYPES}, types)
        self.assertLessEqual({"list<>", "record[]", "record_type"}, types)

    def test_values_of_every_plain_type(self) -> None:
        """The value that is in the set is the value in the JSON, at the ends of each range too."""
        for kind in PLAIN_TYPES:
            count = 3 if kind.is_array else 1
            for fill in (b"\0", b"\x7f", b"\xff", b"\x80\x01"):
                size = kind.value_size(count)
                data = (fill * size)[:size]
                value = unpack_value(kind, count, data, 0)
                back = json.loads(json.dumps(json_value(value), allow_nan=False))
                if kind.code in ("f", "d"):
                    values, backs = (value, back) if kind.is_array else ([value], [back])
                    for one, other in zip(values, backs, strict=True):
                        if math.isfinite(one):
                            self.assertEqual(one, other)
                        else:
                            self.assertEqual(str(one).lower()[:3], str(float(other)).lower()[:3])
                elif kind.name not in ("char[]", "timestamp"):
                    self.assertEqual(pack_value(kind, count, back), data)

    def test_times(self) -> None:
        """Times are whole microseconds, up to the last that a set can have."""
        for time_us in (0, 1_700_000_100_000_001, 0xFFFFFFFF_999999):
            self.assertEqual(json.loads(json.dumps(json_value(time_us))), time_us)

    def test_records_and_lists(self) -> None:
        """Records are objects, lists are arrays, a list says what it is of."""
        metrics = {
            metric["name"]: metric
            for metric in reading_record(reading_of(Image.recorded("set-jobset")))["metrics"]
        }
        tasks = metrics["task_list"]
        self.assertEqual(tasks["element_type"], "record_inst")
        self.assertEqual([task["task_pid"] for task in tasks["value"]], [9000, 9001, 9002])
        self.assertEqual(metrics["job_start"]["value"], 1_700_000_100_000_000)
        members = metrics["task_rec_def"]["value"]["members"]
        self.assertEqual(members[0]["name"], "task_id")

    def test_decomposition(self) -> None:
        """A row for each digest, a column for each metric and member, once."""
        readings = [reading_of(Image.recorded(name)) for name in ("set-jobset", "set-jobset")]
        other = replace(readings[0], digest="00" * 32)
        result = decomposition([*readings, other])
        self.assertEqual(
            list(result["decomposition"]), ["jobmgr_slurm_decomp", "jobmgr_slurm_decomp_1"]
        )
        self.assertEqual(len(result["digest"]), 2)
        columns = result["decomposition"]["jobmgr_slurm_decomp"]["rows"][0]["cols"]
        self.assertEqual(columns[0], {"src": "timestamp", "dst": "timestamp", "type": "ts"})
        self.assertIn(
            {
                "src": "task_list",
                "rec_member": "task_id",
                "dst": "task_id",
                "type": "char[]",
                "array_len": 256,
            },
            columns,
        )
        self.assertNotIn("task_rec_def", [column["src"] for column in columns])

    def test_decomposition_of_an_empty_list(self) -> None:
        """A list without elements tells nothing of its columns; that stands in their place."""
        reading = reading_of(Image.recorded("set-recordlist", 0))
        columns = decomposition([reading])["decomposition"]["reclist_decomp"]["rows"][0]["cols"]
        self.assertTrue(any("ERROR" in column["dst"] for column in columns))
