"""Targets for text: directories, notices, notifier lines, configuration, what Slurm prints."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from ldmsjob import config, ere
from ldmsjob.config import Command, parse
from ldmsjob.daemon import Daemon
from ldmsjob.errors import ConfigError
from ldmsjob.events import JobEnded, JobStarted, TaskEnded, TaskStarted
from ldmsjob.interpreter import Interpreter
from ldmsjob.jobmgr import slurm_node, slurm_query
from ldmsjob.jobmgr.reconciler import MAX_NODES, expand
from ldmsjob.jobmgr.slurm import SlurmJobManager
from ldmsjob.journal.records import about_job, decode_about, decode_turn, encode
from ldmsjob.replay import recorded_messages
from ldmsjob.samplers.jobevents import job_text, task_text
from ldmsjob.testing import FakeDaemon, FakeJobManagerContext
from ldmsjob.transports import tlsfiles
from ldmsjob.transports.notifier_lines import (
    MAX_LINE_BYTES,
    LineBook,
    LineCutter,
    MessageMaker,
)
from ldmsjob.transports.spool import Spool
from ldmsjob.wire.directory import directory_texts, read_directory
from ldmsjob.wire.events import Credential
from tests.daemons import loader
from tests.fuzz.images import kept_turn
from tests.fuzz.seeds import VECTORS, WALL_US, conversation, recorded_streams
from tests.fuzz.target import Script, cuts, expect, same

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@lru_cache(maxsize=1)
def _directory() -> str:
    """A directory of this process."""
    path = tempfile.mkdtemp(prefix="ldmsjob-fuzz-")
    atexit.register(shutil.rmtree, path, True)
    return path


# Directories


def directory(data: bytes) -> None:
    """A text is a directory or a ``ValueError``; what was read can be written, and means the same
    then."""
    try:
        entries = read_directory(data)
    except ValueError:
        return
    written = [one for text in directory_texts(entries, 1 << 20) for one in read_directory(text)]
    same(entries, written, "read and written again")


def directory_seeds() -> Iterator[bytes]:
    """Those in the recorded streams, and what is known to be odd."""
    for data in [data for _, _, data in recorded_streams()] + list(conversation()):
        start = data.find(b'{ "directory"')
        while start >= 0:
            end = data.find(b"]}", start) + 2
            yield data[start:end]
            start = data.find(b'{ "directory"', end)
    for name in (rb"a\"b", rb"a\b", b'a"b', b"\xff", rb"\ud800", b"\1"):
        yield b'{ "directory" : [ ,{"name":"' + name + b'","uid":-1,"card":"3"}]}\0'


# Notices


def notices(data: bytes) -> None:
    """Each message is applied, ignored or counted as rejected; jobs and their events stay in
    order whatever comes."""
    fake = FakeDaemon()
    context = FakeJobManagerContext(fake)
    manager = SlurmJobManager(context)
    manager.configure({})
    manager.start()
    recorder = fake.record()
    bodies = data.split(b"\n")
    for body in bodies:
        fake.publish(body)
    stats = context.stats
    same(stats.get("messages"), len(bodies), "messages")
    ignored = sum(
        stats.get(f"rejected_{word}")
        for word in ("syntax", "utf8", "nesting", "type", "range", "missing", "event", "job_id")
    )
    same(ignored + stats.get("special_step") + len(context.notices), len(bodies), "each once")
    started: set[Any] = set()
    ended: set[Any] = set()
    for event in recorder.events:
        key: Any = event.key
        if isinstance(event, JobStarted):
            expect(key not in started, "a job started twice")
            started.add(key)
        expect(key in started, "an event of a job that has not started")
        if isinstance(event, (TaskStarted, TaskEnded)):
            task = (key, event.task.step_id, event.task.node_id, event.task.task_id)
            if isinstance(event, TaskStarted):
                expect(task not in started, "a task started twice")
                started.add(task)
            else:
                expect(task in started and task not in ended, "a task's end out of place")
                ended.add(task)
        if isinstance(event, JobEnded):
            expect(key not in ended, "a job ended twice")
            ended.add(key)
    # What the journal is given can be written, and says the same when it is read.
    for notice in context.notices:
        (stored,) = decode_turn(kept_turn(notice, [], None)).notices
        same(stored.notice(), notice, "in the journal")
    (stored,) = decode_turn(kept_turn(None, recorder.events, None)).notices
    sequences = [one.sequence for one in recorder.events]
    same([one.sequence for one in stored.events()], sequences, "stored")
    for job in fake.jobs.jobs():
        about = decode_about(encode(about_job(job, "m", job.facts)))
        same(about.facts, job.facts, "facts in the journal")
        for text in (job_text(job.facts), *map(task_text, job.tasks())):
            same(text.encode("utf-8").count(b"\n"), 1, "lines in the event file")
    fake.advance(3600)
    fake.advance(3600)


def notice_seeds() -> Iterator[bytes]:
    """Recorded jobs, whole and message by message, and names that need repair."""
    jobs: dict[str, list[bytes]] = {}
    for message in recorded_messages():
        jobs.setdefault(message.scenario, []).append(message.payload.rstrip(b"\0"))
    for payloads in jobs.values():
        whole = b"\n".join(payloads)
        if len(whole) < 8000:
            yield whole
    yield from (VECTORS / "notifier-lines.jsonl").read_bytes().splitlines()
    for name in (b'a"b', b"a\\b", b'","job_user":"x', b"\1\xff"):
        yield (
            b'{"schema":"x","event":"step_init","timestamp":1,"data":{"job_name":"'
            + name
            + b'","job_user":"me","job_id":7,"step_id":0}}'
        )


# Lines of our notifier, and its spool


def lines(data: bytes) -> None:
    """Lines are cut the same wherever reads end, are kept no longer than one, and count once."""
    size, stream = (data[:1] or b"\5")[0] + 1, data[1:]
    found = []
    for pieces in ([stream], cuts(stream, 1), cuts(stream, size)):
        cutter = LineCutter(512)
        whole = []
        for piece in pieces:
            whole += cutter.feed(piece)
            expect(len(cutter._rest) <= 512, "too much is kept")
        found.append((whole, cutter.too_long, cutter.unfinished))
    same(found[0], found[1], "byte by byte")
    same(found[0], found[2], "in pieces")
    for mend in (False, True):
        book = LineBook(max_processes=4, remember_seconds=10)
        first = book.take(found[0][0], 0.0, mend=mend)
        expect(len(book) <= 4, "too many processes")
        if not mend:
            same(len(first.answers), len(found[0][0]), "answers")
        # Processes may have been forgotten in between, but not while there are few.
        if not book.forgotten:
            same(book.take(found[0][0], 1.0, mend=mend).fresh, [], "fresh a second time")
        kept = book.highest(first)
        LineBook().restore({name: value for name, value in kept.items() if value}, 0.0)
        book.forget(first)
        maker = MessageMaker("slurm")
        for line, message in zip(
            first.fresh, maker.messages(first.fresh, Credential(0, 0), WALL_US), strict=True
        ):
            same(message.body, line, "a line and its message")


def spool(data: bytes) -> None:
    """A spool of any content is read to its end, once, and removed."""
    script = Script(data)
    size, content = script.number() + 1, script.rest()
    path = os.path.join(_directory(), "socket")
    Path(f"{path}.spool").write_bytes(content)
    os.chmod(f"{path}.spool", 0o600)
    counted: dict[str, int] = {}

    def count(name: str, number: int) -> None:
        counted[name] = counted.get(name, 0) + number

    reader = Spool(path, count)
    found: list[bytes] = []
    while (piece := reader.read(size)) is not None:
        found += piece[0]
    reader.close()
    parts = content.split(b"\n")
    same(found, [one for one in parts[:-1] if len(one) <= MAX_LINE_BYTES], "lines")
    same(counted.get("spool_truncated", 0), int(parts[-1] != b""), "lines without an end")
    left = [one for one in os.listdir(_directory()) if one.startswith("socket")]
    same(left, [] if content else ["socket.spool"], "left over")
    LineBook().take(found, 0.0, mend=True)


def line_seeds() -> Iterator[bytes]:
    """Lines as they are written, repeated, torn, and without an end."""
    recorded = (VECTORS / "notifier-lines.jsonl").read_bytes()
    some = recorded.splitlines(keepends=True)
    yield b"\x20" + b"".join(some[:6])
    yield b"\x20" + b"".join(some[:3] + some[:3])
    yield b"\x20" + some[0][:50] + some[1] + b"\n\n" + some[2][:-1]
    made = b'{"notifier":{"boot":"b","pid":%d,"start":1,"seq":%d}}\n'
    yield b"\x20" + b"".join(made % (1, seq) for seq in (1, 3, 2, 3, 300, 40, 1 << 62))
    yield b"\x20" + b"".join(made % (pid, 1) for pid in range(1, 8))
    yield b"\x20" + b"x" * 600 + b"\n" + made % (1, 1)


# Configuration


class _NoFiles(Interpreter):
    """Reads files that stand in the input, and no others."""

    def __init__(self, daemon: Daemon, files: dict[str, str]) -> None:
        super().__init__(daemon, {"HOME": "/nowhere"})
        self._files = files
        self._reading: list[str] = []

    def _read(self, path: str) -> Iterator[Command]:
        if path not in self._files:
            raise ConfigError(f"no file '{path}'", rc=2)
        if path in self._reading:
            raise ConfigError(f"'{path}' includes itself", rc=40)
        self._reading.append(path)
        try:
            yield from parse(self._files[path], path)
        finally:
            self._reading.remove(path)


_loader = lru_cache(maxsize=1)(loader)


def configuration(data: bytes) -> None:
    """Any text is commands, each of which can be carried out or is refused with where it stands.

    The character RS divides it into files ``0``, ``1`` and so on, which may include one another.
    """
    texts = data.decode("utf-8", "surrogateescape").split("\x1e")
    for text in texts:
        for one in parse(text, "f"):
            expect(one.verb and one.line > 0, "no verb or no line")
            again = list(parse(f"{one.verb} {one.text}", "f"))
            if not one.fault:
                same([each.attributes for each in again], [one.attributes], "parsed again")
            for _, value in one.attributes:
                if value is not None:
                    _values(value)
    daemon = Daemon(
        Clock(), loader=_loader(), wall_clock_us=lambda: WALL_US, hostname="n", state_directory=None
    )
    interpreter = _NoFiles(daemon, {str(number): text for number, text in enumerate(texts)})
    try:
        interpreter.read([], ["0"])
    except ConfigError as error:
        expect(str(error) and isinstance(error.rc, int), "an error without words")


def _values(value: str) -> None:
    for read in (
        lambda: config.expand(value, {"A": "b", "HOME": "/nowhere"}),
        lambda: config.parse_integer("n", value),
        lambda: config.parse_integer("n", value, 0, 100),
        lambda: config.parse_time("n", value),
        lambda: config.parse_size("n", value),
        lambda: config.parse_boolean("n", value),
        lambda: config.parse_octal("n", value),
    ):
        try:
            read()
        except ConfigError:
            pass


def configuration_seeds() -> Iterator[bytes]:
    """The examples, and lines with every odd thing of the language."""
    for path in sorted(EXAMPLES.glob("*.conf")):
        yield path.read_bytes()
    yield (
        b'msg_enable\nlisten xprt=sock port=411 # c\nenv A="a b"\ninclude path=1\n'
        b"load name=jobmgr_slurm\nconfig name=jobmgr_slurm linger=1h perm=0640 owner=job \\\n"
        b"  # comment\n tasks=5 publishers=root,7 nodes=n[1-3]\njobmgr_start name=jobmgr_slurm\n"
        b'\x1eload name=t plugin=test_jobmgr_sampler\nconfig name=t file="${A}/x"y" steps=true\n'
        b"start name=t interval=1s offset=5ms\ndaemon_name name=x\nlog_level level=INFO name=x\n"
    )
    yield b"include path=1\x1einclude path=2\x1einclude path=0\n"
    yield b"limits links=7\njournal enabled=false path=/x max_age=1d max_size=1G\nstop name=\n"
    yield b"listen xprt=notifier path=/x auth=none\nauth_add name=a plugin=naive uid=1 gid=x\n"
    yield b'option -n x\ndefault_auth plugin=none\nlog_file path=/nowhere/x\npid_file path="a"b"\n'


# Slurm's commands, host lists, processes


def squeue(data: bytes) -> None:
    """Whatever ``squeue`` prints gives jobs and a count of records that make no sense."""
    jobs, bad = slurm_query.parse(data, "|x|")
    expect(len(jobs) + bad <= data.count(b"|x|") // 17 + 1, "more records than there are")
    for key, job in jobs.items():
        same((job.job_id, 0 < int(key) < 1 << 32), (key, True), "a job's id")
        expect(not (job.running and job.over), "runs and is over")


def squeue_seeds() -> Iterator[bytes]:
    """Rows of an ordinary job, of an array's, of none."""
    row = "7 RUNNING 1000 100 1700000000 N/A 7 N/A 0 N/A 0 0 1 me part acc name "
    array = "8 COMPLETING 0 0 NONE 1 8 3 9 1 2 256 2 root p (null) n "
    for rows in (row, row + array, "x " * 17, row[:20]):
        yield rows.replace(" ", " |x|").encode() + b"\n"


