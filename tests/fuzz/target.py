"""What a fuzz target is, and what is held about each of its runs."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.logger import globalLogPublisher

_T = TypeVar("_T")


class Broken(AssertionError):
    """Something that is promised of every input does not hold for one."""


@dataclass(frozen=True)
class Target:
    """A function over bytes that must return for any input.

    ``run`` raises nothing: exceptions that a reader declares are caught in it. ``steps`` and
    ``memory`` are what an input may cost: a constant and so much for each of its bytes; lines of
    Python, and bytes at the peak.
    """

    name: str
    run: Callable[[bytes], Any]
    seeds: Callable[[], Iterable[bytes]]
    max_bytes: int = 4096
    steps: tuple[int, int] = (20_000, 300)
    memory: tuple[int, int] = (1_000_000, 500)


class _Defects:
    """Exceptions that were caught and logged because they would have been somebody's defect."""

    def __init__(self) -> None:
        self.failures: list[Any] = []
        globalLogPublisher.addObserver(self)

    def __call__(self, event: dict[str, Any]) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            self.failures.append(failure)

    def check(self) -> None:
        """Raise the first one."""
        failures, self.failures = self.failures, []
        if failures:
            failures[0].raiseException()


_defects = _Defects()


def run(target: Target, data: bytes) -> None:
    """Run a target once. Raises what it raised, or what was only logged."""
    _defects.failures.clear()
    target.run(data)
    _defects.check()


class _Lines:
    """Counts the lines of Python that are run, and stops beyond a limit."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit

    def __call__(self, frame: Any, event: str, argument: Any) -> _Lines:
        self.count += 1
        if self.count > self._limit:
            sys.settrace(None)
            raise Broken(f"more than {self._limit} lines of Python")
        return self


def cost(target: Target, data: bytes) -> tuple[int, int]:
    """Run a target as ``run`` does and return (lines of Python, bytes at the peak).

    Raises ``Broken`` when that is more than it may be.
    """
    lines = _Lines(_bound(target.steps, data))
    before = sys.gettrace()
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        sys.settrace(lines)
        try:
            run(target, data)
        finally:
            sys.settrace(before)
        peak = tracemalloc.get_traced_memory()[1] - start
    finally:
        if not tracing:
            tracemalloc.stop()
    if peak > _bound(target.memory, data):
        raise Broken(f"{peak} bytes of memory for {len(data)} bytes of input")
    return lines.count, peak


def _bound(rule: tuple[int, int], data: bytes) -> int:
    return rule[0] + rule[1] * len(data)


def expect(condition: object, text: str) -> None:
    """Raise ``Broken`` unless it holds."""
    if not condition:
        raise Broken(text)


def same(first: Any, second: Any, what: str) -> None:
    """Raise ``Broken`` unless the two are equal."""
    if first != second:
        raise Broken(f"{what}: {_short(first)} and {_short(second)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 400 else f"{text[:400]}…"


class Script:
    """Reads choices out of an input's bytes; behind their end everything is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there is more."""
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """Up to so many bytes."""
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, count: int = 1) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self.take(count), "big")

    def choice(self, values: Sequence[_T]) -> _T:
        """One of them."""
        return values[self.number() % len(values)]

    def text(self) -> bytes:
        """Bytes with their count in front."""
        return self.take(self.number())

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(max(len(self._data) - self._at, 0))


def cuts(data: bytes, size: int) -> list[bytes]:
    """The bytes in pieces of that size; of none, one piece."""
    return [data[at : at + size] for at in range(0, len(data), size)] or [data]
