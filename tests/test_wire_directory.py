"""Tests of ldmsjob.wire.directory."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.wire.directory import EMPTY, directory_texts, read_directory, update_text
from ldmsjob.wire.setevents import DirectoryEntry, Info, Time
from tests.recorded import streams

LIMIT = 1_048_504
RECORDED = ("a_ls_dir", "b_ls_v_noset", "b_ls_lv_meminfo", "e_agg_pull", "f_prdcr_subscribe")

_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
_u32 = st.integers(0, 2**32 - 1)
_u64 = st.integers(0, 2**64 - 1)
_times = st.builds(Time, _u32, _u32)
entries = st.builds(
    DirectoryEntry,
    _text.filter(bool),
    _text,
    _text,
    st.sampled_from(["CL ", "   ", " RP"]),
    _u32,
    _u32,
    _u32,
    _u32,
    _u32,
    st.just("-rw-r-----"),
    _u32,
    st.integers(1, 2**32 - 1),
    _u64,
    _u64,
    _times,
    _times,
    st.lists(st.builds(Info, _text, _text), max_size=3).map(tuple),
)


def recorded_text(name):
    """The directory in a recorded conversation."""
    stream = streams(name)[1, False]
    start = stream.index(b'{ "directory"')
    return stream[start : stream.index(b"}]}]}", start) + 5]


def directory(text):
    """The text as a directory of one set."""
    return b'{ "directory" : [ ' + text + b"]}"


class WritingTests(SynchronousTestCase):
    """Directories as text."""

    def test_recorded(self):
        """What was read of a C daemon's directory is written with the same bytes."""
        for name in RECORDED:
            text = recorded_text(name)
            sets = read_directory(text)
            self.assertEqual(list(directory_texts(sets, LIMIT)), [text], name)
        meminfo = read_directory(recorded_text("a_ls_dir"))[0]
        self.assertEqual((meminfo.name, meminfo.flags), ("node-1/meminfo", "CL "))
        self.assertEqual((meminfo.meta_size, meminfo.data_gn), (2968, 168))
        self.assertEqual(meminfo.timestamp, Time(1795379017, 1844))
        self.assertEqual(meminfo.info, (Info("updt_hint_us", "1000000:0"),))

    def test_nothing(self):
        """A directory without sets is one text too."""
        self.assertEqual(list(directory_texts((), LIMIT)), [EMPTY])
        self.assertEqual(read_directory(EMPTY), [])

    def test_all_members(self):
        """C readers look for each member; none is left out when it is at its default."""
        (text,) = directory_texts([DirectoryEntry("a")], LIMIT)
        members = json.loads(text)["directory"][0]
        self.assertEqual(list(members), list(DirectoryEntry.__struct_fields__))
        self.assertEqual(members["duration"], {"sec": 0, "usec": 0})
        self.assertEqual(members["info"], [])

    def test_update(self):
        """An update is a directory of one set that ends in NUL."""
        text = update_text(DirectoryEntry("a"), LIMIT)
        self.assertTrue(text.startswith(b'{ "directory" : [  {"name":"a",'), text)
        self.assertTrue(text.endswith(b'"info":[]} ]}\0'), text)
        self.assertEqual(read_directory(text), [DirectoryEntry("a")])

    def test_names_that_are_no_utf8(self):
        """Their bytes go out as they came in."""
        entry = DirectoryEntry("a\udcff", info=(Info("k", "\udc80"),))
        (text,) = directory_texts([entry], LIMIT)
        self.assertIn(b'"name":"a\xff",', text)
        self.assertEqual(read_directory(text), [entry])

    @given(st.lists(entries, max_size=12), st.integers(700, 2000))
    def test_parts(self, sets, limit):
        """Parts keep to the limit, end between sets, and are as few as the order allows."""
        texts = list(directory_texts(sets, limit))
        parts = [read_directory(text) for text in texts]
        self.assertEqual([one for part in parts for one in part], sets)
        self.assertLessEqual(max(map(len, texts)), limit)
        for text, following in zip(texts, parts[1:], strict=False):
            size = len(msgspec.json.encode(following[0]))
            self.assertGreater(len(text) + 1 + size, limit)

    def test_limit(self):
        """A text may be just as long as the limit."""
        sets = [DirectoryEntry(name) for name in "abc"]
        (text,) = directory_texts(sets, LIMIT)
        self.assertEqual(list(directory_texts(sets, len(text))), [text])
        parts = [read_directory(part) for part in directory_texts(sets, len(text) - 1)]
        self.assertEqual(parts, [sets[:2], sets[2:]])

    def test_info_without_bound(self):
        """A set whose info is too long for any text appears without it."""
        entry = DirectoryEntry("a", info=(Info("k", "v" * 5000),))
        small = DirectoryEntry("b")
        texts = list(directory_texts([small, entry, small], 4096))
        sets = [one for text in texts for one in read_directory(text)]
        self.assertEqual(sets, [small, DirectoryEntry("a"), small])
        self.assertEqual(read_directory(update_text(entry, 4096)), [DirectoryEntry("a")])


