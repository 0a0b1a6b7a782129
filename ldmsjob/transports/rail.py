"""Rails: links that came, or were made, together and end together (docs/wire.md, Rails).

Each endpoint is a link of its own: its site hears of it, and answers it, like of any other. What
endpoints have in common is their ``Rail``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from ldmsjob.interfaces import ILink, IRail
from ldmsjob.wire.events import Forward, Publish, QuotaChanged, RateChanged
from ldmsjob.wire.rail import RailGroup, RailGroups, RailKey, endpoint_of
from ldmsjob.wire.setevents import LookUp

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from ldmsjob.transports.link import LinkProtocol
    from ldmsjob.wire.events import Credential, WireCommand, WireEvent
    from ldmsjob.wire.setevents import SetCommand, SetEvent
    from ldmsjob.wire.xprt import ConnectionMessage

RAIL_SECONDS = 10.0
"""How long the endpoints of a rail may take, from the first one's coming, until all are open."""


@implementer(IRail)
class Rail:
    """The endpoints of one rail. When one goes, the others are closed.

    ``left(index)`` is called for each endpoint that has gone.
    """

    def __init__(
        self,
        size: int,
        clock: IReactorTime,
        *,
        left: Callable[[int], None] = lambda index: None,
        seconds: float = RAIL_SECONDS,
    ) -> None:
        self.size = size
        self.links: dict[int, LinkProtocol] = {}
        self.closed = False
        self._members: dict[int, LinkProtocol] = {}
        self._left = left
        self._seconds = seconds
        self._credential: Credential | None = None
        self._lookups = 0
        self._deadline: IDelayedCall | None = clock.callLater(seconds, self._too_late)

    # IRail

    def link_for(self, command: WireCommand | SetCommand) -> ILink:
        """The endpoint that carries it, as the C library chooses."""
        if type(command) is Forward or type(command) is Publish:
            return self.links[endpoint_of(command, self.size)]
        if type(command) is LookUp:
            self._lookups += 1
            return self.links[(self._lookups - 1) % self.size]
        return self.links[0]

    # Its endpoints

    def add(self, link: LinkProtocol) -> None:
        """A connection of the rail begins. ``link.endpoint`` is its index."""
        self._members[link.endpoint] = link

    def admit(self, link: LinkProtocol) -> bool:
        """A connection has authenticated; whether it may be an endpoint: not as somebody else than
        the others."""
        if self._credential is None:
            self._credential = link.credential
        elif self._credential != link.credential:
            return False
        self.links[link.endpoint] = link
        if len(self.links) == self.size:
            self._cancel_deadline()
        return True

    def leave(self, link: LinkProtocol) -> None:
        """A connection has gone."""
        self.links.pop(link.endpoint, None)
        self._members.pop(link.endpoint, None)
        self._left(link.endpoint)
        self.close()

    def close(self) -> None:
        """Close all of them."""
        self.closed = True
        self._cancel_deadline()
        for member in list(self._members.values()):
            member.close()

    def spread(self, events: Sequence[WireEvent | SetEvent]) -> None:
        """Have changes of limits that came over one endpoint hold for all."""
        for event in events:
            if type(event) is QuotaChanged or type(event) is RateChanged:
                for member in self.links.values():
                    member.change_limit(event)

    def _too_late(self) -> None:
        self._deadline = None
        self.closed = True
        for member in list(self._members.values()):
            member.abort(f"incomplete rail: not all there after {self._seconds:g} s")

    def _cancel_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None


class ArrivingRails:
    """The rails of the peers that connect to one listener."""

    def __init__(self, clock: IReactorTime, groups: RailGroups | None = None) -> None:
        self._clock = clock
        self._groups = groups or RailGroups()
        self._rails: dict[RailGroup, Rail] = {}

    def join(self, link: LinkProtocol, address: str, claim: ConnectionMessage) -> None:
        """Make ``link`` an endpoint of the rail that it says it belongs to. ``address`` is the
        peer's IP address. Raises ``ConnectionRefused``."""
        key = RailKey(address, claim.pid, claim.rail_gn)
        group = self._groups.join(key, claim.endpoints, claim.endpoint)
        rail = self._rails.get(group)
        if rail is None:

            def left(index: int, group: Any = group) -> None:
                self._groups.leave(group, index)
                if not group.present:
                    del self._rails[group]

            rail = self._rails[group] = Rail(group.endpoints, self._clock, left=left)
        link.rail = rail
        link.endpoint = claim.endpoint
        rail.add(link)
