"""Tests of ldmsjob.fanout."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.events import EventsLost, JobEnded, JobEvent, JobStarted
from ldmsjob.facts import JobFacts, JobKey
from ldmsjob.fanout import MAX_FAILURES, Fanout
from ldmsjob.interfaces import ISubscription
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.stats import Stats
from ldmsjob.subscriber import JobSubscriber

KEY = JobKey("slurm", "1")
FACTS = JobFacts("slurm_1")


def event(sequence: int, kind: type = JobStarted) -> JobEvent:
    """An event that is told from others by its sequence number."""
    return kind(KEY, None, FACTS, sequence, 0, 0, "message")


class Recorder(JobSubscriber):
    """Notes the sequence numbers of what it gets; ``answer`` decides what its calls return."""

    def __init__(self, answer: Any = None) -> None:
        self.got: list[Any] = []
        self.answer = answer

    def job_started(self, event: JobStarted) -> Any:
        """Note it."""
        self.got.append(event.sequence)
        return self.answer(event) if self.answer is not None else None

    def events_lost(self, event: EventsLost) -> None:
        """Note what it tells."""
        self.got.append(("lost", event.count, event.first_sequence, event.last_sequence))

    def subscription_closed(self) -> None:
        """Note the last call."""
        self.got.append("closed")


class FanoutCase(SynchronousTestCase):
    """A fan-out whose log and counters can be looked at."""

    def setUp(self) -> None:
        """A fan-out with the usual limit."""
        self.stats = Stats()
        self.fanout = self.make()

    def make(self, **options: Any) -> Fanout:
        """A fan-out."""
        return Fanout(self.stats, LimitedLog(Logger(namespace="test")), **options)

    def counter(self, name: str, subscriber: str = "a") -> int:
        """A counter of one subscriber."""
        return self.stats.child(subscriber).get(name)


class GaugeTests(FanoutCase):
    """How subscribers are."""

    def gauges(self, name: str = "a") -> dict[str, float]:
        """Those of one subscriber."""
        return self.stats.child(name).gauges()

    def test_stuck(self) -> None:
        """It tells how many events wait and for how long; when it is done it tells nothing."""
        clock = Clock()
        self.fanout = self.make(now=clock.seconds)
        gates: list[Deferred[None]] = []

        def answer(_event: JobEvent) -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        self.fanout.subscribe(Recorder(answer), name="a")
        self.assertEqual(self.gauges(), {"busy_seconds": 0, "queued": 0})
        clock.advance(5)
        self.fanout.post([event(1), event(2), event(3)])
        clock.advance(7)
        self.assertEqual(self.gauges(), {"busy_seconds": 7, "queued": 2})
        gates[0].callback(None)
        self.assertEqual(self.gauges(), {"busy_seconds": 0, "queued": 1})

    def test_the_longest_of_one_name(self) -> None:
        """Counts: another one that has just begun does not hide it."""
        clock = Clock()
        self.fanout = self.make(now=clock.seconds)
        self.fanout.subscribe(Recorder(lambda _event: Deferred()), name="a")
        self.fanout.post([event(1)])
        clock.advance(7)
        self.fanout.subscribe(Recorder(lambda _event: Deferred()), name="a")
        self.fanout.post([event(2)])
        self.assertEqual(self.gauges()["busy_seconds"], 7)

    def test_several_of_one_name(self) -> None:
        """They are told together, until the last of them closes or is abandoned."""
        first = self.fanout.subscribe(Recorder(lambda _event: Deferred()), name="a")
        self.fanout.subscribe(Recorder(lambda _event: Deferred()), name="a")
        self.fanout.post([event(1), event(2)])
        self.assertEqual(self.gauges()["queued"], 2)
        first.abandon()
        self.fanout.abandon("a")
        self.assertEqual(self.gauges(), {})
        third = self.fanout.subscribe(Recorder(), name="a")
        self.assertEqual(self.gauges()["queued"], 0)
        self.assertEqual(self.fanout.open, (third,))
        third.close()
        self.assertEqual(self.gauges(), {})


class DeliveryTests(FanoutCase):
    """Order and independence of subscribers."""

    def test_calls_in_order_of_subscription(self) -> None:
        """Each event goes to every subscriber, in the order in which they subscribed."""
        got: list[Any] = []
        for name in "ab":
            self.fanout.subscribe(
                Recorder(lambda event, name=name: got.append((name, event.sequence))), name=name
            )
        self.fanout.post([event(1), event(2)])
        self.assertEqual(got, [("a", 1), ("b", 1), ("a", 2), ("b", 2)])
        self.assertEqual(self.counter("delivered"), 2)

    def test_each_kind_has_its_method(self) -> None:
        """An event goes to the method of its kind."""
        ended = []

        class Ended(JobSubscriber):
            def job_ended(self, event: JobEnded) -> None:
                ended.append(event.sequence)

        self.fanout.subscribe(Ended(), name="a")
        self.fanout.post([event(1), event(2, JobEnded)])
        self.assertEqual(ended, [2])

    def test_subscription_provides_its_interface(self) -> None:
        """What ``subscribe`` returns is an ISubscription."""
        verifyObject(ISubscription, self.fanout.subscribe(Recorder(), name="a"))

    def test_waits_for_a_deferred_of_its_own_only(self) -> None:
        """A subscriber's next event waits for its Deferred; nobody else's does."""
        gates: list[Deferred[None]] = []

        def wait(event: JobEvent) -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        slow, quick = Recorder(wait), Recorder()
        self.fanout.subscribe(slow, name="a")
        self.fanout.subscribe(quick, name="b")
        self.fanout.post([event(1), event(2)])
        self.fanout.post([event(3)])
        self.assertEqual((slow.got, quick.got), ([1], [1, 2, 3]))
        gates[0].callback(None)
        self.assertEqual(slow.got, [1, 2])
        gates[1].callback(None)
        gates[2].callback(None)
        self.assertEqual(slow.got, [1, 2, 3])
        self.fanout.post([event(4)])
        self.assertEqual(slow.got, [1, 2, 3, 4])

    def test_fired_deferreds_do_not_nest(self) -> None:
        """Many Deferreds that have fired already are worked off without recursion."""
        recorder = Recorder(lambda event: succeed(None))
        self.fanout.subscribe(recorder, name="a")
        self.fanout.post([event(number) for number in range(3000)])
        self.assertEqual(recorder.got, list(range(3000)))

    def test_coroutine_is_waited_for(self) -> None:
        """A method may be a coroutine function."""
        gate: Deferred[None] = Deferred()

        async def wait(event: JobEvent) -> None:
            await gate

        recorder = Recorder(wait)
        self.fanout.subscribe(recorder, name="a")
        self.fanout.post([event(1), event(2)])
        self.assertEqual(recorder.got, [1])
        gate.callback(None)
        self.assertEqual(recorder.got, [1, 2])

    def test_other_results_are_failures(self) -> None:
        """A result that nobody can wait for is counted as a failure, and delivery goes on."""
        recorder = Recorder(lambda event: 5)
        self.fanout.subscribe(recorder, name="a")
        self.fanout.post([event(1), event(2)])
        self.assertEqual(recorder.got, [1, 2])
        self.assertEqual(self.counter("failed"), 2)
        self.flushLoggedErrors()


class LimitTests(FanoutCase):
    """The bounded queue."""

    def test_oldest_are_dropped_and_told(self) -> None:
        """One call tells how many were dropped and which, before the next event."""
        self.fanout = self.make(limit=3)
        gate: Deferred[None] = Deferred()
        recorder = Recorder(lambda event: gate if event.sequence == 1 else None)
        other = Recorder()
        self.fanout.subscribe(recorder, name="a")
        self.fanout.subscribe(other, name="b")
        for number in range(1, 8):
            self.fanout.post([event(number)])
        gate.callback(None)
        self.assertEqual(recorder.got, [1, ("lost", 3, 2, 4), 5, 6, 7])
        self.assertEqual(other.got, [1, 2, 3, 4, 5, 6, 7])
        self.assertEqual(self.counter("lost"), 3)
        self.assertEqual(self.counter("delivered"), 4)

    def test_told_once_for_each_loss(self) -> None:
        """A second loss is told with its own range."""
        self.fanout = self.make(limit=1)
        gates: list[Deferred[None]] = []

        def wait(event: JobEvent) -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        recorder = Recorder(wait)
        self.fanout.subscribe(recorder, name="a")
        self.fanout.post([event(number) for number in (1, 2, 3)])
        self.fanout.post([event(4)])
        gates[0].callback(None)
        self.fanout.post([event(5), event(6)])
        gates[1].callback(None)
        self.assertEqual(recorder.got, [1, ("lost", 2, 2, 3), 4, ("lost", 1, 5, 5), 6])

    def test_synchronous_subscriber_loses_nothing(self) -> None:
        """The limit is for those who are waited for, whatever one post brings."""
        self.fanout = self.make(limit=3)
        recorder = Recorder()
        self.fanout.subscribe(recorder, name="a")
        self.fanout.post([event(number) for number in range(10)])
        self.assertEqual(recorder.got, list(range(10)))

    def test_replay_does_not_count(self) -> None:
        """A replay longer than the limit arrives whole."""
        self.fanout = self.make(limit=1)
        gate: Deferred[None] = Deferred()
        recorder = Recorder(lambda event: gate)
        replay = [event(0) for _ in range(5)]
        self.fanout.subscribe(recorder, name="a", replay=replay)
        self.fanout.post([event(1)])
        gate.callback(None)
        self.assertEqual(recorder.got, [0, 0, 0, 0, 0, 1])


class FailureTests(FanoutCase):
    """Subscribers that raise."""

    def test_failure_hurts_only_itself(self) -> None:
        """A call that raises, or whose Deferred fails, is counted and logged; all goes on."""

        def misbehave(event: JobEvent) -> Deferred[None] | None:
            if event.sequence == 1:
                raise ZeroDivisionError("raised")
            return fail(ZeroDivisionError("failed")) if event.sequence == 2 else None

        bad, good = Recorder(misbehave), Recorder()
        self.fanout.subscribe(bad, name="a")
        self.fanout.subscribe(good, name="b")
        self.fanout.post([event(1), event(2), event(3)])
        self.assertEqual((bad.got, good.got), ([1, 2, 3], [1, 2, 3]))
        self.assertEqual(self.counter("failed"), 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_given_up_after_many_failures_in_a_row(self) -> None:
        """Then it gets its last call and nothing more, and what was queued is counted."""

        def misbehave(event: JobEvent) -> None:
            raise ZeroDivisionError

        bad, good = Recorder(misbehave), Recorder()
        subscription = self.fanout.subscribe(bad, name="a")
        self.fanout.subscribe(good, name="b")
        self.fanout.post([event(number) for number in range(MAX_FAILURES + 5)])
        self.fanout.post([event(1000)])
        self.assertEqual(bad.got, [*range(MAX_FAILURES), "closed"])
        self.assertEqual(good.got[-1], 1000)
        self.assertEqual(self.counter("discarded"), 5)
        self.successResultOf(subscription.close())
        self.assertEqual(bad.got.count("closed"), 1)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_given_up_after_failing_deferreds(self) -> None:
        """Failing later counts like raising."""
        bad = Recorder(lambda event: fail(ZeroDivisionError()))
        self.fanout.subscribe(bad, name="a")
        self.fanout.post([event(number) for number in range(MAX_FAILURES + 5)])
        self.assertEqual(bad.got, [*range(MAX_FAILURES), "closed"])
        self.flushLoggedErrors(ZeroDivisionError)

    def test_one_success_starts_the_count_again(self) -> None:
        """Only failures in a row count: also when a Deferred succeeds between them."""

        def misbehave(event: JobEvent) -> Deferred[None] | None:
            if event.sequence % 50 == 0:
                return succeed(None) if event.sequence % 100 else None
            raise ZeroDivisionError

        bad = Recorder(misbehave)
        self.fanout.subscribe(bad, name="a")
        self.fanout.post([event(number) for number in range(3 * MAX_FAILURES)])
        self.assertEqual(bad.got, list(range(3 * MAX_FAILURES)))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_exit_hurts_only_itself(self) -> None:
        """A subscriber that wants to end the process is one that fails."""

        def leave(event: JobEvent) -> None:
            if event.sequence == 1:
                sys.exit(3)

        leaver, other = Recorder(leave), Recorder()
        self.fanout.subscribe(leaver, name="a")
        self.fanout.subscribe(other, name="b")
        self.fanout.post([event(1)])
        self.fanout.post([event(2)])
        self.assertEqual((leaver.got, other.got), ([1, 2], [1, 2]))
        self.assertEqual(self.counter("failed"), 1)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.successResultOf(self.fanout.close())
        self.assertEqual(leaver.got[-1], "closed")

    def test_interrupt(self) -> None:
        """One that gets through to the caller costs nobody an event."""

        def interrupt(event: JobEvent) -> None:
            if event.sequence == 1:
                raise KeyboardInterrupt

        bad, good = Recorder(interrupt), Recorder()
        self.fanout.subscribe(bad, name="a")
        self.fanout.subscribe(good, name="b")
        self.assertRaises(KeyboardInterrupt, self.fanout.post, [event(1), event(2)])
        self.fanout.post([event(3)])
        self.assertEqual((bad.got, good.got), ([1, 2, 3], [1, 2, 3]))

    def test_failing_last_call(self) -> None:
        """``close`` fires although ``subscription_closed`` raises."""

        class Bad(JobSubscriber):
            def subscription_closed(self) -> None:
                raise ZeroDivisionError

        self.successResultOf(self.fanout.subscribe(Bad(), name="a").close())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class CloseTests(FanoutCase):
    """The end of a subscription."""

    def test_idle(self) -> None:
        """Closing calls ``subscription_closed`` once, however often it is asked for."""
        recorder = Recorder()
        subscription = self.fanout.subscribe(recorder, name="a")
        self.successResultOf(subscription.close())
        self.successResultOf(subscription.close())
        self.fanout.post([event(1)])
        self.assertEqual(recorder.got, ["closed"])

    def test_delivers_what_was_queued(self) -> None:
        """Events posted before the close still come, later ones do not; then the last call."""
        gate: Deferred[None] = Deferred()
        recorder = Recorder(lambda event: gate if event.sequence == 1 else None)
        subscription = self.fanout.subscribe(recorder, name="a")
        self.fanout.post([event(1), event(2)])
        first, second = subscription.close(), subscription.close()
        self.fanout.post([event(3)])
        self.assertNoResult(first)
        gate.callback(None)
        self.assertEqual(recorder.got, [1, 2, "closed"])
        self.successResultOf(first)
        self.successResultOf(second)

    def test_from_inside_a_call(self) -> None:
        """A subscriber may close itself: it still gets the rest of what was posted with it."""
        recorder = Recorder(lambda event: subscription.close() and None)
        subscription = self.fanout.subscribe(recorder, name="a")
        self.fanout.post([event(1), event(2)])
        self.fanout.post([event(3)])
        self.assertEqual(recorder.got, [1, 2, "closed"])

    def test_delivered_stays(self) -> None:
        """What those were called for who have closed is counted on."""
        first = self.fanout.subscribe(Recorder(), name="a")
        self.fanout.subscribe(Recorder(), name="a")
        self.fanout.post([event(1)])
        first.close()
        self.assertEqual(self.counter("delivered"), 2)
        self.fanout.post([event(2)])
        self.assertEqual(self.counter("delivered"), 3)
        self.assertEqual(dict(self.stats.groups()), {"a": {"delivered": 3}})

    def test_close_all(self) -> None:
        """The fan-out's close fires when the last subscriber is done, a closing one included."""
        gates: list[Deferred[None]] = []

        def wait(event: JobEvent) -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        slow, closing, quick = Recorder(wait), Recorder(wait), Recorder()
        self.fanout.subscribe(slow, name="a")
        subscription = self.fanout.subscribe(closing, name="b")
        self.fanout.subscribe(quick, name="c")
        self.fanout.post([event(1)])
        subscription.close()
        closed = self.fanout.close()
        self.assertEqual(quick.got, [1, "closed"])
        gates[0].callback(None)
        self.assertNoResult(closed)
        gates[1].callback(None)
        self.successResultOf(closed)
        self.assertEqual((slow.got, closing.got), ([1, "closed"], [1, "closed"]))

    def test_abandoned(self) -> None:
        """What it had still to get is counted, and nobody waits for it any more; when it is done
        after all, it gets its last call and nothing else."""
        waiting: Deferred[None] = Deferred()
        stuck = Recorder(lambda event: waiting)
        other = Recorder()
        self.fanout.subscribe(stuck, name="stuck")
        self.fanout.subscribe(other, name="other")
        self.fanout.post([event(1), event(2), event(3)])
        self.assertEqual(self.fanout.abandon("stuck"), 2)
        self.assertEqual(self.counter("discarded", "stuck"), 2)
        self.fanout.post([event(4)])
        self.successResultOf(self.fanout.close())
        self.assertEqual(self.fanout.abandon(), 0)
        self.assertEqual(stuck.got, [1])
        waiting.callback(None)
        self.assertEqual(stuck.got, [1, "closed"])
        self.assertEqual(other.got, [1, 2, 3, 4, "closed"])

    def test_subscribing_after_the_close(self) -> None:
        """A late subscriber gets its last call at once, so that it need not know."""
        self.successResultOf(self.fanout.close())
        recorder = Recorder()
        self.fanout.subscribe(recorder, name="a")
        self.assertEqual(recorder.got, ["closed"])


