"""Received bytes that wait for the rest of their frame, and packers made from declarations.

Every structure of the wire is declared once, in construct, in the module that it belongs to.
construct itself is too slow for each message, so the code packs and unpacks with ``struct.Struct``
objects that ``flat_struct`` derives from those declarations: nothing is written twice.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from functools import cache

import msgspec
from construct import Bytes, Construct, FormatField, Padded, Renamed, Struct


def flat_struct(*declarations: Construct, only: Collection[str] | None = None) -> struct.Struct:
    """A ``struct.Struct`` for big-endian declarations of fixed size that follow one another.

    It yields, and takes, the fields in the order of their declaration, without padding. With
    ``only`` it yields just the fields of those names and skips the others, which it packs as zero;
    a name that is not declared, or declared twice, is refused with ``ValueError``. So is a
    declaration that no flat big-endian structure can express: a little-endian field is to be
    declared as ``Bytes``.
    """
    fields = [field for one in declarations for field in _fields(one, "")]
    names = [name for name, _ in fields if name]
    if only is not None and sorted(names.count(name) for name in only) != [1] * len(only):
        raise ValueError(f"not declared exactly once: {only} in {names}")
    code = [
        text if name and (only is None or name in only) else f"{struct.calcsize('>' + text)}x"
        for name, text in fields
    ]
    return struct.Struct(">" + "".join(code))


@cache  # Heads are part of many declarations.
def _fields(declaration: Construct, name: str) -> list[tuple[str, str]]:
    """(name, format) of each field in order; the name of padding is empty."""
    if isinstance(declaration, Renamed):
        return _fields(declaration.subcon, declaration.name)
    if isinstance(declaration, Struct):
        return [field for one in declaration.subcons for field in _fields(one, "")]
    if isinstance(declaration, Padded):
        return [("", f"{declaration.length}x")]
    if isinstance(declaration, Bytes):
        return [(name, f"{declaration.length}s")]
    if isinstance(declaration, FormatField):
        order, text = declaration.fmtstr[0], declaration.fmtstr[1:]
        if order == ">" or struct.calcsize("<" + text) == 1:
            return [(name, text)]
    raise ValueError(f"not a flat big-endian declaration: {name} {declaration!r}")


class Limits(msgspec.Struct, frozen=True):
    """The most that one connection keeps for its peer (docs/wire.md, Limits)."""

    frame_before_authentication: int = 65_536
    """Bytes of a frame of a peer that is not authenticated."""
    paused_bytes: int = 2_097_152
    """Bytes that may come while authentication waits for our side."""
    message: int = 16_777_216
    """Bytes of one message that comes in fragments, its fixed part included."""
    partial_messages: int = 16
    """Messages of which some fragments have come."""
    partial_message_bytes: int = 33_554_432
    """Bytes of those fragments."""
    partial_requests: int = 16
    """Daemon requests of which some records have come."""
    partial_request_bytes: int = 1_048_576
    """Bytes of those records."""
    daemon_answer: int = 16_777_216
    """Bytes of the answer to a request of ours."""
    match_bytes: int = 4096
    """Bytes of a subscription's match string, and characters of what is looked up."""
    announced_sets: int = 1_048_576
    """Sets that lookups on one link have found and that have not been deleted."""
    unanswered_deletions: int = 4096
    """Deletions of sets whose acknowledgement is still known as one."""


class ReceiveBuffer:
    """Keeps the beginning of a frame until the rest of it has come.

    Each received byte is copied a bounded number of times, however the peer cuts its frames.
    """

    __slots__ = ("_wanted", "kept")

    def __init__(self) -> None:
        self.kept: bytes | bytearray = b""
        """What is kept; mostly nothing. To be looked at only."""
        self._wanted = 0

    def __len__(self) -> int:
        """How many bytes are kept."""
        return len(self.kept)

    def take(self, data: bytes) -> bytes | None:
        """What was kept, and ``data``; or None, keeping both, while that is not enough."""
        kept = self.kept
        if not kept:
            return data
        if len(kept) + len(data) < self._wanted:
            self._append(data)
            return None
        self.kept = b""
        return b"".join((kept, data))

    def keep(self, data: bytes, at: int, wanted: int) -> None:
        """Keep ``data`` from ``at`` on; nothing can be done before there are ``wanted`` bytes."""
        self._wanted = wanted
        if self.kept:
            self._append(data[at:])
        else:
            self.kept = data[at:]

    def _append(self, data: bytes) -> None:
        kept = self.kept
        if type(kept) is not bytearray:
            # Not before something comes behind it, which mostly nothing does.
            kept = self.kept = bytearray(kept)
        kept += data

    def clear(self) -> None:
        """Forget everything."""
        self.kept = b""
