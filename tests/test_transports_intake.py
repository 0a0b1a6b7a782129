"""Lines from links and the spool together: their order, and what happens when there are many."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.admission import Admission
from ldmsjob.interfaces import LinkSettings
from ldmsjob.stats import Stats
from ldmsjob.transports.intake import Intake
from ldmsjob.transports.notifier_links import NotifierLink
from ldmsjob.wire.events import Credential, ReturnCredit
from tests.fake_sites import FakeSite
from tests.notifiers import line, spool


class Rig:
    """An intake on a ``task.Clock``, in a directory of its own."""

    def __init__(self, test: SynchronousTestCase, piece_bytes: int = 256 * 1024) -> None:
        directory = test.mktemp()
        os.mkdir(directory)
        self.path = f"{directory}/socket"
        self.site = FakeSite()
        self.stats = Stats()
        self.clock = Clock()
        self.logged: list[Any] = []
        self.on = True
        self.ready = 0
        log = Logger(observer=LogPublisher(self.logged.append))
        self.kept: dict[str, int | None] = {}
        context: Any = SimpleNamespace(
            clock=self.clock,
            log=log,
            stats=self.stats,
            kept=lambda: self.kept,
            keep=self.kept.__setitem__,
        )
        settings = LinkSettings(messages_enabled=lambda: self.on)
        self.intake = Intake(
            context, self.path, "slurm", self.site, settings, piece_bytes=piece_bytes
        )
        test.addCleanup(self.intake.stop)

    def start(self) -> Rig:
        """Start it."""
        self.intake.start(self._ready)
        return self

    def _ready(self) -> None:
        self.ready += 1

    def link(self, pid: int = 1) -> NotifierLink:
        """A process is connected."""
        place = Admission(self.stats).enter("uid 0")
        link = NotifierLink(self.intake, pid, Credential(0, 0), place)
        link.makeConnection(StringTransport())
        return link

    def spool(self, *lines: bytes) -> None:
        """Append to the spool."""
        spool(self.path, *lines)

    @property
    def got(self) -> list[bytes]:
        """What the site got."""
        return self.site.bodies


def answers(link: NotifierLink) -> bytes:
    """What the process was answered."""
    return link._twisted.value()


def state(link: NotifierLink) -> str:
    """What the link has made of its transport."""
    transport = link._twisted
    if transport.disconnecting:
        return "closed"
    return str(transport.producerState)


class OrderTests(SynchronousTestCase):
    """What caused something else comes first."""

    def test_spool_first(self) -> None:
        """What was spooled before a link was read is handed over before that."""
        rig = Rig(self).start()
        link = rig.link()
        rig.spool(line(1, pid=2))
        link.dataReceived(line(1) + b"\n")
        self.assertEqual(rig.got, [line(1, pid=2), line(1)])
        self.assertEqual(answers(link), b"+")

    def test_stopped_daemon(self) -> None:
        """A daemon goes on that was stopped: lines wait on the socket whose notifier has spooled
        them and all later ones. Each comes once, in the order in which it was written."""
        rig = Rig(self).start()
        link = rig.link()
        rig.spool(line(1), line(1, pid=2), line(2), line(3))
        link.dataReceived(line(1) + b"\n")
        self.assertEqual(rig.got, [line(1), line(1, pid=2), line(2), line(3)])
        self.assertEqual(rig.stats.get("repeated"), 1)

    def test_next_daemon(self) -> None:
        """It knows which lines have come, and takes none of them again; also when the one before
        was killed before it had answered."""
        rig = Rig(self).start()
        rig.link().dataReceived(line(1) + b"\n" + line(2) + b"\n")
        after = Rig(self)
        after.kept.update(rig.kept)
        after.start()
        after.spool(line(2), line(3), line(1, pid=2))
        after.link().dataReceived(line(1) + b"\n")
        self.assertEqual(after.got, [line(3), line(1, pid=2)])
        self.assertEqual(after.stats.get("repeated"), 2)

    def test_next_daemon_and_refused_lines(self) -> None:
        """Lines that nothing came of are taken by the next daemon."""
        rig = Rig(self).start()
        link = rig.link()
        link.dataReceived(line(1) + b"\n")
        rig.site.on_events = lambda link, events: link.send(ReturnCredit([1], rc=95))
        link.dataReceived(line(2) + b"\n" + line(3) + b"\n")
        after = Rig(self)
        after.kept.update(rig.kept)
        after.start()
        after.spool(line(1), line(2), line(3))
        after.link().dataReceived(line(1) + b"\n")
        self.assertEqual(after.got, [line(2), line(3)])

    def test_large_spool(self) -> None:
        """A large spool is read in pieces, one a turn, while links wait; they go on behind it."""
        rig = Rig(self, piece_bytes=1000).start()
        link, other = rig.link(), rig.link(2)
        spooled = [line(seq, pid=3) for seq in range(1, 101)]
        rig.spool(*spooled)
        link.dataReceived(line(1) + b"\n")
        self.assertGreater(len(rig.got), 5)
        self.assertLess(len(rig.got), 20)
        self.assertEqual([state(one) for one in (link, other)], ["paused", "paused"])
        # The reactor had these bytes already.
        other.dataReceived(line(1, pid=2) + b"\n")
        late = rig.link(4)
        self.assertEqual(state(late), "paused")
        for _ in range(30):
            rig.clock.advance(0)
        self.assertEqual(rig.got, [*spooled, line(1), line(1, pid=2)])
        self.assertEqual(answers(link) + answers(other), b"++")
        self.assertEqual([state(one) for one in (link, other, late)], ["producing"] * 3)
        self.assertEqual(rig.clock.getDelayedCalls(), [])

    def test_spool_that_grows_while_read(self) -> None:
        """What is spooled while a large spool is read comes before what a link brought later."""
        rig = Rig(self, piece_bytes=1000).start()
        link = rig.link()
        rig.spool(*(line(seq, pid=3) for seq in range(1, 31)))
        rig.intake.look()
        rig.spool(line(31, pid=3))
        link.dataReceived(line(1) + b"\n")
        for _ in range(10):
            rig.clock.advance(0)
        self.assertEqual(rig.got[-2:], [line(31, pid=3), line(1)])

    def test_links_go_on_though_the_spool_grows(self) -> None:
        """Writers that spool without end do not keep links from being read."""
        rig = Rig(self, piece_bytes=300).start()
        link = rig.link()
        seq = 0
        for turn in range(40):
            for _ in range(3):
                seq += 1
                rig.spool(line(seq, pid=3))
            if state(link) == "producing":
                link.dataReceived(line(turn + 1) + b"\n")
            rig.clock.advance(0)
        self.assertGreater(len(answers(link)), 5)

    def test_slow_subscribers(self) -> None:
        """The site can have the spool wait; links wait with it."""
        rig = Rig(self).start()
        (spool_link,) = rig.site.links
        link = rig.link()
        rig.site.on_events = lambda _link, _events: None
        spool_link.pause_reading()
        rig.spool(line(1, pid=2))
        link.dataReceived(line(1) + b"\n")
        rig.clock.advance(1)
        self.assertEqual((rig.got, state(link)), ([], "paused"))
        spool_link.resume_reading()
        rig.clock.advance(0)
        self.assertEqual(rig.got, [line(1, pid=2), line(1)])
        self.assertEqual(state(link), "producing")
        spool_link.resume_reading()

    @given(st.data())
    def test_any_interleaving(self, data: st.DataObject) -> None:
        """Each process sends lines, and at some point begins to spool, from the oldest one without
        an answer on. However reads of sockets and of the spool fall, each line comes once, and
        each process's lines come in order."""
        rig = Rig(self, piece_bytes=data.draw(st.sampled_from((60, 400, 256 * 1024)))).start()
        links = {pid: rig.link(pid) for pid in (1, 2, 3)}
        written = dict.fromkeys(links, 0)
        unread: dict[int, list[bytes]] = {pid: [] for pid in links}
        spooling: set[int] = set()
        for pid, act in data.draw(
            st.lists(st.tuples(st.sampled_from((1, 2, 3)), st.sampled_from("wwwrrsl")), max_size=40)
        ):
            if act == "w":
                written[pid] += 1
                text = line(written[pid], pid=pid)
                if pid in spooling:
                    rig.spool(text)
                else:
                    unread[pid].append(text)
            elif act == "s" and pid not in spooling:
                spooling.add(pid)
                rig.spool(*unread[pid])
            elif act == "r" and unread[pid] and state(links[pid]) == "producing":
                stream = b"".join(text + b"\n" for text in unread[pid])
                unread[pid] = []
                links[pid].dataReceived(stream)
            elif act == "l":
                rig.intake.look()
            rig.clock.advance(0)
        rig.intake.look()
        for _ in range(200):
            rig.clock.advance(0)
        for pid, link in links.items():
            link.dataReceived(b"".join(text + b"\n" for text in unread[pid]))
            self.assertEqual(
                [body for body in rig.got if b'"pid":%d,' % pid in body],
                [line(seq, pid=pid) for seq in range(1, written[pid] + 1)],
            )


