"""Our job sets as unmodified C programs read, aggregate and store them.

The long test wants ``LDMSJOB_LONG_TESTS`` set; the one about stores wants ``LDMS_JOBMGR_PREFIX``,
a C build that has the job manager.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest

from ldmsjob.daemon import Daemon
from ldmsjob.interpreter import Interpreter
from ldmsjob.loader import Loader
from ldmsjob.replay import recorded_messages
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.decoded import DecodedSet
from ldmsjob.wire.events import JSON
from tests.interop.peers import (
    STEP_SECONDS,
    InteropTestCase,
    Program,
    listens,
    reactor,
    wait_until,
)
from tests.interop.test_messages import asynchronous
from tests.ports import free_port

CONFIGURATION = """
daemon_name name=node-1
listen xprt=sock port={port} host=127.0.0.1
msg_enable
load name=jobmgr_slurm
config name=jobmgr_slurm linger={linger}
jobmgr_start name=jobmgr_slurm
"""
AGGREGATOR = """
set_memory size=64m
prdcr_add name=ours host=127.0.0.1 port={port} xprt=sock type=active interval=1000000
prdcr_start name=ours
updtr_add name=all interval=1000000 offset=0
updtr_prdcr_add name=all regex=.*
updtr_start name=all
"""
INTERVAL = 1.0
SCALAR = re.compile(r"[MD] (\S+) +(\S+) +(.*?) *$")


def in_text(kind: str, value: Any) -> str:
    """A value as ``ldms_ls -l`` prints it."""
    if kind == "char[]":
        return f'"{value}"'
    if kind == "timestamp":
        return f"{value // 1_000_000}.{value % 1_000_000:06}"
    return str(value)


def as_printed(decoded: DecodedSet) -> dict[str, Any]:
    """What ``ldms_ls -l`` should print of a job set: texts of its metrics, and rows of tasks."""
    printed: dict[str, Any] = {"rows": []}
    members = {one.name: one.type for one in decoded.values()["task_rec_def"].members}
    for metric in decoded.metrics:
        if metric.type == "list<>":
            for element in metric.value:
                row = [in_text(members[name], value) for name, value in element.value.items()]
                printed["rows"].append(row)
        elif metric.type != "record_type":
            printed[metric.name] = in_text(metric.type, metric.value)
    return printed


def parsed(text: str) -> dict[str, dict[str, Any]]:
    """What ``ldms_ls -l`` printed, by set."""
    sets: dict[str, dict[str, Any]] = {}
    printed: dict[str, Any] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(": ")
        match = SCALAR.match(line)
        if match:
            if match[1] not in ("list<>", "record_type"):
                printed[match[2]] = match[3]
        elif colon and "last update" in rest:
            printed = sets[name] = {"rows": []}
        elif line.startswith('  "'):
            printed["rows"].append(line.split())
    return sets


class ServingTestCase(InteropTestCase):
    """Our daemon runs in this process; ``port`` is where it listens."""

    linger = 2
    timeout = 120

    def setUp(self) -> None:
        """Start it."""
        super().setUp()
        self.port = free_port()
        path = self.directory / "ours.conf"
        path.write_text(CONFIGURATION.format(port=self.port, linger=self.linger))
        self.daemon = Daemon(reactor, loader=Loader())
        Interpreter(self.daemon, {}).read([], [str(path)])
        self.daemon.privilegedStartService()
        self.daemon.startService()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end()))

    async def end(self) -> None:
        """Stop our daemon."""
        await self.daemon.stopService()
        await wait_until(lambda: not self.daemon.site.links, "links to close")

    def publish(self, *payloads: bytes) -> None:
        """Bring messages of the notifier."""
        with self.daemon.core.turn:
            for payload in payloads:
                self.daemon.hub.publish("slurm", payload, kind=JSON)

    def ours(self) -> dict[str, dict[str, Any]]:
        """What our sets have, as it should be printed."""
        return {
            one.instance: as_printed(decode_set(one.meta_bytes(), one.data_bytes()))
            for one in self.daemon.registry
        }

    async def ls(self, *arguments: str, port: int = 0) -> str:
        """The output of ``ldms_ls``."""
        where = ("-h", "127.0.0.1", "-x", "sock", "-p", str(port or self.port), "-a", "none")
        program = self.start_c("ldms_ls", *where, *arguments)
        self.assertEqual(await program.end(), 0, program.output + program.errors)
        return program.output.decode()

    async def start_aggregator(self, more: str = "") -> tuple[Program, int]:
        """A C daemon that reads our sets each second, and its port."""
        return await self.start_daemon(AGGREGATOR.format(port=self.port) + more)

    async def wait_for(
        self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float
    ) -> None:
        """Wait until it holds, at most so long."""
        end = reactor.seconds() + seconds
        while not await condition():
            self.assertLess(reactor.seconds(), end, f"waited {seconds:g} s in vain for {what}")
            await deferLater(reactor, STEP_SECONDS)

    async def same(self, port: int) -> bool:
        """Whether an aggregator shows just what our sets have now."""
        expected = self.ours()
        return parsed(await self.ls("-l", port=port)) == expected


def recorded(scenario: str) -> list[bytes]:
    """The messages of one scenario."""
    return [message.payload for message in recorded_messages([scenario])]


def simple_job(number: int) -> list[bytes]:
    """The messages of a job of one task."""
    init, step, task, *_rest = [
        json.loads(payload[:-1]) for payload in recorded("srun_n2") if b"init" in payload
    ]
    result = []
    for message in (init, step, task):
        message["data"]["job_id"] = number
        result.append(json.dumps(message).encode() + b"\0")
    return result


def further_task(payloads: list[bytes], number: int) -> bytes:
    """A message of one more task of a recorded job."""
    message = json.loads(next(one for one in payloads if b"task_init" in one)[:-1])
    message["data"].update(task_id=number, task_global_id=number, task_pid=10_000 + number)
    return json.dumps(message).encode() + b"\0"


class ListingTests(ServingTestCase):
    """``ldms_ls``."""

    @asynchronous
    async def test_each_stage_of_a_job(self) -> None:
        """After each message of a job's life ``ldms_ls -l`` shows what our set has."""
        for payload in recorded("srun_n2"):
            self.publish(payload)
            self.assertEqual(parsed(await self.ls("-l")), self.ours())
        self.assertEqual(len(self.ours()), 1)
        await wait_until(lambda: not len(self.daemon.registry), "the linger")
        self.assertEqual(parsed(await self.ls("-l")), {})

    @asynchronous
    async def test_no_sets(self) -> None:
        """An empty directory is no error."""
        for arguments in ((), ("-l",), ("-v",)):
            self.assertEqual(parsed(await self.ls(*arguments)), {})

    @asynchronous
    async def test_ways_to_ask(self) -> None:
        """Names alone, details, one name, expressions and schemas find the sets they should."""
        payloads = recorded("concurrent4")
        self.publish(*[one for one in payloads if b"exit" not in one])
        ours = self.ours()
        self.assertGreater(len(ours), 2)
        name = sorted(ours)[0]
        self.assertEqual(sorted((await self.ls()).split()), sorted(ours))
        self.assertEqual(parsed(await self.ls("-l", name)), {name: ours[name]})
        self.assertEqual(parsed(await self.ls("-l", "-E", f"{name}$")), {name: ours[name]})
        self.assertEqual(parsed(await self.ls("-l", "-E", "job_slurm")), ours)
        self.assertEqual(parsed(await self.ls("-l", "-E", "-S", "^jobmgr_")), ours)
        self.assertEqual(parsed(await self.ls("-l", "-S", "jobmgr_slurm")), ours)
        text = await self.ls("-l", "-v")
        self.assertEqual(parsed(text), ours)
        for one in self.daemon.registry:
            row = re.search(rf"^jobmgr_slurm +{one.instance} +(.*?) *$", text, re.M)
            assert row is not None
            self.assertEqual(
                row[1].split()[:7],
                ["CL", *map(str, (one.layout.meta_size, one.layout.data_size)),
                 str(one.layout.heap_size), str(one.uid), str(one.gid), "-rw-r-----"],
            )  # fmt: skip


