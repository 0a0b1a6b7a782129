"""The command line of ``ldmsjob``: finds the sub-command and runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from ldmsjob import __version__
from ldmsjob.cli.output import complain, until_reader_leaves
from ldmsjob.errors import ConfigError

SUBCOMMANDS = (
    "demo",
    "ls",
    "publish",
    "subscribe",
    "status",
    "jobs",
    "job",
    "events",
    "plugins",
    "check",
    "spank",
    "notify",
)
"""Modules of this package, each with ``add_parser(subparsers)``. They import what is heavy when
they run."""

INTERRUPTED = 130
USAGE = 2


class Parser(argparse.ArgumentParser):
    """Tells mistakes in the command line as all others are told: by ``ConfigError``."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise ConfigError(message, rc=USAGE, hint=f"see '{self.prog} --help'")

    def print_help(self, file: Any = None) -> None:
        """Print it. The inherited method hides that it cannot be written."""
        (file or sys.stdout).write(self.format_help())


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    result = Parser(
        prog="ldmsjob",
        description="Tools of the LDMS job manager. The daemon: twistd ldmsjob.",
        epilog="'ldmsjob COMMAND --help' tells more of a command.",
    )
    result.add_argument("--version", action="version", version=f"ldmsjob {__version__}")
    subparsers = result.add_subparsers(metavar="COMMAND", required=True)
    for name in SUBCOMMANDS:
        import_module(f"ldmsjob.cli.{name}").add_parser(subparsers)
    return result


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command that ``arguments`` name; returns the exit status.

    When whoever reads the output leaves before its end, it is that of what was done till then: 0,
    unless something was wrong already. Raises ``SystemExit`` after ``--help``, and when the output
    cannot be written.
    """
    status = 0
    with until_reader_leaves():
        try:
            chosen = parser().parse_args(arguments)
            status = chosen.run(chosen) or 0
        except ConfigError as error:
            complain(str(error))
            status = error.rc
        except KeyboardInterrupt:
            status = INTERRUPTED
    return status
