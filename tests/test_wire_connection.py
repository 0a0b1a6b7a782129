"""Tests of ldmsjob.wire.connection."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import PublishError
from ldmsjob.wire import msg, xprt, zap
from ldmsjob.wire.buffers import Limits
from ldmsjob.wire.events import (
    AnswerSubscribe,
    AnswerUnsubscribe,
    AuthReceived,
    ChangeQuota,
    ChangeRate,
    Credential,
    CreditReturned,
    Forward,
    LinkUp,
    Message,
    PeerInfo,
    Publish,
    QuotaChanged,
    RateChanged,
    Refused,
    ReturnCredit,
    SourceAddress,
    Subscribe,
    SubscribeAnswered,
    SubscribeWanted,
    Unsubscribe,
    UnsubscribeAnswered,
    UnsubscribeWanted,
)
from ldmsjob.wire.setevents import DirectoryCancelled, DirectoryWanted
from tests.linkpair import NOW, ROOT, LinkPair, connection

XID = b"XIDXIDXI"
ACK = zap.counted_frame(zap.ACK_ACCEPTED)


def request(command, body=b"", xid=XID):
    """A frame with a request or reply."""
    size = 16 + len(body)
    payload = xid + command.to_bytes(4, "big") + size.to_bytes(4, "big") + body
    return zap.counted_frame(zap.SENDRECV, payload)


def hello(**changes):
    """A CONNECT frame of a peer."""
    fields = {
        "auth": "none",
        "rate": -1,
        "quota": -1,
        "pid": 1,
        "rail_gn": 99,
        "messages_enabled": True,
    }
    fields.update(changes)
    return zap.connect_frame(xprt.ConnectionMessage(**fields).encode())


class HandshakeTests(SynchronousTestCase):
    """From CONNECT to an authenticated link."""

    def test_both_sides_learn_of_each_other(self):
        """Each side gets what the other said of itself, as the first event."""
        pair = LinkPair(
            client={"quota": 1000, "messages_enabled": lambda: True},
            server={"quota": 2000, "rate": 3000, "messages_enabled": lambda: False},
        )
        server, client = PeerInfo("none", 2, False, 2000, 3000), PeerInfo("none", 1, True, 1000, -1)
        self.assertEqual(pair.events[pair.client], [LinkUp(server)])
        self.assertEqual(pair.events[pair.server], [LinkUp(client)])
        self.assertEqual((pair.client.peer, pair.server.peer), (server, client))
        self.assertEqual((pair.client.error, pair.server.error), (None, None))

    def test_connection_number_comes_back(self):
        """The passive side repeats the client's rail_gn; by default that is a random number."""
        numbers = set()
        for rail_gn in (7, None, None):
            client, server = connection(False, rail_gn=rail_gn), connection(True)
            client.connect()
            sent = client.data_to_send()
            server.receive_data(sent, NOW)
            asked = xprt.CONNECTION_MESSAGE.parse(sent[36:])
            answered = xprt.CONNECTION_MESSAGE.parse(server.data_to_send()[24:])
            self.assertEqual(answered.rail_gn, asked.rail_gn)
            self.assertEqual((asked.endpoints, asked.endpoint), (1, 0))
            numbers.add(asked.rail_gn)
        self.assertEqual(len(numbers), 3)
        self.assertIn(7, numbers)

    def test_refusals_are_told(self):
        """The peer reads why, and both sides know that it is over."""
        pair = LinkPair({"auth_name": "munge"}, {})
        self.assertEqual(
            str(pair.server.error), "Auth mismatch: the peer's is 'munge', ours 'none'"
        )
        self.assertEqual(
            str(pair.client.error),
            "the peer rejected the connection: Auth mismatch: ours is 'munge'",
        )
        self.assertEqual(pair.events[pair.client] + pair.events[pair.server], [])

    def test_wrong_answer(self):
        """The active side wants the same version and way to authenticate too."""
        client = connection(False)
        client.connect()
        answer = hello(auth="munge")[36:]
        self.assertEqual(client.receive_data(zap.counted_frame(zap.ACCEPTED, answer), NOW), [])
        self.assertEqual(str(client.error), "Auth mismatch: the peer's is 'munge', ours 'none'")

    def test_frames_out_of_place(self):
        """What is not the next step of the handshake ends the connection without an answer."""
        dir_request = request(xprt.DIR, bytes(4))
        accepted = zap.counted_frame(zap.ACCEPTED, hello()[36:])
        table = [
            (True, [ACK]),
            (True, [dir_request]),
            (True, [accepted]),
            (True, [hello(), hello()]),
            (True, [hello(), dir_request]),
            (True, [hello(), zap.counted_frame(zap.ACK_ACCEPTED, b"x")]),
            (False, [hello()]),
            (False, [ACK]),
            (False, [dir_request]),
        ]
        for passive, frames in table:
            end = connection(passive)
            if not passive:
                end.connect()
                end.data_to_send()
            for frame in frames[:-1]:
                end.receive_data(frame, NOW)
                end.data_to_send()
            self.assertEqual(end.receive_data(frames[-1], NOW), [])
            self.assertIsNotNone(end.error, frames)
            self.assertEqual(end.data_to_send(), b"")

    def test_other_framing(self):
        """A peer of another framing version is left without an answer, as in C."""
        server = connection(True)
        frame = bytearray(hello())
        frame[21] = 4
        server.receive_data(bytes(frame), NOW)
        self.assertIsNotNone(server.error)
        self.assertEqual(server.data_to_send(), b"")

    def test_long_frames_before_authentication(self):
        """A peer that is not authenticated has a smaller limit, judged by the head alone."""
        server = connection(True)
        frame = zap.connect_frame(bytes(70_000))
        server.receive_data(frame[:20], NOW)
        self.assertIn("CONNECT frame of 70036 bytes", str(server.error))


