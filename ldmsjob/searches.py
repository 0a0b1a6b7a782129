"""Lookups that may find several sets: by schema, by regular expression."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ldmsjob.ere import Ere

if TYPE_CHECKING:
    from ldmsjob.sets.metricset import MetricSet
    from ldmsjob.wire.setevents import LookupWanted

STEP_BYTES = 8
"""What a step of a search counts for in a slice."""


class Search:
    """What one such lookup finds, and what finding it costs."""

    __slots__ = ("cost", "matches")

    def __init__(self, wanted: LookupWanted) -> None:
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

        self.matches = matches
