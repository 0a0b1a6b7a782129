"""What plugins get from the core."""

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.contexts import PluginContext
from ldmsjob.errors import ConfigError, NoticeError, SetExists
from ldmsjob.facts import JobKey
from ldmsjob.interfaces import IJobManagerContext, IPluginContext, ISamplerContext
from ldmsjob.notices import JobExit, JobInit, StepInit, TaskInit
from ldmsjob.sets.schema import Schema
from ldmsjob.subscriber import JobSubscriber
from ldmsjob.values import U32
from tests.daemons import FakeJobManager, FakeSampler, Rig


class ContextTests(SynchronousTestCase):
    """The three contexts, in a daemon."""

    def setUp(self):
        """A daemon with one of each."""
        self.rig = Rig(self)
        self.rig.read(
            "msg_enable\ndaemon_name name=node-1:411\nload name=a plugin=jm\nconfig name=a\n"
            "jobmgr_start name=a\nload name=s plugin=sampler\nconfig name=s\n"
        )
        self.rig.start()
        self.jobs = self.rig.plugin("a").context
        self.sampler = self.rig.plugin("s").context

    def test_interfaces(self):
        """They provide what plugins are promised, and the fakes of these tests do so too."""
        verifyObject(IJobManagerContext, self.jobs)
        verifyObject(ISamplerContext, self.sampler)
        verifyObject(IPluginContext, PluginContext(self.rig.daemon.core, "x", "xprt.x"))
        self.assertIsInstance(self.rig.plugin("a"), FakeJobManager)
        self.assertIsInstance(self.rig.plugin("s"), FakeSampler)

    def test_names(self):
        """Instance, daemon and logger."""
        self.assertEqual(self.jobs.instance, "a")
        self.assertEqual(self.sampler.daemon_name, "node-1:411")
        self.assertEqual(self.sampler.log.namespace, "sampler.sampler.s")

    def test_notice_to_event(self):
        """What a job manager applies reaches samplers; both find the job."""
        seen = []

        class Subscriber(JobSubscriber):
            def job_started(self, event):
                seen.append((event.key, event.origin))

        self.sampler.subscribe_jobs(Subscriber())
        self.jobs.apply(JobInit(job_id="7"), 5_000_000)
        self.jobs.apply(JobInit(job_id="8"), 5_000_000, origin="reconciliation")
        self.assertEqual(
            seen,
            [(JobKey("fake", "7"), "message"), (JobKey("fake", "8"), "reconciliation")],
        )
        self.assertEqual(self.sampler.jobs()[0].facts.start_us, 5_000_000)
        self.assertIs(self.jobs.find_job(JobKey("fake", "7")), self.sampler.jobs()[0])

    def test_notices_are_counted(self):
        """Only what a message told is news of the resource manager."""
        stats = self.jobs.stats
        self.jobs.apply(JobInit(job_id="8"), 5_000_000, origin="reconciliation")
        self.assertIsNone(self.jobs.last_notice_seconds)
        with self.rig.daemon.core.turn:
            for number in "12":
                self.jobs.apply(JobInit(job_id=number), 5_000_000)
        self.rig.clock.advance(4)
        self.assertEqual(stats.get("notices"), 3)
        self.assertEqual(stats.gauges()["last_notice_seconds"], 4)
        self.jobs.apply(JobInit(job_id="9"), 5_000_000, origin="reconciliation")
        self.assertEqual(self.jobs.last_notice_seconds, 4)

    def test_jobs_that_cannot_be(self):
        """Ids that would break names and lines, and owners that there cannot be, are refused."""
        ids = ("", 'a"', "a\\", "a/b", "a\n", "1\n", "é", "²", "٣", "a" * 65, "1" * 65)
        notices = [JobInit(job_id=each) for each in ids]
        for number in (-1, 1 << 32):
            notices += [
                JobInit("8", uid=number),
                StepInit("8", 0, 0, gid=number),
                TaskInit("8", 0, 0, 0, uid=number),
            ]
        for notice in notices:
            self.assertRaises(NoticeError, self.jobs.apply, notice, 5_000_000)
        self.assertEqual(self.jobs.jobs(), [])
        self.jobs.apply(JobInit("8", uid=7), 5_000_000)
        for notice in notices[len(ids) :]:
            self.assertRaises(NoticeError, self.jobs.apply, notice, 5_000_000)
        (job,) = self.jobs.jobs()
        self.assertEqual(
            (job.facts.uid, job.facts.gid, job.steps(), job.tasks()), (7, None, [], [])
        )
        self.jobs.apply(JobExit("8"), 5_000_000)
        self.rig.clock.advance(10)
        self.jobs.apply(JobInit("a" * 63 + "9", uid=0, gid=(1 << 32) - 1), 5_000_000)
        self.jobs.apply(JobInit("1_2:3.4+5-6"), 5_000_000)
        self.jobs.apply(JobInit("1" * 64), 5_000_000)
        self.assertEqual(len(self.jobs.jobs()), 3)

    def test_messages_off(self):
        """A subscription is refused with rc 95."""
        self.rig.run("msg_disable")
        error = self.assertRaises(ConfigError, self.jobs.subscribe, "slurm", print)
        self.assertEqual(error.rc, 95)

    def test_time_is_read_once_a_turn(self):
        """And anew in the next one, and at every call outside of any."""
        with self.rig.daemon.core.turn:
            first = self.jobs.received_time_us()
            self.rig.clock.advance(1)
            self.assertEqual(self.jobs.received_time_us(), first)
        self.assertEqual(self.jobs.received_time_us(), first + 1_000_000)
        self.rig.clock.advance(1)
        self.assertEqual(self.jobs.received_time_us(), first + 2_000_000)

    def test_turn_end(self):
        """A call put off is made once, when the turn ends."""
        calls = []

        def call():
            calls.append(1)

        with self.rig.daemon.core.turn:
            self.jobs.at_turn_end(call)
            self.jobs.at_turn_end(call)
            self.assertEqual(calls, [])
        self.assertEqual(calls, [1])

    def test_sets(self):
        """A set is offered at once, and its name is its own."""
        schema = Schema("x")
        schema.add_metric("m", U32)
        made = self.sampler.new_set("node-1:411/x", schema, uid=5, perm=0o400)
        self.assertIs(self.rig.daemon.registry.get("node-1:411/x"), made)
        self.assertEqual((made.uid, made.perm), (5, 0o400))
        self.assertRaises(SetExists, self.sampler.new_set, "node-1:411/x", schema)
