"""One set of a peer: reading it, being pushed it, hearing of it (docs/reading.md)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ldmsjob.errors import Busy, LdmsJobError, RequestFailed, SetImageError
from ldmsjob.sets.decoded import DecodedSet
from ldmsjob.sets.reader import SetReader
from ldmsjob.wire.setevents import (
    NOTIFY_ALL,
    AnnouncedSet,
    CancelNotify,
    CancelPush,
    Pushed,
    WantNotify,
    WantPush,
)

if TYPE_CHECKING:
    from ldmsjob.interfaces import ILink
    from ldmsjob.peer import Peer

PushCallback = Callable[[DecodedSet], None]
EndCallback = Callable[["LdmsJobError | None"], None]


def call(log: Logger, callback: Callable[..., Any], *arguments: Any) -> None:
    """Call what a user gave us. What it raises is logged and costs nothing else."""
    try:
        callback(*arguments)
    except Exception:
        log.failure("a callback failed: {callback}", callback=callback)


class Subscription:
    """What goes on until it is closed."""

    def __init__(self, end: Callable[[], Any]) -> None:
        self._end: Callable[[], Any] | None = end

    def close(self) -> None:
        """No more calls. A second time does nothing."""
        end, self._end = self._end, None
        if end is not None:
            end()


class RemoteSet:
    """A set that a lookup found.

    Its handles are good on the connection that looked it up, until its owner deletes it.
    """

    def __init__(self, peer: Peer, announced: AnnouncedSet) -> None:
        self.peer = peer
        self.announced = announced
        """What its owner said of it: names, sizes, info."""
        self.link: ILink | None = None
        """The connection on which it said so, and on which its handles are good."""
        self.is_deleted = False
        """True once its owner has deleted it."""
        self._reader: SetReader | None = None
        self._waiting: list[Deferred[list[DecodedSet]]] = []
        self._push: PushSubscription | None = None
        self._notice = 0

    @property
    def instance(self) -> str:
        """The name under which it was found."""
        return self.announced.instance

    @property
    def schema(self) -> str:
        """The name of its schema."""
        return self.announced.schema

    @property
    def info(self) -> dict[str, str]:
        """Its info."""
        return {item.key: item.value for item in self.announced.info}

    def update(self) -> Deferred[DecodedSet]:
        """Read it; fires with the newest reading.

        ``current_copy.is_consistent`` of it is False when its producer has never written it, or was
        writing just then. Fails with ``RequestFailed`` (rc 2: the set is gone) or, for an image
        that contradicts itself or its announcement, with ``SetImageError``. Calls that are made
        while an update is under way get its result.
        """
        return self.update_all().addCallback(lambda readings: readings[-1])

    def update_all(self) -> Deferred[list[DecodedSet]]:
        """Read it; fires with all readings since the last update that its copies still hold,
        oldest first, and at least one. Only a set of several copies can have more than one."""
        waiting: Deferred[list[DecodedSet]] = Deferred()
        if self.is_deleted:
            return fail(self._gone())
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            Deferred.fromCoroutine(self._update()).addBoth(self._updated)
        return waiting

    def on_push(
        self, callback: PushCallback, on_end: EndCallback | None = None, *, on_change: bool = True
    ) -> PushSubscription:
        """Have the owner push the set: call ``callback`` with each reading.

        Without ``on_change`` it pushes only when it sees fit. ``on_end`` is called once when there
        will be no more: with None after ``close``, else with the reason: the connection is lost,
        the set is gone or no longer ours to read (rc 2), or what came is no set
        (``SetImageError``). Raises ``Busy`` when the set is
        being pushed already, ``RequestFailed`` when it is gone.
        """
        if self._push is not None and not self._push.is_over:
            raise Busy(f"{self.instance!r} is being pushed already")
        if self.is_deleted or not self.peer.is_open:
            raise self._gone()
        self._push = PushSubscription(self, callback, on_end, on_change)
        return self._push

    def on_notify(
        self, callback: Callable[[int, bytes], None], what: int = NOTIFY_ALL
    ) -> Subscription:
        """Call ``callback`` with (what, data) when the owner tells that the set was modified or
        sends user data. Raises ``Busy`` when that is on already, ``RequestFailed`` when the set is
        gone."""
        if self._notice:
            raise Busy(f"{self.instance!r} has notifications on already")
        if self.is_deleted or not self.peer.is_open:
            raise self._gone()
        token = self._notice = self.peer.new_token()
        set_id, link = self.announced.set_id, self.link
        self.peer.notices[token] = callback
        self.peer.send(WantNotify(token, set_id, what), link)

        def close() -> None:
            self._notice = 0
            if self.peer.notices.pop(token, None) is not None:
                self.peer.send(CancelNotify(set_id), link)

        return Subscription(close)

    # For Peer

    def announced_again(self, announced: AnnouncedSet) -> bool:
        """Take new handles. False if it is another set under the same name: ours is gone then."""
        if self._shape(self.announced) == self._shape(announced):
            self.announced = announced
            self._reader = None  # Whoever looks up again may have reasons: read all again.
            return True
        self.deleted()
        return False

    def deleted(self) -> None:
        """Its owner has deleted it."""
        self.is_deleted = True
        self._reader = None
        self.peer.notices.pop(self._notice, None)
        if self._push is not None:
            self._push.ended(self._gone())

    def new_reader(self) -> SetReader:
        """An empty image. Raises ``SetImageError`` for sizes that no set has."""
        announced = self.announced
        return SetReader(
            announced.meta_size,
            announced.data_size,
            announced.array_card,
            card=announced.card,
            max_bytes=self.peer.max_set_bytes,
        )

    def image_error(self, error: SetImageError) -> SetImageError:
        """The error with the set's name in it."""
        return SetImageError(f"{self.peer.address}: {self.instance!r}: {error}")

    def pushed_no_more(self) -> RequestFailed:
        """What to say when its owner ends the pushes by itself. That comes before the deletion."""
        return RequestFailed(
            f"{self.peer.address}: {self.instance!r} is gone, or no longer ours to read:"
            " its owner has ended the pushes",
            rc=errno.ENOENT,
        )

    @staticmethod
    def _shape(announced: AnnouncedSet) -> tuple[object, ...]:
        return (
            announced.schema,
            announced.meta_size,
            announced.data_size,
            announced.card,
            announced.array_card,
        )

    def _gone(self) -> RequestFailed:
        if self.peer.is_open:
            return RequestFailed(
                f"{self.peer.address}: {self.instance!r} has been deleted", rc=errno.ENOENT
            )
        return RequestFailed(f"{self.peer.address}: not connected", rc=errno.ENOTCONN)

    async def _update(self) -> list[DecodedSet]:
        if self._reader is None:
            self._reader = self.new_reader()
        announced, link = self.announced, self.link
        reads = self._reader.update()
        offset, length = next(reads)
        while True:
            data = await self.peer.read(announced, offset, length, link)
            try:
                offset, length = reads.send(data)
            except StopIteration as end:
                readings: list[DecodedSet] = end.value
                return readings

    def _updated(self, result: Any) -> None:
        if isinstance(result, Failure) and isinstance(result.value, SetImageError):
            result = Failure(self.image_error(result.value))
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(result)


