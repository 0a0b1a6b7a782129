"""When links write: once for all that one read brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldmsjob.transports.link import LinkProtocol


class Outbox:
    """Links that have something to write, collected while one read is dealt with.

    Inside ``with outbox:`` each link writes once, at the end; outside, each ``send`` writes. Links
    that serve one another, such as those of one daemon, share an outbox.
    """

    __slots__ = ("_depth", "_links")

    def __init__(self) -> None:
        self._depth = 0
        self._links: dict[LinkProtocol, None] = {}

    @property
    def collecting(self) -> bool:
        """Whether links wait with writing."""
        return self._depth > 0

    def add(self, link: LinkProtocol) -> None:
        """Have ``link`` write at the end of the block."""
        self._links[link] = None

    def __enter__(self) -> Outbox:
        """Begin, or nest in, a block."""
        self._depth += 1
        return self

    def __exit__(self, *_error: object) -> None:
        """End the block; the outermost one has the links write."""
        self._depth -= 1
        while self._links and not self._depth:
            links, self._links = self._links, {}
            for link in links:
                link.flush()
