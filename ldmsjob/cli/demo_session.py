"""One run of the demo.

Starts the daemon in this process with the configuration of examples/ldmsd.conf, on a free port of
the loopback interface and in a temporary directory, and replays recorded messages to it over TCP as
Slurm's notifier sends them: a connection for each message, closed when its credit has come back.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ldmsjob.cli.demo_table import Board, LiveView, PlainView
from ldmsjob.contexts import PluginContext
from ldmsjob.daemon import Daemon
from ldmsjob.events import EVENT_WORDS
from ldmsjob.interpreter import Interpreter
from ldmsjob.loader import Loader
from ldmsjob.replay import Notifier, RecordedMessage, recorded_messages

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

HOST = "127.0.0.1"
CONFIGURATION = """\
msg_enable
listen xprt=sock port={port} host={host}
load name=jobmgr_slurm
config name=jobmgr_slurm
jobmgr_start name=jobmgr_slurm
load name=test_jobmgr_sampler
config name=test_jobmgr_sampler component_id=1 instance=node-1/test_jobmgr_sampler \
producer=node-1 file={events}
"""

SHORTEST_PAUSE, LONGEST_PAUSE, SCENARIO_PAUSE = 0.12, 0.5, 0.8
"""Seconds between two messages, and between two scenarios, at a speed that a person can follow."""


class Scenario(NamedTuple):
    """A recorded scenario and what must come of it."""

    name: str
    meaning: str
    jobs: int
    """Attempts, to be exact: a requeued job counts twice."""
    steps: int
    tasks: int


SCENARIOS = (
    Scenario("srun_n2", "srun with two tasks", 1, 1, 2),
    Scenario("sbatch_3steps", "a batch script with three steps", 1, 3, 4),
    Scenario("failing_task", "tasks that exit with 3 and 4", 1, 1, 2),
    Scenario("array3", "a job array with three elements", 3, 3, 3),
    Scenario("overlap", "two steps that run at the same time", 1, 2, 2),
    Scenario("cancel_running", "scancel of a running job", 1, 1, 2),
    Scenario("srun_N2n4", "srun with four tasks on two nodes, each of which reports", 1, 1, 4),
    Scenario("requeue", "a requeued job: two attempts, the second one without an init", 2, 2, 2),
    Scenario("name_special", "a job name with a quote in it, sent unescaped", 1, 1, 1),
    Scenario("killed_by_signal", "a task that is killed by a signal", 1, 1, 2),
)

LINE_WORDS = {
    "job_start": "job_started",
    "task_start": "task_started",
    "task_end": "task_ended",
    "job_end": "job_ended",
    "jobset_delete": "job_set_deleted",
}
"""The words at the beginning of the event file's lines, and the kinds of events they are for."""


def expected_events(scenarios: Sequence[Scenario]) -> Counter[str]:
    """How many events of each kind the scenarios must give."""
    jobs, steps, tasks = (
        sum(getattr(scenario, what) for scenario in scenarios)
        for what in ("jobs", "steps", "tasks")
    )
    return Counter(
        job_started=jobs,
        step_started=steps,
        task_started=tasks,
        task_ended=tasks,
        step_ended=steps,
        job_ended=jobs,
        job_set_deleted=jobs,
    )


