"""``ldmsjob status``: asks a running daemon how it is."""

from __future__ import annotations

import argparse
import errno
import sys
from typing import TYPE_CHECKING, Any

from ldmsjob.cli.options import add_connection_options, exit_status

if TYPE_CHECKING:
    from ldmsjob.cli.client import Connect

SOCKET = "/run/ldmsjob/ldmsjob.sock"
"""Where a daemon is asked for which nothing else is said."""

ANSWER_SECONDS = 10.0

PROBLEMS = 1
"""Exit status when something is wrong with the daemon."""

_NUMBER = 1


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "status",
        help="tell how a running daemon is, and what is wrong with it",
        description="Ask a running daemon how it is. Its configuration needs a listener for that:"
        f" listen xprt=unix path={SOCKET}. It tells root and its own user.",
        epilog=exit_status({0: "nothing is wrong", PROBLEMS: "something is wrong: it says what"}),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add_connection_options(parser, path=SOCKET)
    parser.add_argument("--json", action="store_true", help="the whole document, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask; returns the exit status. Raises ``ConfigError``."""
    from ldmsjob.cli.client import run_tool
    from ldmsjob.cli.commandline import INTERRUPTED

    if arguments.xprt != "unix" and arguments.host == SOCKET:
        arguments.host = "localhost"
    return run_tool(
        arguments,
        lambda reactor, connect: status(arguments, reactor, connect),
        interrupted=INTERRUPTED,
    )


async def status(arguments: argparse.Namespace, clock: Any, connect: Connect) -> int:
    """Ask and print; the exit status. Raises ``ToolError`` and what ``connect`` fails with."""
    import msgspec
    from twisted.internet.error import ConnectError

    from ldmsjob.cli.client import ToolError

    try:
        text = await ask(clock, connect)
    except ConnectError as error:
        if error.osError != errno.ENOENT:
            raise
        raise ToolError(
            f"{arguments.host}: there is no such socket: no daemon runs, or its configuration lacks"
            f" 'listen xprt=unix path={arguments.host}'",
            errno.ENOENT,
        ) from None
    try:
        document = msgspec.json.decode(text)
        wrong = bool(document["problems"])
    except (msgspec.MsgspecError, TypeError, KeyError):
        raise ToolError("the answer cannot be read: is it another version?", errno.EPROTO) from None
    if arguments.json:
        print(msgspec.json.format(text).decode())
    else:
        from ldmsjob.cli.status_text import show

        show(document, sys.stdout)
    return PROBLEMS if wrong else 0


async def ask(clock: Any, connect: Connect) -> bytes:
    """The document of the daemon there, as JSON."""
    from ldmsjob.cli.client import ToolError, ToolSite
    from ldmsjob.interfaces import LinkSettings
    from ldmsjob.wire.events import AskDaemon, DaemonAnswer
    from ldmsjob.wire.request import STATUS

    answers: list[DaemonAnswer] = []

    def on_event(event: Any) -> None:
        if isinstance(event, DaemonAnswer):
            answers.append(event)

    site = ToolSite(clock, on_event)
    link = await connect(site, LinkSettings(messages_enabled=lambda: False))
    link.send(AskDaemon(_NUMBER, STATUS))
    await site.until(lambda: bool(answers), seconds=ANSWER_SECONDS, what="the answer")
    await site.close()
    (answer,) = answers
    value = answer.attributes[0][1].rstrip(b"\0") if answer.attributes else b""
    if answer.error == errno.EPERM:
        raise ToolError(
            f"{link.peer_address} tells only root and its own user how it is", errno.EACCES
        )
    if answer.error == errno.ENOSYS:
        raise ToolError(
            f"{link.peer_address} is no ldmsjob daemon that can be asked: "
            + value.decode("utf-8", "replace"),
            errno.ENOSYS,
        )
    if answer.error:
        raise ToolError(
            f"{link.peer_address}: {value.decode('utf-8', 'replace') or 'no answer'}", answer.error
        )
    return value
