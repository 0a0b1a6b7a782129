"""A link site that remembers, for tests of transports."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.interfaces import ILink, ILinkSite
from ldmsjob.wire.events import Message, WireEvent


@implementer(ILinkSite)
class FakeSite:
    """Remembers what a transport tells. ``calls`` are the names of the calls, in order."""

    def __init__(self) -> None:
        self.links: list[ILink] = []
        self.events: list[WireEvent] = []
        self.reads: list[list[WireEvent]] = []
        self.closed: list[Failure] = []
        self.refused: list[tuple[str, str]] = []
        self.calls: list[str] = []
        self.on_events = lambda link, events: None

    def link_opened(self, link: ILink) -> None:
        """Remember it."""
        self.calls.append("opened")
        self.links.append(link)

    def link_events(self, link: ILink, events: Sequence[WireEvent]) -> None:
        """Remember them."""
        self.calls.append("events")
        self.reads.append(list(events))
        self.events += events
        self.on_events(link, events)

    def link_drained(self, link: ILink) -> None:
        """Remember it."""
        self.calls.append("drained")

    def link_closed(self, link: ILink, reason: Failure) -> None:
        """Remember it."""
        self.calls.append("closed")
        self.closed.append(reason)

    def link_refused(self, peer_address: str, reason: str) -> None:
        """Remember it."""
        self.calls.append("refused")
        self.refused.append((peer_address, reason))

    @property
    def bodies(self) -> list[bytes]:
        """What the messages said."""
        return [event.body for event in self.events if isinstance(event, Message)]
