"""``test_jobmgr_sampler``: writes a line to a file for each job event.

The lines are those of the C plugin of that name, byte for byte; docs/events.md, Event file, gives
the formats. Lines of one turn are written with one system call.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Mapping

from zope.interface import implementer

from ldmsjob.errors import ConfigError
from ldmsjob.events import (
    EventsLost,
    JobEnded,
    JobSetDeleted,
    JobStarted,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
)
from ldmsjob.facts import JobFacts, StepFacts, TaskFacts
from ldmsjob.interfaces import IReopening, ISampler, ISamplerContext
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.subscriber import JobSubscriber

_MASK_32 = 0xFFFF_FFFF
_MASK_64 = 0xFFFF_FFFF_FFFF_FFFF

# Without O_NONBLOCK a pipe that nobody reads would stop the daemon. A file is not affected.
_OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Texts(dict[int | None, str]):
    """Texts of numbers, kept for when the number comes again, up to ``limit`` of them.

    Most numbers of a line have been in one before, and making their texts would be half the work
    of it. ``make`` makes one.
    """

    def __init__(self, make: Callable[[int | None], str], limit: int = 4096) -> None:
        self._make = make
        self._limit = limit

    def __missing__(self, number: int | None) -> str:
        if len(self) == self._limit:
            self.clear()
        self[number] = text = self._make(number)
        return text


def _signed(number: int | None) -> str:
    """As C's ``%d`` prints a 32-bit number; unknown is 0."""
    number = (number or 0) & _MASK_32
    return str(number if number < 0x8000_0000 else number - 0x1_0000_0000)


def _unsigned(number: int | None) -> str:
    """As C's ``%u`` prints a 32-bit number; unknown is 0."""
    return str((number or 0) & _MASK_32)


def _seconds(time_us: int | None) -> str:
    text = str(time_us or 0).rjust(7, "0")
    return f"{text[:-6]}.{text[-6:]}"


_SIGNED = Texts(_signed)
_UNSIGNED = Texts(_unsigned)
_SECONDS = Texts(_seconds)


def job_text(facts: JobFacts) -> str:
    """What stands behind the colon of a job's line."""
    return (
        f'{{"job_id":"{facts.job_id}","uid":{_SIGNED[facts.uid]},"gid":{_SIGNED[facts.gid]},'
        f'"job_start":{_SECONDS[facts.start_us]},"job_end":{_SECONDS[facts.end_us]},'
        f'"node_count":{_UNSIGNED[facts.node_count]},"total_tasks":{_UNSIGNED[facts.total_tasks]},'
        f'"local_tasks":{_UNSIGNED[facts.local_tasks]}}}\n'
    )


def task_text(facts: TaskFacts) -> str:
    """What stands behind the colon of a task's line."""
    return (
        f'{{"task_id":"{facts.task_id}","task_pid":{(facts.pid or 0) & _MASK_64},'
        f'"task_rank":{_UNSIGNED[facts.rank]},"task_start":{_SECONDS[facts.start_us]},'
        f'"task_end":{_SECONDS[facts.end_us]},"task_exit_status":{_SIGNED[facts.exit_status]}}}\n'
    )


def step_text(job: JobFacts, facts: StepFacts) -> str:
    """What stands behind the colon of a step's line, which the C plugin does not have."""
    return (
        f'{{"job_id":"{job.job_id}","step_id":{facts.step_id},'
        f'"step_start":{_SECONDS[facts.start_us]},"step_end":{_SECONDS[facts.end_us]},'
        f'"node_count":{_UNSIGNED[facts.node_count]},"total_tasks":{_UNSIGNED[facts.total_tasks]},'
        f'"local_tasks":{_UNSIGNED[facts.local_tasks]}}}\n'
    )


