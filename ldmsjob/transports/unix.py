"""The transport ``unix``: LDMS over a unix socket, for tools on the node.

The system says who is at the other end, so there is nothing to authenticate.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from zope.interface import implementer

from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import IAuthenticator, ILink, ILinkSite, ITransport, LinkSettings
from ldmsjob.transports.acceptor import BACKLOG
from ldmsjob.transports.identity import ProvenIdentity
from ldmsjob.transports.plainstream import PlainStream
from ldmsjob.transports.streams import (
    CONNECT_SECONDS,
    Accepting,
    LinkFactory,
    Remote,
    StreamListener,
    StreamTransport,
)
from ldmsjob.transports.unixsocket import (
    bound_socket,
    path_problem,
    peer_process,
    prepare_directory,
)
from ldmsjob.wire.events import Credential

if TYPE_CHECKING:
    from ldmsjob.interfaces import IPluginContext

DIRECTORY_MODE = 0o755
"""Of a directory that is made for the socket: everybody may come to it."""


class UnixStream(PlainStream):
    """Asks the system who the peer is."""

    def __init__(self, passive: bool) -> None:
        self._passive = passive
        self._credential: Credential | None = None

    def made(self, transport: Any) -> None:
        """Ask."""
        process = peer_process(transport.getHandle())
        self._credential = Credential(process.uid, process.gid)
        if self._passive:
            self.peer_address = f"pid {process.pid} of uid {process.uid}"

    def identify(self) -> Credential | None:
        """Who the peer is, with its effective group; None before the connection is made."""
        return self._credential


@implementer(ITransport)
class UnixTransport(StreamTransport):
    """Links over unix sockets. ``host`` is the path, ``port`` is not looked at."""

    on_this_host = True

    def __init__(self, context: IPluginContext) -> None:
        super().__init__(context)
        self._mode = 0o666

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Take the socket's mode."""
        if "mode" in attributes:
            mode = int(attributes["mode"], 8)
            if mode & ~0o777:
                raise ConfigError(f"mode '{attributes['mode']}' invalid", hint="000 to 777")
            self._mode = mode

    def stream(self, passive: bool) -> PlainStream:
        """One that knows the peer."""
        return UnixStream(passive)

    def remote(self, addr: Any) -> Remote:
        """The path of the socket; who has connected to it is known later."""
        return Remote(os.fsdecode(addr.name), "unix")

    def endpoint(self, host: str, port: int) -> Any:
        """By path."""
        return UNIXClientEndpoint(self.reactor, host, timeout=CONNECT_SECONDS)

    def authenticator(self, given: IAuthenticator | None, stream: PlainStream) -> IAuthenticator:
        """The system."""
        return ProvenIdentity(cast(UnixStream, stream).identify)

    def connect(
        self,
        host: str,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator | None,
        settings: LinkSettings,
        rail: int = 1,
    ) -> Deferred[ILink]:
        """Connect to the socket at the path ``host``."""
        _refuse(authenticator)
        if not host.startswith("/"):
            raise ConfigError(
                f"xprt=unix connects to a path, not to '{host}'",
                hint="the host is the listener's path=/…",
            )
        problem = path_problem(host)
        if problem:
            return fail(ConnectError(string=problem))
        return super().connect(host, port, site, None, settings, rail)

    def listen(
        self,
        host: str | None,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator | None,
        settings: LinkSettings,
    ) -> StreamListener:
        """A listener that binds when its service starts, and removes the socket when it stops."""
        _refuse(authenticator)
        path = cast(str, host)
        factory = LinkFactory(self, site, None, settings)

        def bind(_port: int) -> tuple[_Accepting, int]:
            prepare_directory(os.path.dirname(path), DIRECTORY_MODE)
            bound = bound_socket(path, "unix", self._mode)
            bound.listen(BACKLOG)
            return _Accepting(self.reactor, bound, path, factory, site), 0

        return StreamListener(0, bind)


class _Accepting(Accepting):
    """Counts connections by user, and removes its socket at the end."""

    def __init__(
        self,
        reactor: Any,
        bound: socket.socket,
        path: str,
        factory: LinkFactory,
        site: ILinkSite,
    ) -> None:
        super().__init__(*(reactor, bound, factory, factory, site), where=path, on_this_host=True)
        self._path = path
        self._file = _identity(path)

    def begin(self, connection: socket.socket, address: Any) -> bool:
        """Counted for its user. What becomes a link is a duplicate."""
        self.links.whose = f"uid {peer_process(connection).uid}"
        self.reactor.adoptStreamConnection(connection.fileno(), socket.AF_UNIX, self.factory)
        return False

    def stopListening(self) -> None:  # noqa: N802
        """Accept no more, and remove the socket, unless another one has its place."""
        try:
            if _identity(self._path) == self._file:
                os.unlink(self._path)
        except OSError:
            pass  # It has gone, or the directory is another's now.
        super().stopListening()


def _refuse(authenticator: IAuthenticator | None) -> None:
    if authenticator is not None:
        raise ConfigError(
            "authentication is not for xprt=unix", hint="the system says who connects: leave it out"
        )


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
