"""What one peer lets us publish: its quota, its rate, and whether it takes messages at all.

docs/wire.md, Limits of the peer.
"""

from __future__ import annotations

import errno

from ldmsjob.errors import PublishError
from ldmsjob.wire.events import UNLIMITED, PeerInfo
from ldmsjob.wire.rates import RateWindow

NOBODY = PeerInfo(auth="", pid=0, messages_enabled=False, quota=UNLIMITED, rate=UNLIMITED)
"""The peer before it has said anything of itself."""

_OFF = "the peer's message service is off"


class Allowance:
    """The state of one connection's quota and rate. A negative quota or rate is no limit.

    Sizes are of channel name, NUL and data.
    """

    __slots__ = ("_credit", "_quota", "_refusal", "_window", "free")

    def __init__(self, peer: PeerInfo) -> None:
        quota, rate, enabled = peer.quota, peer.rate, peer.messages_enabled
        self._quota = quota
        self._credit: int | None = None if quota < 0 else quota
        """What may still be sent; None is without limit. Negative after a cut of the quota."""
        self._window = None if rate < 0 else RateWindow(rate)
        self._refusal = "" if enabled else _OFF
        self.free = enabled and quota < 0 and rate < 0
        """Whether there is no limit at all, which is nearly always so and costs least."""

    def refuse(self) -> None:
        """The peer takes no messages, now and for ever."""
        self._refusal = _OFF
        self.free = False

    def returned(self, credit: int) -> None:
        """The peer is done with messages of that size.

        Of what was sent before it had a quota, no more comes back than the quota has room for.
        """
        if self._credit is not None:
            self._credit = min(self._credit + credit, self._quota)

    def change_quota(self, quota: int) -> None:
        """The peer wants another quota. What is under way stays under way: after a cut, the next
        message may have to wait for more than one credit."""
        if quota < 0:
            self._credit = None
        elif self._credit is None:
            self._credit = quota
        else:
            self._credit += quota - self._quota
        self._quota = quota
        self._find_free()

    def change_rate(self, rate: int) -> None:
        """The peer wants another rate."""
        if rate < 0:
            self._window = None
        elif self._window is None:
            self._window = RateWindow(rate)
        else:
            self._window.change(rate)
        self._find_free()

    def admits(self, size: int, now_us: int) -> bool:
        """Whether waiting is of no use: ``spend`` would take it, or refuse it for ever."""
        if self.free or self._never(size):
            return True
        if self._credit is not None and size > self._credit:
            return False
        return self._window is None or self._window.fits(size, now_us)

    def waits_for_second(self, size: int, now_us: int) -> bool:
        """Whether nothing but the rate keeps it waiting."""
        window = self._window
        if window is None or self._never(size) or window.fits(size, now_us):
            return False
        return self._credit is None or size <= self._credit

    def spend(self, size: int, now_us: int) -> None:
        """Take a message's size off quota and rate. Raises ``PublishError``, and takes nothing,
        where that cannot be."""
        if self.free:
            return
        if self._refusal:
            raise PublishError(self._refusal, rc=errno.EOPNOTSUPP)
        credit, window = self._credit, self._window
        if self._never(size):
            limit = "quota" if 0 <= self._quota < size else "rate"
            text = f"a message of {size} bytes is more than the peer's {limit}"
            raise PublishError(text, rc=errno.EMSGSIZE)
        if credit is not None and size > credit:
            raise PublishError("the peer's quota is used up", rc=errno.EAGAIN)
        if window is not None and not window.take(size, now_us):
            raise PublishError("the peer's rate is used up for this second", rc=errno.EAGAIN)
        if credit is not None:
            self._credit = credit - size

    def _find_free(self) -> None:
        self.free = not self._refusal and self._credit is None and self._window is None

    def _never(self, size: int) -> bool:
        """Whether it cannot be sent, however long it waits."""
        if self._refusal or 0 <= self._quota < size:
            return True
        return self._window is not None and size > self._window.rate
