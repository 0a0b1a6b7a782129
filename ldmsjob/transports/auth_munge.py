"""Authentication ``munge``: the ``munged`` of both hosts vouch for who runs which side.

Each side sends one credential, which says under which user it runs. Its payload is the address that
its sender has on this connection, so that nobody else can use it from elsewhere. As the side that
was connected to we send ours only to a peer that has shown a good one: strangers get nothing that
they could show to others.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.errors import AuthFailed, ConfigError
from ldmsjob.interfaces import AuthStep, IAuthentication, ICheckedAuthenticator
from ldmsjob.transports.munge import MALFORMED, REASONS, Decoded, Libmunge, MungeError
from ldmsjob.transports.workers import CallTooSlow, TooManyCalls, Workers
from ldmsjob.wire.events import Credential

if TYPE_CHECKING:
    from ldmsjob.interfaces import IPluginContext

MAX_CREDENTIAL_BYTES = 4096
"""C peers send less than 200."""

MAX_SPENT = 65_536
"""Credentials that are remembered; of more, the oldest are forgotten, which munged remembers."""

CHECK_SECONDS = 3.0

_BEGIN, _END = b"MUNGE:", b":\0"
_IPV4 = struct.Struct("<H2s4s8x")
_IPV6 = struct.Struct("<H2sI16sI")
_IPV4_FAMILY, _IPV6_FAMILY = 2, 10

_TIMEOUT, _REPLAYED = 7, 17
"""Munge's numbers for what we find out ourselves."""

_NOT_ACCEPTED = "munge: the peer's credential is not accepted"


def socket_address(address: str) -> bytes:
    """``10.0.0.7:411`` or ``[fe80::1%eth0]:411`` as the C structure whose bytes are the payload.

    Raises ``ValueError`` for what is no such address.
    """
    host, _, port = address.rpartition(":")
    number = int(port).to_bytes(2, "big")
    name, _, scope = host.removeprefix("[").removesuffix("]").partition("%")
    parsed = ip_address(name)
    if not isinstance(parsed, IPv6Address):
        return _IPV4.pack(_IPV4_FAMILY, number, parsed.packed)
    return _IPV6.pack(_IPV6_FAMILY, number, 0, parsed.packed, _scope(scope))


def _scope(name: str) -> int:
    try:
        return socket.if_nametoindex(name) if name else 0
    except OSError:
        return 0


def _significant(structure: bytes) -> bytes:
    """What must be equal in two addresses: the scope of an IPv6 address is each host's own, and
    the flow is no part of it. Empty for what is no address."""
    if len(structure) == _IPV4.size:
        return structure[:8]
    if len(structure) == _IPV6.size:
        return structure[:4] + structure[8:24]
    return b""


def address_in(payload: bytes) -> str:
    """The address in a credential, for people."""
    family = payload[:1]
    if len(payload) == _IPV4.size and family == bytes((_IPV4_FAMILY,)):
        host, port = ip_address(payload[4:8]), payload[2:4]
        return f"{host}:{int.from_bytes(port, 'big')}"
    if len(payload) == _IPV6.size and family == bytes((_IPV6_FAMILY,)):
        host, port = ip_address(payload[8:24]), payload[2:4]
        return f"[{host}]:{int.from_bytes(port, 'big')}"
    return "no address" if payload else "nowhere"


