"""Calls of libmunge, against one that says what a test wants."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.transports.munge import REASONS, Decoded, Libmunge, MungeError

_TTL, _ENCODED, _DECODED, _SOCKET = 4, 6, 7, 8


class FakeLibrary:
    """Answers each call with ``status``. What it gives out it knows, and what it gets back."""

    def __init__(self) -> None:
        self.status = 0
        self.contexts = 0
        self.sockets: list[bytes] = []
        self.given: list[Any] = []
        self.freed: list[int] = []
        # Functions of a library have attributes of their own.
        for name in dir(self):
            if name.startswith("do_"):
                function = getattr(self, name)
                setattr(self, f"munge_{name[3:]}", lambda *given, call=function: call(*given))

    def free(self, pointer: Any) -> None:
        """Take back what was given out."""
        if pointer.value:
            self.freed.append(pointer.value)

    def _give(self, pointer: Any, content: bytes) -> None:
        buffer = ctypes.create_string_buffer(content)
        self.given.append(buffer)
        pointer._obj.value = ctypes.addressof(buffer)

    def do_ctx_create(self) -> int:
        """A context."""
        self.contexts += 1
        return 4711

    def do_ctx_destroy(self, context: Any) -> None:
        """No more of it."""
        self.contexts -= 1

    def do_ctx_strerror(self, context: Any) -> bytes | None:
        """It says nothing."""
        return None

    def do_strerror(self, status: int) -> bytes:
        """In words."""
        return b"number %d" % status

    def do_ctx_set(self, context: Any, option: int, value: Any) -> int:
        """Only the socket is set."""
        assert option == _SOCKET
        self.sockets.append(value.value)
        return self.status

    def do_ctx_get(self, context: Any, option: int, value: Any) -> int:
        """Made at 1000 for 300 seconds, read at 1100."""
        value._obj.value = {_TTL: 300, _ENCODED: 1000, _DECODED: 1100}[option]
        return 0

    def do_encode(self, credential: Any, context: Any, payload: bytes, size: int) -> int:
        """A credential, unless it fails."""
        if not self.status:
            self._give(credential, b"MUNGE:" + payload[:size].hex().encode() + b":")
        return self.status

    def do_decode(
        self, credential: bytes, context: Any, payload: Any, size: Any, uid: Any, gid: Any
    ) -> int:
        """What is in it, which munge gives out also for credentials that it refuses."""
        self._give(payload, b"a\0b")
        size._obj.value, uid._obj.value, gid._obj.value = 3, 1000, 100
        return self.status


class LibmungeTests(SynchronousTestCase):
    """Results, failures, and that nothing stays."""

    def setUp(self) -> None:
        """Make the library."""
        self.library = FakeLibrary()
        free = partial(self.library.free)  # a method takes no attributes
        self.munge = Libmunge(self.library, free)
        self.addCleanup(self.nothing_stays)

    def nothing_stays(self) -> None:
        """All contexts are destroyed, and all that was given out is freed, once."""
        self.assertEqual(self.library.contexts, 0)
        self.assertEqual(
            sorted(self.library.freed), sorted(map(ctypes.addressof, self.library.given))
        )

    def test_good(self) -> None:
        """A payload may contain anything; how long a credential lives is told."""
        self.assertEqual(self.munge.encode(None, b"a\0b"), b"MUNGE:610062:")
        self.assertEqual(self.munge.decode("/s", b"MUNGE::"), Decoded(b"a\0b", 1000, 100, 200))
        self.assertEqual(self.library.sockets, [b"/s"])

    def test_every_other_status_is_a_failure(self) -> None:
        """Whatever munge says of a credential but that it is good, it is refused, though its
        content is there; also by a number that we do not know."""
        for status in (*range(1, 19), 99, -1):
            self.library.status = status
            error = self.assertRaises(MungeError, self.munge.decode, None, b"MUNGE::")
            self.assertEqual(error.reason, REASONS.get(status, ("munge failed",))[0])
            self.assertIn(f"number {status}", str(error))
            self.assertRaises(MungeError, self.munge.encode, None, b"")

    def test_socket_that_is_not_taken(self) -> None:
        """Nothing is asked of another munged then."""
        self.library.status = 2
        error = self.assertRaises(MungeError, self.munge.encode, "/s", b"")
        self.assertIn("'/s'", str(error))
