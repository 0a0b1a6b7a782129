"""Values as bytes."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob import values as v
from tests.strategies import PLAIN_TYPES, counts, plain_values


class TypeTests(SynchronousTestCase):
    """The types."""

    def test_ids(self) -> None:
        """The numbers that stand in images are those of LDMS."""
        self.assertEqual(
            {kind.name: kind.type_id for kind in v.TYPES},
            {
                **{"char": 1, "u8": 2, "s8": 3, "u16": 4, "s16": 5, "u32": 6, "s32": 7},
                **{"u64": 8, "s64": 9, "f32": 10, "d64": 11, "char[]": 12, "u8[]": 13},
                **{"s8[]": 14, "u16[]": 15, "s16[]": 16, "u32[]": 17, "s32[]": 18},
                **{"u64[]": 19, "s64[]": 20, "f32[]": 21, "d64[]": 22, "list<>": 23},
                **{"record_type": 25, "record_inst": 26, "record[]": 27, "timestamp": 28},
            },
        )

    def test_slots(self) -> None:
        """A value takes up a multiple of 8 bytes, an empty array nothing."""
        self.assertEqual(v.U8.slot_size(1), 8)
        self.assertEqual(v.CHAR_ARRAY.slot_size(9), 16)
        self.assertEqual(v.U16_ARRAY.slot_size(5), 16)
        self.assertEqual(v.D64_ARRAY.slot_size(0), 0)
        self.assertEqual(v.LIST.slot_size(1), 0)


class NumberTests(SynchronousTestCase):
    """Numbers are cut to their width as C does."""

    def test_integers_wrap(self) -> None:
        """The low bits are kept, and read as two's complement where the type has a sign."""
        self.assertEqual(v.cut_value(v.U8, 256 + 7), 7)
        self.assertEqual(v.cut_value(v.U32, -1), 0xFFFFFFFF)
        self.assertEqual(v.cut_value(v.S32, 0x80000000), -0x80000000)
        self.assertEqual(v.cut_value(v.S8, -129), 127)
        self.assertEqual(
            v.pack_value(v.S16, 1, 40000), (40000 - 65536).to_bytes(2, "little", signed=True)
        )
        self.assertEqual(v.pack_value(v.U16_ARRAY, 2, [1, 65536 + 2]), b"\1\0\2\0")

    def test_fractions_are_dropped(self) -> None:
        """A float given for an integer loses its fraction, towards zero."""
        self.assertEqual(v.cut_value(v.S32, -1.9), -1)
        self.assertEqual(v.pack_value(v.U8, 1, 2.9), b"\2")

    def test_floats(self) -> None:
        """A number too large for 32 bits becomes infinite."""
        self.assertEqual(v.cut_value(v.F32, 1e300), math.inf)
        self.assertEqual(v.cut_value(v.F32, -1e300), -math.inf)
        self.assertEqual(v.pack_value(v.D64, 1, 3), b"\0\0\0\0\0\0\x08@")

    def test_characters(self) -> None:
        """A char is given as character, byte or number."""
        for value in ("Q", b"Q", 81, 81 + 256):
            self.assertEqual(v.pack_value(v.CHAR, 1, value), b"Q")
        self.assertRaises(ValueError, v.pack_value, v.CHAR, 1, "ab")
        self.assertRaises(ValueError, v.pack_value, v.CHAR, 1, "\u0100")

    def test_impossible_values(self) -> None:
        """What is no number of the kind is refused with ValueError."""
        for kind, count, value in (
            (v.U32, 1, "7"),
            (v.U32, 1, None),
            (v.U32, 1, math.nan),
            (v.S64, 1, math.inf),
            (v.D64, 1, "1.5"),
            (v.D64, 1, 10**400),
            (v.D64, 1, []),
            (v.U8_ARRAY, 2, [1]),
            (v.U8_ARRAY, 2, "ab"),
            (v.U8_ARRAY, 2, 5),
            (v.CHAR_ARRAY, 2, 5),
            (v.TIMESTAMP, 1, "now"),
            (v.LIST, 1, []),
        ):
            self.assertRaises(ValueError, v.pack_value, kind, count, value)


class TextTests(SynchronousTestCase):
    """Text is cut on a UTF-8 boundary."""

    def test_filling(self) -> None:
        """Text may fill an array, without a NUL behind it."""
        self.assertEqual(v.fill_text("longerthan8", 8), b"longerth")
        self.assertEqual(v.pack_value(v.CHAR_ARRAY, 8, "abc"), b"abc\0\0\0\0\0")

    def test_terminated(self) -> None:
        """Cut text leaves room for a NUL."""
        self.assertEqual(v.cut_text("longerthan8", 8), b"longert")
        self.assertEqual(v.cut_text("abc", 4), b"abc")
        self.assertEqual(v.cut_text("abc", 0), b"")

    def test_characters_stay_whole(self) -> None:
        """No character is cut in two."""
        self.assertEqual(v.fill_text("ab\u00e9", 3), b"ab")
        self.assertEqual(v.fill_text("\U0001f600", 3), b"")
        self.assertEqual(v.fill_text(b"\x80" * 9, 6), b"\x80" * 6)

    def test_end_at_nul(self) -> None:
        """What stands behind a NUL is not text any more."""
        self.assertEqual(v.fill_text("ab\0cd", 8), b"ab")

    @given(st.text(), st.integers(0, 40))
    def test_always_text(self, text: str, count: int) -> None:
        """Whatever is cut, the rest is UTF-8 and a beginning of the text."""
        cut = v.fill_text(text, count)
        self.assertLessEqual(len(cut), count)
        expected = text.encode("utf-8", "replace").decode().partition("\0")[0]
        self.assertTrue(expected.startswith(cut.decode("utf-8")))
        if len(expected.encode()) <= count:
            self.assertEqual(cut.decode(), expected)


class TimeTests(SynchronousTestCase):
    """Times are microseconds."""

    def test_words(self) -> None:
        """Seconds stand before microseconds, 32 bits each, and wrap."""
        self.assertEqual(
            v.timestamp_word(1_700_000_000_000_007).to_bytes(8, "little"),
            (1_700_000_000).to_bytes(4, "little") + b"\7\0\0\0",
        )
        self.assertEqual(v.word_time(v.timestamp_word(-1)), (2**32 - 1) * 1_000_000 + 999_999)
        self.assertEqual(v.timestamp_word((1 << 32) * 1_000_000), 0)


class RoundTripTests(SynchronousTestCase):
    """What is packed is unpacked the same."""

    @given(st.data())
    def test_round_trip(self, data: st.DataObject) -> None:
        """Every plain value of every type comes back, wherever it stands."""
        kind = data.draw(st.sampled_from(PLAIN_TYPES))
        count = data.draw(counts(kind))
        value = data.draw(plain_values(kind, count))
        packed = v.pack_value(kind, count, value)
        self.assertEqual(len(packed), kind.value_size(count))
        self.assertEqual(v.unpack_value(kind, count, b"xyz" + packed + b"xyz", 3), value)

    @given(st.sampled_from(PLAIN_TYPES), st.data())
    def test_anything_packs_or_is_refused(self, kind: v.ValueType, data: st.DataObject) -> None:
        """Any number for any type gives the right number of bytes; other things a ValueError."""
        value = data.draw(
            st.integers() | st.floats() | st.text(max_size=3) | st.none() | st.lists(st.integers())
        )
        count = len(value) if isinstance(value, list) else 2
        try:
            packed = v.pack_value(kind, count, value)
        except ValueError:
            return
        self.assertEqual(len(packed), kind.value_size(count))
