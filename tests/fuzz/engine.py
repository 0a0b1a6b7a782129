"""Runs one target for a while, in a process of its own: ``python -m tests.fuzz.engine``.

With atheris, coverage guides it; without, hypothesis makes inputs: any bytes, and damaged seeds.
The last line of its output is a JSON object with what came of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:  # there is none for this Python
    atheris = None

# What is to be followed must be imported under atheris' eyes, and not before.
with atheris.instrument_imports(include=["ldmsjob"]) if atheris else nullcontext():
    from tests.fuzz.finds import Finds
    from tests.fuzz.registry import TARGETS
    from tests.fuzz.target import Target

GUIDED = atheris is not None


def main(arguments: list[str]) -> None:
    """``TARGET SECONDS DIRECTORY SEED``: crashes and new inputs go below the directory."""
    name, seconds, directory, seed = arguments
    target = TARGETS[name]
    corpus = Path(directory) / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    finds = Finds(target, Path(directory) / "crashes")
    seeds = list(target.seeds())
    for data in seeds:
        finds.attempt(data, measure=False)  # what is imported or made once is no cost of an input
    before = set(os.listdir(corpus))
    started = time.monotonic()

    def tell() -> None:
        report = {
            "runs": finds.runs,
            "seconds": round(time.monotonic() - started, 1),
            "crashes": {place: str(path) for place, path in finds.crashes.items()},
            "new": len(set(os.listdir(corpus)) - before),
        }
        print(json.dumps(report), flush=True)

    if GUIDED:
        _guided(finds, target, seeds, corpus, float(seconds), int(seed), tell)
    else:
        _unguided(finds, target, seeds, corpus, float(seconds), int(seed))
        tell()


def _guided(
    finds: Finds,
    target: Target,
    seeds: list[bytes],
    corpus: Path,
    seconds: float,
    seed: int,
    tell: Any,
) -> None:
    """Under atheris, which ends the process when the time is over."""
    given = corpus.parent.parent / "seeds" / target.name
    given.mkdir(parents=True, exist_ok=True)
    for data in seeds:
        (given / hashlib.sha1(data).hexdigest()).write_bytes(data)
    deadline = time.monotonic() + seconds

    def attempt(data: bytes) -> None:
        finds.attempt(data)
        if time.monotonic() > deadline:
            tell()
            os._exit(0)

    options = (
        f"-max_len={target.max_bytes}",
        f"-seed={seed % (1 << 31) or 1}",
        "-timeout=20",
        "-rss_limit_mb=1024",
        "-verbosity=0",
        f"-artifact_prefix={corpus.parent.parent}/crashes/{target.name}-",
    )
    atheris.Setup([sys.argv[0], *options, str(corpus), str(given)], attempt)
    atheris.Fuzz()


def _unguided(
    finds: Finds, target: Target, seeds: list[bytes], corpus: Path, seconds: float, seed: int
) -> None:
    """Under hypothesis: any bytes, and seeds with some bytes changed, left out, doubled."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    known = [*seeds, *(path.read_bytes() for path in corpus.iterdir())]
    for data in known:
        finds.attempt(data)
    edits = st.lists(
        st.tuples(st.integers(0, 1 << 16), st.sampled_from((0, 1, 2, 4)), st.binary(max_size=8)),
        max_size=6,
    )

    def damaged(choice: tuple[bytes, list[tuple[int, int, bytes]]]) -> bytes:
        data, changes = choice
        for at, left_out, put_in in changes:
            at %= len(data) + 1
            data = data[:at] + put_in + data[at + left_out :]
        return data[: target.max_bytes]

    inputs = st.binary(max_size=target.max_bytes)
    if known:
        inputs |= st.tuples(st.sampled_from(known), edits).map(damaged)
    deadline = time.monotonic() + seconds
    chance = random.Random(seed)
    while time.monotonic() < deadline:

        @seeded(chance.randrange(1 << 32))
        @settings(
            max_examples=200,
            deadline=None,
            database=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def some(data: bytes) -> None:
            if time.monotonic() < deadline:
                finds.attempt(data)

        some()


if __name__ == "__main__":
    main(sys.argv[1:])
