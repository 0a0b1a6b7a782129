"""What fuzzing begins with: the recorded vectors of the tests, and conversations between our own
ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.peer import Peer
from ldmsjob.serving import SetService
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.sets.schema import Schema
from ldmsjob.stats import Stats
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.turns import Turn
from ldmsjob.values import CHAR_ARRAY, U64
from ldmsjob.wire import zap
from ldmsjob.wire.events import Publish, Subscribe, Unsubscribe
from tests.recorded import NAMES, streams

VECTORS = Path(__file__).parent.parent / "vectors"
WALL_US = 1_800_000_000_000_000


def recorded_streams() -> Iterator[tuple[str, bool, bytes]]:
    """(name, from the client, bytes) of each direction of the recorded connections that are not
    long and begin with a handshake."""
    for name in NAMES:
        for (number, from_client), data in streams(name).items():
            if len(data) < 8192 and (name, number) != ("h_ctl_daemon_status", 2):
                yield name, from_client, data


@lru_cache(maxsize=1)
def recorded_frames() -> tuple[bytes, ...]:
    """All different frames of the recorded connections, and of our own, up to 2 KiB each."""
    found: dict[bytes, None] = {}
    for data in [data for _, _, data in recorded_streams()] + list(conversation()):
        at = 0
        while len(data) - at >= zap.HEAD_BYTES:
            _, length = zap.read_head(data, at, zap.MAX_FRAME)
            if length <= 2048:
                found[data[at : at + length]] = None
            at += length
    return tuple(found)


@lru_cache(maxsize=1)
def recorded_images() -> tuple[tuple[bytes, bytes], ...]:
    """(metadata, data) of recorded sets."""
    images = []
    for path in sorted((VECTORS / "sets").glob("*.json")):
        taken = json.loads(path.read_text())["snapshots"][-1]
        meta, data = bytes.fromhex(taken["meta_hex"]), bytes.fromhex(taken["data_hex"])
        if len(meta) + len(data) < 16_384:
            images.append((meta, data))
    return tuple(images)


def new_site(clock: Clock, hub: MessageHub | None = None) -> tuple[LinkSite, SetRegistry]:
    """The daemon's side of links, with two sets."""
    stats, turn, registry = Stats(), Turn(), SetRegistry()
    sets = SetService(registry, stats, turn, clock, now=clock.seconds)
    if hub is None:
        hub = MessageHub(stats, turn, now=clock.seconds)
        hub.enable()
    for name, copies, owner in (("node/a", 1, 0), ("node/b", 3, 1000)):
        schema = Schema("some", array_card=copies)
        schema.add_metric("who", CHAR_ARRAY, 8, meta=True)
        schema.add_metric("n", U64)
        metric_set = MetricSet(name, schema, clock=lambda: WALL_US, uid=owner, perm=0o440)
        with metric_set.transaction():
            metric_set.put("n", 7)
        registry.add(metric_set)
    return LinkSite(hub, stats, turn, clock, sets=sets), registry


def ask_everything(peer: Peer) -> None:
    """Have a peer ask for the directory, look sets up, read them and have them pushed."""

    def found(sets: list[Any]) -> None:
        for one in sets:
            one.update().addErrback(lambda failure: None)
            one.on_push(lambda reading: None)
            one.on_notify(lambda what, data: None)

    def listen(deferred: Deferred[Any]) -> None:
        deferred.addErrback(lambda failure: None)

    listen(peer.subscribe_dir(lambda kind, entries: None))
    for path, by_schema, is_regex in (
        ("node/a", False, False),
        ("some", True, False),
        ("node/.", False, True),
        ("nobody", False, False),
    ):
        asked = peer.lookup(path, by_schema=by_schema, is_regex=is_regex)
        listen(asked.addCallback(found))
    peer.on_delete(lambda instance: None)


@lru_cache(maxsize=1)
def conversation() -> tuple[bytes, bytes]:
    """All that a reader of our sets sends, and all that it is sent."""
    clock = Clock()
    site, registry = new_site(clock)
    peer = Peer(clock)
    sent: dict[bool, list[bytes]] = {True: [], False: []}
    pair = MemoryPair(
        site,
        peer,
        clock,
        right_options={"rail_gn": 7},
        wall_clock_us=lambda: WALL_US,
    )
    for end, from_client in ((pair.left, True), (pair.right, False)):
        receive = end.dataReceived

        def keep(data: bytes, receive: Any = receive, from_client: bool = from_client) -> None:
            sent[from_client].append(data)
            receive(data)

        end.dataReceived = keep  # type: ignore[method-assign]
    pair.settle()
    ask_everything(peer)
    pair.settle()
    for command in (
        Subscribe("slurm"),
        Subscribe("sl.*", is_regex=True, rate=1000),
        Publish("slurm", b'{"event":"init"}\0'),
        Publish("other", b"text\0", kind=0),
        Unsubscribe("slurm"),
    ):
        pair.right.send(command)
        pair.settle()
    for name in ("node/a", "node/b"):
        metric_set = registry.get(name)
        with metric_set.transaction():
            metric_set.put("n", 8)
    clock.advance(1)
    pair.settle()
    registry.remove("node/a")
    clock.advance(1)
    pair.settle()
    peer.close()
    site.close()
    pair.settle()
    return b"".join(sent[True]), b"".join(sent[False])
