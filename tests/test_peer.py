"""The client that reads the sets of peers, against an owner at the other end of a fake link."""

from __future__ import annotations

import errno
import gc
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import (
    Busy,
    ConfigError,
    LdmsJobError,
    PeerError,
    RequestFailed,
    SetImageError,
)
from ldmsjob.peer import Peer
from ldmsjob.remoteset import RemoteSet
from ldmsjob.sets.decode import DecodedSet, decode_set
from ldmsjob.wire.events import AnswerSubscribe, SubscribeWanted
from ldmsjob.wire.setevents import (
    NOTIFY_MODIFIED,
    READ_NOT_ALLOWED,
    READ_UNKNOWN_KEY,
    SET_ADDED,
    SET_CHANGED,
    SET_DELETED,
    AcknowledgeDeletion,
    AnswerDirectory,
    AnswerRead,
    CancelDirectory,
    CancelNotify,
    CancelPush,
    DirectoryAnswered,
    DirectoryEntry,
    DirectoryUpdated,
    DirectoryWanted,
    FailLookup,
    LookupFailed,
    LookupWanted,
    MemoryRead,
    Notified,
    Pushed,
    ReadMemory,
    ReadWanted,
    SetAnnounced,
    WantDirectory,
    WantNotify,
    WantPush,
)
from tests.set_owners import VECTORS, Image, Owner

JOB = "nodeJ/job_slurm_42"


