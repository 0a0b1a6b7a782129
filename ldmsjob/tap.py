"""``twistd ldmsjob``: the command line, and the daemon as a Twisted application.

The only module of the daemon that imports the reactor.
"""

from __future__ import annotations

import gc
import getopt
import os
import pwd
import signal
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, TextIO

from twisted.application.service import MultiService
from twisted.internet.defer import maybeDeferred
from twisted.logger import ILogObserver, Logger, globalLogBeginner
from twisted.python import usage
from twisted.python.components import Componentized

from ldmsjob import __version__, eventloop
from ldmsjob.cli.output import until_reader_leaves
from ldmsjob.clocks import use_monotonic_clock
from ldmsjob.daemon import Daemon
from ldmsjob.errors import ConfigError
from ldmsjob.interpreter import Interpreter
from ldmsjob.journal.places import state_directory
from ldmsjob.loader import Loader
from ldmsjob.logformat import Levels, LineObserver, stamp_from
from ldmsjob.options import OPTIONS, commands_of
from ldmsjob.sdnotify import ServiceManager

NOTHING_TO_DO = 101
"""Exit status when neither a file nor a listener is given, as in C."""

WRONG_OPTION = 1
"""Exit status for an unknown option, as in C."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What ends the daemon: the first in good order; the second waits for nothing that stops; a further
one ends the process at once."""

STATUS_SECONDS = 10.0
"""How often a service manager is told what runs, if it does not watch more closely."""

EXIT_SECONDS = 5.0
"""How long threads may hold up the end of the process, when all has stopped."""


