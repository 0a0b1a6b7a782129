"""Authentication ``ovis``: each side proves that it knows a shared secret word.

Each side sends a CHALLENGE, a random number, and answers the other's with a REPLY, a hash of that
number and the secret word. It proves who knows the word, not who the peer is: all are root.

The exchange is symmetric, so one who does not know the word could have us answer our own challenge.
Hence as the side that was connected to we answer nobody who has not answered us, and on either side
refuse our own challenge.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import pwd
import re
import secrets
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zope.interface import implementer

from ldmsjob.errors import AuthFailed, ConfigError
from ldmsjob.interfaces import (
    AuthStep,
    IAuthentication,
    ICheckedAuthenticator,
    IUnaddressedAuthenticator,
)
from ldmsjob.wire.events import Credential

if TYPE_CHECKING:
    from ldmsjob.interfaces import IPluginContext

MIN_WORD, MAX_WORD = 8, 512
"""Bytes of a secret word."""

MAX_FILE_BYTES = 65_536
"""A larger file is none with a secret word in it."""

ENVIRONMENT = "LDMS_AUTH_FILE"
"""Names the file where the attribute ``conf`` does not."""

_KEY = b"secretword="
_WORD = re.compile(rb"[# \t]*([^# \t\0]*)")
"""The word ends at a blank or a comment, as in C, and those in front of it do not count."""

_CHALLENGE, _REPLY = 1, 2
_KIND = struct.Struct("<I")
_NUMBER = struct.Struct(">Q")
_CHALLENGE_BYTES = _KIND.size + _NUMBER.size
_REPLY_BYTES = _KIND.size + 2 * hashlib.sha224().digest_size + 1


def candidate_files() -> list[Path]:
    """Where a file with the secret word is looked for when none is named; the first that exists
    counts."""
    places = []
    try:
        places.append(Path(pwd.getpwuid(os.getuid()).pw_dir, ".ldmsauth.conf"))
    except KeyError:
        pass  # A uid without an entry has no home.
    return [*places, Path("/etc/ldmsd/ldmsauth.conf"), Path("/etc/ldmsauth.conf")]


def read_secret(path: Path) -> bytes:
    """The secret word in that file. Raises ``ConfigError`` when there is none, or when others than
    root and us can read or have written it."""
    try:
        # Opened without waiting: it may be a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"the file with the secret word '{path}' cannot be read: {reason}",
            rc=getattr(error, "errno", None) or errno.EINVAL,
            hint="conf=FILE names a file with a line 'secretword=…' that only you can read",
        ) from None
    try:
        # What was opened is what is looked at: the name may mean another file by now.
        _check_private(path, os.fstat(descriptor))
        text = os.read(descriptor, MAX_FILE_BYTES)
    finally:
        os.close(descriptor)
    return _word_in(text, path)


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"'{path}' is not a file", hint="conf= names the file itself")
    if status.st_mode & 0o077:
        raise ConfigError(
            f"others than its owner can use the file with the secret word '{path}'"
            f" (mode {stat.S_IMODE(status.st_mode):04o})",
            rc=errno.EACCES,
            hint=f"chmod 600 {path}, and choose a new word if others may have read it",
        )
    us = os.geteuid()
    if status.st_uid not in (0, us):
        raise ConfigError(
            f"the file with the secret word '{path}' belongs to uid {status.st_uid}",
            rc=errno.EACCES,
            hint=f"it must be root's or our own: chown {us} {path}",
        )


def _word_in(text: bytes, path: Path) -> bytes:
    for line in text.split(b"\n"):
        if line.startswith(_KEY):
            word = _WORD.match(line, len(_KEY))[1]  # type: ignore[index]
            if MIN_WORD <= len(word) <= MAX_WORD:
                return word
            raise ConfigError(
                f"the secret word in '{path}' has {len(word)} characters",
                hint=f"it must have {MIN_WORD} to {MAX_WORD}, without blanks and '#'",
            )
    raise ConfigError(f"'{path}' has no line 'secretword=…'", rc=errno.ENOENT)


def hash_of(challenge: int, secret: bytes) -> bytes:
    """What answers a challenge: 56 hexadecimal characters."""
    return hashlib.sha224(b"%d%b" % (challenge, secret)).hexdigest().encode("ascii")


@implementer(ICheckedAuthenticator, IUnaddressedAuthenticator)
class OvisAuthenticator:
    """Takes everybody who knows the secret word for root.

    The word is read when the configuration is, before a daemon that was started by root becomes
    another user. ``new_challenge`` gives unpredictable numbers of 64 bits.
    """

    name = "ovis"

    def __init__(
        self,
        context: IPluginContext | None = None,
        *,
        new_challenge: Callable[[], int] = lambda: secrets.randbits(64),
    ) -> None:
        self._new_challenge = new_challenge
        self._path = Path()
        self._secret = b""

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Read the secret word. Raises ``ConfigError``."""
        named = attributes.get("conf") or os.environ.get(ENVIRONMENT)
        if named:
            path = Path(named)
        else:
            places = candidate_files()
            found = [place for place in places if os.path.exists(place)]
            if not found:
                raise ConfigError(
                    f"there is no file with a secret word: neither {ENVIRONMENT} names one nor is"
                    f" there any of {', '.join(map(str, places))}",
                    rc=errno.ENOENT,
                    hint="name one with conf=FILE",
                )
            path = found[0]
        self._secret, self._path = read_secret(path), path

    def check(self) -> str:
        """Reading the configuration has tried all there is to try."""
        return f"the secret word in {self._path} can be used"

    def begin(self, *, passive: bool, local_address: str, peer_address: str) -> OvisAuthentication:
        """A conversation with a challenge of its own."""
        return OvisAuthentication(self._secret, self._new_challenge(), passive=passive)


