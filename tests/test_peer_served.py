"""Our reader against our own owner of sets, over a connection in memory: every byte is real."""

from __future__ import annotations

import errno
import gc
import weakref
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.cli.ls import first_push
from ldmsjob.errors import LdmsJobError, RequestFailed
from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.peer import Peer
from ldmsjob.remoteset import RemoteSet
from ldmsjob.serving import SetService
from ldmsjob.sets.decoded import DecodedSet
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.sets.schema import Schema
from ldmsjob.stats import Stats
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.turns import Turn
from ldmsjob.values import CHAR_ARRAY, D64, U64
from ldmsjob.wire.events import Credential
from ldmsjob.wire.setevents import NOTIFY_MODIFIED, SET_ADDED, SET_CHANGED, SET_DELETED


class ServedTestCase(SynchronousTestCase):
    """A daemon's side with sets, and a peer that reads them."""

    cut = 65536

    def setUp(self) -> None:
        """Connect."""
        self.clock = Clock()
        self.time_us = 1_800_000_000_000_000
        turn = Turn()
        self.registry = SetRegistry()
        self.sets = SetService(self.registry, Stats(), turn, self.clock, now=self.clock.seconds)
        hub = MessageHub(Stats(), turn)
        self.site = LinkSite(hub, Stats(), turn, self.clock, sets=self.sets)
        self.peer = Peer(self.clock, timeout=5)
        self.pair = MemoryPair(
            self.site,
            self.peer,
            self.clock,
            right_settings=self.peer.settings,
            left_options={"join_rail": lambda _link, _claim: None},
            cut=self.cut,
        )
        self.pair.settle()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.settle)
        self.addCleanup(self.site.close)

    def now(self) -> int:
        """A clock that goes on each time it is read."""
        self.time_us += 1000
        return self.time_us

    def add_set(self, name: str, schema: str = "some", array_card: int = 1) -> MetricSet:
        """Offer a set that has had one transaction."""
        definition = Schema(schema, array_card=array_card)
        definition.add_metric("who", CHAR_ARRAY, 16, meta=True)
        definition.add_metric("n", U64)
        definition.add_metric("x", D64)
        metric_set = MetricSet(name, definition, clock=self.now, perm=0o444)
        self.write(metric_set, 1)
        self.registry.add(metric_set)
        return metric_set

    def write(self, metric_set: MetricSet, number: int, who: str = "") -> None:
        """One transaction."""
        with metric_set.transaction():
            metric_set.put("n", number)
            if who:
                metric_set.put("who", who)

    def result(self, deferred: Deferred[Any]) -> Any:
        """What it fires with once the bytes have moved."""
        self.settle()
        return self.successResultOf(deferred)

    def settle(self) -> None:
        """Move bytes, and let the daemon do what it left for later."""
        for _ in range(5):
            self.pair.settle()
            self.clock.advance(0)
        self.pair.settle()

    def found(self, name: str) -> RemoteSet:
        """Look a set up."""
        found: RemoteSet = self.result(self.peer.lookup(name))[0]
        return found


