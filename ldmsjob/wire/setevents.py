"""What a link carries about metric sets: wire events and commands of the set owner and the reader.

A *token* is chosen by whoever asks and comes back with each answer; it must be unique among that
side's open requests of one kind on the link. A *handle* is chosen by the owner of a set, for one
link, and is good on that link only.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

READ_OK, READ_UNKNOWN_KEY, READ_OUTSIDE, READ_NOT_ALLOWED = 0, 17, 18, 19
"""Status of an answer to a read: the transport's own codes (docs/wire.md, Reading memory)."""

SET_ADDED, SET_DELETED, SET_CHANGED = 2, 1, 3
"""Kinds of directory update."""

NOTIFY_ALL, NOTIFY_MODIFIED, NOTIFY_USER_DATA = 0, 1, 2
"""What a reader wants to be notified of; and, but for the first, what a notification is about."""


class Time(msgspec.Struct, frozen=True, gc=False):
    """A time or duration as the directory has it."""

    sec: int = 0
    usec: int = 0


class Info(msgspec.Struct, frozen=True, gc=False):
    """One key and value of a set's info."""

    key: str
    value: str


class DirectoryEntry(msgspec.Struct, frozen=True, gc=False):
    """One set in a directory, with the members and names of the directory's JSON."""

    name: str
    schema: str = ""
    digest: str = ""
    flags: str = "   "
    """Consistent ``C``, local ``L`` or remote ``R``, pushed ``P``; else blanks."""
    meta_size: int = 0
    data_size: int = 0
    heap_size: int = 0
    uid: int = 0
    gid: int = 0
    perm: str = "----------"
    card: int = 0
    array_card: int = 1
    meta_gn: int = 0
    data_gn: int = 0
    timestamp: Time = Time()
    duration: Time = Time()
    info: Sequence[Info] = ()


class AnnouncedSet(msgspec.Struct, frozen=True):
    """A set's memory as its owner announces it to one reader."""

    key: bytes
    """4 bytes that a read of this memory quotes."""
    address: int
    """What the reader adds offsets to. No true address."""
    set_id: bytes
    """8 bytes by which the reader names the set in requests for pushes and notifications."""
    meta_size: int
    data_size: int
    """Bytes of one copy of the data, its heap included."""
    card: int
    array_card: int
    schema: str
    instance: str
    info: Sequence[Info] = ()


# What the owner of sets hears


class DirectoryWanted(msgspec.Struct, frozen=True, gc=False):
    """List the sets. With ``updates`` also tell of changes from now on; without, no longer."""

    xid: bytes
    updates: bool


class DirectoryCancelled(msgspec.Struct, frozen=True, gc=False):
    """Tell of changes no longer. Already answered."""


class LookupWanted(msgspec.Struct, frozen=True, gc=False):
    """Announce the sets of that instance name, or schema name, or those that a regex finds."""

    xid: bytes
    path: str
    by_schema: bool
    is_regex: bool


class Read(msgspec.Struct, frozen=True, gc=False):
    """One read of announced memory."""

    xid: bytes
    context: bytes
    key: bytes
    address: int
    length: int


ReadAnswer = tuple[Read, int, bytes | memoryview]
"""What was asked, a status, and the data: none unless the status is ``READ_OK``."""


class ReadsWanted(msgspec.Struct, frozen=True, gc=False):
    """Read announced memory. Each of ``reads`` must be answered, in order. Those that follow one
    another directly come together."""

    reads: list[Read]


class PushWanted(msgspec.Struct, frozen=True, gc=False):
    """Push the set from now on; replaces an earlier wish for the same set."""

    set_id: bytes
    push_id: bytes
    on_change: bool
    """At the end of every transaction; without, only when the owner decides to."""


class PushCancelled(msgspec.Struct, frozen=True, gc=False):
    """Push it no longer; to be answered by a last ``Push`` where there was a wish."""

    set_id: bytes


class NotifyWanted(msgspec.Struct, frozen=True, gc=False):
    """Notify of what happens to a set."""

    xid: bytes
    set_id: bytes
    what: int


class NotifyCancelled(msgspec.Struct, frozen=True, gc=False):
    """Notify no longer."""

    set_id: bytes


class DeletionAcknowledged(msgspec.Struct, frozen=True, gc=False):
    """The reader uses the set no longer: its memory may go."""

    token: int


# What the owner of sets says


class AnswerDirectory(msgspec.Struct, frozen=True, gc=False):
    """Sets, in as many parts as frames need; ``more`` when further ones follow. A refusal is a
    directory without sets: C programs cannot take an errno there."""

    xid: bytes
    entries: Sequence[DirectoryEntry] = ()
    more: bool = False


class UpdateDirectory(msgspec.Struct, frozen=True):
    """One set was added or changed. ``xid`` is that of the ``DirectoryWanted``."""

    xid: bytes
    kind: int
    entry: DirectoryEntry


class AnnounceSet(msgspec.Struct, frozen=True):
    """Answer a lookup with one set; ``more`` when further ones follow."""

    xid: bytes
    announced: AnnouncedSet
    more: bool = False


