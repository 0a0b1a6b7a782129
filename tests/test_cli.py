"""The console script and its sub-commands ``plugins`` and ``check``."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob import __version__
from ldmsjob.cli import commandline, plugins
from ldmsjob.cli.main import main
from ldmsjob.cli.output import complain
from ldmsjob.errors import ConfigError

ENDED = "         : ldmsd: LDMS Daemon exiting...status 0\n"
"""What a daemon logs when it ends, also that of the demo."""

DOCS = Path(__file__).parent.parent / "docs"


def run(*words):
    """(status, output, errors) of the console script."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code
    return status, output.getvalue(), errors.getvalue()


def in_process(*words, **more):
    """The console script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ldmsjob.cli.main", *words],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        **more,
    )


class MainTests(SynchronousTestCase):
    """What holds for all sub-commands."""

    def test_help_and_version(self):
        """All sub-commands are listed."""
        status, output, _ = run("--help")
        self.assertEqual(status, 0)
        for name in commandline.SUBCOMMANDS:
            self.assertIn(name, output)
        self.assertEqual(run("--version")[1], f"ldmsjob {__version__}\n")
        self.assertEqual(run()[0], 2)

    def fails_with(self, error):
        """Run a sub-command that raises this."""

        def fail(arguments):
            raise error

        self.patch(plugins, "run", fail)
        return run("plugins")

    def test_users_mistakes(self):
        """One line, and the error's number."""
        result = self.fails_with(ConfigError("no", rc=95, hint="yes"))
        self.assertEqual(result, (95, "", "ldmsjob: no; yes\n"))

    def test_interrupt(self):
        """No traceback."""
        self.assertEqual(self.fails_with(KeyboardInterrupt()), (130, "", ""))

    def test_mistakes_in_the_command_line(self):
        """One line that begins alike, and status 2, whoever notices."""
        for words, text in (
            (("ls", "-p", "0"), "argument -p/--port: '0' is not"),
            (("ls", "-E", "("), "'(' is no expression"),
            (("ls", "-A", "a=b"), "a"),
            (("ls", "-a", "trust"), "authentication plugin 'trust'"),
            (("publish", "-m", "c", "-r", "2"), "--repeat needs MESSAGE"),
            (("subscribe", "-x", "pigeon"), "transport 'pigeon'"),
            (("plugins", "--colour"), "unrecognized arguments: --colour"),
            (("dance",), "argument COMMAND"),
            ((), "the following arguments are required: COMMAND; see 'ldmsjob --help'"),
        ):
            result = in_process(*words)
            self.assertEqual((result.returncode, result.stdout), (2, ""), words)
            self.assertRegex(result.stderr, rf"\Aldmsjob: .*{re.escape(text)}.*\n\Z")

    def test_full_disk(self):
        """One line, and ENOSPC, whatever prints."""
        line = "ldmsjob: cannot write the output: No space left on device\n"
        for words in (("plugins",), ("publish", "--help"), ("ls", "-V"), ("demo", "--fast")):
            with open("/dev/full", "w") as full:
                result = subprocess.run(
                    [sys.executable, "-m", "ldmsjob.cli.main", *words],
                    check=False,
                    stdout=full,
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            errors = result.stderr.replace(ENDED, "")
            self.assertEqual((result.returncode, errors), (28, line), words)

    def test_complaint_in_the_words_of_a_peer(self):
        """It stays one line, and does nothing to the terminal."""
        stderr = io.StringIO()
        self.patch(sys, "stderr", stderr)
        complain("rejected: \x1b[31mBAD\nldmsjob: all is well\x07 \udcff ä")
        self.assertEqual(
            stderr.getvalue(),
            "ldmsjob: rejected: \\x1b[31mBAD\\nldmsjob: all is well\\x07 \\udcff ä\n",
        )

    def test_complaint_that_nobody_reads(self):
        """The status of a mistake stays when its text cannot be written."""
        read, write = os.pipe()
        os.close(read)
        self.addCleanup(os.close, write)
        ended = subprocess.run(
            [sys.executable, "-m", "ldmsjob.cli.main", "plugins", "nothing"],
            check=False,
            stdout=write,
            stderr=write,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.assertEqual(ended.returncode, 2)

    def test_reader_that_has_enough(self):
        """No traceback, and success, whatever prints."""
        read, write = os.pipe()
        os.close(read)
        self.addCleanup(os.close, write)
        twistd = ("-c", "from twisted.scripts.twistd import run; run()", "-n", "ldmsjob")
        for words in (
            ("-m", "ldmsjob.cli.main", "plugins"),
            ("-m", "ldmsjob.cli.main", "publish", "--help"),
            ("-m", "ldmsjob.cli.main", "ls", "-V"),
            ("-m", "ldmsjob.cli.main", "demo", "--fast"),
            (*twistd, "--help"),
            (*twistd, "-u", "all"),
            (*twistd, "-x", "sock:10411", "--check"),
        ):
            result = subprocess.run(
                [sys.executable, *words],
                check=False,
                stdout=write,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            errors = result.stderr.replace(ENDED, "")
            self.assertEqual((result.returncode, errors), (0, ""), words)


class ExitStatusTests(SynchronousTestCase):
    """The lists of exit statuses."""

    def test_those_of_errors(self):
        """All that a tool with a peer can end with by itself is in its ``--help``."""
        for tool, more in (
            ("publish", (22, 90, 95, 130)),
            ("subscribe", (22, 95)),
            ("ls", (1, 61, 130)),
        ):
            text = run(tool, "--help")[1]
            for status in (0, 2, 13, 71, 97, 104, 110, 111, *more):
                self.assertRegex(text, rf"(?m)^ +{status}  \w", tool)

    def test_guides(self):
        """The guides have the same lists."""
        for tool, guide, column in (
            ("publish", "messages.md", 1),
            ("subscribe", "messages.md", 2),
            ("ls", "reading.md", 1),
        ):
            told = dict(re.findall(r"(?m)^ +(\d+)  (.*)$", run(tool, "--help")[1]))
            rows = re.findall(r"(?m)^\| (\d+) (\|.*)\|$", (DOCS / guide).read_text())
            written = {status: cells.split("|")[column].strip() for status, cells in rows}
            self.assertEqual({each: text for each, text in written.items() if text}, told, tool)


class LsTests(SynchronousTestCase):
    """The command line of ``ldmsjob ls``."""

    def test_mistakes(self):
        """What is wrong is told with what would be right."""
        for words, text in (
            (("-w", "x"), "'x' is not a number of seconds above 0"),
            (("-w", "nan"), "'nan' is not a number of seconds above 0"),
            (("-m", "q"), "'q' is no size such as 20M"),
            (("-E", "("), "'(' is no expression: missing )"),
        ):
            status, _, errors = run("ls", *words)
            self.assertEqual(status, 2)
            self.assertIn(text, errors)


class PluginsTests(SynchronousTestCase):
    """``ldmsjob plugins``."""

    def test_list(self):
        """Name, kind and summary of each."""
        status, output, errors = run("plugins")
        self.assertEqual((status, errors), (0, ""))
        self.assertRegex(output, r"(?m)^jobmgr_slurm +job manager +Follows Slurm")
        self.assertRegex(output, r"(?m)^test_jobmgr_sampler +sampler +Writes")
        self.assertRegex(output, r"(?m)^sock +transport +TCP")
        self.assertRegex(output, r"(?m)^none +authentication plugin +No")

    def test_usage(self):
        """How to use it, its attributes, and those that every job manager has."""
        status, output, _ = run("plugins", "jobmgr_slurm")
        self.assertEqual(status, 0)
        self.assertIn("load name=jobmgr_slurm", output)
        self.assertRegex(output, r"message_channel +text .*\(default 'slurm'\)")
        self.assertRegex(output, r"linger +seconds .*\(default '10'\)")
        output = run("plugins", "test_jobmgr_sampler")[1]
        self.assertRegex(output, r"file +path .*\(required\)")
        self.assertNotIn("linger", output)
        for name, usage in (
            ("sock", "listen xprt=sock [port=PORT] [host=HOST] [auth=NAME]\n"),
            ("unix", "listen xprt=unix path=PATH [ATTRIBUTE=VALUE …]\n"),
            ("tls", "[port=PORT] [host=HOST] [auth=NAME] [ATTRIBUTE=VALUE …]\n"),
        ):
            self.assertIn(usage, run("plugins", name)[1])
        self.assertIn("auth_add name=NAME plugin=none", run("plugins", "none")[1])

    def test_unknown(self):
        """The nearest one, status 2."""
        status, _, errors = run("plugins", "jobmgr_slrm")
        self.assertEqual(status, 2)
        self.assertIn("did you mean 'jobmgr_slurm'?", errors)


class CheckTests(SynchronousTestCase):
    """``ldmsjob check``."""

    def test_check(self):
        """Good files are described, bad ones end it with their number; no traceback."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("listen xprt=sock port=412\n")
        result = in_process("check", path)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("listen on sock:412\n", result.stdout)
        result = in_process("check", path, "/nonexistent/x.conf")
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertRegex(result.stderr, r"^cannot open the configuration file .*\n$")
