"""What an ``LdmsConnection`` tells its owner, and what the owner may tell it to send.

``receive_data`` returns a list of *wire events*; ``send`` takes one *wire command*.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import msgspec

from ldmsjob.wire.setevents import SetCommand, SetEvent

STRING, JSON, AVRO = 0, 1, 2
"""Message types. Others are passed on unchanged."""

UNLIMITED = -1
"""A quota or rate without limit."""

MAX_HOPS = 8
"""A message that came over more hops than this is delivered here and not forwarded."""

BODY_OVERHEAD = 384
"""Bytes of a full message in front of its channel name."""

MAX_MESSAGE_BYTES = 1_048_104
"""Channel name with its NUL, and data: the most that one message to a C peer may have."""


class PeerInfo(msgspec.Struct, frozen=True, gc=False):
    """What the other side said of itself in its connection message."""

    auth: str
    pid: int
    messages_enabled: bool
    quota: int
    """Bytes of messages that may be under way to it at any time; -1 = unlimited."""
    rate: int
    """Bytes per second that it wants at most; -1 = unlimited."""


class Credential(msgspec.Struct, frozen=True, gc=False):
    """Who a peer or a message's publisher is."""

    uid: int
    gid: int
    groups: Container[int] = frozenset()
    """Further groups that the user is a member of."""


class SourceAddress(msgspec.Struct, frozen=True, gc=False):
    """Where a message was first published."""

    family: int
    """As on the wire: 0 unknown, 2 IPv4, 10 IPv6."""
    port: int
    address: bytes
    """16 bytes; an IPv4 address is the first four."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One complete message of the message service: wire event, and what subscribers receive."""

    channel: str
    """Bytes that are no UTF-8 are surrogate escapes in it."""
    kind: int
    """``STRING``, ``JSON``, ``AVRO`` or something newer."""
    uid: int
    """Who published it: checked against the link that brought it."""
    gid: int
    perm: int
    hop_count: int
    """Hops so far, this daemon included."""
    number: int
    """The publisher's own counter. Not unique."""
    source: SourceAddress | None
    """None when the publisher is on this host."""
    credit: int
    """What its sender gets back for it: length of channel name with NUL, and data."""
    image: bytes
    """The full message as received: fixed part, channel name, NUL, data."""
    body_offset: int
    """Where the data starts in ``image``."""
    received_us: int = 0
    """When it came: wall-clock microseconds. 0 for a message that no link brought."""

    @property
    def body(self) -> bytes:
        """The data without the trailing NUL that C publishers add to text."""
        image = self.image
        if image and not image[-1]:
            return image[self.body_offset : -1]
        return image[self.body_offset :]


# What a connection reports


class LinkUp(msgspec.Struct, frozen=True, gc=False):
    """The handshake is done; authentication is the owner's turn.

    Parsing stops here until ``LdmsConnection.authentication_step`` is called.
    """

    peer: PeerInfo


class AuthReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer's next authentication message. Parsing stops as for ``LinkUp``."""

    payload: bytes


class SubscribeWanted(msgspec.Struct, frozen=True, gc=False):
    """The peer wants messages. Answer with ``AnswerSubscribe``."""

    xid: bytes
    match: str
    is_regex: bool
    rate: int


class UnsubscribeWanted(msgspec.Struct, frozen=True, gc=False):
    """The peer wants them no longer. Answer with ``AnswerUnsubscribe``."""

    xid: bytes
    match: str
    is_regex: bool


class SubscribeAnswered(msgspec.Struct, frozen=True, gc=False):
    """The peer's answer to our ``Subscribe``. Accepted only if ``rc`` is 0 and the text ``OK``."""

    match: str
    rc: int
    text: str


class UnsubscribeAnswered(msgspec.Struct, frozen=True, gc=False):
    """The peer's answer to our ``Unsubscribe``."""

    match: str
    rc: int
    text: str


class CreditReturned(msgspec.Struct, frozen=True, gc=False):
    """The peer is done with messages of ours; the quota is already corrected.

    ``rc`` 95: its message service is off, and nothing more may be published on this link.
    """

    credit: int
    """Of all of them together."""
    rc: int
    count: int = 1
    """How many they are."""


class QuotaChanged(msgspec.Struct, frozen=True, gc=False):
    """The peer wants another quota. This connection knows already, others of its rail do not."""

    quota: int


class RateChanged(msgspec.Struct, frozen=True, gc=False):
    """The peer wants another rate. This connection knows already, others of its rail do not."""

    rate: int


