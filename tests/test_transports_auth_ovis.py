"""Authentication ``ovis``: the conversation, and the file with the secret word."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import AuthFailed, ConfigError
from ldmsjob.interfaces import AuthStep, IAuthentication, ICheckedAuthenticator
from ldmsjob.transports import auth_ovis
from ldmsjob.transports.auth_ovis import OvisAuthentication, OvisAuthenticator, hash_of
from ldmsjob.wire.events import Credential
from tests.authentications import answers, begin, converse

SECRET = b"proto_secret_0001"
ROOT = Credential(0, 0)
NUMBERS = st.integers(0, (1 << 64) - 1)
WORDS = st.binary(min_size=8, max_size=40)


def challenge(number: int) -> bytes:
    """A CHALLENGE message."""
    return struct.pack("<I", 1) + struct.pack(">Q", number)


def reply(number: int, secret: bytes = SECRET) -> bytes:
    """A REPLY message to a challenge."""
    return struct.pack("<I", 2) + hash_of(number, secret) + b"\0"


class ConversationTests(SynchronousTestCase):
    """Who knows the word is root, in the right order."""

    def refused(self, conversation: OvisAuthentication, payload: bytes) -> str:
        """Why a message is refused."""
        error = self.assertRaises(AuthFailed, conversation.received, payload)
        self.assertNotIn(SECRET.decode(), str(error))
        return str(error.reason)

    def test_hashes(self) -> None:
        """The hashes are those that the C library makes."""
        for number, expected in (
            (0x9F07A5AC97A59087, "54e0ebc94927b3c4f588f0022068049bc510a81d1de565b65a4a938e"),
            (0x5187676E28597E72, "3afbff02654ebd387a1d8dbfab30a4e62da16f8681ecc21ffa8d98a9"),
        ):
            self.assertEqual(hash_of(number, SECRET), expected.encode())

    @given(NUMBERS, NUMBERS, WORDS, WORDS)
    def test_two_of_ours(self, one: int, two: int, word: bytes, other: bytes) -> None:
        """Two sides authenticate exactly when they have the same word."""
        if one == two:
            return
        active = OvisAuthentication(word, one, passive=False)
        passive = OvisAuthentication(other, two, passive=True)
        if word == other:
            self.assertEqual(converse(active, passive), (ROOT, ROOT))
        else:
            error = self.assertRaises(AuthFailed, converse, active, passive)
            self.assertEqual(error.reason, "wrong secret")

    def test_answer_is_withheld(self) -> None:
        """As the passive side we answer only who has answered us."""
        passive = OvisAuthentication(SECRET, 5, passive=True)
        self.assertEqual(passive.first(), AuthStep(send=(challenge(5),)))
        self.assertEqual(passive.received(challenge(6)), AuthStep())
        self.assertEqual(
            passive.received(reply(5)), AuthStep(send=(reply(6),), credential=Credential(0, 0))
        )

    def test_answer_at_once(self) -> None:
        """As the active side we answer when we are asked."""
        active = OvisAuthentication(SECRET, 5, passive=False)
        self.assertEqual(active.first(), AuthStep(send=(challenge(5),)))
        self.assertEqual(active.received(challenge(6)), AuthStep(send=(reply(6),)))
        self.assertEqual(active.received(reply(5)), AuthStep(credential=Credential(0, 0)))

    def test_reflection(self) -> None:
        """Our own challenge is refused, on both sides, before anything is answered."""
        for passive in (True, False):
            conversation = OvisAuthentication(SECRET, 5, passive=passive)
            (own,) = conversation.first().send
            self.assertEqual(self.refused(conversation, own), "reflected challenge")

    @given(NUMBERS, NUMBERS)
    def test_nobody_gets_in_by_echoing(self, own: int, other: int) -> None:
        """A peer that has only what we say gets no credential, whatever it sends back in which
        order, and as the passive side we tell it nothing but our challenge."""
        for passive in (True, False):
            conversation = OvisAuthentication(SECRET, own, passive=passive)
            heard = list(conversation.first().send)
            for _ in range(4):
                for payload in [challenge(other), *heard]:
                    try:
                        step = conversation.received(payload)
                    except AuthFailed:
                        continue
                    self.assertIsNone(step.credential)
                    heard += step.send
            if passive:
                self.assertEqual(heard, [challenge(own)])

    def test_wrong_order(self) -> None:
        """An answer in front of the challenge, and a second challenge, are refused."""
        for passive in (True, False):
            conversation = OvisAuthentication(SECRET, 5, passive=passive)
            self.assertEqual(self.refused(conversation, reply(5)), "malformed")
            conversation.received(challenge(6))
            self.assertEqual(self.refused(conversation, challenge(7)), "second challenge")

    @given(st.binary(max_size=80), st.booleans(), st.booleans())
    def test_any_bytes(self, payload: bytes, passive: bool, second: bool) -> None:
        """Anything else is refused and nothing is sent for it."""
        conversation = OvisAuthentication(SECRET, 5, passive=passive)
        if second:
            conversation.received(challenge(6))
        if not second and len(payload) == 12 and payload[:4] == b"\1\0\0\0":
            return
        self.assertRaises(AuthFailed, conversation.received, payload)

    def test_lengths_and_types(self) -> None:
        """Each message has one length; an answer ends in NUL."""
        for passive in (True, False):
            for wrong in (
                b"",
                b"\1",
                challenge(6)[:-1],
                challenge(6) + b"\0",
                b"\0\0\0\1" + challenge(6)[4:],
                b"\3\0\0\0" + challenge(6)[4:],
            ):
                conversation = OvisAuthentication(SECRET, 5, passive=passive)
                self.assertEqual(self.refused(conversation, wrong), "malformed")
            for wrong in (
                b"",
                reply(5)[:-1],
                reply(5) + b"\0",
                reply(5)[:-1] + b"x",
                b"\3" + reply(5)[1:],
            ):
                conversation = OvisAuthentication(SECRET, 5, passive=passive)
                conversation.received(challenge(6))
                self.assertEqual(self.refused(conversation, wrong), "malformed")

    def test_challenges(self) -> None:
        """Each conversation has a challenge of its own."""
        authenticator = OvisAuthenticator()
        said = {begin(authenticator, True).first().send for _ in range(8)}
        self.assertEqual(len(said), 8)

    def test_recorded(self) -> None:
        """C programs hear what they would hear from one another; their word is not known, but
        what it makes of their challenges is."""
        hashes = {
            0x0D021C1D3FB96162: "3c2185d85970acdaa9fdfaa5e0556333926196679e51dada816801af",
            0x0AD5970F60150C75: "7e17584dbb660ac7bb016525241e9b5667029970cd4121b0440426ed",
        }
        self.patch(auth_ovis, "hash_of", lambda number, secret: hashes[number].encode())
        for passive, own in zip((True, False), hashes, strict=True):
            authenticator = OvisAuthenticator(new_challenge=lambda own=own: own)
            said, wanted, credential = answers("g_ls_auth_ovis", passive, authenticator)
            self.assertEqual(said, wanted)
            self.assertEqual(len(said), 3 if passive else 4)
            self.assertEqual(credential, ROOT)


class FileTests(SynchronousTestCase):
    """The file with the secret word."""

    def setUp(self) -> None:
        """No file is named by the environment."""
        self.path = Path(self.mktemp())
        self.patch(os, "environ", {})

    def write(self, text: bytes, mode: int = 0o600) -> None:
        """Write the file."""
        self.path.write_bytes(text)
        self.path.chmod(mode)

    def configured(self, **attributes: Any) -> OvisAuthenticator:
        """One that has read the file."""
        authenticator = OvisAuthenticator()
        authenticator.configure(attributes or {"conf": str(self.path)})
        return authenticator

    def error(self) -> ConfigError:
        """Why the file is refused. The word is in no error."""
        error = self.assertRaises(ConfigError, self.configured)
        self.assertNotIn("secret_word_1", str(error))
        self.assertIn(str(self.path), str(error))
        return error

    def test_words(self) -> None:
        """The word is what the C library takes for it."""
        for text, word in (
            (b"secretword=12345678", b"12345678"),
            (b"# secretword=no\n\nother\nsecretword=12345678\nsecretword=x\n", b"12345678"),
            (b"secretword= \t12345678 # ours\n", b"12345678"),
            (b"secretword=12345678#ours\n", b"12345678"),
            (b"secretword=" + b"x" * 512 + b"\n", b"x" * 512),
            (b"secretword=p\xc3\xa4ssw\xc3\xb6rd\r\n", b"p\xc3\xa4ssw\xc3\xb6rd\r"),
        ):
            self.write(text)
            conversation = begin(self.configured(), False)
            self.assertEqual(conversation.received(challenge(6)).send, (reply(6, word),))

    def test_bad_words(self) -> None:
        """Too short, too long, none."""
        for text, said in (
            (b"secretword=1234567\n", "has 7 characters"),
            (b"secretword=\n", "has 0 characters"),
            (b"secretword=" + b"x" * 513 + b"\n", "has 513 characters"),
            (b"password=12345678\n", "no line 'secretword="),
            (b"", "no line"),
        ):
            self.write(text)
            self.assertIn(said, str(self.error()))

    def test_permissions(self) -> None:
        """A file that others than its owner can use is refused, with the cure."""
        for mode in (0o640, 0o620, 0o604, 0o602, 0o601, 0o777):
            self.write(b"secretword=secret_word_1\n", mode)
            error = self.error()
            self.assertEqual(error.rc, 13)
            self.assertIn(f"mode {mode:04o}", str(error))
            self.assertIn(f"chmod 600 {self.path}", str(error))
        for mode in (0o600, 0o400):
            self.write(b"secretword=secret_word_1\n")
            self.path.chmod(mode)
            self.configured()

    def test_owner(self) -> None:
        """A file of somebody else is refused: he knows the word."""
        self.write(b"secretword=secret_word_1\n")
        owner = self.path.stat().st_uid
        self.patch(auth_ovis.os, "geteuid", lambda: 4711)
        if owner:
            self.assertIn("chown 4711", str(self.error()))
        else:
            self.configured()
            os.chown(self.path, 4712, -1)
            self.assertIn(
                f"belongs to uid 4712; it must be root's or our own: chown 4711 {self.path}",
                str(self.error()),
            )

    def test_no_file(self) -> None:
        """What is no file, or not there, is refused at once."""
        self.assertIn("No such file", str(self.error()))
        self.path.mkdir()
        self.assertIn("is not a file", str(self.error()))
        self.path.rmdir()
        os.mkfifo(self.path, 0o600)
        self.assertIn("is not a file", str(self.error()))

    def test_places(self) -> None:
        """Without ``conf`` the environment names the file, or it is in one of a few places."""
        self.patch(auth_ovis, "candidate_files", lambda: [Path("/nonexistent/a"), self.path])
        error = self.assertRaises(ConfigError, OvisAuthenticator().configure, {})
        self.assertIn("/nonexistent/a", str(error))
        self.assertIn("LDMS_AUTH_FILE", str(error))
        self.write(b"secretword=secret_word_1\n")
        authenticator = OvisAuthenticator()
        authenticator.configure({})
        self.assertIn(str(self.path), authenticator.check())
        os.environ["LDMS_AUTH_FILE"] = "/nonexistent/b"
        error = self.assertRaises(ConfigError, OvisAuthenticator().configure, {})
        self.assertIn("/nonexistent/b", str(error))

    def test_default_places(self) -> None:
        """The home directory comes first."""
        places = auth_ovis.candidate_files()
        self.assertEqual(places[0].name, ".ldmsauth.conf")
        self.assertEqual(str(places[-1]), "/etc/ldmsauth.conf")

    def test_failed_configuration_changes_nothing(self) -> None:
        """The word of before stays."""
        self.write(b"secretword=secret_word_1\n")
        authenticator = self.configured()
        self.assertRaises(ConfigError, authenticator.configure, {"conf": "/nonexistent/c"})
        self.assertIn(str(self.path), authenticator.check())

    def test_interfaces(self) -> None:
        """It is what links, and `--check`, expect."""
        verifyObject(ICheckedAuthenticator, OvisAuthenticator())
        verifyObject(IAuthentication, begin(OvisAuthenticator(), True))
