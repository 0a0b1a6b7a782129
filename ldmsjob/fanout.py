"""Hands job events to subscribers, each on an ordered chain of its own.

A slow, failing or blocked subscriber delays nobody else, and changes the order for nobody. Events
are first put into every subscriber's queue and only then delivered, so a subscriber may do anything
from inside a call: subscribe another, close itself or another, or cause further events.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
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
    """One subscriber's queue. Made by ``Fanout.subscribe``.

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
        self.waiting = False
        """Whether a Deferred of the subscriber has not fired."""
        self.busy_since = 0.0
        """While it is ``waiting``: since when, in monotonic seconds."""
        self._subscriber = subscriber
        self._calls: dict[type, Callable[[Any], Any]] = {
            JobStarted: subscriber.job_started,
            StepStarted: subscriber.step_started,
            TaskStarted: subscriber.task_started,
            TaskEnded: subscriber.task_ended,
            StepEnded: subscriber.step_ended,
            JobEnded: subscriber.job_ended,
            JobSetDeleted: subscriber.job_set_deleted,
            EventsLost: subscriber.events_lost,
        }
        self._stats = stats
        stats.add("delivered", 0)
        self._counters = stats.values
        self._log = log
        self._fanout = fanout
        self._running = False
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
        discarded = len(self.queue)
        self._stats.add("discarded", discarded)
        self.queue.clear()
        self._lost = None
        return discarded

    def drop_oldest(self) -> None:
        """Cut the queue down to its limit, and remember what its subscriber has to be told."""
        queue = self.queue
        excess = len(queue) - self.limit
        first = queue[0].sequence
        for _ in range(excess):
            last = queue.popleft().sequence
        before = self._lost
        if before is not None:
            self._lost = EventsLost(before.count + excess, before.first_sequence, last)
        else:
            self._lost = EventsLost(excess, first, last)
        self._stats.add("lost", excess)

    def run(self) -> None:
        """Deliver what is queued, until the subscriber makes the next event wait."""
        if self._running or self.waiting or self._closed:
            return
        self._running = True
        delivered = 0
        queue, calls = self.queue, self._calls
        try:
            while queue or self._lost is not None:
                event: JobEvent | EventsLost
                if self._lost is None:
                    event = queue.popleft()
                    delivered += 1
                else:
                    event, self._lost = self._lost, None
                try:
                    result = calls[type(event)](event)
                    if result is None:
                        if self._failures:
                            self._failures = 0
                    elif self._must_wait(result):
                        break
                except PLUGIN_FAULTS:
                    self._failed()
        finally:
            self._counters["delivered"] += delivered
            self._running = False
        if self._closing and not self.waiting:
            self._finish()

    def _must_wait(self, result: Any) -> bool:
        """Go on when the Deferred, or the coroutine, has its result; whether it has none yet."""
        if not isinstance(result, Deferred):
            result = Deferred.fromCoroutine(result)
        self.waiting = True
        self.busy_since = self._fanout.now()
        result.addCallbacks(self._succeeded, self._failed_later)
        result.addBoth(self._resume)
        return self.waiting

    def _succeeded(self, result: object) -> None:
        self._failures = 0

    def _resume(self, result: object) -> None:
        self.waiting = False
        self.run()

    def _failed_later(self, failure: Failure) -> None:
        try:
            failure.raiseException()
        except PLUGIN_FAULTS:
            self._failed()

    def _failed(self) -> None:
        """Count and log the exception now being handled."""
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
            self._failed()
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
        limit: int = Limits.event_queue,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.now = now
        self._stats = stats
        self._log = log
        self._limit = limit
        self._active: tuple[Subscription, ...] = ()
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
            group.gauge("queued", lambda: self.queued(name))
            group.gauge("busy_seconds", lambda: self.busy_seconds(name))
        else:
            group.remove_gauge("queued")
            group.remove_gauge("busy_seconds")

    def post(self, events: Iterable[JobEvent]) -> None:
        """Deliver to all: now, or in their turn to those who are busy."""
        subscriptions = self._active
        for subscription in subscriptions:
            queue = subscription.queue
            queue.extend(events)
            if subscription.waiting and len(queue) > subscription.limit:
                subscription.drop_oldest()
        for subscription in subscriptions:
            subscription.run()

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
        self._open = [one for one in self._open if one not in abandoned]
        for one in abandoned:
            self._watch(one.name)
        return discarded

    def retire(self, subscription: Subscription) -> None:
        """Post nothing more to it: it closes."""
        self._active = tuple(other for other in self._active if other is not subscription)

    def forget(self, subscription: Subscription) -> None:
        """It has closed."""
        if subscription in self._open:  # it has not been abandoned
            self._open.remove(subscription)
            self._watch(subscription.name)
