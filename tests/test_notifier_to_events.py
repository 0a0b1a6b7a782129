"""From lines of notifiers to job events: a daemon with the listener and the Slurm job manager."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import TestCase

from ldmsjob.daemon import Daemon
from ldmsjob.interpreter import Interpreter
from ldmsjob.loader import Loader
from tests.notifiers import Writer, short_directory, spool

reactor: Any = installed_reactor

LINES = (Path(__file__).parent / "vectors" / "notifier-lines.jsonl").read_bytes().splitlines()
"""One job with a step of two tasks, as three processes tell of it."""

EVENTS = [
    "job_start",
    "step_start",
    "task_start",
    "task_start",
    "task_end",
    "task_end",
    "step_end",
    "job_end",
    "jobset_delete",
]

CONFIG = """msg_enable
listen xprt=notifier path={path}
load name=jobmgr_slurm
config name=jobmgr_slurm
jobmgr_start name=jobmgr_slurm
load name=test_jobmgr_sampler
config name=test_jobmgr_sampler file={events} steps=true
"""


def process_of(line: bytes) -> int:
    """The pid of who wrote it."""
    return int(json.loads(line)["notifier"]["pid"])


class Node:
    """A daemon in a directory, which outlives it."""

    def __init__(self, test: TestCase, directory: str, name: str) -> None:
        self.path = f"{directory}/run/notifier.sock"
        self.events = Path(directory, name)
        config = Path(directory, f"{name}.conf")
        config.write_text(CONFIG.format(path=self.path, events=self.events))
        self.daemon = Daemon(reactor, loader=Loader(), hostname="node-1")
        Interpreter(self.daemon, {}).read((), [str(config)])
        self.daemon.privilegedStartService()
        self.daemon.startService()
        test.addCleanup(self.stop)

    def stop(self) -> Deferred[None] | None:
        """Stop it, if it runs."""
        return self.daemon.stopService() if self.daemon.running else None

    @property
    def names(self) -> list[str]:
        """The names of its events."""
        return [line.partition(":")[0] for line in self.events.read_text().splitlines()]

    def counter(self, name: str) -> int:
        """A counter of the listener's transport."""
        return sum(
            counters.get(name, 0)
            for group, counters in self.daemon.stats.groups()
            if "xprt.notifier" in group
        )


class NotifierToEventsTests(TestCase):
    """What becomes of lines."""

    timeout = 120

    def setUp(self) -> None:
        """No daemon yet."""
        self.directory = short_directory(self)
        self.writers: dict[int, Writer] = {}
        self.addCleanup(self.end)

    def node(self, name: str = "events") -> Node:
        """A daemon that runs."""
        return Node(self, self.directory, name)

    def end(self) -> None:
        """All processes end."""
        for writer in self.writers.values():
            writer.close()

    def send(self, node: Node, *lines: bytes) -> None:
        """Send lines, each over the connection of its process."""
        for line in lines:
            pid = process_of(line)
            if pid not in self.writers:
                self.writers[pid] = Writer(node.path, pid)
            self.writers[pid].socket.sendall(line + b"\n")

    def turn(self) -> Deferred[None]:
        """One turn of the reactor."""
        done: Deferred[None] = Deferred()
        reactor.callLater(0, done.callback, None)
        return done

    @inlineCallbacks
    def until(self, condition: Any) -> Iterator[Deferred[Any]]:
        """Fires when the condition holds."""
        while not condition():
            yield self.turn()

    @inlineCallbacks
    def test_over_the_socket(self) -> Iterator[Deferred[Any]]:
        """A job's lines give its events, and what a line says is written before it is answered."""
        node = self.node()
        for line in LINES:
            self.send(node, line)
            writer = self.writers[process_of(line)]
            got: list[bytes] = []
            yield self.until(lambda writer=writer, got=got: got.append(writer.answers()) or got[-1])
            self.assertEqual(got[-1], b"+")
            event = json.loads(line)["event"]
            expected = {"init": 1, "step_init": 2, "step_exit": 7, "exit": 9}.get(event)
            if expected:
                self.assertEqual(node.names, EVENTS[:expected])
        self.assertEqual(node.names, EVENTS)

    @inlineCallbacks
    def test_from_the_spool(self) -> Iterator[Deferred[Any]]:
        """What was spooled while there was no daemon gives the same events."""
        Path(self.directory, "run").mkdir(mode=0o700)
        spool(f"{self.directory}/run/notifier.sock", *LINES)
        node = self.node()
        yield self.turn()
        self.assertEqual(node.names, EVENTS)

    @inlineCallbacks
    def test_both_ways(self) -> Iterator[Deferred[Any]]:
        """Lines that come over the socket and in the spool count once."""
        node = self.node()
        for line in LINES:
            self.send(node, line)
            spool(node.path, line)
            yield self.turn()
        yield self.until(lambda: node.counter("repeated") == len(LINES))
        self.assertEqual(node.names, EVENTS)
        self.assertEqual(node.counter("lines"), len(LINES))

    @inlineCallbacks
    def test_stopped_and_continued(self) -> Iterator[Deferred[Any]]:
        """A daemon that did not run for a while finds lines on its sockets, and the spool, to which
        their processes went over. It takes them in the order in which they caused one another."""
        node = self.node()
        self.send(node, LINES[0])
        yield self.until(lambda: node.names == EVENTS[:1])
        # From here on to the end of the loop the daemon does nothing.
        self.send(node, *LINES[1:3])
        spool(node.path, *LINES[1:7])
        self.send(node, LINES[7])
        yield self.until(lambda: node.counter("lines") == len(LINES))
        self.assertEqual(node.names, EVENTS)

    @inlineCallbacks
    def test_next_daemon(self) -> Iterator[Deferred[Any]]:
        """What a daemon had not answered when it went comes to the next one, once."""
        first = self.node()
        self.send(first, *LINES[:2])
        yield self.until(lambda: first.names == EVENTS[:2])
        yield first.stop()
        spool(first.path, *LINES[2:5])
        self.assertEqual(first.names[:2], EVENTS[:2])
        second = self.node("more-events")
        self.end()
        self.writers = {}
        self.send(second, *LINES[5:])
        yield self.until(lambda: second.counter("lines") == 6)
        # The step is known by its tasks only; the job by the first of them.
        self.assertEqual(second.names[0], "job_start")
        self.assertEqual(second.names.count("task_start"), 2)
        self.assertEqual(second.names.count("task_end"), 2)
        self.assertEqual(second.names[-2:], ["job_end", "jobset_delete"])
