"""The transport ``notifier``, over unix sockets of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import Logger
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import PublishError
from ldmsjob.interfaces import ILink, LinkSettings
from ldmsjob.stats import Stats
from ldmsjob.transports import notifier
from ldmsjob.wire.events import Publish, ReturnCredit
from tests.fake_sites import FakeSite
from tests.notifiers import Writer, line, short_directory, spool


class CreditingSite(FakeSite):
    """Returns credit as the daemon's site does. ``rc`` goes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.rc = 0
        self.seen: list[int] = []

    def link_events(self, link: Any, events: Any) -> None:
        """Remember them, unless they are refused."""
        if not self.rc:
            super().link_events(link, events)
        link.send(ReturnCredit([event.credit for event in events], rc=self.rc))


def turns(count: int = 3) -> Deferred[None]:
    """Fires after a few turns of the reactor, in which it has looked at all descriptors."""
    done: Deferred[None] = Deferred()

    def next_turn(left: int) -> None:
        if left:
            reactor.callLater(0, next_turn, left - 1)
        else:
            done.callback(None)

    next_turn(count)
    return done


class NotifierTestCase(TestCase):
    """A directory, a site, and listeners."""

    timeout = 20

    def setUp(self) -> None:
        """Nothing listens yet."""
        self.path = f"{short_directory(self)}/run/notifier.sock"
        self.site = CreditingSite()
        self.stats = Stats()
        self.on = True
        self.writers: list[Writer] = []
        self.addCleanup(self.end)

    def listener(self, path: str = "", **limits: Any) -> Any:
        """A listener that was not started."""
        context = SimpleNamespace(clock=reactor, log=Logger(), stats=self.stats)
        transport = notifier.NotifierTransport(context, **limits)
        settings = LinkSettings(messages_enabled=lambda: self.on)
        return transport.listen(path or self.path, 0, self.site, None, settings)

    def listen(self, **limits: Any) -> Any:
        """A listener that runs; it ends with the test."""
        listener = self.listener(**limits)
        listener.service.privilegedStartService()
        listener.service.startService()
        self.addCleanup(self.stop, listener)
        return listener

    def stop(self, listener: Any) -> None:
        """Stop it if it runs."""
        if listener.running:
            listener.service.stopService()

    def end(self) -> Deferred[None]:
        """All processes end, and the reactor learns of it."""
        for writer in self.writers:
            writer.close()
        return turns()

    def files(self) -> list[str]:
        """What is in the directory."""
        return sorted(os.listdir(os.path.dirname(self.path)))

    def writer(self, pid: int = 100) -> Writer:
        """One more process, connected."""
        writer = Writer(self.path, pid)
        self.writers.append(writer)
        return writer

    @inlineCallbacks
    def until(self, condition: Any) -> Iterator[Deferred[Any]]:
        """Fires when the condition holds."""
        while not condition():
            yield turns(1)


