"""The reactor of the daemon."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import ldmsjob
from ldmsjob.eventloop import LONGEST_SECONDS, EventLoop

INSTALLING = """
import sys
{before}
from ldmsjob import eventloop
eventloop.install()
from twisted.internet import reactor
print(type(reactor).__name__)
"""


class Reader:
    """One end of a pair of sockets."""

    def __init__(self, loop: EventLoop, end: socket.socket) -> None:
        self.loop = loop
        self.end = end
        self.read: list[bytes] = []
        self.lost: list[Any] = []
        self.closes: list[Reader] = []
        self.fileno = end.fileno
        loop.addReader(self)

    def logPrefix(self) -> str:
        """For other reactors."""
        return ""

    def doRead(self) -> None:
        """Read, close who is to be closed, and fail where there is nothing."""
        data = self.end.recv(10)
        for other in self.closes:
            self.loop.removeReader(other)
        if not data:
            raise ZeroDivisionError
        self.read.append(data)

    def connectionLost(self, reason: Any) -> None:
        """Remember it."""
        self.lost.append(reason.type)


class EventLoopTests(SynchronousTestCase):
    """One turn of it."""

    def setUp(self) -> None:
        """Two readers."""
        self.loop = EventLoop()
        self.addCleanup(self.loop._poller.close)
        for one in self.loop.removeAll():
            one.connectionLost(None)
        self.readers, self.others = [], []
        for _ in range(2):
            mine, other = socket.socketpair()
            self.addCleanup(mine.close)
            self.addCleanup(other.close)
            self.readers.append(Reader(self.loop, mine))
            self.others.append(other)

    def test_events(self) -> None:
        """Who has an event is called, who has none is not; without any, it ends in time."""
        first, second = self.readers
        self.others[0].send(b"1")
        self.loop.doPoll(None)
        self.loop.doIteration(0)
        self.assertEqual((first.read, second.read), ([b"1"], []))

    def test_closed_meanwhile(self) -> None:
        """Who was closed by the one before is not called."""
        for number in (0, 1):
            self.readers[number].closes = [self.readers[1 - number]]
            self.others[number].send(b"1")
        self.loop.doPoll(0)
        self.assertEqual(sorted(len(one.read) for one in self.readers), [0, 1])

    def test_readers_and_writers(self) -> None:
        """Who reads, writes, or both is called for that, whatever came first; who is a plain file
        always; who has left is not."""
        loop, reader = self.loop, self.readers[0]
        written: list[str] = []
        reader.doWrite = lambda: written.append("socket")
        self.others[0].send(b"1" * 9)

        def turn() -> tuple[int, int]:
            read, wrote = len(reader.read), len(written)
            reader.end.setblocking(False)
            loop.doPoll(0)
            return len(reader.read) - read, len(written) - wrote

        reader.doRead = lambda: reader.read.append(reader.end.recv(1))
        self.assertEqual(turn(), (1, 0))
        loop.addReader(reader)
        loop.removeWriter(reader)
        self.assertEqual((turn(), loop.getReaders().count(reader)), ((1, 0), 1))
        loop.addWriter(reader)
        self.assertEqual(turn(), (1, 1))
        loop.removeReader(reader)
        loop.removeReader(reader)
        self.assertEqual(turn(), (0, 1))
        loop.addReader(reader)
        loop.removeWriter(reader)
        self.assertEqual(turn(), (1, 0))
        loop.removeReader(reader)
        self.assertEqual((turn(), reader in loop.getReaders()), ((0, 0), False))
        with open(__file__, "rb") as file:
            plain = Reader(loop, self.readers[1].end)
            plain.fileno = file.fileno
            loop.addReader(plain)
            self.assertIn(plain, loop.getReaders())
            loop.removeReader(plain)
            self.assertNotIn(plain, loop.getReaders())

    def test_failure(self) -> None:
        """What fails is logged and ends; others go on."""
        self.others[0].close()
        self.others[1].send(b"1")
        self.loop.doPoll(0)
        self.assertEqual(self.readers[0].lost, [ZeroDivisionError])
        self.assertEqual(self.readers[1].read, [b"1"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_main_loop(self) -> None:
        """Calls are made in time while events never end; those of an event, and of threads, at
        once; it ends when an event says so."""
        loop, made = self.loop, []
        reader, other = self.readers[0], self.others[0]
        answered = reader.doRead
        loop.seconds = lambda: len(reader.read)
        follow = {
            1: lambda: loop.callLater(4, made.append, "later"),
            2: lambda: loop.callLater(0, made.append, "new"),
            3: lambda: loop.callFromThread(made.append, "thread"),
        }

        def answer() -> None:
            answered()
            follow.get(len(reader.read), lambda: None)()
            if "later" in made or len(reader.read) > 9:
                loop.stop()
            else:
                other.send(b"1")

        reader.doRead = answer
        other.send(b"1")
        loop.startRunning(installSignalHandlers=False)
        loop.mainLoop()
        self.assertEqual((made, len(reader.read)), (["new", "thread", "later"], 6))

    def test_wait_for_a_far_call(self) -> None:
        """It waits for the next call, however far off that is, and without one."""
        self.loop.seconds = lambda: 0.0
        for call, expected in ((None, LONGEST_SECONDS), (1e9, LONGEST_SECONDS), (3.5, 3.5)):
            if call is not None:
                self.loop.callLater(call, self.fail)
            self.loop._started = self.loop.running = True
            waits: list[float] = []

            def poll(wait: float, most: int, waits: list[float] = waits) -> list[Any]:
                waits.append(wait)
                if len(waits) == 2:
                    self.loop._started = self.loop.running = False
                return []

            self.loop._poller = SimpleNamespace(poll=poll, close=lambda: None)
            self.loop.mainLoop()
            self.assertEqual(waits[1], expected)
            # Not too long for the system.
            with contextlib.closing(select.epoll()) as poller:
                self.others[0].send(b"1")
                poller.register(self.readers[0].end.fileno(), select.EPOLLIN)
                self.assertEqual(len(poller.poll(waits[1])), 1)

    def test_main_loop_goes_on(self) -> None:
        """A defect in it is logged, and ends nothing."""
        self.loop.startRunning(installSignalHandlers=False)
        self.loop.callLater(0, self.loop.stop)
        polls = [self.loop.doPoll, lambda *given, **named: 1 / 0]

        def poll(*given: Any, **named: Any) -> None:
            (polls.pop() if len(polls) > 1 else polls[0])(*given, **named)

        self.loop.doPoll = poll
        self.loop.mainLoop()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_installed(self) -> None:
        """It becomes the reactor, unless there is one."""
        there = "from twisted.internet import selectreactor; selectreactor.install()"
        for before, expected in (("", "EventLoop"), (there, "SelectReactor")):
            done = subprocess.run(
                [sys.executable, "-c", INSTALLING.format(before=before)],
                env={**os.environ, "PYTHONPATH": str(Path(ldmsjob.__file__).parent.parent)},
                capture_output=True,
                text=True,
                check=True,
            )
            self.assertEqual(done.stdout.strip(), expected)
