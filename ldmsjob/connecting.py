"""How a program that is no daemon connects to a peer: plugins by name, and errors for people."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.logger import Logger

from ldmsjob.errors import ConfigError, RequestFailed
from ldmsjob.loader import Loader, check_attributes
from ldmsjob.stats import Stats

if TYPE_CHECKING:
    from ldmsjob.interfaces import IAuthenticator, ITransport


def find_transport(
    reactor: Any,
    xprt: str,
    auth: str | None,
    auth_options: Mapping[str, str],
    xprt_options: Mapping[str, str] | None = None,
) -> tuple[ITransport, IAuthenticator | None]:
    """The transport and the authenticator of those names, configured. Raises ``ConfigError``.

    Without ``auth`` it is ``none``, or none at all where the transport authenticates.
    """
    loader = Loader()
    transport = _plugin(loader, reactor, "transport", xprt, xprt_options or {})
    if auth is None and loader.find("transport", xprt).authenticates:
        if auth_options:
            raise ConfigError(
                f"xprt={xprt} authenticates by itself: there is nothing to take"
                f" '{next(iter(auth_options))}'",
                hint="name an authentication, or leave its attributes out",
            )
        return transport, None
    return transport, _plugin(
        loader, reactor, "authentication plugin", auth or "none", auth_options
    )


def _plugin(loader: Loader, reactor: Any, kind: str, name: str, given: Mapping[str, str]) -> Any:
    factory = loader.find(kind, name)
    attributes = check_attributes(factory.attributes, dict(given), f"{kind} '{name}'")
    context = SimpleNamespace(
        instance=name,
        daemon_name="",
        clock=reactor,
        log=Logger(namespace=name),
        stats=Stats(name),
        at_turn_end=lambda call: call(),
    )
    plugin = factory.create(context)
    plugin.configure(attributes)
    return plugin


def peer_name(host: str, port: int) -> str:
    """A peer's place, for people: host and port, or its path."""
    if host.startswith("/"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect_error(error: BaseException, peer: str) -> RequestFailed | None:
    """What to say of Twisted's reason that there is no connection; None for any other error."""
    if isinstance(error, DNSLookupError):
        return RequestFailed(f"no such host: {peer}", rc=errno.EAFNOSUPPORT)
    if isinstance(error, ConnectionRefusedError):
        return RequestFailed(
            f"{peer}: connection refused; nobody listens there", rc=errno.ECONNREFUSED
        )
    if isinstance(error, ConnectTimeout):
        return RequestFailed(f"{peer}: no answer", rc=errno.ETIMEDOUT)
    if isinstance(error, ConnectError) and error.osError == errno.ENOENT:
        return RequestFailed(f"{peer}: there is no such socket", rc=errno.ENOENT)
    if isinstance(error, ConnectError):
        rc = error.osError or errno.EIO
        text = os.strerror(rc) if error.osError else str(error)
        return RequestFailed(f"{peer}: cannot connect: {text}", rc=rc)
    return None
