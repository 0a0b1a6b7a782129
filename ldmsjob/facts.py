"""Who a job is and what is known about it: immutable values that events carry.

Times are integers, microseconds since the epoch. What nobody has told us yet is ``None``, never 0.
The structs are not tracked by the garbage collector: they hold numbers, text and each other only,
so they can be part of no reference cycle. The journal keeps the fields of facts and details by
place: a new one goes to the end, with a default.
"""

# No "from __future__ import annotations": msgspec would compile each annotation from its text, and
# again for each class that inherits it: two thirds of the time that its decoders need.

from typing import Literal

import msgspec

Origin = Literal["message", "implied", "reconciliation", "recovery", "replay"]
"""Why an event was posted: a notice said so, it follows from another notice, or one of the three
ways in which a daemon learns afterwards what it did not see."""


class JobKey(msgspec.Struct, frozen=True, gc=False):
    """One attempt of one job. The bare job id is not identity: requeued jobs keep theirs."""

    resource_manager: str
    """The word that stands in front of the id in set names, e.g. ``slurm``."""
    job_id: str
    """The resource manager's own id, as text."""
    attempt: int = 1
    """1 for the first run that this daemon remembers."""

    @property
    def text(self) -> str:
        """The id as peers read it in the metric ``job_id``: ``slurm_1001``."""
        return f"{self.resource_manager}_{self.job_id}"


class JobDetails(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What places a job in its resource manager, besides its id. Much of it most jobs do not have.

    ``None`` means "not said", which for arrays and heterogeneous jobs is also what "not part of
    one" looks like.
    """

    array_job_id: int | None = None
    """The id that all elements of a job array share; each has a job id of its own besides."""
    array_task_id: int | None = None
    """Its index in the array."""
    het_job_id: int | None = None
    """The id of the first component of a heterogeneous job; each has a job id of its own."""
    het_job_offset: int | None = None
    """Which component it is, from 0."""
    restart_count: int | None = None
    """How often it was requeued before this run: what tells one attempt from the next."""
    partition: str | None = None
    account: str | None = None


class JobFacts(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is known of one attempt of a job at one moment."""

    job_id: str
    """``JobKey.text``, e.g. ``slurm_1001``."""
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    job_name: str | None = None
    start_us: int | None = None
    end_us: int | None = None
    node_count: int | None = None
    """Of the step announced last, as the task counts below: the first generation of LDMS job
    managers shows the current step."""
    total_tasks: int | None = None
    local_tasks: int | None = None
    step_id: int | None = None
    job_tag: str | None = None
    adopted: bool = False
    """True when the daemon did not see the job start; ``start_us`` is then its first notice."""
    details: JobDetails | None = None
    """None until a notice carried any."""
    nodes: tuple[str, ...] = ()
    """Names of the nodes that are known to have started it, in order of arrival. Empty when no
    notice named one: Slurm's own notifier does not."""
    exit_status: int | None = None
    """The job's raw wait status, where the resource manager tells it at the job's end."""
    recovered: bool = False
    """True when an earlier daemon saw the job start, and this one has it from the journal."""


class StepFacts(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is known of one step of a job."""

    step_id: int
    node_ids: tuple[int, ...] = ()
    """The nodes of the step that this daemon heard of, in order of arrival."""
    start_us: int | None = None
    end_us: int | None = None
    node_count: int | None = None
    total_tasks: int | None = None
    local_tasks: int | None = None


class TaskFacts(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is known of one task of a step."""

    step_id: int
    node_id: int
    task_id: int
    """Node-local id: unique only together with the two above."""
    pid: int | None = None
    rank: int | None = None
    start_us: int | None = None
    end_us: int | None = None
    exit_status: int | None = None
    """Raw wait status; -1 for a task whose end nobody reported before its job ended."""
