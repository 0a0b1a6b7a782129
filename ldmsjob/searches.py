"""Lookups that may find several sets: by schema, by regular expression."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ldmsjob.ere import Ere

if TYPE_CHECKING:
    from ldmsjob.sets.metricset import MetricSet
    from ldmsjob.wire.setevents import LookupWanted

STEP_BYTES = 8
"""What a step of a search counts for in a slice."""


class Search:
    """One such lookup, under way."""

    __slots__ = ("cost", "found", "matches", "sets", "wanted")

    def __init__(self, wanted: LookupWanted, sets: Iterable[MetricSet]) -> None:
        """Raises ``EreError``."""
        search: Callable[[str], bool] = wanted.path.__eq__
        self.cost = STEP_BYTES
        """Of each character of a set's name, in a slice."""
        if wanted.is_regex:
            expression = Ere(wanted.path)
            search = expression.search
            self.cost *= expression.size
        if wanted.by_schema:

            def matches(metric_set: MetricSet) -> bool:
                return search(metric_set.schema.name)
        else:

            def matches(metric_set: MetricSet) -> bool:
                return search(metric_set.instance)

        self.wanted = wanted
        self.sets = iter(sets)
        self.matches = matches
        self.found: MetricSet | None = None
        """Found and not announced: whether more follow is not known yet."""
