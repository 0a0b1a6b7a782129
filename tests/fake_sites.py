"""A link site that remembers, and an authenticator that is told what to prove, for tests of what
talks over real links."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.interfaces import AuthStep, IAuthentication, IAuthenticator, ILink, ILinkSite
from ldmsjob.wire.events import Credential, Message, WireEvent


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


@implementer(IAuthenticator, IAuthentication)
class Proves:
    """Takes every peer for the same one; for nobody yet when that is None."""

    name = "none"

    def __init__(self, credential: Credential | None) -> None:
        self.credential = credential

    def configure(self, attributes: object) -> None:
        """Nothing to take."""

    def begin(self, **_: object) -> Proves:
        """The conversation."""
        return self

    def first(self) -> AuthStep:
        """Satisfied at once, or waits for a word that never comes."""
        return AuthStep(credential=self.credential)

    def received(self, payload: bytes) -> AuthStep:
        """Not said here."""
        raise NotImplementedError
