"""What Slurm's controller says of the jobs of some nodes, or of some jobs: one ``squeue``, never
two at a time.

``squeue`` loads the whole job table of the controller, whatever is asked for. So it is run rarely
(docs/slurm.md, Reconciling), with a deadline and a bound on its output; and after a failure it is
left alone for a while that doubles each time.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from ldmsjob.facts import JobDetails
from ldmsjob.interfaces import IStats
from ldmsjob.limitedlog import harmless

DEADLINE_SECONDS = 10.0
MAX_OUTPUT_BYTES = 8 << 20
MAX_ERROR_BYTES = 4096
MAX_ASKED_JOBS = 1000
"""Ids in one command line: 11 kB of them."""
FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 600.0

MAX_ASKED_ID = (1 << 31) - 1
"""``squeue`` takes no larger ids, though in federations of clusters there are some; and one that
it does not take has it refuse all of them."""

UNKNOWN_NODE = "Invalid node name"
"""What ``squeue`` says then."""

_FIELDS = (
    "JobID",
    "State",
    "UserID",
    "GroupID",
    "StartTime",
    "EndTime",
    "ArrayJobID",
    "ArrayTaskID",
    "HetJobID",
    "HetJobOffset",
    "RestartCnt",
    "exit_code",
    "NumNodes",
    "UserName",
    "Partition",
    "Account",
    "Name",
)

_ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PENDING",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "REVOKED",
        "SPECIAL_EXIT",
        "TIMEOUT",
    }
)
"""States in which a job runs nowhere. In all others it runs, or may."""

_MAX_NUMBER = (1 << 32) - 1
_NO_VALUE = 0xFFFF_FFFE
_MAX_SECONDS = 1 << 40


class SlurmJob(msgspec.Struct, frozen=True):
    """A job as the controller knows it."""

    job_id: str
    """The job's own number, also of an element of an array."""
    state: str
    """Slurm's word, e.g. ``RUNNING``."""
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    job_name: str | None = None
    start_us: int | None = None
    """Microseconds since the epoch, a whole second."""
    end_us: int | None = None
    """Of a job that runs: when its time limit ends it."""
    node_count: int | None = None
    exit_status: int | None = None
    """Raw wait status."""
    details: JobDetails = JobDetails()

    @property
    def running(self) -> bool:
        """Whether it runs, and has not begun to end."""
        return self.state in ("RUNNING", "SUSPENDED")

    @property
    def over(self) -> bool:
        """Whether it runs nowhere: it has ended, or waits to be run again."""
        return self.state in _ENDED


Answer = Mapping[str, SlurmJob]
"""The jobs that were asked for by id."""


def arguments(selection: str, separator: str) -> list[str]:
    """The arguments of ``squeue``. ``selection`` is an option that says which jobs; ``separator``
    stands behind every field: what no name holds."""
    return [
        "--noheader",
        "--all",
        "--local",
        "--array",
        "--states=all",
        selection,
        "--Format=" + ",".join(f"{field}:{separator}" for field in _FIELDS),
    ]


def can_be_asked(job_id: str) -> bool:
    """Whether Slurm can be asked for a job by that id."""
    return job_id.isascii() and job_id.isdigit() and 0 < int(job_id) <= MAX_ASKED_ID