class AggregatorTests(ServingTestCase):
    """A C daemon that aggregates our sets."""

    @asynchronous
    async def test_life_of_jobs(self) -> None:
        """It sees new jobs, changes, a set that is laid out anew, ends and deletions."""
        payloads = recorded("srun_n2")
        begin = [one for one in payloads if b"exit" not in one]
        self.publish(begin[0])
        program, port = await self.start_aggregator()
        await self.wait_for(lambda: self.same(port), "the first job", 10)
        self.publish(*begin[1:])
        await self.wait_for(lambda: self.same(port), "changed metadata", 4 * INTERVAL)
        for number in range(100, 104):
            self.publish(*simple_job(number))
        await self.wait_for(lambda: self.same(port), "more jobs", 4 * INTERVAL)
        self.publish(*[further_task(begin, number) for number in range(2, 20)])
        self.assertEqual(self.daemon.stats.child("job_sets").get("laid_out_anew"), 1)
        await self.wait_for(lambda: self.same(port), "a set laid out anew", 2.5 * INTERVAL)
        self.publish(*[one for one in payloads if b"exit" in one])
        await self.wait_for(lambda: self.same(port), "the end", 2 * INTERVAL)
        await wait_until(lambda: len(self.daemon.registry) == 4, "the linger")
        await self.wait_for(lambda: self.same(port), "the deletion", INTERVAL)
        self.assertIsNone(program.status)

    async def updated(self, port: int) -> list[str]:
        """The names of the sets that an aggregator has read."""
        text = await self.ls("-v", port=port)
        return sorted(re.findall(r"^jobmgr_slurm +(\S+) +CR", text, re.M))

    async def all_updated(self, port: int) -> bool:
        """Whether an aggregator has read just those sets that there are."""
        return await self.updated(port) == self.daemon.registry.names()

    @asynchronous
    async def test_thousand_sets(self) -> None:
        """A thousand of our sets for a minute, read each second, while jobs come and go."""
        if not os.environ.get("LDMSJOB_LONG_TESTS"):
            raise SkipTest("LDMSJOB_LONG_TESTS is not set")
        self.publish(*[one for number in range(1000, 2000) for one in simple_job(number)])
        program, port = await self.start_aggregator()
        await self.wait_for(lambda: self.all_updated(port), "a thousand sets", 15)
        stats = self.daemon.stats.child("sets")
        before, begun = stats.get("reads"), reactor.seconds()
        exits = [json.loads(one[:-1]) for one in recorded("srun_n2") if b"exit" in one]
        for second in range(60):
            for message in exits:
                message["data"]["job_id"] = 1000 + second
                self.publish(json.dumps(message).encode() + b"\0")
            self.publish(*simple_job(3000 + second))
            await deferLater(reactor, 1)
        rate = (stats.get("reads") - before) / (reactor.seconds() - begun)
        await self.wait_for(lambda: self.all_updated(port), "the sets after a minute", 6)
        some = {name: printed for name, printed in self.ours().items() if name.endswith("55")}
        self.assertEqual(len(some), 10)
        self.assertEqual(parsed(await self.ls("-l", "-E", "55$", port=port)), some)
        self.assertIsNone(program.status)
        self.assertGreater(rate, 950)
        self.assertEqual(len(self.daemon.registry), 1000)

    test_thousand_sets.timeout = 200


