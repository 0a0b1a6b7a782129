"""Everybody else: subscribers of messages, readers of sets, and those who send rubbish.

``python -m tests.soak.crowd PORT SUBSCRIBERS READERS GARBAGE`` says ``ready``, goes on until its
input ends with the number of messages that were published, and prints what came of it as JSON.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.clocks import use_monotonic_clock
from ldmsjob.connecting import find_transport
from ldmsjob.errors import LdmsJobError
from ldmsjob.interfaces import ILink, ILinkSite, LinkSettings
from ldmsjob.peer import Peer
from ldmsjob.wire.connection import LdmsConnection
from ldmsjob.wire.events import Message, ReturnCredit, Subscribe
from tests.soak.daemon import NAME
from tests.soak.jobs import job_of, number_of

HOST = "127.0.0.1"
VANISH_EVERY = 10
"""One reader in so many vanishes, every ``VANISH_SECONDS``, without a word."""
VANISH_SECONDS = 3.0
HELD_SECONDS = 2.0
"""How long a connection that says too little is held."""
DRAIN_SECONDS = 120.0
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(193))

reactor: Any = installed_reactor
running: deque[int] = deque(maxlen=200)
"""Jobs that were heard of last."""


@implementer(ILinkSite)
class Subscriber:
    """Counts the messages of one link, and gaps in their numbers. A stuck one never reads."""

    def __init__(self, port: int, stuck: bool) -> None:
        self.heard = 0
        self.last = 0
        self.gaps = 0
        self.links = 0
        self._stuck = stuck
        self._link: ILink | None = None
        self._port = port
        self._transport, self._authenticator = find_transport(reactor, "sock", "none", {})

    async def connect(self) -> None:
        """Connect; a stuck one again whenever it was thrown out."""
        try:
            await self._transport.connect(
                *(HOST, self._port, self, self._authenticator),
                LinkSettings(messages_enabled=lambda: True),
            )
        except LdmsJobError:
            self._again()
        except Exception as error:
            print(f"a subscriber cannot connect: {error}", file=sys.stderr)
            self._again()

    def link_opened(self, link: ILink) -> None:
        """Subscribe; and read no more, if that is how it is."""
        self.links += 1
        self._link = link  # nothing else refers to one that is not read
        link.send(Subscribe("slurm"))
        if self._stuck:
            reactor.callLater(0.5, link.pause_reading)

    def link_events(self, link: ILink, events: Sequence[Any]) -> None:
        """Count, and give credit back."""
        amounts = []
        for event in events:
            if type(event) is Message:
                amounts.append(event.credit)
                self.heard += 1
                number = number_of(event.body)
                if number != self.last + 1:
                    self.gaps += 1
                self.last = number
        if amounts:
            running.append(job_of(event.body) if type(event) is Message else 1)
            link.send(ReturnCredit(amounts))

    def link_drained(self, link: ILink) -> None:
        """Nothing waits."""

    def link_closed(self, link: ILink, reason: Failure) -> None:
        """Come back."""
        self._again()

    def link_refused(self, peer_address: str, reason: str) -> None:
        """``connect`` fails."""

    def _again(self) -> None:
        if not stopping:
            reactor.callLater(1.0, lambda: later(self.connect()))


stopping: list[bool] = []


def later(coroutine: Any) -> None:
    """Run it by itself; a defect is told."""
    Deferred.fromCoroutine(coroutine).addErrback(lambda failure: failure.printTraceback())


class Reader:
    """Looks up sets of jobs and reads them, once a second."""

    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self._number = number
        self._vanishes = number % VANISH_EVERY == 0

    async def run(self) -> None:
        """For ever."""
        counts = self.counts
        while not stopping:
            await deferLater(reactor, random.random())
            try:
                peer = await Peer.connect(reactor, HOST, self._port)
            except LdmsJobError:
                counts["not connected"] += 1
                continue
            until = reactor.seconds() + VANISH_SECONDS
            try:
                while not stopping:
                    await self._read(peer)
                    await deferLater(reactor, 0.5 + random.random())
                    if self._vanishes and reactor.seconds() > until:
                        break
            except LdmsJobError as error:
                counts[type(error).__name__] += 1
            if peer.is_open and peer._link is not None:
                peer._link.abort("vanishes")
                counts["vanished"] += 1

    async def _read(self, peer: Peer) -> None:
        if not running:
            return
        counts = self.counts
        if random.random() < 0.02:
            counts["directories"] += 1
            counts["listed"] += len(await peer.dir())
        found = await peer.lookup(f"{NAME}/job_slurm_{random.choice(running)}")
        counts["lookups"] += 1
        for one in found:
            try:
                for _ in range(2):
                    await one.update()
                    counts["readings"] += 1
            except LdmsJobError as error:
                # Its job may have ended long enough ago meanwhile.
                counts[f"read: {type(error).__name__} {getattr(error, 'rc', '')}"] += 1


class Garbage(Protocol):
    """A connection that is of no use to anybody."""

    def connectionMade(self) -> None:
        """Say something, or nothing, and go."""
        kind = random.choice(("random", "half", "tls", "nothing"))
        counts = Garbages.counts
        counts[kind] += 1
        if kind == "random":
            self._put(random.randbytes(random.randrange(1, 2000)))
        elif kind == "half":
            self._put(HELLO[: random.randrange(1, len(HELLO))])
        elif kind == "tls":
            self._put(TLS_HELLO)
        self._end = reactor.callLater(HELD_SECONDS, self._go)

    def _put(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]

    def _go(self) -> None:
        if random.random() < 0.5:
            self.transport.abortConnection()  # type: ignore[union-attr]
        else:
            self.transport.loseConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Counted, if it was the daemon who closed."""
        if self._end.active():
            self._end.cancel()
            Garbages.counts["thrown out"] += 1


