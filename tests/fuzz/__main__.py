"""``python -m tests.fuzz [--seconds N] [TARGET…]``: hostile bytes, for as long as you like."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GRACE_SECONDS = 600.0
"""How much longer than it should a target's process may take: it imports, and has a last input."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="in all, shared out among targets (60)"
    )
    parser.add_argument(
        "--output", default="fuzz-output", help="for corpus and crashes (fuzz-output)"
    )
    parser.add_argument("--seed", type=int, default=None, help="of chance; any without it")
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    parser.add_argument("--replay", metavar="FILE", help="try one input on the one TARGET given")
    return parser.parse_args()


def main() -> int:
    """Run them; 1 when one crashed."""
    arguments = _arguments()
    if arguments.list or arguments.replay:
        return _with_targets(arguments)
    names = arguments.targets or _names()
    seed = random.randrange(1 << 31) if arguments.seed is None else arguments.seed
    output = Path(arguments.output).absolute()
    share = arguments.seconds / len(names)
    guided = importlib.util.find_spec("atheris") is not None
    print(f"{'atheris' if guided else 'hypothesis'}, --seed={seed}, {share:g} s each")
    print(f"{'target':<16}{'runs':>10}{'seconds':>9}{'crashes':>9}{'new':>6}", flush=True)
    crashed: list[str] = []
    total = 0
    for name in names:
        report = _run(name, share, output, seed)
        total += report["runs"]
        crashed += [f"{name}: {path}: {place}" for place, path in report["crashes"].items()]
        print(
            f"{name:<16}{report['runs']:>10}{report['seconds']:>9}{len(report['crashes']):>9}"
            f"{report['new']:>6}",
            flush=True,
        )
    print(f"{total} runs, {len(crashed)} crashes")
    for text in crashed:
        print(text)
    return 1 if crashed else 0


def _run(name: str, seconds: float, output: Path, seed: int) -> dict[str, Any]:
    # In memory where that is possible; removed here, because the target's process ends suddenly.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ldmsjob-fuzz-", dir=memory) as scratch:
        return _run_in(scratch, name, seconds, output, seed)


def _run_in(scratch: str, name: str, seconds: float, output: Path, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.fuzz.engine", name, str(seconds), str(output)]
    (output / "crashes").mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [*command, str(seed)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": str(seed % 1000), "TMPDIR": scratch},
    )
    try:
        told, errors = process.communicate(timeout=seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        told, errors = process.communicate()
        errors += "\nhangs"
    try:
        report: dict[str, Any] = json.loads(told.splitlines()[-1])
        return report
    except (IndexError, ValueError):
        # It ended by itself: out of memory, too long at one input, or the interpreter crashed.
        path = output / "crashes" / f"{name}-end.txt"
        path.write_text(errors)
        return {"runs": 0, "seconds": 0.0, "crashes": {"ended": str(path)}, "new": 0}


def _names() -> list[str]:
    """The names, asked of another process: here nothing may be imported that is to be followed."""
    command = [sys.executable, "-m", "tests.fuzz", "--list"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def _with_targets(arguments: argparse.Namespace) -> int:
    from tests.fuzz.registry import TARGETS
    from tests.fuzz.target import cost

    if arguments.list:
        print("\n".join(TARGETS))
        return 0
    (name,) = arguments.targets
    lines, peak = cost(TARGETS[name], Path(arguments.replay).read_bytes())
    print(f"{name}: {lines} lines of Python, {peak} bytes at the peak")
    return 0


if __name__ == "__main__":
    sys.exit(main())
