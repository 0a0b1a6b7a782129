"""What is put off to the end of a turn."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.turns import Turn


class TurnTests(SynchronousTestCase):
    """One turn after the other."""

    def setUp(self) -> None:
        """A turn, and what was called."""
        self.turn = Turn()
        self.called: list[str] = []

    def one(self) -> None:
        """Called at the end."""
        self.called.append("one")

    def two(self) -> None:
        """Called at the end, too."""
        self.called.append("two")

    def test_outside(self) -> None:
        """Outside of any turn a call is made at once."""
        self.turn.at_end(self.one)
        self.assertEqual(self.called, ["one"])

    def test_order(self) -> None:
        """At the outermost end each call is made once, in the order in which they were first asked
        for."""
        with self.turn:
            self.turn.at_end(self.one)
            with self.turn:
                self.turn.at_end(self.two)
            self.turn.at_end(self.one)
            self.assertEqual(self.called, [])
        self.assertEqual(self.called, ["one", "two"])
        with self.turn:
            pass
        self.assertEqual(self.called, ["one", "two"])

    def test_every_end(self) -> None:
        """What belongs to the end of every turn comes first, also in turns that end nothing else,
        and not at an end within."""
        self.turn.at_every_end(self.one)
        with self.turn:
            self.turn.at_end(self.two)
            with self.turn:
                pass
            self.assertEqual(self.called, [])
        self.assertEqual(self.called, ["one", "two"])
        with self.turn:
            pass
        self.assertEqual(self.called, ["one", "two", "one"])

    def test_failure(self) -> None:
        """A call that fails is logged; those behind it are made."""

        def fail() -> None:
            int("?")

        self.turn.at_every_end(fail)
        with self.turn:
            self.turn.at_end(fail)
            self.turn.at_end(self.one)
        self.assertEqual(self.called, ["one"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_turn_at_the_end(self) -> None:
        """A call may have a turn of its own, which ends before the calls behind it."""

        def inner() -> None:
            self.turn.at_end(self.one)
            with self.turn:
                self.turn.at_end(self.two)
                self.called.append("inner")

        with self.turn:
            self.turn.at_end(inner)
            self.turn.at_end(lambda: self.called.append("last"))
        self.assertEqual(self.called, ["one", "inner", "two", "last"])
