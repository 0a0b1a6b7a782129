"""An owner of sets at the other end of a fake link, for tests of what reads sets."""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import LdmsJobError, RequestFailed
from ldmsjob.peer import Peer
from ldmsjob.remoteset import RemoteSet
from ldmsjob.sets.decoded import DecodedSet
from ldmsjob.sets.layout import COPY_HEADER, SET_HEADER
from ldmsjob.wire.setevents import (
    READ_OK,
    READ_OUTSIDE,
    READ_UNKNOWN_KEY,
    AnnouncedSet,
    CancelPush,
    DeletionWanted,
    DirectoryAnswered,
    DirectoryEntry,
    Info,
    LookUp,
    LookupFailed,
    MemoryRead,
    Pushed,
    ReadMemory,
    SetAnnounced,
    Time,
    WantDirectory,
    WantPush,
)
from tests.fake_links import FakeLink

JOB = "nodeJ/job_slurm_42"
VECTORS = Path(__file__).parent / "vectors" / "sets"


@dataclass
class Image:
    """A set: its metadata and all copies, to be changed by tests."""

    meta: bytearray
    data: bytearray
    info: tuple[Info, ...] = ()
    names: tuple[str, str] = ("", "")
    """Instance and schema, when the image does not tell."""

    @classmethod
    def recorded(cls, vector: str, snapshot: int = -1) -> Image:
        """A recorded image."""
        content = json.loads((VECTORS / f"{vector}.json").read_text())
        taken = content["snapshots"][snapshot]
        names = taken["decoded"]["instance"], taken["decoded"]["schema"]
        return cls(
            bytearray.fromhex(taken["meta_hex"]), bytearray.fromhex(taken["data_hex"]), (), names
        )

    def field(self, name: str) -> int:
        """A number of the metadata's header."""
        values = SET_HEADER.struct.unpack_from(self.meta)
        return int(dict(zip(SET_HEADER.offsets, values, strict=True))[name])

    def put_meta(self, name: str, value: int, size: int = 4) -> None:
        """Change a number of the metadata's header."""
        at = SET_HEADER.offsets[name]
        self.meta[at : at + size] = value.to_bytes(size, "little")

    def put_copy(self, name: str, value: int, size: int = 4, index: int = 0) -> None:
        """Change a number of a copy's header."""
        at = index * self.field("data_sz") + COPY_HEADER.offsets[name]
        self.data[at : at + size] = value.to_bytes(size, "little")

    @property
    def whole(self) -> bytes:
        """Metadata and data."""
        return bytes(self.meta + self.data)

    @property
    def entry(self) -> DirectoryEntry:
        """The set in a directory."""
        copy = dict(
            zip(COPY_HEADER.offsets, COPY_HEADER.struct.unpack_from(self.data), strict=True)
        )
        return DirectoryEntry(
            name=self.names[0],
            schema=self.names[1],
            digest="AB" * 32,
            flags=" CL",
            meta_size=len(self.meta),
            data_size=self.field("data_sz"),
            perm="-r--r-----",
            card=self.field("card"),
            array_card=self.field("array_card"),
            timestamp=Time(copy["ts_sec"], copy["ts_usec"]),
            info=self.info,
        )

    def announced(self, number: int) -> AnnouncedSet:
        """The set as its owner announces it."""
        return AnnouncedSet(
            key=number.to_bytes(4, "little"),
            address=number << 32,
            set_id=number.to_bytes(8, "little"),
            meta_size=len(self.meta),
            data_size=self.field("data_sz"),
            card=self.field("card"),
            array_card=self.field("array_card"),
            schema=self.names[1],
            instance=self.names[0],
            info=self.info,
        )


