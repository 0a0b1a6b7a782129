"""TCP connections that a listener has accepted, as transports of Twisted's."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from twisted.internet import abstract, tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from ldmsjob.errors import PLUGIN_FAULTS

_log = Logger(namespace="ldmsd")

_RESET = struct.pack("ii", 1, 0)
"""For ``SO_LINGER``: nothing is sent any more, and the peer is told that the connection broke."""


class Listening(socket.socket):
    """A socket for TCP whose ``accept`` makes sockets that can do what the system's can, without
    the part of ``socket.socket`` that is written in Python: it costs more than to accept."""

    def __init__(self, family: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._kind = int(family), int(socket.SOCK_STREAM), 0

    def accept(self) -> tuple[Any, Any]:
        """The connection and its peer's address."""
        descriptor, address = cast(Any, self)._accept()
        return socket.SocketType(*self._kind, descriptor), address


def write(transport: Any, data: bytes) -> None:
    """Write into a TCP transport of Twisted's, without waiting for the reactor's next turn when
    nothing else waits to go out, and as much as the socket takes: what waits is copied several
    times."""
    if (
        transport.connected
        # Looked into, to keep the order.
        and not transport._tempDataBuffer
        and not transport.dataBuffer
        and not transport.disconnecting
        and not transport._aborting
    ):
        try:
            sent = transport.socket.send(data)
        except OSError:
            # Left for the reactor to find, which knows what to do about it.
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    tcp.Connection.write(transport, data)


class Accepted(tcp.Server):
    """What ``reactor.adoptStreamConnection`` makes, at a third of the cost: it takes the socket
    itself, and asks the system for no address that is known.

    Its protocol cannot be one that goes on when only one direction of the connection has ended.
    """

    logstr = repstr = "an accepted connection"
    write = write

    def __init__(
        self,
        connection: socket.socket,
        address: Any,
        protocol: Any,
        reactor: Any,
    ) -> None:
        # All that those of its bases set. That of Server makes two texts besides that nobody reads.
        connection.setblocking(False)
        self.reactor = reactor
        self.socket = connection
        self.fileno = connection.fileno
        self.protocol = protocol
        self._tempDataBuffer = []
        self._tempDataLen = 0
        self._address = address
        self.connected = 1
        # Looked at for each write, which takes six times the time where they are the class's.
        self.dataBuffer = b""
        self.disconnecting = self._aborting = False
        reactor.addReader(self)

    # There is no TLS that it could be asked to begin.
    registerProducer = abstract.FileDescriptor.registerProducer

    def doRead(self) -> Any:  # noqa: N802
        """Give the protocol what has come. Anything but None ends the connection."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            self.connectionLost(connectionDone)
            return None
        self.protocol.dataReceived(data)
        return None

    def doWrite(self) -> Any:  # noqa: N802
        """Write what waits. The reactor asks for it behind a read that has ended the connection,
        too."""
        return None if self.disconnected else super().doWrite()

    def getPeer(self) -> IPv4Address | IPv6Address:  # noqa: N802
        """The peer's address."""
        return twisted_address(self._address)

    def getHost(self) -> IPv4Address | IPv6Address:  # noqa: N802
        """Our own address."""
        return twisted_address(self.socket.getsockname())

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket, and tell the protocol; once. As its bases do it, but for what they ask
        the reactor and the socket a second time: no other process has the connection."""
        if self.disconnected:
            return
        self.disconnected, self.connected = 1, 0
        self.producer = None
        self.reactor.removeWriter(self)
        self.reactor.removeReader(self)
        connection, protocol = self.socket, self.protocol
        if isinstance(reason.value, ConnectionAborted):
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass  # It is broken already.
        connection.close()
        del self.protocol, self.socket, self.fileno
        protocol.connectionLost(reason)

    def readConnectionLost(self, reason: Failure) -> None:  # noqa: N802
        """The peer sends no more: it has gone."""
        self.connectionLost(reason)


def begin(
    connection: socket.socket,
    address: Any,
    build: Callable[[Any], Any],
    reactor: Any,
) -> bool:
    """Run the protocol that ``build`` makes for a connection from ``address``, as ``accept`` has
    both. False: it has made none, and the connection is still the caller's. ``build`` gets host and
    port.

    Most peers have sent something by now, so it is read without waiting for the reactor to say so.
    """
    protocol = build(host_and_port(address))
    if protocol is None:
        return False
    transport = Accepted(connection, address, protocol, reactor)
    protocol.makeConnection(transport)
    try:
        # Should the connection have ended, the reactor finds that, too.
        transport.doRead()
    except PLUGIN_FAULTS:
        _log.failure("a new connection failed")
        transport.abortConnection()
    return True


def host_and_port(address: Any) -> tuple[str, int]:
    """Of a socket's address. Where one is good on one interface only, the host says on which."""
    if len(address) == 4 and address[3]:
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        return socket.getnameinfo(address, flags)[0], address[1]
    return address[0], address[1]


def twisted_address(address: Any) -> IPv4Address | IPv6Address:
    """A socket's address in Twisted's form."""
    host, port = host_and_port(address)
    if len(address) == 2:
        return IPv4Address("TCP", host, port)
    return IPv6Address("TCP", host, port, *address[2:])
