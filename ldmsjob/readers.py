"""One link's use of our sets: what it was announced, and what it wants to hear of.

A ``Reader`` answers the requests of one link in their order. What an answer takes, in bytes to send
and in time to search, is counted against the slice that a link has in one turn; what goes beyond,
or comes from a peer that does not read our answers, waits (docs/serving.md, Links that ask much).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ldmsjob.ere import EreError
from ldmsjob.grants import Grant
from ldmsjob.permissions import READ, may_access
from ldmsjob.searches import Search
from ldmsjob.setdescription import directory_entry, info_of
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
    AnswerRead,
    DeleteSet,
    DeletionAcknowledged,
    DeletionWanted,
    DirectoryCancelled,
    DirectoryWanted,
    FailLookup,
    LookupWanted,
    Notify,
    NotifyCancelled,
    NotifyWanted,
    Push,
    PushCancelled,
    PushWanted,
    ReadWanted,
    UpdateDirectory,
)

if TYPE_CHECKING:
    from ldmsjob.departures import Departures
    from ldmsjob.interfaces import ILink, IStats
    from ldmsjob.sets.metricset import MetricSet
    from ldmsjob.sets.registry import SetRegistry

SLICE_BYTES = 1024 * 1024
"""What one link may take in one turn; an answer that was begun is finished."""

ENTRY_BYTES = 512
ANNOUNCEMENT_BYTES = 256
COMPILE_BYTES = 32 * 1024
REQUEST_BYTES = 64
"""What an entry, an announcement, an expression and any request count for in a slice; a request
that waits counts for its bytes, too, and for what it searches for."""


class Reader:
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
        granted: Callable[[Grant], None],
        wishes_changed: Callable[[Grant], None],
        deletion_settled: Callable[[Grant], None],
        continue_later: Callable[[Reader], None],
        is_due: Callable[[Grant], bool],
    ) -> None:
        self.link = link
        self.directory_xid: bytes | None = None
        """Of the request that asked for updates of the directory."""
        self.spent = 0
        """Of this turn's slice."""
        self._may_grant = may_grant
        self._may_wait = may_wait
        self._registry = registry
        self._stats = stats
        self._granted = granted
        self._wishes_changed = wishes_changed
        self._deletion_settled = deletion_settled
        self._continue_later = continue_later
        self._is_due = is_due
        self._number = 0
        self._grants: dict[MetricSet, Grant] = {}
        self._by_key: dict[bytes, Grant] = {}
        self._by_set_id: dict[bytes, Grant] = {}
        self._leaving: dict[int, Grant] = {}
        self._departures = departures
        self._news: dict[MetricSet, int] = {}
        self._withheld: set[MetricSet] = set()
        self._behind: dict[Grant, None] = {}
        self._waiting: deque[Any] = deque()
        self._waiting_bytes = 0
        self._search: Search | None = None

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
        for kept in (self._grants, self._by_key, self._by_set_id, self._leaving, self._behind):
            kept.clear()
        self._waiting.clear()
        self._search = None

    # Requests

    def take(self, event: Any) -> None:
        """Answer a request, now or when those before it are answered."""
        if not self._waiting and self._search is None and self._may_go_on():
            _CALLS[type(event)](self, event)
            self.spent += REQUEST_BYTES
        elif self._may_wait(self._waiting_bytes + _size(event)):
            self._waiting.append(event)
            self._waiting_bytes += _size(event)
        else:
            self._waiting.clear()
            self._waiting_bytes = 0
            self._stats.add("refused.waiting")
            self.link.abort("does not read: too many of its requests wait for answers")

    def go_on(self) -> None:
        """Answer what waits, as much as a slice has room for."""
        while self._may_go_on():
            if self._search is not None:
                self._advance(self._search)
            elif self._waiting:
                event = self._waiting.popleft()
                self._waiting_bytes -= _size(event)
                _CALLS[type(event)](self, event)
                self.spent += REQUEST_BYTES
            else:
                return

    def end_slice(self) -> None:
        """A turn is over. What waits goes on in the next, or when the peer has read."""
        self.spent = 0
        if (self._waiting or self._search is not None) and self.link.has_room():
            self._continue_later(self)

    def link_has_room(self) -> None:
        """The peer has read all: go on, and tell what was kept back."""
        self.go_on()
        behind, self._behind = self._behind, {}
        for grant in behind:
            self.push(grant)
        self.tell_news()

    def _may_go_on(self) -> bool:
        return self.spent < SLICE_BYTES and self.link.has_room()

    def _may_read(self, metric_set: MetricSet) -> bool:
        return may_access(
            self.link.credential, metric_set.uid, metric_set.gid, metric_set.perm, READ
        )

    # Directory

    def _directory(self, event: DirectoryWanted) -> None:
        self._stats.add("directories")
        readable = []
        self._directory_cancelled(None)
        for metric_set in self._registry:
            if self._may_read(metric_set):
                readable.append(metric_set)
            elif event.updates:
                self._withheld.add(metric_set)
        if event.updates:
            self.directory_xid = event.xid
        self.spent += ENTRY_BYTES * len(readable)
        self.link.send(AnswerDirectory(event.xid, [directory_entry(one) for one in readable]))

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
        if xid is None or not self._news or not self.link.has_room():
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

    def _look_up(self, event: LookupWanted) -> None:
        self._stats.add("lookups")
        path = event.path
        if not event.by_schema and not event.is_regex:
            metric_set = self._registry.get(path)
            if metric_set is None or not self._may_read(metric_set):
                self._fail(event.xid, errno.ENOENT)
            else:
                self._announce(event.xid, metric_set, more=False)
            return
        if event.is_regex:
            self.spent += COMPILE_BYTES
        try:
            self._search = search = Search(event, self._registry)
        except EreError:
            self._fail(event.xid, errno.EINVAL)
            return
        self._advance(search)

    def _advance(self, search: Search) -> None:
        """Go on with a search until it has found all, or the slice is used up."""
        while self._may_go_on():
            metric_set = next(search.sets, None)
            if metric_set is None:
                self._finish(search)
                return
            self.spent += search.cost * len(metric_set.instance)
            if search.matches(metric_set) and self._is_there(metric_set):
                found, search.found = search.found, metric_set
                if found is None or not self._is_there(found):
                    continue
                if not self._announce(search.wanted.xid, found, more=True):
                    self._search = None
                    return

    def _finish(self, search: Search) -> None:
        self._search = None
        if search.found is not None and self._is_there(search.found):
            self._announce(search.wanted.xid, search.found, more=False)
        else:
            self._fail(search.wanted.xid, errno.ENOENT)

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
        self._by_set_id[grant.set_id] = grant
        self._granted(grant)
        return grant

    # Reading

    def _read(self, event: ReadWanted) -> None:
        grant = self._by_key.get(event.key)
        data: bytes | memoryview = b""
        if grant is None:
            status = READ_UNKNOWN_KEY
        elif not self._may_read(grant.metric_set):
            status = READ_NOT_ALLOWED
        else:
            offset = event.address - grant.address
            end = offset + event.length
            image = grant.metric_set.image
            if offset < 0 or end > len(image):
                status = READ_OUTSIDE
            else:
                status = READ_OK
                data = memoryview(image)[offset:end]
                self.spent += event.length
                self._stats.add("read_bytes", event.length)
        self._stats.add("reads" if status == READ_OK else f"reads_refused.{status}")
        self.link.send(AnswerRead(event, status, data))

    # Pushes and notifications

    def _push_wanted(self, event: PushWanted) -> None:
        grant = self._by_set_id.get(event.set_id)
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
        grant = self._by_set_id.get(event.set_id)
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
        grant = self._by_set_id.get(event.set_id)
        if grant is None or not self._may_read(grant.metric_set):
            self._stats.add("refused.notify")
            return
        grant.notify = event
        self._wishes_changed(grant)

    def _notify_cancelled(self, event: NotifyCancelled) -> None:
        grant = self._by_set_id.get(event.set_id)
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
        del self._grants[metric_set], self._by_set_id[grant.set_id]
        self._leaving[grant.token] = grant
        self._departures.begin(grant)
        self._stats.add("deletions")
        self.link.send(DeleteSet(grant.token, metric_set.instance))

    def end_deletion(self, grant: Grant) -> None:
        """The memory of a removed set goes: reads of it are answered no longer."""
        del self._leaving[grant.token], self._by_key[grant.key]
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


def _size(event: Any) -> int:
    """What a request that waits counts for."""
    return REQUEST_BYTES + (len(event.path) if type(event) is LookupWanted else 0)


_CALLS: dict[type[Any], Callable[[Reader, Any], None]] = {
    ReadWanted: Reader._read,
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
