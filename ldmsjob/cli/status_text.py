"""The daemon's status on one screen: what is wrong first, then how much of everything there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ldmsjob.cli.output import printable
from ldmsjob.problems import by_reason, counted, listed, reasons, span

MAX_PROBLEMS = 6
"""How many are shown, with what to do; JSON has all."""

MAX_NOTES = 3
MAX_ROWS = 5
"""Of a table: the first job managers, the worst subscribers."""

MAX_NAME = 40
"""Characters of a name in a table."""

PLAIN_WIDTH = 100
"""Columns where the output is no terminal."""

Document = Mapping[str, Any]


def show(document: Document, stream: TextIO) -> None:
    """Print it, within about 40 lines of 80 columns or more."""
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        for part in _parts(document):
            console.print(part)
        return
    console.width = PLAIN_WIDTH
    with console.capture() as capture:
        for part in _parts(document):
            console.print(part)
    for line in capture.get().splitlines():
        stream.write(f"{line.rstrip()}\n")


def _parts(document: Document) -> Iterator[Any]:
    yield _heading(document)
    yield _problems(document["problems"])
    notes = document["notes"]
    for note in notes[:MAX_NOTES]:
        yield _text(f"note: {note}", "dim")
    yield ""
    yield _facts(document)
    if document["job_managers"]:
        yield ""
        yield _job_managers(document["job_managers"])
    if document["subscribers"]:
        yield ""
        yield _subscribers(document["subscribers"])


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style)


def _heading(document: Document) -> Text:
    return _text(
        f"ldmsjob {document['version']}, daemon {document['name']}, pid {document['pid']},"
        f" up {span(document['uptime_seconds'])}",
        "bold",
    )


def _problems(problems: Sequence[Mapping[str, str]]) -> Any:
    if not problems:
        return Text("nothing is wrong", "green")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for one in problems[:MAX_PROBLEMS]:
        error = one["severity"] == "error"
        style = "bold red" if error else "yellow"
        grid.add_row(_text("ERROR" if error else "warning", style), _text(one["what"], style))
        grid.add_row("", _text(f"-> {one['advice']}"))
    more = len(problems) - MAX_PROBLEMS
    if more > 0:
        grid.add_row("", _text(f"and {counted(more, 'more problem')}; --json tells all"))
    return grid


# What there is


def _facts(document: Document) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, words in (
        ("Listeners", _listeners(document)),
        ("Links", _links(document)),
        ("Messages", _messages(document)),
        ("Notifiers", _notifiers(document)),
        ("Latency", _latency(document)),
        ("Jobs", _jobs(document)),
        ("Sets", _sets(document)),
        ("Journal", _journal(document)),
        ("Process", _process(document)),
    ):
        if words:
            grid.add_row(label, _text("; ".join(words)))
    return grid


def _counters(document: Document, group: str) -> Mapping[str, int]:
    found: Mapping[str, int] = document["counters"].get(group, {})
    return found


def _gauges(document: Document, group: str) -> Mapping[str, float]:
    found: Mapping[str, float] = document["gauges"].get(group, {})
    return found


def _listeners(document: Document) -> list[str]:
    names = [
        one["endpoint"] + ("" if one["listening"] else " (does not listen)")
        for one in document["listeners"]
    ]
    return [listed(names) if names else "none"]


def _links(document: Document) -> list[str]:
    links, counters = document["links"], _counters(document, "links")
    over = ", ".join(f"{name} {number:,}" for name, number in links["by_transport"].items())
    words = [f"{links['open']:,} open" + (f": {over}" if over else "")]
    if links["open"] > 1:
        most = ", ".join(f"{where} ({number:,})" for where, number in links["top_addresses"][:3])
        words.append(f"most from {most}")
    not_opened = by_reason(counters, "not_opened")
    if not_opened:
        words.append(f"not opened: {reasons(not_opened)}")
    return words


def _messages(document: Document) -> list[str]:
    if not document["messages_enabled"]:
        return ["off"]
    received, hub = _counters(document, "links"), _counters(document, "messages")
    gauges = _gauges(document, "messages")
    words = [f"{received.get('messages', 0):,} received"]
    subscriptions = int(gauges.get("subscriptions", 0))
    if subscriptions or hub.get("forwarded"):
        words.append(
            f"{hub.get('forwarded', 0):,} forwarded for {counted(subscriptions, 'subscription')}"
        )
    if gauges.get("waiting"):
        words.append(f"{counted(int(gauges['waiting']), 'message')} wait for slow peers")
    dropped = by_reason(hub, "dropped")
    if dropped:
        words.append(f"dropped: {reasons(dropped)}")
    return words


def _notifiers(document: Document) -> list[str]:
    counters = _counters(document, "plugins/xprt.notifier")
    if not counters:
        return []
    words = [f"{counters.get('lines', 0):,} lines"]
    for counter, word in (
        ("spooled", "from the spool"),
        ("repeated", "repeated"),
        ("lost_by_notifiers", "lost"),
    ):
        if counters.get(counter):
            words.append(f"{counters[counter]:,} {word}")
    return words


def _latency(document: Document) -> list[str]:
    latency = document["latency"]
    if not latency["count"]:
        return []
    return [
        f"from message to event: half within {_short(latency['p50_seconds'])}, 99 % within"
        f" {_short(latency['p99_seconds'])}, all within {_short(latency['max_seconds'])}"
    ]


def _short(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{seconds * 1e3:.2g} ms"


def _jobs(document: Document) -> list[str]:
    gauges = _gauges(document, "jobs")
    return [
        f"{int(gauges.get('running', 0)):,} running, {int(gauges.get('lingering', 0)):,} lingering"
    ]


def _sets(document: Document) -> list[str]:
    counters = _counters(document, "sets")
    reads = counted(counters.get("reads", 0), "read") + f", {counters.get('pushes', 0):,} pushed"
    return [f"{int(_gauges(document, 'sets').get('served', 0)):,} served", reads]


def _journal(document: Document) -> list[str]:
    journal = document["journal"]
    if journal is None:
        return ["off"]
    words = [journal["path"], counted(journal["rows"], "row") + " written"]
    if journal["bytes"] is not None:
        words.append(_bytes(journal["bytes"]))
    if journal["problem"]:
        words.append(f"{journal['waiting']:,} wait for {span(journal['lag_seconds'])}")
    return words


def _process(document: Document) -> list[str]:
    gauges = _gauges(document, "daemon")
    words = []
    if "resident_bytes" in gauges:
        words.append(_bytes(gauges["resident_bytes"]))
    if "open_descriptors" in gauges:
        limit = gauges.get("descriptor_limit")
        of = f" of {int(limit):,}" if limit else ""
        words.append(f"{int(gauges['open_descriptors']):,}{of} descriptors")
    return words


def _bytes(number: float) -> str:
    for size, word in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number / 1024:.3g} KiB"


# Tables


def _table(*headings: str, left: int = 1) -> Table:
    """The first ``left`` columns hold text, the others numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < left else "right", no_wrap=True)
    return table


