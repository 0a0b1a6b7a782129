"""Where journals are."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from ldmsjob.errors import ConfigError

JOURNAL_NAME = "journal.sqlite"
"""The journal's file in a daemon's own directory."""


def state_directory(environ: Mapping[str, str]) -> str:
    """Where daemons of this user keep what must outlive them, unless they are told otherwise.

    ``STATE_DIRECTORY`` is what systemd gives a service that has one.
    """
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(given):
        return given
    if os.geteuid() == 0:
        return "/var/lib/ldmsjob"
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "ldmsjob")


def journal_path(directory: str, daemon_name: str) -> str:
    """The journal of the daemon of that name, below that state directory."""
    return os.path.join(directory, directory_name(daemon_name), JOURNAL_NAME)


def directory_name(daemon_name: str) -> str:
    """What the directory of a daemon of that name is called."""
    if daemon_name in (".", ".."):
        return daemon_name.replace(".", "_")
    return daemon_name.replace("/", "_")


def hand_over(path: str, uid: int, gid: int) -> None:
    """Give the directory of that journal, and what is in it, to the user as whom this process will
    go on; makes it if it is not there. One that is not ours is left as it is. Raises ``OSError``.
    """
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if os.stat(directory).st_uid != os.geteuid():
        return
    # From here on nobody else has been able to put anything there.
    with os.scandir(directory) as entries:
        for entry in entries:
            os.chown(entry.path, uid, gid, follow_symlinks=False)
    os.chown(directory, uid, gid)


def find_journals(directory: str) -> dict[str, str]:
    """Journals below a state directory, by the names of their directories; those that may not be
    read, too. Raises ``ConfigError``."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise unreadable(directory, error) from None
    paths = {name: os.path.join(directory, name, JOURNAL_NAME) for name in names}
    return {name: path for name, path in paths.items() if _may_be_there(path)}


def _may_be_there(path: str) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def unreadable(path: str, error: Exception) -> ConfigError:
    """What to tell a user about a journal, or a directory of them, that cannot be read."""
    hint, rc, text = "", errno.EIO, str(error)
    if isinstance(error, OSError):
        rc, text = error.errno or errno.EIO, error.strerror or str(error)
        if isinstance(error, PermissionError):
            hint = "it tells who ran what: read it as root or as the daemon's user"
        elif isinstance(error, FileNotFoundError):
            hint = "no daemon has kept a journal there; --state names another place"
    return ConfigError(f"cannot read {path}: {text}", rc=rc, hint=hint)
