"""``ldmsjob publish``: publish messages to any LDMS daemon, like ``ldms_msg_publish``."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ldmsjob.cli.options import (
    add_connection_options,
    channel,
    exit_status,
    whole_number,
)

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ldmsjob.cli.client import Connect

EXIT_STATUS = exit_status(
    {
        0: "the peer has acknowledged all messages",
        errno.EINVAL: "what is to be published is no such message",
        errno.EMSGSIZE: "a message is too long",
        errno.EOPNOTSUPP: "the message service of the peer is off",
        130: "interrupted",
    }
)

GIVE_UP_SECONDS = 10
READ_BYTES = 65536


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "publish",
        help="publish messages to an LDMS daemon",
        description="Publish a message: MESSAGE, or a file, or standard input. Ends when the peer"
        " has acknowledged all of them.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add_connection_options(parser)
    identity = whole_number(0, (1 << 32) - 1, base=0)
    parser.add_argument("message", nargs="?", metavar="MESSAGE", help="the message")
    parser.add_argument(
        *("-m", "--msg_tag"), required=True, type=channel, metavar="TAG", help="the channel"
    )
    parser.add_argument(
        "-t", "--type", choices=("string", "json"), default="string", help="type (%(default)s)"
    )
    parser.add_argument("-f", "--file", metavar="FILE", help="publish what is in the file")
    parser.add_argument(
        "-l", "--line", action="store_true", help="publish each line as a message of its own"
    )
    parser.add_argument("-U", "--uid", type=identity, help="publisher's user id (our own)")
    parser.add_argument("-G", "--gid", type=identity, help="publisher's group id (our own)")
    parser.add_argument(
        *("-P", "--perm"),
        type=whole_number(0, 0o777, base=8),
        default=0o777,
        help="octal: who may read it (777)",
    )
    parser.add_argument(
        *("-r", "--repeat"),
        type=whole_number(1),
        default=1,
        metavar="N",
        help="publish all of it N times",
    )
    parser.add_argument(
        *("-i", "--interval"),
        type=whole_number(1),
        default=0,
        metavar="USEC",
        help="microseconds to wait between repetitions",
    )
    parser.add_argument(
        *("-W", "--retry"),
        type=whole_number(1),
        default=0,
        metavar="MSEC",
        help="while nobody listens try again after so many milliseconds",
    )
    parser.add_argument(
        *("-g", "--giveup"),
        type=whole_number(0),
        default=GIVE_UP_SECONDS,
        metavar="SECONDS",
        help="how long to wait for acknowledgement; 0: for ever (%(default)s)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is done")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Publish; returns the exit status. Raises ``ConfigError``."""
    from ldmsjob.cli.client import run_tool
    from ldmsjob.cli.commandline import USAGE
    from ldmsjob.errors import ConfigError

    if arguments.message is not None and arguments.file is not None:
        raise ConfigError("give either MESSAGE or --file, not both", rc=USAGE)
    if arguments.repeat > 1 and arguments.message is None and arguments.file is None:
        raise ConfigError("--repeat needs MESSAGE or --file", rc=USAGE)
    return run_tool(
        arguments,
        lambda reactor, connect: publish(arguments, reactor, connect),
        interrupted=130,
    )


