"""Plugin instances: what commands ask of them before and while the daemon runs."""

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import Busy, ChannelTaken, ConfigError
from ldmsjob.notices import JobExit, JobInit
from ldmsjob.services import STOP_SECONDS
from ldmsjob.sets.schema import Schema
from ldmsjob.subscriber import JobSubscriber
from ldmsjob.values import U32
from tests.daemons import Rig

LOADED = "msg_enable\nload name=a plugin=jm\n"
CONFIGURED = LOADED + "config name=a\n"
STARTED = CONFIGURED + "jobmgr_start name=a\n"
SAMPLER = "load name=s plugin=sampler\n"


def names(plugin):
    """The names of a fake plugin's calls."""
    return [call[0] for call in plugin.calls]


class JobManagerTests(SynchronousTestCase):
    """``load``, ``config``, ``jobmgr_start``, ``jobmgr_stop``, ``term``."""

    def setUp(self):
        """A daemon that is not started."""
        self.rig = Rig(self)

    def fails(self, line, rc):
        """Run a command that fails; its error."""
        error = self.assertRaises(ConfigError, self.rig.run, line)
        self.assertEqual(error.rc, rc, str(error))
        return error

    def test_starts_with_the_daemon(self):
        """Commands before the daemon runs take effect when it starts; it stops with it."""
        self.rig.read(STARTED)
        plugin = self.rig.plugin("a")
        self.assertEqual(plugin.calls, [("configure", {"colour": "red"})])
        self.rig.start()
        self.assertEqual(names(plugin), ["configure", "start"])
        self.assertEqual(self.rig.daemon.instance("a").state, "started")
        self.successResultOf(self.rig.stop())
        self.assertEqual(names(plugin), ["configure", "start", "stop"])

    def test_start_needs_config(self):
        """EINVAL, as in C."""
        self.rig.read(LOADED)
        error = self.fails("jobmgr_start name=a", 22)
        self.assertIn("jobmgr a start error: 22", error.message)
        self.assertIn("config name=a", error.hint)

    def test_busy(self):
        """Starting what is started, stopping what is not, configuring or removing it: EBUSY."""
        self.rig.read(CONFIGURED)
        self.assertIn("jobmgr a stop error: 16", self.fails("jobmgr_stop name=a", 16).message)
        self.rig.run("jobmgr_start name=a")
        for line in ("jobmgr_start name=a", "config name=a", "term name=a"):
            self.fails(line, 16)
        self.rig.start()
        for line in ("jobmgr_start name=a", "config name=a", "term name=a"):
            self.fails(line, 16)

    def test_stop_before_the_daemon_runs(self):
        """Takes the start back."""
        self.rig.read(STARTED + "jobmgr_stop name=a\n")
        self.rig.start()
        self.assertEqual(names(self.rig.plugin("a")), ["configure"])

    def test_stop_takes_its_time(self):
        """The command returns at once; until the plugin has stopped it is EBUSY."""
        self.rig.read(STARTED)
        self.rig.start()
        plugin, stopped = self.rig.plugin("a"), Deferred()
        plugin.behave["stop"] = stopped
        self.rig.run("jobmgr_stop name=a")
        self.assertIn("stopping", self.fails("jobmgr_start name=a", 16).message)
        self.fails("term name=a", 16)
        stopped.callback(None)
        self.rig.run("config name=a colour=blue")
        self.rig.run("jobmgr_start name=a")
        self.assertEqual(plugin.calls[-2:], [("configure", {"colour": "blue"}), ("start",)])
        plugin.behave.clear()

    def test_slow_start(self):
        """A stop that comes meanwhile waits for the start."""
        self.rig.read(STARTED)
        plugin, started = self.rig.plugin("a"), Deferred()
        plugin.behave["start"] = started
        self.rig.start()
        self.assertEqual(self.rig.daemon.instance("a").state, "starting")
        self.rig.run("jobmgr_stop name=a")
        self.assertEqual(names(plugin)[-1], "start")
        started.callback(None)
        self.assertEqual(names(plugin)[-1], "stop")
        self.assertEqual(self.rig.daemon.instance("a").state, "configured")

    def test_start_that_fails_at_once(self):
        """Is the start-up's error with the place of the command and the plugin's rc."""
        self.rig.read(STARTED)
        for problem, rc in (
            (ConfigError("no", rc=95, hint="h"), 95),
            (Busy("no"), 16),
            (ChannelTaken("no"), 17),
        ):

            def refuse(problem=problem):
                raise problem

            self.rig.plugin("a").behave["start"] = refuse
            self.rig.daemon.instance("a").wanted = True
            error = self.assertRaises(ConfigError, self.rig.daemon.startService)
            self.assertEqual(error.rc, rc)
            self.assertIn(":4", error.where)
            self.assertIn("no", error.message)

    def test_start_that_fails_later(self):
        """Is logged and counted; the daemon goes on, and the instance may be started again."""
        self.rig.read(STARTED)
        plugin, started = self.rig.plugin("a"), Deferred()
        plugin.behave["start"] = started
        self.rig.start()
        started.errback(ValueError("no"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.rig.daemon.instance("a").state, "failed")
        self.assertEqual(plugin.context.stats.get("failures"), 1)
        plugin.behave.clear()
        self.rig.run("jobmgr_start name=a")
        self.assertEqual(self.rig.daemon.instance("a").state, "started")

    def test_faulty_plugin(self):
        """An exception of any kind is logged, counted and becomes the command's error."""
        self.rig.read(LOADED)
        plugin = self.rig.plugin("a")
        plugin.behave["configure"] = lambda: 1 / 0
        error = self.fails("config name=a", 22)
        self.assertIn("ZeroDivisionError", error.message)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(plugin.context.stats.get("failures"), 1)
        self.fails("jobmgr_start name=a", 22)

    def test_faulty_stop(self):
        """Is logged; the instance has stopped all the same."""
        self.rig.read(STARTED)
        self.rig.start()
        self.rig.plugin("a").behave["stop"] = lambda: 1 / 0
        self.rig.run("jobmgr_stop name=a")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.rig.run("jobmgr_start name=a")
        self.rig.plugin("a").behave.clear()

    def test_stopped_means_no_more_messages(self):
        """Subscriptions that the plugin leaves open are closed for it."""
        self.rig.read(STARTED)
        self.rig.start()
        context = self.rig.plugin("a").context
        context.subscribe("slurm", print)
        self.assertRaises(ChannelTaken, context.subscribe, "slurm", print)
        self.rig.run("jobmgr_stop name=a")
        self.rig.run("jobmgr_start name=a")
        context.subscribe("slurm", print)

    def test_attributes_of_job_sets(self):
        """Are taken out, checked, and the plugin does not see them."""
        self.rig.read(LOADED)
        self.rig.run("config name=a linger=1m size=4 perm=0600")
        plugin = self.rig.plugin("a")
        self.assertEqual(plugin.calls, [("configure", {"colour": "red", "size": "4"})])
        self.assertEqual(plugin.context.policy.linger_seconds, 60)
        self.assertEqual(plugin.context.policy.perm, 0o600)
        self.assertEqual(self.fails("config name=a lingr=1", 22).hint, "did you mean 'linger'?")
        self.assertIn("linger", self.fails("config name=a linger=soon", 22).message)
        self.assertIn("owner", self.fails("config name=a owner=me", 22).message)

    def test_publishers(self):
        """Are looked up at once, kept from the plugin, and its subscriptions go by them."""
        self.rig.read(LOADED)
        error = self.fails("config name=a publishers=7,no-such-user", 22)
        self.assertIn("no user 'no-such-user'", error.message)
        self.rig.run("config name=a publishers=7,root,1000000")
        plugin = self.rig.plugin("a")
        self.assertEqual(plugin.calls, [("configure", {"colour": "red"})])
        got = []
        plugin.context.subscribe("slurm", got.append)
        for uid in (0, 7, 8, 1000000):
            self.rig.daemon.hub.publish("slurm", b"{}", uid=uid)
        self.assertEqual([message.uid for message in got], [0, 7, 1000000])
        self.rig.run("config name=a")
        plugin.context.subscribe("other", got.append)
        self.rig.daemon.hub.publish("other", b"{}", uid=7)
        self.assertEqual(len(got), 3)

    def test_term_drops_job_sets(self):
        """When a stopped job manager is removed, its jobs and sets go at once."""
        self.rig.read(STARTED)
        self.rig.start()
        context = self.rig.plugin("a").context
        context.apply(JobInit(job_id="7"), 1_000_000)
        self.assertEqual(len(context.jobs()), 1)
        self.assertEqual(self.rig.daemon.registry.names(), ["node-1/job_fake_7"])
        self.rig.run("jobmgr_stop name=a")
        self.assertEqual(len(context.jobs()), 1)
        self.rig.run("term name=a")
        self.assertEqual(self.rig.daemon.registry.names(), [])
        self.fails("jobmgr_start name=a", 2)
        self.rig.run("load name=a plugin=jm")

    def test_jobs_of_each(self):
        """Running and lingering ones are counted by job manager."""
        self.rig.read(STARTED + "load name=b plugin=jm\nconfig name=b\njobmgr_start name=b\n")
        self.rig.start()
        a, b = self.rig.plugin("a").context, self.rig.plugin("b").context
        for number in "123":
            a.apply(JobInit(job_id=number), 1_000_000)
        a.apply(JobExit(job_id="3"), 2_000_000)
        for context, running, lingering in ((a, 2, 1), (b, 0, 0)):
            gauges = context.stats.gauges()
            self.assertEqual(gauges["jobs_running"], running)
            self.assertEqual(gauges["jobs_lingering"], lingering)

    def test_several_instances_of_one_plugin(self):
        """Have their own names, loggers and counters; two of one name are refused with EEXIST."""
        self.rig.read(LOADED + "load name=b plugin=jm\n")
        self.fails("load name=b plugin=jm", 17)
        a, b = self.rig.plugin("a"), self.rig.plugin("b")
        self.assertIsNot(a, b)
        self.assertEqual(a.context.log.namespace, "jobmgr.jm.a")
        a.context.stats.add("x")
        self.assertEqual(b.context.stats.get("x"), 0)
        self.rig.run("load name=a plugin=sampler")

    def test_counters_of_a_terminated_instance(self):
        """Are gone: a new one of that name begins at 0."""
        self.rig.read(CONFIGURED)
        self.rig.plugin("a").context.stats.add("x")
        group = "plugins/jobmgr.jm.a"
        self.assertEqual(dict(self.rig.daemon.stats.groups())[group], {"x": 1})
        self.rig.run("term name=a")
        self.assertNotIn(group, dict(self.rig.daemon.stats.groups()))
        self.rig.run("load name=a plugin=jm")
        self.assertEqual(self.rig.plugin("a").context.stats.get("x"), 0)

    def test_two_of_one_channel(self):
        """Are refused before anything starts, as long as both are to run."""
        self.rig.read(
            "msg_enable\n"
            + "".join(
                f"load name={name} plugin=channel-jm\nconfig name={name} colour={colour}\n"
                for name, colour in (("a", "red"), ("b", "red"), ("c", "blue"))
            )
            + "jobmgr_start name=a\njobmgr_start name=c\n"
        )
        error = self.fails("jobmgr_start name=b", 17)
        self.assertIn("jobmgr b start error: 17: a already receives channel 'red'", error.message)
        self.assertIn(":8 starts it", error.hint)
        self.rig.run("jobmgr_stop name=a")
        self.rig.run("jobmgr_start name=b")
        self.fails("jobmgr_start name=a", 17)

    def test_faulty_channels(self):
        """Are the plugin's fault, and the command's error."""
        self.rig.read("msg_enable\nload name=a plugin=channel-jm\nconfig name=a\n")
        self.rig.run("load name=b plugin=channel-jm")
        self.rig.run("config name=b")
        self.rig.run("jobmgr_start name=a")
        self.rig.plugin("b").behave["channels"] = lambda: 1 / 0
        self.assertIn("ZeroDivisionError", self.fails("jobmgr_start name=b", 22).message)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class SamplerTests(SynchronousTestCase):
    """``load``, ``config``, ``start``, ``stop``, ``term``."""

    def setUp(self):
        """A daemon that is not started."""
        self.rig = Rig(self)

    fails = JobManagerTests.fails

    def test_starts_when_configured(self):
        """With the daemon, or at once when it runs; no `start` is needed."""
        self.rig.read(SAMPLER + "config name=s\nload name=t plugin=sampler\n")
        self.assertEqual(names(self.rig.plugin("s")), ["configure"])
        self.rig.start()
        self.assertEqual(names(self.rig.plugin("s")), ["configure", "start"])
        self.assertEqual(names(self.rig.plugin("t")), [])
        self.rig.run("config name=t")
        self.assertEqual(names(self.rig.plugin("t")), ["configure", "start"])
        self.fails("config name=t", 16)

    def test_start_checks(self):
        """The errors of `start`, in C's order."""
        self.rig.read(LOADED + SAMPLER)
        self.fails("start name=x interval=1s", 2)
        self.assertIn("jobmgr_start", self.fails("start name=a interval=1s", 22).hint)
        self.assertIn("not configured", self.fails("start name=s interval=bad", 16).message)
        self.rig.run("config name=s")
        for line in (
            "start name=s interval=abc",
            "start name=s interval=0",
            "start name=s interval=1s offset=600ms",
            "start name=s interval=9 offset=1",
            "start name=s interval=1s offset=x",
        ):
            self.fails(line, 22)
        self.rig.run("start name=s interval=1s offset=-500ms exclusive_thread=1")
        self.assertIn("already running", self.fails("start name=s interval=abc", 16).message)

    def test_readings(self):
        """Come aligned from the daemon's start on, end with `stop`, and may begin again."""
        self.rig.read(SAMPLER + "config name=s\nstart name=s interval=1000000\n")
        self.rig.clock.advance(5)
        plugin = self.rig.plugin("s")
        self.assertEqual(names(plugin), ["configure"])
        self.rig.start()
        self.rig.clock.pump([0.5, 0.5, 1])
        self.assertEqual(plugin.calls[2:], [("sample", 1_000_006.0), ("sample", 1_000_007.0)])
        self.rig.run("stop name=s")
        self.fails("stop name=s", 22)
        self.rig.clock.advance(5)
        self.assertEqual(len(plugin.calls), 4)
        self.rig.run("start name=s interval=1s")
        self.rig.clock.advance(1)
        self.assertEqual(len(plugin.calls), 5)
        self.fails("term name=s", 16)

    def test_failing_sampler(self):
        """Is stopped after so many failures and counted as failed; `term` still ends it."""
        self.rig.read(SAMPLER + "config name=s\nstart name=s interval=1s\n")
        self.rig.start()
        plugin = self.rig.plugin("s")
        plugin.behave["sample"] = lambda: 1 / 0
        self.rig.clock.pump([1] * 12)
        self.assertEqual(names(plugin).count("sample"), 10)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 10)
        self.assertEqual(self.rig.daemon.instance("s").state, "failed")
        self.fails("start name=s interval=1s", 16)
        self.rig.run("term name=s")
        self.assertEqual(names(plugin)[-1], "stop")

    def test_term(self):
        """Subscriptions close first, then the plugin stops, then its sets are withdrawn."""
        self.rig.read(SAMPLER + "config name=s\n")
        plugin, order = self.rig.plugin("s"), []
        registry = self.rig.daemon.registry

        class Subscriber(JobSubscriber):
            def subscription_closed(self):
                order.append("closed")

        def start():
            schema = Schema("x")
            schema.add_metric("m", U32)
            plugin.context.subscribe_jobs(Subscriber())
            plugin.context.new_set("node-1/x", schema)

        plugin.behave["start"] = start
        plugin.behave["stop"] = lambda: order.append(("stop", registry.names()))
        self.rig.start()
        self.rig.run("term name=s")
        self.assertEqual(order, ["closed", ("stop", ["node-1/x"])])
        self.assertEqual(registry.names(), [])

    def test_start_that_fails_gives_back_what_it_took(self):
        """Its sets and subscriptions do not stay."""
        self.rig.read(SAMPLER + "config name=s\n")
        plugin = self.rig.plugin("s")

        def start():
            schema = Schema("x")
            schema.add_metric("m", U32)
            plugin.context.new_set("node-1/x", schema)
            raise ConfigError("no", rc=28)

        plugin.behave["start"] = start
        error = self.assertRaises(ConfigError, self.rig.daemon.startService)
        self.assertEqual(error.rc, 28)
        self.assertIn(":2", error.where)
        self.assertEqual(self.rig.daemon.registry.names(), [])
        self.assertEqual(names(plugin), ["configure", "start"])

    def test_one_that_does_not_stop(self):
        """Is left after its time, and the daemon ends."""
        self.rig.read(SAMPLER + "config name=s\n")
        self.rig.daemon.startService()
        self.rig.plugin("s").behave["stop"] = Deferred()
        stopped = self.rig.stop()
        self.assertNoResult(stopped)
        self.rig.clock.advance(STOP_SECONDS)
        self.successResultOf(stopped)

    def test_deferred_start(self):
        """Readings begin when the plugin has started."""
        self.rig.read(SAMPLER + "config name=s\nstart name=s interval=1s\n")
        plugin, started = self.rig.plugin("s"), Deferred()
        plugin.behave["start"] = started
        self.rig.start()
        self.rig.clock.advance(1)
        self.assertEqual(names(plugin), ["configure", "start"])
        started.callback(None)
        self.rig.clock.advance(1)
        self.assertEqual(names(plugin)[-1], "sample")
        plugin.behave["start"] = succeed(None)


