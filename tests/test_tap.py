"""``twistd ldmsjob``."""

import io
import os
import pwd
import signal
import socket
import sys
import threading

from msgspec.structs import replace
from twisted.application import service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import directlyProvides

from ldmsjob import __version__
from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import IReopening
from ldmsjob.jobsets import JobSetPolicy
from ldmsjob.journal.places import hand_over
from ldmsjob.logformat import Levels, LineObserver, stamp_from
from ldmsjob.notices import JobInit
from ldmsjob.sdnotify import ServiceManager
from ldmsjob.tap import (
    Options,
    Program,
    StartFailed,
    check,
    configure,
    end_soon,
    report,
    run_as,
)
from tests.daemons import Rig, loader
from tests.ports import free_port

NOTE = r"""msg_enable
listen xprt=sock port={port}

load name=jobmgr_slurm
config name=jobmgr_slurm
jobmgr_start name=jobmgr_slurm

load name=test_jobmgr_sampler
config name=test_jobmgr_sampler component_id=1 instance=node-1/test_jobmgr_sampler \
producer=node-1 file={file}
"""


def parsed(*words):
    """The options of this command line."""
    options = Options()
    options.parseOptions(list(words))
    return options


class OptionsTests(SynchronousTestCase):
    """The command line."""

    def ends(self, *words):
        """(status, standard output, standard error) of a command line that ends the process."""
        output, errors = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", output)
        self.patch(sys, "stderr", errors)
        status = self.assertRaises(SystemExit, parsed, *words).code
        self.patch(sys, "stdout", sys.__stdout__)
        self.patch(sys, "stderr", sys.__stderr__)
        return status, output.getvalue(), errors.getvalue()

    def test_letters_and_names(self):
        """C's letters, and long names; files and listeners may be repeated."""
        options = parsed("-c", "a", "-x", "sock:1", "--config=b", "--daemon_name", "n", "--check")
        self.assertEqual(options.files, ["a", "b"])
        self.assertEqual(options.pairs, [("x", "sock:1"), ("n", "n")])
        self.assertTrue(options.check)
        self.assertFalse(parsed("-x", "sock:1").check)

    def test_nothing_to_do(self):
        """Neither file nor listener: 101."""
        self.assertEqual(self.ends("-v", "INFO")[0], 101)

    def test_wrong_options(self):
        """Unknown ones and stray words: usage and 1."""
        for words in (["-Z"], ["--bogus"], ["-c", "a", "word"], ["-c"]):
            status, _, errors = self.ends(*words)
            self.assertEqual(status, 1)
            self.assertIn("Usage", errors)

    def test_what_prints_and_ends(self):
        """Help, version, usage of plugins."""
        status, output, _ = self.ends("--help")
        self.assertEqual(status, 0)
        self.assertIn("--daemon_name", output)
        self.assertNotIn("-P", output)
        self.assertEqual(self.ends("-V"), (0, f"ldmsjob {__version__}\n", ""))
        status, output, _ = self.ends("-u", "jobmgr_slurm")
        self.assertEqual(status, 0)
        self.assertIn("message_channel", output)
        status, output, _ = self.ends("-u", "all")
        self.assertIn("test_jobmgr_sampler", output)
        status, _, errors = self.ends("-u", "nothing")
        self.assertEqual(status, 2)
        self.assertIn("there is no plugin 'nothing'", errors)

    def test_foreground(self):
        """-F is accepted with a hint."""
        errors = io.StringIO()
        self.patch(sys, "stderr", errors)
        self.assertEqual(parsed("-F", "-c", "a").pairs, [])
        self.assertIn("twistd -n", errors.getvalue())


