"""What the layers report, as families of metrics: names, texts, labels (docs/status.md, Metrics).

Labels come from what the configuration or the source names: instances, transports, subscribers,
reasons. A bound on their number holds whatever plugins count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from ldmsjob import __version__
from ldmsjob.problems import REASONED, by_reason
from ldmsjob.stats import BOUNDS, Histogram, Stats

MAX_LABEL_SETS = 200
"""Samples of one family; counters beyond them are added up under the label value ``other``."""

MAX_FAMILIES = 500
"""Families altogether; further ones are left out, and counted in ``ldmsjob_families_left_out``."""

MAX_LABEL_CHARACTERS = 100

Kind = Literal["counter", "gauge", "histogram"]

_NO_NAME = re.compile(r"[^a-zA-Z0-9_]+")

_PLUGINS = {
    "jobmgr": ("jobmgr", ("plugin", "instance")),
    "sampler": ("sampler", ("plugin", "instance")),
    "subscriber": ("subscriber_plugin", ("plugin", "instance")),
    "xprt": ("transport", ("transport",)),
    "auth": ("authentication", ("plugin",)),
}
"""The first part of a group of a plugin: what stands in names, and the labels of the others."""

_HELP = {
    "daemon_uptime_seconds": "Seconds since the daemon was configured.",
    "daemon_resident_bytes": "Memory that the daemon takes.",
    "daemon_open_descriptors": "File descriptors that are open.",
    "daemon_descriptor_limit": "File descriptors that may be open.",
    "jobmgr_jobs_lingering": "Jobs that have ended and whose sets can still be read.",
    "jobmgr_jobs_running": "Jobs that run.",
    "jobmgr_last_notice_seconds": "Seconds since a message last told of anything.",
    "jobmgr_messages": "Messages that came on the channel.",
    "jobmgr_notices": "What was learned about jobs: messages and what was found out by looking.",
    "jobmgr_rejected": "Messages that could not be used.",
    "jobs_lingering": "Jobs that have ended and whose sets can still be read.",
    "jobs_running": "Jobs that run.",
    "jobs_late": "Notices about what had ended already.",
    "jobs_repeated_init": "Notices of job starts that were known already.",
    "journal_failures": "Times that the disk has refused a write.",
    "journal_file_bytes": "What the journal takes of the disk.",
    "journal_in_tail": "Rows on disk that the database does not have yet.",
    "journal_lag_seconds": "Seconds for which the disk has refused what was accepted.",
    "journal_lost": "Rows that were given up because the disk refused them for too long.",
    "journal_rows": "Rows written.",
    "journal_waiting": "Rows that are nowhere on disk yet.",
    "links_closed": "Links that have closed, by the reason where that is not the polite end.",
    "links_latency_seconds": "From a read with messages to the end of all that they cause.",
    "links_message_bytes": "Bytes of messages received.",
    "links_messages": "Messages received.",
    "links_not_opened": "Connections that never became links.",
    "links_by_transport": "Links that are open, by transport.",
    "links_open": "Links that are open.",
    "links_opened": "Connections that became links.",
    "links_refused": "Requests of peers that were refused.",
    "links_refused_off": "Messages that were refused because the message service was off.",
    "messages_dropped": "Messages that a subscribed peer did not get.",
    "messages_forwarded": "Messages sent to subscribed peers.",
    "messages_queued": "Messages that had to wait for a peer.",
    "messages_subscriptions": "Subscriptions of peers.",
    "messages_waiting": "Messages that wait for peers.",
    "messages_waiting_bytes": "Bytes of messages that wait for peers.",
    "sets_lookups": "Lookups of sets.",
    "sets_pushes": "Pushes of sets.",
    "sets_reads": "Reads of sets.",
    "sets_served": "Sets that peers can find.",
    "subscriber_busy_seconds": "Seconds for which it has not been done with its present event.",
    "subscriber_delivered": "Job events delivered.",
    "subscriber_discarded": "Job events that were left over when it was closed.",
    "subscriber_failed": "Calls that failed.",
    "subscriber_lost": "Job events that were dropped because it was too slow.",
    "subscriber_queued": "Job events that wait for it.",
    "transport_lines": "Lines of notifiers that were new.",
    "transport_lost_by_notifiers": "Lines of notifiers for which there was no room.",
    "transport_repeated": "Lines of notifiers that had come before.",
}


_FROM_ZERO = {
    "journal": ("failures", "lost", "damaged"),
    "subscriber": ("failed", "lost", "discarded"),
    "transport": ("lost_by_notifiers",),
}
"""Counters that alerts are made of, by what stands in front of them: told as 0 before anything was
counted, or to Prometheus the first loss would be no increase."""

_TOTALS = frozenset({"links_closed"})
"""Counters without a reason that include those with one. Metrics without one have the rest."""


class Sample(NamedTuple):
    """One value with its labels' values, in the order of the family's labels."""

    labels: tuple[str, ...]
    value: float | Histogram


class Family(NamedTuple):
    """Metrics of one name, without ``_total``."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...]
    samples: list[Sample]


