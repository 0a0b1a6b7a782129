"""The console script ``ldmsjob``: finds the sub-command and runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ldmsjob import __version__
from ldmsjob.cli.output import until_reader_leaves
from ldmsjob.errors import ConfigError

SUBCOMMANDS = ("demo", "ls", "publish", "subscribe", "plugins", "check")
"""Modules of this package, each with ``add_parser(subparsers)``. They import what is heavy when
they run."""

INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    result = argparse.ArgumentParser(
        prog="ldmsjob",
        description="Tools of the LDMS job manager. The daemon: twistd ldmsjob.",
        epilog="'ldmsjob COMMAND --help' tells more of a command.",
    )
    result.add_argument("--version", action="version", version=f"ldmsjob {__version__}")
    subparsers = result.add_subparsers(metavar="COMMAND", required=True)
    for name in SUBCOMMANDS:
        import_module(f"ldmsjob.cli.{name}").add_parser(subparsers)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sub-command that ``argv`` names; returns the exit status.

    That is 0 when whoever reads the output leaves before its end.
    """
    status = 0
    with until_reader_leaves():
        try:
            arguments = parser().parse_args(argv)
            status = arguments.run(arguments) or 0
        except ConfigError as error:
            print(f"ldmsjob: {error}", file=sys.stderr)
            status = error.rc
        except KeyboardInterrupt:
            status = INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
