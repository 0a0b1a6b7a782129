"""Certificate authorities, certificates and keys for tests, made when they are asked for."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Identity:
    """A key and a certificate for it. ``issuer`` None: signed by itself."""

    def __init__(
        self,
        common_name: str,
        *dns_names: str,
        issuer: Identity | None = None,
        is_authority: bool = False,
        first_day: int = -1,
        last_day: int = 30,
        usage: Any = None,
        addresses: tuple[Any, ...] = (),
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        now = datetime.now(timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if issuer is None else issuer.certificate.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=first_day))
            .not_valid_after(now + timedelta(days=last_day))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        names = [*map(x509.DNSName, dns_names), *map(x509.IPAddress, addresses)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        signer = self if issuer is None else issuer
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    @property
    def certificate_pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        """The key, encrypted if there is a password."""
        locked = NoEncryption() if password is None else BestAvailableEncryption(password)
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


@cache
def identity(name: str) -> Identity:
    """One of those below; each is made once in a process."""
    return _MAKERS[name]()


def _issued(name: str, *dns_names: str, by: str = "ca", **options: Any) -> Identity:
    return Identity(name, *(dns_names or (f"{name}.example",)), issuer=identity(by), **options)


_MAKERS = {
    "ca": lambda: Identity("test CA", is_authority=True),
    "other ca": lambda: Identity("other CA", is_authority=True),
    "same name ca": lambda: Identity("test CA", is_authority=True),
    "old ca": lambda: Identity("old CA", is_authority=True, first_day=-9, last_day=-2),
    "middle ca": lambda: Identity("middle CA", issuer=identity("ca"), is_authority=True),
    "server": lambda: _issued("server", "localhost", "server.example"),
    "tool": lambda: _issued("tool", "Tool.example"),
    "stranger": lambda: _issued("stranger"),
    "nameless": lambda: Identity("tool.example", issuer=identity("ca")),
    "untrusted": lambda: _issued("tool", "localhost", "tool.example", by="other ca"),
    "forged": lambda: _issued("tool", "localhost", "tool.example", by="same name ca"),
    "expired": lambda: _issued("tool", "localhost", "tool.example", first_day=-9, last_day=-2),
    "early": lambda: _issued("tool", "localhost", "tool.example", first_day=2),
    "far": lambda: _issued("tool", by="middle ca"),
    "for servers": lambda: _issued("tool", usage=ExtendedKeyUsageOID.SERVER_AUTH),
    "for clients": lambda: _issued("tool", "localhost", usage=ExtendedKeyUsageOID.CLIENT_AUTH),
    "strange": lambda: _issued("tool", "a\n\x1b[1m" + "x" * 200),
}


class Files:
    """A directory with the files that the transport's attributes name."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.directory.mkdir()

    def write(self, name: str, content: bytes | str, mode: int = 0o600) -> str:
        """Write one anew; returns its path."""
        path = self.directory / name
        data = content.encode() if isinstance(content, str) else content
        made = self.directory / f"{name}.new"
        made.write_bytes(data)
        made.chmod(mode)
        os.replace(made, path)
        return str(path)

    def attributes(
        self, name: str, *, ca: str = "ca", chain: tuple[str, ...] = (), names: str | None = None
    ) -> dict[str, str]:
        """What somebody with that identity gives as attributes."""
        own = identity(name)
        certificates = [own, *map(identity, chain)]
        made = {
            "certificate": self.write(
                f"{name}.pem", b"".join(one.certificate_pem for one in certificates)
            ),
            "key": self.write(f"{name}.key", own.key_pem()),
            "ca": self.write(f"{ca}.pem", identity(ca).certificate_pem),
        }
        if names is not None:
            made["names"] = self.write("names", names)
        return made
