"""Daemons with plugins that record what happens to them, for tests."""

from twisted.application.service import Service
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from zope.interface import implementer

from ldmsjob.daemon import Daemon
from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import (
    AttributeSpec,
    IChannelJobManager,
    IJobManager,
    IListener,
    ISampler,
    ISubscriber,
    ITransport,
)
from ldmsjob.interpreter import Interpreter
from ldmsjob.loader import Loader
from ldmsjob.plugin import (
    JobManagerFactory,
    SamplerFactory,
    SubscriberFactory,
    TransportFactory,
)
from ldmsjob.subscriber import JobSubscriber

ATTRIBUTES = (AttributeSpec("colour", "Any.", default="red"), AttributeSpec("size", "Any."))


class Recorder:
    """Writes down its calls; ``behave[name]`` is called, or returned, in their stead."""

    def __init__(self, context):
        self.context = context
        self.calls = []
        self.behave = {}

    def _did(self, name, *arguments):
        self.calls.append((name, *arguments))
        behaviour = self.behave.get(name)
        return behaviour() if callable(behaviour) else behaviour

    def configure(self, attributes):
        """Recorded."""
        return self._did("configure", dict(attributes))

    def start(self):
        """Recorded."""
        return self._did("start")

    def stop(self):
        """Recorded."""
        return self._did("stop")


@implementer(IJobManager)
class FakeJobManager(Recorder):
    """A job manager."""

    resource_manager = "fake"


@implementer(IChannelJobManager)
class FakeChannelJobManager(FakeJobManager):
    """A job manager whose attribute ``colour`` is a channel."""

    @property
    def channels(self):
        """The one channel of its configuration."""
        if "channels" in self.behave:
            return self._did("channels")
        return [self.calls[-1][1]["colour"]]


@implementer(ISampler)
class FakeSampler(Recorder):
    """A sampler."""

    def sample(self, now):
        """Recorded."""
        return self._did("sample", now)


@implementer(ISubscriber)
class FakeSubscriber(Recorder, JobSubscriber):
    """A subscriber that records starts of jobs."""

    def job_started(self, event):
        """Recorded."""
        return self._did("job_started", event.origin)

    def subscription_closed(self):
        """Recorded."""
        return self._did("subscription_closed")


@implementer(IListener)
class FakeListener(Service):
    """Records its life in its transport."""

    def __init__(self, transport, host, port):
        self.service = self
        self.transport = transport
        self.port = port
        self.host = host

    def privilegedStartService(self):
        """Bind, or refuse to."""
        if self.port in self.transport.taken:
            raise CannotListenError(self.host, self.port, OSError(98, "Address already in use"))
        self.transport.calls.append(("bind", self.port))

    def stopService(self):
        """Unbind."""
        super().stopService()
        self.transport.calls.append(("unbind", self.port))


@implementer(ITransport)
class FakeTransport(Recorder):
    """A transport without sockets. ``taken`` are ports that cannot be bound."""

    def __init__(self, context):
        super().__init__(context)
        self.taken = set()
        self.settings = []
        self.authenticators = []

    def listen(self, host, port, site, authenticator, settings):
        """A listener."""
        self.settings.append(settings)
        self.authenticators.append(authenticator)
        return FakeListener(self, host, port)

    def connect(self, host, port, site, authenticator, settings):
        """Nothing connects in these tests."""
        raise NotImplementedError


class FakeProvingTransport(FakeTransport):
    """A transport that wants no authenticator."""

    def listen(self, host, port, site, authenticator, settings):
        """A listener."""
        if authenticator is not None:
            raise ConfigError("there is nothing to authenticate")
        return super().listen(host, port, site, authenticator, settings)


def loader():
    """What comes along; fakes of each kind of plugin; the transports ``wire``, ``proving`` and,
    with paths for ports, ``local``."""
    result = Loader()
    for kind, name, maker in (
        (JobManagerFactory, "jm", "FakeJobManager"),
        (JobManagerFactory, "channel-jm", "FakeChannelJobManager"),
        (SamplerFactory, "sampler", "FakeSampler"),
        (SubscriberFactory, "subscriber", "FakeSubscriber"),
        (TransportFactory, "wire", "FakeTransport"),
    ):
        result.add(kind(name, "A fake.", ATTRIBUTES, f"tests.daemons:{maker}"), __file__)
    local = TransportFactory(
        "local", "A fake.", ATTRIBUTES, "tests.daemons:FakeTransport", has_ports=False
    )
    result.add(local, __file__)
    proving = TransportFactory(
        "proving", "A fake.", (), "tests.daemons:FakeProvingTransport", authenticates=True
    )
    result.add(proving, __file__)
    return result


WALL_SECONDS = 1_000_000
"""What the wall clock of a ``Rig`` shows at first."""


class Rig:
    """A daemon on a ``task.Clock``, and its interpreter."""

    def __init__(self, test, state_directory=None, **environ):
        self.test = test
        self.clock = Clock()
        self.daemon = Daemon(
            self.clock,
            loader=loader(),
            wall_clock_us=self.now_us,
            hostname="node-1",
            state_directory=state_directory,
        )
        self.interpreter = Interpreter(self.daemon, environ)

    def now_us(self):
        """The wall clock in microseconds; ``clock`` is monotonic."""
        return round((WALL_SECONDS + self.clock.seconds()) * 1e6)

    def file(self, text, name=None):
        """Write a configuration file; returns its path."""
        path = name or self.test.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return path

    def read(self, *texts, options=()):
        """Read files with these texts, in two passes; returns their paths."""
        paths = [self.file(text) for text in texts]
        self.interpreter.read(options, paths)
        return paths

    def start(self):
        """Start the daemon as twistd does."""
        self.daemon.privilegedStartService()
        self.daemon.startService()
        self.daemon.announce()
        self.test.addCleanup(self.stop)

    def stop(self):
        """Stop it."""
        return self.daemon.stopService()

    def run(self, line):
        """Run one command now."""
        from ldmsjob.config import parse

        (one,) = parse(line, "live")
        self.interpreter.execute(one)

    def plugin(self, name):
        """The plugin of an instance."""
        return self.daemon.instance(name).plugin
