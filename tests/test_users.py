"""Tests of ldmsjob.users."""

from __future__ import annotations

import os
import pwd
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import ConfigError
from ldmsjob.facts import JobFacts
from ldmsjob.users import (
    CACHE_SIZE,
    FAILED_SECONDS,
    FOUND_SECONDS,
    MAX_THREADS,
    Users,
    parse_uids,
)

NAMES = {0: "root", 1000: "alice"}
IDS = {"root": (0, 0), "alice": (1000, 100)}


class UsersTests(SynchronousTestCase):
    """Lookups, with a user database of the test's own."""

    def setUp(self) -> None:
        """Two users."""
        self.clock = Clock()
        self.asked: list[Any] = []
        self.users = self.make(maybeDeferred)

    def make(self, in_thread: Any) -> Users:
        """Lookups that go through ``in_thread``."""

        def name_of(uid: int) -> str | None:
            self.asked.append(uid)
            return NAMES.get(uid)

        def ids_of(name: str) -> tuple[int, int] | None:
            self.asked.append(name)
            return IDS.get(name)

        return Users(self.clock, in_thread, name_of=name_of, ids_of=ids_of)

    def test_name_and_ids(self) -> None:
        """A name by uid and ids by name; None for a user who does not exist."""
        self.assertEqual(self.successResultOf(self.users.name(1000)), "alice")
        self.assertEqual(self.successResultOf(self.users.ids("alice")), (1000, 100))
        self.assertIsNone(self.successResultOf(self.users.name(7)))
        self.assertIsNone(self.successResultOf(self.users.ids("bob")))

    def test_kept_for_a_while(self) -> None:
        """What was found is asked for again only after its time."""
        self.users.name(1000)
        self.clock.advance(FOUND_SECONDS - 1)
        self.users.name(1000)
        self.assertEqual(self.asked, [1000])
        self.clock.advance(2)
        self.users.name(1000)
        self.assertEqual(self.asked, [1000, 1000])

    def test_failure_kept_briefly(self) -> None:
        """What was not found is asked for again soon."""
        self.users.name(7)
        self.clock.advance(FAILED_SECONDS - 1)
        self.users.name(7)
        self.assertEqual(self.asked, [7])
        self.clock.advance(2)
        self.users.name(7)
        self.assertEqual(self.asked, [7, 7])

    def test_lookup_that_raises(self) -> None:
        """It found nobody; no error comes out."""

        def broken(uid: int) -> str:
            raise OSError("directory server is down")

        users = Users(self.clock, maybeDeferred, name_of=broken)
        self.assertIsNone(self.successResultOf(users.name(1)))

    def test_one_question_at_a_time(self) -> None:
        """Those who ask the same while it is being looked up get the one answer."""
        pending: list[Deferred[Any]] = []

        def in_thread(function: Any, question: Any) -> Deferred[Any]:
            pending.append(Deferred())
            return pending[-1]

        users = self.make(in_thread)
        first, second = users.name(1000), users.name(1000)
        self.assertNoResult(first)
        self.assertEqual(len(pending), 1)
        pending[0].callback("alice")
        self.assertEqual(self.successResultOf(first), "alice")
        self.assertEqual(self.successResultOf(second), "alice")

    def test_who_waits_no_longer(self) -> None:
        """Cancelling takes one out of those who wait; the others get their answer."""
        pending: list[Deferred[Any]] = []

        def in_thread(function: Any, question: Any) -> Deferred[Any]:
            pending.append(Deferred())
            return pending[-1]

        users = self.make(in_thread)
        gone, stays = users.name(1000), users.name(1000)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        pending[0].callback("alice")
        self.assertEqual(self.successResultOf(stays), "alice")

    def test_threads_are_bounded(self) -> None:
        """Lookups that hang take a few threads and no more; what waits goes on when one ends."""
        pending: list[Deferred[Any]] = []

        def in_thread(function: Any, question: Any) -> Deferred[Any]:
            pending.append(Deferred())
            return pending[-1]

        users = self.make(in_thread)
        names = [users.name(uid) for uid in range(MAX_THREADS + 1)]
        self.assertEqual(len(pending), MAX_THREADS)
        pending[0].errback(OSError("at last"))
        self.assertIsNone(self.successResultOf(names[0]))
        self.assertEqual(len(pending), MAX_THREADS + 1)
        pending[-1].callback("somebody")
        self.assertEqual(self.successResultOf(names[-1]), "somebody")

    def test_memory_is_bounded(self) -> None:
        """Of too many answers the oldest go."""
        for uid in range(CACHE_SIZE + 1):
            self.users.name(uid)
        self.asked.clear()
        self.users.name(CACHE_SIZE)
        self.assertEqual(self.asked, [])
        self.users.name(0)
        self.assertEqual(self.asked, [0])

    def test_missing_facts(self) -> None:
        """A name is looked up by uid, ids by name, and nothing when nothing lacks or is known."""
        found = self.users.missing_facts(JobFacts("slurm_1", uid=1000))
        self.assertEqual(self.successResultOf(found), {"user": "alice"})
        found = self.users.missing_facts(JobFacts("slurm_1", user="alice"))
        self.assertEqual(self.successResultOf(found), {"uid": 1000, "gid": 100})
        found = self.users.missing_facts(JobFacts("slurm_1", user="nobody here"))
        self.assertEqual(self.successResultOf(found), {})
        found = self.users.missing_facts(JobFacts("slurm_1", uid=7))
        self.assertEqual(self.successResultOf(found), {})
        self.assertIsNone(self.users.missing_facts(JobFacts("slurm_1")))
        self.assertIsNone(self.users.missing_facts(JobFacts("slurm_1", 0, 0, "root")))

    def test_system_database(self) -> None:
        """Without functions of one's own the system's database is asked."""
        users = Users(self.clock, maybeDeferred)
        me = pwd.getpwuid(os.getuid())
        self.assertEqual(self.successResultOf(users.name(me.pw_uid)), me.pw_name)
        self.assertEqual(self.successResultOf(users.ids(me.pw_name)), (me.pw_uid, me.pw_gid))
        groups = self.successResultOf(users.groups(me.pw_uid))
        assert groups is not None
        self.assertIn(me.pw_gid, groups)
        self.assertIsNone(self.successResultOf(users.groups(2**32 - 2)))
        self.assertIsNone(self.successResultOf(users.name(2**32 - 2)))
        self.assertIsNone(self.successResultOf(users.ids("no such\0user")))


class ParseUidsTests(SynchronousTestCase):
    """Lists of users in a configuration."""

    def test_names_and_uids(self) -> None:
        """Either, with commas and any blanks between them."""
        for text, uids in (
            ("", set()),
            (" ", set()),
            ("1000", {1000}),
            ("alice", {1000}),
            ("alice, root,7 ,7", {1000, 0, 7}),
            (str(2**32 - 2), {2**32 - 2}),
        ):
            self.assertEqual(parse_uids("publishers", text, IDS.get), uids, text)

    def test_mistakes(self) -> None:
        """What is no user is named, together with its attribute."""
        for text, word in (
            ("bob", "'bob'"),
            ("alice,bob", "'bob'"),
            ("alice,", "''"),
            (",", "''"),
            ("-1", "'-1'"),
            (str(2**32 - 1), f"'{2**32 - 1}'"),
            ("9" * 5000, f"'{'9' * 5000}'"),
            ("\u0661", "'\u0661'"),
        ):
            error = self.assertRaises(ConfigError, parse_uids, "publishers", text, IDS.get)
            self.assertIn(f"publishers={text}", str(error))
            self.assertIn(f"no user {word}", str(error))