class StartTests(SynchronousTestCase):
    """Start and stop."""

    def test_nothing_spooled(self) -> None:
        """It is ready at once; the spool is a link of the site."""
        rig = Rig(self).start()
        self.assertEqual((rig.ready, len(rig.site.links)), (1, 1))
        self.assertTrue(rig.site.links[0].peer_address.endswith(".spool"))

    def test_large_spool(self) -> None:
        """It is ready when all that was spooled before has been handed over: what another daemon
        had begun first."""
        rig = Rig(self, piece_bytes=500)
        old = [line(seq) for seq in range(1, 21)]
        rig.spool(*old)
        os.rename(f"{rig.path}.spool", f"{rig.path}.spool.old")
        rig.spool(line(21))
        rig.start()
        self.assertEqual(rig.ready, 0)
        for _ in range(10):
            rig.clock.advance(0)
        self.assertEqual((rig.ready, rig.got), (1, [*old, line(21)]))

    def test_messages_off(self) -> None:
        """While messages are off it is not ready and leaves the spool alone."""
        rig = Rig(self)
        rig.spool(line(1))
        rig.on = False
        rig.start()
        self.assertEqual((rig.ready, rig.got), (0, []))
        rig.on = True
        rig.intake.look()
        self.assertEqual((rig.ready, rig.got), (1, [line(1)]))

    def test_switched_off_in_the_middle(self) -> None:
        """When messages are switched off while a large spool is read, the rest comes when they are
        on again; links end, so that their lines are spooled."""
        rig = Rig(self, piece_bytes=500).start()
        link = rig.link()
        spooled = [line(seq, pid=2) for seq in range(1, 21)]
        rig.spool(*spooled)
        link.dataReceived(line(1) + b"\n")
        rig.on = False
        rig.clock.advance(0)
        self.assertEqual(state(link), "closed")
        rig.on = True
        rig.intake.look()
        for _ in range(10):
            rig.clock.advance(0)
        self.assertEqual(rig.got, spooled)

    def test_stop(self) -> None:
        """Links are closed; what was not read of the spool is left to the next daemon."""
        rig = Rig(self, piece_bytes=500).start()
        link = rig.link()
        rig.spool(*(line(seq, pid=2) for seq in range(1, 21)))
        rig.intake.look()
        rig.intake.stop()
        link.dataReceived(line(1) + b"\n")
        self.assertEqual(state(link), "closed")
        self.assertEqual(len(rig.site.closed), 1)
        link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(len(rig.site.closed), 2)
        self.assertTrue(os.path.exists(f"{rig.path}.spool.old"))
        self.assertEqual(rig.clock.getDelayedCalls(), [])
        rig.intake.look()
        rig.intake.stop()