class PeerTestCase(SynchronousTestCase):
    """A peer with a job set and a set of three copies."""

    def setUp(self) -> None:
        """Connect."""
        self.clock = Clock()
        self.peer = Peer(self.clock, timeout=5)
        self.job = Image.recorded("set-jobset")
        self.array = Image.recorded("set-array3")
        self.owner = Owner(self.peer, self.job, self.array)

    def tearDown(self) -> None:
        """Nothing waits for a time that comes no more."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def found(self, instance: str) -> RemoteSet:
        """Look a set up."""
        return self.successResultOf(self.peer.lookup(instance))[0]

    def read(self, remote_set: RemoteSet) -> DecodedSet:
        """Update it."""
        return self.successResultOf(remote_set.update())

    def failure(self, deferred: Deferred[Any]) -> LdmsJobError:
        """Why it failed."""
        error = self.failureResultOf(deferred, LdmsJobError).value
        assert isinstance(error, LdmsJobError)
        return error

    def failed_rc(self, deferred: Deferred[Any]) -> int:
        """The errno with which it failed."""
        error = self.failure(deferred)
        assert isinstance(error, RequestFailed), error
        return error.rc


class DirectoryTests(PeerTestCase):
    """dir and subscribe_dir."""

    def test_parts_are_joined(self) -> None:
        """A directory that comes in parts is one list, in the owner's order."""
        entries = self.successResultOf(self.peer.dir())
        self.assertEqual(entries, [self.job.entry, self.array.entry])
        self.assertEqual(self.owner.sent[-1], WantDirectory(1))

    def test_refused(self) -> None:
        """An errno in place of a directory is the error's."""
        self.owner.silent = True
        wanted = self.peer.dir()
        self.owner.tell(DirectoryAnswered(1, (), rc=13))
        self.assertEqual(self.failed_rc(wanted), 13)

    def test_each_part_gives_more_time(self) -> None:
        """The time-out counts from the last part; parts that come later are ignored."""
        self.owner.silent = True
        wanted = self.peer.dir()
        for _ in range(3):
            self.clock.advance(4)
            self.owner.tell(DirectoryAnswered(1, [self.job.entry], more=True))
        self.clock.advance(4.9)
        self.assertNoResult(wanted)
        self.clock.advance(0.2)
        self.assertEqual(self.failed_rc(wanted), errno.ETIMEDOUT)
        self.owner.tell(DirectoryAnswered(1, [self.job.entry]))

    def test_too_many_sets(self) -> None:
        """A directory without end is given up."""
        self.owner.silent = True
        with patch("ldmsjob.peer.MAX_ANSWER_SETS", 3):
            wanted = self.peer.dir()
            self.owner.tell(DirectoryAnswered(1, [self.job.entry] * 4, more=True))
        self.assertEqual(self.failed_rc(wanted), errno.EMSGSIZE)

    def test_watching(self) -> None:
        """A watcher is told all sets, then what changes, until it is closed; a second one too."""
        told: list[tuple[int, list[str]]] = []

        def tell(kind: int, entries: Any) -> None:
            told.append((kind, [entry.name for entry in entries]))

        first = self.successResultOf(self.peer.subscribe_dir(tell))
        self.assertEqual(told, [(SET_ADDED, [JOB, "hostA/arr3"])])
        second = self.successResultOf(self.peer.subscribe_dir(lambda _kind, _entries: None))
        for kind in (SET_ADDED, SET_CHANGED, SET_DELETED):
            self.owner.tell(DirectoryUpdated(2, kind, [DirectoryEntry(name="x")]))
        self.assertEqual(
            told[1:], [(kind, ["x"]) for kind in (SET_ADDED, SET_CHANGED, SET_DELETED)]
        )
        first.close()
        self.assertEqual(self.owner.sent_of(CancelDirectory), [])
        second.close()
        second.close()
        last = self.owner.sent_of(WantDirectory)[-1]
        self.assertTrue(last.updates)
        self.assertEqual(self.owner.sent_of(CancelDirectory), [CancelDirectory(last.token)])
        self.owner.tell(DirectoryUpdated(2, SET_ADDED, [DirectoryEntry(name="y")]))
        self.assertEqual(len(told), 4)

    def test_listing_keeps_the_watch(self) -> None:
        """A directory that is asked for while somebody watches does not end the watch."""
        self.successResultOf(self.peer.subscribe_dir(lambda _kind, _entries: None))
        self.successResultOf(self.peer.dir())
        self.assertTrue(all(wanted.updates for wanted in self.owner.sent_of(WantDirectory)))

    def test_watch_refused(self) -> None:
        """A watch that is not answered is none."""
        self.owner.silent = True
        wanted = self.peer.subscribe_dir(lambda _kind, _entries: None)
        self.clock.advance(5)
        self.assertEqual(self.failed_rc(wanted), errno.ETIMEDOUT)
        self.assertEqual(len(self.owner.sent_of(CancelDirectory)), 1)

    def test_callback_that_raises(self) -> None:
        """What a callback raises is logged; the others are called."""
        told: list[int] = []

        def broken(kind: int, _entries: Any) -> None:
            raise RuntimeError("broken")

        self.successResultOf(self.peer.subscribe_dir(broken))
        self.successResultOf(self.peer.subscribe_dir(lambda kind, _: told.append(kind)))
        self.owner.tell(DirectoryUpdated(1, SET_CHANGED, [self.job.entry]))
        self.assertEqual(told, [SET_ADDED, SET_CHANGED])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)


