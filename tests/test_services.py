"""Services that start and stop in order."""

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.services import OrderedServices, ServiceGroup


class Stopping(Service):
    """A service whose stop is a Deferred that the test fires, or that fails."""

    def __init__(self, name, log, result):
        self.setName(name)
        self.log = log
        self.result = result

    def stopService(self):
        """Recorded."""
        self.log.append(self.name)
        return self.result


class OrderedServicesTests(SynchronousTestCase):
    """Stopping in order."""

    def setUp(self):
        """Services on a clock."""
        self.clock = Clock()
        self.log = []
        self.events = []
        self.services = OrderedServices("all", self.clock, 5.0)

    def add(self, name, result=None):
        """One more service."""
        Stopping(name, self.log, result).setServiceParent(self.services)

    def test_last_first_one_after_the_other(self):
        """A service stops when those started after it have stopped."""
        slow = Deferred()
        self.add("a")
        self.add("b", slow)
        self.add("c")
        stopped = self.services.stopService()
        self.assertEqual(self.log, ["c", "b"])
        self.assertNoResult(stopped)
        slow.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.log, ["c", "b", "a"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_does_not_stop_is_left(self):
        """After its time it is left; if it stops later nothing more happens."""
        self.patch(OrderedServices, "log", Logger(observer=self.events.append))
        stuck = Deferred()
        self.add("a")
        self.add("b", stuck)
        stopped = self.services.stopService()
        self.clock.advance(5)
        self.successResultOf(stopped)
        self.assertEqual(self.log, ["b", "a"])
        self.assertEqual(
            [formatEvent(event) for event in self.events],
            ["b did not stop within 5 s and is left"],
        )
        stuck.callback(None)

    def test_side_by_side(self):
        """Those of a group are told last one first, and share the time that they have."""
        self.services = ServiceGroup("group", self.clock, 5.0)
        self.add("a", Deferred())
        self.add("b")
        self.add("c", Deferred())
        stopped = self.services.stopService()
        self.assertEqual(self.log, ["c", "b", "a"])
        self.assertNoResult(stopped)
        self.clock.advance(5)
        self.successResultOf(stopped)

    def test_hurry(self):
        """What is waited for is left at once, as is what comes later; each is named."""
        self.patch(OrderedServices, "log", Logger(observer=self.events.append))
        group = ServiceGroup("group", self.clock, 5.0)
        group.setServiceParent(self.services)
        for name in "ab":
            Stopping(name, self.log, Deferred()).setServiceParent(group)
        outer = OrderedServices("outer", self.clock)
        self.services.setServiceParent(outer)
        Stopping("c", self.log, Deferred()).setServiceParent(self.services)
        stopped = outer.stopService()
        self.clock.advance(2)
        self.assertEqual(self.log, ["c"])
        outer.hurry()
        self.successResultOf(stopped)
        self.assertEqual(self.log, ["c", "b", "a"])
        self.assertEqual(
            [formatEvent(event) for event in self.events],
            [
                "c did not stop within 2 s and is left",
                "b did not stop within 0 s and is left",
                "a did not stop within 0 s and is left",
            ],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_fails_is_logged(self):
        """And the others stop."""
        self.add("a")
        self.add("b", fail(ValueError("no")))
        self.successResultOf(self.services.stopService())
        self.assertEqual(self.log, ["b", "a"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
