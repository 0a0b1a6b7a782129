"""Targets around the wire: frames, connections, links of a daemon and of a reader, messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ldmsjob.errors import AuthFailed, PeerError, PublishError
from ldmsjob.interfaces import AuthStep, IAuthentication, LinkSettings
from ldmsjob.jobmgr.slurm import SlurmJobManager
from ldmsjob.peer import Peer
from ldmsjob.testing import FakeDaemon, FakeJobManagerContext
from ldmsjob.transports.auth_naive import NaiveAuthentication, NaiveAuthenticator
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.auth_ovis import OvisAuthentication, hash_of
from ldmsjob.transports.link import LinkProtocol
from ldmsjob.transports.outbox import Outbox
from ldmsjob.transports.plainstream import PlainStream
from ldmsjob.wire import credit, msg, request, xprt, zap
from ldmsjob.wire.buffers import Limits, ReceiveBuffer
from ldmsjob.wire.connection import LdmsConnection
from ldmsjob.wire.events import (
    BODY_OVERHEAD,
    AskDaemon,
    AuthReceived,
    Credential,
    LinkUp,
    Message,
    Subscribe,
    WireEvent,
)
from ldmsjob.wire.setevents import (
    AnnouncedSet,
    LookUp,
    ReadMemory,
    WantDirectory,
    WantNotify,
    WantPush,
)
from tests.fuzz.compose import composed, composed_seeds, daemon_record, fragment
from tests.fuzz.seeds import (
    WALL_US,
    ask_everything,
    conversation,
    new_site,
    recorded_streams,
)
from tests.fuzz.target import Script, cuts, expect, same
from tests.linkpair import joined

ROOT = Credential(0, 0)
CREDENTIALS = (ROOT, Credential(1000, 100), Credential(1001, 100))

# Frames


def _cut_frames(pieces: Sequence[bytes]) -> tuple[list[bytes], str]:
    """The frames in a stream, and what ends it."""
    buffer, frames, wanted = ReceiveBuffer(), [], 0
    for piece in pieces:
        data = buffer.take(piece)
        if data is None:
            continue
        at, end, wanted = 0, len(data), zap.HEAD_BYTES
        while end - at >= zap.HEAD_BYTES:
            try:
                kind, length = zap.read_head(data, at, zap.MAX_FRAME)
                if end - at < length:
                    wanted = length
                    break
                body = zap.body_at(kind, data, at, length)
                if kind == zap.SENDRECV:
                    xprt.read_request_head(data, body, at + length)
            except PeerError as error:
                return frames, str(error)
            frames.append(data[at : at + length])
            at += length
        if at < end:
            buffer.keep(data, at, wanted)
        expect(len(buffer) <= wanted, "more is kept than a frame")
    return frames, ""


def frames(data: bytes) -> None:
    """Any bytes are frames or an error, the same however they are cut."""
    size, stream = data[:1], data[1:]
    whole = _cut_frames([stream])
    same(whole, _cut_frames(cuts(stream, 1)), "byte by byte")
    same(whole, _cut_frames(cuts(stream, (size or b"\7")[0] + 1)), "in pieces")


def stream_seeds() -> Iterator[bytes]:
    """The recorded streams."""
    for _, _, data in recorded_streams():
        yield b"\x10" + data
    for data in conversation():
        yield b"\x10" + data


# Connections


def _asked(connection: LdmsConnection) -> None:
    """What a reader asks; answers may come to all of it."""
    announced = AnnouncedSet(b"key1", 4096, b"set-----", 512, 256, 2, 2, "some", "node/a", ())
    for command in (
        WantDirectory(1, True),
        LookUp(2, "node/a"),
        LookUp(3, "some", True, True),
        ReadMemory(4, announced, 0, 512),
        ReadMemory(5, announced, 0, 1024),
        WantPush(announced, b"\6".ljust(8, b"\0"), True),
        WantNotify(7, announced.set_id, 3),
        Subscribe("slurm"),
        AskDaemon(1, request.STATUS),
    ):
        connection.send(command, WALL_US)


def _feed(options: int, pieces: Sequence[bytes]) -> tuple[list[WireEvent], bytes, str]:
    """All events (``joined``), all that was sent, and the error, of a connection fed with pieces.

    ``options``: 1 passive, 2 messages on, 4 and 8 the number of authentication messages, 16 asks
    for things first, 32 with small limits.
    """
    passive = bool(options & 1)
    limits = Limits() if not options & 32 else SMALL
    connection = LdmsConnection(
        passive,
        auth_name="none",
        messages_enabled=bool(options & 2),
        pid=1,
        rail_gn=7,
        join_rail=lambda _claim: None,
        requests=(request.STATUS,),
        limits=limits,
    )
    if not passive:
        connection.connect()
    left = options >> 2 & 3
    events: list[WireEvent] = []
    sent = b""
    most = zap.MAX_FRAME + limits.partial_message_bytes + limits.partial_request_bytes
    for piece in pieces:
        new = connection.receive_data(piece, WALL_US)
        while new:
            events += new
            last, new = new[-1], []
            if isinstance(last, AuthReceived):
                left -= 1
            if isinstance(last, (LinkUp, AuthReceived)):
                done = left <= 0
                new = connection.authentication_step((), ROOT if done else None, WALL_US)
                if done and options & 16:
                    _asked(connection)
        sent += connection.data_to_send()
        expect(connection.buffered_bytes <= most, "more is kept than the limits say")
        if connection.error is not None:
            expect(not connection.buffered_bytes, "something is kept behind an error")
            break
    return joined(events), sent, str(connection.error or "")


SMALL = Limits(
    message=2048,
    partial_messages=3,
    partial_message_bytes=3000,
    partial_requests=3,
    partial_request_bytes=1000,
    daemon_answer=1000,
    match_bytes=100,
    announced_sets=4,
    unanswered_deletions=4,
)


def link(data: bytes) -> None:
    """Any bytes give events and at most one error, the same however they are cut."""
    script = Script(data)
    _compare(script.number(), script.number(), script.rest())


def link_composed(data: bytes) -> None:
    """The same with a handshake and frames that are made to get far."""
    script = Script(data)
    options, size = script.number(), script.number()
    _compare(options, size, _hello(bool(options & 1)) + composed(script))


def _compare(options: int, size: int, stream: bytes) -> None:
    # What is asked is sent behind a read: with a cut in another place it would be sent earlier.
    whole = _feed(options & ~16, [stream])
    same(whole, _feed(options & ~16, cuts(stream, size + 1)), "in pieces")
    if len(stream) < 3000:
        same(whole, _feed(options & ~16, cuts(stream, 1)), "byte by byte")
    if options & 16:
        _feed(options, cuts(stream, size + 1))


def _hello(passive: bool, auth: str = "none") -> bytes:
    """What a peer says until the link is up."""
    message = xprt.ConnectionMessage(auth, -1, -1, 9, 5, True).encode()
    if passive:
        return zap.connect_frame(message) + zap.counted_frame(zap.ACK_ACCEPTED)
    return zap.counted_frame(zap.ACCEPTED, message)


def link_seeds() -> Iterator[bytes]:
    """The recorded streams with their ways to authenticate."""
    for name, from_client, data in recorded_streams():
        authentications = {"naive": 1, "munge": 1, "ovis": 2}.get(name.rpartition("_")[2], 0)
        yield bytes((from_client | 2 | authentications << 2, 60)) + data
    reader, owner = conversation()
    yield bytes((1 | 2, 200)) + reader
    yield bytes((2 | 16, 200)) + owner


# Links of a daemon, and of a reader of sets


class _Wire:
    """The socket's side of a link: counts what is written, and forgets it."""

    disconnecting = False

    def __init__(self) -> None:
        self.closed = False
        self.written = 0

    def write(self, data: bytes) -> None:
        """Count it."""
        self.written += len(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Nothing is ever held up."""

    def unregisterProducer(self) -> None:
        """Nothing is ever held up."""

    def pauseProducing(self) -> None:
        """What comes, comes."""

    def resumeProducing(self) -> None:
        """What comes, comes."""

    def loseConnection(self) -> None:
        """Closed."""
        self.closed = True

    abortConnection = loseConnection  # noqa: N815


class _Ovis:
    """A fixed challenge, so that an input has one meaning."""

    name = "ovis"

    def begin(self, *, passive: bool, **_: object) -> OvisAuthentication:
        """The conversation."""
        return OvisAuthentication(b"secretword", 1, passive=passive)


_AUTHENTICATORS: Sequence[Any] = (NoneAuthenticator(), NaiveAuthenticator(), _Ovis())


def _play(site: Any, options: int, clock: Clock, stream: bytes, size: int, passive: bool) -> None:
    """Have a link of a site bring these bytes, and end."""
    authenticator = _AUTHENTICATORS[options % len(_AUTHENTICATORS)]
    end = LinkProtocol(
        passive=passive,
        site=site,
        authenticator=authenticator,
        settings=LinkSettings(messages_enabled=lambda: True, requests=frozenset((request.STATUS,))),
        clock=clock,
        outbox=Outbox(),
        stream=PlainStream(),
        peer_address="fuzz",
        rail_gn=7,
        wall_clock_us=lambda: WALL_US,
    )
    wire = _Wire()
    end.makeConnection(wire)  # type: ignore[arg-type]
    if options & 64:
        stream = _hello(passive, authenticator.name) + stream
    for piece in cuts(stream, 8 * size + 1):
        end.dataReceived(piece)
        if wire.closed:
            break
        if isinstance(site, Peer) and site.is_open and options & 128 and not size % 2:
            options &= ~128
            ask_everything(site)
    end.connectionLost(Failure(ConnectionDone()))
    expect(not isinstance(site, Peer) or not site.is_open, "the peer is open behind its end")


def daemon(data: bytes, compose: bool = False) -> None:
    """A daemon with a job manager and sets outlives any link, and keeps no call of it."""
    script = Script(data)
    options, size = script.number(), script.number()
    fake = FakeDaemon()
    manager = SlurmJobManager(FakeJobManagerContext(fake))
    manager.configure({})
    manager.start()
    clock = Clock()
    site, _ = new_site(clock, fake.hub)
    stream = composed(script) if compose else script.rest()
    _play(site, options, clock, stream, size, True)
    same(len(site.links), 0, "links that are left")
    for _ in range(4):
        clock.advance(2)
    site.close()
    same(clock.getDelayedCalls(), [], "calls that are left")


def daemon_composed(data: bytes) -> None:
    """The same with frames that are made to get far."""
    daemon(data, compose=True)


def peer(data: bytes, compose: bool = False) -> None:
    """A reader of sets outlives any owner, and every request of its comes to an end."""
    script = Script(data)
    options, size = script.number(), script.number()
    clock = Clock()
    reader = Peer(clock, timeout=5, max_set_bytes=65_536)
    stream = composed(script) if compose else script.rest()
    _play(reader, options, clock, stream, size, False)
    same(clock.getDelayedCalls(), [], "calls that are left")


def peer_composed(data: bytes) -> None:
    """The same with frames that are made to get far."""
    peer(data, compose=True)


def daemon_seeds() -> Iterator[bytes]:
    """What clients say."""
    yield bytes((0, 30)) + conversation()[0]
    for name, from_client, data in recorded_streams():
        if from_client:
            options = {"naive": 1, "ovis": 2}.get(name.rpartition("_")[2], 0)
            yield bytes((options, 30)) + data


def peer_seeds() -> Iterator[bytes]:
    """What owners of sets say."""
    yield bytes((129, 30)) + conversation()[1]
    for name, from_client, data in recorded_streams():
        if not from_client and "_auth_" not in name:
            yield bytes((129, 30)) + data


def made_seeds(options: int) -> Callable[[], Iterator[bytes]]:
    """Composed streams with these options."""

    def seeds() -> Iterator[bytes]:
        for one in composed_seeds():
            yield bytes((options, 40)) + one[2:]

    return seeds


# Messages in fragments


def messages(data: bytes) -> None:
    """Messages come out whole and once, credit is never given back twice, and what is kept has a
    bound; all of it the same for every cutting, which fragments are."""
    script = Script(data)
    publisher = script.choice(CREDENTIALS)
    output: list[bytes] = []
    reader = msg.MessageReader(publisher, None, output, SMALL)
    events: list[WireEvent] = []
    spent = 0
    for _ in range(64):
        if not script:
            break
        one = fragment(script)
        if script.number() % 8 == 0:
            one = one[: script.number()].ljust(16, b"\0")
        try:
            reader.read_fragment(one, 0, len(one), True, WALL_US, events)
        except PeerError:
            break
        if len(one) >= 48 + BODY_OVERHEAD and one[44] & msg.FIRST:
            spent += int.from_bytes(one[48 + 64 : 48 + 68], "big")
        expect(reader.kept_bytes <= SMALL.partial_message_bytes, "too much is kept")
    returned = 0
    for frame in output:
        returned += credit.read_credit_run(frame, 0, len(frame))[2]
    for event in events:
        if isinstance(event, Message):
            same(len(event.image), BODY_OVERHEAD + event.credit, "length of a message")
            expect(event.image.find(b"\0", BODY_OVERHEAD) == event.body_offset - 1, "its name")
            returned += event.credit
            try:
                msg.forward_frames([event], WALL_US)
            except PublishError:
                pass
    expect(returned <= spent, f"{returned} bytes of credit for {spent}")


def message_seeds() -> Iterator[bytes]:
    """Messages in one, two and three fragments."""
    yield bytes(range(200))
    for flags in (0, 1, 2, 3):
        one = bytes((1, flags, 0, 0, 0, 5)) + b"hello" + bytes((0, 0, 0, 1))
        for count in (1, 3):
            yield b"\0" + one * count


# Daemon requests


def daemon_requests(data: bytes) -> None:
    """Any records are answered or given on, and what is kept has a bound."""
    script = Script(data)
    reader = request.RequestReader(SMALL, (request.STATUS,))
    for number in range(3):
        reader.asked(number)
    most = SMALL.partial_request_bytes + 3 * SMALL.daemon_answer
    while script:
        record = daemon_record(script) if script.number() % 8 else script.text()
        answer, _ = reader.receive(record)
        expect(answer is None or len(answer) < 200, "a long answer")
        for event in reader.events:
            for _attribute, value in event.attributes:
                expect(isinstance(value, bytes), "a value that is none")
        reader.events.clear()
        expect(0 <= reader.kept_bytes <= most + len(record), "too much is kept")
    for payload in (request.request(1, 2), *request.responses(1, 0, request.JSON, data)):
        reader.receive(payload)


def request_seeds() -> Iterator[bytes]:
    """Requests and answers in records."""
    for kind in (1, 2):
        for flags in (1, 2, 3):
            yield bytes((1, kind, flags, 0, 0, 1, 3)) + b"abc" + bytes((16, 0, 0))
    yield bytes(range(1, 120))


# Authentication


def authentication(data: bytes) -> None:
    """Whatever a peer says, it is refused by name or not known yet; nobody who does not know the
    secret is let in."""
    script = Script(data)
    claim: IAuthentication = NaiveAuthentication(ROOT)
    claim.first()
    try:
        step = claim.received(script.text())
        expect(isinstance(step, AuthStep), "no step")
    except AuthFailed:
        pass
    for passive in (True, False):
        shared = OvisAuthentication(b"secretword", 77, passive=passive)
        shared.first()
        try:
            for _ in range(3):
                payload = script.text()
                verdict = shared.received(payload)
                if verdict.credential is not None:
                    expect(hash_of(77, b"secretword") in payload, "let in without the secret")
                    break
        except AuthFailed:
            pass


def authentication_seeds() -> Iterator[bytes]:
    """The conversations of ovis."""
    challenge = b"\x01\0\0\0" + bytes(8)
    answer = b"\x02\0\0\0" + hash_of(77, b"secretword") + b"\0"
    for second in (challenge, answer, answer[:-1] + b"x"):
        both = b"".join(bytes((len(one),)) + one for one in (challenge, second))
        yield b"\x08" + bytes(8) + both + both
