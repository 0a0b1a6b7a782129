"""Rails, rates and quotas between ldmsjob and unmodified C programs."""

from __future__ import annotations

import json
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest

from ldmsjob.interfaces import LinkSettings
from ldmsjob.links import LinkSite
from ldmsjob.peer import Peer
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.wire.events import (
    ChangeQuota,
    ChangeRate,
    Message,
    Publish,
    ReturnCredit,
    Subscribe,
    SubscribeAnswered,
)
from ldmsjob.wire.rail import endpoint_of
from tests.fake_sites import FakeSite
from tests.interop.peers import Program, listens, reactor, wait_until
from tests.interop.test_messages import BrokerTestCase, asynchronous
from tests.ports import free_port

CHANNELS = ("slurm", "plain", "tagA", "x", "y", "z")


class RailTestCase(BrokerTestCase):
    """A broker of ours, with a look at what comes over which endpoint."""

    def setUp(self) -> None:
        """Look over the site's shoulder."""
        super().setUp()
        self.came: list[tuple[int, Message]] = []
        take = LinkSite.link_events

        def look(site: Any, link: Any, events: Any) -> None:
            self.note(link, events)
            take(site, link, events)

        self.patch(LinkSite, "link_events", look)

    def note(self, link: Any, events: Any) -> None:
        """Keep the messages, with the endpoint that each came over."""
        self.came += [(link.endpoint, event) for event in events if isinstance(event, Message)]

    def check_order(self, came: list[tuple[int, Message]], endpoints: int, count: int) -> None:
        """Each channel came over its endpoint, in order, and whole."""
        for channel in CHANNELS:
            where = endpoint_of(Publish(channel, b""), endpoints)
            expected = [(where, b"%d" % number) for number in range(count)]
            self.assertEqual(
                [(one, each.body) for one, each in came if each.channel == channel], expected
            )

    async def rail_of_the_c_library(
        self, endpoints: int = 2, quota: int = -1, rate: int = -1, port: int = 0
    ) -> Program:
        """A rail that the C library connects to us."""
        program = self.start_c_library(
            "c_rail.py", "127.0.0.1", *map(str, (port or self.port, endpoints, quota, rate))
        )
        await wait_until(
            lambda: b"connected\n" in program.output or program.status is not None, "the C library"
        )
        if b"No module named" in program.errors:
            raise SkipTest("this Python finds no bindings of the C library")
        self.assertIsNone(program.status, program.errors)
        return program

    async def tell(self, program: Program, *commands: str) -> None:
        """Have it obey."""
        for command in commands:
            word = command.split()[0].encode() + b" done"
            done = program.output.count(word)
            program.transport.write(f"{command}\n".encode())  # type: ignore[union-attr]
            await wait_until(
                lambda word=word, done=done: (
                    program.output.count(word) > done or program.status is not None
                ),
                command,
            )
            self.assertIsNone(program.status, program.errors)

    @staticmethod
    def printed(program: Program) -> list[Any]:
        """The JSON lines that it has printed."""
        return [json.loads(line) for line in program.output.splitlines() if line[:1] == b"["]

    async def until_printed(self, program: Program, count: int) -> list[Any]:
        """Wait for that many."""
        await wait_until(lambda: len(self.printed(program)) >= count, f"{count} messages")
        return self.printed(program)


