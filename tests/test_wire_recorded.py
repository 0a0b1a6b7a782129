"""Recorded conversations of C programs through ``LdmsConnection``, and hostile input."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import PublishError
from ldmsjob.wire import zap
from ldmsjob.wire.events import (
    AnswerSubscribe,
    AuthReceived,
    Credential,
    CreditReturned,
    LinkUp,
    Message,
    Publish,
    Refused,
    ReturnCredit,
    Subscribe,
    SubscribeWanted,
    UnsubscribeWanted,
)
from ldmsjob.wire.setevents import DirectoryWanted
from tests.linkpair import NOW, ROOT, connection, joined
from tests.recorded import NAMES, conversation, streams

AUTH_MESSAGES = {"naive": 1, "munge": 1, "ovis": 2}
"""How many authentication messages each side sends."""


def auth_of(name):
    """The way to authenticate in a recorded conversation."""
    return name.rpartition("_")[2] if "_auth_" in name else "none"


def feed(end, pieces, auth="none", credential=ROOT):
    """Give pieces of input to a connection, which authenticates as the conversation did.

    Returns the events, and the answers.
    """
    events = []
    answers = b""
    left = AUTH_MESSAGES.get(auth, 0)
    if end.data_to_send():
        raise AssertionError("already something to send")
    for piece in pieces:
        new = end.receive_data(piece, NOW)
        while new:
            events += new
            last = new[-1]
            new = []
            if isinstance(last, AuthReceived):
                left -= 1
            if isinstance(last, (LinkUp, AuthReceived)):
                new = end.authentication_step((), credential if left == 0 else None, NOW)
        answers += end.data_to_send()
    return events, answers


def play(name, number=1, from_client=True, pieces=None):
    """Feed one direction of a recorded connection to our side. Returns connection, events and
    answers."""
    auth = auth_of(name)
    end = connection(from_client, auth_name=auth)
    if not from_client:
        end.connect()
        end.data_to_send()
    if pieces is None:
        pieces = [streams(name)[number, from_client]]
    return end, *feed(end, pieces, auth)


def frames(data):
    """The frames in a stream, as (kind, body or whole frame)."""
    at, result = 0, []
    while at < len(data):
        kind, length = zap.read_head(data, at, zap.MAX_FRAME)
        result.append((kind, data[zap.body_at(kind, data, at, length) : at + length]))
        at += length
    return result


def reasons(events):
    """The words of the refusals among events."""
    return [event.reason for event in events if isinstance(event, Refused)]


class RecordedTests(SynchronousTestCase):
    """What unmodified C programs say is understood."""

    def test_publishers(self):
        """``ldms_msg_publish`` and ``slurm_notifier`` deliver their message."""
        table = [
            ("c_pub_small", "mychan", 48, b'{"event"'),
            ("c_pub_64k", "mychan", 0xFFFB, b'{"'),
            ("d_sub_toolserver", "mychan", 48, b'{"event"'),
            ("j_quota_pub_small", "mychan", 48, b'{"event"'),
            ("slurm-notifier-init", "slurm", 225, b"{"),
        ]
        for name, channel, credit, beginning in table:
            end, events, answers = play(name)
            self.assertIsNone(end.error, name)
            up, message = events
            self.assertIsInstance(up, LinkUp)
            self.assertTrue(up.peer.messages_enabled)
            self.assertEqual((message.channel, message.credit), (channel, credit), name)
            self.assertTrue(message.body.startswith(beginning), message.body[:20])
            self.assertFalse(message.body.endswith(b"\0"))
            self.assertEqual([kind for kind, _ in frames(answers)], [zap.ACCEPTED])

    def test_their_credit(self):
        """The publishing side reads the credit that the C daemon gave back."""
        for name, credit in (
            ("c_pub_small", 48),
            ("c_pub_64k", 0xFFFB),
            ("slurm-notifier-init", 225),
        ):
            end, events, answers = play(name, from_client=False)
            self.assertIsNone(end.error)
            self.assertEqual(events[1:], [CreditReturned(credit, 0)])
            self.assertEqual(answers, zap.counted_frame(zap.ACK_ACCEPTED))

    def test_quota_and_rate_of_a_server(self):
        """The limits that the C daemon announced are known and kept to."""
        end, events, _ = play("j_quota_pub_small", from_client=False)
        self.assertEqual((events[0].peer.quota, events[0].peer.rate), (2000, 4000))
        end.send(Publish("c", bytes(1998)), NOW)
        error = self.assertRaises(PublishError, end.send, Publish("c", b"d\0"), NOW)
        self.assertEqual(error.rc, 11)

    def test_subscriber(self):
        """``ldms_msg_subscribe`` subscribes, gets a message, and gives its credit back."""
        end, events, _ = play("d_sub_exact")
        self.assertIsNone(end.error)
        kinds = [type(event) for event in events]
        self.assertEqual(kinds[:2], [LinkUp, SubscribeWanted])
        wanted = events[1]
        self.assertEqual((wanted.match, wanted.is_regex, wanted.rate), ("mychan", False, -1))
        self.assertEqual(wanted.xid.hex(), "60cf803600000000")
        self.assertIn(CreditReturned(48, 0), events)
        self.assertIn(UnsubscribeWanted, kinds)

    def test_subscribed_side(self):
        """What the C daemon sends to a subscriber: an answer nobody asked for here, messages."""
        end, events, _ = play("d_sub_exact", from_client=False)
        self.assertIsNone(end.error)
        self.assertEqual(set(reasons(events)), {"unknown_reply"})
        messages = [event for event in events if isinstance(event, Message)]
        self.assertEqual({event.channel for event in messages}, {"mychan"})
        self.assertEqual({event.hop_count for event in messages}, {2})

    def test_aggregator(self):
        """A C daemon that subscribes to another one, through which messages go on."""
        end, events, answers = play("f_prdcr_subscribe", 1)
        self.assertIsNone(end.error)
        self.assertIn("daemon_request", reasons(events))
        wanted = [event for event in events if isinstance(event, SubscribeWanted)]
        self.assertEqual([(one.match, one.is_regex) for one in wanted], [("mychan", False)])
        recorded = next(
            one.data
            for one in conversation("f_prdcr_subscribe")
            if not one.from_client and b"DISABLED" in one.data
        )
        ours = [body for _, body in frames(answers)]
        self.assertIn(recorded[24 : zap.read_head(recorded, 0, zap.MAX_FRAME)[1]], ours)
        for number in (2, 3, 4):
            end, _, _ = play("f_prdcr_subscribe", number)
            self.assertIsNone(end.error)
        for number in (1, 2, 3, 4):
            end, _, _ = play("f_prdcr_subscribe", number, from_client=False)
            self.assertIsNone(end.error)

    def test_controller(self):
        """``ldmsd_controller`` is answered, request by request."""
        end, events, answers = play("h_ctl_daemon_status", 1)
        self.assertIsNone(end.error)
        self.assertEqual(reasons(events), ["daemon_request"] * 2)
        self.assertEqual([kind for kind, _ in frames(answers)], [8, 2, 2])

    def test_directory_answers(self):
        """Answers to what we never asked are ignored, as long as nothing is read from them."""
        for name in ("a_ls_dir", "b_ls_v_noset", "c_streampub_small", "g_ls_auth_naive"):
            end, events, _ = play(name, from_client=False)
            self.assertIsNone(end.error, name)
            self.assertLessEqual(set(reasons(events)), {"unknown_reply", "daemon_response"})

    def test_data_that_nobody_read(self):
        """A READ response without a request ends the link, after everything in front of it."""
        for name in ("b_ls_lv_meminfo", "e_agg_pull", "g_ls_auth_munge"):
            end, events, _ = play(name, from_client=False)
            self.assertIn("READ_RESP", str(end.error))
            self.assertIn("unknown_announcement", reasons(events))

    def test_authentication(self):
        """The messages of naive, ovis and munge are handed over, and what follows is read."""
        for way, count in AUTH_MESSAGES.items():
            end, events, _ = play(f"g_ls_auth_{way}")
            self.assertIsNone(end.error)
            kinds = [type(event) for event in events]
            self.assertEqual(kinds[: count + 1], [LinkUp] + [AuthReceived] * count)
            self.assertIn(DirectoryWanted, kinds)
        payload = play("g_ls_auth_naive")[1][1].payload
        self.assertEqual(payload.hex(), "000003e8000003e8")

    def test_rail(self):
        """The connections of a rail get the C daemon's answers."""
        recorded = streams("j_rail2_pysub")
        for number in (1, 2):
            end = connection(True, pid=0x3FD4)
            events, answers = feed(end, [recorded[number, True]])
            self.assertIsNone(end.error)
            self.assertEqual(events[0].peer.quota, 5000)
            self.assertEqual(frames(answers)[0], frames(recorded[number, False])[0])
        end, events, _ = play("j_rail2_pysub")
        (wanted,) = [event for event in events if isinstance(event, SubscribeWanted)]
        end.send(AnswerSubscribe(wanted.xid, 0, "OK"), NOW)
        body = bytes.fromhex("80d33005000000000000010b0000001b0000000000000003")
        answer = [(zap.SENDRECV, body + b"OK\0")]
        self.assertEqual(frames(end.data_to_send()), answer)
        self.assertEqual(frames(recorded[1, False])[1:2], answer)

    def test_rail_as_a_client(self):
        """We connect a rail as the C library does."""
        recorded = streams("j_rail2_pysub")
        for number in (1, 2):
            end = connection(
                False, pid=0x40AF, quota=5000, rail_gn=1, endpoints=2, endpoint=number - 1
            )
            end.connect()
            ours = end.data_to_send()
            theirs = recorded[number, True]
            self.assertEqual(ours[20:], theirs[20 : len(ours)])
            events, answers = feed(end, [recorded[number, False]])
            self.assertIsNone(end.error)
            self.assertIsInstance(events[0], LinkUp)
            self.assertEqual(frames(answers)[0], frames(theirs)[1])

    def test_limits_as_a_server(self):
        """The quota and rate that we announce are where the C daemon has them."""
        recorded = streams("j_quota_pub_small")
        end = connection(True, pid=0x467F, quota=2000, rate=4000)
        events, answers = feed(end, [recorded[1, True]])
        (message,) = [event for event in events if isinstance(event, Message)]
        end.send(ReturnCredit([message.credit]), NOW)
        self.assertEqual(frames(answers + end.data_to_send()), frames(recorded[1, False]))

    def test_all_are_there(self):
        """No recording is left out by mistake."""
        self.assertEqual(len(NAMES), 18)