class LookupTests(PeerTestCase):
    """lookup."""

    def test_name_schema_regex(self) -> None:
        """One by its name, all of a schema, all that an expression finds; else none."""
        for arguments, expected in (
            (((JOB,), {}), [JOB]),
            ((("arr3",), {"by_schema": True}), ["hostA/arr3"]),
            (((".*",), {"is_regex": True}), [JOB, "hostA/arr3"]),
            ((("nothing",), {}), []),
        ):
            found = self.successResultOf(self.peer.lookup(*arguments[0], **arguments[1]))
            self.assertEqual([each.instance for each in found], expected)

    def test_what_is_announced(self) -> None:
        """Names and info come with the announcement."""
        remote_set = self.found("hostA/arr3")
        self.assertEqual((remote_set.schema, remote_set.info), ("arr3", {}))

    def test_refused(self) -> None:
        """Any errno but "none" is an error."""
        self.owner.silent = True
        wanted = self.peer.lookup("(", is_regex=True)
        self.owner.tell(LookupFailed(1, errno.EINVAL))
        self.assertEqual(self.failed_rc(wanted), errno.EINVAL)

    def test_impossible_names(self) -> None:
        """Names that peers cannot be asked for are not sent."""
        for name in ("", "x" * 512, "a\0b"):
            self.assertEqual(self.failed_rc(self.peer.lookup(name)), errno.EINVAL)
        self.assertEqual(self.owner.sent, [])

    def test_owner_that_does_not_finish(self) -> None:
        """Sets that were announced are the result when the last announcement does not come."""
        self.owner.silent = True
        wanted = self.peer.lookup(".", is_regex=True)
        self.owner.tell(SetAnnounced(1, self.job.announced(1), True))
        self.clock.advance(5)
        self.assertEqual([each.instance for each in self.successResultOf(wanted)], [JOB])

    def test_looked_up_again(self) -> None:
        """The same set is the same object with new handles; one of another shape is another."""
        first = self.found(JOB)
        handle = first.announced.key
        again = self.found(JOB)
        self.assertIs(again, first)
        self.assertNotEqual(first.announced.key, handle)
        self.read(first)
        other = Image.recorded("set-scalars")
        other.names = self.job.names
        self.owner.images[JOB] = other
        third = self.found(JOB)
        self.assertIsNot(third, first)
        self.assertEqual(self.failed_rc(first.update()), errno.ENOENT)
        self.read(third)

    def test_sets_that_nobody_keeps(self) -> None:
        """A set that the caller has dropped takes up no memory."""
        self.found(JOB)
        gc.collect()
        self.assertEqual(len(self.peer._sets), 0)


