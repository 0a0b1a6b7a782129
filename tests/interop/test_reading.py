"""Reading the sets of an unmodified C daemon: ``ldmsjob ls`` beside ``ldms_ls``, and ``Peer``."""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ldmsjob.cli.ls_json import entry_record, reading_record
from ldmsjob.peer import Peer
from ldmsjob.sets.decoded import DecodedSet
from ldmsjob.wire.setevents import SET_ADDED, SET_DELETED
from tests.interop.peers import (
    SOURCE,
    InteropTestCase,
    Program,
    listens,
    reactor,
    wait_until,
)
from tests.interop.test_messages import asynchronous
from tests.ports import free_port

SAMPLERS = {
    "meminfo": "component_id=7",
    "list_sampler": "",
    "record_sampler": "with_name=1",
    "all_example": "",
    "array_example": "num_metrics=3 num_ele=5 type=S16_ARRAY",
}
"""The examples that have every metric type between them, and what they are configured with."""

COPIES = 4
TRIES = 10


RING = "load name=ring plugin=meminfo\nconfig name=ring producer=node-1 instance=node-1/ring"


def configuration(interval: str, ring_interval: str) -> str:
    """A daemon that samples, and meminfo once more into a set of several copies."""
    lines = []
    for name, options in SAMPLERS.items():
        lines += [
            f"load name={name}",
            f"config name={name} producer=node-1 instance=node-1/{name} {options}",
            f"start name={name} interval={interval}",
        ]
    lines += [f"{RING} schema=ring set_array_card={COPIES}"]
    lines += [f"start name=ring interval={ring_interval}", ""]
    return "\n".join(lines)


async def side_by_side(*coroutines: Any) -> list[Any]:
    """The results of coroutines that run at the same time."""
    running = [Deferred.fromCoroutine(each) for each in coroutines]
    return [await each for each in running]


class ReadingTestCase(InteropTestCase):
    """A C daemon with samplers; ``port`` is where it listens."""

    intervals = ("500ms", "100ms")

    async def start_samplers(self) -> Peer:
        """Start it, and wait until each set has been written."""
        self.daemon, self.port = await self.start_daemon(configuration(*self.intervals))
        peer = await Peer.connect(reactor, "127.0.0.1", self.port)
        self.addCleanup(peer.close)
        for _ in range(200):
            entries = await peer.dir()
            if len(entries) > len(SAMPLERS) and all(each.timestamp.sec for each in entries):
                return peer
            await deferLater(reactor, 0.05)
        raise AssertionError(f"the samplers do not sample: {entries}")

    async def ended(self, program: Program) -> tuple[int | None, str]:
        """Its exit status and what it printed."""
        await wait_until(lambda: program.status is not None, program.name)
        return program.status, program.output.decode()

    async def ls(self, *options: str) -> tuple[int | None, str]:
        """What ``ldmsjob ls`` prints."""
        tool = self.start_tool("ls", "-h", "127.0.0.1", "-p", str(self.port), *options)
        status, text = await self.ended(tool)
        self.assertEqual(tool.errors, b"")
        return status, text

    async def ldms_ls(self, *options: str) -> tuple[int | None, str]:
        """What C's ``ldms_ls`` prints."""
        return await self.ended(
            self.start_c(
                *("ldms_ls", "-h", "127.0.0.1", "-x", "sock", "-a", "none"),
                *("-p", str(self.port), *options),
            )
        )

    async def control(self, *lines: str) -> None:
        """Configure the running daemon."""
        control = self.start_c(
            *("ldmsctl", "-h", "127.0.0.1", "-x", "sock", "-a", "none", "-p", str(self.port)),
            text="\n".join([*lines, ""]).encode(),
        )
        await self.ended(control)


