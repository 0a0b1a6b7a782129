"""The scenarios: how each is brought about. ``expected.py`` says what must come of it.

Each function is a scenario of its own name; it returns the ids of its jobs when they have done what
they should, or will do it by themselves.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import SkipTest

from tests.slurm.stage import Play, Stage

NOBODY = 65534
ODD_NAME = 'a "quoted" name\\with a backslash, and é'

UNTIL = "while [ -e $SLURM_CONF ] && ! [ -e {} ]; do sleep 0.05; done"
"""Shell: wait for a file, but not longer than this Slurm exists."""

TOGETHER = (
    "touch {0}.$SLURM_PROCID; while [ -e $SLURM_CONF ] &&"
    " [ $(ls -d {0}.* | wc -l) -lt $SLURM_NTASKS ]; do sleep 0.05; done"
)
"""Shell: let no task end before all have begun."""

SLEEP = "touch {}.$SLURM_PROCID; exec sleep 100"
"""Shell: tell that a task's program runs, and let it run."""


SHELL = "until set -- $(cat /proc/$$/stat) && [ $5 = $8 ]; do sleep 0.02; done; exec sh"
"""Shell: become one that reads from the terminal. Begun before ``salloc`` has made its group of
processes that in the foreground, it would stop itself for ever."""


def srun_1x2(stage: Stage) -> list[str]:
    """One node, two tasks."""
    return stage.srun("-N1", "-n2", "true")


def srun_2x4(stage: Stage) -> list[str]:
    """Two nodes, four tasks. No node ends before the other begins."""
    return stage.srun("-N2", "-n4", "sh", "-c", TOGETHER.format("2x4"))


def srun_2x8(stage: Stage) -> list[str]:
    """Two nodes, eight tasks."""
    return stage.srun("-N2", "-n8", "sh", "-c", TOGETHER.format("2x8"))


def batch_3_steps(stage: Stage) -> list[str]:
    """A batch script with three steps, one behind the other."""
    return [stage.sbatch("srun -n1 true\nsrun -n2 true\nsrun -n1 true", "-n2")]


def batch_2_nodes(stage: Stage) -> list[str]:
    """A batch script whose steps run on both of its nodes."""
    first, second = TOGETHER.format("first"), TOGETHER.format("second")
    return [stage.sbatch(f"srun -n4 sh -c '{first}'\nsrun -n2 sh -c '{second}'", "-N2", "-n4")]


def batch_no_steps(stage: Stage) -> list[str]:
    """A batch script that never calls srun, and fails."""
    return [stage.sbatch("exit 7")]


def batch_step_on_one_of_two(stage: Stage) -> list[str]:
    """Two nodes, one of which runs nothing: it has an epilog, but no prolog."""
    return [stage.sbatch("srun -N1 -n1 true", "-N2")]


def concurrent_4(stage: Stage) -> list[str]:
    """Four jobs at once."""
    with ThreadPoolExecutor(4) as players:
        started = [players.submit(stage.srun, "-n2", "sleep", "0.2") for _ in range(4)]
        return [job for each in started for job in each.result()]


def array_of_3(stage: Stage) -> list[str]:
    """An array of three: jobs with ids of their own."""
    told = [stage.file(f"array.{index}") for index in range(3)]
    stage.sbatch(
        "srun -n1 true; echo $SLURM_JOB_ID > array.tmp.$SLURM_ARRAY_TASK_ID\n"
        "mv array.tmp.$SLURM_ARRAY_TASK_ID array.$SLURM_ARRAY_TASK_ID",
        "--array=0-2",
    )
    stage.wait_files(told)
    return [path.read_text().strip() for path in told]


def cancel_running(stage: Stage) -> list[str]:
    """A job is cancelled while its step runs."""
    job = stage.sbatch(f"srun -n2 sh -c '{SLEEP.format('running')}'", "-n2")
    stage.wait_for(job, "task_start", 2)
    # A signal that comes before its program has begun may be lost on a task.
    stage.wait_files([stage.file(f"running.{rank}") for rank in range(2)])
    stage.cancel(job)
    return [job]


def cancel_pending(stage: Stage) -> list[str]:
    """A job is cancelled before it starts."""
    job = stage.sbatch("srun true", "--hold")
    stage.cancel(job)
    return [job]


def cancel_step(stage: Stage) -> list[str]:
    """One step is cancelled; the job goes on with the next."""
    job = stage.sbatch("srun -n1 sleep 100\nsrun -n1 true")
    stage.wait_for(job, "task_start")
    stage.cancel_step(f"{job}.0")
    return [job]


def killed_9(stage: Stage) -> list[str]:
    """The task is killed by SIGKILL."""
    return stage.srun("-n1", "sh", "-c", "kill -KILL $$")


def killed_11(stage: Stage) -> list[str]:
    """The task is killed by SIGSEGV."""
    return stage.srun("-n1", "sh", "-c", "ulimit -c 0; kill -SEGV $$")


def exit_codes(stage: Stage) -> list[str]:
    """Two tasks end with different codes."""
    return stage.srun("-n2", "sh", "-c", "exit $((3 + SLURM_PROCID))")


