"""Sets as the directory and those who look them up know them (docs/sets.md, Metric sets).

What the directory tells is kept beside the image, so that a set at whose bytes nobody looks needs
none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ldmsjob.errors import Busy, SchemaError
from ldmsjob.sets.heap import Heap
from ldmsjob.sets.layout import (
    COPY_HEADER,
    PRODUCER_SIZE,
    SET_HEADER,
    TRANSACTION_FINISHED,
    TRANSACTION_OPEN,
    SetLayout,
)
from ldmsjob.sets.names import encode_name
from ldmsjob.sets.schema import COPY_HEADER_SIZE

_NO_INFO: Mapping[str, str] = MappingProxyType({})
_UINT32 = 0xFFFFFFFF
_MICROSECONDS = 1_000_000

_GENERATION = struct.Struct("<Q")
_WORD = struct.Struct("<I")
_META_GN = SET_HEADER.offsets["meta_gn"]
_UID = SET_HEADER.offsets["uid"]
_GN = COPY_HEADER.offsets["gn"]
_COPY_META_GN = COPY_HEADER.offsets["meta_gn"]
_SET_OFF = COPY_HEADER.offsets["set_off"]
_CURR_IDX = COPY_HEADER.offsets["curr_idx"]
_HEAP_GN = COPY_HEADER.offsets["heap_gn"]

_pack_owner = SET_HEADER.part("uid", "perm").pack_into
_pack_stamp = COPY_HEADER.part("ts_sec", "gn").pack_into


class OfferedSet:
    """A set under an instance name: its sizes, owner, generations, transactions, and its image.

    ``copy_offset`` is where the current data copy starts in the image; the methods of one
    underscore are for those who write values.
    """

    __slots__ = (
        "_gn",
        "_heap",
        "_heap_gn",
        "_image",
        "_index",
        "_meta_gn",
        "_state",
        "_time_us",
        "_took_us",
        "clock",
        "copy_offset",
        "gid",
        "info",
        "instance",
        "layout",
        "perm",
        "producer",
        "schema",
        "uid",
        "watcher",
    )  # fmt: skip

    def __init__(
        self,
        instance: str,
        layout: SetLayout,
        *,
        clock: Callable[[], int],
        uid: int,
        gid: int,
        perm: int,
    ) -> None:
        """``layout`` is that of sets whose names are as long; it never changes.

        ``clock`` tells the wall-clock time in microseconds; ``transaction`` alone asks it.
        """
        self.layout = layout
        self.instance = instance
        self.schema = layout.schema
        self.clock = clock
        self.info: Mapping[str, str] = _NO_INFO
        """What the directory tells of the set besides; see ``SetRegistry.set_info``."""
        self.watcher: Callable[[Any], None] | None = None
        """Called with the set at the end of each transaction."""
        self.producer = ""
        # Not masked in any case: that would make numbers of its own for each set.
        self.uid = uid if 0 <= uid <= _UINT32 else uid & _UINT32
        self.gid = gid if 0 <= gid <= _UINT32 else gid & _UINT32
        self.perm = perm if 0 <= perm <= _UINT32 else perm & _UINT32
        self._image: bytearray | None = None
        self._gn = 1
        self._meta_gn = 1
        self._heap: Heap | None = None
        self._heap_gn = 0
        self._state = self._time_us = self._took_us = 0
        # The first transaction goes to copy 0.
        self._index = layout.last_copy
        self.copy_offset = layout.last_copy_offset

    # ------------------------------------------------------------------ what peers read

    @property
    def image(self) -> bytearray:
        """What peers read: metadata and data copies. Made when it is first asked for; from then on
        it is the same object, and up to date."""
        image = self._image
        return self._make_image() if image is None else image

    def meta_bytes(self) -> memoryview:
        """The metadata part, read-only view of the live image."""
        return memoryview(self.image).toreadonly()[: self.layout.meta_size]

    def data_bytes(self) -> memoryview:
        """All data copies, read-only view of the live image."""
        return memoryview(self.image).toreadonly()[self.layout.meta_size :]

    @property
    def meta_generation(self) -> int:
        """Raised whenever something in the metadata changes."""
        return self._meta_gn

    @property
    def data_generation(self) -> int:
        """Raised whenever values change, at least once a transaction."""
        return self._gn

    @property
    def stamp(self) -> tuple[int, int, int, int, int]:
        """Time and duration of the last transaction, each in seconds and microseconds, and its
        state: what stands at the beginning of the current copy."""
        seconds, microseconds = divmod(self._time_us, _MICROSECONDS)
        whole = part = 0
        if self._took_us:
            # A clock that was set back meanwhile gives it modulo 2**32 seconds, as in C.
            whole, part = divmod(self._took_us, _MICROSECONDS)
        return seconds & _UINT32, microseconds, whole & _UINT32, part, self._state

    # ------------------------------------------------------------------ the image

    def _make_image(self) -> bytearray:
        self._image = image = self.layout.new_image(self.instance.encode("ascii"))
        self._write_owner(image)
        if self.producer:
            self._write_producer(image)
        self._write_values()
        self._write_stamp(image)
        if self._meta_gn > 1:
            self._write_meta_generation(image)
        return image

    def _write_values(self) -> None:
        """Write what is known of the values; the image was just made and has none."""

    def _write_owner(self, image: bytearray) -> None:
        _pack_owner(image, _UID, self.uid, self.gid, self.perm)

    def _write_producer(self, image: bytearray) -> None:
        image[:PRODUCER_SIZE] = encode_name(self.producer).ljust(PRODUCER_SIZE, b"\0")

    def _write_stamp(self, image: bytearray) -> None:
        seconds, microseconds, took_s, took_us, state = self.stamp
        at = self.copy_offset
        _pack_stamp(image, at, seconds, microseconds, took_s, took_us, state, at, self._gn)

    def _write_meta_generation(self, image: bytearray) -> None:
        _GENERATION.pack_into(image, _META_GN, self._meta_gn)
        _GENERATION.pack_into(image, self.copy_offset + _COPY_META_GN, self._meta_gn)

    # ------------------------------------------------------------------ transactions

    def begin(self, now_us: int) -> None:
        """Open a transaction at wall-clock time ``now_us``. Raises ``Busy`` when one is open."""
        if self._state == TRANSACTION_OPEN:
            raise Busy(f"a transaction of {self.instance} is open already")
        if self.schema.array_card > 1:
            self._next_copy()
        self._time_us = now_us
        self._state = TRANSACTION_OPEN
        if self._image is not None:
            self._write_stamp(self._image)

    def end(self, now_us: int) -> None:
        """Finish the open transaction. Raises ``Busy`` when none is open."""
        if self._state != TRANSACTION_OPEN:
            raise Busy(f"no transaction of {self.instance} is open")
        self._finish(now_us, now_us - self._time_us)

    def commit(self, now_us: int) -> None:
        """Begin and end a transaction of no duration around what was just written.

        Right where nobody could read in between, and in sets of one copy only: raises ``Busy`` for
        others, and while a transaction is open.
        """
        if self._state == TRANSACTION_OPEN or self.schema.array_card > 1:
            raise Busy(f"{self.instance} needs its transactions begun and ended")
        self._finish(now_us, 0)

    def _finish(self, now_us: int, duration_us: int) -> None:
        self._time_us = now_us
        self._took_us = duration_us
        self._state = TRANSACTION_FINISHED
        self._gn += 1
        if self._image is not None:
            self._write_stamp(self._image)
        if self.watcher is not None:
            self.watcher(self)

    def _next_copy(self) -> None:
        image, layout, old = self.image, self.layout, self.copy_offset
        card = self.schema.array_card
        self._index = (self._index + 1) % card
        self.copy_offset = new = layout.meta_size + self._index * layout.data_size
        # Equal heap generations mean equal heaps: there is one line of changes through all copies.
        (heap_gn,) = _WORD.unpack_from(image, new + _HEAP_GN)
        size = COPY_HEADER_SIZE if heap_gn == self._heap_gn else layout.data_size
        image[new : new + size] = image[old : old + size]
        _WORD.pack_into(image, new + _SET_OFF, new)
        for at in range(layout.meta_size, len(image), layout.data_size):
            _WORD.pack_into(image, at + _CURR_IDX, self._index)

    # ------------------------------------------------------------------ changes

    def _touch(self) -> None:
        self._gn = gn = self._gn + 1
        _GENERATION.pack_into(self.image, self.copy_offset + _GN, gn)

    def touch_meta(self) -> None:
        """Have readers read the metadata again: something in it has changed."""
        gn = self._meta_gn + 1
        if not gn & _UINT32:
            gn += 1  # readers look at the low 32 bits and take 0 for "never read"
        self._meta_gn = gn
        if self._image is not None:
            self._write_meta_generation(self._image)

    def _touch_heap(self, changes: int = 1) -> None:
        self._heap_gn = gn = (self._heap_gn + changes) & _UINT32
        _WORD.pack_into(self.image, self.copy_offset + _HEAP_GN, gn)

    # ------------------------------------------------------------------ the set itself

    def set_owner(self, uid: int, gid: int, perm: int) -> None:
        """Change who may read the set. Peers that have it learn so with its next update."""
        self.uid, self.gid, self.perm = uid & _UINT32, gid & _UINT32, perm & _UINT32
        if self._image is not None:
            self._write_owner(self._image)
        self.touch_meta()

    def set_producer(self, name: str) -> None:
        """Name the producer, in at most 63 bytes. Raises ``SchemaError``.

        Before the set is offered to peers: those that have it are not told.
        """
        if len(encode_name(name)) >= PRODUCER_SIZE:
            raise SchemaError(f"producer name {name[:32]!r}… is longer than 63 bytes")
        self.producer = name
        if self._image is not None:
            self._write_producer(self._image)