class PushSubscription:
    """A set being pushed."""

    def __init__(
        self,
        remote_set: RemoteSet,
        callback: PushCallback,
        on_end: EndCallback | None,
        on_change: bool,
    ) -> None:
        self._set = remote_set
        self._callback = callback
        self._on_end = on_end
        self._reader: SetReader = remote_set.new_reader()
        self._peer = remote_set.peer
        self._set_id = remote_set.announced.set_id
        self._link = remote_set.link
        self._push_id = self._peer.new_token().to_bytes(8, "little")
        self._closing: list[Deferred[None]] = []
        self._closing_token = 0
        self.is_over = False
        """Whether there will be no more."""
        self._peer.pushes[self._push_id] = self
        self._peer.send(WantPush(remote_set.announced, self._push_id, on_change), self._link)

    def close(self) -> Deferred[None]:
        """Want no more. Fires when the owner has confirmed it; until then pushes may come.

        Fails with ``RequestFailed`` when it does not confirm in time; nothing comes then either.
        """
        if self.is_over:
            return succeed(None)

        def command(token: int) -> CancelPush:
            self._closing_token = token
            return CancelPush(self._set_id)

        closing: Deferred[None] = Deferred()
        self._closing.append(closing)
        if len(self._closing) == 1:
            what = f"the end of pushes of {self._set.instance!r}"
            self._peer.ask(what, command, self._link).addBoth(self._closed)
        return closing

    def _closed(self, result: Failure | None) -> None:
        """The owner has confirmed the end, or will not."""
        self.ended(None)
        waiting, self._closing = self._closing, []
        for closing in waiting:
            closing.callback(result)

    def received(self, event: Pushed) -> None:
        """Take what its owner pushed."""
        try:
            if event.data:
                self._reader.push(event.offset, event.data)
            reading = self._reader.pushed() if event.data and not event.more else None
        except SetImageError as error:
            self.ended(self._set.image_error(error))
            self._peer.send(CancelPush(self._set_id), self._link)
            return
        if reading is not None:
            call(self._peer.log, self._callback, reading)
        if event.last and not event.more:
            self.ended(self._set.pushed_no_more())

    def ended(self, reason: LdmsJobError | None) -> None:
        """There will be no more; ``reason`` is why, unless we wanted it so. A second time does
        nothing."""
        if self.is_over:
            return
        self.is_over = True
        if self._closing:
            reason = None
        self._peer.pushes.pop(self._push_id, None)
        self._peer.answered(self._closing_token, None)
        if self._on_end is not None:
            call(self._peer.log, self._on_end, reason)