class TroubleTests(SynchronousTestCase):
    """What goes wrong is counted, told, and hurts nothing else."""

    def told(self, rig: Rig) -> str:
        """The one line that was logged."""
        (event,) = rig.logged
        return str(event["log_format"]).format(**event)

    def test_spool_of_somebody_else(self) -> None:
        """A file that is not believed is named; links go on."""
        rig = Rig(self).start()
        link = rig.link()
        rig.spool(line(1, pid=2))
        os.chmod(f"{rig.path}.spool", 0o606)
        link.dataReceived(line(1) + b"\n")
        self.assertEqual((rig.got, rig.stats.get("spool_refused")), ([line(1)], 1))
        self.assertIn("put aside as", self.told(rig))

    def test_file_system_fails(self) -> None:
        """It is told once in a while; links go on, and the spool when it can be read again."""
        rig = Rig(self).start()
        link = rig.link()
        broken = os.rename

        def fail(*_paths: str) -> None:
            raise OSError(28, "No space left on device", "there")

        self.patch(os, "rename", fail)
        rig.spool(line(1, pid=2))
        link.dataReceived(line(1) + b"\n")
        link.dataReceived(line(2) + b"\n")
        self.assertEqual((rig.got, rig.stats.get("spool_errors")), ([line(1), line(2)], 2))
        self.assertIn("there: No space left on device", self.told(rig))
        self.patch(os, "rename", broken)
        rig.intake.look()
        self.assertEqual(len(rig.got), 3)

    def test_directory_is_gone(self) -> None:
        """A directory that was removed is an empty spool."""
        rig = Rig(self).start()
        os.rmdir(os.path.dirname(rig.path))
        link = rig.link()
        link.dataReceived(line(1) + b"\n")
        rig.intake.count_lost()
        self.assertEqual((rig.got, rig.logged), ([line(1)], []))

    def test_torn_lines(self) -> None:
        """What a writer did not finish is counted; the next writer's line behind it is found."""
        rig = Rig(self).start()
        spool(rig.path, line(1)[:20], ends=b"")
        rig.spool(line(1, pid=2))
        rig.spool(b"", line(2, pid=2))
        rig.intake.look()
        self.assertEqual(rig.got, [line(1, pid=2), line(2, pid=2)])
        self.assertEqual(rig.stats.get("refused.torn"), 1)

    def test_lost(self) -> None:
        """Lines that did not fit into the spool are counted and told as an error."""
        rig = Rig(self).start()
        with open(f"{rig.path}.lost", "wb") as file:
            file.write(b"...")
        rig.intake.count_lost()
        rig.intake.count_lost()
        self.assertEqual(rig.stats.get("lost_by_notifiers"), 3)
        self.assertIn("3 lines of notifiers are lost", self.told(rig))

    def test_site_fails(self) -> None:
        """A defect in the site costs no line: what it did not take may come again."""
        rig = Rig(self).start()
        link = rig.link()

        def fail(_link: object, _events: object) -> None:
            raise ZeroDivisionError

        rig.site.on_events = fail
        self.assertRaises(ZeroDivisionError, link.dataReceived, line(1) + b"\n")
        rig.site.on_events = lambda _link, _events: None
        self.assertEqual(answers(link), b"")
        rig.spool(line(1))
        rig.intake.look()
        self.assertEqual(rig.stats.get("repeated"), 0)

    def test_answers_that_nobody_reads(self) -> None:
        """A process for whom too many answers wait loses its link."""
        link = Rig(self).start().link()
        link.pauseProducing()
        self.assertEqual(state(link), "closed")
