"""Who may still connect: the count of all connections that come, whichever listener takes them.

It knows nothing of sockets. Transports ask it before they keep a connection, and tell it when one
has opened and when it has gone.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from twisted.logger import Logger
from zope.interface import implementer

from ldmsjob.interfaces import IAdmission, IPlace, IStats
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.limits import Limits

RESERVED = 64
"""File descriptors that no connection takes: for the journal, files, and what job managers run."""

FOR_THIS_HOST = 24
"""Of these, so many may be taken by connections of this host's unix sockets: Slurm's notifiers, and
people who want to see why nobody else gets in."""


RUSH_SECONDS = 1.0
"""Who has not authenticated for less than this is not slow."""


@implementer(IPlace)
class Place:
    """One connection that counts."""

    __slots__ = ("_admission", "address")

    def __init__(self, admission: Admission, address: str) -> None:
        self._admission: Admission | None = admission
        self.address = address

    def opened(self) -> None:
        """It is a link now."""
        if self._admission is not None:
            self._admission.settle(self)

    def left(self) -> None:
        """It has gone, and its descriptor with it."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.leave(self)


@implementer(IAdmission)
class Admission:
    """Counts connections, and keeps to the limits for them.

    ``limits`` may be set before the first connection comes. ``now`` gives monotonic seconds.

    Counters: ``accepting_paused``, how often listeners had to wait, and ``no_descriptor``, how
    often for a file descriptor; those of refused connections are the site's. Gauges:
    ``connections``, ``connections_unopened``, ``connections_limit``.
    """

    log = Logger(namespace="ldmsd")

    def __init__(
        self,
        stats: IStats,
        limits: Limits | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self.count = 0
        """All connections."""
        self.descriptors: int | None = None
        """How many connections there are file descriptors for; None: nobody has looked."""
        self._by_address: dict[str, int] = {}
        self._unopened: dict[Place, float] = {}  # since when, the oldest first
        self._waiting: dict[Callable[[], None], None] = {}
        self._stats = stats
        self._now = now
        self._limited = LimitedLog(self.log, now=now)
        stats.gauge("connections", lambda: self.count)
        stats.gauge("connections_unopened", lambda: self.unopened)
        stats.gauge("connections_limit", lambda: self.most)

    def prepare(self) -> None:
        """Have the system let this process have as many file descriptors as ``links`` need, or see
        how many connections there are descriptors for."""
        wanted = self.limits.links + RESERVED
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            self.descriptors = None
            return
        self.descriptors = max(soft - RESERVED, 1)
        self.log.warn(
            "there are {soft} file descriptors: at most {most} connections at once, not {links};"
            " allow more with LimitNOFILE= of the systemd unit, or ulimit -n",
            soft=soft,
            most=self.descriptors,
            links=self.limits.links,
        )

    @property
    def unopened(self) -> int:
        """How many connections are no links yet."""
        return len(self._unopened)

    @property
    def most(self) -> int:
        """How many connections there may be."""
        links, descriptors = self.limits.links, self.descriptors
        return links if descriptors is None else min(links, descriptors)

    # IAdmission

    def may_accept(self, on_this_host: bool) -> bool:
        """Not when there is no file descriptor left; nor while many who came at once are still
        authenticating, since they soon have."""
        more = FOR_THIS_HOST if on_this_host else 0
        if self.descriptors is not None and self.count >= self.descriptors + more:
            self.no_descriptor(f"links have all {self.descriptors} that there are for them")
            return False
        if on_this_host or not self._unopened or len(self._unopened) < self._most_unopened:
            return True
        return self._now() - next(iter(self._unopened.values())) >= RUSH_SECONDS

    def no_descriptor(self, problem: str) -> None:
        """Count and log it."""
        self._stats.add("no_descriptor")
        self._limited.warn(
            "descriptors",
            "no further connections are accepted until others have gone: no file descriptors:"
            " {problem}",
            problem=problem,
        )

    def wait(self, call: Callable[[], None]) -> None:
        """Call ``call`` once when a connection has gone or has authenticated."""
        self._waiting[call] = None
        self._stats.add("accepting_paused")

    def wait_no_more(self, call: Callable[[], None]) -> None:
        """Forget that."""
        self._waiting.pop(call, None)

    def objection(self, address: str, on_this_host: bool) -> str:
        """Why no further connection of ``address`` is taken; empty when it is."""
        limits = self.limits
        if self.count >= limits.links + (FOR_THIS_HOST if on_this_host else 0):
            return f"too many: all {limits.links} links (links=)"
        unopened = len(self._unopened)
        if unopened and not on_this_host and unopened >= self._most_unopened:
            return "too many not authenticated: connections that are not open yet (links_unopened=)"
        if self._by_address.get(address, 0) >= limits.links_per_address:
            return f"too many of one address: {limits.links_per_address} (links_per_address=)"
        return ""

    def enter(self, address: str) -> Place:
        """One more connection."""
        self.count += 1
        self._by_address[address] = self._by_address.get(address, 0) + 1
        place = Place(self, address)
        self._unopened[place] = self._now()
        return place

    @property
    def _most_unopened(self) -> int:
        return min(self.limits.links_unopened, max(self.most // 2, 1))

    # What places tell

    def settle(self, place: Place) -> None:
        """It has opened."""
        if self._unopened.pop(place, None) is not None and self._waiting:
            self._wake()

    def leave(self, place: Place) -> None:
        """One less."""
        self._unopened.pop(place, None)
        self.count -= 1
        by_address, address = self._by_address, place.address
        left = by_address[address] - 1
        if left:
            by_address[address] = left
        else:
            del by_address[address]
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            call()
