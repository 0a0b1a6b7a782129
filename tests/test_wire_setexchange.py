"""Tests of ldmsjob.wire.setexchange, through two connections back to back."""

from __future__ import annotations

import errno

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.wire import setmessages, xprt, zap
from ldmsjob.wire.buffers import Limits
from ldmsjob.wire.events import Refused
from ldmsjob.wire.setevents import (
    NOTIFY_USER_DATA,
    READ_OUTSIDE,
    READ_UNKNOWN_KEY,
    SET_ADDED,
    SET_CHANGED,
    AcknowledgeDeletion,
    AnnouncedSet,
    AnnounceSet,
    AnswerDirectory,
    AnswerReads,
    CancelDirectory,
    CancelNotify,
    CancelPush,
    DeleteSet,
    DeletionAcknowledged,
    DeletionWanted,
    DirectoryAnswered,
    DirectoryCancelled,
    DirectoryEntry,
    DirectoryUpdated,
    DirectoryWanted,
    FailLookup,
    Info,
    LookUp,
    LookupFailed,
    LookupWanted,
    MemoryRead,
    Notified,
    Notify,
    NotifyCancelled,
    NotifyWanted,
    Push,
    PushCancelled,
    Pushed,
    PushWanted,
    Read,
    ReadMemory,
    ReadsWanted,
    SetAnnounced,
    UpdateDirectory,
    WantDirectory,
    WantNotify,
    WantPush,
)
from tests.linkpair import NOW, LinkPair

ANNOUNCED = AnnouncedSet(
    b"key1", 0x30000, b"set id 1", 100, 50, 3, 2, "schema", "node/set", (Info("k", "v"),)
)
OTHER = AnnouncedSet(b"key2", 0x50000, b"set id 2", 10, 20, 1, 1, "schema", "node/other")
PUSH_ID = b"push id!"


def xid(token):
    """The xid that stands for a token."""
    return token.to_bytes(8, "big")


class Exchange(SynchronousTestCase):
    """A reader of sets and their owner."""

    def setUp(self):
        """Client and server; either may be the owner."""
        self.start()

    def start(self, **limits):
        """A new pair."""
        arguments = {"limits": Limits(**limits)}
        self.pair = LinkPair(dict(arguments), dict(arguments))
        self.reader, self.owner = self.pair.client, self.pair.server
        self.pair.events = {self.reader: [], self.owner: []}

    def ask(self, *commands):
        """The reader sends commands; what the owner hears."""
        for command in commands:
            self.reader.send(command, NOW)
        return self.pair.exchange(self.reader)

    def say(self, *commands):
        """The owner sends commands; what the reader hears."""
        for command in commands:
            self.owner.send(command, NOW)
        return self.pair.exchange(self.owner)

    def inject(self, *frames):
        """The reader gets frames from nowhere; what it makes of them."""
        return self.reader.receive_data(b"".join(frames), NOW)

    def look_up(self, *announced, token=9):
        """Have sets announced."""
        (wanted,) = self.ask(LookUp(token, "", is_regex=True))
        last = len(announced) - 1
        return self.say(
            *[AnnounceSet(wanted.xid, one, at < last) for at, one in enumerate(announced)]
        )

    def check_open(self):
        """Neither side has ended the link."""
        self.assertEqual((self.reader.error, self.owner.error), (None, None))


def reply(payload):
    """A frame with a reply in it."""
    return zap.counted_frame(zap.SENDRECV, payload)


def dir_failure(token: int, rc: int) -> bytes:
    """A DIR_REPLY with an errno and nothing else, as C programs may send it."""
    return setmessages.DIR_REPLY_HEAD.build(
        {
            "xid": xid(token),
            "command": setmessages.DIR_REPLY,
            "request_len": setmessages.DIR_REPLY_HEAD.sizeof(),
            "rc": rc,
            "dir_type": 0,
            "more": 0,
            "json_len": 0,
        }
    )


