"""Tests of ldmsjob.samplers.jobevents: the lines of test_jobmgr_sampler."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import ConfigError
from ldmsjob.facts import JobFacts, StepFacts, TaskFacts
from ldmsjob.interfaces import IJobSubscriber, IReopening, ISampler
from ldmsjob.notices import JobExit, JobInit, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.samplers.jobevents import JobEventSampler, Texts, job_text, step_text, task_text
from ldmsjob.testing import FakeSamplerContext

S = 1_000_000


class TextTests(SynchronousTestCase):
    """The formats."""

    def test_job(self) -> None:
        """Keys in C's order, unquoted times with six digits, unknown things 0."""
        self.assertEqual(
            job_text(
                JobFacts("slurm_1001", 1000, 100, "ann", "n", 1795378849 * S, None, 2, 4, 3, 1, "t")
            ),
            '{"job_id":"slurm_1001","uid":1000,"gid":100,"job_start":1795378849.000000,'
            '"job_end":0.000000,"node_count":2,"total_tasks":4,"local_tasks":3}\n',
        )
        self.assertEqual(
            job_text(JobFacts("slurm_1", end_us=7 * S + 42)),
            '{"job_id":"slurm_1","uid":0,"gid":0,"job_start":0.000000,"job_end":7.000042,'
            '"node_count":0,"total_tasks":0,"local_tasks":0}\n',
        )

    def test_task(self) -> None:
        """A task's line has no job."""
        self.assertEqual(
            task_text(TaskFacts(3, 1, 0, 5001, 7, 1795378850 * S, 1795378852 * S, 256)),
            '{"task_id":"0","task_pid":5001,"task_rank":7,"task_start":1795378850.000000,'
            '"task_end":1795378852.000000,"task_exit_status":256}\n',
        )
        self.assertEqual(
            task_text(TaskFacts(3, 1, 2)),
            '{"task_id":"2","task_pid":0,"task_rank":0,"task_start":0.000000,'
            '"task_end":0.000000,"task_exit_status":0}\n',
        )

    def test_step(self) -> None:
        """A step's line, in the same style."""
        self.assertEqual(
            step_text(JobFacts("slurm_1"), StepFacts(2, (0, 1), 5 * S, None, 2, 4, 3)),
            '{"job_id":"slurm_1","step_id":2,"step_start":5.000000,"step_end":0.000000,'
            '"node_count":2,"total_tasks":4,"local_tasks":3}\n',
        )

    def test_width_and_sign(self) -> None:
        """uid, gid and status are printed as signed 32-bit numbers, the others as unsigned."""
        text = job_text(
            JobFacts("j", uid=2**31, gid=2**32 - 2, node_count=2**32 - 1, total_tasks=2**32 + 5)
        )
        self.assertIn('"uid":-2147483648,"gid":-2,', text)
        self.assertIn('"node_count":4294967295,"total_tasks":5,', text)
        text = task_text(TaskFacts(0, 0, 0, 2**64 - 1, 2**32 - 1, exit_status=-1))
        self.assertIn('"task_pid":18446744073709551615,"task_rank":4294967295,', text)
        self.assertIn('"task_exit_status":-1}', text)

    def test_short_times(self) -> None:
        """Whatever the number of digits, six stand behind the point."""
        for start_us, text in ((0, "0.000000"), (7, "0.000007"), (S - 1, "0.999999"), (S, "1.0")):
            self.assertIn(f'"job_start":{text}', job_text(JobFacts("j", start_us=start_us)))

    def test_texts(self) -> None:
        """Are made once for a number, and no more are kept than there may be."""
        made: list[int | None] = []

        def make(number: int | None) -> str:
            made.append(number)
            return f"<{number}>"

        texts = Texts(make, limit=2)
        self.assertEqual([texts[1], texts[None], texts[1]], ["<1>", "<None>", "<1>"])
        self.assertEqual([texts[2], texts[2], texts[1]], ["<2>", "<2>", "<1>"])
        self.assertEqual(made, [1, None, 2, 1])
        self.assertEqual(len(texts), 2)