class AuthenticationTests(SynchronousTestCase):
    """The owner's part of the handshake."""

    def setUp(self):
        """A passive connection whose link is up, with a request already behind the ACK."""
        self.end = connection(True)
        self.end.receive_data(hello(), NOW)
        self.end.data_to_send()

    def auth(self, payload):
        """The peer's authentication message in its frame."""
        return zap.counted_frame(zap.SENDRECV, xprt.counted_request(xprt.AUTH_MSG, payload))

    def test_nothing_is_read_before_the_owner_has_answered(self):
        """What comes behind waits, also what comes later, and is read with the answer."""
        wanted = request(xprt.MSG_SUB, bytes.fromhex("0000000a ffffffffffffffff 7461675800"))
        events = self.end.receive_data(ACK + wanted[:30], NOW)
        self.assertEqual([type(event) for event in events], [LinkUp])
        self.assertEqual(self.end.receive_data(wanted[30:] + wanted, NOW), [])
        self.assertEqual(self.end.buffered_bytes, 2 * len(wanted))
        events = self.end.authentication_step((), ROOT, NOW)
        self.assertEqual(events, [SubscribeWanted(XID, "tagX", False, -1)] * 2)
        self.assertEqual(self.end.buffered_bytes, 0)

    def test_dialogue(self):
        """Payloads go both ways until there is a credential; then requests are served."""
        self.end.receive_data(ACK, NOW)
        self.assertEqual(self.end.authentication_step([b"one", b"two"], None, NOW), [])
        self.assertEqual(self.end.data_to_send(), self.auth(b"one") + self.auth(b"two"))
        events = self.end.receive_data(self.auth(b"") + self.auth(b"b"), NOW)
        self.assertEqual(events, [AuthReceived(b"")])
        events = self.end.authentication_step([b"three"], None, NOW)
        self.assertEqual(events, [AuthReceived(b"b")])
        self.assertEqual(self.end.data_to_send(), self.auth(b"three"))
        self.assertEqual(self.end.authentication_step((), ROOT, NOW), [])
        wanted = self.end.receive_data(request(xprt.DIR, bytes(4)), NOW)
        self.assertEqual(wanted, [DirectoryWanted(XID, False)])

    def test_requests_before_the_end(self):
        """A request of a peer that is not authenticated is not served."""
        for frame in (request(xprt.DIR, bytes(4)), request(xprt.MSG_SUB_REPLY, bytes(8))):
            self.setUp()
            self.end.receive_data(ACK, NOW)
            self.end.authentication_step((), None, NOW)
            self.assertEqual(self.end.receive_data(frame, NOW), [])
            self.assertIn("before the end of authentication", str(self.end.error))
            self.assertEqual(self.end.data_to_send(), b"")

    def test_after_the_end(self):
        """An authentication message that comes too late ends the link."""
        self.end.receive_data(ACK, NOW)
        self.end.authentication_step((), ROOT, NOW)
        self.end.receive_data(self.auth(b"x"), NOW)
        self.assertIn("after the end of authentication", str(self.end.error))

    def test_no_step_without_a_question(self):
        """The owner may answer each question once, and send nothing before the last one."""
        self.assertRaises(RuntimeError, self.end.authentication_step, (), ROOT, NOW)
        self.assertRaises(RuntimeError, self.end.send, Subscribe("x"), NOW)
        self.end.receive_data(ACK, NOW)
        self.end.authentication_step((), ROOT, NOW)
        self.assertRaises(RuntimeError, self.end.authentication_step, (), ROOT, NOW)

    def test_bound_of_what_waits(self):
        """A peer cannot make us keep more than the limit while we think."""
        end = connection(True, limits=Limits(paused_bytes=1000))
        end.receive_data(hello(), NOW)
        end.receive_data(ACK, NOW)
        end.receive_data(bytes(1000), NOW)
        self.assertIsNone(end.error)
        end.receive_data(b"x", NOW)
        self.assertIsNotNone(end.error)
        self.assertEqual(end.buffered_bytes, 0)


