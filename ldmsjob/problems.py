"""What is wrong with a daemon, found in its document: plain sentences, and what to do about each.

Every rule is a function of the document alone that yields ``Problem``; ``find_problems`` puts the
worst first. What is wrong now counts, and what was counted in ``recent``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

Document = Mapping[str, Any]

BUSY_SECONDS = 5.0
"""A subscriber that is not done with an event for so long is stuck."""

SILENT_SECONDS = 86_400.0
"""A job manager that hears nothing for so long is worth a note."""

FEW_DESCRIPTORS = 0.9
"""The part of the descriptors that may be open."""

SHOWN_REASONS = 4
"""Reasons that are named in one sentence."""


REASONED = ("rejected", "dropped")
"""Counters whose reason stands behind an underscore; all others have a dot in front of it."""


_LOG = "the log {} (log_level level=WARNING)"
"""What peers cause is logged as warnings, and the level is ERROR unless it is changed."""


class Problem(msgspec.Struct, frozen=True):
    """``weight`` is higher where more is lost; from ``ERROR`` on it is an error, else a warning."""

    weight: int
    what: str
    advice: str


ERROR = 50


def find_problems(document: Document) -> list[dict[str, str]]:
    """All that is wrong, the worst first: ``severity`` (``error`` or ``warning``), ``what`` and
    ``advice``."""
    found = [problem for rule in _RULES for problem in rule(document)]
    found.sort(key=lambda problem: -problem.weight)
    return [
        {
            "severity": "error" if one.weight >= ERROR else "warning",
            "what": one.what,
            "advice": one.advice,
        }
        for one in found
    ]


def find_notes(document: Document) -> list[str]:
    """What is not wrong but good to know."""
    return list(_notes(document))


def _notes(document: Document) -> Iterator[str]:
    believing = [
        f"{one['endpoint']} ({one['authentication']})"
        for one in document["listeners"]
        if one["authentication"] in ("none", "naive")
    ]
    if believing:
        yield f"peers are believed without a proof at {listed(believing)}"
    if document["journal"] is None:
        yield "there is no journal: what is accepted is forgotten when the daemon ends"
    for one in document["job_managers"]:
        heard = one["last_notice_seconds"]
        if one["state"] != "started":
            continue
        if heard is not None and heard >= SILENT_SECONDS:
            yield f"{one['name']} has had no notice for {span(heard)}"
        elif heard is None and document["uptime_seconds"] >= SILENT_SECONDS:
            yield f"{one['name']} has had no notice since the start"


# Words for people


def span(seconds: float) -> str:
    """``4 s``, ``3 min``, ``5 h``, ``2 days``."""
    for size, word in ((172_800, "days"), (7200, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3600, 'min': 60}[word]:.0f} {word}"
    return f"{seconds:.0f} s"


def counted(number: int, word: str, plural: str = "") -> str:
    """``1 line``, ``1,200 lines``."""
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def listed(words: list[str]) -> str:
    """The first of them, with commas, and how many more there are."""
    more = len(words) - SHOWN_REASONS
    text = ", ".join(words[:SHOWN_REASONS])
    return text + (f" and {more} more" if more > 0 else "")


def reasons(numbers: Mapping[str, int]) -> str:
    """``syntax 12, job id 3``, the most frequent first."""
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return listed([f"{name.replace('_', ' ')} {number:,}" for name, number in ordered])


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _recently(document: Document, group: str) -> Mapping[str, int]:
    found: Mapping[str, int] = document["recent"].get(group, {})
    return found


def _when(document: Document) -> str:
    return f"in the last {span(max(document['recent_seconds'], 1))}"


# The rules


def _journal(document: Document) -> Iterator[Problem]:
    journal = document["journal"]
    if journal is None:
        return
    path, recent = journal["path"], _recently(document, "journal")
    if journal["problem"]:
        yield Problem(
            90,
            f"the journal {path} cannot be written for {span(journal['lag_seconds'])}:"
            f" {journal['problem']}; {counted(journal['waiting'], 'row')} of it"
            f" {'waits' if journal['waiting'] == 1 else 'wait'} in memory",
            "make room on that disk, or let the daemon's user write there; what waits is then"
            f" written, but of more than {journal['max_waiting']:,} rows the oldest are lost",
        )
    if recent.get("lost"):
        yield Problem(
            95,
            f"{counted(recent['lost'], 'row')} for the journal {_was(recent['lost'])} lost"
            f" {_when(document)}",
            "jobs and sets are right, their history is not; the log says why: mostly the disk has"
            " refused them for too long",
        )
    if journal["damaged"]:
        yield Problem(
            60,
            f"the journal was damaged and set aside ({counted(journal['damaged'], 'file')})",
            f"look at {path}*.damaged-* beside it; a database can still be read with --journal;"
            " check the disk",
        )
    if recent.get("unreadable"):
        yield Problem(
            40,
            f"{counted(recent['unreadable'], 'record')} of the journal could not be read",
            "the log names the jobs",
        )


def _services(document: Document) -> Iterator[Problem]:
    for one in document["listeners"]:
        if not one["listening"]:
            yield Problem(
                80, f"nobody listens at {one['endpoint']}", "the log says why; restart the daemon"
            )
    if document["job_managers"] and not document["messages_enabled"]:
        yield Problem(
            85,
            "the message service is off: no job becomes known",
            "put msg_enable into the configuration",
        )
    for one in (*document["job_managers"], *document["samplers"]):
        if one["state"] == "failed":
            yield Problem(
                75,
                f"{one['kind']} {one['name']} has failed and does nothing",
                f"the log of {one['group'].partition('/')[2]} says why",
            )


def _subscribers(document: Document) -> Iterator[Problem]:
    for one in document["subscribers"]:
        name, queued = one["name"], one["queued"]
        recent = _recently(document, f"subscribers/{name}")
        busy = one["busy_seconds"] >= BUSY_SECONDS
        if busy:
            wait = "waits" if queued == 1 else "wait"
            waiting = f"; {counted(queued, 'event')} {wait} for it" if queued else ""
            yield Problem(
                55 if queued else 35,
                f"subscriber {name} is stuck: it has not been done with one event for"
                f" {span(one['busy_seconds'])}{waiting}",
                f"look at what it waits for; beyond {one['limit']:,} events the oldest are lost",
            )
        if recent.get("lost"):
            yield Problem(
                70,
                f"{counted(recent['lost'], 'event')} for subscriber {name} {_was(recent['lost'])}"
                f" lost {_when(document)}",
                "it is too slow; it has been told, and can ask for the jobs that there are",
            )
    for group, recent in document["recent"].items():
        if not group.startswith("subscribers/"):
            continue
        name = group.partition("/")[2]
        if recent.get("failed"):
            yield Problem(
                45,
                f"subscriber {name} failed {counted(recent['failed'], 'time')} {_when(document)}",
                "the log has the traceback; a subscriber that fails 100 times in a row is closed",
            )
        if recent.get("discarded"):
            yield Problem(
                65,
                f"subscriber {name} was closed before it had got"
                f" {counted(recent['discarded'], 'event')}",
                "the log says why",
            )


def _plugins(document: Document) -> Iterator[Problem]:
    for group, recent in document["recent"].items():
        kind, _, name = group.partition("/")
        if kind != "plugins":
            continue
        failures = recent.get("failures", 0) + recent.get("sample_failures", 0)
        if failures:
            yield Problem(
                48,
                f"{name} failed {counted(failures, 'time')} {_when(document)}",
                f"the log of {name} has the traceback",
            )
        if name.startswith("jobmgr."):
            yield from _rejections(document, name, recent)
        if recent.get("lines_lost"):
            yield Problem(
                68,
                f"{name} lost {counted(recent['lines_lost'], 'line')} {_when(document)}",
                "is there room on the disk of its file?",
            )


def _rejections(document: Document, name: str, recent: Mapping[str, int]) -> Iterator[Problem]:
    rejected = by_reason(recent, "rejected")
    if rejected:
        yield Problem(
            52,
            f"{name} could not use {counted(sum(rejected.values()), 'message')}"
            f" {_when(document)}: {reasons(rejected)}",
            f"does the notifier's version fit? {_LOG.format('quotes one')}",
        )


def _notifiers(document: Document) -> Iterator[Problem]:
    recent = _recently(document, "plugins/xprt.notifier")
    lost = recent.get("lost_by_notifiers", 0) + recent.get("spool_truncated", 0)
    if lost:
        yield Problem(
            92,
            f"{counted(lost, 'line')} of notifiers {_was(lost)} lost {_when(document)}",
            "their spool was full while the daemon did not run or did not keep up; jobs may be"
            " missing, or seem to run",
        )
    if recent.get("spool_errors") or recent.get("spool_refused"):
        yield Problem(
            72,
            f"the notifiers' spool could not be read {_when(document)}",
            "the log says why; its directory belongs to the daemon's user, mode 0700",
        )
    refused = by_reason(recent, "refused")
    if refused:
        yield Problem(
            42,
            f"{counted(sum(refused.values()), 'line')} of notifiers {_was(sum(refused.values()))}"
            f" refused {_when(document)}: {reasons(refused)}",
            _LOG.format("names the processes"),
        )


def _messages(document: Document) -> Iterator[Problem]:
    recent, when = _recently(document, "messages"), _when(document)
    dropped = {
        reason: number
        for reason, number in by_reason(recent, "dropped").items()
        if reason not in ("closed", "rate")  # The subscriber has gone, or has asked for it.
    }
    if dropped:
        number = sum(dropped.values())
        yield Problem(
            46,
            f"{counted(number, 'message')} for peers that subscribed {_was(number)} dropped"
            f" {when}: {reasons(dropped)}",
            f"they read too slowly or not at all; {_LOG.format('names them')}",
        )
    for counter, weight, what, advice in (
        (
            "publisher_refused",
            *(58, "kept from a job manager because of who had published"),
            "name the publisher in its publishers=, if it is to be believed;"
            f" {_LOG.format('tells its uid')}",
        ),
        ("receiver_failures", 62, "which a job manager failed on", "the log has the traceback"),
    ):
        number = recent.get(counter, 0)
        if number:
            verb = f"{_was(number)} " if counter == "publisher_refused" else "came "
            yield Problem(weight, f"{counted(number, 'message')} {verb}{what} {when}", advice)
    off = _recently(document, "links").get("refused_off", 0)
    if off:
        yield Problem(
            66,
            f"{counted(off, 'message')} {_was(off)} refused {when}: the message service was off",
            "put msg_enable into the configuration",
        )


def _links(document: Document) -> Iterator[Problem]:
    recent, when = _recently(document, "links"), _when(document)
    not_opened = by_reason(recent, "not_opened")
    not_opened.pop("closed without a word", None)
    limited = {one: not_opened.pop(one) for one in list(not_opened) if _is_limit(one)}
    if limited:
        yield Problem(
            50,
            f"{counted(sum(limited.values()), 'connection')} {_was(sum(limited.values()))} refused"
            f" {when} because of limits: {reasons(limited)}",
            f"`limits` in the configuration raises them; {_LOG.format('names the peers')}",
        )
    denied = {one: not_opened.pop(one) for one in list(not_opened) if "auth" in one}
    if denied:
        yield Problem(
            44,
            f"{counted(sum(denied.values()), 'connection')} failed to authenticate {when}:"
            f" {reasons(denied)}",
            "do both sides use the same auth= and keys? the log names them",
        )
    if not_opened:
        yield Problem(
            20,
            f"{counted(sum(not_opened.values()), 'connection')} did not become links {when}:"
            f" {reasons(not_opened)}",
            f"somebody connects who does not speak LDMS; {_LOG.format('names them')}",
        )
    # Words of ours have blanks; the others are names of ordinary network errors.
    closed = {one: number for one, number in by_reason(recent, "closed").items() if " " in one}
    if closed:
        yield Problem(
            30,
            f"{counted(sum(closed.values()), 'link')} {_was(sum(closed.values()))} closed by us"
            f" {when}: {reasons(closed)}",
            f"these peers do not read, or send what is no LDMS; {_LOG.format('names them')}",
        )
    gauges = document["gauges"].get("daemon", {})
    limit, used = gauges.get("descriptor_limit"), gauges.get("open_descriptors", 0)
    if limit and used >= FEW_DESCRIPTORS * limit:
        yield Problem(
            64,
            f"{used:.0f} of {limit:.0f} descriptors are open",
            "raise LimitNOFILE of the service, or see who connects so often",
        )


def _is_limit(reason: str) -> bool:
    return any(word in reason for word in ("too many", "too_many", "limit", "descriptor"))


def _room(document: Document) -> Iterator[Problem]:
    recent, when = _recently(document, "links"), _when(document)
    if recent.get("no_descriptor"):
        yield Problem(
            63,
            f"there was no file descriptor for further connections {when}"
            f" ({counted(recent['no_descriptor'], 'time')})",
            "raise LimitNOFILE of the service, or see who connects so often",
        )
    refused = by_reason(_recently(document, "jobs"), "refused")
    if refused:
        yield Problem(
            67,
            f"{counted(sum(refused.values()), 'notice')} {_was(sum(refused.values()))} refused"
            f" {when} because of limits: {reasons(refused)}",
            "`limits` in the configuration raises them, if these jobs are real;"
            f" {_LOG.format('names some')}",
        )


def _sets(document: Document) -> Iterator[Problem]:
    recent, when = _recently(document, "job_sets"), _when(document)
    if recent.get("tasks_left_out"):
        yield Problem(
            43,
            f"{counted(recent['tasks_left_out'], 'task')} found no room in their job sets {when}",
            "a job has more tasks than a set may have; its events are complete",
        )
    if recent.get("not_offered"):
        number = recent["not_offered"]
        yield Problem(
            57,
            f"{counted(number, 'job set')} could not be offered {when}",
            "another set has the same name: are there two job managers for the same jobs?",
        )


def by_reason(counters: Mapping[str, int], name: str) -> dict[str, int]:
    """The counters ``name.REASON`` and ``name_REASON`` that are not 0, by reason."""
    return {
        counter[len(name) + 1 :]: value
        for counter, value in counters.items()
        if value and counter.startswith((f"{name}.", f"{name}_"))
    }


_RULES: tuple[Callable[[Document], Iterator[Problem]], ...] = (
    _journal,
    _services,
    _subscribers,
    _plugins,
    _notifiers,
    _messages,
    _links,
    _room,
    _sets,
)
