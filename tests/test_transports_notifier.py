"""The transport ``notifier``, over unix sockets of its own."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from twisted.internet import inotify, reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.inotify import INotify, INotifyError
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import ConfigError, PublishError
from ldmsjob.interfaces import ILink, IListener, ITransport, LinkSettings
from ldmsjob.limits import Limits
from ldmsjob.plugins import builtin
from ldmsjob.stats import Stats
from ldmsjob.transports import acceptor, notifier
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.wire.events import Publish, ReturnCredit
from tests.fake_sites import FakeSite
from tests.notifiers import Writer, line, short_directory, spool


class CreditingSite(FakeSite):
    """Returns credit as the daemon's site does. ``rc`` goes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.rc = 0

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

    timeout = 120

    def setUp(self) -> None:
        """Nothing listens yet."""
        self.path = f"{short_directory(self)}/run/notifier.sock"
        self.site = CreditingSite()
        self.stats = Stats()
        self.on = True
        self.writers: list[Writer] = []
        self.addCleanup(self.end)

    def listener(self, path: str = "", limits: Limits | None = None, **options: Any) -> Any:
        """A listener that was not started."""
        context = SimpleNamespace(
            clock=reactor, log=Logger(), stats=self.stats, kept=dict, keep=lambda *_: None
        )
        transport = notifier.NotifierTransport(context, **options)
        settings = LinkSettings(messages_enabled=lambda: self.on, limits=limits)
        return transport.listen(path or self.path, 0, self.site, None, settings)

    def listen(self, **options: Any) -> Any:
        """A listener that runs; it ends with the test."""
        listener = self.listener(**options)
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
        self.patch(notifier, "peer_process", lambda _: (1, 4711, 5))
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
        self.listen(limits=Limits(links_per_address=2))
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

    @inlineCallbacks
    def test_growth(self) -> Iterator[Deferred[Any]]:
        """The kernel tells when lines are spooled, also when the file is not there yet."""
        self.listen()
        for seq in range(1, 4):
            spool(self.path, line(seq))
            yield self.until(lambda seq=seq: len(self.site.bodies) == seq)
        self.assertEqual(self.files(), ["notifier.sock", "notifier.sock.lock"])
        (message, *_) = self.site.events
        self.assertEqual(message.uid, os.geteuid())

    @inlineCallbacks
    def test_without_inotify(self) -> Iterator[Deferred[Any]]:
        """Where the kernel cannot tell, the spool is looked at every now and then."""
        self.patch(notifier, "POLL_ONLY_SECONDS", 0.0)
        before = sys.modules.get("twisted.internet.inotify")
        sys.modules["twisted.internet.inotify"] = None  # type: ignore[assignment]
        try:
            self.listen()
        finally:
            del sys.modules["twisted.internet.inotify"]
            if before is not None:
                sys.modules["twisted.internet.inotify"] = before
        spool(self.path, line(1))
        yield self.until(lambda: self.site.bodies)

    @inlineCallbacks
    def test_no_more_watches(self) -> Iterator[Deferred[Any]]:
        """The same where the kernel gives no more watches."""

        class Refusing(INotify):
            def watch(self, *_arguments: Any, **_more: Any) -> None:
                raise INotifyError("no more watches")

        self.patch(notifier, "POLL_ONLY_SECONDS", 0.0)
        self.patch(inotify, "INotify", Refusing)
        self.listen()
        spool(self.path, line(1))
        yield self.until(lambda: self.site.bodies)

    @inlineCallbacks
    def test_not_before_the_spool_is_read(self) -> Iterator[Deferred[Any]]:
        """While a large spool is read nobody can connect, so that all use the spool."""
        os.mkdir(os.path.dirname(self.path), 0o700)
        spooled = [line(seq) for seq in range(1, 20)]
        spool(self.path, *spooled)
        self.listen(piece_bytes=500)
        self.assertRaises(ConnectionRefusedError, Writer, self.path)
        yield self.until(lambda: self.site.bodies == spooled)
        yield turns()
        sent = self.writer(pid=7).send()
        yield self.until(lambda: self.site.bodies == [*spooled, sent])

    @inlineCallbacks
    def test_both_ways(self) -> Iterator[Deferred[Any]]:
        """A line that comes over the socket and in the spool comes once."""
        self.listen()
        writer = self.writer()
        for _ in range(20):
            sent = writer.send()
            spool(self.path, sent)
        yield self.until(lambda: self.stats.get("repeated") == 20)
        self.assertEqual(self.site.bodies, [line(seq) for seq in range(1, 21)])