class UpdateTests(PeerTestCase):
    """RemoteSet.update and update_all."""

    def test_every_recorded_set(self) -> None:
        """Each recorded image of one copy is read as it is decoded in place."""
        for path in sorted(VECTORS.glob("set-*.json")):
            image = Image.recorded(path.stem)
            if image.field("array_card") > 1:
                continue
            with self.subTest(vector=path.stem):
                self.owner.images = {image.names[0]: image}
                expected = decode_set(image.meta, image.data)
                self.assertEqual(self.read(self.found(image.names[0])), expected)

    def test_only_data_the_second_time(self) -> None:
        """The first update reads all, later ones the data."""
        remote_set = self.found(JOB)
        self.read(remote_set)
        self.job.put_copy("gn", 77, 8)
        self.assertEqual(self.read(remote_set).current_copy.gn, 77)
        meta, data = len(self.job.meta), len(self.job.data)
        self.assertEqual(self.owner.reads, [(0, meta + data), (meta, data)])

    def test_new_metadata_at_once(self) -> None:
        """An update that brings another meta generation brings the metadata too."""
        remote_set = self.found(JOB)
        self.read(remote_set)
        self.job.put_meta("perm", 0o777)
        self.job.put_meta("meta_gn", 9, 8)
        self.job.put_copy("meta_gn", 9, 8)
        reading = self.read(remote_set)
        self.assertEqual((reading.perm, reading.meta_gn), (0o777, 9))
        del self.owner.reads[:]
        self.read(remote_set)
        self.assertEqual(self.owner.reads, [(len(self.job.meta), len(self.job.data))])

    def test_copy_being_written(self) -> None:
        """A single copy inside a transaction is given as it is, and says so."""
        self.job.put_copy("trans_flags", 1)
        self.assertFalse(self.read(self.found(JOB)).current_copy.is_consistent)

    def test_several_copies(self) -> None:
        """Each update gives the readings since the last one, and reads no more than it must."""
        size = self.array.field("data_sz")
        base = len(self.array.meta)
        self.array.data[:] = Image.recorded("set-array3", 2).data
        self.array.meta[:] = Image.recorded("set-array3", 2).meta
        remote_set = self.found("hostA/arr3")
        indexes = [each.current_copy.index for each in self.all_of(remote_set)]
        self.assertEqual(indexes, [0])
        del self.owner.reads[:]
        self.array.data[:] = Image.recorded("set-array3", 6).data
        readings = self.all_of(remote_set)
        self.assertEqual([each.current_copy.index for each in readings], [1, 2])
        times = [each.current_copy.ts_us for each in readings]
        self.assertEqual(times, sorted(times))
        self.assertEqual(self.owner.reads, [(base + size, size), (base + 2 * size, size)])
        self.array.data[:] = Image.recorded("set-array3", 10).data
        self.array.meta[:] = Image.recorded("set-array3", 10).meta
        newest = self.read(remote_set)
        self.assertEqual((newest.current_copy.index, newest.meta_gn), (1, 2))
        self.assertEqual(newest, self.read(remote_set))

    def test_no_new_copy(self) -> None:
        """While its next copy is being written, a set of several gives the last whole one."""
        self.array.data[:] = Image.recorded("set-array3", 4).data
        remote_set = self.found("hostA/arr3")
        before = self.read(remote_set)
        self.array.data[:] = Image.recorded("set-array3", 5).data
        again = self.all_of(remote_set)
        self.assertEqual([each.current_copy.index for each in again], [1])
        self.assertEqual(again[0].values(), before.values())
        fresh = self.successResultOf(self.peer.lookup("hostA/arr3"))[0]
        fresh._reader = None
        self.assertEqual(self.read(fresh).current_copy.index, 1)

    def test_copies_that_never_end(self) -> None:
        """A producer that is always ahead does not keep us for ever."""
        remote_set = self.found("hostA/arr3")
        self.read(remote_set)
        del self.owner.reads[:]
        moment = [2_000_000_000]
        answers = self.owner.answers

        def ahead(command: Any) -> Any:
            for index in range(3):
                moment[0] += 1
                self.array.put_copy("ts_sec", moment[0], index=index)
                self.array.put_copy("curr_idx", moment[0] % 3, index=index)
            return answers(command)

        self.owner.answers = ahead  # type: ignore[method-assign]
        self.read(remote_set)
        self.assertLess(len(self.owner.reads), 10)

    def all_of(self, remote_set: RemoteSet) -> list[DecodedSet]:
        """All new readings."""
        return self.successResultOf(remote_set.update_all())

    def test_calls_at_the_same_time(self) -> None:
        """Updates that are asked for meanwhile get the result of the one under way."""
        remote_set = self.found(JOB)
        self.owner.silent = True
        first, second = remote_set.update(), remote_set.update()
        asked = self.owner.sent_of(ReadMemory)
        self.assertEqual(len(asked), 1)
        self.owner.tell(*self.owner.answers(asked[0]))
        self.assertEqual(self.successResultOf(first), self.successResultOf(second))

    def test_cancelled(self) -> None:
        """A caller that gives up does not disturb; neither does the answer that comes then."""
        remote_set = self.found(JOB)
        self.owner.silent = True
        waiting = remote_set.update()
        other = remote_set.update()
        waiting.cancel()
        self.failureResultOf(waiting)
        self.owner.tell(*self.owner.answers(self.owner.sent_of(ReadMemory)[0]))
        self.successResultOf(other)

    def test_reads_that_fail(self) -> None:
        """Each refusal of a read has its errno; the next update starts from the beginning."""
        for status, rc in ((READ_UNKNOWN_KEY, 2), (READ_NOT_ALLOWED, 13), (18, 71), (23, 5)):
            remote_set = self.found(JOB)
            self.owner.silent = True
            waiting = remote_set.update()
            self.owner.tell(MemoryRead(self.owner.sent_of(ReadMemory)[-1].token, status, b""))
            self.assertEqual(self.failed_rc(waiting), rc)
            self.owner.silent = False
        self.read(remote_set)

    def test_no_answer(self) -> None:
        """A read that is not answered fails, and its answer is nothing then."""
        remote_set = self.found(JOB)
        self.owner.silent = True
        waiting = remote_set.update()
        self.clock.advance(5)
        self.assertEqual(self.failed_rc(waiting), errno.ETIMEDOUT)
        self.owner.tell(*self.owner.answers(self.owner.sent_of(ReadMemory)[0]))


