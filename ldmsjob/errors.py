"""The exceptions that ldmsjob raises on purpose.

Anything else that escapes from this package is a defect of ours.
"""

from __future__ import annotations

import errno

PLUGIN_FAULTS = (Exception, SystemExit)
"""What a call into a plugin may raise to its own harm only. ``sys.exit()``, which libraries for
command lines call, must not end the daemon from there."""

CANNOT_LISTEN = 7
"""``ConfigError.rc`` when a listener cannot be opened: the C daemon's exit status then."""


class LdmsJobError(Exception):
    """Base of all the errors below."""


class ConfigError(LdmsJobError):
    """Something a user wrote is wrong.

    ``rc`` is the errno that the C daemon answers for the same mistake; it becomes the exit status
    of the daemon. ``where`` is ``file:line`` once the command that failed is known. ``hint`` says
    what would be right; it is shown behind the message.
    """

    def __init__(
        self, message: str, *, rc: int = errno.EINVAL, where: str = "", hint: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.rc = rc
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        """``where: message; hint``, leaving out what is empty."""
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}; {self.hint}" if self.hint else text


class PeerError(LdmsJobError):
    """A peer broke the protocol. Costs that peer its link and nobody anything else."""


class HandshakeTimeout(PeerError):
    """A peer has not been done with authenticating in time: it hangs, or speaks something else."""


class RequestFailed(LdmsJobError):
    """What was asked of a peer was not done. ``rc`` is the errno that says why: what the peer
    answered, or 110 no answer in time, 104 connection lost, 2 the set is gone, 111 nobody listens.
    """

    def __init__(self, message: str, *, rc: int) -> None:
        super().__init__(message)
        self.rc = rc


class SetImageError(LdmsJobError):
    """A metric set image contradicts itself or points outside itself."""


class SchemaError(LdmsJobError):
    """A metric set cannot be built like that: a name too long, an unknown type, a bad value."""


class SetFull(LdmsJobError):
    """The heap of a metric set has no room for another list element."""


class SetExists(LdmsJobError):
    """A set of that instance name is already registered."""


class Busy(LdmsJobError):
    """The object cannot do that in its present state (errno 16)."""


class ChannelTaken(LdmsJobError):
    """Another job manager already listens to that message channel (errno 17)."""


class NoticeError(LdmsJobError, ValueError):
    """A job manager tells of a job that there cannot be; nothing has come of it."""


class PublishError(LdmsJobError):
    """A message cannot be sent; ``rc`` is the errno that says why (90 too long, 95 service off)."""

    def __init__(self, message: str, *, rc: int) -> None:
        super().__init__(message)
        self.rc = rc


class AuthFailed(LdmsJobError):
    """Authentication did not succeed; the text is fit for the log and holds no secret.

    ``reason`` is what it is counted as: a word or two of a fixed vocabulary, such as ``expired``,
    never anything that a peer has sent. Log lines are limited by it, too.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason
