"""Links that remember what they were told, for tests of what owns links."""

from __future__ import annotations

import errno

from zope.interface import implementer

from ldmsjob.errors import PublishError
from ldmsjob.interfaces import ILink, IRail
from ldmsjob.wire.events import (
    BODY_OVERHEAD,
    JSON,
    UNLIMITED,
    Credential,
    Forward,
    Message,
    PeerInfo,
    Publish,
    ReturnCredit,
    WireCommand,
)
from ldmsjob.wire.setevents import SetCommand

ROOT = Credential(0, 0)


def message(
    channel: str = "slurm",
    data: bytes = b"{}\0",
    *,
    uid: int = 0,
    gid: int = 0,
    perm: int = 0o440,
    hop_count: int = 1,
    number: int = 0,
) -> Message:
    """A message as a link brings it."""
    name = channel.encode() + b"\0"
    return Message(
        channel=channel,
        kind=JSON,
        uid=uid,
        gid=gid,
        perm=perm,
        hop_count=hop_count,
        number=number,
        source=None,
        credit=len(name) + len(data),
        image=bytes(BODY_OVERHEAD) + name + data,
        body_offset=BODY_OVERHEAD + len(name),
    )


@implementer(ILink)
class FakeLink:
    """An open link. ``room`` is what the peer may still be sent, or None for any amount."""

    def __init__(
        self,
        name: str = "peer",
        *,
        credential: Credential = ROOT,
        quota: int = UNLIMITED,
    ) -> None:
        self.peer_address = name
        self.credential = credential
        self.rail: IRail | None = None
        self.endpoint = 0
        self.paced = False
        self.peer = PeerInfo(auth="none", pid=1, messages_enabled=True, quota=quota, rate=UNLIMITED)
        self.room = None if quota == UNLIMITED else quota
        self.sent: list[WireCommand | SetCommand] = []
        self.choked = False
        self.refuse_rc = 0
        self.reading = True
        self.state = "open"

    def can_publish(self, size: int) -> bool:
        """Whether ``room`` is left."""
        return self.room is None or size <= self.room

    def waits_for_second(self, size: int) -> bool:
        """Whether ``paced`` says so."""
        return self.paced

    def has_room(self) -> bool:
        """Whether it is not ``choked``."""
        return not self.choked

    def send(self, command: WireCommand | SetCommand) -> None:
        """Remember it, and take a message's size off ``room``."""
        if self.state != "open":
            return
        if isinstance(command, (Forward, Publish)):
            if self.refuse_rc:
                raise PublishError("refused", rc=self.refuse_rc)
            size = command.credit
            if self.room is not None:
                if size > self.room:
                    raise PublishError("no room", rc=errno.EAGAIN)
                self.room -= size
        self.sent.append(command)

    def pause_reading(self) -> None:
        """Twice in a row is a mistake of the owner."""
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        """Twice in a row is a mistake of the owner."""
        assert not self.reading
        self.reading = True

    def close(self) -> None:
        """Closed politely."""
        self.state = "closed"

    def abort(self, reason: str) -> None:
        """Closed at once."""
        self.state = f"aborted: {reason}"

    @property
    def credits(self) -> list[int]:
        """Credit returned to this peer so far."""
        return [
            amount
            for command in self.sent
            if isinstance(command, ReturnCredit)
            for amount in command.amounts
        ]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the messages forwarded to this peer, in order."""
        return [
            message.number
            for command in self.sent
            if isinstance(command, Forward)
            for message in command.messages
        ]


@implementer(IRail)
class FakeRail:
    """A rail of links that remember; ``link(index)`` opens one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.links: dict[int, FakeLink] = {}

    def link(self, index: int, quota: int = -1) -> FakeLink:
        """One more endpoint is open."""
        link = FakeLink(f"endpoint {index}", quota=quota)
        link.rail, link.endpoint = self, index
        self.links[index] = link
        return link

    def link_for(self, command: object) -> FakeLink:
        """Not asked for here."""
        raise NotImplementedError
