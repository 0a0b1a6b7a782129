"""Authentication by the transport: the connection itself has shown who the peer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from zope.interface import implementer

from ldmsjob.errors import AuthFailed
from ldmsjob.interfaces import AuthStep, IAuthentication, IUnaddressedAuthenticator

if TYPE_CHECKING:
    from ldmsjob.wire.events import Credential


@implementer(IUnaddressedAuthenticator, IAuthentication)
class ProvenIdentity:
    """Takes the peer of one link for whom the transport has found it to be.

    In their connection messages both sides call it ``none``, because nothing is exchanged.
    ``identify`` is asked when the link is up; it answers None, or raises ``AuthFailed``, for a peer
    that is not known.
    """

    name = "none"

    def __init__(self, identify: Callable[[], Credential | None]) -> None:
        self._identify = identify

    def configure(self, attributes: Mapping[str, str]) -> None:
        """There is nothing to configure: the transport is."""

    def begin(self, *, passive: bool, local_address: str, peer_address: str) -> ProvenIdentity:
        """A conversation of no words."""
        return self

    def first(self) -> AuthStep:
        """Nothing to send: the transport says who the peer is."""
        credential = self._identify()
        if credential is None:
            raise AuthFailed("the transport does not know who the peer is")
        return AuthStep(credential=credential)

    def received(self, payload: bytes) -> AuthStep:
        """There is nothing that a peer could say."""
        raise AuthFailed("the peer sent an authentication message, and there is none to expect")
