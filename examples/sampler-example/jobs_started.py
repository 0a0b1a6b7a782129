"""A sampler that counts the jobs that start on this node."""

from zope.interface import implementer

from ldmsjob.interfaces import ISampler
from ldmsjob.sets.schema import Schema
from ldmsjob.subscriber import JobSubscriber
from ldmsjob.values import U64


@implementer(ISampler)
class JobsStarted(JobSubscriber):
    """Counts starts as they happen, and writes the number to a set at each interval."""

    def __init__(self, context):
        self.context, self.count = context, 0

    def configure(self, attributes):
        """Remember the set's name; ldmsjob has checked that there is one."""
        self.instance = attributes["instance"]

    def start(self):
        """Make the set, and listen to job events, those of jobs that run already included."""
        schema = Schema("jobs_started")
        schema.add_metric("jobs_started", U64)
        self.set = self.context.new_set(self.instance, schema)
        self.context.subscribe_jobs(self, replay=True)

    def job_started(self, event):
        """One more. All other job events are ignored."""
        self.count += 1

    def sample(self, now):
        """Write the number. Peers see all that a transaction writes at once, behind its end."""
        with self.set.transaction() as writer:
            writer.put("jobs_started", self.count)

    def stop(self):
        """Nothing to do: the daemon ends the subscription and withdraws the set."""
