"""The notifier's spool: lines that were not answered in time, in files next to its socket.

Writers append to ``PATH.spool`` and never lock anything (docs/slurm.md, Files next to the socket).
The reader renames it to ``PATH.spool.old``, reads that to its end and removes it. Who wrote into
the renamed file sees that it is no longer in its place, and writes again into the new one; the
identity of the lines makes that harmless.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from ldmsjob.transports.notifier_lines import LineCutter
from ldmsjob.wire.events import Credential

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Untrusted(Exception):
    """A file that is not the spool that a notifier wrote. It was put aside, if that was possible;
    the text says what is wrong with it and where it is now."""


class Spool:
    """Reads the spool of the socket ``path``.

    ``grown`` and ``read`` raise ``OSError`` when the file system fails, ``read`` also
    ``Untrusted``. Both may simply be called again later. ``count`` is called with the name of a
    counter and a number; ``user`` tells the daemon's own uid.

    Counters: ``refused.too_long``, and ``spool_truncated`` for a last line without its end.
    """

    def __init__(
        self,
        path: str,
        count: Callable[[str, int], None],
        user: Callable[[], int] = os.geteuid,
    ) -> None:
        self.path = path + ".spool"
        self._old = self.path + ".old"
        self._aside = self.path + ".refused"
        self._lost = path + ".lost"
        self._lost_old = self._lost + ".old"
        self._count = count
        self._user = user
        self._file = -1
        self._cutter = LineCutter()
        self._unread: list[bytes] = []
        self.credential = Credential(0, 0)
        """Who wrote what ``read`` returned last: the owner of the file."""

    def grown(self) -> bool:
        """Whether there is something to read. Takes one look at the file system."""
        if self._file >= 0:
            return True
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return found.st_size > 0 or not stat.S_ISREG(found.st_mode)

    def left_behind(self) -> bool:
        """Whether an earlier daemon did not come to the end of what it had begun to read."""
        return os.path.lexists(self._old)

    def read(self, limit: int) -> tuple[list[bytes], int] | None:
        """The next lines of at most ``limit`` bytes, and how many bytes were read.

        None when all that was there when it was last None has been read; what had been returned
        before that must have been dealt with, because the file is removed. Whether the spool has
        grown meanwhile, ``grown`` tells.
        """
        if self._unread:
            lines, self._unread = self._unread, []
            return lines, sum(map(len, lines))
        if self._file < 0 and not self._begin():
            return None
        try:
            data = os.read(self._file, limit)
        except OSError:
            self._end(self._aside)
            raise
        if not data:
            if self._cutter.unfinished:
                self._count("spool_truncated", 1)
            self._end(None)
            return None
        lines = self._cutter.feed(data)
        if self._cutter.too_long:
            self._count("refused.too_long", self._cutter.too_long)
            self._cutter.too_long = 0
        return lines, len(data)

    def unread(self, lines: list[bytes]) -> None:
        """Nobody takes these lines now: give them again with the next ``read``."""
        self._unread = lines

    def close(self) -> None:
        """Leave what has not been read to the next daemon."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._unread = []

    def lost(self) -> int:
        """How many lines writers have given up since the last call, the spool being full.

        They are counted with the call after the one that found them, so that a writer that was
        about to count another one has done so.
        """
        count = 0
        try:
            found = os.lstat(self._lost_old)
            os.unlink(self._lost_old)
            count = found.st_size if stat.S_ISREG(found.st_mode) else 0
        except FileNotFoundError:
            pass
        try:
            if os.lstat(self._lost).st_size:
                os.rename(self._lost, self._lost_old)
        except FileNotFoundError:
            pass
        return count

    def _begin(self) -> bool:
        """Open what was left behind, or else what has been spooled since."""
        if not self.left_behind():
            if not self.grown():
                return False
            os.rename(self.path, self._old)
        try:
            file = os.open(self._old, _OPEN)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM):
                self._put_aside(error.strerror or str(error))
            raise
        found = os.fstat(file)
        problem = _problem(found, self._user())
        if problem:
            os.close(file)
            self._put_aside(problem)
        self._file = file
        self._cutter = LineCutter()
        self.credential = Credential(found.st_uid, found.st_gid)
        return True

    def _end(self, aside: str | None) -> None:
        """Done with that file: remove it, or put it aside."""
        os.close(self._file)
        self._file = -1
        if aside is None:
            os.unlink(self._old)
        else:
            os.rename(self._old, aside)

    def _put_aside(self, problem: str) -> None:
        """Have it out of the way, for people to look at."""
        try:
            os.rename(self._old, self._aside)
        except OSError as error:
            raise Untrusted(
                f"{self._old}: {problem}; cannot be put aside: {error.strerror}"
            ) from None
        raise Untrusted(f"{self.path}: {problem}; put aside as {self._aside}") from None


def _problem(found: os.stat_result, user: int) -> str:
    """Why a file is not believed; empty when it is."""
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    if found.st_uid not in (0, user):
        return f"belongs to uid {found.st_uid}"
    if found.st_mode & 0o022:
        return f"may be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""
