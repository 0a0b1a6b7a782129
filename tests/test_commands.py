"""Verbs, their attributes, and the two passes over files."""

import os
from pathlib import Path

from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.commands import NOT_YET, VERBS
from ldmsjob.errors import ConfigError
from ldmsjob.logformat import parse_level
from ldmsjob.options import OPTIONS, commands_of
from tests.daemons import Rig


class CommandTests(SynchronousTestCase):
    """Single commands."""

    def setUp(self):
        """A daemon that is not started."""
        self.rig = Rig(self)
        self.daemon = self.rig.daemon

    def fails(self, *texts, rc, options=()):
        """Read files that fail with this rc; the error."""
        error = self.assertRaises(ConfigError, Rig(self).read, *texts, options=options)
        self.assertEqual(error.rc, rc, str(error))
        return error

    def test_table(self):
        """Every verb has a help line, and none is said to be missing."""
        for name, verb in VERBS.items():
            self.assertTrue(verb.help.endswith("."), name)
            self.assertNotIn(name, NOT_YET)

    def test_unknown_verb(self):
        """Error 38 with the nearest one; case counts."""
        self.assertEqual(self.fails("lod name=a", rc=38).hint, "did you mean 'load'?")
        self.assertEqual(self.fails("LOAD name=a", rc=38).hint, "did you mean 'load'?")
        self.assertIn("backslash", self.fails("interval=3", rc=38).hint)
        self.assertIn("there are: auth_add", self.fails("zzzzz", rc=38).hint)

    def test_verb_that_c_has(self):
        """Error 38 that says so."""
        error = self.fails("prdcr_add name=a", rc=38)
        self.assertIn("C daemon", error.message)
        self.assertIn("does not have yet", error.message)

    def test_unknown_attribute(self):
        """Error 22 with the nearest right one, or whose it is."""
        self.assertEqual(self.fails("listen xprt=sock prot=1", rc=22).hint, "did you mean 'port'?")
        self.assertIn("'port' belongs to 'listen'", self.fails("term name=a port=1", rc=22).hint)
        self.assertIn("'config' line", self.fails("load name=a file=/x", rc=22).hint)
        self.assertIn("it has none", self.fails("msg_enable now", rc=22).hint)

    def test_missing_attribute(self):
        """Error 22 with the way to write the command."""
        error = self.fails("start name=a", rc=22)
        self.assertEqual(
            str(error).split(": ", 1)[1],
            "the attribute 'interval' is required by 'start'; "
            "start name=… interval=… [offset=…] [exclusive_thread=…]",
        )

    def test_keyword_for_a_value(self):
        """An attribute without = is refused where a value is needed."""
        self.assertIn("needs a value", self.fails("load name", rc=22).message)

    def test_unclosed_quote_and_double_attribute(self):
        """Error 22."""
        self.assertIn("not closed", self.fails('load name="a', rc=22).message)
        self.assertIn("given twice", self.fails("load name=a name=b", rc=22).message)

    def test_load(self):
        """Unknown plugins are refused with the nearest; plugin= names another."""
        error = self.fails("load name=jobmgr_slurn", rc=2)
        self.assertEqual(error.hint, "did you mean 'jobmgr_slurm'?")
        self.fails("load name=a plugin=b", rc=2)
        self.rig.read("load name=a plugin=jm\nload name=jm\n")

    def test_instances_that_are_not_there(self):
        """Error 2, with the nearest instance or what to put in front."""
        error = self.fails("config name=a", rc=2)
        self.assertIn("put 'load name=a'", error.hint)
        error = self.fails("load name=jm\nload name=sampler\nconfig name=samplr", rc=2)
        self.assertEqual(error.hint, "did you mean 'sampler'?")
        error = self.fails("msg_enable\nload name=sampler\njobmgr_start name=sampler", rc=2)
        self.assertEqual(error.hint, "'sampler' is a sampler")
        for line in ("stop name=a", "term name=a", "jobmgr_start name=a", "jobmgr_stop name=a"):
            self.fails(line, rc=2)

    def test_messages_must_be_enabled(self):
        """`jobmgr_start` is error 95 unless some file enables them, wherever it stands."""
        text = "load name=jm\nconfig name=jm\njobmgr_start name=jm\n"
        error = self.fails(text, rc=95)
        self.assertTrue(error.where.endswith(":3"))
        self.assertIn("msg_enable", error.hint)
        self.fails("msg_enable\nmsg_disable\n" + text, rc=95)
        self.rig.read(text, "msg_enable")
        self.assertTrue(self.daemon.hub.enabled)

    def test_listen(self):
        """All attributes; port 411 where none is given."""
        self.rig.read(
            "auth_add name=d plugin=none\nlisten xprt=wire\n"
            "listen xprt=wire port=412 host=h quota=5 rx_rate=6 auth=d\n"
        )
        self.assertEqual(list(map(str, self.daemon.endpoints)), ["wire:411", "wire:412:h"])
        transport = self.daemon.endpoints[0].transport
        self.assertEqual([(s.quota, s.rx_rate) for s in transport.settings], [(-1, -1), (5, 6)])
        self.assertFalse(transport.settings[0].messages_enabled())

    def test_listen_attributes(self):
        """A transport gets its own attributes, checked; those with the same ones share it."""
        self.rig.read(
            "listen xprt=wire\nlisten xprt=wire port=412 colour=blue\n"
            "listen xprt=wire port=413 colour=red\n"
        )
        plain, blue, red = (endpoint.transport for endpoint in self.daemon.endpoints)
        self.assertEqual(plain.calls, [("configure", {"colour": "red"})])
        self.assertEqual(blue.calls, [("configure", {"colour": "blue"})])
        self.assertIs(red, plain)
        error = self.fails("listen xprt=wire prt=5", rc=22)
        self.assertIn("'listen xprt=wire' has no attribute 'prt'", error.message)
        self.assertIn("port", error.hint)

    def test_name_without_a_port(self):
        """A listener at a path gives the daemon's name no port; a later one that has one does."""
        self.rig.read("listen xprt=local path=/x\n")
        self.assertEqual(self.daemon.core.daemon_name, "node-1")
        rig = Rig(self)
        rig.read("listen xprt=local path=/x\nlisten xprt=wire port=412\n")
        self.assertEqual(rig.daemon.core.daemon_name, "node-1:412")

    def test_listen_path(self):
        """A transport without ports is given a path from the root on, and no other is."""
        option = commands_of([("x", "local:/y:z")], "option")
        self.rig.read("listen xprt=local path=/run/x size=5\n", options=option)
        self.assertEqual(list(map(str, self.daemon.endpoints)), ["local:/y:z", "local:/run/x"])
        self.rig.start()
        listener, _ = self.daemon.listeners
        self.assertEqual((listener.host, listener.port), ("/y:z", 0))
        self.assertIn("path=/", self.fails("listen xprt=local", rc=22).hint)
        self.fails("listen xprt=local path=run/x", rc=22)
        self.fails("listen xprt=local path=/x port=5", rc=22)
        self.fails("listen xprt=local path=/x host=h", rc=22)
        self.fails("listen xprt=wire path=/x", rc=22)
        self.fails("listen xprt=local path=/x\nlisten xprt=local path=/x", rc=17)

    def test_listen_errors(self):
        """Port and numbers in range, known transport and domain, no endpoint twice."""
        for port in ("0", "65536", "http", ""):
            self.fails(f"listen xprt=wire port={port}", rc=22)
        self.fails("listen xprt=wire quota=-2", rc=22)
        self.assertIn("'sock'", self.fails("listen xprt=rdma", rc=2).hint)
        self.assertIn("auth_add name=d", self.fails("listen xprt=wire auth=d", rc=2).hint)
        self.fails("listen xprt=wire\nlisten xprt=wire port=411", rc=17)

    def test_authentication(self):
        """Only what there is, noticed where it is named; names only once."""
        self.assertIn("'gssapi'", self.fails("auth_add name=gssapi", rc=2).message)
        self.assertIn("'gssapi'", self.fails("default_auth plugin=gssapi x=1", rc=2).message)
        self.fails("auth_add name=a plugin=none\nauth_add name=a plugin=none", rc=17)
        self.assertIn("it has none", self.fails("auth_add name=none uid=0", rc=22).hint)

    def test_env(self):
        """Sets variables for later values, in order; needs at least one."""
        self.rig.read('env A=x B="${A} y" C=${B}z\nload name=jm\nconfig name=jm colour=${C}\n')
        self.assertEqual(self.rig.interpreter.environ, {"A": "x", "B": "x y", "C": "x yz"})
        self.assertEqual(self.rig.plugin("jm").calls, [("configure", {"colour": "x yz"})])
        self.fails("env", rc=22)
        self.fails("env A", rc=22)

    def test_unset_variable(self):
        """Is empty, and named when the command fails."""
        error = self.fails("listen xprt=wire port=${PP}\nenv PP=411\n", rc=22)
        self.assertIn("port '' invalid", error.message)
        self.assertIn("${PP} is not set here", error.hint)

    def test_names_and_files(self):
        """The first value of a single-valued setting stays; the second is an ERROR line."""
        events = []
        self.patch(type(self.daemon), "log", Logger(observer=events.append))
        self.rig.read(
            "daemon_name name=a\npid_file path=/p\nset_memory size=1G\nmemory size=2G\n"
            "daemon_name name=b\nlog_level level=INFO\nloglevel level=DEBUG\n"
        )
        self.assertEqual(self.daemon.core.daemon_name, "a")
        self.assertEqual(self.daemon.pid_file, "/p")
        errors = [e for e in events if e["log_level"] == LogLevel.error]
        self.assertEqual(
            [(e["setting"], e["value"], e["where"].rpartition(":")[2]) for e in errors],
            [("set_memory", "2G", "4"), ("daemon_name", "b", "5"), ("log_level", "DEBUG", "7")],
        )
        self.assertEqual(self.daemon.levels.of("ldmsd"), parse_level("INFO"))
        self.fails("set_memory size=lots", rc=22)
        for name in ("a b", 'a"', "", "ü"):
            self.fails(f"daemon_name name='{name}'".replace("'", '"'), rc=22)

    def test_log_level(self):
        """For all loggers, one, or those that a regex is found in."""
        self.rig.read(
            "log_level level=INFO\nlog_level level=DEBUG name=config\n"
            "log_level level=QUIET regex=^jobmgr\n"
        )
        levels = self.daemon.levels
        self.assertEqual(levels.of("ldmsd"), parse_level("INFO"))
        self.assertEqual(levels.of("config"), parse_level("DEBUG"))
        self.assertEqual(levels.of("jobmgr.p.i"), frozenset())
        self.fails("log_level level=loud", rc=22)
        self.fails("log_level level=INFO name=nobody", rc=2)
        self.fails("log_level level=INFO name=config regex=c", rc=22)

    def test_log_level_test(self):
        """test=true writes a line at each level."""
        events = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.rig.read("log_level level=INFO name=config test=true")
        tests = [e for e in events if e["log_format"].startswith("TEST")]
        self.assertEqual({e["log_namespace"] for e in tests}, {"config"})
        self.assertEqual(len({e["log_level"] for e in tests}), 5)

    def test_settings_of_a_running_daemon(self):
        """Those of the start-up are refused with EBUSY, the log's level changes."""
        self.rig.read("log_level level=INFO\n")
        for line in ("daemon_name name=x", "pid_file path=/x", "default_auth plugin=none"):
            error = self.assertRaises(ConfigError, self.rig.run, line)
            self.assertEqual(error.rc, 16)
        self.rig.run("log_level level=DEBUG")
        self.assertEqual(self.daemon.levels.of("ldmsd"), parse_level("DEBUG"))

    def test_commands_from_afar(self):
        """Read no environment variable."""
        self.rig.read("load name=jm\n")
        self.rig.interpreter.environ["A"] = "secret"
        from ldmsjob.config import parse

        (one,) = parse("config name=jm colour=${A}", "peer")
        self.rig.interpreter.execute(one, trusted=False)
        self.assertEqual(self.rig.plugin("jm").calls[-1], ("configure", {"colour": "${A}"}))