def new_separator() -> str:
    """One that nobody can have put into the name of a job."""
    return f"|{secrets.token_hex(8)}|"


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What ``squeue`` is run with: without what would filter or reword its answer."""
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith("SQUEUE_") and name != "SLURM_CLUSTERS"
    }
    kept["SLURM_TIME_FORMAT"] = "%s"
    return kept


def parse(output: bytes, separator: str) -> tuple[dict[str, SlurmJob], int]:
    """The jobs in what ``squeue`` wrote, and the number of records that make no sense."""
    fields = output.decode("utf-8", "replace").split(separator)
    count = len(_FIELDS)
    jobs: dict[str, SlurmJob] = {}
    complete = (len(fields) - 1) // count * count
    bad = 0 if not "".join(fields[complete:]).strip() else 1
    for begin in range(0, complete, count):
        try:
            job = _job(fields[begin : begin + count])
        except ValueError:
            bad += 1
        else:
            jobs[job.job_id] = job
    return jobs, bad


def _job(fields: list[str]) -> SlurmJob:
    values = dict(zip(_FIELDS, (field.strip() for field in fields), strict=True))
    job_id = values["JobID"]
    if not (job_id.isascii() and job_id.isdigit() and 0 < int(job_id) <= _MAX_NUMBER):
        raise ValueError(job_id[:20])
    state = values["State"]
    if not state.isascii() or not state.replace("_", "").isalpha():
        raise ValueError(state[:20])
    array_task_id = _number(values["ArrayTaskID"])
    in_array = array_task_id is not None
    het_job_id = _number(values["HetJobID"]) or None
    return SlurmJob(
        str(int(job_id)),
        state,
        _number(values["UserID"]),
        _number(values["GroupID"]),
        _text(values["UserName"]),
        _text(fields[-1]),
        _time_us(values["StartTime"]),
        _time_us(values["EndTime"]),
        _number(values["NumNodes"]),
        _number(values["exit_code"]),
        JobDetails(
            array_job_id=_number(values["ArrayJobID"]) if in_array else None,
            array_task_id=array_task_id,
            het_job_id=het_job_id,
            het_job_offset=_number(values["HetJobOffset"]) if het_job_id else None,
            restart_count=_number(values["RestartCnt"]),
            partition=_text(values["Partition"]),
            account=_text(values["Account"]),
        ),
    )


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    number = int(text)
    return number if number < _NO_VALUE else None


def _text(text: str) -> str | None:
    return text if text and text not in ("(null)", "N/A") else None


def _time_us(text: str) -> int | None:
    """Slurm's time as seconds; it says NONE, Unknown or N/A for one that it does not know."""
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        return None
    seconds = int(text)
    return seconds * 1_000_000 if 0 < seconds < _MAX_SECONDS else None


class CommandFailed(Exception):
    """A command that gave no answer; its text says why, in one line."""


class RunCommand(Protocol):
    """How commands are run."""

    def __call__(
        self, path: str, arguments: list[str], env: dict[str, str]
    ) -> tuple[Deferred[bytes], Callable[[], None]]:
        """Begin. The Deferred gives the output or fails with ``CommandFailed``; the other value
        kills the command, after which the Deferred fails."""


class _Command(ProcessProtocol):
    """A running command: its output bounded, its time limited."""

    def __init__(self, clock: IReactorTime) -> None:
        self.done: Deferred[bytes] = Deferred()
        self._output: list[bytes] = []
        self._errors = b""
        self._size = 0
        self._killed: str | None = None
        self._process: Any = None
        self._deadline = clock.callLater(
            DEADLINE_SECONDS, self.kill, f"no answer within {DEADLINE_SECONDS:g} s"
        )

    def makeConnection(self, transport: Any) -> None:
        self._process = transport
        transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_OUTPUT_BYTES:
            self._output.clear()
            self.kill(f"more than {MAX_OUTPUT_BYTES} bytes of output")
        else:
            self._output.append(data)

    def errReceived(self, data: bytes) -> None:
        self._errors = (self._errors + data)[:MAX_ERROR_BYTES]

    def kill(self, reason: str) -> None:
        """End it. What it wrote is forgotten."""
        if self._killed is None and not self.done.called:
            self._killed = reason
            try:
                self._process.signalProcess("KILL")
            except Exception:  # it has just ended by itself; processEnded follows
                pass

    def processEnded(self, reason: Failure) -> None:
        if self._deadline.active():
            self._deadline.cancel()
        if self._killed is not None:
            self.done.errback(CommandFailed(self._killed))
        elif reason.check(ProcessDone):
            self.done.callback(b"".join(self._output))
        else:
            self.done.errback(CommandFailed(_first_line(self._errors) or str(reason.value)))


def _first_line(errors: bytes) -> str:
    for line in errors.decode("utf-8", "replace").splitlines():
        text = harmless(line.strip())
        if text:
            return text[:200]
    return ""


def process_runner(reactor: Any) -> RunCommand:
    """Run commands as processes of ``reactor``, which provides ``IReactorProcess``."""

    def run(
        path: str, arguments: list[str], env: dict[str, str]
    ) -> tuple[Deferred[bytes], Callable[[], None]]:
        command = _Command(reactor)
        try:
            IReactorProcess(reactor).spawnProcess(command, path, [path, *arguments], env)
        except OSError as error:
            command.processEnded(Failure(CommandFailed(str(error))))
        return command.done, lambda: command.kill("stopped")

    return run


