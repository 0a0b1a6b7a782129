"""Who may see what: the one permission rule for messages, sets and pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldmsjob.wire.events import Credential

READ, WRITE = 0o444, 0o222
"""Access masks: what is wanted, in the places of owner, group and others."""

InGroup = Callable[[int, int], bool]
"""``in_group(uid, gid)``: whether that user has that group as a secondary one."""


def no_secondary_groups(uid: int, gid: int) -> bool:
    """An ``InGroup`` that knows of no group but the one in a credential."""
    return False


def may_access(
    credential: Credential,
    uid: int,
    gid: int,
    perm: int,
    mask: int,
    in_group: InGroup = no_secondary_groups,
) -> bool:
    """Whether ``credential`` may do ``mask`` to an object of ``uid`` and ``gid`` with ``perm``.

    Root may always. Each of the owner's, the group's and the others' bits opens the door on its
    own: unlike in a file system, an owner without owner bits still has those of the others.
    ``in_group`` is asked only when the answer hangs on it.
    """
    if credential.uid == 0:
        return True
    wanted = mask & perm
    if wanted & 0o007:
        return True
    if wanted & 0o700 and credential.uid == uid:
        return True
    if wanted & 0o070:
        return credential.gid == gid or in_group(credential.uid, gid)
    return False
