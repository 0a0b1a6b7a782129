"""The nodes that one attempt of a job runs on, as far as notices name them. Pure."""

from __future__ import annotations

import msgspec

from ldmsjob.attempts import is_after, is_not_before

MAX_NODES = 4096
"""Names that are remembered of one job: a publisher must not take the daemon's memory. A larger
job whose nodes all report to one daemon ends when these have ended."""


class _Node(msgspec.Struct, eq=False, gc=False):
    start_us: int | None = None
    """None: only its end was heard of."""
    end_us: int | None = None


class JobNodes:
    """Which nodes have started a job and which have ended it.

    A node's end may come before its start when the two take different ways; and a node that never
    started the job ends it, too, when Slurm runs its epilog everywhere.
    """

    __slots__ = ("_known", "_running", "end_us", "names")

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        """Those that started it, in order of arrival."""
        self.end_us = 0
        """When the last of those ended that have."""
        self._running = 0
        self._known: dict[str, _Node] = {}

    @property
    def all_ended(self) -> bool:
        """Whether no node that started the job still runs it."""
        return not self._running

    def start(self, name: str, time_us: int) -> None:
        """A node starts the job, or a step of it."""
        node = self._find(name)
        if node is None:
            return
        if node.start_us is not None:
            if time_us < node.start_us:
                node.start_us = time_us
            return
        self.names += (name,)
        node.start_us = time_us
        if node.end_us is None or is_not_before(time_us, node.end_us):
            node.end_us = None  # its end, if it was told, was that of an earlier run
            self._running += 1
        else:
            self.end_us = max(self.end_us, node.end_us)

    def is_restart(self, name: str, time_us: int) -> bool:
        """Whether the node has ended the job, and this start comes after that: another run."""
        node = self._known.get(name)
        return (
            node is not None
            and node.start_us is not None
            and node.end_us is not None
            and is_not_before(time_us, node.end_us)
        )

    def runs(self, name: str) -> bool:
        """Whether the node started the job and has not ended it."""
        node = self._known.get(name)
        return node is not None and node.start_us is not None and node.end_us is None

    def end(self, name: str, time_us: int) -> str:
        """A node ends the job. Empty, or the name of the counter when that means nothing."""
        node = self._find(name)
        if node is None:
            return "exit_of_other_node"
        if node.start_us is None:
            node.end_us = time_us
            return "exit_of_other_node"
        if is_after(node.start_us, time_us):
            return "late"
        if node.end_us is not None:
            return "repeated_exit"
        node.end_us = time_us
        self.end_us = max(self.end_us, time_us)
        self._running -= 1
        return ""

    def _find(self, name: str) -> _Node | None:
        """What is known of it; None when nothing may be added."""
        node = self._known.get(name)
        if node is None and len(self._known) < MAX_NODES:
            node = self._known[name] = _Node()
        return node
