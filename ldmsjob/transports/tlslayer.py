"""TLS around a link: what is checked of a peer's certificate, and why TLS failed, in plain words.

Twisted moves the bytes and OpenSSL decides; what is here asks OpenSSL while it decides, so that the
other side is told by a TLS alert, and keeps the reason for this side's log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet import ssl
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from zope.interface import implementer

from ldmsjob.transports.tlsfiles import (
    Names,
    date_text,
    dns_names,
    read_authorities,
    read_identity,
    read_names,
    shown,
)
from ldmsjob.wire import zap
from ldmsjob.wire.events import Credential

CONNECTED_TO = Credential(0, 0)
"""Whom we have connected to, where no map says who that is: the one that we chose, and that passes
on what others have published."""

_EXPIRED, _NOT_YET, _PURPOSE = 10, 9, 26
_UNTRUSTED = frozenset({2, 7, 18, 19, 20, 21, 24})
"""Numbers of OpenSSL's verification errors."""

_ALERTS = {
    "unknown ca": "it does not accept our certificate: not signed by a CA that it knows",
    "certificate expired": "it does not accept our certificate: expired, or its clock is wrong",
    "certificate required": "it wants a certificate, and we have shown none",
    "protocol version": "it speaks no TLS that we speak: 1.2 or later",
    "handshake failure": "it finds no cipher in common, or wants a certificate",
}
_OF_CERTIFICATES = frozenset(
    {
        *("bad certificate", "certificate unknown", "unsupported certificate"),
        *("access denied", "internal error", "decrypt error", "certificate revoked"),
    }
)
"""Alerts by which peers refuse certificates for what is in them."""

_HANDSHAKE_RECORD, _ALERT_RECORD = 22, 21
_CONNECT_START = zap.CONNECT.to_bytes(2, "big") + bytes(2)
"""The first bytes of a peer that speaks LDMS without TLS."""


@dataclass
class Verdict:
    """What is known of the other side of one connection."""

    heard: bool = False
    """Whether it has said anything at all."""
    credential: Credential | None = None
    """Who it is; None before its certificate was found good."""
    refusal: tuple[str, str] | None = None
    """Why we do not want it: a word to count, a text for people."""


@dataclass(frozen=True)
class Material:
    """All that the files say: made anew when they change."""

    context: Any
    """The ``OpenSSL.SSL.Context`` of either side."""
    own: str
    """Who we are, for messages."""
    ca: str
    names: Names | None = None

    def connection(self, verdict: Verdict, hostname: str | None) -> Any:
        """An OpenSSL connection that puts what it finds into ``verdict``. ``hostname`` is whom we
        connect to; None: the peer connects to us."""
        made = SSL.Connection(self.context, None)
        check = _Check(self, verdict, hostname)
        made.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, check)
        if hostname is not None and not _is_address(hostname):
            try:
                made.set_tlsext_host_name(hostname.encode("idna"))
            except UnicodeError:
                pass  # No certificate can be for such a name: it will be refused.
        return made


def load(certificate: str, key: str, ca: str, names: str | None) -> Material:
    """Read the files. Raises ``ConfigError``."""
    chain, private = read_identity(certificate, key)
    authorities = read_authorities(ca)
    known = None if names is None else read_names(names)
    wrapped = [crypto.X509.from_cryptography(one) for one in chain]
    roots = [ssl.Certificate(crypto.X509.from_cryptography(one)) for one in authorities]
    options = ssl.CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(private),
        certificate=wrapped[0],
        extraCertChain=wrapped[1:],
        trustRoot=ssl.trustRootFromCertificates(roots),
        raiseMinimumTo=ssl.TLSVersion.TLSv1_2,
    )
    return Material(options.getContext(), shown(chain[0]), ca, known)


def _is_address(host: str) -> bool:
    return isIPAddress(host) or isIPv6Address(host)


class _Check:
    """OpenSSL's question about each certificate of a peer's chain, the peer's own one last."""

    def __init__(self, material: Material, verdict: Verdict, hostname: str | None) -> None:
        self._material = material
        self._verdict = verdict
        self._hostname = hostname

    def __call__(
        self, connection: object, certificate: Any, error: int, depth: int, good: object
    ) -> bool:
        """Whether to go on. The certificate is the peer's: nothing in it can be relied on before
        OpenSSL has found its signature good."""
        verdict = self._verdict
        try:
            found = certificate.to_cryptography()
            if not good:
                verdict.refusal = self._refused(found, error)
            elif depth == 0:
                verdict.refusal = self._identify(found)
        except Exception as problem:  # whatever a parser of certificates may raise
            verdict.refusal = "tls certificate", f"its certificate is wrong: {problem}"
        if verdict.refusal is not None:
            # OpenSSL has questions left after that about the peer's own certificate.
            verdict.credential = None
            return False
        return True

    def _refused(self, certificate: x509.Certificate, error: int) -> tuple[str, str]:
        who = f"its certificate ({shown(certificate)})"
        if error in _UNTRUSTED:
            return "tls untrusted", f"{who} is not signed by a CA of '{self._material.ca}'"
        if error == _EXPIRED:
            date = date_text(certificate.not_valid_after_utc)
            return "tls expired", f"{who} expired on {date}; it must be renewed"
        if error == _NOT_YET:
            date = date_text(certificate.not_valid_before_utc)
            return "tls not yet valid", f"{who} is not valid before {date}; are both clocks right?"
        if error == _PURPOSE:
            kind = "clients" if self._hostname is None else "servers"
            return "tls purpose", f"{who} is not made for TLS {kind} (extendedKeyUsage)"
        return "tls certificate", f"{who} is refused: OpenSSL's verification error {error}"

    def _identify(self, certificate: x509.Certificate) -> tuple[str, str] | None:
        """Find out who it is; or why it may not be."""
        host, names = self._hostname, self._material.names
        if host is not None and not _is_for(certificate, host):
            return "tls wrong name", (
                f"its certificate is for {shown(certificate)}, not for {host};"
                " connect to a name that it has, or give that as server_name="
            )
        if names is None:
            self._verdict.credential = CONNECTED_TO
            return None
        credential = names.find(dns_names(certificate))
        if credential is None:
            return "tls unknown name", (
                f"no DNS name of its certificate ({shown(certificate)}) is in '{names.path}'"
            )
        self._verdict.credential = credential
        return None