class DocumentationTests(SynchronousTestCase):
    """docs/operating.md, Commands."""

    def test_every_verb(self):
        """The table has them all."""
        text = (Path(__file__).parent.parent / "docs" / "operating.md").read_text("utf-8")
        table = text.partition("\n## Commands\n")[2].partition("\n## ")[0]
        names = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
        for name in VERBS:
            self.assertTrue(any(f"`{name}`" in one for one in names), name)


class PassTests(SynchronousTestCase):
    """Files, passes and includes."""

    def setUp(self):
        """A daemon that is not started."""
        self.rig = Rig(self)

    def fails(self, *paths):
        """Reading these files fails; the error."""
        return self.assertRaises(ConfigError, self.rig.interpreter.read, (), paths)

    def test_priority_commands_come_first(self):
        """Of all files, before any other command of any."""
        self.rig.read(
            "load name=jm\nconfig name=jm colour=${A}\n", "env A=blue\ndaemon_name name=d\n"
        )
        self.assertEqual(self.rig.plugin("jm").calls, [("configure", {"colour": "blue"})])
        self.assertEqual(self.rig.plugin("jm").context.daemon_name, "d")

    def test_mistakes_that_can_be_seen_come_first(self):
        """An unknown verb in line 3 is told before a plugin that is missing in line 2."""
        error = self.fails(self.rig.file("# x\nload name=nothing\nlod name=a\n"))
        self.assertTrue(error.where.endswith(":3"))

    def test_include_runs_everything_in_place(self):
        """Priority commands in the first pass, the others in the second, in order."""
        inner = self.rig.file("env A=blue\nload name=jm\nconfig name=jm colour=${A}\n")
        self.rig.read(f"include path={inner}\nconfig name=jm size=1\n")
        self.assertEqual(
            self.rig.plugin("jm").calls,
            [("configure", {"colour": "blue"}), ("configure", {"colour": "red", "size": "1"})],
        )

    def test_include_twice(self):
        """The same file may be included again when it has ended."""
        inner = self.rig.file("env A=1\n")
        self.rig.read(f"include path={inner}\ninclude path={inner}\n")

    def test_include_while_running(self):
        """Runs at once."""
        self.rig.read("")
        self.rig.run(f"include path={self.rig.file('load name=jm')}")
        self.rig.plugin("jm")

    def test_errors_in_an_included_file(self):
        """Name that file's line, and the one that included it, in either pass."""
        for text in ("\nlod\n", "\nload name=x\n"):
            inner = self.rig.file(text)
            outer = self.rig.file(f"\n\ninclude path={inner}\n")
            error = self.fails(outer)
            self.assertEqual(error.where, f"{inner}:2")
            self.assertTrue(error.hint.endswith(f"included from {outer}:3"), error.hint)

    def test_include_cycle(self):
        """Is refused with the files of the circle."""
        first, second = self.mktemp(), self.mktemp()
        self.rig.file(f"include path={second}\n", first)
        self.rig.file(f"include path={first}\n", second)
        error = self.fails(first)
        self.assertEqual((error.rc, error.where), (40, f"{second}:1"))
        self.assertIn(os.path.realpath(first), error.hint)

    def test_missing_files(self):
        """Error 2; an included one at the line of its include."""
        self.assertEqual(self.fails("/nonexistent/a").rc, 2)
        error = self.fails(self.rig.file("\ninclude path=/nonexistent/b\n"))
        self.assertEqual(error.rc, 2)
        self.assertTrue(error.where.endswith(":2"))
        error = self.fails(self.rig.file("include x\n"))
        self.assertEqual((error.rc, error.hint.split(";")[0]), (22, "it has: path"))

    def test_byte_order_mark(self):
        """At the start of a file means nothing."""
        self.rig.read("\ufeffload name=jm\n")


