"""The text of directories: JSON as C programs write and read it (docs/wire.md, Directories).

C programs put names between quotes as they are and escape nothing. What ldmsjob writes is JSON,
with blanks where C has them; what it reads may have C's defects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ldmsjob.wire.setevents import DirectoryEntry, Info, Time

EMPTY = b'{ "directory" : []}'
_BEGIN = b'{ "directory" : [ '
_END = b"]}"
_UPDATE_BEGIN = b'{ "directory" : [  '
_UPDATE_END = b" ]}\0"

_HEAD = rb'\s*\{\s*"directory"\s*:\s*\[[\s,]*'
_TRAILER = b"\0 \t\r\n"

# In text without blanks between its tokens, a quote that is no part of a name has one of these
# characters before or behind it.
_NAME_QUOTE = r'(?<=[^{\[,:\\])"(?=[^:,}\]])'
_LOOSE_BACKSLASH = r'\\(?!["\\/bfnrtu])'

_encoder = msgspec.json.Encoder()


def _encode(entry: DirectoryEntry) -> bytes:
    try:
        return _encoder.encode(entry)
    except UnicodeEncodeError:  # bytes that are no UTF-8, as surrogate escapes
        text = json.dumps(msgspec.to_builtins(entry), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogateescape")


def _encode_bounded(entry: DirectoryEntry, limit: int) -> bytes:
    text = _encode(entry)
    if len(text) > limit:  # only info has no bound of its own
        text = _encode(msgspec.structs.replace(entry, info=()))
    return text


def directory_texts(entries: Iterable[DirectoryEntry], limit: int) -> Iterator[bytes]:
    """The directory in as few texts of at most ``limit`` bytes as its order allows; at least one.

    A set whose info alone would be longer appears without its info. Raises ``UnicodeEncodeError``
    for surrogates that stand for no byte.
    """
    room = limit - len(_BEGIN) - len(_END)
    part: list[bytes] = []
    size = 0
    for entry in entries:
        text = _encode_bounded(entry, room)
        if part and size + len(text) > room:
            yield _BEGIN + b",".join(part) + _END
            part, size = [], 0
        part.append(text)
        size += len(text) + 1
    yield _BEGIN + b",".join(part) + _END if part else EMPTY


def update_text(entry: DirectoryEntry, limit: int) -> bytes:
    """A directory of one set for an update, which ends in NUL; otherwise as ``directory_texts``."""
    text = _encode_bounded(entry, limit - len(_UPDATE_BEGIN) - len(_UPDATE_END))
    return _UPDATE_BEGIN + text + _UPDATE_END


def read_directory(text: bytes) -> list[DirectoryEntry]:
    """The sets of a directory.

    Understands commas in front of the first set, NULs and blanks at the end, numbers in quotes,
    members that are missing, control characters, quotes and backslashes in names that are not
    escaped, and bytes that are no UTF-8, which become surrogate escapes. Raises ``ValueError`` for
    anything worse, for a set without a name, and for numbers that no C structure can have.
    """
    head = re.match(_HEAD, text)
    if head is None:
        raise ValueError("not a directory")
    sets = _parse(b"[" + text[head.end() :].rstrip(_TRAILER).removesuffix(b"}"))
    if not isinstance(sets, list):
        raise ValueError("not a list of sets")
    return [_entry(one) for one in sets]


def _parse(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    loose = text.decode("utf-8", "surrogateescape")
    try:
        try:
            return json.loads(loose, strict=False)
        except ValueError:
            repaired = re.sub(_LOOSE_BACKSLASH, r"\\\\", re.sub(_NAME_QUOTE, r"\"", loose))
            return json.loads(repaired, strict=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _entry(members: Any) -> DirectoryEntry:
    if not isinstance(members, dict):
        raise ValueError("a set that is no object")
    get = members.get
    name = _text(get("name"), "")
    if not name:
        raise ValueError("a set without a name")
    return DirectoryEntry(
        name,
        _text(get("schema"), ""),
        _text(get("digest"), ""),
        _text(get("flags"), "   "),
        _number(get("meta_size"), 32),
        _number(get("data_size"), 32),
        _number(get("heap_size"), 32),
        _number(get("uid"), 32),
        _number(get("gid"), 32),
        _text(get("perm"), "-" * 10),
        _number(get("card"), 32),
        _number(get("array_card"), 32) or 1,
        _number(get("meta_gn"), 64),
        _number(get("data_gn"), 64),
        _time(get("timestamp")),
        _time(get("duration")),
        tuple(_info(get("info"))),
    )


def _text(value: Any, default: str) -> str:
    if value is None:
        return default
    if not isinstance(value, str):
        raise ValueError("a name that is no text")
    if not value.isascii():
        value.encode("utf-8", "surrogateescape")  # else it could not be sent back
    return value.partition("\0")[0]


def _number(value: Any, bits: int) -> int:
    """An unsigned number; C writes the upper half of those of 32 bits as negative ones."""
    if value is None:
        return 0
    if isinstance(value, str):
        value = int(value)
    if type(value) is not int or not -(1 << bits - 1) <= value < 1 << bits:
        raise ValueError("a number that is none")
    return value % (1 << bits)


def _time(value: Any) -> Time:
    if value is None:
        return Time()
    if not isinstance(value, dict):
        raise ValueError("a time that is no object")
    return Time(_number(value.get("sec"), 32), _number(value.get("usec"), 32))


def _info(value: Any) -> Iterator[Info]:
    if value is None:
        return
    if not isinstance(value, list):
        raise ValueError("info that is no list")
    for pair in value:
        if not isinstance(pair, dict):
            raise ValueError("a pair of info that is no object")
        yield Info(_text(pair.get("key"), ""), _text(pair.get("value"), ""))
