"""Authentication ``munge``, with a munged of the tests' own; tests/munge has real ones."""

from __future__ import annotations

import base64
import socket
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import AuthFailed, ConfigError
from ldmsjob.interfaces import AuthStep, IAuthentication, ICheckedAuthenticator
from ldmsjob.transports import auth_munge, munge
from ldmsjob.transports.auth_munge import (
    MAX_CREDENTIAL_BYTES,
    MungeAuthenticator,
    SpentCredentials,
    address_in,
    socket_address,
)
from ldmsjob.transports.munge import REASONS, Decoded, MungeError
from ldmsjob.transports.workers import CallTooSlow, TooManyCalls
from ldmsjob.wire.events import Credential
from tests.authentications import HERE, THERE, answers, begin, converse, now
from tests.recorded import streams


class FakeMunged:
    """A munged whose credentials can be read; ``error`` is raised by all calls."""

    def __init__(self, uid: int = 0, gid: int = 0) -> None:
        self.uid = uid
        self.gid = gid
        self.error: Exception | None = None
        self.recorded: dict[bytes, bytes] = {}
        self.sockets: set[str | None] = set()
        self._number = 0

    def encode(self, socket: str | None, payload: bytes) -> bytes:
        """A credential."""
        self._asked(socket)
        if payload in self.recorded:
            return self.recorded[payload]
        self._number += 1
        text = f"{self.uid} {self.gid} {self._number} {payload.hex()}"
        return b"MUNGE:" + base64.b64encode(text.encode()) + b":"

    def decode(self, socket: str | None, credential: bytes) -> Decoded:
        """What is in it."""
        self._asked(socket)
        for payload, recorded in self.recorded.items():
            if recorded == credential:
                return Decoded(payload, self.uid, self.gid, 300)
        words = base64.b64decode(credential[6:]).decode().split(" ")
        return Decoded(bytes.fromhex(words[3]), int(words[0]), int(words[1]), 300)

    def _asked(self, socket: str | None) -> None:
        self.sockets.add(socket)
        if self.error is not None:
            raise self.error


