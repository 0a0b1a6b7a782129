"""Looks up users in the system's user database, off the reactor's thread.

A lookup may ask a directory server and take seconds, so it is done in a thread, and what it gave is
kept for a while.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from ldmsjob.facts import JobFacts

CACHE_SIZE = 1024
"""Answers that are kept; of more, the oldest go."""

FOUND_SECONDS = 3600.0
FAILED_SECONDS = 60.0
"""How long an answer, and how long a failure is believed."""


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


class Users:
    """User names by uid, and ids by user name.

    ``in_thread`` is called as ``in_thread(function, argument)`` and returns a Deferred of the
    function's result: ``twisted.internet.threads.deferToThread``, or ``maybeDeferred`` where
    blocking does no harm, as in a test. The two functions are what is asked in the thread; they
    return None for a user who does not exist. A lookup that raises counts as one that found nobody.
    """

    def __init__(
        self,
        clock: IReactorTime,
        in_thread: Callable[..., Deferred[Any]],
        *,
        name_of: Callable[[int], str | None] = _name_of,
        ids_of: Callable[[str], tuple[int, int] | None] = _ids_of,
    ) -> None:
        self._clock = clock
        self._in_thread = in_thread
        self._name_of = name_of
        self._ids_of = ids_of
        self._answers: dict[int | str, tuple[float, Any]] = {}
        self._asked: dict[int | str, list[Deferred[Any]]] = {}

    def name(self, uid: int) -> Deferred[str | None]:
        """The user's name; None when there is no such user. Does not fail."""
        return self._ask(uid, self._name_of)

    def ids(self, name: str) -> Deferred[tuple[int, int] | None]:
        """The user's uid and primary gid; None when there is no such user. Does not fail."""
        return self._ask(name, self._ids_of)

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

    def _ask(self, question: Any, look_up: Callable[[Any], Any]) -> Deferred[Any]:
        known = self._answers.get(question)
        if known is not None and self._clock.seconds() < known[0]:
            return succeed(known[1])
        answer: Deferred[Any] = Deferred()
        waiting = self._asked.get(question)
        if waiting is not None:
            waiting.append(answer)
            return answer
        self._asked[question] = [answer]
        found = self._in_thread(look_up, question)
        found.addErrback(lambda failure: None)
        found.addCallback(self._answered, question)
        return answer

    def _answered(self, value: Any, question: Any) -> None:
        answers = self._answers
        answers.pop(question, None)
        while len(answers) >= CACHE_SIZE:
            del answers[next(iter(answers))]
        kept = FAILED_SECONDS if value is None else FOUND_SECONDS
        answers[question] = (self._clock.seconds() + kept, value)
        for answer in self._asked.pop(question):
            answer.callback(value)
