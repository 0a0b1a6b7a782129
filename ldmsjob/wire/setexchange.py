"""What one connection remembers about metric sets, as their owner and as a reader of the peer's."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable

from ldmsjob.errors import PeerError
from ldmsjob.wire import setmessages, xprt, zap
from ldmsjob.wire.buffers import Limits
from ldmsjob.wire.directory import read_directory
from ldmsjob.wire.events import Refused, WireEvent
from ldmsjob.wire.setevents import (
    READ_OK,
    SET_ADDED,
    SET_CHANGED,
    SET_DELETED,
    AcknowledgeDeletion,
    AnnouncedSet,
    AnnounceSet,
    AnswerDirectory,
    AnswerReads,
    CancelDirectory,
    CancelNotify,
    CancelPush,
    DeleteSet,
    DeletionAcknowledged,
    DeletionWanted,
    DirectoryAnswered,
    DirectoryCancelled,
    DirectoryEntry,
    DirectoryUpdated,
    DirectoryWanted,
    FailLookup,
    LookUp,
    LookupFailed,
    LookupWanted,
    MemoryRead,
    Notified,
    Notify,
    NotifyCancelled,
    NotifyWanted,
    Push,
    PushCancelled,
    Pushed,
    PushWanted,
    ReadMemory,
    ReadsWanted,
    SetAnnounced,
    SetCommand,
    UpdateDirectory,
    WantDirectory,
    WantNotify,
    WantPush,
)

_Action = Callable[["SetExchange", bytes, bytes, int, int, int, list[WireEvent]], None]

_KINDS = (SET_DELETED, SET_ADDED, SET_CHANGED)


def _xid_of(token: int) -> bytes:
    """C programs take an xid of zeros for none."""
    if not 0 < token < 1 << 64:
        raise ValueError(f"a token of {token}")
    return token.to_bytes(8, "big")


def _region_bytes(announced: AnnouncedSet) -> int:
    return announced.meta_size + announced.array_card * announced.data_size


class SetExchange:
    """The part of an ``LdmsConnection`` that knows about metric sets.

    It appends frames to ``output``. Of what a peer asks nothing is kept here: the owner of the
    connection does that. Of what we ask there is kept what an answer must fit to; an answer that
    fits nothing is counted, or ends the link where it is data that nobody asked for.
    """

    __slots__ = (
        "_cancels",
        "_deletions",
        "_directories",
        "_known",
        "_leaving",
        "_limits",
        "_lookups",
        "_notifications",
        "_notifications_by_set",
        "_output",
        "_pushes",
        "_pushes_by_set",
        "_read_number",
        "_reads",
        "_watching",
        "read_limit",
    )

    def __init__(self, output: list[bytes], limits: Limits) -> None:
        self.read_limit = zap.READ_RESPONSE_BYTES
        """The most that the next READ_RESP may have."""
        self._output = output
        self._limits = limits
        self._deletions: dict[bytes, int] = {}  # token, by xid, of what we delete
        self._directories: set[bytes] = set()  # xids that are not answered
        self._watching = b""  # xid of what brings updates
        self._cancels: set[bytes] = set()  # xids that are not answered
        self._lookups: set[bytes] = set()  # xids that are not answered
        self._known: dict[str, bytes] = {}  # set id, by instance, of what was announced
        self._leaving: dict[bytes, bytes] = {}  # set id, by xid, of what the peer deletes
        self._reads: deque[tuple[bytes, bytes, int]] = deque()  # xid, context, length
        self._read_number = 0
        self._pushes: dict[bytes, tuple[bytes, int]] = {}  # set id and size, by push id
        self._pushes_by_set: dict[bytes, bytes] = {}  # push id, by set id
        self._notifications: dict[bytes, bytes] = {}  # set id, by xid
        self._notifications_by_set: dict[bytes, bytes] = {}  # xid, by set id

    # Requests and replies: what comes in SENDRECV

    def receive(
        self,
        command: int,
        xid: bytes,
        data: bytes,
        at: int,
        stop: int,
        now_us: int,
        events: list[WireEvent],
    ) -> bool:
        """Deal with a request or reply, or return False when it is none about sets."""
        action = _ACTIONS.get(command)
        if action is None:
            return False
        action(self, xid, data, at, stop, now_us, events)
        return True

    def _dir(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        events.append(DirectoryWanted(xid, setmessages.read_dir(data, at, stop)))

    def _dir_cancel(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        self._send(xprt.plain_reply(xid, xprt.DIR_CANCEL_REPLY, 0))
        events.append(DirectoryCancelled())

    def _lookup(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        path, by_schema, is_regex = setmessages.read_lookup(data, at, stop)
        if len(path) > self._limits.match_bytes:
            self._send(xprt.plain_reply(xid, xprt.LOOKUP_REPLY, errno.ENAMETOOLONG))
            events.append(Refused("lookup_too_long"))
        else:
            events.append(LookupWanted(xid, path, by_schema, is_regex))

    def _req_notify(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        set_id, what = setmessages.read_notify_request(data, at, stop)
        events.append(NotifyWanted(xid, set_id, what))

    def _cancel_notify(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        events.append(NotifyCancelled(setmessages.read_set_id(data, at, stop)))

    def _cancel_push(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        events.append(PushCancelled(setmessages.read_set_id(data, at, stop)))

    def _set_delete_reply(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        token = self._deletions.pop(xid, None)
        events.append(Refused("unknown_reply") if token is None else DeletionAcknowledged(token))

    def _set_delete(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        instance = setmessages.read_set_delete(data, at, stop)
        set_id = self._known.pop(instance, None)
        if set_id is None:
            self._send(setmessages.set_delete_reply(xid, now_us))
            events.append(Refused("set_delete"))
        else:
            self._leaving[xid] = set_id
            events.append(DeletionWanted(xid, instance))

    def _dir_reply(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        rc, _, more, text = setmessages.read_dir_reply(data, at, stop)
        if xid not in self._directories:
            events.append(Refused("unknown_reply"))
            return
        entries: list[DirectoryEntry] = []
        if not rc:
            try:
                entries = read_directory(text)
            except ValueError:
                events.append(Refused("bad_directory"))
                rc = errno.EBADMSG
        more = more and not rc
        if not more:
            self._directories.discard(xid)
        events.append(DirectoryAnswered(int.from_bytes(xid, "big"), entries, rc, more))

    def _dir_update(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        rc, kind, _, text = setmessages.read_dir_reply(data, at, stop)
        if xid != self._watching:
            events.append(Refused("unknown_reply"))
            return
        try:
            if rc or kind not in _KINDS:
                raise ValueError("no update")
            events.append(DirectoryUpdated(int.from_bytes(xid, "big"), kind, read_directory(text)))
        except ValueError:
            events.append(Refused("bad_directory"))

    def _dir_cancel_reply(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        if xid in self._cancels:
            self._cancels.discard(xid)
        else:
            events.append(Refused("unknown_reply"))

    def _lookup_reply(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        if xid in self._lookups:
            self._lookups.discard(xid)
            rc = setmessages.read_rc(data, at)
            events.append(LookupFailed(int.from_bytes(xid, "big"), rc or errno.EBADMSG))
        else:
            events.append(Refused("unknown_reply"))

    def _notification(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        what, content = setmessages.read_notification(data, at, stop)
        if xid in self._notifications:
            events.append(Notified(int.from_bytes(xid, "big"), what, content))
        else:
            events.append(Refused("unknown_reply"))

    def _push_reply(
        self, xid: bytes, data: bytes, at: int, stop: int, now_us: int, events: list[WireEvent]
    ) -> None:
        push_id, flags, offset, content = setmessages.read_push(data, at, stop)
        known = self._pushes.get(push_id)
        if known is None:
            events.append(Refused("unknown_push"))
            return
        set_id, size = known
        if offset + len(content) > size:
            events.append(Refused("push_outside"))
            return
        more = flags & setmessages.MORE != 0
        last = flags & setmessages.LAST != 0 and not more
        if last:
            self._forget_push(set_id)
        events.append(Pushed(push_id, offset, content, more, last))

    # Frames of their own

    def rendezvous(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        """A RENDEZVOUS frame: a set is announced, or pushes of one are wanted."""
        xid, about, _ = setmessages.read_rendezvous(data, at, stop)
        if about == setmessages.REGISTER_PUSH:
            events.append(PushWanted(*setmessages.read_push_registration(data, at, stop)))
        elif about == setmessages.ANNOUNCE:
            self._announced(xid, data, at, stop, events)
        else:
            events.append(Refused("rendezvous"))

    def _announced(
        self, xid: bytes, data: bytes, at: int, stop: int, events: list[WireEvent]
    ) -> None:
        if xid not in self._lookups:
            events.append(Refused("unknown_announcement"))
            return
        token = int.from_bytes(xid, "big")
        try:
            announced, more = setmessages.read_announcement(data, at, stop)
        except PeerError:
            self._lookups.discard(xid)
            events.append(Refused("bad_announcement"))
            events.append(LookupFailed(token, errno.EBADMSG))
            return
        if not more:
            self._lookups.discard(xid)
        self._known[announced.instance] = announced.set_id
        if len(self._known) > self._limits.announced_sets:
            raise PeerError("too many sets announced")
        events.append(SetAnnounced(token, announced, more))

    def reads_wanted(self, data: bytes, at: int, end: int, events: list[WireEvent]) -> int:
        """READ_REQ frames that follow one another. Returns where the next other frame begins."""
        event = events[-1] if events else None
        if type(event) is not ReadsWanted:
            event = ReadsWanted([])
            events.append(event)
        return setmessages.take_reads(data, at, end, event.reads)

    def read_answered(self, data: bytes, at: int, stop: int, events: list[WireEvent]) -> None:
        """A READ_RESP frame. Raises ``PeerError`` unless it answers the oldest read."""
        xid, context, status = zap.read_response_fields(data, at)
        if not self._reads:
            raise PeerError("READ_RESP frame that answers nothing")
        expected, expected_context, length = self._reads.popleft()
        if (xid, context) != (expected, expected_context):
            raise PeerError("READ_RESP frame that is out of turn")
        content = data[at + zap.READ_RESPONSE_BYTES : stop]
        if len(content) != (length if status == READ_OK else 0):
            raise PeerError("READ_RESP frame with less or more than was asked for")
        self._set_read_limit()
        events.append(MemoryRead(int.from_bytes(context, "big"), status, content))

    def _set_read_limit(self) -> None:
        length = self._reads[0][2] if self._reads else 0
        self.read_limit = zap.READ_RESPONSE_BYTES + length

    # Sending

    def send(self, command: SetCommand, now_us: int) -> None:
        """Send one command. Raises ``ValueError`` for one that no frame can carry or that
        contradicts what was sent before; nothing is sent then."""
        _COMMANDS[type(command)](self, command, now_us)

    def _send(self, request: bytes) -> None:
        self._output.append(zap.counted_frame(zap.SENDRECV, request))

    def _answer_directory(self, command: AnswerDirectory, now_us: int) -> None:
        replies = setmessages.dir_replies(command.xid, command.entries, command.more)
        self._output += [zap.counted_frame(zap.SENDRECV, reply) for reply in replies]

    def _update_directory(self, command: UpdateDirectory, now_us: int) -> None:
        self._send(setmessages.dir_update(command.xid, command.kind, command.entry))

    def _announce_set(self, command: AnnounceSet, now_us: int) -> None:
        frame = setmessages.announcement_frame(command.xid, command.announced, command.more)
        self._output.append(frame)

    def _fail_lookup(self, command: FailLookup, now_us: int) -> None:
        self._send(xprt.plain_reply(command.xid, xprt.LOOKUP_REPLY, command.rc))

    def _answer_reads(self, command: AnswerReads, now_us: int) -> None:
        self._output.append(setmessages.read_responses(command.answers))

    def _push(self, command: Push, now_us: int) -> None:
        replies = setmessages.push_replies(
            command.push_id, command.offset, command.data, command.last
        )
        self._output += [zap.counted_frame(zap.SENDRECV, reply) for reply in replies]

    def _notify(self, command: Notify, now_us: int) -> None:
        self._send(setmessages.notification(command.xid, command.what, command.data))

    def _delete_set(self, command: DeleteSet, now_us: int) -> None:
        xid = _xid_of(command.token)
        self._send(setmessages.set_delete_request(xid, command.instance))
        self._deletions[xid] = command.token
        if len(self._deletions) > self._limits.unanswered_deletions:
            del self._deletions[next(iter(self._deletions))]

    def _want_directory(self, command: WantDirectory, now_us: int) -> None:
        xid = _xid_of(command.token)
        if xid in self._directories:
            raise ValueError(f"token {command.token} is in use")
        self._send(setmessages.dir_request(xid, command.updates))
        self._directories.add(xid)
        self._watching = xid if command.updates else b""

    def _cancel_directory(self, command: CancelDirectory, now_us: int) -> None:
        xid = _xid_of(command.token)
        self._send(setmessages.dir_cancel_request(xid))
        self._cancels.add(xid)
        self._watching = b""

    def _look_up(self, command: LookUp, now_us: int) -> None:
        xid = _xid_of(command.token)
        if xid in self._lookups:
            raise ValueError(f"token {command.token} is in use")
        self._send(
            setmessages.lookup_request(xid, command.path, command.by_schema, command.is_regex)
        )
        self._lookups.add(xid)

    def _read_memory(self, command: ReadMemory, now_us: int) -> None:
        announced, offset, length = command.announced, command.offset, command.length
        if offset < 0 or length < 0 or offset + length > _region_bytes(announced):
            raise ValueError(f"a read of {length} bytes at {offset} is outside the set")
        context = _xid_of(command.token)
        self._read_number = (self._read_number + 1) % (1 << 32)
        xid = self._read_number.to_bytes(4, "big")
        address = (announced.address + offset) % (1 << 64)
        self._output.append(zap.read_request_frame(xid, context, announced.key, address, length))
        self._reads.append((xid, context, length))
        self._set_read_limit()

    def _want_push(self, command: WantPush, now_us: int) -> None:
        announced, push_id = command.announced, command.push_id
        set_id, size = announced.set_id, _region_bytes(announced)
        if self._pushes.get(push_id, (set_id,))[0] != set_id:
            raise ValueError(f"push id {push_id!r} is in use")
        self._output.append(
            setmessages.push_registration_frame(
                announced.key, announced.address, size, set_id, push_id, command.on_change
            )
        )
        self._forget_push(set_id)
        self._pushes_by_set[set_id] = push_id
        self._pushes[push_id] = (set_id, size)

    def _cancel_push_of(self, command: CancelPush, now_us: int) -> None:
        self._send(setmessages.cancel_push_request(command.set_id))

    def _want_notify(self, command: WantNotify, now_us: int) -> None:
        xid = _xid_of(command.token)
        self._send(setmessages.notify_request(xid, command.set_id, command.what))
        self._forget_notification(command.set_id)  # the owner knows only the newest wish
        self._notifications[xid] = command.set_id
        self._notifications_by_set[command.set_id] = xid

    def _cancel_notify_of(self, command: CancelNotify, now_us: int) -> None:
        self._send(setmessages.cancel_notify_request(command.set_id))
        self._forget_notification(command.set_id)

    def _acknowledge_deletion(self, command: AcknowledgeDeletion, now_us: int) -> None:
        self._send(setmessages.set_delete_reply(command.xid, now_us))
        set_id = self._leaving.pop(command.xid, None)
        if set_id is not None:
            self._forget_push(set_id)
            self._forget_notification(set_id)

    def _forget_push(self, set_id: bytes) -> None:
        push_id = self._pushes_by_set.pop(set_id, None)
        if push_id is not None:
            del self._pushes[push_id]

    def _forget_notification(self, set_id: bytes) -> None:
        xid = self._notifications_by_set.pop(set_id, None)
        if xid is not None:
            self._notifications.pop(xid, None)


_ACTIONS: dict[int, _Action] = {
    xprt.DIR: SetExchange._dir,
    xprt.DIR_CANCEL: SetExchange._dir_cancel,
    xprt.LOOKUP: SetExchange._lookup,
    xprt.REQ_NOTIFY: SetExchange._req_notify,
    xprt.CANCEL_NOTIFY: SetExchange._cancel_notify,
    xprt.CANCEL_PUSH: SetExchange._cancel_push,
    xprt.SET_DELETE: SetExchange._set_delete,
    xprt.DIR_REPLY: SetExchange._dir_reply,
    xprt.DIR_CANCEL_REPLY: SetExchange._dir_cancel_reply,
    xprt.DIR_UPDATE_REPLY: SetExchange._dir_update,
    xprt.LOOKUP_REPLY: SetExchange._lookup_reply,
    xprt.REQ_NOTIFY_REPLY: SetExchange._notification,
    xprt.PUSH_REPLY: SetExchange._push_reply,
    xprt.SET_DELETE_REPLY: SetExchange._set_delete_reply,
}

_COMMANDS: dict[type, Callable[..., None]] = {
    AnswerDirectory: SetExchange._answer_directory,
    UpdateDirectory: SetExchange._update_directory,
    AnnounceSet: SetExchange._announce_set,
    FailLookup: SetExchange._fail_lookup,
    AnswerReads: SetExchange._answer_reads,
    Push: SetExchange._push,
    Notify: SetExchange._notify,
    DeleteSet: SetExchange._delete_set,
    WantDirectory: SetExchange._want_directory,
    CancelDirectory: SetExchange._cancel_directory,
    LookUp: SetExchange._look_up,
    ReadMemory: SetExchange._read_memory,
    WantPush: SetExchange._want_push,
    CancelPush: SetExchange._cancel_push_of,
    WantNotify: SetExchange._want_notify,
    CancelNotify: SetExchange._cancel_notify_of,
    AcknowledgeDeletion: SetExchange._acknowledge_deletion,
}
