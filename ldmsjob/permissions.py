"""Who may do what: the one place that decides it, for sets, messages and commands.

Everything here is a pure function of an identity and of what belongs to whom. Links, sets and the
hub ask; they never compare ids or permission bits themselves. docs/security.md, Who may do what,
has the answers as a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldmsjob.wire.events import Credential

ROOT = 0
"""The uid that may do everything."""

MAX_ID = 0xFFFF_FFFE
"""The highest uid or gid there is; the one above it stands for none."""

READ, WRITE, EXECUTE = 0o444, 0o222, 0o111
"""Access masks: what is wanted, in the places of owner, group and others. Sets and messages are
read; commands are executed."""


def may_access(credential: Credential, uid: int, gid: int, perm: int, mask: int) -> bool:
    """Whether ``credential`` may do ``mask`` to an object of ``uid`` and ``gid`` with ``perm``.

    Root may always. Each of the owner's, the group's and the others' bits opens the door on its
    own: unlike in a file system, an owner without owner bits still has those of the others. The
    supplementary groups of ``credential`` are asked only when the answer hangs on them.
    """
    if credential.uid == ROOT:
        return True
    wanted = mask & perm
    if wanted & 0o007:
        return True
    if wanted & 0o700 and credential.uid == uid:
        return True
    return bool(wanted & 0o070) and _is_member(credential, gid)


def may_publish(credential: Credential, uid: int, gid: int) -> bool:
    """Whether a link of ``credential`` may bring a message that names ``uid`` and ``gid``.

    Root may bring anybody's, and so pass on what others have published. Everybody else may publish
    in his own name only, with any of his groups.
    """
    return credential.uid == ROOT or (credential.uid == uid and _is_member(credential, gid))


def trusted_publishers(own_uid: int, named: Iterable[int] = ()) -> frozenset[int]:
    """The uids whose messages a job manager believes: root, the daemon's own and those named."""
    return frozenset((ROOT, own_uid, *named))


def _is_member(credential: Credential, gid: int) -> bool:
    return credential.gid == gid or gid in credential.groups
