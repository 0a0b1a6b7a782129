"""What a daemon keeps on disk: where its journal is, its bounds, and what comes back from it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from ldmsjob.journal.places import hand_over, journal_path

if TYPE_CHECKING:
    from ldmsjob.contexts import Core
    from ldmsjob.instances import JobManagerInstance
    from ldmsjob.interfaces import IStats
    from ldmsjob.jobservice import JobService
    from ldmsjob.journal.journal import Journal
    from ldmsjob.turns import Turn

_log = Logger(namespace="ldmsd")


class JournalSettings(msgspec.Struct, frozen=True):
    """What the `journal` command says. ``path`` None: in the daemon's state directory."""

    enabled: bool = True
    path: str | None = None
    max_age_seconds: float = 30 * 86_400
    max_bytes: int = 1 << 30

    def place(self, state_directory: str | None, daemon_name: str) -> str | None:
        """Where the journal of the daemon of that name is; None when there is none."""
        if not self.enabled:
            return None
        if self.path is not None:
            return self.path
        return None if state_directory is None else journal_path(state_directory, daemon_name)

    def hand_over(self, path: str, uid: int, gid: int) -> None:
        """Give the user as whom the process will go on what he needs to write the journal at
        ``path``. Raises ``OSError``.

        That is the daemon's own directory with all that is in it. A directory that the
        configuration names may have others' files in it: it is given only if it is made here.
        """
        if self.path is None or not os.path.isdir(os.path.dirname(path)):
            hand_over(path, uid, gid)


def make_journal(
    path: str, settings: JournalSettings, turn: Turn, core: Core, stats: IStats
) -> Journal:
    """The journal at that place, not opened."""
    from ldmsjob.journal.journal import Journal  # with SQLite, for those only who have a journal

    return Journal(
        path,
        turn,
        core.clock,
        stats,
        max_age_seconds=settings.max_age_seconds,
        max_bytes=settings.max_bytes,
        in_thread=deferToThread,
        wall_clock_us=core.now_us,
    )


def recover(jobs: JobService, job_managers: Iterable[JobManagerInstance]) -> None:
    """Put the jobs back that the journal has of these job managers, as far as they are configured,
    and log how many these are."""
    configured = [one for one in job_managers if one.state != "loaded"]
    policies = {str(one.name): one.context.policy for one in configured}
    recovered, left_out = jobs.recover(policies)
    if recovered:
        _log.info("back from the journal: {count} jobs", count=recovered)
    if left_out:
        _log.warn(
            "left out of the journal, as their job managers are not there any more: {count} jobs",
            count=left_out,
        )
