"""The transport ``sock``: LDMS over TCP, interoperable with the C library's."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import IAuthenticator, ILink, ILinkSite, IListener, ITransport, LinkSettings
from ldmsjob.transports.link import (
    HANDSHAKE_SECONDS,
    OUTPUT_LIMIT_BYTES,
    LinkProtocol,
    Outbox,
    PlainStream,
)
from ldmsjob.transports.rail import ArrivingRails, Rail
from ldmsjob.wire.events import SourceAddress
from ldmsjob.wire.rail import MAX_ENDPOINTS

if TYPE_CHECKING:
    from ldmsjob.interfaces import IPluginContext
    from ldmsjob.wire.xprt import ConnectionMessage

BACKLOG = 1024
"""Connections that wait to be accepted, as with the C daemon."""

_KEEPALIVE = [
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]
"""Seconds idle, seconds between probes, probes, as with the C library."""

MAX_UNOPENED = 1024
"""Connections of one transport that have not authenticated yet; more are closed at once."""

CONNECT_SECONDS = 10.0

RC_LISTEN_FAILED = 7
"""The C daemon's exit status when it cannot listen."""

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_IPV4_FAMILY, _IPV6_FAMILY = 2, 10
"""Address families as on the wire."""


class TcpStream(PlainStream):
    """Socket options, and a shorter way for small writes."""

    def made(self, transport: Any) -> str:
        """No delay, prompt acknowledgement, keep-alive.

        The C library leaves Nagle's algorithm on: its second small segment waits for our delayed
        acknowledgement of the first, 40 ms, unless we acknowledge at once.
        """
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        handle = transport.getHandle()
        for option, value in _KEEPALIVE:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)
        self.read(transport)
        host = transport.getHost()
        return address_text(host.host, host.port)

    def read(self, transport: Any) -> None:
        """Have what was read acknowledged now. The kernel forgets the option, so each time."""
        if _QUICKACK is not None:
            try:
                transport.getHandle().setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            except OSError:
                pass  # The connection has gone; the next read tells.

    def write(self, transport: Any, data: bytes) -> None:
        """Write, without waiting for the reactor's next turn when nothing else waits to go out.

        Looks at private buffers of Twisted's TCP transports, to keep the order; any other
        transport is simply written to.
        """
        if (
            type(transport) in (tcp.Server, tcp.Client)
            and not transport.dataBuffer
            and not transport._tempDataBuffer
            and transport.connected
            and not transport.disconnecting
            and not transport._aborting
        ):
            sent = transport.writeSomeData(data)
            if isinstance(sent, int):
                # An error is left for the reactor to find, which knows what to do about it.
                data = data[sent:]
        if data:
            transport.write(data)


def address_text(host: str, port: int) -> str:
    """``10.0.0.7:411`` or ``[fe80::1]:411``; IPv4 in its IPv6 form is IPv4."""
    host = _plain_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def source_address(host: str, port: int) -> SourceAddress | None:
    """Where a peer's messages come from; None for a loopback address, as the C library has it."""
    address = ip_address(_plain_host(host).partition("%")[0])
    if address.is_loopback:
        return None
    family = _IPV4_FAMILY if address.version == 4 else _IPV6_FAMILY
    return SourceAddress(family, port, address.packed.ljust(16, b"\0"))


def _plain_host(host: str) -> str:
    return host.removeprefix("::ffff:") if "." in host else host


class _LinkFactory(Factory):
    """Makes the protocols of a listener, or of one outgoing connection."""

    noisy = False

    def __init__(
        self,
        transport: SockTransport,
        site: ILinkSite,
        authenticator: IAuthenticator,
        settings: LinkSettings,
        opened: Deferred[ILink] | None = None,
        **rail: Any,
    ) -> None:
        self._transport = transport
        self._site = site
        self._authenticator = authenticator
        self._settings = settings
        self._opened = opened
        self._rail = rail
        self._arriving = ArrivingRails(transport.reactor)

    def buildProtocol(self, addr: Any) -> LinkProtocol | None:
        """A protocol for a connection; None, which closes it, when too many are not open yet."""
        transport = self._transport
        peer_address = address_text(addr.host, addr.port)
        passive = self._opened is None
        if passive and transport.unopened >= transport.max_unopened:
            self._site.link_refused(peer_address, "too many: connections that are not open yet")
            return None
        transport.unopened += 1

        def join_rail(link: LinkProtocol, claim: ConnectionMessage) -> None:
            self._arriving.join(link, _plain_host(addr.host), claim)

        return LinkProtocol(
            passive=passive,
            site=self._site,
            authenticator=self._authenticator,
            settings=self._settings,
            clock=transport.reactor,
            outbox=transport.outbox,
            stream=TcpStream(),
            peer_address=peer_address,
            peer_source=source_address(addr.host, addr.port),
            join_rail=join_rail if passive else None,
            **self._rail,
            opened=self._opened,
            on_settled=transport.settled,
            handshake_seconds=transport.handshake_seconds,
            output_limit_bytes=transport.output_limit_bytes,
        )