class ServerTests(RailTestCase):
    """C peers that connect to us."""

    @asynchronous
    async def test_rail_of_the_c_library(self) -> None:
        """It connects, and its messages come over the endpoints that we would send them on; what
        it subscribed to comes back in order; when it dies, all its links go."""
        program = await self.rail_of_the_c_library(3)
        await wait_until(lambda: len(self.site.links) == 3, "three links")
        await self.tell(program, *(f"publish {name} {n}" for n in range(5) for name in CHANNELS))
        await wait_until(lambda: len(self.came) == 30, "messages")
        self.check_order(self.came, 3, 5)
        await self.tell(program, "subscribe . -1")
        for number in range(20):
            for channel in CHANNELS:
                self.hub.publish(channel, b"%d" % number)
        printed = await self.until_printed(program, 120)
        for channel in CHANNELS:
            texts = [text for name, text in printed if name == channel]
            self.assertEqual(texts, [str(number) for number in range(20)])
        await program.stop()
        await wait_until(lambda: not self.site.links, "links to close")

    @asynchronous
    async def test_its_quota(self) -> None:
        """Small quotas on both sides hold nothing up for good."""
        self.settings = LinkSettings(messages_enabled=lambda: True, quota=200)
        listener = self.transport.listen(
            "127.0.0.1", 0, self.site, NoneAuthenticator(), self.settings
        )
        listener.service.startService()
        self.addCleanup(listener.service.stopService)
        program = await self.rail_of_the_c_library(2, quota=50, port=listener.port)
        await self.tell(program, "subscribe . -1")
        for number in range(50):
            self.hub.publish("x", b"%d" % number)
            self.hub.publish("slurm", b"%d" % number)
        printed = await self.until_printed(program, 100)
        for channel in ("x", "slurm"):
            texts = [text for name, text in printed if name == channel]
            self.assertEqual(texts, [str(number) for number in range(50)])
        for number in range(50):
            await self.tell(program, f"publish x {number}")
        await wait_until(lambda: len(self.came) == 50, "messages")
        await self.tell(program, "credit")
        await wait_until(lambda: ["credit", 200, 200] in self.printed(program), "credit")

    @asynchronous
    async def test_its_rate(self) -> None:
        """What does not fit into a second comes with the next ones, and nothing is lost."""
        program = await self.rail_of_the_c_library(1, rate=100)
        await self.tell(program, "subscribe . -1")
        began = time.time()
        for number in range(10):
            self.hub.publish("x", b'"%035d"' % number)  # 40 bytes: two fit into a second
        printed = await self.until_printed(program, 10)
        took = time.time() - began
        self.assertEqual([int(json.loads(text)) for _, text in printed], list(range(10)))
        self.assertTrue(3 < took < 6.5, took)

    @asynchronous
    async def test_rate_of_its_subscription(self) -> None:
        """What does not fit into a second is dropped; rate 0 blocks everything."""
        program = await self.rail_of_the_c_library(2)
        await self.tell(program, "subscribe ^x$ 100", "subscribe ^y$ 0")
        await deferLater(reactor, 1 - time.time() % 1 + 0.01)
        for number in range(10):
            self.hub.publish("x", b'"%037d"' % number)  # 40 bytes of data
            self.hub.publish("y", b"1")
        await deferLater(reactor, 1)
        self.hub.publish("x", b'"99"')
        printed = await self.until_printed(program, 3)
        numbers = [(name, int(json.loads(text))) for name, text in printed]
        self.assertEqual(numbers, [("x", 0), ("x", 1), ("x", 99)])
        self.assertEqual(self.stats.get("dropped_rate"), 18)

    @asynchronous
    async def test_it_changes_its_limits(self) -> None:
        """On one endpoint, and we follow on all."""
        program = await self.rail_of_the_c_library(2, quota=1000, rate=1000)
        await wait_until(lambda: len(self.site.links) == 2, "two links")
        await self.tell(program, "quota 300", "rate 400")
        await wait_until(
            lambda: (
                [(one.peer.quota, one.peer.rate) for one in self.site.links] == [(300, 400)] * 2
            ),
            "new limits",
        )

    @asynchronous
    async def test_c_daemon_with_rail(self) -> None:
        """A C daemon that subscribes at us over a rail with quota and rate passes on what we
        publish, in order."""
        _, port = await self.start_daemon(
            "msg_enable\n"
            f"prdcr_add name=us type=active interval=1s xprt=sock host=127.0.0.1 port={self.port}"
            " rail=2 quota=5000 rx_rate=20000\n"
            "prdcr_subscribe regex=us message_tag=.* rx_rate=-1\n"
            "prdcr_start name=us\n"
        )
        await wait_until(lambda: self.hub._subscribers, "the daemon to subscribe")
        self.assertEqual(
            {(one.peer.quota, one.peer.rate, one.rail.size) for one in self.site.links},  # type: ignore[union-attr]
            {(5000, 20000, 2)},
        )
        tool = self.start_tool(
            *("subscribe", "-v", "-p", str(port), "-E", "-m", ".", "-c", "600", "--json")
        )
        await wait_until(lambda: b"subscribed at" in tool.errors, "the subscription")
        for number in range(100):
            for channel in CHANNELS:
                self.hub.publish(channel, b"%d" % number)
        self.assertEqual(await tool.end(), 0, tool.errors)
        records = [json.loads(line) for line in tool.output.splitlines()]
        for channel in CHANNELS:
            data = [each["data"] for each in records if each["channel"] == channel]
            self.assertEqual(data, list(range(100)))


