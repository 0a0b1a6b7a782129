"""LDMS value types: how numbers, text and times are put into bytes.

Everything is little-endian. Numbers are cut to the width of their type as C does when it converts
between integer types; text is cut on a UTF-8 boundary. A time is an integer, microseconds since
the epoch, on our side and a pair of 32-bit numbers (seconds, microseconds) in an image.

The functions raise ``ValueError`` for a value that the type cannot take at all, such as text for a
number.
"""

from __future__ import annotations

import math
import operator
import struct
from typing import Any

import msgspec

_UINT32 = 0xFFFFFFFF
_MICROSECONDS = 1_000_000


class ValueType(msgspec.Struct, frozen=True, eq=False):
    """A metric type."""

    type_id: int
    """The number that stands in images."""
    name: str
    """The word that people write and read, such as ``u64`` or ``char[]``."""
    size: int = 0
    """Bytes of the value, or of one element of an array; 0 for what is not a plain value."""
    code: str = ""
    """The letter of the ``struct`` module for one element; empty for what is not a plain value."""
    is_array: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a scalar, text, an array or a timestamp: not a list or a record."""
        return self.size > 0

    def value_size(self, count: int) -> int:
        """Bytes of a plain value; ``count`` is looked at for arrays only."""
        return self.size * count if self.is_array else self.size

    def slot_size(self, count: int) -> int:
        """Bytes that a plain value takes up in an image: its size rounded up to a multiple of 8."""
        return -(-self.value_size(count) // 8) * 8


CHAR = ValueType(1, "char", 1, "B")
U8 = ValueType(2, "u8", 1, "B")
S8 = ValueType(3, "s8", 1, "b")
U16 = ValueType(4, "u16", 2, "H")
S16 = ValueType(5, "s16", 2, "h")
U32 = ValueType(6, "u32", 4, "I")
S32 = ValueType(7, "s32", 4, "i")
U64 = ValueType(8, "u64", 8, "Q")
S64 = ValueType(9, "s64", 8, "q")
F32 = ValueType(10, "f32", 4, "f")
D64 = ValueType(11, "d64", 8, "d")
CHAR_ARRAY = ValueType(12, "char[]", 1, "s", is_array=True)
U8_ARRAY = ValueType(13, "u8[]", 1, "B", is_array=True)
S8_ARRAY = ValueType(14, "s8[]", 1, "b", is_array=True)
U16_ARRAY = ValueType(15, "u16[]", 2, "H", is_array=True)
S16_ARRAY = ValueType(16, "s16[]", 2, "h", is_array=True)
U32_ARRAY = ValueType(17, "u32[]", 4, "I", is_array=True)
S32_ARRAY = ValueType(18, "s32[]", 4, "i", is_array=True)
U64_ARRAY = ValueType(19, "u64[]", 8, "Q", is_array=True)
S64_ARRAY = ValueType(20, "s64[]", 8, "q", is_array=True)
F32_ARRAY = ValueType(21, "f32[]", 4, "f", is_array=True)
D64_ARRAY = ValueType(22, "d64[]", 8, "d", is_array=True)
LIST = ValueType(23, "list<>")
RECORD_TYPE = ValueType(25, "record_type")
RECORD = ValueType(26, "record_inst")
RECORD_ARRAY = ValueType(27, "record[]")
TIMESTAMP = ValueType(28, "timestamp", 8, "Q")

TYPES = (
    *(CHAR, U8, S8, U16, S16, U32, S32, U64, S64, F32, D64),
    *(CHAR_ARRAY, U8_ARRAY, S8_ARRAY, U16_ARRAY, S16_ARRAY, U32_ARRAY, S32_ARRAY),
    *(U64_ARRAY, S64_ARRAY, F32_ARRAY, D64_ARRAY),
    *(LIST, RECORD_TYPE, RECORD, RECORD_ARRAY, TIMESTAMP),
)
"""Every type that may occur in an image."""

TYPES_BY_ID = {kind.type_id: kind for kind in TYPES}


def fill_text(text: str | bytes | bytearray, count: int) -> bytes:
    """Text for an array of ``count`` bytes, which it may fill so that no NUL follows it.

    It ends before its first NUL, and where it is too long it is cut on a UTF-8 boundary. Shorter
    text is not padded.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else bytes(text)
    end = data.find(0)
    if end >= 0:
        data = data[:end]
    if len(data) <= count:
        return data
    # A UTF-8 character has at most three continuation bytes. More of them are not UTF-8.
    for cut in range(count, max(count - 4, -1), -1):
        if data[cut] & 0xC0 != 0x80:
            return data[:cut]
    return data[:count]