class Options(usage.Options):
    """The command line. ``pairs`` are options and values in order, ``files`` those of ``-c``."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[str, str]] = []
        self.files: list[str] = []
        self.check = False
        self.state_directory: str | None = None

    def parseOptions(self, options: Sequence[str] | None = None) -> None:  # noqa: N802
        """Take the command line; ends the process for what prints something or is wrong."""
        letters = "".join(letter + ":" * option.argument for letter, option in OPTIONS.items())
        names = {option.name: letter for letter, option in OPTIONS.items() if option.name}
        try:
            given, rest = getopt.gnu_getopt(
                list(sys.argv[1:] if options is None else options),
                letters + "h",
                [*(f"{name}=" for name in names), "state=", "check", "help", "version"],
            )
            if rest:
                raise getopt.GetoptError(f"'{rest[0]}' is not an option")
        except getopt.GetoptError as error:
            print(f"{self.getUsage()}\n{error.msg}", file=sys.stderr)
            raise SystemExit(WRONG_OPTION) from None
        for word, value in given:
            self._take(names.get(word.lstrip("-"), word.lstrip("-")), value)
        if not self.files and not any(letter == "x" for letter, _ in self.pairs):
            print("ldmsjob: give a configuration file (-c) or a listener (-x)", file=sys.stderr)
            raise SystemExit(NOTHING_TO_DO)

    def _take(self, letter: str, value: str) -> None:
        if letter in ("h", "help"):
            with until_reader_leaves():
                print(self.getUsage())
            raise SystemExit(0)
        if letter in ("V", "version"):
            print(f"ldmsjob {__version__}")
            raise SystemExit(0)
        if letter == "u":
            raise SystemExit(_print_usage(value))
        if letter == "check":
            self.check = True
        elif letter == "state":
            self.state_directory = value
        elif letter == "c":
            self.files.append(value)
        elif letter == "F":
            print("ldmsjob: -F has no effect; use twistd -n", file=sys.stderr)
        else:
            self.pairs.append((letter, value))

    def getUsage(self, width: int | None = None) -> str:  # noqa: N802
        """The text of ``--help``."""
        lines = ["Usage: twistd [twistd options] ldmsjob [options]", "Options:"]
        for letter, option in OPTIONS.items():
            if option.removed:
                continue
            words = f"-{letter}" + (f", --{option.name}" if option.name else "")
            lines.append(f"  {words:<26} {option.help}")
        lines.append(f"  {'    --state':<26} Directory for what is kept on disk: the journal.")
        lines.append(f"  {'    --check':<26} Read the configuration, say what would run, and exit.")
        lines.append(f"  {'-h, --help':<26} Print this text and exit.")
        return "\n".join(lines)


def _print_usage(name: str) -> int:
    from ldmsjob.cli.plugins import print_usage

    status = 0
    with until_reader_leaves():
        try:
            status = print_usage([] if name in ("all", "sampler", "store") else [name])
        except ConfigError as error:
            print(error, file=sys.stderr)
            status = error.rc
    return status


class StartFailed(SystemExit, Exception):
    """Ends the process with the number of a ``ConfigError``.

    An ``Exception`` too, so that twistd removes its own pid file and a twistd in the background
    tells its parent.
    """

    def __init__(self, error: ConfigError) -> None:
        super().__init__(error.rc)
        self.reason = str(error)

    def __str__(self) -> str:
        return self.reason


GC_THRESHOLDS = (100_000, 20, 50)
"""New objects before the youngest are looked through, and how often the older ones are."""


class Program(MultiService):
    """The daemon inside a Twisted application.

    Gives the application our log observer, ends it on signals with status 0, opens files again on
    SIGHUP, tells the service ``manager`` how it is, and turns a failing start into an exit status.
    What failed is written to ``stderr``, which is closed when the daemon runs; without it, to
    standard error as it is then. ``run_as`` are the uid and gid as which the process goes on
    between binding and starting; ``end_soon`` is called when all has stopped and the process is
    about to end.
    """

    log = Logger(namespace="ldmsd")

    def __init__(
        self,
        daemon: Daemon,
        observer: LineObserver,
        reactor: Any,
        stderr: TextIO | None = None,
        *,
        manager: ServiceManager | None = None,
        run_as: tuple[int, int] | None = None,
        end_soon: Callable[[int], None] = lambda status: None,
    ) -> None:
        super().__init__()
        self.daemon = daemon
        self.observer = observer
        self._reactor = reactor
        self._stderr = stderr
        self._manager = manager or ServiceManager()
        self._end_soon = end_soon
        self._signals = 0
        self._was_ready = False
        if run_as is not None:
            daemon.will_run_as(*run_as)
        daemon.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """Become part of an application, whose log we take over."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Bind the listeners."""
        self._or_exit(super().privilegedStartService)

    def startService(self) -> None:
        """Start the daemon."""
        self._reactor.callWhenRunning(self._running)
        self._or_exit(super().startService)

    def _or_exit(self, start: Callable[[], None]) -> None:
        try:
            start()
        except ConfigError as error:
            report(error, self.observer, self._stderr or sys.__stderr__ or sys.stderr)
            raise StartFailed(error) from None

    def _running(self) -> None:
        # Not left to the reactor: twistd would end by the signal itself, not with status 0.
        for number in SIGNALS:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)
        # What there is now stays. Jobs are many objects that live long and form no cycles: looking
        # through the young ones as often as Python does by default finds nothing and costs a tenth
        # of the daemon's time.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        if self._stderr is not None:
            self._stderr.close()
        self.daemon.announce()
        self._was_ready = True
        self._manager.ready(self.status())
        if self._manager.is_there:
            self._tell_later()

    # The service manager

    def status(self) -> str:
        """What runs, in a line for people."""
        jobs = sum(not job.ended for job in self.daemon.core.jobs.jobs())
        return (
            f"{_count(jobs, 'job runs', 'jobs run')}, {_count(len(self.daemon.site.links), 'link')}"
        )

    def _tell_later(self) -> None:
        """By a timer of the reactor: where that hangs, the manager hears nothing."""
        watchdog = self._manager.watchdog_seconds
        seconds = STATUS_SECONDS if watchdog is None else min(watchdog / 2, STATUS_SECONDS)
        self._reactor.callLater(seconds, self._tell)

    def _tell(self) -> None:
        self._tell_later()
        if self.running:
            self._manager.alive(self.status())
        else:
            self._manager.alive("stopping")

    # Signals, whose handlers interrupt anything and so do next to nothing themselves

    def _stop(self, number: int, frame: object) -> None:
        self._signals += 1
        if self._signals > 2:
            os._exit(self.daemon.exit_status)
        self._reactor.callFromThread(self._stopped_by, number)

    def _stopped_by(self, number: int) -> None:
        if not self.running:
            self.log.warn("signal {number} received again, waiting for nothing", number=number)
            self.daemon.hurry()
            return
        self.log.info("signal {number} received, exiting", number=number)
        if self._reactor.running:
            self._reactor.stop()

    def _hang_up(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._reopen)

    def _reopen(self) -> None:
        if self.running:
            self._manager.reloading()
            self.daemon.reopen()
            self.log.info("signal {number} received, files opened again", number=int(signal.SIGHUP))
            self._manager.ready(self.status())

    def stopService(self) -> Any:
        """Stop the daemon; the manager is told."""
        self._manager.stopping("stopping")
        stopping = maybeDeferred(super().stopService)
        if self._was_ready:
            stopping.addBoth(self._stopped)
        return stopping

    def _stopped(self, result: Any) -> Any:
        self._end_soon(self.daemon.exit_status)
        return result


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def end_soon(status: int, seconds: float = EXIT_SECONDS) -> None:
    """Have the process end by then, whatever its threads wait for."""

    def end() -> None:
        threading.Event().wait(seconds)
        os._exit(status)

    threading.Thread(target=end, name="end", daemon=True).start()


