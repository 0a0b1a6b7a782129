"""Tells ldmsjob of the job manager ``jobmgr_line``."""

from ldmsjob.interfaces import AttributeSpec
from ldmsjob.plugin import JobManagerFactory

jobmgr_line = JobManagerFactory(
    name="jobmgr_line",
    summary="Follows jobs by lines of text that prolog and epilog publish.",
    attributes=(AttributeSpec("message_channel", "Channel of the messages.", "text", "jobs"),),
    maker="line_jobs:LineJobManager",
)
