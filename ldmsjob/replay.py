"""Recorded Slurm messages, and sending them the way Slurm's notifier does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.errors import PublishError
from ldmsjob.interfaces import ILink, ILinkSite, LinkSettings
from ldmsjob.wire.events import JSON, CreditReturned, Publish, WireEvent
from ldmsjob.wire.setevents import SetEvent

if TYPE_CHECKING:
    from ldmsjob.interfaces import IAuthenticator, ITransport

CHANNEL = "slurm"
"""Where the notifier publishes unless told otherwise."""


class RecordedMessage(msgspec.Struct, frozen=True):
    """One message as the notifier sent it."""

    scenario: str
    offset_ms: float
    """Arrival after the first message of its scenario."""
    payload: bytes
    """The data, its trailing NUL included."""


def recorded_messages(scenarios: Iterable[str] | None = None) -> list[RecordedMessage]:
    """The recorded messages of those scenarios, in the order given; None: of all, as recorded.

    Raises ``KeyError`` for a scenario that was not recorded.
    """
    lines = (resources.files("ldmsjob.recordings") / "slurm-messages.jsonl").read_text("utf-8")
    found: dict[str, list[RecordedMessage]] = {}
    for line in lines.splitlines():
        record = json.loads(line)
        content = record["message"]
        text = record["raw"] if content is None else json.dumps(content, separators=(",", ":"))
        payload = text.encode() + b"\0"
        found.setdefault(record["scenario"], []).append(
            RecordedMessage(record["scenario"], record["t_offset_ms"], payload)
        )
    names = found if scenarios is None else scenarios
    return [message for name in names for message in found[name]]


@implementer(ILinkSite)
class _OneMessage:
    """Publishes one message on a link of its own, waits for the credit and closes."""

    def __init__(self, message: Publish) -> None:
        self.done: Deferred[None] = Deferred()
        self._message = message
        self._error: Failure | None = None
        self._credited = False

    def link_opened(self, link: ILink) -> None:
        try:
            link.send(self._message)
        except PublishError:
            self._error = Failure()
            link.close()

    def link_events(self, link: ILink, events: Sequence[WireEvent | SetEvent]) -> None:
        for event in events:
            if type(event) is CreditReturned:
                self._credited = True
                if event.rc:
                    text = "the daemon's message service is off"
                    self._error = Failure(PublishError(text, rc=event.rc))
                link.close()

    def link_drained(self, link: ILink) -> None:
        """One message needs no waiting."""

    def link_closed(self, link: ILink, reason: Failure) -> None:
        if self._error is not None:
            self.done.errback(self._error)
        elif self._credited:
            self.done.callback(None)
        else:
            self.done.errback(reason)

    def link_refused(self, peer_address: str, reason: str) -> None:
        """Nothing to do: ``connect`` fails, too."""


class Notifier:
    """Sends messages as Slurm's notifier does: a connection for each, closed after its credit."""

    def __init__(
        self, transport: ITransport, authenticator: IAuthenticator, host: str, port: int
    ) -> None:
        self._transport = transport
        self._authenticator = authenticator
        self._host = host
        self._port = port
        self._settings = LinkSettings(messages_enabled=lambda: True)

    def send(self, payload: bytes, channel: str = CHANNEL) -> Deferred[None]:
        """Publish ``payload``; fires when the daemon has returned the credit and the link is gone.

        Fails with the reason when there was no connection, or it ended before the credit came.
        """
        site = _OneMessage(Publish(channel, payload, kind=JSON, uid=os.geteuid(), gid=os.getegid()))
        connecting = self._transport.connect(
            self._host, self._port, site, self._authenticator, self._settings
        )
        connecting.addCallbacks(lambda link: None, site.done.errback)
        return site.done
