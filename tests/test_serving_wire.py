"""Serving sets over real links, to peers that vanish or come byte by byte."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.interfaces import LinkSettings
from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.serving import DELETE_SECONDS, SetService
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.sets.schema import Schema
from ldmsjob.stats import Stats
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.link import LinkProtocol
from ldmsjob.transports.outbox import Outbox
from ldmsjob.transports.plainstream import PlainStream
from ldmsjob.turns import Turn
from ldmsjob.values import U64
from tests.recorded import streams

SET = "node-1/meminfo"


class Quiet(StringTransport):
    """A transport without a peer."""

    def abortConnection(self) -> None:
        """Nothing more comes."""
        self.disconnecting = True


class RawTests(SynchronousTestCase):
    """The bytes of recorded C readers, cut anywhere."""

    def setUp(self) -> None:
        """A daemon's side, with the set that the readers ask for."""
        self.clock = Clock()
        self.stats = Stats()
        turn = Turn()
        self.registry = SetRegistry()
        sets = SetService(self.registry, self.stats, turn, self.clock, now=self.clock.seconds)
        hub = MessageHub(Stats(), turn)
        hub.enable()
        self.site = LinkSite(hub, Stats(), turn, self.clock, sets=sets)
        schema = Schema("meminfo")
        schema.add_metric("MemTotal", U64)
        self.set = MetricSet(SET, schema, clock=lambda: 1, perm=0o440)
        self.set.commit(1)
        self.registry.add(self.set)
        self.addCleanup(self.site.close)

    def connect(self) -> LinkProtocol:
        """An accepted connection."""
        link = LinkProtocol(
            passive=True,
            site=self.site,
            authenticator=NoneAuthenticator(),
            settings=LinkSettings(messages_enabled=lambda: True),
            clock=self.clock,
            outbox=Outbox(),
            stream=PlainStream(),
            peer_address="peer",
        )
        link.makeConnection(Quiet())
        return link

    def lose(self, link: LinkProtocol) -> None:
        """The peer vanishes."""
        link.connectionLost(Failure(ConnectionLost()))

    def test_byte_by_byte(self) -> None:
        """Frames that come one byte at a time are answered as those that come at once."""
        data = streams("b_ls_lv_meminfo")[1, True]
        answers = []
        for step in (len(data), 1):
            link = self.connect()
            for at in range(0, len(data), step):
                link.dataReceived(data[at : at + step])
            answers.append(link.transport.value())  # type: ignore[union-attr]
            self.lose(link)
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(self.stats.get("announced"), 2)
        self.assertGreater(self.stats.get("directories"), 0)

    def test_vanishing_anywhere(self) -> None:
        """Wherever a reader vanishes nothing is left of it, and the next one is served."""
        for name in ("b_ls_lv_meminfo", "e_agg_pull"):
            data = streams(name)[1, True]
            for end in range(0, len(data), 11):
                link = self.connect()
                link.dataReceived(data[:end])
                self.lose(link)
                self.assertEqual(self.site.links, ())
                self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIsNone(self.set.watcher)
        self.registry.remove(SET)
        self.assertEqual(self.stats.get("deletions"), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deletion_that_is_never_answered(self) -> None:
        """A reader that is silent about a deletion costs its memory for a while, and no more; one
        that vanishes meanwhile takes it along."""
        data = streams("b_ls_lv_meminfo")[1, True]
        silent, vanishing = self.connect(), self.connect()
        for link in (silent, vanishing):
            link.dataReceived(data)
        self.registry.remove(SET)
        self.assertEqual(self.stats.get("deletions"), 2)
        self.lose(vanishing)
        self.clock.advance(DELETE_SECONDS)
        self.assertEqual(self.stats.get("deletions_timed_out"), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.site.links, (silent,))
        self.lose(silent)
