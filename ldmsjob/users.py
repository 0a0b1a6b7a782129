"""Looks up users in the system's user database, off the reactor's thread.

A lookup may ask a directory server and take seconds, so it is done in a thread, and what it gave is
kept for a while.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.interfaces import IReactorTime

from ldmsjob.errors import ConfigError
from ldmsjob.facts import JobFacts
from ldmsjob.permissions import MAX_ID

CACHE_SIZE = 1024
"""Answers that are kept; of more, the oldest go."""

FOUND_SECONDS = 3600.0
FAILED_SECONDS = 60.0
"""How long an answer, and how long a failure is believed."""

MAX_THREADS = 4
"""Lookups under way at once. A directory server that hangs must not take all threads that the
daemon has, which authentication needs, too."""

_Question = tuple[Callable[[Any], Any], int | str]


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None


def _ids_of(name: str) -> tuple[int, int] | None:
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        return None
    return entry.pw_uid, entry.pw_gid


def _groups_of(uid: int) -> frozenset[int] | None:
    try:
        entry = pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        return None
    return frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))


def parse_uids(
    attribute: str, text: str, ids_of: Callable[[str], tuple[int, int] | None] = _ids_of
) -> frozenset[int]:
    """The uids in ``text``: uids and user names with commas between them; none when it is empty.

    Names are looked up at once, so call this only where waiting does no harm. Raises
    ``ConfigError``, which names the attribute and the user who does not exist.
    """
    uids = []
    for word in text.split(",") if text.strip() else ():
        name = word.strip()
        if name.isascii() and name.isdigit():
            uid: int | None = int(name) if len(name) <= 10 else None
        else:
            ids = ids_of(name) if name else None
            uid = None if ids is None else ids[0]
        if uid is None or uid > MAX_ID:
            raise ConfigError(
                f"{attribute}={text}: there is no user '{name}'",
                hint="give user names or uids with commas between them",
            )
        uids.append(uid)
    return frozenset(uids)


class Users:
    """User names and groups by uid, and ids by user name.

    ``in_thread`` is called as ``in_thread(function, argument)`` and returns a Deferred of the
    function's result: ``twisted.internet.threads.deferToThread``, or ``maybeDeferred`` where
    blocking does no harm, as in a test. The three functions are what is asked in the thread; they
    return None for a user who does not exist. A lookup that raises counts as one that found nobody.
    Beyond ``MAX_THREADS`` lookups at once, further ones wait for one of those to end. Whoever waits
    no longer may cancel what he was given.
    """

    def __init__(
        self,
        clock: IReactorTime,
        in_thread: Callable[..., Deferred[Any]],
        *,
        name_of: Callable[[int], str | None] = _name_of,
        ids_of: Callable[[str], tuple[int, int] | None] = _ids_of,
        groups_of: Callable[[int], frozenset[int] | None] = _groups_of,
    ) -> None:
        self._clock = clock
        self._in_thread = in_thread
        self._name_of = name_of
        self._ids_of = ids_of
        self._groups_of = groups_of
        self._threads = DeferredSemaphore(MAX_THREADS)
        self._answers: dict[_Question, tuple[float, Any]] = {}
        self._asked: dict[_Question, list[Deferred[Any]]] = {}

    def name(self, uid: int) -> Deferred[str | None]:
        """The user's name; None when there is no such user. Does not fail."""
        return self._ask(self._name_of, uid)

    def ids(self, name: str) -> Deferred[tuple[int, int] | None]:
        """The user's uid and primary gid; None when there is no such user. Does not fail."""
        return self._ask(self._ids_of, name)

    def groups(self, uid: int) -> Deferred[frozenset[int] | None]:
        """The gids of all the user's groups, the primary one included; None when there is no such
        user. Does not fail."""
        return self._ask(self._groups_of, uid)

    def missing_facts(self, facts: JobFacts) -> Deferred[dict[str, Any]] | None:
        """Look up what a job lacks: its user's name by uid, or uid and gid by name.

        Fires with keyword arguments for ``JobTable.describe``, none for a user who does not exist.
        None when nothing is missing, or nothing is known to ask with.
        """
        if facts.user is None:
            if facts.uid is None:
                return None
            return self.name(facts.uid).addCallback(
                lambda name: {} if name is None else {"user": name}
            )
        if facts.uid is not None and facts.gid is not None:
            return None
        return self.ids(facts.user).addCallback(
            lambda ids: {} if ids is None else {"uid": ids[0], "gid": ids[1]}
        )

    def _ask(self, look_up: Callable[[Any], Any], about: int | str) -> Deferred[Any]:
        question = look_up, about
        known = self._answers.get(question)
        if known is not None and self._clock.seconds() < known[0]:
            return succeed(known[1])
        is_new = question not in self._asked
        waiting = self._asked.setdefault(question, [])
        answer: Deferred[Any] = Deferred(waiting.remove)
        waiting.append(answer)
        if is_new:
            found = self._threads.run(self._in_thread, look_up, about)
            found.addErrback(lambda failure: None)
            found.addCallback(self._answered, question)
        return answer

    def _answered(self, value: Any, question: _Question) -> None:
        answers = self._answers
        answers.pop(question, None)
        while len(answers) >= CACHE_SIZE:
            del answers[next(iter(answers))]
        kept = FAILED_SECONDS if value is None else FOUND_SECONDS
        answers[question] = (self._clock.seconds() + kept, value)
        waiting = self._asked[question]
        while waiting:
            waiting.pop(0).callback(value)
        del self._asked[question]
