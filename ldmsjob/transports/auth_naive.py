"""Authentication ``naive``: each side says who it is, and is believed. For tests only."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from zope.interface import implementer

from ldmsjob.errors import AuthFailed, ConfigError
from ldmsjob.interfaces import AuthStep, IAuthentication, IUnaddressedAuthenticator
from ldmsjob.permissions import MAX_ID
from ldmsjob.wire.events import Credential

if TYPE_CHECKING:
    from ldmsjob.interfaces import IPluginContext

NOBODY = 65534
"""What is claimed by default, as with the C library."""

_CLAIM = struct.Struct(">II")


@implementer(IUnaddressedAuthenticator)
class NaiveAuthenticator:
    """Claims ``uid`` and ``gid``, and takes each peer for what it claims."""

    name = "naive"

    def __init__(self, context: IPluginContext | None = None) -> None:
        self._claim = Credential(NOBODY, NOBODY)

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Take the ids that we claim. Raises ``ConfigError`` for what is none."""
        uid, gid = (_id_in(attributes, name) for name in ("uid", "gid"))
        self._claim = Credential(uid, gid)

    def begin(self, *, passive: bool, local_address: str, peer_address: str) -> NaiveAuthentication:
        """A conversation of one claim each."""
        return NaiveAuthentication(self._claim)


def _id_in(attributes: Mapping[str, str], name: str) -> int:
    number = int(attributes.get(name, NOBODY))
    if not 0 <= number <= MAX_ID:
        raise ConfigError(f"{name} '{number}' invalid", hint=f"it is a number from 0 to {MAX_ID}")
    return number


@implementer(IAuthentication)
class NaiveAuthentication:
    """Sends our claim and waits for the peer's."""

    def __init__(self, claim: Credential) -> None:
        self._claim = claim

    def first(self) -> AuthStep:
        """Our claim."""
        return AuthStep(send=(_CLAIM.pack(self._claim.uid, self._claim.gid),))

    def received(self, payload: bytes) -> AuthStep:
        """The peer's claim, which is believed."""
        if len(payload) != _CLAIM.size:
            raise AuthFailed(
                f"naive: the peer sent {len(payload)} bytes where two ids belong",
                reason="malformed",
            )
        return AuthStep(credential=Credential(*_CLAIM.unpack(payload)))
