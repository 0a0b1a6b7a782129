"""What to believe of Slurm's jobs after a look at the node and, perhaps, Slurm's answer.

Pure: beliefs, a look, an answer and the time in; notices out. What one look cannot tell, such as
whether something is gone for good, is kept from look to look.

What counts, from the strongest:

* a *trace* on the node, a ``slurmstepd`` or a populated cgroup: the job is alive here;
* Slurm's answer: a job that it lists as running is alive, wherever that is; one that it lists as
  over, or does not know by its id, is gone, when it says so twice and the job has not changed
  meanwhile. That it is not among the jobs of our nodes says nothing: it may run on others;
* without an answer: a job whose batch or extern step has left is gone; any other that must have run
  here when the node has shown nothing of it for a long time.

docs/slurm.md, Reconciling, is the version for users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ldmsjob.facts import JobFacts, JobKey
from ldmsjob.interfaces import IJob
from ldmsjob.jobmgr.slurm_memory import (
    NEVER,
    NOT_ASKED,
    YOUNG_US,
    Absence,
    ById,
    Look,
    Watch,
    traced_jobs,
)
from ldmsjob.jobmgr.slurm_node import NodeView, StepProcess, TaskProcess
from ldmsjob.jobmgr.slurm_query import Answer, SlurmJob
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit

SETTLE_SECONDS = 10.0
"""A job whose record changed less than this ago is not ended: more may be under way."""

UNREPORTED_STATUS = -1
"""Of a task that ended unseen."""


class Finding(msgspec.Struct, frozen=True):
    """A notice to be applied, and why."""

    notice: Notice
    why: str


class Verdict(msgspec.Struct, frozen=True):
    """What came of a look."""

    findings: Sequence[Finding]
    unsettled: bool
    """Whether another look should follow soon: something is not certain yet."""


class Judge:
    """Compares, look by look.

    ``asked_nodes`` are the names of the nodes that Slurm is asked for. ``shared``: somebody said
    that these are all that this daemon answers for, of the ``slurmd`` that run here, too; otherwise
    whatever runs here counts, and messages may come from elsewhere. ``own_uid`` is given when Slurm
    may hide other users' jobs from this daemon. ``stale`` is after how many seconds without any
    trace, and without an answer from Slurm, a job that must have run here counts as gone; 0: never.
    """

    def __init__(
        self,
        *,
        asked_nodes: frozenset[str],
        shared: bool = False,
        stale: float = 0.0,
        own_uid: int | None = None,
    ) -> None:
        self._nodes = asked_nodes
        self._shared = shared
        self._stale = stale
        self._own_uid = own_uid
        self._watches: dict[JobKey, Watch] = {}
        self._last_processes: Mapping[str, Sequence[StepProcess]] = {}
        """Of each job at the last look."""
        self._credible = False
        """Whether this node has ever shown anything of Slurm's."""
        self._judged: frozenset[tuple[int, int]] = frozenset()
        """Step processes of jobs that were believed in at some look, or that Slurm disowned."""
        self._candidates: frozenset[object] = frozenset()
        """What the last look found and did not adopt yet."""

    def forget_ended(self, beliefs: Iterable[IJob]) -> None:
        """Remember nothing of jobs that have ended since the last look, or are not known now."""
        running = {belief.key for belief in beliefs if not belief.ended}
        if not running.issuperset(self._watches):
            self._watches = {key: self._watches[key] for key in running & self._watches.keys()}

    def is_in_doubt(self, beliefs: Iterable[IJob], view: NodeView, now: float) -> bool:
        """Whether node and beliefs differ in a way that Slurm could settle."""
        traced = traced_jobs(view)
        known = set()
        for belief in beliefs:
            job_id = belief.key.job_id
            known.add(job_id)
            if belief.ended or job_id in traced:
                continue
            watch = self._watches.get(belief.key)
            if watch is None or now >= watch.vouched_until:
                return True
        return any(
            step.job_id not in known and step.identity not in self._judged
            for step in self._ours(view)
        )

    def unlisted(
        self, beliefs: Iterable[IJob], view: NodeView, answer: Answer, now: float
    ) -> list[str]:
        """The ids of jobs that the answer should have shown and did not, and about which Slurm is
        therefore to be asked by their ids: those of which the node shows nothing, too, first those
        that Slurm has not spoken of for longest; and those that run here and are not known."""
        traced = traced_jobs(view)
        waiting = []
        known = set()
        for belief in beliefs:
            job_id = belief.key.job_id
            known.add(job_id)
            if belief.ended or job_id in traced or job_id in answer:
                continue
            watch = self._watches.get(belief.key)
            vouched_until = watch.vouched_until if watch is not None else NEVER
            if now >= vouched_until:
                waiting.append((vouched_until, job_id))
        waiting.sort(key=lambda one: one[0])
        strange = {
            step.job_id: None
            for step in self._ours(view)
            if step.job_id not in known
            and step.job_id not in answer
            and step.identity not in self._judged
        }
        return [*strange, *(job_id for _until, job_id in waiting)]

    def decide(
        self,
        beliefs: Sequence[IJob],
        view: NodeView,
        answer: Answer | None,
        *,
        by_id: ById = NOT_ASKED,
        now: float,
        now_us: int,
        gap: bool = False,
        vanished: frozenset[str] = frozenset(),
    ) -> Verdict:
        """What to do. ``beliefs`` are of now; ``view`` and ``answer`` of a moment ago, together.

        ``by_id`` has the jobs that Slurm was asked for by their ids; None: it does not know it.
        ``now`` is monotonic, ``now_us`` the wall clock. ``gap``: notices may have been missed, so
        that jobs of which the node shows nothing are adopted, too, where Slurm knows them.
        ``vanished`` are jobs that were forgotten since the look began.
        """
        self._credible = self._credible or bool(view.steps or view.cgroups)
        look = Look(view, self._ours(view), answer, by_id, now, now_us, gap, vanished)
        running = [belief for belief in beliefs if not belief.ended]
        self._watches = {
            belief.key: self._watches.get(belief.key) or self._new_watch(belief, now)
            for belief in running
        }
        self._last_processes = look.processes
        findings: list[Finding] = []
        unsettled = False
        for belief in running:
            watch = self._watches[belief.key]
            watch.observe(belief, look)
            end = self._end_of_job(watch, belief, look)
            if end is not None:
                findings.append(end)
                continue
            unsettled = unsettled or watch.absence.times > 0
            if belief.key.job_id in look.traced:
                findings += self._ended_steps(watch, belief, look)
                unsettled = unsettled or any(one.times for one in watch.step_absences.values())
                findings += self._adopted_steps(belief, look)
        findings += self._adopted_jobs(beliefs, look)
        self._judge(beliefs, findings, look)
        self._candidates = frozenset(look.candidates)
        return Verdict(findings, unsettled or bool(look.candidates))

    def _ours(self, view: NodeView) -> list[StepProcess]:
        if not self._shared:
            return list(view.steps)
        return [step for step in view.steps if step.node is None or step.node in self._nodes]

    def _new_watch(self, belief: IJob, now: float) -> Watch:
        watch = Watch(now)
        watch.remember(self._last_processes.get(belief.key.job_id, ()))
        return watch

    # Ending

    def _end_of_job(self, watch: Watch, belief: IJob, look: Look) -> Finding | None:
        job_id = belief.key.job_id
        answer, now = look.answer, look.now
        slurm = look.slurm_job(job_id)
        settled = now - watch.changed >= SETTLE_SECONDS
        if slurm is not None and slurm.running and _is_later_run(slurm, belief.facts):
            if watch.absence.missed(now) and settled:
                end_us = min(slurm.start_us or look.now_us, look.now_us)
                return Finding(JobExit(job_id, time_us=end_us), "it was requeued and runs again")
            return None
        if job_id in look.traced:
            watch.alive()
            return None
        if watch.traceless_since is None:
            watch.traceless_since = now
        if slurm is not None and not slurm.over:
            watch.vouch(now, running=slurm.running)
            return None
        if answer is not None and (slurm is not None or self._shows(look, belief.facts.uid)):
            if slurm is None and job_id not in look.by_id:
                return None  # it may run on other nodes
            if watch.absence.missed(now) and settled:
                return _end(belief, slurm, look.now_us)
            return None
        if not self._is_ours(belief):
            return None
        if now < watch.vouched_until or watch.has_live_task(look.view):
            return None
        if watch.keeper:
            if watch.absence.missed(now) and settled:
                why = "its batch or extern step has left the node"
                return Finding(JobExit(job_id, time_us=look.now_us), why)
        elif (
            self._stale
            and self._credible
            and now - watch.traceless_since >= self._stale
            and (watch.traced or self._names_us(belief) or (self._shared and len(self._nodes) == 1))
        ):
            why = f"the node has shown nothing of it for {self._stale:g} s"
            return Finding(JobExit(job_id, time_us=look.now_us), why)
        return None

    def _is_ours(self, belief: IJob) -> bool:
        """Whether all nodes that it is known to run on are ours. Often none is known."""
        return self._nodes.issuperset(belief.facts.nodes)

    def _names_us(self, belief: IJob) -> bool:
        """Whether it is known to run on our only node, and on no other."""
        return len(self._nodes) == 1 and self._nodes == frozenset(belief.facts.nodes)

    def _shows(self, look: Look, uid: int | None) -> bool:
        """Whether Slurm would have shown a job of that user if there were one."""
        own = self._own_uid
        return own is None or uid == own or any(job.uid != own for job in look.slurm_jobs())

    def _ended_steps(self, watch: Watch, belief: IJob, look: Look) -> list[Finding]:
        """Steps of a job that is alive whose processes have left, each node's part by itself."""
        job_id = belief.key.job_id
        present: set[tuple[int | None, int | None]] = set()
        for process in look.processes.get(job_id, ()):
            present.add((process.step_id, process.node_id))
        groups = {group.step for group in look.view.cgroups if group.job_id == job_id}
        steps = belief.steps()
        open_steps = {step.step_id for step in steps if step.end_us is None}
        absences = {
            key: absence for key, absence in watch.step_absences.items() if key[0] in open_steps
        }
        findings = []
        for step in steps:
            if step.end_us is not None or step.start_us is None:
                continue
            for node_id in step.node_ids:
                key = (step.step_id, node_id)
                if key in watch.steps_done or not (key in watch.steps or self._names_us(belief)):
                    continue
                absence = absences.setdefault(key, Absence())
                if (
                    key in present
                    or (step.step_id, None) in present
                    or str(step.step_id) in groups
                    or watch.has_live_task(look.view, key)
                ):
                    absence.seen()
                elif absence.missed(look.now):
                    watch.steps_done |= {key}
                    del absences[key]
                    findings += _end_of_step(belief, key, look.now_us)
        watch.step_absences = absences
        return findings

    # Adopting

    def _is_due(self, look: Look, mark: object, start_us: int | None, *, at_once: bool) -> bool:
        """Whether something that runs unannounced is to be adopted; otherwise it is looked for
        again soon. What has just begun is not: its own notice is expected."""
        young = start_us is not None and look.now_us - start_us < YOUNG_US
        if mark in self._candidates or (at_once and not young):
            return True
        look.candidates.add(mark)
        return False

    def _adopted_steps(self, belief: IJob, look: Look) -> list[Finding]:
        """Steps and tasks of a known job whose notices are missing."""
        steps = {step.step_id: step for step in belief.steps()}
        tasks = {(task.step_id, task.node_id, task.task_id) for task in belief.tasks()}
        findings: list[Finding] = []
        for process in look.processes.get(belief.key.job_id, ()):
            step_id, node_id = process.step_id, process.node_id
            if step_id is None or node_id is None:
                continue
            if belief.key.attempt > 1 and process.start_us < (belief.facts.start_us or 0):
                continue  # of the attempt before, and about to leave
            step = steps.get(step_id)
            is_known = step is not None and step.start_us is not None and node_id in step.node_ids
            if step is not None and step.end_us is not None:
                continue
            missing = [
                task for task in process.tasks if (step_id, node_id, task.task_id) not in tasks
            ]
            if is_known and not missing:
                continue
            start_us = process.start_us
            if is_known:
                start_us = max(task.start_us for task in missing)
            mark = (process.identity, is_known, tuple(task.pid for task in missing))
            if not self._is_due(look, mark, start_us, at_once=look.gap):
                continue
            if not is_known:
                findings.append(Finding(_step_init(process, step_id, node_id), "it runs here"))
            findings += _task_inits(process, step_id, node_id, missing)
        return findings

    def _adopted_jobs(self, beliefs: Sequence[IJob], look: Look) -> list[Finding]:
        known: dict[str, list[IJob]] = {}
        for belief in beliefs:
            known.setdefault(belief.key.job_id, []).append(belief)
        findings: list[Finding] = []
        for job in look.slurm_jobs():
            earlier = known.get(job.job_id, ())
            if job.job_id in look.vanished:
                continue
            if not job.running or any(
                not one.ended or not _is_later_run(job, one.facts) for one in earlier
            ):
                continue
            if job.job_id not in look.traced and (not look.gap or job.job_id in look.by_id):
                continue  # it runs elsewhere, or nothing says that its notice was missed
            mark = ("job", job.job_id, job.details.restart_count)
            if self._is_due(look, mark, job.start_us, at_once=look.gap or bool(earlier)):
                findings += _adopt(job.job_id, job, look.processes.get(job.job_id, ()))
        for job_id, processes in look.processes.items():
            if (
                job_id in known
                or job_id in look.vanished
                or any(one.identity in self._judged for one in processes)
            ):
                continue
            uid = next((one.uid for one in processes if one.uid is not None), None)
            if look.answer is not None and (
                look.slurm_job(job_id) is not None or self._shows(look, uid)
            ):
                continue
            if self._shared and all(one.node is None for one in processes):
                continue
            # Without Slurm's word, it may be about to end: looked at twice in any case.
            if self._is_due(look, ("process", job_id), None, at_once=False):
                findings += _adopt(job_id, None, processes)
        return findings

    def _judge(self, beliefs: Sequence[IJob], findings: Sequence[Finding], look: Look) -> None:
        """Remember the step processes about which Slurm need not be asked again."""
        job_ids = {belief.key.job_id for belief in beliefs}
        job_ids.update(finding.notice.job_id for finding in findings)
        self._judged = frozenset(
            process.identity
            for process in look.view.steps
            if process.job_id in job_ids
            or process.identity in self._judged
            or self._is_disowned(process, look)
        )

    def _is_disowned(self, process: StepProcess, look: Look) -> bool:
        """Whether Slurm says that its job is over, or nearly."""
        job = look.slurm_job(process.job_id)
        if job is None:
            return process.job_id in look.by_id and self._shows(look, process.uid)
        return job.over or job.state == "COMPLETING"