class FailLookup(msgspec.Struct, frozen=True, gc=False):
    """Answer a lookup with an errno."""

    xid: bytes
    rc: int


class AnswerReads(msgspec.Struct, frozen=True, gc=False):
    """Answer reads, as many at once as one likes. Data are copied before ``send`` returns."""

    answers: Sequence[ReadAnswer]


class Push(msgspec.Struct, frozen=True):
    """Push part of a set's image. ``last``: the wish has ended. Split as frames need."""

    push_id: bytes
    offset: int
    data: bytes | memoryview = b""
    last: bool = False


class Notify(msgspec.Struct, frozen=True, gc=False):
    """Something happened to a set. ``xid`` is that of the ``NotifyWanted``."""

    xid: bytes
    what: int
    data: bytes = b""


class DeleteSet(msgspec.Struct, frozen=True, gc=False):
    """A set that this reader looked up is going; answered by ``DeletionAcknowledged``."""

    token: int
    instance: str


# What a reader asks


class WantDirectory(msgspec.Struct, frozen=True, gc=False):
    """List the peer's sets, and tell of changes if ``updates``."""

    token: int
    updates: bool = False


class CancelDirectory(msgspec.Struct, frozen=True, gc=False):
    """Want no more updates."""

    token: int


class LookUp(msgspec.Struct, frozen=True, gc=False):
    """Have sets announced."""

    token: int
    path: str
    by_schema: bool = False
    is_regex: bool = False


class ReadMemory(msgspec.Struct, frozen=True, gc=False):
    """Read announced memory: ``length`` bytes from ``offset`` on."""

    token: int
    announced: AnnouncedSet
    offset: int
    length: int


class WantPush(msgspec.Struct, frozen=True, gc=False):
    """Have a set pushed; ``push_id`` are 8 bytes that come with each push."""

    announced: AnnouncedSet
    push_id: bytes
    on_change: bool = True


class CancelPush(msgspec.Struct, frozen=True, gc=False):
    """Have it pushed no longer; a last ``Pushed`` answers."""

    set_id: bytes


class WantNotify(msgspec.Struct, frozen=True, gc=False):
    """Be notified of what happens to a set."""

    token: int
    set_id: bytes
    what: int = NOTIFY_ALL


class CancelNotify(msgspec.Struct, frozen=True, gc=False):
    """Be notified no longer."""

    set_id: bytes


class AcknowledgeDeletion(msgspec.Struct, frozen=True, gc=False):
    """We use the set no longer."""

    xid: bytes


# What a reader hears


class DirectoryAnswered(msgspec.Struct, frozen=True):
    """A part of the directory. ``more``: further parts follow."""

    token: int
    entries: Sequence[DirectoryEntry]
    rc: int = 0
    more: bool = False


class DirectoryUpdated(msgspec.Struct, frozen=True):
    """Sets were added, changed, or (by old peers only) deleted."""

    token: int
    kind: int
    entries: Sequence[DirectoryEntry]


class SetAnnounced(msgspec.Struct, frozen=True):
    """A set that a lookup found."""

    token: int
    announced: AnnouncedSet
    more: bool


class LookupFailed(msgspec.Struct, frozen=True, gc=False):
    """A lookup found nothing that we may read (errno 2), or was wrong (22)."""

    token: int
    rc: int


class MemoryRead(msgspec.Struct, frozen=True, gc=False):
    """The answer to a read; ``data`` is empty unless ``status`` is 0."""

    token: int
    status: int
    data: bytes


class Pushed(msgspec.Struct, frozen=True, gc=False):
    """Part of a set's image. ``more``: apply it and wait for the rest. ``last``: no more pushes."""

    push_id: bytes
    offset: int
    data: bytes
    more: bool
    last: bool


class DeletionWanted(msgspec.Struct, frozen=True, gc=False):
    """A set that we looked up is going. Answer with ``AcknowledgeDeletion``."""

    xid: bytes
    instance: str


class Notified(msgspec.Struct, frozen=True, gc=False):
    """Something happened to a set."""

    token: int
    what: int
    data: bytes


SetEvent = (
    DirectoryWanted
    | DirectoryCancelled
    | LookupWanted
    | ReadsWanted
    | PushWanted
    | PushCancelled
    | NotifyWanted
    | NotifyCancelled
    | DeletionAcknowledged
    | DirectoryAnswered
    | DirectoryUpdated
    | SetAnnounced
    | LookupFailed
    | MemoryRead
    | Pushed
    | DeletionWanted
    | Notified
)

SetCommand = (
    AnswerDirectory
    | UpdateDirectory
    | AnnounceSet
    | FailLookup
    | AnswerReads
    | Push
    | Notify
    | DeleteSet
    | WantDirectory
    | CancelDirectory
    | LookUp
    | ReadMemory
    | WantPush
    | CancelPush
    | WantNotify
    | CancelNotify
    | AcknowledgeDeletion
)
