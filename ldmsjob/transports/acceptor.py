"""Accepting connections: as long as there are file descriptors for them, and never in a spin."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from ldmsjob.interfaces import IAdmission

BACKLOG = 1024
"""Connections that wait to be accepted, as with the C daemon."""

PAUSE_SECONDS = 1.0
"""How long nothing is accepted when there is no room, unless some is made."""

ACCEPTS = 100
"""Connections that are accepted in one turn of the reactor; open links have theirs in between."""

IN_VAIN = 8
"""To ask in vain for one more is not tried again before so many have been accepted."""

NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that say that the system has no room for a connection now."""


@implementer(IReadDescriptor)
class Acceptor:
    """Accepts those who wait at a listening socket, until it is closed. Who they are can be decided
    upon before a byte of theirs is read.

    ``accepted`` gets each connection, which may block, with its peer's address. Unless it returns
    True, which says that it keeps the connection, that is closed behind the call. While there is no
    room, such as no file descriptor, those who come wait in the system's queue. ``where`` is for
    people; ``on_this_host`` says that nobody else can connect.
    """

    def __init__(
        self,
        reactor: Any,
        listening: socket.socket,
        accepted: Callable[[socket.socket, Any], bool | None],
        admission: IAdmission,
        *,
        where: str,
        on_this_host: bool = False,
    ) -> None:
        self._reactor = reactor
        self._listening = listening
        self._accepted = accepted
        self._admission = admission
        self._where = where
        self._on_this_host = on_this_host
        self._most = ACCEPTS
        self._taken = IN_VAIN
        self._retry: IDelayedCall | None = None
        reactor.addReader(self)

    def fileno(self) -> int:
        """The socket's."""
        return self._listening.fileno()

    def logPrefix(self) -> str:  # noqa: N802
        """For the reactor."""
        return self._where

    def doRead(self) -> None:  # noqa: N802
        """Take those who wait: as many as there were the last time, since to ask for one more is
        mostly in vain; when that went well for a while, twice as many the next time."""
        for taken in range(self._most):
            if not self._admission.may_accept(self._on_this_host):
                self._pause()
                return
            try:
                connection, address = self._listening.accept()
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:
                    self._admission.no_descriptor(f"{self._where}: {error.strerror}")
                    self._pause()
                self._most = max(taken, 1)
                self._taken = 0
                return
            kept = None
            try:
                kept = self._accepted(connection, address)
            finally:
                if not kept:
                    connection.close()
        self._taken += self._most
        if self._taken >= IN_VAIN:
            self._most = min(2 * self._most, ACCEPTS)

    def _pause(self) -> None:
        self._reactor.removeReader(self)
        self._admission.wait(self._go_on)
        self._retry = self._reactor.callLater(PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._wait_no_more()
        self._reactor.addReader(self)

    def _wait_no_more(self) -> None:
        self._admission.wait_no_more(self._go_on)
        retry, self._retry = self._retry, None
        if retry is not None and retry.active():
            retry.cancel()

    def connectionLost(self, reason: Failure) -> None:
        """For the reactor."""

    def close(self) -> None:
        """Accept no more. The socket stays."""
        self._wait_no_more()
        self._reactor.removeReader(self)