class DirectoryTests(Exchange):
    """DIR, its answers, updates, and their end."""

    def test_once(self):
        """A directory comes with the token of who asked."""
        self.assertEqual(self.ask(WantDirectory(5)), [DirectoryWanted(xid(5), False)])
        entries = [DirectoryEntry("a"), DirectoryEntry("b\u00e4", info=(Info("k", '"'),))]
        answered = [DirectoryAnswered(5, entries)]
        self.assertEqual(self.say(AnswerDirectory(xid(5), entries)), answered)
        self.assertEqual(self.say(AnswerDirectory(xid(5), entries)), [Refused("unknown_reply")])

    def test_several(self):
        """Answers may come in another order than questions; a token is free after its answer."""
        self.ask(WantDirectory(1), WantDirectory(2))
        self.assertRaises(ValueError, self.reader.send, WantDirectory(2), NOW)
        events = self.say(AnswerDirectory(xid(2)))
        events += self.inject(reply(dir_failure(1, errno.ENOMEM)))
        answered = [DirectoryAnswered(2, []), DirectoryAnswered(1, [], errno.ENOMEM)]
        self.assertEqual(events, answered)
        self.assertEqual(self.ask(WantDirectory(2)), [DirectoryWanted(xid(2), False)])

    def test_parts(self):
        """All parts of a long directory have the token, and all but the last one more to come."""
        entries = [DirectoryEntry("n" * 200 + str(index)) for index in range(5000)]
        self.ask(WantDirectory(5))
        events = self.say(AnswerDirectory(xid(5), entries))
        self.assertEqual([event.more for event in events], [True, True, False])
        self.assertEqual([one for event in events for one in event.entries], entries)

    def test_part_by_part(self):
        """The owner may answer in parts of its own; the last of them ends the directory."""
        self.ask(WantDirectory(5))
        first, last = [DirectoryEntry("a")], [DirectoryEntry("b")]
        events = self.say(AnswerDirectory(xid(5), first, more=True), AnswerDirectory(xid(5), last))
        expected = [DirectoryAnswered(5, first, more=True), DirectoryAnswered(5, last)]
        self.assertEqual(events, expected)

    def test_updates(self):
        """Updates come from the request on that wanted them, until another or a cancel."""
        self.assertEqual(self.ask(WantDirectory(5, updates=True)), [DirectoryWanted(xid(5), True)])
        entry = DirectoryEntry("a")
        update = UpdateDirectory(xid(5), SET_ADDED, entry)
        updated = DirectoryUpdated(5, SET_ADDED, [entry])
        self.assertEqual(self.say(update), [updated])
        self.assertEqual(self.say(AnswerDirectory(xid(5)), update)[1], updated)
        self.ask(WantDirectory(6, updates=True))
        self.assertEqual(self.say(update), [Refused("unknown_reply")])
        self.assertEqual(len(self.say(UpdateDirectory(xid(6), SET_CHANGED, entry))), 1)
        self.assertEqual(self.ask(CancelDirectory(7)), [DirectoryCancelled()])
        self.assertEqual(self.pair.take(self.reader), [])
        cancelled = reply(xprt.plain_reply(xid(7), xprt.DIR_CANCEL_REPLY, 0))
        self.assertEqual(self.inject(cancelled), [Refused("unknown_reply")])
        self.assertEqual(self.say(UpdateDirectory(xid(6), 3, entry)), [Refused("unknown_reply")])
        self.ask(WantDirectory(8, updates=True), WantDirectory(9))
        self.assertEqual(self.say(UpdateDirectory(xid(8), 3, entry)), [Refused("unknown_reply")])

    def test_directories_that_are_none(self):
        """The request ends with an error, and the link stays."""
        self.ask(WantDirectory(5, updates=True))
        (frame,) = setmessages.dir_replies(xid(5), [DirectoryEntry("abc")])
        broken = bytearray(frame.replace(b'"abc"', b'["bc"'))
        broken[27] = 1  # more follows, which will not matter
        refused = Refused("bad_directory")
        self.assertEqual(
            self.inject(reply(bytes(broken))), [refused, DirectoryAnswered(5, [], errno.EBADMSG)]
        )
        self.assertEqual(self.inject(reply(frame)), [Refused("unknown_reply")])
        update = setmessages.dir_update(xid(5), SET_ADDED, DirectoryEntry("abc"))
        self.assertEqual(self.inject(reply(update.replace(b'"abc"', b'["bc"'))), [refused])
        for kind in (0, 4):
            strange = setmessages.dir_update(xid(5), kind, DirectoryEntry("abc"))
            self.assertEqual(self.inject(reply(strange)), [refused])
        self.assertEqual(len(self.inject(reply(update))), 1)
        self.check_open()


