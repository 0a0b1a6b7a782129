"""Options that name a peer, for the tools that talk to one."""

from __future__ import annotations

import argparse
import errno

EXIT_STATUS = f"""\
exit status:
  0 when all was done, 2 for a mistake in the command line, else an errno:
  {errno.EACCES} not authenticated, {errno.EINVAL} bad message, {errno.EMSGSIZE} message too long,
  {errno.EOPNOTSUPP} message service of the peer is off, {errno.ECONNRESET} connection lost,
  {errno.ETIMEDOUT} no answer in time, {errno.ECONNREFUSED} nobody listens there
"""


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """The options that name the peer, under the letters that the C tools use."""
    parser.add_argument("-H", "--help", action="help", help="show this text and exit")
    parser.add_argument("-h", "--host", default="localhost", help="the peer's host (%(default)s)")
    parser.add_argument("-p", "--port", type=port, default=411, help="its port (%(default)s)")
    parser.add_argument(
        "-x", "--xprt", default="sock", metavar="NAME", help="transport (%(default)s)"
    )
    parser.add_argument(
        "-a", "--auth", default="none", metavar="NAME", help="authentication (%(default)s)"
    )
    parser.add_argument(
        *("-A", "--auth_opt"),
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="an attribute of the authentication; may be repeated",
    )


def port(text: str) -> int:
    """A TCP port, for argparse."""
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port: 1 to 65535")
    return number


def name_and_value(text: str) -> tuple[str, str]:
    """``name=value``, for argparse."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value
