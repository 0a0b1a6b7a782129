"""What the tools that talk to a daemon share: one link, and errors in one line."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.cli.commandline import USAGE
from ldmsjob.cli.output import complain
from ldmsjob.connecting import connect_error, find_transport, peer_name
from ldmsjob.errors import (
    AuthFailed,
    ConfigError,
    HandshakeTimeout,
    PeerError,
    PublishError,
    RequestFailed,
    SetImageError,
)
from ldmsjob.interfaces import ILink, ILinkSite, LinkSettings

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from ldmsjob.interfaces import IAuthenticator, ITransport
    from ldmsjob.wire.events import WireEvent
    from ldmsjob.wire.setevents import SetEvent

Connect = Callable[[ILinkSite, LinkSettings], Deferred[ILink]]
"""Connects once, to the peer that the options name."""


class ToolError(Exception):
    """The tool cannot go on. The text is one line for the user; ``rc`` is the exit status."""

    def __init__(self, text: str, rc: int) -> None:
        super().__init__(text)
        self.rc = rc


def find_plugins(
    reactor: Any, arguments: argparse.Namespace
) -> tuple[ITransport, IAuthenticator | None]:
    """The transport and the authenticator that the options name. Raises ``ConfigError``, with rc 2
    as for every mistake in the command line."""
    try:
        return find_transport(
            reactor,
            arguments.xprt,
            arguments.auth,
            dict(arguments.auth_opt),
            dict(arguments.xprt_opt),
        )
    except ConfigError as error:
        error.rc = USAGE
        raise


def run_tool(
    arguments: argparse.Namespace,
    start: Callable[[Any, Connect], Coroutine[Deferred[Any], Any, int]],
    *,
    interrupted: int,
) -> int:
    """Run a tool in the reactor; returns its exit status, ``interrupted`` after Ctrl-C.

    ``start(reactor, connect)`` is the tool's work. What it raises becomes one line on standard
    error and an exit status.
    """
    from twisted.internet import reactor as installed_reactor
    from twisted.logger import globalLogBeginner

    from ldmsjob.clocks import use_monotonic_clock
    from ldmsjob.logformat import Levels, LineObserver, stamp_from

    reactor: Any = installed_reactor
    use_monotonic_clock(reactor)
    observer = LineObserver(Levels(), stamp_from(os.environ), sys.stderr)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    transport, authenticator = find_plugins(reactor, arguments)
    peer = peer_name(arguments.host, arguments.port)

    def connect(site: ILinkSite, settings: LinkSettings) -> Deferred[ILink]:
        try:
            return transport.connect(arguments.host, arguments.port, site, authenticator, settings)
        except ConfigError as error:
            error.rc = USAGE
            raise

    results: list[int | Failure] = []

    def ended(result: int | Failure) -> None:
        # After a signal the reactor loses the connection first, which is then no error.
        if not results:
            results.append(result)
            if reactor.running:
                reactor.stop()

    def stopping() -> None:
        if not results:
            results.append(interrupted)

    reactor.addSystemEventTrigger("before", "shutdown", stopping)
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(start(reactor, connect)).addBoth(ended))
    reactor.run()
    result = results[0]
    if not isinstance(result, Failure):
        return result
    if result.check(ConfigError, BrokenPipeError):
        result.raiseException()
    text, rc = explain(result, peer)
    complain(text)
    return rc


def explain(failure: Failure, peer: str) -> tuple[str, int]:
    """One line for the user, and the exit status. What is no expected failure is raised again."""
    error: Any = failure.value
    text = str(error)
    if isinstance(error, (ToolError, PublishError, RequestFailed)):
        return text, error.rc
    if isinstance(error, SetImageError):
        return text, errno.EPROTO
    if isinstance(error, AuthFailed):
        return f"{peer}: not authenticated: {text}", errno.EACCES
    if isinstance(error, HandshakeTimeout):
        return f"{peer}: no answer: {text}; it hangs, or speaks no LDMS", errno.ETIMEDOUT
    if isinstance(error, PeerError):
        if "Auth mismatch" in text:
            return f"{peer}: {text}; it wants another authentication, see -a", errno.EACCES
        return f"{peer} does not speak LDMS as it should: {text}", errno.EPROTO
    refused = connect_error(error, peer)
    if refused is not None:
        return str(refused), refused.rc
    failure.raiseException()
    raise AssertionError  # pragma: no cover


@implementer(ILinkSite)
class ToolSite:
    """The owner of a tool's one link: lets it wait until something has happened.

    ``on_event`` is called with each wire event, before those who wait look.
    """

    def __init__(self, clock: Any, on_event: Callable[[Any], None]) -> None:
        self._clock = clock
        self._on_event = on_event
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self._error: Failure | None = None
        self.link: ILink | None = None
        self.gone = False

    def until(
        self, condition: Callable[[], bool], *, seconds: float = 0, what: str = ""
    ) -> Awaitable[None]:
        """Wait until the condition holds.

        Fails with ``ToolError`` when the link closes before, or after ``seconds`` (0: never) with
        ``what`` was waited for.
        """
        done: Deferred[None] = Deferred()
        if seconds:
            late: IDelayedCall = self._clock.callLater(seconds, self._give_up, done, seconds, what)

            def answered(result: Any) -> Any:
                if late.active():
                    late.cancel()
                return result

            done.addBoth(answered)
        self._waiting.append((condition, done))
        self._look()
        return done

    async def close(self, seconds: float = 5) -> None:
        """Close the link politely and wait until it is closed."""
        if self.link is not None:
            self.link.close()
            await self.until(lambda: self.gone, seconds=seconds, what="the connection's end")

    def _give_up(self, done: Deferred[None], seconds: float, what: str) -> None:
        self._waiting = [entry for entry in self._waiting if entry[1] is not done]
        done.errback(ToolError(f"gave up after {seconds:g} s waiting for {what}", errno.ETIMEDOUT))

    def _look(self) -> None:
        for entry in list(self._waiting):
            condition, done = entry
            failure = self._error
            if failure is None:
                try:
                    holds = condition()
                except Exception:
                    failure = Failure()
                else:
                    if not holds and not self.gone:
                        continue
                    if not holds:
                        failure = Failure(ToolError("the connection was lost", errno.ECONNRESET))
            if entry in self._waiting:
                self._waiting.remove(entry)
                if failure is None:
                    done.callback(None)
                else:
                    done.errback(failure)

    def link_opened(self, link: ILink) -> None:
        """Keep it."""
        self.link = link

    def link_events(self, link: ILink, events: Sequence[WireEvent | SetEvent]) -> None:
        """Tell the tool; what it raises is given to whoever waits."""
        for event in events:
            if self._error is None:
                try:
                    self._on_event(event)
                except Exception:
                    self._error = Failure()
        self._look()

    def link_drained(self, link: ILink) -> None:
        """There may be room again."""
        self._look()

    def link_closed(self, link: ILink, reason: Failure) -> None:
        """Those who wait for anything but the end have waited in vain."""
        self.gone = True
        if reason.check(PeerError) and self._error is None:
            self._error = reason
        self._look()

    def link_refused(self, peer_address: str, reason: str) -> None:
        """The Deferred of ``connect`` tells."""


def require_messages(link: ILink) -> None:
    """Raise ``ToolError`` with rc 95 when the peer's message service is off."""
    if not link.peer.messages_enabled:
        raise service_off(link)


def service_off(link: ILink) -> ToolError:
    """What to say when the peer has no message service."""
    return ToolError(
        f"the message service of {link.peer_address} is off; its configuration needs msg_enable",
        errno.EOPNOTSUPP,
    )


async def connect_stubbornly(
    clock: Any, connect: Connect, site: ILinkSite, settings: LinkSettings, retry_seconds: float
) -> ILink:
    """Connect, again and again while nobody listens if ``retry_seconds`` is not 0."""
    while True:
        try:
            return await connect(site, settings)
        except ConnectError:
            if not retry_seconds:
                raise
            await deferLater(clock, retry_seconds)
