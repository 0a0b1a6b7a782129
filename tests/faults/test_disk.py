"""A disk that is full, that cannot be written, that has damaged the journal: the daemon goes on,
says so, and nothing is lost that nobody counted."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from ldmsjob.errors import ConfigError
from ldmsjob.journal.history import History
from tests.faults.test_journal import Publisher, messages, reference
from tests.ports import free_port
from tests.real import require_real

reactor: Any = installed_reactor

CONFIGURATION = """
daemon_name name=disk
log_level level=INFO
msg_enable
listen xprt=sock port={port} host=127.0.0.1
load name=jobmgr_slurm
config name=jobmgr_slurm linger=1h reconcile=0
jobmgr_start name=jobmgr_slurm
load name=events plugin=test_jobmgr_sampler
config name=events file={events} steps=true
"""

DISK_BYTES = 8 << 20
SOME = 300
"""Messages, of which several fit into each stretch of a test."""

_LINE = re.compile(
    r"(job_start|step_start|task_start|task_end|step_end|job_end|jobset_delete): \{.*\}"
)
_COUNTERS = re.compile(r"counters of (\S+): (.*)")


class DiskTestCase(TestCase):
    """A daemon, and a publisher with messages to send."""

    timeout = 600

    def setUp(self) -> None:
        """A directory; nothing runs yet."""
        require_real()
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)
        self.disk = self.directory / "disk"
        self.disk.mkdir()
        self.events = self.disk / "events.log"
        self.journal = self.disk / "state" / "disk" / "journal.sqlite"
        self.log = self.directory / "log"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.addCleanup(self.kill)
        self.port = free_port()
        self.publisher = Publisher(messages(1), self.port)

    def mount(self, options: str = "") -> None:
        """Make the disk one of its own; only root can."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}{options}", "disk", self.disk]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SkipTest(f"a file system cannot be mounted: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.disk], check=True)

    async def start(self) -> None:
        """Start the daemon and connect."""
        configuration = self.directory / "ldmsd.conf"
        configuration.write_text(CONFIGURATION.format(port=self.port, events=self.events))
        code = "from twisted.scripts.twistd import run; run()"
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "STATE_DIRECTORY": str(self.disk / "state"),
        }
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-c", code, "-n", "--pidfile=", "ldmsjob", "-c", "ldmsd.conf"],
                cwd=self.directory,
                env=environ,
                stdout=log,
                stderr=log,
            )
        await self.publisher.connect()

    def kill(self) -> None:
        """End it suddenly."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None

    def stop(self) -> None:
        """End it politely; it must end well."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(120), 0)
        self.daemon = None

    async def publish(self, count: int) -> None:
        """Publish so many more, and have them credited."""
        publisher = self.publisher
        publisher.wanted = publisher.credited + count
        while publisher.credited < publisher.wanted:
            publisher.send()
            await deferLater(reactor, 0.005)
        self.assertEqual(publisher.refused, 0)

    async def until_logged(self, text: str) -> None:
        """Wait until the daemon has said that."""
        while text not in self.log.read_text("utf-8", "replace"):
            await deferLater(reactor, 0.05)

    def counters(self, group: str) -> dict[str, int]:
        """What the daemons that have ended counted in it, together."""
        found: dict[str, int] = {}
        for name, text in _COUNTERS.findall(self.log.read_text("utf-8", "replace")):
            if name.endswith(group):
                for pair in text.split():
                    key, _, value = pair.partition("=")
                    found[key] = found.get(key, 0) + int(value)
        return found

    def history(self) -> list[Any]:
        """The events in the journal."""
        history = History(str(self.journal))
        try:
            return [
                (entry.job.key.text, entry.event.word, entry.event.step, entry.event.task)
                for entry in history.events()
            ]
        finally:
            history.close()

    def assert_all_there(self) -> None:
        """The journal has the events of all that was credited, and the event file has whole lines,
        and as many as were not counted as lost."""
        expected, _ = reference(self.publisher.sent[: self.publisher.credited])
        self.assertEqual(self.history(), expected)
        self.assertNotIn("lost", self.counters("journal"))
        *lines, last = self.events.read_text().splitlines()
        self.assertEqual(last, "client_close")
        self.assertEqual([line for line in lines if not _LINE.fullmatch(line)], [])
        lost = self.counters(".events").get("lines_lost", 0)
        self.assertEqual(len(lines) + lost, len(expected))


class FullDiskTests(DiskTestCase):
    """No room for journal and event file."""

    async def check(self, fill: Any, free: Any) -> None:
        """Some messages, some while there is no room, some behind that."""
        await self.start()
        await self.publish(SOME)
        fill()
        await self.publish(SOME)
        await self.until_logged(f"{self.journal} cannot be written")
        await self.until_logged(f"cannot write to {self.events}")
        await self.publish(SOME)
        free()
        await self.until_logged("is written again")
        await self.publish(SOME)
        self.stop()
        self.assert_all_there()
        self.assertGreater(self.counters("journal")["failures"], 0)
        self.assertGreater(self.counters(".events")["lines_lost"], 0)

    async def test_disk(self) -> None:
        """A file system without a free byte."""
        self.mount()
        filler = self.disk / "filler"

        def fill() -> None:
            file = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        os.write(file, bytes(size))
                except OSError:
                    pass
            os.close(file)

        await self.check(fill, filler.unlink)

    async def test_file_size(self) -> None:
        """Files that may not become any larger, for whoever may not mount."""

        def limit(size: int) -> None:
            assert self.daemon is not None
            hard = resource.RLIM_INFINITY
            resource.prlimit(self.daemon.pid, resource.RLIMIT_FSIZE, (size, hard))

        await self.check(lambda: limit(4096), lambda: limit(resource.RLIM_INFINITY))


