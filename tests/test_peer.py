"""The client that reads the sets of peers, against an owner at the other end of a fake link."""

from __future__ import annotations

import errno
import gc
import itertools
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import (
    ConfigError,
    LdmsJobError,
    PeerError,
    RequestFailed,
)
from ldmsjob.peer import Peer
from ldmsjob.wire.events import AnswerSubscribe, SubscribeWanted
from ldmsjob.wire.setevents import (
    READ_UNKNOWN_KEY,
    SET_ADDED,
    SET_CHANGED,
    SET_DELETED,
    AcknowledgeDeletion,
    AnswerDirectory,
    AnswerReads,
    CancelDirectory,
    DeletionWanted,
    DirectoryAnswered,
    DirectoryEntry,
    DirectoryUpdated,
    DirectoryWanted,
    FailLookup,
    LookUp,
    LookupFailed,
    LookupWanted,
    MemoryRead,
    Notified,
    Pushed,
    Read,
    ReadMemory,
    ReadsWanted,
    SetAnnounced,
    WantDirectory,
)
from tests.set_owners import JOB, Image, Owner, PeerTestCase


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
        self.assertIs(self.found(JOB), first)
        self.read(first)
        self.assertEqual(self.owner.reads, [(0, len(self.job.whole))] * 2)
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


class RailTests(PeerTestCase):
    """Sets that were looked up on one of two links."""

    def setUp(self) -> None:
        """Lookups take turns: the first goes to ``other``."""
        super().setUp()
        self.other = Owner(self.peer, self.job, self.array)
        self.peer.link_opened(self.owner)
        turns = itertools.cycle([self.other, self.owner])
        rail: Any = SimpleNamespace(
            link_for=lambda command: next(turns) if isinstance(command, LookUp) else self.owner
        )
        self.owner.rail = rail

    def test_looked_up_again(self) -> None:
        """A set that is known is looked up where it was before."""
        kept = self.found(JOB)
        for _ in range(2):
            self.assertIs(self.found(JOB), kept)
        self.assertEqual(len(self.other.sent_of(LookUp)), 3)
        self.assertEqual(self.owner.sent_of(LookUp), [])

    def test_deletion_on_another_link(self) -> None:
        """The deletion of an earlier set of that name, which another link had, is consented to, and
        nothing else; that on the set's own link is its deletion."""
        names: list[str] = []
        self.peer.on_delete(names.append)
        remote_set = self.found(JOB)
        self.owner.tell(DeletionWanted(b"earlier", JOB))
        self.assertEqual(self.owner.sent, [AcknowledgeDeletion(b"earlier")])
        self.assertEqual((remote_set.is_deleted, names), (False, []))
        self.read(remote_set)
        self.other.delete(JOB)
        self.assertEqual(self.other.sent[-1], AcknowledgeDeletion(b"deletion"))
        self.assertEqual((remote_set.is_deleted, names), (True, [JOB]))

    def test_deletion_of_a_set_that_nobody_keeps(self) -> None:
        """It is told whichever link it comes on."""
        names: list[str] = []
        self.peer.on_delete(names.append)
        self.owner.tell(DeletionWanted(b"deletion", JOB))
        self.assertEqual(names, [JOB])


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
        reads = [Read(b"x", b"c", b"key1", 0, 8), Read(b"y", b"d", b"key1", 8, 8)]
        self.owner.tell(
            DirectoryWanted(b"xid1", True),
            LookupWanted(b"xid2", "a", False, False),
            ReadsWanted(reads),
            SubscribeWanted(b"xid3", "slurm", False, -1),
        )
        self.assertEqual(
            self.owner.sent,
            [
                AnswerDirectory(b"xid1"),
                FailLookup(b"xid2", errno.ENOENT),
                AnswerReads([(read, READ_UNKNOWN_KEY, b"") for read in reads]),
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
