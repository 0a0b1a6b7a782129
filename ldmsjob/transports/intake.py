"""What notifiers' lines go through: from links and the spool to the daemon, in causal order.

A line that caused another one comes in front of it, whichever way they came: before anything that
a link brought is handed over, the spool is read as far as it went when that was read. A spool of
more than ``PIECE_BYTES`` is read in pieces, one in each turn of the reactor, so that everything
else goes on; the notifiers' links are not read meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.error import ConnectionDone
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from ldmsjob.clocks import wall_clock_us
from ldmsjob.interfaces import ILinkSite, LinkSettings
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.transports.notifier_lines import Batch, LineBook, MessageMaker
from ldmsjob.transports.notifier_links import NotifierLink, SpoolLink
from ldmsjob.transports.spool import Spool, Untrusted

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from ldmsjob.interfaces import IPluginContext

PIECE_BYTES = 256 * 1024
"""What is read of the spool in one turn of the reactor."""

MESSAGES_OFF = "messages off"
"""Why lines are left without an answer, so that they go to the spool."""


class Intake:
    """All links and the spool of one listener.

    ``start`` when the site may be called, ``stop`` at the end; between them tell it with ``look``
    whenever the spool may have grown.

    Counters: ``lines``, ``repeated``, ``refused.<reason>``, ``spooled``, ``lost_by_notifiers``,
    ``spool_truncated``, ``spool_refused``, ``spool_errors``.
    """

    def __init__(
        self,
        context: IPluginContext,
        path: str,
        channel: str,
        site: ILinkSite,
        settings: LinkSettings,
        *,
        piece_bytes: int = PIECE_BYTES,
        wall_clock_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self.site = site
        self.links: dict[NotifierLink, None] = {}
        self._context = context
        self._settings = settings
        self._piece_bytes = piece_bytes
        self._wall_clock_us = wall_clock_us
        self._maker = MessageMaker(channel)
        self._book = LineBook()
        self._spool = Spool(path, context.stats.add)
        self._spool_link = SpoolLink(self._spool.path, self._resumed)
        self._limited = LimitedLog(context.log, now=context.clock.seconds)
        self._running = False
        self._draining = False
        self._next_piece: IDelayedCall | None = None
        self._again = False
        self._waiting: list[tuple[NotifierLink, bytes]] = []
        self._on_drained: Callable[[], None] | None = None

    @property
    def enabled(self) -> bool:
        """Whether the daemon takes messages."""
        return self._settings.messages_enabled()

    def start(self, ready: Callable[[], None]) -> None:
        """Read what was spooled; then call ``ready``, before this returns if there is not much.

        While messages are off nothing is read, and ``ready`` is called when they are on.
        """
        self._running = True
        self._book.restore(self._context.kept(), self._context.clock.seconds())
        self._on_drained = ready
        self.site.link_opened(self._spool_link)
        self.look()

    def stop(self) -> None:
        """Read nothing more, and close the links."""
        if not self._running:
            return
        self._running = False
        self._draining = False
        self._waiting = []
        if self._next_piece is not None:
            self._next_piece.cancel()
            self._next_piece = None
        for link in list(self.links):
            link.close()
        self._spool.close()
        self.site.link_closed(self._spool_link, Failure(ConnectionDone()))

    # What links bring

    def opened(self, link: NotifierLink) -> None:
        """One more link."""
        self.links[link] = None
        self.site.link_opened(link)
        if self._draining:
            link.pause("spool")

    def closed(self, link: NotifierLink, reason: Failure) -> None:
        """One less."""
        del self.links[link]
        self.site.link_closed(link, reason)

    def received(self, link: NotifierLink, data: bytes) -> None:
        """What one read brought: hand it over behind what is in the spool now."""
        if not self._draining and self._grown():
            self._drain()
        if self._draining:
            self._waiting.append((link, data))
            self._again = True
        else:
            self._take(link, data)

    def _take(self, link: NotifierLink, data: bytes) -> None:
        """Hand the lines over, and answer them. What messages being off leaves without an answer
        goes to the spool."""
        if not self.enabled:
            link.abort(MESSAGES_OFF)
            return
        cutter = link.cutter
        batch = self._book.take(cutter.feed(data), self._context.clock.seconds())
        if not self._hand_over(link, batch):
            link.abort(MESSAGES_OFF)
            return
        self._count(batch, link.peer_address)
        if cutter.too_long:
            self._refused("too_long", link.peer_address, cutter.too_long)
            link.abort("line too long")
        elif batch.answers:
            link.answer(batch.answers)

    def _hand_over(self, link: NotifierLink | SpoolLink, batch: Batch) -> bool:
        """Have the site deal with the fresh lines. False: it takes none now, and nothing came of
        them."""
        if not batch.fresh:
            return True
        messages = self._maker.messages(batch.fresh, link.credential, self._wall_clock_us())
        self._keep(batch)
        link.refused = False
        taken = False
        try:
            self.site.link_events(link, messages)
            taken = not link.refused
        finally:
            if not taken:
                self._book.forget(batch)
                self._keep(batch)
        return taken

    def _keep(self, batch: Batch) -> None:
        """Have the journal know, with what comes of them, which lines have come: a daemon that is
        killed before it has answered them is sent them again."""
        keep, book = self._context.keep, self._book
        for name, number in book.highest(batch).items():
            keep(name, number)
        forgotten, book.forgotten = book.forgotten, []
        for name in forgotten:
            keep(name, None)

    def _count(self, batch: Batch, whose: str) -> None:
        stats = self._context.stats
        stats.add("lines", len(batch.fresh))
        if batch.repeated:
            stats.add("repeated", batch.repeated)
        for reason, count in batch.refused.items():
            self._refused(reason, whose, count)

    def _refused(self, reason: str, whose: str, count: int) -> None:
        self._context.stats.add(f"refused.{reason}", count)
        self._limited.warn(
            f"refused {reason}",
            "{whose}: not a line of a notifier: {reason}",
            whose=whose,
            reason=reason,
        )

    # The spool

    def look(self) -> None:
        """The spool may have grown, or messages may have been switched."""
        if not self._running:
            return
        if not self.enabled:
            for link in list(self.links):
                link.abort(MESSAGES_OFF)
            return
        if self._on_drained is not None and not self._draining:
            # What an earlier daemon has left behind, then what has been spooled since.
            self._again = True
            self._drain()
        if not self._draining and self._grown():
            self._drain()
        if not self._draining:
            self._drained()

    def _grown(self) -> bool:
        try:
            return self._spool.grown()
        except OSError as error:
            self._failed(error)
            return False

    def _drain(self) -> None:
        """Read the spool; if that is more than a piece, go on in the reactor's next turn."""
        if self._read_piece():
            return
        self._draining = True
        for link in self.links:
            link.pause("spool")
        self._continue_later()

    def _continue_later(self) -> None:
        if self._next_piece is None and not self._spool_link.paused:
            self._next_piece = self._context.clock.callLater(0, self._continue)

    def _resumed(self) -> None:
        """Subscribers have room again."""
        if self._draining:
            self._continue_later()

    def _continue(self) -> None:
        self._next_piece = None
        if not self._read_piece():
            self._continue_later()
        elif self._again and self._grown():
            # What waits was read later than the spool was begun to be read.
            self._again = False
            self._continue_later()
        else:
            self._drained()

    def _drained(self) -> None:
        """All that was in the spool has been handed over: what waited for that comes now."""
        self._draining = self._again = False
        waiting, self._waiting = self._waiting, []
        for link, data in waiting:
            if link in self.links:
                self._take(link, data)
        for link in list(self.links):
            link.resume("spool")
        ready, self._on_drained = self._on_drained, None
        if ready is not None and self.enabled:
            ready()
        else:
            self._on_drained = ready

    def _read_piece(self) -> bool:
        """Read a piece and hand it over. True: that was all; or the rest cannot be read now."""
        left = self._piece_bytes
        while left > 0 and not self._spool_link.paused:
            if not self.enabled:
                return True
            try:
                piece = self._spool.read(left)
            except Untrusted as problem:
                self._context.stats.add("spool_refused")
                self._limited.emit("spool", LogLevel.error, "{problem}", problem=problem)
                return True
            except OSError as error:
                self._failed(error)
                return True
            if piece is None:
                return True
            lines, size = piece
            left -= size
            if not self._take_spooled(lines):
                return True
        return False

    def _take_spooled(self, lines: list[bytes]) -> bool:
        """Hand over lines of the spool. False: they wait for messages to be switched on."""
        spool, link = self._spool, self._spool_link
        link.credential = spool.credential
        batch = self._book.take(lines, self._context.clock.seconds(), mend=True)
        if not self._hand_over(link, batch):
            spool.unread(lines)
            return False
        self._context.stats.add("spooled", len(batch.fresh) + batch.repeated)
        self._count(batch, link.peer_address)
        return True

    def count_lost(self) -> None:
        """Tell what writers have given up. To be called every few seconds."""
        try:
            count = self._spool.lost()
        except OSError as error:
            self._failed(error)
            return
        if count:
            self._context.stats.add("lost_by_notifiers", count)
            self._context.log.error(
                "{count} lines of notifiers are lost: {path} was full",
                count=count,
                path=self._spool.path,
            )

    def _failed(self, error: OSError) -> None:
        self._context.stats.add("spool_errors")
        self._limited.emit(
            "spool error",
            LogLevel.error,
            "the spool cannot be read: {path}: {error}",
            path=error.filename or self._spool.path,
            error=error.strerror or str(error),
        )