class DaemonRequest(msgspec.Struct, frozen=True, gc=False):
    """The peer asks something of the daemon. Answer with ``AnswerDaemonRequest``. Comes only for
    the numbers that the connection was told of; others have had their answer."""

    number: int
    """The peer's own, for the answer."""
    code: int
    """What it asks."""
    attributes: Sequence[tuple[int, bytes]] = ()


class DaemonAnswer(msgspec.Struct, frozen=True, gc=False):
    """The peer's answer to our ``AskDaemon``, complete."""

    number: int
    error: int
    """An errno; 0 where all is well."""
    attributes: Sequence[tuple[int, bytes]] = ()


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A request that was answered with a refusal, or a message that was dropped; for counting."""

    reason: str
    """A short word for a counter, e.g. ``dir`` or ``bad_credential``."""


WireEvent = (
    LinkUp
    | AuthReceived
    | Message
    | SubscribeWanted
    | UnsubscribeWanted
    | SubscribeAnswered
    | UnsubscribeAnswered
    | CreditReturned
    | QuotaChanged
    | RateChanged
    | DaemonRequest
    | DaemonAnswer
    | Refused
    | SetEvent
)


# What its owner may send


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Publish a message of our own. ``data`` of text must end in NUL, which C readers need."""

    channel: str
    data: bytes
    kind: int = JSON
    uid: int = 0
    gid: int = 0
    perm: int = 0o440

    @property
    def credit(self) -> int:
        """What the peer will return for it."""
        return len(self.channel.encode("utf-8", "surrogateescape")) + 1 + len(self.data)

    @property
    def count(self) -> int:
        """One message."""
        return 1

    def singly(self) -> Sequence[Publish]:
        """It is one message."""
        return (self,)


class Forward(msgspec.Struct, gc=False):
    """Pass on messages that other links brought: all of them, or none.

    The same command may be sent to any number of peers: its bytes are made once for all.
    """

    messages: Sequence[Message]
    count: int
    """How many messages there are."""
    credit: int
    """Of all of them together."""
    frames: bytes = b""
    """For ``wire.msg.forwarded`` only: what it made of them, and when."""
    framed_us: int = 0
    singles: Sequence[Forward] = ()
    """For ``singly`` only."""

    @classmethod
    def of(cls, *messages: Message) -> Forward:
        """The command for these messages."""
        return cls(messages, len(messages), sum([message.credit for message in messages]))

    def singly(self) -> Sequence[Forward]:
        """A command for each of the messages, the same at every call."""
        if not self.singles:
            self.singles = [Forward.of(message) for message in self.messages]
        return self.singles


class ReturnCredit(msgspec.Struct, frozen=True, gc=False):
    """Return the credit of messages that have been dealt with, one frame for each."""

    amounts: Sequence[int]
    rc: int = 0


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """Ask the peer for messages."""

    match: str
    is_regex: bool = False
    rate: int = UNLIMITED


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """Ask the peer for them no longer."""

    match: str
    is_regex: bool = False


class AnswerSubscribe(msgspec.Struct, frozen=True, gc=False):
    """Answer a ``SubscribeWanted``."""

    xid: bytes
    rc: int
    text: str


class AnswerUnsubscribe(msgspec.Struct, frozen=True, gc=False):
    """Answer an ``UnsubscribeWanted``."""

    xid: bytes
    rc: int
    text: str


class ChangeQuota(msgspec.Struct, frozen=True, gc=False):
    """Have the peer keep to another quota from now on. Not from or to -1 with C peers, which lose
    count then. On a rail it is sent on endpoint 0 and is for each endpoint."""

    quota: int


class ChangeRate(msgspec.Struct, frozen=True, gc=False):
    """Have the peer keep to another rate from now on. On a rail as for ``ChangeQuota``."""

    rate: int


class AskDaemon(msgspec.Struct, frozen=True, gc=False):
    """Ask something of the peer's daemon. ``number`` is our own: no other request on this
    connection that waits for its answer may have it."""

    number: int
    code: int


class AnswerDaemonRequest(msgspec.Struct, frozen=True, gc=False):
    """Answer a ``DaemonRequest``."""

    number: int
    error: int
    attribute: int
    value: bytes


WireCommand = (
    Publish
    | Forward
    | ReturnCredit
    | Subscribe
    | Unsubscribe
    | AnswerSubscribe
    | AnswerUnsubscribe
    | ChangeQuota
    | ChangeRate
    | AskDaemon
    | AnswerDaemonRequest
    | SetCommand
)
