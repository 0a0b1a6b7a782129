"""Unix sockets: where they are bound, and who is at the other end."""

from __future__ import annotations

import os
import socket
import stat
import struct
from typing import NamedTuple

from ldmsjob.errors import CANNOT_LISTEN, ConfigError

MAX_PATH_BYTES = 107
"""What the system takes."""

_PEERCRED = struct.Struct("iII")


class PeerProcess(NamedTuple):
    """The process at the other end when it connected, or when it began to listen."""

    pid: int
    uid: int
    gid: int
    """Its effective group; the others that it has are not told."""


def peer_process(connection: socket.socket) -> PeerProcess:
    """Who is at the other end: the system's word, not the peer's."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    return PeerProcess(*_PEERCRED.unpack(packed))


def path_problem(path: str) -> str:
    """Why there can be no socket at that path; empty when there can."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        return f"the path has more than {MAX_PATH_BYTES} bytes"
    return "the path has a NUL" if "\0" in path else ""


def prepare_directory(path: str, mode: int) -> None:
    """Make the directory for a socket with that mode, or see that nobody else may write to it.

    Raises ``ConfigError``.
    """
    try:
        os.mkdir(path, mode)
        os.chmod(path, mode)  # whatever the umask
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(
            f"the directory '{path}' cannot be made: {error.strerror}", rc=CANNOT_LISTEN
        ) from None
    try:
        found = os.stat(path)
    except OSError as error:
        raise ConfigError(f"'{path}': {error.strerror}", rc=CANNOT_LISTEN) from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"'{path}' is no directory", rc=CANNOT_LISTEN)
    if found.st_uid not in (0, os.geteuid()):
        problem, hint = f"belongs to uid {found.st_uid}", f"chown {os.geteuid()} {path}"
    elif found.st_mode & 0o022:
        problem, hint = "may be written to by others", f"chmod {mode:04o} {path}"
        if found.st_mode & stat.S_ISVTX:
            hint = "such as /tmp is for everybody; choose one that is for the socket alone"
    else:
        return
    raise ConfigError(f"the directory '{path}' {problem}", rc=CANNOT_LISTEN, hint=hint)


def bound_socket(path: str, xprt: str, mode: int = 0o600) -> socket.socket:
    """A socket bound to ``path``, not listening yet, that those may connect to who have write
    permission in ``mode``. ``xprt`` is who asks, for messages.

    Replaces one on which nobody listens. Raises ``ConfigError``.
    """
    problem = path_problem(path)
    if problem:
        raise ConfigError(f"cannot listen on {xprt} {path}: {problem}", rc=CANNOT_LISTEN)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path, xprt)
        before = os.umask(0o177)
        try:
            made.bind(path)
        finally:
            os.umask(before)
        os.chmod(path, mode)
    except OSError as error:
        made.close()
        raise ConfigError(
            f"cannot listen on {xprt} {path}: {error.strerror}", rc=CANNOT_LISTEN
        ) from None
    except BaseException:
        made.close()
        raise
    return made


def _remove_stale(path: str, xprt: str) -> None:
    """Remove the socket of a daemon that is gone."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"'{path}' is there, and no socket", rc=CANNOT_LISTEN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # So many wait there that somebody must listen.
    raise in_use(path, xprt)


def in_use(path: str, xprt: str) -> ConfigError:
    """What to say of a path at which another daemon listens."""
    return ConfigError(
        f"cannot listen on {xprt} {path}: another daemon listens there",
        rc=CANNOT_LISTEN,
        hint=f"see it with `ss -xlp src {path}`",
    )
