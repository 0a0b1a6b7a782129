"""Rails: several connections between two processes that belong together (docs/wire.md, Rails).

Which connections make up a rail, and which of them carries what. No input or output.
"""

from __future__ import annotations

import msgspec

from ldmsjob.wire.events import Forward, Publish, SourceAddress
from ldmsjob.wire.msg import hash_of_channel, hash_of_message
from ldmsjob.wire.xprt import ConnectionRefused, check_index

MAX_ENDPOINTS = 1023
"""Of one rail: as many as the compact form of the connection message can count."""

MAX_INCOMPLETE = 256
"""Rails, of one listener, of which not all endpoints have come."""

_PRIME = 1033
_WORD = 0xFFFF_FFFF
_IPV4_FAMILY = 2


def endpoint_of_message(source: SourceAddress | None, tag_hash: int, endpoints: int) -> int:
    """The index of the endpoint that carries a message.

    Messages of one source and channel take the same one, which keeps their order. ``tag_hash`` is
    the number in the message. The rule is that of the C library.
    """
    if source is None or not source.family:
        return tag_hash % _PRIME % endpoints
    at = 0 if source.family == _IPV4_FAMILY else 12
    address = int.from_bytes(source.address[at : at + 4], "big")
    # C shifts address and port to the left of the hash; of the address, half falls off.
    place = ((address << 16) | source.port) & _WORD
    return ((place << 32) | tag_hash) % _PRIME % endpoints


def endpoint_of(command: Forward | Publish, endpoints: int) -> int:
    """The index of the endpoint on which we send that message; of several, the first."""
    if isinstance(command, Forward):
        message = command.messages[0]
        return endpoint_of_message(message.source, hash_of_message(message), endpoints)
    return endpoint_of_message(None, hash_of_channel(command.channel), endpoints)


class RailKey(msgspec.Struct, frozen=True):
    """What the connections of one rail have in common, on the side that they come to."""

    address: str
    """The peer's whole IP address, without its port."""
    pid: int
    rail_gn: int


class RailGroup:
    """The connections of one rail, by their indices."""

    __slots__ = ("closed", "endpoints", "key", "missing", "present")

    def __init__(self, key: RailKey, endpoints: int) -> None:
        self.key = key
        self.endpoints = endpoints
        self.missing = endpoints
        """How many connections are still expected."""
        self.present: set[int] = set()
        """Indices of the connections that are there."""
        self.closed = False
        """One of them has gone: no more may come."""


class RailGroups:
    """The rails of one listener."""

    def __init__(self, max_incomplete: int = MAX_INCOMPLETE) -> None:
        self._max_incomplete = max_incomplete
        self._groups: dict[RailKey, RailGroup] = {}
        self.incomplete = 0
        """How many rails still expect connections."""

    def join(self, key: RailKey, endpoints: int, index: int) -> RailGroup:
        """A connection that says of itself that it is number ``index`` of ``endpoints``, which is
        more than 1. Raises ``ConnectionRefused`` where that cannot be.
        """
        group = self._groups.get(key)
        if group is not None and endpoints != group.endpoints:
            raise ConnectionRefused(
                f"bad request, expecting rail of {group.endpoints} eps, but got {endpoints}"
            )
        check_index(index, endpoints)
        if group is None:
            if endpoints > MAX_ENDPOINTS or self.incomplete >= self._max_incomplete:
                raise ConnectionRefused("Insufficient resources")
            group = RailGroup(key, endpoints)
            self._groups[key] = group
            self.incomplete += 1
        elif index in group.present:
            raise ConnectionRefused(f"bad ep_idx {index}, the endpoint already existed")
        elif group.closed or not group.missing:
            raise ConnectionRefused(
                f"Unexpected connection request on rail {key.address}-{key.pid}-{key.rail_gn}"
            )
        group.present.add(index)
        group.missing -= 1
        if not group.missing:
            self.incomplete -= 1
        return group

    def leave(self, group: RailGroup, index: int) -> None:
        """A connection has gone. The rail is closed by it, and forgotten with its last one."""
        group.present.discard(index)
        if not group.closed:
            group.closed = True
            if group.missing:
                self.incomplete -= 1
        if not group.present:
            self._groups.pop(group.key, None)
