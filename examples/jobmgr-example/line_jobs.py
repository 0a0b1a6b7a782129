"""A job manager for any batch system whose prolog and epilog can run a shell command."""

from zope.interface import implementer

from ldmsjob.interfaces import IChannelJobManager
from ldmsjob.notices import JobExit, JobInit


@implementer(IChannelJobManager)
class LineJobManager:
    """Understands messages of one line: ``start ID UID GID`` and ``end ID``."""

    resource_manager = "line"

    def __init__(self, context):
        self.context = context

    def configure(self, attributes):
        """Remember the channel; ``ldmsjob`` has checked it and filled in the default."""
        self.channel = attributes["message_channel"]
        self.channels = [self.channel]

    def start(self):
        """Listen to the channel."""
        self.subscription = self.context.subscribe(self.channel, self.receive)

    def stop(self):
        """Listen no more."""
        return self.subscription.close()

    def receive(self, message):
        """Turn a message into a notice; count what makes no sense."""
        try:
            match message.body.decode("ascii").split():
                case ["start", job_id, uid, gid]:
                    notice = JobInit(job_id, uid=int(uid), gid=int(gid))
                case ["end", job_id]:
                    notice = JobExit(job_id)
                case _:
                    raise ValueError
            self.context.apply(notice, self.context.received_time_us())
        except ValueError:  # also from apply: for an id that nobody can have
            self.context.stats.add("malformed")
