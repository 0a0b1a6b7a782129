"""Whose jobs and job sets are whose: a daemon with Slurm's job manager, and users on real links."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.transports.memory import MemoryPair
from ldmsjob.wire.events import Credential, Message, Publish, Refused, Subscribe
from ldmsjob.wire.setevents import (
    READ_NOT_ALLOWED,
    READ_OK,
    SET_ADDED,
    SET_CHANGED,
    DirectoryAnswered,
    DirectoryUpdated,
    LookUp,
    LookupFailed,
    MemoryRead,
    ReadMemory,
    SetAnnounced,
    WantDirectory,
)
from tests.daemons import Rig
from tests.fake_sites import FakeSite, Proves

ALICE, HER_GROUP = 200_001, 200_000
USERS = {
    "root": Credential(0, 0),
    "alice": Credential(ALICE, HER_GROUP),
    "bob": Credential(200_002, 200_900),
    "slurm": Credential(200_003, 200_003),
}
SET = "node/job_slurm_42"


def report(event: str, **data: Any) -> bytes:
    """What Slurm's notifier says of job 42."""
    schema = {"init": "job", "exit": "job", "step_init": "step", "task_init_priv": "task"}
    return (
        json.dumps(
            {
                "schema": f"slurm_{schema[event]}_data",
                "event": event,
                "timestamp": 1_000_000,
                "context": "node(slurmstepd),42,0",
                "data": {"job_id": 42, "nodeid": 0, **data},
            }
        ).encode()
        + b"\0"
    )


STEP = report("step_init", step_id=0, job_name="sleep", local_tasks=1, total_tasks=1, nnodes=1)
TASK = report(
    "task_init_priv",
    step_id=0,
    task_id=0,
    task_global_id=0,
    task_pid=4711,
    uid=ALICE,
    gid=HER_GROUP,
)


class User:
    """Somebody's link to the daemon."""

    def __init__(self, rig: Rig, credential: Credential) -> None:
        self.credential = credential
        self.heard = FakeSite()
        self.pair = MemoryPair(
            rig.daemon.site, self.heard, rig.clock, left_authenticator=Proves(self.credential)
        )
        self.pair.settle()

    def ask(self, *commands: Any) -> list[Any]:
        """What it hears of what it asks, and before."""
        for command in commands:
            self.pair.right.send(command)
        self.pair.settle()
        heard = list(self.heard.events)
        self.heard.events.clear()
        return heard

    def publish(self, data: bytes, as_whom: Credential | None = None) -> None:
        """Publish on Slurm's channel."""
        whom = as_whom or self.credential
        self.ask(Publish("slurm", data, uid=whom.uid, gid=whom.gid))

    def told(self) -> list[int]:
        """The updates of the directory since it was last asked."""
        return [one.kind for one in self.ask() if isinstance(one, DirectoryUpdated)]

    def listed(self) -> list[str]:
        """The names in the directory; watches it from then on."""
        (answer,) = self.ask(WantDirectory(1, updates=True))
        assert isinstance(answer, DirectoryAnswered)
        return [entry.name for entry in answer.entries]

    def look_up(self, **options: Any) -> Any:
        """What a lookup gives."""
        return self.ask(LookUp(2, **{"path": SET, **options}))[-1]

    def read(self, announced: Any) -> int:
        """The status of a read."""
        (answer,) = self.ask(ReadMemory(3, announced, 0, 8))
        assert isinstance(answer, MemoryRead)
        return answer.status