class LookupTests(Exchange):
    """LOOKUP, announcements, failures."""

    def test_found(self):
        """Each set that was found is announced as it is."""
        for by_schema in (False, True):
            for is_regex in (False, True):
                wanted = self.ask(LookUp(3, "a\u00e4", by_schema, is_regex))
                self.assertEqual(wanted, [LookupWanted(xid(3), "a\u00e4", by_schema, is_regex)])
                events = self.say(AnnounceSet(xid(3), ANNOUNCED, True), AnnounceSet(xid(3), OTHER))
                announced = [SetAnnounced(3, ANNOUNCED, True), SetAnnounced(3, OTHER, False)]
                self.assertEqual(events, announced)
        self.assertEqual(self.say(AnnounceSet(xid(3), OTHER)), [Refused("unknown_announcement")])

    def test_not_found(self):
        """An errno ends the lookup; so does an answer that says all is well and announces none."""
        for rc in (errno.ENOENT, errno.EINVAL):
            self.ask(LookUp(3, "a"))
            self.assertEqual(self.say(FailLookup(xid(3), rc)), [LookupFailed(3, rc)])
        self.ask(LookUp(3, "a"))
        self.assertEqual(self.say(FailLookup(xid(3), 0)), [LookupFailed(3, errno.EBADMSG)])
        self.assertEqual(self.say(FailLookup(xid(3), 2)), [Refused("unknown_reply")])

    def test_open_tokens(self):
        """A token that is in use is refused, and so is what is none."""
        self.ask(LookUp(3, "a"))
        for command in (LookUp(3, "b"), LookUp(0, "b"), LookUp(1 << 64, "b"), LookUp(4, "b\0")):
            self.assertRaises(ValueError, self.reader.send, command, NOW)
        self.assertEqual(self.reader.data_to_send(), b"")
        self.assertEqual(self.ask(LookUp((1 << 64) - 1, "b"))[0].path, "b")

    def test_announcements_that_lie(self):
        """The lookup ends with an error, and the link stays."""
        self.ask(LookUp(3, "a"))
        frame = bytearray(setmessages.announcement_frame(xid(3), ANNOUNCED, True))
        frame[39] += 1
        events = self.inject(bytes(frame))
        self.assertEqual(events, [Refused("bad_announcement"), LookupFailed(3, errno.EBADMSG)])
        self.check_open()

    def test_too_many(self):
        """A peer that announces without end loses its link."""
        self.start(announced_sets=2)
        self.ask(LookUp(3, "a"))
        sets = [
            AnnouncedSet(b"key1", 0, bytes(8), 1, 1, 1, 1, "s", f"i{index}") for index in range(3)
        ]
        events = self.say(*[AnnounceSet(xid(3), one, True) for one in sets])
        self.assertEqual(len(events), 2)
        self.assertIn("too many sets", str(self.reader.error))


