"""Every fuzz target with its seeds, and with some damage to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.finds import Finds
from tests.fuzz.registry import TARGETS
from tests.fuzz.target import Broken, Target, cost, run


class TargetTests(SynchronousTestCase):
    """What a long run begins with holds already."""

    def test_seeds(self) -> None:
        """There are some for each target, and they cost no more than they may."""
        for target in TARGETS.values():
            seeds = sorted(target.seeds(), key=len)
            self.assertGreater(len(seeds), 2, target.name)
            for data in seeds:
                run(target, data)
            for data in {seeds[0], seeds[-1], b"", b"\0", b"\xff" * 64}:
                cost(target, data)

    @given(st.data())
    def test_damaged(self, data: Any) -> None:
        """Damaged seeds of any target."""
        target = data.draw(st.sampled_from(list(TARGETS.values())))
        one = bytearray(data.draw(st.sampled_from(list(target.seeds()))))
        for at in data.draw(st.lists(st.integers(0, len(one) - 1), max_size=4)):
            one[at] = data.draw(st.integers(0, 255))
        run(target, bytes(one[: data.draw(st.integers(0, len(one)))]))


class FindsTests(SynchronousTestCase):
    """What becomes of a crash."""

    def finds(self, what: Any, **bounds: Any) -> Finds:
        """For a target that does this with its input."""
        target = Target("test", what, lambda: (), **bounds)
        return Finds(target, Path(self.mktemp()))

    def test_shortest_of_each(self) -> None:
        """One file for each cause, with the shortest input, and how to try it again."""

        def crash(data: bytes) -> None:
            if data.startswith(b"a"):
                raise ValueError(data)
            raise KeyError(data)

        finds = self.finds(crash)
        for data in (b"a long one", b"a", b"ab", b"other"):
            finds.attempt(data)
        self.assertEqual(
            sorted(path.read_bytes() for path in finds.crashes.values()), [b"a", b"other"]
        )
        told = next(iter(finds.crashes.values())).with_name("test-1.txt").read_text()
        self.assertIn("--replay", told)
        self.assertIn("ValueError", told)
        self.assertEqual(finds.runs, 4)

    def test_bounds(self) -> None:
        """Too many lines and too much memory are crashes, too."""

        def loop(data: bytes) -> None:
            for _ in range(100_000):
                pass

        finds = self.finds(loop, steps=(1000, 0))
        finds.attempt(b"")
        self.assertEqual(len(finds.crashes), 1)
        target = Target("test", lambda data: bytes(1 << 20), lambda: (), memory=(1000, 0))
        self.assertRaises(Broken, cost, target, b"")

    def test_what_was_only_logged(self) -> None:
        """An exception that somebody caught and logged as a defect is a crash."""
        from twisted.logger import Logger

        def log(data: bytes) -> None:
            try:
                raise ValueError("x")
            except ValueError:
                Logger().failure("somebody's defect")

        self.assertRaises(ValueError, run, Target("test", log, lambda: ()), b"")
        self.flushLoggedErrors(ValueError)
