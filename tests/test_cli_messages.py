"""``ldmsjob publish`` and ``ldmsjob subscribe``, against a hub over memory."""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ldmsjob.cli import publish as publish_tool
from ldmsjob.cli import subscribe as subscribe_tool
from ldmsjob.cli.client import ToolError, explain, find_plugins
from ldmsjob.errors import AuthFailed, ConfigError, HandshakeTimeout, PeerError, PublishError
from ldmsjob.interfaces import ILink, ILinkSite, LinkSettings
from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.stats import Stats
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.transports.sock import SockTransport
from ldmsjob.turns import Turn
from ldmsjob.wire.events import MAX_MESSAGE_BYTES, Message, SourceAddress
from tests.fake_links import message
from tests.interop.peers import SOURCE, Program, wait_until


def parse(*argv: str) -> argparse.Namespace:
    """The arguments of a sub-command."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    publish_tool.add_parser(subparsers)
    subscribe_tool.add_parser(subparsers)
    return parser.parse_args(argv)


class ToolTestCase(SynchronousTestCase):
    """A daemon that the tools connect to."""

    def setUp(self) -> None:
        """Make the daemon."""
        self.clock = Clock()
        self.turn = Turn()
        self.hub = MessageHub(Stats(), self.turn)
        self.hub.enable()
        self.stats = Stats()
        self.site = LinkSite(self.hub, self.stats, self.turn, self.clock)
        self.pairs: list[MemoryPair] = []
        self.quota = -1
        self.got: list[Message] = []

    def connect(self, site: ILinkSite, settings: LinkSettings) -> Deferred[ILink]:
        """Connect a tool to the daemon."""
        pair = MemoryPair(
            self.site,
            site,
            self.clock,
            left_settings=LinkSettings(messages_enabled=lambda: self.hub.enabled, quota=self.quota),
            right_settings=settings,
        )
        self.pairs.append(pair)
        pair.settle()
        return succeed(pair.right)

    def settle(self) -> None:
        """Move bytes between the daemon and all tools."""
        for _ in range(20):
            for pair in self.pairs:
                pair.settle()

    def receive(self, channel: str) -> None:
        """Have the daemon itself receive a channel."""
        self.hub.subscribe(channel, self.got.append, owner="test", publishers=[7])

    def publish(self, *argv: str) -> Deferred[int]:
        """Run ``publish``."""
        arguments = parse("publish", *argv)
        return Deferred.fromCoroutine(publish_tool.publish(arguments, self.clock, self.connect))

    def subscribe(self, *argv: str) -> tuple[Deferred[int], io.BytesIO]:
        """Run ``subscribe``, and what it prints."""
        stream = io.BytesIO()
        arguments = parse("subscribe", *argv)
        result = Deferred.fromCoroutine(
            subscribe_tool.subscribe(arguments, self.clock, self.connect, stream)
        )
        self.settle()
        return result, stream

    def tool_error(self, result: Deferred[int]) -> ToolError:
        """The error that the tool ended with."""
        error = self.failureResultOf(result, ToolError).value
        assert isinstance(error, ToolError)
        return error


class PublishTests(ToolTestCase):
    """``ldmsjob publish``."""

    def test_publishes_and_waits_for_the_acknowledgement(self) -> None:
        """The message arrives with the publisher's identity; the tool ends when it is credited."""
        self.receive("c")
        result = self.publish("-m", "c", "hello")
        self.assertNoResult(result)
        self.settle()
        self.assertEqual(self.successResultOf(result), 0)
        (got,) = self.got
        self.assertEqual((got.body, got.kind), (b"hello", 0))
        self.assertEqual((got.uid, got.gid, got.perm), (os.geteuid(), os.getegid(), 0o777))
        self.assertTrue(got.image.endswith(b"hello\0"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_options(self) -> None:
        """Type, identity and permission are those of the options; lines and repeats count."""
        self.receive("c")
        result = self.publish(
            *("-m", "c", "-t", "json", "-U", "7", "-G", "0x8", "-P", "440", "-l", "-r", "2"),
            *("-i", "1000", '{"a": 1}\n{"a": 2}'),
        )
        self.settle()
        self.clock.advance(0.001)
        self.settle()
        self.assertEqual(self.successResultOf(result), 0)
        self.assertEqual([got.body for got in self.got], [b'{"a": 1}', b'{"a": 2}'] * 2)
        self.assertEqual(
            {(got.kind, got.uid, got.gid, got.perm) for got in self.got}, {(1, 7, 8, 0o440)}
        )

    def test_json_is_checked_before_it_is_sent(self) -> None:
        """What is no JSON is named by its line and not sent."""
        self.receive("c")
        result = self.publish("-m", "c", "-t", "json", "-l", '{"a": 1}\n{"a"')
        self.settle()
        error = self.tool_error(result)
        self.assertEqual(error.rc, errno.EINVAL)
        self.assertIn("line 2 is not JSON", str(error))
        self.assertEqual(len(self.got), 1)

    def test_service_off(self) -> None:
        """A peer without message service is named, with what its configuration needs."""
        self.hub.disable()
        error = self.tool_error(self.publish("-m", "c", "hello"))
        self.assertEqual(error.rc, 95)
        self.assertIn("msg_enable", str(error))

    def test_service_goes_off(self) -> None:
        """A peer that refuses the message is told of like one whose service was off."""
        result = self.publish("-m", "c", "hello")
        self.hub.disable()
        self.settle()
        self.assertEqual(self.tool_error(result).rc, 95)

    def test_too_long(self) -> None:
        """A message that no frame can take is refused with errno 90 before it is sent."""
        result = self.publish("-m", "c", "x" * (MAX_MESSAGE_BYTES - 2))
        self.settle()
        error = self.failureResultOf(result, PublishError).value
        self.assertEqual(error.rc, errno.EMSGSIZE)
        self.assertIn(f"of 1048105 bytes is longer than {MAX_MESSAGE_BYTES},", str(error))

    def test_waits_for_quota(self) -> None:
        """With a small quota the messages go one after the other, none is lost."""
        self.quota = 10
        self.receive("c")
        result = self.publish("-m", "c", "-l", "12345\n67890\nabcde")
        self.settle()
        self.assertEqual(self.successResultOf(result), 0)
        self.assertEqual([got.body for got in self.got], [b"12345", b"67890", b"abcde"])

    def test_gives_up(self) -> None:
        """A peer that never acknowledges is waited for no longer than asked."""
        result = self.publish("-m", "c", "-g", "3", "hello")
        self.clock.advance(2)
        self.assertNoResult(result)
        self.clock.advance(1)
        error = self.tool_error(result)
        self.assertEqual(error.rc, errno.ETIMEDOUT)
        self.assertIn("gave up after 3 s", str(error))

    def test_connection_lost(self) -> None:
        """A link that goes before the acknowledgement came is an error."""
        result = self.publish("-m", "c", "hello")
        self.pairs[0].left.abort("gone")
        self.settle()
        self.assertEqual(self.tool_error(result).rc, errno.ECONNRESET)

    def test_retries_while_nobody_listens(self) -> None:
        """With --retry a refused connection is tried again after that time, else not."""
        attempts: list[float] = []
        connect = self.connect

        def refuse(site: ILinkSite, settings: LinkSettings) -> Deferred[ILink]:
            attempts.append(self.clock.seconds())
            return fail(ConnectionRefusedError()) if len(attempts) < 3 else connect(site, settings)

        self.connect = refuse  # type: ignore[method-assign]
        result = self.publish("-m", "c", "-W", "500", "hello")
        self.clock.pump([0.5, 0.5])
        self.settle()
        self.assertEqual(self.successResultOf(result), 0)
        self.assertEqual(attempts, [0, 0.5, 1])
        attempts.clear()
        self.failureResultOf(self.publish("-m", "c", "hello"), ConnectionRefusedError)

    def test_command_line_mistakes(self) -> None:
        """Impossible options end with status 2 before anything is done."""
        self.patch(publish_tool.sys, "stderr", io.StringIO())
        for argv in (
            ("-m", "c", "-f", "x", "hello"),
            ("-m", "c", "-r", "2"),
        ):
            arguments = parse("publish", *argv)
            error = self.assertRaises(ConfigError, arguments.run, arguments)
            self.assertEqual(error.rc, 2)
        for argv in (
            ("hello",),
            ("-m", "c", "-p", "0", "hello"),
            ("-m", "c", "-p", "65536", "hello"),
            ("-m", "c", "-P", "1000", "hello"),
            ("-m", "c", "-P", "9", "hello"),
            ("-m", "c", "-U", "-1", "hello"),
            ("-m", "c", "-r", "0", "hello"),
            ("-m", "c", "-g", "-1", "hello"),
            ("-m", "c", "-W", "0", "hello"),
            ("-m", "c", "-i", "1" + 400 * "0", "hello"),
            ("-m", "", "hello"),
            ("-m", "c", "-t", "xml", "hello"),
            ("-m", "c", "-A", "conf", "hello"),
        ):
            error = self.assertRaises(SystemExit, parse, "publish", *argv)
            self.assertEqual(error.code, 2, argv)

    def test_wrong_numbers(self) -> None:
        """A number that is none, or out of bounds, is told with its bounds."""
        stderr = io.StringIO()
        self.patch(argparse._sys, "stderr", stderr)  # type: ignore[attr-defined]
        for argv, text in (
            (("-p", "x"), "'x' is not a whole number from 1 to 65535"),
            (("-r", "x"), "'x' is not a whole number of at least 1"),
            (("-P", "888"), "'888' is not an octal number from 0 to 777"),
        ):
            self.assertRaises(SystemExit, parse, "publish", "-m", "c", *argv)
            self.assertIn(text, stderr.getvalue())


class SubscribeTests(ToolTestCase):
    """``ldmsjob subscribe``."""

    def test_command_line_mistakes(self) -> None:
        """Impossible options end with status 2 before anything is done."""
        self.patch(argparse._sys, "stderr", io.StringIO())  # type: ignore[attr-defined]
        for argv in (
            ("-c", "-1"),
            ("-c", "0"),
            ("-q", "0"),
            ("-q", "-7"),
            ("-m", ""),
        ):
            error = self.assertRaises(SystemExit, parse, "subscribe", *argv)
            self.assertEqual(error.code, 2, argv)
        self.assertEqual(parse("subscribe", "-q", "-1").quota, -1)

    def test_prints_a_channel(self) -> None:
        """Messages of the channel are printed in a line each, others not."""
        result, stream = self.subscribe("-m", "c")
        for channel, text in (("c", b"one"), ("d", b"two"), ("c", b"three\n")):
            self.hub.publish(channel, text, kind=0)
        self.settle()
        self.assertEqual(stream.getvalue(), b"one\nthree\n")
        self.assertNoResult(result)

    def test_everything(self) -> None:
        """Without a channel everything is printed."""
        _, stream = self.subscribe()
        self.hub.publish("c", b"one")
        self.hub.publish("d", b"two")
        self.settle()
        self.assertEqual(stream.getvalue(), b"one\ntwo\n")

    def test_several_and_expressions(self) -> None:
        """Channels may be several; with -E they are searched as expressions."""
        _, exact = self.subscribe("-m", "a.c", "-m", "d", "-m", "d")
        _, searching = self.subscribe("-m", "a.c", "-E")
        for channel in ("a.c", "abc", "xabcx", "d"):
            self.hub.publish(channel, channel.encode())
        self.settle()
        self.assertEqual(exact.getvalue(), b"a.c\nd\n")
        self.assertEqual(searching.getvalue(), b"a.c\nabc\nxabcx\n")

    def test_count(self) -> None:
        """After the count the tool ends, with no more than that printed."""
        result, stream = self.subscribe("-m", "c", "-c", "2")
        for number in range(5):
            self.hub.publish("c", b"%d" % number)
        self.settle()
        self.assertEqual(self.successResultOf(result), 0)
        self.assertEqual(stream.getvalue(), b"0\n1\n")
        self.assertEqual(self.site.links, ())

    def test_credit_goes_back(self) -> None:
        """With a quota of its own the tool still gets everything: it returns the credit."""
        _, stream = self.subscribe("-m", "c", "-q", "10")
        for number in range(5):
            self.hub.publish("c", b"abcd%d" % number)
        self.settle()
        self.assertEqual(len(stream.getvalue().split()), 5)
        self.clock.advance(1)

    def test_service_off(self) -> None:
        """A peer without message service is named at once."""
        self.hub.disable()
        result, _ = self.subscribe("-m", "c")
        self.assertEqual(self.tool_error(result).rc, 95)

    def test_refused_subscription(self) -> None:
        """The peer's reason for refusing a subscription is told."""
        result, _ = self.subscribe("-m", "(", "-E")
        error = self.tool_error(result)
        self.assertEqual(error.rc, errno.EINVAL)
        self.assertIn("Client allocation failure", str(error))

    def test_connection_lost(self) -> None:
        """A link that is lost ends the tool with an error."""
        result, _ = self.subscribe("-m", "c")
        self.pairs[0].left.abort("gone")
        self.settle()
        self.assertEqual(self.tool_error(result).rc, errno.ECONNRESET)

    def test_output_that_nobody_reads(self) -> None:
        """A closed pipe ends the tool with the error that the command line knows."""
        result, stream = self.subscribe("-m", "c")
        self.patch(stream, "write", lambda data: (_ for _ in ()).throw(BrokenPipeError()))
        self.hub.publish("c", b"x")
        self.settle()
        self.failureResultOf(result, BrokenPipeError)

    def test_output_file_that_cannot_be_opened(self) -> None:
        """An output file that cannot be written is named."""
        arguments = parse("subscribe", "-f", "/no/such/directory/file")
        error = self.assertRaises(ConfigError, arguments.run, arguments)
        self.assertEqual(error.rc, errno.ENOENT)
        self.assertIn("/no/such/directory/file: No such file", str(error))


class JsonLineTests(SynchronousTestCase):
    """Messages as JSON objects."""

    def test_json_message(self) -> None:
        """All fields, and the data as a value."""
        line = subscribe_tool.json_line(message("slurm", b'{"a": [1]}\0', uid=3, gid=4))
        self.assertEqual(
            json.loads(line),
            {
                "channel": "slurm",
                "type": "json",
                "uid": 3,
                "gid": 4,
                "perm": "0440",
                "hops": 1,
                "source": None,
                "data": {"a": [1]},
            },
        )
        self.assertEqual(line.count(b"\n"), 1)

    def test_anything_becomes_a_line(self) -> None:
        """Bad JSON and bad UTF-8 are shown as text, sources as addresses."""
        four = SourceAddress(2, 411, bytes([10, 0, 0, 7]) + bytes(12))
        six = SourceAddress(10, 411, bytes(15) + b"\1")
        for source, expected in ((four, "10.0.0.7:411"), (six, "[::1]:411")):
            fields = {name: getattr(message(), name) for name in Message.__struct_fields__}
            fields |= {"source": source, "image": b"{\xff\n", "body_offset": 0}
            fields["channel"] = "a\udcff"
            record = json.loads(subscribe_tool.json_line(Message(**fields)))
            self.assertEqual(record["source"], expected)
            self.assertEqual(record["data"], "{�\n")
            self.assertEqual(record["channel"], "a�")


class ClientTests(SynchronousTestCase):
    """What both tools share."""

    def test_errors_in_one_line(self) -> None:
        """Each expected failure is one line and the errno; anything else is a defect of ours."""
        for error, rc in (
            (ToolError("x", 5), 5),
            (PublishError("x", rc=90), 90),
            (AuthFailed("x"), errno.EACCES),
            (PeerError("the peer rejected the connection: Auth mismatch"), errno.EACCES),
            (PeerError("x"), errno.EPROTO),
            (HandshakeTimeout("not done after 10 s"), errno.ETIMEDOUT),
            (ConnectError(errno.EACCES), errno.EACCES),
            (DNSLookupError("x"), errno.EAFNOSUPPORT),
            (ConnectionRefusedError(), errno.ECONNREFUSED),
        ):
            text, status = explain(Failure(error), "host:411")
            self.assertEqual(status, rc, error)
            self.assertNotIn("\n", text)
        text, _ = explain(Failure(ConnectError(errno.EACCES)), "/run/x")
        self.assertEqual(text, "/run/x: cannot connect: Permission denied")
        text, _ = explain(Failure(PeerError("frame of unknown kind 7")), "host:411")
        self.assertEqual(text, "host:411 does not speak LDMS as it should: frame of unknown kind 7")
        self.assertRaises(ZeroDivisionError, explain, Failure(ZeroDivisionError()), "host:411")

    def test_plugins_by_name(self) -> None:
        """Transport and authentication are found by name; unknown ones are named."""
        transport, authenticator = find_plugins(Clock(), parse("subscribe"))
        self.assertIsInstance(transport, SockTransport)
        self.assertEqual(authenticator.name, "none")
        for argv in (("-x", "socks"), ("-a", "nune"), ("-A", "conf=x")):
            error = self.assertRaises(ConfigError, find_plugins, Clock(), parse("subscribe", *argv))
            self.assertIn(argv[1].partition("=")[0], str(error))
        self.assertIn("authentication plugin 'none' has no", str(error))


class InputReaderTests(TestCase):
    """Files and standard input."""

    timeout = 120

    @inlineCallbacks
    def read(self, data: bytes, **arguments: Any) -> Iterator[Deferred[Any]]:
        """All pieces of a file with that content."""
        path = self.mktemp()
        with open(path, "wb") as stream:
            stream.write(data)
        reader = publish_tool.InputReader(reactor, path, **arguments)
        pieces = []
        while (read := (yield reader.next())) is not None:
            pieces += read
        return pieces

    @inlineCallbacks
    def test_whole(self) -> Iterator[Deferred[Any]]:
        """Without lines the whole content is one piece, also when there is none."""
        self.assertEqual((yield self.read(b"a\nb\n", lines=False)), [b"a\nb\n"])
        self.assertEqual((yield self.read(b"", lines=False)), [b""])

    @inlineCallbacks
    def test_lines(self) -> Iterator[Deferred[Any]]:
        """Lines come without their end, the last one also when it has none."""
        self.assertEqual((yield self.read(b"a\n\nb", lines=True)), [b"a", b"", b"b"])
        self.assertEqual((yield self.read(b"a\n", lines=True)), [b"a"])
        self.assertEqual((yield self.read(b"", lines=True)), [])
        lines = [b"%d" % number * (number % 40_000) for number in range(0, 100_000, 7_777)]
        self.assertEqual((yield self.read(b"\n".join(lines), lines=True)), lines)

    @inlineCallbacks
    def test_missing_file(self) -> Iterator[Deferred[Any]]:
        """A file that is not there is named, with its errno as the status."""
        reader = publish_tool.InputReader(reactor, "/no/such/file", lines=True)
        with self.assertRaises(ToolError) as caught:
            yield reader.next()
        self.assertEqual(caught.exception.rc, errno.ENOENT)
        self.assertIn("/no/such/file: No such file", str(caught.exception))


class ProcessTests(TestCase):
    """The tools as processes of their own, against a broker over TCP."""

    timeout = 120

    def setUp(self) -> None:
        """Listen."""
        turn = Turn()
        hub = MessageHub(Stats(), turn)
        hub.enable()
        self.site = LinkSite(hub, Stats(), turn, reactor)
        transport = SockTransport(SimpleNamespace(clock=reactor))
        listener = transport.listen(
            "127.0.0.1",
            0,
            self.site,
            NoneAuthenticator(),
            LinkSettings(messages_enabled=lambda: True),
        )
        listener.service.startService()
        self.addCleanup(listener.service.stopService)
        self.port = str(listener.port)

    async def interrupted(self, *argv: str) -> int:
        """The status of a tool that gets a signal while it is connected."""
        tool = Program("ldmsjob")
        reactor.spawnProcess(  # type: ignore[attr-defined]
            tool,
            sys.executable,
            (sys.executable, "-m", "ldmsjob.cli.main", *argv, "-p", self.port),
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(tool.stop()))
        await wait_until(lambda: self.site.links or tool.status is not None, "the tool")
        tool.transport.signalProcess("TERM")
        status = await tool.end()
        self.assertEqual(tool.errors, b"")
        await wait_until(lambda: not self.site.links, "the link's end")
        return status

    @inlineCallbacks
    def test_interrupted(self) -> Iterator[Deferred[Any]]:
        """A signal ends both quietly: subscribe has done its work, publish has not."""
        subscribed = yield Deferred.fromCoroutine(self.interrupted("subscribe", "-m", "c"))
        published = yield Deferred.fromCoroutine(self.interrupted("publish", "-m", "c", "-l"))
        self.assertEqual((subscribed, published), (0, 130))
