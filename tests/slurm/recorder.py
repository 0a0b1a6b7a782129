"""A subscriber that writes every job event, with all that it holds, as one line of JSON, and a line
for each start of the daemon.

The lines of an event file do not tell to which job a task belongs. Events come to all subscribers
in one order, so that line n of the one file is about the same event as line n of the other.

This file is its own drop-in: it is copied to where a daemon finds plugins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
from zope.interface import implementer

from ldmsjob.events import EventsLost, JobEvent
from ldmsjob.interfaces import AttributeSpec, ISubscriber
from ldmsjob.plugin import SubscriberFactory
from ldmsjob.subscriber import JobSubscriber

lab_recorder = SubscriberFactory(
    name="lab_recorder",
    summary="Writes job events as JSON.",
    attributes=(AttributeSpec("file", "File to append to.", "path", required=True),),
    maker="ldmsjob.plugins.lab_recorder:Recorder",
)


@implementer(ISubscriber)
class Recorder(JobSubscriber):
    """Appends to the file named by the attribute ``file``."""

    def __init__(self, context: object) -> None:
        self._path = ""
        self._fd = -1

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Take the file's name."""
        self._path = attributes["file"]

    def start(self) -> None:
        """Open the file."""
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(self._fd, b'{"kind":"start"}\n')

    def stop(self) -> None:
        """Close it."""
        os.close(self._fd)

    def _write(self, kind: str, event: JobEvent) -> None:
        content = {
            "kind": kind,
            "key": event.key,
            "facts": _by_name(event.facts),
            "sequence": event.sequence,
            "time_us": event.source_time_us,
            "origin": event.origin,
            "step": _by_name(getattr(event, "step", None)),
            "task": _by_name(getattr(event, "task", None)),
        }
        os.write(self._fd, msgspec.json.encode(content) + b"\n")

    def job_started(self, event: JobEvent) -> None:
        """Written."""
        self._write("job_start", event)

    def step_started(self, event: JobEvent) -> None:
        """Written."""
        self._write("step_start", event)

    def task_started(self, event: JobEvent) -> None:
        """Written."""
        self._write("task_start", event)

    def task_ended(self, event: JobEvent) -> None:
        """Written."""
        self._write("task_end", event)

    def step_ended(self, event: JobEvent) -> None:
        """Written."""
        self._write("step_end", event)

    def job_ended(self, event: JobEvent) -> None:
        """Written."""
        self._write("job_end", event)

    def job_set_deleted(self, event: JobEvent) -> None:
        """Written."""
        self._write("jobset_delete", event)

    def events_lost(self, event: EventsLost) -> None:
        """Written; whoever reads it fails."""
        os.write(self._fd, b'{"kind":"events_lost"}\n')


def _by_name(value: Any) -> Any:
    """A struct, and those in it, with the names of its fields."""
    if not isinstance(value, msgspec.Struct):
        return value
    return {name: _by_name(one) for name, one in msgspec.structs.asdict(value).items()}
