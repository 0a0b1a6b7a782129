"""Names as they stand in set images, and what they may be."""

from __future__ import annotations

import re

from ldmsjob.errors import SchemaError

_MAX_INSTANCE_NAME = 254

# The characters that the reference implementation takes in the name of a set.
_INSTANCE_NAME = re.compile(r"""[^\x00-\x1f"'\\\x7f-\U0010ffff]{1,254}""").fullmatch


def encode_name(text: str) -> bytes:
    """A name as it stands in images. Raises ``SchemaError`` for what is not text."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise SchemaError(f"{text[:32]!r} cannot be written as UTF-8") from None
    if 0 in data:
        raise SchemaError(f"a NUL stands in {text[:32]!r}")
    return data


def encode_instance_name(instance: str) -> bytes:
    """The name of a set. Raises ``SchemaError``."""
    if _INSTANCE_NAME(instance) is None:
        raise SchemaError(
            f"{instance[:64]!r} cannot be the name of a set: 1 to {_MAX_INSTANCE_NAME} ASCII "
            "characters without control characters, quotes and backslashes"
        )
    return instance.encode("ascii")
