"""Our daemon and our tools, as whole programs, with each way to authenticate."""

from __future__ import annotations

import errno
import os
import signal
import time

from tests.interop.peers import Program, wait_until
from tests.interop.test_messages import asynchronous
from tests.munge.ways import JOB, JOB_SET, Way, WaysTestCase


class ProgramTests(WaysTestCase):
    """What a user does."""

    async def check(self, way: Way) -> None:
        """Publishing, subscribing, listing."""
        daemon, port = await self.start_ours(way)
        subscriber = self.start_ours_tool("subscribe", port, way, "-m", "slurm", "-c", "1", "-v")
        await self.subscribed(subscriber)
        await self.tool("publish", port, way, "-m", "slurm", "-t", "json", JOB)
        self.assertIn('"job_id":6', await self.finish(subscriber))
        self.assertIn(JOB_SET, await self.tool("ls", port, way, "-l"))
        self.assertNotIn("Traceback", daemon.output.decode() + daemon.errors.decode())

    async def subscribed(self, subscriber: Program) -> None:
        """Wait until it is."""
        await wait_until(
            lambda: b"subscribed" in subscriber.errors or subscriber.status is not None, "it"
        )
        self.assertIsNone(subscriber.status, subscriber.errors)

    @asynchronous
    async def test_munge(self) -> None:
        """With munge."""
        await self.check(self.munge())

    @asynchronous
    async def test_ovis(self) -> None:
        """With ovis."""
        await self.check(self.ovis())

    @asynchronous
    async def test_naive(self) -> None:
        """With naive."""
        await self.check(self.naive())

    @asynchronous
    async def test_refusals(self) -> None:
        """Tools that are refused say so in one line and end with EACCES; the log has one, too;
        nobody else notices."""
        way = self.munge()
        ours = self.munged
        daemon, port = await self.start_ours(way)
        subscriber = self.start_ours_tool("subscribe", port, way, "-m", "slurm", "-c", "1", "-v")
        await self.subscribed(subscriber)
        other = self.munge()
        for wrong, said, logged in (
            (other, "not authenticated: ", "authentication wrong key: munge: "),
            (self.ovis(), "ours is 'ovis'", "the peer's is 'ovis', ours 'munge'"),
            (Way("munge", ("socket=/nonexistent/s",)), "/nonexistent/s", ""),
        ):
            tool = self.start_ours_tool("ls", port, wrong)
            self.assertEqual(await tool.end(), errno.EACCES, tool.output + tool.errors)
            lines = tool.errors.decode().splitlines()
            self.assertEqual(len(lines), 1, lines)
            self.assertIn(said, lines[0])
            await self.log_has(daemon, logged)
        ours.send_signal(signal.SIGSTOP)
        tool = self.start_ours_tool("ls", port, way)
        began = time.monotonic()
        self.assertEqual(await tool.end(), errno.EACCES, tool.output + tool.errors)
        self.assertLess(time.monotonic() - began, 30)
        self.assertIn("munged does not answer in time", tool.errors.decode())
        self.assertNotIn("Traceback", tool.errors.decode())
        ours.send_signal(signal.SIGCONT)
        await self.tool("publish", port, way, "-m", "slurm", "-t", "json", JOB)
        self.assertIn('"job_id":6', await self.finish(subscriber))

    @asynchronous
    async def test_end_while_munged_hangs(self) -> None:
        """A daemon whose calls hang ends as quickly as ever."""
        way = self.munge()
        daemon, port = await self.start_ours(way)
        await self.tool("publish", port, way, "-m", "slurm", "-t", "json", JOB)
        self.munged.send_signal(signal.SIGSTOP)
        tools = [self.start_ours_tool("ls", port, self.stranger()) for _ in range(3)]
        await wait_until(lambda: all(tool.status is not None for tool in tools), "refusals")
        began = time.monotonic()
        daemon.transport.signalProcess("TERM")  # type: ignore[union-attr]
        self.assertEqual(await daemon.end(), 0)
        self.assertLess(time.monotonic() - began, 20)
        self.assertIn("not_opened.authentication munged silent=3", daemon.output.decode())

    def stranger(self) -> Way:
        """A peer with another munged, so that ours alone hangs."""
        hanging = self.munged
        try:
            return self.munge()
        finally:
            self.munged = hanging

    @asynchronous
    async def test_start_before_munged(self) -> None:
        """The daemon starts without munged, says why it refuses, and serves when that is there."""
        way = self.munge()
        self.munged.stop()
        daemon, port = await self.start_ours(way)
        tool = self.start_ours_tool("ls", port, self.stranger())
        self.assertEqual(await tool.end(), errno.EACCES)
        self.assertIn("its log may say why", tool.errors.decode())
        await self.log_has(daemon, "authentication no munged: munge: ")
        self.munged.start()
        await self.tool("publish", port, way, "-m", "slurm", "-t", "json", JOB)
        await self.tool("ls", port, way)

    @asynchronous
    async def test_check(self) -> None:
        """`ldmsjob check` tells whether munged answers, and does not wait for it for ever."""
        way = self.munge()
        path = self.directory / "checked.conf"
        path.write_text(f"auth_add name=way {way.attributes}\nlisten xprt=sock port=411 auth=way\n")
        output = await self.finish(self.start_tool("check", str(path)))
        self.assertIn(f"munged answers: we are uid {os.geteuid()}", output)
        self.munged.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        tool = self.start_tool("check", str(path))
        self.assertEqual(await tool.end(), errno.EINVAL)
        self.assertLess(time.monotonic() - began, 30)
        self.assertIn(f"{path}:1: munge: munged does not answer", tool.errors.decode())
