"""Names as they stand in set images, and what they may be."""

from __future__ import annotations

import re

from ldmsjob.errors import SchemaError

_MAX_INSTANCE_NAME = 254
# Printable ASCII without quotes and backslashes.
_is_instance_name = re.compile(rf"[ !#-&(-\[\]-~]{{1,{_MAX_INSTANCE_NAME}}}").fullmatch


def encode_name(text: str) -> bytes:
    """A name as it stands in images. Raises ``SchemaError`` for what is not text."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise SchemaError(f"{text[:32]!r} cannot be written as UTF-8") from None
    if 0 in data:
        raise SchemaError(f"a NUL stands in {text[:32]!r}")
    return data


def check_instance_name(instance: str) -> None:
    """Raises ``SchemaError`` for what cannot be the name of a set."""
    if _is_instance_name(instance) is None:
        raise SchemaError(
            f"{instance[:64]!r} cannot be the name of a set: 1 to {_MAX_INSTANCE_NAME} ASCII "
            "characters without control characters, quotes and backslashes"
        )
