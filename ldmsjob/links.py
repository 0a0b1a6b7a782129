"""The daemon's side of its links: counts them, and hands what they bring to those who answer."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger, LogLevel
from zope.interface import implementer

from ldmsjob.errors import PeerError
from ldmsjob.interfaces import SILENT, ILink, ILinkSite
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.requests import DaemonRequests
from ldmsjob.serving import EVENTS, SetService
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.stats import MAX_NEW
from ldmsjob.wire.events import (
    AnswerSubscribe,
    AnswerUnsubscribe,
    CreditReturned,
    DaemonRequest,
    Message,
    QuotaChanged,
    RateChanged,
    Refused,
    ReturnCredit,
    SubscribeAnswered,
    SubscribeWanted,
    UnsubscribeAnswered,
    UnsubscribeWanted,
    WireEvent,
)

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from ldmsjob.messages import MessageHub
    from ldmsjob.stats import Stats
    from ldmsjob.turns import Turn
    from ldmsjob.wire.setevents import SetEvent

_ERRORS = ("no tls", "speaks tls", "too many")
"""Reasons that a connection is refused for which somebody must do something about, as he must about
those that begin with ``authentication`` or ``tls``."""

PATIENCE_SECONDS = 1.0
"""How often subscribers for whom messages wait are looked at. One that takes nothing between two
looks loses what waits: it holds its publishers up for at most twice this time. That is less than
the 5 s after which a Slurm notifier gives up on its acknowledgement."""


@implementer(ILinkSite)
class LinkSite:
    """Owns the open links of a daemon, whatever transport they came over.

    ``sets`` answers what peers ask about metric sets; without it there are none. ``requests``
    answers what they ask about the daemon, if the settings of their links let them ask.

    Credit for the messages of a read goes back when the turn is over, after what was put off to
    the turn's end (files): to the publisher it says that the message has been dealt with.

    Counters: ``opened``, ``closed``, ``messages``, ``message_bytes``, ``refused_off``,
    ``limits_changed``, ``unexpected``, ``not_opened.<reason>``, ``closed.<reason>``,
    ``refused.<reason>``, and those of ``DaemonRequests``. Histogram ``latency``: from the moment
    when a read that brought messages is dealt with, to the end of its turn, when they have been
    kept, their job events delivered and the files written.
    """

    log = Logger(namespace="ldmsd")

    def __init__(
        self,
        hub: MessageHub,
        stats: Stats,
        turn: Turn,
        clock: IReactorTime,
        *,
        sets: SetService | None = None,
        requests: DaemonRequests | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._hub = hub
        self._now = now
        self._latency = stats.histogram("latency")
        self._new_latencies = self._latency.new
        stats.gauge("open", lambda: len(self._links))
        self._messages = self._message_bytes = self._opened_links = self._closed_links = 0
        stats.counts("opened", lambda: self._opened_links)
        stats.counts("closed", lambda: self._closed_links)
        stats.counts("messages", lambda: self._messages)
        stats.counts("message_bytes", lambda: self._message_bytes)
        requests = requests or DaemonRequests(stats)
        self._sets = sets or SetService(SetRegistry(), stats, turn, clock)
        self._stats = stats
        self._turn = turn
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._links: dict[ILink, None] = {}
        self._patience: IDelayedCall | None = None
        self._closed: Deferred[None] | None = None
        self._limited = LimitedLog(self.log, now=clock.seconds)
        self._calls: dict[type[Any], Callable[[ILink, Any], None]] = {
            SubscribeWanted: self._subscribe_wanted,
            UnsubscribeWanted: self._unsubscribe_wanted,
            SubscribeAnswered: self._answered,
            UnsubscribeAnswered: self._answered,
            CreditReturned: self._credit_returned,
            QuotaChanged: self._limit_changed,
            RateChanged: self._limit_changed,
            DaemonRequest: requests.take,
            Refused: self._refused,
            **dict.fromkeys(EVENTS, self._sets.take),
        }
        hub.watch_waiting(self._arm)

    @property
    def links(self) -> Sequence[ILink]:
        """The open links, oldest first."""
        return tuple(self._links)

    def close(self) -> Deferred[None]:
        """Close all links politely, for the daemon's end; fires when they have sent what they had
        to, or were given up."""
        closed: Deferred[None] = Deferred()
        self._closed = closed
        for link in self.links:
            link.close()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._sets.close()
        self._tell_closed()
        return closed

    def _tell_closed(self) -> None:
        if self._closed is not None and not self._links:
            closed, self._closed = self._closed, None
            closed.callback(None)

    # ILinkSite

    def link_opened(self, link: ILink) -> None:
        """Keep it until it closes."""
        self._links[link] = None
        self._opened_links += 1
        if link.rail is not None:
            with self._turn:
                self._hub.endpoint_opened(link)

    def link_events(self, link: ILink, events: Sequence[WireEvent | SetEvent]) -> None:
        """Deal with all that one read brought, in one turn."""
        credits: Sequence[int]
        refused: Sequence[int]
        messages = self._messages
        began = self._now()
        turn = self._turn
        turn.depth += 1
        try:
            if len(events) == 1:
                credits, refused = self._take(link, type(events[0]), events)
            else:
                credits, refused = self._take_runs(link, events)
        finally:
            turn.end()
        if self._messages != messages:
            self._new_latencies.append(self._now() - began)
            if len(self._new_latencies) >= MAX_NEW:
                self._latency.settle()
        if credits:
            link.send(ReturnCredit(credits))
        if refused:
            self._stats.add("refused_off", len(refused))
            link.send(ReturnCredit(refused, rc=errno.EOPNOTSUPP))

    def _take_runs(self, link: ILink, events: Sequence[Any]) -> tuple[Sequence[int], Sequence[int]]:
        """Deal with events of any kinds, in their order; returns what ``deliver`` does."""
        credits: list[int] = []
        refused: list[int] = []
        for kind, run in groupby(events, type):
            done, off = self._take(link, kind, list(run))
            credits += done
            refused += off
        return credits, refused

    def _take(
        self, link: ILink, kind: type[Any], run: Sequence[Any]
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Deal with events of one kind."""
        if kind is Message:
            self._messages += len(run)
            self._message_bytes += (
                run[0].credit if len(run) == 1 else sum([message.credit for message in run])
            )
            return self._hub.deliver(run, link)
        call = self._calls.get(kind, self._unexpected)
        for event in run:
            call(link, event)
        return (), ()

    def link_drained(self, link: ILink) -> None:
        """Send it what waits for it."""
        with self._turn:
            self._hub.link_has_room(link)
            self._sets.link_has_room(link)

    def link_closed(self, link: ILink, reason: Failure) -> None:
        """Forget it; its subscriptions end with it."""
        self._links.pop(link, None)
        self._closed_links += 1
        turn = self._turn
        turn.depth += 1
        try:
            self._hub.forget_link(link)
            self._sets.forget_link(link)
        finally:
            turn.end()
        self._tell_closed()
        if isinstance(reason.value, ConnectionDone):
            return
        text = reason.getErrorMessage()
        word = _word(text) if reason.check(PeerError) else type(reason.value).__name__
        self._stats.add(f"closed.{word}")
        self._limited.emit(
            f"closed {word}",
            LogLevel.warn if reason.check(PeerError) else LogLevel.info,
            "link with {peer} closed: {reason}",
            peer=link.peer_address,
            reason=text,
        )

    def link_refused(self, peer_address: str, reason: str) -> None:
        """Count and log a connection that never became a link.

        The part of ``reason`` in front of a colon is what is counted; the rest is for people.
        """
        word = _word(reason)
        self._stats.add(f"not_opened.{word}")
        level = LogLevel.info if reason == SILENT else LogLevel.warn
        if word.startswith(("authentication", "tls")) or word in _ERRORS:
            # C's plugins make it an error, too.
            level = LogLevel.error
        self._limited.emit(
            f"not opened {word}",
            level,
            "connection with {peer} not accepted: {reason}",
            peer=peer_address,
            reason=reason,
        )

    # Wire events

    def _subscribe_wanted(self, link: ILink, event: SubscribeWanted) -> None:
        rc, text = self._hub.subscribe_link(link, event.match, event.is_regex, event.rate)
        if rc:
            self._stats.add("subscriptions_refused")
            self._limited.warn(
                f"subscription {rc}",
                "subscription of {peer} to {match} refused: {text}",
                peer=link.peer_address,
                match=event.match,
                text=text,
            )
        link.send(AnswerSubscribe(event.xid, rc, text))

    def _unsubscribe_wanted(self, link: ILink, event: UnsubscribeWanted) -> None:
        rc, text = self._hub.unsubscribe_link(link, event.match)
        link.send(AnswerUnsubscribe(event.xid, rc, text))

    def _answered(self, link: ILink, event: SubscribeAnswered | UnsubscribeAnswered) -> None:
        if event.rc or event.text != "OK":
            self._stats.add("answers_failed")
            self._limited.warn(
                "answer",
                "{peer} refused a subscription to {match}: {text} (error {rc})",
                peer=link.peer_address,
                match=event.match,
                text=event.text,
                rc=event.rc,
            )

    def _credit_returned(self, link: ILink, event: CreditReturned) -> None:
        if event.rc:
            self._stats.add("peer_refuses_messages")
        self._hub.link_has_room(link)

    def _limit_changed(self, link: ILink, event: QuotaChanged | RateChanged) -> None:
        """Over one endpoint of a rail, for all of them."""
        self._stats.add("limits_changed")
        for endpoint in [link] if link.rail is None else list(link.rail.links.values()):
            self._hub.link_has_room(endpoint)

    def _refused(self, link: ILink, event: Refused) -> None:
        self._stats.add(f"refused.{event.reason}")
        self._limited.info(
            f"refused {event.reason}",
            "refused a request of {peer}: {reason}",
            peer=link.peer_address,
            reason=event.reason,
        )

    def _unexpected(self, link: ILink, event: object) -> None:
        """An answer to what this site never asks."""
        self._stats.add("unexpected")

    # Patience

    def _arm(self) -> None:
        if self._patience is None:
            self._patience = self._clock.callLater(self._patience_seconds, self._look)

    def _look(self) -> None:
        self._patience = None
        with self._turn:
            self._hub.drop_stuck()
        if self._hub.waiting:
            self._arm()


@implementer(ILinkSite)
class ListenerSite:
    """The site as one listener sees it: keeps the links that came there apart."""

    def __init__(self, site: LinkSite) -> None:
        self.links: dict[ILink, None] = {}
        """Those that are open."""
        self._site = site
        # Straight to the site: these come often, and nothing is to be done about them here.
        self.link_events = site.link_events
        self.link_drained = site.link_drained
        self.link_refused = site.link_refused

    def link_opened(self, link: ILink) -> None:
        """One more."""
        self.links[link] = None
        self._site.link_opened(link)

    def link_closed(self, link: ILink, reason: Failure) -> None:
        """One less."""
        self.links.pop(link, None)
        self._site.link_closed(link, reason)


def _word(reason: str) -> str:
    """The part of a reason that is counted: ours, so there are few."""
    return reason.partition(":")[0]
