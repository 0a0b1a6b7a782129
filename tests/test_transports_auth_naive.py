"""Authentication ``naive``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import AuthFailed, ConfigError
from ldmsjob.interfaces import AuthStep, IAuthentication, IAuthenticator
from ldmsjob.permissions import MAX_ID
from ldmsjob.transports.auth_naive import NaiveAuthenticator
from ldmsjob.wire.events import Credential
from tests.authentications import answers, begin, converse


def naive(uid: int, gid: int) -> NaiveAuthenticator:
    """One that claims these ids."""
    authenticator = NaiveAuthenticator()
    authenticator.configure({"uid": str(uid), "gid": str(gid)})
    return authenticator


class NaiveTests(SynchronousTestCase):
    """Claims are exchanged and believed."""

    def test_interfaces(self) -> None:
        """It is what links expect."""
        verifyObject(IAuthenticator, naive(1, 2))
        verifyObject(IAuthentication, begin(naive(1, 2), True))

    def test_default_claim(self) -> None:
        """Without attributes, nobody is claimed."""
        authenticator = NaiveAuthenticator()
        authenticator.configure({})
        self.assertEqual(
            begin(authenticator, False).first(), AuthStep(send=(b"\0\0\xff\xfe\0\0\xff\xfe",))
        )

    @given(*[st.integers(0, MAX_ID)] * 4)
    def test_claims_are_believed(self, uid: int, gid: int, other_uid: int, other_gid: int) -> None:
        """Each side takes the other for what it claims."""
        ours = begin(naive(uid, gid), False)
        theirs = begin(naive(other_uid, other_gid), True)
        self.assertEqual(
            converse(ours, theirs), (Credential(other_uid, other_gid), Credential(uid, gid))
        )

    @given(st.binary(max_size=40))
    def test_other_lengths(self, payload: bytes) -> None:
        """What is not two ids is refused."""
        conversation = begin(naive(1, 2), True)
        if len(payload) == 8:
            self.assertIsNotNone(conversation.received(payload).credential)
        else:
            error = self.assertRaises(AuthFailed, conversation.received, payload)
            self.assertEqual(error.reason, "malformed")

    def test_ids_out_of_range(self) -> None:
        """Ids are numbers that an id can have; nothing is changed by others."""
        authenticator = naive(1, 2)
        for name in ("uid", "gid"):
            for value in ("-1", str(MAX_ID + 1)):
                error = self.assertRaises(ConfigError, authenticator.configure, {name: value})
                self.assertIn(name, str(error))
        self.assertEqual(begin(authenticator, True).first().send[0][3::4], b"\1\2")

    def test_recorded(self) -> None:
        """C programs hear what they would hear from one another."""
        for passive in (True, False):
            said, wanted, credential = answers("g_ls_auth_naive", passive, naive(1000, 1000))
            self.assertEqual(said, wanted)
            self.assertEqual(len(said), 2 if passive else 3)
            self.assertEqual(credential, Credential(1000, 1000))