def cut_text(text: str | bytes | bytearray, count: int) -> bytes:
    """Text for an array of ``count`` bytes in which a NUL must follow it: at most ``count - 1``.

    Otherwise like ``fill_text``. Readers written in C print such an array as it stands.
    """
    return fill_text(text, max(count - 1, 0))


def timestamp_word(time_us: int) -> int:
    """A time in microseconds as the 64-bit number that stands for it in an image."""
    seconds, microseconds = divmod(time_us, _MICROSECONDS)
    return (seconds & _UINT32) | microseconds << 32


def word_time(word: int) -> int:
    """The time in microseconds of the 64-bit number that stands for it in an image."""
    return (word & _UINT32) * _MICROSECONDS + (word >> 32)


def _integer(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        pass
    if isinstance(value, float) and math.isfinite(value):
        return int(value)  # towards zero, as in C
    raise ValueError(f"{value!r} is not an integer")


def _real(value: Any, code: str) -> float:
    if isinstance(value, (str, bytes, bytearray)):
        raise ValueError(f"{value!r} is not a number")
    try:
        number = float(value)
    except (TypeError, OverflowError):
        raise ValueError(f"{value!r} is not a number of that range") from None
    try:
        struct.pack("<" + code, number)
    except OverflowError:
        return math.copysign(math.inf, number)
    return number


def cut_value(kind: ValueType, value: Any) -> int | float:
    """A value that ``struct`` takes for one element of ``kind``: a number cut to its width.

    A ``char`` may be given as a character below U+0100, as one byte or as a number. Not for text
    and timestamps.
    """
    code = kind.code
    if code in "fd":
        return _real(value, code)
    if kind is CHAR and isinstance(value, (str, bytes)):
        if len(value) != 1:
            raise ValueError(f"{value!r} is not one character")
        value = ord(value)
        if value > 0xFF:
            raise ValueError("a char holds one byte")
    bits = 8 * kind.size
    number = _integer(value) & ((1 << bits) - 1)
    if code.islower() and number >> (bits - 1):
        number -= 1 << bits
    return number


def pack_value(kind: ValueType, count: int, value: Any) -> bytes:
    """The bytes of a plain value, without the padding of its slot.

    ``count`` is the length of an array: a sequence must have exactly that many elements, text is
    cut to it and filled up with NULs. A timestamp is an integer, microseconds.
    """
    if kind.is_array:
        if kind is CHAR_ARRAY:
            if not isinstance(value, (str, bytes, bytearray)):
                raise ValueError(f"{value!r} is not text")
            return fill_text(value, count).ljust(count, b"\0")
        if isinstance(value, str):
            raise ValueError(f"{value!r} is not a sequence of numbers")
        try:
            values = tuple(value)
        except TypeError:
            raise ValueError(f"{value!r} is not a sequence of numbers") from None
        if len(values) != count:
            raise ValueError(f"{len(values)} elements given for an array of {count}")
        layout = f"<{count}{kind.code}"
        try:
            return struct.pack(layout, *values)
        except (struct.error, OverflowError):
            return struct.pack(layout, *[cut_value(kind, element) for element in values])
    if kind is TIMESTAMP:
        return timestamp_word(_integer(value)).to_bytes(8, "little")
    if not kind.size:
        raise ValueError(f"a {kind.name} is not a plain value")
    layout = "<" + kind.code
    try:
        return struct.pack(layout, value)
    except (struct.error, OverflowError):
        return struct.pack(layout, cut_value(kind, value))


def unpack_value(kind: ValueType, count: int, buffer: Any, offset: int) -> Any:
    """The plain value at ``offset`` of ``buffer``, which the caller has found to lie inside it.

    Numbers as they are, a ``char`` as one character, text up to its first NUL with bytes that are
    not UTF-8 replaced, arrays as lists, timestamps as microseconds.
    """
    if kind.is_array:
        if kind is CHAR_ARRAY:
            data = bytes(buffer[offset : offset + count])
            return data.partition(b"\0")[0].decode("utf-8", "replace")
        return list(struct.unpack_from(f"<{count}{kind.code}", buffer, offset))
    value = struct.unpack_from("<" + kind.code, buffer, offset)[0]
    if kind is TIMESTAMP:
        return word_time(value)
    return chr(value) if kind is CHAR else value
