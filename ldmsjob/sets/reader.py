"""What a reader of a peer's set asks for, and what it makes of it (docs/reading.md, Updates).

No I/O: ``SetReader.update`` is a generator of the parts of the image to be read, and is sent their
bytes. Nothing that a peer says is believed: all that is kept was checked against the announcement,
and values are taken out by ``decode_set``.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ldmsjob.errors import SetImageError
from ldmsjob.sets.decode import decode_set
from ldmsjob.sets.decoded import DecodedSet
from ldmsjob.sets.layout import COPY_HEADER, SET_HEADER, TRANSACTION_FINISHED

_LOW = 0xFFFFFFFF
"""The bits of metadata generations that are compared, as C readers do."""

Reads = Generator[tuple[int, int], bytes, "list[DecodedSet]"]
"""Yields (offset, length) of what is to be read, is sent exactly that many bytes."""


class SetReader:
    """Our copy of the image of a peer's set.

    Raises ``SetImageError`` for sizes that no set has, or that are more than ``max_bytes``.
    """

    def __init__(
        self, meta_size: int, data_size: int, array_card: int, *, card: int, max_bytes: int
    ) -> None:
        if meta_size < SET_HEADER.size or data_size < COPY_HEADER.size or array_card < 1:
            raise SetImageError(
                f"announced with {meta_size} bytes of metadata, {data_size} of data,"
                f" {array_card} copies"
            )
        self.size = meta_size + array_card * data_size
        """Bytes of the whole image."""
        if self.size > max_bytes:
            raise SetImageError(f"announced with {self.size} bytes; more than {max_bytes}")
        self._meta_size = meta_size
        self._data_size = data_size
        self._copies = array_card
        self._card = card
        self._image = bytearray(self.size)
        self._is_known = False
        self._latest = 0
        self._pushed_from = self._pushed_to = 0

    def update(self) -> Reads:
        """Bring the image up to date.

        Returns the readings that are new, oldest first: one for a set of one copy, and the latest
        known one again when a set of several has no new one. The first time it is the latest alone.
        Copies that the producer is writing are left for the next time, where there is a whole one.
        """
        if not self._is_known:
            fresh = yield from self._read_all()
        elif self._copies == 1:
            yield from self._read(self._meta_size, self._data_size)
            if self._is_meta_old(0):
                fresh = yield from self._read_all()
            else:
                fresh = [0]
        else:
            fresh = yield from self._catch_up()
            if self._is_meta_old(self._latest):
                yield from self._read(0, self._meta_size)
        try:
            return [self._decode(index) for index in fresh]
        except SetImageError:
            # The producer may have written while its peer's library copied. Once is bad luck.
            fresh = yield from self._read_all()
            return [self._decode(index) for index in fresh]

    def push(self, offset: int, data: bytes) -> None:
        """Take a part of a push. Raises ``SetImageError`` when it does not fit."""
        end = offset + len(data)
        if self._pushed_to and offset != self._pushed_to:
            raise SetImageError(f"a push goes on at {offset}, not at {self._pushed_to}")
        if end > self.size:
            raise SetImageError(f"a push of {len(data)} bytes at {offset} of {self.size}")
        if not self._pushed_to:
            self._pushed_from = offset
        self._image[offset:end] = data
        self._pushed_to = end

    def pushed(self) -> DecodedSet:
        """The reading that the parts taken since the last call make up."""
        begin, end = self._pushed_from, self._pushed_to
        self._pushed_from = self._pushed_to = 0
        if not begin:
            self._check_meta(self._image)
        # A C owner of several copies pushes the first together with the metadata, whichever is
        # current: only what came is looked at.
        copies = [
            index
            for index in range(self._copies)
            if begin <= self._meta_size + index * self._data_size
            and self._meta_size + (index + 1) * self._data_size <= end
        ]
        if not copies:
            raise SetImageError(f"a push from {begin} to {end} holds no data copy")
        current = self._copy_header(copies[0])["curr_idx"]
        return self._decode(current if current in copies else copies[-1])

    def _read_all(self) -> Generator[tuple[int, int], bytes, list[int]]:
        self._is_known = False
        yield from self._read(0, self.size)
        current = self._copy_header(0)["curr_idx"]
        if current >= self._copies:
            raise SetImageError(f"copy {current} of {self._copies}")
        previous = (current - 1) % self._copies
        if not self._is_whole(current) and self._is_whole(previous):
            current = previous
        self._latest = current
        self._is_known = True
        return [current]

    def _catch_up(self) -> Generator[tuple[int, int], bytes, list[int]]:
        """Read the copies behind the latest, up to the one that the set calls current.

        Always gives at least one: the latest.
        """
        fresh: list[int] = []
        newest = self._copy_header(self._latest)["curr_idx"]
        # Twice around: a producer that is faster than we are must not keep us for ever.
        for _ in range(2 * self._copies):
            first = (self._latest + 1) % self._copies
            if newest == self._latest:
                last = first
            else:
                last = newest if first <= newest < self._copies else self._copies - 1
            seen = self._time(self._latest)
            yield from self._read(
                self._meta_size + first * self._data_size, (last - first + 1) * self._data_size
            )
            newest = self._copy_header(last)["curr_idx"]
            before = self._latest
            for index in range(first, last + 1):
                if not self._is_whole(index) or self._time(index) <= seen:
                    break
                seen = self._time(index)
                self._latest = index
                if index in fresh:
                    fresh.remove(index)  # overtaken by its producer
                fresh.append(index)
            if self._latest in (before, newest):
                break
        return fresh or [self._latest]

    def _read(self, offset: int, length: int) -> Generator[tuple[int, int], bytes, None]:
        data = yield (offset, length)
        if len(data) != length:
            raise SetImageError(f"{len(data)} bytes for a read of {length}")
        if offset < self._meta_size:
            self._check_meta(data)
        self._image[offset : offset + length] = data

    def _check_meta(self, meta: bytes | bytearray) -> None:
        header = self._set_header(meta)
        for name, announced in (
            ("meta_sz", self._meta_size),
            ("data_sz", self._data_size),
            ("array_card", self._copies),
            ("card", self._card),
        ):
            if header[name] != announced:
                raise SetImageError(f"{name} is {header[name]}, announced was {announced}")

    @staticmethod
    def _set_header(meta: bytes | bytearray) -> dict[str, Any]:
        return dict(zip(SET_HEADER.offsets, SET_HEADER.struct.unpack_from(meta), strict=True))

    def _copy_header(self, index: int) -> dict[str, int]:
        at = self._meta_size + index * self._data_size
        values = COPY_HEADER.struct.unpack_from(self._image, at)
        return dict(zip(COPY_HEADER.offsets, values, strict=True))

    def _is_whole(self, index: int) -> bool:
        return self._copy_header(index)["trans_flags"] == TRANSACTION_FINISHED

    def _time(self, index: int) -> tuple[int, int]:
        header = self._copy_header(index)
        return header["ts_sec"], header["ts_usec"]

    def _is_meta_old(self, index: int) -> bool:
        """Whether the copy was written with other metadata than we have, or we have none."""
        ours: int = self._set_header(self._image)["meta_gn"]
        return not ours & _LOW or (ours ^ self._copy_header(index)["meta_gn"]) & _LOW != 0

    def _decode(self, index: int) -> DecodedSet:
        meta = memoryview(self._image)[: self._meta_size]
        return decode_set(meta, memoryview(self._image)[self._meta_size :], copy_index=index)