class KeptTests(SynchronousTestCase):
    """What is not complete yet."""

    def test_nothing_is_kept_behind_an_error(self):
        """Unfinished frames, messages and daemon requests go with the connection's error, not with
        its last reference."""
        pair = LinkPair()
        head = bytes(20) + bytes(8) + bytes((msg.FIRST | msg.MORE, 0, 0, 0))
        body = bytearray(msg.BODY_OVERHEAD)
        body[64:68] = (1000).to_bytes(4, "big")
        record = bytes.fromhex("ffffffff 00000001 00000001 00000001 00000001 0000001c 00000000")
        pair.server.receive_data(request(xprt.MSG, head + bytes(body)), NOW)
        count = len(record).to_bytes(4, "big")
        pair.server.receive_data(request(xprt.SEND_MSG, count + record), NOW)
        too_short = request(xprt.DIR)
        pair.server.receive_data(too_short[:-1], NOW)
        self.assertGreater(pair.server.buffered_bytes, msg.BODY_OVERHEAD + 4)
        pair.server.receive_data(too_short[-1:], NOW)
        self.assertIsNotNone(pair.server.error)
        self.assertEqual(pair.server.buffered_bytes, 0)


class RefusalTests(SynchronousTestCase):
    """What is not served here is answered, and the link stays."""

    def setUp(self):
        """An authenticated pair."""
        self.pair = LinkPair()
        self.end = self.pair.server

    def receive(self, frame):
        """Events and answer of one frame."""
        events = self.end.receive_data(frame, NOW)
        return events, self.end.data_to_send()

    def check(self, frame, reason, answer=b""):
        """It is counted as ``reason`` and answered with these bytes; the link stays."""
        self.assertEqual(self.receive(frame), ([Refused(reason)], answer))
        self.assertIsNone(self.end.error)

    def test_requests_with_an_answer(self):
        """Each answer has the request's xid."""
        seconds, micros = divmod(NOW, 1_000_000)
        times = seconds.to_bytes(8, "big") + (micros * 1000).to_bytes(8, "big")
        name = b"\0\0\0\2a\0"
        self.check(request(9, name), "set_delete", request(0x10A, bytes(4) + times))
        path = bytes(4) + b"\0\0\x10\x02" + b"p" * 4097 + b"\0"
        self.check(request(2, path), "lookup_too_long", request(0x104, b"\0\0\0\x24"))

    def test_requests_without_an_answer(self):
        """Where the protocol has no answer there is none; unknown codes are like that."""
        for command, reason in (
            (14, "quota_group"),
            (15, "quota_group"),
            (16, "quota_group"),
            (8, "unknown_command"),
            (19, "unknown_command"),
            (0x100, "unknown_command"),
            (0x8000_0000, "unknown_command"),
            (0xFFFF_FFFF, "unknown_command"),
            (0x101, "unknown_reply"),
            (0x102, "unknown_reply"),
            (0x103, "unknown_reply"),
            (0x104, "unknown_reply"),
            (0x106, "unknown_reply"),
            (0x10A, "unknown_reply"),
            (0x7FFF_FFFF, "unknown_reply"),
        ):
            self.check(request(command, bytes(16)), reason)

    def test_daemon_requests(self):
        """A request inside SEND_MSG is answered in a SEND_MSG."""
        record = bytes.fromhex("ffffffff 00000001 00000003 00000001 00000003 0000001c 00000000")
        body = len(record).to_bytes(4, "big") + record
        events, answer = self.receive(request(5, body))
        self.assertEqual(events, [Refused("daemon_request")])
        self.assertIn(b"The request is not implemented\0", answer)
        self.assertEqual(self.pair.client.receive_data(answer, NOW), [Refused("daemon_response")])
        self.assertEqual(self.pair.client.data_to_send(), b"")

    def test_writes(self):
        """Nobody may write; the answer carries the request's xid and ctxt."""
        tail = b"key!" + bytes(8)
        head = bytes.fromhex("0006 0000 00000027") + b"xid!" + b"ctxtctxt"
        answer = bytes.fromhex("0007 0000 00000018") + b"xid!" + b"ctxtctxt"
        self.check(head + tail + b"\0\0\0\3abc", "write", answer + b"\0\x13\0\0")

    def test_other_frames(self):
        """An offer of a region, and a rejection that comes too late."""
        message = bytes(8) + bytes.fromhex("00000003 00000010")
        self.check(bytes.fromhex("0003 0000 00000038") + bytes(32) + message, "rendezvous")
        self.check(zap.rejected_frame("late"), "rejected")

    def test_violations(self):
        """What has no place on an open link ends it, after what came before."""
        for frame in (
            hello(),
            ACK,
            zap.counted_frame(zap.ACCEPTED, hello()[36:]),
            bytes.fromhex("0005 0000 00000024") + bytes(28),
            bytes.fromhex("0007 0000 00000018") + bytes(16),
            bytes.fromhex("004d 0000 00000018") + bytes(16),
            bytes.fromhex("0002 0000 00000013") + bytes(16),
            zap.counted_frame(zap.SENDRECV, b"short"),
            request(2)[:-1] + b"\x11",
            request(xprt.SEND_QUOTA, bytes(7)),
            request(xprt.MSG_SUB, bytes(11)),
            request(xprt.MSG_SUB_REPLY, bytes(3)),
            request(xprt.SEND_MSG, b"\0\0\0\1"),
            request(xprt.DIR),
            request(xprt.LOOKUP, bytes(9)),
            request(xprt.SET_DELETE, b"\0\0\0\3a\0"),
            bytes.fromhex("0003 0000 00000038") + bytes(48),
        ):
            self.setUp()
            events, answer = self.receive(request(1) + frame + request(1))
            self.assertEqual(events, [DirectoryCancelled()])
            self.assertEqual(answer, request(0x102, bytes(4)))
            self.assertIsNotNone(self.end.error, frame)