class CuttingTests(SynchronousTestCase):
    """However TCP cuts the bytes, the same comes out."""

    def check(self, name, number, from_client, cut):
        """Compare with the uncut stream."""
        stream = streams(name)[number, from_client]
        end, events, answers = play(name, number, from_client)
        other, cut_events, cut_answers = play(name, number, from_client, cut(stream))
        self.assertEqual(joined(cut_events), joined(events), name)
        self.assertEqual(cut_answers, answers, name)
        self.assertEqual(str(other.error), str(end.error))

    def directions(self):
        """All recorded directions that begin with a handshake."""
        for name in NAMES:
            for number, from_client in streams(name):
                if (name, number) != ("h_ctl_daemon_status", 2):
                    yield name, number, from_client

    def test_byte_by_byte(self):
        """One byte at a time."""
        for name, number, from_client in self.directions():
            if len(streams(name)[number, from_client]) < 20_000:
                self.check(
                    name, number, from_client, lambda s: [s[i : i + 1] for i in range(len(s))]
                )

    def test_as_recorded(self):
        """As C programs cut them."""
        for name, number, from_client in self.directions():
            pieces = [
                one.data
                for one in conversation(name)
                if (one.connection, one.from_client) == (number, from_client)
            ]
            self.check(name, number, from_client, lambda _, pieces=pieces: pieces)

    @given(st.data())
    def test_anywhere(self, data):
        """Cut in any places."""
        for name, number, from_client in self.directions():
            size = len(streams(name)[number, from_client])
            cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=6), name))
            edges = list(zip([0, *cuts], [*cuts, size], strict=True))
            self.check(
                name, number, from_client, lambda s, e=edges: [s[start:stop] for start, stop in e]
            )

    @given(st.lists(st.sampled_from(["slurm", "ch", "", "x" * 40]), max_size=6), st.data())
    def test_messages(self, channels, data):
        """Runs of messages with other things between them."""
        client = connection(False)
        client.connect()
        feed_both = connection(True)
        feed_both.receive_data(client.data_to_send(), NOW)
        client.receive_data(feed_both.data_to_send(), NOW)
        hello = client.data_to_send()
        client.authentication_step((), ROOT, NOW)
        for index, channel in enumerate(channels):
            client.send(Publish(channel, bytes(index * 9), uid=index % 2), NOW)
            if index % 3 == 2:
                client.send(Subscribe(channel), NOW)
        stream = hello + client.data_to_send()
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=9)))
        pieces = [
            stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        ]
        results = []
        for given_pieces in ([stream], pieces):
            end = connection(True)
            starter = connection(False)
            starter.connect()
            end.receive_data(starter.data_to_send(), NOW)
            end.data_to_send()
            results.append(feed(end, given_pieces, credential=Credential(1, 0)))
        self.assertEqual(*results)


