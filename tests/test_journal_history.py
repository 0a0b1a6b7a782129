"""Reading a journal, while it is written and when it is not."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ldmsjob.errors import ConfigError
from ldmsjob.facts import JobDetails
from ldmsjob.journal import history as history_module
from ldmsjob.journal.history import EventEntry, History
from ldmsjob.journal.journal import TIDY_SECONDS
from ldmsjob.journal.places import find_journals, journal_path, state_directory
from ldmsjob.journal.records import StoredEvent
from ldmsjob.notices import JobExit, JobInit, StepInit, TaskExit, TaskInit
from tests.past import Past

NOBODY = 65534


class HistoryTests(SynchronousTestCase):
    """A journal, and what is read of it."""

    def setUp(self) -> None:
        """An empty one."""
        self.path = os.path.join(self.mktemp(), "journal.sqlite")
        self.past = Past(self.path)
        self.addCleanup(self.past.end)

    def open(self) -> History:
        """Open it for reading."""
        history = History(self.path)
        self.addCleanup(history.close)
        return history

    def words(self, events: list[EventEntry]) -> list[tuple[str, str]]:
        """Job and word of each."""
        return [(entry.job.key.job_id, entry.event.word) for entry in events]

    def change(self, *statements: str) -> None:
        """Change the file as no daemon would."""
        with closing(sqlite3.connect(self.path)) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()

    def test_empty(self) -> None:
        """A journal without a job."""
        history = self.open()
        self.assertEqual((list(history.jobs()), list(history.events())), ([], []))
        self.assertEqual(history.last_notice(), 0)

    def test_jobs_in_order(self) -> None:
        """All jobs, the oldest first, those that run with what is known by now."""
        self.past.tell(JobInit("1"))
        self.past.run_job("2")
        self.past.tell(StepInit("1", 0, 0, user="bob", job_name="late", total_tasks=4))
        one, two = self.open().jobs()
        self.assertEqual((one.key.job_id, one.ended, one.heard_end_us), ("1", False, None))
        self.assertEqual((one.facts.user, one.facts.total_tasks), ("bob", 4))
        self.assertEqual((two.key.job_id, two.ended), ("2", True))
        self.assertEqual(two.heard_end_us, two.facts.end_us)

    def test_whole(self) -> None:
        """The attempts of one job with steps and tasks, the first of which the second has ended."""
        for count in (0, 1):
            self.past.tell(
                JobInit("7", details=JobDetails(restart_count=count)),
                StepInit("7", 0, 0),
                TaskInit("7", 0, 0, 0, pid=10 + count),
            )
        self.past.run_job("8")
        first, second = self.open().jobs(whole=True, job_id="7")
        self.assertEqual((first.key.attempt, second.key.attempt), (1, 2))
        self.assertEqual((first.ended, second.ended), (True, False))
        self.assertEqual([task.pid for task in (*first.tasks, *second.tasks)], [10, 11])
        self.assertEqual(first.tasks[0].end_us, first.facts.end_us)
        self.assertEqual((first.steps[0].end_us is None, second.steps[0].end_us), (False, None))

    def test_told_after_the_end(self) -> None:
        """What came late is there: the true end of a task, and the job's status."""
        path = os.path.join(self.mktemp(), "journal.sqlite")
        past = Past(path, linger="60")
        past.tell(JobInit("1"), TaskInit("1", 0, 0, 0, pid=5), JobExit("1"))
        past.tell(TaskExit("1", 0, 0, 0, 9, pid=5), JobExit("1", exit_status=9))
        past.end()
        history = History(path)
        self.addCleanup(history.close)
        (job,) = history.jobs(whole=True, job_id="1")
        self.assertEqual((job.tasks[0].exit_status, job.facts.exit_status), (9, 9))

    def test_more_than_any_daemon_takes(self) -> None:
        """The limits are the daemon's; a reader has none."""
        self.past.tell(JobInit("1"), *(StepInit("1", number, 0) for number in range(20)))
        self.assertGreater(history_module._WITHOUT_LIMITS.steps_per_job, 1 << 40)
        (job,) = self.open().jobs(whole=True, job_id="1")
        self.assertEqual(len(job.steps), 20)

    def test_recovered(self) -> None:
        """A job that a second daemon goes on with says so while it runs, and when it has ended."""
        self.past.tell(JobInit("1"))
        self.past.end()
        self.past.begin()
        self.past.tell(JobInit("2"))
        self.assertEqual([job.facts.recovered for job in self.open().jobs()], [True, False])
        self.past.tell(JobExit("1"))
        self.assertEqual([job.facts.recovered for job in self.open().jobs()], [True, False])

    def test_events(self) -> None:
        """All in order; those of a job; those behind a notice, or up to one; those since a time."""
        self.patch(history_module, "_ROWS", 4)
        self.past.run_job("1")
        middle = self.past.now_us()
        self.past.run_job("2")
        history = self.open()
        events = list(history.events())
        self.assertEqual([one.event.sequence for one in events], list(range(1, 15)))
        mine = [entry for entry in events if entry.job.key.job_id == "2"]
        self.assertEqual(list(history.events(job=2)), mine)
        self.assertEqual(list(history.events(job_id="2")), mine)
        self.assertEqual(list(history.events(after=6)), mine)
        self.assertEqual(list(history.events(since_us=middle)), mine)
        self.assertEqual(list(history.events(upto=6)), events[:7])
        self.assertEqual(list(history.events(job_id="3")), [])
        self.assertEqual(mine[0].job.facts.user, "ann")

    def test_writer_goes_on(self) -> None:
        """A reader that stops in the middle keeps no log from beginning anew, and what came
        meanwhile is not there twice."""
        self.patch(history_module, "_ROWS", 2)
        self.past.run_job("1")
        history = self.open()
        events = history.events()
        next(events)
        with closing(sqlite3.connect(self.path)) as database:
            (busy, _, _) = database.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        self.assertEqual(busy, 0)
        version = history.version()
        self.past.run_job("2")
        self.assertEqual({entry.job.key.job_id for entry in events}, {"1"})
        self.assertNotEqual(history.version(), version)
        self.assertEqual({one.job.key.job_id for one in history.events(after=6)}, {"2"})

    def test_tail(self) -> None:
        """What only the tail has is there: jobs that run and that have ended, and events."""
        self.past.pause = 0
        self.past.run_job("1")
        self.past.journal.flush()
        self.past.tell(JobInit("2"), JobInit("3", uid=5), TaskInit("3", 0, 0, 0, pid=9))
        self.past.tell(JobExit("2", exit_status=3))
        history = self.open()
        jobs = [(j.key.job_id, j.ended, j.facts.exit_status, j.facts.uid) for j in history.jobs()]
        self.assertEqual(jobs, [("1", True, 0, 1000), ("2", True, 3, None), ("3", False, None, 5)])
        (job,) = history.jobs(whole=True, job_id="3")
        self.assertEqual([task.pid for task in job.tasks], [9])
        events = self.seen(history.events())
        sequences = [event.sequence for _, event in events]
        self.assertEqual(sequences, list(range(1, len(events) + 1)))
        self.assertEqual(history.last_notice(), 10)
        self.assertEqual(self.seen(history.events(after=8)), events[-3:])
        self.assertEqual(self.seen(history.events(upto=8)), events[:-3])
        self.assertEqual({e.event.word for e in history.events(job_id="3")}, set(self.begun))
        version = history.version()
        self.past.tell(StepInit("3", 1, 0))
        self.assertNotEqual(history.version(), version)
        events = self.seen(history.events())
        self.past.journal.flush()
        self.assertEqual(self.seen(history.events()), events)
        self.assertEqual(self.seen(history.events(after=8)), events[-4:])
        self.assertEqual(self.seen(history.events(upto=8)), events[:-4])
        self.assertEqual([job.key.job_id for job in history.jobs()], ["1", "2", "3"])

    def seen(self, events: Iterable[EventEntry]) -> list[tuple[int, StoredEvent]]:
        """Numbers of notices, and their events."""
        return [(entry.notice, entry.event) for entry in events]

    begun = ("job_started", "task_started")

    def test_moved_while_read(self) -> None:
        """The daemon writes the tail to the database while somebody reads, wherever he is: nothing
        is missing, and nothing there twice."""
        self.past.pause = 0
        self.patch(history_module, "_ROWS", 1)
        for job in "12":
            self.past.run_job(job)
            self.past.journal.flush()
        self.past.run_job("3")
        history = self.open()
        for moment in range(1, 15):
            events = history.events()
            found = [next(events) for _ in range(moment)]
            self.past.journal.flush()
            found += events
            self.assertEqual([e.event.sequence for e in found], list(range(1, len(found) + 1)))
            self.assertEqual(len(found) % 7, 0)
            self.past.run_job(str(moment + 3))
        self.assertEqual(len(found), 16 * 7)

    def test_moved_between_tail_and_database(self) -> None:
        """The same when it happens behind the reading of the tail, or another one begins then."""
        self.past.pause = 0
        for further in (0, 1):
            self.past.run_job(str(2 * further))
            read = history_module.read_tail

            def moving(path: str, further: int = further, read: Any = read) -> Any:
                found = read(path)
                self.past.journal.flush()
                if further:
                    self.past.tell(JobInit("9"))
                return found

            self.patch(history_module, "read_tail", moving)
            history = self.open()
            ids = {entry.job.key.job_id for entry in history.events()}
            self.assertLessEqual({"0", str(2 * further)}, ids)
            jobs = [job.key.job_id for job in history.jobs()]
            self.assertEqual(sorted(set(jobs)), sorted(jobs))
            self.assertLessEqual({"0", str(2 * further)}, set(jobs))
            self.patch(history_module, "read_tail", read)

    def test_tail_that_cannot_be_read(self) -> None:
        """Is said."""
        self.past.end()
        os.mkdir(self.path + "-tail")
        history = self.open()
        self.assertIn("-tail", str(self.assertRaises(ConfigError, history.last_notice)))
        os.rmdir(self.path + "-tail")
        self.past.begin()

    def test_few_jobs_are_remembered(self) -> None:
        """However many there are."""
        self.patch(history_module, "_REMEMBERED_JOBS", 3)
        for number in range(10):
            self.past.tell(JobInit(str(number)))
        self.past.tell(*(JobExit(str(number)) for number in range(10)))
        self.assertEqual(len(list(self.open().events())), 30)

    def test_unreadable_rows(self) -> None:
        """Cost what they are about, and are counted."""
        self.past.run_job("1")
        self.past.run_job("2")
        self.past.tell(JobInit("3"), TaskInit("3", 0, 0, 0), TaskInit("3", 0, 0, 1))
        self.change(
            "UPDATE jobs SET about = x'c1' WHERE job_id = '1'",
            "UPDATE turns SET notices = x'93' WHERE number = 14",
        )
        history = self.open()
        self.assertEqual([job.key.job_id for job in history.jobs()], ["2", "3"])
        (job,) = history.jobs(whole=True, job_id="3")
        self.assertEqual([task.task_id for task in job.tasks], [1])
        self.assertEqual({e.job.key.job_id for e in history.events()}, {"2", "3"})
        self.assertGreater(history.unreadable, 2)

    def test_pruned_while_read(self) -> None:
        """Events whose job is gone are left out."""
        self.past.run_job("1")
        self.past.run_job("2")
        self.past.clock.advance(TIDY_SECONDS)
        self.change("DELETE FROM jobs WHERE job_id = '1'")
        self.assertEqual({one.job.key.job_id for one in self.open().events()}, {"2"})

    def test_killed_daemon(self) -> None:
        """What a daemon that was killed has left in the log is read."""
        self.past.run_job("1")
        copy = self.mktemp()
        os.mkdir(copy)
        for side in ("", "-wal"):
            with open(self.path + side, "rb") as source:
                content = source.read()
            with open(os.path.join(copy, "journal.sqlite" + side), "wb") as target:
                target.write(content)
        self.assertGreater(os.path.getsize(os.path.join(copy, "journal.sqlite-wal")), 4096)
        history = History(os.path.join(copy, "journal.sqlite"))
        self.addCleanup(history.close)
        self.assertEqual(len(list(history.events())), 7)

    def test_nothing_can_be_written(self) -> None:
        """A journal of a daemon that has ended can be read where nothing can be written."""
        if os.geteuid() != 0:
            raise SkipTest("only root can become somebody who may not")
        directory = tempfile.mkdtemp()  # where everybody may look for it
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "journal.sqlite")
        past = Past(path)
        past.run_job("1")
        past.end()
        os.chmod(path, 0o444)
        os.chmod(directory, 0o555)
        os.seteuid(NOBODY)
        try:
            with closing(History(path)) as history:
                self.assertEqual(len(list(history.events())), 7)
        finally:
            os.seteuid(0)
        self.assertEqual(sorted(os.listdir(directory)), ["journal.sqlite", "journal.sqlite.lock"])

    def test_what_is_no_journal(self) -> None:
        """Says what is wrong, in words."""
        self.past.end()
        for content, words in (
            (b"", "it is empty"),
            (b"no database" * 1000, "not a database"),
        ):
            with open(self.path, "wb") as file:
                file.write(content)
            self.assertIn(words, str(self.assertRaises(ConfigError, History, self.path)))
        os.remove(self.path)
        error = self.assertRaises(ConfigError, History, self.path)
        self.assertEqual((error.rc, "No such file" in str(error)), (2, True))
        self.past.begin()
        self.change("PRAGMA user_version = 9")
        self.assertIn("format 9", str(self.assertRaises(ConfigError, History, self.path)))
        self.change("PRAGMA user_version = 3", "PRAGMA application_id = 1")
        self.assertIn("no journal", str(self.assertRaises(ConfigError, History, self.path)))
        self.change("PRAGMA application_id = 0x6c646a6d")

    def test_damage_behind_the_head(self) -> None:
        """Is told when it is come upon."""
        for number in range(40):
            self.past.run_job(str(number))
        self.past.end()
        with open(self.path, "r+b") as file:
            file.seek(8192)
            file.write(b"\xff" * (os.path.getsize(self.path) - 8192))
        history = self.open()
        error = self.assertRaises(ConfigError, lambda: list(history.events()))
        self.assertIn("cannot read", str(error))
        self.past.begin()


