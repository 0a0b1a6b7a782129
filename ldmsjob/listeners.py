"""What `listen` asks for, and the listeners that there are."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.application.service import IService, Service
from twisted.internet.error import CannotListenError

from ldmsjob.errors import CANNOT_LISTEN, ConfigError
from ldmsjob.interfaces import ITransport
from ldmsjob.links import ListenerSite
from ldmsjob.services import ServiceGroup

LISTEN_ATTRIBUTES = ("port", "host", "path", "auth", "quota", "rx_rate")
"""What `listen` accepts for every transport; which have a ``path`` instead of ``port`` and ``host``
they say themselves."""


class Endpoint(msgspec.Struct, frozen=True):
    """What a `listen` command asks for."""

    xprt: str
    host: str | None
    port: int
    auth: str | None
    quota: int
    rx_rate: int
    where: str
    transport: ITransport

    @property
    def is_path(self) -> bool:
        """Whether ``host`` is a path in the file system."""
        return self.host is not None and self.host.startswith("/")

    def __str__(self) -> str:
        if self.is_path:
            return f"{self.xprt}:{self.host}"
        return f"{self.xprt}:{self.port}" + (f":{self.host}" if self.host else "")


class Listeners(ServiceGroup):
    """The listeners; one that cannot be bound is a ``ConfigError`` with rc 7."""

    endpoints: dict[str, Endpoint]
    """By the names of the listeners, to say which one it is."""

    sites: dict[str, ListenerSite]
    """By the same names: what came there."""

    changes_user = False
    """Whether the process goes on as another user: sockets on paths, which need no privilege, are
    then bound as that user, who is to remove them, too."""

    def links_over(self, xprt: str) -> int:
        """How many links are open over that transport."""
        return sum(
            len(site.links)
            for name, site in self.sites.items()
            if self.endpoints[name].xprt == xprt
        )

    def privilegedStartService(self) -> None:
        """Bind those that may need privileges."""
        Service.privilegedStartService(self)
        for listener in self:
            if not (self.changes_user and self.endpoints[str(listener.name)].is_path):
                self._try(listener, listener.privilegedStartService)

    def startService(self) -> None:
        """Bind the others, and accept."""
        Service.startService(self)
        for listener in self:
            self._try(listener, listener.startService)

    def _try(self, listener: IService, start: Callable[[], None]) -> None:
        try:
            start()
        except (ConfigError, CannotListenError, OSError) as error:
            raise cannot_listen(self.endpoints[str(listener.name)], error) from None


def cannot_listen(endpoint: Endpoint, error: Exception) -> ConfigError:
    """What to raise, with exit status and line, when a listener cannot be opened."""
    if not isinstance(error, ConfigError):
        error = ConfigError(f"Failed to listen on the endpoint {endpoint}: {error}")
    error.rc = CANNOT_LISTEN
    error.where = endpoint.where
    return error