class Client(FakeSite):
    """Takes what comes over a rail of ours; returns credit unless told not to."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[tuple[int, Message]] = []
        self.returns_credit = True

    def link_events(self, link: Any, events: Any) -> None:
        """Keep the messages, with the endpoint that each came over."""
        super().link_events(link, events)
        messages = [event for event in events if isinstance(event, Message)]
        self.came += [(link.endpoint, message) for message in messages]
        if messages and self.returns_credit:
            link.send(ReturnCredit([message.credit for message in messages]))


class ClientTests(RailTestCase):
    """Rails that we connect to a C daemon."""

    async def connect_rail(self, port: int, rail: int, **limits: int) -> tuple[Any, Client]:
        """Connect one, subscribed to everything."""
        client = Client()
        settings = LinkSettings(messages_enabled=lambda: True, **limits)
        link = await self.transport.connect(
            "127.0.0.1", port, client, NoneAuthenticator(), settings, rail=rail
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end(client)))
        link.rail.link_for(Subscribe(".", True)).send(Subscribe(".", True))
        await wait_until(
            lambda: any(isinstance(one, SubscribeAnswered) for one in client.events), "an answer"
        )
        return link, client

    async def end(self, client: Client) -> None:
        """Close its links."""
        for link in client.links:
            link.close()
        await wait_until(lambda: len(client.closed) == len(client.links), "links to close")

    @asynchronous
    async def test_c_daemon_as_server(self) -> None:
        """It takes our rail, and sends each channel on the endpoint that we expect; when it dies,
        all links go."""
        program, port = await self.start_daemon("msg_enable\n")
        _, client = await self.connect_rail(port, 3)
        publisher, _ = await self.connect_rail(port, 2)
        for number in range(20):
            for channel in CHANNELS:
                command = Publish(channel, b"%d\0" % number)
                publisher.rail.link_for(command).send(command)
        await wait_until(lambda: len(client.came) == 120, "messages")
        self.check_order(client.came, 3, 20)
        await program.stop()
        await wait_until(lambda: len(client.closed) == 3, "links to close")

    @asynchronous
    async def test_tool_keeps_to_a_rate(self) -> None:
        """``ldmsjob publish`` waits for the seconds of a daemon that limits its rate."""
        limited = free_port()
        await self.start_daemon(
            f"msg_enable\nlisten xprt=sock host=127.0.0.1 port={limited} rx_rate=100\n"
        )
        await wait_until(lambda: listens(limited), "the other listener")
        tool = self.start_tool(
            *("publish", "-v", "-p", str(limited), "-m", "x", "-l"),
            text=b"%037d\n" % 1 * 5,  # 40 bytes each: two fit into a second
        )
        began = time.time()
        self.assertEqual(await tool.end(), 0, tool.errors)
        self.assertIn(b"5 messages published", tool.errors)
        self.assertGreater(time.time() - began, 1)

    @asynchronous
    async def test_sets_over_a_rail(self) -> None:
        """Sets are looked up on the endpoints in turn, and read where they were looked up."""
        lines = []
        for number in range(4):
            name = f"m{number}"
            lines += [
                f"load name={name} plugin=meminfo",
                f"config name={name} producer=node-1 instance=node-1/{name}",
                f"start name={name} interval=200ms",
            ]
        _, port = await self.start_daemon("\n".join([*lines, ""]))
        peer = await Peer.connect(reactor, "127.0.0.1", port, rail=2)
        self.addCleanup(peer.close)
        await deferLater(reactor, 0.6)
        self.assertEqual(len(await peer.dir()), 4)
        for number in range(4):
            (found,) = await peer.lookup(f"node-1/m{number}")
            self.assertEqual(found.link.endpoint, number % 2)  # type: ignore[union-attr]
            for _ in range(2):
                reading = await found.update()
                self.assertGreater(reading.values()["MemTotal"], 0)

    @asynchronous
    async def test_we_change_our_limits(self) -> None:
        """The C daemon sends more when we raise our quota, and keeps to a new rate."""
        _, port = await self.start_daemon("msg_enable\n")
        link, client = await self.connect_rail(port, 2, quota=100, rx_rate=100_000)
        client.returns_credit = False
        publisher, _ = await self.connect_rail(port, 2)

        def publish() -> None:
            command = Publish("x", b"%037d\0" % len(client.came))  # 40 bytes
            publisher.rail.link_for(command).send(command)

        for _ in range(3):
            publish()
        await wait_until(lambda: len(client.came) == 2, "two messages")
        link.send(ChangeQuota(200))
        await deferLater(reactor, 0.2)
        publish()
        await wait_until(lambda: len(client.came) == 4, "four messages")
        client.returns_credit = True
        for one in link.rail.links.values():
            one.send(ReturnCredit([160] if one.endpoint == client.came[0][0] else []))
        link.send(ChangeRate(100))
        await deferLater(reactor, 1 - time.time() % 1 + 0.01)
        before = len(client.came)
        for _ in range(5):
            publish()
        await deferLater(reactor, 0.5)
        self.assertEqual(len(client.came) - before, 2)
