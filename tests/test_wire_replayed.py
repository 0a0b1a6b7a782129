"""Recorded conversations answered by us: where the content is determined, with C's bytes.

For each recorded connection there is a passive ``LdmsConnection``, which hears what the C client
said, and an active one, which asks the same as that client and hears what the C server said. A
scripted owner of the passive ends gives the recorded content: sets as they were, messages to those
who had subscribed.

What is free, and left out of the comparison: xids of frames that answer nothing, the access that an
announcement grants (ours is for reading only) and what C puts behind its strings, padding and hop
times of forwarded messages.
"""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.wire import msg, setmessages, xprt, zap
from ldmsjob.wire.directory import read_directory
from ldmsjob.wire.events import (
    AnswerSubscribe,
    AnswerUnsubscribe,
    Forward,
    LinkUp,
    Message,
    Refused,
    ReturnCredit,
    Subscribe,
    SubscribeWanted,
    UnsubscribeWanted,
)
from ldmsjob.wire.setevents import (
    AnnounceSet,
    AnswerDirectory,
    AnswerReads,
    DirectoryAnswered,
    DirectoryWanted,
    LookUp,
    LookupWanted,
    MemoryRead,
    ReadMemory,
    ReadsWanted,
    SetAnnounced,
    WantDirectory,
)
from tests.linkpair import NOW, ROOT, connection
from tests.recorded import NAMES, conversation, streams

REPLAYED = [name for name in NAMES if name[0] in "abcdefj"]
TRAILER = len(b"lu_prflng\0") + 32
HEAD, MESSAGE_AT = 24, 24 + 16 + 32


def frames(data):
    """The whole frames at the beginning of ``data``, and what is behind them."""
    found, at = [], 0
    while len(data) - at >= zap.HEAD_BYTES:
        length = int.from_bytes(data[at + 4 : at + 8], "big")
        if len(data) - at < length:
            break
        found.append(data[at : at + length])
        at += length
    return found, data[at:]


def kind_of(frame):
    """Kind of a frame."""
    return int.from_bytes(frame[:2], "big")


def command_of(frame):
    """Command of a SENDRECV frame; None for others."""
    return int.from_bytes(frame[32:36], "big") if kind_of(frame) == zap.SENDRECV else None


def determined(frame):
    """The frame without what is free in it."""
    kind = kind_of(frame)
    if kind in (zap.READ_RESP, zap.WRITE_RESP):
        return frame
    frame = frame[:8] + b"????" + frame[12:]
    if kind == zap.RENDEZVOUS:
        strings = frame.find(b"lu_prflng\0")
        if strings > 0:
            frame = frame[:strings]
        frame = frame[:4] + b"????" + frame[8:24] + b"????" + frame[28:52] + b"????" + frame[56:]
    elif command_of(frame) == xprt.MSG:
        fixed = msg.MESSAGE_FIXED.parse(frame[MESSAGE_AT:])
        fields = {name: value for name, value in fixed.items() if isinstance(value, int)}
        hops = frame[MESSAGE_AT + 96 : MESSAGE_AT + 96 + 32 * (fields.pop("hop_count") - 1)]
        payload = frame[MESSAGE_AT + msg.BODY_OVERHEAD :]
        return frame[: HEAD + 16], bytes((frame[HEAD + 44] & 3,)), fields, hops, payload
    return frame