async def publish(arguments: argparse.Namespace, clock: Any, connect: Connect) -> int:
    """Publish all that the arguments say and wait until all of it is acknowledged.

    Raises ``ToolError``, ``PublishError`` and what ``connect`` fails with.
    """
    from twisted.internet.task import deferLater

    from ldmsjob.cli.client import ToolSite, connect_stubbornly, require_messages, service_off
    from ldmsjob.interfaces import LinkSettings
    from ldmsjob.wire.events import JSON, STRING, CreditReturned, Publish, WireEvent

    owed = 0  # bytes of what is not acknowledged

    def on_event(event: WireEvent) -> None:
        nonlocal owed
        if isinstance(event, CreditReturned):
            if event.rc == errno.EOPNOTSUPP:
                raise service_off(link)
            owed -= event.credit

    site = ToolSite(clock, on_event)
    settings = LinkSettings(messages_enabled=lambda: True)
    link = await connect_stubbornly(clock, connect, site, settings, arguments.retry / 1000)
    require_messages(link)
    uid = os.geteuid() if arguments.uid is None else arguments.uid
    gid = os.getegid() if arguments.gid is None else arguments.gid
    count = 0
    for repetition in range(arguments.repeat):
        if repetition and arguments.interval:
            await deferLater(clock, arguments.interval / 1e6)
        async for data in messages(arguments, clock):
            command = Publish(
                channel=arguments.msg_tag,
                data=data + b"\0",
                kind=JSON if arguments.type == "json" else STRING,
                uid=uid,
                gid=gid,
                perm=arguments.perm,
            )
            size = len(arguments.msg_tag.encode("utf-8", "surrogateescape")) + 1 + len(data) + 1
            if not link.can_publish(size):
                await site.until(
                    lambda size=size: link.can_publish(size),  # type: ignore[misc]
                    seconds=arguments.giveup,
                    what="room in the peer's quota or rate",
                )
            link.send(command)
            owed += size
            count += 1
    await site.until(
        lambda: owed <= 0, seconds=arguments.giveup, what="the peer to acknowledge the messages"
    )
    await site.close()
    if arguments.verbose:
        print(
            f"{count} message{'s' * (count != 1)} published to {link.peer_address}", file=sys.stderr
        )
    return 0


async def messages(arguments: argparse.Namespace, clock: Any) -> AsyncIterator[bytes]:
    """The messages to publish, checked, without a NUL or, of lines, their end."""
    if arguments.message is not None:
        text = os.fsencode(arguments.message)
        for number, line in enumerate(text.split(b"\n") if arguments.line else [text], 1):
            yield checked(line, arguments, number)
        return
    source = InputReader(clock, arguments.file, lines=arguments.line)
    number = 0
    while (pieces := await source.next()) is not None:
        for data in pieces:
            number += 1
            yield checked(data, arguments, number)


def checked(data: bytes, arguments: argparse.Namespace, number: int) -> bytes:
    """``data`` when it is what the type says. Raises ``ToolError`` with rc 22."""
    import msgspec

    from ldmsjob.cli.client import ToolError

    if arguments.type == "json":
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            where = f"line {number}" if arguments.line else "the message"
            raise ToolError(f"{where} is not JSON: {error}", errno.EINVAL) from None
    if b"\0" in data.rstrip(b"\0"):
        raise ToolError("text cannot have a NUL in it", errno.EINVAL)
    return data.rstrip(b"\0")


class InputReader:
    """Reads a file or standard input in a thread, since either may block for long.

    The thread does not keep the process alive. ``name`` None is standard input.
    """

    def __init__(self, reactor: Any, name: str | None, *, lines: bool) -> None:
        self._reactor = reactor
        self._lines = lines
        self._wanted = threading.Semaphore(0)
        self._answer: Deferred[list[bytes] | None] | None = None
        self._name = name
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> Deferred[list[bytes] | None]:
        """What one read brought: lines without their end, or the whole. None at the end.

        Fails with ``ToolError`` when it cannot be read.
        """
        from twisted.internet.defer import Deferred

        self._answer = Deferred()
        self._wanted.release()
        return self._answer

    def _read(self) -> None:
        from twisted.python.failure import Failure

        from ldmsjob.cli.client import ToolError

        try:
            # Not sys.stdin, whose lock must be free when the interpreter ends.
            if self._name is None:
                self._pieces(0)
            else:
                with open(self._name, "rb", buffering=0) as file:
                    self._pieces(file.fileno())
        except OSError as error:
            text = f"{self._name or 'standard input'}: {error.strerror}"
            self._deliver(Failure(ToolError(text, error.errno or errno.EIO)))
        else:
            self._deliver(None)

    def _pieces(self, descriptor: int) -> None:
        kept: list[bytes] = []
        while data := os.read(descriptor, READ_BYTES):
            head, newline, rest = data.rpartition(b"\n")
            if self._lines and newline:
                self._deliver(b"".join([*kept, head]).split(b"\n"))
                kept = [rest]
            else:
                kept.append(data)
        last = b"".join(kept)
        if last or not self._lines:
            self._deliver([last])

    def _deliver(self, pieces: Any) -> None:
        self._wanted.acquire()
        self._reactor.callFromThread(self._arrived, pieces)

    def _arrived(self, pieces: Any) -> None:
        answer, self._answer = self._answer, None
        assert answer is not None
        answer.callback(pieces)
