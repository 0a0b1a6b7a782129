"""What transports over connected sockets have in common: listeners, outgoing connections, rails.

``sock``, ``tls`` and ``unix`` differ in where they listen, how they reach a peer, and in what a
connection is wrapped. Here is the rest: a link for each connection, how many there may be that have
not authenticated, and rails that are made as one.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.admission import Admission
from ldmsjob.interfaces import (
    SILENT,
    IAdmission,
    IAuthenticator,
    ILink,
    ILinkSite,
    IListener,
    LinkSettings,
)
from ldmsjob.limits import Limits
from ldmsjob.stats import Stats
from ldmsjob.transports.acceptor import NO_DESCRIPTORS, Acceptor
from ldmsjob.transports.deadlines import Deadlines
from ldmsjob.transports.link import LinkProtocol
from ldmsjob.transports.outbox import Outbox
from ldmsjob.transports.plainstream import PlainStream
from ldmsjob.transports.rail import ArrivingRails, Rail
from ldmsjob.wire.rail import MAX_ENDPOINTS

if TYPE_CHECKING:
    from ldmsjob.interfaces import IPluginContext
    from ldmsjob.wire.events import SourceAddress
    from ldmsjob.wire.xprt import ConnectionMessage

CONNECT_SECONDS = 10.0


class Remote(msgspec.Struct, frozen=True):
    """The other side of a connection."""

    address: str
    """For people."""
    host: str
    """What endpoints of one rail have in common, beside what they say."""
    source: SourceAddress | None = None
    """What is put into its messages that name no source."""


class LinkFactory(Factory):
    """Makes the protocols of a listener, or of one outgoing connection."""

    noisy = False

    def __init__(
        self,
        transport: StreamTransport,
        site: ILinkSite,
        authenticator: IAuthenticator | None,
        settings: LinkSettings,
        opened: Deferred[ILink] | None = None,
        *rail: Any,
    ) -> None:
        """``rail`` is what ``LinkProtocol`` wants to know of the rail that a link is part of."""
        self._transport = transport
        self._site = site
        self._authenticator = authenticator
        self._settings = settings
        self._opened = opened
        self._rail = rail
        self._arriving = ArrivingRails(transport.reactor)
        limits = settings.limits or Limits()
        self.deadlines = Deadlines(
            transport.reactor, limits.handshake_seconds, lasting=opened is None
        )
        """Of the handshakes."""
        self.admission = admission_of(settings)
        """Who counts the connections that come."""
        self.whose = ""
        """Whom the next connection is counted for, where its address does not tell."""

    def buildProtocol(self, addr: Any) -> LinkProtocol | None:
        """A protocol for a connection; None, which closes it, when there are too many."""
        transport = self._transport
        remote = transport.remote(addr)
        passive = self._opened is None
        place = None
        if passive:
            whose = self.whose or remote.host
            objection = self.admission.objection(whose, transport.on_this_host)
            if objection:
                self._site.link_refused(remote.address, objection)
                return None
            place = self.admission.enter(whose)

        def join_rail(link: LinkProtocol, claim: ConnectionMessage) -> None:
            self._arriving.join(link, remote.host, claim)

        stream = transport.stream(passive)
        # Arguments with names take much of the time of making an object.
        return LinkProtocol(
            passive,
            self._site,
            transport.authenticator(self._authenticator, stream),
            self._settings,
            transport.reactor,
            transport.outbox,
            stream,
            remote.address,
            remote.source,
            self._opened,
            place,
            self.deadlines,
            join_rail if passive else None,
            *self._rail,
        )


def admission_of(settings: LinkSettings) -> IAdmission:
    """Who counts the connections of a listener with these settings."""
    admission: IAdmission = settings.admission or Admission(Stats(), settings.limits)
    return admission


class StreamTransport:
    """Base of the transports over connected sockets; not one by itself.

    The context's clock must be a reactor. All links made by one transport share their outbox: what
    they forward to one another during a read is written once per link.
    """

    on_this_host = False
    """Whether only processes of this host can connect."""

    def __init__(self, context: IPluginContext) -> None:
        self.reactor: Any = context.clock
        self.outbox = Outbox()

    # What a transport says of itself

    def stream(self, passive: bool) -> PlainStream:
        """How the next link is to treat its connection. ``passive``: the peer connects to us."""
        raise NotImplementedError

    def remote(self, addr: Any) -> Remote:
        """Who is at that address of Twisted's."""
        raise NotImplementedError

    def endpoint(self, host: str, port: int) -> Any:
        """The ``IStreamClientEndpoint`` that reaches a peer."""
        raise NotImplementedError

    def authenticator(self, given: IAuthenticator | None, stream: PlainStream) -> IAuthenticator:
        """Who authenticates the next link. ``given`` is None where none was named."""
        assert given is not None
        return given

    def connect_failed(self, failure: Failure) -> Failure:
        """Why there is no connection, in terms of ``ITransport.connect``."""
        return failure

    # ITransport

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Nothing to take: the daemon has refused what is not declared."""

    def connect(
        self,
        host: str,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator | None,
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
        seconds = CONNECT_SECONDS + (settings.limits or Limits()).handshake_seconds
        made = Rail(rail, self.reactor, seconds=seconds)
        number = secrets.randbits(63)
        attempts = [
            self._connect(
                *(host, port, site, authenticator, settings),
                *(made, number, endpoint),
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
        authenticator: IAuthenticator | None,
        settings: LinkSettings,
        *rail: Any,
    ) -> Deferred[ILink]:
        """One connection; ``rail`` is what ``LinkProtocol`` wants to know of its rail."""
        made: list[LinkProtocol] = []

        def give_up(_opened: Deferred[ILink]) -> None:
            attempt.cancel()
            for protocol in made:
                protocol.abort("given up")

        opened: Deferred[ILink] = Deferred(give_up)
        factory = LinkFactory(self, site, authenticator, settings, opened, *rail)
        attempt: Deferred[Any] = self.endpoint(host, port).connect(factory)

        def failed(failure: Failure) -> None:
            failure = self.connect_failed(failure)
            if not opened.called:
                opened.errback(failure)

        attempt.addCallbacks(made.append, failed)
        return opened


class Accepting:
    """Accepts connections at ``bound``, a listening socket, and has them become links, until
    ``stopListening``. The socket is its own.

    ``links`` makes the links; ``factory`` is the same, or what it was wrapped into. ``where`` is
    for people.
    """

    def __init__(
        self,
        reactor: Any,
        bound: socket.socket,
        links: LinkFactory,
        factory: Any,
        site: ILinkSite,
        *,
        where: str,
        on_this_host: bool = False,
    ) -> None:
        self.reactor = reactor
        self.links = links
        self.factory = factory
        self._bound = bound
        self._site = site
        self._where = where
        self._acceptor = Acceptor(
            *(reactor, bound, self._accepted, links.admission),
            where=where,
            on_this_host=on_this_host,
        )

    def _accepted(self, connection: socket.socket, address: Any) -> bool:
        """Somebody has connected; whether the connection has become a link's."""
        try:
            return self.begin(connection, address)
        except OSError as error:
            # Else it has been closed meanwhile, and its address is not known any more.
            no_descriptor = error.errno in NO_DESCRIPTORS
            self._site.link_refused(
                self._where, f"no descriptor: {error.strerror}" if no_descriptor else SILENT
            )
            return False

    def begin(self, connection: socket.socket, address: Any) -> bool:
        """Make a link of a connection from ``address``; whether the connection is the link's now.
        Raises ``OSError`` when it has been lost, or for want of a descriptor."""
        raise NotImplementedError

    def stopListening(self) -> None:  # noqa: N802
        """Accept no more."""
        self.links.deadlines.end_timer()
        self._acceptor.close()
        self._bound.close()


@implementer(IListener)
class StreamListener(Service):
    """Listens while it runs. Bound in ``privilegedStartService``, or at the latest in
    ``startService``; both raise ``ConfigError`` when that fails.

    ``bind`` makes something that accepts connections until its ``stopListening`` is called, and
    tells the real port.
    """

    def __init__(self, port: int, bind: Callable[[int], tuple[Any, int]]) -> None:
        self._bind_port = bind
        self._listening: Any = None
        self.port = port

    @property
    def service(self) -> StreamListener:
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
        if self._listening is None:
            self._listening, self.port = self._bind_port(self.port)
