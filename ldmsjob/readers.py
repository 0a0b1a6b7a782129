"""One link's use of our sets: what it was announced, and what it wants to hear of.

A ``Reader`` answers the requests of one link (docs/serving.md).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ldmsjob.ere import EreError
from ldmsjob.grants import Grant, key_of_id
from ldmsjob.permissions import READ, may_access
from ldmsjob.searches import Search
from ldmsjob.setdescription import directory_entry, info_of
from ldmsjob.slices import REQUEST_BYTES, Slices
from ldmsjob.wire.setevents import (
    READ_NOT_ALLOWED,
    READ_OK,
    READ_OUTSIDE,
    READ_UNKNOWN_KEY,
    SET_ADDED,
    AcknowledgeDeletion,
    AnnouncedSet,
    AnnounceSet,
    AnswerDirectory,
    AnswerReads,
    DeleteSet,
    DeletionAcknowledged,
    DeletionWanted,
    DirectoryCancelled,
    DirectoryEntry,
    DirectoryWanted,
    FailLookup,
    LookupWanted,
    Notify,
    NotifyCancelled,
    NotifyWanted,
    Push,
    PushCancelled,
    PushWanted,
    ReadAnswer,
    ReadsWanted,
    UpdateDirectory,
)

if TYPE_CHECKING:
    from ldmsjob.departures import Departures
    from ldmsjob.interfaces import ILink, IStats
    from ldmsjob.sets.metricset import MetricSet
    from ldmsjob.sets.registry import SetRegistry

ENTRY_BYTES = 512
ANNOUNCEMENT_BYTES = 256
COMPILE_BYTES = 32 * 1024
"""What an entry, an announcement and an expression count for in a slice."""


class Reader(Slices):
    """What the ``SetService`` keeps for one link."""

    def __init__(
        self,
        link: ILink,
        registry: SetRegistry,
        stats: IStats,
        departures: Departures,
        *,
        may_grant: Callable[[int], bool],
        may_wait: Callable[[int], bool],
        granted: Callable[[], None],
        wishes_changed: Callable[[Grant], None],
        deletion_settled: Callable[[Grant], None],
        continue_later: Callable[[Reader], None],
        is_due: Callable[[Grant], bool],
    ) -> None:
        super().__init__(link, stats, may_wait=may_wait, continue_later=continue_later)
        self.directory_xid: bytes | None = None
        """Of the request that asked for updates of the directory."""
        self._may_grant = may_grant
        self._registry = registry
        self._granted = granted
        self._wishes_changed = wishes_changed
        self._deletion_settled = deletion_settled
        self._is_due = is_due
        self._number = 0
        self._grants: dict[MetricSet, Grant] = {}
        self._by_key: dict[bytes, Grant] = {}
        self._leaving: dict[int, Grant] = {}
        self._departures = departures
        self._news: dict[MetricSet, int] = {}
        self._withheld: set[MetricSet] = set()
        self._behind: dict[Grant, None] = {}
        self._is_listing = False

    @property
    def grants(self) -> list[Grant]:
        """All that was announced to this link and is not deleted."""
        return list(self._grants.values())

    @property
    def handles(self) -> int:
        """How many sets it has looked up, deleted ones that it has not acknowledged included."""
        return len(self._by_key)

    @property
    def leaving(self) -> list[Grant]:
        """The deleted sets that this link has not said to be done with."""
        return list(self._leaving.values())

    def close(self) -> None:
        """The link has closed: let go of all that was kept for it."""
        for kept in (self._grants, self._by_key, self._leaving, self._behind):
            kept.clear()
        self.drop_requests()

    def answer(self, event: Any) -> Iterator[None] | None:
        """Answer one of the events that a ``SetService`` takes."""
        return _CALLS[type(event)](self, event)

    def link_has_room(self) -> None:
        """The peer has read all: go on, and tell what was kept back."""
        self.go_on()
        behind, self._behind = self._behind, {}
        for grant in behind:
            self.push(grant)
        self.tell_news()

    def _may_read(self, metric_set: MetricSet) -> bool:
        return may_access(
            self.link.credential, metric_set.uid, metric_set.gid, metric_set.perm, READ
        )

    # Directory

    def _directory(self, event: DirectoryWanted) -> Iterator[None]:
        """List the sets that there are now, in as many parts as slices are taken."""
        self._stats.add("directories")
        self._directory_cancelled(None)
        if event.updates:
            self.directory_xid = event.xid
        self._is_listing = True
        entries: list[DirectoryEntry] = []
        for metric_set in self._registry:
            if entries and self.is_used_up():
                self.link.send(AnswerDirectory(event.xid, entries, more=True))
                entries = []
                yield
            if self._registry.get(metric_set.instance) is not metric_set:
                continue
            if self._may_read(metric_set):
                self.spent += ENTRY_BYTES
                entries.append(directory_entry(metric_set))
            elif event.updates:
                self._withheld.add(metric_set)
        self._is_listing = False
        self.link.send(AnswerDirectory(event.xid, entries))
        self.tell_news()

    def _directory_cancelled(self, _event: object) -> None:
        self.directory_xid = None
        self._news.clear()
        self._withheld.clear()

    def note(self, metric_set: MetricSet, kind: int) -> None:
        """Keep in mind that a set was added or changed, for ``tell_news``."""
        self._news.setdefault(metric_set, kind)

    def tell_news(self) -> None:
        """Tell of the sets that were added or changed, if the peer wants to know and reads.

        A set comes only after the peer is done with an earlier one of its name: readers take what
        they still have for what they are told of.
        """
        xid = self.directory_xid
        if xid is None or not self._news or self._is_listing or not self.link.has_room():
            return
        kept: dict[MetricSet, int] = {}
        for metric_set, kind in self._news.items():
            if metric_set.instance in self._departures:
                kept[metric_set] = kind
            elif not self._may_read(metric_set):
                if kind == SET_ADDED:
                    self._withheld.add(metric_set)
            else:
                if metric_set in self._withheld:
                    self._withheld.discard(metric_set)
                    kind = SET_ADDED
                self._stats.add("directory_updates")
                self.link.send(UpdateDirectory(xid, kind, directory_entry(metric_set)))
        self._news = kept

    # Lookup

    def _look_up(self, event: LookupWanted) -> Iterator[None] | None:
        self._stats.add("lookups")
        path = event.path
        if not event.by_schema and not event.is_regex:
            metric_set = self._registry.get(path)
            if metric_set is None or not self._may_read(metric_set):
                self._fail(event.xid, errno.ENOENT)
            else:
                self._announce(event.xid, metric_set, more=False)
            return None
        if event.is_regex:
            self.spent += COMPILE_BYTES
        try:
            return self._announce_all(event.xid, Search(event))
        except EreError:
            self._fail(event.xid, errno.EINVAL)
            return None

    def _announce_all(self, xid: bytes, search: Search) -> Iterator[None]:
        """Announce what a search finds: each once it is known whether more follow."""
        found: MetricSet | None = None
        for metric_set in self._registry:
            if self.is_used_up():
                yield
            self.spent += search.cost * len(metric_set.instance)
            if not search.matches(metric_set) or not self._is_there(metric_set):
                continue
            found, before = metric_set, found
            if before is None or not self._is_there(before):
                continue
            if not self._announce(xid, before, more=True):
                return
        if found is not None and self._is_there(found):
            self._announce(xid, found, more=False)
        else:
            self._fail(xid, errno.ENOENT)

    def _is_there(self, metric_set: MetricSet) -> bool:
        return self._registry.get(metric_set.instance) is metric_set and self._may_read(metric_set)

    def _fail(self, xid: bytes, rc: int) -> None:
        self._stats.add("lookups_failed")
        self.link.send(FailLookup(xid, rc))

    def _announce(self, xid: bytes, metric_set: MetricSet, more: bool) -> bool:
        """Announce a set; False when the link has too many, which ends the lookup."""
        grant = self._grants.get(metric_set)
        if grant is None:
            if not self._may_grant(len(self._by_key)):
                self._stats.add("refused.handles")
                self._fail(xid, errno.ENOMEM)
                return False
            grant = self._new_grant(metric_set)
        self._stats.add("announced")
        self.spent += ANNOUNCEMENT_BYTES
        layout, schema = metric_set.layout, metric_set.schema
        announced = AnnouncedSet(
            key=grant.key,
            address=grant.address,
            set_id=grant.set_id,
            meta_size=layout.meta_size,
            data_size=layout.data_size,
            card=len(schema.metrics),
            array_card=schema.array_card,
            schema=schema.name,
            instance=metric_set.instance,
            info=info_of(metric_set),
        )
        self.link.send(AnnounceSet(xid, announced, more))
        return True

    def _new_grant(self, metric_set: MetricSet) -> Grant:
        self._number += 1
        grant = Grant(self, metric_set, self._number)
        self._grants[metric_set] = grant
        self._by_key[grant.key] = grant
        self._granted()
        return grant

    def grant_of(self, metric_set: MetricSet) -> Grant | None:
        """What the link was given of a set that it has looked up."""
        return self._grants.get(metric_set)

    def _grant_of_id(self, set_id: bytes) -> Grant | None:
        """The same, by what the peer calls it."""
        grant = self._by_key.get(key_of_id(set_id))
        return None if grant is None or grant.number in self._leaving else grant

    # Reading

    def _read(self, event: ReadsWanted) -> Iterator[None]:
        """Answer reads: those that one slice has room for together."""
        credential = self.link.credential
        grant_of = self._by_key.get
        answers: list[ReadAnswer] = []
        for read in event.reads:
            if answers and self.is_used_up():
                self._send_data(answers)
                answers = []
                yield
            self.spent += REQUEST_BYTES
            grant = grant_of(read.key)
            if grant is None:
                answers.append((read, READ_UNKNOWN_KEY, b""))
                continue
            one = grant.metric_set
            if not may_access(credential, one.uid, one.gid, one.perm, READ):
                answers.append((read, READ_NOT_ALLOWED, b""))
                continue
            length = read.length
            offset = read.address - grant.address
            image = one.image
            if offset < 0 or offset + length > len(image):
                answers.append((read, READ_OUTSIDE, b""))
            else:
                answers.append((read, READ_OK, memoryview(image)[offset : offset + length]))
                self.spent += length
        self._send_data(answers)

    def _send_data(self, answers: list[ReadAnswer]) -> None:
        """Answer reads, and count them."""
        refused = [status for _, status, _ in answers if status != READ_OK]
        for status in refused:
            self._stats.add(f"reads_refused.{status}")
        self._stats.add("reads", len(answers) - len(refused))
        self._stats.add("read_bytes", sum([len(data) for _, _, data in answers]))
        self.link.send(AnswerReads(answers))

    # Pushes and notifications

    def _push_wanted(self, event: PushWanted) -> None:
        grant = self._grant_of_id(event.set_id)
        if grant is None:
            self._stats.add("refused.push")
            return
        grant.push_id = event.push_id
        grant.on_change = event.on_change
        grant.pushed_meta_gn = 0
        if self._may_read(grant.metric_set):
            self._wishes_changed(grant)
        else:
            self._stats.add("refused.push")
            self._push_no_longer(grant)

    def _push_cancelled(self, event: PushCancelled) -> None:
        grant = self._grant_of_id(event.set_id)
        if grant is not None:
            self._push_no_longer(grant)

    def push(self, grant: Grant) -> None:
        """Push a set, if that is wanted: all of it, or the current copy of its data alone.

        A peer that does not read gets it, as it is then, when it has read all.
        """
        push_id = grant.push_id
        if push_id is None:
            return
        metric_set = grant.metric_set
        if not self._may_read(metric_set):
            self._push_no_longer(grant)
            return
        if not self.link.has_room():
            self._behind[grant] = None
            self._stats.add("pushes_put_off")
            return
        self._push_now(grant, push_id)

    def _push_now(self, grant: Grant, push_id: bytes) -> None:
        metric_set = grant.metric_set
        view = memoryview(metric_set.image)
        offset = 0
        if grant.pushed_meta_gn == metric_set.meta_generation:
            offset = metric_set.copy_offset
            view = view[offset : offset + metric_set.layout.data_size]
        grant.pushed_meta_gn = metric_set.meta_generation
        self._stats.add("pushes")
        self._stats.add("push_bytes", len(view))
        self.link.send(Push(push_id, offset, view))

    def _push_no_longer(self, grant: Grant) -> None:
        push_id, grant.push_id = grant.push_id, None
        if push_id is not None:
            self._behind.pop(grant, None)
            self._wishes_changed(grant)
            self.link.send(Push(push_id, 0, b"", last=True))

    def _notify_wanted(self, event: NotifyWanted) -> None:
        grant = self._grant_of_id(event.set_id)
        if grant is None or not self._may_read(grant.metric_set):
            self._stats.add("refused.notify")
            return
        grant.notify = event
        self._wishes_changed(grant)

    def _notify_cancelled(self, event: NotifyCancelled) -> None:
        grant = self._grant_of_id(event.set_id)
        if grant is not None:
            grant.notify = None
            self._wishes_changed(grant)

    def notify(self, grant: Grant, what: int, data: bytes = b"") -> None:
        """Notify of what happened to a set, if that is wanted and the peer reads."""
        if grant.notify is None or not grant.notifies(what):
            return
        if not self._may_read(grant.metric_set):
            return
        if not self.link.has_room():
            self._stats.add("notifications_dropped")
            return
        self._stats.add("notifications")
        self.link.send(Notify(grant.notify.xid, what, data))

    # Deletion

    def forget_set(self, metric_set: MetricSet) -> None:
        """A set was removed: nothing is to be told of it any more."""
        self._news.pop(metric_set, None)
        self._withheld.discard(metric_set)

    def delete(self, grant: Grant) -> None:
        """A set that was announced was removed. The reader has its memory for a while yet."""
        metric_set = grant.metric_set
        if self._is_due(grant):
            self.push(grant)
        self._push_no_longer(grant)
        grant.notify = None
        del self._grants[metric_set]
        self._leaving[grant.number] = grant
        self._departures.begin(grant)
        self._stats.add("deletions")
        self.link.send(DeleteSet(grant.number, metric_set.instance))

    def end_deletion(self, grant: Grant) -> None:
        """The memory of a removed set goes: reads of it are answered no longer."""
        del self._leaving[grant.number], self._by_key[grant.key]
        self._departures.end(grant)

    def _deletion_acknowledged(self, event: DeletionAcknowledged) -> None:
        grant = self._leaving.get(event.token)
        if grant is None:
            self._stats.add("refused.deletion_acknowledged")
            return
        self._stats.add("deletions_acknowledged")
        self._deletion_settled(grant)
        self.end_deletion(grant)

    def _deletion_wanted(self, event: DeletionWanted) -> None:
        """We have looked nothing up: that set is not in use here."""
        self._stats.add("refused.deletion")
        self.link.send(AcknowledgeDeletion(event.xid))


_CALLS: dict[type[Any], Callable[[Reader, Any], Iterator[None] | None]] = {
    ReadsWanted: Reader._read,
    LookupWanted: Reader._look_up,
    DirectoryWanted: Reader._directory,
    DirectoryCancelled: Reader._directory_cancelled,
    PushWanted: Reader._push_wanted,
    PushCancelled: Reader._push_cancelled,
    NotifyWanted: Reader._notify_wanted,
    NotifyCancelled: Reader._notify_cancelled,
    DeletionAcknowledged: Reader._deletion_acknowledged,
    DeletionWanted: Reader._deletion_wanted,
}
"""What answers each request. Not bound: a reader must not refer to itself."""
