"""Tells ldmsjob of the sampler ``jobs_started``."""

from ldmsjob.interfaces import AttributeSpec
from ldmsjob.plugin import SamplerFactory

jobs_started = SamplerFactory(
    name="jobs_started",
    summary="Counts the jobs that start on this node.",
    attributes=(AttributeSpec("instance", "Name of the metric set.", required=True),),
    maker="jobs_started:JobsStarted",
)
