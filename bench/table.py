"""Makes Markdown of the results that the benchmarks have left.

Prints it, or puts it into a page between the two comments that this script knows again.

Usage: python bench/table.py [--results DIRECTORY] [--update docs/performance.md]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rounds import HEADINGS, cells_of

BEGIN = "<!-- what follows is written by bench/table.py -->"
END = "<!-- what precedes is written by bench/table.py -->"
ORDER = (
    "pipeline",
    "churn",
    "broker",
    "latency",
    "memory",
    "sets",
    "aggregator",
    "scale",
    "resources",
    "notifier",
)


def table_of(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """A Markdown table of lines as ``rounds.report`` writes them."""
    rows = [HEADINGS, ["---", "--:", "--:", *["---"] * (len(HEADINGS) - 3)], *map(cells_of, lines)]
    return [f"| {' | '.join(cells)} |" for cells in rows]


def section(document: Mapping[str, Any]) -> list[str]:
    """One benchmark: how it was run, and all that it told."""
    machine = document["machine"]
    sides = document["rounds"].values()
    rounds = max(len(figures) for side in sides for figures in side.values())
    pinned = ", pinned" if document["pinned"] else ""
    return [
        f"### {document['benchmark']}",
        "",
        f"`{document['command'].strip()}`: {document['date']}, commit {document['commit']}, "
        f"size {document['size']}{pinned}, {rounds} rounds; {machine['processor']}, "
        f"{machine['processors']} processors, Linux {machine['system']}, "
        f"CPython {machine['python']}.",
        "",
        *table_of(document["table"]),
        "",
    ]


def markdown(documents: Sequence[Mapping[str, Any]]) -> str:
    """What has a target, in one table; then everything."""
    aims = [
        {**line, "what": f"{document['benchmark']}: {line['what']}"}
        for document in documents
        for line in document["table"]
        if line.get("target")
    ]
    text = ["## Targets", "", *table_of(aims), "", "## All figures", ""]
    for document in documents:
        text += section(document)
    return "\n".join(text)


def update(page: Path, text: str) -> None:
    """Put the text between the comments of the page."""
    content = page.read_text("utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} does not have both comments: {BEGIN} and {END}")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", "utf-8")


def main(given: Sequence[str]) -> None:
    """Read the results, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--update", type=Path, metavar="PAGE")
    options = parser.parse_args(given)
    files = [options.results / f"{name}.json" for name in ORDER]
    documents = [json.loads(file.read_text("utf-8")) for file in files if file.exists()]
    if not documents:
        raise SystemExit(f"no results in {options.results}")
    text = markdown(documents)
    if options.update is None:
        print(text)
    else:
        update(options.update, text)


if __name__ == "__main__":
    main(sys.argv[1:])
