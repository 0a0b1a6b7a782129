"""The plugins that come with ldmsjob. Nothing heavy is imported here."""

from ldmsjob.interfaces import AttributeSpec
from ldmsjob.plugin import (
    AuthenticatorFactory,
    JobManagerFactory,
    SamplerFactory,
    TransportFactory,
)

jobmgr_slurm = JobManagerFactory(
    name="jobmgr_slurm",
    summary="Follows Slurm jobs by the messages of the notifier plugin in slurmstepd.",
    attributes=(
        AttributeSpec(
            "message_channel", "Channel on which the notifier publishes.", "text", "slurm"
        ),
    ),
    maker="ldmsjob.jobmgr.slurm:SlurmJobManager",
)

test_jobmgr_sampler = SamplerFactory(
    name="test_jobmgr_sampler",
    summary="Writes one line per job event to a file.",
    attributes=(
        AttributeSpec(
            "file", "File to write, emptied when the daemon starts.", "path", required=True
        ),
        AttributeSpec("steps", "Write lines for steps, too.", "boolean", "false"),
        AttributeSpec("component_id", "Accepted as in C; nothing uses it.", "integer"),
        AttributeSpec("instance", "Accepted as in C; nothing uses it.", "text"),
        AttributeSpec("producer", "Accepted as in C; nothing uses it.", "text"),
    ),
    maker="ldmsjob.samplers.jobevents:JobEventSampler",
)

sock = TransportFactory(
    name="sock",
    summary="TCP.",
    attributes=(),
    maker="ldmsjob.transports.sock:SockTransport",
)

none = AuthenticatorFactory(
    name="none",
    summary="No authentication: peers are believed.",
    attributes=(),
    maker="ldmsjob.transports.auth_none:NoneAuthenticator",
)
