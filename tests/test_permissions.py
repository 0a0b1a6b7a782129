"""The permission rules."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.permissions import (
    EXECUTE,
    READ,
    WRITE,
    may_access,
    may_publish,
    trusted_publishers,
)
from ldmsjob.wire.events import Credential

OWNER, GROUP, MEMBER, OTHER, ROOT = (
    Credential(100, 900),
    Credential(101, 200),
    Credential(102, 900, frozenset({200})),
    Credential(103, 900),
    Credential(0, 0),
)
"""Identities as seen from an object of uid 100, gid 200."""


class MayAccessTests(SynchronousTestCase):
    """``may_access``."""

    def test_table(self) -> None:
        """Who may do what to an object of uid 100 and gid 200."""
        for who, perm, mask, expected in (
            (ROOT, 0o000, READ, True),
            (ROOT, 0o000, WRITE, True),
            (OWNER, 0o400, READ, True),
            (OWNER, 0o400, WRITE, False),
            (OWNER, 0o200, WRITE, True),
            (OWNER, 0o100, EXECUTE, True),
            (OWNER, 0o600, EXECUTE, False),
            (OWNER, 0o040, READ, False),
            (OWNER, 0o004, READ, True),
            (GROUP, 0o400, READ, False),
            (GROUP, 0o040, READ, True),
            (GROUP, 0o020, READ, False),
            (GROUP, 0o010, EXECUTE, True),
            (GROUP, 0o440, READ, True),
            (MEMBER, 0o400, READ, False),
            (MEMBER, 0o040, READ, True),
            (MEMBER, 0o020, READ, False),
            (OTHER, 0o440, READ, False),
            (OTHER, 0o004, READ, True),
            (OTHER, 0o003, READ, False),
            (OTHER, 0o001, EXECUTE, True),
            (OTHER, 0o777, READ, True),
        ):
            with self.subTest(who=who, perm=oct(perm), mask=oct(mask)):
                self.assertIs(may_access(who, 100, 200, perm, mask), expected)

    def test_groups_are_asked_only_when_they_decide(self) -> None:
        """What may start a lookup is left out wherever the answer is known without it."""
        asked: list[object] = []

        class Asked:
            def __contains__(self, gid: object) -> bool:
                asked.append(gid)
                return True

        for uid, gid, perm in ((0, 0, 0o040), (100, 9, 0o440), (9, 200, 0o040), (9, 9, 0o404)):
            self.assertTrue(may_access(Credential(uid, gid, Asked()), 100, 200, perm, READ))
        self.assertFalse(may_access(Credential(9, 9, Asked()), 100, 200, 0o400, READ))
        self.assertEqual(asked, [])


class MayPublishTests(SynchronousTestCase):
    """Who may bring whose messages."""

    def test_in_ones_own_name(self) -> None:
        """Only as oneself, with any of one's groups; root as anybody."""
        for who, uid, gid, expected in (
            (GROUP, 101, 200, True),
            (GROUP, 101, 900, False),
            (GROUP, 101, 0, False),
            (GROUP, 100, 200, False),
            (GROUP, 0, 200, False),
            (MEMBER, 102, 900, True),
            (MEMBER, 102, 200, True),
            (MEMBER, 102, 0, False),
            (ROOT, 0, 0, True),
            (ROOT, 103, 7, True),
        ):
            with self.subTest(who=who, uid=uid, gid=gid):
                self.assertIs(may_publish(who, uid, gid), expected)

    def test_trusted(self) -> None:
        """A job manager believes root, the daemon's own user and those whom it is told."""
        self.assertEqual(trusted_publishers(7), {0, 7})
        self.assertEqual(trusted_publishers(7, [8, 9]), {0, 7, 8, 9})
