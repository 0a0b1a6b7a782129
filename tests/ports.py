"""Ports for what tests start in processes of their own."""

from __future__ import annotations

import contextlib
import secrets
import socket
from pathlib import Path

_LOWEST = 10_000
_GIVEN_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _candidates() -> range:
    """Ports that the kernel gives to nobody: those of a daemon that is started again must be free
    still. If it gives out nearly all, any."""
    try:
        lowest, highest = map(int, _GIVEN_OUT.read_text().split())
    except OSError:
        lowest, highest = 32_768, 60_999
    found = max(range(_LOWEST, lowest), range(highest + 1, 1 << 16), key=len)
    return found if len(found) > 1_000 else range(_LOWEST, 1 << 16)


def free_ports(count: int) -> list[int]:
    """Different ports of this host on which nobody listens just now."""
    candidates = _candidates()
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            probe = stack.enter_context(socket.socket())
            port = secrets.choice(candidates)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found


def free_port() -> int:
    """One of them."""
    (port,) = free_ports(1)
    return port
