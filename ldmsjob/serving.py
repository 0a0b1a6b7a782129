"""Serves the daemon's sets to its peers: directory, lookup, reading, pushes, deletion.

One ``SetService`` answers for all links from one ``SetRegistry``; docs/serving.md says what readers
may rely on. What a single link has asked for is kept in its ``Reader``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ldmsjob.departures import Departures
from ldmsjob.grants import Grant
from ldmsjob.limits import Limits
from ldmsjob.readers import Reader
from ldmsjob.wire.setevents import (
    NOTIFY_MODIFIED,
    NOTIFY_USER_DATA,
    SET_ADDED,
    SET_CHANGED,
    DeletionAcknowledged,
    DeletionWanted,
    DirectoryCancelled,
    DirectoryWanted,
    LookupWanted,
    NotifyCancelled,
    NotifyWanted,
    PushCancelled,
    PushWanted,
    ReadsWanted,
)

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from ldmsjob.interfaces import ILink, IRail, IStats
    from ldmsjob.sets.metricset import MetricSet
    from ldmsjob.sets.registry import Offer, RegistryChange, SetRegistry
    from ldmsjob.turns import Turn

DELETE_SECONDS = 60.0
"""How long the memory of a deleted set stays for a reader that does not say to be done with it."""

EVENTS: tuple[type[Any], ...] = (
    DirectoryWanted,
    DirectoryCancelled,
    LookupWanted,
    ReadsWanted,
    PushWanted,
    PushCancelled,
    NotifyWanted,
    NotifyCancelled,
    DeletionAcknowledged,
    DeletionWanted,
)
"""The wire events that a ``SetService`` takes."""


class SetService:
    """Answers what links ask about the sets of a registry, and tells them of changes.

    ``now`` gives monotonic seconds; ``clock`` makes the calls.

    Counters: ``directories``, ``directory_updates``, ``lookups``, ``lookups_failed``,
    ``announced``, ``reads``, ``read_bytes``, ``reads_refused.<status>``, ``pushes``,
    ``push_bytes``, ``pushes_put_off``, ``notifications``, ``notifications_dropped``, ``deletions``,
    ``deletions_acknowledged``, ``deletions_timed_out`` and ``refused.<what>``.
    """

    def __init__(
        self,
        registry: SetRegistry,
        stats: IStats,
        turn: Turn,
        clock: IReactorTime,
        *,
        now: Callable[[], float] = time.monotonic,
        delete_seconds: float = DELETE_SECONDS,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        """May be set at any time."""
        self.handles = 0
        """Sets that links have looked up, deleted ones that they have not acknowledged included."""
        self._registry = registry
        self._stats = stats
        self._turn = turn
        self._clock = clock
        self._now = now
        self._delete_seconds = delete_seconds
        self._readers: dict[ILink, Reader] = {}
        self._departures: dict[ILink | IRail, Departures] = {}
        self._changed: dict[MetricSet, None] = {}
        self._leaving: dict[Grant, float] = {}  # the one that is due first comes first
        self._expiry: IDelayedCall | None = None
        self._unfinished: dict[Reader, None] = {}
        self._next_slice: IDelayedCall | None = None
        self._stop_observing = registry.observe(self._registry_changed)

    def close(self) -> None:
        """Serve no more. Links are to be closed by their owner."""
        self._stop_observing()
        for link in list(self._readers):
            self.forget_link(link)
        if self._next_slice is not None:
            self._next_slice.cancel()
            self._next_slice = None

    # What links bring

    def take(self, link: ILink, event: Any) -> None:
        """Deal with one of ``EVENTS``. To be called inside a turn."""
        reader = self._readers.get(link)
        if reader is None:
            reader = self._readers[link] = self._new_reader(link)
        reader.take(event)
        self._turn.at_end(reader.end_slice)

    def link_has_room(self, link: ILink) -> None:
        """All that was buffered for a peer has gone out."""
        reader = self._readers.get(link)
        if reader is not None:
            reader.link_has_room()
            self._turn.at_end(reader.end_slice)

    def forget_link(self, link: ILink) -> None:
        """A link has closed."""
        reader = self._readers.pop(link, None)
        if reader is None:
            return
        self.handles -= reader.handles
        for grant in reader.leaving:
            self._leaving.pop(grant, None)
        grants = reader.grants
        reader.close()
        for grant in grants:
            if grant.wants_changes:
                self._watch(grant.metric_set)
        if self._departures[link.rail or link].leave(reader):
            del self._departures[link.rail or link]
        self._set_expiry()

    # What the daemon asks for

    def push(self, metric_set: MetricSet) -> None:
        """Push a set to all who have asked for pushes of it, changed or not."""
        self._changed.pop(metric_set, None)
        for grant in self._grants_of(metric_set):
            grant.reader.push(grant)

    def notify(self, metric_set: MetricSet, data: bytes) -> None:
        """Notify all who have asked for it, with data that mean something to them."""
        for grant in self._grants_of(metric_set):
            grant.reader.notify(grant, NOTIFY_USER_DATA, data)

    def _grants_of(self, metric_set: MetricSet) -> list[Grant]:
        """What links were given of a set. Asked for seldom, so it is not kept."""
        found = [reader.grant_of(metric_set) for reader in self._readers.values()]
        return [grant for grant in found if grant is not None]

    # The registry

    def _registry_changed(self, change: RegistryChange, offer: Offer) -> None:
        if change == "removed":
            if offer.made is not None:
                self._removed(offer.made)
            return
        kind = SET_ADDED if change == "added" else SET_CHANGED
        for reader in self._readers.values():
            if reader.directory_xid is not None:
                reader.note(offer.metric_set, kind)
                self._turn.at_end(reader.tell_news)

    def _removed(self, metric_set: MetricSet) -> None:
        for reader in self._readers.values():
            reader.forget_set(metric_set)
        grants = self._grants_of(metric_set)
        if not grants:
            return
        deadline = self._now() + self._delete_seconds
        for grant in grants:
            grant.reader.delete(grant)
            self._leaving[grant] = deadline
        self._changed.pop(metric_set, None)
        metric_set.watcher = None
        self._set_expiry()

    # What readers report

    def _new_reader(self, link: ILink) -> Reader:
        departures = self._departures.setdefault(link.rail or link, Departures())
        reader = Reader(
            link,
            self._registry,
            self._stats,
            departures,
            may_grant=self._may_grant,
            may_wait=lambda waiting: waiting <= self.limits.waiting_bytes,
            granted=self._granted,
            wishes_changed=self._wishes_changed,
            deletion_settled=self._deletion_settled,
            continue_later=self._continue_later,
            is_due=lambda grant: grant.metric_set in self._changed and grant.on_change,
        )
        departures.readers[reader] = None
        return reader

    def _may_grant(self, handles: int) -> bool:
        """Whether a link with so many handles may have another one."""
        limits = self.limits
        return handles < limits.lookups_per_link and self.handles < limits.lookups

    def _granted(self) -> None:
        self.handles += 1

    def _wishes_changed(self, grant: Grant) -> None:
        self._watch(grant.metric_set)

    def _watch(self, metric_set: MetricSet) -> None:
        """Have a set's transactions watched only where somebody wants to hear of them."""
        wanted = any(grant.wants_changes for grant in self._grants_of(metric_set))
        metric_set.watcher = self._set_changed if wanted else None

    # Pushes on change

    def _set_changed(self, metric_set: MetricSet) -> None:
        self._changed[metric_set] = None
        self._turn.at_end(self._tell_changes)

    def _tell_changes(self) -> None:
        changed, self._changed = self._changed, {}
        for metric_set in changed:
            for grant in self._grants_of(metric_set):
                if grant.on_change:
                    grant.reader.push(grant)
                grant.reader.notify(grant, NOTIFY_MODIFIED)

    # Deleted sets

    def _deletion_settled(self, grant: Grant) -> None:
        self.handles -= 1
        self._leaving.pop(grant, None)
        if not self._leaving:
            self._set_expiry()

    def _set_expiry(self) -> None:
        """One timer for all: the next deadline. It is moved only when it rings."""
        if not self._leaving:
            if self._expiry is not None:
                self._expiry.cancel()
                self._expiry = None
        elif self._expiry is None:
            delay = max(0.0, next(iter(self._leaving.values())) - self._now())
            self._expiry = self._clock.callLater(delay, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        now = self._now()
        with self._turn:
            while self._leaving:
                grant = next(iter(self._leaving))
                if self._leaving[grant] > now:
                    break
                del self._leaving[grant]
                self._stats.add("deletions_timed_out")
                self.handles -= 1
                grant.reader.end_deletion(grant)
        self._set_expiry()

    # Slices

    def _continue_later(self, reader: Reader) -> None:
        self._unfinished[reader] = None
        if self._next_slice is None:
            self._next_slice = self._clock.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._next_slice = None
        unfinished, self._unfinished = self._unfinished, {}
        for reader in unfinished:
            with self._turn:
                reader.go_on()
                self._turn.at_end(reader.end_slice)
