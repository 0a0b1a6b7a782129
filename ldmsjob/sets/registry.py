"""The sets that this daemon offers to its peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Literal, Protocol

from ldmsjob.errors import SchemaError, SetExists
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.names import encode_name

MAX_INFO_BYTES = 254
"""Of a key or a value: what the announcement of a set has room for."""

_metric_set = attrgetter("metric_set")

RegistryChange = Literal["added", "removed", "changed"]
"""``changed``: what the directory says of a set is different now, such as its owner."""


class Offer(Protocol):
    """What stands behind a name: a set, or what makes one when somebody asks for it."""

    @property
    def instance(self) -> str:
        """The name."""

    @property
    def made(self) -> MetricSet | None:
        """The set, if it was made."""

    @property
    def metric_set(self) -> MetricSet:
        """The set; the same one from the first time on that it is asked for."""


RegistryObserver = Callable[[RegistryChange, Offer], None]


class SetRegistry:
    """Sets by instance name; tells observers what changes, synchronously and in order."""

    def __init__(self) -> None:
        self._offers: dict[str, Offer] = {}
        self._observers: tuple[RegistryObserver, ...] = ()

    def __len__(self) -> int:
        return len(self._offers)

    def __contains__(self, instance: str) -> bool:
        return instance in self._offers

    def __iter__(self) -> Iterator[MetricSet]:
        """All sets in name order, as they were when the iteration began."""
        offers = self._offers
        return map(_metric_set, [offers[name] for name in sorted(offers)])

    def names(self) -> list[str]:
        """The instance names in order."""
        return sorted(self._offers)

    def get(self, instance: str) -> MetricSet | None:
        """The set of that name, if it is offered."""
        offer = self._offers.get(instance)
        return None if offer is None else offer.metric_set

    def offers(self, offer: Offer) -> bool:
        """Whether this is what stands behind its name."""
        return self._offers.get(offer.instance) is offer

    def add(self, offer: Offer) -> None:
        """Offer a set to peers. Raises ``SetExists`` when one of its name is offered."""
        instance = offer.instance
        if instance in self._offers:
            raise SetExists(f"there is a set {instance} already")
        self._offers[instance] = offer
        self._tell("added", offer)

    def remove(self, instance: str) -> None:
        """Withdraw a set; nothing when there is none of that name.

        Whoever holds the set may go on reading it.
        """
        offer = self._offers.pop(instance, None)
        if not self._offers:
            self._offers.clear()  # else it stays as large as it ever was
        if offer is not None:
            self._tell("removed", offer)

    def changed(self, instance: str) -> None:
        """Say that what the directory tells of a set has changed; nothing if it is not offered."""
        offer = self._offers.get(instance)
        if offer is not None:
            self._tell("changed", offer)

    def set_info(self, instance: str, key: str, value: str | None) -> None:
        """Tell one more thing of a set in the directory, such as ``updt_hint_us``; None takes it
        back. Nothing happens when that is known already or the set is not offered.

        Key and value are text without NUL of at most 254 bytes. Raises ``SchemaError``.
        """
        for text in (key, value or ""):
            if len(encode_name(text)) > MAX_INFO_BYTES:
                raise SchemaError(f"set info {text[:32]!r}… is longer than {MAX_INFO_BYTES} bytes")
        metric_set = self.get(instance)
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
        """Call ``observer(change, offer)`` after each change, until the returned function is
        called. A removed set is no longer in the registry then."""
        self._observers = (*self._observers, observer)

        def stop() -> None:
            if observer in self._observers:
                at = self._observers.index(observer)
                self._observers = self._observers[:at] + self._observers[at + 1 :]

        return stop

    def _tell(self, change: RegistryChange, offer: Offer) -> None:
        for observer in self._observers:
            observer(change, offer)
