"""Metrics for Prometheus: names, labels, bounds; the page over HTTP."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

import ldmsjob
from ldmsjob.errors import ConfigError
from ldmsjob.metrics import MAX_FAMILIES, MAX_LABEL_SETS, Family, families
from ldmsjob.stats import Histogram, Stats
from tests.daemons import Rig

try:
    from prometheus_client.parser import text_string_to_metric_families

    SKIP = None
except ImportError:
    SKIP = "prometheus-client is not installed"

from ldmsjob.webmetrics import IDLE_SECONDS, MAX_CONNECTIONS, MetricsListener

reactor: Any = installed_reactor


class FamilyTests(SynchronousTestCase):
    """What the layers report becomes families."""

    def setUp(self) -> None:
        """Nothing is reported."""
        self.stats = Stats()

    def family(self, name: str) -> Family:
        """The one of that name."""
        (found,) = [one for one in families(self.stats) if one.name == name]
        return found

    def samples(self, name: str) -> dict[tuple[str, ...], Any]:
        """Values by labels."""
        return {one.labels: one.value for one in self.family(name).samples}

    def test_counters_and_gauges(self) -> None:
        """Are called by their groups."""
        self.stats.child("journal").add("rows", 5)
        self.stats.child("journal").gauge("waiting", lambda: 2)
        rows = self.family("ldmsjob_journal_rows")
        self.assertEqual((rows.kind, rows.text, rows.labels), ("counter", "Rows written.", ()))
        self.assertEqual(rows.samples, [((), 5)])
        self.assertEqual(self.family("ldmsjob_journal_waiting").kind, "gauge")

    def test_reasons(self) -> None:
        """What stands behind a dot, or in some counters behind an underscore, is a label."""
        links, hub = self.stats.child("links"), self.stats.child("messages")
        links.add("not_opened.handshake timeout", 3)
        links.add("not_opened.too many", 4)
        hub.add("dropped_stuck", 2)
        self.assertEqual(self.family("ldmsjob_links_not_opened").labels, ("reason",))
        self.assertEqual(
            self.samples("ldmsjob_links_not_opened"), {("handshake timeout",): 3, ("too many",): 4}
        )
        self.assertEqual(self.samples("ldmsjob_messages_dropped"), {("stuck",): 2})

    def test_total_with_reasons(self) -> None:
        """What has no reason is told once."""
        links = self.stats.child("links")
        links.add("closed", 10)
        links.add("closed.ConnectionLost", 4)
        self.assertEqual(self.samples("ldmsjob_links_closed"), {("",): 6, ("ConnectionLost",): 4})

    def test_told_before_anything_is_lost(self) -> None:
        """What alerts are made of is 0 at first: Prometheus must be able to see it grow."""
        self.stats.child("journal").add("rows")
        self.stats.child("subscribers").child("s").add("delivered")
        plugins = self.stats.child("plugins")
        plugins.child("xprt.notifier").add("lines")
        plugins.child("xprt.sock").add("x")
        for name, labels in (
            ("journal_failures", ()),
            ("journal_lost", ()),
            ("subscriber_lost", ("s",)),
            ("subscriber_discarded", ("s",)),
            ("transport_lost_by_notifiers", ("notifier",)),
        ):
            self.assertEqual(self.samples(f"ldmsjob_{name}"), {labels: 0})
        self.stats.child("journal").add("lost", 3)
        self.assertEqual(self.samples("ldmsjob_journal_lost"), {(): 3})

    def test_instances(self) -> None:
        """Plugin, instance, subscriber and transport are labels."""
        plugins = self.stats.child("plugins")
        plugins.child("jobmgr.jobmgr_slurm.main").add("rejected_syntax")
        plugins.child("jobmgr.jobmgr_slurm.main").add("notices", 7)
        plugins.child("jobmgr.other.a.b").add("notices", 8)
        plugins.child("xprt.sock").add("x")
        self.stats.child("subscribers").child("a/b").add("lost", 9)
        self.stats.child("links").gauge("by_transport.sock", lambda: 4)
        self.assertEqual(
            self.family("ldmsjob_jobmgr_rejected").labels, ("plugin", "instance", "reason")
        )
        self.assertEqual(
            self.samples("ldmsjob_jobmgr_notices"),
            {("jobmgr_slurm", "main"): 7, ("other", "a.b"): 8},
        )
        self.assertEqual(self.samples("ldmsjob_subscriber_lost"), {("a/b",): 9})
        self.assertEqual(self.samples("ldmsjob_transport_x"), {("sock",): 1})
        self.assertEqual(self.family("ldmsjob_links_by_transport").labels, ("transport",))

    def test_histogram(self) -> None:
        """It is in seconds, and says so."""
        self.stats.child("links").observe("latency", 0.2)
        family = self.family("ldmsjob_links_latency_seconds")
        self.assertEqual(family.kind, "histogram")
        self.assertIsInstance(family.samples[0].value, Histogram)

    def test_bounds(self) -> None:
        """Whatever a plugin counts, the number of label values and of families stays bounded."""
        plugin = self.stats.child("plugins").child("sampler.bad.x")
        for number in range(MAX_LABEL_SETS + 50):
            plugin.add(f"seen.user{number:05}")
        samples = self.samples("ldmsjob_sampler_seen")
        self.assertEqual(len(samples), MAX_LABEL_SETS + 1)
        self.assertEqual(samples["other", "other", "other"], 50)
        for number in range(2 * MAX_FAMILIES):
            plugin.add(f"counter{number}")
        found = families(self.stats)
        self.assertEqual(len(found), MAX_FAMILIES + 2)
        self.assertEqual(
            self.samples("ldmsjob_families_left_out"), {(): 2 * MAX_FAMILIES - MAX_FAMILIES + 1}
        )
        long = "y" * 1000
        self.stats.child("subscribers").child(long).add("lost")

    def test_one_kind_for_each_name(self) -> None:
        """A gauge called like a counter is left out, as no page may have both."""
        group = self.stats.child("journal")
        group.add("rows")
        group.gauge("rows", lambda: 3)
        self.assertEqual(self.family("ldmsjob_journal_rows").kind, "counter")
        self.assertEqual(self.samples("ldmsjob_families_left_out"), {(): 1})

    def test_names(self) -> None:
        """They have the characters that Prometheus allows, whatever the counters are called."""
        self.stats.child("odd group").add("per cent-%")
        for family in families(self.stats):
            self.assertRegex(family.name, r"^[a-z_][a-zA-Z0-9_]*$")
            self.assertTrue(family.text)


class CommandTests(SynchronousTestCase):
    """`metrics` in a configuration."""

    skip = SKIP

    def setUp(self) -> None:
        """A daemon that is not started."""
        self.rig = Rig(self)

    def test_check(self) -> None:
        """The page's address is told."""
        self.rig.read("metrics port=9100\n")
        self.assertIn("metrics at http://127.0.0.1:9100/metrics", self.rig.daemon.describe())

    def test_mistakes(self) -> None:
        """Ports and hosts that are none."""
        for line in ("metrics", "metrics port=0", "metrics port=1 host=node.example"):
            error = self.assertRaises(ConfigError, Rig(self).read, f"{line}\n")
            self.assertEqual((error.rc, error.where[-2:]), (22, ":1"))

    def test_not_installed(self) -> None:
        """The error names what to install."""
        real = builtins.__import__

        def without(name: str, *arguments: Any) -> Any:
            if name.startswith("prometheus_client"):
                raise ImportError(name)
            return real(name, *arguments)

        self.patch(builtins, "__import__", without)
        error = self.assertRaises(ConfigError, self.rig.read, "metrics port=9100\n")
        self.assertEqual(error.rc, 2)
        self.assertIn("ldmsjob[metrics]", str(error))
        self.assertRegex(error.where, ":1$")

    def test_port_that_is_taken(self) -> None:
        """Error 7, with the line of the command."""
        memory = MemoryReactorClock()

        def taken(*_arguments: Any, **_more: Any) -> None:
            raise OSError(98, "Address already in use")

        memory.listenTCP = taken
        service = MetricsListener(memory, Stats(), "127.0.0.1", 9100, "f:1")
        error = self.assertRaises(ConfigError, service.privilegedStartService)
        self.assertEqual((error.rc, error.where), (7, "f:1"))

    def test_loopback(self) -> None:
        """Nobody else can connect unless the command says so; nothing is bound twice."""
        memory = MemoryReactorClock()
        service = MetricsListener(memory, Stats(), "127.0.0.1", 9100, "")
        service.privilegedStartService()
        service.startService()
        ((port, _factory, _backlog, interface),) = memory.tcpServers
        self.assertEqual((port, interface), (9100, "127.0.0.1"))

    def test_daemon_without(self) -> None:
        """A daemon that serves no metrics loads neither prometheus-client nor twisted.web."""
        code = "import sys, ldmsjob.tap; print(*sys.modules)"
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(ldmsjob.__file__).parent.parent,
        )
        loaded = {name for name in result.stdout.split() if "prometheus" in name or "web" in name}
        self.assertEqual(loaded, set())


