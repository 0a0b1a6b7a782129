"""The service tree: order, names, listeners, files."""

import os

from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import IListener, ITransport
from ldmsjob.notices import JobInit
from ldmsjob.services import STOP_SECONDS, OrderedServices
from ldmsjob.subscriber import JobSubscriber
from tests.daemons import FakeListener, FakeTransport, Rig

BOTH = (
    "msg_enable\nlisten xprt=wire port=411\n"
    "load name=s plugin=sampler\nconfig name=s\n"
    "load name=a plugin=jm\nconfig name=a\njobmgr_start name=a\n"
)


class DaemonTests(SynchronousTestCase):
    """A daemon with fakes."""

    def setUp(self):
        """A daemon that is not started."""
        self.rig = Rig(self)
        self.daemon = self.rig.daemon

    def watch(self):
        """One list of the calls of both plugins and the transport of ``BOTH``, in order."""
        calls = []

        class Both(list):
            def __init__(self, who):
                self.who = who

            def append(self, call):
                calls.append((self.who, call[0]))

        for name in ("a", "s"):
            self.rig.plugin(name).calls = Both(name)
        self.daemon.endpoints[0].transport.calls = Both("wire")
        return calls

    def test_fakes(self):
        """The fakes of these tests are what they stand for."""
        self.assertTrue(IListener.implementedBy(FakeListener))
        self.assertTrue(ITransport.implementedBy(FakeTransport))

    def test_order(self):
        """Job managers, then samplers; the reverse at the end, after the listeners."""
        self.rig.read(BOTH)
        calls = self.watch()
        self.daemon.privilegedStartService()
        self.assertEqual(calls, [("wire", "bind")])
        self.daemon.startService()
        self.assertEqual(calls[1:], [("a", "start"), ("s", "start")])
        del calls[:]
        self.successResultOf(self.rig.stop())
        self.assertEqual(calls, [("wire", "unbind"), ("s", "stop"), ("a", "stop")])

    def test_tree(self):
        """Every part can be found by its name."""
        self.rig.read(BOTH)
        daemon = self.daemon
        self.assertEqual(daemon.name, "ldmsjob")
        self.assertEqual(
            [service.name for service in daemon],
            ["health", "hubs", "job managers", "recovery", "samplers", "links", "listeners"],
        )
        daemon.getServiceNamed("job managers").getServiceNamed("a")
        daemon.getServiceNamed("samplers").getServiceNamed("s")
        daemon.getServiceNamed("listeners").getServiceNamed("wire:411")

    def test_transport_that_authenticates(self):
        """It gets an authenticator only where `listen` names one; what it says to that has the
        place of the line."""
        auths = "auth_add name=a plugin=none\n"
        self.rig.read(
            f"{auths}listen xprt=wire port=1\nlisten xprt=wire port=2 auth=a\n"
            "listen xprt=proving port=3\n"
        )
        given = [endpoint.transport.authenticators for endpoint in self.daemon.endpoints]
        self.assertEqual([one is None for one in given[0]], [False, False])
        self.assertIsNot(*given[0])
        self.assertEqual(given[2], [None])
        rig = Rig(self)
        error = self.assertRaises(
            ConfigError, rig.read, f"{auths}listen xprt=proving port=3 auth=a\n"
        )
        self.assertRegex(error.where, ":2$")

    def test_name(self):
        """Is <hostname>:<first port> unless one is given; the hostname alone without a listener."""
        self.rig.read("listen xprt=wire port=500\nlisten xprt=wire port=400\n")
        self.assertEqual(self.daemon.core.daemon_name, "node-1:500")
        other = Rig(self)
        other.read("")
        self.assertEqual(other.daemon.core.daemon_name, "node-1")

    def test_listener_that_cannot_be_bound(self):
        """Error 7 with its line; nothing was started."""
        (path,) = self.rig.read(BOTH)
        self.daemon.endpoints[0].transport.taken.add(411)
        error = self.assertRaises(ConfigError, self.daemon.privilegedStartService)
        self.assertEqual((error.rc, error.where), (7, f"{path}:2"))
        self.assertIn("411", error.message)
        self.assertEqual(self.rig.plugin("a").calls, [("configure", {"colour": "red"})])

    def test_listen_while_running(self):
        """Binds at once; one that cannot be bound leaves no trace."""
        self.rig.read(BOTH)
        self.rig.start()
        transport = self.daemon.endpoints[0].transport
        self.rig.run("listen xprt=wire port=412")
        self.assertEqual(transport.calls[-1], ("bind", 412))
        transport.taken.add(413)
        error = self.assertRaises(ConfigError, self.rig.run, "listen xprt=wire port=413")
        self.assertEqual((error.rc, error.where), (7, "live:1"))
        self.assertEqual(len(list(self.daemon.listeners)), 2)
        transport.taken.clear()
        self.rig.run("listen xprt=wire port=413")

    def test_any_port(self):
        """Two listeners may each take a free port."""
        self.daemon.listen("wire", None, 0)
        self.daemon.listen("wire", None, 0)
        self.rig.read("")
        self.assertEqual(len(list(self.daemon.listeners)), 2)

    def test_message_service_as_peers_see_it(self):
        """A listener tells what holds when a peer connects."""
        self.rig.read(BOTH)
        (settings,) = self.daemon.endpoints[0].transport.settings
        self.assertTrue(settings.messages_enabled())
        self.rig.run("msg_disable")
        self.assertFalse(settings.messages_enabled())

    def test_groups_of_peers(self):
        """Every listener has them looked up, in the cache that all share."""
        self.rig.read(BOTH)
        (settings,) = self.daemon.endpoints[0].transport.settings
        self.assertEqual(settings.identified, self.daemon.memberships.identified)

    def test_pid_file(self):
        """Holds our process id while the daemon runs."""
        path = self.mktemp()
        self.rig.read(f"pid_file path={path}\n")
        self.rig.start()
        with open(path) as file:
            self.assertEqual(file.read(), f"{os.getpid()}\n")
        self.successResultOf(self.rig.stop())
        self.assertFalse(os.path.exists(path))

    def test_pid_file_that_cannot_be_written(self):
        """Error with its line."""
        (path,) = self.rig.read("\npid_file path=/nonexistent/p\n")
        error = self.assertRaises(ConfigError, self.daemon.startService)
        self.assertEqual((error.rc, error.where), (2, f"{path}:2"))

    def test_first_and_last_line(self):
        """One line that cannot be filtered when it is ready, one when it ends, with the status."""
        events = []
        self.patch(type(self.daemon), "log", Logger(observer=events.append))
        self.rig.read(BOTH)
        self.rig.start()
        self.successResultOf(self.rig.stop())
        always = [event for event in events if event.get("always")]
        levels = [LogLevel.info, LogLevel.warn, LogLevel.info]
        self.assertEqual([event["log_level"] for event in always], levels)
        self.assertIn("ready", always[0]["log_format"])
        self.assertEqual(always[2]["rc"], 0)

    def test_open_listeners(self):
        """Where peers are believed, that is said once, of those listeners alone."""
        events = []
        self.patch(type(self.daemon), "log", Logger(observer=events.append))
        secret = self.rig.file("secretword=not-to-be-guessed\n")
        os.chmod(secret, 0o600)
        self.rig.read(
            f"auth_add name=word plugin=ovis conf={os.path.abspath(secret)}\n"
            "auth_add name=claim plugin=naive\n"
            "listen xprt=wire port=1 auth=word\nlisten xprt=wire port=2 host=localhost\n"
            "listen xprt=wire port=3\nlisten xprt=wire port=4 auth=claim\n"
        )
        self.rig.start()
        (line,) = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
        for word in ("wire:2:localhost (none), wire:3 (none), wire:4 (naive) may be root", "munge"):
            self.assertIn(word, line)
        self.assertNotIn("wire:1", line)

    def test_no_open_listeners(self):
        """Without such a listener nothing is said."""
        events = []
        self.patch(type(self.daemon), "log", Logger(observer=events.append))
        self.rig.read("daemon_name name=x\n")
        self.rig.start()
        self.assertNotIn(LogLevel.warn, [event["log_level"] for event in events])

    def test_counters_are_told_at_the_end(self):
        """One INFO line for each group that has counted anything, before the last line."""
        events = []
        self.patch(type(self.daemon), "log", Logger(observer=events.append))
        self.rig.read(BOTH)
        self.rig.start()
        context = self.rig.plugin("a").context
        context.stats.add("odd", 3)
        context.stats.add("even", 2)
        context.stats.add("none", 0)
        context.apply(JobInit("1"), 1)
        del events[:]
        self.successResultOf(self.rig.stop())
        self.assertEqual(
            [(event["log_level"], formatEvent(event)) for event in events],
            [
                (LogLevel.info, line)
                for line in (
                    "counters of job_sets: made=1",
                    "counters of plugins/jobmgr.jm.a: even=2 notices=1 odd=3",
                    "LDMS Daemon exiting...status 0",
                )
            ],
        )
        self.assertNotIn("always", events[0])

    def test_start_that_fails(self):
        """What had started is stopped, and the status is the error's."""
        self.rig.read(BOTH)
        calls = self.watch()

        def refuse():
            raise ConfigError("no", rc=28)

        self.rig.plugin("s").behave["start"] = refuse
        self.daemon.privilegedStartService()
        self.assertRaises(ConfigError, self.daemon.startService)
        self.assertEqual(
            calls,
            [("wire", "bind"), ("a", "start"), ("s", "start"), ("wire", "unbind"), ("a", "stop")],
        )
        self.assertEqual(self.daemon.exit_status, 28)

    def test_description(self):
        """Says what would run."""
        self.rig.read(BOTH + "start name=s interval=1.5s\nload name=b plugin=jm\n")
        self.assertEqual(
            self.daemon.describe(),
            [
                "daemon name node-1:411",
                "listen on wire:411",
                "messages enabled",
                "journal off",
                "job manager a (plugin jm): starts",
                "job manager b (plugin jm): loaded",
                "sampler s (plugin sampler): starts, sampling every 1.5 s",
            ],
        )

    def test_broken_drop_ins_are_logged(self):
        """Each one, when the daemon is set up."""
        events = []
        self.patch(type(self.daemon), "log", Logger(observer=events.append))
        self.daemon.loader.problems.append("x.py: no")
        self.rig.read("")
        self.assertEqual([event["problem"] for event in events], ["x.py: no"])

    def test_slow_job_subscriber(self):
        """Samplers whose subscribers never end an event keep the daemon once, not once for each;
        what they had still to get is counted and told."""
        events = []
        self.patch(OrderedServices, "log", Logger(observer=events.append))
        self.rig.read(BOTH + "load name=s2 plugin=sampler\nconfig name=s2\n")
        self.rig.start()

        class Stuck(JobSubscriber):
            def job_started(self, event):
                return Deferred()

        for name in ("s", "s2"):
            self.rig.plugin(name).context.subscribe_jobs(Stuck())
        for job_id in ("1", "2", "3"):
            self.rig.plugin("a").context.apply(JobInit(job_id), 1)
        stopped = self.rig.stop()
        self.rig.clock.advance(STOP_SECONDS)
        self.successResultOf(stopped)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                f"{name} did not stop within 5 s and is left; 2 job events for it are discarded"
                for name in ("s2", "s")
            ],
        )
        self.assertEqual(self.daemon.stats.child("subscribers").child("s").get("discarded"), 2)

    def test_slow_subscriber_of_nobody(self):
        """One that no plugin has made is left, too, with the job events."""
        events = []
        self.patch(OrderedServices, "log", Logger(observer=events.append))
        self.rig.read(BOTH)
        self.rig.start()

        class Stuck(JobSubscriber):
            def job_started(self, event):
                return Deferred()

        self.daemon.core.jobs.subscribe(Stuck(), name="x")
        for job_id in ("1", "2"):
            self.rig.plugin("a").context.apply(JobInit(job_id), 1)
        stopped = self.rig.stop()
        self.rig.clock.advance(STOP_SECONDS)
        self.successResultOf(stopped)
        self.assertIn("; 1 job events for it are discarded", formatEvent(events[0]))