class LsTests(ReadingTestCase):
    """``ldmsjob ls`` and ``ldms_ls`` side by side."""

    intervals = ("2s", "2s")

    @asynchronous
    async def test_equal_text(self) -> None:
        """Byte for byte the same, for every example sampler and in every form."""
        await self.start_samplers()
        for options in (
            (),
            ("-v",),
            ("-v", "-v"),
            ("-f", "tab"),
            *(("-l", f"node-1/{name}") for name in SAMPLERS),
            ("-l", "-u", "-v", "-E", "list|record"),
            ("-l", "-S", "ring"),
            ("-l", "-f", "tab", "-E", "_example$"),
            ("-P", "node-1/all_example"),
        ):
            # The samplers go on meanwhile: until both see the same reading.
            for _ in range(TRIES):
                ours, theirs = await side_by_side(self.ls(*options), self.ldms_ls(*options))
                if ours == theirs:
                    break
            self.assertEqual(ours, theirs, options)
            self.assertTrue(ours[1].strip(), options)

    @asynchronous
    async def test_json(self) -> None:
        """JSON of every set parses, and is what was read."""
        peer = await self.start_samplers()
        status, text = await self.ls("--json", "-l")
        document = json.loads(text)
        self.assertEqual((status, document["peer"]["port"]), (0, self.port))
        self.assertEqual(len(document["sets"]), len(SAMPLERS) + 1)
        entries = {entry.name: entry for entry in await peer.dir()}
        for record in document["sets"]:
            [found] = await peer.lookup(record["instance"])
            reading = await found.update()
            now = entry_record(entries[record["instance"]]) | reading_record(reading)
            self.assertEqual(set(record), set(now))
            self.assertEqual(json.loads(json.dumps(now, allow_nan=False)), now)
            self.assertEqual(
                [(each["name"], each["type"]) for each in record["metrics"]],
                [(each["name"], each["type"]) for each in now["metrics"]],
            )

    @asynchronous
    async def test_exit_statuses(self) -> None:
        """A script sees: nothing found 1, nobody there 111, other authentication 13."""
        other = free_port()
        _, self.port = await self.start_daemon(
            "auth_add name=n plugin=naive uid=1 gid=1\n"
            f"listen xprt=sock host=127.0.0.1 port={other} auth=n\n"
        )
        await wait_until(lambda: listens(other), "the other listener")
        for port, status in ((self.port, 1), (free_port(), 111), (other, 13)):
            tool = self.start_tool("ls", "-p", str(port))
            self.assertEqual((await self.ended(tool)), (status, ""))
            self.assertEqual(tool.errors.count(b"\n"), 1)


class PeerTests(ReadingTestCase):
    """``Peer`` through the life of a set."""

    @asynchronous
    async def test_life_of_a_set(self) -> None:
        """Added, looked up, read, pushed, deleted: all of it is seen, on one connection."""
        peer = await self.start_samplers()
        seen: list[tuple[int, list[str]]] = []
        await peer.subscribe_dir(
            lambda kind, entries: seen.append((kind, [entry.name for entry in entries]))
        )
        del seen[:]
        await self.control(
            "load name=late plugin=meminfo",
            "config name=late producer=node-1 instance=node-1/late schema=late",
            "start name=late interval=200000",
        )
        await wait_until(lambda: (SET_ADDED, ["node-1/late"]) in seen, "the new set to be listed")
        [late] = await peer.lookup("late", by_schema=True)
        self.assertEqual(late.instance, "node-1/late")
        pushed: list[DecodedSet] = []
        push = late.on_push(pushed.append)
        await wait_until(lambda: len(pushed) > 2, "pushes")
        await push.close()
        times = [each.current_copy.ts_us for each in pushed]
        self.assertEqual(times, sorted(set(times)))
        self.assertTrue(pushed[-1].values()["MemTotal"])
        self.assertEqual((await late.update()).values().keys(), pushed[0].values().keys())
        await self.control("stop name=late", "term name=late")
        await wait_until(lambda: late.is_deleted, "the deletion")
        self.assertIn((SET_DELETED, ["node-1/late"]), seen)
        self.assertEqual(await peer.lookup("node-1/late"), [])
        self.assertIsNone(self.daemon.status)

    @asynchronous
    async def test_every_reading_of_a_ring(self) -> None:
        """A set of several copies, read less often than it is written, loses no reading."""
        peer = await self.start_samplers()
        [ring] = await peer.lookup("node-1/ring")
        readings: list[DecodedSet] = [await ring.update()]
        while len(readings) < 12:
            await deferLater(reactor, 0.2)
            readings += [
                each
                for each in await ring.update_all()
                if each.current_copy.ts_us > readings[-1].current_copy.ts_us
            ]
        times = [each.current_copy.ts_us for each in readings]
        gaps = [after - before for before, after in pairwise(times)]
        self.assertTrue(all(gap < 190_000 for gap in gaps), gaps)
        self.assertTrue(all(each.current_copy.is_consistent for each in readings))

    @asynchronous
    async def test_example(self) -> None:
        """The example of docs/reading.md runs."""
        await self.start_samplers()
        text = (SOURCE / "docs" / "reading.md").read_text()
        script = self.directory / "example.py"
        script.write_text(text.partition("```python\n")[2].partition("```")[0])
        program = self.start(
            sys.executable,
            str(script.resolve()),
            "127.0.0.1",
            str(self.port),
            environment={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        status, output = await self.ended(program)
        self.assertEqual((status, program.errors), (0, b""))
        self.assertIn("node-1/meminfo meminfo\n", output)
        self.assertIn("    MemTotal ", output)
