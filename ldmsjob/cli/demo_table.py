"""What the demo shows: jobs and events as they happen, as a live table or as plain lines."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from zope.interface import implementer

from ldmsjob.events import (
    EVENT_WORDS,
    EventsLost,
    JobEnded,
    JobEvent,
    JobStarted,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
)
from ldmsjob.facts import JobKey
from ldmsjob.interfaces import IJob, IJobSubscriber

_COLOURS = {"started": "green", "ended": "yellow", "deleted": "magenta"}
_MIN_ROWS = 4


def describe(event: JobEvent) -> str:
    """What happened, in one line without the job's name."""
    facts = event.facts
    if isinstance(event, JobStarted):
        text = "found running" if facts.adopted else "started"
    elif isinstance(event, (StepStarted, StepEnded)):
        step = event.step
        text = f"step {step.step_id}"
        if isinstance(event, StepStarted) and step.total_tasks is not None:
            text += f" of {step.total_tasks} task{'s' * (step.total_tasks != 1)}"
    elif isinstance(event, (TaskStarted, TaskEnded)):
        task = event.task
        text = f"step {task.step_id}, node {task.node_id}, task {task.task_id}, pid {task.pid}"
        if isinstance(event, TaskEnded):
            text += f", {ended_how(task.exit_status)}"
    elif isinstance(event, JobEnded):
        text = "ended"
    else:
        text = "its set lingers, then leaves"
    return text if event.origin == "message" else f"{text} ({event.origin})"


def ended_how(status: int | None) -> str:
    """A raw wait status in words."""
    if status is None or status < 0:
        return "status unknown"
    if status & 0x7F:
        return f"killed by signal {status & 0x7F}"
    return f"exit {status >> 8}"


def job_name(key: JobKey) -> str:
    """A job's name for people: its id, and which attempt it is from the second on."""
    return key.text if key.attempt == 1 else f"{key.text} #{key.attempt}"


@implementer(IJobSubscriber)
class Board:
    """Takes all job events; remembers what a view or a summary wants to know.

    ``changed`` is called with each event behind its being noted.
    """

    def __init__(self, changed: Callable[[JobEvent], None] = lambda event: None) -> None:
        self.events: Counter[str] = Counter()
        """How many came, by kind."""
        self.jobs: dict[JobKey, IJob] = {}
        """All there were, in the order in which they began."""
        self.recent: deque[JobEvent] = deque(maxlen=100)
        self.lost = 0
        self.closed = False
        self.changed = changed

    def note(self, event: Any) -> None:
        """An event of any kind."""
        self.events[EVENT_WORDS[type(event)]] += 1
        self.jobs.setdefault(event.key, event.job)
        self.recent.append(event)
        self.changed(event)

    job_started = step_started = task_started = note
    task_ended = step_ended = job_ended = job_set_deleted = note

    def events_lost(self, event: EventsLost) -> None:
        """Count them."""
        self.lost += event.count

    def subscription_closed(self) -> None:
        """Remember it."""
        self.closed = True


def job_row(job: IJob) -> tuple[str, ...]:
    """A job's cells: name, user, job name, state, steps, tasks, set."""
    facts = job.facts
    tasks = job.tasks()
    running = sum(task.end_us is None for task in tasks)
    bad = sum(bool(task.exit_status) for task in tasks)
    state = "ended" if job.ended else "running"
    if bad:
        state += f", {bad} task{'s' * (bad != 1)} failed"
    return (
        job_name(job.key),
        facts.user or "",
        facts.job_name or "",
        state,
        str(len(job.steps())),
        f"{running} of {len(tasks)} running" if running else str(len(tasks)),
        job.metric_set.instance,
    )


class PlainView:
    """One line per event, for files and pipes."""

    def __init__(self, console: Console, board: Board) -> None:
        self._console = console
        board.changed = self._line

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, event: JobEvent) -> None:
        name = EVENT_WORDS[type(event)]
        self._print(f"  {job_name(event.key):<12} {name:<15} {describe(event)}")

    def caption(self, text: str) -> None:
        """Say what is being replayed."""
        self._print(text)

    def progress(self, sent: int, total: int) -> None:
        """Not shown."""

    def close(self) -> None:
        """Nothing to clean up."""


class LiveView:
    """A table of jobs and the latest events, drawn anew in place as things happen."""

    def __init__(self, console: Console, board: Board) -> None:
        self._console = console
        self._board = board
        self._caption = ""
        self._progress = ""
        self._live = Live(self._picture(), console=console, auto_refresh=False)
        self._live.start()
        board.changed = lambda event: self._draw()

    def caption(self, text: str) -> None:
        """Say what is being replayed."""
        self._caption = text
        self._draw()

    def progress(self, sent: int, total: int) -> None:
        """Show how many messages have been sent."""
        self._progress = f"{sent} of {total} messages sent"
        self._draw()

    def close(self) -> None:
        """Leave the last picture on the screen."""
        self._live.stop()

    def _draw(self) -> None:
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        board = self._board
        # Two frames with their titles, a header, a caption and a line to spare.
        rows = max(_MIN_ROWS, (self._console.height - 10) // 2)
        table = Table(title="Jobs", title_justify="left", expand=True)
        for heading in ("job", "user", "name", "state", "steps", "tasks", "set"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        for job in list(board.jobs.values())[-rows:]:
            # Text, because a job's name may hold what rich would take for markup.
            style = "dim" if job.ended else "bold"
            table.add_row(*(Text(cell) for cell in job_row(job)), style=style)
        lines = Text(no_wrap=True, overflow="ellipsis")
        for event in list(board.recent)[-rows:]:
            name = EVENT_WORDS[type(event)]
            lines.append(f"{job_name(event.key):<12} ")
            lines.append(f"{name:<16}", style=_COLOURS[name.rpartition("_")[2]])
            lines.append(f"{describe(event)}\n")
        lines.rstrip()
        return Group(
            table,
            Panel(lines, title="Events", title_align="left"),
            Text(f"{self._caption}    {self._progress}", no_wrap=True, overflow="ellipsis"),
        )