class ReadTests(Exchange):
    """READ_REQ and READ_RESP."""

    def read(self, token, offset, length, announced=ANNOUNCED):
        """Ask, and return what the owner is asked."""
        (wanted,) = self.ask(ReadMemory(token, announced, offset, length))
        (read,) = wanted.reads
        return read

    def test_data(self):
        """Reads are answered in order, each with the token of who asked."""
        first = self.read(7, 0, 100)
        second = self.read(8, 150, 50)
        self.assertEqual((first.key, first.address, first.length), (b"key1", 0x30000, 100))
        self.assertEqual((second.address, second.length), (0x30000 + 150, 50))
        data = memoryview(bytes(range(200)))
        events = self.say(AnswerReads([(first, 0, data[:100]), (second, 0, data[150:])]))
        read = [MemoryRead(7, 0, bytes(data[:100])), MemoryRead(8, 0, bytes(data[150:]))]
        self.assertEqual(events, read)

    def test_data_is_copied(self):
        """The memory may change once it was given to ``send``."""
        wanted = self.read(7, 0, 100)
        memory = bytearray(100)
        self.owner.send(AnswerReads([(wanted, 0, memoryview(memory))]), NOW)
        memory[:] = b"x" * 100
        self.assertEqual(self.pair.exchange(self.owner), [MemoryRead(7, 0, bytes(100))])

    def test_errors(self):
        """A status without data; the link stays."""
        for status in (READ_UNKNOWN_KEY, READ_OUTSIDE):
            wanted = self.read(7, 0, 100)
            answer = AnswerReads([(wanted, status, b"")])
            self.assertEqual(self.say(answer), [MemoryRead(7, status, b"")])
        self.check_open()

    def test_reads_outside(self):
        """We do not ask for what is no part of the set."""
        for offset, length in ((0, 201), (-1, 5), (200, 1), (10, -1)):
            self.assertRaises(
                ValueError, self.reader.send, ReadMemory(1, ANNOUNCED, offset, length), NOW
            )
        self.assertEqual(self.reader.data_to_send(), b"")
        self.assertEqual(self.read(1, 0, 200).length, 200)

    def test_large(self):
        """Data may be larger than other frames, as far as we asked for it, in pieces or whole."""
        size = 3 * zap.MAX_FRAME
        large = AnnouncedSet(b"key3", 0, bytes(8), size, 10, 1, 1, "s", "i")
        wanted = self.read(7, 0, size, large)
        data = bytes(size)
        self.owner.send(AnswerReads([(wanted, 0, data)]), NOW)
        frame = self.owner.data_to_send()
        events = []
        for at in range(0, len(frame), 100_000):
            events += self.reader.receive_data(frame[at : at + 100_000], NOW)
        self.assertEqual(events, [MemoryRead(7, 0, data)])
        self.assertEqual(self.reader.buffered_bytes, 0)

    def test_run(self):
        """Reads that follow one another come together, whatever stands around them."""
        (first,) = self.ask(LookUp(1, "a"))
        reads = [ReadMemory(token, ANNOUNCED, token, 10) for token in range(1, 6)]
        events = self.ask(*reads[:3], LookUp(2, "b"), *reads[3:])
        self.assertEqual([type(event) for event in events], [ReadsWanted, type(first), ReadsWanted])
        wanted = [*events[0].reads, *events[2].reads]
        self.assertEqual([read.address for read in wanted], [0x30000 + n for n in range(1, 6)])
        self.assertEqual([len(event.reads) for event in events[::2]], [3, 2])

    def test_cut_run(self):
        """A run of reads may be cut anywhere, and a bad frame in it ends the link."""
        request = zap.read_request_frame(b"1234", b"12345678", b"key1", 5, 6)
        for cut in range(1, 36):
            events = self.owner.receive_data(request * 2 + request[:cut], NOW)
            self.assertEqual([len(event.reads) for event in events], [2])
            events = self.owner.receive_data(request[cut:] + request, NOW)
            self.assertEqual([len(event.reads) for event in events], [2])
        events = self.owner.receive_data(request + request[:7] + b"\x25" + request[8:] * 2, NOW)
        self.assertEqual([len(event.reads) for event in events], [1])
        self.assertIn("lengths disagree", str(self.owner.error))

    def test_wrong_answers(self):
        """Data that nobody asked for, or that is not what was asked for, ends the link."""

        def answer(number, token, status, data):
            head = zap.read_response_head(number.to_bytes(4, "big"), xid(token), status, len(data))
            return head + data

        for frame, text in (
            (answer(2, 7, 0, bytes(100)), "out of turn"),
            (answer(1, 8, 0, bytes(100)), "out of turn"),
            (answer(1, 7, 0, bytes(99)), "less or more"),
            (answer(1, 7, 0, b""), "less or more"),
            (answer(1, 7, 17, bytes(100)), "less or more"),
            (answer(1, 7, 0, bytes(101))[:20], "137 bytes"),
        ):
            self.start()
            self.ask(ReadMemory(7, ANNOUNCED, 0, 100), ReadMemory(8, ANNOUNCED, 0, 200))
            self.assertEqual(self.inject(frame), [])
            self.assertIn(text, str(self.reader.error))
        for size, text in ((0, "answers nothing"), (1, "37 bytes")):
            self.start()
            self.assertEqual(self.inject(answer(1, 7, 0, bytes(size))), [])
            self.assertIn(text, str(self.reader.error))

    def test_answers_of_the_wrong_size(self):
        """An owner cannot answer with more or less than was asked."""
        wanted = self.read(7, 0, 100)
        for status, size in ((0, 99), (0, 101), (17, 1)):
            command = AnswerReads([(wanted, status, bytes(size))])
            self.assertRaises(ValueError, self.owner.send, command, NOW)
        self.assertEqual(self.owner.data_to_send(), b"")

    def test_addresses(self):
        """Hostile keys, addresses and lengths reach the owner as they are."""
        request = zap.read_request_frame(b"\xff" * 4, b"c" * 8, b"nope", (1 << 64) - 1, 0xFFFFFFFF)
        events = self.owner.receive_data(request, NOW)
        wanted = Read(b"\xff" * 4, b"c" * 8, b"nope", (1 << 64) - 1, 0xFFFFFFFF)
        self.assertEqual(events, [ReadsWanted([wanted])])
        self.owner.send(AnswerReads([(wanted, READ_OUTSIDE, b"")]), NOW)
        answer = self.owner.data_to_send()
        self.assertEqual((answer[8:20], answer[20:22]), (b"\xff" * 4 + b"c" * 8, b"\0\x12"))


