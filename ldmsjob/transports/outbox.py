"""When links write: once for all that one read brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldmsjob.transports.link import LinkProtocol


class Outbox:
    """Links that have something to write, collected while one read is dealt with.

    Inside ``with outbox:`` each link writes once, at the end; outside, each ``send`` writes. Links
    that serve one another, such as those of one daemon, share an outbox. ``begin`` and ``end`` do
    the same as a block, at a quarter of the price.
    """

    __slots__ = ("_links", "depth")

    def __init__(self) -> None:
        self.depth = 0
        """How many blocks are open; links wait with writing while there are any."""
        self._links: dict[LinkProtocol, None] = {}

    def add(self, link: LinkProtocol) -> None:
        """Have ``link`` write at the end of the block."""
        self._links[link] = None

    def begin(self) -> None:
        """Begin, or nest in, a block. Whatever happens, ``end`` must follow."""
        self.depth += 1

    def end(self) -> None:
        """End what was begun last; the outermost end has the links write."""
        self.depth -= 1
        while self._links and not self.depth:
            links, self._links = self._links, {}
            for link in links:
                link.flush()

    def __enter__(self) -> Outbox:
        """Begin, or nest in, a block."""
        self.begin()
        return self

    def __exit__(self, *_error: object) -> None:
        """End the block."""
        self.end()