class HostileImageTests(PeerTestCase):
    """Images that contradict themselves or what was announced."""

    def image_error(self, image: Image) -> str:
        """Why reading it fails."""
        self.owner.images[image.names[0]] = image
        error = self.failure(self.found(image.names[0]).update())
        self.assertIsInstance(error, SetImageError)
        return str(error)

    def test_announced_otherwise(self) -> None:
        """Sizes that differ from the announced ones are refused, with the set's name."""
        for name in ("meta_sz", "data_sz", "card", "array_card"):
            remote_set = self.found(JOB)
            value = self.job.field(name)
            self.job.put_meta(name, value + 8)
            error = self.failure(remote_set.update())
            self.assertIsInstance(error, SetImageError)
            self.assertIn(JOB, str(error))
            self.assertIn(name, str(error))
            self.job.put_meta(name, value)

    def test_impossible_sizes(self) -> None:
        """What no set can be, or more than we want, is not even read."""
        for sizes in ((100, 4512, 1), (2352, 50, 1), (2352, 4512, 0), (2352, 1 << 31, 2)):
            announced = self.job.announced(1)
            changed = type(announced)(
                **{
                    **{name: getattr(announced, name) for name in announced.__struct_fields__},
                    **dict(zip(("meta_size", "data_size", "array_card"), sizes, strict=True)),
                }
            )
            with self.subTest(sizes=sizes):
                remote_set = RemoteSet(self.peer, changed)
                self.assertIsInstance(self.failure(remote_set.update()), SetImageError)
                self.assertRaises(SetImageError, remote_set.on_push, print)
        self.assertEqual(self.owner.reads, [])

    def test_read_twice_before_it_is_refused(self) -> None:
        """A copy that was changed while it was read gets a second chance, and no third."""
        remote_set = self.found(JOB)
        self.read(remote_set)
        at = len(self.job.data) - self.job.field("heap_sz")
        sound = bytes(self.job.data[at : at + 8])
        self.job.data[at : at + 8] = bytes(8)
        answers = self.owner.answers

        def repair(command: Any) -> Any:
            result = list(answers(command))
            self.job.data[at : at + 8] = sound
            return result

        self.owner.answers = repair  # type: ignore[method-assign]
        self.read(remote_set)
        self.owner.answers = answers  # type: ignore[method-assign]
        del self.owner.reads[:]
        self.job.data[at : at + 8] = bytes(8)
        self.assertIn("heap", self.image_error(self.job))
        self.assertEqual(len(self.owner.reads), 2)

    def test_copy_that_is_not_there(self) -> None:
        """A current copy beyond the last one is refused at the first reading."""
        self.array.put_copy("curr_idx", 3)
        self.assertIn("copy 3 of 3", self.image_error(self.array))

    def test_short_answer(self) -> None:
        """Fewer bytes than were asked for are refused."""
        remote_set = self.found(JOB)
        self.owner.silent = True
        waiting = remote_set.update()
        self.owner.tell(MemoryRead(self.owner.sent_of(ReadMemory)[0].token, 0, b"short"))
        self.assertIsInstance(self.failure(waiting), SetImageError)

    @given(
        vector=st.sampled_from(
            ["set-jobset", "set-array2-list", "set-lists", "set-recordarray", "set-array3"]
        ),
        changes=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=8),
        times=st.integers(1, 3),
    )
    def test_any_damage(self, vector: str, changes: list[tuple[int, int]], times: int) -> None:
        """Whatever is damaged, and between any reads: a reading or ``SetImageError``."""
        peer = Peer(Clock())
        image = Image.recorded(vector)
        owner = Owner(peer, image)
        remote_set = self.successResultOf(peer.lookup(image.names[0]))[0]
        if times > 1:
            self.successResultOf(remote_set.update())
        for at, value in changes:
            part, base = (image.meta, 0) if at < len(image.meta) else (image.data, len(image.meta))
            part[(at - base) % len(part)] = value
        for _ in range(times):
            results: list[Any] = []
            remote_set.update().addBoth(results.append)
            result = results[0]
            if isinstance(result, Failure):
                self.assertIs(result.type, SetImageError)
        self.assertLess(len(owner.reads), 40)


