"""Tests of ldmsjob.wire.msg."""

from __future__ import annotations

from itertools import pairwise

import msgspec
from construct import Array, GreedyBytes, Struct
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import PeerError, PublishError
from ldmsjob.wire import msg, subscriptions, zap
from ldmsjob.wire.buffers import Limits, flat_struct
from ldmsjob.wire.credit import credit_frame, read_credit_run
from ldmsjob.wire.events import (
    MAX_HOPS,
    MAX_MESSAGE_BYTES,
    Credential,
    Forward,
    Message,
    Publish,
    Refused,
    SourceAddress,
    Subscribe,
    Unsubscribe,
)
from tests.recorded import conversation

NOW = 1_796_000_000_123_456
PEER = SourceAddress(2, 4711, bytes((10, 0, 0, 7)) + bytes(12))
ROOT = Credential(0, 0)

HOPS = Array(MAX_HOPS + 1, msg.HOP)
FULL_FRAME = Struct(
    "head" / zap.COUNTED_HEAD,
    "fragment" / msg.FRAGMENT_HEAD,
    "fixed" / msg.MESSAGE_FIXED,
    "hops" / HOPS,
    "body" / GreedyBytes,
)


def recorded_frame():
    """The frame that ``ldms_msg_publish`` sent for channel ``mychan``."""
    (frame,) = (one.data for one in conversation("c_pub_small") if len(one.data) == 504)
    return frame


def fragments(frame, *cuts):
    """The same message cut at those offsets of its image, as payloads of SENDRECV frames."""
    head, image = frame[24:72], frame[72:]
    edges = [0, *cuts, len(image)]
    payloads = []
    for index, (start, stop) in enumerate(pairwise(edges)):
        flags = (msg.FIRST if index == 0 else 0) | (msg.MORE if stop < len(image) else 0)
        fields = msg.FRAGMENT_HEAD.parse(head)
        fields.update({"flags": flags, "request_len": 48 + stop - start})
        payloads.append(msg.FRAGMENT_HEAD.build(fields) + image[start:stop])
    return payloads


class Reading:
    """A ``MessageReader`` and what came out of it."""

    def __init__(self, credential=ROOT, source=PEER, **limits):
        self.events = []
        self.output = []
        self.reader = msg.MessageReader(credential, source, self.output, Limits(**limits))

    def run(self, data, at=0):
        """Through the fast path."""
        return self.reader.read_run(data, at, NOW, self.events)

    def fragment(self, payload, enabled=True):
        """Through the slow path."""
        data = b"?" + payload + b"?"
        self.reader.read_fragment(data, 1, len(data) - 1, enabled, NOW, self.events)

    @property
    def credits(self):
        """(credit, rc) of each SEND_QUOTA that was answered."""
        return [read_credit_run(one, 0, len(one))[2:] for one in self.output]


