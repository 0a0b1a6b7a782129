"""Which jobs there are, with all their attempts; jobs come and go here. Pure.

What a job does while it is here, the rules decide: ``jobrules.py``.
"""

from __future__ import annotations

from collections import defaultdict

from ldmsjob.attempts import is_after, is_of_earlier
from ldmsjob.facts import JobKey
from ldmsjob.jobs import Job
from ldmsjob.notices import Notice


class KnownJobs:
    """All jobs that run or whose sets linger. Attempts of one job are jobs of their own."""

    def __init__(self) -> None:
        self.by_key: dict[JobKey, Job] = {}
        """All of them, in the order in which this daemon heard of them."""
        self.newest: defaultdict[str, dict[str, Job]] = defaultdict(dict)
        """The last attempt of each job, by resource manager and job id."""

    def begin(self, key: JobKey, time_us: int, adopted: bool) -> Job:
        """A new job, which is the newest attempt now; ``adopted``: its start was not seen."""
        job = Job(key, time_us, adopted)
        if key.attempt > 1:
            job.told_plainly = False
            earlier = self.earlier(job)
            if earlier is not None and not is_after(time_us, earlier.exit_told_us):
                job.exit_told_us = earlier.exit_told_us  # it was this attempt's
        self.by_key[key] = self.newest[key.resource_manager][key.job_id] = job
        return job

    def forget(self, job: Job) -> None:
        """Remember nothing of it."""
        self.by_key.pop(job.key, None)
        newest = self.newest[job.key.resource_manager]
        if newest.get(job.key.job_id) is job:
            del newest[job.key.job_id]
        if not self.by_key:
            # A dictionary that was large stays large, until it is cleared.
            self.by_key.clear()
            self.newest.clear()

    def is_newest(self, job: Job) -> bool:
        """Whether no later attempt is known."""
        return self.newest[job.key.resource_manager].get(job.key.job_id) is job

    def earlier(self, job: Job) -> Job | None:
        """The attempt before, while its set lingers."""
        key = job.key
        return self.by_key.get(JobKey(key.resource_manager, key.job_id, key.attempt - 1))

    def attempt_meant(self, job: Job, notice: Notice, time_us: int) -> Job:
        """The newest attempt, which is given, or one before it for a notice that comes late."""
        earlier = self.earlier(job)
        while earlier is not None and is_of_earlier(job, earlier, notice, time_us):
            job, earlier = earlier, self.earlier(earlier)
        return job
