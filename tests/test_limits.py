"""What the daemon takes on: at the limit, below and beyond it."""

from __future__ import annotations

import errno
import os
import resource
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

import ldmsjob
from ldmsjob.admission import FOR_THIS_HOST, RESERVED, RUSH_SECONDS, Admission
from ldmsjob.errors import ConfigError
from ldmsjob.facts import JobKey
from ldmsjob.interfaces import IAdmission, IPlace, LinkSettings
from ldmsjob.jobservice import JobService
from ldmsjob.jobsets import JobSetPolicy
from ldmsjob.jobtable import JobTable
from ldmsjob.limits import LIMITS, Limits, LimitSpec, changed
from ldmsjob.messages import MessageHub
from ldmsjob.notices import JobExit, JobInit, Notice, StepInit, TaskExit, TaskInit
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.stats import Stats
from ldmsjob.testing import EventRecorder
from ldmsjob.transports.acceptor import ACCEPTS, NO_DESCRIPTORS, Acceptor
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.transports.sock import SockTransport
from ldmsjob.turns import Turn
from ldmsjob.wire import zap
from ldmsjob.wire.credit import credit_frame
from ldmsjob.wire.events import BODY_OVERHEAD, Publish, Refused, ReturnCredit
from ldmsjob.wire.msg import publish_frame
from tests.daemons import Rig
from tests.fake_links import FakeLink
from tests.fake_sites import FakeSite
from tests.linkpair import LinkPair
from tests.test_wire_msg import fragments

DOCS = Path(ldmsjob.__file__).parent.parent / "docs"
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
T = 1_800_000_000_000_000


def shown(spec: LimitSpec) -> str:
    """A default, for people."""
    if spec.unit == "seconds":
        return f"{spec.default} s"
    if spec.unit == "bytes":
        for size, unit in UNITS:
            if spec.default >= size:
                return f"{spec.default // size} {unit}"
    return f"{spec.default:,}"


