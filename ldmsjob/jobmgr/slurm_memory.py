"""What is kept of jobs between one look at the node and the next.

Pure records; ``slurm_reconcile`` decides by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from ldmsjob.interfaces import IJob
from ldmsjob.jobmgr.slurm_node import KEEPERS, NodeView, StepProcess
from ldmsjob.jobmgr.slurm_query import Answer, SlurmJob

CONFIRM_SECONDS = 5.0
"""Between the first and the last of two looks that found something gone."""

YOUNG_US = 5_000_000
"""What started less than this ago is not adopted yet: its own notice is expected."""

FIRST_VOUCH_SECONDS = 60.0
LONGEST_VOUCH_SECONDS = 600.0
"""For how long Slurm's word that a job runs is enough, when the node shows nothing of it."""

LONGEST_ENDING_SECONDS = 120.0
"""The same of a job that is about to end, or about to begin."""


ById = Mapping[str, SlurmJob | None]
"""Jobs that Slurm was asked for by their ids; None: it does not know it."""

NOT_ASKED: ById = {}

NEVER = float("-inf")

_EMPTY: Mapping[Any, Any] = MappingProxyType({})


class Absence:
    """How often something was found gone, in a row."""

    __slots__ = ("first", "times")

    def __init__(self) -> None:
        self.times = 0
        self.first = 0.0

    def seen(self) -> None:
        """It is there."""
        self.times = 0

    def missed(self, now: float) -> bool:
        """Once more not there: whether that is enough."""
        if not self.times:
            self.first = now
        self.times += 1
        return now - self.first >= CONFIRM_SECONDS


class Look:
    """One look, sorted."""

    def __init__(
        self,
        view: NodeView,
        processes: Iterable[StepProcess],
        answer: Answer | None,
        by_id: ById,
        now: float,
        now_us: int,
        gap: bool,
        vanished: frozenset[str],
    ) -> None:
        self.view = view
        self.answer = answer
        self.by_id = by_id
        self.now = now
        self.now_us = now_us
        self.gap = gap
        self.vanished = vanished
        self.traced = traced_jobs(view)
        self.processes: dict[str, list[StepProcess]] = {}
        for process in processes:
            self.processes.setdefault(process.job_id, []).append(process)
        self.candidates: set[object] = set()
        """What may be adopted after the next look."""

    def slurm_job(self, job_id: str) -> SlurmJob | None:
        """What Slurm says of that job, if it says anything."""
        found = self.answer.get(job_id) if self.answer is not None else None
        return found if found is not None else self.by_id.get(job_id)

    def slurm_jobs(self) -> Iterator[SlurmJob]:
        """All jobs that Slurm has shown."""
        yield from (self.answer or {}).values()
        yield from (job for job in self.by_id.values() if job is not None)


class Watch:
    """What is remembered of one attempt of a job from look to look."""

    __slots__ = (
        "_mark",
        "_pid_starts",
        "_vouches",
        "absence",
        "changed",
        "keeper",
        "step_absences",
        "steps",
        "steps_done",
        "traced",
        "traceless_since",
        "vouched_until",
    )

    def __init__(self, now: float) -> None:
        self.changed = now
        """When its record was last seen changed."""
        self.absence = Absence()
        self.keeper = False
        """Whether its batch or extern step was seen here."""
        self.traced = False
        """Whether the node has ever shown anything of it."""
        self.traceless_since: float | None = None
        self.vouched_until = NEVER
        # These are empty for most of the jobs that are watched: none of its own for each.
        self.steps: frozenset[tuple[int, int]] = frozenset()
        """Steps and nodes whose processes were seen here."""
        self.step_absences: Mapping[tuple[int, int], Absence] = _EMPTY
        self.steps_done: frozenset[tuple[int, int]] = frozenset()
        """Steps and nodes that were ended because they had left."""
        self._vouches = 0
        self._mark: int | None = None
        self._pid_starts: Mapping[tuple[int, int, int], tuple[int, int]] = _EMPTY
        """The pid of each open task and how long after the boot that process started, in
        microseconds, once seen alive."""

    def observe(self, belief: IJob, look: Look) -> None:
        """Take in what a look shows of the job."""
        steps, tasks = belief.steps(), belief.tasks()
        # Not kept itself, with facts that nobody else has any more.
        mark = hash(
            (
                belief.facts,
                len(steps),
                sum(step.end_us is not None for step in steps),
                len(tasks),
                sum(task.end_us is not None for task in tasks),
            )
        )
        if mark != self._mark:
            if self._mark is not None:
                self.changed = look.now
            self._mark = mark
        self.remember(look.processes.get(belief.key.job_id, ()))
        pid_starts = {}
        for task in tasks:
            if task.end_us is not None or task.pid is None:
                continue
            key = (task.step_id, task.node_id, task.task_id)
            known = self._pid_starts.get(key)
            if known is not None:
                pid_starts[key] = known
                continue
            start_us = look.view.alive.get(task.pid)
            # A process that is younger than the task is another one of the same number.
            if start_us is not None and start_us <= (task.start_us or start_us) + YOUNG_US:
                pid_starts[key] = (task.pid, start_us - look.view.boot_us)
        self._pid_starts = pid_starts or _EMPTY

    def remember(self, processes: Iterable[StepProcess]) -> None:
        """Take in step processes of the job."""
        for process in processes:
            self.traced = True
            if process.step in KEEPERS:
                self.keeper = True
            elif process.step_id is not None and process.node_id is not None:
                self.steps |= {(process.step_id, process.node_id)}

    def has_live_task(self, view: NodeView, step: tuple[int, int] | None = None) -> bool:
        """Whether a process that was once seen as a task of the job, or of that step's part on a
        node, still runs."""
        return any(
            view.alive.get(pid, 0) - view.boot_us == since_boot_us
            for key, (pid, since_boot_us) in self._pid_starts.items()
            if step is None or key[:2] == step
        )

    def alive(self) -> None:
        """The node shows it."""
        self.traced = True
        self.absence.seen()
        self.traceless_since = None
        self.vouched_until = NEVER
        self._vouches = 0

    def vouch(self, now: float, *, running: bool) -> None:
        """The node does not show it, but Slurm says that it runs, or that it is ending: believed
        for a while, and for longer each time."""
        self.absence.seen()
        longest = LONGEST_VOUCH_SECONDS if running else LONGEST_ENDING_SECONDS
        pause = min(FIRST_VOUCH_SECONDS * 2**self._vouches, longest)
        self._vouches = min(self._vouches + 1, 16)
        self.vouched_until = now + pause


def traced_jobs(view: NodeView) -> frozenset[str]:
    """The jobs of which the node shows something."""
    return frozenset(one.job_id for one in view.steps) | {one.job_id for one in view.cgroups}