class SpentCredentials:
    """Remembers which credentials have been accepted, as long as munged takes them for valid.

    munged does so, too, but forgets when it is started anew.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, max_spent: int = MAX_SPENT
    ) -> None:
        self._now = now
        self._max_spent = max_spent
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def spend(self, credential: bytes, seconds_left: float) -> bool:
        """Whether it had not been spent before; from now on it has."""
        now = self._now()
        while self._until and next(iter(self._until.values())) < now:
            self._until.popitem(last=False)
        key = hashlib.sha256(_body(credential)).digest()
        if key in self._until:
            return False
        if len(self._until) >= self._max_spent:
            self._until.popitem(last=False)
        # A second more, for the clocks count whole ones.
        self._until[key] = now + seconds_left + 1
        return True


def _body(credential: bytes) -> bytes:
    """What a credential stands for: the same bytes can be written in several ways."""
    try:
        return base64.b64decode(credential[len(_BEGIN) :])
    except ValueError:
        return credential


@implementer(ICheckedAuthenticator)
class MungeAuthenticator:
    """Takes each peer for the user and group that munged says.

    munged is asked in threads, with a deadline for each call. The context's clock must be a
    reactor, unless ``workers`` is given.
    """

    name = "munge"

    def __init__(
        self,
        context: IPluginContext,
        *,
        load: Callable[[], Libmunge] = Libmunge.load,
        workers: Workers | None = None,
        spent: SpentCredentials | None = None,
    ) -> None:
        self._load = load
        self._workers = workers or Workers(context.clock, "munge")
        self._spent = spent or SpentCredentials()
        self._socket: str | None = None
        self._library: Any = None

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Load the library. Raises ``ConfigError`` where there is none."""
        self._library = self._library or self._load()
        self._socket = attributes.get("socket")

    def check(self) -> str:
        """Have munged make a credential and read it. Raises ``ConfigError``."""
        results: list[Any] = []
        thread = threading.Thread(target=self._try, args=(results,), daemon=True)
        thread.start()
        thread.join(CHECK_SECONDS)
        result = (
            results[0]
            if results
            else MungeError(
                REASONS[_TIMEOUT][0],
                f"munged does not answer in {CHECK_SECONDS:g} s",
                REASONS[_TIMEOUT][1],
            )
        )
        if isinstance(result, MungeError):
            raise ConfigError(f"munge: {result.text}", hint=result.hint)
        return f"munged answers: we are uid {result.uid}, gid {result.gid}"

    def _try(self, results: list[Any]) -> None:
        try:
            credential = self._library.encode(self._socket, b"")
            results.append(self._library.decode(self._socket, credential))
        except MungeError as error:
            results.append(error)

    def begin(self, *, passive: bool, local_address: str, peer_address: str) -> MungeAuthentication:
        """A conversation of one credential each."""
        return MungeAuthentication(self, local_address, peer_address, passive=passive)

    def own_credential(self, payload: bytes) -> Deferred[bytes]:
        """A credential for the peer. Fails with ``AuthFailed``."""
        made = self._workers.call(self._library.encode, self._socket, payload)
        return made.addErrback(_explained, "munge: we have no credential for the peer")

    def decoded(self, credential: bytes) -> Deferred[Decoded]:
        """What the peer's credential says, if it is good and new. Fails with ``AuthFailed``."""
        read = self._workers.call(self._library.decode, self._socket, credential)
        read.addErrback(_explained, _NOT_ACCEPTED)
        return read.addCallback(self._spend, credential)

    def _spend(self, decoded: Decoded, credential: bytes) -> Decoded:
        if not self._spent.spend(credential, decoded.seconds_left):
            raise _refused(_REPLAYED, f"{_NOT_ACCEPTED}: it has been used here before")
        return decoded


def _refused(status: int, text: str) -> AuthFailed:
    reason, hint = REASONS[status]
    return AuthFailed(f"{text}; {hint}", reason=reason)


def _explained(failure: Failure, subject: str) -> Failure:
    """An ``AuthFailed`` for what a call failed with, if that is to be expected."""
    error = failure.value
    if isinstance(error, MungeError):
        return Failure(AuthFailed(f"{subject}: {error}", reason=error.reason))
    if isinstance(error, CallTooSlow):
        return Failure(_refused(_TIMEOUT, f"{subject}: munged does not answer in time"))
    if isinstance(error, TooManyCalls):
        text = f"{subject}: too many connections wait for munged"
        return Failure(AuthFailed(text, reason="munge busy"))
    return failure


@implementer(IAuthentication)
class MungeAuthentication:
    """One credential from each side; the one that was connected to sends its own second."""

    def __init__(
        self,
        authenticator: MungeAuthenticator,
        local_address: str,
        peer_address: str,
        *,
        passive: bool,
    ) -> None:
        self._authenticator = authenticator
        self._local_address = local_address
        self._peer_address = peer_address
        self._passive = passive

    def first(self) -> AuthStep | Deferred[AuthStep]:
        """Our credential, if we connected."""
        if self._passive:
            return AuthStep()
        own = self._authenticator.own_credential(_address(self._local_address))
        return own.addCallback(lambda credential: AuthStep(send=(credential + b"\0",)))

    @inlineCallbacks
    def received(self, payload: bytes) -> Any:
        """The peer's credential; it is for this connection, or refused."""
        expected = _significant(_address(self._peer_address))
        decoded = yield self._authenticator.decoded(_credential_in(payload))
        if _significant(decoded.payload) != expected:
            raise AuthFailed(
                f"munge: the credential that came from {self._peer_address} was made for a"
                f" connection from {address_in(decoded.payload)}; is there a network address"
                " translation in between?",
                reason="wrong address",
            )
        send: tuple[bytes, ...] = ()
        if self._passive:
            own = yield self._authenticator.own_credential(_address(self._local_address))
            send = (own + b"\0",)
        return AuthStep(send=send, credential=Credential(decoded.uid, decoded.gid))


def _credential_in(payload: bytes) -> bytes:
    """The credential without its NUL. Raises ``AuthFailed`` for what cannot be one."""
    if (
        len(payload) > MAX_CREDENTIAL_BYTES
        or not payload.startswith(_BEGIN)
        or not payload.endswith(_END)
        or payload.count(b"\0") != 1
    ):
        raise AuthFailed("munge: the peer sent something else than a credential", reason=MALFORMED)
    return payload[:-1]


def _address(text: str) -> bytes:
    try:
        return socket_address(text)
    except (ValueError, OverflowError):
        raise AuthFailed(
            f"munge: '{text}' is no internet address; munge is for connections between those",
            reason="no address",
        ) from None