class ReadingTests(SynchronousTestCase):
    """The defects of C programs, and worse."""

    def test_tolerated(self):
        """What a C program may leave wrong is understood."""
        a = DirectoryEntry("a")
        table = [
            (b'{ "directory" : [,{"name":"a"}]}', a),
            (b'{ "directory" : [ , {"name":"a"}]}', a),
            (b' {"directory":[{"name":"a"}]} \0\0\n', a),
            (directory(b'{"name":"a","card":"12","uid":-1}'), DirectoryEntry("a", uid=2**32 - 1)),
            (directory(b'{"name":"a","timestamp":{"sec":"1"},"more":[1.5]}'), a),
            (directory(b'{"name":"a\\"b"}'), DirectoryEntry('a"b')),
            (directory(b'{"name":"a"b","schema":"x\\y"}'), DirectoryEntry('a"b', "x\\y")),
            (directory(b'{"name":"a\tb\x01"}'), DirectoryEntry("a\tb\x01")),
            (directory(b'{"name":"\xc3\xa4\xff"}'), DirectoryEntry("\xe4\udcff")),
            (directory(b'{"name":"a","info":[{"key":"k"}]}'), DirectoryEntry("a", info=())),
            (directory(b'{"name":"a","array_card":0,"info":null}'), a),
        ]
        for text, expected in table:
            (entry,) = read_directory(text)
            self.assertEqual((entry.name, entry.schema), (expected.name, expected.schema), text)
            self.assertEqual((entry.uid, entry.array_card), (expected.uid, 1), text)
        self.assertEqual(read_directory(table[3][0])[0].card, 12)
        self.assertEqual(read_directory(table[4][0])[0].timestamp, Time(1, 0))
        self.assertEqual(read_directory(b'{ "directory" : [,]}'), [])

    def test_refused(self):
        """What makes no sense is a ``ValueError``, however it looks."""
        for text in (
            b"",
            b"{}",
            b'{"directory":{}}',
            b'{"directory":[',
            b'{"directory":[1]}',
            b'{"directory":[{}]}',
            directory(b'{"name":""}'),
            directory(b'{"name":5}'),
            directory(b'{"name":"a","schema":[]}'),
            directory(b'{"name":"a","card":1.5}'),
            directory(b'{"name":"a","card":true}'),
            directory(b'{"name":"a","card":"x"}'),
            directory(b'{"name":"a","card":4294967296}'),
            directory(b'{"name":"a","data_gn":18446744073709551616}'),
            directory(b'{"name":"a","card":' + b"9" * 9000 + b"}"),
            directory(b'{"name":"a","timestamp":7}'),
            directory(b'{"name":"a","info":7}'),
            directory(b'{"name":"a","info":[7]}'),
            directory(b'{"name":"\\ud800"}'),
            directory(b'{"name":"a"'),
            b'{"directory":[' + b"[" * 100_000,
            b'{"directory":[' + b'{"name":' * 100_000,
        ):
            self.assertRaises(ValueError, read_directory, text)

    @given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 20))
    def test_damaged(self, noise, at, size):
        """A damaged directory is refused, or what was read of it can be written again."""
        text = recorded_text("a_ls_dir")
        damaged = text[:at] + noise + text[at + size :]
        try:
            sets = read_directory(damaged)
        except ValueError:
            return
        (again,) = directory_texts(sets, LIMIT)
        self.assertEqual(read_directory(again), sets)
