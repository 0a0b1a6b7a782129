"""Daemon requests that this daemon answers: from whom, and with what (docs/status.md)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

from ldmsjob.errors import PLUGIN_FAULTS
from ldmsjob.wire.events import AnswerDaemonRequest, DaemonRequest
from ldmsjob.wire.request import JSON, STRING

if TYPE_CHECKING:
    from ldmsjob.interfaces import ILink, IStats


class DaemonRequests:
    """Answers what root and the daemon's own user ask, and nobody else.

    Counters: ``requests_answered``, ``requests_denied``, ``requests_failed``.
    """

    log = Logger(namespace="ldmsd")

    def __init__(self, stats: IStats, own_uid: Callable[[], int] = os.geteuid) -> None:
        self._stats = stats
        self._own_uid = own_uid
        self._answers: dict[int, Callable[[], bytes]] = {}

    @property
    def codes(self) -> frozenset[int]:
        """What there is an answer to."""
        return frozenset(self._answers)

    def answer(self, code: int, make: Callable[[], bytes]) -> None:
        """Answer requests with that code with the JSON text that ``make`` returns."""
        self._answers[code] = make

    def take(self, link: ILink, event: DaemonRequest) -> None:
        """Answer one."""
        error, attribute, value = self._answer(link, event)
        link.send(AnswerDaemonRequest(event.number, error, attribute, value))

    def _answer(self, link: ILink, event: DaemonRequest) -> tuple[int, int, bytes]:
        make = self._answers.get(event.code)
        if make is None:
            return errno.ENOSYS, STRING, b"The request is not implemented\0"
        if link.credential.uid not in (0, self._own_uid()):
            self._stats.add("requests_denied")
            return errno.EPERM, STRING, b"Operation not permitted.\0"
        try:
            value = make()
        except PLUGIN_FAULTS:
            self._stats.add("requests_failed")
            self.log.failure("a request of {peer} failed", peer=link.peer_address)
            return errno.EIO, STRING, b"The request failed; see the daemon's log.\0"
        self._stats.add("requests_answered")
        return 0, JSON, value + b"\0"
