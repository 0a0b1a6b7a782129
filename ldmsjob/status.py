"""How the daemon is: one document, for people and programs (docs/status.md, The document).

It is made of what the layers report into ``Stats`` and of the lists of what there is. Making it
changes nothing and takes some milliseconds.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.application.service import Service

from ldmsjob import __version__
from ldmsjob.problems import by_reason, find_notes, find_problems
from ldmsjob.stats import Histogram, Recently, Stats
from ldmsjob.wire.request import STATUS

if TYPE_CHECKING:
    from ldmsjob.daemon import Daemon
    from ldmsjob.instances import PluginInstance

TOP = 5
"""Addresses that are named, those with the most links."""

MAX_ITEMS = 1000
"""Listeners, instances or subscribers that are described, each."""

FORMAT = 1
"""Number of the document's form; what is added to it leaves the number as it is."""


class Health(Service):
    """Watches a daemon while it runs, and tells how it is when asked."""

    def __init__(self, daemon: Daemon) -> None:
        self.setName("health")
        self._daemon = daemon
        clock = daemon.core.clock
        self._clock = clock
        self._began = clock.seconds()
        self._started_us = daemon.core.now_us()
        self._recently = Recently(daemon.stats, clock, clock.seconds)
        daemon.requests.answer(STATUS, self.encoded)
        stats = daemon.stats.child("daemon")
        stats.gauge("uptime_seconds", lambda: self.uptime_seconds)
        stats.gauge("resident_bytes", resident_bytes)
        stats.gauge("open_descriptors", open_descriptors)
        stats.gauge("descriptor_limit", descriptor_limit)
        daemon.stats.child("sets").gauge("served", lambda: len(daemon.registry))

    def startService(self) -> None:
        """Begin to watch."""
        super().startService()
        self._recently.start()

    def stopService(self) -> None:
        """Watch no more."""
        super().stopService()
        self._recently.stop()

    @property
    def uptime_seconds(self) -> float:
        """How long ago the daemon was configured."""
        seconds: float = self._clock.seconds() - self._began
        return seconds

    def encoded(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.document())

    def document(self) -> dict[str, Any]:
        """The document."""
        daemon = self._daemon
        recent_seconds, recent = self._recently.counted()
        document: dict[str, Any] = {
            "format": FORMAT,
            "version": __version__,
            "name": daemon.core.daemon_name,
            "pid": os.getpid(),
            "started_us": self._started_us,
            "uptime_seconds": round(self.uptime_seconds, 3),
            "problems": [],
            "notes": [],
            "messages_enabled": daemon.hub.enabled,
            "listeners": _listeners(daemon),
            "links": _links(daemon),
            "job_managers": [_instance(one) for one in list(daemon.job_managers)[:MAX_ITEMS]],
            "samplers": [_instance(one) for one in list(daemon.samplers)[:MAX_ITEMS]],
            "subscribers": _subscribers(daemon),
            "journal": _journal(daemon),
            "latency": _latency(daemon.stats.child("links").histogram("latency")),
            "counters": dict(daemon.stats.groups()),
            "gauges": _gauges(daemon.stats),
            "recent_seconds": round(recent_seconds, 3),
            "recent": recent,
        }
        document["problems"] = find_problems(document)
        document["notes"] = find_notes(document)
        return document


def _gauges(stats: Stats) -> dict[str, dict[str, float]]:
    groups = (("/".join(path), group.gauges()) for path, group in stats.walk())
    return {name: values for name, values in groups if values}


def _listeners(daemon: Daemon) -> list[dict[str, Any]]:
    found = []
    for service in list(daemon.listeners)[:MAX_ITEMS]:
        name = str(service.name)
        endpoint = daemon.listeners.endpoints[name]
        found.append(
            {
                "endpoint": str(endpoint),
                "transport": endpoint.xprt,
                "authentication": daemon.authentications.name_of(endpoint),
                "listening": bool(service.running),
                "links": len(daemon.listeners.sites[name].links),
            }
        )
    return found


def _links(daemon: Daemon) -> dict[str, Any]:
    links = daemon.site.links
    transports = {one.xprt: 0 for one in daemon.listeners.endpoints.values()}
    addresses = Counter(host_of(link.peer_address) for link in links)
    return {
        "open": len(links),
        "by_transport": {name: daemon.listeners.links_over(name) for name in transports},
        "top_addresses": [list(one) for one in addresses.most_common(TOP)],
    }


def host_of(peer_address: str) -> str:
    """The part of a peer's address that tells where it is, without its port or process."""
    if peer_address.startswith("pid "):
        return peer_address.rpartition(" of ")[2]
    host, colon, port = peer_address.rpartition(":")
    return host if colon and port.isdigit() else peer_address


def _instance(instance: PluginInstance) -> dict[str, Any]:
    stats: Stats = instance.stats
    described: dict[str, Any] = {
        "name": str(instance.name),
        "plugin": instance.factory.name,
        "kind": instance.kind,
        "state": instance.state,
        "failures": stats.get("failures") + stats.get("sample_failures"),
        "group": f"plugins/{instance.context.log.namespace}",
    }
    if instance.kind == "jobmgr":
        gauges = stats.gauges()
        described |= {
            "jobs_running": gauges.get("jobs_running", 0),
            "jobs_lingering": gauges.get("jobs_lingering", 0),
            "notices": stats.get("notices"),
            "last_notice_seconds": _rounded(gauges.get("last_notice_seconds")),
            "rejected": by_reason(stats.values, "rejected"),
        }
    return described


def _subscribers(daemon: Daemon) -> list[dict[str, Any]]:
    stats = daemon.stats.child("subscribers")
    found: dict[str, dict[str, Any]] = {}
    for one in daemon.core.jobs.subscriptions:
        if one.name not in found and len(found) < MAX_ITEMS:
            counters, gauges = stats.child(one.name), stats.child(one.name).gauges()
            found[one.name] = {
                "name": one.name,
                "queued": int(gauges.get("queued", 0)),
                "limit": one.limit,
                "busy_seconds": _rounded(gauges.get("busy_seconds", 0.0)),
                **{
                    counter: counters.get(counter)
                    for counter in ("delivered", "lost", "failed", "discarded")
                },
            }
    return list(found.values())


def _journal(daemon: Daemon) -> dict[str, Any] | None:
    journal = daemon.core.journal
    if journal is None:
        return None
    stats = daemon.stats.child("journal")
    return {
        "path": journal.path,
        "problem": journal.problem,
        "waiting": journal.waiting,
        "max_waiting": journal.max_waiting,
        "lag_seconds": _rounded(journal.lag_seconds),
        "bytes": stats.gauges().get("file_bytes"),
        **{counter: stats.get(counter) for counter in ("rows", "failures", "lost", "damaged")},
    }


def _latency(histogram: Histogram) -> dict[str, Any]:
    count = histogram.count
    return {
        "count": count,
        "mean_seconds": histogram.total / count if count else None,
        "p50_seconds": histogram.quantile(0.5),
        "p99_seconds": histogram.quantile(0.99),
        "max_seconds": histogram.largest if count else None,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


# The process


def resident_bytes() -> float | None:
    """The memory that the process takes; None where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def open_descriptors() -> float | None:
    """How many descriptors it has open; None where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return None


def descriptor_limit() -> float | None:
    """How many it may have; None when there is no limit."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
