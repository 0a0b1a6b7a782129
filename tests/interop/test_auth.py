"""Authentication between ldmsjob and unmodified C programs, all ways and all ways round."""

from __future__ import annotations

from tests.interop.peers import (
    Program,
    c_environment,
    listens,
    wait_until,
)
from tests.interop.test_messages import asynchronous
from tests.munge.ways import JOB, JOB_SET, Way, WaysTestCase
from tests.ports import free_port

LISTENING = """
auth_add name=way {way}
listen xprt=sock port={port} host=127.0.0.1 auth=way
msg_enable
"""
AGGREGATING = """
set_memory size=64m
prdcr_add name=ours host=127.0.0.1 port={port} xprt=sock type=active interval=1000000 auth=way
prdcr_subscribe regex=.* message_channel=slurm
prdcr_start name=ours
updtr_add name=all interval=1000000 offset=0
updtr_prdcr_add name=all regex=.*
updtr_start name=all
"""


class AuthTestCase(WaysTestCase):
    """Runs C programs as well."""

    def setUp(self) -> None:
        """Skip without a C build."""
        self.prepare(c_environment())

    def c_tool(self, name: str, port: int, way: Way, *arguments: str) -> Program:
        """Start a C tool against a local port."""
        return self.start_c(
            *(name, "-x", "sock", "-h", "127.0.0.1", "-p", str(port), *way.arguments, *arguments)
        )

    async def c_daemon(self, way: Way, more: str = "") -> int:
        """A C daemon that listens; returns its port."""
        port = free_port()
        path = self.directory / f"ldmsd-{port}.conf"
        path.write_text(LISTENING.format(way=way.attributes, port=port) + more)
        program = self.start_c(
            *("ldmsd", "-F", "-c", path.name, "-l", f"{path.name}.log", "-r", f"{path.name}.pid")
        )
        await wait_until(lambda: listens(port) or program.status is not None, "ldmsd to listen")
        self.assertIsNone(program.status, program.errors)
        return port

    async def publish(self, port: int, way: Way) -> None:
        """Have C's tool publish a message of a job, as the notifier does."""
        (self.directory / "job").write_text(JOB)
        await self.finish(
            self.c_tool("ldms_msg_publish", port, way, "-m", "slurm", "-t", "json", "-f", "job")
        )


class WithOursTests(AuthTestCase):
    """C programs that connect to our daemon."""

    async def check(self, way: Way) -> None:
        """Publishing, listing, aggregating."""
        daemon, port = await self.start_ours(way)
        await self.publish(port, way)
        await self.log_has(daemon, "ready")

        async def listed(where: int) -> str:
            tool = self.c_tool("ldms_ls", where, way, "-l")
            await tool.end()
            return tool.output.decode()

        self.assertIn(JOB_SET, await listed(port))
        self.assertIn('"slurm_6"', await listed(port))
        aggregator = await self.c_daemon(way, AGGREGATING.format(port=port))
        for _ in range(40):
            text = await listed(aggregator)
            if '"slurm_6"' in text:
                break
        else:
            raise AssertionError(text)
        self.assertNotIn("not accepted", daemon.output.decode())

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
        """C tools with the wrong secret, key or way are refused, and the log says why; a link that
        was fine stays."""
        for way, wrong, said in (
            (self.ovis(), self.ovis("quite-another-secret"), "authentication wrong secret: "),
            (self.munge(), self.munge(), "authentication wrong key: "),
            (self.naive(), self.ovis(), "the peer's is 'ovis', ours 'naive'"),
        ):
            daemon, port = await self.start_ours(way)
            subscriber = self.start_ours_tool(
                "subscribe", port, way, "-m", "slurm", "-c", "1", "-v"
            )
            await wait_until(lambda one=subscriber: b"subscribed" in one.errors, "it")
            tool = self.c_tool("ldms_ls", port, wrong, "-l")
            self.assertNotEqual(await tool.end(), 0, tool.output)
            await self.log_has(daemon, said)
            await self.publish(port, way)
            self.assertIn('"job_id":6', await self.finish(subscriber))
            await daemon.stop()


class WithCTests(AuthTestCase):
    """Our tools that connect to a C daemon."""

    async def check(self, way: Way) -> None:
        """Publishing, subscribing, listing, through ldmsd."""
        _, ours = await self.start_ours(way)
        await self.publish(ours, way)
        port = await self.c_daemon(way, AGGREGATING.format(port=ours))
        for _ in range(40):
            tool = self.start_ours_tool("ls", port, way, "-l")
            await tool.end()
            if b'"slurm_6"' in tool.output:
                break
        else:
            raise AssertionError(tool.output + tool.errors)
        subscriber = self.start_ours_tool("subscribe", port, way, "-m", "slurm", "-c", "1", "-v")
        await wait_until(lambda: b"subscribed" in subscriber.errors, "it")
        await self.tool("publish", port, way, "-m", "slurm", "-t", "json", JOB)
        self.assertIn('"job_id":6', await self.finish(subscriber))

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
        """Refused by C, or not content with it, our tools say so in one line."""
        for way, wrong in (
            (self.ovis(), self.ovis("quite-another-secret")),
            (self.munge(), self.munge()),
            (self.naive(), self.munge()),
        ):
            port = await self.c_daemon(way)
            tool = self.start_ours_tool("ls", port, wrong)
            self.assertEqual(await tool.end(), 13, tool.output + tool.errors)
            lines = tool.errors.decode().splitlines()
            self.assertEqual(len(lines), 1, lines)
