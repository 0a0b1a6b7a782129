"""Standard output and standard error, which may not take what the tools write.

The reader of a pipe may leave before all is written, as ``head`` does; a disk may be full.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def until_reader_leaves() -> Iterator[None]:
    """Run a block that prints, write all of it, and end the block quietly when nobody reads it.

    When it cannot be written for another reason, that is told in one line, and ``SystemExit`` is
    raised with the errno. Whatever is printed later goes nowhere then, so that the interpreter does
    not complain at its end.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:
            raise  # About a file by its name: not about what was printed.
        _give_up(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            complain(f"cannot write the output: {error.strerror}")
            raise SystemExit(error.errno) from None


def complain(text: str) -> None:
    """Tell the user in a line on standard error what is wrong, if that can be written.

    A part of it may be a peer's words.
    """
    line = printable(text).replace("\n", "\\n")
    try:
        print(f"ldmsjob: {line}", file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)


def printable(text: str, *, lines: bool = True) -> str:
    """The text with what would steer a terminal made visible; ``lines``: but for line ends."""
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable() or (lines and each == "\n")
        else each.encode("unicode_escape").decode()
        for each in text
    )


def pause(seconds: float) -> None:
    """Wait. Raises ``BrokenPipeError`` as soon as nobody reads the output any more."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # it is no file
        time.sleep(seconds)
        return
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


def _give_up(stream: TextIO) -> None:
    """Have all that is and will be written there go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class WatchedOutput:
    """A text stream that calls ``failed`` once, where others would raise ``OSError``.

    For libraries that make of the error what they like.
    """

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]) -> None:
        self._stream = stream
        self._failed: Callable[[OSError], None] | None = failed
        self.encoding = stream.encoding
        self.isatty = stream.isatty
        self.fileno = stream.fileno

    def write(self, text: str) -> int:
        """Write it; goes nowhere once that has failed."""
        return self._try(lambda: self._stream.write(text)) or len(text)

    def flush(self) -> None:
        """Have all of it written."""
        self._try(self._stream.flush)

    def _try(self, do: Callable[[], int | None]) -> int | None:
        if self._failed is not None:
            try:
                return do()
            except OSError as error:
                failed, self._failed = self._failed, None
                failed(error)
        return None