class PushTests(PeerTestCase):
    """RemoteSet.on_push."""

    def setUp(self) -> None:
        """Have the job set pushed."""
        super().setUp()
        self.remote_set = self.found(JOB)
        self.got: list[DecodedSet] = []
        self.ends: list[LdmsJobError | None] = []
        self.push = self.remote_set.on_push(self.got.append, self.ends.append)
        wanted = self.owner.sent_of(WantPush)[0]
        self.assertTrue(wanted.on_change)
        self.push_id = wanted.push_id

    def pushed(self, offset: int, data: bytes, more: bool = False, last: bool = False) -> None:
        """A push, or a part of one."""
        self.owner.tell(Pushed(self.push_id, offset, data, more, last))

    def test_whole_then_data(self) -> None:
        """First everything, then the data alone: two readings."""
        self.pushed(0, self.job.whole)
        self.job.put_copy("gn", 99, 8)
        self.pushed(len(self.job.meta), bytes(self.job.data))
        self.assertEqual(self.got[0].values(), decode_set(self.job.meta, self.job.data).values())
        self.assertEqual([each.current_copy.gn for each in self.got][1:], [99])

    def test_parts(self) -> None:
        """A push in parts is one reading."""
        for at in range(0, len(self.job.whole), 1000):
            part = self.job.whole[at : at + 1000]
            self.pushed(at, part, more=at + 1000 < len(self.job.whole))
        self.assertEqual(len(self.got), 1)

    def test_one_copy_of_several(self) -> None:
        """Of a set of several copies the one that was pushed is read."""
        got: list[DecodedSet] = []
        self.found("hostA/arr3").on_push(got.append)
        self.push_id = self.owner.sent_of(WantPush)[1].push_id
        size = self.array.field("data_sz")
        meta = len(self.array.meta)
        self.pushed(0, self.array.whole[: meta + size])
        self.pushed(meta + 2 * size, self.array.whole[meta + 2 * size :])
        self.pushed(0, self.array.whole)
        current = self.array.data[COPY_CURRENT]
        self.assertEqual([each.current_copy.index for each in got], [0, 2, current])

    def test_close(self) -> None:
        """Closed when the owner says that this was the last; then nobody is told any more."""
        closed = self.push.close()
        self.successResultOf(closed)
        self.assertEqual(self.ends, [None])
        self.assertTrue(self.push.is_over)
        self.pushed(0, self.job.whole)
        self.assertEqual(self.got, [])
        self.successResultOf(self.push.close())
        self.remote_set.on_push(self.got.append)

    def test_close_not_confirmed(self) -> None:
        """An owner that does not confirm is not waited for for ever."""
        self.owner.silent = True
        closed = self.push.close()
        self.pushed(0, self.job.whole)
        self.assertEqual(len(self.got), 1)
        self.clock.advance(5)
        self.assertEqual(self.failed_rc(closed), errno.ETIMEDOUT)
        self.assertEqual(self.ends, [None])

    def test_last_with_data(self) -> None:
        """A last push may bring data."""
        self.pushed(0, self.job.whole, last=True)
        self.assertEqual((len(self.got), self.ends), (1, [None]))

    def test_twice(self) -> None:
        """One push of a set at a time."""
        self.assertRaises(Busy, self.remote_set.on_push, print)

    def test_what_does_not_fit(self) -> None:
        """Pushes that no set is made of end the subscription, with the reason."""
        meta = len(self.job.meta)
        for parts in (
            [(meta + 8, bytes(self.job.data), False)],
            [((1 << 32) - 1, b"x", False)],
            [(0, self.job.whole[:meta], False)],
            [(meta, bytes(self.job.data), False)],
            [(0, self.job.whole[:100], True), (200, self.job.whole[200:], False)],
        ):
            with self.subTest(parts=[(at, len(data)) for at, data, _ in parts]):
                for at, data, more in parts:
                    self.pushed(at, data, more)
                self.assertIsInstance(self.ends.pop(), SetImageError)
                self.assertTrue(self.owner.sent_of(CancelPush))
                self.push = self.remote_set.on_push(self.got.append, self.ends.append)
                self.push_id = self.owner.sent_of(WantPush)[-1].push_id
        self.assertEqual(self.got, [])

    def test_set_deleted(self) -> None:
        """The end of the set is the end of its pushes."""
        self.owner.delete(JOB)
        [reason] = self.ends
        assert isinstance(reason, RequestFailed)
        self.assertEqual(reason.rc, errno.ENOENT)


