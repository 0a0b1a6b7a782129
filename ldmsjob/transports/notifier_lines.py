"""The notifier's lines, without any input or output: bytes → lines → messages, each line once.

A line is a JSON object that begins with who wrote it, ``{"notifier":{"boot":…,"pid":…,"start":…,
"seq":…}, …}``: docs/slurm.md, How the lines arrive. Only that part is looked into here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from ldmsjob.wire.events import BODY_OVERHEAD, JSON, Credential, Message, Publish
from ldmsjob.wire.msg import TAG_AT, publish_frame

MAX_LINE_BYTES = 16 * 1024
"""The longest line, its newline not counted."""

MAX_PROCESSES = 16_384
"""Processes whose lines are remembered at once; of more, those silent for longest are forgotten."""

REMEMBER_SECONDS = 3600.0
"""How long a silent process is remembered. A line comes twice within seconds, or after a daemon
that was stopped goes on: then both are there at once."""

WINDOW = 256
"""A line may come behind lines of its process that were written up to this many later."""

ACCEPTED, REFUSED = b"+", b"-"
"""The answers to a line. One that is refused is not to be sent again."""

PERM = 0o440
"""Who may read the messages among remote subscribers, as the C notifier has it."""

_BEGIN = b'{"notifier":{"'
"""Inside a line it cannot come again: in strings its quotes are escaped, and what users give as
objects has a space there."""

_MASK = (1 << WINDOW) - 1


class _Notifier(msgspec.Struct, gc=False):
    boot: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    pid: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
    start: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class _Line(msgspec.Struct, gc=False):
    notifier: _Notifier


_decode = msgspec.json.Decoder(_Line).decode


class LineCutter:
    """Cuts a stream of bytes into lines, however the bytes arrive.

    A line of more than ``max_line_bytes`` is left out and counted in ``too_long``.
    """

    __slots__ = ("_max", "_rest", "_skipping", "too_long")

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._rest = bytearray()
        self._skipping = False
        self.too_long = 0

    @property
    def unfinished(self) -> bool:
        """Whether the bytes so far end within a line."""
        return bool(self._rest) or self._skipping

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without their newlines."""
        lines = data.split(b"\n")
        rest = self._rest
        last = lines.pop()
        if lines:
            if rest:
                lines[0] = bytes(rest + lines[0])
                rest.clear()
            if self._skipping:
                del lines[0]
                self._skipping = False
            if len(data) + len(lines[0] if lines else b"") > self._max:
                whole = [line for line in lines if len(line) <= self._max]
                self.too_long += len(lines) - len(whole)
                lines = whole
        if not self._skipping:
            rest += last
            if len(rest) > self._max:
                rest.clear()
                self._skipping = True
                self.too_long += 1
        return lines


Process = tuple[str, int, int]
"""Boot id, pid, start time: one process, for ever."""


class Batch:
    """What a ``LineBook`` makes of some lines of one stream.

    ``answers`` has one byte for each line, in order. ``fresh`` are the lines that had not come
    before, with their bytes as they came.
    """

    __slots__ = ("answers", "fresh", "keys", "refused", "repeated")

    def __init__(self) -> None:
        self.answers = b""
        self.fresh: list[bytes] = []
        self.keys: list[tuple[Process, int]] = []
        self.repeated = 0
        self.refused: dict[str, int] = {}