class Replay:
    """One recorded connection and our two ends of it."""

    def __init__(self, name, number):
        self.recorded = {
            from_client: frames(streams(name)[number, from_client])[0]
            for from_client in (True, False)
        }
        hello = xprt.CONNECTION_MESSAGE.parse(self.recorded[True][0][36:])
        answer = xprt.CONNECTION_MESSAGE.parse(self.recorded[False][0][24:])
        self.server_pid, self.client_pid = answer.pid, hello.pid
        self.passive = connection(
            True,
            pid=answer.pid,
            quota=answer.quota,
            rate=answer.rate,
            join_rail=lambda peer: None,
        )
        self.active = connection(
            False,
            pid=hello.pid,
            quota=hello.quota,
            rate=hello.rate,
            rail_gn=hello.rail_gn,
            endpoints=hello.endpoints,
            endpoint=hello.endpoint,
        )
        self.active.connect()
        self.sent = {True: b"", False: b""}  # by us, in the client's and in the server's place
        self.events = {True: [], False: []}  # of what the client, and the server said
        self.subscriptions = []
        self._rest = {True: b"", False: b""}
        self._read_xids = []  # those of our reads
        self._sets = {}
        self._read_announcements()

    def _read_announcements(self):
        self.announced = {}
        self.directories = {}
        self.data = {}
        for frame in self.recorded[False]:
            if kind_of(frame) == zap.RENDEZVOUS:
                xid, _, _ = setmessages.read_rendezvous(frame, 0, len(frame))
                announced, more = setmessages.read_announcement(frame, 0, len(frame))
                self.announced[xid] = (announced, more)
                self._sets[announced.key] = announced
            elif kind_of(frame) == zap.READ_RESP:
                self.data[frame[8:20]] = frame[36:]
            elif command_of(frame) == xprt.DIR_REPLY:
                text = setmessages.read_dir_reply(frame, HEAD, len(frame))[-1]
                self.directories[frame[HEAD : HEAD + 8]] = read_directory(text)

    def receive(self, from_client, data):
        """What one side of the recording said. Returns the messages in it."""
        whole, self._rest[from_client] = frames(self._rest[from_client] + data)
        events = []
        for frame in whole:
            end = self.passive if from_client else self.active
            if kind_of(frame) == zap.READ_RESP:
                frame = frame[:8] + self._read_xids.pop(0) + frame[12:]
            new = end.receive_data(frame, NOW)
            if new and isinstance(new[-1], LinkUp):
                new += end.authentication_step((), ROOT, NOW)
            if end.error is not None:
                raise AssertionError(end.error)
            events += new
            for event in new:
                if from_client:
                    self.ask_the_same(event)
                    self.answer(event)
            self.take_output()
        self.events[from_client] += events
        return [event for event in events if isinstance(event, Message)]

    def take_output(self):
        """Note what we sent."""
        self.sent[False] += self.passive.data_to_send()
        self.sent[True] += self.active.data_to_send()

    def ask_the_same(self, event):
        """Let our client ask what the recorded one has asked."""
        command = None
        if isinstance(event, DirectoryWanted):
            command = WantDirectory(int.from_bytes(event.xid, "big"), event.updates)
        elif isinstance(event, LookupWanted):
            token = int.from_bytes(event.xid, "big")
            command = LookUp(token, event.path, event.by_schema, event.is_regex)
        elif isinstance(event, ReadsWanted):
            (read,) = event.reads
            announced = self._sets[read.key]
            token = int.from_bytes(read.context, "big")
            command = ReadMemory(token, announced, read.address - announced.address, read.length)
        elif isinstance(event, SubscribeWanted):
            command = Subscribe(event.match, event.is_regex, event.rate)
        if command is not None:
            self.active.send(command, NOW)
            if isinstance(event, ReadsWanted):
                sent = self.active.data_to_send()
                self._read_xids.append(sent[8:12])
                self.sent[True] += sent

    def answer(self, event):
        """Let the owner of our server's end answer with the recorded content."""
        send = self.passive.send
        if isinstance(event, DirectoryWanted):
            send(AnswerDirectory(event.xid, self.directories[event.xid]), NOW)
        elif isinstance(event, LookupWanted):
            send(AnnounceSet(event.xid, *self.announced[event.xid]), NOW)
        elif isinstance(event, ReadsWanted):
            (read,) = event.reads
            data = memoryview(self.data[read.xid + read.context])
            send(AnswerReads([(read, 0, data)]), NOW)
        elif isinstance(event, SubscribeWanted):
            self.subscriptions.append(event)
            send(AnswerSubscribe(event.xid, 0, "OK"), NOW)
        elif isinstance(event, UnsubscribeWanted):
            self.subscriptions.clear()
            send(AnswerUnsubscribe(event.xid, 0, "OK"), NOW)
        elif isinstance(event, Message):
            send(ReturnCredit([event.credit]), NOW)

    def wants(self, channel):
        """Whether the recorded client has subscribed to that channel."""
        return any(
            re.search(one.match, channel) if one.is_regex else one.match == channel
            for one in self.subscriptions
        )


