"""Options that name a peer, for the tools that talk to one."""

from __future__ import annotations

import argparse
import errno
from collections.abc import Callable, Mapping

_STATUSES = {
    2: "a mistake in the command line, or there is no such plugin or file",
    errno.EACCES: "refused: wrong authentication, or not allowed",
    errno.EPROTO: "the peer broke the protocol",
    errno.EAFNOSUPPORT: "there is no such host",
    errno.ECONNRESET: "the connection was lost",
    errno.ETIMEDOUT: "no answer in time",
    errno.ECONNREFUSED: "nobody listens there",
}


def exit_status(statuses: Mapping[int, str]) -> str:
    """The list of exit statuses for ``--help``: these, and those of every tool with a peer."""
    known = {**_STATUSES, **statuses}
    lines = [f"  {status:>3}  {known[status]}" for status in sorted(known)]
    return "\n".join(["exit status:", *lines, "  any other: the errno of the system's own reason"])


def add_connection_options(parser: argparse.ArgumentParser, *, path: str | None = None) -> None:
    """The options that name the peer, under the letters that the C tools use.

    Where they say nothing it is the daemon that listens on this host at port 411; with ``path``, at
    that unix socket.
    """
    parser.add_argument("-H", "--help", action="help", help="show this text and exit")
    parser.add_argument(
        *("-h", "--host"),
        default=path or "localhost",
        help="the peer's host, or the path of its socket (%(default)s)",
    )
    parser.add_argument("-p", "--port", type=port, default=411, help="its port (%(default)s)")
    parser.add_argument(
        *("-x", "--xprt"),
        default="unix" if path else "sock",
        metavar="NAME",
        help="transport (%(default)s)",
    )
    parser.add_argument(
        *("-X", "--xprt_opt"),
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="an attribute of the transport; may be repeated",
    )
    parser.add_argument(
        *("-a", "--auth"),
        metavar="NAME",
        help="authentication (none, or what the transport proves)",
    )
    parser.add_argument(
        *("-A", "--auth_opt"),
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="an attribute of the authentication; may be repeated",
    )


def whole_number(
    minimum: int, maximum: int = (1 << 63) - 1, *, base: int = 10
) -> Callable[[str], int]:
    """A number within these limits, for argparse. ``base`` 0 also takes ``0x``, ``0o`` and ``0b``.

    The limits are told in base 10, or in base 8 where that is the base.
    """

    def parse(text: str) -> int:
        try:
            number = int(text, base)
        except ValueError:
            number = minimum - 1
        if not minimum <= number <= maximum:
            kind, form = ("an octal", "o") if base == 8 else ("a whole", "d")
            limits = f"from {minimum:{form}} to {maximum:{form}}"
            if maximum == (1 << 63) - 1:
                limits = f"of at least {minimum}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind} number {limits}")
        return number

    return parse


port = whole_number(1, 65535)
"""A TCP port, for argparse."""


def channel(text: str) -> str:
    """The name of a channel, for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("a channel's name cannot be empty")
    return text


def name_and_value(text: str) -> tuple[str, str]:
    """``name=value``, for argparse."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value
