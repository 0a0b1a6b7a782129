"""The journal: what was accepted is on disk at the end of its turn."""

import errno
import gc
import os
import shutil
import sqlite3
from contextlib import closing

import msgspec
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import ConfigError
from ldmsjob.events import (
    EVENT_WORDS,
    JobEnded,
    JobSetDeleted,
    JobStarted,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
)
from ldmsjob.facts import JobDetails, JobFacts, StepFacts, TaskFacts
from ldmsjob.jobtable import JobTable
from ldmsjob.journal import checkpoints as checkpoints_module
from ldmsjob.journal import journal as journal_module
from ldmsjob.journal.journal import MOVE_SECONDS, RETRY_SECONDS, TIDY_SECONDS, Journal
from ldmsjob.journal.records import (
    StoredNotice,
    decode_about,
    decode_turn,
    decode_turns,
    encode,
    new_event,
    turn_parts,
)
from ldmsjob.journal.storage import JournalFile
from ldmsjob.journal.tables import Damaged
from ldmsjob.journal.tail import BATCH_NOTICES, Tail, read_tail
from ldmsjob.notices import JobExit, JobInit, StepExit, StepInit, TaskExit, TaskInit
from ldmsjob.stats import Stats
from ldmsjob.turns import Turn

DAY = 86_400


def turn_of(*notices):
    """These, as one turn brings them."""
    return encode((7, 5, 3, 9, notices))