STORES = """
load name=store_csv
config name=store_csv path={path} buffer=0
prdcr_add name=theirs host=127.0.0.1 port={theirs} xprt=sock type=active interval=1000000
prdcr_start name=theirs
strgp_add name=of_ours plugin=store_csv container=ours schema=jobmgr_slurm
strgp_prdcr_add name=of_ours regex=ours
strgp_start name=of_ours
strgp_add name=of_theirs plugin=store_csv container=theirs schema=jobmgr_slurm
strgp_prdcr_add name=of_theirs regex=theirs
strgp_start name=of_theirs
updtr_prdcr_add name=all regex=.*
"""
TASK_STEP = -3
"""Where the step of a task stands in a row."""


class StoreTests(ServingTestCase):
    """What ``store_csv`` writes of our sets, and of those of the C job manager."""

    linger = 60

    async def start_c_job_manager(self) -> int:
        """The C daemon that has a job manager; returns its port."""
        named = os.environ.get("LDMS_JOBMGR_PREFIX")
        if not named:
            raise SkipTest("LDMS_JOBMGR_PREFIX names no C build with the job manager")
        port = free_port()
        path = self.directory / "theirs.conf"
        path.write_text(
            "msg_enable\nload name=jobmgr_slurm\nconfig name=jobmgr_slurm\n"
            f"jobmgr_start name=jobmgr_slurm\nlisten xprt=sock port={port} host=127.0.0.1\n"
        )
        program = self.start(
            *(f"{named}/sbin/ldmsd", "-F", "-c", path.name),
            *("-l", "theirs.log", "-r", "theirs.pid"),
            environment=dict(os.environ),
        )
        await wait_until(lambda: listens(port) or program.status is not None, "ldmsd to listen")
        self.assertIsNone(program.status, program.errors)
        return port

    async def publish_to(self, port: int, payload: bytes) -> None:
        """Publish one message there."""
        where = ("-h", "127.0.0.1", "-p", str(port), "-m", "slurm", "-t", "json")
        program = self.start_tool("publish", *where, payload.rstrip(b"\0").decode())
        self.assertEqual(await program.end(), 0, program.output + program.errors)

    @asynchronous
    async def test_same_rows(self) -> None:
        """Held in one state both give the same header and the same rows, but for the times of the
        reading and for the step of a task, which the C job manager never fills in."""
        theirs = await self.start_c_job_manager()
        for payload in recorded("sbatch_3steps"):
            if json.loads(payload[:-1])["event"] != "exit":
                self.publish(payload)
                await self.publish_to(theirs, payload)
        directory = self.directory.resolve()
        await self.start_aggregator(STORES.format(path=directory, theirs=theirs))
        files = [directory / name / "jobmgr_slurm" for name in ("ours", "theirs")]
        tasks = len(next(iter(self.ours().values()))["rows"])
        self.assertGreater(tasks, 1)
        await wait_until(
            lambda: all(one.exists() and one.read_text().count("\n") > tasks for one in files),
            "rows in both files",
        )
        ours, theirs_too = [one.read_text().splitlines() for one in files]
        self.assertEqual(ours[0], theirs_too[0])
        rows, their_rows = [
            [line.split(",") for line in lines[1 : tasks + 1]] for lines in (ours, theirs_too)
        ]
        for row in rows + their_rows:
            del row[TASK_STEP], row[:2]
        self.assertEqual(rows, their_rows)
