"""The transport ``tls``: LDMS inside TLS over TCP, with certificates on both sides.

Who a peer is follows from its certificate (docs/security.md, TLS), so that no authenticator is
needed. Where one is named it runs inside TLS, and what it finds counts.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import IAuthenticator, ILinkSite, ITransport, LinkSettings
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.transports.identity import ProvenIdentity
from ldmsjob.transports.plainstream import PlainStream
from ldmsjob.transports.sock import SockTransport, acknowledge, local_address, prepare
from ldmsjob.transports.streams import LinkFactory, StreamListener

if TYPE_CHECKING:
    from ldmsjob.interfaces import IPluginContext
    from ldmsjob.transports.tlslayer import Diagnosis, Material
    from ldmsjob.wire.events import Credential

_FILES = ("certificate", "key", "ca", "names")
"""Attributes that name files."""


class TlsStream(PlainStream):
    """The socket options of ``sock`` for the connection below TLS; what TLS knows of the peer.

    Written to is the TLS connection alone: what is below has its own order of bytes.
    """

    def __init__(self, diagnosis: Diagnosis, passive: bool) -> None:
        self._diagnosis = diagnosis
        self._passive = passive

    def made(self, transport: Any) -> None:
        """Set up the connection that TLS runs over."""
        self._diagnosis.verdict = transport.verdict
        prepare(transport.transport)

    def local_address(self, transport: Any) -> str:
        """That of the connection."""
        return local_address(transport.transport)

    def objection(self, data: bytes) -> str:
        """Nothing is taken from a peer whose certificate was not looked at."""
        return "" if self.identify() is not None else "tls certificate: it was not checked"

    def unanswered(self, transport: Any) -> None:
        """Have what was read acknowledged now. What is written does that, too."""
        acknowledge(transport.transport)

    def lost(self, reason: Failure) -> tuple[str, str] | None:
        """What TLS has to say."""
        return self._diagnosis.of(reason.value, self._passive)

    def identify(self) -> Credential | None:
        """Who the peer is; None before its certificate was found good."""
        return self._diagnosis.verdict.credential


@implementer(ITransport)
class TlsTransport(SockTransport):
    """Links over TLS. Files that change are read again before the next connection."""

    name = "tls"

    def __init__(self, context: IPluginContext) -> None:
        try:
            from ldmsjob.transports import tlslayer
        except ImportError as error:
            raise ConfigError(
                f"xprt=tls cannot be used here: {error}",
                rc=errno.ENOPKG,
                hint="it needs more packages: pip install 'ldmsjob[tls]'",
            ) from None
        super().__init__(context)
        self._layer = tlslayer
        self._limited = LimitedLog(context.log, now=self.reactor.seconds)
        self._paths: dict[str, str] = {}
        self._server_name: str | None = None
        self._material: Material | None = None
        self._stamp: Sequence[object] = ()

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Read all files."""
        paths = {name: attributes[name] for name in _FILES if name in attributes}
        stamp = _stamp(paths)
        material = self._load(paths)
        self._paths, self._stamp, self._material = paths, stamp, material
        self._server_name = attributes.get("server_name")

    def _load(self, paths: Mapping[str, str]) -> Material:
        return self._layer.load(paths["certificate"], paths["key"], paths["ca"], paths.get("names"))

    def current(self) -> Material:
        """What the files say now, or said last when they were right."""
        assert self._material is not None
        stamp = _stamp(self._paths)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._material = self._load(self._paths)
            except ConfigError as error:
                self._limited.warn(
                    "reload",
                    "{error}; for new connections what was read before is used on",
                    error=error,
                )
        return self._material

    def listen(
        self,
        host: str | None,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator | None,
        settings: LinkSettings,
    ) -> StreamListener:
        """A listener that binds when its service starts."""
        if authenticator is None and "names" not in self._paths:
            raise ConfigError(
                "the attribute 'names' is required by 'listen xprt=tls' without 'auth'",
                hint="names=FILE with lines NAME USER says who is whom",
            )
        if self._server_name is not None:
            raise ConfigError("'server_name' is for those who connect, not for 'listen'")
        return super().listen(host, port, site, authenticator, settings)

    def wrapped(self, factory: LinkFactory) -> Any:
        """Inside TLS."""
        creator = self._layer.ConnectionCreator(self.current)
        return self._layer.TlsFactory(creator, False, factory, self.reactor)

    def endpoint(self, host: str, port: int) -> Any:
        """By name or address; the certificate must be for that, or for ``server_name``."""
        creator = self._layer.ConnectionCreator(self.current, self._server_name or host)
        return self._layer.TlsEndpoint(super().endpoint(host, port), creator, self.reactor)

    def stream(self, passive: bool) -> PlainStream:
        """TLS over TCP."""
        own = "" if self._material is None else self._material.own
        return TlsStream(self._layer.Diagnosis(own), passive)

    def authenticator(self, given: IAuthenticator | None, stream: PlainStream) -> IAuthenticator:
        """The one that was named, or the peer's certificate."""
        return given or ProvenIdentity(cast(TlsStream, stream).identify)


def _stamp(paths: Mapping[str, str]) -> Sequence[object]:
    """What changes when one of the files does."""
    found: list[object] = []
    for path in paths.values():
        try:
            status = os.stat(path)
        except OSError as error:
            found.append(error.errno)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return found
