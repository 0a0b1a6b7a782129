r"""Two ends of a link in one process, without a reactor: for tests, also those of plugin authors.

Bytes move only in ``MemoryPair.settle``, so a test decides when the other side hears::

    pair = MemoryPair(LinkSite(hub, stats, turn, clock), peer_site, clock)
    pair.settle()
    pair.right.send(Publish("slurm", b"{}\0"))
    pair.settle()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.python.failure import Failure

from ldmsjob.interfaces import IAuthenticator, ILinkSite, LinkSettings
from ldmsjob.limits import Limits
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.link import LinkProtocol
from ldmsjob.transports.outbox import Outbox
from ldmsjob.transports.plainstream import PlainStream

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class _MemoryTransport:
    """What one end writes into, until the pair moves it to the other end."""

    def __init__(self, buffer_bytes: int) -> None:
        self._buffer_bytes = buffer_bytes
        self.written: deque[bytes] = deque()
        self.written_bytes = 0
        self.reading = True
        self.disconnecting = False
        self.aborted = False
        self._producer: Any = None
        self._choked = False

    def write(self, data: bytes) -> None:
        """Keep it."""
        if self.aborted:
            return
        self.written.append(data)
        self.written_bytes += len(data)
        if self.written_bytes > self._buffer_bytes and self._producer and not self._choked:
            self._choked = True
            self._producer.pauseProducing()

    def take(self, limit: int) -> bytes:
        """Up to ``limit`` bytes of what was written."""
        data = self.written.popleft()
        if len(data) > limit:
            self.written.appendleft(data[limit:])
            data = data[:limit]
        self.written_bytes -= len(data)
        return data

    def drained(self) -> None:
        """Tell the producer when all has gone."""
        if self._choked and not self.written:
            self._choked = False
            if self._producer:
                self._producer.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Whom to tell when too much is kept."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Tell nobody."""
        self._producer = None

    def pauseProducing(self) -> None:
        """This end reads no more."""
        self.reading = False

    def resumeProducing(self) -> None:
        """This end reads again."""
        self.reading = True

    def loseConnection(self) -> None:  # noqa: N802
        """Close behind what was written."""
        self.disconnecting = True

    def abortConnection(self) -> None:  # noqa: N802
        """Close at once."""
        self.aborted = True
        self.written.clear()


class MemoryPair:
    """``left`` was connected to by ``right``. Both are ``ILink``; open after ``settle``.

    ``cut`` is the most that one read brings, ``buffer_bytes`` what an end writes before it is told
    that the other side does not read.
    """

    def __init__(
        self,
        left_site: ILinkSite,
        right_site: ILinkSite,
        clock: IReactorTime,
        *,
        left_settings: LinkSettings | None = None,
        right_settings: LinkSettings | None = None,
        left_authenticator: IAuthenticator | None = None,
        right_authenticator: IAuthenticator | None = None,
        outbox: Outbox | None = None,
        cut: int = 65536,
        buffer_bytes: int = 65536,
        left_options: Mapping[str, Any] | None = None,
        right_options: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        settings = LinkSettings(messages_enabled=lambda: True, limits=limits)
        self._cut = cut
        shared: dict[str, Any] = {"clock": clock, "stream": PlainStream(), **options}
        self.left = LinkProtocol(
            passive=True,
            site=left_site,
            authenticator=left_authenticator or NoneAuthenticator(),
            settings=left_settings or settings,
            outbox=outbox or Outbox(),
            peer_address="right",
            **{**shared, **(left_options or {})},
        )
        self.right = LinkProtocol(
            passive=False,
            site=right_site,
            authenticator=right_authenticator or NoneAuthenticator(),
            settings=right_settings or settings,
            outbox=Outbox(),
            peer_address="left",
            **{**shared, **(right_options or {})},
        )
        self._ends: dict[LinkProtocol, _MemoryTransport] = {}
        for end in (self.left, self.right):
            self._ends[end] = _MemoryTransport(buffer_bytes)
        for end, transport in list(self._ends.items()):
            end.makeConnection(transport)

    def settle(self) -> None:
        """Move bytes and closings back and forth until nothing more happens."""
        while self._move(self.right, self.left) or self._move(self.left, self.right):
            pass

    def _move(self, sender: LinkProtocol, receiver: LinkProtocol) -> bool:
        """One read's worth of bytes, or the closing behind them."""
        if sender not in self._ends:
            return False
        source, target = self._ends[sender], self._ends[receiver]
        if source.aborted or target.aborted:
            self._close(ConnectionAborted(), ConnectionDone())
            return True
        if source.written and (target.reading or target.disconnecting):
            data = source.take(self._cut)
            if not target.disconnecting:
                receiver.dataReceived(data)
            if sender in self._ends:
                source.drained()
            return True
        if source.disconnecting and not source.written:
            self._close(ConnectionDone(), ConnectionDone())
            return True
        return False

    def _close(self, *errors: Exception) -> None:
        """Both ends hear of it; the one that aborted first hears the first error."""
        ends, self._ends = self._ends, {}
        ordered = sorted(ends, key=lambda end: not ends[end].aborted)
        for end, error in zip(ordered, errors, strict=True):
            end.connectionLost(Failure(error))
