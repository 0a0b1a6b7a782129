"""Daemon requests: who may ask, and what the answer is."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.interfaces import LinkSettings
from ldmsjob.links import LinkSite, ListenerSite
from ldmsjob.messages import MessageHub
from ldmsjob.requests import DaemonRequests
from ldmsjob.stats import Stats
from ldmsjob.transports.auth_naive import NaiveAuthenticator
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.turns import Turn
from ldmsjob.wire.events import AskDaemon, DaemonAnswer, Publish
from ldmsjob.wire.request import JSON, STRING
from tests.fake_sites import FakeSite

OWN_UID = 1000


class DaemonRequestTests(SynchronousTestCase):
    """A daemon that answers request 7, and its peers."""

    def setUp(self) -> None:
        """Make it."""
        self.clock = Clock()
        self.stats = Stats()
        self.requests = DaemonRequests(self.stats, lambda: OWN_UID)
        self.requests.answer(7, lambda: b'{"a": 1}')
        turn = Turn()
        self.hub = MessageHub(Stats(), turn)
        self.site = LinkSite(
            self.hub, self.stats, turn, self.clock, requests=self.requests, now=self.clock.seconds
        )

    def ask(self, code: int, uid: int) -> DaemonAnswer:
        """What a peer of that uid is answered."""
        peer = FakeSite()
        pair = self.pair(peer, uid, self.site)
        pair.right.send(AskDaemon(3, code))
        pair.settle()
        pair.right.close()
        pair.settle()
        (answer,) = peer.events
        return answer

    def pair(self, peer: Any, uid: int, site: Any) -> MemoryPair:
        """A peer of that uid, connected."""
        authenticators = []
        for _ in range(2):
            one = NaiveAuthenticator(None)
            one.configure({"uid": str(uid), "gid": "0"})
            authenticators.append(one)
        pair = MemoryPair(
            site,
            peer,
            self.clock,
            left_settings=LinkSettings(lambda: self.hub.enabled, requests=[7, 8, 9]),
            left_authenticator=authenticators[0],
            right_authenticator=authenticators[1],
        )
        pair.settle()
        return pair

    def test_who(self) -> None:
        """Root and the daemon's user are answered, others are not."""
        for uid in (0, OWN_UID):
            self.assertEqual(self.ask(7, uid), DaemonAnswer(3, 0, [(JSON, b'{"a": 1}\0')]))
        denied = DaemonAnswer(3, 1, [(STRING, b"Operation not permitted.\0")])
        self.assertEqual(self.ask(7, 1001), denied)
        self.assertEqual(self.stats.get("requests_answered"), 2)
        self.assertEqual(self.stats.get("requests_denied"), 1)

    def test_nobody_answers(self) -> None:
        """A request that is let through and has no answer is told so."""
        self.assertEqual(self.ask(8, 0).error, 38)
        self.assertEqual(self.ask(10, 0).error, 38)

    def test_failure(self) -> None:
        """What fails costs the answer only, and is logged."""
        self.requests.answer(9, lambda: bytes(1 // 0))
        self.assertEqual(self.ask(9, 0).error, 5)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.stats.get("requests_failed"), 1)

    def test_latency(self) -> None:
        """Is of reads with messages, to the end of their turn."""
        self.hub.enable()
        self.hub.subscribe("c", lambda _message: self.clock.advance(0.3), "test", [0])
        pair = self.pair(FakeSite(), 0, self.site)
        histogram = self.stats.histogram("latency")
        pair.right.send(AskDaemon(1, 7))
        pair.settle()
        self.assertEqual(histogram.count, 0)
        pair.right.send(Publish("c", b"{}\0"))
        pair.settle()
        self.assertEqual((histogram.count, histogram.largest), (1, 0.3))

    def test_listeners_are_told_apart(self) -> None:
        """The links of each, and those of all."""
        first, second = ListenerSite(self.site), ListenerSite(self.site)
        pairs = [self.pair(FakeSite(), 0, site) for site in (first, first, second)]
        self.assertEqual((len(first.links), len(second.links)), (2, 1))
        self.assertEqual(self.stats.gauges()["open"], 3)
        pairs[0].right.close()
        pairs[0].settle()
        self.assertEqual((len(first.links), len(second.links)), (1, 1))
        self.assertEqual(self.stats.gauges()["open"], 2)
