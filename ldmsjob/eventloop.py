"""The reactor that the daemon runs in: Twisted's for epoll, with less around each event."""

from __future__ import annotations

import sys
from select import EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.python import log

LONGEST_SECONDS = 1_000_000.0
"""As long as one call may wait for events; the system counts milliseconds in 31 bits."""


class EventLoop(EPollReactor):
    """Calls who has an event directly. Twisted's has each call note in a context whose it is, for
    log lines that no logger of ours writes; that costs as much as the rest of its loop.

    And it looks after timers only when there is something about them.
    """

    def mainLoop(self) -> None:  # noqa: N802
        """Deal with events, and with calls whose time has come, until the reactor is stopped."""
        while self._started:
            try:
                while self._started:
                    self.runUntilCurrent()
                    self.doPoll(self.running and self.timeout(), go_on=True)
            except BaseException:
                log.err(None, "in the main loop")

    def doPoll(self, timeout: float | None, go_on: bool = False) -> None:  # noqa: N802
        """Wait for events, ``timeout`` seconds or without an end, and have them dealt with.

        ``go_on``: then wait for more, until there is something else to do.
        """
        poll, selectables = self._poller.poll, self._selectables
        wait = -1 if timeout is None else timeout
        while True:
            for descriptor, event in poll(wait, len(selectables)):
                # An event before this one may have closed it.
                selectable = selectables.get(descriptor)
                if selectable is None:
                    continue
                if event != EPOLLIN:
                    # What it raises is logged there, and ends it.
                    self._doReadOrWrite(selectable, descriptor, event)
                    continue
                try:
                    why = selectable.doRead()
                except BaseException as error:
                    log.err()
                    why = error
                if why:
                    self._disconnectSelectable(selectable, why, True)
            if (
                not (go_on and self.running)
                or self._newTimedCalls
                or self.threadCallQueue
                or self._justStopped
            ):
                return
            # As `timeout` has it.
            calls = self._pendingTimedCalls
            wait = calls[0].time - self.seconds() if calls else LONGEST_SECONDS
            if wait <= 0:
                return
            if wait > LONGEST_SECONDS:
                wait = LONGEST_SECONDS

    doIteration = doPoll  # noqa: N815

    # Nearly all descriptors are for reading alone, and are files that can be waited for.

    def addReader(self, reader: Any) -> None:  # noqa: N802
        """Have it read when there is something."""
        descriptor = reader.fileno()
        if descriptor in self._selectables:
            super().addReader(reader)
            return
        try:
            self._poller.register(descriptor, EPOLLIN)
        except OSError:
            super().addReader(reader)
            return
        self._reads.add(descriptor)
        self._selectables[descriptor] = reader

    def removeReader(self, reader: Any) -> None:  # noqa: N802
        """Have it read no more."""
        descriptor = reader.fileno()
        if descriptor not in self._reads or descriptor in self._writes:
            super().removeReader(reader)
            return
        self._reads.remove(descriptor)
        del self._selectables[descriptor]
        self._poller.unregister(descriptor)

    def removeWriter(self, writer: Any) -> None:  # noqa: N802
        """Have it write no more."""
        descriptor = writer.fileno()
        if descriptor not in self._reads or descriptor in self._writes:
            super().removeWriter(writer)


def install() -> None:
    """Make it the reactor of this process, unless there is one: ``twistd --reactor`` names it."""
    if "twisted.internet.reactor" not in sys.modules:
        installReactor(EventLoop())