def pause_before(message: RecordedMessage, previous: RecordedMessage | None) -> float:
    """Seconds to wait before a message: as recorded, within what a person can follow."""
    if previous is None:
        return 0.0
    if message.scenario != previous.scenario:
        return SCENARIO_PAUSE
    recorded = (message.offset_ms - previous.offset_ms) / 1000
    return min(max(recorded, SHORTEST_PAUSE), LONGEST_PAUSE)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens to at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Demo:
    """One run of the demo. ``directory`` is where its files go; it is the caller's to remove."""

    def __init__(
        self,
        reactor: IReactorTime,
        console: Console,
        directory: Path,
        *,
        fast: bool,
        live: bool,
    ) -> None:
        self._reactor = reactor
        self._console = console
        self._fast = fast
        self.event_file = directory / "jobev-node-1.log"
        self._configuration = directory / "ldmsd.conf"
        self._board = Board()
        self._view_class: Any = LiveView if live else PlainView
        state = str(directory / "state")
        self._daemon = Daemon(reactor, loader=Loader(), state_directory=state)
        self._sent = 0
        self._view: Any = None

    def run(self) -> Deferred[int]:
        """Do everything; fires with the exit status. Fails with what went wrong on the way."""
        return Deferred.fromCoroutine(self._run())

    def close(self) -> None:
        """Give the terminal back, also when ``run`` was interrupted. May be called again."""
        view, self._view = self._view, None
        if view is not None:
            view.close()

    async def _run(self) -> int:
        port = self._start_daemon()
        begin = time.monotonic()
        self._view = self._view_class(self._console, self._board)
        try:
            await self._replay(port, self._view)
        finally:
            self.close()
            await self._daemon.stopService()
        return self._summary(time.monotonic() - begin)

    def _start_daemon(self) -> int:
        """Start it, with the board as a subscriber of its own; returns its port."""
        daemon, port = self._daemon, free_port()
        text = CONFIGURATION.format(port=port, host=HOST, events=self.event_file)
        self._configuration.write_text(text)
        self._print(f"The daemon runs with this configuration:\n\n{text}")
        Interpreter(daemon, dict(os.environ)).read([], [str(self._configuration)])
        daemon.core.jobs.subscribe(self._board, name="demo")
        daemon.privilegedStartService()
        daemon.startService()
        return port

    async def _replay(self, port: int, view: Any) -> None:
        loader, core = self._daemon.loader, self._daemon.core
        transport, authenticator = (
            loader.find(kind, name).create(PluginContext(core, "demo", "demo"))
            for kind, name in (("transport", "sock"), ("authentication plugin", "none"))
        )
        notifier = Notifier(transport, authenticator, HOST, port)
        meanings = {scenario.name: scenario.meaning for scenario in SCENARIOS}
        messages = recorded_messages(meanings)
        previous = None
        for message in messages:
            if not self._fast:
                await deferLater(self._reactor, pause_before(message, previous))
            if previous is None or previous.scenario != message.scenario:
                view.caption(f"{message.scenario}: {meanings[message.scenario]}")
            await notifier.send(message.payload)
            self._sent += 1
            view.progress(self._sent, len(messages))
            previous = message

    def _summary(self, seconds: float) -> int:
        """Print what came of it; returns the exit status."""
        board, expected = self._board, expected_events(SCENARIOS)
        lines = Counter(line.partition(":")[0] for line in self.event_file.read_text().splitlines())
        wrong = [
            f"{name}: {board.events[name]} events, expected {expected[name]}"
            for name in EVENT_WORDS.values()
            if board.events[name] != expected[name]
        ]
        wrong += [
            f"{word}: {lines[word]} lines in the event file, expected {expected[name]}"
            for word, name in LINE_WORDS.items()
            if lines[word] != expected[name]
        ]
        if board.lost:
            wrong.append(f"{board.lost} events were dropped because a subscriber was too slow")
        if not board.closed:
            wrong.append("the subscription was not closed")
        ids = {key.job_id for key in board.jobs}
        self._print(
            f"\n{self._sent} messages of {len(SCENARIOS)} scenarios in {seconds:.1f} s, "
            f"a connection for each.\n"
            f"{len(ids)} jobs in {len(board.jobs)} attempts, each with a job set of its own.\n"
            f"{sum(board.events.values())} events:"
        )
        for name in EVENT_WORDS.values():
            self._print(f"  {name:<16} {board.events[name]:>4}")
        self._print(
            f"{sum(lines.values())} lines in the event file, which was {self.event_file}\n"
            "and has been removed together with its directory."
        )
        self._print("\n".join(f"WRONG: {one}" for one in wrong) or "Nothing was lost.")
        return 1 if wrong else 0

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
