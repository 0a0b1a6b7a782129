"""Log lines and levels."""

import io
import os
from unittest import mock

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import ConfigError
from ldmsjob.logformat import (
    LevelLogger,
    Levels,
    LineObserver,
    logger_name,
    parse_level,
    stamp_from,
)


class LevelTests(SynchronousTestCase):
    """Which levels get through."""

    def test_words(self):
        """One name means that and above, a comma that alone, several exactly these."""
        self.assertEqual(parse_level("error"), {LogLevel.error, LogLevel.critical})
        self.assertEqual(parse_level("WARN,"), {LogLevel.warn})
        self.assertEqual(parse_level("info,Crit"), {LogLevel.info, LogLevel.critical})
        self.assertEqual(parse_level("QUIET"), frozenset())
        self.assertIsNone(parse_level("reset"))
        for text in ("", "loud", "info,loud", ",", "default,info"):
            self.assertRaises(ConfigError, parse_level, text)

    def test_default_is_error(self):
        """As in C."""
        self.assertEqual(Levels().of("ldmsd"), parse_level("ERROR"))

    def test_last_rule_wins(self):
        """A logger's own level beats the default, a later rule an earlier one, reset undoes."""
        levels = Levels()
        levels.of("jobmgr.p.i")
        levels.set_matching("^jobmgr", parse_level("DEBUG"))
        self.assertEqual(levels.of("jobmgr.p.i"), parse_level("DEBUG"))
        levels.set_named("jobmgr.p.i", parse_level("INFO"))
        levels.set_default(parse_level("QUIET"))
        self.assertEqual(levels.of("jobmgr.p.i"), parse_level("INFO"))
        self.assertEqual(levels.of("jobmgr.p.ii"), parse_level("DEBUG"))
        levels.set_named("jobmgr.p.i", None)
        self.assertEqual(levels.of("jobmgr.p.i"), frozenset())

    def test_unknown_logger(self):
        """Is refused with rc 2 and the nearest name; so is a broken regex, with rc 22."""
        error = self.assertRaises(ConfigError, Levels().set_named, "confg", None)
        self.assertEqual((error.rc, error.hint), (2, "did you mean 'config'?"))
        self.assertEqual(self.assertRaises(ConfigError, Levels().set_matching, "(", None).rc, 22)

    def test_logger_makes_no_event_for_a_level_that_is_off(self):
        """Nothing reaches any observer; ALWAYS lines do."""
        events = []
        log = LevelLogger("jobmgr.p.i", Levels())
        log.observer = events.append
        log.debug("no")
        log.error("yes")
        log.info("always", always=True)
        self.assertEqual([event["log_format"] for event in events], ["yes", "always"])