class SamplerCase(SynchronousTestCase):
    """A started sampler and its file."""

    attributes: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed

    def setUp(self) -> None:
        """Start it on a new file."""
        self.path = self.mktemp()
        self.context = FakeSamplerContext()
        self.daemon = self.context.daemon
        self.sampler = JobEventSampler(self.context)
        self.sampler.configure({"file": self.path} | self.attributes)
        self.sampler.start()

    def lines(self) -> list[str]:
        """What the file holds; its last line must be whole."""
        with open(self.path, encoding="utf-8") as file:
            text = file.read()
        self.assertTrue(not text or text.endswith("\n"), text)
        return text.splitlines()

    def words(self) -> list[str]:
        """The first words of the lines."""
        return [line.partition(":")[0] for line in self.lines()]

    def run_job(self) -> None:
        """A job of one task."""
        apply = self.daemon.apply
        apply(JobInit("1", 10 * S, 1000, 100))
        apply(StepInit("1", 0, 0, 11 * S, "ann", "n"))
        apply(TaskInit("1", 0, 0, 0, 12 * S, 77, 0))
        apply(TaskExit("1", 0, 0, 0, 256, 13 * S, 77))
        apply(StepExit("1", 0, 0, 14 * S))
        apply(JobExit("1", 15 * S))


class ReopenTests(SamplerCase):
    """What SIGHUP makes of the file."""

    def test_moved(self) -> None:
        """Whole lines up to then in the old file, all others in the new one."""
        self.assertTrue(IReopening.providedBy(self.sampler))
        self.daemon.apply(JobInit("1", 10 * S))
        os.rename(self.path, f"{self.path}.1")
        with self.daemon.turn:
            self.daemon.apply(JobInit("2", 10 * S))
            self.sampler.reopen()
            self.daemon.apply(JobInit("3", 10 * S))
        self.assertEqual([line[10:31] for line in self.lines()], [' {"job_id":"slurm_3",'])
        with open(f"{self.path}.1") as old:
            self.assertEqual(len(old.readlines()), 2)
        self.assertEqual(self.context.stats.get("lines"), 3)

    def test_not_moved(self) -> None:
        """It is not emptied, and written on."""
        self.daemon.apply(JobInit("1", 10 * S))
        self.sampler.reopen()
        self.sampler.reopen()
        self.daemon.apply(JobInit("2", 10 * S))
        self.assertEqual(self.words(), ["job_start", "job_start"])

    def test_new_one_is_there_already(self) -> None:
        """As logrotate's `create` makes it: what somebody has written there stays."""
        os.rename(self.path, f"{self.path}.1")
        with open(self.path, "w") as file:
            file.write("precious\n")
        self.sampler.reopen()
        self.daemon.apply(JobInit("1", 10 * S))
        self.assertEqual(self.words(), ["precious", "job_start"])

    def test_refused(self) -> None:
        """It goes on in the old file, and keeps others from that."""
        os.rename(self.path, f"{self.path}.1")
        other = JobEventSampler(FakeSamplerContext())
        other.configure({"file": self.path})
        other.start()
        error = self.assertRaises(ConfigError, self.sampler.reopen)
        self.assertEqual(error.rc, errno.EEXIST)
        self.daemon.apply(JobInit("1", 10 * S))
        self.assertEqual(self.lines(), [])
        other.stop()
        with open(f"{self.path}.1") as old:
            self.assertEqual(len(old.readlines()), 1)