def missing_program(stage: Stage) -> list[str]:
    """The task's program does not exist."""
    return stage.srun("-n1", "/nonexistent/program")


def overlap_inside(stage: Stage) -> list[str]:
    """The second step runs within the life of the first."""
    job = stage.sbatch(
        f"srun --overlap -n1 sh -c 'touch inside.first; {UNTIL.format('inside.second')}' &\n"
        f"{UNTIL.format('inside.first')}\n"
        "srun --overlap -n1 true\n"
        "wait"
    )
    # srun comes back before its step has ended.
    stage.wait_for(job, "step_end")
    stage.file("inside.second").touch()
    return [job]


def overlap_outside(stage: Stage) -> list[str]:
    """A step is added to a running job from elsewhere."""
    job = stage.sbatch(f"srun -n1 sh -c '{UNTIL.format('outside.done')}'")
    stage.wait_for(job, "task_start")
    stage.srun("--overlap", f"--jobid={job}", "-n1", "true")
    stage.wait_for(job, "step_end")
    stage.file("outside.done").touch()
    return [job]


def salloc_no_steps(stage: Stage) -> list[str]:
    """An allocation in which nothing runs: it has an epilog, but no prolog."""
    return stage.salloc("-n1", "true")


def salloc_2_steps(stage: Stage) -> list[str]:
    """An allocation with two steps."""
    return stage.salloc("-n1", "sh", "-c", "srun -n1 true && srun -n1 true")


def salloc_terminal(stage: Stage) -> list[str]:
    """The user types into an allocation's shell."""
    # srun would read what is typed behind it.
    typed = "srun -n1 true < /dev/null\nexit\n"
    return stage.on_terminal("salloc", "-n1", "sh", "-c", SHELL, typed=typed)


def srun_terminal(stage: Stage) -> list[str]:
    """A step on a terminal."""
    return stage.on_terminal("srun", "-v", "--pty", "-n1", "sh", "-c", "exit 0")


def requeue(stage: Stage) -> list[str]:
    """A job is requeued while its step runs, and then runs to its end."""
    first = f"srun -n1 sh -c '{SLEEP.format('requeue')}'"
    script = f'[ -n "$SLURM_RESTART_COUNT" ] || {first}\nsrun -n1 true'
    job = stage.sbatch(script, "--requeue")
    stage.wait_for(job, "task_start")
    stage.wait_files([stage.file("requeue.0")])
    stage.control("requeuehold", job)
    stage.wait_for(job, "jobset_delete")
    stage.wait_state(job, "PD")
    # Restarted within the same second, Slurm may fail the job or leave its prolog out.
    stage.wait_past(int(time.time()) + 2)
    stage.control("release", job)
    # Else Slurm lets a requeued job wait for two minutes.
    stage.control("update", f"JobId={job}", "StartTime=now")
    return [job]


def suspend(stage: Stage) -> list[str]:
    """A job is suspended and resumed: nobody is told."""
    job = stage.sbatch(f"srun -n1 sh -c '{UNTIL.format('suspend.done')}'")
    stage.wait_for(job, "task_start")
    stage.control("suspend", job)
    stage.wait_state(job, "S")
    stage.control("resume", job)
    stage.wait_state(job, "R")
    stage.file("suspend.done").touch()
    return [job]


def other_user(stage: Stage) -> list[str]:
    """Another user's job."""
    if os.geteuid() != 0:
        raise SkipTest("only root can run other users' jobs")
    return stage.srun("-n1", "true", user=NOBODY, group=NOBODY, extra_groups=[])


def tagged(stage: Stage) -> list[str]:
    """The user gives the job a workflow and a tag in its environment."""
    return stage.srun(
        "-n1",
        "true",
        environment={"WORKFLOW_ID": "wf-1", "SUBSCRIBER_DATA": '{"job_tag":"night"}'},
    )


def odd_name(stage: Stage) -> list[str]:
    """The job's name has characters that JSON has to escape."""
    return stage.srun("-n1", f"--job-name={ODD_NAME}", "true")


def het_job(stage: Stage) -> list[str]:
    """A heterogeneous job: one job id for each component."""
    job = stage.sbatch("srun -n1 true : -n2 true", "-n1", ":", "-n2")
    return [job, str(int(job) + 1)]


PLAYS: dict[str, Play] = {
    play.__name__: play
    for play in (
        requeue,
        srun_1x2,
        srun_2x4,
        srun_2x8,
        batch_3_steps,
        batch_2_nodes,
        batch_no_steps,
        batch_step_on_one_of_two,
        concurrent_4,
        array_of_3,
        cancel_running,
        cancel_pending,
        cancel_step,
        killed_9,
        killed_11,
        exit_codes,
        missing_program,
        overlap_inside,
        overlap_outside,
        salloc_no_steps,
        salloc_2_steps,
        salloc_terminal,
        srun_terminal,
        suspend,
        other_user,
        tagged,
        odd_name,
        het_job,
    )
}
"""In the order in which they begin; those that wait longest come first."""