class JournalTests(SynchronousTestCase):
    """One journal and the job table whose changes it keeps."""

    def setUp(self):
        """A new journal in a directory that is not there yet."""
        self.clock = Clock()
        self.clock.advance(1_000 * DAY)
        self.set_on = 0
        self.turn = Turn()
        self.path = os.path.join(self.mktemp(), "state", "journal.sqlite")
        self.events = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.begin()

    def begin(self, **settings):
        """Open the journal, with an empty table beside it."""
        self.stats = Stats()
        self.table = JobTable(Stats())
        self.journal = Journal(
            self.path,
            self.turn,
            self.clock,
            self.stats,
            **{"max_age_seconds": DAY, "max_bytes": 1 << 30, "in_thread": execute, **settings},
            wall_clock_us=self.now_us,
        )
        self.journal.open()
        self.addCleanup(self.journal.close)

    def again(self, **settings):
        """Close it and open it anew, as a daemon does that is started again."""
        self.journal.close()
        self.begin(**settings)

    def now_us(self):
        """The wall clock in microseconds."""
        return int((self.clock.seconds() + self.set_on) * 1e6)

    def accept(self, *notices):
        """Apply and keep notices outside of any turn."""
        for notice in notices:
            changes = self.table.apply(notice, self.now_us(), "slurm")
            sequence = self.table.last_sequence
            self.journal.append(
                *(notice, self.now_us(), "message", changes, sequence, "jobmgr_slurm")
            )

    def rows(self, query):
        """What the database has when all is in it, read as a tool does."""
        self.journal.flush()
        database = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        with closing(database):
            return database.execute(query).fetchall()

    def refuse(self, *, tail=True):
        """Have the disk refuse the database, and the tail; until what is returned is called."""
        file = self.journal._file

        def full(*_arguments):
            raise sqlite3.OperationalError("database or disk is full")

        def write(*_arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        file.write = full
        if tail:
            file.tail.append = write
        return lambda: (vars(file).pop("write"), vars(file.tail).pop("append", None))

    def read_records(self):
        """What the tail has, which is whole."""
        records, is_whole = read_tail(self.path + "-tail")
        self.assertTrue(is_whole)
        return records

    def in_tail(self):
        """The ids of jobs in each record of the tail."""
        records = self.read_records()
        return [[n.notice().job_id for n in decode_turn(one.turn).notices] for one in records]

    def ids_in_tail(self):
        """The same without regard to records."""
        return [job_id for ids in self.in_tail() for job_id in ids]

    def notices(self):
        """All notices that the file has, in order."""
        turns = self.rows("SELECT notices FROM turns ORDER BY number")
        return [notice for (data,) in turns for notice in decode_turns(data)]

    def run_job(self, job_id):
        """A whole job of one task."""
        self.accept(
            JobInit(job_id, uid=5),
            StepInit(job_id, 0, 0, user="ann"),
            TaskInit(job_id, 0, 0, 0, pid=77),
            TaskExit(job_id, 0, 0, 0, 256),
            JobExit(job_id),
        )

    def messages(self):
        """Texts of what was logged at level error."""
        return [e["log_format"] for e in self.events if e["log_level"].name == "error"]

    def test_events_of_notices(self):
        """Each notice has a row with its events, in order; a second reader sees it at once."""
        self.run_job("7")
        notices = [stored.notice() for stored in self.notices()]
        events = [stored.events() for stored in self.notices()]
        self.assertEqual(
            [type(n).__name__ for n in notices][2:], ["TaskInit", "TaskExit", "JobExit"]
        )
        self.assertEqual(notices[0], JobInit("7", uid=5))
        words = [event.word for row in events for event in row if not event.step]
        kinds = (JobStarted, TaskStarted, TaskEnded, JobEnded, JobSetDeleted)
        self.assertEqual(words, [EVENT_WORDS[kind] for kind in kinds])
        sequences = [event.sequence for row in events for event in row]
        self.assertEqual(sequences, list(range(1, len(sequences) + 1)))
        ended = next(e for row in events for e in row if e.word == "task_ended")
        self.assertEqual((ended.task.pid, ended.task.exit_status), (77, 256))

    def test_one_record_a_turn(self):
        """What a turn brings is in the tail at its end, before other calls at its end."""
        seen = []
        with self.turn:
            self.turn.at_end(lambda: seen.append(self.in_tail()))
            self.run_job("7")
            self.assertEqual(self.in_tail(), [])
        self.assertEqual(seen, [[["7"] * 5]])
        self.assertEqual(self.stats.get("transactions"), 0)

    def test_one_transaction_for_many_turns(self):
        """A second after the first turn that waits, all go into one row, and the tail is empty."""
        with self.turn:
            self.run_job("1")
        self.clock.advance(MOVE_SECONDS / 2)
        self.run_job("2")
        self.assertEqual(len(self.in_tail()), 6)
        self.assertEqual(self.stats.gauges()["in_tail"], 10)
        self.clock.advance(MOVE_SECONDS / 2)
        self.assertEqual((self.in_tail(), self.stats.get("transactions")), ([], 1))
        ((number, data),) = self.rows("SELECT number, notices FROM turns")
        told = [(n.notice().job_id, n.received_us) for n in decode_turns(data)]
        now = self.now_us()
        early, late = now - int(MOVE_SECONDS * 1e6), now - int(MOVE_SECONDS / 2 * 1e6)
        self.assertEqual((number, told), (10, [("1", early)] * 5 + [("2", late)] * 5))
        self.assertEqual(self.stats.gauges()["in_tail"], 0)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)  # the next tidying

    def test_much_goes_at_once(self):
        """However many turns it is, and whatever the time."""
        self.accept(JobInit("1"))
        for number in range(BATCH_NOTICES - 1):
            self.assertEqual(self.stats.get("transactions"), 0)
            self.accept(StepInit("1", number, 0))
        self.assertEqual((self.in_tail(), self.stats.get("rows")), ([], BATCH_NOTICES))
        with self.turn:
            self.accept(JobInit("2", job_name="x" * (1 << 18)))
        self.assertEqual((self.in_tail(), self.stats.get("rows")), ([], BATCH_NOTICES + 1))

    def test_much_is_checkpointed_soon(self):
        """The log beside the file is copied when much has been written, whatever the time."""
        done = []
        self.patch(checkpoints_module, "CHECKPOINT_BYTES", 10 * 8192)
        self.again(in_thread=lambda function, path: done.append(path) or execute(function, path))
        for number in range(15):
            self.run_job(str(number))
            self.journal.flush()
        self.assertEqual(done, [self.path])
        for number in range(15, 25):
            self.run_job(str(number))
            self.journal.flush()
        self.assertEqual(done, [self.path] * 2)

    def test_recovery(self):
        """Jobs that run come back with what was accepted; ended ones do not; numbers go on."""
        self.run_job("1")
        self.accept(JobInit("2", uid=5), TaskInit("2", 0, 0, 0, pid=78))
        last = self.table.last_sequence
        self.again()
        (stored,) = self.journal.recoverable(self.now_us())
        self.assertEqual((stored.key.job_id, stored.key.attempt, stored.adopted), ("2", 1, False))
        self.assertEqual([type(n) for _, n, _ in stored.notices], [JobInit, TaskInit])
        self.assertEqual((stored.notices[0][1].uid, stored.instance), (5, "jobmgr_slurm"))
        self.assertEqual(self.journal.last_sequence, last)
        self.run_job("3")
        numbers = [n for (n,) in self.rows("SELECT number FROM turns ORDER BY number")]
        self.assertEqual(numbers, [7, 12])
        self.assertEqual(len(self.rows("SELECT * FROM jobs")), 3)

    def test_recently_ended(self):
        """Jobs that ended after a given time come back, too."""
        self.run_job("1")
        self.clock.advance(5)
        self.run_job("2")
        self.again()
        found = self.journal.recoverable(self.now_us() - 2_000_000)
        self.assertEqual([job.key.job_id for job in found], ["2"])

    def test_recovered_job_goes_on(self):
        """What is said of a recovered job belongs to its row."""
        self.accept(JobInit("2"))
        self.again()
        (stored,) = self.journal.recoverable(self.now_us())
        self.table.apply(JobInit("2"), self.now_us(), "slurm")
        (job,) = self.table.jobs()
        self.journal.recovered(job, stored)
        self.accept(JobExit("2"))
        (row,) = self.rows("SELECT job, first_notice, last_notice, ended_us FROM jobs")
        self.assertEqual(row, (1, 1, 2, self.now_us()))

    def test_kept(self):
        """Numbers are kept by owner and name, with the notices that follow; None forgets one."""
        self.journal.keep("notifier", "a", 1)
        self.journal.keep("notifier", "b", 2)
        self.assertEqual(self.journal.kept("notifier"), {})
        self.accept(JobInit("1"))
        self.assertEqual(self.journal.kept("notifier"), {"a": 1, "b": 2})
        self.journal.keep("notifier", "a", None)
        self.journal.keep("other", "a", 3)
        self.clock.advance(TIDY_SECONDS)
        self.assertEqual(self.journal.kept("notifier"), {"b": 2})
        self.again()
        self.assertEqual(self.journal.kept("notifier"), {"b": 2})
        self.assertEqual(self.stats.get("transactions"), 0)

    def test_pruned_by_age(self):
        """Jobs go with their notices when they ended long ago, running ones never; numbers are
        not used again."""
        self.accept(JobInit("1"))
        self.run_job("2")
        self.clock.advance(DAY / 2)
        self.run_job("3")
        last = self.table.last_sequence
        self.clock.advance(DAY / 2 + TIDY_SECONDS)
        jobs = self.rows("SELECT job_id FROM jobs ORDER BY job")
        self.assertEqual(jobs, [("1",), ("3",)])
        self.assertEqual(len(self.notices()), 6)
        self.accept(JobExit("1"))
        self.clock.advance(2 * DAY)
        self.assertEqual((self.notices(), self.rows("SELECT job FROM jobs")), ([], []))
        self.again()
        self.assertEqual(self.journal.last_sequence, last + 2)
        self.run_job("4")
        self.assertEqual(self.rows("SELECT min(number), min(job) FROM turns"), [(17, 4)])

    def test_pruned_in_slices(self):
        """Many rows go a slice at a time."""
        self.patch(journal_module, "_PRUNE_NOTICES", 7)
        for job in range(10):
            self.run_job(str(job))
            self.journal.flush()
        self.clock.advance(DAY + TIDY_SECONDS)
        self.assertEqual(len(self.notices()), 40)
        self.clock.pump([journal_module._PAUSE_SECONDS] * 10)
        self.assertEqual((self.notices(), self.stats.get("pruned")), ([], 50))

    def test_pruned_from_turns(self):
        """What a turn has of forgotten jobs goes when it is half of it, or all."""
        with self.turn:
            self.accept(*(JobInit(str(number)) for number in range(5)))
        self.journal.flush()
        for ended, left in ((("0", "1"), "01234"), (("2",), "34"), (("3",), "4"), (("4",), "")):
            self.accept(*map(JobExit, ended))
            self.journal.flush()
            self.clock.advance(DAY + 2 * TIDY_SECONDS)
            running = [notice.notice().job_id for notice in self.notices()]
            self.assertEqual("".join(running), left)
        self.assertEqual(self.rows("SELECT * FROM turns"), [])
        self.assertEqual(self.stats.get("pruned"), 10)

    def test_pruned_by_size(self):
        """A file that is too large loses what ended first, however young."""
        self.again(max_bytes=1)
        self.accept(JobInit("1"))
        self.run_job("2")
        self.clock.advance(TIDY_SECONDS)
        self.assertEqual(self.rows("SELECT job_id FROM jobs"), [("1",)])

    def test_damaged_file(self):
        """Is set aside under a name that says so, and a new one begins."""
        for content in (b"no database" * 1000, None):
            self.journal.close()
            if content is None:
                self.damage()
            else:
                with open(self.path, "wb") as file:
                    file.write(content)
            self.begin()
            self.run_job("7")
            self.assertEqual(len(self.notices()), 5)
            self.assertEqual(self.stats.get("damaged"), 1)
        aside = [n for n in os.listdir(os.path.dirname(self.path)) if "damaged" in n]
        self.assertGreaterEqual(len(aside), 2)
        self.assertIn("is damaged", self.messages()[0])

    def damage(self):
        """Overwrite the tables' definitions, not the file's head."""
        with open(self.path, "r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 3000)

    def test_log_of_a_killed_daemon(self):
        """What stands in the log beside the file is copied into the file at the start."""
        self.run_job("7")
        self.journal.flush()
        directory = os.path.dirname(self.path)
        copied = shutil.copytree(directory, f"{directory}.copy")
        self.path = os.path.join(copied, os.path.basename(self.path))
        self.begin()
        alone = sqlite3.connect(f"file:{self.path}?immutable=1", uri=True)  # without the log
        with closing(alone):
            self.assertEqual(alone.execute("SELECT count(*) FROM turns").fetchone(), (1,))

    def test_damaged_inside(self):
        """Damage is found at the start, wherever in the tables it is."""
        for job in range(200):
            self.run_job(str(job))
        self.journal.close()
        with open(self.path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size // 2 // 4096 * 4096)
            file.write(b"\xff" * 64)
        self.begin()
        self.assertEqual((self.stats.get("damaged"), self.notices()), (1, []))

    def test_damaged_names(self):
        """Names of tables that are no text are damage like any other."""
        self.journal.close()
        with open(self.path, "rb") as file:
            content = file.read()
        with open(self.path, "wb") as file:
            file.write(content.replace(b"turns", b"t\xc6rn("))
        self.begin()
        self.run_job("7")
        self.assertEqual((self.stats.get("damaged"), len(self.notices())), (1, 5))

    def test_damaged_types(self):
        """So is a value that is of another type than its column."""
        for change in (
            "UPDATE turns SET notices = 'some text'",
            "UPDATE turns SET sequence = 'some text'",
            "UPDATE jobs SET about = 7",
            "UPDATE jobs SET job_id = x'31'",
            "UPDATE jobs SET ended_us = x'31'",
            "UPDATE kept SET value = 1.5",
        ):
            self.run_job("7")
            self.journal.keep("somebody", "name", 1)
            self.journal.close()
            with closing(sqlite3.connect(self.path, isolation_level=None)) as database:
                self.assertGreater(database.execute(change).rowcount, 0)
            self.begin()
            self.assertEqual((self.stats.get("damaged"), self.notices()), (1, []), change)

    def test_damaged_ids(self):
        """So is a text that is none; and what says which columns a table has, if it says others."""
        self.run_job("7" * 20)
        for old, new in (b"7" * 20, b"\xc6" * 20), (b"job INTEGER PRIM", b"jab INTEGER PRIM"):
            self.journal.close()
            with open(self.path, "rb") as file:
                content = file.read()
            with open(self.path, "wb") as file:
                file.write(content.replace(old, new))
            self.begin()
            self.journal.recoverable(0)
            self.assertEqual((self.stats.get("damaged"), self.notices()), (1, []))

    def test_damaged_while_open(self):
        """The jobs that run are written to the new file."""
        self.accept(JobInit("1", uid=4))
        self.journal.flush()
        execute_sql = self.journal._file._database.execute
        execute_sql("PRAGMA writable_schema = ON")
        execute_sql("UPDATE sqlite_master SET rootpage = 9 WHERE name = 'turns'")
        execute_sql("PRAGMA writable_schema = RESET")
        self.accept(JobInit("2", uid=5))
        self.journal.flush()
        self.assertEqual(self.stats.get("damaged"), 1)
        self.assertEqual(self.rows("SELECT job_id FROM jobs ORDER BY job"), [("1",), ("2",)])

    def test_other_format(self):
        """A file of another program, or of a later format, is not touched."""
        self.journal.close()
        database = sqlite3.connect(self.path)
        database.execute("PRAGMA user_version = 99")
        database.close()
        self.begin()
        self.assertEqual(self.stats.get("damaged"), 1)

    def test_second_writer(self):
        """Another daemon is refused, and disturbs nobody."""
        other = Journal(
            self.path,
            self.turn,
            self.clock,
            Stats(),
            max_age_seconds=DAY,
            max_bytes=1,
            in_thread=execute,
        )
        error = self.assertRaises(ConfigError, other.open)
        self.assertEqual(error.rc, 16)
        self.assertIn("journal path=", error.hint)

    def test_disk_that_refuses(self):
        """Rows wait in memory, are written when the disk takes them, and are told once."""
        allow = self.refuse()
        self.run_job("1")
        self.run_job("2")
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((self.notices(), self.journal.waiting), ([], 10))
        self.assertEqual((self.stats.get("failures"), len(self.messages())), (2, 1))
        gauges = self.stats.gauges()
        self.assertEqual((gauges["waiting"], gauges["lag_seconds"]), (10, RETRY_SECONDS))
        self.assertEqual((gauges["in_tail"], self.in_tail()), (0, []))
        self.assertEqual(self.journal.problem, "database or disk is full")
        allow()
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((len(self.notices()), self.journal.waiting), (10, 0))
        self.assertEqual((self.journal.lag_seconds, self.journal.problem), (0, ""))
        self.assertGreater(self.stats.gauges()["file_bytes"], 4096)
        self.run_job("3")
        self.assertEqual(len(self.notices()), 15)

    def test_database_that_refuses(self):
        """The tail takes what comes, and a daemon that is killed then leaves all of it."""
        allow = self.refuse(tail=False)
        self.run_job("1")
        self.clock.advance(MOVE_SECONDS)
        self.clock.advance(RETRY_SECONDS)
        self.run_job("2")
        gauges = self.stats.gauges()
        self.assertEqual((gauges["waiting"], gauges["in_tail"]), (0, 10))
        self.assertEqual(self.ids_in_tail(), ["1"] * 5 + ["2"] * 5)
        self.assertGreater(self.journal.lag_seconds, 0)
        allow()
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((self.in_tail(), self.journal.problem), ([], ""))
        self.assertEqual(len(self.notices()), 10)

    def test_tail_that_refuses(self):
        """The database takes what comes, some seconds later."""
        allow = self.refuse()
        del self.journal._file.write
        self.run_job("1")
        self.assertEqual((self.journal.waiting, self.journal.problem[-9:]), (5, "on device"))
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((len(self.notices()), self.journal.waiting), (5, 0))
        self.journal._file.write = None
        allow()
        self.run_job("2")
        self.assertEqual((len(self.in_tail()), self.journal.waiting), (5, 0))

    def test_kept_behind_a_disk_that_refused(self):
        """What is kept without any notice is appended, too, as soon as that can be."""
        self.accept(JobInit("1"))
        allow = self.refuse()
        self.journal.flush()
        self.journal.keep("notifier", "a", 1)
        self.journal.commit(kept=True)
        self.assertEqual(self.journal._waiting.missing, 1)
        allow()
        self.refuse(tail=False)
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((self.journal._waiting.missing, len(self.read_records())), (0, 2))

    def test_tail_that_takes_what_waited(self):
        """As soon as it takes anything again, though the database does not."""
        allow = self.refuse()
        self.run_job("1")
        allow()
        allow = self.refuse(tail=False)
        self.assertEqual((self.journal.waiting, self.in_tail()), (5, []))
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((self.journal.waiting, len(self.in_tail())), (0, 5))
        allow()
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((len(self.notices()), self.in_tail()), (5, []))

    def test_short_write(self):
        """What a full disk takes of a record is taken back; what comes then stands behind whole
        ones."""
        self.accept(JobInit("1"))
        size = os.path.getsize(self.path + "-tail")
        real = os.write
        self.patch(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
        self.accept(JobInit("2"))
        self.assertEqual(os.path.getsize(self.path + "-tail"), size)
        self.assertEqual((self.journal.waiting, self.stats.get("failures")), (1, 1))
        self.patch(os, "write", real)
        self.clock.advance(RETRY_SECONDS)
        self.accept(JobInit("3"))
        self.assertEqual(self.in_tail(), [["3"]])
        self.assertEqual([n.notice().job_id for n in self.notices()], ["1", "2", "3"])

    def test_tail_is_bounded(self):
        """When the database refuses for too long, the tail loses the oldest, too."""
        self.again(max_waiting=6)
        self.refuse(tail=False)
        self.run_job("1")
        self.journal.flush()
        self.run_job("2")
        self.assertEqual(self.stats.get("lost"), 4)
        self.assertEqual(self.ids_in_tail(), ["1"] + ["2"] * 5)
        self.assertEqual(self.journal.waiting, 0)

    def killed(self):
        """Go on with what a daemon leaves that is killed now."""
        directory = os.path.dirname(self.path)
        copied = shutil.copytree(directory, f"{directory}.killed")
        self.path = os.path.join(copied, os.path.basename(self.path))

    def test_killed(self):
        """What stands in the tail is there with the next daemon: jobs, notices, what is kept."""
        self.journal.keep("notifier", "a", 1)
        self.run_job("1")
        self.journal.keep("notifier", "b", 2)
        self.accept(JobInit("2", uid=5), TaskInit("2", 0, 0, 0, pid=78))
        last = self.table.last_sequence
        self.killed()
        self.begin()
        self.assertEqual(self.in_tail(), [])
        self.assertEqual(self.journal.kept("notifier"), {"a": 1, "b": 2})
        rows = self.rows("SELECT job_id, ended_us IS NULL FROM jobs ORDER BY job")
        self.assertEqual(rows, [("1", 0), ("2", 1)])
        (stored,) = self.journal.recoverable(self.now_us())
        self.assertEqual([type(n) for _, n, _ in stored.notices], [JobInit, TaskInit])
        self.assertEqual((self.journal.last_sequence, len(self.notices())), (last, 7))
        self.run_job("3")
        self.assertEqual(len(self.notices()), 12)

    def test_killed_before_the_tail_was_emptied(self):
        """What the database has already does not come twice."""
        self.run_job("1")
        self.patch(Tail, "empty", lambda tail: None)
        self.journal.flush()
        self.accept(JobInit("2"))
        self.killed()
        self.begin()
        self.assertEqual(len(self.notices()), 6)
        self.assertEqual(self.rows("SELECT number FROM turns"), [(5,), (6,)])
        self.again()
        self.assertEqual(len(self.notices()), 6)

    def test_damaged_tail(self):
        """What stands behind the damage is lost; the tail is set aside, and said to be damaged."""
        self.accept(JobInit("1"), JobInit("2"), JobInit("3"))
        self.killed()
        tail = self.path + "-tail"
        with open(tail, "r+b") as file:
            content = file.read()
            file.seek(len(content) // 2)
            file.write(b"\xff")
        self.begin()
        self.assertEqual([n.notice().job_id for n in self.notices()], ["1"])
        self.assertEqual(self.stats.get("damaged"), 1)
        (aside,) = [n for n in os.listdir(os.path.dirname(tail)) if "-tail.damaged" in n]
        self.assertEqual(os.path.getsize(os.path.join(os.path.dirname(tail), aside)), len(content))
        self.accept(JobInit("4"))
        self.assertEqual(self.in_tail(), [["4"]])

    def test_tail_with_the_database(self):
        """A damaged database is set aside with its tail; the new one begins with neither."""
        self.accept(JobInit("1"))
        self.killed()
        os.remove(self.path + "-wal")
        with open(self.path, "wb") as file:
            file.write(b"no database" * 1000)
        self.begin()
        self.assertEqual((self.notices(), self.in_tail()), ([], []))
        aside = [n for n in os.listdir(os.path.dirname(self.path)) if "damaged" in n]
        self.assertEqual(len([n for n in aside if n.endswith("-tail")]), 1)

    def test_removed_tail(self):
        """Another one begins when the file is tidied."""
        self.accept(JobInit("1"))
        os.remove(self.path + "-tail")
        self.clock.advance(TIDY_SECONDS)
        self.accept(JobInit("2"))
        self.assertEqual((self.in_tail(), len(self.notices())), ([["2"]], 2))

    def test_tail_that_stays(self):
        """A database that refuses until the end: the next daemon has what the tail took."""
        self.refuse(tail=False)
        self.run_job("1")
        self.journal.close()
        self.assertEqual(self.stats.get("lost"), 0)
        self.begin()
        self.assertEqual(len(self.notices()), 5)

    def test_size_with_the_tail(self):
        """What the tail has counts, too."""
        before = self.stats.gauges()["file_bytes"]
        self.accept(JobInit("1"))
        size = os.path.getsize(self.path + "-tail")
        self.assertEqual(self.stats.gauges()["file_bytes"], before + size)

    def test_damage_behind_a_disk_that_refused(self):
        """A file that is found damaged when the disk works again is replaced, and written on."""
        problems = [Damaged("malformed"), sqlite3.OperationalError("disk I/O error")]

        def write(*_arguments):
            raise problems.pop()

        self.journal._file.write = write
        self.run_job("1")
        self.journal.flush()
        self.assertEqual(self.journal.problem, "disk I/O error")
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((len(self.notices()), self.journal.problem), (5, ""))
        self.run_job("2")
        self.assertEqual((len(self.notices()), self.journal.waiting), (10, 0))

    def test_closed_while_it_waits(self):
        """The disk is tried once more when the daemon ends."""
        file = self.journal._file
        real = file.write

        def write(*_arguments):
            raise sqlite3.OperationalError("database or disk is full")

        file.write = write
        self.run_job("1")
        file.write = real
        self.journal.close()
        self.assertEqual((len(self.notices()), self.stats.get("lost")), (5, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_too_much_waits(self):
        """The oldest rows are lost, and counted."""
        self.again(max_waiting=6)
        self.refuse()
        self.run_job("1")
        self.run_job("2")
        self.assertEqual((self.journal.waiting, self.stats.get("lost")), (6, 4))
        self.assertEqual(len([m for m in self.messages() if "lost" in m]), 1)

    def test_unusable_directory(self):
        """Without a place the daemon goes on in memory, and writes when there is one; behind what
        the file has."""
        self.run_job("1")
        self.journal.close()
        directory = os.path.dirname(self.path)
        os.rename(directory, directory + ".away")
        with open(directory, "w"):
            pass
        self.begin()
        self.run_job("2")
        self.assertEqual(self.journal.waiting, 5)
        os.remove(directory)
        os.rename(directory + ".away", directory)
        self.clock.advance(RETRY_SECONDS)
        self.run_job("3")
        jobs = self.rows("SELECT job, job_id, first_notice, last_notice FROM jobs ORDER BY job")
        self.assertEqual(jobs, [(1, "1", 1, 5), (2, "2", 6, 10), (3, "3", 11, 15)])
        told = [(notice.job, notice.notice().job_id) for notice in self.notices()]
        self.assertEqual(told, [(job, str(job)) for job in (1, 2, 3) for _ in range(5)])

    def test_told_of_late(self):
        """What is told of a job after its end, and who its user is, is in its row."""
        self.accept(JobInit("1"))
        self.clock.advance(TIDY_SECONDS)
        self.accept(StepInit("1", 0, 0, user="ann", job_name="x"))
        ((about,),) = self.rows("SELECT about FROM jobs")
        facts = decode_about(about).facts
        self.assertEqual((facts.user, facts.job_name), ("ann", "x"))
        self.accept(JobExit("1"), JobExit("1", exit_status=9))
        ((last, about),) = self.rows("SELECT last_notice, about FROM jobs")
        self.assertEqual((last, decode_about(about).facts.exit_status), (4, 9))

    def test_rows_of_jobs(self):
        """A job has a row when it has ended, or has run for a while; many get theirs in slices."""
        self.patch(journal_module, "_SETTLE_JOBS", 2)
        self.run_job("1")
        self.accept(*(JobInit(str(number)) for number in range(2, 7)))
        jobs, settled = "SELECT job_id FROM jobs ORDER BY job", "SELECT value FROM kept"
        self.assertEqual(self.rows(jobs), [("1",)])
        self.clock.advance(TIDY_SECONDS)
        self.assertEqual(self.rows(jobs), [("1",), ("2",), ("3",)])
        self.assertEqual(self.rows(settled), [(7,)])
        self.clock.pump([journal_module._PAUSE_SECONDS] * 2)
        self.assertEqual(len(self.rows(jobs)), 6)
        self.assertEqual(self.rows(settled), [(10,)])
        self.run_job("7")
        self.assertEqual(len(self.rows(jobs)), 7)

    def test_dropped_job(self):
        """Counts as ended, and never comes back."""
        self.accept(JobInit("1"))
        (job,) = self.table.jobs()
        self.journal.dropped(job, self.now_us())
        self.journal.forget(job)
        self.again()
        self.assertEqual(self.rows("SELECT ended_us FROM jobs"), [(self.now_us(),)])
        self.assertEqual(self.journal.recoverable(0), [])

    def test_what_no_file_takes(self):
        """A notice with a number or a text that cannot be written costs its row and no other."""
        self.accept(
            JobInit("1"), StepInit("1", 0, 0, total_tasks=1 << 70), JobInit("0", job_name="\udc80")
        )
        self.accept(StepInit("0", 0, 0), JobExit("1"), JobExit("0"))
        self.assertEqual(self.rows("SELECT job_id, ended_us IS NULL FROM jobs"), [("1", 0)])
        self.assertEqual((len(self.notices()), self.stats.get("lost")), (1, 5))
        self.run_job("2")
        self.assertEqual(len(self.notices()), 6)

    def test_what_no_file_takes_in_a_turn(self):
        """The rest of the turn is written, but for what is told of a job that has no beginning."""
        with self.turn:
            self.accept(
                JobInit("1"), TaskInit("1", 0, 0, 0, pid=1 << 70), JobInit("0", job_name="\udc80")
            )
            self.accept(JobExit("0"), JobExit("1"))
        self.assertEqual([type(n.notice()) for n in self.notices()], [JobInit])
        with self.turn:
            self.accept(JobInit("2"), TaskInit("2", 0, 0, 0, pid=1 << 70))
        self.run_job("3")
        self.assertEqual(self.rows("SELECT job_id FROM jobs"), [("1",), ("3",)])
        self.assertEqual((len(self.notices()), self.stats.get("lost")), (7, 5))
        self.again()
        self.assertEqual([job.key.job_id for job in self.journal.recoverable(0)][1:], ["2", "3"])

    def test_damage_found_by_recovery(self):
        """What could be read comes back; another file begins with it."""
        self.accept(JobInit("1", uid=4))
        self.journal.flush()
        self.accept(TaskInit("1", 0, 0, 0))
        self.again()
        turns = self.journal._file.turns

        def broken(after):
            yield next(turns(after))
            raise Damaged("malformed")

        self.journal._file.turns = broken
        (stored,) = self.journal.recoverable(0)
        self.assertEqual((len(stored.notices), self.stats.get("damaged")), (1, 1))
        job = self.table.recover(stored.key, stored.start_us, stored.adopted, stored.facts)
        self.journal.recovered(job, stored)
        self.accept(JobExit("1"))
        self.assertEqual(self.rows("SELECT job_id, ended_us IS NULL FROM jobs"), [("1", 0)])

    def test_damage_found_behind_the_head(self):
        """Also when only the numbers cannot be read any more a new file begins."""
        self.run_job("1")
        self.journal.close()
        calls = []

        def last_numbers(_file):
            calls.append(1)
            if len(calls) == 1:
                raise Damaged("malformed")
            return 0, 0, 0

        self.patch(JournalFile, "last_numbers", last_numbers)
        self.begin()
        self.run_job("2")
        self.assertEqual(self.rows("SELECT job_id FROM jobs"), [("2",)])

    def test_disk_that_cannot_be_read(self):
        """Recovery and what plugins keep are left out then, and said."""
        self.accept(JobInit("1"))
        for name, call in (
            ("jobs", lambda: self.journal.recoverable(0)),
            ("kept", lambda: self.journal.kept("x")),
        ):
            for error in (sqlite3.OperationalError("disk I/O error"), Damaged("malformed")):
                self.again()
                self.journal._file.__dict__[name] = lambda *_, error=error: (_ for _ in ()).throw(
                    error
                )
                self.assertFalse(call())
                self.assertEqual(
                    self.stats.get("failures") + self.stats.get("damaged"), 1, (name, error)
                )

    def test_removed(self):
        """A file that somebody removes or replaces is begun anew with the jobs that run."""
        self.accept(JobInit("1"))
        os.remove(self.path)
        self.clock.advance(TIDY_SECONDS)
        self.assertEqual(self.rows("SELECT job_id FROM jobs"), [("1",)])
        self.assertIn("a new one begins", self.messages()[-1])
        os.rename(self.path, self.path + ".away")
        with open(self.path, "w"):
            pass
        self.clock.advance(TIDY_SECONDS)
        self.accept(JobExit("1"))
        self.assertEqual(self.rows("SELECT ended_us IS NULL FROM jobs"), [(0,)])

    def test_pruned_behind_rows_of_the_future(self):
        """What came while a clock was wrong keeps nothing else from going."""
        self.patch(journal_module, "_PRUNE_NOTICES", 7)
        self.run_job("1")
        self.set_on = 1000 * DAY
        self.run_job("2")
        self.set_on = 0
        for job in range(3, 6):
            self.run_job(str(job))
        self.clock.advance(2 * DAY)
        self.clock.pump([journal_module._PAUSE_SECONDS] * 10 + [TIDY_SECONDS])
        self.assertEqual(self.rows("SELECT job_id FROM jobs"), [("2",)])

    def test_kept_is_bounded(self):
        """Also while the disk refuses everything."""
        self.again(max_waiting=3)
        self.refuse()
        for number in range(10):
            self.journal.keep("notifier", str(number) * 999, None)
            self.clock.advance(TIDY_SECONDS)
        self.assertLessEqual(self.journal._waiting.size, 3000)

    def test_checkpoint_while_closing(self):
        """A thread that ends after the journal does no harm; nor does one that finds no file."""
        waiting = []

        def in_thread(function, argument):
            result = Deferred()
            waiting.append(lambda: execute(function, argument).chainDeferred(result))
            return result

        self.again(in_thread=in_thread)
        self.run_job("1")
        self.clock.advance(TIDY_SECONDS)
        self.journal.close()
        os.rename(self.path, self.path + ".away")
        (end,) = waiting
        end()
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(self.stats.get("failures"), 1)

    def test_unreadable_rows(self):
        """Cost what they are about, and no more."""
        for notice in (JobInit("1"), JobInit("2"), TaskInit("2", 0, 0, 0)):
            self.accept(notice)
            self.journal.flush()
        self.clock.advance(TIDY_SECONDS)
        self.journal.close()
        database = sqlite3.connect(self.path)
        database.execute("UPDATE jobs SET about = x'c1' WHERE job_id = '1'")
        database.execute("UPDATE turns SET notices = x'93' WHERE number = 3")
        database.execute(
            "INSERT INTO jobs SELECT 9, 4, NULL, '9', NULL, x'97a1ff' FROM jobs LIMIT 1"
        )
        database.commit()
        database.close()
        self.begin()
        (stored,) = self.journal.recoverable(0)
        self.assertEqual((stored.key.job_id, len(stored.notices)), ("2", 1))
        self.assertEqual(self.stats.get("unreadable"), 3)

    def test_cursors(self):
        """However much is written and tidied, no more of them: a connection remembers dead ones."""
        self.run_job("1")
        self.journal.flush()
        file = self.journal._file
        (remembered,) = [
            each
            for each in gc.get_referents(file._database)
            if isinstance(each, list) and any(one() is file._cursor for one in each)
        ]
        before = len(remembered)
        for job_id in ("2", "3"):
            self.run_job(job_id)
            self.clock.advance(MOVE_SECONDS)
            self.clock.advance(TIDY_SECONDS)
            self.clock.advance(DAY)
        self.assertEqual(len(remembered), before)

    def test_text_that_is_none(self):
        """Bytes that are no UTF-8 are an error like any other in a row."""
        told = (1, None, 5, "message", JobInit("x"), [("job_started", 1, 5, "message", None)])
        for text, decode in ((b"x", StoredNotice.notice), (b"job_started", StoredNotice.events)):
            (stored,) = decode_turn(turn_of(told).replace(text, b"\xff" * len(text))).notices
            self.assertRaises(msgspec.MsgspecError, decode, stored)
        self.assertRaises(msgspec.MsgspecError, decode_about, b"\x97\xa1\xff")

    def test_damage_in_a_turn(self):
        """Costs the notice that it is in, if the others can still be told apart."""
        told = [(job, None, 5, "message", JobInit(str(job)), []) for job in (1, 2, 3)]
        whole = turn_of(*told)
        damaged = whole.replace(b"\x02\xc0\x05\xa7m", b"\x02\xc0\x05\xa7\xff")
        errors = []
        turn = decode_turn(damaged, errors.append)
        self.assertEqual(([one.job for one in turn.notices], len(errors)), ([1, 3], 1))
        self.assertEqual(decode_turn(damaged), turn)
        self.assertEqual(msgspec.structs.replace(turn, notices=[]), decode_turn(turn_of()))
        self.assertEqual(len(turn_parts(damaged).notices), 3)
        self.assertRaises(msgspec.MsgspecError, decode_turn, whole[:-1], errors.append)
        self.assertEqual(len(errors), 1)

    def test_damage_in_a_row(self):
        """Costs the turn that it is in, if the others can still be told apart."""
        turns = [turn_of(*[(job, None, 5, "message", None, [])] * 2) for job in (1, 2, 3)]
        errors = []
        row = encode([turns[0], turns[1][:-1], turns[2]])
        self.assertEqual([one.job for one in decode_turns(row, errors.append)], [1, 1, 3, 3])
        self.assertEqual(decode_turns(row[:-1], errors.append), [])
        self.assertEqual((len(errors), decode_turns(row[:-1])), (2, []))

    def test_places(self):
        """Fields of notices have their places, for ever; there may be more behind them."""
        for notice, fields in (
            (JobInit("1", *range(2, 8), "u", "n"), [*range(2, 8), "u", "n", None, None]),
            (
                StepInit("1", 2, 3, 4, "u", "n", "t", 5, 6, 7, 8, 9, "h"),
                [2, 3, 4, "u", "n", "t", 5, 6, 7, 8, 9, "h", None],
            ),
            (TaskInit("1", *range(2, 13)), list(range(2, 13))),
            (TaskExit("1", *range(2, 8)), list(range(2, 8))),
            (StepExit("1", 2, 3, 4), [2, 3, 4]),
            (JobExit("1", 2, "h", 3), [2, "h", 3]),
        ):
            place = [encode(field) for field in fields]
            tag = msgspec.msgpack.decode(encode(notice))[0]
            self.assertEqual(encode(notice), encode([tag, "1", *map(msgspec.Raw, place)]))
            later = turn_of([1, None, 5, "message", [tag, "1", *fields, "later"], []])
            self.assertEqual(decode_turn(later).notices[0].notice(), notice)

    def test_places_of_facts(self):
        """So have those of facts; and each kind of event has its number."""
        details = JobDetails(1, 2, 3, 4, 5, "p", "a")
        fields = ["j", 2, 3, "u", "n", *range(6, 12), "t", True, details, ("h",), 9, True]
        about = encode(["slurm", "1", 2, "jm", True, 5, [*fields, "later"], "later"])
        self.assertEqual(decode_about(about).facts, JobFacts(*fields))
        self.assertEqual(encode(details), encode([1, 2, 3, 4, 5, "p", "a"]))
        names = (
            "job_id uid gid user job_name start_us end_us node_count total_tasks local_tasks"
            " step_id job_tag adopted details nodes exit_status recovered"
        )
        self.assertEqual(" ".join(JobFacts.__struct_fields__), names)
        step, task = StepFacts(1, (2,), *range(3, 8)), TaskFacts(*range(1, 9))
        self.assertEqual(encode(step), encode([1, [2], *range(3, 8)]))
        self.assertEqual(encode(task), encode(list(range(1, 9))))
        detailed = {StepStarted: step, TaskStarted: task, TaskEnded: task, StepEnded: step}
        for code, kind in enumerate(EVENT_WORDS):
            detail = detailed.get(kind)
            event = kind("key", "job", "facts", 7, 8, 9, "implied", *([detail] if detail else []))
            new = new_event[kind](event)
            self.assertEqual(new, (code, 7, 8, "implied", detail))
            (stored,) = decode_turn(turn_of((1, None, 5, "message", None, [new]))).notices
            (event,) = stored.events()
            self.assertEqual((event.word, event.task or event.step), (EVENT_WORDS[kind], detail))

    def test_private(self):
        """Nobody else may read it: it tells who ran what."""
        for path in (self.path, self.path + ".lock", self.path + "-tail"):
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)

    def test_record_without_notice(self):
        """A row may tell only what another row's notice did."""
        (stored,) = decode_turn(turn_of((1, None, 5, "implied", None, []))).notices
        self.assertEqual((stored.notice(), stored.origin, stored.events()), (None, "implied", []))