class SlurmQuery:
    """Asks Slurm for the jobs of ``nodes``, or for jobs by their ids.

    ``directory`` is where ``squeue`` is; None: on PATH. ``now`` gives monotonic seconds. Counters:
    ``slurm_queries``, ``slurm_failures``, ``slurm_bad_records``.
    """

    def __init__(
        self,
        run: RunCommand,
        nodes: str,
        directory: str | None,
        stats: IStats,
        now: Callable[[], float],
        told: Callable[[str | None], None],
    ) -> None:
        self._run = run
        self._nodes = nodes
        self._directory = directory
        self._stats = stats
        self._now = now
        self._told = told
        self._pause = 0.0
        self._not_before = float("-inf")
        self._failing: bool | None = None
        self.knows_nodes = True
        """Whether Slurm knew all of the nodes when it was asked for them last."""
        self._kill: Callable[[], None] | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a query is under way."""
        return self._kill is not None

    def ask(self) -> Deferred[Answer | None]:
        """Ask for the jobs of the nodes. Fires with None, and never fails, when there is no answer:
        Slurm does not give one, the last failure was a short while ago, or a query is under way.
        When it does not know a node, no job is in the answer, and ``knows_nodes`` says it."""
        return self._ask(f"--nodelist={self._nodes}", by_nodes=True)

    def ask_jobs(self, job_ids: Sequence[str]) -> Deferred[Answer | None]:
        """The same for at least one and at most ``MAX_ASKED_JOBS`` jobs, wherever they run, that
        ``can_be_asked`` for. Others may be in the answer, too, such as further elements
        of an array."""
        # That it does not know the only job that it is asked for is an error to squeue; of several
        # it leaves out those that it does not know.
        ids = job_ids if len(job_ids) > 1 else [*job_ids, *job_ids]
        return self._ask(f"--jobs={','.join(ids)}")

    def _ask(self, selection: str, *, by_nodes: bool = False) -> Deferred[Answer | None]:
        if self.in_flight or self._now() < self._not_before:
            return succeed(None)
        path = self._path()
        if path is None:
            self._failed("squeue not found")
            return succeed(None)
        separator = new_separator()
        self._stats.add("slurm_queries")
        asking, self._kill = self._run(
            path, arguments(selection, separator), environment(os.environ)
        )
        if by_nodes:
            asking.addCallbacks(self._know_nodes, self._know_no_nodes)
        return asking.addBoth(self._answered, separator)

    def stop(self) -> None:
        """Kill a query that is under way; its Deferred fires with None."""
        if self._kill is not None:
            self._kill()

    def _path(self) -> str | None:
        if self._directory is None:
            found = shutil.which("squeue")
            return None if found is None else os.path.abspath(found)
        path = os.path.join(self._directory, "squeue")
        return os.path.abspath(path) if os.access(path, os.X_OK) else None

    def _know_nodes(self, output: bytes) -> bytes:
        self.knows_nodes = True
        return output

    def _know_no_nodes(self, failure: Failure) -> Failure | bytes:
        """Slurm answers, but knows one of the nodes not, and so shows jobs of none."""
        if UNKNOWN_NODE not in failure.getErrorMessage():
            return failure
        self.knows_nodes = False
        return b""

    def _answered(self, result: bytes | Failure, separator: str) -> Answer | None:
        self._kill = None
        if isinstance(result, Failure):
            self._failed(result.getErrorMessage())
            return None
        jobs, bad = parse(result, separator)
        if bad:
            # What is missing from such an answer is no sign of anything.
            self._stats.add("slurm_bad_records", bad)
            self._failed(f"squeue's answer has {bad} records that make no sense")
            return None
        self._pause = 0.0
        if self._failing is not False:
            self._failing = False
            self._told(None)
        return jobs

    def _failed(self, reason: str) -> None:
        self._stats.add("slurm_failures")
        self._pause = min(max(self._pause * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._not_before = self._now() + self._pause
        if self._failing is not True:
            self._failing = True
            self._told(reason)
