"""``twistd ldmsjob``."""

import io
import os
import signal
import socket
import sys

from twisted.application import service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ldmsjob import __version__
from ldmsjob.errors import ConfigError
from ldmsjob.logformat import Levels, LineObserver, stamp_from
from ldmsjob.tap import Options, Program, StartFailed, check, configure, report
from tests.daemons import loader

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
        environ = {"STATE_DIRECTORY": os.path.abspath(self.mktemp())}
        daemon = configure(options, self.reactor, environ, self.observer, loader)
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
    """A real twistd, with a port that was free a moment ago."""

    def setUp(self):
        """A directory to run in."""
        self.directory = os.path.abspath(self.mktemp())
        self.state = f"{self.directory}.state"
        os.mkdir(self.directory)
        with socket.socket(socket.AF_INET6) as free:
            free.bind(("::", 0))
            self.port = free.getsockname()[1]
        with open(os.path.join(self.directory, "ldmsd.conf"), "w") as file:
            file.write(NOTE.format(port=self.port, file="events.log"))

    def twistd(self, *words):
        """Start one with these options; it is killed at the end if it still runs."""
        protocol = Process()
        code = "import sys; from twisted.scripts.twistd import run; run()"
        command = [sys.executable, "-c", code, *words, "ldmsjob", "-c", "ldmsd.conf"]
        path = os.pathsep.join(filter(None, sys.path))
        environ = {**os.environ, "PYTHONPATH": path, "STATE_DIRECTORY": self.state}
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
