"""``ldmsjob subscribe``: print the messages of any LDMS daemon."""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, BinaryIO

from ldmsjob.cli.options import (
    add_connection_options,
    channel,
    exit_status,
    whole_number,
)

if TYPE_CHECKING:
    from ldmsjob.cli.client import Connect
    from ldmsjob.wire.events import Message

EXIT_STATUS = exit_status(
    {
        0: "as many messages as wanted were printed, or interrupted",
        errno.EINVAL: "the peer refused the subscription",
        errno.EOPNOTSUPP: "the message service of the peer is off",
    }
)

EVERYTHING = ".*"

ANSWER_SECONDS = 10

KINDS = {0: "string", 1: "json", 2: "avro"}


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "subscribe",
        help="print the messages that an LDMS daemon passes on",
        description="Subscribe to messages at a daemon, and print each in a line until Ctrl-C.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add_connection_options(parser)
    parser.add_argument(
        *("-m", "--msg_tag"),
        action="append",
        type=channel,
        metavar="TAG",
        help="a channel; may be repeated (all channels)",
    )
    parser.add_argument(
        *("-E", "--regex"),
        action="store_true",
        help="TAG is a POSIX extended regular expression, which matches anywhere in the name",
    )
    parser.add_argument("-f", "--file", metavar="FILE", help="write to this file, emptied first")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object with all that is known of each"
    )
    parser.add_argument(
        "-c", "--count", type=whole_number(1), default=0, metavar="N", help="end after N messages"
    )
    parser.add_argument(
        *("-q", "--quota"),
        type=quota,
        default=-1,
        metavar="BYTES",
        help="what the peer may have under way to us; -1: any amount (%(default)s)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is done")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Subscribe; returns the exit status. Raises ``ConfigError``."""
    from ldmsjob.cli.client import run_tool
    from ldmsjob.errors import ConfigError

    try:
        stream = open(arguments.file, "wb") if arguments.file else sys.stdout.buffer  # noqa: SIM115
    except OSError as error:
        raise ConfigError(
            f"{arguments.file}: {error.strerror}", rc=error.errno or errno.EIO
        ) from None
    return run_tool(
        arguments,
        lambda reactor, connect: subscribe(arguments, reactor, connect, stream),
        interrupted=0,
    )


def quota(text: str) -> int:
    """A quota in bytes, or -1 for none, for argparse."""
    try:
        return -1 if text == "-1" else whole_number(1)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor -1") from None


async def subscribe(
    arguments: argparse.Namespace, clock: Any, connect: Connect, stream: BinaryIO
) -> int:
    """Print messages to ``stream`` until the count is reached, or for ever.

    Raises ``ToolError`` and what ``connect`` and ``stream`` fail with.
    """
    from ldmsjob.cli.client import ToolError, ToolSite, require_messages
    from ldmsjob.interfaces import LinkSettings
    from ldmsjob.wire.events import Message, ReturnCredit, Subscribe, SubscribeAnswered, WireEvent

    form: Callable[[Message], bytes] = json_line if arguments.json else plain_line
    matches = arguments.msg_tag or [EVERYTHING]
    is_regex = arguments.regex or not arguments.msg_tag
    printed = 0
    unanswered = set(matches)

    def on_event(event: WireEvent) -> None:
        nonlocal printed
        if isinstance(event, Message):
            if not arguments.count or printed < arguments.count:
                stream.write(form(event))
                stream.flush()
                printed += 1
            link.send(ReturnCredit([event.credit]))
        elif isinstance(event, SubscribeAnswered):
            if event.rc or event.text != "OK":
                raise ToolError(
                    f"{link.peer_address} refused the subscription to {event.match!r}:"
                    f" {event.text}",
                    event.rc or errno.EINVAL,
                )
            unanswered.discard(event.match)

    site = ToolSite(clock, on_event)
    link = await connect(site, LinkSettings(messages_enabled=lambda: True, quota=arguments.quota))
    require_messages(link)
    for match in dict.fromkeys(matches):
        link.send(Subscribe(match, is_regex))
    await site.until(
        lambda: not unanswered, seconds=ANSWER_SECONDS, what="the peer to take the subscription"
    )
    if arguments.verbose:
        print(f"subscribed at {link.peer_address}", file=sys.stderr, flush=True)
    await site.until(lambda: bool(arguments.count) and printed >= arguments.count)
    await site.close()
    return 0


def plain_line(message: Message) -> bytes:
    """The message's data in a line; lines inside it stay."""
    body = message.body
    return body if body.endswith(b"\n") else body + b"\n"


def json_line(message: Message) -> bytes:
    """All that is known of the message as a JSON object in a line.

    ``data`` is the value of a JSON message, else text; bytes that are no UTF-8 are replaced.
    """
    data: Any = message.body.decode("utf-8", "replace")
    if message.kind == 1:
        try:
            data = json.loads(data)
        except ValueError:
            pass  # Others may publish what is no JSON; it is shown as text.
    source = message.source
    address = None
    if source is not None:
        address = str(ip_address(source.address[:4] if source.family == 2 else source.address))
        address = f"[{address}]:{source.port}" if ":" in address else f"{address}:{source.port}"
    record = {
        "channel": message.channel.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        "type": KINDS.get(message.kind, message.kind),
        "uid": message.uid,
        "gid": message.gid,
        "perm": f"{message.perm:04o}",
        "hops": message.hop_count,
        "source": address,
        "data": data,
    }
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
