"""Recorded conversations between unmodified C programs, from ``tests/vectors/wire/*.hex``.

A line is one TCP payload: ``> hex`` from the client to the server, ``< hex`` back; where there are
several connections ``c2> hex``. Lines with ``#`` tell what else happened. In
``slurm-notifier-init.hex`` that comment tells the direction of the next line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DIRECTORY = Path(__file__).parent / "vectors" / "wire"
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.hex"))

_LINE = re.compile(r"(?:c(\d+))?([<>]) ([0-9a-f]+)$")
_DIRECTION = re.compile(r"(C>S|S>C)")


class Payload(NamedTuple):
    """One TCP payload."""

    from_client: bool
    connection: int
    data: bytes


def conversation(name: str) -> list[Payload]:
    """All payloads of one file, in order."""
    payloads = []
    from_client = True
    for line in (DIRECTORY / f"{name}.hex").read_text("ascii").splitlines():
        if line.startswith("#"):
            direction = _DIRECTION.search(line)
            if direction:
                from_client = direction[1] == "C>S"
            continue
        match = _LINE.match(line)
        if match:
            payloads.append(Payload(match[2] == ">", int(match[1] or 1), bytes.fromhex(match[3])))
        elif line:
            payloads.append(Payload(from_client, 1, bytes.fromhex(line)))
    return payloads


def streams(name: str) -> dict[tuple[int, bool], bytes]:
    """(connection, from the client) -> all that went that way."""
    result: dict[tuple[int, bool], bytes] = {}
    for payload in conversation(name):
        key = (payload.connection, payload.from_client)
        result[key] = result.get(key, b"") + payload.data
    return result
