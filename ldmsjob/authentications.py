"""How peers authenticate: the ways that the configuration names, and which listener has which."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ldmsjob.config import nearest
from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import ICheckedAuthenticator
from ldmsjob.loader import Loader, check_attributes

if TYPE_CHECKING:
    from ldmsjob.interfaces import IAuthenticator
    from ldmsjob.listeners import Endpoint

BELIEVING = ("none", "naive")
"""Authenticators that take a peer's word for who it is."""


class Authentications:
    """All ways to authenticate. ``context`` makes the context of the plugin of that name."""

    def __init__(self, loader: Loader, context: Callable[[str], Any]) -> None:
        self._loader = loader
        self._context = context
        self._named: dict[str, tuple[IAuthenticator, str]] = {}
        self._default: tuple[IAuthenticator, str] | None = None

    def add(
        self, name: str, plugin: str, options: Mapping[str, str | None], where: str = ""
    ) -> None:
        """Name one, which the command at ``where`` wants. Raises ``ConfigError``: 17 exists, 2 no
        such plugin."""
        if name in self._named:
            raise ConfigError(f"there is an authentication domain '{name}' already", rc=17)
        self._named[name] = self._made(plugin, options), where

    def use_default(self, plugin: str, options: Mapping[str, str | None], where: str = "") -> None:
        """Set how peers authenticate where a listener names nothing."""
        self._default = self._made(plugin, options), where

    def settle(self) -> None:
        """Where nothing is set everybody is believed."""
        if self._default is None:
            self.use_default("none", {})

    def _made(self, plugin: str, options: Mapping[str, str | None]) -> IAuthenticator:
        factory = self._loader.find("authentication plugin", plugin)
        attributes = check_attributes(
            factory.attributes, options, f"authentication plugin '{plugin}'"
        )
        authenticator: IAuthenticator = factory.create(self._context(plugin))
        authenticator.configure(attributes)
        return authenticator

    def expect(self, name: str) -> None:
        """Raise ``ConfigError`` with rc 2 when there is none of that name."""
        if name not in self._named:
            raise ConfigError(
                f"there is no authentication domain '{name}'",
                rc=errno.ENOENT,
                hint=nearest(name, self._named) or f"put 'auth_add name={name} …' in front",
            )

    def of(self, endpoint: Endpoint) -> IAuthenticator | None:
        """How peers of a listener authenticate; None: its transport knows who they are. After
        ``settle``."""
        if endpoint.auth is not None:
            return self._named[endpoint.auth][0]
        if self._default is None or self._loader.find("transport", endpoint.xprt).authenticates:
            return None
        return self._default[0]

    def name_of(self, endpoint: Endpoint) -> str:
        """The same for people."""
        authenticator = self.of(endpoint)
        return "by the transport" if authenticator is None else authenticator.name

    def believing(self, endpoints: Iterable[Endpoint]) -> list[str]:
        """Those of these listeners that believe their peers, for people."""
        named = ((endpoint, self.name_of(endpoint)) for endpoint in endpoints)
        return [f"{endpoint} ({name})" for endpoint, name in named if name in BELIEVING]

    def check(self) -> list[str]:
        """Try all of them, before the daemon starts; may block for some seconds.

        Returns one line for each that works. Raises ``ConfigError`` for the first that does not.
        """
        lines = []
        default = [] if self._default is None else [self._default]
        for authenticator, where in (*default, *self._named.values()):
            if not ICheckedAuthenticator.providedBy(authenticator):
                continue
            try:
                lines.append(f"authentication {authenticator.name}: {authenticator.check()}")
            except ConfigError as error:
                error.where = error.where or where
                raise
        return lines