class LineBook:
    """Remembers which lines have come, so that each counts once.

    Of each process it knows the last ``WINDOW`` sequence numbers up to the highest; what is older
    counts as having come. Memory is bounded by ``max_processes``.
    """

    def __init__(
        self,
        *,
        max_processes: int = MAX_PROCESSES,
        remember_seconds: float = REMEMBER_SECONDS,
    ) -> None:
        self._max_processes = max_processes
        self._remember_seconds = remember_seconds
        # Highest number; bit n: highest - n has come; when. Silent for longest first.
        self._processes: dict[Process, tuple[int, int, float]] = {}
        self._boot = ""
        self.forgotten: list[str] = []
        """Names of processes that were forgotten; the owner takes them out."""

    def __len__(self) -> int:
        """How many processes are remembered."""
        return len(self._processes)

    def take(self, lines: Sequence[bytes], now: float, *, mend: bool = False) -> Batch:
        """Tell new lines from repeated and refused ones. ``now`` is in monotonic seconds.

        With ``mend`` an empty line is nothing, and a line is also found behind the beginning of
        another one whose writer did not live to finish it.
        """
        batch = Batch()
        answers = bytearray()
        for line in lines:
            if mend and not line:
                continue
            try:
                notifier = _decode(line).notifier
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                begin = line.rfind(_BEGIN) if mend else 0
                reason = "torn" if begin > 0 else _reason(error)
                batch.refused[reason] = batch.refused.get(reason, 0) + 1
                if begin <= 0:
                    answers += REFUSED
                    continue
                rest = self.take([line[begin:]], now)
                self._merge(batch, rest)
                answers += rest.answers
                continue
            boot = notifier.boot
            if boot == self._boot:
                boot = self._boot
            else:
                self._boot = boot
            process = (boot, notifier.pid, notifier.start)
            if self._is_new(process, notifier.seq, now):
                batch.fresh.append(line)
                batch.keys.append((process, notifier.seq))
            else:
                batch.repeated += 1
            answers += ACCEPTED
        batch.answers = bytes(answers)
        return batch

    def restore(self, kept: Mapping[str, int], now: float) -> None:
        """Know again what ``highest`` of an earlier book told. What is no name is forgotten."""
        for name, highest in kept.items():
            boot, _, rest = name.partition("/")
            pid, _, start = rest.partition("/")
            if pid.isdecimal() and start.isdecimal():
                self._processes[boot, int(pid), int(start)] = (highest, _MASK, now)
            else:
                self.forgotten.append(name)

    def highest(self, batch: Batch) -> dict[str, int | None]:
        """Of each process with fresh lines in that batch the highest number that has come; None
        when none has, because the batch was forgotten."""
        found: dict[str, int | None] = {}
        for process, _number in batch.keys:
            known = self._processes.get(process)
            if known is not None:
                highest, seen, _ = known
                newest = seen & -seen  # The lowest bit that is set.
                found[_name(process)] = highest - newest.bit_length() + 1 if newest else None
        return found

    def forget(self, batch: Batch) -> None:
        """Nothing came of the fresh lines of that batch: they may come again."""
        for process, number in batch.keys:
            known = self._processes.get(process)
            if known is not None and known[0] - number < WINDOW:
                highest, seen, when = known
                behind = highest - number
                if behind < WINDOW:  # what is older counts as having come, whatever happens
                    self._processes[process] = (highest, seen & ~(1 << behind), when)

    @staticmethod
    def _merge(batch: Batch, other: Batch) -> None:
        batch.fresh += other.fresh
        batch.keys += other.keys
        batch.repeated += other.repeated
        for reason, count in other.refused.items():
            batch.refused[reason] = batch.refused.get(reason, 0) + count

    def _is_new(self, process: Process, number: int, now: float) -> bool:
        known = self._processes.pop(process, None)
        if known is None:
            self._make_room(now)
            self._processes[process] = (number, 1, now)
            return True
        highest, seen, _ = known
        ahead = number - highest
        if ahead > 0:
            seen = ((seen << ahead) | 1) & _MASK if ahead < WINDOW else 1
            self._processes[process] = (number, seen, now)
            return True
        bit = 1 << -ahead if -ahead < WINDOW else 0
        self._processes[process] = (highest, seen | bit, now)
        return bool(bit) and not seen & bit

    def _make_room(self, now: float) -> None:
        """Forget processes that were silent for long, and one more when there is no room."""
        processes = self._processes
        long_ago = now - self._remember_seconds
        for _ in range(2):
            oldest = next(iter(processes), None)
            if oldest is None or processes[oldest][2] >= long_ago:
                break
            self._drop(oldest)
        if len(processes) >= self._max_processes:
            self._drop(next(iter(processes)))

    def _drop(self, process: Process) -> None:
        del self._processes[process]
        self.forgotten.append(_name(process))


def _name(process: Process) -> str:
    """How a process is called in the journal."""
    boot, pid, start = process
    return f"{boot}/{pid}/{start}"


def _reason(error: Exception) -> str:
    """Why a line was refused, as the word of a counter."""
    if isinstance(error, msgspec.ValidationError):
        return "identity"
    if isinstance(error, UnicodeDecodeError):
        return "utf8"
    return "nesting" if isinstance(error, RecursionError) else "syntax"


class MessageMaker:
    """Makes messages of one channel out of lines, as if a link to a publisher had brought them.

    Raises ``PublishError`` (rc 22) for a name that cannot be a channel's.
    """

    __slots__ = ("_channel", "_number")

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._number = 0
        self._head(Credential(0, 0), 0)

    def _head(self, credential: Credential, now_us: int) -> bytes:
        """What is in front of the line in a message's image. The length that it names is wrong;
        nobody reads it there."""
        command = Publish(self._channel, b"", JSON, credential.uid, credential.gid, PERM)
        return publish_frame(command, 0, now_us)[TAG_AT - BODY_OVERHEAD :]

    def messages(
        self, lines: Sequence[bytes], credential: Credential, now_us: int
    ) -> list[Message]:
        """A message for each line. ``now_us`` is wall-clock microseconds."""
        head = self._head(credential, now_us)
        at = len(head)
        tag = at - BODY_OVERHEAD
        channel, uid, gid = self._channel, credential.uid, credential.gid
        number = self._number
        self._number += len(lines)
        result = []
        for line in lines:
            image = head + line + b"\0"
            number += 1
            result.append(
                Message(
                    channel,
                    JSON,
                    uid,
                    gid,
                    PERM,
                    1,
                    number,
                    None,
                    tag + len(line) + 1,
                    image,
                    at,
                    now_us,
                )
            )
        return result