class MessageTests(SynchronousTestCase):
    """Messages and their credit."""

    def publish(self, pair, *commands, sender=None):
        """Send several in one go; what the other end reports."""
        sender = sender or pair.client
        for command in commands:
            sender.send(command, NOW)
        return pair.exchange(sender)

    def test_both_directions(self):
        """Who connected does not matter."""
        pair = LinkPair()
        for sender in (pair.client, pair.server):
            events = self.publish(
                pair, Publish("a", b"1\0"), Publish("b", b"2", 0, 5, 6, 0o777), sender=sender
            )
            first, second = events
            self.assertEqual((first.channel, first.kind, first.body), ("a", 1, b"1"))
            self.assertEqual((second.uid, second.gid, second.perm), (5, 6, 0o777))
            self.assertEqual((first.number, second.number), (0, 1))
            self.assertEqual((first.hop_count, first.received_us), (1, NOW))
            self.assertEqual(
                pair.return_credit(pair.other(sender), events),
                [CreditReturned(7, 0, 2)],
            )

    def test_credit_is_one_frame_for_each_message(self):
        """C publishers count the frames."""
        pair = LinkPair()
        pair.server.send(ReturnCredit([5, 5, 7]), NOW)
        self.assertEqual(len(pair.server.data_to_send()), 3 * 48)
        pair.server.send(ReturnCredit([]), NOW)
        self.assertEqual(pair.server.data_to_send(), b"")

    def test_quota(self):
        """Credit is spent in sending and comes back with SEND_QUOTA, exactly."""
        pair = LinkPair(server={"quota": 10})
        client = pair.client
        events = self.publish(pair, Publish("abc", b"12\0"))
        self.assertEqual(events[0].credit, 7)
        self.assertTrue(client.can_publish(3))
        self.assertFalse(client.can_publish(4))
        error = self.assertRaises(PublishError, client.send, Publish("a", b"1\0"), NOW)
        self.assertEqual(error.rc, 11)
        self.assertEqual(client.data_to_send(), b"")
        self.publish(pair, Publish("a", b"\0"))
        self.assertFalse(client.can_publish(1))
        pair.return_credit(pair.server, events)
        self.assertTrue(client.can_publish(7))
        self.assertFalse(client.can_publish(8))

    def test_more_than_the_whole_quota(self):
        """A message that can never be sent need not wait: sending it says why."""
        pair = LinkPair(server={"quota": 10})
        pair.client.send(Publish("abcdefghi", b""), NOW)
        self.assertTrue(pair.client.can_publish(11))
        error = self.assertRaises(PublishError, pair.client.send, Publish("a", bytes(9)), NOW)
        self.assertEqual(error.rc, 90)

    def test_without_quota(self):
        """An unlimited peer is never waited for."""
        self.assertTrue(LinkPair().client.can_publish(10**9))

    def test_refused_message_gets_its_credit_back_here(self):
        """The owner never sees it, and the publisher's quota is whole again."""
        pair = LinkPair(server={"quota": 10}, credentials=(ROOT, Credential(5, 5)))
        events = self.publish(pair, Publish("abc", b"12345\0", uid=4))
        self.assertEqual(events, [Refused("bad_credential")])
        self.assertEqual(pair.take(pair.client)[-1], CreditReturned(10, 0))
        self.assertTrue(pair.client.can_publish(10))
        events = self.publish(pair, Publish("abc", b"12345\0", uid=5, gid=5))
        self.assertIsInstance(events[0], Message)

    def test_groups_of_a_publisher(self):
        """He may publish with any of his groups, and with no other: small messages and large."""
        alice = Credential(5, 5, frozenset({6, 7}))
        pair = LinkPair(credentials=(ROOT, alice))
        for size in (10, 200_000):
            for gid, expected in ((5, Message), (7, Message), (0, Refused), (8, Refused)):
                events = self.publish(pair, Publish("abc", bytes(size), uid=5, gid=gid))
                self.assertEqual([type(event) for event in events], [expected])

    def test_service_off_from_the_beginning(self):
        """Nothing is published to a peer that said so, nor does it read any."""
        pair = LinkPair(server={"messages_enabled": False})
        self.assertTrue(pair.client.can_publish(10))
        error = self.assertRaises(PublishError, pair.client.send, Publish("a", b"\0"), NOW)
        self.assertEqual(error.rc, 95)
        events = pair.send(pair.server, Publish("a", b"\0"))
        self.assertIsInstance(events[0], Message)

    def test_service_switched_off(self):
        """A message that comes then is answered with rc 95, which stops the publisher."""
        state = [True]
        pair = LinkPair(server={"messages_enabled": lambda: state[0], "quota": 100})
        self.assertIsInstance(self.publish(pair, Publish("a", b"\0"))[0], Message)
        state[0] = False
        pair.take(pair.client)
        self.assertEqual(self.publish(pair, Publish("a", b"\0")), [Refused("messages_off")])
        self.assertEqual(pair.take(pair.client), [CreditReturned(0, 95)])
        error = self.assertRaises(PublishError, pair.client.send, Publish("a", b"\0"), NOW)
        self.assertEqual(error.rc, 95)

    def test_forwarding(self):
        """A message goes on with its source, its publisher's identity and one more hop."""
        source = SourceAddress(2, 4711, bytes((10, 0, 0, 7)) + bytes(12))
        first, second = LinkPair(server={"peer_source": source}), LinkPair()
        (message,) = self.publish(first, Publish("a", b"x\0", uid=5, gid=6, perm=0o444))
        self.assertEqual(message.source, source)
        (passed,) = second.send(second.server, Forward.of(message))
        self.assertEqual(passed.hop_count, 2)
        for name in ("channel", "kind", "uid", "gid", "perm", "number", "source", "credit", "body"):
            self.assertEqual(getattr(passed, name), getattr(message, name), name)

    def test_forwarding_spends_quota(self):
        """As publishing does."""
        pair = LinkPair()
        (message,) = self.publish(pair, Publish("a", b"x\0"))
        other = LinkPair(server={"quota": 6})
        other.client.send(Forward.of(message), NOW)
        self.assertFalse(other.client.can_publish(3))
        self.assertTrue(other.client.can_publish(2))

    def test_hop_limit(self):
        """A message is delivered after nine hops, and not forwarded any more."""
        pair = LinkPair()
        (message,) = self.publish(pair, Publish("a", b"x\0"))
        for _ in range(8):
            (message,) = pair.send(pair.client, Forward.of(message))
        self.assertEqual(message.hop_count, 9)
        error = self.assertRaises(PublishError, pair.client.send, Forward.of(message), NOW)
        self.assertEqual(error.rc, 40)
        self.assertEqual(pair.client.data_to_send(), b"")

    def test_long_messages(self):
        """The longest one goes through, a longer one is refused where it is sent."""
        pair = LinkPair()
        (message,) = self.publish(pair, Publish("a", bytes(1_048_102)))
        self.assertEqual(message.credit, 1_048_104)
        error = self.assertRaises(PublishError, pair.client.send, Publish("a", bytes(1_048_103)), 0)
        self.assertEqual(error.rc, 90)

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=30))
    def test_credit_is_conserved(self, steps):
        """What is under way and what may still be sent add up to the quota, whatever happens."""
        pair = LinkPair(server={"quota": 100})
        under_way = []
        for returning, size in steps:
            if returning and under_way:
                pair.send(pair.server, ReturnCredit([under_way.pop(0)]))
            elif pair.client.can_publish(size + 2):
                (message,) = self.publish(pair, Publish("c", bytes(size)))
                under_way.append(message.credit)
            else:
                self.assertRaises(PublishError, pair.client.send, Publish("c", bytes(size)), NOW)
            room = 100 - sum(under_way)
            self.assertTrue(pair.client.can_publish(room))
            self.assertTrue(room == 100 or not pair.client.can_publish(room + 1))