class JournalCommandTests(SynchronousTestCase):
    """`journal`, and a daemon that has one."""

    def rig(self, text):
        """A daemon with a state directory that has read ``text``."""
        rig = Rig(self, state_directory=os.path.abspath(self.mktemp()))
        rig.read(text)
        return rig

    def test_where(self):
        """Below the state directory, by the daemon's name; elsewhere; or nowhere."""
        rig = self.rig("daemon_name name=a/b\n")
        self.assertTrue(rig.daemon.journal_path.endswith("/a_b/journal.sqlite"))
        path = os.path.abspath(self.mktemp())
        self.assertEqual(self.rig(f"journal path={path}\n").daemon.journal_path, path)
        self.assertIsNone(self.rig("journal enabled=false\n").daemon.journal_path)
        self.assertIsNone(Rig(self).daemon.journal_path)

    def test_given_to_a_user(self):
        """The daemon's own directory is, and one that is made; one that was there is not: it may
        be /var/lib."""
        given = []
        self.patch(os, "chown", lambda path, *ids, **_: given.append(path))
        own = self.rig("").daemon
        own.will_run_as(7, 8)
        own.privilegedStartService()
        self.assertEqual(given, [os.path.dirname(own.journal_path)])
        directory = os.path.abspath(self.mktemp())
        for expected in (2, 2):  # made by the first, there for the second
            named = self.rig(f"journal path={directory}/j\n").daemon
            named.will_run_as(7, 8)
            named.privilegedStartService()
            self.assertEqual(len(given), expected)
        self.assertEqual(given[1], directory)

    def test_mistakes(self):
        """Paths from the root on, times and sizes with units, once."""
        for words in ("path=x", "enabled=perhaps", "max_age=1y", "max_size=big"):
            self.assertRaises(ConfigError, self.rig, f"journal {words}\n")
        settings = self.rig("journal max_age=2d max_size=1M\njournal max_age=3d\n")
        settings = settings.daemon.journal_settings
        self.assertEqual((settings.max_age_seconds, settings.max_bytes), (172_800, 1 << 20))

    def test_life(self):
        """Jobs of one daemon are there in the next, before samplers start."""
        text = "msg_enable\nload name=jm\nconfig name=jm\njobmgr_start name=jm\n"
        rig = self.rig(text)
        rig.start()
        context = rig.daemon.instance("jm").context
        context.resource_manager = "slurm"
        context.apply(JobInit("7"), 5)
        context.keep("a", 3)
        self.successResultOf(rig.daemon.stopService())
        again = Rig(self, state_directory=rig.daemon._state_directory)
        again.read(text + "load name=sampler\nconfig name=sampler\n")
        seen = []
        again.plugin("sampler").behave["start"] = lambda: seen.extend(again.daemon.core.jobs.jobs())
        again.start()
        self.assertEqual([job.key.job_id for job in seen], ["7"])
        self.assertEqual(again.daemon.instance("jm").context.kept(), {"a": 3})

    def test_job_manager_that_is_not_configured(self):
        """Gets no jobs back: nobody would tell of them."""
        rig = self.rig("msg_enable\nload name=jm\nconfig name=jm\njobmgr_start name=jm\n")
        rig.start()
        rig.daemon.instance("jm").context.apply(JobInit("7"), 5)
        self.successResultOf(rig.daemon.stopService())
        again = Rig(self, state_directory=rig.daemon._state_directory)
        again.read("load name=jm\n")
        again.start()
        self.assertEqual(again.daemon.core.jobs.jobs(), [])

    def test_second_daemon(self):
        """One of the same name is not started."""
        rig = self.rig("journal enabled=true\n")
        rig.start()
        again = Rig(self, state_directory=rig.daemon._state_directory)
        again.read("")
        error = self.assertRaises(ConfigError, again.daemon.startService)
        self.assertEqual(error.rc, 16)
