"""Two ``LdmsConnection`` back to back."""

from __future__ import annotations

from typing import Any

from ldmsjob.wire.connection import LdmsConnection
from ldmsjob.wire.events import (
    Credential,
    CreditReturned,
    LinkUp,
    ReturnCredit,
    WireCommand,
    WireEvent,
)
from ldmsjob.wire.events import Message as WireMessage
from ldmsjob.wire.setevents import ReadsWanted

NOW = 1_796_000_000_123_456
ROOT = Credential(0, 0)


def connection(passive: bool, **changes: Any) -> LdmsConnection:
    """A connection as most tests want it."""
    arguments: dict[str, Any] = {
        "auth_name": "none",
        "messages_enabled": True,
        "pid": 2 if passive else 1,
        "rail_gn": None if passive else 7,
        "join_rail": (lambda _claim: None) if passive else None,
    }
    arguments.update(changes)
    return LdmsConnection(passive, **arguments)


class LinkPair:
    """A client and a server, connected and authenticated, and the events that each of them got.

    ``credentials`` are what the client, and what the server, takes the other for.
    """

    def __init__(
        self,
        client: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        credentials: tuple[Credential, Credential] = (ROOT, ROOT),
    ) -> None:
        self.client = connection(False, **(client or {}))
        self.server = connection(True, **(server or {}))
        self.events: dict[LdmsConnection, list[WireEvent]] = {self.client: [], self.server: []}
        self._credentials = dict(zip((self.client, self.server), credentials, strict=True))
        self.client.connect()
        self.settle()

    def other(self, end: LdmsConnection) -> LdmsConnection:
        """The end that ``end`` talks to."""
        return self.server if end is self.client else self.client

    def settle(self) -> None:
        """Move bytes until neither end has any to send."""
        while self._move(self.client) or self._move(self.server):
            pass

    def _move(self, sender: LdmsConnection) -> bool:
        data = sender.data_to_send()
        receiver = self.other(sender)
        events = receiver.receive_data(data, NOW) if data else []
        self.events[receiver] += events
        if events and isinstance(events[-1], LinkUp):
            self.events[receiver] += receiver.authentication_step(
                (), self._credentials[receiver], NOW
            )
        return bool(data)

    def send(self, sender: LdmsConnection, command: WireCommand) -> list[WireEvent]:
        """Send a command and return what it makes the other end report."""
        sender.send(command, NOW)
        return self.exchange(sender)

    def exchange(self, sender: LdmsConnection) -> list[WireEvent]:
        """Move what there is to send, and return what the other end of ``sender`` reports."""
        self.take(self.other(sender))
        self.settle()
        return self.take(self.other(sender))

    def take(self, end: LdmsConnection) -> list[WireEvent]:
        """The events that ``end`` got since the last call."""
        events, self.events[end] = self.events[end], []
        return events

    def return_credit(self, end: LdmsConnection, events: list[WireEvent]) -> list[WireEvent]:
        """Let ``end`` return the credit of the messages among ``events``."""
        amounts = [event.credit for event in events if isinstance(event, WireMessage)]
        return self.send(end, ReturnCredit(amounts))


def joined(events: list[Any]) -> list[Any]:
    """Events, with those together that tell of several frames if these come in one read."""
    result: list[Any] = []
    for event in events:
        last = result[-1] if result else None
        if type(event) is type(last) is CreditReturned and event.rc == last.rc:
            credit, count = last.credit + event.credit, last.count + event.count
            result[-1] = CreditReturned(credit, event.rc, count)
        elif type(event) is type(last) is ReadsWanted:
            result[-1] = ReadsWanted([*last.reads, *event.reads])
        else:
            result.append(event)
    return result