class DeclarationTests(SynchronousTestCase):
    """The declarations say what C programs sent."""

    def test_recorded_message(self):
        """A message of ``ldms_msg_publish`` is read to what it means, and built again."""
        raw = recorded_frame()
        parsed = FULL_FRAME.parse(raw)
        fragment, fixed = parsed.fragment, parsed.fixed
        self.assertEqual((parsed.head.kind, parsed.head.data_len), (2, 480))
        self.assertEqual((fragment.command, fragment.request_len), (11, 480))
        self.assertEqual((fragment.family, fragment.number, fragment.flags), (0, 0, msg.FIRST))
        self.assertEqual((fixed.body_len, fixed.type), (48, 1))
        self.assertEqual((fixed.uid, fixed.gid, fixed.perm), (0, 0, 0o777))
        self.assertEqual((fixed.hop_count, fixed.tag_hash), (0, msg.tag_hash(b"mychan")))
        self.assertEqual(parsed.body, b'mychan\0{"event": "hello", "n": 1, "s": "small"}\0'[:48])

    def test_sizes(self):
        """The channel name of an unfragmented message begins at byte 456 of its frame."""
        self.assertEqual(msg.MESSAGE_FIXED.sizeof() + HOPS.sizeof(), 384)
        self.assertEqual(msg.TAG_AT, 456)

    def test_tag_hash(self):
        """The recorded hashes."""
        for channel, value in ((b"plain", 165015573), (b"tagA", 218543632)):
            self.assertEqual(int.from_bytes(msg.tag_hash(channel), "little"), value)
        self.assertEqual(int.from_bytes(msg.tag_hash(b"\xc3\xa9"), "little"), 3593405467)

    def test_credit(self):
        """The recorded credit for the recorded message, both ways."""
        raw = bytes.fromhex(
            "00020000 00000030 00000000 0000000000000000 00000018"
            "0000000000000000 0000000a 00000018 00000030 00000000"
        )
        self.assertEqual(credit_frame(48), raw)
        self.assertEqual(read_credit_run(raw, 0, 48), (48, 1, 48, 0))
        self.assertEqual(credit_frame(0, 95)[-8:].hex(), "000000000000005f")

    def test_run_of_credit(self):
        """Whole frames with one rc are taken together; whatever else there is is left alone."""
        one, two, refused = (
            credit_frame(7),
            credit_frame(9),
            credit_frame(0, 95),
        )
        data = b"?" + one + one + two + one + refused + refused + two
        at, *taken = read_credit_run(data, 1, len(data))
        self.assertEqual((at, taken), (1 + 4 * 48, [4, 30, 0]))
        at, *taken = read_credit_run(data, at, len(data))
        self.assertEqual((at, taken), (1 + 6 * 48, [2, 0, 95]))
        self.assertEqual(read_credit_run(one + one, 0, 95), (48, 1, 7, 0))
        for place in (8, 19, 24, 31):
            other = bytearray(one)
            other[place] = 7  # in an xid, which says nothing
            data = one + bytes(other) + one
            self.assertEqual(read_credit_run(data, 0, 144), (144, 3, 21, 0))
        for place in (1, 7, 23, 35, 39):
            other = bytearray(one)
            other[place] ^= 1
            self.assertEqual(read_credit_run(bytes(other) + one, 0, 96), (0, 0, 0, 0))
            self.assertEqual(read_credit_run(one + bytes(other), 0, 96), (48, 1, 7, 0))

    def test_subscriptions(self):
        """Recorded subscriptions are read to what they mean, and built from that again."""
        table = [
            (
                Subscribe("mychan"),
                "60cf803600000000 0000000c 00000023 0000000e ffffffffffffffff 6d796368616e00",
            ),
            (
                Unsubscribe("mychan"),
                "c0d0743600000000 0000000d 00000023 0000000e ffffffffffffffff 6d796368616e00",
            ),
            (
                Subscribe("re.*", is_regex=True),
                "60cf803600000000 0000000c 00000021 0100000a ffffffffffffffff 72652e2a00",
            ),
            (
                Subscribe("tagX", rate=777),
                "60cf803600000000 0000000c 00000021 0000000a 0000000000000309 7461675800",
            ),
        ]
        for command, text in table:
            raw = bytes.fromhex(text)
            self.assertEqual(subscriptions.subscription_request(command, raw[:8]), raw)
            expected = (command.match.encode(), command.is_regex, getattr(command, "rate", -1))
            self.assertEqual(subscriptions.read_subscription(b"?" + raw, 1, 1 + len(raw)), expected)

    def test_match_word_of_a_long_match(self):
        """The highest bit of the length gets lost on the way, so nobody may believe it."""
        self.assertEqual(subscriptions.match_word(7, False).hex(), "0000000e")
        self.assertEqual(subscriptions.match_word(300, True).hex(), "01000258")

    def test_subscription_replies(self):
        """A recorded reply, both ways."""
        raw = bytes.fromhex("60cf803600000000 0000010b 0000001b 00000000 00000003 4f4b00")
        self.assertEqual(subscriptions.subscription_reply(raw[:8], 0x10B, 0, "OK"), raw)
        self.assertEqual(subscriptions.read_subscription_reply(raw, 0, len(raw)), (0, "OK"))
        for bad in (raw[:-1], raw + b"x", raw[:22]):
            self.assertRaises(PeerError, subscriptions.read_subscription_reply, bad, 0, len(bad))

    def test_subscription_without_end(self):
        """A match string must have its NUL inside the request."""
        raw = subscriptions.subscription_request(Subscribe("x"), bytes(8))
        self.assertRaises(PeerError, subscriptions.read_subscription, raw + b"\0", 0, len(raw) - 1)
        self.assertRaises(PeerError, subscriptions.read_subscription, raw, 0, 20)