class Here:
    """Makes calls at once."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def call(self, function: Any, *arguments: Any) -> Deferred[Any]:
        """The result."""
        if self.failure is not None:
            return fail(self.failure)
        return maybeDeferred(function, *arguments)


class MungeTestCase(SynchronousTestCase):
    """A munged and an authenticator that asks it."""

    def setUp(self) -> None:
        """Make them."""
        self.munged = FakeMunged(1000, 100)
        self.workers = Here()
        self.authenticator = self.made()

    def made(self, munged: FakeMunged | None = None, **attributes: str) -> MungeAuthenticator:
        """An authenticator."""
        context: Any = None
        authenticator = MungeAuthenticator(
            context,
            load=lambda: munged or self.munged,  # type: ignore[return-value,arg-type]
            workers=self.workers,  # type: ignore[arg-type]
            spent=SpentCredentials(Clock().seconds),
        )
        authenticator.configure(attributes)
        return authenticator

    def credential(self, address: str = THERE) -> bytes:
        """What a peer at that address sends."""
        return self.munged.encode(None, socket_address(address)) + b"\0"

    def refused(self, payload: bytes, **addresses: str) -> AuthFailed:
        """Why a message is refused."""
        step = begin(self.authenticator, True, **addresses).received(payload)
        return self.assertRaises(AuthFailed, now, step)


class ConversationTests(MungeTestCase):
    """One credential each."""

    def test_interfaces(self) -> None:
        """It is what links, and `--check`, expect."""
        verifyObject(ICheckedAuthenticator, self.authenticator)
        verifyObject(IAuthentication, begin(self.authenticator, True))

    def test_two_of_ours(self) -> None:
        """Each side takes the other for whom its munged says."""
        peer = self.made(FakeMunged(4711, 4712))
        for here, there in ((HERE, THERE), ("[fe80::1]:411", "[fe80::2]:41234")):
            active = begin(peer, False, there, here)
            passive = begin(self.authenticator, True, here, there)
            self.assertEqual(
                converse(active, passive), (Credential(1000, 100), Credential(4711, 4712))
            )

    def test_nothing_for_strangers(self) -> None:
        """As the passive side we make no credential for a peer that has not shown a good one."""
        conversation = begin(self.authenticator, True)
        self.assertEqual(conversation.first(), AuthStep())
        self.assertEqual(self.munged.sockets, set())
        peer = self.credential()
        step = now(conversation.received(peer))
        self.assertEqual(step.credential, Credential(1000, 100))
        (own,) = step.send
        self.assertTrue(own.endswith(b":\0"))
        decoded = self.munged.decode(None, own[:-1])
        self.assertEqual(decoded.payload, bytes.fromhex("0200019b0a000001") + bytes(8))

    def test_credential_is_refused_and_no_own_one_made(self) -> None:
        """One that is for another connection gets nothing."""
        munged = self.munged
        made: list[bytes] = []
        encode = munged.encode
        wrong = self.credential("10.0.0.8:41234")
        self.patch(munged, "encode", lambda *a: made.append(a[1]) or encode(*a))
        self.refused(wrong)
        self.assertEqual(made, [])

    def test_recorded(self) -> None:
        """C programs hear what they would hear from one another."""
        here, there = "127.0.0.1:10512", "127.0.0.1:35222"
        for passive in (True, False):
            for from_client, address in ((True, there), (False, here)):
                stream = streams("g_ls_auth_munge")[1, from_client]
                start = stream.index(b"MUNGE:")
                credential = stream[start : stream.index(b"\0", start)]
                self.munged.recorded[socket_address(address)] = credential
            authenticator = self.made()
            addresses = (here, there) if passive else (there, here)
            said, wanted, credential_of = answers(
                "g_ls_auth_munge", passive, authenticator, *addresses
            )
            self.assertEqual(said, wanted)
            self.assertEqual(len(said), 2 if passive else 3)
            self.assertEqual(credential_of, Credential(1000, 100))

    def test_socket(self) -> None:
        """The attribute names munged's socket."""
        authenticator = self.made(socket="/x/y")
        now(begin(authenticator, True).received(self.credential()))
        self.assertEqual(self.munged.sockets, {None, "/x/y"})

    def test_wrong_address(self) -> None:
        """A credential that was made for another connection is refused; both are named."""
        for address in (
            "10.0.0.7:41235",
            "10.0.0.8:41234",
            "[fe80::7]:41234",
            "[::ffff:10.0.0.7]:41234",
        ):
            error = self.refused(self.credential(address))
            self.assertEqual(error.reason, "wrong address")
            self.assertIn(f"from {address}", str(error).replace("::ffff:a00:7", "::ffff:10.0.0.7"))
            self.assertIn(f"from {THERE}", str(error))

    def test_no_address_in_it(self) -> None:
        """Nor is one accepted that has no address, or only a part of one."""
        whole = socket_address(THERE)
        for payload in (b"", whole[:8], whole[:15], whole + b"\0", bytes(16), bytes(28), b"x" * 28):
            credential = self.munged.encode(None, payload) + b"\0"
            self.assertEqual(self.refused(credential).reason, "wrong address")

    def test_scope_of_an_address(self) -> None:
        """The number of a network interface is each host's own and is not compared."""
        peer = "[fe80::2%lo]:7"
        payload = bytearray(socket_address("[fe80::2]:7"))
        payload[4:8], payload[24:28] = b"flow", b"\7\0\0\0"
        credential = self.munged.encode(None, bytes(payload)) + b"\0"
        step = now(begin(self.authenticator, True, "[fe80::1]:1", peer).received(credential))
        self.assertIsNotNone(step.credential)

    def test_spent(self) -> None:
        """A credential counts once, however it is written, even if munged has forgotten it."""
        credential = self.credential()
        now(begin(self.authenticator, True).received(credential))
        padded = credential[:20] + b"\n " + credential[20:]
        for again in (credential, padded):
            error = self.refused(again)
            self.assertEqual(error.reason, "replayed")
            self.assertNotIn("MUNGE:", str(error))

    def test_addresses_that_are_none(self) -> None:
        """Where a connection has no internet addresses munge cannot be used, and says so."""
        for address in ("", "left", "/run/x.sock", "localhost:411", "10.0.0.1:x", "10.0.0.1:70000"):
            error = self.refused(self.credential(), peer=address)
            self.assertEqual(error.reason, "no address")
            step = begin(self.authenticator, False, local=address)
            self.assertRaises(AuthFailed, step.first)

    def test_no_credential(self) -> None:
        """What cannot be a credential does not even come to munged."""
        good = self.credential()
        self.munged.sockets.clear()
        for payload in (
            b"",
            b"\0",
            good[:-1],
            good + b"\0",
            good[:-2] + b"\0",
            b"munge" + good[5:],
            good[:10] + b"\0" + good[10:],
            b"MUNGE:" + b"A" * MAX_CREDENTIAL_BYTES + b":\0",
        ):
            self.assertEqual(self.refused(payload).reason, "malformed")
        self.assertEqual(self.munged.sockets, set())

    @given(st.binary(max_size=64))
    def test_any_bytes(self, payload: bytes) -> None:
        """Anything is refused in the same manner."""
        self.refused(payload)


