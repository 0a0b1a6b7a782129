"""Messages between ldmsjob and unmodified C programs, all ways round."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest

from ldmsjob.interfaces import ILink, LinkSettings
from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.stats import Stats
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.sock import SockTransport
from ldmsjob.turns import Turn
from ldmsjob.wire.events import Message
from tests.interop.peers import InteropTestCase, Program, listens, reactor, wait_until
from tests.ports import free_port

SIZES = (1, 65_536, 1_000_000)


def payload(size: int) -> str:
    """JSON of exactly that many bytes."""
    return "7" if size == 1 else '"' + "x" * (size - 2) + '"'


def asynchronous(test: Any) -> Any:
    """Let trial wait for a test that is a coroutine."""

    def run(self: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(test(self))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


class BrokerTestCase(InteropTestCase):
    """Our broker listens in this process; ``port`` is where."""

    def setUp(self) -> None:
        """Start it."""
        super().setUp()
        turn, stats = Turn(), Stats()
        self.hub = MessageHub(stats, turn)
        self.hub.enable()
        self.stats = stats
        self.site = LinkSite(self.hub, stats, turn, reactor)
        self.transport = SockTransport(SimpleNamespace(clock=reactor))
        self.settings = LinkSettings(messages_enabled=lambda: self.hub.enabled)
        listener = self.transport.listen(None, 0, self.site, NoneAuthenticator(), self.settings)
        listener.service.startService()
        self.port = listener.port
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end_links()))
        self.addCleanup(listener.service.stopService)

    async def end_links(self) -> None:
        """Close what is open."""
        self.site.close()
        await wait_until(lambda: not self.site.links, "links to close")

    def connect(self, port: int) -> Deferred[ILink]:
        """Connect our broker to a listener."""
        return self.transport.connect(
            "127.0.0.1", port, self.site, NoneAuthenticator(), self.settings
        )

    async def publish(self, size: int, channel: str, port: int = 0) -> None:
        """Have ``ldms_msg_publish`` publish that many bytes of JSON, and wait for its end."""
        path = self.directory / f"message-{size}"
        path.write_text(payload(size))
        program = self.start_c(
            *("ldms_msg_publish", "-x", "sock", "-h", "127.0.0.1", "-p", str(port or self.port)),
            *("-a", "none", "-m", channel, "-t", "json", "-f", path.name),
        )
        self.assertEqual(await program.end(), 0, program.output + program.errors)

    async def c_listener(self) -> tuple[Any, int]:
        """``ldms_msg_subscribe``, which listens: the file that it writes, and its port."""
        port = free_port()
        path = self.directory / "received"
        self.start_c(
            *("ldms_msg_subscribe", "-x", "sock", "-h", "localhost", "-p", str(port)),
            *("-a", "none", "-f", path.name),
        )
        await wait_until(lambda: listens(port), "ldms_msg_subscribe to listen")
        return path, port

    async def received(self, path: Any, expected: str) -> None:
        """Wait until the file has grown to what is expected."""
        await wait_until(
            lambda: path.exists() and path.stat().st_size >= len(expected),
            f"{len(expected)} bytes in {path}",
        )
        self.assertEqual(path.read_text(), expected)


class BrokerTests(BrokerTestCase):
    """Through our broker."""

    @asynchronous
    async def test_c_publisher_to_receiver(self) -> None:
        """What the C tool publishes arrives here whole; the tool ends, its credit returned."""
        got: list[Message] = []
        self.hub.subscribe("chan", got.append, owner="test")
        for size in SIZES:
            await self.publish(size, "chan")
        await wait_until(lambda: len(got) == len(SIZES), "messages")
        self.assertEqual([each.body.decode() for each in got], [payload(size) for size in SIZES])

    @asynchronous
    async def test_c_publisher_to_c_subscriber(self) -> None:
        """C publisher, our broker, C subscriber tool: exact and by expression, every size."""
        for match, is_regex in (("chan", False), ("^ch.n$", True)):
            path, port = await self.c_listener()
            link = await self.connect(port)
            self.assertEqual(self.hub.subscribe_link(link, match, is_regex), (0, "OK"))
            for size in SIZES:
                await self.publish(size, "other")
                await self.publish(size, "chan")
            await self.received(path, "".join(payload(size) for size in SIZES))
            link.close()

    async def c_library_subscriber(self, match: str, is_regex: bool) -> Program:
        """A subscriber that asks for messages through the C library."""
        program = self.start_c_library(
            "c_subscriber.py", "127.0.0.1", str(self.port), match, str(int(is_regex))
        )
        await wait_until(
            lambda: b"subscribed\n" in program.output or program.status is not None,
            "the C library to subscribe",
        )
        if b"No module named" in program.errors:
            raise SkipTest("this Python finds no bindings of the C library")
        self.assertIsNone(program.status, program.errors)
        return program

    @asynchronous
    async def test_c_publisher_to_subscriptions_of_the_c_library(self) -> None:
        """Subscriptions that the C library asks for are taken and served, exact and regex."""
        exact = await self.c_library_subscriber("chan", False)
        searching = await self.c_library_subscriber("ch.n$", True)
        for size in SIZES:
            await self.publish(size, "chan")
            await self.publish(size, "a-chan")
        for program, channels in ((exact, ["chan"]), (searching, ["chan", "a-chan"])):
            expected = [(channel, payload(size)) for size in SIZES for channel in channels]
            await wait_until(
                lambda program=program, expected=expected: (
                    program.output.count(b"\n") > len(expected) or program.status is not None
                ),
                "what was published",
            )
            records = [json.loads(line) for line in program.output.splitlines()[1:]]
            self.assertEqual([(each["channel"], each["data"]) for each in records], expected)

    @asynchronous
    async def test_c_daemon_pulls_from_us(self) -> None:
        """A C daemon that subscribes at us passes on what a C tool published at us."""
        _, port = await self.start_daemon(
            "msg_enable\n"
            f"prdcr_add name=us type=active interval=1s xprt=sock host=127.0.0.1 port={self.port}\n"
            "prdcr_subscribe regex=us message_tag=chan\n"
            "prdcr_start name=us\n"
        )
        tool = await self.subscriber("-p", str(port), "-m", "chan", "-c", str(len(SIZES)))
        await wait_until(lambda: self.hub._outlets, "the daemon to subscribe")
        for size in SIZES:
            await self.publish(size, "chan")
        self.assertEqual(await tool.end(), 0, tool.errors)
        self.assertEqual(tool.output.decode().split("\n"), [*map(payload, SIZES), ""])

    async def subscriber(self, *arguments: str) -> Program:
        """``ldmsjob subscribe``, once it is subscribed."""
        tool = self.start_tool("subscribe", "-v", *arguments)
        await wait_until(
            lambda: b"subscribed at" in tool.errors or tool.status is not None, "the subscription"
        )
        return tool


class ToolTests(BrokerTestCase):
    """Our tools against C programs."""

    @asynchronous
    async def test_publish_to_c_subscriber(self) -> None:
        """``ldmsjob publish`` publishes to the C tool that listens."""
        path, port = await self.c_listener()
        for size in SIZES:
            tool = self.start_tool(
                *("publish", "-p", str(port), "-m", "chan", "-t", "json"),
                text=payload(size).encode(),
            )
            self.assertEqual(await tool.end(), 0, tool.errors)
        await self.received(path, "".join(payload(size) for size in SIZES))

    @asynchronous
    async def test_tools_through_c_daemon(self) -> None:
        """Our tools and the C publisher through a C daemon: exact and by expression."""
        _, port = await self.start_daemon("msg_enable\n")
        common = ("subscribe", "-v", "-p", str(port), "-c", str(2 * len(SIZES)))
        exact = self.start_tool(*common, "-m", "chan", "--json")
        searching = self.start_tool(*common, "-E", "-m", "^ch.n$")
        for tool in (exact, searching):
            await wait_until(lambda tool=tool: b"subscribed" in tool.errors, "subscription")
        for size in SIZES:
            await self.publish(size, "chan", port)
            tool = self.start_tool(
                *("publish", "-p", str(port), "-m", "chan", "-t", "json", "-l"),
                text=payload(size).encode() + b"\n",
            )
            self.assertEqual(await tool.end(), 0, tool.errors)
        expected = [payload(size) for size in SIZES for _ in range(2)]
        self.assertEqual(await searching.end(), 0, searching.errors)
        self.assertEqual(searching.output.decode().split(), expected)
        self.assertEqual(await exact.end(), 0, exact.errors)
        records = [json.loads(line) for line in exact.output.splitlines()]
        self.assertEqual([json.dumps(each["data"]) for each in records], expected)
        self.assertEqual({(each["channel"], each["type"]) for each in records}, {("chan", "json")})

    @asynchronous
    async def test_service_off(self) -> None:
        """A C daemon without ``msg_enable``: both tools say so in one line and end with 95."""
        _, port = await self.start_daemon("")
        for command in (("publish", "-m", "c", "hello"), ("subscribe", "-m", "c")):
            tool = self.start_tool(*command, "-p", str(port))
            self.assertEqual(await tool.end(), 95)
            self.assertEqual(tool.errors.count(b"\n"), 1)
            self.assertIn(b"msg_enable", tool.errors)

    @asynchronous
    async def test_other_authentication(self) -> None:
        """A C daemon that wants another authentication: one line, and the status says so."""
        other = free_port()
        await self.start_daemon(
            "auth_add name=n plugin=naive uid=1 gid=1\n"
            f"listen xprt=sock host=127.0.0.1 port={other} auth=n\n"
        )
        await wait_until(lambda: listens(other), "the other listener")
        tool = self.start_tool("publish", "-m", "c", "hello", "-p", str(other))
        self.assertEqual(await tool.end(), 13)
        self.assertEqual(tool.errors.count(b"\n"), 1)

    @asynchronous
    async def test_nobody_listens(self) -> None:
        """A port on which nobody listens: one line, and errno 111."""
        tool = self.start_tool("publish", "-m", "c", "hello", "-p", str(free_port()))
        self.assertEqual(await tool.end(), 111)
        self.assertEqual(tool.errors.count(b"\n"), 1)
