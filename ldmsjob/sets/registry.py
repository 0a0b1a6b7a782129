"""The sets that this daemon offers to its peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from ldmsjob.errors import SchemaError, SetExists
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.names import encode_name

MAX_INFO_BYTES = 254
"""Of a key or a value: what the announcement of a set has room for."""

RegistryChange = Literal["added", "removed", "changed"]
"""``changed``: what the directory says of a set is different now, such as its owner."""

RegistryObserver = Callable[[RegistryChange, MetricSet], None]


class SetRegistry:
    """Sets by instance name; tells observers what changes, synchronously and in order."""

    def __init__(self) -> None:
        self._sets: dict[str, MetricSet] = {}
        self._observers: tuple[RegistryObserver, ...] = ()

    def __len__(self) -> int:
        return len(self._sets)

    def __contains__(self, instance: str) -> bool:
        return instance in self._sets

    def __iter__(self) -> Iterator[MetricSet]:
        """All sets in name order, as they were when the iteration began."""
        sets = self._sets
        return iter([sets[name] for name in sorted(sets)])

    def names(self) -> list[str]:
        """The instance names in order."""
        return sorted(self._sets)

    def get(self, instance: str) -> MetricSet | None:
        """The set of that name, if it is offered."""
        return self._sets.get(instance)

    def add(self, metric_set: MetricSet) -> None:
        """Offer a set to peers. Raises ``SetExists`` when one of its name is offered."""
        instance = metric_set.instance
        if instance in self._sets:
            raise SetExists(f"there is a set {instance} already")
        self._sets[instance] = metric_set
        self._tell("added", metric_set)

    def remove(self, instance: str) -> MetricSet | None:
        """Withdraw a set and return it; None when there is none of that name.

        Whoever holds the set may go on reading it.
        """
        metric_set = self._sets.pop(instance, None)
        if not self._sets:
            self._sets.clear()  # else it stays as large as it ever was
        if metric_set is not None:
            self._tell("removed", metric_set)
        return metric_set

    def changed(self, instance: str) -> None:
        """Say that what the directory tells of a set has changed; nothing if it is not offered."""
        metric_set = self._sets.get(instance)
        if metric_set is not None:
            self._tell("changed", metric_set)

    def set_info(self, instance: str, key: str, value: str | None) -> None:
        """Tell one more thing of a set in the directory, such as ``updt_hint_us``; None takes it
        back. Nothing happens when that is known already or the set is not offered.

        Key and value are text without NUL of at most 254 bytes. Raises ``SchemaError``.
        """
        for text in (key, value or ""):
            if len(encode_name(text)) > MAX_INFO_BYTES:
                raise SchemaError(f"set info {text[:32]!r}… is longer than {MAX_INFO_BYTES} bytes")
        metric_set = self._sets.get(instance)
        if metric_set is None or metric_set.info.get(key) == value:
            return
        info = dict(metric_set.info)
        if value is None:
            del info[key]
        else:
            info[key] = value
        metric_set.info = info
        self._tell("changed", metric_set)

    def observe(self, observer: RegistryObserver) -> Callable[[], None]:
        """Call ``observer(change, metric_set)`` after each change, until the returned function is
        called. A removed set is no longer in the registry then."""
        self._observers = (*self._observers, observer)

        def stop() -> None:
            if observer in self._observers:
                at = self._observers.index(observer)
                self._observers = self._observers[:at] + self._observers[at + 1 :]

        return stop

    def _tell(self, change: RegistryChange, metric_set: MetricSet) -> None:
        for observer in self._observers:
            observer(change, metric_set)
