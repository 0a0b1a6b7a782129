"""The files of the transport ``tls``: certificate, key, CAs, and who is whom.

Everything here raises ``ConfigError`` that names the attribute, the file and what to do. Nothing of
a key's content is in any message.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from ldmsjob.errors import ConfigError
from ldmsjob.limitedlog import harmless
from ldmsjob.permissions import MAX_ID
from ldmsjob.wire.events import Credential

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_SHOWN = 100
"""Characters of a peer's name in messages."""

ANYBODY = "*"
"""What stands for every verified name that is not listed."""


def read_trusted(attribute: str, path: str, *, secret: bool = False) -> bytes:
    """A regular file that only root and we can have written; and read, if it is ``secret``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise unreadable(attribute, path, error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{attribute} '{path}' is not a file")
        if status.st_uid not in (0, os.geteuid()):
            raise ConfigError(
                f"{attribute} '{path}' belongs to uid {status.st_uid}",
                rc=errno.EACCES,
                hint=f"it must belong to root or to uid {os.geteuid()}: chown it",
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & (0o077 if secret else 0o022):
            done = "read" if secret else "changed"
            right = "600" if secret else "go-w"
            raise ConfigError(
                f"{attribute} '{path}' can be {done} by others (mode {mode:04o})",
                rc=errno.EACCES,
                hint=f"chmod {right} {path}",
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise unreadable(attribute, path, error) from None
    finally:
        os.close(descriptor)


def unreadable(attribute: str, path: str, error: OSError | ValueError) -> ConfigError:
    """What to say of a file that cannot be opened or read."""
    reason, rc = str(error), errno.EINVAL
    if isinstance(error, OSError):
        reason, rc = error.strerror or reason, error.errno or errno.EIO
    return ConfigError(f"{attribute} '{path}' cannot be read: {reason}", rc=rc)


def read_certificates(attribute: str, path: str) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one."""
    data = read_trusted(attribute, path)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ConfigError(
            f"{attribute} '{path}' holds no certificate in PEM form",
            hint="it begins with -----BEGIN CERTIFICATE-----",
        ) from None


def read_key(path: str) -> Any:
    """The private key of a PEM file, for ``cryptography``."""
    data = read_trusted("key", path, secret=True)
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        raise ConfigError(
            f"key '{path}' is encrypted",
            hint=f"nobody is there to ask for its password: openssl pkey -in {path} -out …",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"key '{path}' holds no private key in PEM form",
            hint="it begins with -----BEGIN PRIVATE KEY-----",
        ) from None


def read_identity(certificate: str, key: str) -> tuple[list[x509.Certificate], Any]:
    """Our certificate with the chain behind it, and the key that belongs to it."""
    chain, private = read_certificates("certificate", certificate), read_key(key)
    if _public_bytes(chain[0].public_key()) != _public_bytes(private.public_key()):
        raise ConfigError(
            f"key '{key}' is not the one of certificate '{certificate}'",
            hint="the certificate of the key must be the first one of its file",
        )
    check_valid("certificate", certificate, chain[:1])
    return chain, private


def read_authorities(path: str) -> list[x509.Certificate]:
    """The CAs that peers' certificates must be signed by."""
    authorities = read_certificates("ca", path)
    check_valid("ca", path, authorities)
    return authorities


def check_valid(attribute: str, path: str, certificates: Sequence[x509.Certificate]) -> None:
    """Refuse a file all of whose certificates have expired. One that is not valid yet passes: it
    may be the clock that is late."""
    last = max(one.not_valid_after_utc for one in certificates)
    if last < datetime.now(timezone.utc):
        raise ConfigError(f"{attribute} '{path}' expired on {date_text(last)}", hint="renew it")


def date_text(when: datetime) -> str:
    """A time of a certificate, for people."""
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names of a certificate (subjectAltName), in its order, in lower case."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []


def shown(certificate: x509.Certificate) -> str:
    """Who a certificate says that it is for, for logs, whatever is in it."""
    names = dns_names(certificate)
    try:
        text = ", ".join(names) or certificate.subject.rfc4514_string() or "without a name"
    except ValueError:
        text = "without a name that can be read"
    text = harmless(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _public_bytes(key: Any) -> bytes:
    made: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return made


# Who is whom


@dataclass(frozen=True)
class Names:
    """The map from verified names to users."""

    path: str
    users: dict[str, Credential]

    def find(self, names: Sequence[str]) -> Credential | None:
        """Who has a certificate with these names: the first one that is listed decides."""
        for name in names:
            found = self.users.get(name)
            if found is not None:
                return found
        return self.users.get(ANYBODY) if names else None


def read_names(path: str) -> Names:
    """The file of ``names=``; a mistake is told with its file and line."""
    try:
        text = read_trusted("names", path).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"names '{path}' is not text in UTF-8") from None
    users: dict[str, Credential] = {}
    for where, name, user in _lines(path, text):
        if name in users:
            raise ConfigError(f"{where}: '{name}' is there already")
        users[name] = _credential(where, user)
    if not users:
        raise ConfigError(f"names '{path}' names nobody", hint="put NAME USER into it")
    return Names(path, users)


def _lines(path: str, text: str) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            where = f"{path}:{number}"
            if len(words) != 2:
                raise ConfigError(f"{where}: a line is NAME USER, NAME UID or NAME UID:GID")
            yield where, words[0].lower(), words[1]


def _credential(where: str, text: str) -> Credential:
    user, colon, group = text.partition(":")
    if colon:
        gid = _number(where, "group", group)
        if user.isdecimal():
            return Credential(_number(where, "user", user), gid)
        return Credential(_account(where, user).pw_uid, gid)
    found = _account(where, user)
    return Credential(found.pw_uid, found.pw_gid)


def _account(where: str, user: str) -> pwd.struct_passwd:
    try:
        if user.isdecimal():
            return pwd.getpwuid(_number(where, "user", user))
        return pwd.getpwnam(user)
    except (KeyError, ValueError):  # ValueError: with a NUL in it
        raise ConfigError(
            f"{where}: there is no user '{user}' on this node",
            hint="give UID:GID for one that this node does not know",
        ) from None


def _number(where: str, what: str, text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else -1
    if not 0 <= number <= MAX_ID:
        raise ConfigError(f"{where}: '{text}' is not the number of a {what}")
    return number
