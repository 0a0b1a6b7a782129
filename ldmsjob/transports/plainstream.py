"""How a link treats the connection that it runs over; kinds of transport derive theirs from it."""

from __future__ import annotations

from typing import Any

from twisted.python.failure import Failure


class PlainStream:
    """How a link treats its transport; other kinds of transport know more to do. One for each
    link, unless it remembers nothing of it."""

    peer_address = ""
    """Where the peer is, for people, if only the connection tells it; from ``made`` on."""

    def made(self, transport: Any) -> None:
        """The connection is there: set it up."""

    def local_address(self, transport: Any) -> str:
        """Our own address, for authenticators."""
        return ""

    def objection(self, data: bytes) -> str:
        """Why the peer's first bytes are not to be taken for LDMS: a word to count, a colon, a text
        for people. Empty: no objection."""
        return ""

    def lost(self, reason: Failure) -> tuple[str, str] | None:
        """What the stream knows of the reason for which the connection ended by itself: a word to
        count and a text for people."""
        return None

    def unanswered(self, transport: Any) -> None:
        """A read has been dealt with, and nothing was written."""
