"""What a notice tells of a job, taken into its records. Whether it is meant, the table decides."""

from __future__ import annotations

import msgspec

from ldmsjob.facts import JobDetails
from ldmsjob.jobs import Change, Job, Step, StepNode, Task
from ldmsjob.notices import JobInit, StepExit, StepInit, TaskExit, TaskInit


def fill_unknown(change: Change, notice: JobInit | TaskInit | StepInit) -> None:
    """Take from the notice what nobody has told yet."""
    job = change.job
    if job.uid is None and notice.uid is not None:
        job.uid = notice.uid
        change.described = True
    if job.gid is None and notice.gid is not None:
        job.gid = notice.gid
        change.described = True
    if job.node_count is None and notice.node_count is not None:
        job.node_count = notice.node_count
        change.filled = True
    if job.total_tasks is None and notice.total_tasks is not None:
        job.total_tasks = notice.total_tasks
        change.filled = True
    if job.local_tasks is None and notice.local_tasks is not None:
        job.local_tasks = notice.local_tasks
        change.filled = True
    job.facts_changed()


def fill_identity(change: Change, notice: JobInit | StepInit, time_us: int) -> None:
    """Take names, details and the node from the notice where nobody has told them yet."""
    job = change.job
    if job.user is None and notice.user is not None:
        job.user = notice.user
        change.described = True
    if job.job_name is None and notice.job_name is not None:
        job.job_name = notice.job_name
        change.described = True
    if notice.details is not None:
        change.described |= job.add_details(notice.details)
    if notice.node is not None:
        job.add_node(notice.node, time_us)
    job.facts_changed()


def announce(change: Change, notice: StepInit, time_us: int) -> Step:
    """Take a step init's facts; the job shows those of the step announced last."""
    job = change.job
    # Whose it is does not change; and a step takes the name from an environment that is its user's.
    if notice.user is not None and job.user is None:
        job.user = notice.user
        change.described = True
    if notice.job_name is not None and notice.job_name != job.job_name:
        job.job_name = notice.job_name
        change.described = True
    if notice.uid is not None and notice.uid != job.uid:
        job.uid = notice.uid
        change.described = True
    if notice.gid is not None and notice.gid != job.gid:
        job.gid = notice.gid
        change.described = True
    step, node = _part(job, notice.step_id, notice.node_id)
    if notice.node_count is not None:
        job.node_count = step.node_count = notice.node_count
    if notice.total_tasks is not None:
        job.total_tasks = step.total_tasks = notice.total_tasks
    if notice.local_tasks is not None:
        job.local_tasks = step.local_tasks = notice.local_tasks
    if notice.job_tag is not None:
        job.job_tag = notice.job_tag
    if notice.details is not None or notice.node is not None:
        fill_identity(change, notice, time_us)
    job.step_id = notice.step_id
    job.facts_changed()
    change.filled = True
    before = node.expected_tasks
    node.start_us = time_us
    node.announced_tasks = notice.local_tasks or 0
    job.expected_tasks += node.expected_tasks - before
    step.started = True
    if step.start_us is None:
        step.start_us = time_us
    return step


def known_part(job: Job, notice: StepInit | StepExit) -> tuple[Step | None, StepNode | None]:
    """What is known of the step, and of its part on the notice's node."""
    step = job._steps.get(notice.step_id)
    return step, step.nodes.get(notice.node_id) if step is not None else None


def _part(job: Job, step_id: int, node_id: int) -> tuple[Step, StepNode]:
    step = job._steps.get(step_id)
    if step is None:
        step = job._steps[step_id] = Step(step_id)
    node = step.nodes.get(node_id)
    if node is None:
        node = step.nodes[node_id] = StepNode()
    return step, node


def new_task(change: Change, notice: TaskInit | TaskExit, start_us: int | None) -> Task:
    """A record for a task that has none."""
    job = change.job
    task = Task(notice, len(job.task_records))
    task.start_us = start_us
    if type(notice) is TaskInit:
        task.rank = notice.rank
    job._tasks[notice.step_id, notice.node_id, notice.task_id] = task
    job.task_records.append(task)
    _step, node = _part(job, notice.step_id, notice.node_id)
    node.open_tasks += 1
    node.known_tasks += 1
    if node.known_tasks > node.announced_tasks:
        job.expected_tasks += 1
    change.tasks.append(task)
    return task


def close_task(job: Job, task: Task, time_us: int, status: int, *, reported: bool) -> None:
    """A task ends. ``reported``: the resource manager said so."""
    part = job._steps[task.step_id].nodes[task.node_id]
    if task.end_us is None:
        part.open_tasks -= 1
    if part.end_us is None or part.end_us < time_us:
        part.end_us = time_us
    task.end_us = time_us
    task.exit_status = status
    task.reported = reported


def complete(job: Job, notice: JobInit | StepInit, time_us: int) -> list[Change]:
    """Take what is unknown from a notice that is no news otherwise; the change, if there is any."""
    change = Change(job)
    fill_unknown(change, notice)
    fill_identity(change, notice, time_us)
    if type(notice) is StepInit and job.job_tag is None and notice.job_tag is not None:
        job.job_tag = notice.job_tag
        change.filled = True
    told = change.described or change.filled or notice.node is not None
    return [change] if told else []


def complete_task(job: Job, task: Task, notice: TaskInit, time_us: int) -> list[Change]:
    """Complete a record that its exit made. Its start and end events stand as posted."""
    if task.start_us is not None:
        return []
    task.start_us = time_us
    task.rank = notice.rank
    if task.pid is None:
        task.pid = notice.pid
    change = Change(job)
    change.tasks.append(task)
    return [change]


def lasting_details(job: Job) -> JobDetails | None:
    """The details that hold for all attempts of a job: a requeue may change the others."""
    if job.details is None:
        return None
    details = msgspec.structs.replace(job.details, restart_count=None, partition=None, account=None)
    return details if details != JobDetails() else None