class JobOwnerTests(SynchronousTestCase):
    """``owner=job`` and ``publishers=``, from the configuration to what users get."""

    def start(self, attributes: str = "") -> None:
        """A daemon, and links of its users."""
        self.rig = Rig(self)
        self.rig.read(
            "daemon_name name=node\nmsg_enable\nload name=jobmgr_slurm\n"
            f"config name=jobmgr_slurm {attributes}\njobmgr_start name=jobmgr_slurm\n"
        )
        self.rig.start()
        users = [User(self.rig, USERS[name]) for name in ("root", "alice", "bob", "slurm")]
        self.root, self.alice, self.bob, self.slurm = users

    def test_own_jobs_only(self) -> None:
        """A user sees the sets of his jobs from when they are known to be his, others never."""
        self.start("owner=job perm=0440")
        watcher = User(self.rig, USERS["root"])
        for user in (watcher, self.alice, self.bob):
            self.assertEqual(user.listed(), [])
        self.root.publish(STEP)
        self.assertEqual(watcher.told(), [SET_ADDED])
        self.assertEqual((self.alice.told(), self.bob.told()), ([], []))
        self.assertEqual(self.alice.look_up(), LookupFailed(2, errno.ENOENT))
        self.assertEqual(self.alice.listed(), [])

        self.root.publish(TASK)
        self.assertEqual(set(watcher.told()), {SET_CHANGED})
        self.assertEqual((self.alice.told(), self.bob.told()), ([SET_ADDED], []))
        found = self.alice.look_up()
        assert isinstance(found, SetAnnounced)
        self.assertEqual(self.alice.read(found.announced), READ_OK)
        self.assertEqual(self.alice.listed(), [SET])

        self.assertEqual(self.bob.listed(), [])
        for request in ({}, {"path": "job", "is_regex": True}, {"path": "jobmgr_slurm"}):
            options = {**request, "by_schema": request.get("path") == "jobmgr_slurm"}
            self.assertEqual(self.bob.look_up(**options), LookupFailed(2, errno.ENOENT))
        self.assertNotEqual(self.bob.read(found.announced), READ_OK)

    def test_default(self) -> None:
        """Without it the sets are the daemon's, and users read none, their own neither."""
        self.start()
        self.root.publish(STEP)
        self.root.publish(TASK)
        self.assertEqual(self.root.listed(), [SET])
        for user in (self.alice, self.bob):
            self.assertEqual(user.listed(), [])
            self.assertEqual(user.look_up(), LookupFailed(2, errno.ENOENT))

    def test_lookup_does_not_outlive_the_permission(self) -> None:
        """Who could read a set before it was known whose it is, can read it no longer."""
        self.start("owner=job perm=0440")
        self.root.publish(STEP)
        colleague = User(self.rig, Credential(200_004, os.getegid()))
        found = colleague.look_up()
        assert isinstance(found, SetAnnounced)
        self.assertEqual(colleague.read(found.announced), READ_OK)
        self.root.publish(TASK)
        self.assertEqual(colleague.read(found.announced), READ_NOT_ALLOWED)

    def jobs(self) -> list[str]:
        """The ids of all jobs."""
        return [job.key.text for job in self.rig.daemon.core.jobs.jobs()]

    def test_who_may_report(self) -> None:
        """Users can neither invent a job nor end one, in nobody's name; whom ``publishers=`` names
        can."""
        self.start("publishers=200003")
        stats = self.rig.daemon.stats
        for user in (self.alice, self.bob):
            user.publish(STEP)
            user.publish(STEP, USERS["root"])
            user.publish(STEP, USERS["slurm"])
        self.assertEqual(self.jobs(), [])
        self.assertEqual(stats.child("messages").get("publisher_refused"), 2)
        self.assertEqual(stats.child("links").get("refused.bad_credential"), 4)
        self.slurm.publish(STEP)
        self.assertEqual(self.jobs(), ["slurm_42"])
        self.alice.publish(report("exit"))
        (job,) = self.rig.daemon.core.jobs.jobs()
        self.assertFalse(job.ended)
        self.root.publish(report("exit"))
        self.assertTrue(job.ended)

    def test_passed_on_by_root(self) -> None:
        """What another daemon passes on counts by who published it, not by who brings it."""
        self.start()
        self.root.publish(STEP, USERS["alice"])
        self.assertEqual(self.jobs(), [])
        self.root.publish(STEP)
        self.assertEqual(self.jobs(), ["slurm_42"])

    def test_other_subscribers(self) -> None:
        """A message that the job manager does not believe goes to peers by its bits all the same,
        and its publisher gets its credit back."""
        self.start()
        self.root.ask(Subscribe("slurm"))
        self.bob.publish(STEP)
        got = [one for one in self.root.ask() if isinstance(one, Message)]
        self.assertEqual([one.uid for one in got], [USERS["bob"].uid])
        self.assertFalse(any(isinstance(one, Refused) for one in self.bob.ask()))
        self.assertEqual(self.jobs(), [])
