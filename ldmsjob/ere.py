r"""POSIX extended regular expressions, as peers send them to choose channels and sets.

Python's ``re`` reads several characters differently from the C library, and lets one expression
take exponential time; expressions that peers send must not. RE2 knows the POSIX syntax and searches
in time linear in the text. As C programs in the C locale do, it looks at bytes.

Different from the C library: back references and collating symbols are refused, ``\d`` and ``\b``
are known, and a backslash inside of brackets escapes the next character.
"""

from __future__ import annotations

from functools import cache
from typing import Any

MAX_SIZE = 511
"""Bytes of an expression: what C programs take for a lookup."""

MEMORY_BYTES = 16 * 1024
"""What one compiled expression may take, its repeats written out. It bounds the time that compiling
takes, also of what is refused in the end: less than a millisecond."""


@cache
def _re2() -> tuple[Any, Any]:
    """The library, and its options. Only who uses an expression loads it: it is large, and most
    daemons never do."""
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.posix_syntax = True
    options.perl_classes = True
    options.word_boundary = True
    options.never_capture = True
    options.log_errors = False
    options.max_mem = MEMORY_BYTES
    return re2, options


class EreError(ValueError):
    """The expression is not one, or is larger than we accept. The text says why."""


class Ere:
    """A compiled expression. Safe to keep and to use any number of times."""

    __slots__ = ("_search", "pattern", "size")

    def __init__(self, pattern: str) -> None:
        """Raises ``EreError``. Bytes that are no UTF-8 stand as surrogate escapes."""
        data = _bytes(pattern)
        if len(data) > MAX_SIZE:
            raise EreError(f"longer than {MAX_SIZE} bytes")
        re2, options = _re2()
        try:
            self._search = re2.compile(data, options).search
        except re2.error as error:
            raise EreError(_reason(error)) from None
        self.pattern = pattern
        self.size = len(data)
        """Bytes of the expression, as a measure of what a search costs."""

    def search(self, text: str) -> bool:
        """Whether the expression matches anywhere in ``text``."""
        return self._search(_bytes(text)) is not None


def size_of(pattern: str) -> int:
    """Bytes of an expression that is not compiled yet."""
    return len(_bytes(pattern))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode("latin-1") if isinstance(reason, bytes) else str(reason)
