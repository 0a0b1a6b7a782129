"""Names as they stand in set images, and what they may be."""

from __future__ import annotations

from ldmsjob.errors import SchemaError

_MAX_INSTANCE_NAME = 254


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
    if (
        not 0 < len(instance) <= _MAX_INSTANCE_NAME
        or not (instance.isascii() and instance.isprintable())
        or '"' in instance
        or "'" in instance
        or "\\" in instance
    ):
        raise SchemaError(
            f"{instance[:64]!r} cannot be the name of a set: 1 to {_MAX_INSTANCE_NAME} ASCII "
            "characters without control characters, quotes and backslashes"
        )