class ServiceTests(SynchronousTestCase):
    """The service that twistd gets."""

    def setUp(self):
        """A reactor without sockets, and a log in memory."""
        self.reactor = MemoryReactorClock()
        self.environ = {"STATE_DIRECTORY": os.path.abspath(self.mktemp())}
        self.output = io.StringIO()
        self.observer = LineObserver(Levels(), stamp_from({}), self.output)

    def file(self, text):
        """A configuration file."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return path

    def program(self, text, *words):
        """The program for that configuration."""
        options = parsed("-c", self.file(text), *words)
        daemon = configure(options, self.reactor, self.environ, self.observer, loader)
        return Program(daemon, self.observer, self.reactor)

    def test_log_of_the_application(self):
        """twistd's log goes to our observer."""
        application = service.Application("ldmsjob")
        program = self.program("listen xprt=wire\n")
        program.setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), self.observer)
        self.assertIs(program.parent, service.IServiceCollection(application))

    def test_start_that_fails(self):
        """Ends the process with the error's number, and says why in both places."""
        program = self.program("listen xprt=wire\n", "-n", "d")
        program.daemon.endpoints[0].transport.taken.add(411)
        errors = io.StringIO()
        self.patch(sys, "__stderr__", errors)
        error = self.assertRaises(StartFailed, program.privilegedStartService)
        self.assertEqual(error.code, 7)
        self.assertIsInstance(error, Exception)
        self.assertIn("Failed to listen", str(error))
        self.assertRegex(errors.getvalue(), r":1: Failed to listen on the endpoint wire:411: .*\n")
        self.assertIn("    ERROR: config: msg_no 1: error 7: Failed", self.output.getvalue())

    def test_signals(self):
        """Ours are installed when the reactor runs; they stop it. The terminal is let go then."""
        program = self.program("listen xprt=wire\n")
        program._stderr = io.StringIO()
        installed = []
        self.patch(signal, "signal", lambda number, call: installed.append(number))
        stopped = []
        self.reactor.stop = lambda: stopped.append(1)
        self.reactor.callFromThread = lambda call, *arguments: call(*arguments)
        self.reactor.running = True
        program.privilegedStartService()
        program.startService()
        for call, arguments, words in self.reactor.whenRunningHooks:
            call(*arguments, **words)
        self.assertEqual(installed, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        self.assertTrue(program._stderr.closed)
        program._stop(signal.SIGTERM, None)
        self.assertEqual(stopped, [1])
        self.successResultOf(program.stopService())

    def running(self, text, manager=None):
        """A program that has been started, as if the reactor ran. Signals are not taken."""
        options = parsed("-c", self.file(text))
        daemon = configure(options, self.reactor, self.environ, self.observer, loader)
        self.ended = []
        program = Program(
            daemon, self.observer, self.reactor, manager=manager, end_soon=self.ended.append
        )
        self.handlers = {}
        self.patch(signal, "signal", self.handlers.__setitem__)
        self.reactor.callFromThread = lambda call, *arguments: call(*arguments)
        self.stopping = []
        self.reactor.stop = lambda: self.stopping.append(program.stopService())
        program.privilegedStartService()
        program.startService()
        self.reactor.running = True
        for call, arguments, words in self.reactor.whenRunningHooks:
            call(*arguments, **words)
        globalLogPublisher.addObserver(self.observer)
        self.addCleanup(globalLogPublisher.removeObserver, self.observer)
        return program

    def test_second_signal(self):
        """Ends it without waiting for what does not stop; then threads have some seconds."""
        program = self.running(
            "msg_enable\nlisten xprt=wire\nload name=a plugin=sampler\nconfig name=a\n"
            "load name=jm\nconfig name=jm\njobmgr_start name=jm\n"
        )
        for name in ("a", "jm"):
            program.daemon.instance(name).plugin.behave["stop"] = Deferred()
        self.handlers[signal.SIGTERM](signal.SIGTERM, None)
        self.reactor.advance(1)
        self.assertNoResult(self.stopping[0])
        self.assertEqual(self.ended, [])
        self.handlers[signal.SIGTERM](signal.SIGTERM, None)
        self.successResultOf(self.stopping[0])
        self.assertEqual(len(self.stopping), 1)
        self.assertEqual(self.ended, [0])
        self.assertIn("a did not stop within 1 s and is left", self.output.getvalue())
        self.assertIn("jm did not stop within 0 s and is left", self.output.getvalue())

    def test_third_signal(self):
        """Ends the process, whatever hangs."""
        self.running("listen xprt=wire\n")
        statuses = []
        self.patch(os, "_exit", statuses.append)
        for _ in range(3):
            self.assertEqual(statuses, [])
            self.handlers[signal.SIGINT](signal.SIGINT, None)
        self.assertEqual(statuses, [0])

    def test_threads_that_hang(self):
        """Hold the end up for a while at most: then the process ends with its status."""
        ended, statuses = threading.Event(), []
        self.patch(os, "_exit", lambda status: (statuses.append(status), ended.set()))
        end_soon(3, 0.001)
        self.assertTrue(ended.wait(30))
        self.assertEqual(statuses, [3])

    def test_hang_up(self):
        """SIGHUP opens files again, of what is started and has any, and ends nothing."""
        program = self.running(
            "msg_enable\nlisten xprt=wire\nload name=jm\nconfig name=jm\njobmgr_start name=jm\n"
        )
        reopened = []
        plugin = program.daemon.instance("jm").plugin
        plugin.reopen = lambda: reopened.append(1)
        hang_up = self.handlers[signal.SIGHUP]
        hang_up(signal.SIGHUP, None)
        self.assertEqual(reopened, [])
        directlyProvides(plugin, IReopening)
        hang_up(signal.SIGHUP, None)
        self.assertEqual((reopened, self.stopping), ([1], []))
        plugin.reopen = lambda: 1 / 0
        hang_up(signal.SIGHUP, None)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("reopen error: 22: ZeroDivisionError", self.output.getvalue())
        self.assertEqual(self.stopping, [])
        self.successResultOf(program.stopService())
        hang_up(signal.SIGHUP, None)

    def test_service_manager(self):
        """It hears when all is ready and when it ends, and meanwhile, in time, that we live."""
        told = []
        manager = ServiceManager("/nobody", 6.0)
        manager.tell = lambda *lines: not told.append(lines)
        program = self.running("msg_enable\nlisten xprt=wire\n", manager)
        self.assertEqual(told, [("READY=1", "STATUS=0 jobs run, 0 links")])
        self.reactor.advance(2.9)
        self.assertEqual(len(told), 1)
        self.reactor.pump([0.1, 3.0])
        self.assertEqual(told[1:], [("WATCHDOG=1", "STATUS=0 jobs run, 0 links")] * 2)
        program.daemon.core.jobs.apply(JobInit("1"), 1, "slurm", JobSetPolicy())
        del told[:]
        self.handlers[signal.SIGHUP](signal.SIGHUP, None)
        self.assertEqual([lines[0] for lines in told], ["RELOADING=1", "READY=1"])
        self.assertEqual(told[1][1], "STATUS=1 job runs, 0 links")
        self.handlers[signal.SIGTERM](signal.SIGTERM, None)
        self.assertEqual(told[-1], ("STOPPING=1", "STATUS=stopping"))
        self.reactor.advance(3)
        self.assertEqual(told[-1], ("WATCHDOG=1", "STATUS=stopping"))

    def test_no_service_manager(self):
        """No timer runs for nobody."""
        counts = []
        for manager in (None, ServiceManager("/nobody")):
            self.reactor = MemoryReactorClock()
            program = self.running("listen xprt=wire\n", manager)
            counts.append(len(self.reactor.getDelayedCalls()))
            self.successResultOf(program.stopService())
        self.assertEqual(counts[0] + 1, counts[1])

    def test_log_file(self):
        """-l writes the log to a file, and the command line's level counts."""
        path = self.mktemp()
        self.program("log_level level=DEBUG\n", "-l", path, "-v", "CRITICAL")
        self.observer.open(self.mktemp())
        self.assertTrue(os.path.exists(path))
        self.assertEqual(len(self.observer.levels.of("ldmsd")), 1)

    def test_report(self):
        """C's two lines and the last one; the plain line on standard error."""
        errors = io.StringIO()
        report(ConfigError("no", rc=2, where="a.conf:3", hint="yes"), self.observer, errors)
        self.assertEqual(errors.getvalue(), "a.conf:3: no; yes\n")
        self.assertEqual(
            self.output.getvalue(),
            "    ERROR: config: msg_no 3: error 2: no; yes\n"
            "    ERROR: config: Configuration error at line 3 (a.conf)\n"
            "         : ldmsd: LDMS Daemon exiting...status 2, "
            "Error 2 processing configuration file 'a.conf'\n",
        )

    def test_report_without_a_line(self):
        """An option's place, or none."""
        errors = io.StringIO()
        report(ConfigError("no", where="option -x"), self.observer, errors)
        report(ConfigError("no"), self.observer, errors)
        self.assertEqual(errors.getvalue(), "option -x: no\nno\n")
        self.assertIn("    ERROR: config: error 22: option -x: no\n", self.output.getvalue())


class RunAsTests(SynchronousTestCase):
    """Whom twistd changes to."""

    def test_options(self):
        """As it works them out itself: the user's own group, unless there is another."""
        nobody = pwd.getpwnam("nobody")
        for uid, gid, expected in (
            (None, None, None),
            (nobody.pw_uid, None, (nobody.pw_uid, nobody.pw_gid)),
            (nobody.pw_uid, 7, (nobody.pw_uid, 7)),
            (None, 7, (os.geteuid(), 7)),
        ):
            self.assertEqual(run_as({"uid": uid, "gid": gid}), expected)
        self.assertIsNone(run_as(None))

    def test_paths_are_bound_later(self):
        """A listener with a port is bound before the change, one with a path after it; what was
        made is given to the user."""
        rig = Rig(self, self.mktemp())
        rig.read("listen xprt=wire port=1\nlisten xprt=wire port=2\n")
        first, second = rig.daemon.endpoints
        changed = replace(second, host="/run/x")
        rig.daemon.listeners.endpoints[str(second)] = changed
        calls = first.transport.calls
        given = []
        self.patch(os, "chown", lambda path, *ids, **_: given.append((path, *ids)))
        rig.daemon.will_run_as(7, 8)
        rig.daemon.privilegedStartService()
        self.assertEqual([call for call in calls if call[0] == "bind"], [("bind", 1)])
        self.assertEqual(given, [(os.path.dirname(rig.daemon.journal_path), 7, 8)])

    def test_journal_directory_of_another(self):
        """Is left alone."""
        path = os.path.join(self.mktemp(), "d", "journal.sqlite")
        given = []
        self.patch(os, "chown", lambda path, *ids, **_: given.append(path))
        hand_over(path, 7, 8)
        with open(path, "w"):
            pass
        hand_over(path, 7, 8)
        directory = os.path.dirname(path)
        self.assertEqual(given, [directory, path, directory])
        self.patch(os, "geteuid", lambda: os.stat(directory).st_uid + 1)
        hand_over(path, 7, 8)
        self.assertEqual(len(given), 3)


class CheckTests(SynchronousTestCase):
    """``--check``."""

    def check(self, text, *words):
        """(status, output, errors)."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        output, errors = io.StringIO(), io.StringIO()
        options = parsed("-c", path, "--check", *words)
        status = check(options, MemoryReactorClock(), output, errors, lambda *_, **__: None)
        return status, output.getvalue(), errors.getvalue()

    def test_says_what_would_run_and_does_nothing(self):
        """Files stay as they are, nothing is bound, the environment is not changed."""
        file = self.mktemp()
        with open(file, "w") as existing:
            existing.write("precious")
        status, output, errors = self.check(
            NOTE.format(port=411, file=file)
            + f"log_file path={file}.log\npid_file path={file}.pid\nenv LDMSJOB_TEST=1\n",
            *("-n", "here", "--state", "/state"),
        )
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual(
            output.splitlines(),
            [
                "daemon name here",
                "listen on sock:411",
                "messages enabled",
                "journal /state/here/journal.sqlite",
                "job manager jobmgr_slurm (plugin jobmgr_slurm): starts",
                "sampler test_jobmgr_sampler (plugin test_jobmgr_sampler): starts",
            ],
        )
        with open(file) as existing:
            self.assertEqual(existing.read(), "precious")
        self.assertFalse(os.path.exists(f"{file}.log"))
        self.assertFalse(os.path.exists(f"{file}.pid"))
        self.assertNotIn("LDMSJOB_TEST", os.environ)

    def test_bad_option(self):
        """Its place stands in the file's stead."""
        status, output, errors = self.check("", "-x", "sock")
        self.assertEqual((status, output), (22, ""))
        self.assertEqual(
            errors, "option -x: Bad xprt format 'sock'; -x XPRT:PORT[:HOST] or -x XPRT:/PATH\n"
        )


class Process(ProcessProtocol):
    """A twistd; ``ready`` fires with its output so far, ``ended`` with its status."""

    def __init__(self):
        self.output = ""
        self.errors = ""
        self.ready = Deferred()
        self.ended = Deferred()

    def outReceived(self, data):
        """Wait for the line that says that it is ready."""
        self.output += data.decode()
        if " is ready" in self.output and not self.ready.called:
            self.ready.callback(self.output)

    def errReceived(self, data):
        """Keep it."""
        self.errors += data.decode()

    def processEnded(self, reason):
        """Tell."""
        if not self.ready.called:
            self.ready.errback(AssertionError(self.output + self.errors))
        self.ended.callback(reason.value.exitCode)


class ProcessTests(TestCase):
    """A real twistd, with a port that nobody else takes."""

    def setUp(self):
        """A directory to run in."""
        self.directory = os.path.abspath(self.mktemp())
        self.state = f"{self.directory}.state"
        os.mkdir(self.directory)
        self.port = free_port()
        with open(os.path.join(self.directory, "ldmsd.conf"), "w") as file:
            file.write(NOTE.format(port=self.port, file="events.log"))

    def twistd(self, *words, options=(), **more):
        """Start one with these options of twistd and of ours, in an environment with more; it is
        killed at the end if it still runs."""
        protocol = Process()
        code = "import sys; from twisted.scripts.twistd import run; run()"
        command = [sys.executable, "-c", code, *words, "ldmsjob", "-c", "ldmsd.conf", *options]
        path = os.pathsep.join(filter(None, sys.path))
        environ = {**os.environ, "PYTHONPATH": path, "STATE_DIRECTORY": self.state, **more}
        self.process = reactor.spawnProcess(
            protocol, sys.executable, command, environ, path=self.directory
        )
        self.addCleanup(self.kill)
        return protocol

    def kill(self):
        """If it has not ended."""
        if self.process.pid is not None:
            self.process.signalProcess("KILL")

    async def test_note(self):
        """The note's configuration listens, and ends on SIGTERM with status 0 and client_close."""
        twistd = self.twistd("-n")
        await twistd.ready
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self.process.signalProcess("TERM")
        self.assertEqual(await twistd.ended, 0)
        self.assertIn("exiting...status 0", twistd.output)
        self.assertEqual(twistd.errors, "")
        with open(os.path.join(self.directory, "events.log")) as file:
            self.assertEqual(file.read(), "client_close\n")
        self.assertEqual(sorted(os.listdir(self.directory)), ["events.log", "ldmsd.conf"])
        (own,) = os.listdir(self.state)
        self.assertIn("journal.sqlite", os.listdir(os.path.join(self.state, own)))

    async def test_service(self):
        """A service manager is told; SIGHUP opens the log and the event file again; both before
        the end, in order, and no child could speak for us."""
        address = f"ldmsjob-tap-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"\0{address}")
            manager.settimeout(100)
            twistd = self.twistd(
                *("-n", "--pidfile="),
                options=("-l", "the.log", "-v", "INFO"),
                NOTIFY_SOCKET=f"@{address}",
                WATCHDOG_USEC="600000000",
            )
            twistd.ready.addErrback(lambda _: None)
            told = await deferToThread(manager.recv, 4096)
            self.assertEqual(told, b"READY=1\nSTATUS=0 jobs run, 0 links")
            with socket.create_connection(("127.0.0.1", self.port)):
                pass
            for name in ("the.log", "events.log"):
                path = os.path.join(self.directory, name)
                os.rename(path, f"{path}.1")
            self.process.signalProcess("HUP")
            told = await deferToThread(manager.recv, 4096)
            self.assertTrue(told.startswith(b"RELOADING=1\n"), told)
            told = await deferToThread(manager.recv, 4096)
            self.assertTrue(told.startswith(b"READY=1\n"), told)
            self.process.signalProcess("TERM")
            self.assertEqual(
                await deferToThread(manager.recv, 4096), b"STOPPING=1\nSTATUS=stopping"
            )
        self.assertEqual(await twistd.ended, 0)
        lines = {}
        for name in ("the.log", "the.log.1", "events.log", "events.log.1"):
            with open(os.path.join(self.directory, name)) as file:
                lines[name] = file.read()
        self.assertEqual(lines["events.log.1"], "")
        self.assertEqual(lines["events.log"], "client_close\n")
        self.assertIn("is ready", lines["the.log.1"])
        self.assertIn("exiting...status 0", lines["the.log"])
        self.assertNotIn("exiting", lines["the.log.1"])

    async def test_port_in_use(self):
        """Status 7, no traceback, no pid file left, the event file not touched."""
        with socket.socket(socket.AF_INET6) as taken:
            taken.bind(("::", self.port))
            taken.listen()
            twistd = self.twistd("-n")
            twistd.ready.addErrback(lambda _: None)
            self.assertEqual(await twistd.ended, 7)
        self.assertRegex(twistd.errors, r"^ldmsd.conf:2: .*; another program listens there.*\n$")
        self.assertNotIn("Traceback", twistd.output)
        self.assertEqual(os.listdir(self.directory), ["ldmsd.conf"])

    async def test_port_in_use_in_the_background(self):
        """Status 1 is twistd's; but the whole message stands on standard error all the same."""
        with socket.socket(socket.AF_INET6) as taken:
            taken.bind(("::", self.port))
            taken.listen()
            twistd = self.twistd()
            twistd.ready.addErrback(lambda _: None)
            self.assertEqual(await twistd.ended, 1)
        self.assertRegex(twistd.errors, r"(?m)^ldmsd.conf:2: .*; another program listens there.*$")
        self.assertEqual(os.listdir(self.directory), ["ldmsd.conf"])