class LineTests(SynchronousTestCase):
    """What is written."""

    def setUp(self):
        """Levels wide open, lines into memory."""
        self.output = io.StringIO()
        self.levels = Levels()
        self.levels.set_default(parse_level("DEBUG"))
        self.observer = LineObserver(self.levels, stamp_from({}), self.output)
        self.log = Logger(namespace="config", observer=self.observer)

    def test_format(self):
        """Nine columns for the level, then logger and message."""
        self.log.error("a {b}", b=1)
        self.log.critical("c")
        self.log.warn("d")
        self.log.info("e", always=True)
        self.assertEqual(
            self.output.getvalue(),
            "    ERROR: config: a 1\n CRITICAL: config: c\n  WARNING: config: d\n"
            "         : config: e\n",
        )

    def test_names_of_loggers(self):
        """Loggers of classes have the name of the part of C's daemon that does their work."""
        for namespace, expected in (
            ("ldmsjob.interpreter.Interpreter", "config"),
            ("ldmsjob.transports.sock.SockLink", "xprt.zap.sock"),
            ("ldmsjob.daemon.Daemon", "ldmsd"),
            ("twisted.internet.base", "ldmsd"),
            ("jobmgr.jobmgr_slurm.a", "jobmgr.jobmgr_slurm.a"),
            ("my_plugin.it", "my_plugin.it"),
        ):
            self.assertEqual(logger_name(namespace), expected)

    def test_level_is_looked_at(self):
        """A logger that is off writes nothing but its ALWAYS lines."""
        self.levels.set_named("config", parse_level("QUIET"))
        self.log.critical("c")
        self.log.info("e", always=True)
        self.assertEqual(self.output.getvalue(), "         : config: e\n")

    def test_stamps(self):
        """Seconds with six decimals, or the date, when the environment says so."""
        self.assertEqual(stamp_from({"LDMSD_LOG_TIME_SEC": "1"})(1.5), "1.500000: ")
        self.assertRegex(
            stamp_from({"LDMSD_LOG_DATE_TIME": "1"})(1.5), r"^\w{3} \w{3} .\d \d\d:.* 19\d\d: $"
        )

    def test_one_event_is_one_line(self):
        """Control characters of a message cannot forge a line; tracebacks follow theirs."""
        self.log.error("{name}", name="a\nERROR: config: b\x1b[2J")
        self.assertEqual(
            self.output.getvalue(), "    ERROR: config: a\\x0aERROR: config: b\\x1b[2J\n"
        )
        self.log.failure("oops", failure=Failure(ValueError("bad")))
        self.assertIn(" CRITICAL: config: oops\nTraceback", self.output.getvalue())

    def test_file(self):
        """Lines go to the file that was opened last, behind what it holds."""
        path, other = self.mktemp(), self.mktemp()
        self.observer.open(path)
        self.log.error("one \udce9")
        self.observer.open(other)
        self.log.error("two")
        self.observer.open(path)
        self.log.error("three")
        self.observer.open(self.mktemp())
        with open(path) as first, open(other) as second:
            self.assertEqual(
                first.read(), "    ERROR: config: one \\udce9\n    ERROR: config: three\n"
            )
            self.assertEqual(second.read(), "    ERROR: config: two\n")

    def test_reopen(self):
        """Lines go to a new file when the old one was moved, and are appended when it was not."""
        self.observer.reopen()
        directory = self.mktemp()
        os.mkdir(directory)
        path = os.path.abspath(os.path.join(directory, "log"))
        self.observer.open(os.path.relpath(path))
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir("/")
        self.log.error("one")
        self.observer.reopen()
        self.log.error("two")
        os.rename(path, f"{path}.1")
        self.log.error("three")
        self.observer.reopen()
        self.log.error("four")
        with open(f"{path}.1") as old, open(path) as new:
            self.assertEqual([line.split()[-1] for line in old], ["one", "two", "three"])
            self.assertEqual([line.split()[-1] for line in new], ["four"])

    def test_reopen_that_fails(self):
        """Lines go on where they went."""
        path = os.path.join(self.mktemp(), "log")
        os.mkdir(os.path.dirname(path))
        self.observer.open(path)
        os.rename(os.path.dirname(path), f"{os.path.dirname(path)}.moved")
        error = self.assertRaises(ConfigError, self.observer.reopen)
        self.assertEqual(error.rc, 2)
        self.log.error("still")
        with open(f"{os.path.dirname(path)}.moved/log") as file:
            self.assertIn("still", file.read())

    def test_file_that_cannot_be_opened(self):
        """Is the user's mistake, and lines go on where they went."""
        error = self.assertRaises(ConfigError, self.observer.open, "/nonexistent/x")
        self.assertEqual(error.rc, 2)
        self.log.error("a")
        self.assertIn("a", self.output.getvalue())

    def test_lost_lines_are_counted(self):
        """A failing write raises nothing."""
        self.output.close()
        self.log.error("a")
        self.assertEqual(self.observer.lost, 1)

    def test_syslog(self):
        """Lines go to syslog with their priority, and leave it again."""
        with mock.patch("ldmsjob.logformat.syslog.syslog") as write:
            self.observer.open("syslog")
            self.log.error("a")
            self.log.info("b", always=True)
        self.assertEqual(
            [call.args for call in write.mock_calls], [(3, "config: a"), (5, "config: b")]
        )