class SpecTests(SynchronousTestCase):
    """The limits themselves."""

    def test_defaults(self) -> None:
        """Defaults are within what may be set, and have a meaning."""
        for spec in LIMITS:
            self.assertLessEqual(spec.least, spec.default, spec.name)
            self.assertLessEqual(spec.default, spec.most, spec.name)
            self.assertIn(spec.unit, ("", "bytes", "seconds"))
            self.assertTrue(spec.meaning.endswith("."), spec.name)

    def test_documented(self) -> None:
        """The guide has exactly these, with their defaults."""
        text = (DOCS / "operating.md").read_text("utf-8")
        section = text.partition("\n## Limits\n")[2].partition("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        expected = [f"| `{one.name}` | {shown(one)} | {one.meaning} |" for one in LIMITS]
        self.assertEqual(rows, expected)

    def test_changed(self) -> None:
        """Only what was set is told."""
        self.assertEqual(changed(Limits()), "")
        self.assertEqual(changed(Limits(jobs=5, links=9)), "links=9 jobs=5")


class CommandTests(SynchronousTestCase):
    """The command `limits`."""

    def setUp(self) -> None:
        """A daemon that is not started."""
        self.rig = Rig(self)
        self.daemon = self.rig.daemon

    def fails(self, text: str) -> ConfigError:
        """The error of a configuration."""
        error: ConfigError = self.assertRaises(ConfigError, Rig(self).read, text)
        self.assertEqual(error.rc, errno.EINVAL)
        return error

    def test_set(self) -> None:
        """Several lines add up; units are taken; everything that is limited hears of it, whatever
        stands first."""
        self.rig.read(
            "listen xprt=wire port=1\nlimits links=100 queue_bytes=2M\n"
            "limits handshake_seconds=1m jobs=7\n"
        )
        limits = Limits(links=100, queue_bytes=2 << 20, handshake_seconds=60, jobs=7)
        self.assertEqual(self.daemon.limits, limits)
        for part in (self.daemon.hub, self.daemon.sets, self.daemon.admission):
            self.assertIs(part.limits, self.daemon.limits)
        self.assertIn(
            "limits links=100 handshake_seconds=60 queue_bytes=2097152 jobs=7",
            self.daemon.describe(),
        )

    def test_first_counts(self) -> None:
        """Like every setting with one value."""
        self.rig.read("limits jobs=7\nlimits jobs=8\n")
        self.assertEqual(self.daemon.limits.jobs, 7)

    def test_unknown(self) -> None:
        """The nearest one is named, or all are."""
        self.assertEqual(self.fails("limits job=5").hint, "did you mean 'jobs'?")
        self.assertIn("there are: links, ", self.fails("limits zzz=5").hint)
        self.assertIn("there are: links, ", self.fails("limits").hint)

    def test_values(self) -> None:
        """What is no number, or out of range, is refused, and nothing of that line counts."""
        for name, text in (("jobs", "0"), ("jobs", "x"), ("links", "7"), ("queue_bytes", "1k")):
            self.assertIn(text, str(self.fails(f"limits {name}={text}")))
        self.assertEqual(self.fails("limits jobs=0").hint, "it may be 1 to 10000000")
        self.assertIn("needs a value", str(self.fails("limits jobs")))
        for spec in LIMITS:
            for value, good in ((spec.least, True), (spec.most, True), (spec.most + 1, False)):
                rig = Rig(self)
                if good:
                    rig.read(f"limits {spec.name}={value}")
                    self.assertEqual(getattr(rig.daemon.limits, spec.name), value)
                else:
                    self.assertRaises(ConfigError, rig.read, f"limits {spec.name}={value}")


class AdmissionTests(SynchronousTestCase):
    """Who may still come."""

    def setUp(self) -> None:
        """Nobody is there."""
        self.stats = Stats()
        self.clock = Clock()

    def make(self, **limits: int) -> Admission:
        """An admission with these limits."""
        return Admission(self.stats, Limits(**limits), now=self.clock.seconds)

    def enter(self, admission: Admission, address: str, *, local: bool = False) -> Any:
        """Somebody connects: his place, or why not."""
        return admission.objection(address, local) or admission.enter(address)

    def test_interface(self) -> None:
        """It is what transports are told that it is."""
        admission = self.make()
        verifyObject(IAdmission, admission)
        verifyObject(IPlace, admission.enter("a"))

    def test_links(self) -> None:
        """As many as the limit, from wherever; some more on this host; one who goes makes room."""
        admission = self.make(links=8, links_per_address=3)
        places = [self.enter(admission, f"10.0.0.{n}") for n in range(4)]
        for place in places:
            place.opened()
        places += [self.enter(admission, f"10.0.1.{n}") for n in range(4)]
        self.assertEqual(admission.count, 8)
        self.assertRegex(self.enter(admission, "10.0.0.9"), "^too many: .*links=")
        local = [self.enter(admission, f"uid {n}", local=True) for n in range(FOR_THIS_HOST)]
        self.assertRegex(self.enter(admission, "uid 99", local=True), "^too many: ")
        for place in [*places, *local]:
            place.left()
            place.left()
            place.opened()
        self.assertEqual((admission.count, admission.unopened), (0, 0))
        self.assertEqual(admission._by_address, {})
        self.assertIsInstance(self.enter(admission, "10.0.0.9"), IPlaceType)

    def test_links_per_address(self) -> None:
        """Of one address so many; others are not concerned."""
        admission = self.make(links_per_address=2)
        first = self.enter(admission, "a")
        self.enter(admission, "a")
        self.assertRegex(self.enter(admission, "a"), "^too many of one address: ")
        self.assertIsInstance(self.enter(admission, "b"), IPlaceType)
        first.left()
        self.assertIsInstance(self.enter(admission, "a"), IPlaceType)

    def test_unopened(self) -> None:
        """Who has not authenticated counts for a limit of his own, and never for more than half of
        all; on this host the system says who it is."""
        for limits, most in (({"links_unopened": 3}, 3), ({"links": 8}, 4)):
            admission = self.make(**limits)
            places = [self.enter(admission, str(n)) for n in range(most)]
            self.assertRegex(self.enter(admission, "x"), "^too many not authenticated: ")
            self.assertIsInstance(self.enter(admission, "uid 0", local=True), IPlaceType)
            places[0].opened()
            places[1].opened()
            self.assertIsInstance(self.enter(admission, "x"), IPlaceType)

    def test_rush(self) -> None:
        """Who comes while many others have just come waits for them; when they turn out to be slow
        he is refused and not kept waiting."""
        admission = self.make(links_unopened=2)
        places = [self.enter(admission, str(n)) for n in range(2)]
        self.assertFalse(admission.may_accept(False))
        self.assertTrue(admission.may_accept(True))
        woken: list[int] = []
        admission.wait(lambda: woken.append(1))
        places[0].opened()
        self.assertEqual(woken, [1])
        self.assertTrue(admission.may_accept(False))
        self.enter(admission, "x")
        self.assertFalse(admission.may_accept(False))
        self.clock.advance(RUSH_SECONDS)
        self.assertTrue(admission.may_accept(False))
        self.assertRegex(self.enter(admission, "y"), "^too many not authenticated: ")

    def test_descriptors(self) -> None:
        """Where there are fewer descriptors than links nobody is accepted beyond those, until one
        goes; on this host a few more are."""
        admission = self.make()
        admission.descriptors = 2
        places = [admission.enter("a")]
        places[0].opened()
        self.assertTrue(admission.may_accept(False))
        places.append(admission.enter("a"))
        places[1].opened()
        self.assertFalse(admission.may_accept(False))
        self.assertTrue(admission.may_accept(True))
        self.assertEqual(self.stats.get("no_descriptor"), 1)
        self.assertEqual(self.stats.gauges()["connections_limit"], 2)
        woken: list[int] = []
        admission.wait(lambda: woken.append(1))
        forgotten = woken.clear
        admission.wait(forgotten)
        admission.wait_no_more(forgotten)
        places[1].left()
        self.assertEqual(woken, [1])
        self.assertTrue(admission.may_accept(False))

    def test_prepare(self) -> None:
        """As many descriptors as the links need are asked for; where there are fewer, that is
        said."""
        asked: list[Any] = []
        self.patch(resource, "setrlimit", lambda _, limits: asked.append(limits))
        lines: list[Any] = []
        globalLogPublisher.addObserver(lines.append)
        self.addCleanup(globalLogPublisher.removeObserver, lines.append)
        admission = self.make(links=1000)
        wanted = 1000 + RESERVED
        for soft, hard, ask, left in (
            (wanted, wanted, None, None),
            (wanted - 1, wanted + 5, (wanted, wanted + 5), None),
            (256, resource.RLIM_INFINITY, (wanted, resource.RLIM_INFINITY), None),
            (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, None),
            (100, 256, (256, 256), 192),
            (20, 20, (20, 20), 1),
        ):
            self.patch(resource, "getrlimit", lambda _, limits=(soft, hard): limits)
            asked.clear()
            lines.clear()
            admission.prepare()
            self.assertEqual(asked, [] if ask is None else [ask])
            self.assertEqual(admission.descriptors, left)
            self.assertEqual(len(lines), left is not None)


IPlaceType = type(Admission(Stats()).enter(""))


class FakeReactor(Clock):
    """Knows who reads."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.addReader = self.readers.add
        self.removeReader = self.readers.discard


class AcceptorTests(SynchronousTestCase):
    """Accepting, and waiting with it."""

    def setUp(self) -> None:
        """A socket at which any number wait."""
        self.reactor = FakeReactor()
        self.stats = Stats()
        self.admission = Admission(self.stats, now=self.reactor.seconds)
        self.accepted: list[Any] = []
        self.keep = False
        self.problems: list[int] = []
        self.waiting = 1000
        self.acceptor = Acceptor(*(self.reactor, self, self.take, self.admission), where="there")

    def take(self, connection: Any, address: Any) -> bool:
        """Somebody has been accepted."""
        self.accepted.append(connection)
        return self.keep

    def accept(self) -> Any:
        """The next one, unless there is a problem."""
        if self.problems:
            code = self.problems.pop(0)
            raise OSError(code, os.strerror(code))
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "nobody")
        self.waiting -= 1
        mine, other = socket.socketpair()
        other.close()
        self.addCleanup(mine.close)
        return mine, ""

    def fileno(self) -> int:
        """Not used."""
        return -1

    def test_in_pieces(self) -> None:
        """Not more than so many in one turn, each closed behind the call unless it is kept."""
        self.acceptor.doRead()
        self.assertEqual(len(self.accepted), ACCEPTS)
        self.assertEqual({one.fileno() for one in self.accepted}, {-1})
        self.assertEqual(self.reactor.readers, {self.acceptor})
        self.keep = True
        self.acceptor.doRead()
        self.assertNotIn(-1, {one.fileno() for one in self.accepted[ACCEPTS:]})

    def test_as_many_as_last_time(self) -> None:
        """Where fewer wait than are taken, so many are taken the next time; when that went well
        for eight of them, twice as many."""
        taken = []
        for waiting in (3, 20, 20, 20, 20, 20, 0, *[9] * 11):
            self.waiting = waiting
            self.accepted.clear()
            self.acceptor.doRead()
            taken.append(len(self.accepted))
        self.assertEqual(taken, [3, 3, 3, 3, 6, 12, 0, *[1] * 8, 2, 4, 8])

    def test_no_descriptors(self) -> None:
        """Whatever the system calls it: nothing is read for a while, and it is counted."""
        for code in NO_DESCRIPTORS:
            self.problems = [code]
            self.acceptor.doRead()
            self.assertEqual(self.reactor.readers, set())
            self.reactor.advance(1)
            self.assertEqual(self.reactor.readers, {self.acceptor})
        self.assertEqual(self.stats.get("no_descriptor"), len(NO_DESCRIPTORS))
        self.assertEqual(self.stats.get("accepting_paused"), len(NO_DESCRIPTORS))
        self.assertEqual(self.accepted, [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_other_errors(self) -> None:
        """Whoever has gone meanwhile, or nobody being there, is no reason to wait."""
        for code in (errno.EAGAIN, errno.ECONNABORTED, errno.EPERM):
            self.problems = [code]
            self.acceptor.doRead()
            self.assertEqual(self.reactor.readers, {self.acceptor})

    def test_room_is_made(self) -> None:
        """It goes on as soon as somebody goes."""
        self.admission.descriptors = 1
        place = self.admission.enter("a")
        self.acceptor.doRead()
        self.assertEqual((self.reactor.readers, self.accepted), (set(), []))
        place.left()
        self.assertEqual(self.reactor.readers, {self.acceptor})
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_closed_while_it_waits(self) -> None:
        """Nothing happens any more."""
        self.admission.descriptors = 1
        place = self.admission.enter("a")
        self.acceptor.doRead()
        self.acceptor.close()
        place.left()
        self.assertEqual(self.reactor.readers, set())
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ListenerTests(TestCase):
    """Real listeners."""

    timeout = 120

    @inlineCallbacks
    def test_all_listeners_together(self) -> Iterator[Deferred[Any]]:
        """Listeners with one admission count together; who is refused is closed at once, and what
        is open goes on."""
        stats = Stats()
        admission = Admission(stats, Limits(links=8))
        site = FakeSite()
        settings = LinkSettings(lambda: True, limits=admission.limits, admission=admission)
        client = FakeSite()
        transport = SockTransport(SimpleNamespace(clock=reactor))  # type: ignore[arg-type]
        listeners = []
        for _ in range(2):
            listener = transport.listen("127.0.0.1", 0, site, NoneAuthenticator(), settings)
            listener.privilegedStartService()
            listener.startService()
            self.addCleanup(listener.stopService)
            listeners.append(listener)
        for number in range(8):
            port = listeners[number % 2].port
            yield transport.connect("127.0.0.1", port, client, NoneAuthenticator(), settings)
        with socket.create_connection(("127.0.0.1", listeners[0].port)) as late:
            late.settimeout(0)
            while True:
                try:
                    self.assertEqual(late.recv(1), b"")
                    break
                except BlockingIOError:
                    yield turn()
                except ConnectionResetError:
                    break
        self.assertRegex(site.refused[0][1], "^too many: ")
        self.assertEqual((admission.count, len(site.links), site.closed), (8, 8, []))
        for link in client.links:
            link.close()
        while len(site.closed) < 8:
            yield turn()
        self.assertEqual((admission.count, admission.unopened), (0, 0))


def turn() -> Deferred[None]:
    """The reactor's next turn."""
    done: Deferred[None] = Deferred()
    reactor.callLater(0, done.callback, None)  # type: ignore[attr-defined]
    return done


class SubscriptionTests(SynchronousTestCase):
    """Subscriptions."""

    def test_per_link_and_together(self) -> None:
        """Both limits hold; what ends makes room; others keep theirs."""
        hub = MessageHub(Stats(), Turn(), limits=Limits(subscriptions=5, subscriptions_per_link=3))
        hub.enable()
        first, second = FakeLink(), FakeLink()
        rcs = [hub.subscribe_link(first, f"c{n}")[0] for n in range(4)]
        self.assertEqual(rcs, [0, 0, 0, errno.ENOSPC])
        rcs = [hub.subscribe_link(second, f"c{n}")[0] for n in range(3)]
        self.assertEqual(rcs, [0, 0, errno.ENOSPC])
        hub.unsubscribe_link(first, "c0")
        self.assertEqual(hub.subscribe_link(second, "c2")[0], 0)
        hub.forget_link(second)
        self.assertEqual([hub.subscribe_link(FakeLink(), "x")[0] for _ in range(4)], [0, 0, 0, 28])


class JobTests(SynchronousTestCase):
    """Jobs, steps and tasks."""

    def setUp(self) -> None:
        """No table yet."""
        self.stats = Stats()
        self.refused: list[tuple[str, str]] = []

    def table(self, **limits: int) -> JobTable:
        """A table with these limits."""
        return JobTable(self.stats, Limits(**limits), lambda *what: self.refused.append(what))

    def apply(self, table: JobTable, *notices: Notice) -> list[int]:
        """How many events each notice gave."""
        return [
            sum(len(change.events) for change in table.apply(one, T, "slurm")) for one in notices
        ]

    def counted(self) -> dict[str, int]:
        """What was refused."""
        return {name: n for name, n in self.stats.values.items() if name.startswith("refused.")}

    def test_jobs(self) -> None:
        """A job beyond the limit is counted, and what is told of it, too; the others go on, and
        when one of them has gone there is room."""
        table = self.table(jobs=2)
        one, two, three = "1", "2", "3"
        self.assertEqual(self.apply(table, JobInit(one, T), JobInit(two, T)), [1, 1])
        notices = (JobInit(three, T), StepInit(three, 0, 0, T), TaskInit(three, 0, 0, 1, T, 7))
        self.assertEqual(self.apply(table, *notices, JobExit(three, T)), [0] * 4)
        self.assertEqual(self.counted(), {"refused.jobs": 1, "refused.job_notices": 2})
        self.assertEqual(self.refused, [("jobs", three)] * 3)
        self.assertEqual(self.apply(table, StepInit(one, 0, 0, T), JobExit(one, T)), [1, 3])
        self.assertEqual(self.apply(table, JobInit(three, T)), [0])
        job = table.find(JobKey("slurm", one))
        assert job is not None
        table.forget(job)
        self.assertEqual(self.apply(table, JobInit(three, T), JobInit("4", T)), [1, 0])

    def test_attempts(self) -> None:
        """A further attempt is a job of its own."""
        table = self.table(jobs=1)
        self.apply(table, JobInit("1", T), JobExit("1", T + 1))
        later = T + 5_000_000
        self.assertEqual(self.apply(table, JobInit("1", later)), [0])
        self.assertEqual(self.apply(table, StepInit("1", 1, 0, later)), [0])
        self.assertEqual(self.apply(table, TaskInit("1", 1, 0, 0, later, 7)), [0])
        self.assertEqual(self.counted(), {"refused.jobs": 1, "refused.job_notices": 2})
        self.assertEqual(self.stats.get("late"), 0)

    def test_runs_without_ends(self) -> None:
        """A run whose forerunner's end was lost ends that, and has no place of its own."""
        table = self.table(jobs=1)
        first, other = (TaskInit("1", 0, 0, 0, T + n, 7 + n) for n in (0, 5_000_000))
        self.assertEqual(self.apply(table, JobInit("1", T), first, other), [1, 1, 3])
        self.assertEqual(self.counted(), {"refused.job_notices": 1})
        self.assertEqual((len(table.jobs()), table.running()), (1, []))

    def test_tasks(self) -> None:
        """Of one job so many tasks; their ends still count, and other jobs are not concerned."""
        table = self.table(tasks_per_job=2)
        tasks = [TaskInit("1", 0, 0, n, T, 100 + n) for n in range(3)]
        self.assertEqual(self.apply(table, JobInit("1", T), *tasks), [1, 1, 1, 0])
        ends = [TaskExit("1", 0, 0, n, 0, T, 100 + n) for n in range(3)]
        self.assertEqual(self.apply(table, *ends), [1, 1, 0])
        self.assertEqual(self.counted(), {"refused.tasks_per_job": 2})
        self.assertEqual(self.apply(table, TaskInit("2", 0, 0, 1, T, 1)), [2])
        self.apply(table, JobExit("1", T))
        self.assertEqual(self.apply(table, TaskInit("1", 0, 0, 9, T - 1, 9)), [0])
        self.assertEqual(self.counted(), {"refused.tasks_per_job": 3})

    def test_steps(self) -> None:
        """Of one job so many steps, told by their inits or their tasks."""
        table = self.table(steps_per_job=2)
        self.apply(table, JobInit("1", T))
        self.assertEqual(self.apply(table, *(StepInit("1", n, 0, T) for n in range(3))), [1, 1, 0])
        self.assertEqual(
            self.apply(table, TaskInit("1", 1, 0, 0, T, 5), TaskInit("1", 2, 0, 0, T, 6)), [1, 0]
        )
        self.assertEqual(self.counted(), {"refused.steps_per_job": 2})

    def test_nodes(self) -> None:
        """Of one step so many nodes."""
        table = self.table(nodes_per_step=2)
        self.apply(table, *(StepInit("1", 0, n, T) for n in range(3)))
        job = table.find(JobKey("slurm", "1"))
        assert job is not None
        self.assertEqual(job.steps()[0].node_ids, (0, 1))
        self.assertEqual(self.apply(table, TaskInit("1", 0, 2, 0, T, 5)), [0])
        self.assertEqual(self.apply(table, TaskInit("1", 0, 1, 0, T, 5)), [1])
        self.assertEqual(self.counted(), {"refused.nodes_per_step": 2})


class ServiceTests(SynchronousTestCase):
    """The limits reach what they are for."""

    def test_jobs(self) -> None:
        """The job table and the queues of subscribers keep to them; each limit is logged once."""
        clock, stats = Clock(), Stats()
        limits = Limits(jobs=3, event_queue=2)
        service = JobService(SetRegistry(), Turn(), clock, stats, "node-1", limits=limits)
        recorder = EventRecorder(lambda event: Deferred())
        service.subscribe(recorder, name="slow")
        lines: list[Any] = []
        globalLogPublisher.addObserver(lines.append)
        self.addCleanup(globalLogPublisher.removeObserver, lines.append)
        for number in range(6):
            service.apply(JobInit(str(number), T), T, "slurm", JobSetPolicy())
        self.assertEqual(len(service.jobs()), 3)
        self.assertEqual(stats.child("jobs").get("refused.jobs"), 3)
        told = [formatEvent(line) for line in lines if "job_id" in line or "limit" in line]
        self.assertEqual(told, ["job 3 is left out, or a part of it: the limit jobs is reached"])
        for number in range(3):
            service.apply(StepInit(str(number), 0, 0, T), T, "slurm", JobSetPolicy())
        self.assertEqual(stats.child("subscribers").child("slow").get("lost"), 3)

    def test_listeners(self) -> None:
        """Transports are told them, whatever stands first in the configuration; descriptors are
        seen to before anybody can connect."""
        rig = Rig(self)
        rig.read("listen xprt=wire port=1\nlimits links=500\nlisten xprt=wire port=2\n")
        daemon = rig.daemon
        for settings in daemon.endpoints[0].transport.settings:
            self.assertEqual(settings.limits, Limits(links=500))
            self.assertIs(settings.admission, daemon.admission)
        self.patch(resource, "getrlimit", lambda _: (100, 100))
        self.patch(resource, "setrlimit", lambda *_: None)
        daemon.privilegedStartService()
        self.assertEqual(daemon.admission.most, 100 - RESERVED)

    def test_messages(self) -> None:
        """One message in parts may have so many bytes, and what there is of such messages."""
        limits = Limits(message_bytes=2000, fragment_bytes=1000)
        left = FakeSite()
        pair = MemoryPair(left, FakeSite(), Clock(), limits=limits)
        pair.settle()
        for number, image in enumerate((1001, 1001, 2000, 2001)):
            data = bytes(image - BODY_OVERHEAD - len(b"c\0"))
            cut = image - 1 if number < 2 else 999
            payload, _ = fragments(publish_frame(Publish("c", data), number, T), cut)
            pair.left.dataReceived(zap.counted_frame(zap.SENDRECV, payload))
        refused = [one.reason for one in left.events if isinstance(one, Refused)]
        self.assertEqual(refused, ["too_many_fragments", "too_many_fragments", "message_too_long"])
        for link in (pair.left, pair.right):
            link.abort("end")
        pair.settle()


class MemoryTests(SynchronousTestCase):
    """What peers announce is not allocated."""

    def test_announced_frame(self) -> None:
        """A head that announces the largest frame takes no more memory than its own bytes."""
        pair = LinkPair()
        frame = zap.counted_frame(zap.SENDRECV, bytes(zap.MAX_FRAME - zap.COUNTED_HEAD.sizeof()))
        self.assertEqual(len(frame), zap.MAX_FRAME)
        head = frame[: zap.COUNTED_HEAD.sizeof()]
        del frame
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        pair.server.receive_data(head, T)
        _, peak = tracemalloc.get_traced_memory()
        self.assertIsNone(pair.server.error)
        self.assertEqual(pair.server.buffered_bytes, len(head))
        self.assertLess(peak - before, 16 * 1024)

    def test_unread_answers(self) -> None:
        """A peer is closed for exactly what is more than the limit."""
        for frames, state in ((4, []), (5, ["does not read"])):
            clock = Clock()
            left, right = FakeSite(), FakeSite()
            pair = MemoryPair(
                *(left, right, clock),
                limits=Limits(output_bytes=4 * len(credit_frame(1))),
                buffer_bytes=1,
            )
            pair.settle()
            pair.right.pause_reading()
            for _ in range(frames):
                pair.left.send(ReturnCredit([1]))
            pair.settle()
            self.assertEqual(
                [one.getErrorMessage().partition(":")[0] for one in left.closed], state
            )
            pair.left.abort("end")
            pair.settle()