class ReentrancyTests(FanoutCase):
    """What subscribers do from inside a call."""

    def test_posting(self) -> None:
        """Events that a subscriber causes come behind those that were posted before, for all."""

        def post_more(got: JobEvent) -> None:
            if got.sequence == 1:
                self.fanout.post([event(3), event(4)])

        first, second = Recorder(post_more), Recorder()
        self.fanout.subscribe(first, name="a")
        self.fanout.subscribe(second, name="b")
        self.fanout.post([event(1), event(2)])
        self.assertEqual((first.got, second.got), ([1, 2, 3, 4], [1, 2, 3, 4]))

    def test_subscribing(self) -> None:
        """A subscriber made from inside a call gets its replay, and no event posted before it."""
        late = Recorder()

        def subscribe(got: JobEvent) -> None:
            if got.sequence == 1:
                self.fanout.subscribe(late, name="late", replay=[event(2)])

        self.fanout.subscribe(Recorder(subscribe), name="a")
        self.fanout.post([event(1), event(2)])
        self.fanout.post([event(3)])
        self.assertEqual(late.got, [2, 3])

    def test_closing_another(self) -> None:
        """A subscriber that another one closes still gets what was posted to both."""
        second = Recorder()
        first = Recorder(lambda event: subscription.close() and None)
        self.fanout.subscribe(first, name="a")
        subscription = self.fanout.subscribe(second, name="b")
        self.fanout.post([event(1), event(2)])
        self.assertEqual(first.got, [1, 2])
        self.assertEqual(second.got, [1, 2, "closed"])

    def test_subscribing_and_posting(self) -> None:
        """One that is new in a call gets what is posted there next, and none of what was before."""
        late = Recorder()

        def subscribe(got: JobEvent) -> None:
            if got.sequence == 1:
                self.fanout.subscribe(late, name="late")
                self.fanout.post([event(3)])

        recorder = Recorder()
        self.fanout.subscribe(Recorder(subscribe), name="a")
        self.fanout.subscribe(recorder, name="b")
        self.fanout.post([event(1), event(2)])
        self.assertEqual((late.got, recorder.got), ([3], [1, 2, 3]))

    def test_posting_and_waiting(self) -> None:
        """What a call posts before it makes the next event wait waits behind what was there."""
        gate: Deferred[None] = Deferred()

        def post_more(got: JobEvent) -> Deferred[None] | None:
            if got.sequence == 1:
                self.fanout.post([event(3)])
                return gate
            return None

        first, second = Recorder(post_more), Recorder()
        self.fanout.subscribe(first, name="a")
        self.fanout.subscribe(second, name="b")
        self.fanout.post([event(1), event(2)])
        self.assertEqual((first.got, second.got), ([1], [1, 2, 3]))
        gate.callback(None)
        self.assertEqual(first.got, [1, 2, 3])

    def test_resuming_the_next(self) -> None:
        """One that is resumed from inside a call for an event it has yet to get gets that then."""
        gate: Deferred[None] = Deferred()

        def open_gate(got: JobEvent) -> None:
            if got.sequence == 3:
                gate.callback(None)

        self.fanout.subscribe(Recorder(open_gate), name="a")
        slow = Recorder(lambda event: gate if event.sequence == 1 else None)
        self.fanout.subscribe(slow, name="b")
        self.fanout.post([event(1)])
        self.fanout.post([event(2)])
        self.fanout.post([event(3), event(4)])
        self.assertEqual(slow.got, [1, 2, 3, 4])

    def test_resuming_from_inside_another_call(self) -> None:
        """A Deferred that another subscriber fires resumes its subscriber in order."""
        gate: Deferred[None] = Deferred()
        slow = Recorder(lambda event: gate if event.sequence == 1 else None)
        self.fanout.subscribe(slow, name="a")

        def open_gate(got: JobEvent) -> None:
            if got.sequence == 2:
                gate.callback(None)

        self.fanout.subscribe(Recorder(open_gate), name="b")
        self.fanout.post([event(1)])
        self.fanout.post([event(2), event(3)])
        self.assertEqual(slow.got, [1, 2, 3])