class HostileTests(SynchronousTestCase):
    """Arbitrary bytes give events or a closed link, and never more memory than allowed."""

    def check(self, end, pieces):
        """Feed it all."""
        feed(end, pieces)
        self.assertLess(end.buffered_bytes, zap.MAX_FRAME + 4096)
        if end.error is not None:
            self.assertEqual(end.buffered_bytes, 0)
            self.assertEqual(end.receive_data(b"more", NOW), [])

    def opened(self, passive=True):
        """A connection with an authenticated peer."""
        end = connection(passive)
        other = connection(not passive)
        client, server = (other, end) if passive else (end, other)
        client.connect()
        server.receive_data(client.data_to_send(), NOW)
        client.receive_data(server.data_to_send(), NOW)
        server.receive_data(client.data_to_send(), NOW)
        end.authentication_step((), ROOT, NOW)
        return end

    @given(st.booleans(), st.lists(st.binary(max_size=200), max_size=5))
    def test_from_the_beginning(self, passive, pieces):
        """Before the handshake."""
        end = connection(passive)
        if not passive:
            end.connect()
            end.data_to_send()
        self.check(end, pieces)

    @given(st.booleans(), st.lists(st.binary(max_size=200), max_size=5))
    def test_frames_of_anything(self, passive, payloads):
        """Whole frames of requests that mean nothing."""
        pieces = [zap.counted_frame(zap.SENDRECV, payload) for payload in payloads]
        self.check(self.opened(passive), pieces)

    @given(
        st.booleans(),
        st.lists(
            st.tuples(
                st.one_of(st.integers(0, 20), st.integers(0x100, 0x110), st.integers(0, 2**32 - 1)),
                st.binary(max_size=120),
            ),
            max_size=8,
        ),
    )
    def test_requests_of_anything(self, passive, requests):
        """Requests and replies with right lengths, whose contents mean nothing."""
        pieces = []
        for command, payload in requests:
            head = bytes(8) + command.to_bytes(4, "big") + (16 + len(payload)).to_bytes(4, "big")
            pieces.append(zap.counted_frame(zap.SENDRECV, head + payload))
        self.check(self.opened(passive), pieces)

    @given(st.data())
    def test_damaged_recordings(self, data):
        """Recorded conversations with some bytes changed."""
        name = data.draw(st.sampled_from([name for name in NAMES if "64k" not in name]))
        (_, from_client), stream = data.draw(st.sampled_from(sorted(streams(name).items())))
        damaged = bytearray(stream)
        for place in data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=4)):
            damaged[place] = data.draw(st.integers(0, 255))
        end = connection(from_client)
        if not from_client:
            end.connect()
            end.data_to_send()
        self.check(end, [bytes(damaged)])

    def test_long_frames_are_kept_once(self):
        """A frame that comes in small pieces costs its own length, and ends at the limit."""
        end = self.opened()
        frame = zap.counted_frame(zap.SENDRECV, bytes(zap.MAX_FRAME - 24))
        for start in range(0, len(frame) - 1000, 1000):
            self.assertEqual(end.receive_data(frame[start : start + 1000], NOW), [])
            self.assertEqual(end.buffered_bytes, start + 1000)
        longer = frame[:4] + (zap.MAX_FRAME + 1).to_bytes(4, "big") + frame[8:24]
        end = self.opened()
        end.receive_data(longer, NOW)
        self.assertIn("1048577", str(end.error))
