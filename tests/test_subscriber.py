"""Tests of ldmsjob.subscriber."""

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import providedBy
from zope.interface.verify import verifyObject

from ldmsjob.interfaces import IJobSubscriber
from ldmsjob.subscriber import JobSubscriber


class JobSubscriberTests(SynchronousTestCase):
    """The base class."""

    def test_does_nothing_about_anything(self) -> None:
        """It has every method of the interface, and none makes the next event wait."""
        subscriber = JobSubscriber()
        verifyObject(IJobSubscriber, subscriber)
        for name in IJobSubscriber:
            arguments = () if name == "subscription_closed" else (None,)
            self.assertIsNone(getattr(subscriber, name)(*arguments))
        self.assertIn(IJobSubscriber, providedBy(subscriber))