def _is_later_run(job: SlurmJob, facts: JobFacts) -> bool:
    """Whether Slurm shows a later run of a requeued job than the one that we know."""
    known = facts.details.restart_count if facts.details is not None else None
    now = job.details.restart_count
    return known is not None and now is not None and now > known


def _end(belief: IJob, job: SlurmJob | None, now_us: int) -> Finding:
    if job is None:
        exit_ = JobExit(belief.key.job_id, time_us=now_us)
        return Finding(exit_, "Slurm does not know it")
    start_us, end_us = belief.facts.start_us, job.end_us
    if end_us is None or end_us > now_us or (start_us is not None and end_us < start_us):
        end_us = now_us
    exit_ = JobExit(belief.key.job_id, time_us=end_us, exit_status=job.exit_status)
    return Finding(exit_, f"Slurm says {job.state}")


def _end_of_step(belief: IJob, key: tuple[int, int], now_us: int) -> list[Finding]:
    job_id, (step_id, node_id), why = belief.key.job_id, key, "its process has left the node"
    findings = [
        Finding(
            TaskExit(job_id, step_id, node_id, task.task_id, UNREPORTED_STATUS, now_us, task.pid),
            why,
        )
        for task in belief.tasks()
        if (task.step_id, task.node_id) == key and task.end_us is None
    ]
    findings.append(Finding(StepExit(job_id, step_id, node_id, now_us), why))
    return findings


