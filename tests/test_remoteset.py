"""Reading one set of a peer, and being pushed it, from an owner at the end of a fake link."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ldmsjob.errors import (
    Busy,
    LdmsJobError,
    RequestFailed,
    SetImageError,
)
from ldmsjob.peer import Peer
from ldmsjob.remoteset import RemoteSet
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.decoded import DecodedSet
from ldmsjob.wire.setevents import (
    NOTIFY_MODIFIED,
    READ_NOT_ALLOWED,
    READ_UNKNOWN_KEY,
    CancelNotify,
    CancelPush,
    MemoryRead,
    Notified,
    Pushed,
    ReadMemory,
    WantNotify,
    WantPush,
)
from tests.set_owners import JOB, VECTORS, Image, Owner, PeerTestCase


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
                self.array.put_copy("curr_idx", (index + 1) % 3, index=index)
            return answers(command)

        self.owner.answers = ahead  # type: ignore[method-assign]
        indexes = [each.current_copy.index for each in self.all_of(remote_set)]
        self.assertEqual(sorted(indexes), [0, 1, 2])
        self.assertEqual(len(self.owner.reads), 6)

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

    def test_closed_twice(self) -> None:
        """The owner is asked once, and all who wait hear of its answer or of its silence."""
        self.owner.silent = True
        closed = [self.push.close(), self.push.close()]
        self.assertEqual(len(self.owner.sent_of(CancelPush)), 1)
        self.pushed(0, b"", last=True)
        for each in closed:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(self.ends, [None])
        push = self.remote_set.on_push(self.got.append, self.ends.append)
        closed = [push.close(), push.close()]
        self.clock.advance(5)
        for each in closed:
            self.assertEqual(self.failed_rc(each), errno.ETIMEDOUT)
        self.assertEqual(self.ends, [None, None])
        self.successResultOf(push.close())

    def test_deleted_while_closing(self) -> None:
        """Whoever has closed is told of no other reason."""
        self.owner.silent = True
        closed = self.push.close()
        self.owner.delete(JOB)
        self.successResultOf(closed)
        self.assertEqual(self.ends, [None])

    def test_last_with_data(self) -> None:
        """A last push may bring data. Nobody has closed: the owner has a reason."""
        self.pushed(0, self.job.whole, last=True)
        self.assertEqual(len(self.got), 1)
        [reason] = self.ends
        assert isinstance(reason, RequestFailed)
        self.assertEqual(reason.rc, errno.ENOENT)

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
            [(0, self.job.whole + b"more", False)],
            [(0, self.job.whole[:-16], True), (len(self.job.whole) - 8, bytes(8), False)],
            [(0, self.job.whole[:100], True), (200, self.job.whole[200:], False)],
        ):
            with self.subTest(parts=[(at, len(data)) for at, data, _ in parts]):
                for at, data, more in parts:
                    self.pushed(at, data, more)
                error = self.ends.pop()
                self.assertIsInstance(error, SetImageError)
                if parts[-1][0] + len(parts[-1][1]) > len(self.job.whole):
                    self.assertIn("a push of", str(error))
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
