"""``python -m tests.soak --seconds N``: a daemon under load; 1 when it did not stand it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.clocks import use_monotonic_clock
from ldmsjob.connecting import find_transport
from ldmsjob.interfaces import ILink, ILinkSite, LinkSettings
from ldmsjob.wire.events import JSON, CreditReturned, Publish
from tests.soak.daemon import SOURCE, Daemon, Disk
from tests.soak.eventfile import EventFile
from tests.soak.jobs import EVENTS_PER_JOB, LINES, MESSAGES_PER_JOB, messages
from tests.soak.report import Sample, Window, report

MESSAGE_SUBSCRIBERS = EVENT_SUBSCRIBERS = 10
"""The last one of each kind is stuck."""
READERS = 50

reactor: Any = installed_reactor


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of load (120)")
    parser.add_argument("--rate", type=float, default=500.0, help="job events a second (500)")
    parser.add_argument("--garbage", type=int, default=100, help="bad connections a second (100)")
    parser.add_argument("--output", metavar="FILE", help="everything that was measured, as JSON")
    parser.add_argument("--keep", metavar="DIR", help="where status and log are left")
    return parser.parse_args()


@implementer(ILinkSite)
class Publisher:
    """Sends the messages of jobs at a rate, and counts what was credited."""

    def __init__(self, port: int, seed: int) -> None:
        self.sent = self.credited = self.refused = self.jobs = 0
        self.held_up = 0
        """Moments in which the daemon had no credit left."""
        self.links = 0
        self._port = port
        self._source = messages(seed)
        self._events: EventFile | None = None
        self._link: ILink | None = None
        self._transport, self._authenticator = find_transport(reactor, "sock", "none", {})

    async def connect(self) -> None:
        """Connect as soon as somebody listens."""
        while True:
            try:
                await self._transport.connect(
                    *("127.0.0.1", self._port, self, self._authenticator),
                    LinkSettings(messages_enabled=lambda: True),
                )
                return
            except ConnectError:
                await deferLater(reactor, 0.05)

    def begin(self, events: EventFile) -> None:
        """From now on each message is expected in that file."""
        self._events = events

    def send(self, due: int) -> None:
        """Send what should have been sent by now."""
        link, events = self._link, self._events
        while link is not None and events is not None and self.sent < due:
            if not link.can_publish(1000):
                self.held_up += 1
                return
            self._put(*next(self._source))

    def finish(self) -> None:
        """End the jobs that run."""
        try:
            self._put(*self._source.send(True))
            while True:
                self._put(*next(self._source))
        except StopIteration:
            pass

    def _put(self, job: int, kind: str, text: bytes) -> None:
        assert self._link is not None and self._events is not None
        self.jobs = max(self.jobs, job)
        self._events.expect(LINES[kind], job)
        if kind == "exit":
            self._events.expect("jobset_delete", job)
        self._link.send(Publish("slurm", text, kind=JSON, uid=0, gid=0, perm=0o440))
        self.sent += 1

    def link_opened(self, link: ILink) -> None:
        """Begin."""
        self._link = link
        self.links += 1

    def link_events(self, link: ILink, events: Sequence[Any]) -> None:
        """Count credit."""
        for event in events:
            if type(event) is CreditReturned:
                self.credited += event.count
                self.refused += event.count if event.rc else 0

    def link_drained(self, link: ILink) -> None:
        """The next round sends."""

    def link_closed(self, link: ILink, reason: Failure) -> None:
        """Which must not happen while it publishes."""
        self._link = None

    def link_refused(self, peer_address: str, reason: str) -> None:
        """``connect`` fails."""


class Soak:
    """One run."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self._arguments = arguments
        self._directory = directory
        self._samples: list[Sample] = []
        self._full: Window | None = None
        self._statuses: dict[str, str] = {}
        self._failed = ""

    async def run(self) -> dict[str, Any]:
        """All of it; returns the report."""
        disk = Disk(self._directory / "disk")
        try:
            daemon = Daemon(self._directory, disk.path, EVENT_SUBSCRIBERS)
            try:
                return await self._with(daemon, disk)
            finally:
                daemon.stop()
        finally:
            disk.close()

    async def _with(self, daemon: Daemon, disk: Disk) -> dict[str, Any]:
        arguments = self._arguments
        await deferToThread(daemon.wait_until_listening)
        crowd = self._crowd(daemon.port)
        assert crowd.stdin is not None and crowd.stdout is not None
        await deferToThread(crowd.stdout.readline)
        publisher = Publisher(daemon.port, seed=1)
        await publisher.connect()
        events = EventFile(daemon.events, daemon.hang_up, reactor)
        publisher.begin(events)
        start = reactor.seconds()
        rate = arguments.rate * MESSAGES_PER_JOB / EVENTS_PER_JOB

        def publish() -> None:
            publisher.send(int((reactor.seconds() - start) * rate))

        def sample() -> None:
            if daemon.is_alive:
                self._samples.append(
                    Sample(
                        reactor.seconds() - start,
                        daemon.resident_bytes(),
                        daemon.descriptors(),
                        daemon.cpu_seconds(),
                        publisher.sent - publisher.credited,
                        len(events.latencies),
                        daemon.journal_bytes(),
                    )
                )

        publishing, sampling = LoopingCall(publish), LoopingCall(sample)
        loops = [publishing.start(0.005), sampling.start(0.5)]
        for loop in loops:
            loop.addErrback(self._broken)
        seconds = arguments.seconds
        if disk.why_not:
            await self._sleep(seconds / 2)
            self._statuses["middle"] = await deferToThread(daemon.status)
        else:
            full_seconds = min(max(seconds / 10, 8.0), 60.0)
            await self._sleep(seconds / 2 - full_seconds / 2)
            self._full = Window(reactor.seconds() - start, 0.0)
            disk.fill()
            await self._sleep(full_seconds / 2)
            self._statuses["disk full"] = await deferToThread(daemon.status)
            await self._sleep(full_seconds / 2)
            disk.free()
            self._full = Window(self._full.begin, reactor.seconds() - start)
        await self._sleep(start + seconds - reactor.seconds())
        self._statuses["end"] = await deferToThread(daemon.status)
        document = await deferToThread(daemon.status, "--json")
        publishing.stop()
        if daemon.is_alive:
            publisher.finish()
        await self._until(lambda: publisher.credited >= publisher.sent, 120)
        sampling.stop()
        told, _ = await deferToThread(crowd.communicate, f"{publisher.sent}\n")
        alive = daemon.is_alive
        status = await deferToThread(daemon.stop)
        events.close()
        return report(
            arguments=vars(arguments),
            alive=alive,
            exit_status=status,
            samples=self._samples,
            full=self._full,
            why_not_full=disk.why_not,
            publisher=publisher,
            events=events,
            crowd=json.loads(told.splitlines()[-1]) if told.strip() else {},
            heard=daemon.heard(),
            counters=daemon.counters(),
            statuses=self._statuses,
            document=document,
            failed=self._failed,
        )

    def _crowd(self, port: int) -> subprocess.Popen[str]:
        numbers = (port, MESSAGE_SUBSCRIBERS, READERS, self._arguments.garbage)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.soak.crowd", *map(str, numbers)],
            cwd=SOURCE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _broken(self, failure: Failure) -> None:
        self._failed = failure.getTraceback()

    async def _sleep(self, seconds: float) -> None:
        await deferLater(reactor, max(seconds, 0.0))

    async def _until(self, done: Any, seconds: float) -> None:
        deadline = reactor.seconds() + seconds
        while not done() and reactor.seconds() < deadline:
            await self._sleep(0.05)


def main() -> int:
    """Run, print, and say whether it stood it."""
    arguments = _arguments()
    use_monotonic_clock(reactor)
    directory = Path(tempfile.mkdtemp(prefix="ldmsjob-soak."))
    result: list[dict[str, Any]] = []

    def begin() -> None:
        running = Deferred.fromCoroutine(Soak(arguments, directory).run())
        running.addCallback(result.append)
        running.addErrback(lambda failure: failure.printTraceback())
        running.addBoth(lambda _: reactor.stop())

    try:
        reactor.callWhenRunning(begin)
        reactor.run()
        if arguments.keep:
            keep = Path(arguments.keep)
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(directory / "daemon.log", keep)
            for when, text in (result[0]["statuses"] if result else {}).items():
                (keep / f"status-{when.replace(' ', '-')}.txt").write_text(text)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not result:
        return 1
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(result[0], indent=1) + "\n")
    return 1 if result[0]["verdict"] else 0


if __name__ == "__main__":
    sys.exit(main())
