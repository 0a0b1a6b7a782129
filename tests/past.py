"""A journal as a daemon writes it, for tests of what reads one."""

from __future__ import annotations

from twisted.internet.defer import execute, maybeDeferred
from twisted.internet.task import Clock

from ldmsjob.jobservice import JobService
from ldmsjob.jobsets import JobSetPolicy
from ldmsjob.journal.journal import Journal
from ldmsjob.notices import JobExit, JobInit, Notice, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.stats import Stats
from ldmsjob.turns import Turn
from ldmsjob.users import Users

START = 1_700_000_000
"""2023-11-14 22:13:20 UTC."""


class Past:
    """Daemons, one after another, that write one journal. A notice comes each second, so that
    only the newest is in the tail, if ``pause`` is not changed."""

    def __init__(self, path: str, linger: str = "0") -> None:
        self.path = path
        self.pause = 1.0
        self.clock = Clock()
        self.clock.advance(START)
        self.policy = JobSetPolicy.from_attributes({"linger": linger})
        self.begin()

    def begin(self) -> None:
        """A daemon begins."""
        self.turn = Turn()
        self.journal = Journal(
            self.path,
            self.turn,
            self.clock,
            Stats(),
            max_age_seconds=1e9,
            max_bytes=1 << 40,
            in_thread=execute,
            wall_clock_us=self.now_us,
        )
        self.journal.open()
        self.jobs = JobService(
            SetRegistry(),
            self.turn,
            self.clock,
            Stats(),
            "node-1",
            wall_clock_us=self.now_us,
            users=Users(self.clock, maybeDeferred, name_of=lambda uid: None),
            journal=self.journal,
        )
        self.jobs.recover({"jm": self.policy})

    def end(self) -> None:
        """It ends."""
        self.journal.close()

    def tell(self, *notices: Notice) -> None:
        """These notices come."""
        for notice in notices:
            self.jobs.apply(notice, self.now_us(), "slurm", self.policy, "message", "jm")
            self.clock.advance(self.pause)

    def run_job(self, job_id: str, user: str = "ann", uid: int = 1000) -> None:
        """A whole job of a step of one task."""
        self.tell(
            JobInit(job_id, uid=uid, gid=100, user=user, job_name="sim", node="n1"),
            StepInit(job_id, 0, 0, total_tasks=1),
            TaskInit(job_id, 0, 0, 0, pid=77),
            TaskExit(job_id, 0, 0, 0, 256),
            StepExit(job_id, 0, 0),
            JobExit(job_id, node="n1", exit_status=0),
        )

    def now_us(self) -> int:
        """The wall clock in microseconds."""
        return int(self.clock.seconds() * 1e6)