class ReadOnlyTests(DiskTestCase):
    """A place that cannot be written to."""

    async def check(self, allow: Any) -> None:
        """The daemon starts, goes on in memory, and writes all when it is allowed to."""
        self.events = self.directory / "events.log"
        await self.start()
        await self.publish(SOME)
        await self.until_logged(f"{self.journal} cannot be written")
        self.assertFalse(self.journal.exists())
        allow()
        await self.until_logged("is written again")
        await self.publish(SOME)
        self.stop()
        self.assert_all_there()

    async def test_file_system(self) -> None:
        """One that is mounted read-only."""
        self.mount(",ro")
        command = ["mount", "-o", "remount,rw", str(self.disk)]
        await self.check(lambda: subprocess.run(command, check=True))

    async def test_directory(self) -> None:
        """One without the permission, which root does not need."""
        if not os.geteuid():
            raise SkipTest("root may write everywhere")
        self.disk.chmod(0o500)
        await self.check(lambda: self.disk.chmod(0o700))


class DamageTests(DiskTestCase):
    """A journal that is not as it was left."""

    async def damaged(self, damage: Any) -> bytes:
        """Make a journal and damage it; returns what it is then."""
        await self.start()
        await self.publish(SOME)
        self.stop()
        content = bytearray(self.journal.read_bytes())
        damage(content)
        self.journal.write_bytes(content)
        return bytes(content)

    async def check(self, damage: Any) -> bool:
        """Either all is set aside as it is, and named, and a new journal begins; or what can be
        read is there still, and what cannot is named. Returns whether it was set aside."""
        content = await self.damaged(damage)
        before = self.publisher.credited
        await self.start()
        await self.publish(SOME)
        self.stop()
        log = self.log.read_text("utf-8", "replace")
        self.assertNotIn("Traceback", log)
        aside = sorted(self.journal.parent.glob("journal.sqlite.damaged-*"))
        everything, _ = reference(self.publisher.sent[: self.publisher.credited])
        old, _ = reference(self.publisher.sent[:before])
        if aside:
            self.assertIn(str(aside[0]), log)
            self.assertGreaterEqual(len(aside[0].read_bytes()), len(content))
            self.assertTrue(self.history(), "the new journal is empty")
            return True
        try:
            found = self.history()
        except (ConfigError, sqlite3.Error) as error:
            # Nobody had to read that page meanwhile; a tool that does says so.
            self.assertIn("journal.sqlite", str(error))
            return False
        if len(found) < len(everything):
            self.assertIn(str(self.journal), log)
        # Of a job whose beginning is lost, what comes later may be that of one that nobody knows.
        begun = {job for job, *_ in old}
        later = [job for job, *_ in everything[len(old) :] if job not in begun]
        self.assertGreaterEqual(len(found), len(later))
        return False

    async def test_head(self) -> None:
        """No database any more."""

        def damage(content: bytearray) -> None:
            content[:100] = random.Random(1).randbytes(100)

        self.assertTrue(await self.check(damage))

    async def test_truncated(self) -> None:
        """The second half is missing."""

        def damage(content: bytearray) -> None:
            del content[len(content) // 2 :]

        self.assertTrue(await self.check(damage))

    async def test_empty(self) -> None:
        """An empty file is a new journal: there is nothing to set aside."""
        await self.damaged(lambda content: content.clear())
        await self.start()
        await self.publish(SOME)
        self.stop()
        self.assertGreater(len(self.history()), SOME // 2)
        self.assertEqual(list(self.journal.parent.glob("*.damaged-*")), [])

    async def test_tables(self) -> None:
        """A page of tables is overwritten."""

        def damage(content: bytearray) -> None:
            content[4096 : 3 * 4096] = random.Random(2).randbytes(2 * 4096)

        self.assertTrue(await self.check(damage))

    async def test_anywhere(self) -> None:
        """Some bytes, anywhere; ``LDMSJOB_SEED`` says where."""
        chance = random.Random(int(os.environ.get("LDMSJOB_SEED", "1")))

        def damage(content: bytearray) -> None:
            for _ in range(chance.randrange(1, 40)):
                at = chance.randrange(len(content) - 16)
                content[at : at + 16] = chance.randbytes(16)

        await self.check(damage)

    async def until_in_log(self) -> None:
        """Wait until nothing is in the tail any more: all is in the log, which nobody copies into
        the file before much more has come."""
        tail = self.journal.with_name("journal.sqlite-tail")
        while tail.stat().st_size:
            await deferLater(reactor, 0.05)

    async def test_log_beside_it(self) -> None:
        """What was written last stands in the log beside the file: of that the end is missing."""
        await self.start()
        await self.publish(SOME)
        await self.until_in_log()
        await self.publish(SOME)
        await self.until_in_log()
        self.kill()
        beside = self.journal.with_name("journal.sqlite-wal")
        content = beside.read_bytes()
        beside.write_bytes(content[:-1])
        await self.start()
        await self.publish(SOME)
        self.stop()
        # An older, whole journal, as behind a power cut; jobs are found again by what comes.
        expected, _ = reference(self.publisher.sent[: 2 * SOME])
        found = self.history()
        kept = next(
            (n for n, one in enumerate(expected) if found[n : n + 1] != [one]), len(expected)
        )
        first, _ = reference(self.publisher.sent[:SOME])
        self.assertGreaterEqual(kept, len(first))
        self.assertGreater(len(found), kept)
        self.assertNotIn("Traceback", self.log.read_text("utf-8", "replace"))
