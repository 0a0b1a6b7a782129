"""Links over TCP that authenticate with real munged processes, well and ill."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace
from typing import Any
from unittest import SkipTest

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from ldmsjob.errors import AuthFailed, ConfigError
from ldmsjob.interfaces import AuthStep, IAuthentication, IAuthenticator, ILink, LinkSettings
from ldmsjob.transports.auth_munge import MungeAuthenticator, socket_address
from ldmsjob.transports.sock import SockTransport
from ldmsjob.transports.workers import DEADLINE_SECONDS
from ldmsjob.wire.events import Credential, Publish
from tests.fake_sites import FakeSite
from tests.interop.peers import wait_until
from tests.interop.test_messages import asynchronous
from tests.munge.munged import Munged, require_munge
from tests.real import require_real

reactor: Any = installed_reactor


@implementer(IAuthenticator, IAuthentication)
class Shows:
    """A peer that shows the credential that ``make`` gives for its own address, and believes us."""

    name = "munge"

    def __init__(self, make: Any) -> None:
        self._make = make
        self._own = ""

    def configure(self, attributes: Any) -> None:
        """Nothing to take."""

    def begin(self, *, passive: bool, local_address: str, peer_address: str) -> Shows:
        """For one connection."""
        self._own = local_address
        return self

    async def _first(self) -> AuthStep:
        credential = self._make(socket_address(self._own))
        if isinstance(credential, Deferred):
            credential = await credential
        return AuthStep(send=(credential + b"\0",))

    def first(self) -> Deferred[AuthStep]:
        """The credential."""
        return Deferred.fromCoroutine(self._first())

    def received(self, payload: bytes) -> AuthStep:
        """Whoever it is."""
        return AuthStep(credential=Credential(0, 0))


class MungeTestCase(TestCase):
    """A listener of ours with a munged of its own."""

    timeout = 300

    def setUp(self) -> None:
        """Start both."""
        require_real()
        require_munge()
        self.munged = self.start_munged()
        self.server, self.client = FakeSite(), FakeSite()
        self.authenticator = self.munge(self.munged)
        self.transport = SockTransport(SimpleNamespace(clock=reactor))
        self.port = self.listen("127.0.0.1")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end_links()))

    def listen(self, host: str) -> int:
        """Listen there; returns the port."""
        settings = LinkSettings(messages_enabled=lambda: True)
        listener = self.transport.listen(host, 0, self.server, self.authenticator, settings)
        listener.service.startService()
        self.addCleanup(listener.service.stopService)
        return int(listener.port)

    def start_munged(self, key: bytes = b"") -> Munged:
        """A munged that ends with the test."""
        munged = Munged(key)
        self.addCleanup(munged.remove)
        munged.start()
        return munged

    def munge(self, munged: Munged) -> MungeAuthenticator:
        """An authenticator that asks it."""
        authenticator = MungeAuthenticator(SimpleNamespace(clock=reactor))
        authenticator.configure({"socket": munged.socket})
        return authenticator

    def connect(
        self, authenticator: Any, host: str = "127.0.0.1", port: int = 0
    ) -> Deferred[ILink]:
        """Connect to our listener."""
        settings = LinkSettings(messages_enabled=lambda: True)
        return self.transport.connect(host, port or self.port, self.client, authenticator, settings)

    async def end_links(self) -> None:
        """Close what is open."""
        for site in (self.client, self.server):
            for link in site.links:
                link.abort("over")
        await wait_until(
            lambda: all(len(site.closed) == len(site.links) for site in (self.client, self.server)),
            "links to close",
        )

    async def refused(self, authenticator: Any, reason: str) -> str:
        """Why our listener refuses that peer: counted as ``reason``. Returns what it logs."""
        before = len(self.server.refused)
        link = self.connect(authenticator)
        link.addErrback(lambda failure: failure.trap(AuthFailed))
        await wait_until(lambda: len(self.server.refused) > before, "the refusal")
        text = self.server.refused[-1][1]
        self.assertTrue(text.startswith(f"authentication {reason}: "), text)
        self.assertNotIn("MUNGE:", text)
        await link
        return text

    async def works(self) -> None:
        """A peer that is well is authenticated."""
        link = await self.connect(self.munge(self.munged))
        self.assertEqual(link.credential, Credential(os.geteuid(), os.getegid()))


class MungeTests(MungeTestCase):
    """What munge can bring about."""

    @asynchronous
    async def test_good(self) -> None:
        """Both sides know who the other is, over IPv4 and IPv6, alone and on a rail."""
        expected = Credential(os.geteuid(), os.getegid())
        await self.works()
        try:
            port = self.listen("::1")
        except ConfigError as error:
            raise SkipTest(str(error)) from None
        link = await self.connect(self.munge(self.munged), "::1", port)
        self.assertEqual(link.credential, expected)
        settings = LinkSettings(messages_enabled=lambda: True)
        await self.transport.connect(
            "127.0.0.1", self.port, self.client, self.munge(self.munged), settings, rail=4
        )
        await wait_until(lambda: len(self.server.links) == 6, "six links")
        self.assertEqual({link.credential for link in self.server.links}, {expected})

    @asynchronous
    async def test_everywhere(self) -> None:
        """A listener for IPv6 and IPv4 in one takes both."""
        settings = LinkSettings(messages_enabled=lambda: True)
        listener = self.transport.listen(None, 0, self.server, self.authenticator, settings)
        listener.service.startService()
        self.addCleanup(listener.service.stopService)
        await self.connect(self.munge(self.munged), port=listener.port)
        await wait_until(lambda: len(self.server.links) == 1, "the link")

    @asynchronous
    async def test_other_user(self) -> None:
        """The identity is that of who made the credential."""
        if os.geteuid():
            raise SkipTest("only root can be somebody else")
        peer = Shows(lambda address: self.munged.credential(address, user=65534))
        await self.connect(peer)
        await wait_until(lambda: self.server.links, "the link")
        self.assertEqual(self.server.links[0].credential.uid, 65534)

    @asynchronous
    async def test_wrong_key(self) -> None:
        """A munged with another key."""
        text = await self.refused(self.munge(self.start_munged()), "wrong key")
        self.assertIn("/etc/munge/munge.key", text)

    @asynchronous
    async def test_no_munged(self) -> None:
        """Without munged both sides say so, and it works as soon as munged is there."""
        self.munged.stop()
        text = await self.refused(Shows(lambda _address: b"MUNGE:AAAA:"), "no munged")
        self.assertIn(self.munged.socket, text)
        error = await self.assertFailure(self.connect(self.munge(self.munged)), AuthFailed)
        self.assertIn("systemctl status munge", str(error))
        error = self.assertRaises(ConfigError, self.authenticator.check)
        self.assertIn("systemctl status munge", str(error))
        self.munged.start()
        self.assertIn(f"uid {os.geteuid()}", self.authenticator.check())
        await self.works()

    @asynchronous
    async def test_socket_without_munged(self) -> None:
        """A socket that a killed munged has left."""
        self.munged.stop(signal.SIGKILL)
        self.assertTrue(os.path.exists(self.munged.socket))
        text = await self.refused(Shows(lambda _address: b"MUNGE:AAAA:"), "no munged")
        self.assertIn("Connection refused", text)

    @asynchronous
    async def test_munged_that_hangs(self) -> None:
        """A munged that is stopped costs new connections only, in time; when it goes on, so do
        they."""
        link = await self.connect(self.munge(self.munged))
        await wait_until(lambda: self.server.links, "the link")
        self.munged.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        peers = [
            self.assertFailure(self.connect(Shows(lambda _address: b"MUNGE:AAAA:")), AuthFailed)
            for _ in range(12)
        ]
        self.assertEqual(await deferToThread(lambda: "quick"), "quick")
        link.send(Publish("c", b"1\0", uid=os.geteuid(), gid=os.getegid()))
        await wait_until(lambda: self.server.bodies, "the message")
        self.assertLess(time.monotonic() - began, 20)
        await gatherResults(peers)
        self.assertLess(time.monotonic() - began, 30)
        reasons = {text.partition(":")[0] for _, text in self.server.refused}
        self.assertEqual(reasons, {"authentication munged silent"})
        # All threads hang: nobody waits any more.
        began = time.monotonic()
        await self.refused(Shows(lambda _address: b"MUNGE:AAAA:"), "munged silent")
        self.assertLess(time.monotonic() - began, DEADLINE_SECONDS)
        error = self.assertRaises(ConfigError, self.munge(self.munged).check)
        self.assertIn("does not answer", str(error))
        self.munged.send_signal(signal.SIGCONT)
        await wait_until(lambda: not self.authenticator._workers._hanging, "threads to come back")
        await self.works()
        self.assertEqual((self.client.closed, self.server.closed), ([], []))

    @asynchronous
    async def test_expired(self) -> None:
        """A credential whose time is over."""

        def late(address: bytes) -> Deferred[bytes]:
            credential = self.munged.credential(address, "--ttl=1")
            return deferLater(reactor, 2.5, lambda: credential)

        text = await self.refused(Shows(late), "expired")
        self.assertIn("clocks", text)

    @asynchronous
    async def test_replayed(self) -> None:
        """A credential that has been decoded before, also by munged's previous run."""

        def used(address: bytes) -> bytes:
            credential = self.munged.credential(address)
            self.authenticator._library.decode(self.munged.socket, credential)
            return credential

        await self.refused(Shows(used), "replayed")
        credential = self.munged.credential(b"x")
        await self.authenticator.decoded(credential)
        self.munged.stop()
        self.munged.start()
        error = await self.assertFailure(self.authenticator.decoded(credential), AuthFailed)
        self.assertEqual(error.reason, "replayed")
        self.assertIn("used here before", str(error))

    @asynchronous
    async def test_wrong_address(self) -> None:
        """A credential that its maker, or somebody else, meant for another connection."""
        other = socket_address("127.0.0.1:9")
        text = await self.refused(
            Shows(lambda _address: self.munged.credential(other)), "wrong address"
        )
        self.assertIn("127.0.0.1:9", text)
        await self.refused(Shows(lambda _address: self.munged.credential(b"")), "wrong address")

    @asynchronous
    async def test_unauthorized(self) -> None:
        """A credential that only somebody else may decode."""
        peer = Shows(lambda address: self.munged.credential(address, "--restrict-uid=4711"))
        await self.refused(peer, "unauthorized")

    @asynchronous
    async def test_no_credential(self) -> None:
        """What munge cannot read."""
        for credential in (b"MUNGE:AAAA:", b"MUNGE::", b"MUNGE:%%%:"):
            await self.refused(Shows(lambda _address, each=credential: each), "malformed")
        spoilt = Shows(lambda address: self.munged.credential(address)[:-9] + b"AAAAAAAA:")
        before = len(self.server.refused)
        await self.assertFailure(self.connect(spoilt), AuthFailed)
        self.assertIn("authentication ", self.server.refused[before][1])

    @asynchronous
    async def test_socket_that_is_closed_to_us(self) -> None:
        """munged's socket with wrong permissions."""
        if not os.geteuid():
            raise SkipTest("root may use every socket")
        self.munged.directory.chmod(0)
        self.addCleanup(self.munged.directory.chmod, 0o755)
        await self.refused(Shows(lambda _address: b"MUNGE:AAAA:"), "no munged")
