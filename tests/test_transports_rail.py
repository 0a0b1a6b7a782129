"""Rails and rates of links: in memory, and over the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.errors import PeerError
from ldmsjob.interfaces import AuthStep, ILink, IRail, LinkSettings
from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.stats import Stats
from ldmsjob.transports.auth_none import NoneAuthentication, NoneAuthenticator
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.transports.rail import ArrivingRails, Rail
from ldmsjob.turns import Turn
from ldmsjob.wire.events import (
    ChangeQuota,
    ChangeRate,
    Credential,
    Message,
    Publish,
    Subscribe,
    SubscribeAnswered,
)
from ldmsjob.wire.rail import RailGroups, endpoint_of
from ldmsjob.wire.setevents import LookUp
from tests.fake_links import FakeLink
from tests.fake_sites import FakeSite
from tests.test_transports_sock import SockTestCase

ON = LinkSettings(messages_enabled=lambda: True)
CHANNELS = ("slurm", "plain", "tagA", "x", "y", "z")


class NamedConversation(NoneAuthentication):
    """Takes the peer for a given user."""

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def first(self) -> AuthStep:
        """Satisfied at once."""
        return AuthStep(credential=Credential(self.uid, 0))


class NamedAuthenticator(NoneAuthenticator):
    """Takes every peer for a given user."""

    def __init__(self, uid: int) -> None:
        super().__init__()
        self.uid = uid

    def begin(self, **told: Any) -> NamedConversation:
        """A conversation of no words."""
        return NamedConversation(self.uid)


class RailTestCase(SynchronousTestCase):
    """A broker to which rails connect, in memory; the wall clock goes with the other one."""

    def setUp(self) -> None:
        """Make the broker."""
        self.clock = Clock()
        self.clock.advance(1000)
        self.stats = Stats()
        turn = Turn()
        self.hub_stats = Stats()
        self.hub = MessageHub(self.hub_stats, turn, wall_clock_us=self.wall_clock_us)
        self.hub.enable()
        self.site = LinkSite(self.hub, self.stats, turn, self.clock)
        self.arriving = ArrivingRails(self.clock, RailGroups(max_incomplete=2))
        self.client = FakeSite()
        self.pairs: list[MemoryPair] = []

    def tearDown(self) -> None:
        """Nothing is left behind."""
        self.site.close()
        self.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.arriving._rails, {})

    def wall_clock_us(self) -> int:
        """Microseconds."""
        return round(self.clock.seconds() * 1_000_000)

    def connect(
        self,
        rail: Rail | None = None,
        endpoint: int = 0,
        *,
        number: int = 1,
        address: str = "10.0.0.7",
        uid: int = 0,
        settings: LinkSettings = ON,
        **options: Any,
    ) -> MemoryPair:
        """Connect one endpoint to the broker."""

        def join(link: Any, claim: Any) -> None:
            self.arriving.join(link, address, claim)

        pair = MemoryPair(
            self.site,
            self.client,
            self.clock,
            left_settings=ON,
            right_settings=settings,
            left_authenticator=NamedAuthenticator(uid),
            left_options={"join_rail": join},
            right_options={"rail": rail, "rail_gn": number, "endpoint": endpoint, **options},
            wall_clock_us=self.wall_clock_us,
        )
        self.pairs.append(pair)
        self.settle()
        return pair

    def connect_rail(self, size: int, **options: Any) -> Rail:
        """Connect a whole rail."""
        rail = Rail(size, self.clock)
        for endpoint in range(size):
            self.connect(rail, endpoint, **options)
        return rail

    def settle(self) -> None:
        """Move all there is to move."""
        for _ in range(4):
            for pair in self.pairs:
                pair.settle()

    def send(self, link: ILink, command: Any) -> None:
        """Send a command of the client's, and settle."""
        link.send(command)
        self.settle()

    def answers(self) -> list[str]:
        """The texts of the broker's answers to subscriptions."""
        return [one.text for one in self.client.events if isinstance(one, SubscribeAnswered)]


