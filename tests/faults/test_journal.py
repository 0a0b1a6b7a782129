"""A daemon that is killed at any moment loses nothing that it has answered."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import reactor as installed_reactor
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

import ldmsjob
from ldmsjob.connecting import find_transport
from ldmsjob.events import EVENT_WORDS, JobEvent
from ldmsjob.interfaces import ILink, ILinkSite, LinkSettings
from ldmsjob.jobmgr.slurm import SlurmJobManager
from ldmsjob.journal.history import History
from ldmsjob.testing import EventRecorder, FakeDaemon, FakeJobManagerContext
from ldmsjob.wire.events import JSON, CreditReturned, Publish
from tests.ports import free_port
from tests.real import require_real

SOURCE = Path(ldmsjob.__file__).parent.parent
reactor: Any = installed_reactor

KILLS = int(os.environ.get("LDMSJOB_KILLS", "20"))
"""How often the daemon is killed."""

RATE = 2_000
"""Messages a second."""

WINDOW = 400
"""Messages that may be under way."""

LIVE_JOBS = 20

CONFIGURATION = """
daemon_name name=victim
msg_enable
listen xprt=sock port={port} host=127.0.0.1
load name=jobmgr_slurm
config name=jobmgr_slurm linger=1h reconcile=0
jobmgr_start name=jobmgr_slurm
"""


def message(event: str, job: int, number: int, **data: Any) -> bytes:
    """One message as Slurm's notifier sends it."""
    content = {
        "schema": "any",
        "event": event,
        "timestamp": 1_700_000_000 + number // 100,
        "context": "n1(slurmstepd)",
        "data": {"job_id": job, "nodeid": 0, "step_id": 0, **data},
    }
    return json.dumps(content).encode() + b"\0"


def messages(seed: int) -> Iterator[bytes]:
    """Jobs without end, some at a time, each of one step of two tasks."""
    chance = random.Random(seed)
    running: list[Iterator[tuple[str, int, dict[str, Any]]]] = []
    number = job = 0
    while True:
        while len(running) < LIVE_JOBS:
            job += 1
            running.append(life_of(job))
        one = chance.choice(running)
        try:
            event, owner, data = next(one)
        except StopIteration:
            running.remove(one)
            continue
        number += 1
        yield message(event, owner, number, **data)


