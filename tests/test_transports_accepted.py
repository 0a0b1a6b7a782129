"""Connections that a listener has accepted, in a reactor of their own."""

from __future__ import annotations

import socket

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.eventloop import EventLoop
from ldmsjob.transports.accepted import Accepted


class Remembering(Protocol):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.lost: list[type] = []

    def dataReceived(self, data: bytes) -> None:
        """Data."""
        self.read.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The end."""
        self.lost.append(reason.type)


class AcceptedTests(SynchronousTestCase):
    """Both ends of one."""

    def setUp(self) -> None:
        """An accepted connection."""
        self.loop = EventLoop()
        self.addCleanup(self.loop._poller.close)
        for one in self.loop.removeAll():
            one.connectionLost(None)
        mine, self.other = socket.socketpair()
        self.addCleanup(mine.close)
        self.addCleanup(self.other.close)
        self.protocol = Remembering()
        self.transport = Accepted(mine, ("127.0.0.1", 1), self.protocol, self.loop)
        self.protocol.makeConnection(self.transport)

    def test_written(self) -> None:
        """What is read and written in one turn of the reactor."""
        self.transport.write(b"ours")
        self.other.send(b"theirs")
        self.loop.doPoll(0)
        self.assertEqual((self.protocol.read, self.other.recv(10)), ([b"theirs"], b"ours"))
        self.assertEqual(self.protocol.lost, [])

    def test_closed_with_something_to_write(self) -> None:
        """A peer that goes while something waits for being written costs its connection only, and
        nothing is logged."""
        self.transport.write(b"ours")
        self.other.shutdown(socket.SHUT_WR)
        self.loop.doPoll(0)
        self.assertEqual(self.protocol.lost, [ConnectionDone])
        self.loop.doPoll(0)
        self.assertEqual(len(self.protocol.lost), 1)