class LimitTests(SynchronousTestCase):
    """What the peer limits, and changes its limits to."""

    def test_rate(self):
        """Within one second of the clock no more is sent than the peer's rate; then there is room
        again. Its own rate does not bind a side."""
        pair = LinkPair(server={"rate": 10})
        start = NOW // 1_000_000 * 1_000_000
        client = pair.client
        self.assertFalse(client.allowance.free)
        self.assertTrue(pair.server.allowance.free)
        for size, now_us, fits in (
            (6, start, True),
            (6, start + 999_999, False),
            (4, start + 999_999, True),
            (10, start + 1_000_000, True),
            (2, start + 1_000_001, False),
        ):
            self.assertEqual(client.can_publish(size, now_us), fits)
            self.assertEqual(client.waits_for_second(size, now_us), not fits)
            command = Publish("a", bytes(size - 2))
            if fits:
                client.send(command, now_us)
            else:
                error = self.assertRaises(PublishError, client.send, command, now_us)
                self.assertEqual(error.rc, 11)
        self.assertEqual(len(pair.exchange(client)), 3)

    def test_never(self):
        """There is nothing to wait for with a message that is more than a whole second's rate."""
        pair = LinkPair(server={"rate": 10})
        self.assertTrue(pair.client.can_publish(11, NOW))
        self.assertFalse(pair.client.waits_for_second(11, NOW))
        error = self.assertRaises(PublishError, pair.client.send, Publish("a", bytes(9)), NOW)
        self.assertEqual(error.rc, 90)
        self.assertIn("rate", str(error))

    def test_no_rate_at_all(self):
        """Rate 0 blocks every message, and nothing else."""
        pair = LinkPair(server={"rate": 0})
        error = self.assertRaises(PublishError, pair.client.send, Publish("a", b"\0"), NOW)
        self.assertEqual(error.rc, 90)
        self.assertEqual(len(pair.send(pair.client, Subscribe("a"))), 1)

    def test_refused_messages_spend_nothing(self):
        """What the quota refuses is not taken off the rate, nor the other way round."""
        pair = LinkPair(server={"rate": 10, "quota": 6})
        pair.client.send(Publish("a", bytes(2)), NOW)
        self.assertFalse(pair.client.waits_for_second(6, NOW))
        self.assertRaises(PublishError, pair.client.send, Publish("a", bytes(4)), NOW)
        pair.settle()
        pair.send(pair.server, ReturnCredit([4]))
        pair.client.send(Publish("a", bytes(4)), NOW)
        pair.settle()
        pair.send(pair.server, ReturnCredit([6]))
        self.assertTrue(pair.client.waits_for_second(1, NOW))
        self.assertTrue(pair.client.can_publish(6, NOW + 1_000_000))

    def test_quota_changes(self):
        """Differences apply at once; what was under way before a cut has to be paid for."""
        pair = LinkPair(server={"quota": 10})
        client, server = pair.client, pair.server
        self.assertEqual(pair.send(server, ChangeQuota(15)), [QuotaChanged(15)])
        self.assertEqual(client.peer.quota, 15)
        client.send(Publish("a", bytes(10)), NOW)
        self.assertFalse(client.can_publish(4))
        pair.send(server, ChangeQuota(5))
        self.assertFalse(client.can_publish(1))
        pair.send(server, ReturnCredit([8]))
        self.assertTrue(client.can_publish(1))
        self.assertFalse(client.can_publish(2))
        pair.send(server, ReturnCredit([4]))
        self.assertTrue(client.can_publish(5))
        self.assertEqual(client.peer.quota, 5)

    def test_quota_from_and_to_unlimited(self):
        """A first quota is there whole; credit of what went before does not add to it."""
        pair = LinkPair()
        client, server = pair.client, pair.server
        client.send(Publish("a", bytes(10)), NOW)
        pair.send(server, ChangeQuota(5))
        pair.send(server, ReturnCredit([12]))
        client.send(Publish("a", bytes(3)), NOW)
        self.assertFalse(client.can_publish(1))
        pair.send(server, ChangeQuota(-1))
        self.assertTrue(client.can_publish(10**9))
        pair.send(server, ReturnCredit([5]))
        self.assertTrue(client.can_publish(10**9))

    def test_rate_changes(self):
        """The new rate holds for the present second, less what went out in it."""
        pair = LinkPair()
        client, server = pair.client, pair.server
        self.assertEqual(pair.send(server, ChangeRate(10)), [RateChanged(10)])
        client.send(Publish("a", bytes(4)), NOW)
        pair.send(server, ChangeRate(8))
        self.assertTrue(client.can_publish(2, NOW))
        self.assertFalse(client.can_publish(3, NOW))
        pair.send(server, ChangeRate(20))
        self.assertTrue(client.can_publish(14, NOW))
        self.assertFalse(client.can_publish(15, NOW))
        pair.send(server, ChangeRate(-1))
        self.assertTrue(client.allowance.free)
        self.assertEqual(client.peer.rate, -1)

    def test_broken_changes(self):
        """A change of a limit must have its length."""
        for command in (17, 18):
            pair = LinkPair()
            frame = zap.counted_frame(zap.SENDRECV, request(command, bytes(4)))
            self.assertEqual(pair.server.receive_data(frame, NOW), [])
            self.assertIsNotNone(pair.server.error)


