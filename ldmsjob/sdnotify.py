"""Telling a service manager how we are, as systemd's sd_notify(3) does.

A datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping


class ServiceManager:
    """Who has started us and wants to hear of us; nobody where no socket is given.

    What cannot be sent is dropped: it must never hold up or end the daemon. Only that we are ready,
    without which it would end us, is told again with the next ``alive``. ``watchdog_seconds`` is
    how often it has to hear ``alive`` at least; None: it does not watch.
    """

    def __init__(self, path: str = "", watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds if path else None
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._unheard: tuple[str, ...] = ()
        self._socket: socket.socket | None = None
        if path:
            self._socket = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self._socket is not None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """The one that this environment tells of; takes it out, so that no child speaks for us."""
        path = environ.pop("NOTIFY_SOCKET", "")
        usec = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        if not path.startswith(("/", "@")) or len(path) < 2:
            return cls()
        is_watched = usec.isascii() and usec.isdigit() and int(usec) > 0
        is_meant = not pid or pid == str(os.getpid())
        return cls(path, int(usec) / 1e6 if is_watched and is_meant else None)

    def tell(self, *lines: str) -> bool:
        """Send these; a line break in one of them would begin another, and becomes a blank. Returns
        whether that was possible now: many may want to be heard at once while a node boots."""
        if self._socket is not None:
            message = "\n".join(line.replace("\n", " ") for line in lines)
            try:
                self._socket.sendto(message.encode("utf-8", "replace"), self._address)
            except OSError:
                return False
        return True

    def ready(self, status: str) -> None:
        """All that others may want of us works now."""
        heard = self.tell("READY=1", f"STATUS={status}")
        self._unheard = () if heard else ("READY=1",)

    def reloading(self) -> None:
        """We read or open again what was told; ``ready`` follows."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def alive(self, status: str) -> None:
        """The reactor runs."""
        if self.tell(*self._unheard, "WATCHDOG=1", f"STATUS={status}"):
            self._unheard = ()

    def stopping(self, status: str) -> None:
        """We end."""
        self._unheard = ()
        self.tell("STOPPING=1", f"STATUS={status}")
