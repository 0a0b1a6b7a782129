"""The deleted sets that a peer is not done with, over all of its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldmsjob.grants import Grant
    from ldmsjob.readers import Reader


class Departures:
    """Of one link, or of all the endpoints of a rail: a peer looks sets up over any of them, and
    has one directory of them all."""

    def __init__(self) -> None:
        self.readers: dict[Reader, None] = {}
        """Of the endpoints."""
        self._grants: dict[str, set[Grant]] = {}

    def __contains__(self, instance: str) -> bool:
        """Whether a deleted set of that name is still with the peer."""
        return instance in self._grants

    def leave(self, reader: Reader) -> bool:
        """An endpoint has closed, and the others of its rail are about to. Whether it was the last;
        nothing is kept then."""
        del self.readers[reader]
        if not self.readers:
            self._grants.clear()
        return not self.readers

    def begin(self, grant: Grant) -> None:
        """The peer is told that the set goes."""
        self._grants.setdefault(grant.metric_set.instance, set()).add(grant)

    def end(self, grant: Grant) -> None:
        """The peer is done with it. Tells of a set of the same name that was held back for that."""
        instance = grant.metric_set.instance
        grants = self._grants[instance]
        grants.remove(grant)
        if not grants:
            del self._grants[instance]
            for reader in tuple(self.readers):
                reader.tell_news()
