"""What must come of each scenario, worked out by hand from what the scenario does. Not generated.

The order of events that every job must keep is not said here: ``check.py`` holds it for all.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from tests.slurm.plays import NOBODY, ODD_NAME

EXITED_3, EXITED_4, EXITED_7 = 3 << 8, 4 << 8, 7 << 8
NOT_FOUND = 2 << 8
KILLED, SEGV, TERM = 9, 11, 15
CORE = 0x80
"""Raw wait statuses; the last is added when the kernel wrote a core file."""


@dataclass(frozen=True)
class Step:
    """A step: how many nodes and tasks, and what each rank's exit status may be."""

    tasks: int = 1
    nodes: int = 1
    status: tuple[tuple[int, ...], ...] = ()
    """For each rank; empty: all are 0."""
    within: int | None = None
    """The step in whose life it lies; None: it begins when the one before it has ended."""

    def statuses(self, rank: int) -> tuple[int, ...]:
        """What the exit status of a rank may be."""
        return self.status[rank] if self.status else (0,)


@dataclass(frozen=True)
class Attempt:
    """A run of a job. Its steps are numbered from 0."""

    steps: tuple[Step, ...] = ()
    nodes: int = 1
    """How many nodes ran something."""
    exit_status: tuple[int, ...] = (0,)
    """Raw wait status of the job; told by our notifier only. Slurm has 0 for cancelled jobs."""
    restart: int = 0
    uid: int = -1
    """-1: the one who runs the tests."""
    name: str | None = None
    """None: not looked at."""
    tag: str | None = None
    array_task: int | None = None
    het_offset: int | None = None

    @property
    def user_id(self) -> int:
        """Who owns the job."""
        return os.getuid() if self.uid < 0 else self.uid

    @property
    def user(self) -> str:
        """What he is called."""
        return pwd.getpwuid(self.user_id).pw_name


Job = tuple[Attempt, ...]
"""The attempts of a job, in order. None: nothing is heard of it."""

ONE_TASK: Job = (Attempt((Step(),)),)
NOTHING: Job = ()


def _all(*statuses: int) -> tuple[tuple[int, ...], ...]:
    return tuple((status,) for status in statuses)


EXPECTED: dict[str, tuple[Job, ...]] = {
    "srun_1x2": ((Attempt((Step(2),), name="true"),),),
    "srun_2x4": ((Attempt((Step(4, 2),), nodes=2),),),
    "srun_2x8": ((Attempt((Step(8, 2),), nodes=2),),),
    "batch_3_steps": ((Attempt((Step(), Step(2), Step())),),),
    "batch_2_nodes": ((Attempt((Step(4, 2), Step(2, 2)), nodes=2),),),
    "batch_no_steps": ((Attempt(exit_status=(EXITED_7,)),),),
    "batch_step_on_one_of_two": (ONE_TASK,),
    "concurrent_4": ((Attempt((Step(2),)),),) * 4,
    "array_of_3": tuple((Attempt((Step(),), array_task=index),) for index in range(3)),
    "cancel_running": ((Attempt((Step(2, status=_all(TERM, TERM)),), exit_status=(0, TERM)),),),
    "cancel_pending": (NOTHING,),
    "cancel_step": ((Attempt((Step(status=_all(KILLED)), Step())),),),
    "killed_9": ((Attempt((Step(status=_all(KILLED)),), exit_status=(KILLED,)),),),
    "killed_11": (
        (Attempt((Step(status=((SEGV, SEGV | CORE),)),), exit_status=(SEGV, SEGV | CORE)),),
    ),
    "exit_codes": (
        (Attempt((Step(2, status=_all(EXITED_3, EXITED_4)),), exit_status=(EXITED_4,)),),
    ),
    "missing_program": ((Attempt((Step(status=_all(NOT_FOUND)),), exit_status=(NOT_FOUND,)),),),
    "overlap_inside": ((Attempt((Step(), Step(within=0))),),),
    "overlap_outside": ((Attempt((Step(), Step(within=0))),),),
    "salloc_no_steps": (NOTHING,),
    "salloc_2_steps": ((Attempt((Step(), Step())),),),
    "salloc_terminal": (ONE_TASK,),
    "srun_terminal": (ONE_TASK,),
    "requeue": (
        (
            Attempt((Step(status=_all(TERM)),), exit_status=(0, TERM)),
            Attempt((Step(),), restart=1),
        ),
    ),
    "suspend": (ONE_TASK,),
    "other_user": ((Attempt((Step(),), uid=NOBODY),),),
    "tagged": ((Attempt((Step(),), tag="night"),),),
    "odd_name": ((Attempt((Step(),), name=ODD_NAME),),),
    "het_job": (
        (Attempt((Step(),), het_offset=0),),
        (Attempt((Step(2),), het_offset=1),),
    ),
}
