"""Standard output whose reader may leave before all is written, as ``head`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def until_reader_leaves() -> Iterator[None]:
    """Run a block that prints, write all of it, and end the block quietly when nobody reads it.

    Whatever is printed later goes nowhere then, so that the interpreter does not complain at its
    end.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class WatchedOutput:
    """A text stream that calls ``left`` once when its reader leaves, where others would raise.

    For libraries that make of the error what they like.
    """

    def __init__(self, stream: TextIO, left: Callable[[], None]) -> None:
        self._stream = stream
        self._left: Callable[[], None] | None = left
        self.encoding = stream.encoding
        self.isatty = stream.isatty
        self.fileno = stream.fileno

    def write(self, text: str) -> int:
        """Write it; goes nowhere when the reader has left."""
        return self._try(lambda: self._stream.write(text)) or len(text)

    def flush(self) -> None:
        """Have all of it written."""
        self._try(self._stream.flush)

    def _try(self, do: Callable[[], int | None]) -> int | None:
        if self._left is not None:
            try:
                return do()
            except BrokenPipeError:
                left, self._left = self._left, None
                left()
        return None
