"""What a notice tells of a job, taken into its records. Whether it is meant, the rules decide."""

from __future__ import annotations

import msgspec

from ldmsjob.facts import JobDetails
from ldmsjob.jobs import Change, Job, Step, StepNode, Task
from ldmsjob.notices import JobInit, StepExit, StepInit, TaskExit, TaskInit


def fill_new(job: Job, notice: JobInit, time_us: int) -> None:
    """Take all that the notice tells of a job of which nothing is known."""
    job.uid = notice.uid
    job.gid = notice.gid
    job.node_count = notice.node_count
    job.total_tasks = notice.total_tasks
    job.local_tasks = notice.local_tasks
    job.user = notice.user
    job.job_name = notice.job_name
    job.details = notice.details
    if notice.node is not None:
        job.add_node(notice.node, time_us)


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
    job.known_facts = None


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
    job.known_facts = None


def announce(change: Change, notice: StepInit, time_us: int) -> Step:
    """Take a step init's facts; the job shows those of the step announced last, the change says
    that it is filled."""
    job = change.job
    user, job_name, uid, gid = notice.user, notice.job_name, notice.uid, notice.gid
    # Whose it is does not change; and a step takes the name from an environment that is its user's.
    if user is not None and job.user is None:
        job.user = user
        change.described = True
    if job_name is not None and job_name != job.job_name:
        job.job_name = job_name
        change.described = True
    if uid is not None and uid != job.uid:
        job.uid = uid
        change.described = True
    if gid is not None and gid != job.gid:
        job.gid = gid
        change.described = True
    nodes, total, local = notice.node_count, notice.total_tasks, notice.local_tasks
    if nodes is not None:
        job.node_count = nodes
    if total is not None:
        job.total_tasks = total
    if local is not None:
        job.local_tasks = local
    if notice.job_tag is not None:
        job.job_tag = notice.job_tag
    if notice.details is not None or notice.node is not None:
        fill_identity(change, notice, time_us)
    job.step_id = step_id = notice.step_id
    job.known_facts = None
    step = job._steps.get(step_id)
    if step is None:
        part = StepNode(time_us, local or 0)
        step = Step(step_id, {notice.node_id: part}, True, time_us, None, nodes, total, local)
        job._steps[step_id] = step
        job.expected_tasks += part.announced_tasks
    else:
        _announce_part(job, step, notice, time_us)
    return step


def _announce_part(job: Job, step: Step, notice: StepInit, time_us: int) -> None:
    """A further node of a step, or one that is known from its tasks."""
    if notice.node_count is not None:
        step.node_count = notice.node_count
    if notice.total_tasks is not None:
        step.total_tasks = notice.total_tasks
    if notice.local_tasks is not None:
        step.local_tasks = notice.local_tasks
    part = step.nodes.get(notice.node_id)
    if part is None:
        part = step.nodes[notice.node_id] = StepNode()
    before = part.expected_tasks
    part.start_us = time_us
    part.announced_tasks = notice.local_tasks or 0
    job.expected_tasks += part.expected_tasks - before
    step.started = True
    if step.start_us is None:
        step.start_us = time_us


def known_part(
    job: Job, notice: StepInit | StepExit | TaskInit
) -> tuple[Step | None, StepNode | None]:
    """What is known of the step, and of its part on the notice's node."""
    step = job._steps.get(notice.step_id)
    return step, step.nodes.get(notice.node_id) if step is not None else None


def new_task(
    job: Job,
    part: StepNode | None,
    notice: TaskInit | TaskExit,
    start_us: int | None,
    rank: int | None,
) -> Task:
    """A record for a task that has none. ``part`` is that of its node, None when it has none."""
    if part is None:
        part = StepNode()
        step = job._steps.get(notice.step_id)
        if step is None:
            step = job._steps[notice.step_id] = Step(notice.step_id)
        step.nodes[notice.node_id] = part
    records, tasks = job.task_records, part.tasks
    step_id, node_id, task_id = notice.step_id, notice.node_id, notice.task_id
    task = Task(step_id, node_id, task_id, notice.pid, rank, start_us, len(records))
    records.append(task)
    tasks[task_id] = task
    if len(tasks) > part.announced_tasks:
        job.expected_tasks += 1
    return task


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
    return [Change(job, tasks=(task,))]


def lasting_details(job: Job) -> JobDetails | None:
    """The details that hold for all attempts of a job: a requeue may change the others."""
    if job.details is None:
        return None
    details = msgspec.structs.replace(job.details, restart_count=None, partition=None, account=None)
    return details if details != JobDetails() else None
