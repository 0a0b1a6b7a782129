"""What setting the wall clock does: nothing, but to what is shown and stored."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.internet.defer import execute
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.clocks import use_monotonic_clock, wall_clock_us
from ldmsjob.daemon import Daemon
from ldmsjob.journal.journal import Journal
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.notices import JobExit, JobInit
from ldmsjob.sampling import Sampling
from ldmsjob.stats import Stats
from ldmsjob.testing import START_SECONDS, FakeDaemon
from ldmsjob.users import Users
from tests.daemons import Rig, loader

HOUR = 3600.0
SETTINGS = (HOUR, -HOUR, -HOUR, HOUR)


class ReactorTests(SynchronousTestCase):
    """Timers of a real reactor, that does not run."""

    def setUp(self) -> None:
        """A reactor of our own; the wall clock is one that we set."""
        self.reactor = SelectReactor()
        self.addCleanup(self.reactor.disconnectAll)
        self.passed = 0.0
        self.patch(time, "monotonic", lambda: 50.0 + self.passed)
        use_monotonic_clock(self.reactor)

    def test_timers(self) -> None:
        """They fire when their time has passed, be the wall clock what it may."""
        fired: list[str] = []
        self.reactor.callLater(10, fired.append, "ten")
        self.reactor.callLater(1, fired.append, "one")
        self.assertEqual(self.reactor.seconds(), 50.0)
        self.assertEqual(self.reactor.timeout(), 1.0)
        self.reactor.runUntilCurrent()
        self.passed = 1.0
        self.reactor.runUntilCurrent()
        self.assertEqual(fired, ["one"])
        self.passed = 10.0
        self.reactor.runUntilCurrent()
        self.assertEqual(fired, ["one", "ten"])

    def test_moved_timers(self) -> None:
        """A timer that is put off goes by the same clock."""
        fired: list[str] = []
        call = self.reactor.callLater(10, fired.append, "moved")
        self.passed = 9.0
        call.reset(5)
        self.passed = 13.0
        self.reactor.runUntilCurrent()
        self.assertEqual(fired, [])
        self.passed = 14.0
        self.reactor.runUntilCurrent()
        self.assertEqual(fired, ["moved"])


class DaemonTests(SynchronousTestCase):
    """The core of a daemon, while somebody sets the wall clock by an hour."""

    def setUp(self) -> None:
        """A job that runs."""
        self.daemon = FakeDaemon()
        self.recorder = self.daemon.record()
        self.daemon.apply(JobInit("1", uid=1000, gid=100))

    def each_setting(self, seconds: float, check: Callable[[], None]) -> None:
        """Set the clock, let time pass, check; for each setting."""
        for by in SETTINGS:
            self.daemon.set_clock(by)
            self.daemon.advance(seconds)
            check()

    def test_fake(self) -> None:
        """Setting is no passing of time."""
        self.daemon.set_clock(-HOUR)
        self.assertEqual(self.daemon.clock.seconds(), 0)
        self.assertEqual(self.daemon.core.now_us(), (START_SECONDS - 3600) * 1_000_000)
        self.assertNotEqual(self.daemon.clock.seconds(), self.daemon.now())

    def test_running_job(self) -> None:
        """Runs on."""
        self.each_setting(100, lambda: self.assertEqual(self.recorder.names, ["JobStarted"]))
        self.assertIn("node-1:411/job_slurm_1", self.daemon.registry.names())

    def test_linger(self) -> None:
        """Lasts as long as it should, to the second."""
        self.daemon.apply(JobExit("1"))
        self.each_setting(2, lambda: self.assertEqual(len(self.daemon.registry), 1))
        self.daemon.advance(1.5)
        self.assertEqual(len(self.daemon.registry), 1)
        self.daemon.advance(0.5)
        self.assertEqual(len(self.daemon.registry), 0)

    def test_lingers_in_a_row(self) -> None:
        """One that begins while the clock is back is over in time, too."""
        self.daemon.apply(JobExit("1"))
        for number, by in enumerate(SETTINGS, 2):
            self.daemon.set_clock(by)
            self.daemon.apply(JobInit(str(number)))
            self.daemon.apply(JobExit(str(number)))
            self.daemon.advance(2)
        self.daemon.advance(2)
        self.assertEqual(len(self.daemon.registry), 3)
        self.daemon.advance(6)
        self.assertEqual(len(self.daemon.registry), 0)

    def test_sampler(self) -> None:
        """One reading a second, whose times are those that the clock shows; no storm."""
        times: list[tuple[float, float]] = []
        sampling = Sampling(
            self.daemon.clock,
            1_000_000,
            0,
            lambda due: times.append((due, self.daemon.now())),
            stats=Stats(),
            log=Logger(),
            gave_up=lambda: None,
            wall_clock_us=self.daemon.now_us,
        )
        sampling.start()
        for by in SETTINGS:
            self.daemon.set_clock(by + 0.25)
            for _ in range(20):
                self.daemon.advance(0.25)
        sampling.stop()
        self.assertTrue(18 <= len(times) <= 20, len(times))
        self.assertTrue(all(0 <= now - due < 1 for due, now in times), times)

    def test_users(self) -> None:
        """An answer is kept as long as it should be."""
        asked: list[int] = []
        users = Users(self.daemon.clock, execute, name_of=lambda uid: asked.append(uid) or "ann")
        facts = self.daemon.jobs.jobs()[0].facts
        users.missing_facts(facts)
        self.each_setting(1, lambda: users.missing_facts(facts))
        self.assertEqual(asked, [1000])

    def test_journal_by_size(self) -> None:
        """What is too much goes even where the clock says that it is of tomorrow."""
        service = Stats()
        journal = Journal(
            self.mktemp() + "/journal.sqlite",
            self.daemon.turn,
            self.daemon.clock,
            service,
            max_age_seconds=HOUR,
            max_bytes=1,
            in_thread=execute,
            wall_clock_us=self.daemon.now_us,
        )
        journal.open()
        self.addCleanup(journal.close)
        for notice in (JobInit("9", 1), JobExit("9", 2)):
            changes = self.daemon.jobs._table.apply(notice, self.daemon.now_us(), "slurm")
            journal.append(notice, self.daemon.now_us(), "message", changes, 1, "jm")
        self.daemon.set_clock(-HOUR)
        self.daemon.advance(60)
        self.assertEqual(service.get("pruned"), 2)

    def test_limited_log(self) -> None:
        """A reason that was logged is neither silent for an hour nor said at once again."""
        said: list[object] = []
        log = LimitedLog(Logger(observer=said.append), now=self.daemon.clock.seconds)
        for by in (0.0, *SETTINGS):
            self.daemon.set_clock(by)
            log.emit("reason", LogLevel.info, "said")
            self.daemon.advance(4)
        self.assertEqual(len(said), 2)


class WiringTests(SynchronousTestCase):
    """Which clock the parts of a daemon get."""

    def test_daemon(self) -> None:
        """Times by the wall clock, waiting by the other."""
        rig = Rig(self)
        rig.read("listen xprt=wire\nmsg_enable\nload name=jm\nconfig name=jm\nload name=sampler\n")
        core = rig.daemon.core
        self.assertEqual(core.now_us(), 1_000_000_000_000)
        self.assertEqual(core.clock.seconds(), 0)
        context = rig.plugin("jm").context
        self.assertEqual(context.now_us(), core.now_us())
        self.assertEqual(context.received_time_us(), core.now_us())
        self.assertIs(context.clock, rig.clock)

    def test_default(self) -> None:
        """The system's wall clock."""
        self.assertIs(Daemon(Clock(), loader=loader()).core.now_us, wall_clock_us)
        self.assertLess(abs(wall_clock_us() - time.time() * 1e6), 60e6)
