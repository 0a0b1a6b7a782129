"""Whether there is room for one more job, step, node or task: the limits of jobs. Pure."""

from __future__ import annotations

from collections.abc import Callable

from ldmsjob.interfaces import IStats
from ldmsjob.jobs import Job
from ldmsjob.knownjobs import KnownJobs
from ldmsjob.limits import Limits
from ldmsjob.notices import OPENING, JobInit, Notice, StepInit, TaskExit, TaskInit


class JobRoom:
    """The room among the known jobs, and in each of them.

    What is not taken is counted in ``stats``: ``refused.jobs`` by their job inits,
    ``refused.job_notices`` that would have begun a job otherwise, ``refused.<limit>``; and
    ``refused`` is called with the limit's name and the job's id.
    """

    def __init__(
        self,
        jobs: KnownJobs,
        stats: IStats,
        limits: Limits,
        refused: Callable[[str, str], None],
    ) -> None:
        self._jobs = jobs
        self._stats = stats
        self._on_refused = refused
        self._max_jobs = limits.jobs
        self._max_nodes = limits.nodes_per_step
        self.max_steps = limits.steps_per_job
        self.max_tasks = limits.tasks_per_job

    def takes_job(self, notice: Notice) -> bool:
        """Whether the notice may begin a job or an attempt; one that begins none always may."""
        if len(self._jobs.by_key) < self._max_jobs or type(notice) not in OPENING:
            return True
        self._stats.add(f"refused.{'jobs' if type(notice) is JobInit else 'job_notices'}")
        self._on_refused("jobs", notice.job_id)
        return False

    def takes_part(self, job: Job, notice: TaskInit | TaskExit | StepInit) -> bool:
        """Whether the job may have one more task, step or node of a step, that of the notice."""
        step = job._steps.get(notice.step_id)
        if type(notice) is not StepInit and len(job.task_records) >= self.max_tasks:
            limit = "tasks_per_job"
        elif step is None and len(job._steps) >= self.max_steps:
            limit = "steps_per_job"
        elif (
            step is not None
            and len(step.nodes) >= self._max_nodes
            and notice.node_id not in step.nodes
        ):
            limit = "nodes_per_step"
        else:
            return True
        self._stats.add(f"refused.{limit}")
        self._on_refused(limit, job.key.text)
        return False