COPY_CURRENT = 48
"""Where a copy's header has the index of the current copy."""


class NotificationTests(PeerTestCase):
    """RemoteSet.on_notify."""

    def test_notified_until_closed(self) -> None:
        """What the owner tells is passed on, once for each."""
        got: list[tuple[int, bytes]] = []
        remote_set = self.found(JOB)
        notices = remote_set.on_notify(lambda *heard: got.append(heard), NOTIFY_MODIFIED)
        self.assertRaises(Busy, remote_set.on_notify, print)
        wanted = self.owner.sent_of(WantNotify)[0]
        self.assertEqual(wanted.what, NOTIFY_MODIFIED)
        self.owner.tell(Notified(wanted.token, 2, b"data"), Notified(12345, 2, b"other"))
        notices.close()
        notices.close()
        self.owner.tell(Notified(wanted.token, 2, b"late"))
        self.assertEqual(got, [(2, b"data")])
        self.assertEqual(self.owner.sent_of(CancelNotify), [CancelNotify(wanted.set_id)])
        remote_set.on_notify(print)


class DeletionTests(PeerTestCase):
    """A set that its owner deletes."""

    def test_acknowledged_and_told(self) -> None:
        """The owner hears that we have stopped; who watches hears of the deletion."""
        names: list[str] = []
        told: list[tuple[int, str]] = []
        remote_set = self.found(JOB)
        self.read(remote_set)
        listening = self.peer.on_delete(names.append)
        self.successResultOf(
            self.peer.subscribe_dir(lambda kind, entries: told.append((kind, entries[0].name)))
        )
        self.owner.delete(JOB)
        self.assertEqual(self.owner.sent[-1], AcknowledgeDeletion(b"deletion"))
        self.assertTrue(remote_set.is_deleted)
        self.assertEqual(names, [JOB])
        self.assertEqual(told[1:], [(SET_DELETED, JOB)])
        self.assertEqual(self.failed_rc(remote_set.update()), errno.ENOENT)
        self.assertRaises(RequestFailed, remote_set.on_push, print)
        self.assertRaises(RequestFailed, remote_set.on_notify, print)
        self.assertEqual(self.successResultOf(self.peer.lookup(JOB)), [])
        listening.close()
        self.owner.delete("hostA/arr3")
        self.assertEqual(names, [JOB])

    def test_read_under_way(self) -> None:
        """A read that was sent before the deletion is still answered."""
        remote_set = self.found(JOB)
        self.owner.silent = True
        waiting = remote_set.update()
        answer = list(self.owner.answers(self.owner.sent_of(ReadMemory)[0]))
        self.owner.delete(JOB)
        self.owner.tell(*answer)
        self.assertEqual(self.successResultOf(waiting).instance, JOB)


