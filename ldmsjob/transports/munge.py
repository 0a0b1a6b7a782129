"""libmunge: credentials made and read by the host's ``munged``.

The calls block: for ever so short when munged is well, for about ten seconds when it hangs. They
may be made in any thread.
"""

from __future__ import annotations

import ctypes
import errno
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint, c_void_p
from typing import Any, NamedTuple

from ldmsjob.errors import ConfigError

LIBRARY = "libmunge.so.2"

_TTL, _ENCODE_TIME, _DECODE_TIME, _SOCKET = 4, 6, 7, 8
"""Options of a context."""

_SUCCESS = 0

MALFORMED = "malformed"

REASONS: dict[int, tuple[str, str]] = {
    6: (
        "no munged",
        "start munged, see `systemctl status munge`, or name its socket with socket=; it must be"
        " open to this user",
    ),
    7: ("munged silent", "munged is stopped or overloaded: see `systemctl status munge`"),
    8: (MALFORMED, "the peer sent something else than a credential"),
    9: (MALFORMED, "the peer has another version of munge"),
    10: (MALFORMED, "the peer's munged uses a cipher that ours does not have"),
    11: (MALFORMED, "the peer's munged uses a hash that ours does not have"),
    12: (MALFORMED, "the peer's munged uses a compression that ours does not have"),
    13: (MALFORMED, "the peer's munged has another realm"),
    14: (
        "wrong key",
        "the two hosts' keys differ: put the same /etc/munge/munge.key on both and restart munged",
    ),
    15: ("expired", "compare the clocks of the two hosts"),
    16: ("rewound", "it is from the future: compare the clocks of the two hosts"),
    17: ("replayed", "a credential counts once: somebody has used it before"),
    18: ("unauthorized", "the peer has made it for another user or group than ours"),
}
"""What munge's error numbers mean here: a word to count, and what to do about it."""


class MungeError(Exception):
    """A call failed. ``reason`` is a word for counters; the text is for people, without secrets."""

    def __init__(self, reason: str, text: str, hint: str = "") -> None:
        super().__init__(f"{text}; {hint}" if hint else text)
        self.reason = reason
        self.text = text
        self.hint = hint


class Decoded(NamedTuple):
    """What a valid credential says."""

    payload: bytes
    uid: int
    gid: int
    seconds_left: int
    """How much longer munged takes it for valid."""


class Libmunge:
    """The library. ``socket`` is where munged listens; None: where it does by default."""

    def __init__(self, library: Any, free: Any) -> None:
        self._library = library
        self._free = free
        for name, result, arguments in (
            ("munge_ctx_create", c_void_p, []),
            ("munge_ctx_destroy", None, [c_void_p]),
            ("munge_ctx_strerror", c_char_p, [c_void_p]),
            # The rest of their arguments depends on the option.
            ("munge_ctx_get", c_int, [c_void_p, c_int]),
            ("munge_ctx_set", c_int, [c_void_p, c_int]),
            ("munge_strerror", c_char_p, [c_int]),
            ("munge_encode", c_int, [POINTER(c_void_p), c_void_p, c_char_p, c_int]),
            (
                "munge_decode",
                c_int,
                [
                    *(c_char_p, c_void_p, POINTER(c_void_p), POINTER(c_int)),
                    *(POINTER(c_uint), POINTER(c_uint)),
                ],
            ),
        ):
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
        free.restype = None
        free.argtypes = [c_void_p]

    @classmethod
    def load(cls) -> Libmunge:
        """Load it. Raises ``ConfigError`` where it is not installed."""
        try:
            return cls(ctypes.CDLL(LIBRARY), ctypes.CDLL(None).free)
        except (OSError, AttributeError) as error:
            raise ConfigError(
                f"authentication with munge needs {LIBRARY}: {error}",
                rc=errno.ENOENT,
                hint="install the package libmunge2 (Debian) or munge-libs (Red Hat)",
            ) from None

    def encode(self, socket: str | None, payload: bytes) -> bytes:
        """A credential of this process's user with that payload. Raises ``MungeError``."""
        with _Context(self._library, socket) as context:
            credential = c_void_p()
            status = self._library.munge_encode(
                byref(credential), context.it, payload, len(payload)
            )
            try:
                context.check(status)
                return ctypes.string_at(credential.value or 0)
            finally:
                self._free(credential)

    def decode(self, socket: str | None, credential: bytes) -> Decoded:
        """What a credential says, which munged takes once. Raises ``MungeError``."""
        with _Context(self._library, socket) as context:
            payload, size, uid, gid = c_void_p(), c_int(), c_uint(), c_uint()
            status = self._library.munge_decode(
                credential, context.it, byref(payload), byref(size), byref(uid), byref(gid)
            )
            try:
                context.check(status)
                data = ctypes.string_at(payload.value, size.value) if payload.value else b""
            finally:
                # Credentials that are refused may have a payload, too.
                self._free(payload)
            return Decoded(data, uid.value, gid.value, context.seconds_left())


class _Context:
    """One context of munge for one call: they are not to be shared between threads."""

    def __init__(self, library: Any, socket: str | None) -> None:
        self._library = library
        self._socket = socket
        self.it = c_void_p(None)

    def __enter__(self) -> _Context:
        self.it = c_void_p(self._library.munge_ctx_create())
        if not self.it:
            raise MungeError("munge failed", "libmunge has no memory")
        if self._socket is not None:
            path = self._socket.encode("utf-8", "surrogateescape")
            status = self._library.munge_ctx_set(self.it, _SOCKET, c_char_p(path))
            if status != _SUCCESS:
                self.__exit__()
                raise MungeError("munge failed", f"libmunge takes no socket '{self._socket}'")
        return self

    def __exit__(self, *_error: object) -> None:
        self._library.munge_ctx_destroy(self.it)

    def check(self, status: int) -> None:
        """Raise the ``MungeError`` for a status that is no success."""
        if status == _SUCCESS:
            return
        text = self._library.munge_ctx_strerror(self.it) or self._library.munge_strerror(status)
        reason, hint = REASONS.get(status, ("munge failed", ""))
        raise MungeError(reason, text.decode("utf-8", "replace"), hint)

    def seconds_left(self) -> int:
        """Until the credential that was decoded expires."""
        ttl, encoded, decoded = c_int(), c_long(), c_long()
        for option, value in ((_TTL, ttl), (_ENCODE_TIME, encoded), (_DECODE_TIME, decoded)):
            self._library.munge_ctx_get(self.it, option, byref(value))
        return max(0, encoded.value + ttl.value - decoded.value)