class PublishTests(SynchronousTestCase):
    """Messages of our own."""

    def test_is_what_a_c_program_sends(self):
        """The recorded message with its own values is what we build, without its garbage."""
        raw = recorded_frame()
        theirs = FULL_FRAME.parse(raw)
        hop = theirs.hops[0]
        command = Publish("mychan", raw[463:], 1, 0, 0, 0o777)
        ours = FULL_FRAME.parse(
            msg.publish_frame(command, 0, hop.sent_sec * 1_000_000 + hop.sent_nsec // 1000)
        )
        self.assertEqual(ours.head.frame_xid, bytes(4))
        ours.head.frame_xid = theirs.head.frame_xid
        self.assertEqual(ours.hops[0].sent_sec, hop.sent_sec)
        self.assertEqual(ours.hops[0].sent_nsec, hop.sent_nsec // 1000 * 1000)
        for part in ("head", "fragment", "fixed", "body"):
            self.assertEqual(ours[part], theirs[part], part)

    def test_nothing_is_left_undefined(self):
        """Padding, reserved places and hop records of others are zero."""
        frame = bytearray(msg.publish_frame(Publish("c", b"", 0, 1, 2, 3), 9, NOW))
        self.assertEqual(frame[69:72], bytes(3))
        self.assertEqual(frame[92:128], bytes(36))
        self.assertEqual(frame[164:168], bytes(4))
        self.assertEqual(frame[200:456], bytes(256))

    def test_size_limit(self):
        """The longest message fits into the largest payload that a C peer takes."""
        data = bytes(MAX_MESSAGE_BYTES - 2)
        frame = msg.publish_frame(Publish("c", data), 0, NOW)
        self.assertEqual(len(frame) - 24, zap.MAX_PAYLOAD)
        error = self.assertRaises(
            PublishError, msg.publish_frame, Publish("c", data + b"x"), 0, NOW
        )
        self.assertEqual(error.rc, 90)

    def test_bad_channel_names(self):
        """A name that would come out as another one is refused."""
        for channel in ("a\0b", "\ud800"):
            error = self.assertRaises(
                PublishError, msg.publish_frame, Publish(channel, b""), 0, NOW
            )
            self.assertEqual(error.rc, 22)


class ForwardTests(SynchronousTestCase):
    """Messages that other links brought."""

    def read(self, frame, source=None):
        """The message in a frame."""
        reading = Reading(source=source)
        self.assertEqual(reading.run(frame), len(frame))
        (message,) = reading.events
        return message

    def test_hop_record(self):
        """Hop count and our record are filled in, the publisher's stays, the rest is zero."""
        message = self.read(recorded_frame())
        self.assertEqual(message.received_us, NOW)
        before = FULL_FRAME.parse(recorded_frame())
        after = FULL_FRAME.parse(msg.forward_frames([message], NOW + 1_000_001))
        self.assertEqual(after.fixed, {**before.fixed, "hop_count": 1})
        self.assertEqual(after.body, before.body)
        self.assertEqual(after.hops[0], before.hops[0])
        record = after.hops[1]
        self.assertEqual((record.received_sec, record.received_nsec), divmod(NOW * 1000, 10**9))
        sent = divmod((NOW + 1_000_001) * 1000, 10**9)
        self.assertEqual((record.sent_sec, record.sent_nsec), sent)
        self.assertEqual(HOPS.build(after.hops)[64:], bytes(224))

    def test_garbage_is_not_passed_on(self):
        """What a C peer leaves in padding and unused hop records does not leave this host."""
        frame = bytearray(msg.publish_frame(Publish("c", b"d\0"), 9, NOW))
        for start, stop in ((69, 72), (92, 128), (164, 168), (200, 456)):
            frame[start:stop] = b"\xee" * (stop - start)
        out = msg.forward_frames([self.read(bytes(frame))], NOW)
        self.assertNotIn(b"\xee", out)

    def test_source(self):
        """A source that was filled in is told to others, in both places."""
        message = self.read(recorded_frame(), PEER)
        after = FULL_FRAME.parse(msg.forward_frames([message], NOW))
        expected = (PEER.family, PEER.port, PEER.address)
        fragment, fixed = after.fragment, after.fixed
        self.assertEqual((fragment.family, fragment.port, fragment.address), expected)
        self.assertEqual((fixed.inner_family, fixed.inner_port, fixed.inner_address), expected)

    def test_several(self):
        """Their frames follow one another, each with the times of its own message."""
        one, other = self.read(recorded_frame()), self.read(recorded_frame(), PEER)
        other = msgspec.structs.replace(other, received_us=NOW + 5)
        frames = msg.forward_frames([one, other, one], NOW + 9)
        alone = [msg.forward_frames([message], NOW + 9) for message in (one, other)]
        self.assertEqual(frames, alone[0] + alone[1] + alone[0])

    def test_shared(self):
        """Bytes are made once for all that send them within 10 ms."""
        command = Forward.of(self.read(recorded_frame()))
        first = msg.forwarded(command, NOW)
        self.assertEqual(first, msg.forward_frames(command.messages, NOW))
        self.assertIs(msg.forwarded(command, NOW + 10_000), first)
        later = msg.forwarded(command, NOW + 10_001)
        self.assertEqual(later, msg.forward_frames(command.messages, NOW + 10_001))
        # The clock was set back.
        self.assertEqual(msg.forwarded(command, NOW), first)

    def test_hop_limit(self):
        """A message is forwarded eight times, with all nine records, and then no more."""
        frame = msg.publish_frame(Publish("c", b"d\0"), 9, NOW)
        for hop in range(1, 9):
            frame = msg.forward_frames([self.read(frame)], NOW + hop)
        parsed = FULL_FRAME.parse(frame)
        self.assertEqual(parsed.fixed.hop_count, 8)
        micros = [one.sent_sec * 1_000_000 + one.sent_nsec // 1000 for one in parsed.hops]
        self.assertEqual(micros, [NOW + hop for hop in range(9)])
        message = self.read(frame)
        self.assertEqual(message.hop_count, 9)
        error = self.assertRaises(PublishError, msg.forward_frames, [message], NOW)
        self.assertEqual(error.rc, 40)

    def test_too_long_for_one_frame(self):
        """Nothing is sent in fragments, which C peers cannot put together."""
        body = b"c\0" + bytes(MAX_MESSAGE_BYTES)
        message = Message("c", 0, 0, 0, 0, 1, 0, None, len(body), bytes(384) + body, 386, NOW)
        error = self.assertRaises(PublishError, msg.forward_frames, [message], NOW)
        self.assertEqual(error.rc, 90)


class ReadRunTests(SynchronousTestCase):
    """The fast path."""

    def test_reads_several(self):
        """Whole messages are taken, up to the first frame that is cut or something else."""
        one = msg.publish_frame(Publish("a", b"1\0", 1, 3, 4, 0o440), 1, NOW)
        two = msg.publish_frame(Publish("bb", b"22"), 2, NOW)
        reading = Reading()
        data = b"?" + one + two + one + two[:-1]
        self.assertEqual(reading.run(data, 1), len(data) - len(two) + 1)
        self.assertEqual([event.channel for event in reading.events], ["a", "bb", "a"])
        first, second, _ = reading.events
        self.assertEqual(
            (first.kind, first.uid, first.gid, first.perm, first.number), (1, 3, 4, 0o440, 1)
        )
        self.assertEqual((first.hop_count, first.credit, first.source), (1, 4, PEER))
        self.assertEqual(first.image, one[72:])
        self.assertEqual((first.body, second.body), (b"1", b"22"))
        self.assertEqual(reading.output, [])

    def test_leaves_alone_what_contradicts_itself(self):
        """Any length that does not fit the others, and anything that is no single message."""
        good = FULL_FRAME.parse(msg.publish_frame(Publish("a", b"1\0"), 1, NOW))
        for part, name, value in (
            ("head", "kind", zap.ACCEPTED),
            ("head", "length", 459),
            ("head", "length", 461),
            ("head", "data_len", 435),
            ("fragment", "command", 12),
            ("fragment", "request_len", 437),
            ("fragment", "flags", 0),
            ("fragment", "flags", 3),
            ("fixed", "body_len", 3),
            ("fixed", "body_len", 5),
        ):
            right, good[part][name] = good[part][name], value
            self.assertEqual(Reading().run(FULL_FRAME.build(good) + bytes(500)), 0, name)
            good[part][name] = right
        good.head.data_len = good.fragment.request_len = 435
        self.assertEqual(Reading().run(FULL_FRAME.build(good) + bytes(500)), 0)
        good.head.data_len = good.fragment.request_len = 436
        self.assertEqual(Reading().run(FULL_FRAME.build(good) + bytes(500)), 460)

    def test_leaves_alone_what_is_too_long(self):
        """The limit of a frame holds here too."""
        for size, taken in ((zap.MAX_FRAME, True), (zap.MAX_FRAME + 1, False)):
            body = bytes(size - 456)
            head = (2, 0, size, bytes(4), bytes(8), size - 24, bytes(8), 11, size - 24)
            rest = (0, 0, bytes(16), 0, 2, 0, 0, bytes(16), 0, len(body), 0, 0, 0, 0, bytes(4), 0)
            layout = flat_struct(zap.COUNTED_HEAD, msg.FRAGMENT_HEAD, msg.MESSAGE_FIXED)
            frame = layout.pack(*head, *rest) + bytes(288) + body
            self.assertEqual(Reading().run(frame), size if taken else 0)

    def test_name_ends_inside_its_message(self):
        """The zero with which the next frame begins is not the end of a name."""
        frame = msg.publish_frame(Publish("a", b""), 1, NOW)
        fields = FULL_FRAME.parse(frame)
        fields.head.length -= 1
        fields.head.data_len -= 1
        fields.fragment.request_len -= 1
        fields.fixed.body_len -= 1
        fields.body = b"a"
        reading = Reading()
        self.assertEqual(reading.run(frame + FULL_FRAME.build(fields) + frame), len(frame))
        self.assertEqual(len(reading.events), 1)

    def test_channel_names_that_begin_alike(self):
        """A name is the whole name."""
        names = ["a", "ab", "a", "", "abc", "ab", ""]
        data = b"".join(msg.publish_frame(Publish(one, b"x\0"), 0, NOW) for one in names)
        reading = Reading()
        self.assertEqual(reading.run(data), len(data))
        self.assertEqual([event.channel for event in reading.events], names)
        self.assertEqual([event.body for event in reading.events], [b"x"] * len(names))

    def test_names_that_are_no_utf8(self):
        """They are read, and go out as they came."""
        frame = msg.publish_frame(Publish("a\udcffb", b"x\0"), 0, NOW)
        self.assertIn(b"a\xffb\0x\0", frame)
        reading = Reading()
        reading.run(frame)
        (message,) = reading.events
        self.assertEqual(message.channel, "a\udcffb")
        self.assertIn(b"a\xffb\0x\0", msg.forward_frames([message], NOW))

    def test_source_of_the_publisher_is_believed(self):
        """The peer's address is only for messages without a source."""
        other = SourceAddress(10, 9, bytes(range(16)))
        reading = Reading(source=None)
        reading.run(recorded_frame())
        message = reading.events.pop()
        self.assertIsNone(message.source)
        changed = Message(*(getattr(message, name) for name in Message.__struct_fields__[:7]),
            other, message.credit, message.image, message.body_offset)  # fmt: skip
        reading = Reading()
        reading.run(msg.forward_frames([changed], NOW))
        self.assertEqual(reading.events[0].source, other)

    def test_credential(self):
        """Only root may bring messages of others; what is refused gets its credit back here."""
        frame = msg.publish_frame(Publish("c", b"x\0", 0, 5, 6), 0, NOW)
        for credential, good in (
            (Credential(0, 9), True),
            (Credential(5, 6), True),
            (Credential(5, 7), False),
            (Credential(5, 7, frozenset({6, 8})), True),
            (Credential(5, 7, frozenset({8})), False),
            (Credential(4, 6), False),
        ):
            fast, slow = Reading(credential), Reading(credential)
            self.assertEqual(fast.run(frame), len(frame))
            slow.fragment(frame[24:])
            for reading in (fast, slow):
                if good:
                    self.assertEqual(reading.events[0].uid, 5)
                    self.assertEqual(reading.output, [])
                else:
                    self.assertEqual(reading.events, [Refused("bad_credential")])
                    self.assertEqual(reading.credits, [(4, 0)])

    @given(st.data())
    def test_agrees_with_the_slow_path(self, data):
        """Whatever bytes of a message are changed, the fast path takes it as the slow one would,
        or leaves it alone."""
        frame = bytearray(
            msg.publish_frame(Publish("chan", data.draw(st.binary(max_size=8)), 1, 7, 8), 3, NOW)
        )
        places = st.sampled_from([*range(8), *range(20, 72), *range(128, 168), *range(456, 461)])
        for place in data.draw(st.lists(places, max_size=3)):
            frame[place] = data.draw(st.integers(0, 255))
        raw = bytes(frame)
        credential = Credential(data.draw(st.sampled_from([0, 7])), 8)
        fast, slow = Reading(credential), Reading(credential)
        if fast.run(raw):
            slow.fragment(raw[24:])
            self.assertEqual(fast.events, slow.events)
            self.assertEqual(fast.output, slow.output)
            parsed = FULL_FRAME.parse(raw)
            self.assertEqual(parsed.head.length, len(raw))
            (event,) = fast.events
            if isinstance(event, Message):
                self.assertEqual(event.uid, parsed.fixed.uid)
                self.assertEqual(event.hop_count, parsed.fixed.hop_count + 1)
                self.assertEqual(event.credit, parsed.fixed.body_len)


class FragmentTests(SynchronousTestCase):
    """Messages that come in parts, and what is wrong with messages."""

    def setUp(self):
        """A message of 600 bytes."""
        body = bytes(range(256)) * 2
        self.frame = msg.publish_frame(Publish("long", body, 1, 0, 0, 0o444), 77, NOW)
        self.size = 5 + len(body)

    def test_put_together(self):
        """The message is the same however it was cut, and its credit is left to the owner."""
        whole = Reading()
        whole.run(self.frame)
        for cuts in ((), (384,), (384, 400, 500), (500, 500)):
            reading = Reading()
            for payload in fragments(self.frame, *cuts):
                self.assertEqual(reading.events, [])
                reading.fragment(payload)
            self.assertEqual(reading.events, whole.events)
            self.assertEqual(reading.output, [])
            self.assertEqual(reading.reader.kept_bytes, 0)

    def test_several_at_once(self):
        """Parts belong to the message of their source and number."""
        other = msg.publish_frame(Publish("other", bytes(700)), 78, NOW)
        reading = Reading()
        for pair in zip(fragments(self.frame, 400), fragments(other, 450), strict=True):
            for payload in pair:
                reading.fragment(payload)
        self.assertEqual([event.channel for event in reading.events], ["long", "other"])

    def test_garbage_flags(self):
        """Only the two flags count."""
        first, second = fragments(self.frame, 400)
        reading = Reading()
        reading.fragment(first[:44] + bytes((first[44] | 0xFC,)) + b"\xff\xff\xff" + first[48:])
        reading.fragment(second[:44] + b"\xfc :\x20" + second[48:])
        self.assertEqual(len(reading.events), 1)

    def check_refused(self, reading, *reasons, credits=()):
        """What was refused, and what credit went back."""
        self.assertEqual(reading.events, [Refused(reason) for reason in reasons])
        self.assertEqual(reading.credits, [(credit, 0) for credit in credits])
        self.assertEqual(reading.reader.kept_bytes, 0)

    def test_without_start(self):
        """A part of a message that did not begin is dropped; nobody knows what it cost."""
        reading = Reading()
        reading.fragment(fragments(self.frame, 400)[1])
        self.check_refused(reading, "fragment_without_start")

    def test_started_again(self):
        """A message that begins anew was broken off: its credit goes back, and the new one is
        read."""
        first, second = fragments(self.frame, 400)
        reading = Reading()
        for payload in (first, first, second):
            reading.fragment(payload)
        self.assertEqual(reading.events[0], Refused("broken_message"))
        self.assertEqual(reading.events[1].channel, "long")
        self.assertEqual(reading.credits, [(self.size, 0)])

    def test_lengths_that_do_not_add_up(self):
        """Too much, too little, or less than the fixed part."""
        first, second, third = fragments(self.frame, 400, 500)
        for payloads in ((first, third), (first, second, second + bytes(900))):
            reading = Reading()
            for payload in payloads:
                reading.fragment(payload)
            self.check_refused(reading, "broken_message", credits=[self.size])
        (single,) = fragments(self.frame)
        for payload in (single[:-1], single + b"x"):
            reading = Reading()
            reading.fragment(payload)
            self.check_refused(reading, "broken_message", credits=[self.size])
        reading = Reading()
        reading.fragment(single[:300])
        self.check_refused(reading, "broken_message")
        first_too_long = fragments(self.frame, 600)[0] + bytes(900)
        reading = Reading()
        reading.fragment(first_too_long)
        self.check_refused(reading, "broken_message", credits=[self.size])

    def test_no_channel_name(self):
        """A message whose channel name has no end."""
        reading = Reading()
        frame = self.frame[:456] + b"x" * self.size
        self.assertEqual(reading.run(frame), 0)
        reading.fragment(frame[24:])
        self.check_refused(reading, "broken_message", credits=[self.size])

    def test_message_too_long(self):
        """The size of a message is judged before any of it is kept."""
        first, second = fragments(self.frame, 400)
        reading = Reading(message=384 + self.size - 1)
        reading.fragment(first)
        self.check_refused(reading, "message_too_long", credits=[self.size])
        reading = Reading(message=384 + self.size)
        reading.fragment(first)
        reading.fragment(second)
        self.assertEqual(len(reading.events), 1)

    def test_too_many_messages(self):
        """There is a bound to how many messages have begun; the earlier ones go on."""
        first, second = fragments(self.frame, 400)
        reading = Reading(partial_messages=1)
        reading.fragment(first)
        other = msg.publish_frame(Publish("other", bytes(700)), 78, NOW)
        reading.fragment(fragments(other, 400)[0])
        self.assertEqual(reading.events, [Refused("too_many_fragments")])
        self.assertEqual(reading.credits, [(706, 0)])
        reading.fragment(second)
        self.assertEqual(reading.events[1].channel, "long")

    def test_too_many_bytes(self):
        """There is a bound to the bytes of the messages that have begun."""
        first, second = fragments(self.frame, 400)
        reading = Reading(partial_message_bytes=450)
        reading.fragment(first)
        self.assertEqual(reading.reader.kept_bytes, 400)
        reading.fragment(second)
        self.check_refused(reading, "too_many_fragments", credits=[self.size])

    def test_service_off(self):
        """The first part is answered with rc 95 and no credit, the others not at all."""
        reading = Reading()
        for payload in fragments(self.frame, 400, 500):
            reading.fragment(payload, enabled=False)
        self.assertEqual(reading.events, [Refused("messages_off")] * 3)
        self.assertEqual(reading.credits, [(0, 95)])

    def test_head_cut_off(self):
        """A MSG without its head costs the link."""
        reading = Reading()
        self.assertRaises(PeerError, reading.fragment, self.frame[24:71])

    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(384, 999))))
    def test_hostile_sequences(self, steps):
        """Parts in any order give whole messages or refusals, within the bounds, and each message
        that was read or dropped has been paid for once."""
        reading = Reading(partial_messages=2, partial_message_bytes=1500)
        for number, flags, length in steps:
            frame = msg.publish_frame(Publish("long", bytes(800)), number, NOW)
            payload = bytearray(fragments(frame, length)[0])
            payload[44] = flags
            reading.fragment(bytes(payload))
            self.assertLessEqual(reading.reader.kept_bytes, 1500)
        messages = [event for event in reading.events if isinstance(event, Message)]
        for message in messages:
            self.assertEqual(len(message.image), 384 + message.credit)
        starts = sum(1 for _, flags, _ in steps if flags & msg.FIRST)
        self.assertEqual(set(reading.credits) - {(805, 0)}, set())
        unfinished = len(reading.reader._partials)
        self.assertEqual(len(messages) + len(reading.credits) + unfinished, starts)
