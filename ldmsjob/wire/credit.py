"""SEND_QUOTA: what a peer may send again (docs/wire.md, Messages).

As many of these frames come and go as messages do, so they are read and made in runs.
"""

from __future__ import annotations

from functools import lru_cache

from construct import Bytes, Int32sb, Int32ub
from construct import Struct as Declaration

from ldmsjob.wire.buffers import flat_struct
from ldmsjob.wire.xprt import NO_XID, REQUEST_HEAD, SEND_QUOTA
from ldmsjob.wire.zap import COUNTED_HEAD, NO_CTXT, SENDRECV
from ldmsjob.wire.zap import NO_XID as NO_FRAME_XID

AMOUNT = Declaration("credit" / Int32ub, "rc" / Int32sb)
CREDIT = Declaration(*REQUEST_HEAD.subcons, *AMOUNT.subcons)

_FRAME = flat_struct(COUNTED_HEAD, CREDIT)
_HEAD = flat_struct(
    *(COUNTED_HEAD, REQUEST_HEAD), only=("kind", "length", "data_len", "command", "request_len")
)
_RUN = flat_struct(Declaration("head" / Bytes(_HEAD.size)), AMOUNT)
_BYTES = _FRAME.size
_PAYLOAD = _BYTES - COUNTED_HEAD.sizeof()


@lru_cache(maxsize=4096)
def credit_frame(credit: int, rc: int = 0) -> bytes:
    """The SEND_QUOTA frame that returns ``credit`` bytes."""
    head = (SENDRECV, 0, _BYTES, NO_FRAME_XID, NO_CTXT, _PAYLOAD)
    return _FRAME.pack(*head, NO_XID, SEND_QUOTA, _PAYLOAD, credit, rc)


_USUAL = credit_frame(0)[: _HEAD.size]
"""In front of the credit, as C programs and we send it."""


def read_credit_run(data: bytes, at: int, end: int) -> tuple[int, int, int, int]:
    """The whole SEND_QUOTA frames that begin at ``at`` and have one rc: where they end, how many
    there are, the credit of all of them, and that rc. None where something else begins."""
    count = credit = rc = 0
    whole = memoryview(data)[at : end - (end - at) % _BYTES]
    for head, amount, error in _RUN.iter_unpack(whole):
        if (head != _USUAL and not _is_credit(head)) or (count and error != rc):
            break
        count += 1
        credit += amount
        rc = error
    return at + count * _BYTES, count, credit, rc


def _is_credit(head: bytes) -> bool:
    """Whether that is in front of the credit of a SEND_QUOTA frame, though with xids."""
    return _HEAD.unpack(head) == _HEAD.unpack(_USUAL)