class FailureTests(MungeTestCase):
    """What munged may say, and when it says nothing."""

    def test_each_number(self) -> None:
        """Every error has a word, and a hint in its text; the credential is not in it."""
        credential = self.credential()
        for reason, hint in REASONS.values():
            self.munged.error = MungeError(reason, "what munge says", hint)
            error = self.refused(credential)
            self.assertEqual(error.reason, reason)
            self.assertEqual(
                str(error), f"munge: the peer's credential is not accepted: what munge says; {hint}"
            )
            error = self.assertRaises(AuthFailed, now, begin(self.authenticator, False).first())
            self.assertEqual(
                str(error), f"munge: we have no credential for the peer: what munge says; {hint}"
            )
            self.assertEqual(error.reason, reason)

    def test_munged_that_is_silent(self) -> None:
        """No answer in time, and too many that wait for one, are told apart."""
        for failure, reason in (
            (CallTooSlow(), "munged silent"),
            (TooManyCalls(), "munge busy"),
        ):
            self.workers.failure = failure
            for step in (
                begin(self.authenticator, False).first(),
                begin(self.authenticator, True).received(b"MUNGE:xx:\0"),
            ):
                error = self.assertRaises(AuthFailed, now, step)
                self.assertEqual(error.reason, reason)
                self.assertIn("munged", str(error))

    def test_defects_stay_defects(self) -> None:
        """An error of ours is not taken for a refusal."""
        credential = self.credential()
        self.munged.error = ZeroDivisionError()
        step = begin(self.authenticator, True).received(credential)
        self.assertRaises(ZeroDivisionError, now, step)

    def test_check(self) -> None:
        """`--check` says who we are, or what to do."""
        self.assertEqual(self.authenticator.check(), "munged answers: we are uid 1000, gid 100")
        self.munged.error = MungeError("no munged", "no such socket", "start it")
        error = self.assertRaises(ConfigError, self.authenticator.check)
        self.assertEqual(str(error), "munge: no such socket; start it")

    def test_check_does_not_wait_for_ever(self) -> None:
        """A munged that hangs is told of, too."""
        self.patch(auth_munge, "CHECK_SECONDS", 0.01)
        hung = threading.Event()
        self.addCleanup(hung.set)
        self.patch(self.munged, "encode", lambda *_: hung.wait(20) and b"")
        error = self.assertRaises(ConfigError, self.authenticator.check)
        self.assertIn("does not answer", str(error))
        self.assertIn("systemctl", str(error))

    def test_library_that_is_missing(self) -> None:
        """It is an error of the configuration that names the package."""
        self.patch(munge, "LIBRARY", "libmunge-that-is-not-there.so.2")
        context: Any = None
        authenticator = MungeAuthenticator(context, workers=self.workers)  # type: ignore[arg-type]
        error = self.assertRaises(ConfigError, authenticator.configure, {})
        self.assertIn("libmunge2", str(error))
        self.assertIn("libmunge-that-is-not-there.so.2", str(error))


class SpentTests(SynchronousTestCase):
    """The memory of accepted credentials."""

    def test_life(self) -> None:
        """A credential is remembered as long as munged takes it for valid."""
        clock = Clock()
        spent = SpentCredentials(clock.seconds)
        for name, life in ((b"MUNGE:AAAA:", 10), (b"MUNGE:BBBB:", 300)):
            self.assertTrue(spent.spend(name, life))
        clock.advance(10)
        self.assertFalse(spent.spend(b"MUNGE:AAAA:", 10))
        clock.advance(2)
        self.assertTrue(spent.spend(b"MUNGE:AAAA:", 10))
        self.assertFalse(spent.spend(b"MUNGE:BBBB:", 10))
        clock.advance(1000)
        spent.spend(b"MUNGE:CCCC:", 1)
        self.assertEqual(len(spent._until), 1)

    def test_bound(self) -> None:
        """No more than so many are remembered: the youngest."""
        spent = SpentCredentials(Clock().seconds, max_spent=2)
        names = [b"MUNGE:AAAA:", b"MUNGE:BBBB:", b"MUNGE:CCCC:"]
        for name in names:
            self.assertTrue(spent.spend(name, 300))
        self.assertEqual([spent.spend(name, 300) for name in reversed(names)], [False, False, True])


class AddressTests(SynchronousTestCase):
    """Addresses as in C."""

    def test_bytes(self) -> None:
        """The structures' bytes, as getsockname gives them."""
        for address, expected in (
            ("127.0.0.1:411", "0200019b7f000001" + "00" * 8),
            ("[fe80::1]:411", "0a00019b00000000fe800000000000000000000000000001" + "00" * 4),
        ):
            structure = socket_address(address)
            self.assertEqual(structure.hex(), expected)
            self.assertEqual(address_in(structure), address)

    def test_scope(self) -> None:
        """Our own addresses have the interface's number; an interface that is gone has none."""
        number = socket.if_nametoindex("lo")
        self.assertEqual(socket_address("[fe80::1%lo]:1")[24:], number.to_bytes(4, "little"))
        self.assertEqual(socket_address("[fe80::1%nosuch]:1")[24:], bytes(4))

    @given(st.binary(max_size=30))
    def test_any_bytes(self, payload: bytes) -> None:
        """What a peer put into its credential is printable."""
        self.assertTrue(address_in(payload).isprintable())
