"""The sampler on a daemon without a network."""

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import ConfigError
from ldmsjob.notices import JobExit, JobInit
from ldmsjob.plugins.jobs_started_dropin import jobs_started
from ldmsjob.testing import FakeDaemon, verify_plugin

NAME = "node-1/jobs_started"


class JobsStartedTests(SynchronousTestCase):
    """What peers read in its set."""

    def setUp(self):
        """One job runs before the sampler does."""
        self.daemon = FakeDaemon()
        self.daemon.apply(JobInit("1"))
        self.sampler = verify_plugin(jobs_started, {"instance": NAME}, daemon=self.daemon)
        self.sampler.start()

    def test_counts(self):
        """A reading shows how many jobs have started, those before the sampler included."""
        self.daemon.apply(JobInit("2"))
        self.daemon.apply(JobExit("1"))
        self.sampler.sample(self.daemon.now())
        self.assertEqual(self.daemon.values(NAME), {"jobs_started": 2})

    def test_needs_a_name(self):
        """Without a name for its set it cannot be configured."""
        self.assertRaises(ConfigError, verify_plugin, jobs_started, {})
