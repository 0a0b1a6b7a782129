"""What `listen` asks for, and the listeners that there are."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.application.service import Service
from twisted.internet.error import CannotListenError

from ldmsjob.errors import ConfigError
from ldmsjob.instances import ServiceGroup
from ldmsjob.interfaces import ITransport

CANNOT_LISTEN = 7
"""Exit status when a listener cannot be opened, as in C."""

LISTEN_ATTRIBUTES = ("port", "host", "path", "auth", "quota", "rx_rate")
"""What `listen` accepts for every transport; which have a ``path`` instead of ``port`` and ``host``
they say themselves."""


@dataclass(frozen=True)
class Endpoint:
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

    def privilegedStartService(self) -> None:
        """Bind all of them."""
        Service.privilegedStartService(self)
        for listener in self:
            endpoint = self.endpoints[str(listener.name)]
            try:
                listener.privilegedStartService()
            except (ConfigError, CannotListenError, OSError) as error:
                raise cannot_listen(endpoint, error) from None


def cannot_listen(endpoint: Endpoint, error: Exception) -> ConfigError:
    """What to raise, with exit status and line, when a listener cannot be opened."""
    if not isinstance(error, ConfigError):
        error = ConfigError(f"Failed to listen on the endpoint {endpoint}: {error}")
    error.rc = CANNOT_LISTEN
    error.where = endpoint.where
    return error
