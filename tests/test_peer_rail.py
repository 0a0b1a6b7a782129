"""Reading sets over a rail, against our own server, over the loopback interface."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from ldmsjob.interfaces import LinkSettings
from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.peer import Peer
from ldmsjob.serving import SetService
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.sets.schema import Schema
from ldmsjob.stats import Stats
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.sock import SockTransport
from ldmsjob.turns import Turn
from ldmsjob.values import U64

reactor: Any = installed_reactor
SETS = 6


class PeerRailTests(TestCase):
    """``Peer.connect(..., rail=3)``."""

    timeout = 120

    def setUp(self) -> None:
        """A server with a few sets."""
        stats, turn = Stats(), Turn()
        self.registry = SetRegistry()
        schema = Schema("some")
        schema.add_metric("n", U64)
        for number in range(SETS):
            metric_set = MetricSet(f"set{number}", schema, clock=lambda: 0)
            with metric_set.transaction() as writer:
                writer.put("n", number)
            self.registry.add(metric_set)
        self.sets = SetService(self.registry, stats, turn, reactor)
        self.site = LinkSite(MessageHub(stats, turn), stats, turn, reactor, sets=self.sets)
        context: Any = SimpleNamespace(clock=reactor)
        listener = SockTransport(context).listen(
            "127.0.0.1", 0, self.site, NoneAuthenticator(), LinkSettings(lambda: False)
        )
        listener.service.startService()
        self.port = listener.port
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end()))
        self.addCleanup(listener.service.stopService)

    async def end(self) -> None:
        """Wait until all links are closed."""
        self.site.close()
        await self.until(lambda: not self.site.links)

    async def until(self, condition: Any) -> None:
        """Wait for it; the test's time-out ends that."""
        while not condition():
            await deferLater(reactor, 0.005)

    def test_reading(self) -> Deferred[None]:
        """Sets are looked up on all endpoints in turn, and each is read, pushed and given up on the
        one that looked it up."""
        return Deferred.fromCoroutine(self.read())

    async def read(self) -> None:
        """The test."""
        peer = await Peer.connect(reactor, "127.0.0.1", self.port, rail=3)
        self.assertEqual(len(await peer.dir()), SETS)
        found = [(await peer.lookup(f"set{number}"))[0] for number in range(SETS)]
        places = [one.link.endpoint for one in found if one.link is not None]
        self.assertEqual(places, [0, 1, 2, 0, 1, 2])
        for number, one in enumerate(found):
            self.assertEqual((await one.update()).values()["n"], number)
        (again,) = await peer.lookup("set4")
        self.assertIs(again, found[4])
        self.assertEqual((await again.update()).values()["n"], 4)
        pushed: list[Any] = []
        push = found[2].on_push(pushed.append)
        (owned,) = [one for one in self.registry if one.instance == "set2"]
        while not pushed:
            with owned.transaction() as writer:
                writer.put("n", 22)
            await deferLater(reactor, 0.005)
        self.assertEqual(pushed[0].values()["n"], 22)
        await push.close()
        gone: list[str] = []
        peer.on_delete(gone.append)
        self.registry.remove("set1")
        await self.until(lambda: gone)
        self.assertEqual(gone, ["set1"])
        self.assertTrue(found[1].is_deleted)
        await peer.close()
        await self.until(lambda: not self.site.links)
