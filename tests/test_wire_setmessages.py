"""Tests of ldmsjob.wire.setmessages."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import PeerError
from ldmsjob.wire import setmessages, zap
from ldmsjob.wire.setevents import AnnouncedSet, DirectoryEntry, Info, Read
from tests.recorded import streams

XID = bytes.fromhex("a045066e07560000")
ANNOUNCED = AnnouncedSet(
    b"\2\0\0\0",
    0x7FC064ADC060,
    b"\1\0\0\0\0\0\0\0",
    2968,
    544,
    57,
    1,
    "meminfo",
    "node-1/meminfo",
    (Info("updt_hint_us", "1000000:0"),),
)
ANNOUNCEMENT = bytes.fromhex(
    "0003 0000 000000d6 03000000 0000000000000000"
    "02000000 00000003 00007fc064adc060 00000db8"
    "90ebfbc446560000 00000001 ae000000"
    "0100000000000000 00000000"
    "00000b98 00000220 00000039 00000000 00000001"
    "29 6d656d696e666f00" + 33 * "00" + "0f 6e6f64652d312f6d656d696e666f00"
    "0d 757064745f68696e745f757300 0a 313030303030303a3000"
    "00"
    "6c755f7072666c6e6700 0f50036b00000000 0f2a843700000000 0f50036b00000000 8831843700000000"
)
TRAILER = 42
"""Bytes behind the strings of a recorded announcement, which we do not send."""

_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
_u32 = st.integers(0, 2**32 - 1)
_eight = st.binary(min_size=8, max_size=8)
announced_sets = st.builds(
    AnnouncedSet,
    st.binary(min_size=4, max_size=4),
    st.integers(0, 2**64 - 1),
    _eight,
    st.integers(0, 2**20),
    st.integers(0, 2**20),
    _u32,
    st.integers(1, 100),
    _text,
    _text,
    st.lists(st.builds(Info, _text, _text), max_size=4).map(tuple),
)


def whole(reader, data):
    """Read what is all of ``data``."""
    return reader(data, 0, len(data))


class VectorTests(SynchronousTestCase):
    """Recorded bytes are understood, and built again."""

    def test_dir(self):
        """DIR, and the head of its reply."""
        request = bytes.fromhex("a045066e07560000 00000000 00000014 00000000")
        self.assertIs(whole(setmessages.read_dir, request), False)
        self.assertEqual(setmessages.dir_request(XID, False), request)
        updates = request[:-1] + b"\1"
        self.assertIs(whole(setmessages.read_dir, updates), True)
        self.assertEqual(setmessages.dir_request(XID, True), updates)
        reply = streams("a_ls_dir")[1, False][88 + 24 :]
        head = "a045066e07560000 00000101 000001be 00000000 00000000 00000000 0000019e"
        self.assertEqual(reply[:32], bytes.fromhex(head))
        rc, kind, more, text = whole(setmessages.read_dir_reply, reply)
        self.assertEqual((rc, kind, more, text), (0, 0, False, reply[32:]))
        sets = setmessages.directory.read_directory(text)
        self.assertEqual(list(setmessages.dir_replies(XID, sets)), [reply])

    def test_dir_error(self):
        """An answer that is only an errno."""
        head = bytes.fromhex("a045066e07560000 00000101 00000020 0000000c")
        reply = head + bytes(12)
        self.assertEqual(whole(setmessages.read_dir_reply, reply), (12, 0, False, b""))

    def test_lookup(self):
        """LOOKUP by name, by schema, by regex."""
        request = bytes.fromhex(
            "90ebfbc446560000 00000002 00000027 00000000 0000000f 6e6f64652d312f6d656d696e666f00"
        )
        name = "node-1/meminfo"
        self.assertEqual(whole(setmessages.read_lookup, request), (name, False, False))
        for schema, regex, flags in ((0, 0, 0), (1, 0, 1), (0, 1, 2), (1, 1, 3)):
            flagged = request[:19] + bytes((flags,)) + request[20:]
            built = setmessages.lookup_request(request[:8], name, bool(schema), bool(regex))
            self.assertEqual(built, flagged)
            self.assertEqual(whole(setmessages.read_lookup, flagged), (name, schema, regex))

    def test_announcement(self):
        """An announcement: access and what C adds behind the strings are all that differs."""
        xid, about, _ = whole(setmessages.read_rendezvous, ANNOUNCEMENT)
        self.assertEqual((xid.hex(), about), ("90ebfbc446560000", setmessages.ANNOUNCE))
        self.assertEqual(whole(setmessages.read_announcement, ANNOUNCEMENT), (ANNOUNCED, False))
        expected = bytearray(ANNOUNCEMENT[:-TRAILER])
        expected[7] -= TRAILER
        expected[8:12] = bytes(4)
        expected[27] = 2
        expected[52] -= TRAILER
        self.assertEqual(setmessages.announcement_frame(xid, ANNOUNCED, False), expected)

    def test_reads(self):
        """READ_REQ of the meta part, and the head of its answer."""
        request = bytes.fromhex(
            "0004 0000 00000024 05000000 f09e0030a87f0000 02000000 00007fc064adc060 00000b98"
        )
        xid, ctxt = request[8:12], request[12:20]
        read = Read(xid, ctxt, ANNOUNCED.key, ANNOUNCED.address, 2968)
        reads: list[Read] = []
        self.assertEqual(setmessages.take_reads(b"??" + request, 2, 38, reads), 38)
        self.assertEqual(reads, [read])
        self.assertEqual(zap.read_request_frame(*msgspec.structs.astuple(read)), request)
        answer = setmessages.read_responses([(read, 0, memoryview(bytes(2968)))])
        head = "0005 0000 00000bbc 05000000 f09e0030a87f0000 0000 0000 0000000000000000 00000b98"
        self.assertEqual(answer[:36], bytes.fromhex(head))
        self.assertEqual(len(answer), 36 + 2968)
        self.assertEqual(zap.read_response_fields(answer, 0), (xid, ctxt, 0))

    def test_push(self):
        """A registration, the first push, the end, and its answer."""
        recorded = bytes.fromhex(
            "0003 0000 0000004c 06000000 0000000000000000 02000000 00000003 00007f392d400060"
            "00000db8 0000000000000000 00000002 00000024 0100000000000000 0100000000000000 00000003"
        )
        set_id = push_id = b"\1" + bytes(7)
        _, about, _ = whole(setmessages.read_rendezvous, recorded)
        self.assertEqual(about, setmessages.REGISTER_PUSH)
        self.assertEqual(
            whole(setmessages.read_push_registration, recorded), (set_id, push_id, True)
        )
        built = setmessages.push_registration_frame(
            b"\2\0\0\0", 0x7F392D400060, 3512, set_id, push_id, True
        )
        expected = bytearray(recorded)
        expected[8:12] = bytes(4)
        expected[27] = 2
        self.assertEqual(built, expected)

        (push,) = setmessages.push_replies(push_id, 0, bytes(3512), False)
        head = bytes.fromhex(
            "0000000000000000 00000108 00000de0 000000000100000000000000 10000000 00000000 00000db8"
        )
        self.assertEqual((push[:40], len(push)), (head, 40 + 3512))
        self.assertEqual(whole(setmessages.read_push, push), (push_id, 1 << 28, 0, bytes(3512)))

        request = bytes.fromhex("0000000000000000 00000007 00000018 0100000000000000")
        self.assertEqual(setmessages.cancel_push_request(set_id), request)
        self.assertEqual(whole(setmessages.read_set_id, request), set_id)
        (end,) = setmessages.push_replies(push_id, 0, b"", True)
        answer = bytes.fromhex(
            "0000000000000000 00000108 00000028 000000000100000000000000 30000000 00000000 00000000"
        )
        self.assertEqual(end, answer)

    def test_deletion(self):
        """SET_DELETE and its answer."""
        xid = b"DELXID01"
        request = bytes.fromhex(
            "44454c5849443031 00000009 00000022 0000000e 6e6f6465312f6d656d696e666f00"
        )
        self.assertEqual(setmessages.set_delete_request(xid, "node1/meminfo"), request)
        self.assertEqual(whole(setmessages.read_set_delete, request), "node1/meminfo")
        answer = bytes.fromhex(
            "44454c5849443031 0000010a 00000024 00000000 000000006b03504b 00000000297dbff8"
        )
        now_us = 0x6B03504B * 1_000_000 + 0x297DBFF8 // 1000
        self.assertEqual(setmessages.set_delete_reply(xid, now_us), answer)

    def test_notification(self):
        """An event with user data."""
        event = bytes.fromhex(
            "4e4f544946593031 00000105 00000035 00000000 00000002 00000000 00000021 00000000"
            "7564617461206973206368616e6765640a"
        )
        data = b"udata is changed\n"
        self.assertEqual(whole(setmessages.read_notification, event), (2, data))
        self.assertEqual(setmessages.notification(b"NOTIFY01", 2, data), event)
        request = setmessages.notify_request(XID, b"set id..", 1)
        head = bytes.fromhex("a045066e07560000 00000003 0000001c")
        self.assertEqual(request, head + b"set id..\0\0\0\1")
        self.assertEqual(whole(setmessages.read_notify_request, request), (b"set id..", 1))
        cancel = setmessages.cancel_notify_request(b"set id..")
        self.assertEqual(cancel, bytes.fromhex("0000000000000000 00000004 00000018") + b"set id..")


class BuildingTests(SynchronousTestCase):
    """What is built keeps to the limits of frames and strings."""

    @given(announced_sets, st.booleans())
    def test_announcements(self, announced, more):
        """Each comes back as it was."""
        frame = setmessages.announcement_frame(XID, announced, more)
        self.assertEqual(int.from_bytes(frame[4:8], "big"), len(frame))
        self.assertEqual(whole(setmessages.read_rendezvous, frame)[:2], (XID, 1))
        self.assertEqual(whole(setmessages.read_announcement, frame), (announced, more))

    def test_long_strings(self):
        """A name of 254 bytes is the longest; longer pairs of info are left out."""
        good = Info("k", "v" * 254)
        info = (Info("k" * 255, "v"), good, Info("k", "v" * 255), Info("a\0b", ""))
        announced = AnnouncedSet(b"1234", 0, XID, 1, 1, 1, 1, "s" * 254, "i" * 254, info)
        frame = setmessages.announcement_frame(XID, announced, False)
        read, _ = whole(setmessages.read_announcement, frame)
        self.assertEqual((read.schema, read.instance), ("s" * 254, "i" * 254))
        self.assertEqual(read.info, (good,))
        for names in (("s" * 255, "i"), ("s", "i" * 255), ("s", "i\0")):
            long = AnnouncedSet(b"1234", 0, XID, 1, 1, 1, 1, *names)
            self.assertRaises(ValueError, setmessages.announcement_frame, XID, long, False)

    def test_much_info(self):
        """An announcement ends where its frame does."""
        info = tuple(Info(f"{index}", "v" * 250) for index in range(5000))
        announced = AnnouncedSet(b"1234", 0, XID, 1, 1, 1, 1, "s", "i", info)
        frame = setmessages.announcement_frame(XID, announced, False)
        self.assertLessEqual(len(frame), zap.MAX_FRAME)
        read, _ = whole(setmessages.read_announcement, frame)
        self.assertEqual(read.info, info[: len(read.info)])
        self.assertGreater(len(read.info), 4000)

    def test_directory_parts(self):
        """All parts but the last say that more follow, and each fits into a C peer's frame."""
        entries = [DirectoryEntry("n" * 200 + str(index)) for index in range(5000)]
        replies = list(setmessages.dir_replies(XID, entries))
        heads = [whole(setmessages.read_dir_reply, reply)[:3] for reply in replies]
        self.assertEqual(heads, [(0, 0, True), (0, 0, True), (0, 0, False)])
        self.assertLessEqual(max(map(len, replies)), zap.MAX_PAYLOAD)
        update = setmessages.dir_update(XID, 2, entries[0])
        rc, kind, more, text = whole(setmessages.read_dir_reply, update)
        self.assertEqual((rc, kind, more, text[-1]), (0, 2, False, 0))
        self.assertEqual(int.from_bytes(update[28:32], "big"), len(text))
        self.assertEqual(setmessages.directory.read_directory(text), [entries[0]])

    def test_push_parts(self):
        """A push is cut where C peers end a frame; all parts of the last one are marked so."""
        room = setmessages.MAX_PUSH_DATA
        self.assertEqual(room, 1_048_536 - 40)
        image = bytes(range(256)) * (room * 2 // 256 + 1)
        parts = [
            whole(setmessages.read_push, reply)
            for reply in setmessages.push_replies(XID, 5, memoryview(image), True)
        ]
        self.assertEqual([flags >> 28 for _, flags, _, _ in parts], [0xB, 0xB, 3])
        self.assertEqual([offset for _, _, offset, _ in parts], [5, 5 + room, 5 + 2 * room])
        self.assertEqual(b"".join(data for *_, data in parts), image)
        (exact,) = setmessages.push_replies(XID, 0, bytes(room), False)
        self.assertEqual(len(exact), zap.MAX_PAYLOAD)

    def test_long_notification(self):
        """What fits no frame is refused."""
        limit = setmessages.MAX_NOTIFICATION_DATA
        self.assertEqual(len(setmessages.notification(XID, 2, bytes(limit))), zap.MAX_PAYLOAD)
        self.assertRaises(ValueError, setmessages.notification, XID, 2, bytes(limit + 1))


class HostileTests(SynchronousTestCase):
    """Lengths that disagree are ``PeerError``; nothing outside the given range is read."""

    readers = (
        setmessages.read_dir,
        setmessages.read_dir_reply,
        setmessages.read_lookup,
        setmessages.read_push,
        setmessages.read_set_id,
        setmessages.read_notify_request,
        setmessages.read_notification,
        setmessages.read_set_delete,
    )

    def test_lengths(self):
        """Too short, too long, or counts that lie."""
        read = setmessages
        lookup = bytes(16) + bytes.fromhex("00000000 00000003 616200")
        push = bytes(36) + bytes.fromhex("00000002 6162")
        event = bytes(28) + bytes.fromhex("00000012 00000000 6162")
        delete = bytes(16) + bytes.fromhex("00000003 616200")
        for reader, good in (
            (read.read_dir, bytes(20)),
            (read.read_lookup, lookup),
            (read.read_push, push),
            (read.read_set_id, bytes(24)),
            (read.read_notify_request, bytes(28)),
            (read.read_notification, event),
            (read.read_set_delete, delete),
            (read.read_rendezvous, ANNOUNCEMENT),
        ):
            whole(reader, good)
            for bad in (good[:-1], good + b"\0"):
                self.assertRaises(PeerError, whole, reader, bad)
        self.assertRaises(PeerError, whole, read.read_dir_reply, bytes(31))
        self.assertRaises(PeerError, whole, read.read_push_registration, bytes(75))

    def test_announcements_that_lie(self):
        """Regions that are not the set's, no copies, strings without an end."""
        strings = 40 + 48

        def changed(at, *values):
            frame = bytearray(ANNOUNCEMENT)
            frame[at : at + len(values)] = bytes(values)
            return bytes(frame)

        for frame in (
            changed(39, 0xB9),  # region
            changed(71, 0x99),  # meta
            changed(75, 0x21),  # data
            changed(87, 0),  # copies
            changed(87, 2),
            changed(strings, 0),
            changed(strings + 42, 0),
            changed(strings + 42, 255),
            changed(strings + 58, 24),
            ANNOUNCEMENT[: strings + 42],
            ANNOUNCEMENT[:strings],
            ANNOUNCEMENT[: strings - 1],
        ):
            self.assertRaises(PeerError, whole, setmessages.read_announcement, frame)

    @given(st.binary(max_size=80), st.binary(max_size=20))
    def test_anything(self, data, around):
        """Arbitrary bytes give a result or ``PeerError``, wherever they stand."""
        for reader in self.readers:
            results = []
            for before, behind in ((b"", b""), (around, around)):
                text = before + data + behind
                try:
                    results.append(reader(text, len(before), len(before) + len(data)))
                except PeerError as error:
                    results.append(str(error))
            self.assertEqual(results[0], results[1], reader)

    @given(st.integers(0, len(ANNOUNCEMENT) - 1), st.binary(max_size=6), st.integers(0, 6))
    def test_damaged_announcements(self, at, noise, size):
        """A damaged announcement is read or refused."""
        frame = ANNOUNCEMENT[:at] + noise + ANNOUNCEMENT[at + size :]
        frame = frame.ljust(40, b"\0")
        try:
            announced, _ = whole(setmessages.read_announcement, frame)
        except PeerError:
            return
        region = announced.meta_size + announced.array_card * announced.data_size
        self.assertLess(region, 2**32)
