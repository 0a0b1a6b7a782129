"""Runs each part of a benchmark on all sides in turn, and tells what came of it.

A script has *parts*, functions that run one side's daemon once and return figures by name, and
*rows*, which say what a figure is called and which ratio to C's it should reach.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import daemons
from daemons import REPOSITORY, Side

C = "C"
ROUNDS = {"full": 5, "small": 1}

Figures = dict[str, float]
Rounds = dict[str, dict[str, list[float]]]
"""The figures of all rounds, by side and name."""


@dataclass(frozen=True)
class Target:
    """What a figure should reach: ``ratio`` to C's, or ``value``; at most, unless ``at_least``."""

    ratio: float | None = None
    value: float | None = None
    at_least: bool = False

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.ratio:g} C" if self.ratio is not None else f"{sign} {self.value:g}"

    def met(self, value: float, ratio: float | None) -> bool | None:
        """None when nobody can tell."""
        limit = self.ratio if self.ratio is not None else self.value
        figure = ratio if self.ratio is not None else value
        if figure is None or limit is None:
            return None
        return figure >= limit if self.at_least else figure <= limit


@dataclass(frozen=True)
class Row:
    """One line of the table: the figure ``name`` of one side, beside C's."""

    what: str
    name: str
    unit: str
    target: Target | None = None
    side: str = "ours"
    c_name: str = ""
    """C's figure to compare with, where it is called otherwise."""


@dataclass(frozen=True)
class Part:
    """Some figures that are measured together, on each of ``sides``."""

    name: str
    sides: Sequence[Side]
    measure: Callable[[Side], Figures]


def arguments(description: str, name: str, given: Sequence[str]) -> argparse.Namespace:
    """What was given on the command line: ``size``, ``rounds``, ``pin``, ``output``.

    SIGTERM ends the script as SIGINT does, with the daemons that it started.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--size", choices=ROUNDS, default="full", help="small: only that it works")
    parser.add_argument("--rounds", type=int, help="how often each side is run; 5")
    parser.add_argument(
        "--pin", action="store_true", help="daemons on the first processor, clients on the others"
    )
    parser.add_argument("--only", metavar="PART", action="append", help="measure only such parts")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / f"{name}.json"
    )
    options = parser.parse_args(given)
    options.rounds = options.rounds or ROUNDS[options.size]
    if options.pin:
        processors = os.sched_getaffinity(0)
        if len(processors) < 2 or 0 not in processors:
            parser.error("--pin needs the first processor and another one")
        os.sched_setaffinity(0, processors - {0})
        daemons.pinned = True
    if options.size == "small":
        daemons.idle_seconds = 0.1
    signal.signal(signal.SIGTERM, _end)
    return options


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def run(parts: Sequence[Part], options: argparse.Namespace) -> Rounds:
    """Every part on every side, side after side, round after round."""
    rounds: Rounds = {}
    wanted = [
        part
        for part in parts
        if not options.only or any(word in part.name for word in options.only)
    ]
    if not wanted:
        raise SystemExit(f"--only: the parts are {', '.join(part.name for part in parts)}")
    for part in wanted:
        for number in range(options.rounds):
            for side in part.sides:
                progress = f"{part.name}: round {number + 1} of {options.rounds}, {side.name}"
                print(time.strftime("%T"), progress, file=sys.stderr)
                try:
                    figures = part.measure(side)
                except RuntimeError as error:
                    raise SystemExit(f"{progress}: {error}") from error
                for name, figure in figures.items():
                    rounds.setdefault(side.name, {}).setdefault(name, []).append(figure)
    return rounds


def report(name: str, rows: Sequence[Row], rounds: Rounds, options: argparse.Namespace) -> None:
    """Print the table, and write it with all rounds as JSON."""
    table = [line for line in (_line(row, rounds) for row in rows) if line is not None]
    print(f"{name} ({options.size}, median of {options.rounds})")
    for cells in _aligned([HEADINGS, *(cells_of(line) for line in table)]):
        print(f"  {cells}")
    document = {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "command": f"python bench/{name}.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "c": {
            key: os.environ[key]
            for key in ("LDMS_PREFIX", "LDMS_JOBMGR_PREFIX")
            if os.environ.get(key)
        },
        "size": options.size,
        "pinned": options.pin,
        "table": table,
        "rounds": rounds,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _line(row: Row, rounds: Rounds) -> dict[str, object] | None:
    ours = rounds.get(row.side, {}).get(row.name)
    theirs = rounds.get(C, {}).get(row.c_name or row.name)
    if ours is None:
        return None
    value = statistics.median(ours)
    line: dict[str, object] = {"what": row.what, "unit": row.unit, "ours": value}
    ratio = None
    if theirs is not None:
        line["c"] = statistics.median(theirs)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True) if b]
        if ratios:
            ratio = statistics.median(ratios)
            line["ratio"] = {"median": ratio, "least": min(ratios), "most": max(ratios)}
    if row.target is not None:
        line["target"] = str(row.target)
        line["met"] = row.target.met(value, ratio)
    return line


HEADINGS = ["what", "ours", "C", "", "ours/C (least - most)", "target", ""]
"""Of the columns of ``cells_of``."""


def cells_of(line: Mapping[str, object]) -> list[str]:
    """A line of the table as texts."""
    ratio = line.get("ratio")
    spread = ""
    if isinstance(ratio, dict):
        spread = f"{ratio['median']:.3g} ({ratio['least']:.3g} - {ratio['most']:.3g})"
    met = {True: "met", False: "NOT MET"}.get(line.get("met"), "")  # type: ignore[call-overload]
    return [
        str(line["what"]),
        _number(line["ours"]),
        _number(line.get("c")),
        str(line["unit"]),
        spread,
        str(line.get("target", "")),
        met,
    ]


def _number(value: object) -> str:
    if not isinstance(value, (int, float)):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Each line as one text: numbers to the right, the rest to the left."""
    widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
    result = []
    for cells in table:
        texts = [
            text.rjust(width) if column in (1, 2) else text.ljust(width)
            for column, (text, width) in enumerate(zip(cells, widths, strict=True))
        ]
        result.append("  ".join(texts).rstrip())
    return result


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
        return subprocess.run(
            command, cwd=REPOSITORY, check=True, capture_output=True, text=True
        ).stdout.strip()
    return ""


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.release(),
    }