class ListenerTests(NotifierTestCase):
    """The socket and its directory."""

    def refused(self) -> ConfigError:
        """Why it cannot be bound; the status is C's."""
        listener = self.listener()
        error = self.assertRaises(ConfigError, listener.service.privilegedStartService)
        self.assertEqual(error.rc, 7)
        return error

    def test_made(self) -> None:
        """The directory is for the daemon's user alone, and so is the socket."""
        listener = self.listen()
        directory = os.path.dirname(self.path)
        self.assertEqual(stat.S_IMODE(os.stat(directory).st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        verifyObject(IListener, listener)
        self.assertEqual(listener.port, 0)

    def test_bound_and_refusing(self) -> None:
        """Between the first start and the second the socket is there, and connecting fails."""
        listener = self.listener()
        listener.service.privilegedStartService()
        self.assertRaises(ConnectionRefusedError, Writer, self.path)
        listener.service.startService()
        self.addCleanup(self.stop, listener)
        self.writer()

    def test_stopped(self) -> None:
        """The socket goes when it stops, links end, and it can be started again."""
        listener = self.listen()
        writer = self.writer()
        listener.service.stopService()
        self.assertFalse(os.path.exists(self.path))
        self.assertRaises(FileNotFoundError, Writer, self.path)
        self.assertIsNone(writer.answers())
        listener.service.startService()
        self.writer()

    def test_stale_socket(self) -> None:
        """The socket of a daemon that is gone is replaced."""
        os.mkdir(os.path.dirname(self.path), 0o700)
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(self.path)
        self.listen()
        self.writer()

    def test_another_daemon(self) -> None:
        """A socket on which somebody listens is left alone, and so is a spool that another daemon
        is still reading."""
        self.listen()
        self.assertIn("another daemon listens there", str(self.refused()))
        self.writer()

    def test_another_program(self) -> None:
        """The same with a program that is none of ours."""
        os.mkdir(os.path.dirname(self.path), 0o700)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.path)
            other.listen(0)
            self.assertIn("another daemon listens there", str(self.refused()))
            self.assertTrue(os.path.exists(self.path))

    def test_something_else(self) -> None:
        """A file that is no socket is left alone."""
        os.mkdir(os.path.dirname(self.path), 0o700)
        with open(self.path, "w"):
            pass
        self.assertIn("no socket", str(self.refused()))
        self.assertTrue(os.path.exists(self.path))

    def test_directory_for_others(self) -> None:
        """A directory that others may write to is refused, with what would be right."""
        directory = os.path.dirname(self.path)
        os.mkdir(directory)
        os.chmod(directory, 0o770)
        self.assertEqual(self.refused().hint, f"chmod 0700 {directory}")
        os.chmod(directory, 0o755)
        self.listen()

    def test_directory_of_others(self) -> None:
        """So is a directory of another user, and what is none."""
        directory = os.path.dirname(self.path)
        os.mkdir(directory, 0o700)
        self.patch(os, "geteuid", lambda: os.getuid() + 1)
        if os.getuid() == 0:
            os.chown(directory, 4711, 0)
        self.assertIn("belongs to uid", str(self.refused()))
        os.rmdir(directory)
        with open(directory, "w"):
            pass
        self.assertIn("is no directory", str(self.refused()))

    def test_no_parent(self) -> None:
        """Only the last directory is made."""
        self.path = f"{short_directory(self)}/a/b/socket"
        self.assertIn("cannot be made", str(self.refused()))

    @inlineCallbacks
    def test_no_descriptors(self) -> Iterator[Deferred[Any]]:
        """When there are no file descriptors left, nobody is accepted for a while; then all are."""
        self.patch(acceptor, "PAUSE_SECONDS", 0.0)
        listener = self.listen()
        real, fails = listener._acceptor._listening, [errno.EMFILE, errno.EMFILE]

        def accept() -> Any:
            if fails:
                raise OSError(fails.pop(), "Too many open files")
            return real.accept()

        listener._acceptor._listening = SimpleNamespace(accept=accept, fileno=real.fileno)
        sent = self.writer().send()
        yield self.until(lambda: self.site.bodies)
        self.assertEqual((self.site.bodies, fails), ([sent], []))


class TransportTests(SynchronousTestCase):
    """What is said in the configuration."""

    def setUp(self) -> None:
        """Not configured."""
        context = SimpleNamespace(
            clock=Clock(), log=Logger(), stats=Stats(), kept=dict, keep=lambda *_: None
        )
        self.transport = builtin.notifier.create(context)

    def listen(self, path: str | None, authenticator: Any = None) -> Any:
        """A listener; nothing happens yet."""
        settings = LinkSettings(messages_enabled=lambda: True)
        self.transport.configure({})
        return self.transport.listen(path, 0, FakeSite(), authenticator, settings)

    def test_interface(self) -> None:
        """It is a transport without ports that asks nobody who peers are."""
        verifyObject(ITransport, self.transport)
        self.assertFalse(builtin.notifier.has_ports)
        self.assertTrue(builtin.notifier.authenticates)

    def test_channel(self) -> None:
        """The channel's name is checked."""
        self.transport.configure({"channel": "other"})
        for channel in ("", "a\0b"):
            self.assertRaises(ConfigError, self.transport.configure, {"channel": channel})

    def test_path(self) -> None:
        """The path must be absolute and fit into a socket's address."""
        for path in (None, "", "socket", "/" + "x" * 107):
            self.assertRaises(ConfigError, self.listen, path)
        self.listen("/" + "x" * 106)

    def test_no_authentication(self) -> None:
        """``auth`` cannot be combined with it."""
        error = self.assertRaises(ConfigError, self.listen, "/socket", NoneAuthenticator())
        self.assertIn("auth", error.message)

    def test_connect(self) -> None:
        """Nobody connects to a notifier."""
        self.assertRaises(ConfigError, self.transport.connect, "/socket", 0)