@implementer(IAuthentication)
class OvisAuthentication:
    """CHALLENGE, then REPLY, from each side.

    A C peer sends them in this order, too, so no other is taken.
    """

    def __init__(self, secret: bytes, challenge: int, *, passive: bool) -> None:
        self._secret = secret
        self._own = challenge
        self._passive = passive
        self._theirs: int | None = None

    def first(self) -> AuthStep:
        """Our challenge."""
        return AuthStep(send=(_KIND.pack(_CHALLENGE) + _NUMBER.pack(self._own),))

    def received(self, payload: bytes) -> AuthStep:
        """The peer's challenge first, then its answer to ours."""
        kind = _KIND.unpack_from(payload)[0] if len(payload) >= _KIND.size else 0
        if self._theirs is None:
            if kind != _CHALLENGE or len(payload) != _CHALLENGE_BYTES:
                raise AuthFailed(
                    "ovis: the peer's first message is no challenge", reason="malformed"
                )
            return self._challenged(_NUMBER.unpack_from(payload, _KIND.size)[0])
        if kind == _CHALLENGE:
            raise AuthFailed("ovis: the peer sent a second challenge", reason="second challenge")
        if kind != _REPLY or len(payload) != _REPLY_BYTES or payload[-1]:
            raise AuthFailed(
                "ovis: the peer's second message is no answer to our challenge",
                reason="malformed",
            )
        return self._answered(payload[_KIND.size : -1], self._theirs)

    def _challenged(self, challenge: int) -> AuthStep:
        if challenge == self._own:
            raise AuthFailed(
                "ovis: the peer sent our own challenge back: it does not know the secret word",
                reason="reflected challenge",
            )
        self._theirs = challenge
        return AuthStep() if self._passive else AuthStep(send=(self._answer(challenge),))

    def _answered(self, answer: bytes, challenge: int) -> AuthStep:
        if not hmac.compare_digest(answer, hash_of(self._own, self._secret)):
            raise AuthFailed(
                "ovis: the peer has another secret word than we;"
                " both need the same line 'secretword=' in their files",
                reason="wrong secret",
            )
        send = (self._answer(challenge),) if self._passive else ()
        return AuthStep(send=send, credential=Credential(0, 0))

    def _answer(self, challenge: int) -> bytes:
        return _KIND.pack(_REPLY) + hash_of(challenge, self._secret) + b"\0"
