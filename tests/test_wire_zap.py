"""Tests of ldmsjob.wire.zap."""

from __future__ import annotations

from construct import GreedyBytes, Struct
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import PeerError
from ldmsjob.wire import zap
from ldmsjob.wire.buffers import flat_struct


def frame(declaration):
    """A frame of a C program with whatever stands behind its fixed part."""
    return Struct(*declaration.subcons, "data" / GreedyBytes)


CONNECTION = (
    "04020000 6e6f6e65000000000000000000000000 00000001 ffffffffffffffff ffffffffffffffff"
    "00000001 00000000 0000512d 0000000000000001 00000001"
)
VECTORS = [
    (
        "CONNECT",
        frame(zap.CONNECT_HEAD),
        {
            "kind": 1,
            "reserved": 0,
            "length": 100,
            "frame_xid": b"\1\0\0\0",
            "ctxt": bytes(8),
            "version": zap.VERSION,
            "release": zap.RELEASE,
            "signature": b"SOCKET\0\0",
            "data_len": 64,
            "data": bytes.fromhex(CONNECTION),
        },
        "0001 0000 00000064 01000000 0000000000000000 01030100 534f434b45540000 00000040"
        + CONNECTION,
    ),
    (
        "ACK_ACCEPTED",
        frame(zap.COUNTED_HEAD),
        {
            "kind": 10,
            "reserved": 0,
            "length": 24,
            "frame_xid": b"\2\0\0\0",
            "ctxt": bytes(8),
            "data_len": 0,
            "data": b"",
        },
        "000a0000 00000018 02000000 0000000000000000 00000000",
    ),
    (
        "REJECTED",
        frame(zap.COUNTED_HEAD),
        {
            "kind": 9,
            "reserved": 0,
            "length": 41,
            "frame_xid": b"\x20\0\0\0",
            "ctxt": bytes(8),
            "data_len": 17,
            "data": b"Version mismatch\0",
        },
        "00090000 00000029 20000000 0000000000000000 00000011 56657273696f6e206d69736d6174636800",
    ),
    (
        "RENDEZVOUS",
        frame(zap.RENDEZVOUS_HEAD),
        {
            "kind": 3,
            "reserved": 0,
            "length": 76,
            "frame_xid": b"\6\0\0\0",
            "ctxt": bytes(8),
            "key": b"\2\0\0\0",
            "access": 3,
            "address": 0x7F392D400060,
            "region_len": 0xDB8,
            "data": bytes.fromhex(
                "0000000000000000 00000002 00000024 0100000000000000 0100000000000000 00000003"
            ),
        },
        "00030000 0000004c 06000000 0000000000000000 02000000 00000003 00007f392d400060 00000db8"
        "0000000000000000 00000002 00000024 0100000000000000 0100000000000000 00000003",
    ),
    (
        "READ_REQ",
        zap.READ_REQUEST,
        {
            "kind": 4,
            "reserved": 0,
            "length": 36,
            "frame_xid": b"\5\0\0\0",
            "ctxt": bytes.fromhex("f09e0030a87f0000"),
            "key": b"\2\0\0\0",
            "address": 0x7FC064ADC060,
            "data_len": 0xB98,
        },
        "00040000 00000024 05000000 f09e0030a87f0000 02000000 00007fc064adc060 00000b98",
    ),
    (
        "READ_RESP",
        zap.READ_RESPONSE_HEAD,
        {
            "kind": 5,
            "reserved": 0,
            "length": 0xBBC,
            "frame_xid": b"\5\0\0\0",
            "ctxt": bytes.fromhex("f09e0030a87f0000"),
            "status": 0,
            "destination": bytes(8),
            "data_len": 0xB98,
        },
        "00050000 00000bbc 05000000 f09e0030a87f0000 0000 0000 0000000000000000 00000b98",
    ),
]
HEADS = {
    zap.CONNECT: zap.CONNECT_HEAD,
    zap.SENDRECV: zap.COUNTED_HEAD,
    zap.RENDEZVOUS: zap.RENDEZVOUS_HEAD,
    zap.READ_REQ: zap.READ_REQUEST,
    zap.READ_RESP: zap.READ_RESPONSE_HEAD,
    zap.WRITE_REQ: zap.WRITE_REQUEST_HEAD,
    zap.WRITE_RESP: zap.WRITE_RESPONSE,
    zap.ACCEPTED: zap.COUNTED_HEAD,
    zap.REJECTED: zap.COUNTED_HEAD,
    zap.ACK_ACCEPTED: zap.COUNTED_HEAD,
}


def without_xid(data):
    """A frame of a C program as we send it."""
    return data[:8] + bytes(4) + data[12:]


class DeclarationTests(SynchronousTestCase):
    """The declarations say what C programs sent."""

    def test_vectors(self):
        """Each recorded frame is read to what it means, and built from that again."""
        for name, declaration, meaning, text in VECTORS:
            raw = bytes.fromhex(text)
            parsed = declaration.parse(raw)
            self.assertEqual({key: parsed[key] for key in meaning}, meaning, name)
            self.assertEqual(declaration.build(meaning), raw, name)


