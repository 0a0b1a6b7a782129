"""A turn: all the work that one piece of input brings, e.g. one read of a socket.

What is cheaper once per read than once per message is put off to the end of the turn: writing an
event file, returning message credit. The order there is fixed by the callers: the journal first,
files next, credit last, because credit tells a publisher that its message has been dealt with.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from twisted.logger import Logger

from ldmsjob.errors import PLUGIN_FAULTS


class Turn:
    """Collects calls until the outermost ``with turn:`` block ends.

    Outside any block ``at_end`` calls at once, so its users need not know where they are. Who has
    a turn for each read adds to ``depth`` and calls ``end``, which costs a quarter of a block.
    """

    log = Logger(namespace="ldmsd")

    def __init__(self) -> None:
        self.depth = 0
        """How many blocks are open; 0 outside of any turn."""
        self._always: list[Callable[[], None]] = []
        self._calls: dict[Callable[[], None], None] = {}

    def at_every_end(self, call: Callable[[], None]) -> None:
        """Call ``call()`` whenever a turn ends, in front of what ``at_end`` was asked for."""
        self._always.append(call)

    def at_end(self, call: Callable[[], None]) -> None:
        """Call ``call()`` once when the turn ends, however often this is asked for in the turn."""
        if self.depth:
            self._calls[call] = None
        else:
            call()

    def end(self) -> None:
        """End what was begun last; the outermost end makes the calls, each on its own, failures
        logged."""
        self.depth -= 1
        if self.depth:
            return
        calls = self._always
        if self._calls:
            calls = [*calls, *self._calls]
            self._calls = {}
        for call in calls:
            try:
                call()
            except PLUGIN_FAULTS:
                self.log.failure("a call at the end of a turn failed: {call}", call=call)

    def __enter__(self) -> Turn:
        """Begin, or nest in, a turn."""
        self.depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the block."""
        self.end()