class LinkTests(PeerTestCase):
    """The connection itself."""

    def test_loss_fails_everything(self) -> None:
        """Whatever is outstanding fails when the link is lost; and what is asked later."""
        remote_set = self.found(JOB)
        ends: list[LdmsJobError | None] = []
        remote_set.on_push(print, ends.append)
        self.owner.silent = True
        outstanding = [
            self.peer.dir(),
            self.peer.subscribe_dir(lambda _kind, _entries: None),
            self.peer.lookup("x"),
            remote_set.update(),
        ]
        closed = self.peer.when_closed()
        self.assertTrue(self.peer.is_open)
        self.peer.link_closed(self.owner, Failure(PeerError("it is gone")))
        for deferred in outstanding:
            error = self.failure(deferred)
            assert isinstance(error, RequestFailed)
            self.assertEqual(error.rc, errno.ECONNRESET)
            self.assertIn("it is gone", str(error))
        self.successResultOf(closed)
        self.assertIsInstance(ends[0], RequestFailed)
        self.assertFalse(self.peer.is_open)
        for deferred in (self.peer.dir(), remote_set.update()):
            self.assertEqual(self.failed_rc(deferred), errno.ENOTCONN)
        self.assertRaises(RequestFailed, remote_set.on_push, print)
        self.successResultOf(self.peer.when_closed())

    def test_close(self) -> None:
        """Closing closes the link and waits for it."""
        closed = self.peer.close()
        self.assertEqual(self.owner.state, "closed")
        self.assertNoResult(closed)
        self.peer.link_closed(self.owner, Failure(PeerError("closed")))
        self.successResultOf(closed)
        self.successResultOf(self.peer.close())

    def test_requests_of_the_peer(self) -> None:
        """A peer that takes us for a daemon is told that there is nothing."""
        read = ReadWanted(b"x", b"c", b"key1", 0, 8)
        self.owner.tell(
            DirectoryWanted(b"xid1", True),
            LookupWanted(b"xid2", "a", False, False),
            read,
            SubscribeWanted(b"xid3", "slurm", False, -1),
        )
        self.assertEqual(
            self.owner.sent,
            [
                AnswerDirectory(b"xid1"),
                FailLookup(b"xid2", errno.ENOENT),
                AnswerRead(read, READ_UNKNOWN_KEY),
                AnswerSubscribe(b"xid3", errno.EOPNOTSUPP, "not supported"),
            ],
        )

    def test_answers_to_nothing(self) -> None:
        """Answers that nobody waits for are ignored."""
        self.owner.tell(
            DirectoryAnswered(9, (), rc=5),
            DirectoryAnswered(9, [self.job.entry]),
            SetAnnounced(9, self.job.announced(1), False),
            LookupFailed(9, 2),
            MemoryRead(9, 0, b"data"),
            Pushed(b"unknown!", 0, b"data", False, False),
            Notified(9, 1, b""),
        )
        self.assertEqual(self.owner.sent, [])


class ConnectTests(SynchronousTestCase):
    """Peer.connect."""

    def connect(self, result: Any, **options: Any) -> Deferred[Peer]:
        """Connect through a transport whose ``connect`` gives that."""
        self.clock = Clock()
        transport = SimpleNamespace(connect=lambda *_arguments: result)
        with patch("ldmsjob.peer.find_transport", lambda *_arguments: (transport, None)):
            return Peer.connect(self.clock, "node1", 411, **options)

    def test_refused(self) -> None:
        """Nobody listens: one clear error with the errno."""
        error = self.failureResultOf(self.connect(fail(ConnectionRefusedError()))).value
        assert isinstance(error, RequestFailed)
        self.assertEqual(error.rc, errno.ECONNREFUSED)
        self.assertIn("node1:411", str(error))

    def test_no_answer(self) -> None:
        """A connection that does not come about is given up after the time-out."""
        connecting = self.connect(Deferred(), timeout=3)
        self.clock.advance(3)
        error = self.failureResultOf(connecting).value
        assert isinstance(error, RequestFailed)
        self.assertEqual(error.rc, errno.ETIMEDOUT)

    def test_other_failures(self) -> None:
        """What the link says of the peer is passed on."""
        self.failureResultOf(self.connect(fail(PeerError("Auth mismatch"))), PeerError)

    def test_wrong_names(self) -> None:
        """A transport or authentication that is not there is a mistake of the caller."""
        for options in ({"xprt": "pigeon"}, {"auth": "trust"}, {"auth_options": {"a": "b"}}):
            connecting = Peer.connect(Clock(), "node1", **options)  # type: ignore[arg-type]
            self.failureResultOf(connecting, ConfigError)
