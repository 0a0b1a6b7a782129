"""``ldmsjob demo``: real Slurm jobs become job sets and job events before your eyes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

INTERRUPTED = 130


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "demo",
        help="watch real Slurm jobs become job sets and events",
        description="Run a daemon on a free port of the loopback interface, replay recorded"
        " messages of real Slurm jobs to it, show what comes of them, and check it. Leaves"
        " nothing behind.",
        epilog="Exit status: 0 when everything came out as it should, 1 when not, 130 when"
        " interrupted.",
    )
    parser.add_argument("--fast", action="store_true", help="do not wait between messages")
    parser.add_argument(
        "--plain", action="store_true", help="plain lines, as when output is not a terminal"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo until it ends or is interrupted; returns the exit status.

    0: everything came out as it should; 1: something did not, or it could not be run. Raises
    ``OSError`` when the output cannot be written; ``BrokenPipeError``: its reader has left.
    """
    from rich.console import Console
    from twisted.internet import reactor as installed_reactor
    from twisted.internet.error import ReactorNotRunning
    from twisted.logger import globalLogBeginner

    from ldmsjob.cli.demo_session import Demo
    from ldmsjob.cli.output import WatchedOutput
    from ldmsjob.clocks import use_monotonic_clock
    from ldmsjob.errors import LdmsJobError
    from ldmsjob.logformat import Levels, LineObserver, stamp_from

    reactor: Any = installed_reactor
    use_monotonic_clock(reactor)
    observer = LineObserver(Levels(), stamp_from(os.environ), sys.stderr)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    statuses: list[int] = []
    unwritten: list[OSError] = []

    def stop() -> None:
        with suppress(ReactorNotRunning):
            reactor.stop()

    def output_failed(error: OSError) -> None:
        unwritten.append(error)
        stop()

    # Left to itself, rich makes SystemExit of the error.
    console = Console(file=cast("TextIO", WatchedOutput(sys.stdout, output_failed)))

    stopping: list[bool] = []

    def failed(failure: Failure) -> int:
        if stopping:
            return INTERRUPTED  # Whatever stopped half way is no failure.
        if failure.check(LdmsJobError) is None:
            failure.printTraceback()
        print(f"the demo failed: {failure.getErrorMessage()}", file=sys.stderr)
        return 1

    def ended(status: int) -> None:
        statuses.append(status)
        stop()

    def begin() -> None:
        running = demo.run().addErrback(failed).addCallback(ended)
        reactor.addSystemEventTrigger("before", "shutdown", interrupt, running)

    def interrupt(running: Deferred[None]) -> Deferred[None]:
        stopping.append(True)
        running.cancel()
        return running  # The reactor runs until the daemon has stopped.

    with tempfile.TemporaryDirectory(prefix="ldmsjob-demo.") as directory:
        demo = Demo(
            reactor,
            console,
            Path(directory),
            fast=arguments.fast,
            live=console.is_terminal and not arguments.plain,
        )
        reactor.callWhenRunning(begin)
        # A closed terminal must not leave the directory behind; the reactor has the other signals.
        signal.signal(signal.SIGHUP, lambda number, frame: reactor.callFromThread(reactor.stop))
        reactor.run()
        demo.close()
    if unwritten:
        raise unwritten[0]
    return statuses[0] if statuses else INTERRUPTED
