"""The job event subscribers inside of the daemon: most hear everything, one never answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from ldmsjob.events import EventsLost
from ldmsjob.interfaces import ISampler
from ldmsjob.subscriber import JobSubscriber

DROPIN = """\
from ldmsjob.interfaces import AttributeSpec
from ldmsjob.plugin import SamplerFactory

soak_subscriber = SamplerFactory(
    name="soak_subscriber",
    summary="Counts job events.",
    attributes=(
        AttributeSpec("file", "What it tells at its end.", required=True),
        AttributeSpec("stuck", "Never answers.", "boolean", default="false"),
    ),
    maker="tests.soak.subscriber:SoakSubscriber",
)
"""
"""To be put into a directory ``ldmsjob/plugins`` on the daemon's path."""


@implementer(ISampler)
class SoakSubscriber(JobSubscriber):
    """Counts events, and gaps in their numbers; writes that into a file when it is closed."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._heard = 0
        self._first = 0
        self._last = 0
        self._gaps = 0
        self._lost = 0

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Where to tell; whether to be stuck."""
        self._file = Path(attributes["file"])
        self._stuck = attributes["stuck"] == "true"

    def start(self) -> None:
        """Hear of everything."""
        self._context.subscribe_jobs(self)

    def sample(self, now: float) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""

    def _hear(self, event: Any) -> Deferred[None] | None:
        self._heard += 1
        self._first = self._first or event.sequence
        if self._last and event.sequence != self._last + 1:
            self._gaps += 1
        self._last = event.sequence
        return Deferred() if self._stuck else None

    job_started = step_started = task_started = _hear
    task_ended = step_ended = job_ended = job_set_deleted = _hear

    def events_lost(self, event: EventsLost) -> None:
        """The daemon says that it was too slow."""
        self._lost += event.count

    def subscription_closed(self) -> None:
        """Tell."""
        told = {
            "heard": self._heard,
            "first": self._first,
            "last": self._last,
            "gaps": self._gaps,
            "lost": self._lost,
        }
        self._file.write_text(json.dumps(told))
