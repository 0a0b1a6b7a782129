"""``ldmsjob check FILE…``: read configuration files and say what would run."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "check",
        help="read configuration files and say what a daemon would run",
        description="Read configuration files and say what a daemon would run with them. Nothing is"
        " started, bound or written; munged and secret files are tried.",
        epilog="Exit status: 0 when nothing wrong was found, else the errno of the first command"
        " that fails, as of the daemon.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="read in this order")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status: 0, or that of the first command that fails."""
    from twisted.internet import reactor

    from ldmsjob.tap import Options, check

    options = Options()
    options.files = arguments.files
    options.check = True
    return check(options, reactor)
