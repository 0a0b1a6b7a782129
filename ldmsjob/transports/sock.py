"""The transport ``sock``: LDMS over TCP, interoperable with the C library's."""

from __future__ import annotations

import errno
import socket
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Any

import msgspec
from twisted.internet import tcp
from twisted.internet.error import DNSLookupError
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.errors import CANNOT_LISTEN, ConfigError
from ldmsjob.interfaces import IAuthenticator, ILinkSite, ITransport, LinkSettings
from ldmsjob.transports import accepted
from ldmsjob.transports.acceptor import BACKLOG
from ldmsjob.transports.plainstream import PlainStream
from ldmsjob.transports.streams import (
    CONNECT_SECONDS,
    Accepting,
    LinkFactory,
    Remote,
    StreamListener,
    StreamTransport,
)
from ldmsjob.wire.events import SourceAddress

_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]
"""No delay; seconds idle, seconds between probes, and probes, as with the C library. Connections
that are accepted have the options of the listening socket."""

_TLS_RECORDS, _TLS_MAJOR = (21, 22), b"\3"
"""How alerts and handshakes of TLS begin."""

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_IPV4_FAMILY, _IPV6_FAMILY = 2, 10
"""Address families as on the wire."""


def prepare(transport: Any) -> None:
    """Set up a TCP connection, unless a listener has."""
    if type(transport) is not accepted.Accepted:
        set_options(transport.getHandle())


def local_address(transport: Any) -> str:
    """Our own address."""
    host, port, *_ = transport.getHandle().getsockname()
    return address_text(host, port)


def set_options(connection: socket.socket) -> None:
    """Send without delay, and find out when the peer has gone."""
    for level, option, value in _OPTIONS:
        connection.setsockopt(level, option, value)


def acknowledge(transport: Any) -> None:
    """Have what was read acknowledged now. The kernel forgets the option, so each time.

    The C library leaves Nagle's algorithm on: its second small segment waits for our delayed
    acknowledgement of the first, 40 ms, unless we acknowledge at once.
    """
    if _QUICKACK is not None:
        try:
            transport.getHandle().setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        except OSError:
            pass  # The connection has gone; the next read tells.


class TcpStream(PlainStream):
    """Socket options, and a shorter way for small writes."""

    def made(self, transport: Any) -> None:
        """Set up the connection."""
        made_by_us = type(transport) is tcp.Client
        if made_by_us:
            transport.write = partial(accepted.write, transport)
        prepare(transport)

    def local_address(self, transport: Any) -> str:
        """Where the connection came to."""
        return local_address(transport)

    def objection(self, data: bytes) -> str:
        """Peers that speak TLS begin like nobody who speaks LDMS."""
        if data[0] in _TLS_RECORDS and data[1:2] in (b"", _TLS_MAJOR):
            return "speaks tls: it speaks TLS, and this is plain sock; one side needs xprt=tls"
        return ""

    def unanswered(self, transport: Any) -> None:
        """Have what was read acknowledged now. What is written does that, too."""
        acknowledge(transport)


_STREAM = TcpStream()
"""For all links: it knows nothing of any of them."""


def address_text(host: str, port: int) -> str:
    """``10.0.0.7:411`` or ``[fe80::1]:411``; IPv4 in its IPv6 form is IPv4."""
    return f"{_known(host).text}:{port}"


def source_address(host: str, port: int) -> SourceAddress | None:
    """Where a peer's messages come from; None for a loopback address, as the C library has it."""
    return _source(_known(host), port)


def _source(known: _Known, port: int) -> SourceAddress | None:
    source = known.source
    return source and SourceAddress(source[0], port, source[1])


class _Known(msgspec.Struct, frozen=True):
    """What follows from an IP address."""

    host: str
    text: str
    """In front of a port."""
    source: tuple[int, bytes] | None
    """Address family and address as in messages."""


@lru_cache(maxsize=1024)
def _known(host: str) -> _Known:
    """Worked out once for peers that come again and again."""
    host = plain_host(host)
    text = f"[{host}]" if ":" in host else host
    address = ip_address(host.partition("%")[0])
    if address.is_loopback:
        return _Known(host, text, None)
    family = _IPV4_FAMILY if address.version == 4 else _IPV6_FAMILY
    return _Known(host, text, (family, address.packed.ljust(16, b"\0")))


def plain_host(host: str) -> str:
    """An IP address; IPv4 in its IPv6 form is IPv4."""
    return host.removeprefix("::ffff:") if "." in host else host


@implementer(ITransport)
class SockTransport(StreamTransport):
    """Links over TCP."""

    name = "sock"

    def stream(self, passive: bool) -> PlainStream:
        """TCP's."""
        return _STREAM

    def remote(self, addr: Any) -> Remote:
        """An IP address and a port: Twisted's, or a pair of both."""
        host, port = addr if type(addr) is tuple else (addr.host, addr.port)
        known = _known(host)
        return Remote(f"{known.text}:{port}", known.host, _source(known, port))

    def endpoint(self, host: str, port: int) -> Any:
        """By name or address, IPv6 and IPv4."""
        # Twisted's endpoints take long to load, and who only listens has no use for them.
        from twisted.internet.endpoints import HostnameEndpoint

        return HostnameEndpoint(self.reactor, host, port, timeout=CONNECT_SECONDS)

    def connect_failed(self, failure: Failure) -> Failure:
        """What Twisted says of a host whose name breaks the rules for names is told as what it
        says of any that there is not."""
        if failure.check(ValueError):
            return Failure(DNSLookupError(failure.getErrorMessage()))
        return failure

    def listen(
        self,
        host: str | None,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator | None,
        settings: LinkSettings,
    ) -> StreamListener:
        """A listener that binds when its service starts."""
        links = LinkFactory(self, site, authenticator, settings)
        factory = self.wrapped(links)

        def bind(port: int) -> tuple[Any, int]:
            try:
                bound = bound_socket(host, port)
            except OSError as error:
                reason = error.strerror or str(error)
                raise ConfigError(
                    f"cannot listen on {self.name} {host or '*'}:{port}: {reason}",
                    rc=CANNOT_LISTEN,
                    hint=_listen_hint(error, port),
                ) from None
            real_port = bound.getsockname()[1]
            where = f"{self.name}:{real_port}" + (f":{host}" if host else "")
            return _Accepting(self.reactor, bound, links, factory, site, where=where), real_port

        return StreamListener(port, bind)

    def wrapped(self, factory: LinkFactory) -> Any:
        """The factory of a listener, inside of what else its connections speak."""
        return factory


class _Accepting(Accepting):
    """Accepts TCP connections."""

    def begin(self, connection: socket.socket, address: Any) -> bool:
        """They become links themselves."""
        return accepted.begin(connection, address, self.factory.buildProtocol, self.reactor)


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
    # As bytes: for text, Python first loads what encodes names in other letters.
    name = host.encode() if host.isascii() else host
    family, _, _, _, address = socket.getaddrinfo(
        name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return _listening_socket(family, address)


def _listening_socket(family: int, address: Any) -> socket.socket:
    made = accepted.Listening(family)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only_v6 = address[0] != "::"
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        set_options(made)
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
