"""The frames by which the sides of a connection say what they are (docs/wire.md, The handshake).

``own`` is what we say: way to authenticate, rate, quota, pid, whether our message service is on,
endpoints and endpoint, as in ``ConnectionMessage``.
"""

from __future__ import annotations

from functools import lru_cache

from ldmsjob.wire import xprt, zap

Own = tuple[str, int, int, int, bool, int, int]


def connect_frame(own: Own, rail_gn: int) -> bytes:
    """A CONNECT frame."""
    return zap.connect_frame(_message(own, rail_gn))


def accepted_frame(own: Own, rail_gn: int) -> bytes:
    """An ACCEPTED frame; ``rail_gn`` is what the peer has sent."""
    front, back = _around_rail_gn(own)
    return front + rail_gn.to_bytes(xprt.RAIL_GN_BYTES, "big") + back


@lru_cache(maxsize=64)
def _around_rail_gn(own: Own) -> tuple[bytes, bytes]:
    """The rest of an ACCEPTED frame: we say the same to most peers."""
    frame = zap.counted_frame(zap.ACCEPTED, _message(own, 0))
    at = len(frame) - xprt.CONNECTION_MESSAGE.sizeof() + xprt.RAIL_GN_AT
    return frame[:at], frame[at + xprt.RAIL_GN_BYTES :]


def _message(own: Own, rail_gn: int) -> bytes:
    auth, rate, quota, pid, enabled, endpoints, endpoint = own
    return xprt.ConnectionMessage(
        auth, rate, quota, pid, rail_gn, enabled, endpoints, endpoint
    ).encode()