def _adopt(job_id: str, job: SlurmJob | None, processes: Sequence[StepProcess]) -> list[Finding]:
    """The notices of a job, its steps and tasks, as the node and Slurm tell them."""
    why = "Slurm says that it runs here" if job is not None else "it runs here"
    uid = next((one.uid for one in processes if one.uid is not None), None)
    start_us = min((one.start_us for one in processes), default=None)
    # Whoever names a node waits for that node's end. That is only needed of several, because the
    # ends that Slurm's own notifier tells of name none.
    named = sorted({one.node for one in processes if one.node is not None})
    nodes: Sequence[str | None] = named if len(named) > 1 else [None]
    findings = []
    for node in nodes:
        if job is None:
            init = JobInit(job_id, time_us=start_us, uid=uid, node=node)
        else:
            init = JobInit(
                job_id,
                time_us=job.start_us or start_us,
                uid=job.uid if job.uid is not None else uid,
                gid=job.gid,
                node_count=job.node_count,
                user=job.user,
                job_name=job.job_name,
                node=node,
                details=job.details,
            )
        findings.append(Finding(init, why))
    for process in processes:
        step_id, node_id = process.step_id, process.node_id
        if node_id is None and job is not None and job.node_count == 1:
            node_id = 0
        if step_id is not None and node_id is not None:
            findings.append(Finding(_step_init(process, step_id, node_id), why))
            findings += _task_inits(process, step_id, node_id, process.tasks)
    return findings


def _step_init(process: StepProcess, step_id: int, node_id: int) -> StepInit:
    # Not earlier than the step's own notice would say, or that one, coming late after all, would
    # look like another run: the notice is sent before the first task is forked.
    started = [task.start_us for task in process.tasks]
    return StepInit(
        process.job_id,
        step_id,
        node_id,
        time_us=min(started, default=process.start_us),
        uid=process.uid,
        node_count=process.node_count,
        total_tasks=process.total_tasks,
        local_tasks=process.local_tasks,
    )


def _task_inits(
    process: StepProcess, step_id: int, node_id: int, tasks: Iterable[TaskProcess]
) -> list[Finding]:
    return [
        Finding(
            TaskInit(
                process.job_id,
                step_id,
                node_id,
                task.task_id,
                time_us=task.start_us,
                pid=task.pid,
                rank=task.rank,
                uid=process.uid,
            ),
            "it runs here",
        )
        for task in tasks
    ]