class Fetch(Protocol):
    """Sends a request and gathers what comes back until the other side closes."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.got = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        """Ask."""
        self.transport.write(self.request)

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.got += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        """That was all."""
        self.done.callback(self.got)


class PageTests(TestCase):
    """The page, over a real socket of this host."""

    skip = SKIP
    timeout = 120

    def setUp(self) -> None:
        """Serve it."""
        self.stats = Stats()
        self.listener = MetricsListener(reactor, self.stats, "127.0.0.1", 0, "")
        self.listener.privilegedStartService()
        self.listener.startService()
        self.addCleanup(self.listener.stopService)

    async def fetch(self, request: bytes) -> bytes:
        """What is answered."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listener.port)
        protocol = await connectProtocol(endpoint, Fetch(request))
        return await protocol.done

    @inlineCallbacks
    def test_page(self) -> Iterator[Deferred[Any]]:
        """Prometheus can read it."""
        self.stats.child("links").add("messages", 41)
        self.stats.child("links").add("not_opened.too many", 2)
        self.stats.child("links").observe("latency", 0.003)
        self.stats.child("subscribers").child('a"b').gauge("queued", lambda: 7)
        answer = yield Deferred.fromCoroutine(
            self.fetch(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n")
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertIn(b"200 OK", head)
        self.assertRegex(head.lower(), rb"content-type: text/plain; ?version=")
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        self.assertEqual(samples["ldmsjob_links_messages_total", ()], 41)
        self.assertEqual(samples["ldmsjob_links_not_opened_total", (("reason", "too many"),)], 2)
        self.assertEqual(samples["ldmsjob_subscriber_queued", (("subscriber", 'a"b'),)], 7)
        self.assertEqual(samples["ldmsjob_links_latency_seconds_count", ()], 1)
        for bound, count in (("0.0025", 0), ("0.005", 1), ("+Inf", 1)):
            key = "ldmsjob_links_latency_seconds_bucket", (("le", bound),)
            self.assertEqual(samples[key], count)
        self.assertIn(b"# HELP ldmsjob_links_messages_total Messages received.", body)
        self.assertEqual(re.findall(rb"^# TYPE (\S+) untyped", body, re.M), [])

    @inlineCallbacks
    def test_nothing_else(self) -> Iterator[Deferred[Any]]:
        """Other pages are not there, and nothing can be sent; bodies go nowhere."""
        for request, status in (
            (b"GET / HTTP/1.0\r\n\r\n", b"404"),
            (b"GET /metrics/x HTTP/1.0\r\n\r\n", b"200"),
            (b"POST /metrics HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", b"405"),
            (b"nonsense\r\n\r\n", b"400"),
        ):
            answer = yield Deferred.fromCoroutine(self.fetch(request))
            self.assertEqual(answer.split()[1], status, request)

    @inlineCallbacks
    def test_long_body(self) -> Iterator[Deferred[Any]]:
        """It is neither kept in memory nor written to a file."""
        made: list[Any] = []
        import tempfile

        self.patch(tempfile, "TemporaryFile", lambda *args, **more: made.append(args))
        head = b"POST /metrics HTTP/1.0\r\nContent-Length: 300000\r\n\r\n"
        answer = yield Deferred.fromCoroutine(self.fetch(head + bytes(300_000)))
        self.assertEqual((answer.split()[1], made), (b"405", []))

    @inlineCallbacks
    def test_connections(self) -> Iterator[Deferred[Any]]:
        """Those that ask nothing, or ask slowly, keep nobody out: the oldest gives way."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listener.port)
        idle = []
        for _ in range(MAX_CONNECTIONS):
            idle.append((yield connectProtocol(endpoint, Fetch(b"GET /met"))))
        answer = yield Deferred.fromCoroutine(self.fetch(b"GET /metrics HTTP/1.0\r\n\r\n"))
        self.assertEqual(answer.split()[1], b"200")
        yield idle[0].done
        self.assertEqual(sum(one.done.called for one in idle), 1)
        for one in idle[1:]:
            one.transport.loseConnection()
            yield one.done
        answer = yield Deferred.fromCoroutine(self.fetch(b"GET /metrics HTTP/1.0\r\n\r\n"))
        self.assertEqual(answer.split()[1], b"200")
        self.assertLess(len(self.listener._site._open), 3)  # Those that have closed are forgotten.
        self.assertEqual(self.listener._site.timeOut, IDLE_SECONDS)