class RailTests(RailTestCase):
    """Rails that connect to us."""

    def test_opens(self) -> None:
        """Every endpoint is a link that knows its rail."""
        rail = self.connect_rail(3)
        verifyObject(IRail, rail)
        self.assertEqual(len(self.site.links), 3)
        arrived: Any = self.site.links[0].rail
        self.assertEqual({id(link.rail) for link in self.site.links}, {id(arrived)})
        self.assertEqual((arrived.size, sorted(arrived.links)), (3, [0, 1, 2]))
        for index, link in arrived.links.items():
            self.assertEqual(link.endpoint, index)
        for link in self.client.links:
            self.assertIs(link.rail, rail)
        self.clock.advance(60)
        self.assertEqual(len(self.site.links), 3)

    def test_a_single_link_has_none(self) -> None:
        """Two clients of one endpoint may even say the same of themselves."""
        self.connect()
        self.connect()
        self.assertEqual([link.rail for link in self.site.links], [None, None])

    def test_served_before_it_is_complete(self) -> None:
        """What comes over an endpoint is answered there, though others are still missing; what
        belongs to those waits for them."""
        rail = Rail(2, self.clock)
        first = self.connect(rail, 0).right
        self.send(first, Subscribe(".", True))
        self.assertEqual(self.answers(), ["OK"])
        for channel in CHANNELS:
            self.hub.publish(channel, b"{}")
        self.settle()
        before = [event.channel for event in self.client.events if isinstance(event, Message)]
        self.assertEqual(
            before, [one for one in CHANNELS if endpoint_of(Publish(one, b""), 2) == 0]
        )
        self.connect(rail, 1)
        after = [event.channel for event in self.client.events if isinstance(event, Message)]
        self.assertEqual(sorted(after), sorted(CHANNELS))

    def test_order_is_kept(self) -> None:
        """Messages of one channel all come over one endpoint, in order."""
        rail = self.connect_rail(3)
        came: list[tuple[int, str, bytes]] = []
        self.client.on_events = lambda link, events: came.extend(
            (link.endpoint, event.channel, event.body)
            for event in events
            if isinstance(event, Message)
        )
        self.send(rail.links[1], Subscribe(".", True))
        for number in range(20):
            for channel in CHANNELS:
                self.hub.publish(channel, b"%d" % number)
        self.settle()
        for channel in CHANNELS:
            of_channel = [(one, body) for one, name, body in came if name == channel]
            where = endpoint_of(Publish(channel, b""), 3)
            self.assertEqual(of_channel, [(where, b"%d" % number) for number in range(20)])

    def test_credit_returns_where_the_message_came(self) -> None:
        """Each endpoint has the whole quota of its own."""
        rail = Rail(2, self.clock)
        for endpoint in range(2):
            pair = self.connect(rail, endpoint)
            pair.left._connection._quota = 10
        got: list[Message] = []
        self.hub.subscribe("x", got.append, "test")
        for link in rail.links.values():
            for _ in range(5):
                self.send(link, Publish("x", b"1234567\0"))
        self.assertEqual(len(got), 10)

    def test_refusals(self) -> None:
        """What does not belong is told so, and costs the rail nothing."""
        rail = self.connect_rail(2)
        for size, endpoint, text in (
            (3, 0, "bad request, expecting rail of 2 eps, but got 3"),
            (2, 5, "bad ep_idx 5 (should be in 0..1 range)"),
            (2, 1, "bad ep_idx 1, the endpoint already existed"),
        ):
            other = Rail(size, self.clock)
            self.connect(other, endpoint)
            self.assertIn(text, self.client.refused.pop()[1])
        self.assertEqual(len(self.site.links), 2)
        self.assertFalse(rail.closed)

    def test_addresses_and_numbers_tell_apart(self) -> None:
        """The same process and number on another host is another rail."""
        self.connect(Rail(2, self.clock), 0)
        self.connect(Rail(2, self.clock), 0, address="10.0.0.8")
        self.assertEqual(self.client.refused, [])
        self.connect(Rail(2, self.clock), 0, number=2)
        self.assertIn("Insufficient resources", self.client.refused.pop()[1])
        self.clock.advance(10)
        self.settle()

    def test_one_goes_all_go(self) -> None:
        """On both sides."""
        rail = self.connect_rail(3)
        self.send(rail.links[0], Subscribe("x"))
        rail.links[1].abort("lost")
        self.settle()
        self.assertEqual(self.site.links, ())
        self.assertEqual(len(self.client.closed), 3)
        self.assertEqual(self.hub._subscribers, {})

    def test_incomplete_handshakes(self) -> None:
        """Endpoints count when they have authenticated, not when they have come."""
        for admitted, states in ((1, ["aborted", "aborted"]), (2, ["open", "open"])):
            rail = Rail(2, self.clock, seconds=5)
            links: list[Any] = [FakeLink(), FakeLink()]
            for index, link in enumerate(links):
                link.endpoint = index
                rail.add(link)
            for link in links[:admitted]:
                self.assertTrue(rail.admit(link))
            self.clock.advance(5)
            self.assertEqual([link.state.partition(":")[0] for link in links], states)

    def test_incomplete(self) -> None:
        """A rail that stays incomplete is closed after ten seconds."""
        self.connect(Rail(3, self.clock, seconds=60), 0)
        self.connect(Rail(3, self.clock, seconds=60), 2)
        self.clock.advance(9.9)
        self.settle()
        self.assertEqual(len(self.site.links), 2)
        self.clock.advance(0.2)
        self.settle()
        self.assertEqual(self.site.links, ())
        self.assertEqual(self.stats.get("closed.incomplete rail"), 2)

    def test_another_identity(self) -> None:
        """An endpoint that authenticates as somebody else does not get in."""
        rail = Rail(2, self.clock)
        self.connect(rail, 0, uid=5)
        self.connect(rail, 1, uid=6)
        self.assertEqual(self.stats.get("not_opened.rail"), 1)
        self.assertEqual(self.site.links, ())

    def test_what_goes_where(self) -> None:
        """Lookups take turns, messages go by their hash, the rest on the first endpoint."""
        rail = self.connect_rail(3)
        looked_up = [rail.link_for(LookUp(1, "a")).endpoint for _ in range(4)]
        self.assertEqual(looked_up, [0, 1, 2, 0])
        self.assertEqual(rail.link_for(Subscribe("tagA")).endpoint, 0)
        published = Publish("tagA", b"{}\0")
        self.assertEqual(rail.link_for(published).endpoint, endpoint_of(published, 3))