class OptionTests(SynchronousTestCase):
    """Command-line options as commands."""

    def verbs(self, *pairs):
        """(verb, attributes, where) of these options."""
        return [(c.verb, dict(c.attributes), c.where) for c in commands_of(pairs, "option")]

    def test_options_say_what_commands_say(self):
        """In order, and with their place."""
        self.assertEqual(
            self.verbs(("x", "sock:411"), ("x", "sock:412:::1"), ("n", "d"), ("v", "INFO")),
            [
                ("listen", {"xprt": "sock", "port": "411"}, "option -x"),
                ("listen", {"xprt": "sock", "port": "412", "host": "::1"}, "option -x"),
                ("daemon_name", {"name": "d"}, "option -n"),
                ("log_level", {"level": "INFO"}, "option -v"),
            ],
        )
        for option in OPTIONS.values():
            if option.verb:
                self.assertIn(option.attribute, VERBS[option.verb].attributes)

    def test_all_authentication_options_count(self):
        """However many -A there are, before or behind -a."""
        self.assertEqual(
            self.verbs(("A", "conf=/x"), ("a", "ovis"), ("A", "b=c=d")),
            [("default_auth", {"plugin": "ovis", "conf": "/x", "b": "c=d"}, "option -a")],
        )

    def test_bad_options(self):
        """Are refused with their place."""
        for letter, value in (("x", "sock"), ("x", ":411"), ("A", "x"), ("P", "3"), ("C", "1")):
            error = self.assertRaises(ConfigError, self.verbs, (letter, value))
            self.assertEqual((error.rc, error.where), (22, f"option -{letter}"))
            self.assertTrue(error.hint)

    def test_command_line_wins(self):
        """Over files, that is: it is first."""
        rig = Rig(self)
        rig.read("daemon_name name=file\n", options=commands_of([("n", "line")], "option"))
        self.assertEqual(rig.daemon.core.daemon_name, "line")
        self.flushLoggedErrors()

    def test_option_command(self):
        """Says the same in a file; what belongs to the command line is refused."""
        rig = Rig(self)
        rig.read('env N=x\noption -n "${N}" --log_level=INFO\n')
        self.assertEqual(rig.daemon.core.daemon_name, "x")
        self.assertEqual(rig.daemon.levels.of("ldmsd"), parse_level("INFO"))
        for text, rc in (
            ("-x sock:1", 22),
            ("-F", 22),
            ("-u all", 22),
            ("-V", 22),
            ("-c f", 22),
            ("-P 4", 22),
            ("-Z", 2),
            ("--bogus=1", 2),
            ("word", 2),
            ('-n "a', 22),
            ("-v loud", 22),
        ):
            error = self.assertRaises(ConfigError, Rig(self).read, f"\noption {text}\n")
            self.assertEqual(error.rc, rc, text)
            self.assertIn(":2", error.where)