class BuilderTests(SynchronousTestCase):
    """What we send is what C programs send, but for the xid that nobody looks at."""

    def setUp(self):
        """The recorded frames by name."""
        self.raw = {name: bytes.fromhex(text) for name, _, _, text in VECTORS}

    def test_connect(self):
        """A CONNECT frame with a connection message."""
        built = zap.connect_frame(bytes.fromhex(CONNECTION))
        self.assertEqual(built, without_xid(self.raw["CONNECT"]))

    def test_ack(self):
        """An ACK_ACCEPTED frame has no data."""
        built = zap.counted_frame(zap.ACK_ACCEPTED)
        self.assertEqual(built, without_xid(self.raw["ACK_ACCEPTED"]))

    def test_rejected(self):
        """The reason ends in a NUL that counts."""
        built = zap.rejected_frame("Version mismatch")
        self.assertEqual(built, without_xid(self.raw["REJECTED"]))

    def test_failed_read(self):
        """The answer has the request's xid and ctxt, the status and no data."""
        request = self.raw["READ_REQ"]
        answer = zap.READ_RESPONSE_HEAD.parse(
            zap.read_response_head(request[8:12], request[12:20], 17, 0)
        )
        self.assertEqual((answer.kind, answer.length, answer.status), (5, 36, 17))
        self.assertEqual(answer.frame_xid, b"\5\0\0\0")
        self.assertEqual(answer.ctxt.hex(), "f09e0030a87f0000")
        self.assertEqual((answer.destination, answer.data_len), (bytes(8), 0))

    def test_limit_of_read_answers(self):
        """They have a limit of their own, above or below that of other frames."""
        frame = zap.read_response_head(b"1234", b"12345678", 0, 100) + bytes(100)
        self.assertEqual(zap.read_head(frame, 0, 50, 136), (5, 136))
        self.assertRaises(PeerError, zap.read_head, frame, 0, 50)
        self.assertRaises(PeerError, zap.read_head, frame, 0, 1000, 135)

    def test_refused_write(self):
        """The answer has the request's xid and ctxt, and status 19."""
        answer = zap.WRITE_RESPONSE.parse(zap.refuse_write(self.raw["READ_REQ"], 0))
        self.assertEqual((answer.kind, answer.length, answer.status), (7, 24, 19))
        self.assertEqual(answer.frame_xid, b"\5\0\0\0")
        self.assertEqual(answer.ctxt.hex(), "f09e0030a87f0000")


class CheckTests(SynchronousTestCase):
    """Frames whose lengths are wrong are refused before anything is read or kept."""

    def build(self, kind, length, data_len=0):
        """The fixed part of a frame of that kind."""
        layout = flat_struct(zap.FRAME_HEAD)
        head = layout.pack(kind, 0, length, bytes(4), bytes(8))
        return head.ljust(HEADS[kind].sizeof() - 4, b"\0") + data_len.to_bytes(4, "big")

    def test_lengths(self):
        """A length is at least that of the fixed part and at most the limit."""
        for kind, declaration in HEADS.items():
            size = declaration.sizeof()
            for length in (0, 19, 20, size - 1, 1001, 0xFFFF_FFFF):
                if length < size or length > 1000:
                    with self.assertRaises(PeerError):
                        zap.read_head(self.build(kind, length), 0, 1000)
            self.assertEqual(zap.read_head(self.build(kind, size), 0, 1000), (kind, size))
            self.assertEqual(zap.read_head(self.build(kind, 1000), 0, 1000), (kind, 1000))

    def test_unknown_kinds(self):
        """There are ten kinds of frames."""
        for kind in (0, 11, 77, 0xFFFF):
            raw = flat_struct(zap.FRAME_HEAD).pack(kind, 0, 24, bytes(4), bytes(8))
            self.assertRaises(PeerError, zap.read_head, raw, 0, 1000)

    def test_counts(self):
        """The count of the data and the length of the frame must agree."""
        for kind in (1, 2, 5, 6, 8, 9, 10):
            size = HEADS[kind].sizeof()
            good = self.build(kind, size + 5, 5)
            self.assertEqual(zap.body_at(kind, b"?" + good, 1, size + 5), 1 + size)
            for count in (4, 6, 0xFFFF_FFFF):
                bad = self.build(kind, size + 5, count)
                self.assertRaises(PeerError, zap.body_at, kind, bad, 0, size + 5)

    def test_fixed_sizes(self):
        """Kinds without data have exactly their size; a RENDEZVOUS has a tail of any length."""
        for kind in (zap.READ_REQ, zap.WRITE_RESP):
            size = HEADS[kind].sizeof()
            self.assertEqual(zap.body_at(kind, self.build(kind, size), 0, size), size)
            with self.assertRaises(PeerError):
                zap.body_at(kind, self.build(kind, size + 1), 0, size + 1)
        self.assertEqual(zap.body_at(zap.RENDEZVOUS, self.build(3, 76), 0, 76), 40)

    def test_connect_version(self):
        """Major and minor version and the signature count, patch and flags do not."""
        good = zap.connect_frame(b"")
        zap.check_connect(good, 0)
        for index in range(20, 32):
            other = bytearray(good)
            other[index] ^= 1
            if index in (22, 23):
                zap.check_connect(bytes(other), 0)
            else:
                self.assertRaises(PeerError, zap.check_connect, bytes(other), 0)

    @given(st.integers(0, 12), st.integers(0, 90), st.binary(min_size=40, max_size=80))
    def test_hostile(self, kind, length, raw):
        """Whatever the bytes, the answer is that of the declarations, or a refusal."""
        raw = kind.to_bytes(2, "big") + raw[2:4] + length.to_bytes(4, "big") + raw[8:]
        try:
            kind, length = zap.read_head(raw, 0, zap.MAX_FRAME)
            body = zap.body_at(kind, raw, 0, length)
        except PeerError:
            return
        parsed = HEADS[kind].parse(raw)
        self.assertEqual((parsed.kind, parsed.length), (kind, length))
        self.assertEqual(body, HEADS[kind].sizeof())