def _more(table: Table, number: int) -> Table:
    if number > MAX_ROWS:
        table.add_row(f"and {number - MAX_ROWS} more")
    return table


def _job_managers(managers: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(
        *("Job manager", "State", "Running", "Lingering", "Notices", "Last notice", "Rejected"),
        left=2,
    )
    for one in managers[:MAX_ROWS]:
        heard = one["last_notice_seconds"]
        table.add_row(
            _text(one["name"][:MAX_NAME]),
            one["state"],
            f"{int(one['jobs_running']):,}",
            f"{int(one['jobs_lingering']):,}",
            f"{one['notices']:,}",
            "never" if heard is None else f"{span(heard)} ago",
            f"{sum(one['rejected'].values()):,}",
        )
    return _more(table, len(managers))


def _subscribers(subscribers: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Subscriber", "Delivered", "Waiting", "Lost", "Failed", "Busy for")
    worst_first = sorted(
        subscribers, key=lambda one: (one["lost"], one["queued"], one["failed"]), reverse=True
    )
    for one in worst_first[:MAX_ROWS]:
        busy = one["busy_seconds"]
        table.add_row(
            _text(one["name"][:MAX_NAME]),
            *(f"{one[counter]:,}" for counter in ("delivered", "queued", "lost", "failed")),
            span(busy) if busy else "-",
        )
    return _more(table, len(subscribers))