def replay(name):
    """All connections of a recording, played through."""
    links = {number: Replay(name, number) for number, _ in streams(name)}
    for payload in conversation(name):
        link = links[payload.connection]
        pid = link.server_pid if payload.from_client else link.client_pid
        for message in link.receive(payload.from_client, payload.data):
            for other in links.values():
                if other.server_pid == pid and other.wants(message.channel):
                    other.passive.send(Forward.of(message), NOW)
                    other.take_output()
    return links


class ReplayTests(SynchronousTestCase):
    """Both sides of conversations between unmodified C programs."""

    def setUp(self):
        """Play all of them."""
        self.links = {
            (name, number): link for name in REPLAYED for number, link in replay(name).items()
        }

    def test_server(self):
        """As server we answer each request with the bytes of the C daemon."""
        for place, link in self.links.items():
            ours = [determined(frame) for frame in frames(link.sent[False])[0]]
            recorded = [determined(frame) for frame in link.recorded[False]]
            self.assertEqual(len(ours), len(recorded), place)
            for mine, theirs in zip(ours, recorded, strict=True):
                self.assertEqual(mine, theirs, place)

    def test_client(self):
        """As client we ask for sets with the bytes of C programs."""
        commands = (xprt.DIR, xprt.LOOKUP)
        asked = 0
        for place, link in self.links.items():
            sides = [
                [
                    determined(frame)
                    for frame in side
                    if kind_of(frame) in (zap.CONNECT, zap.ACK_ACCEPTED, zap.READ_REQ)
                    or command_of(frame) in commands
                ]
                for side in (frames(link.sent[True])[0], link.recorded[True])
            ]
            self.assertEqual(*sides, place)
            asked += len(sides[0])
        self.assertGreater(asked, 60)

    def test_answers_of_c_daemons(self):
        """As client we understand each answer, and none is left over."""
        for place, link in self.links.items():
            events = link.events[False]
            refused = [event.reason for event in events if isinstance(event, Refused)]
            self.assertLessEqual(set(refused), {"daemon_response", "unknown_reply"}, place)
            # Xids of subscriptions are our own, so C's answers to them are not ours.
            commands = [command_of(frame) for frame in link.recorded[False]]
            subscriptions = commands.count(xprt.MSG_SUB_REPLY) + commands.count(
                xprt.MSG_UNSUB_REPLY
            )
            self.assertEqual(refused.count("unknown_reply"), subscriptions, place)
            answered = [event for event in events if isinstance(event, DirectoryAnswered)]
            self.assertEqual(
                [(event.token.to_bytes(8, "big"), event.entries, event.more) for event in answered],
                [(xid, sets, False) for xid, sets in link.directories.items()],
            )
            announced = [
                (event.announced, event.more) for event in events if isinstance(event, SetAnnounced)
            ]
            self.assertEqual(announced, list(link.announced.values()))
            read = [event.data for event in events if isinstance(event, MemoryRead)]
            self.assertEqual(read, list(link.data.values()))

    def test_there_is_something_in_them(self):
        """The recordings hold all kinds of what is compared."""
        kinds = {kind_of(frame) for link in self.links.values() for frame in link.recorded[False]}
        self.assertLessEqual({zap.RENDEZVOUS, zap.READ_RESP}, kinds)
        commands = [
            command_of(frame) for link in self.links.values() for frame in link.recorded[False]
        ]
        self.assertGreaterEqual(commands.count(xprt.DIR_REPLY), 6)
        self.assertGreaterEqual(commands.count(xprt.MSG), 6)
        reads = self.links["e_agg_pull", 1].data
        self.assertEqual(len(reads), 15)
