"""Ordinary users can neither read others' job sets nor invent jobs, over munge and over a unix
socket."""

from __future__ import annotations

import grp
import json
import pwd
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.interop.peers import c_environment, prefix
from tests.ports import free_port
from tests.users.people import ALICE, BOB, CAROL, PeopleTestCase

CONFIGURATION = """
daemon_name name=node
msg_enable
load name=jobmgr_slurm
config name=jobmgr_slurm owner=job perm=0440 linger=0 reconcile=0 publishers={carol}
jobmgr_start name=jobmgr_slurm
"""


def member_of_another_group() -> tuple[str, int]:
    """A user and one of his supplementary groups. Skips where all users have one group."""
    for group in grp.getgrall():
        for name in group.gr_mem:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            if entry.pw_uid and entry.pw_gid != group.gr_gid:
                return name, group.gr_gid
    raise SkipTest("no user but root has a supplementary group")


class Rules:
    """What holds however users come; with ``come``, which says how."""

    async def come(self) -> tuple[str, list[str]]:
        """How the daemon listens, and how tools reach it."""
        raise NotImplementedError

    async def begin(self: Any) -> None:
        """Start the daemon."""
        listen, self.way = await self.come()
        self.daemon = await self.start_daemon(listen + CONFIGURATION.format(carol=CAROL))

    async def publish(
        self: Any, user: str, event: str, job: int, *options: str, **data: Any
    ) -> None:
        """Publish what Slurm's notifier would say of a job."""
        schema = {"init": "job", "exit": "job", "step_init": "step", "task_init_priv": "task"}
        message = {
            "schema": f"slurm_{schema[event]}_data",
            "event": event,
            "timestamp": 1_800_000_000 + (event == "exit"),
            "context": f"node(slurmstepd),{job},0",
            "data": {"job_id": job, "nodeid": 0, "step_id": 0, **data},
        }
        arguments = [*self.way, "-m", "slurm", "-t", "json", *options, json.dumps(message)]
        self.assertEqual(await self.tool(user, "publish", arguments), (0, ""))

    async def run_job(self: Any, user: str, job: int, uid: int, gid: int, *options: str) -> None:
        """Publish the beginning of a job of that user and group."""
        names = {"job_name": "sleep", "local_tasks": 1, "total_tasks": 1, "nnodes": 1}
        task = {"task_id": 0, "task_global_id": 0, "task_pid": 4711, "uid": uid, "gid": gid}
        await self.publish(user, "step_init", job, *options, **names)
        await self.publish(user, "task_init_priv", job, *options, **task)

    async def listed(self: Any, user: str) -> list[str]:
        """The sets that a user finds in the directory."""
        status, text = await self.tool(user, "ls", self.way)
        self.assertIn(status, (0, 1), text)
        return [line.split()[-1] for line in text.splitlines() if "node/job" in line]

    async def read(self: Any, user: str, job: int) -> int:
        """The status of reading a job's set."""
        status, text = await self.tool(user, "ls", [*self.way, "-l", f"node/job_slurm_{job}"])
        self.assertEqual("task_list" in text, status == 0, text)
        return int(status)

    async def test_sets(self: Any) -> None:
        """Each user lists and reads the sets of his own jobs, and root all."""
        await self.begin()
        alice, bob = pwd.getpwnam(ALICE), pwd.getpwnam(BOB)
        await self.run_job("root", 1, alice.pw_uid, alice.pw_gid)
        await self.run_job("root", 2, bob.pw_uid, bob.pw_gid)
        self.assertEqual(await self.listed(ALICE), ["node/job_slurm_1"])
        self.assertEqual(await self.listed(BOB), ["node/job_slurm_2"])
        self.assertEqual(await self.listed(CAROL), [])
        self.assertEqual(len(await self.listed("root")), 2)
        self.assertEqual([await self.read(ALICE, job) for job in (1, 2)], [0, 1])
        self.assertEqual([await self.read(BOB, job) for job in (1, 2)], [1, 0])
        self.assertEqual([await self.read("root", job) for job in (1, 2)], [0, 0])

    async def test_publishing(self: Any) -> None:
        """Users can neither invent jobs nor end their own, in their names or in root's; root can,
        and whom ``publishers=`` names."""
        await self.begin()
        alice = pwd.getpwnam(ALICE)
        await self.run_job("root", 1, alice.pw_uid, alice.pw_gid)
        await self.run_job(BOB, 66, 0, 0)
        await self.run_job(BOB, 67, 0, 0, "-U", "0", "-G", "0")
        await self.publish(ALICE, "exit", 1)
        await self.publish(ALICE, "exit", 1, "-U", "0", "-G", "0")
        self.assertEqual(await self.listed("root"), ["node/job_slurm_1"])
        await self.run_job(CAROL, 2, alice.pw_uid, alice.pw_gid)
        self.assertEqual(len(await self.listed(ALICE)), 2)
        await self.publish("root", "exit", 1)
        self.assertEqual(await self.listed("root"), ["node/job_slurm_2"])
        await self.daemon.stop()
        log = self.daemon.output.decode()
        self.assertIn(f"message of uid {pwd.getpwnam(BOB).pw_uid} on channel slurm kept", log)
        self.assertIn("publisher_refused=3", log)
        self.assertIn("refused.bad_credential=3", log)

    async def test_supplementary_group(self: Any) -> None:
        """A user reads what one of his further groups may, and others do not."""
        member, gid = member_of_another_group()
        await self.begin()
        await self.run_job("root", 1, pwd.getpwnam(ALICE).pw_uid, gid)
        self.assertEqual(await self.listed(member), ["node/job_slurm_1"])
        self.assertEqual(await self.read(member, 1), 0)
        self.assertEqual(await self.read(BOB, 1), 1)


class MungeTests(Rules, PeopleTestCase):
    """Users whom munged vouches for."""

    async def come(self) -> tuple[str, list[str]]:
        """Over TCP."""
        socket, port = self.start_munged(), free_port()
        listen = (
            f"auth_add name=site plugin=munge socket={socket}\n"
            f"listen xprt=sock port={port} host=127.0.0.1 auth=site\n"
        )
        way = ["-h", "127.0.0.1", "-p", str(port), "-a", "munge", "-A", f"socket={socket}"]
        return listen, way

    async def test_c_programs(self) -> None:
        """C's tools meet the same rules."""
        programs, environment = prefix() / "sbin", c_environment()
        await self.begin()
        alice = pwd.getpwnam(ALICE)
        await self.run_job("root", 1, alice.pw_uid, alice.pw_gid)
        port, socket = self.way[3], self.way[7]
        common = ["-x", "sock", "-p", port, "-h", "127.0.0.1", "-a", "munge", "-A", socket]
        names = ("LD_LIBRARY_PATH", "ZAP_LIBPATH")
        variables = ["env", *(f"{name}={environment[name]}" for name in names)]
        for arguments, word in (
            ([], b"node/job_slurm_1"),
            (["-l", "node/job_slurm_1"], b"task_list"),
        ):
            for user, expected in ((ALICE, True), (BOB, False)):
                command = (*variables, str(programs / "ldms_ls"), *common, *arguments)
                listing = self.start(*command, user=user)
                await listing.end()
                self.assertEqual(word in listing.output, expected, listing.output)


class UnixTests(Rules, PeopleTestCase):
    """Users whom the system knows by their end of a unix socket."""

    async def come(self) -> tuple[str, list[str]]:
        """Over a socket that everybody can reach."""
        path = self.directory / "ldms.sock"
        return f"listen xprt=unix path={path}\n", ["-x", "unix", "-h", str(path)]
