"""Tests of ldmsjob.wire.xprt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import PeerError
from ldmsjob.wire import xprt
from ldmsjob.wire.events import PeerInfo

OURS = bytes.fromhex(
    "04020000 6e6f6e65000000000000000000000000 00000001 ffffffffffffffff ffffffffffffffff"
    "00000001 00000000 0000512d 0000000000000001 00000001"
)
LIMITED = bytes.fromhex(
    "04020000 6e6f6e65000000000000000000000000 00000001 0000000000000fa0 00000000000007d0"
    "00000001 00000000 0000512d 0000000000000001 00000000"
)


def changed(**fields):
    """``OURS`` with other values."""
    parsed = xprt.CONNECTION_MESSAGE.parse(OURS)
    parsed.update(fields)
    return xprt.CONNECTION_MESSAGE.build(parsed)


class ConnectionMessageTests(SynchronousTestCase):
    """What the two sides say of themselves."""

    def test_vectors(self):
        """A recorded message is read to what it means, and built from that again."""
        message = xprt.ConnectionMessage("none", -1, -1, 0x512D, 1, True)
        self.assertEqual(xprt.read_connect(OURS, "none"), message)
        self.assertEqual(message.encode(), OURS)

    def test_limits_of_the_accepting_side(self):
        """Rate and quota are not mixed up."""
        self.assertEqual(
            xprt.read_accepted(LIMITED, "none"), PeerInfo("none", 0x512D, False, 2000, 4000)
        )

    def test_refusals(self):
        """Each reason has the text of the C daemon, and the first one that applies is given."""
        table = [
            (b"", "Bad conn msg"),
            (b"\4\2\0", "Bad conn msg"),
            (b"\4\2\0\1none\0", "Version mismatch"),
            (changed(ldms_version=b"\4\2\1\0", auth=bytes(16)), "Version mismatch"),
            (changed(ldms_version=b"\5\2\0\0"), "Version mismatch"),
            (changed(auth=b"munge".ljust(16, b"\0")), "Auth mismatch"),
            (changed(auth=b"nonesuch".ljust(16, b"\0")), "Auth mismatch"),
            (changed(auth=b"none".ljust(15, b"x") + b"\0", endpoints=0), "Auth mismatch"),
            (OURS[:4], "Auth mismatch"),
            (OURS[:8] + b"\0", "Bad msg"),
            (OURS[:51], "Bad msg"),
            (OURS[:63], "Bad msg"),
            (OURS + b"\0", "Bad msg"),
            (changed(connection_type=0, endpoints=0), "Bad msg"),
            (changed(endpoints=0), "passive rail create error: 22"),
            (changed(endpoints=-1, rate=5), "passive rail create error: 22"),
            (changed(endpoint=1), "bad ep_idx 1 (should be in 0..0 range)"),
        ]
        for message, text in table:
            error = self.assertRaises(xprt.ConnectionRefused, xprt.read_connect, message, "none")
            self.assertEqual(error.answer, text)

    def test_authentication_mismatch(self):
        """Our side is told both names, with nothing in them that a terminal or log would mind."""
        message = changed(auth=b"\x1b[1m\nm\xff'".ljust(16, b"\0"))
        error = self.assertRaises(xprt.AuthMismatch, xprt.read_connect, message, "none")
        self.assertEqual(error.answer, "Auth mismatch")
        self.assertEqual(
            str(error),
            "Auth mismatch: the peer's is \"\\x1b[1m\\nm\\xff'\", ours 'none'",
        )

    def test_what_follows_the_name_does_not_count(self):
        """The name of the way to authenticate ends at its NUL."""
        message = changed(auth=b"none\0garbage".ljust(16, b"\0"))
        self.assertEqual(xprt.read_connect(message, "none").auth, "none")

    def test_older_answers(self):
        """A peer that answers in the short form has no message service and no limits."""
        self.assertEqual(xprt.read_accepted(OURS[:20], "none"), PeerInfo("none", 0, False, -1, -1))
        self.assertRaises(PeerError, xprt.read_accepted, OURS[:20], "munge")
        self.assertRaises(PeerError, xprt.read_accepted, b"\4\1\0\0none\0", "none")

    @given(st.binary(max_size=70))
    def test_hostile(self, message):
        """Any bytes are a connection message, or refused."""
        for raw in (message, OURS[:20] + message[20:], OURS[:24] + message[:40].ljust(40, b"z")):
            for read in (xprt.read_connect, xprt.read_accepted):
                try:
                    read(raw, "none")
                except xprt.ConnectionRefused:
                    pass

    @given(
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-(2**31), 2**31 - 1),
        st.integers(0, 2**64 - 1),
        st.booleans(),
    )
    def test_round_trip(self, quota, pid, rail_gn, enabled):
        """What is encoded is what is read."""
        message = xprt.ConnectionMessage("munge", -1, quota, pid, rail_gn, enabled)
        self.assertEqual(xprt.read_connect(message.encode(), "munge"), message)


class RequestTests(SynchronousTestCase):
    """Heads of requests and replies, and those replies that are always the same."""

    def test_heads(self):
        """Xid and command of recorded requests."""
        table = [
            ("a045066e07560000 00000000 00000014 00000000", "a045066e07560000", 0),
            ("0000000000000000 00000006 0000001c 00000008 000007d0 000007d0", "00" * 8, 6),
            ("4c4f4f4b55505831 00000104 00000014 00000002", "4c4f4f4b55505831", 0x104),
        ]
        for text, xid, command in table:
            raw = b"?" + bytes.fromhex(text)
            self.assertEqual(
                xprt.read_request_head(raw, 1, len(raw)), (bytes.fromhex(xid), command)
            )

    def test_bad_heads(self):
        """A head that is cut, or whose length is not that of the payload, is refused."""
        good = bytes.fromhex("4c4f4f4b55505831 00000104 00000014 00000002")
        for raw in (b"", good[:15], good[:-1], good + b"\0"):
            self.assertRaises(PeerError, xprt.read_request_head, raw, 0, len(raw))
        short_reply = bytes.fromhex("4c4f4f4b55505831 00000104 00000010")
        self.assertRaises(PeerError, xprt.read_request_head, short_reply, 0, 16)

    def test_authentication_messages(self):
        """A payload is wrapped as in the recorded naive and ovis exchanges."""
        for text, payload in (
            ("0000000000000000 00000006 0000001c 00000008 000007d0000007d0", "000007d0000007d0"),
            (
                "0000000000000000 00000006 00000020 0000000c 01000000 9f07a5ac97a59087",
                "010000009f07a5ac97a59087",
            ),
        ):
            raw, inner = bytes.fromhex(text), bytes.fromhex(payload)
            self.assertEqual(xprt.counted_request(xprt.AUTH_MSG, inner), raw)
            self.assertEqual(xprt.read_counted(raw, 0, len(raw)), inner)

    def test_bad_payload_lengths(self):
        """The count must be there and be right."""
        raw = xprt.counted_request(xprt.SEND_MSG, b"abc")
        for bad in (raw[:-1], raw + b"x", raw[:18]):
            self.assertRaises(PeerError, xprt.read_counted, bad, 0, len(bad))

    def test_lookup_reply(self):
        """The recorded answer for a set that does not exist."""
        built = xprt.plain_reply(b"LOOKUPX1", xprt.LOOKUP_REPLY, 2)
        self.assertEqual(built.hex(), "4c4f4f4b55505831000001040000001400000002")
