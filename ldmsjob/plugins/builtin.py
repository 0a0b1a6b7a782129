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
        AttributeSpec(
            "reconcile",
            "Time between comparing the jobs with the node and with Slurm; 0: never.",
            "seconds",
            "60",
        ),
        AttributeSpec(
            "stale",
            "After how long a job ends of which the node shows nothing while Slurm does not answer;"
            " 0: never.",
            "seconds",
            "3600",
        ),
        AttributeSpec(
            "nodes", "Slurm's names of the nodes to compare with, if not this host's; e.g. n[1-4]."
        ),
        AttributeSpec(
            "slurm_commands", "Directory of squeue, if not on PATH; or none: do not ask Slurm."
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

tls = TransportFactory(
    name="tls",
    summary="TLS over TCP, with certificates on both sides.",
    attributes=(
        AttributeSpec(
            "certificate",
            "Own certificate in PEM form, with those that lead to the CA behind it.",
            "path",
            required=True,
        ),
        AttributeSpec("key", "Its private key, which only we can read.", "path", required=True),
        AttributeSpec("ca", "Certificates of the CAs of peers.", "path", required=True),
        AttributeSpec("names", "Who is whom: lines NAME USER or NAME UID:GID.", "path"),
        AttributeSpec(
            "server_name",
            "To connect: the name in the listener's certificate, if it is not the host's.",
        ),
    ),
    maker="ldmsjob.transports.tls:TlsTransport",
    authenticates=True,
)

unix = TransportFactory(
    name="unix",
    summary="A unix socket, for processes of this node; the system says who they are.",
    attributes=(
        AttributeSpec(
            "mode", "To listen: who may connect, by the write bits of the socket.", "octal", "666"
        ),
    ),
    maker="ldmsjob.transports.unix:UnixTransport",
    has_ports=False,
    authenticates=True,
)

notifier = TransportFactory(
    name="notifier",
    summary="The lines of ldmsjob's own Slurm notifiers, over a unix socket; only listens.",
    attributes=(
        AttributeSpec("channel", "Channel on which the lines are published.", "text", "slurm"),
    ),
    maker="ldmsjob.transports.notifier:NotifierTransport",
    has_ports=False,
    authenticates=True,
)

none = AuthenticatorFactory(
    name="none",
    summary="No authentication: peers are believed.",
    attributes=(),
    maker="ldmsjob.transports.auth_none:NoneAuthenticator",
)

naive = AuthenticatorFactory(
    name="naive",
    summary="For tests: each side claims ids, and is believed.",
    attributes=(
        AttributeSpec("uid", "User id that we claim; no name.", "integer", "65534"),
        AttributeSpec("gid", "Group id that we claim; no name.", "integer", "65534"),
    ),
    maker="ldmsjob.transports.auth_naive:NaiveAuthenticator",
)

ovis = AuthenticatorFactory(
    name="ovis",
    summary="Whoever knows a shared secret word is root.",
    attributes=(
        AttributeSpec(
            "conf",
            "File with a line 'secretword=…' that only its owner can read; without it the one that"
            " LDMS_AUTH_FILE names, ~/.ldmsauth.conf, /etc/ldmsd/ldmsauth.conf or"
            " /etc/ldmsauth.conf.",
            "path",
        ),
    ),
    maker="ldmsjob.transports.auth_ovis:OvisAuthenticator",
)

munge = AuthenticatorFactory(
    name="munge",
    summary="The munged of both hosts vouch for each side's user.",
    attributes=(
        AttributeSpec(
            "socket", "Where munged listens; without it, where it does by default.", "path"
        ),
    ),
    maker="ldmsjob.transports.auth_munge:MungeAuthenticator",
)
