"""``jobmgr_slurm``: applies what Slurm's SPANK plugin ``slurm_notifier`` and our own notifier tell.

A message that is not as it should be is dropped, counted by reason and logged at a limited rate;
nothing is ever raised to its sender. docs/events.md lists the counters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.errors import Busy
from ldmsjob.interfaces import IChannelJobManager, IJobManagerContext, ISubscription
from ldmsjob.jobmgr.reconciler import REJECTIONS, Reconciler
from ldmsjob.jobmgr.slurm_messages import (
    SlurmMessage,
    decode,
    is_of_special_step,
    reason_of,
    repair,
)
from ldmsjob.limitedlog import LimitedLog, harmless
from ldmsjob.wire.events import JSON, Message

DEFAULT_CHANNEL = "slurm"


@implementer(IChannelJobManager)
class SlurmJobManager:
    """Listens to one channel of the message service.

    Attributes: ``message_channel``, an exact channel name, by default ``slurm``, and those of
    ``Reconciler``, which holds the jobs against the node and Slurm.

    Counters: ``messages`` (all that came), ``not_json`` (of another type, ignored),
    ``special_step`` (about Slurm's own steps, ignored), ``repaired``, and ``rejected_<reason>``
    with the reasons ``syntax``, ``utf8``, ``nesting``, ``type``, ``range``, ``missing``, ``event``
    (a name that is not known) and ``job_id`` (0, which names no job).
    """

    resource_manager = "slurm"

    def __init__(self, context: IJobManagerContext) -> None:
        self._context = context
        self._log = LimitedLog(context.log)
        for reason in REJECTIONS:  # Prometheus sees a counter grow only if it was there before.
            context.stats.add(f"rejected_{reason}", 0)
        self._channel = DEFAULT_CHANNEL
        self._subscription: ISubscription | None = None
        self._reconciler = Reconciler(context, self.resource_manager)
        self._state = "STOPPED"
        self._messages = 0
        context.stats.counts("messages", lambda: self._messages)

    @property
    def state(self) -> str:
        """``STOPPED``, ``STARTED`` or ``STOPPING``."""
        return self._state

    @property
    def channels(self) -> tuple[str, ...]:
        """The channel that ``start`` listens to."""
        return (self._channel,)

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Take the attributes, for the next start. Raises ``ConfigError``."""
        self._reconciler.configure(attributes)
        self._channel = attributes.get("message_channel", DEFAULT_CHANNEL)

    def start(self) -> None:
        """Listen. Raises ``Busy`` unless stopped, ``ChannelTaken`` when another listens there."""
        self._expect("STOPPED", "start")
        self._subscription = self._context.subscribe(self._channel, self.received)
        self._reconciler.start()
        self._state = "STARTED"

    def stop(self) -> Deferred[None]:
        """Listen no more. Jobs and their sets stay. Raises ``Busy`` unless started."""
        self._expect("STARTED", "stop")
        subscription, self._subscription = self._subscription, None
        assert subscription is not None
        self._state = "STOPPING"
        closing = [subscription.close(), self._reconciler.stop()]
        return gatherResults(closing).addBoth(self._stopped)

    def received(self, message: Message) -> None:
        """Apply what one message says."""
        context = self._context
        self._messages += 1
        if message.kind != JSON:
            context.stats.add("not_json")
            return
        body = message.body
        try:
            content = decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            repaired = self._repaired(body, error)
            if repaired is None:
                return
            content = repaired
        notice = content.notice()
        if notice is not None:
            context.apply(notice, message.received_us or context.received_time_us())
        elif is_of_special_step(content):
            context.stats.add("special_step")
        else:
            self._reject("job_id", "job id 0 names no job")

    def _repaired(self, body: bytes, error: Exception) -> SlurmMessage | None:
        """What a message that could not be decoded must mean; None, and counted, when that is not
        certain."""
        reason = reason_of(error)
        content = repair(body) if reason == "syntax" else None
        if content is None:
            self._reject(reason, str(error))
        else:
            self._context.stats.add("repaired")
        return content

    def _reject(self, reason: str, detail: str) -> None:
        self._context.stats.add(f"rejected_{reason}")
        self._log.warn(
            reason,
            "message on channel {channel} dropped: {detail}",
            channel=self._channel,
            detail=harmless(detail[:200]),  # May quote the message.
        )

    def _expect(self, state: str, verb: str) -> None:
        if self._state != state:
            raise Busy(f"cannot {verb}, state: JOBMGR_SLURM_{self._state}")

    def _stopped(self, result: Any) -> Any:
        self._state = "STOPPED"
        return result if isinstance(result, Failure) else None
