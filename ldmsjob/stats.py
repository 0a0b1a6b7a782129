"""Counters that every layer reports into."""

from __future__ import annotations

from collections.abc import Iterator

from zope.interface import implementer

from ldmsjob.interfaces import IStats


@implementer(IStats)
class Stats:
    """A named group of counters with named groups below it."""

    __slots__ = ("_children", "name", "values")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.values: dict[str, int] = {}
        self._children: dict[str, Stats] = {}

    def add(self, counter: str, amount: int = 1) -> None:
        """Add ``amount`` to a counter that starts at 0 when it is first named."""
        values = self.values
        values[counter] = values.get(counter, 0) + amount

    def get(self, counter: str) -> int:
        """The present value; 0 for a counter that nobody has added to."""
        return self.values.get(counter, 0)

    def child(self, name: str) -> Stats:
        """The group of that name below this one, made at its first use."""
        group = self._children.get(name)
        if group is None:
            group = self._children[name] = Stats(name)
        return group

    def remove_child(self, name: str) -> None:
        """Forget a group, e.g. that of a link that closed."""
        self._children.pop(name, None)

    def groups(self) -> Iterator[tuple[str, dict[str, int]]]:
        """The groups below this one as ``a/b`` and their counters, without those that are 0.

        Groups and counters are sorted; a group without counters is left out.
        """
        for name, group in sorted(self._children.items()):
            counted = {counter: value for counter, value in sorted(group.values.items()) if value}
            if counted:
                yield name, counted
            for below, values in group.groups():
                yield f"{name}/{below}", values
