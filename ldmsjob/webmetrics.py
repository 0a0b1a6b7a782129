"""Metrics for Prometheus: an HTTP listener with ``/metrics`` and nothing else (docs/status.md,
Metrics).

It needs the package prometheus-client, which is imported only where the command `metrics` is given.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from ldmsjob.errors import CANNOT_LISTEN, ConfigError
from ldmsjob.metrics import Family, buckets, families
from ldmsjob.stats import Histogram

if TYPE_CHECKING:
    from ldmsjob.stats import Stats

MAX_CONNECTIONS = 16
"""At a time; for a further one the oldest is closed, so that nobody keeps others out by asking
slowly."""

IDLE_SECONDS = 30
"""A connection that asks nothing for so long is closed."""


class Collector:
    """What prometheus-client asks for metrics."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Any]:
        """All families, read now."""
        for family in families(self._stats):
            yield _converted(family)


def _converted(family: Family) -> Any:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    kinds = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    result = kinds[family.kind](family.name, family.text, labels=family.labels)
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            result.add_metric(labels, buckets(value), value.total)
        else:
            result.add_metric(labels, value)
    return result


class _Nothing(BytesIO):
    """Where the bodies of requests go: nobody reads them."""

    def write(self, data: Any) -> int:
        """Forget it."""
        return len(data)


class _Request(Request):
    """A request whose body is not kept, in memory or in a file."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        """A body of that length comes."""
        self.content: Any = _Nothing()


class _Metrics(Resource):
    """The page."""

    isLeaf = True  # noqa: N815

    def __init__(self, stats: Stats) -> None:
        super().__init__()
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        self._registry = CollectorRegistry()
        self._registry.register(Collector(stats))
        self._generate = generate_latest
        self._content_type = CONTENT_TYPE_LATEST.encode("ascii")

    def render_GET(self, request: Any) -> bytes:  # noqa: N802
        """All metrics as they are now."""
        request.setHeader(b"content-type", self._content_type)
        return bytes(self._generate(self._registry))


class _Site(Site):
    """Has so many connections at a time; and writes no line for each request, so it needs no time
    of day in text each second."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._open: dict[Any, Any] = {}

    def buildProtocol(self, addr: Any) -> Any:
        """A connection, in the place of the oldest when there are too many."""
        if len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            self._open.pop(oldest).abortConnection()
        channel: Any = super().buildProtocol(addr)
        made, lost = channel.makeConnection, channel.connectionLost

        def make_connection(transport: Any) -> None:
            self._open[channel] = transport
            made(transport)

        def connection_lost(reason: Failure) -> None:
            self._open.pop(channel, None)
            lost(reason)

        channel.makeConnection = make_connection
        channel.connectionLost = connection_lost
        return channel

    def log(self, request: Any) -> None:
        """Write nothing."""

    def _updateLogDateTime(self) -> None:  # noqa: N802
        pass


def require_client() -> None:
    """Raise ``ConfigError`` when prometheus-client is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise ConfigError(
            "'metrics' needs the package prometheus-client",
            rc=errno.ENOENT,
            hint="pip install 'ldmsjob[metrics]'",
        ) from None


class MetricsListener(Service):
    """The HTTP listener. Binds in ``privilegedStartService``, or when it is started.

    ``where`` is the place of the command that wants it, for errors. Raises ``ConfigError``: 2
    without prometheus-client, 7 when it cannot be bound.
    """

    log = Logger(namespace="ldmsd")

    def __init__(self, reactor: Any, stats: Stats, host: str, port: int, where: str) -> None:
        require_client()
        self.setName(f"metrics:{port}")
        self._reactor = reactor
        self._host = host
        self._port = port
        self._where = where
        self._listening: Any = None
        root = Resource()
        root.putChild(b"metrics", _Metrics(stats))
        site = _Site(root, requestFactory=_Request, timeout=IDLE_SECONDS, reactor=reactor)
        site.displayTracebacks = False
        site.noisy = False
        self._site = site

    @property
    def port(self) -> int:
        """The port; after binding the real one."""
        return self._port if self._listening is None else int(self._listening.getHost().port)

    def describe(self) -> str:
        """What it does, for people."""
        return f"metrics at http://{self._host}:{self._port}/metrics"

    def privilegedStartService(self) -> None:
        """Bind."""
        super().privilegedStartService()
        self._bind()

    def startService(self) -> None:
        """Bind, where that was not done before."""
        super().startService()
        self._bind()

    def _bind(self) -> None:
        if self._listening is not None:
            return
        try:
            self._listening = self._reactor.listenTCP(self._port, self._site, interface=self._host)
        except (CannotListenError, OSError) as error:
            raise ConfigError(
                f"Failed to listen for metrics at {self._host}:{self._port}: {error}",
                rc=CANNOT_LISTEN,
                where=self._where,
            ) from None

    def stopService(self) -> Any:
        """Listen no more; fires when that is so."""
        super().stopService()
        listening, self._listening = self._listening, None
        return None if listening is None else listening.stopListening()
