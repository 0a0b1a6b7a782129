"""Recorded messages, and sending them as Slurm's notifier does."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import PublishError
from ldmsjob.interfaces import ILinkSite
from ldmsjob.replay import Notifier, recorded_messages
from ldmsjob.wire.events import JSON, CreditReturned, Publish


class RecordingTests(SynchronousTestCase):
    """What was recorded."""

    def test_payloads_have_the_recorded_length(self) -> None:
        """Every payload is as long as the one that was on the wire, its NUL included."""
        lines = (resources.files("ldmsjob.recordings") / "slurm-messages.jsonl").read_text("utf-8")
        lengths = [json.loads(line)["payload_len"] for line in lines.splitlines()]
        messages = recorded_messages()
        self.assertEqual([len(message.payload) for message in messages], lengths)
        self.assertTrue(all(message.payload.endswith(b"}\0") for message in messages))

    def test_scenarios_come_in_the_order_asked_for(self) -> None:
        """A choice of scenarios is a choice of order, too."""
        messages = recorded_messages(["requeue", "array3"])
        self.assertEqual(
            [message.scenario for message in messages], ["requeue"] * 11 + ["array3"] * 18
        )

    def test_unknown_scenario(self) -> None:
        """A name that was not recorded is an error."""
        self.assertRaises(KeyError, recorded_messages, ["no_such"])


class FakeLink:
    """Keeps what it is told to send; refuses it when ``error`` is set."""

    def __init__(self, error: PublishError | None = None) -> None:
        self.sent: list[Any] = []
        self.closed = False
        self._error = error

    def send(self, command: Any) -> None:
        """Keep it, or refuse it."""
        if self._error is not None:
            raise self._error
        self.sent.append(command)

    def close(self) -> None:
        """Remember it."""
        self.closed = True


class FakeTransport:
    """Keeps whom it is to connect; the test decides what happens."""

    def __init__(self) -> None:
        self.opened: Deferred[Any] = Deferred()
        self.site: Any = None

    def connect(self, host: str, port: int, site: Any, auth: Any, settings: Any) -> Any:
        """Remember the site."""
        self.site = site
        return self.opened


class NotifierTests(SynchronousTestCase):
    """One message, one connection."""

    def setUp(self) -> None:
        """A message is on its way; nothing has happened yet."""
        self.transport = FakeTransport()
        self.done = Notifier(self.transport, object(), "h", 1).send(b"{}\0")  # type: ignore[arg-type]
        self.site = self.transport.site
        verifyObject(ILinkSite, self.site)

    def open(self, link: FakeLink) -> FakeLink:
        """Let the connection succeed."""
        self.site.link_opened(link)
        self.transport.opened.callback(link)
        return link

    def test_message_credit_close(self) -> None:
        """It publishes JSON, closes when the credit is back, and is done when the link is gone."""
        link = self.open(FakeLink())
        (message,) = link.sent
        self.assertIsInstance(message, Publish)
        self.assertEqual((message.channel, message.data, message.kind), ("slurm", b"{}\0", JSON))
        self.assertFalse(link.closed)
        self.site.link_events(link, [CreditReturned(9, 0)])
        self.assertTrue(link.closed)
        self.assertNoResult(self.done)
        self.site.link_closed(link, Failure(ConnectionLost()))
        self.assertIsNone(self.successResultOf(self.done))

    def test_no_connection(self) -> None:
        """Without a connection it fails with the reason."""
        self.site.link_refused("h:1", "refused")
        self.transport.opened.errback(Failure(ConnectError()))
        self.failureResultOf(self.done, ConnectError)

    def test_lost_before_credit(self) -> None:
        """A link that ends before the credit came is a failure."""
        link = self.open(FakeLink())
        self.site.link_closed(link, Failure(ConnectionLost()))
        self.failureResultOf(self.done, ConnectionLost)

    def test_message_service_off(self) -> None:
        """A credit that says that nobody took the message is a failure, and so is a refusal."""
        link = self.open(FakeLink())
        self.site.link_events(link, [CreditReturned(9, 95)])
        self.site.link_closed(link, Failure(ConnectionLost()))
        self.assertEqual(self.failureResultOf(self.done, PublishError).value.rc, 95)

    def test_refused_here(self) -> None:
        """A message that the peer must not get closes the link and is a failure."""
        link = self.open(FakeLink(PublishError("off", rc=95)))
        self.assertTrue(link.closed)
        self.site.link_closed(link, Failure(ConnectionLost()))
        self.failureResultOf(self.done, PublishError)
