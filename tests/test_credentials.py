"""The permission rule."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.credentials import READ, WRITE, may_access
from ldmsjob.wire.events import Credential

OWNER, GROUP, OTHER, ROOT = (
    Credential(100, 900),
    Credential(101, 200),
    Credential(102, 900),
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
            (OWNER, 0o040, READ, False),
            (OWNER, 0o004, READ, True),
            (GROUP, 0o400, READ, False),
            (GROUP, 0o040, READ, True),
            (GROUP, 0o020, READ, False),
            (GROUP, 0o440, READ, True),
            (OTHER, 0o440, READ, False),
            (OTHER, 0o004, READ, True),
            (OTHER, 0o003, READ, False),
            (OTHER, 0o777, READ, True),
        ):
            with self.subTest(who=who, perm=oct(perm), mask=oct(mask)):
                self.assertIs(may_access(who, 100, 200, perm, mask), expected)

    def test_secondary_group(self) -> None:
        """A group that the user has besides the one in the credential counts."""
        self.assertTrue(may_access(OTHER, 100, 200, 0o040, READ, lambda u, g: (u, g) == (102, 200)))
        self.assertFalse(may_access(OTHER, 100, 200, 0o040, READ, lambda u, g: False))

    def test_groups_are_asked_only_when_they_decide(self) -> None:
        """The look-up, which may be slow, is left out wherever the answer is known without it."""
        asked: list[tuple[int, int]] = []

        def in_group(uid: int, gid: int) -> bool:
            asked.append((uid, gid))
            return True

        for who, perm in ((ROOT, 0o040), (OWNER, 0o440), (GROUP, 0o040), (OTHER, 0o404)):
            may_access(who, 100, 200, perm, READ, in_group)
        self.assertFalse(may_access(OTHER, 100, 200, 0o400, READ, in_group))
        self.assertEqual(asked, [])
