"""A daemon with few file descriptors goes on serving those whom it has, and takes others when there
is room."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

import ldmsjob
from ldmsjob.connecting import find_transport
from ldmsjob.interfaces import ILink, LinkSettings
from ldmsjob.limits import Limits
from ldmsjob.wire.events import CreditReturned, Publish
from tests.fake_sites import FakeSite
from tests.ports import free_port
from tests.real import require_real

SOURCE = Path(ldmsjob.__file__).parent.parent
reactor: Any = installed_reactor

DESCRIPTORS = 256
LINKS = 192
"""How many of them are for links."""
IDLE = 1_000
HANDSHAKE_SECONDS = 5
"""How long the daemon waits for a connection that says nothing."""

CONFIGURATION = f"""
daemon_name name=small
log_level level=INFO
msg_enable
limits handshake_seconds={HANDSHAKE_SECONDS}
listen xprt=sock port={{port}} host=127.0.0.1
listen xprt=unix path={{path}}
"""

PATIENT = LinkSettings(lambda: True, limits=Limits(handshake_seconds=3600))
"""Of clients that wait until they are accepted."""


class Site(FakeSite):
    """Counts the credit that came back."""

    credits = 0

    def link_events(self, link: ILink, events: Sequence[Any]) -> None:
        """Count it."""
        super().link_events(link, events)
        self.credits += sum(event.count for event in events if type(event) is CreditReturned)


async def until(condition: Any) -> None:
    """Wait for it; the test has a time limit."""
    while not condition():
        await deferLater(reactor, 0.02)


class DescriptorTests(TestCase):
    """256 descriptors and 1,000 connections that do nothing."""

    timeout = 300

    async def setUp(self) -> None:
        """A daemon, one working link to it, and enough descriptors on this side."""
        require_real()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = IDLE + DESCRIPTORS
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise SkipTest(f"the test itself needs {wanted} file descriptors")
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.port = free_port()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.path = str(self.directory / "s")
        text = CONFIGURATION.format(port=self.port, path=self.path)
        (self.directory / "ldmsd.conf").write_text(text)
        self.site = Site()
        self.waiting: list[Deferred[Any]] = []
        self.transport, self.authenticator = find_transport(reactor, "sock", "none", {})
        self.start()
        self.addCleanup(self.end)
        self.addCleanup(self.close_links)
        await self.connected()
        self.working = await self.connect()

    def start(self) -> None:
        """Start the daemon."""
        code = "from twisted.scripts.twistd import run; run()"
        limit = f'ulimit -n {DESCRIPTORS}; exec "$@"'
        command = ["sh", "-c", limit, "sh", sys.executable, "-c", code]
        command += ["-n", "--pidfile=", "ldmsjob", "-c", "ldmsd.conf"]
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "STATE_DIRECTORY": str(self.directory / "state"),
        }
        self.log = self.directory / "log"
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen(
                command, cwd=self.directory, env=environ, stdout=log, stderr=log
            )

    def end(self) -> None:
        """End the daemon; it must not have failed meanwhile."""
        self.assertIsNone(self.daemon.poll(), self.log.read_text())
        self.daemon.terminate()
        self.daemon.wait()
        self.assertNotIn("Traceback", self.log.read_text())

    async def close_links(self) -> None:
        """End all that this side has."""
        for one in self.waiting:
            one.cancel()
        for link in self.site.links:
            link.abort("end of test")
        await until(lambda: len(self.site.closed) == len(self.site.links))

    async def connected(self) -> None:
        """Wait until somebody listens."""
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                await deferLater(reactor, 0.05)

    def connect(self) -> Deferred[Any]:
        """A link over sock."""
        return self.transport.connect(
            "127.0.0.1", self.port, self.site, self.authenticator, PATIENT
        )

    async def works(self) -> None:
        """The working link does."""
        before = self.site.credits
        for number in range(10):
            self.working.send(Publish("some", b"%d\0" % number))
        await until(lambda: self.site.credits == before + 10)

    def wait_for_a_place(self) -> None:
        """A link that is opened when it can be."""

        def again(failure: Failure) -> None:
            # Too many connect at once for all to be done with that in time.
            if failure.check(CancelledError) is None:
                self.wait_for_a_place()

        self.waiting.append(self.connect())
        self.waiting[-1].addErrback(again)

    async def until_opened(self, count: int) -> None:
        """Wait for so many links since the beginning; there must be no more then."""
        await until(lambda: len(self.site.links) >= count)
        await self.works()
        self.assertEqual(len(self.site.links), count)

    def descriptors(self) -> int:
        """How many the daemon has open."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def cpu_seconds(self) -> float:
        """What the daemon has computed."""
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def lines(self, words: str) -> list[str]:
        """Lines of the log."""
        return [line for line in self.log.read_text().splitlines() if words in line]

    async def test_silent_connections(self) -> None:
        """Connections that say nothing take at most half of the descriptors. The others are closed,
        and when those that stayed are too old, there is room for links."""
        silent = []
        for _ in range(IDLE):
            silent.append(socket.create_connection(("127.0.0.1", self.port)))
            self.addCleanup(silent[-1].close)
        await self.works()
        self.assertLess(self.descriptors(), DESCRIPTORS // 2 + 64)
        await deferLater(reactor, HANDSHAKE_SECONDS + 0.5)
        await self.works()
        await self.connect()
        await self.works()
        self.assertEqual(len(self.lines("too many not authenticated")), 1)

    async def test_idle_links(self) -> None:
        """Links that do nothing are let in as long as there are descriptors. Then the listener
        waits without computing or logging; tools on this host get in nevertheless, and so do those
        who wait when others go."""
        for _ in range(IDLE):
            self.wait_for_a_place()
        await self.until_opened(LINKS)
        self.assertTrue(self.lines("no further connections are accepted"))
        self.assertLess(self.descriptors(), DESCRIPTORS - 16)
        said, before = self.lines(""), self.cpu_seconds()
        await deferLater(reactor, 2.0)
        self.assertLess(self.cpu_seconds() - before, 0.4)
        self.assertEqual(self.lines(""), said)
        await self.until_opened(LINKS)
        unix, nobody = find_transport(reactor, "unix", None, {})
        local = await unix.connect(self.path, 0, self.site, nobody, PATIENT)
        self.assertIs(self.site.links[-1], local)
        for link in self.site.links[1:51]:
            link.close()
        # The tool's link has one of the descriptors that are kept back.
        await self.until_opened(LINKS + 50)
        self.assertRegex(
            self.lines("file descriptors: ")[0],
            re.escape(f"there are {DESCRIPTORS} file descriptors: at most {LINKS} connections"),
        )
