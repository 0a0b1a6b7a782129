"""When links write: once for all that one read brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldmsjob.transports.link import LinkProtocol


class Outbox:
    """Links that have something to write, collected while one read is dealt with.

    Inside ``with outbox:`` each link writes once, at the end; outside, each ``send`` writes. Links
    that serve one another, such as those of one daemon, share an outbox. The link that reads does
    without the block: it adds to ``depth``, and calls ``end``.
    """

    __slots__ = ("_links", "depth")

    def __init__(self) -> None:
        self.depth = 0
        """How many blocks are open; links wait with writing while there are any."""
        self._links: dict[LinkProtocol, None] = {}

    def add(self, link: LinkProtocol) -> None:
        """Have ``link`` write at the end of the block."""
        self._links[link] = None

    def end(self, link: LinkProtocol | None = None) -> None:
        """A block ends. The end of the outermost has the links write, ``link`` first of all."""
        self.depth -= 1
        if link is not None:
            if self.depth:
                self.add(link)
            else:
                link.flush()
        while self._links and not self.depth:
            links, self._links = self._links, {}
            for one in links:
                one.flush()

    def __enter__(self) -> Outbox:
        """Begin, or nest in, a block."""
        self.depth += 1
        return self

    def __exit__(self, *_error: object) -> None:
        """End the block."""
        self.end()