class FileTests(SamplerCase):
    """Writing."""

    def test_interfaces(self) -> None:
        """It is a sampler and a subscriber."""
        verifyObject(ISampler, self.sampler)
        verifyObject(IJobSubscriber, self.sampler)
        self.assertIsNone(self.sampler.sample(0.0))

    def test_whole_life(self) -> None:
        """Five kinds of line for a job, and the last one when the subscription closes."""
        self.run_job()
        self.successResultOf(self.context.close_subscriptions())
        self.sampler.stop()
        job = '{"job_id":"slurm_1","uid":1000,"gid":100,"job_start":10.000000,"job_end":'
        counts = '"node_count":0,"total_tasks":0,"local_tasks":0}'
        task = '{"task_id":"0","task_pid":77,"task_rank":0,"task_start":12.000000,"task_end":'
        self.assertEqual(
            self.lines(),
            [
                f"job_start: {job}0.000000,{counts}",
                f'task_start: {task}0.000000,"task_exit_status":0}}',
                f'task_end: {task}13.000000,"task_exit_status":256}}',
                f"job_end: {job}15.000000,{counts}",
                f"jobset_delete: {job}15.000000,{counts}",
                "client_close",
            ],
        )
        self.assertEqual(self.context.stats.get("lines"), 6)

    def test_nothing_before_the_start(self) -> None:
        """Configuring touches no file: the start empties it."""
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write("old")
        sampler = JobEventSampler(self.context)
        sampler.configure({"file": path})
        self.assertEqual(os.path.getsize(path), 3)
        sampler.start()
        self.assertEqual(os.path.getsize(path), 0)
        sampler.stop()

    def test_one_write_a_turn(self) -> None:
        """What one read of a socket brings is written with one call, at its end."""
        writes: list[bytes] = []
        real_write = os.write

        def write(fd: int, data: bytes) -> int:
            writes.append(data)
            return real_write(fd, data)

        self.patch(os, "write", write)
        with self.daemon.turn:
            self.run_job()
            self.assertEqual(self.lines(), [])
        self.assertEqual(len(writes), 1)
        self.assertEqual(len(self.lines()), 5)

    def test_file_is_required(self) -> None:
        """Without a file there is nothing to do."""
        error = self.assertRaises(ConfigError, self.sampler.configure, {})
        self.assertEqual(error.rc, errno.EINVAL)
        self.assertIn("file", str(error))

    def test_file_that_cannot_be_opened(self) -> None:
        """The start fails with the system's error."""
        sampler = JobEventSampler(self.context)
        sampler.configure({"file": os.path.join(self.mktemp(), "no", "directory")})
        error = self.assertRaises(ConfigError, sampler.start)
        self.assertEqual(error.rc, errno.ENOENT)
        self.assertIn("no/directory", str(error))

    def test_one_writer(self) -> None:
        """A second sampler of the same file is refused and leaves it alone, until the first one has
        stopped; by whatever name it calls the file."""
        self.run_job()
        link = self.mktemp()
        os.link(self.path, link)
        sampler = JobEventSampler(FakeSamplerContext())
        sampler.configure({"file": link})
        descriptors = os.listdir("/proc/self/fd")
        error = self.assertRaises(ConfigError, sampler.start)
        self.assertEqual(error.rc, errno.EEXIST)
        self.assertIn(f"another test_jobmgr_sampler writes file {link}", str(error))
        self.assertEqual(os.listdir("/proc/self/fd"), descriptors)
        self.assertEqual(len(self.lines()), 5)
        self.sampler.stop()
        sampler.start()
        self.addCleanup(sampler.stop)
        self.assertEqual(self.lines(), [])

    def test_devices_are_shared(self) -> None:
        """There is nothing that one writer could take from another."""
        for _ in range(2):
            sampler = JobEventSampler(self.context)
            sampler.configure({"file": os.devnull})
            sampler.start()
            self.addCleanup(sampler.stop)

    def test_file_system_without_locks(self) -> None:
        """Is written to all the same."""
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write("old")

        def refuse(fd: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        self.patch(fcntl, "flock", refuse)
        sampler = JobEventSampler(self.context)
        sampler.configure({"file": path})
        sampler.start()
        self.addCleanup(sampler.stop)
        self.assertEqual(os.path.getsize(path), 0)

    def test_stop_without_start(self) -> None:
        """Stopping what never ran is harmless."""
        sampler = JobEventSampler(self.context)
        sampler.configure({"file": self.mktemp()})
        sampler.stop()

    def test_truncated_by_others(self) -> None:
        """When something empties the file, writing goes on at its new end."""
        self.run_job()
        os.truncate(self.path, 0)
        self.daemon.apply(JobInit("2", 20 * S))
        self.assertEqual(self.words(), ["job_start"])


class StepTests(SamplerCase):
    """The attribute ``steps``."""

    attributes = {"steps": "true"}  # noqa: RUF012

    def test_lines(self) -> None:
        """Steps have lines, in the order of events."""
        self.run_job()
        self.assertEqual(
            self.words(),
            [
                *("job_start", "step_start", "task_start", "task_end", "step_end"),
                *("job_end", "jobset_delete"),
            ],
        )


class FailingWriteTests(SamplerCase):
    """Disks that are full."""

    real_write = staticmethod(os.write)

    def fill_disk(self, room: int) -> None:
        """From now on only so many bytes can be written."""
        left = [room]

        def write(fd: int, data: bytes) -> int:
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            part = data[: left[0]]
            left[0] -= len(part)
            return self.real_write(fd, part)

        self.patch(os, "write", write)

    def test_short_write(self) -> None:
        """Of the lines that do not fit, none is left in part; all of them are counted."""
        for room, whole in ((0, 0), (10, 0), (180, 1), (400, 3)):
            with self.subTest(room=room):
                self.setUp()
                self.fill_disk(room)
                with self.daemon.turn:
                    self.run_job()
                self.assertEqual(len(self.lines()), whole)
                self.assertEqual(self.context.stats.get("lines"), whole)
                self.assertEqual(self.context.stats.get("lines_lost"), 5 - whole)
                self.assertEqual(self.context.stats.get("write_errors"), 1)

    def test_goes_on_when_there_is_room_again(self) -> None:
        """Later lines are whole lines."""
        self.fill_disk(10)
        self.run_job()
        self.patch(os, "write", self.real_write)
        self.daemon.apply(JobInit("2", 20 * S))
        self.assertEqual(self.words(), ["job_start"])

    def test_log_is_limited(self) -> None:
        """Many failures give one log line, and nothing is raised."""
        logged: list[Any] = []
        self.patch(type(self.context.log), "emit", lambda *args, **kwargs: logged.append(args))
        self.fill_disk(0)
        for number in range(50):
            self.daemon.apply(JobInit(str(number), 20 * S))
        self.assertEqual(len(logged), 1)
        self.assertEqual(self.context.stats.get("write_errors"), 50)

    def test_interrupted_write_is_continued(self) -> None:
        """A write that takes only a part is followed by one for the rest."""
        real_write = os.write
        self.patch(os, "write", lambda fd, data: real_write(fd, data[:7]))
        self.run_job()
        self.assertEqual(len(self.lines()), 5)
        self.assertEqual(self.context.stats.get("lines_lost"), 0)


class PipeTests(SynchronousTestCase):
    """A pipe in place of a file: what is in it cannot be taken back."""

    def test_full_pipe(self) -> None:
        """The line that went in by half is finished later; lines after it are lost whole."""
        path = self.mktemp()
        os.mkfifo(path)
        context = FakeSamplerContext()
        sampler = JobEventSampler(context)
        sampler.configure({"file": path})
        error = self.assertRaises(ConfigError, sampler.start)
        self.assertEqual(error.rc, errno.ENXIO)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        sampler.start()
        with context.daemon.turn:
            for number in range(2000):
                context.daemon.apply(JobInit(str(number), 20 * S))
        lost = context.stats.get("lines_lost")
        self.assertGreater(lost, 0)
        text = os.read(reader, 1 << 20)
        context.daemon.apply(JobInit("last", 20 * S))
        text += os.read(reader, 1 << 20)
        lines = text.splitlines(keepends=True)
        self.assertEqual(len(lines), 2001 - lost)
        for line in lines:
            self.assertTrue(line.startswith(b"job_start: {") and line.endswith(b"}\n"), line)
        self.assertIn(b"slurm_last", lines[-1])
        sampler.stop()