class Garbages(ClientFactory):
    """Makes them."""

    noisy = False
    protocol = Garbage
    counts: ClassVar[Counter[str]] = Counter()

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        """Counted."""
        self.counts["not connected"] += 1


def _hello() -> bytes:
    connection = LdmsConnection(False, auth_name="none", messages_enabled=True, pid=1)
    connection.connect()
    return connection.data_to_send()


HELLO = _hello()


class End:
    """What is said on standard input: the number of messages, at the end."""

    def __init__(self, subscribers: Sequence[Subscriber]) -> None:
        self._subscribers = subscribers
        deferToThread(sys.stdin.readline).addCallback(self._begin)

    def _begin(self, line: str) -> None:
        """Wait for what is under way, then tell."""
        self._total = int(line or "0")
        self._deadline = reactor.seconds() + DRAIN_SECONDS
        self._look()

    def _look(self) -> None:
        healthy = self._subscribers[:-1]
        if all(one.last >= self._total for one in healthy) or reactor.seconds() > self._deadline:
            stopping.append(True)
            self._tell()
        else:
            reactor.callLater(0.1, self._look)

    def _tell(self) -> None:
        told = {
            "subscribers": [
                {"heard": one.heard, "last": one.last, "gaps": one.gaps, "links": one.links}
                for one in self._subscribers
            ],
            "readers": dict(Reader.counts),
            "garbage": dict(Garbages.counts),
        }
        print(json.dumps(told), flush=True)
        reactor.callLater(0.5, reactor.stop)


def main() -> None:
    """Be many."""
    port, subscribers, readers, garbage = map(int, sys.argv[1:])
    use_monotonic_clock(reactor)
    everybody = [Subscriber(port, number == subscribers - 1) for number in range(subscribers)]
    factory = Garbages()
    made = [0]

    def begin() -> None:
        for one in everybody:
            later(one.connect())
        for number in range(readers):
            later(Reader(port, number).run())
        if garbage:
            LoopingCall(waste).start(0.02)
        End(everybody)
        announce()

    def announce() -> None:
        if all(one.links for one in everybody):
            reactor.callLater(2.0, print, "ready", flush=True)
        else:
            reactor.callLater(0.1, announce)

    start = reactor.seconds()

    def waste() -> None:
        due = int((reactor.seconds() - start) * garbage)
        while made[0] < due and not stopping:
            made[0] += 1
            reactor.connectTCP(HOST, port, factory)

    reactor.callWhenRunning(begin)
    reactor.run()


if __name__ == "__main__":
    main()