class Owner(FakeLink):
    """The link of a ``Peer`` whose other end owns ``images``; answers at once.

    While ``silent`` is True it answers nothing. ``reads`` are (offset, length) of each read.
    """

    def __init__(self, peer: Peer, *images: Image) -> None:
        super().__init__("owner:411")
        self.peer_of = peer
        self.images = {image.names[0]: image for image in images}
        self.silent = False
        self.closes_at_once = False
        self.reads: list[tuple[int, int]] = []
        self.pushes: dict[bytes, bytes] = {}
        self._numbers = itertools.count(1)
        self._keys: dict[bytes, Image] = {}
        peer.link_opened(self)

    def send(self, command: Any) -> None:
        """Remember it, and answer it."""
        super().send(command)
        if not self.silent and self.state == "open":
            self.tell(*self.answers(command))

    def close(self) -> None:
        """Close, and tell so if ``closes_at_once``."""
        super().close()
        if self.closes_at_once:
            self.peer_of.link_closed(self, Failure(ConnectionDone()))

    def tell(self, *events: Any) -> None:
        """Have the peer hear of something."""
        self.peer_of.link_events(self, events)

    def sent_of(self, kind: type) -> list[Any]:
        """The commands of a kind that were sent."""
        return [command for command in self.sent if isinstance(command, kind)]

    def answers(self, command: Any) -> Iterator[Any]:
        """What an owner answers."""
        if isinstance(command, WantDirectory):
            entries = [image.entry for image in self.images.values()]
            for entry in entries[:-1]:
                yield DirectoryAnswered(command.token, [entry], more=True)
            yield DirectoryAnswered(command.token, entries[-1:])
        elif isinstance(command, LookUp):
            found = [
                image
                for name, image in self.images.items()
                if command.is_regex or command.path == image.names[command.by_schema]
            ]
            if not found:
                yield LookupFailed(command.token, errno.ENOENT)
            for image in found:
                announced = image.announced(next(self._numbers))
                self._keys[announced.key] = image
                yield SetAnnounced(command.token, announced, image is not found[-1])
        elif isinstance(command, ReadMemory):
            yield self._read(command)
        elif isinstance(command, WantPush):
            self.pushes[command.announced.set_id] = command.push_id
        elif isinstance(command, CancelPush) and command.set_id in self.pushes:
            yield Pushed(self.pushes.pop(command.set_id), 0, b"", False, True)

    def delete(self, instance: str) -> None:
        """Delete a set, and tell."""
        image = self.images.pop(instance)
        self._keys = {key: each for key, each in self._keys.items() if each is not image}
        self.tell(DeletionWanted(b"deletion", instance))

    def _read(self, command: ReadMemory) -> MemoryRead:
        self.reads.append((command.offset, command.length))
        image = self._keys.get(command.announced.key)
        if image is None:
            return MemoryRead(command.token, READ_UNKNOWN_KEY, b"")
        end = command.offset + command.length
        if end > len(image.whole):
            return MemoryRead(command.token, READ_OUTSIDE, b"")
        return MemoryRead(command.token, READ_OK, image.whole[command.offset : end])


class PeerTestCase(SynchronousTestCase):
    """A peer with a job set and a set of three copies."""

    def setUp(self) -> None:
        """Connect."""
        self.clock = Clock()
        self.peer = Peer(self.clock, timeout=5)
        self.job = Image.recorded("set-jobset")
        self.array = Image.recorded("set-array3")
        self.owner = Owner(self.peer, self.job, self.array)

    def tearDown(self) -> None:
        """Nothing waits for a time that comes no more."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def found(self, instance: str) -> RemoteSet:
        """Look a set up."""
        return self.successResultOf(self.peer.lookup(instance))[0]

    def read(self, remote_set: RemoteSet) -> DecodedSet:
        """Update it."""
        return self.successResultOf(remote_set.update())

    def failure(self, deferred: Deferred[Any]) -> LdmsJobError:
        """Why it failed."""
        error = self.failureResultOf(deferred, LdmsJobError).value
        assert isinstance(error, LdmsJobError)
        return error

    def failed_rc(self, deferred: Deferred[Any]) -> int:
        """The errno with which it failed."""
        error = self.failure(deferred)
        assert isinstance(error, RequestFailed), error
        return error.rc