def _open(path: str, *, emptied: bool) -> int:
    """Open a file that nobody else writes. Raises ``OSError``, of its kinds ``BlockingIOError``
    when somebody does; the file is then as it was."""
    fd = os.open(path, _OPEN_FLAGS, 0o666)
    try:
        # Several may write to one device or pipe: there is nothing to empty and nothing to keep.
        if stat.S_ISREG(os.fstat(fd).st_mode):
            _lock(fd)
            if emptied:
                os.ftruncate(fd, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _lock(fd: int) -> None:
    """Lock the file as long as it is open. Raises ``BlockingIOError`` when it is locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # Some network file systems have no locks. Better to write without one than not at all.
        pass


@implementer(ISampler, IReopening)
class JobEventSampler(JobSubscriber):
    """Writes job events to the file named by the attribute ``file``, emptied at the start.

    ``steps`` adds lines for step starts and ends. ``component_id``, ``instance`` and ``producer``
    are accepted and mean nothing, as in C: it makes no set.

    Counters: ``lines`` written, ``lines_lost`` to failed writes or to this sampler's own slowness,
    ``write_errors``. The file never holds part of a line; what a failed write left is cut off.
    """

    def __init__(self, context: ISamplerContext) -> None:
        self._context = context
        self._log = LimitedLog(context.log)
        self._path = ""
        self._steps = False
        self._fd = -1
        self._lines: list[str] = []
        self._written = 0
        context.stats.counts("lines", lambda: self._written)
        # Bound once: to bind a method costs as much as to call it.
        self._append = self._lines.append
        self._begin, self._end = self._put_first, self._flush
        self._put: Callable[[str], None] = self._begin
        """Have a line written when the turn ends."""
        self._rest = b""
        self._ended_facts: JobFacts | None = None
        self._ended_text = ""

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Take the file's name. Raises ``ConfigError``."""
        path = attributes.get("file", "")
        if not path:
            raise ConfigError("attribute 'file' is required", hint="file=PATH")
        self._path = path
        self._steps = attributes.get("steps") == "true"

    def start(self) -> None:
        """Open the file, empty it and listen to job events. Raises ``ConfigError``: 17 when another
        sampler, of this or another daemon, writes the file."""
        self._fd = self._open(emptied=True)
        self._context.subscribe_jobs(self)

    def _open(self, *, emptied: bool) -> int:
        try:
            return _open(self._path, emptied=emptied)
        except BlockingIOError:
            raise ConfigError(
                f"another test_jobmgr_sampler writes file {self._path}",
                rc=errno.EEXIST,
                hint="give each one a file of its own",
            ) from None
        except OSError as error:
            raise ConfigError(
                f"cannot open file {self._path}: {error.strerror}", rc=error.errno or 0
            ) from error

    def reopen(self) -> None:
        """Go on at the end of the file that has the name now, or in a new one. What was there is
        kept. Raises ``ConfigError``, and goes on in the old file, when it cannot be opened."""
        self._flush()
        if self._is_present():
            return
        fd = self._open(emptied=False)
        os.close(self._fd)
        self._fd = fd
        self._rest = b""

    def _is_present(self) -> bool:
        """Whether the open file is still the one of that name."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except OSError:
            return False

    def sample(self, now: float) -> None:
        """Nothing: it reacts to events."""

    def stop(self) -> None:
        """Write what is left and close the file."""
        self._flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def job_started(self, event: JobStarted) -> None:
        """Write a ``job_start`` line."""
        self._put("job_start: " + job_text(event.facts))

    def step_started(self, event: StepStarted) -> None:
        """Write a ``step_start`` line, if step lines are wanted."""
        if self._steps:
            self._put("step_start: " + step_text(event.facts, event.step))

    def task_started(self, event: TaskStarted) -> None:
        """Write a ``task_start`` line."""
        self._put("task_start: " + task_text(event.task))

    def task_ended(self, event: TaskEnded) -> None:
        """Write a ``task_end`` line."""
        self._put("task_end: " + task_text(event.task))

    def step_ended(self, event: StepEnded) -> None:
        """Write a ``step_end`` line, if step lines are wanted."""
        if self._steps:
            self._put("step_end: " + step_text(event.facts, event.step))

    def job_ended(self, event: JobEnded) -> None:
        """Write a ``job_end`` line."""
        # The next event of the job, that of its set, has the same facts.
        self._ended_facts = facts = event.facts
        self._ended_text = text = job_text(facts)
        self._put("job_end: " + text)

    def job_set_deleted(self, event: JobSetDeleted) -> None:
        """Write a ``jobset_delete`` line."""
        facts = event.facts
        text = self._ended_text if facts is self._ended_facts else job_text(facts)
        self._put("jobset_delete: " + text)

    def events_lost(self, event: EventsLost) -> None:
        """Count them. There is no line for it that a reader of C's file would know."""
        self._context.stats.add("lines_lost", event.count)

    def subscription_closed(self) -> None:
        """Write the line ``client_close``."""
        self._put("client_close\n")

    def _put_first(self, line: str) -> None:
        """Begin to collect the lines of a turn."""
        self._put = self._append
        self._append(line)
        self._context.at_turn_end(self._end)

    def _flush(self) -> None:
        self._put = self._begin
        lines = self._lines
        if not lines or self._fd < 0:
            return
        data = "".join(lines).encode()
        count = len(lines)
        lines.clear()
        self._ended_facts = None
        if self._rest:
            data = self._rest + data
            self._rest = b""
        written = 0
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            lost = self._lose(data, written)
            self._context.stats.add("lines_lost", lost)
            self._context.stats.add("write_errors")
            self._written += count - lost
            self._log.warn(
                "write",
                "cannot write to {path}: {error}; {lost} lines are lost",
                path=self._path,
                error=error.strerror,
                lost=lost,
            )
        else:
            self._written += count

    def _lose(self, data: bytes, written: int) -> int:
        """Let the file end with a whole line; return how many of ``data`` it does not hold."""
        whole = data.rfind(b"\n", 0, written) + 1
        if whole < written:
            try:
                size = os.fstat(self._fd).st_size
                os.ftruncate(self._fd, size - (written - whole))
            except (OSError, ValueError):
                # What has gone into a pipe cannot be taken back: the line is finished later.
                whole = data.index(b"\n", written) + 1
                self._rest = data[written:whole]
        return data.count(b"\n", whole)
