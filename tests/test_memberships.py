"""Groups of peers: looked up before their links open, and kept up to date."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import AuthFailed
from ldmsjob.interfaces import AuthStep
from ldmsjob.memberships import LOOKUP_SECONDS, MAX_USERS, REVIEW_SECONDS, Memberships
from ldmsjob.stats import Stats
from ldmsjob.users import FAILED_SECONDS, FOUND_SECONDS, Users
from ldmsjob.wire.events import Credential


class MembershipsTests(SynchronousTestCase):
    """With a user database of the test's own."""

    def setUp(self) -> None:
        """Alice is in two groups."""
        self.clock = Clock()
        self.stats = Stats()
        self.asked: list[int] = []
        self.groups_of = {1000: frozenset({100, 200})}
        self.pending: list[Deferred[Any]] | None = None
        self.lines: list[str] = []
        observer: Any = lambda event: self.lines.append(formatEvent(event))  # noqa: E731
        self.patch(Memberships, "log", Logger(observer=observer))
        users = Users(self.clock, self.in_thread, groups_of=self.look_up)
        self.memberships = Memberships(users, self.clock, self.stats)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def in_thread(self, function: Any, uid: int) -> Deferred[Any]:
        """Look up at once, or when the test fires what is ``pending``."""
        if self.pending is None:
            return maybeDeferred(function, uid)
        later: Deferred[Any] = Deferred()
        self.pending.append(later)
        return later.addCallback(lambda _: function(uid))

    def look_up(self, uid: int) -> frozenset[int] | None:
        """What runs in the thread."""
        self.asked.append(uid)
        return self.groups_of.get(uid)

    def identify(self, uid: int, gid: int = 100) -> Credential:
        """The identity of a peer that proved that much, at once."""
        step = self.memberships.identified(AuthStep((b"last",), Credential(uid, gid)))
        assert isinstance(step, AuthStep)
        self.assertEqual(step.send, (b"last",))
        assert step.credential is not None
        self.assertEqual((step.credential.uid, step.credential.gid), (uid, gid))
        return step.credential

    def begin(self, uid: int) -> Deferred[AuthStep]:
        """The step of a peer whose groups are not known yet."""
        step = self.memberships.identified(AuthStep(credential=Credential(uid, 7)))
        assert isinstance(step, Deferred)
        return step

    def test_known_when_the_link_opens(self) -> None:
        """The identity of a link has all groups of its user."""
        groups = self.identify(1000).groups
        self.assertEqual([gid for gid in (100, 200, 300) if gid in groups], [100, 200])

    def test_steps_without_an_identity(self) -> None:
        """They stay as they are, as does the one that takes a peer for root."""
        for step in (AuthStep((b"challenge",)), AuthStep(credential=Credential(0, 0))):
            self.assertIs(self.memberships.identified(step), step)
            later = self.memberships.identified(succeed(step))
            assert isinstance(later, Deferred)
            self.assertIs(self.successResultOf(later), step)
        self.assertEqual(self.asked, [])

    def test_a_verdict_that_takes_time(self) -> None:
        """It is completed when it is there; a failed one stays failed."""
        verdict: Deferred[AuthStep] = Deferred()
        step = self.memberships.identified(verdict)
        assert isinstance(step, Deferred)
        verdict.callback(AuthStep(credential=Credential(1000, 100)))
        credential = self.successResultOf(step).credential
        assert credential is not None
        self.assertIn(200, credential.groups)
        verdict = Deferred()
        step = self.memberships.identified(verdict)
        assert isinstance(step, Deferred)
        verdict.errback(AuthFailed("wrong"))
        self.failureResultOf(step, AuthFailed)

    def test_one_lookup_for_all_links_of_a_user(self) -> None:
        """Those that open meanwhile wait for the same one, later ones need none."""
        self.pending = []
        first, second = self.begin(1000), self.begin(1000)
        self.assertNoResult(first)
        self.pending.pop().callback(None)
        for step in (first, second):
            credential = self.successResultOf(step).credential
            assert credential is not None
            self.assertIn(200, credential.groups)
        self.identify(1000)
        self.assertEqual(self.asked, [1000])

    def test_same_identity(self) -> None:
        """Links of one user have equal identities, as the endpoints of a rail must."""
        first = self.identify(1000)
        self.groups_of[1001] = self.groups_of[1000]
        self.assertEqual(first, self.identify(1000))
        self.assertEqual(hash(first), hash(self.identify(1000)))
        self.assertNotEqual(first, self.identify(1000, 7))
        self.assertNotEqual(first.groups, self.identify(1001).groups)
        self.assertNotEqual(first.groups, frozenset({100, 200}))

    def test_links_learn_of_changes(self) -> None:
        """An open link gains and loses groups when the answers that are kept have become old."""
        groups = self.identify(1000).groups
        self.groups_of[1000] = frozenset({300})
        self.clock.advance(FOUND_SECONDS - 1)
        self.assertIn(200, groups)
        self.assertEqual(self.asked, [1000])
        self.clock.advance(REVIEW_SECONDS + 1)
        self.assertNotIn(200, groups)
        self.assertIn(300, groups)
        self.assertEqual(self.asked, [1000, 1000])

    def test_old_answer_until_the_new_one(self) -> None:
        """While they are looked up again what was known counts, for new links too."""
        groups = self.identify(1000).groups
        self.pending = []
        self.clock.advance(FOUND_SECONDS)
        self.groups_of[1000] = frozenset()
        self.assertIn(200, groups)
        self.assertIn(200, self.identify(1000).groups)
        (lookup,) = self.pending
        lookup.callback(None)
        self.assertNotIn(200, groups)

    def test_unknown_user(self) -> None:
        """Has no further groups; asked again soon."""
        groups = self.identify(1001).groups
        self.assertNotIn(200, groups)
        self.assertEqual(self.stats.get("not_found"), 1)
        self.assertIn("uid 1001", self.lines[0])
        self.groups_of[1001] = frozenset({200})
        self.clock.advance(FAILED_SECONDS)
        self.assertIn(200, groups)

    def test_lookup_that_fails(self) -> None:
        """Gives no groups, and the link opens."""
        self.patch(self, "groups_of", None)
        self.assertNotIn(200, self.identify(1000).groups)
        self.assertEqual(self.stats.get("not_found"), 1)

    def test_lookup_that_hangs(self) -> None:
        """The link opens without groups after a bounded time, and gets them if they come later."""
        self.pending = []
        step = self.begin(1000)
        self.clock.advance(LOOKUP_SECONDS - 0.1)
        self.assertNoResult(step)
        self.clock.advance(0.2)
        credential = self.successResultOf(step).credential
        assert credential is not None
        self.assertNotIn(200, credential.groups)
        self.assertEqual(self.stats.get("timed_out"), 1)
        self.assertIn("uid 1000", self.lines[0])
        self.identify(1000)  # the next one does not wait
        self.pending.pop().callback(None)
        self.clock.advance(REVIEW_SECONDS)
        self.assertIn(200, credential.groups)
        self.assertEqual(self.asked, [1000])

    def test_group_that_cannot_be_looked_up_again(self) -> None:
        """When a later lookup hangs, what was known before counts no longer."""
        groups = self.identify(1000).groups
        self.pending = []
        self.clock.advance(FOUND_SECONDS)
        self.assertIn(200, groups)
        self.clock.advance(LOOKUP_SECONDS)
        self.assertNotIn(200, groups)

    def test_link_that_closes_meanwhile(self) -> None:
        """It may cancel its step; the lookup goes on for others."""
        self.pending = []
        gone, stays = self.begin(1000), self.begin(1000)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.pending.pop().callback(None)
        self.successResultOf(stays)

    def test_memory_is_bounded(self) -> None:
        """Of too many users the oldest are forgotten; their open links keep their groups."""
        groups = self.identify(1000).groups
        for uid in range(2000, 2000 + MAX_USERS):
            self.identify(uid)
        self.assertIn(200, groups)
        self.assertEqual(self.identify(1000).groups, groups)
        self.assertIsNot(self.identify(1000).groups, groups)