def life_of(job: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The messages of one job."""
    yield "init", job, {"uid": 0, "gid": 0}
    yield "step_init", job, {"job_name": f"job {job}", "job_user": "root", "local_tasks": 2}
    for task in (0, 1):
        yield "task_init_priv", job, {"task_id": task, "task_pid": 2 * job + task + 1}
    for task in (1, 0):
        about = {"task_id": task, "task_pid": 2 * job + task + 1, "task_exit_status": 256 * task}
        yield "task_exit", job, about
    yield "step_exit", job, {}
    yield "exit", job, {}


@implementer(ILinkSite)
class Publisher:
    """Sends the messages in order, and again from the first one without credit when the link is
    lost."""

    def __init__(self, source: Iterator[bytes], port: int) -> None:
        self.sent: list[bytes] = []
        """All that was ever sent, once each."""
        self.credited = 0
        self.wanted = 0
        """How many should have been sent by now."""
        self.refused = 0
        self._source = source
        self._port = port
        self._under_way = 0
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
                await deferLater(reactor, 0.01)

    def send(self) -> None:
        """Send what should have been sent by now."""
        link = self._link
        while link is not None and self._under_way < WINDOW:
            number = self.credited + self._under_way
            if number >= self.wanted:
                break
            if number == len(self.sent):
                self.sent.append(next(self._source))
            link.send(Publish("slurm", self.sent[number], kind=JSON, uid=0, gid=0, perm=0o440))
            self._under_way += 1

    def link_opened(self, link: ILink) -> None:
        """Begin with the first message that has no credit."""
        self._link = link
        self._under_way = 0

    def link_events(self, link: ILink, events: Sequence[Any]) -> None:
        """Count credit."""
        for event in events:
            if type(event) is CreditReturned:
                self.credited += event.count
                self._under_way -= event.count
                self.refused += event.count if event.rc else 0
        self.send()

    def link_drained(self, link: ILink) -> None:
        """The window bounds what is sent."""

    def link_closed(self, link: ILink, reason: Failure) -> None:
        """The daemon was killed."""
        self._link = None

    def link_refused(self, peer_address: str, reason: str) -> None:
        """``connect`` fails."""


class KillTests(TestCase):
    """`kill -9`, again and again."""

    timeout = 60 + 30 * KILLS

    def setUp(self) -> None:
        """A configuration with a port that stays free."""
        require_real()
        self.port = free_port()
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)
        (self.directory / "ldmsd.conf").write_text(CONFIGURATION.format(port=self.port))
        self.daemon: subprocess.Popen[bytes] | None = None
        self.addCleanup(self.kill)

    def start(self) -> None:
        """Start the daemon."""
        code = "from twisted.scripts.twistd import run; run()"
        command = [sys.executable, "-c", code, "-n", "--pidfile=", "ldmsjob", "-c", "ldmsd.conf"]
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "STATE_DIRECTORY": str(self.directory / "state"),
        }
        with (self.directory / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                command, cwd=self.directory, env=environ, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it as suddenly as can be."""
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGKILL)
            self.daemon.wait()
            self.daemon = None

    async def until(self, publisher: Publisher, credited: int) -> None:
        """Publish at the rate until that many messages have their credit; others are under way."""
        start, first = reactor.seconds(), publisher.wanted
        while publisher.credited < credited:
            publisher.wanted = first + int((reactor.seconds() - start) * RATE)
            publisher.send()
            await deferLater(reactor, 0.005)

    async def until_all(self, publisher: Publisher) -> None:
        """Publish no more than was sent before, until all of it has its credit: then nothing may
        stand in the journal that has none."""
        publisher.wanted = len(publisher.sent)
        while publisher.credited < publisher.wanted:
            publisher.send()
            await deferLater(reactor, 0.005)

    async def test_every_answered_message_once(self) -> None:
        """After all kills the history has the events of all messages, each once and in order, and
        the jobs are those of a daemon that was never killed."""
        seed = int(os.environ.get("LDMSJOB_SEED", "1"))
        chance = random.Random(seed)
        publisher = Publisher(messages(seed), self.port)
        for _ in range(KILLS):
            self.start()
            await publisher.connect()
            # Counted in messages, so that a slow machine sees as many moments as a fast one.
            await self.until(publisher, publisher.credited + chance.randrange(1, RATE))
            self.kill()
        self.start()
        await publisher.connect()
        await self.until_all(publisher)
        self.kill()
        expected, jobs = reference(publisher.sent[: publisher.credited])
        history = History(str(self.directory / "state" / "victim" / "journal.sqlite"))
        self.addCleanup(history.close)
        found = [
            (entry.job.key.text, entry.event.word, entry.event.step, entry.event.task)
            for entry in history.events()
        ]
        self.assertEqual(publisher.refused, 0)
        self.assertEqual(found, expected, f"LDMSJOB_SEED={seed}")
        numbers = [entry.event.sequence for entry in history.events()]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        self.assertEqual(
            [known(entry.facts, entry.steps, entry.tasks) for entry in history.jobs(whole=True)],
            jobs,
        )


def known(facts: Any, steps: Sequence[Any], tasks: Sequence[Any]) -> tuple[Any, ...]:
    """A job, but for the fact that it was recovered."""
    return msgspec.structs.replace(facts, recovered=False), tuple(steps), tuple(tasks)


def reference(sent: Sequence[bytes]) -> tuple[list[Any], list[Any]]:
    """Events and jobs of a daemon that got these messages and was never killed."""
    daemon = FakeDaemon()
    context = FakeJobManagerContext(daemon)
    manager = SlurmJobManager(context)
    manager.configure({})
    manager.start()
    recorder = EventRecorder()
    daemon.jobs.subscribe(recorder, name="reference")
    for one in sent:
        daemon.publish(one)
    events = []
    for event in recorder.events:
        assert isinstance(event, JobEvent)
        step, task = getattr(event, "step", None), getattr(event, "task", None)
        events.append((event.key.text, EVENT_WORDS[type(event)], step, task))
    jobs = [known(job.facts, job.steps(), job.tasks()) for job in daemon.jobs.jobs()]
    return events, jobs