def families(stats: Stats) -> list[Family]:
    """All of them, sorted by name."""
    collected = _Collected()
    for path, group in stats.walk():
        place = _place(path)
        if place is None:
            continue
        prefix, names, values = place
        counters = group.counters()
        for counter, number in counters.items():
            base, reason = _split(counter)
            if f"{prefix}_{base}" in _TOTALS and reason is None:
                number -= sum(by_reason(counters, base).values())
            collected.add(f"{prefix}_{base}", "counter", names, values, reason, number)
        for counter in _FROM_ZERO.get(prefix, ()):
            if prefix != "transport" or values == ("notifier",):
                collected.add(f"{prefix}_{counter}", "counter", names, values, None, 0)
        for gauge, value in group.gauges().items():
            base, reason = _split(gauge)
            collected.add(f"{prefix}_{base}", "gauge", names, values, reason, value)
        for name, histogram in group.histograms.items():
            collected.add(f"{prefix}_{name}_seconds", "histogram", names, values, None, histogram)
    info = Family(
        "ldmsjob_build_info", "gauge", "The version.", ("version",), [Sample((__version__,), 1)]
    )
    left_out = Family(
        *("ldmsjob_families_left_out", "gauge", "Families beyond the bound of their number."),
        *((), [Sample((), collected.left_out)]),
    )
    return sorted([*collected.families(), info, left_out])


def _place(path: tuple[str, ...]) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """What a group's metrics are called, and their labels and values; None for what has none."""
    if path[0] == "subscribers":
        return None if len(path) < 2 else ("subscriber", ("subscriber",), ("/".join(path[1:]),))
    if path[0] != "plugins":
        return "_".join(path), (), ()
    if len(path) < 2:
        return None
    kind, _, rest = path[1].partition(".")
    prefix, names = _PLUGINS.get(kind, ("plugin", ("plugin", "instance")))
    values = rest.split(".", len(names) - 1)
    values += [""] * (len(names) - len(values))
    return prefix, names, tuple(values)


def _split(counter: str) -> tuple[str, str | None]:
    """The name and the reason that it ends in, if any."""
    name, dot, reason = counter.partition(".")
    if dot:
        return name, reason
    for start in REASONED:
        if counter.startswith(f"{start}_"):
            return start, counter[len(start) + 1 :]
    return counter, None


class _Collected:
    """Families while samples are added. A name has one kind: the first one that it comes with."""

    def __init__(self) -> None:
        self.left_out = 0
        self._found: dict[tuple[str, Kind], dict[tuple[str, ...], float | Histogram]] = {}
        self._labels: dict[tuple[str, Kind], tuple[str, ...]] = {}
        self._reasons: set[tuple[str, Kind]] = set()

    def add(
        self,
        name: str,
        kind: Kind,
        names: tuple[str, ...],
        values: Iterable[str],
        reason: str | None,
        value: float | Histogram,
    ) -> None:
        """One value. ``reason`` None: there is none."""
        key = _NO_NAME.sub("_", name), kind
        samples = self._found.get(key)
        if samples is None:
            taken = any(known == key[0] for known, _ in self._found)
            if taken or len(self._found) >= MAX_FAMILIES:
                self.left_out += 1
                return
            samples = self._found[key] = {}
            self._labels[key] = names
        if reason is not None:
            self._reasons.add(key)
        labels = tuple(_label(one) for one in (*values, reason or ""))
        if len(samples) >= MAX_LABEL_SETS and labels not in samples:
            labels = ("other",) * len(labels)
        known = samples.get(labels)
        if known is None or isinstance(value, Histogram) or isinstance(known, Histogram):
            samples[labels] = value
        else:
            samples[labels] = known + value

    def families(self) -> Iterator[Family]:
        """What there is, with the label of reasons only where there are any."""
        for key, samples in self._found.items():
            name, kind = key
            labels = self._labels[key]
            reason = "transport" if name == "links_by_transport" else "reason"
            with_reason = key in self._reasons
            yield Family(
                f"ldmsjob_{name}",
                kind,
                _HELP.get(name, f"{name.replace('_', ' ').capitalize()}."),
                (*labels, reason) if with_reason else labels,
                [
                    Sample(values if with_reason else values[:-1], value)
                    for values, value in sorted(samples.items(), key=lambda item: item[0])
                ],
            )


def _label(value: str) -> str:
    return value[:MAX_LABEL_CHARACTERS]


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper ends and how many took no longer, as Prometheus wants them."""
    result, reached = [], 0
    for bound, count in zip((*BOUNDS, float("inf")), histogram.counts, strict=True):
        reached += count
        result.append(("+Inf" if bound == float("inf") else f"{bound:g}", float(reached)))
    return result
