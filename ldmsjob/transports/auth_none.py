"""Authentication ``none``: no bytes are exchanged and everybody is root, as with the C library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zope.interface import implementer

from ldmsjob.errors import AuthFailed
from ldmsjob.interfaces import AuthStep, IAuthentication, IUnaddressedAuthenticator
from ldmsjob.wire.events import Credential

if TYPE_CHECKING:
    from ldmsjob.interfaces import IPluginContext

_SATISFIED = AuthStep(credential=Credential(0, 0))


@implementer(IUnaddressedAuthenticator)
class NoneAuthenticator:
    """Takes every peer for uid 0, gid 0. It has nothing to configure."""

    name = "none"

    def __init__(self, context: IPluginContext | None = None) -> None:
        pass

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Nothing to take: the daemon has refused what is not declared."""

    def begin(self, *, passive: bool, local_address: str, peer_address: str) -> NoneAuthentication:
        """A conversation of no words."""
        return _NO_WORDS


@implementer(IAuthentication)
class NoneAuthentication:
    """Satisfied from the start."""

    def first(self) -> AuthStep:
        """Nothing to send; the peer is root."""
        return _SATISFIED

    def received(self, payload: bytes) -> AuthStep:
        """There is nothing that a peer could say."""
        raise AuthFailed("the peer sent an authentication message, and there is none to expect")


_NO_WORDS = NoneAuthentication()