class LimitTests(RailTestCase):
    """Rates and quotas, and changes of them."""

    def subscriber(self, **limits: int) -> ILink:
        """A client that announces limits and has subscribed to ``x``."""
        settings = LinkSettings(messages_enabled=lambda: True, **limits)
        link = self.connect(settings=settings).right
        self.send(link, Subscribe("x"))
        return link

    def publish(self, *numbers: int) -> None:
        """Publish messages of 10 bytes, and settle."""
        for number in numbers:
            self.hub.publish("x", b"number%d\0" % number)
        self.settle()

    def numbers(self) -> list[int]:
        """What the subscriber got."""
        return [int(body[6:]) for body in self.client.bodies]

    def test_rate_of_a_connection(self) -> None:
        """What does not fit waits, and the next seconds release it, without anybody's help."""
        self.subscriber(rx_rate=25)
        self.clock.advance(0.4)
        self.publish(1, 2, 3, 4, 5)
        self.assertEqual(self.numbers(), [1, 2])
        self.clock.advance(0.59)
        self.settle()
        self.assertEqual(self.numbers(), [1, 2])
        self.clock.advance(0.01)
        self.settle()
        self.assertEqual(self.numbers(), [1, 2, 3, 4])
        self.clock.advance(1)
        self.settle()
        self.assertEqual(self.numbers(), [1, 2, 3, 4, 5])
        self.assertFalse(self.hub.waiting)

    def test_waiting_for_the_rate_is_not_hanging(self) -> None:
        """It may take many seconds, whatever fraction of one has gone."""
        self.subscriber(rx_rate=10)
        self.clock.advance(0.7)
        self.publish(*range(8))
        for _ in range(80):
            self.clock.advance(0.1)
            self.settle()
        self.assertEqual(self.numbers(), list(range(8)))
        self.assertEqual(self.hub_stats.get("dropped_stuck"), 0)

    def test_asking_again(self) -> None:
        """However often it is asked, there is one timer for the next second."""
        self.subscriber(rx_rate=10)
        self.publish(1, 2)
        [pair] = self.pairs
        before = len(self.clock.getDelayedCalls())
        for _ in range(3):
            self.assertFalse(pair.left.can_publish(10))
        self.assertEqual(len(self.clock.getDelayedCalls()), before)

    def test_rate_zero(self) -> None:
        """Nothing comes, and nothing waits."""
        self.subscriber(rx_rate=0)
        self.publish(1)
        self.assertFalse(self.hub.waiting)
        self.assertEqual(self.hub_stats.get("dropped_too_large"), 1)

    def test_closing_while_it_waits(self) -> None:
        """Leaves no timer behind."""
        link = self.subscriber(rx_rate=10)
        self.publish(1, 2)
        link.abort("gone")
        self.settle()
        self.assertEqual(self.hub_stats.get("dropped_closed"), 1)

    def test_rate_raised(self) -> None:
        """What waits goes out as far as the new rate allows."""
        link = self.subscriber(rx_rate=10)
        self.publish(1, 2, 3, 4)
        self.send(link, ChangeRate(30))
        self.assertEqual(self.numbers(), [1, 2, 3])
        self.send(link, ChangeRate(-1))
        self.assertEqual(self.numbers(), [1, 2, 3, 4])
        self.assertEqual(self.stats.get("limits_changed"), 2)
        self.clock.advance(2)

    def test_quota_raised_for_a_rail(self) -> None:
        """On the first endpoint, for all."""
        settings = LinkSettings(messages_enabled=lambda: True, quota=10)
        rail = self.connect_rail(2, settings=settings)
        self.send(rail.links[0], Subscribe(".", True))
        names = [channel for channel in "abcdefgh" if endpoint_of(Publish(channel, b""), 2) == 1]
        for channel in names[:3]:
            self.hub.publish(channel, b"1234567\0")
        self.settle()
        self.assertEqual(len(self.client.bodies), 1)
        self.send(rail.links[0], ChangeQuota(30))
        self.assertEqual(len(self.client.bodies), 3)
        for link in self.site.links:
            self.assertEqual(link.peer.quota, 30)

    def test_limits_are_announced(self) -> None:
        """A listener's settings reach those who connect."""
        self.subscriber(quota=1000, rx_rate=2000)
        (link,) = self.site.links
        self.assertEqual((link.peer.quota, link.peer.rate), (1000, 2000))