def hostlists(data: bytes) -> None:
    """A host list gives at most so many names or is refused; so does what the environment says."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        names = expand(text)
        expect(len(names) <= MAX_NODES * (text.count(",") + 1), "more names than may be")
    except ConfigError:
        pass
    for node in (None, 0, 3, 1 << 31):
        tasks = slurm_node.tasks_of_node(text, node)
        expect(tasks is None or 0 <= tasks <= 1 << 20, "a count that is none")
    title = re.match(slurm_node._TITLE, data)
    expect(title is None or title[1].isdigit(), "a job id that is none")


def hostlist_seeds() -> Iterator[bytes]:
    """Host lists, task counts, titles of ``slurmstepd``."""
    yield from (b"n[1-4,7],login", b"n[001-010]x[1-2]", b"a,b,c", b"n[1-", b"[1-3]")
    yield from (b"4(x2),3", b"1(x999999999)", b"slurmstepd: [12.batch]", b"slurmstepd: [1.4+2]")


# Files that users write


def names(data: bytes) -> None:
    """A file of names gives users or is refused with its line."""
    path = os.path.join(_directory(), "names")
    Path(path).write_bytes(data)
    os.chmod(path, 0o600)
    try:
        found = tlsfiles.read_names(path)
    except ConfigError as error:
        expect(path in str(error), "which file?")
        return
    for name, credential in found.users.items():
        same(name, name.lower(), "a name")
        expect(0 <= credential.uid <= 0xFFFFFFFE, "a uid that is none")
        expect(found.find([name]) == credential, "not found")


def name_seeds() -> Iterator[bytes]:
    """Users by name and by number, comments, mistakes."""
    yield b"node1.example root\n# c\n*.x 0:0 # c\n* nobody\n"
    yield b"A 1:2\na 1:2\n"
    yield b"a 4294967295:1\nb x:1\nc 1:x\nd \xd9\xa1\n"


# Regular expressions of peers


def regular_expressions(data: bytes) -> None:
    """An expression is compiled or refused, and searches anything."""
    pattern, _, text = data.decode("utf-8", "surrogateescape").partition("\n")
    try:
        compiled = ere.Ere(pattern)
    except ere.EreError as error:
        expect(str(error), "no reason")
        return
    for one in (text, "", "slurm", pattern):
        compiled.search(one)


def expression_seeds() -> Iterator[bytes]:
    """Some that are right, some that are large when they are compiled."""
    yield from (b"^a.*b$\naxb", b"[[:alpha:]]+\nabc", b"(a|b)*\nx", b"a{1,100}\na")
    yield from (b"((a{9}){9}){9}\na", b"[\n", b"\\1(a)\n", b"\xff+\n\xff", json.dumps("é").encode())