def report(error: ConfigError, observer: LineObserver, stderr: TextIO) -> None:
    """Say why the daemon ends: in the log as the C daemon does, and plainly on ``stderr``."""
    log = Logger(namespace="config", observer=observer)
    text = f"{error.message}; {error.hint}" if error.hint else error.message
    file, _, line = error.where.rpartition(":")
    if line.isdigit():
        log.error("msg_no {line}: error {rc}: {text}", line=line, rc=error.rc, text=text)
        log.error("Configuration error at line {line} ({file})", line=line, file=file)
    else:
        log.error("error {rc}: {text}", rc=error.rc, text=str(error))
    Logger(namespace="ldmsd", observer=observer).info(
        "LDMS Daemon exiting...status {rc}, Error {rc} processing configuration {where}",
        rc=error.rc,
        where=f"file '{file}'" if line.isdigit() else error.where,
        always=True,
    )
    stderr.write(f"{error}\n")
    stderr.flush()


def configure(
    options: Options,
    reactor: Any,
    environ: MutableMapping[str, str],
    observer: LineObserver,
    loader: Callable[[], Loader] = Loader,
) -> Daemon:
    """A daemon as these options and their files want it, not started. Raises ``ConfigError``."""
    daemon = Daemon(
        reactor,
        loader=loader(),
        levels=observer.levels,
        observer=None if options.check else observer,
        state_directory=options.state_directory or state_directory(environ),
    )
    interpreter = Interpreter(daemon, environ)
    interpreter.read(commands_of(options.pairs, "option"), options.files)
    return daemon


def makeService(options: Options) -> Program:
    """The service that twistd runs. Ends the process when the configuration is wrong."""
    eventloop.install()
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    manager = ServiceManager.from_environment(os.environ)
    if options.check:
        status = 0
        with until_reader_leaves():
            status = check(options, reactor)
        raise SystemExit(status)
    observer = LineObserver(Levels(), stamp_from(os.environ), sys.stdout)
    try:
        daemon = configure(options, reactor, os.environ, observer)
    except ConfigError as error:
        # Writes what has been logged so far, too.
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
        report(error, observer, sys.stderr)
        raise SystemExit(error.rc) from None
    return Program(
        daemon,
        observer,
        reactor,
        _present_stderr(),
        manager=manager,
        run_as=run_as(options.parent),
        end_soon=end_soon,
    )


def run_as(twistd: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """The uid and gid that twistd will change to, by its options; None when it will not."""
    if twistd is None or (twistd["uid"] is None and twistd["gid"] is None):
        return None
    uid, gid = twistd["uid"], twistd["gid"]
    if uid is None:
        return os.geteuid(), gid
    return uid, pwd.getpwuid(uid).pw_gid if gid is None else gid


def _present_stderr() -> TextIO | None:
    """A copy of standard error: a twistd that goes into the background turns the original away
    before it starts what may fail. None when there is none."""
    try:
        return open(os.dup(2), "w", errors="backslashreplace")
    except OSError:
        return None


def check(
    options: Options,
    reactor: Any,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
    begin_logging: Callable[..., None] = globalLogBeginner.beginLoggingTo,
) -> int:
    """Read the configuration, try what authentication needs, and say what would run; returns the
    exit status.

    Nothing is started, bound or written. Log lines and what is wrong go to ``stderr``.
    """
    stdout, stderr = stdout or sys.stdout, stderr or sys.stderr
    environ = dict(os.environ)
    observer = LineObserver(Levels(), stamp_from(environ), stderr)
    begin_logging([observer], redirectStandardIO=False)
    try:
        daemon = configure(options, reactor, environ, observer)
        tried = daemon.authentications.check()
    except ConfigError as error:
        stderr.write(f"{error}\n")
        return error.rc
    for line in [*daemon.describe(), *tried]:
        stdout.write(f"{line}\n")
    return 0