class SubscriptionTests(SynchronousTestCase):
    """Subscriptions both ways."""

    def test_round_trip(self):
        """The other side is told everything, and its answer finds its question."""
        pair = LinkPair()
        for sender in (pair.client, pair.server):
            receiver = pair.other(sender)
            (one,) = pair.send(sender, Subscribe("re.*é", is_regex=True))
            (two,) = pair.send(sender, Subscribe("b", rate=777))
            self.assertEqual((one.match, one.is_regex, one.rate), ("re.*é", True, -1))
            self.assertEqual((two.match, two.is_regex, two.rate), ("b", False, 777))
            self.assertNotEqual(one.xid, two.xid)
            answers = pair.send(receiver, AnswerSubscribe(two.xid, 17, "no"))
            self.assertEqual(answers, [SubscribeAnswered("b", 17, "no")])
            answers = pair.send(receiver, AnswerSubscribe(one.xid, 0, "OK"))
            self.assertEqual(answers, [SubscribeAnswered("re.*é", 0, "OK")])
            (three,) = pair.send(sender, Unsubscribe("b"))
            self.assertEqual(three, UnsubscribeWanted(three.xid, "b", False))
            answers = pair.send(receiver, AnswerUnsubscribe(three.xid, 2, "what"))
            self.assertEqual(answers, [UnsubscribeAnswered("b", 2, "what")])

    def test_answers_that_answer_nothing(self):
        """An answer to another question, or a second one, is ignored."""
        pair = LinkPair()
        (wanted,) = pair.send(pair.client, Subscribe("a"))
        ignored = [Refused("unknown_reply")]
        self.assertEqual(pair.send(pair.server, AnswerUnsubscribe(wanted.xid, 0, "OK")), ignored)
        self.assertEqual(pair.send(pair.server, AnswerSubscribe(bytes(8), 0, "OK")), ignored)
        good = [SubscribeAnswered("a", 0, "OK")]
        self.assertEqual(pair.send(pair.server, AnswerSubscribe(wanted.xid, 0, "OK")), good)
        self.assertEqual(pair.send(pair.server, AnswerSubscribe(wanted.xid, 0, "OK")), ignored)

    def test_service_off(self):
        """Subscriptions are answered with rc 95 here."""
        pair = LinkPair(server={"messages_enabled": False})
        text = "LDMS Message Service disabled"
        for command, answer in (
            (Subscribe("a"), SubscribeAnswered("a", 95, text)),
            (Unsubscribe("a"), UnsubscribeAnswered("a", 95, text)),
        ):
            pair.take(pair.client)
            self.assertEqual(pair.send(pair.client, command), [Refused("subscribe_off")])
            self.assertEqual(pair.take(pair.client), [answer])

    def test_long_match(self):
        """There is a limit to a match string, and a longer one gets an answer."""
        pair = LinkPair(server={"limits": Limits(match_bytes=10)})
        (wanted,) = pair.send(pair.client, Subscribe("0123456789"))
        self.assertIsInstance(wanted, SubscribeWanted)
        pair.take(pair.client)
        refused = pair.send(pair.client, Subscribe("0123456789x"))
        self.assertEqual(refused, [Refused("subscribe_too_long")])
        (answer,) = pair.take(pair.client)
        self.assertEqual(answer.rc, 36)

    def test_match_that_cannot_be_sent(self):
        """Text with a NUL would arrive as another text."""
        pair = LinkPair()
        error = self.assertRaises(PublishError, pair.client.send, Subscribe("a\0b"), NOW)
        self.assertEqual(error.rc, 22)
        self.assertEqual(pair.client.data_to_send(), b"")

    def test_bytes_that_are_no_text(self):
        """They come as surrogate escapes, which go out as they came."""
        pair = LinkPair()
        (wanted,) = pair.send(pair.client, Subscribe("a\udcff"))
        self.assertEqual(wanted.match, "a\udcff")
