"""Which run of a job a notice is about: the one that is known, the next, or one before it.

A restart count decides, where both the job and the notice have one. Otherwise times do. They come
from two kinds of notifier: one tells whole seconds, the other the exact time, and a whole second
stands for any moment in it. So times of different kinds are compared by what is certain, and in
doubt a notice is of the run that is known. Times of one kind are compared as they are. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmsjob.notices import JobExit, StepExit, TaskExit, TaskInit

if TYPE_CHECKING:
    from ldmsjob.facts import JobDetails
    from ldmsjob.jobs import Job, StepNode
    from ldmsjob.notices import JobInit, Notice, StepInit

_ENDS = (TaskExit, StepExit, JobExit)

_SECOND = 1_000_000
_LENGTH_OF_A_SECOND = _SECOND + 10_000
"""The clock that tells whole seconds is behind the exact one by up to one tick of the kernel."""


def is_after(time_us: int, other_us: int) -> bool:
    """Whether the first time is certainly later than the second."""
    if other_us % _SECOND or not time_us % _SECOND:
        return time_us > other_us
    return time_us > other_us + _LENGTH_OF_A_SECOND


def is_not_before(time_us: int, other_us: int) -> bool:
    """Whether the first time is certainly not earlier than the second."""
    if other_us % _SECOND or not time_us % _SECOND:
        return time_us >= other_us
    return time_us >= other_us + _LENGTH_OF_A_SECOND


def exact_time(known_us: int, told_us: int) -> int:
    """Of two times of one moment the one with a fraction of a second; else the known one."""
    return told_us if told_us % _SECOND and not known_us % _SECOND else known_us


def restart_order(job: Job, details: JobDetails | None) -> int | None:
    """-1, 0 or 1: the notice with these details is of an earlier run, of this, of a later one.

    None: the job or the notice has no restart count.
    """
    if details is None or job.details is None:
        return None
    told, known = details.restart_count, job.details.restart_count
    if told is None or known is None:
        return None
    return (told > known) - (told < known)


def is_next_init(job: Job, time_us: int) -> bool:
    """Whether a job init begins the next attempt of a job that has ended, by its time."""
    if time_us <= job.start_us and not job.adopted:
        return False  # the very init that began this attempt, or one of the same second
    return is_not_before(time_us, job.over_us)


def is_next_step(part: StepNode, time_us: int) -> bool:
    """Whether a step init of a known step and node means another run: all of it has ended."""
    return (
        part.start_us is not None
        and is_after(time_us, part.start_us)
        and part.all_ended
        and (part.end_us is None or is_not_before(time_us, part.end_us))
    )


def starts_again(job: Job, notice: JobInit | StepInit, time_us: int) -> bool:
    """Whether the notice's node has ended the job before it starts it here."""
    nodes = job.nodes
    return nodes is not None and notice.node is not None and nodes.is_restart(notice.node, time_us)


def is_of_earlier(job: Job, earlier: Job, notice: Notice, time_us: int) -> bool:
    """Whether a notice is of the attempt before this one, which is still remembered.

    The one kind of notifier may be behind the other by more than an attempt.
    """
    details: JobDetails | None = getattr(notice, "details", None)
    if details is not None and details.restart_count is not None:
        order = restart_order(earlier, details)
        if order is None:  # the n-th attempt has been requeued n - 1 times at least
            return details.restart_count < job.key.attempt - 1
        return order <= 0 and restart_order(job, details) != 0
    before = is_after(job.start_us, time_us)
    if before and (isinstance(notice, _ENDS) or not is_not_before(time_us, earlier.over_us)):
        return True
    if is_after(time_us, job.start_us):
        return False
    # From here on times do not decide.
    if isinstance(notice, TaskInit | TaskExit):
        if notice.pid is None:
            return False
        old, new = (
            one.find_task(notice.step_id, notice.node_id, notice.task_id) for one in (earlier, job)
        )
        return old is not None and old.pid == notice.pid and (new is None or new.pid != notice.pid)
    begun_by_seconds = not job.start_us % _SECOND
    node: str | None = getattr(notice, "node", None)
    if node is not None:
        runs_earlier = earlier.nodes is not None and earlier.nodes.runs(node)
        runs_here = job.nodes is not None and job.nodes.runs(node)
        return begun_by_seconds and runs_earlier and not runs_here
    # Of an attempt that was begun with an exact time, that notifier tells everything.
    if isinstance(notice, JobExit):
        return False
    return not before and not begun_by_seconds and not time_us % _SECOND


def is_ahead(job: Job, notice: Notice, time_us: int) -> bool:
    """Whether a notice tells of the next run of a job whose present one has not ended here.

    Its nodes are named by the one notifier. The other one has told its end, which does not count,
    and is ahead: what it tells of the next run, the first will tell, too.
    """
    if job.ended or job.nodes is None or time_us % _SECOND or time_us < job.exit_told_us:
        return False
    return getattr(notice, "node", None) is None and not isinstance(notice, JobExit)
