"""Hands job events to subscribers, each on an ordered chain of its own.

A slow, failing or blocked subscriber delays nobody else, and changes the order for nobody. Who is
free is simply called; everybody else has a queue. A subscriber may do anything from inside a call:
subscribe another, close itself or another, or cause further events. What is being posted is then
queued first for all who have still to get it, so that what follows from the call comes behind it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.errors import PLUGIN_FAULTS
from ldmsjob.events import (
    EventsLost,
    JobEnded,
    JobEvent,
    JobSetDeleted,
    JobStarted,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
)
from ldmsjob.interfaces import IJobSubscriber, ISubscription
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.limits import Limits
from ldmsjob.stats import Stats

MAX_FAILURES = 100
"""A subscriber that fails this often in a row is closed."""


@implementer(ISubscription)
class Subscription:
    """One subscriber's queue. Made by ``Fanout.subscribe``, and ``run`` once before anything else.

    Counters, in the group of the subscriber's name: ``delivered``, ``failed`` (calls that raised
    or whose Deferred failed), ``lost`` (dropped because it was too slow), ``discarded`` (left over
    when it was closed for failing, or abandoned). Gauges, while it is open: ``queued`` events, and
    ``busy_seconds`` for which it has not been done with its present one.
    """

    def __init__(
        self,
        subscriber: IJobSubscriber,
        name: str,
        replay: Sequence[JobEvent],
        limit: int,
        stats: Stats,
        log: LimitedLog,
        fanout: Fanout,
    ) -> None:
        self.name = name
        self.queue: deque[JobEvent] = deque(replay)
        self.limit = limit + len(replay)
        """Of the queue, while the subscriber makes its next event wait."""
        self.free = False
        """Whether its fan-out may simply call: nothing is queued or waited for, and the last call
        did not fail."""
        self.busy = False
        """Whether it is in a call, or ``waiting``. Of a ``free`` one only its fan-out knows."""
        self.waiting = False
        """Whether a Deferred of the subscriber has not fired."""
        self.busy_since = 0.0
        """While it is ``waiting``: since when, in monotonic seconds."""
        self.delivered = 0
        """How many events its subscriber has been called for."""
        self._subscriber = subscriber
        self.calls: dict[type, Callable[[Any], Any]] = {
            JobStarted: subscriber.job_started,
            StepStarted: subscriber.step_started,
            TaskStarted: subscriber.task_started,
            TaskEnded: subscriber.task_ended,
            StepEnded: subscriber.step_ended,
            JobEnded: subscriber.job_ended,
            JobSetDeleted: subscriber.job_set_deleted,
            EventsLost: subscriber.events_lost,
        }
        """The subscriber's methods by what they are called for."""
        self._stats = stats
        self._log = log
        self._fanout = fanout
        self._closing = False
        self._closed = False
        self._failures = 0
        self._lost: EventsLost | None = None
        self._closers: list[Deferred[None]] = []

    def close(self) -> Deferred[None]:
        """Take no new events. What is queued is delivered, then ``subscription_closed`` is called.

        Fires after that call. May be called again, and from inside a call.
        """
        if self._closed:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closers.append(closed)
        if not self._closing:
            self._closing = True
            self._fanout.queue_present()
            self._fanout.retire(self)
            self.run()
        return closed

    def abandon(self) -> int:
        """Discard what is queued, and tell how much. For one whose time to close is over.

        Should the subscriber ever be done with its present event, it gets its last call.
        """
        self.close()
        return self._discard()

    def _discard(self) -> int:
        self._fanout.queue_present()
        discarded = len(self.queue)
        self._stats.add("discarded", discarded)
        self.queue.clear()
        self._lost = None
        return discarded

    def enqueue(self, event: JobEvent) -> None:
        """Let an event wait for its turn; a ``run`` has to follow."""
        queue = self.queue
        self.free = False
        queue.append(event)
        if self.waiting and len(queue) > self.limit:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Take it out of the queue, and remember what the subscriber has to be told."""
        number = self.queue.popleft().sequence
        before = self._lost
        if before is not None:
            self._lost = EventsLost(before.count + 1, before.first_sequence, number)
        else:
            self._lost = EventsLost(1, number, number)
        self._stats.add("lost")

    def run(self) -> None:
        """Deliver what is queued, until the subscriber makes the next event wait."""
        if self.busy or self._closed:
            return
        queue = self.queue
        while queue or self._lost is not None:
            if self._lost is None:
                self._deliver(queue.popleft())
                self.delivered += 1
            else:
                lost, self._lost = self._lost, None
                self._deliver(lost)
            if self.waiting:
                return
        if self._closing:
            self._finish()
        else:
            self.free = not self._failures

    def _deliver(self, event: JobEvent | EventsLost) -> None:
        self.busy = True
        try:
            result = self.calls[type(event)](event)
            if result is not None:
                self.wait_for(result)
            else:
                self._failures = 0
        except PLUGIN_FAULTS:
            self.failed()
        finally:
            self.busy = self.waiting

    def wait_for(self, result: Any) -> None:
        """Call no more before the Deferred, or the coroutine, that a call returned has its result.

        Raises ``TypeError`` when it is neither.
        """
        if not isinstance(result, Deferred):
            result = Deferred.fromCoroutine(result)
        self.waiting = True
        self.busy_since = self._fanout.now()
        result.addCallbacks(self._succeeded, self._failed_later)
        result.addBoth(self._wait_no_longer)
        if self.waiting:
            self.busy = True
            self.free = False
            result.addBoth(self._resume)

    def _succeeded(self, result: object) -> None:
        self._failures = 0

    def _wait_no_longer(self, result: object) -> None:
        self.waiting = False

    def _resume(self, result: object) -> None:
        self.busy = False
        self.run()

    def _failed_later(self, failure: Failure) -> None:
        try:
            failure.raiseException()
        except PLUGIN_FAULTS:
            self.failed()

    def failed(self) -> None:
        """Count and log the exception now being handled."""
        self.free = False
        self._failures += 1
        self._stats.add("failed")
        self._log.failure(self.name, "{name}: job event subscriber failed", name=self.name)
        if self._failures == MAX_FAILURES:
            self._give_up()

    def _give_up(self) -> None:
        self._discard()
        self._log.emit(
            f"{self.name} given up",
            LogLevel.error,
            "{name}: job event subscriber closed, because it failed {count} times in a row",
            name=self.name,
            count=MAX_FAILURES,
        )
        if not self._closing:
            self._closing = True
            self._fanout.retire(self)

    def _finish(self) -> None:
        self._closed = True
        self._fanout.forget(self)
        try:
            self._subscriber.subscription_closed()
        except PLUGIN_FAULTS:
            self.failed()
        closers, self._closers = self._closers, []
        for closed in closers:
            closed.callback(None)


class Fanout:
    """All subscriptions of the daemon.

    ``limit`` is how many events may wait for one subscriber that is not done with an earlier one
    (those of its replay not counted). Of more, the oldest are dropped, and before the next event it
    gets one ``events_lost`` call that tells of all that were. A subscriber that is never waited for
    loses nothing. ``now`` gives monotonic seconds.
    """

    def __init__(
        self,
        stats: Stats,
        log: LimitedLog,
        *,
        limit: int = Limits().event_queue,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.now = now
        self._stats = stats
        self._log = log
        self._limit = limit
        self._active: tuple[Subscription, ...] = ()
        # Of the post that is under way:
        self._rest: Iterator[JobEvent] | None = None
        self._event: Any = None
        self._unserved: Iterator[Subscription] = iter(())
        self._called: Subscription | None = None
        self._open: list[Subscription] = []
        self._closed = False

    def subscribe(
        self, subscriber: IJobSubscriber, *, name: str, replay: Iterable[JobEvent] = ()
    ) -> Subscription:
        """Deliver the events of ``replay``, then all that are posted from now on.

        The subscriber may be called before this returns.
        """
        subscription = Subscription(
            subscriber,
            name,
            tuple(replay),
            self._limit,
            self._stats.child(name),
            self._log,
            self,
        )
        self.queue_present()
        self._active += (subscription,)
        self._open.append(subscription)
        self._watch(name)
        subscription.run()
        if self._closed:
            subscription.close()
        return subscription

    @property
    def open(self) -> Sequence[Subscription]:
        """Those that are not closed, the oldest first."""
        return tuple(self._open)

    def delivered(self, name: str) -> int:
        """How many events the open subscribers of that name have been called for."""
        return sum(one.delivered for one in self._open if one.name == name)

    def queued(self, name: str) -> int:
        """How many events wait for the subscribers of that name."""
        return sum(len(one.queue) for one in self._open if one.name == name)

    def busy_seconds(self, name: str) -> float:
        """For how long a subscriber of that name has not been done with its present event."""
        since = [one.busy_since for one in self._open if one.name == name and one.waiting]
        return max(0.0, self.now() - min(since)) if since else 0.0

    def _watch(self, name: str) -> None:
        """Have the group of that name tell how they are, as long as there are any."""
        group = self._stats.child(name)
        if any(one.name == name for one in self._open):
            group.counts("delivered", lambda: self.delivered(name))
            group.gauge("queued", lambda: self.queued(name))
            group.gauge("busy_seconds", lambda: self.busy_seconds(name))
        else:
            group.remove_gauge("queued")
            group.remove_gauge("busy_seconds")

    def post(self, events: Iterable[JobEvent]) -> None:
        """Deliver to all: now, or in their turn to those who are not free."""
        if self._rest is not None:
            self.queue_present()
        subscriptions = self._active
        self._rest = rest = iter(events)
        try:
            for event in rest:
                kind = type(event)
                self._event = event
                self._unserved = unserved = iter(subscriptions)
                for subscription in unserved:
                    self._called = subscription
                    if subscription.free:
                        subscription.delivered += 1
                        try:
                            result = subscription.calls[kind](event)
                            if result is not None:
                                subscription.wait_for(result)
                        except PLUGIN_FAULTS:
                            subscription.failed()
                    else:
                        subscription.enqueue(event)
                        subscription.run()
        except BaseException:
            self.queue_present()
            raise
        finally:
            if self._rest is rest:
                self._rest = self._event = None
            else:  # it has been queued
                subscription.busy = subscription.waiting
                for subscription in subscriptions:
                    subscription.run()

    def queue_present(self) -> None:
        """From inside a call: queue what is being posted for all who have still to get it, so that
        it comes before whatever follows from the call."""
        rest, self._rest = self._rest, None
        called = self._called
        if rest is None or called is None:
            return
        called.busy = True
        called.free = False
        for subscription in self._unserved:
            subscription.enqueue(self._event)
        for event in rest:
            for subscription in self._active:
                subscription.enqueue(event)

    def close(self) -> Deferred[None]:
        """Close all subscriptions, future ones too; fires when every one of them is closed."""
        self._closed = True
        done = DeferredList([subscription.close() for subscription in list(self._open)])
        return done.addCallback(lambda results: None)

    def abandon(self, name: str | None = None) -> int:
        """Wait no longer for the subscribers of that name, or for any; tell how many events they
        had still to get."""
        abandoned = [one for one in self._open if name is None or one.name == name]
        discarded = sum(one.abandon() for one in abandoned)
        for one in abandoned:
            self.forget(one)
        return discarded

    def retire(self, subscription: Subscription) -> None:
        """Post nothing more to it: it closes."""
        self._active = tuple(other for other in self._active if other is not subscription)

    def forget(self, subscription: Subscription) -> None:
        """It has closed, or is waited for no longer."""
        if subscription in self._open:  # it has not been abandoned before
            self._open.remove(subscription)
            self._stats.child(subscription.name).add("delivered", subscription.delivered)
            self._watch(subscription.name)
