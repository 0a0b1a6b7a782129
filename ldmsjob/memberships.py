"""Which groups peers are members of, known before their links open.

A peer proves a uid and a gid; what further groups that user has is looked up here, in the system's
user database. Permission is decided in the middle of other work and cannot wait, so the groups are
looked up while the link is being opened, and kept up to date behind the decisions from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ldmsjob.interfaces import AuthStep
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.permissions import ROOT
from ldmsjob.wire.events import Credential

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from ldmsjob.interfaces import IStats
    from ldmsjob.users import Users

LOOKUP_SECONDS = 2.0
"""How long a link waits for its peer's groups before it opens without them."""

REVIEW_SECONDS = 60.0
"""How old what is known may become before ``Users`` is asked again, which keeps answers longer."""

MAX_USERS = 1024
"""Users whose groups are kept for their next links; of more, the oldest go."""


class Groups:
    """The supplementary groups of one user, as far as they are known; ``gid in groups`` asks.

    Shared by the links of that user. A question about what has become old starts a new lookup and
    is answered by what was known before.
    """

    __slots__ = ("_asking", "_gids", "_look_up", "_now", "_until", "_waiting", "uid")

    def __init__(
        self, uid: int, look_up: Callable[[Groups], None], now: Callable[[], float]
    ) -> None:
        self.uid = uid
        self._look_up = look_up
        self._now = now
        self._gids: frozenset[int] = frozenset()
        self._until = 0.0
        self._asking = False
        self._waiting: list[Deferred[Groups]] | None = []

    def __contains__(self, gid: object) -> bool:
        """Whether the user is a member, as far as is known."""
        self.review()
        return gid in self._gids

    def __eq__(self, other: object) -> bool:
        """Those of one user are equal: two links with them have the same identity."""
        return isinstance(other, Groups) and other.uid == self.uid

    def __hash__(self) -> int:
        return hash(self.uid)

    def review(self) -> None:
        """Look them up again if what is known is old."""
        if not self._asking and (self._waiting is not None or self._now() >= self._until):
            self._asking = True
            self._look_up(self)

    def known(self) -> Groups | Deferred[Groups]:
        """These, at once or when they have been looked up for the first time. Does not fail."""
        self.review()
        if self._waiting is None:
            return self
        waiting: Deferred[Groups] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def take(self, gids: frozenset[int]) -> None:
        """They have been looked up."""
        self._gids = gids
        self._until = self._now() + REVIEW_SECONDS
        self._asking = False
        waiting, self._waiting = self._waiting or [], None
        for one in waiting:
            one.callback(self)


class Memberships:
    """Completes what authenticators find out about peers.

    A user who is unknown, and one whose lookup fails or takes longer than ``seconds``, is taken to
    have no supplementary groups until the lookup gives some. Root needs none.

    Counters: ``lookups``, ``not_found`` and ``timed_out``.
    """

    log = Logger(namespace="ldmsd")

    def __init__(
        self,
        users: Users,
        clock: IReactorTime,
        stats: IStats,
        *,
        now: Callable[[], float] | None = None,
        seconds: float = LOOKUP_SECONDS,
    ) -> None:
        self._users = users
        self._clock = clock
        self._stats = stats
        self._now = now or clock.seconds
        self._seconds = seconds
        self._limited = LimitedLog(self.log, now=self._now)
        self._known: dict[int, Groups] = {}

    def identified(self, step: AuthStep | Deferred[AuthStep]) -> AuthStep | Deferred[AuthStep]:
        """A step of authentication, with the groups of the peer where it proves who that is.

        For ``LinkSettings.identified``. What needs no lookup is there at once.
        """
        if isinstance(step, Deferred):
            return step.addCallback(self._with_groups)
        return self._with_groups(step)

    def _with_groups(self, step: AuthStep) -> AuthStep | Deferred[AuthStep]:
        credential = step.credential
        if credential is None or credential.uid == ROOT:
            return step
        uid, gid, send = credential.uid, credential.gid, step.send
        known = self._groups(uid).known()
        if isinstance(known, Deferred):
            return known.addCallback(lambda groups: AuthStep(send, Credential(uid, gid, groups)))
        return AuthStep(send, Credential(uid, gid, known))

    def _groups(self, uid: int) -> Groups:
        groups = self._known.get(uid)
        if groups is None:
            while len(self._known) >= MAX_USERS:
                del self._known[next(iter(self._known))]
            groups = self._known[uid] = Groups(uid, self._look_up, self._now)
        return groups

    def _look_up(self, groups: Groups) -> None:
        self._stats.add("lookups")
        looking = self._users.groups(groups.uid).addTimeout(self._seconds, self._clock)
        looking.addCallbacks(
            self._looked_up, self._took_too_long, callbackArgs=(groups,), errbackArgs=(groups,)
        )

    def _looked_up(self, gids: frozenset[int] | None, groups: Groups) -> None:
        if gids is None:
            self._stats.add("not_found")
            self._limited.info(
                "groups not found",
                "no groups found of uid {uid}: there is no such user here, or the lookup failed",
                uid=groups.uid,
            )
        groups.take(gids or frozenset())

    def _took_too_long(self, _failure: Failure, groups: Groups) -> None:
        self._stats.add("timed_out")
        self._limited.warn(
            "groups timed out",
            "the groups of uid {uid} were not found within {seconds:g} s: it has none for now",
            uid=groups.uid,
            seconds=self._seconds,
        )
        groups.take(frozenset())