class LinkTests(NotifierTestCase):
    """Processes that are connected."""

    @inlineCallbacks
    def test_lines(self) -> Iterator[Deferred[Any]]:
        """Each line becomes a message of its process's user, and is answered."""
        self.listen()
        writer = self.writer()
        sent = [writer.send(text="é"), writer.send()]
        yield self.until(lambda: len(self.site.bodies) == 2)
        self.assertEqual(self.site.bodies, sent)
        self.assertEqual(writer.answers(), b"++")
        (message, _) = self.site.events
        self.assertEqual((message.channel, message.uid), ("slurm", os.geteuid()))
        (link,) = [one for one in self.site.links if one.peer.pid]
        self.assertEqual(link.peer.pid, os.getpid())
        self.assertEqual((link.credential.uid, link.credential.gid), (os.geteuid(), os.getegid()))
        self.assertEqual(self.stats.get("lines"), 2)

    @inlineCallbacks
    def test_repeated_and_refused(self) -> Iterator[Deferred[Any]]:
        """A line that came before is answered and not delivered; rubbish is answered by minus."""
        self.listen()
        writer = self.writer()
        writer.send()
        writer.socket.sendall(line(1) + b"\nrubbish\n" + line(2) + b"\n")
        yield self.until(lambda: self.stats.get("lines") == 2)
        self.assertEqual(self.site.bodies, [line(1), line(2)])
        self.assertEqual(writer.answers(), b"++-+")
        self.assertEqual((self.stats.get("repeated"), self.stats.get("refused.syntax")), (1, 1))

    @inlineCallbacks
    def test_answered_when_dealt_with(self) -> Iterator[Deferred[Any]]:
        """The answer goes out when the site is done with the line, and not before."""
        self.listen()
        writer = self.writer()
        before: list[bytes | None] = []
        self.site.on_events = lambda _link, _events: before.append(writer.answers())
        writer.send()
        yield self.until(lambda: self.site.bodies)
        self.assertEqual((before, writer.answers()), ([b""], b"+"))

    @inlineCallbacks
    def test_too_long(self) -> Iterator[Deferred[Any]]:
        """A line that is too long ends the connection."""
        self.listen()
        writer = self.writer()
        writer.socket.sendall(b"x" * 20_000)
        yield self.until(lambda: writer.answers() is None)
        self.assertEqual(self.stats.get("refused.too_long"), 1)

    @inlineCallbacks
    def test_messages_off(self) -> Iterator[Deferred[Any]]:
        """While messages are off no line is answered: the connection ends, and further ones do at
        once. The lines, from the spool, are delivered when messages are on again."""
        self.listen()
        writer = self.writer()
        writer.send()
        yield self.until(lambda: self.site.bodies)
        self.on = False
        second = writer.send()
        yield self.until(lambda: writer.answers() is None)
        other = self.writer()
        yield self.until(lambda: other.answers() is None)
        self.assertEqual(self.stats.get("links_refused.off"), 1)
        spool(self.path, second)
        yield turns()
        self.assertEqual(len(self.site.bodies), 1)
        self.on = True
        spool(self.path, line(pid=7))
        yield self.until(lambda: len(self.site.bodies) == 3)
        self.assertEqual(self.site.bodies[1:], [second, line(pid=7)])

    @inlineCallbacks
    def test_site_refuses(self) -> Iterator[Deferred[Any]]:
        """What the site sends back is not answered, and may come again."""
        self.listen()
        self.site.rc = 95
        writer = self.writer()
        sent = writer.send()
        yield self.until(lambda: writer.answers() is None)
        self.site.rc = 0
        spool(self.path, sent)
        yield self.until(lambda: self.site.bodies)
        self.assertEqual((self.site.bodies, self.stats.get("repeated")), ([sent], 0))

    @inlineCallbacks
    def test_other_users(self) -> Iterator[Deferred[Any]]:
        """Who is neither root nor the daemon's user is refused, unread."""
        self.listen()
        self.patch(notifier, "_PEERCRED", SimpleNamespace(size=12, unpack=lambda _: (1, 4711, 5)))
        writer = self.writer()
        writer.send()
        yield self.until(lambda: writer.answers() is None)
        ((who, why),) = self.site.refused
        self.assertIn("4711", who)
        self.assertTrue(why.startswith("not permitted:"))
        self.assertEqual((self.site.bodies, self.stats.get("links_refused.uid")), ([], 1))

    @inlineCallbacks
    def test_too_many(self) -> Iterator[Deferred[Any]]:
        """There is a bound to the number of links; more are closed."""
        self.listen(max_links=2)
        first = self.writer()
        self.writer()
        third = self.writer()
        yield self.until(lambda: third.answers() is None)
        self.assertEqual(self.stats.get("links_refused.too_many"), 1)
        first.close()
        yield self.until(lambda: self.site.closed)
        sent = self.writer(pid=9).send()
        yield self.until(lambda: self.site.bodies)
        self.assertEqual(self.site.bodies, [sent])

    @inlineCallbacks
    def test_paused(self) -> Iterator[Deferred[Any]]:
        """The owner of a link can have it read later."""
        self.listen()
        writer = self.writer()
        yield self.until(lambda: len(self.site.links) == 2)
        link = self.site.links[1]
        link.pause_reading()
        writer.send()
        yield turns()
        self.assertEqual(self.site.bodies, [])
        link.resume_reading()
        yield self.until(lambda: self.site.bodies)

    @inlineCallbacks
    def test_ends(self) -> Iterator[Deferred[Any]]:
        """A process that ends is a link that closes, also when it did not wait for its answer."""
        self.listen()
        polite, hasty = self.writer(), self.writer(pid=7)
        polite.send()
        hasty.send()
        yield self.until(lambda: len(self.site.bodies) == 2)
        polite.answers()
        polite.close()
        hasty.close()
        yield self.until(lambda: len(self.site.closed) == 2)
        for reason in self.site.closed:
            self.assertEqual(reason.type.__name__, "ConnectionDone")

    @inlineCallbacks
    def test_takes_nothing(self) -> Iterator[Deferred[Any]]:
        """It is a link; nothing can be published to it."""
        self.listen()
        self.writer()
        yield self.until(lambda: len(self.site.links) == 2)
        for link in self.site.links:
            verifyObject(ILink, link)
            self.assertFalse(link.can_publish(1) or link.waits_for_second(1))
            self.assertTrue(link.has_room())
            self.assertRaises(PublishError, link.send, Publish("c", b""))

    @inlineCallbacks
    def test_many_writers(self) -> Iterator[Deferred[Any]]:
        """256 processes at once: each line is delivered once, each process is answered."""
        self.listen()
        writers = [self.writer(pid) for pid in range(1, 257)]
        sent = [writer.send() for writer in writers for _ in range(2)]
        yield self.until(lambda: len(self.site.bodies) >= len(sent))
        self.assertEqual(sorted(self.site.bodies), sorted(sent))
        self.assertEqual({writer.answers() for writer in writers}, {b"++"})


class SpoolTests(NotifierTestCase):
    """Lines in files."""

    def test_at_start(self) -> None:
        """What was spooled, and what another daemon left behind, is read before the start is over,
        the latter first; then the files are gone."""
        os.mkdir(os.path.dirname(self.path), 0o700)
        spool(self.path, line(1))
        os.rename(f"{self.path}.spool", f"{self.path}.spool.old")
        spool(self.path, line(2), line(1))
        self.listen()
        self.assertEqual(self.site.bodies, [line(1), line(2)])
        self.assertEqual(self.files(), ["notifier.sock", "notifier.sock.lock"])
        self.assertEqual((self.stats.get("spooled"), self.stats.get("repeated")), (3, 1))
