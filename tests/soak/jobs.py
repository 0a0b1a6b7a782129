"""The jobs of a soak, as messages of Slurm's notifier."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator

EVENTS_PER_JOB = 7
"""Started and ended: the job, its step, its task; and the deletion of the job's set."""

MESSAGES_PER_JOB = 6
LIVE_JOBS = 40

_KINDS = (
    ("init", b'"uid":0,"gid":0,"nnodes":1,"total_tasks":1'),
    ("step_init", b'"step_id":0,"nodeid":0,"job_user":"root","job_name":"soak","local_tasks":1'),
    ("task_init_priv", b'"step_id":0,"nodeid":0,"task_id":0,"task_pid":%d'),
    ("task_exit", b'"step_id":0,"nodeid":0,"task_id":0,"task_pid":%d,"task_exit_status":0'),
    ("step_exit", b'"step_id":0,"nodeid":0'),
    ("exit", b'"node":"n1"'),
)
LINES = {
    "init": "job_start",
    "step_init": "step_start",
    "task_init_priv": "task_start",
    "task_exit": "task_end",
    "step_exit": "step_end",
    "exit": "job_end",
}
"""The line of the event file that a message brings."""


def messages(seed: int) -> Iterator[tuple[int, str, bytes]]:
    """(job, kind, message) without end: some jobs at a time, each in its order.

    Messages begin with their number, counted from 1. Jobs go on until they are through when
    ``close`` has been sent in.
    """
    chance = random.Random(seed)
    running: deque[tuple[int, int]] = deque()
    number = job = 0
    closing = False
    while running or not closing:
        if len(running) < LIVE_JOBS and not closing:
            job += 1
            one, stage = job, 0
        else:
            running.rotate(chance.randrange(len(running)))
            one, stage = running.popleft()
        kind, data = _KINDS[stage]
        number += 1
        if b"%d" in data:
            data = data % (1_000_000 + one)
        text = (
            b'{"n":%d,"schema":"s","event":"%s","timestamp":%d,"context":"n1(slurmstepd),%d,0",'
            b'"data":{"job_id":%d,%s}}\0'
            % (number, kind.encode(), int(time.time()), one, one, data)
        )
        closing = (yield one, kind, text) is not None or closing
        if stage + 1 < len(_KINDS):
            running.append((one, stage + 1))


def number_of(body: bytes) -> int:
    """The number of a message."""
    return int(body[5 : body.index(b",")])


def job_of(body: bytes) -> int:
    """The job of a message."""
    start = body.index(b'"job_id":') + 9
    end = start
    while body[end : end + 1].isdigit():
        end += 1
    return int(body[start:end])
