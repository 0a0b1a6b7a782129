"""Hypothesis strategies that several test modules share."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ldmsjob.sets.schema import Member, Schema
from ldmsjob.values import (
    CHAR,
    CHAR_ARRAY,
    F32,
    F32_ARRAY,
    TIMESTAMP,
    TYPES,
    ValueType,
)

PLAIN_TYPES = tuple(kind for kind in TYPES if kind.is_plain)
"""Scalars, text, arrays and timestamps."""

_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
_units = st.none() | st.text("kBs/%", max_size=4)
_plain_types = st.sampled_from(PLAIN_TYPES)


def counts(kind: ValueType) -> st.SearchStrategy[int]:
    """Array lengths for a type; 1 for what is no array."""
    return st.integers(0, 20) if kind.is_array else st.just(1)


def plain_values(kind: ValueType, count: int) -> st.SearchStrategy[Any]:
    """Values that come back exactly as they were put."""
    if kind is CHAR_ARRAY:
        text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=count)
        return text.filter(lambda value: len(value.encode()) <= count)
    if kind is TIMESTAMP:
        return st.integers(0, (1 << 32) * 1_000_000 - 1)
    if kind is CHAR:
        return st.characters(max_codepoint=255)
    if kind.code in "fd":
        element: st.SearchStrategy[Any] = st.floats(
            width=32 if kind in (F32, F32_ARRAY) else 64, allow_nan=False
        )
    else:
        bits = 8 * kind.size
        low = -(1 << bits - 1) if kind.code.islower() else 0
        element = st.integers(low, low + (1 << bits) - 1)
    return st.lists(element, min_size=count, max_size=count) if kind.is_array else element


@st.composite
def members(draw: st.DrawFn) -> list[Member]:
    """Members of a record type."""
    result = []
    for name in draw(st.lists(_names, max_size=5, unique=True)):
        kind = draw(_plain_types)
        result.append(Member(name, kind, draw(counts(kind)), draw(_units)))
    return result


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """Schemas of every kind of metric."""
    schema = Schema(draw(_names), array_card=draw(st.integers(1, 3)))
    record_types: list[str] = []
    for name in draw(st.lists(_names, max_size=8, unique=True)):
        unit = draw(_units)
        what = draw(st.sampled_from(("plain", "plain", "plain", "list", "type", "array")))
        if what == "list":
            schema.add_list(name, draw(st.integers(0, 700)), unit=unit)
        elif what == "type":
            schema.add_record_type(name, draw(members()), unit=unit)
            record_types.append(name)
        elif what == "array" and record_types:
            record_type = draw(st.sampled_from(record_types))
            schema.add_record_array(name, record_type, draw(st.integers(0, 3)), unit=unit)
        else:
            kind = draw(_plain_types)
            schema.add_metric(name, kind, draw(counts(kind)), unit=unit, meta=draw(st.booleans()))
    return schema


instance_names = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\"'\\"),
    min_size=1,
    max_size=40,
)