class PlaceTests(SynchronousTestCase):
    """Where journals are."""

    def test_names(self) -> None:
        """A daemon's name is a directory below that of all, whatever it is."""
        for name, directory in (("a/b", "a_b"), ("..", "__"), (".", "_"), ("n:411", "n:411")):
            self.assertEqual(journal_path("/state", name), f"/state/{directory}/journal.sqlite")

    def test_state_directory(self) -> None:
        """The service manager's, root's, the user's; never one that depends on where one is."""
        self.assertEqual(state_directory({"STATE_DIRECTORY": "/a:/b"}), "/a")
        self.patch(os, "geteuid", lambda: 0)
        self.assertEqual(state_directory({"STATE_DIRECTORY": "relative"}), "/var/lib/ldmsjob")
        self.patch(os, "geteuid", lambda: 5)
        self.assertEqual(state_directory({"XDG_STATE_HOME": "/s"}), "/s/ldmsjob")
        found = state_directory({"XDG_STATE_HOME": "s"})
        self.assertTrue(os.path.isabs(found) and found.endswith(".local/state/ldmsjob"), found)

    def test_found(self) -> None:
        """Those of all daemons, also one that may not be read; nothing else."""
        directory = self.mktemp()
        for name in ("one", "two", "empty"):
            os.makedirs(os.path.join(directory, name))
        for name in ("one", "two"):
            with open(os.path.join(directory, name, "journal.sqlite"), "w"):
                pass
        self.assertEqual(list(find_journals(directory)), ["one", "two"])
        stat = os.stat

        def refuse(path: str) -> os.stat_result:
            if "empty" in path:
                raise PermissionError(13, "Permission denied", path)
            return stat(path)

        self.patch(os, "stat", refuse)
        self.assertEqual(list(find_journals(directory)), ["empty", "one", "two"])
        self.assertRaises(ConfigError, find_journals, self.mktemp())