class ServedTests(ServedTestCase):
    """What one does, the other understands."""

    def test_directory(self) -> None:
        """Names, schemas, sizes and times are those of the sets."""
        self.add_set("node/a")
        self.add_set("node/b", "other", 3)
        entries = {entry.name: entry for entry in self.result(self.peer.dir())}
        self.assertEqual(sorted(entries), ["node/a", "node/b"])
        self.assertEqual(entries["node/b"].schema, "other")
        self.assertEqual(entries["node/b"].array_card, 3)
        self.assertEqual(entries["node/a"].perm, "-r--r--r--")
        self.assertEqual(entries["node/a"].timestamp.sec, 1_800_000_000)

    def test_lookups(self) -> None:
        """By name, schema and expression; and none."""
        for name, schema in (("node/a", "some"), ("node/b", "some"), ("node/c", "other")):
            self.add_set(name, schema)
        for arguments, expected in (
            ({"path": "node/a"}, ["node/a"]),
            ({"path": "some", "by_schema": True}, ["node/a", "node/b"]),
            ({"path": "/[bc]$", "is_regex": True}, ["node/b", "node/c"]),
            ({"path": "^o", "is_regex": True, "by_schema": True}, ["node/c"]),
            ({"path": "node"}, []),
        ):
            found = self.result(self.peer.lookup(**arguments))
            self.assertEqual(sorted(each.instance for each in found), expected, arguments)

    def test_wrong_expression(self) -> None:
        """What is no expression is refused with EINVAL."""
        looking = self.peer.lookup("(", is_regex=True)
        self.settle()
        error: Any = self.failureResultOf(looking, RequestFailed).value
        self.assertEqual(error.rc, errno.EINVAL)

    def test_updates(self) -> None:
        """Data and, when they change, metadata arrive with the update that follows."""
        metric_set = self.add_set("node/a")
        remote_set = self.found("node/a")
        first = self.result(remote_set.update())
        self.assertEqual(first.values(), {"who": "", "n": 1, "x": 0.0})
        self.write(metric_set, 2)
        self.assertEqual(self.result(remote_set.update()).values()["n"], 2)
        self.write(metric_set, 3, "alice")
        reading = self.result(remote_set.update())
        self.assertEqual(reading.values(), {"who": "alice", "n": 3, "x": 0.0})
        self.assertTrue(reading.current_copy.is_consistent)

    def test_ring(self) -> None:
        """Each reading of a set of several copies arrives once, in order."""
        metric_set = self.add_set("node/ring", array_card=4)
        remote_set = self.found("node/ring")
        numbers = [self.result(remote_set.update()).values()["n"]]
        for number in range(2, 12):
            self.write(metric_set, number)
            if number % 3 == 0:
                readings = self.result(remote_set.update_all())
                numbers += [reading.values()["n"] for reading in readings]
        self.assertEqual(numbers, list(range(1, 10)))

    def test_watching_and_deletion(self) -> None:
        """A set that comes, goes and is offered anew under its name with another shape."""
        told: list[tuple[int, list[str]]] = []
        watching = self.peer.subscribe_dir(
            lambda kind, entries: told.append((kind, [entry.name for entry in entries]))
        )
        self.result(watching)
        self.add_set("node/a")
        remote_set = self.found("node/a")
        self.result(remote_set.update())
        self.registry.remove("node/a")
        self.add_set("node/a", "larger", 2)
        self.settle()
        self.assertTrue(remote_set.is_deleted)
        kinds = [kind for kind, names in told if names == ["node/a"] and kind != SET_CHANGED]
        self.assertEqual(kinds, [SET_ADDED, SET_DELETED, SET_ADDED])
        again = self.found("node/a")
        self.assertEqual((again.schema, self.result(again.update()).values()["n"]), ("larger", 1))

    def test_pushes(self) -> None:
        """Each transaction is pushed, metadata too when they have changed; until closed."""
        metric_set = self.add_set("node/a")
        got: list[DecodedSet] = []
        ends: list[LdmsJobError | None] = []
        push = self.found("node/a").on_push(got.append, ends.append)
        self.settle()
        for number, who in ((2, ""), (3, ""), (4, "bob")):
            self.write(metric_set, number, who)
            self.settle()
        self.assertEqual(
            [(each.values()["n"], each.values()["who"]) for each in got][-3:],
            [(2, ""), (3, ""), (4, "bob")],
        )
        self.result(push.close())
        self.write(metric_set, 5)
        self.settle()
        self.assertEqual((got[-1].values()["n"], ends), (4, [None]))

    def test_pushes_that_the_owner_ends(self) -> None:
        """A set that is removed, or that may not be read any more: the reason says so."""
        taken, closed = self.add_set("node/a"), self.add_set("node/b")
        ends: list[LdmsJobError | None] = []
        for name in ("node/a", "node/b"):
            self.found(name).on_push(lambda _reading: None, ends.append)
        self.settle()
        self.registry.remove(taken.instance)
        self.settle()
        closed.set_owner(4711, 4711, 0o400)
        self.site.links[0].credential = Credential(1, 1)  # type: ignore[misc]
        self.write(closed, 2)
        self.settle()
        self.assertEqual(len(ends), 2)
        for end, name in zip(ends, ("node/a", "node/b"), strict=True):
            assert isinstance(end, RequestFailed)
            self.assertEqual(end.rc, errno.ENOENT)
            self.assertIn(f"{name!r} is gone, or no longer ours to read", str(end))

    def test_listing_of_pushes_of_a_set_that_goes(self) -> None:
        """``ls -P`` says that it is gone: no traceback, no waiting."""
        self.add_set("node/a")
        waiting = Deferred.fromCoroutine(first_push(self.found("node/a")))
        self.settle()
        self.registry.remove("node/a")
        self.settle()
        error: Any = self.failureResultOf(waiting, RequestFailed).value
        self.assertEqual(error.rc, errno.ENOENT)

    def test_notifications(self) -> None:
        """A transaction is told to who wants to know."""
        metric_set = self.add_set("node/a")
        told: list[int] = []
        remote_set = self.found("node/a")
        notices = remote_set.on_notify(lambda what, _data: told.append(what), NOTIFY_MODIFIED)
        self.settle()
        self.write(metric_set, 2)
        self.settle()
        self.assertEqual(told, [NOTIFY_MODIFIED])
        notices.close()
        self.settle()
        self.write(metric_set, 3)
        self.settle()
        self.assertEqual(told, [NOTIFY_MODIFIED])


class ByteByByteTests(ServedTests):
    """The same, each byte in a read of its own."""

    cut = 1


class ClosedLinkTests(ServedTestCase):
    """What is left of a link that has closed."""

    def setUp(self) -> None:
        """Connect; nothing but reference counts may free memory."""
        super().setUp()
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)

    def references(self) -> list[weakref.ref[Any]]:
        """To the daemon's link and to its reader, while the link is there."""
        link: Any = self.pair.left
        return [weakref.ref(link), weakref.ref(self.sets._readers[link])]

    def close(self) -> None:
        """Have the reader go, and forget both ends."""
        self.result(self.peer.close())
        nothing: Any = SimpleNamespace(settle=lambda: None)
        self.pair = nothing

    def test_nothing_is_left(self) -> None:
        """The link and its reader go at once, with all that they were to send."""
        metric_set = self.add_set("node/a")
        self.add_set("node/b")
        self.found("node/a").on_push(lambda _reading: None)
        self.found("node/b")
        self.result(self.peer.lookup("n", is_regex=True))
        self.registry.remove("node/b")
        self.write(metric_set, 2)
        self.settle()
        references = self.references()
        self.close()
        self.assertEqual([reference() for reference in references], [None, None])

    def test_after_a_protocol_error(self) -> None:
        """Also when the peer broke the protocol."""
        self.add_set("node/a")
        self.found("node/a")
        references = self.references()
        self.pair.left.dataReceived(b"GET / HTTP/1.1\r\n\r\n" * 3)
        self.close()
        self.assertEqual([reference() for reference in references], [None, None])