class SubscriberTests(SynchronousTestCase):
    """``SubscriberInstance``."""

    def setUp(self):
        """A job manager and a subscriber, configured."""
        self.rig = Rig(self)
        self.rig.read(
            "msg_enable\nload name=a plugin=jm\nconfig name=a\njobmgr_start name=a\n"
            "load name=u plugin=subscriber\nconfig name=u size=2 replay=true\n"
        )
        self.subscriber = self.rig.plugin("u")
        self.manager = self.rig.plugin("a")

    def start_job(self, job_id):
        """Have the job manager tell of a job."""
        self.manager.context.apply(JobInit(job_id, 1_000_000, 0, 0), 1_000_000)

    def test_whole_life(self):
        """Configured without the daemon's attribute; started, subscribed, closed, stopped."""
        self.rig.start()
        self.start_job("1")
        self.successResultOf(self.rig.stop())
        self.assertEqual(
            self.subscriber.calls,
            [
                ("configure", {"colour": "red", "size": "2"}),
                ("start",),
                ("job_started", "message"),
                ("subscription_closed",),
                ("stop",),
            ],
        )

    def test_replay(self):
        """One that comes later first hears of what runs, if it wants to."""
        self.rig.start()
        self.start_job("1")
        for name, replay, origins in (("v", "true", ["replay"]), ("w", "false", [])):
            self.rig.run(f"load name={name} plugin=subscriber")
            self.rig.run(f"config name={name} replay={replay}")
            calls = self.rig.plugin(name).calls
            self.assertEqual([call[1] for call in calls if call[0] == "job_started"], origins)

    def test_nothing_to_sample(self):
        """`start` says that it is not a sampler."""
        error = self.assertRaises(ConfigError, self.rig.run, "start name=u interval=1s")
        self.assertEqual(error.rc, 22)
        self.assertIn("not a sampler", str(error))