class PushTests(Exchange):
    """Pushes, from the wish to the last one."""

    def test_from_wish_to_end(self):
        """Pushes come with the push id; the last one answers the cancel."""
        for on_change in (False, True):
            wanted = [PushWanted(b"set id 1", PUSH_ID, on_change)]
            self.assertEqual(self.ask(WantPush(ANNOUNCED, PUSH_ID, on_change)), wanted)
        image = bytes(range(200))
        self.assertEqual(
            self.say(Push(PUSH_ID, 0, memoryview(image)), Push(PUSH_ID, 150, image[150:])),
            [
                Pushed(PUSH_ID, 0, image, False, False),
                Pushed(PUSH_ID, 150, image[150:], False, False),
            ],
        )
        self.assertEqual(self.ask(CancelPush(b"set id 1")), [PushCancelled(b"set id 1")])
        end = Push(PUSH_ID, 0, last=True)
        self.assertEqual(self.say(end), [Pushed(PUSH_ID, 0, b"", False, True)])
        self.assertEqual(self.say(end), [Refused("unknown_push")])

    def test_parts(self):
        """A long push comes in parts, of which only the last one ends the wish."""
        size = 2 * setmessages.MAX_PUSH_DATA
        large = AnnouncedSet(b"key3", 0, b"set id 3", size, 10, 1, 1, "s", "i")
        self.ask(WantPush(large, PUSH_ID))
        events = self.say(Push(PUSH_ID, 5, bytes(size), last=True))
        self.assertEqual(
            [(event.offset, event.more, event.last) for event in events],
            [(5, True, False), (5 + size // 2, False, True)],
        )

    def test_outside(self):
        """What is pushed must be inside the set."""
        self.ask(WantPush(ANNOUNCED, PUSH_ID))
        for offset, size in ((0, 201), (200, 1), (0xFFFFFFFF, 1)):
            self.assertEqual(
                self.say(Push(PUSH_ID, offset, bytes(size))), [Refused("push_outside")]
            )
        self.assertEqual(len(self.say(Push(PUSH_ID, 199, b"x"))), 1)
        self.assertEqual(self.say(Push(b"other id", 0, b"x")), [Refused("unknown_push")])
        self.check_open()

    def test_push_ids(self):
        """A push id is for one set; another one for the same set replaces it."""
        self.ask(WantPush(ANNOUNCED, PUSH_ID))
        self.assertRaises(ValueError, self.reader.send, WantPush(OTHER, PUSH_ID), NOW)
        self.ask(WantPush(ANNOUNCED, b"push id2"))
        self.assertEqual(self.say(Push(PUSH_ID, 0, b"x")), [Refused("unknown_push")])
        self.assertEqual(len(self.say(Push(b"push id2", 0, b"x"))), 1)
        self.assertEqual(len(self.ask(WantPush(OTHER, PUSH_ID))), 1)


class NotifyTests(Exchange):
    """Notifications."""

    def test_from_wish_to_end(self):
        """Events come with the token, until the wish ends or is replaced."""
        wanted = [NotifyWanted(xid(4), b"set id 1", NOTIFY_USER_DATA)]
        self.assertEqual(self.ask(WantNotify(4, b"set id 1", NOTIFY_USER_DATA)), wanted)
        event = Notify(xid(4), NOTIFY_USER_DATA, b"data")
        heard = [Notified(4, NOTIFY_USER_DATA, b"data")]
        self.assertEqual(self.say(event, event), heard * 2)
        self.ask(WantNotify(5, b"set id 1"))
        self.assertEqual(self.say(event), [Refused("unknown_reply")])
        self.assertEqual(self.say(Notify(xid(5), 1)), [Notified(5, 1, b"")])
        self.assertEqual(self.ask(CancelNotify(b"set id 1")), [NotifyCancelled(b"set id 1")])
        self.assertEqual(self.say(Notify(xid(5), 1)), [Refused("unknown_reply")])


class DeletionTests(Exchange):
    """SET_DELETE, both ways."""

    def test_of_what_was_looked_up(self):
        """The reader says when it is done; then the owner hears it, once."""
        self.look_up(ANNOUNCED, OTHER)
        wanted = self.say(DeleteSet(77, "node/set"))
        self.assertEqual(wanted, [DeletionWanted(xid(77), "node/set")])
        self.assertEqual(self.pair.take(self.owner), [])
        done = AcknowledgeDeletion(wanted[0].xid)
        self.assertEqual(self.ask(done), [DeletionAcknowledged(77)])
        self.assertEqual(self.ask(done), [Refused("unknown_reply")])

    def test_of_what_was_not(self):
        """The answer comes at once, and nobody need care."""
        self.look_up(OTHER)
        self.assertEqual(self.say(DeleteSet(77, "node/set")), [Refused("set_delete")])
        self.assertEqual(self.pair.take(self.owner), [DeletionAcknowledged(77)])

    def test_ends_wishes(self):
        """What was wanted of the set is over with it."""
        self.look_up(ANNOUNCED)
        self.ask(WantPush(ANNOUNCED, PUSH_ID), WantNotify(4, b"set id 1"))
        (wanted,) = self.say(DeleteSet(77, "node/set"))
        self.assertEqual(len(self.say(Push(PUSH_ID, 0, b"x"), Notify(xid(4), 1))), 2)
        self.ask(AcknowledgeDeletion(wanted.xid))
        events = self.say(Push(PUSH_ID, 0, b"x"), Notify(xid(4), 1))
        self.assertEqual(events, [Refused("unknown_push"), Refused("unknown_reply")])

    def test_again_under_the_same_name(self):
        """A set that was deleted can be looked up and deleted again."""
        for token in (1, 2):
            self.look_up(ANNOUNCED)
            (wanted,) = self.say(DeleteSet(token, "node/set"))
            self.assertEqual(
                self.ask(AcknowledgeDeletion(wanted.xid)), [DeletionAcknowledged(token)]
            )

    def test_readers_that_never_answer(self):
        """Only so many deletions wait for their answer; the oldest are forgotten first."""
        self.start(unanswered_deletions=2)
        third = AnnouncedSet(b"key3", 0, b"set id 3", 10, 20, 1, 1, "schema", "node/third")
        self.look_up(ANNOUNCED, OTHER, third)
        names = ("node/set", "node/other", "node/third")
        wanted = self.say(*[DeleteSet(token, name) for token, name in enumerate(names, 1)])
        events = self.ask(*[AcknowledgeDeletion(event.xid) for event in wanted])
        late = [Refused("unknown_reply"), DeletionAcknowledged(2), DeletionAcknowledged(3)]
        self.assertEqual(events, late)


class BothWaysTests(Exchange):
    """Either side of a link may own sets, whoever connected."""

    def test_the_client_owns(self):
        """The server reads the client's sets, also while the client reads the server's."""
        self.ask(WantDirectory(5))
        self.reader, self.owner = self.owner, self.reader
        self.assertEqual(self.ask(WantDirectory(5)), [DirectoryWanted(xid(5), False)])
        answered = [DirectoryAnswered(5, [])]
        self.assertEqual(self.say(AnswerDirectory(xid(5))), answered)
        self.reader, self.owner = self.owner, self.reader
        self.assertEqual(self.say(AnswerDirectory(xid(5))), answered)


_small = st.integers(0, 40)
_replies = st.one_of(
    st.builds(dir_failure, st.integers(1, 3), _small),
    st.builds(
        lambda token, kind: setmessages.dir_update(xid(token), kind, DirectoryEntry("a")),
        st.integers(1, 3),
        st.integers(0, 5),
    ),
    st.builds(
        lambda token, code: xprt.plain_reply(xid(token), code, 0),
        st.integers(1, 3),
        st.integers(0x101, 0x110),
    ),
    st.builds(
        lambda offset, data, last: next(setmessages.push_replies(PUSH_ID, offset, data, last)),
        st.integers(0, 300),
        st.binary(max_size=20),
        st.booleans(),
    ),
    st.builds(setmessages.set_delete_request, st.just(xid(1)), st.sampled_from(["node/set", "b"])),
    st.builds(setmessages.notification, st.just(xid(2)), _small, st.binary(max_size=9)),
).map(reply)
_frames = st.one_of(
    _replies,
    st.builds(
        setmessages.announcement_frame,
        st.integers(1, 3).map(xid),
        st.sampled_from([ANNOUNCED, OTHER]),
        st.booleans(),
    ),
    st.builds(
        lambda number, token, status, size: (
            zap.read_response_head(number.to_bytes(4, "big"), xid(token), status, size)
            + bytes(size)
        ),
        st.integers(1, 3),
        st.integers(1, 3),
        st.sampled_from([0, 17]),
        st.sampled_from([0, 40]),
    ),
)


class HostileTests(Exchange):
    """Peers that answer what they like."""

    def reader_with_questions(self):
        """A reader that waits for an answer of each kind."""
        self.start()
        self.ask(
            WantDirectory(1, updates=True),
            LookUp(2, "a"),
            ReadMemory(3, ANNOUNCED, 0, 40),
            WantPush(ANNOUNCED, PUSH_ID),
            WantNotify(2, b"set id 1"),
            CancelDirectory(1),
            WantDirectory(3, updates=True),
        )
        return self.reader

    @given(st.lists(_frames, max_size=8), st.lists(_small, max_size=6))
    def test_answers_of_any_kind(self, frames, cuts):
        """However answers come and are cut: the same events, no question answered twice."""
        stream = b"".join(frames)
        reader = self.reader_with_questions()
        events = reader.receive_data(stream, NOW)
        whole = (events, reader.data_to_send(), str(reader.error))
        answered = [
            (type(event), event.token)
            for event in events
            if isinstance(event, (MemoryRead, LookupFailed))
            or (isinstance(event, (DirectoryAnswered, SetAnnounced)) and not event.more)
        ]
        self.assertEqual(len(answered), len(set(answered)))
        reader = self.reader_with_questions()
        events = []
        for cut in cuts:
            events += reader.receive_data(stream[:cut], NOW)
            stream = stream[cut:]
        events += reader.receive_data(stream, NOW)
        self.assertEqual((events, reader.data_to_send(), str(reader.error)), whole)

    @given(st.lists(_frames, min_size=1, max_size=3), st.data())
    def test_damaged_answers(self, frames, data):
        """Some bytes are others: events or a closed link, and nothing raised."""
        stream = bytearray(b"".join(frames))
        for place in data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=4)):
            stream[place] = data.draw(st.integers(0, 255))
        reader = self.reader_with_questions()
        reader.receive_data(bytes(stream), NOW)
        self.assertLess(reader.buffered_bytes, len(stream) + 1)
        for frame in (bytes(stream), *frames):  # the owner gets nonsense too
            self.owner.receive_data(frame, NOW)

    def test_byte_by_byte(self):
        """All kinds of frames, one byte at a time, both ways."""
        for end, text in self.conversation():
            self.start()
            receiver = self.reader_with_questions() if end == "reader" else self.owner
            events = [
                event
                for at in range(len(text))
                for event in receiver.receive_data(text[at : at + 1], NOW)
            ]
            self.start()
            receiver = self.reader_with_questions() if end == "reader" else self.owner
            self.assertEqual(events, receiver.receive_data(text, NOW))
            self.assertEqual(len(events), 7)

    def conversation(self):
        """What the owner, and what the reader hears."""
        sender = LinkPair().client
        for command in (
            WantDirectory(1, updates=True),
            LookUp(2, "a"),
            ReadMemory(3, ANNOUNCED, 0, 40),
            WantPush(ANNOUNCED, PUSH_ID),
            CancelPush(b"set id 1"),
            WantNotify(2, b"set id 1"),
            CancelNotify(b"set id 1"),
        ):
            sender.send(command, NOW)
        yield "owner", sender.data_to_send()
        number = (1).to_bytes(4, "big")
        for command in (
            AnswerDirectory(xid(1)),
            UpdateDirectory(xid(3), SET_ADDED, DirectoryEntry("a")),
            AnnounceSet(xid(2), ANNOUNCED),
            AnswerReads([(Read(number, xid(3), b"key1", 0, 40), 0, bytes(40))]),
            Push(PUSH_ID, 0, bytes(9)),
            Notify(xid(2), 1, b"x"),
            DeleteSet(5, "node/set"),
        ):
            sender.send(command, NOW)
        yield "reader", sender.data_to_send()
