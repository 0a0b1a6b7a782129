"""The job manager on a daemon without a network."""

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.plugins.line_jobs_dropin import jobmgr_line
from ldmsjob.testing import FakeDaemon, verify_plugin


class LineJobManagerTests(SynchronousTestCase):
    """From messages to job events and sets."""

    def setUp(self):
        """It listens, and somebody listens to job events."""
        self.daemon = FakeDaemon()
        self.manager = verify_plugin(jobmgr_line, daemon=self.daemon)
        self.manager.start()
        self.events = self.daemon.record()

    def publish(self, *lines):
        """Send messages, as the batch system's prolog and epilog do."""
        for line in lines:
            self.daemon.publish(line, channel="jobs")

    def test_life_of_a_job(self):
        """Two messages make a job: its events, and its set."""
        self.publish("start 7 1000 100", "end 7")
        self.assertEqual(self.events.names, ["JobStarted", "JobEnded", "JobSetDeleted"])
        values = self.daemon.values("node-1:411/job_line_7")
        self.assertEqual((values["job_id"], values["job_uid"]), ("line_7", 1000))

    def test_nonsense_is_counted(self):
        """What makes no sense changes nothing and is counted."""
        self.publish("start 7 me mine", "stop", "", b"\xff")
        self.publish('start 7"7 1000 100', "start 7 1000 4294967296", "start 7 -1 100")
        self.assertEqual(self.events.names, [])
        self.assertEqual(self.manager.context.stats.get("malformed"), 7)

    def test_stopped(self):
        """Stopped, it hears nothing."""
        self.successResultOf(self.manager.stop())
        self.publish("start 7 1000 100")
        self.assertEqual(self.events.names, [])
