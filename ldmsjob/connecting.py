"""How a program that is no daemon connects to a peer: plugins by name, and errors for people."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.logger import Logger

from ldmsjob.errors import RequestFailed
from ldmsjob.loader import Loader, check_attributes
from ldmsjob.stats import Stats

if TYPE_CHECKING:
    from ldmsjob.interfaces import IAuthenticator, ITransport


def find_transport(
    reactor: Any, xprt: str, auth: str, auth_options: Mapping[str, str]
) -> tuple[ITransport, IAuthenticator]:
    """The transport and the authenticator of those names, configured. Raises ``ConfigError``."""
    loader = Loader()
    made = []
    given: Mapping[str, str]
    for kind, name, given in (
        ("transport", xprt, {}),
        ("authentication plugin", auth, auth_options),
    ):
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
        made.append(plugin)
    return made[0], made[1]


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
    if isinstance(error, ConnectError):
        return RequestFailed(f"{peer}: cannot connect: {error}", rc=error.osError or errno.EIO)
    return None
