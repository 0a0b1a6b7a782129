"""Who may do what, as data: docs/security.md, Who may do what, prints these tables as they stand
here.

An object (a set or a message) belongs to ``OWNER`` and ``GROUP``. A link is that of one of
``LINKS``.
"""

from __future__ import annotations

from ldmsjob.wire.events import Credential

OWNER, GROUP = 1000, 100
OWN_GROUP, FURTHER_GROUP, FOREIGN_GROUP = 900, 901, 999

LINKS: dict[str, Credential | None] = {
    "owner": Credential(OWNER, OWN_GROUP, frozenset({FURTHER_GROUP})),
    "owner who is in the group": Credential(OWNER, OWN_GROUP, frozenset({GROUP})),
    "primary group": Credential(1001, GROUP, frozenset({FURTHER_GROUP})),
    "supplementary group": Credential(1002, OWN_GROUP, frozenset({GROUP})),
    "other": Credential(1003, OWN_GROUP, frozenset({FURTHER_GROUP})),
    "root": Credential(0, 0, frozenset({FURTHER_GROUP})),
    "not authenticated": None,
}
"""Who is at the other end, by the word for it in the tables."""

READING = """\
| who | `000` | `400` | `040` | `004` | `440` | `404` | `044` | `444` |
|---|---|---|---|---|---|---|---|---|
| owner | no | yes | no | yes | yes | yes | yes | yes |
| owner who is in the group | no | yes | yes | yes | yes | yes | yes | yes |
| primary group | no | no | yes | yes | yes | yes | yes | yes |
| supplementary group | no | no | yes | yes | yes | yes | yes | yes |
| other | no | no | no | yes | no | yes | yes | yes |
| root | yes | yes | yes | yes | yes | yes | yes | yes |
| not authenticated | no | no | no | no | no | no | no | no |
"""
"""Who may read an object with these read bits; the other bits change nothing."""

PUBLISHING = """\
| who | the owner and the group | itself, primary group | itself, supplementary group | itself, another group | another user | root |
|---|---|---|---|---|---|---|
| owner | no | yes | yes | no | no | no |
| owner who is in the group | yes | yes | yes | no | no | no |
| primary group | no | yes | yes | no | no | no |
| supplementary group | no | yes | yes | no | no | no |
| other | no | yes | yes | no | no | no |
| root | yes | yes | yes | yes | yes | yes |
| not authenticated | no | no | no | no | no | no |
"""  # noqa: E501
"""Who may publish a message that names these, whatever its permission bits."""

NOISE = (0o000, 0o333)
"""Bits that say nothing of reading, to be added to those that do."""


def cells(table: str) -> list[tuple[str, str, bool]]:
    """The cells of a table: who, the column's heading, whether it is allowed."""
    head, _, *rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in table.splitlines()
    ]
    words = {"yes": True, "no": False}
    return [
        (row[0], column, words[cell])
        for row in rows
        for column, cell in zip(head[1:], row[1:], strict=True)
    ]


def identities(link: Credential) -> dict[str, tuple[int, int]]:
    """What the columns of ``PUBLISHING`` mean for a link: uid and gid of a message."""
    supplementary = next(gid for gid in (GROUP, FURTHER_GROUP) if gid in link.groups)
    return {
        "the owner and the group": (OWNER, GROUP),
        "itself, primary group": (link.uid, link.gid),
        "itself, supplementary group": (link.uid, supplementary),
        "itself, another group": (link.uid, FOREIGN_GROUP),
        "another user": (1099, link.gid),
        "root": (0, 0),
    }
