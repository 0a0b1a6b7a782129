"""Authentication conversations without links, for tests."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ldmsjob.interfaces import AuthStep
from ldmsjob.wire.events import AuthReceived, Credential, LinkUp
from tests.linkpair import NOW, connection
from tests.recorded import streams

HERE, THERE = "10.0.0.1:411", "10.0.0.7:41234"


def now(step: AuthStep | Deferred[AuthStep]) -> AuthStep:
    """The step, which must be there by now."""
    if not isinstance(step, Deferred):
        return step
    results: list[Any] = []
    step.addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    assert isinstance(result, AuthStep)
    return result


def begin(authenticator: Any, passive: bool, local: str = HERE, peer: str = THERE) -> Any:
    """A conversation."""
    return authenticator.begin(passive=passive, local_address=local, peer_address=peer)


def converse(active: Any, passive: Any) -> tuple[Credential | None, Credential | None]:
    """Two conversations with one another until neither has more to say.

    Returns what the active side takes the passive one for, and the reverse.
    """
    sides = (active, passive)
    credentials: list[Credential | None] = [None, None]
    queues: list[list[bytes]] = [[], []]
    for index, side in enumerate(sides):
        queues[index] += now(side.first()).send
    while any(queues):
        for index, other in ((0, 1), (1, 0)):
            if queues[index]:
                assert credentials[other] is None, "a message behind the last one"
                step = now(sides[other].received(queues[index].pop(0)))
                queues[other] += step.send
                credentials[other] = step.credential
    return credentials[0], credentials[1]


def answers(
    name: str, passive: bool, authenticator: Any, local: str = HERE, peer: str = THERE
) -> tuple[list[bytes], list[bytes], Credential | None]:
    """Our part of the handshake and the authentication of a recorded conversation, and C's.

    We stand in for the server, or else the client. Returns frames with the xids left out, and what
    we take the other side for.
    """
    recorded = streams(name)
    theirs, ours = recorded[1, passive], recorded[1, not passive]
    opening = ours[36:] if not passive else ours[24:]
    end = connection(
        passive,
        auth_name=authenticator.name,
        pid=int.from_bytes(opening[48:52], "big"),
        rail_gn=None if passive else int.from_bytes(opening[52:60], "big"),
    )
    conversation = begin(authenticator, passive, local, peer)
    credential = None
    if not passive:
        end.connect()
    sent = end.data_to_send()
    for frame in frames(theirs):
        events = end.receive_data(frame, NOW)
        if end.error is not None:
            raise end.error
        for event in events:
            if isinstance(event, LinkUp):
                step = now(conversation.first())
            elif isinstance(event, AuthReceived):
                step = now(conversation.received(event.payload))
            else:
                continue
            credential = step.credential
            end.authentication_step(step.send, credential, NOW)
        sent += end.data_to_send()
        if credential is not None:
            break
    said = [frame[:8] + frame[12:] for frame in frames(sent)]
    wanted = [frame[:8] + frame[12:] for frame in frames(ours)]
    return said, wanted[: len(said)], credential


def frames(data: bytes) -> list[bytes]:
    """The whole frames at the beginning of ``data``."""
    found, at = [], 0
    while len(data) - at >= 20:
        length = int.from_bytes(data[at + 4 : at + 8], "big")
        found.append(data[at : at + length])
        at += length
    return found
