"""``ldmsjob notify``: tells the daemon that a job starts or ends, for Prolog and Epilog of Slurm.

This is its place in the list of commands. ``main`` runs :mod:`ldmsjob.notify` without coming here:
every job waits for it, and it has its own way with mistakes in its command line.
"""

from __future__ import annotations

import argparse
from typing import Any

from ldmsjob import notify


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "notify", help="tell the daemon of a job's start or end, from Slurm's Prolog and Epilog"
    )
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    return notify.main(arguments.arguments)
