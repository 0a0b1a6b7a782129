"""Links that bring notifiers' lines: what the site sees of a notifier process, and of the spool."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet import unix
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.errors import PeerError, PublishError
from ldmsjob.interfaces import ILink, IPlace, IRail
from ldmsjob.transports.notifier_lines import LineCutter
from ldmsjob.wire.events import UNLIMITED, Credential, PeerInfo, ReturnCredit, WireCommand

if TYPE_CHECKING:
    from ldmsjob.transports.intake import Intake
    from ldmsjob.wire.setevents import SetCommand


class _LineLink:
    """What the site sees of whoever brings lines: a link that takes nothing but credit.

    ``refused`` is set when the site does not take what it is given.
    """

    rail: IRail | None = None
    endpoint = 0
    refused = False

    def __init__(self, peer_address: str, credential: Credential, pid: int) -> None:
        self.peer_address = peer_address
        self.credential = credential
        self.peer = PeerInfo("none", pid, False, UNLIMITED, UNLIMITED)

    def can_publish(self, size: int) -> bool:
        """Nothing is published to a notifier."""
        return False

    def waits_for_second(self, size: int) -> bool:
        """It has no rate."""
        return False

    def has_room(self) -> bool:
        """Nothing waits for it."""
        return True

    def send(self, command: WireCommand | SetCommand) -> None:
        """Take note of credit that comes with an error; raises ``PublishError`` for anything else
        than credit.

        A line is answered when the site has dealt with it here: its notifier does not wait for
        slow subscribers elsewhere.
        """
        if type(command) is not ReturnCredit:
            raise PublishError("notifiers take no messages", rc=errno.EOPNOTSUPP)
        if command.rc:
            self.refused = True


@implementer(ILink)
class SpoolLink(_LineLink):
    """The link over which the lines of the spool come."""

    def __init__(self, path: str, resumed: Callable[[], None]) -> None:
        super().__init__(path, Credential(0, 0), 0)
        self._resumed = resumed
        self.paused = False

    def pause_reading(self) -> None:
        """Too much of it waits for slow subscribers."""
        self.paused = True

    def resume_reading(self) -> None:
        """Go on."""
        if self.paused:
            self.paused = False
            self._resumed()

    def close(self) -> None:
        """It ends with its listener."""

    def abort(self, reason: str) -> None:
        """It ends with its listener."""


@implementer(ILink, IPushProducer)
class NotifierLink(_LineLink, Protocol):
    """The connection of one notifier process."""

    def __init__(self, intake: Intake, pid: int, credential: Credential, place: IPlace) -> None:
        super().__init__(f"notifier {pid}", credential, pid)
        self._place = place
        self.cutter = LineCutter()
        self._intake = intake
        self._reason: Exception | None = None
        self._pauses: set[str] = set()
        self._open = False
        self._closing = False

    # Protocol

    def connectionMade(self) -> None:
        """It is a link at once: the kernel has said who it is."""
        self._twisted.registerProducer(self, True)
        self._open = True
        self._place.opened()
        self._intake.opened(self)

    def dataReceived(self, data: bytes) -> None:
        """Hand it on."""
        if not self._closing:
            self._intake.received(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the site, once."""
        self._closing = True
        self.transport = None
        self._place.left()
        if not self._open:
            return
        self._open = False
        if self._reason is not None:
            reason = Failure(self._reason)
        elif reason.check(ConnectionLost):
            # It did not wait for its answers; that is its right.
            reason = Failure(ConnectionDone())
        self._intake.closed(self, reason)

    # Reading and answering

    @property
    def _twisted(self) -> Any:
        """The transport; its many interfaces are Twisted's."""
        return self.transport

    def answer(self, answers: bytes) -> None:
        """Send the answers to lines: now, when nothing else waits to go out.

        Looks at private buffers of Twisted's transports, to keep the order; any other transport is
        simply written to.
        """
        if self._closing:
            return
        transport = self._twisted
        if (
            type(transport) is unix.Server
            and not transport.dataBuffer
            and not transport._tempDataBuffer
            and transport.connected
            and not transport.disconnecting
        ):
            sent = transport.writeSomeData(answers)
            if isinstance(sent, int):
                # An error is left for the reactor to find, which knows what to do about it.
                answers = answers[sent:]
        if answers:
            transport.write(answers)

    def pause(self, why: str) -> None:
        """Read no more until ``resume`` with the same reason."""
        if not self._pauses and not self._closing:
            self._twisted.pauseProducing()
        self._pauses.add(why)

    def resume(self, why: str) -> None:
        """That reason to read no more is over."""
        if why in self._pauses:
            self._pauses.discard(why)
            if not self._pauses and not self._closing:
                self._twisted.resumeProducing()

    # ILink

    def pause_reading(self) -> None:
        """Read no more for now."""
        self.pause("owner")

    def resume_reading(self) -> None:
        """Read again."""
        self.resume("owner")

    def close(self) -> None:
        """Close behind the answers. Lines that were not answered go to the spool."""
        if not self._closing:
            self._closing = True
            self._twisted.unregisterProducer()
            self._twisted.loseConnection()

    def abort(self, reason: str) -> None:
        """Close at once. Lines that were not answered go to the spool."""
        if not self._closing:
            self._closing = True
            self._reason = PeerError(reason)
            self._twisted.abortConnection()

    # IPushProducer

    def pauseProducing(self) -> None:
        """Much waits for a process that reads no answers, and yet sends lines."""
        self.abort("reads no answers")

    def resumeProducing(self) -> None:
        """Never: it was aborted."""

    def stopProducing(self) -> None:
        """The transport has gone; ``connectionLost`` follows."""