class SockRailTests(SockTestCase):
    """Over TCP."""

    def connect_rail(self, port: int, size: int) -> Deferred[Any]:
        """A rail of the client's site."""
        return self.transport.connect(
            "127.0.0.1", port, self.client, NoneAuthenticator(), ON, rail=size
        )

    @inlineCallbacks
    def test_rail(self) -> Iterator[Deferred[Any]]:
        """Fires with the first link when all are there; when one goes, all go."""
        listener = self.listen()
        link = yield self.connect_rail(listener.port, 3)
        self.assertEqual((link.endpoint, link.rail.size, len(link.rail.links)), (0, 3, 3))
        yield self.server.until(lambda: len(self.server.links) == 3)
        (arrived,) = {one.rail for one in self.server.links}
        self.assertEqual(sorted(arrived.links), [0, 1, 2])
        link.rail.links[2].close()
        yield self.server.until(lambda: len(self.server.closed) == 3)
        yield self.client.until(lambda: len(self.client.closed) == 3)

    @inlineCallbacks
    def test_nobody_listens(self) -> Iterator[Deferred[Any]]:
        """One failure, and nothing stays."""
        listener = self.listen()
        port = listener.port
        yield listener.service.stopService()
        yield self.assertFailure(self.connect_rail(port, 3), ConnectError)
        self.assertEqual(self.client.links, [])

    @inlineCallbacks
    def test_not_all_are_let_in(self) -> Iterator[Deferred[Any]]:
        """When one endpoint is not accepted the others are closed."""
        listener = self.listen(links_per_address=1)
        yield self.assertFailure(self.connect_rail(listener.port, 2), PeerError)
        yield self.client.until(lambda: len(self.client.links) == len(self.client.closed))
        yield self.server.until(lambda: len(self.server.links) == len(self.server.closed))

    def test_given_up(self) -> Deferred[Any]:
        """Cancelling closes what is open and stops the rest."""
        listener = self.listen()
        connecting = self.connect_rail(listener.port, 2)
        connecting.cancel()
        return self.assertFailure(connecting, CancelledError)

    def test_sizes(self) -> None:
        """A rail has at least one endpoint, and a bounded number of them."""
        for size in (0, -1, 1024):
            self.assertRaises(ValueError, self.connect_rail, 1, size)
