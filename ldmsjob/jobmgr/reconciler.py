"""When to compare what is believed of Slurm's jobs with the node and with Slurm, and doing it.

A *round* looks at the node in a thread, asks Slurm when the two differ, and applies what
``slurm_reconcile.Judge`` makes of it. The first comes shortly after the start, when what waited for
the daemon has been read; further ones at a slow interval, and soon after a sign that notices were
missed or a round that left something open.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorProcess, IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from ldmsjob.errors import ConfigError, NoticeError
from ldmsjob.facts import JobKey
from ldmsjob.interfaces import IJob, IJobManagerContext
from ldmsjob.jobmgr.slurm_memory import NOT_ASKED, ById
from ldmsjob.jobmgr.slurm_node import NodeView, read_node
from ldmsjob.jobmgr.slurm_query import (
    MAX_ASKED_JOBS,
    Answer,
    SlurmQuery,
    can_be_asked,
    process_runner,
)
from ldmsjob.jobmgr.slurm_reconcile import Finding, Judge
from ldmsjob.notices import JobExit, JobInit, StepExit, StepInit, TaskInit

FIRST_ROUND_SECONDS = 1.5
SOON_SECONDS = 10.0
"""Until a round that follows up what another left open."""
GAP_SECONDS = 30.0
"""Between a round and one because of missed notices, so that bad senders cannot drive it."""
WATCH_SECONDS = 5.0
"""How often it is looked whether notices were missed."""
LATE_SECONDS = 2.0
"""A timer that comes later than this was held up, and so were the notices: they go first."""

MAX_NODES = 65_536

MAX_LOGGED_JOBS = 20

REJECTIONS = ("syntax", "utf8", "nesting", "type", "range", "missing", "event", "job_id")
"""Why messages are dropped: counters ``rejected_<reason>``."""

_COUNTERS: Mapping[type, str] = {
    JobInit: "adopted_jobs",
    StepInit: "adopted_steps",
    TaskInit: "adopted_tasks",
    StepExit: "ended_steps",
    JobExit: "ended_jobs",
}

Look = Callable[[int, frozenset[int]], Deferred[NodeView]]
"""Looks at the node: wall clock in microseconds, pids to look for."""


class Reconciler:
    """Holds one job manager's jobs against the node and Slurm.

    Attributes: ``reconcile``, seconds between rounds, 0 for none; ``stale``, seconds; ``nodes``,
    a Slurm host list; ``slurm_commands``, a directory or ``none``.

    ``look`` and ``query`` are for tests. Without them the node's own /proc and cgroups are read and
    ``squeue`` is run, for which the context's clock must be a real reactor: on a test's clock
    nothing is done.

    Counters: ``reconcile_rounds``, ``adopted_jobs``, ``adopted_steps``, ``adopted_tasks``,
    ``ended_steps``, ``ended_jobs``, ``not_adopted`` (what the core refused), ``reconcile_failures``
    and those of ``SlurmQuery``.
    """

    def __init__(
        self,
        context: IJobManagerContext,
        resource_manager: str,
        *,
        look: Look | None = None,
        query: Any | None = None,
    ) -> None:
        self._context = context
        self._resource_manager = resource_manager
        self._given = (look, query) if look is not None else None
        self._look: Look | None = None
        self._query: Any = None
        self._now = context.clock.seconds
        self._interval = 0.0
        self._stale = 0.0
        self._nodes: str | None = None
        self._names: frozenset[str] = frozenset()
        self._commands: str | None = None
        self._knows_nodes = True
        self._timer: Any = None
        self._round: Deferred[None] | None = None
        self._running = False

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Take the attributes, for the next start. Raises ``ConfigError``."""
        nodes = attributes.get("nodes")
        names = frozenset((_host_name(),)) if nodes is None else expand(nodes)
        self._interval = float(attributes.get("reconcile", "0"))
        self._stale = float(attributes.get("stale", "0"))
        self._nodes, self._names = nodes, names
        self._commands = attributes.get("slurm_commands")

    def start(self) -> None:
        """Begin, unless it is switched off. The first round comes a moment later."""
        self._running = self._interval > 0 and self._prepare()
        if not self._running:
            return
        own_uid = os.geteuid()
        self._judge = Judge(
            asked_nodes=self._names,
            shared=self._nodes is not None,
            stale=self._stale,
            own_uid=own_uid or None,
        )
        self._gap = True
        self._held_up = False
        self._adopted: frozenset[JobKey] = frozenset()
        self._lost = self._lost_notices()
        self._last_round = float("-inf")
        self._next_round = self._now() + FIRST_ROUND_SECONDS
        self._sleep()

    def stop(self) -> Deferred[None]:
        """End. A query under way is killed. Fires when nothing more will be applied."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._query is not None:
            self._query.stop()
        if self._round is None:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._round.addBoth(lambda _: done.callback(None))
        return done

    def _prepare(self) -> bool:
        """Get what a round needs; whether all is there."""
        if self._given is not None:
            self._look, self._query = self._given
            return True
        reactor: Any = self._context.clock
        if not (IReactorProcess.providedBy(reactor) and IReactorThreads.providedBy(reactor)):
            return False
        trusted = frozenset((0, os.geteuid()))

        def look(now_us: int, pids: frozenset[int]) -> Deferred[NodeView]:
            return deferToThreadPool(
                reactor, reactor.getThreadPool(), read_node, Path("/"), now_us, pids, trusted
            )

        self._look, self._query = look, None
        if self._commands != "none":
            self._query = SlurmQuery(
                process_runner(reactor),
                self._nodes or _host_name(),
                self._commands,
                self._context.stats,
                self._now,
                self._slurm_changed,
            )
        return True

    # Timing

    def _sleep(self) -> None:
        delay = min(max(self._next_round - self._now(), 0.0), WATCH_SECONDS)
        self._expected = self._now() + delay
        self._timer = self._context.clock.callLater(delay, self._woken)

    def _woken(self) -> None:
        self._timer = None
        now = self._now()
        self._watch_for_gaps()
        self._judge.forget_ended(self._beliefs())
        was_held_up, self._held_up = self._held_up, now - self._expected > LATE_SECONDS
        if self._held_up:
            # Notifiers that do not keep what is not taken have lost some meanwhile.
            self._gap = True
            soon = min(self._next_round, self._last_round + GAP_SECONDS)
            # One that is always late goes on all the same.
            self._next_round = soon if was_held_up else max(soon, now + LATE_SECONDS)
        if now < self._next_round:
            self._sleep()
        else:
            self._round = comparing = Deferred.fromCoroutine(self._compare())
            comparing.addErrback(self._round_failed)
            comparing.addBoth(self._round_ended)

    def _watch_for_gaps(self) -> None:
        """A job that began in the middle, or a message that was dropped: others may be missing."""
        adopted, lost = self._adopted_jobs(), self._lost_notices()
        if adopted - self._adopted or lost != self._lost:
            self._gap = True
            soon = max(self._now(), self._last_round + GAP_SECONDS)
            self._next_round = min(self._next_round, soon)
        self._adopted, self._lost = adopted, lost

    def _adopted_jobs(self) -> frozenset[JobKey]:
        return frozenset(job.key for job in self._context.jobs() if job.facts.adopted)

    def _lost_notices(self) -> int:
        stats = self._context.stats
        return sum(stats.get(f"rejected_{reason}") for reason in REJECTIONS)

    def _round_failed(self, failure: Failure) -> None:
        self._context.stats.add("reconcile_failures")
        self._context.log.failure("comparing jobs with the node failed", failure)

    def _round_ended(self, result: Any) -> None:
        self._round = None
        if self._running:
            self._sleep()

    # A round

    async def _compare(self) -> None:
        context = self._context
        context.stats.add("reconcile_rounds")
        gap = self._gap
        self._last_round = self._now()
        self._next_round = self._last_round + self._interval
        beliefs = self._beliefs()
        pids = {
            task.pid
            for belief in beliefs
            if not belief.ended
            for task in belief.tasks()
            if task.pid is not None and task.end_us is None
        }
        assert self._look is not None
        view = await self._look(context.now_us(), frozenset(pids))
        answer: Answer | None = None
        if self._is_stopped():
            return
        query = self._query
        if query is not None and (gap or self._judge.is_in_doubt(beliefs, view, self._now())):
            answer = await query.ask()
            if self._is_stopped():
                return
        by_id: ById = NOT_ASKED
        if answer is not None:
            self._check_nodes()
            by_id = await self._ask_for_unlisted(view, answer)
            if self._is_stopped():
                return
        # While Slurm does not answer, what only it knows of is still missing.
        self._gap = gap and query is not None and answer is None
        before = {belief.key.job_id for belief in beliefs}
        beliefs = self._beliefs()
        verdict = self._judge.decide(
            beliefs,
            view,
            answer,
            by_id=by_id,
            now=self._now(),
            now_us=context.now_us(),
            gap=gap,
            vanished=frozenset(before - {belief.key.job_id for belief in beliefs}),
        )
        self._apply(verdict.findings)
        if verdict.unsettled:
            self._next_round = min(self._next_round, self._now() + SOON_SECONDS)
        self._adopted = self._adopted_jobs()

    def _check_nodes(self) -> None:
        """Say it when Slurm does not know our nodes, once until it does."""
        knows_nodes = self._query.knows_nodes
        if self._knows_nodes and not knows_nodes:
            self._context.log.warn(
                "Slurm does not know the node {nodes}: jobs that were missed are not found unless"
                " they run here; nodes= says what Slurm calls the nodes of this daemon",
                nodes=self._nodes or _host_name(),
            )
        self._knows_nodes = knows_nodes

    async def _ask_for_unlisted(self, view: NodeView, answer: Answer) -> ById:
        """Of jobs that are not on the nodes that Slurm was asked for: they may run on others."""
        job_ids = self._judge.unlisted(self._beliefs(), view, answer, self._now())
        job_ids = [job_id for job_id in job_ids if can_be_asked(job_id)][:MAX_ASKED_JOBS]
        said = await self._query.ask_jobs(job_ids) if job_ids else None
        return NOT_ASKED if said is None else {job_id: said.get(job_id) for job_id in job_ids}

    def _is_stopped(self) -> bool:
        return not self._running

    def _beliefs(self) -> list[IJob]:
        return [
            job
            for job in self._context.jobs()
            if job.key.resource_manager == self._resource_manager
        ]

    def _apply(self, findings: Sequence[Finding]) -> None:
        context = self._context
        adopted: list[str] = []
        ended: list[str] = []
        for finding in findings:
            notice, why = finding.notice, finding.why
            try:
                context.apply(notice, context.received_time_us(), origin="reconciliation")
            except NoticeError:
                context.stats.add("not_adopted")
                continue
            kind = type(notice)
            if kind is JobInit:
                if notice.job_id in adopted:  # once more for a further node
                    continue
                adopted.append(notice.job_id)
            elif kind is JobExit:
                ended.append(f"{notice.job_id} ({why})")
            if kind in _COUNTERS:
                context.stats.add(_COUNTERS[kind])
        for verb, jobs in (("adopted", adopted), ("ended", ended)):
            if jobs:
                noun = "job" if len(jobs) == 1 else "jobs"
                context.log.info(
                    "{verb} after comparing with the node: {jobs}{more}",
                    verb=f"{len(jobs)} {noun} {verb}",
                    jobs=", ".join(jobs[:MAX_LOGGED_JOBS]),
                    more=", …" if len(jobs) > MAX_LOGGED_JOBS else "",
                )

    def _slurm_changed(self, reason: str | None) -> None:
        """Slurm answers now (None), or does not any more, and why."""
        if reason is None:
            self._context.log.info("Slurm answers: jobs are compared with it")
        else:
            self._context.log.info(
                "Slurm does not answer: {reason}; jobs are compared with the node alone",
                reason=reason,
            )


def _host_name() -> str:
    return socket.gethostname().partition(".")[0]


_PART = r"[^\[\],\s]+|\[[0-9,-]+\]"
_RANGE = r"([0-9]{1,9})(?:-([0-9]{1,9}))?"


def expand(text: str) -> frozenset[str]:
    """The names in one of Slurm's host lists, such as ``n[1-4,7],login``.

    Raises ``ConfigError`` for text that is none, or has more than ``MAX_NODES`` names.
    """
    names: set[str] = set()
    for word in re.split(r",(?![^\[]*\])", text):
        parts = re.findall(_PART, word)
        if not parts or "".join(parts) != word:
            raise _bad_nodes(text)
        made = [""]
        for part in parts:
            endings = _numbers(part[1:-1], text) if part.startswith("[") else [part]
            if len(made) * len(endings) > MAX_NODES:
                raise _bad_nodes(text)
            made = [begin + end for begin in made for end in endings]
        names.update(made)
        if len(names) > MAX_NODES:
            raise _bad_nodes(text)
    return frozenset(names)


def _numbers(text: str, whole: str) -> list[str]:
    """``1-3,07`` as ``1 2 3 07``; the width of a range's first number is that of all."""
    numbers: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(_RANGE, part)
        if match is None:
            raise _bad_nodes(whole)
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + MAX_NODES - len(numbers):
            raise _bad_nodes(whole)
        width = len(match[1])
        numbers += [f"{number:0{width}}" for number in range(first, last + 1)]
    return numbers


def _bad_nodes(text: str) -> ConfigError:
    return ConfigError(
        f"nodes={text[:80]}: not a list of Slurm nodes",
        hint="write it as Slurm does: nodes=n1 or nodes=n[1-4,7]",
    )
