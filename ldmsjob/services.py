"""Services in order: how the parts of a daemon start one after the other, and stop in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

STOP_SECONDS = 5.0
"""How long a service may take to stop before it is named in the log and left."""


class OrderedServices(MultiService):
    """Services that start in order and stop one after the other, the last one first.

    With ``stop_seconds`` each child has that long to stop; one that does not is named in the log
    and left. Its ``abandon``, if it has one, is then called: it ends what others would wait for and
    returns how many job events nobody gets any more.
    """

    log = Logger(namespace="ldmsd")

    def __init__(self, name: str, clock: Any, stop_seconds: float | None = None) -> None:
        super().__init__()
        self.setName(name)
        self._clock = clock
        self._stop_seconds = stop_seconds
        self._hurried = False
        self._waits: dict[Callable[[], None], None] = {}

    def hurry(self) -> None:
        """Wait no longer for anything that stops, now or later."""
        self._hurried = True
        for service in self:
            if isinstance(service, OrderedServices):
                service.hurry()
        for give_up in list(self._waits):
            give_up()

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop all; fires when the last one has stopped or was left. Never fails."""
        Service.stopService(self)
        for service in reversed(list(self)):
            yield self._stop(service)

    def _stop(self, service: IService) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        stopping = maybeDeferred(service.stopService)

        began = self._clock.seconds()

        def finish(result: object) -> None:
            if isinstance(result, Failure):
                self.log.failure("{name} failed to stop", result, name=service.name)
            if timer is not None and timer.active():
                timer.cancel()
            self._waits.pop(give_up, None)
            if not done.called:
                done.callback(None)

        def give_up() -> None:
            if timer is not None and timer.active():
                timer.cancel()
            self._waits.pop(give_up, None)
            abandon = getattr(service, "abandon", None)
            discarded = 0 if abandon is None else abandon()
            self.log.error(
                "{name} did not stop within {seconds:g} s and is left{rest}",
                name=service.name,
                seconds=round(self._clock.seconds() - began, 3),
                rest=f"; {discarded} job events for it are discarded" if discarded else "",
            )
            if not done.called:
                done.callback(None)

        timer = None
        if self._stop_seconds is not None and not stopping.called:
            self._waits[give_up] = None
            if not self._hurried:
                timer = self._clock.callLater(self._stop_seconds, give_up)
        stopping.addBoth(finish)
        if self._hurried and give_up in self._waits:
            give_up()
        return done


class ServiceGroup(OrderedServices):
    """Services that start in order and stop side by side, told so last one first.

    For those that do not need one another: one that is slow to stop takes no time from the others.
    """

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop all; fires when each has stopped or was left. Never fails."""
        Service.stopService(self)
        yield DeferredList([self._stop(service) for service in reversed(list(self))])


class Closing(Service):
    """Does something when the daemon stops, at its place in the order.

    ``abandon`` is for when that takes too long: see ``OrderedServices``.
    """

    def __init__(
        self, name: str, close: Callable[[], Any], abandon: Callable[[], int] = lambda: 0
    ) -> None:
        self.setName(name)
        self._close = close
        self.abandon = abandon

    def stopService(self) -> Any:
        """Do it; fires when it is done."""
        super().stopService()
        return self._close()


class Opening(Service):
    """Does something when the daemon starts, and something else when it stops."""

    def __init__(
        self, name: str, begin: Callable[[], None], end: Callable[[], None] = lambda: None
    ) -> None:
        self.setName(name)
        self._begin = begin
        self._end = end

    def startService(self) -> None:
        """Do the one."""
        super().startService()
        self._begin()

    def stopService(self) -> None:
        """Do the other."""
        super().stopService()
        self._end()