@implementer(ITransport)
class SockTransport:
    """Links over TCP.

    The context's clock must be a reactor. All links made by one transport share their outbox: what
    they forward to one another during a read is written once per link.
    """

    def __init__(
        self,
        context: IPluginContext,
        *,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
        max_unopened: int = MAX_UNOPENED,
    ) -> None:
        self.reactor: Any = context.clock
        self.handshake_seconds = handshake_seconds
        self.output_limit_bytes = output_limit_bytes
        self.max_unopened = max_unopened
        self.unopened = 0
        """Connections whose handshake is not done yet."""
        self.outbox = Outbox()

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Nothing to take: the daemon has refused what is not declared."""

    def listen(
        self,
        host: str | None,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator,
        settings: LinkSettings,
    ) -> SockListener:
        """A listener that binds when its service starts."""
        factory = _LinkFactory(self, site, authenticator, settings)
        return SockListener(self.reactor, host, port, factory)

    def connect(
        self,
        host: str,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator,
        settings: LinkSettings,
        rail: int = 1,
    ) -> Deferred[ILink]:
        """Connect once. Cancelling the Deferred gives up, also during the handshake.

        Fails with Twisted's ``ConnectError`` or ``DNSLookupError`` when there is no connection,
        with ``PeerError`` or ``AuthFailed`` when there is one that cannot be used. When one
        connection of a rail fails, none stays.
        """
        if not 1 <= rail <= MAX_ENDPOINTS:
            raise ValueError(f"a rail of {rail} endpoints")
        if rail == 1:
            return self._connect(host, port, site, authenticator, settings)
        seconds = CONNECT_SECONDS + self.handshake_seconds
        made = Rail(rail, self.reactor, seconds=seconds)
        number = secrets.randbits(63)
        attempts = [
            self._connect(
                *(host, port, site, authenticator, settings),
                rail=made,
                rail_gn=number,
                endpoint=endpoint,
            )
            for endpoint in range(rail)
        ]

        def failed(failure: Failure) -> None:
            made.close()
            for attempt in attempts:
                attempt.cancel()
            if not opened.called:
                opened.errback(cast(FirstError, failure.value).subFailure)

        def give_up(given_up: Deferred[ILink]) -> None:
            given_up.errback(CancelledError())
            together.cancel()

        opened: Deferred[ILink] = Deferred(give_up)
        together = gatherResults(attempts, consumeErrors=True)
        together.addCallbacks(lambda links: opened.callback(links[0]), failed)
        return opened

    def _connect(
        self,
        host: str,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator,
        settings: LinkSettings,
        **rail: Any,
    ) -> Deferred[ILink]:
        """One connection; ``rail`` is what ``LinkProtocol`` wants to know of its rail."""
        made: list[LinkProtocol] = []

        def give_up(_opened: Deferred[ILink]) -> None:
            attempt.cancel()
            for protocol in made:
                protocol.abort("given up")

        opened: Deferred[ILink] = Deferred(give_up)
        factory = _LinkFactory(self, site, authenticator, settings, opened, **rail)
        endpoint = HostnameEndpoint(self.reactor, host, port, timeout=CONNECT_SECONDS)
        attempt: Deferred[Any] = endpoint.connect(factory)

        def failed(failure: Failure) -> None:
            if failure.check(ValueError):
                # What Twisted says of a host whose name breaks the rules for names.
                failure = Failure(DNSLookupError(failure.getErrorMessage()))
            if not opened.called:
                opened.errback(failure)

        attempt.addCallbacks(made.append, failed)
        return opened

    def settled(self) -> None:
        """A connection became a link or ended before it."""
        self.unopened -= 1


@implementer(IListener)
class SockListener(Service):
    """Listens while it runs. Bound in ``privilegedStartService``, or at the latest in
    ``startService``; both raise ``ConfigError`` when that fails."""

    def __init__(self, reactor: Any, host: str | None, port: int, factory: Factory) -> None:
        self._reactor = reactor
        self._host = host
        self._factory = factory
        self._listening: Any = None
        self.port = port

    @property
    def service(self) -> SockListener:
        """The service is the listener."""
        return self

    def privilegedStartService(self) -> None:
        """Bind and listen."""
        super().privilegedStartService()
        self._bind()

    def startService(self) -> None:
        """Bind, unless ``privilegedStartService`` has."""
        super().startService()
        self._bind()

    def stopService(self) -> Deferred[None] | None:
        """Accept no more. Links that are open stay."""
        super().stopService()
        listening, self._listening = self._listening, None
        return None if listening is None else listening.stopListening()

    def _bind(self) -> None:
        if self._listening is not None:
            return
        try:
            bound = bound_socket(self._host, self.port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"cannot listen on sock {self._host or '*'}:{self.port}: {reason}",
                rc=RC_LISTEN_FAILED,
                hint=_listen_hint(error, self.port),
            ) from None
        try:
            # The reactor has a copy of the descriptor from here on.
            self._listening = self._reactor.adoptStreamPort(
                bound.fileno(), bound.family, self._factory
            )
            self.port = bound.getsockname()[1]
        finally:
            bound.close()


def bound_socket(host: str | None, port: int) -> socket.socket:
    """A listening socket. Without a host: IPv6 and IPv4 in one, or IPv4 where there is no IPv6.

    Raises ``OSError``; a name that does not resolve is one, too.
    """
    if host is None:
        try:
            return _listening_socket(socket.AF_INET6, ("::", port))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
        return _listening_socket(socket.AF_INET, ("0.0.0.0", port))
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return _listening_socket(family, address)


def _listening_socket(family: int, address: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only_v6 = address[0] != "::"
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        made.bind(address)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _listen_hint(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"another program listens there: see it with `ss -ltnp sport = :{port}`"
    if error.errno == errno.EACCES:
        return "ports below 1024 are for root"
    return ""