def _is_for(certificate: x509.Certificate, host: str) -> bool:
    verify: Callable[[x509.Certificate, str], None]
    verify = verify_certificate_ip_address if _is_address(host) else verify_certificate_hostname
    try:
        verify(certificate, host)
    except (VerificationError, CertificateError):
        return False
    return True


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
@dataclass(frozen=True)
class ConnectionCreator:
    """Makes the TLS part of connections from the files as they are now."""

    current: Callable[[], Material]
    hostname: str | None = None
    """Whom we connect to; None: they connect to us."""

    def serverConnectionForTLS(self, protocol: Any) -> Any:  # noqa: N802
        """One that came."""
        return self.current().connection(protocol.verdict, None)

    def clientConnectionForTLS(self, protocol: Any) -> Any:  # noqa: N802
        """One that we make."""
        return self.current().connection(protocol.verdict, self.hostname)


class TlsConnection(BufferingTLSTransport):
    """A TLS connection that notices who speaks no TLS at all.

    OpenSSL would, too, but for a peer of LDMS we have an answer that it understands.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.verdict = Verdict()

    def dataReceived(self, data: bytes) -> None:
        """Look at the first byte, then leave it to Twisted."""
        verdict = self.verdict
        if not verdict.heard:
            verdict.heard = True
            if data[0] not in (_HANDSHAKE_RECORD, _ALERT_RECORD):
                self._refuse_plain(data)
                return
        elif verdict.refusal is not None:
            return
        super().dataReceived(data)

    def _refuse_plain(self, data: bytes) -> None:
        transport: Any = self.transport
        self.verdict.refusal = "no tls", "it does not speak TLS, as both sides of xprt=tls must"
        if data.startswith(_CONNECT_START):
            transport.write(zap.rejected_frame("this listener speaks TLS: connect with xprt=tls"))
        transport.loseConnection()


class TlsFactory(TLSMemoryBIOFactory):
    """Wraps the links that another factory makes into TLS."""

    protocol = TlsConnection

    def buildProtocol(self, addr: Any) -> Any:
        """None where the other factory wants no more."""
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped)


@dataclass(frozen=True)
class TlsEndpoint:
    """Connects by another endpoint, and speaks TLS there."""

    endpoint: Any
    creator: ConnectionCreator
    clock: Any

    def connect(self, factory: Any) -> Any:
        """Fires with the protocol of ``factory`` when the connection is there, before TLS is."""
        wrapping = TlsFactory(self.creator, True, factory, self.clock)
        connecting = self.endpoint.connect(wrapping)
        return connecting.addCallback(lambda connection: connection.wrappedProtocol)


@dataclass
class Diagnosis:
    """Why one TLS connection ended before it was of use."""

    own: str
    """Who we are."""
    verdict: Verdict = field(default_factory=Verdict)

    def of(self, error: BaseException | None, passive: bool) -> tuple[str, str] | None:
        """A word to count and a text for people; None: there is nothing to say of TLS."""
        if self.verdict.refusal is not None:
            return self.verdict.refusal
        if isinstance(error, SSL.Error):
            return self._of_openssl(error, passive)
        if not self.verdict.heard:
            if passive:
                return None
            return "tls closed", "it closed the connection when we began TLS: is xprt=tls there?"
        if self.verdict.credential is None:
            return "tls closed", "it closed the connection in the TLS handshake"
        return None

    def _of_openssl(self, error: SSL.Error, passive: bool) -> tuple[str, str]:
        reasons = error.args[0] if error.args else ()
        reason = str(reasons[-1][-1]) if isinstance(reasons, (list, tuple)) and reasons else ""
        alert = reason.partition("alert ")[2]
        if alert in _ALERTS:
            return "tls refused by peer", _ALERTS[alert]
        if alert in _OF_CERTIFICATES:
            wanted = (
                "does it connect to one of these names?"
                if passive
                else "is one of these names in the listener's names=?"
            )
            return "tls refused by peer", (
                f"it does not accept our certificate ({self.own}), '{alert}': {wanted}"
            )
        if alert:
            return "tls refused by peer", f"it ended TLS by the alert '{alert}'"
        if reason == "peer did not return a certificate":
            return "tls no certificate", "it showed no certificate"
        if reason in ("unsupported protocol", "version too low", "no protocols available"):
            return "tls failed", _ALERTS["protocol version"]
        return "tls failed", f"TLS failed: {reason or 'OpenSSL does not say why'}"
