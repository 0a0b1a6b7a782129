"""The transport ``notifier``: a unix socket on which ldmsjob's own Slurm notifiers tell of jobs.

It only listens. What comes is lines of JSON (docs/slurm.md, How the lines arrive), each of which
becomes a message of the channel ``slurm``. Who connects is known from the kernel: only root and the
daemon's own user may.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.application.service import Service
from twisted.internet.protocol import Factory
from twisted.logger import LogLevel
from twisted.python.filepath import FilePath
from zope.interface import implementer

from ldmsjob.errors import CANNOT_LISTEN, ConfigError, PublishError
from ldmsjob.interfaces import IAuthenticator, ILinkSite, IListener, ITransport, LinkSettings
from ldmsjob.limitedlog import LimitedLog
from ldmsjob.transports.acceptor import BACKLOG, Acceptor
from ldmsjob.transports.intake import MESSAGES_OFF, Intake
from ldmsjob.transports.notifier_lines import MessageMaker
from ldmsjob.transports.notifier_links import NotifierLink
from ldmsjob.transports.streams import admission_of
from ldmsjob.transports.unixsocket import (
    MAX_PATH_BYTES,
    bound_socket,
    in_use,
    peer_process,
    prepare_directory,
)
from ldmsjob.wire.events import Credential

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from ldmsjob.interfaces import IPluginContext

POLL_SECONDS = 5.0
"""How often the spool is looked at though nobody told that it had grown."""

POLL_ONLY_SECONDS = 1.0
"""The same where the kernel cannot tell when it grows."""

_IN_MODIFY = 0x2


@implementer(ITransport)
class NotifierTransport:
    """Takes the notifiers' lines. The context's clock must be a reactor."""

    def __init__(self, context: IPluginContext, **limits: Any) -> None:
        """``limits`` may be ``piece_bytes``, for tests."""
        self._context = context
        self._limits = limits
        self._channel = "slurm"

    def configure(self, attributes: Mapping[str, str]) -> None:
        """Take the channel. Raises ``ConfigError`` for what cannot be one's name."""
        channel = attributes.get("channel", "slurm")
        try:
            if not channel:
                raise PublishError("it is empty", rc=errno.EINVAL)
            MessageMaker(channel)
        except PublishError as error:
            raise ConfigError(f"channel '{channel}' invalid: {error}") from None
        self._channel = channel

    def listen(
        self,
        host: str | None,
        port: int,
        site: ILinkSite,
        authenticator: IAuthenticator | None,
        settings: LinkSettings,
    ) -> NotifierListener:
        """A listener on the socket ``host``, a path. Of the ``settings`` only
        ``messages_enabled`` and ``admission`` matter."""
        path = host or ""
        if authenticator is not None:
            raise ConfigError(
                "'auth' is not for xprt=notifier",
                hint="the kernel tells who connects: root and the daemon's user may",
            )
        if not path.startswith("/"):
            raise ConfigError(f"path '{path}' invalid", hint="give it from the root on: path=/…")
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise ConfigError(
                f"path '{path}' is too long for a socket",
                rc=errno.ENAMETOOLONG,
                hint=f"it may have {MAX_PATH_BYTES} bytes",
            )
        return NotifierListener(self._context, path, self._channel, site, settings, **self._limits)

    def connect(self, *_arguments: Any, **_more: Any) -> NoReturn:
        """Raises ``ConfigError``: only notifiers connect here."""
        raise ConfigError(
            "xprt=notifier only listens", rc=errno.EOPNOTSUPP, hint="peers are connected by sock"
        )


class _LinkFactory(Factory):
    """Hands over the link that was made for a connection."""

    noisy = False

    def __init__(self, link: NotifierLink) -> None:
        self._link = link

    def buildProtocol(self, addr: Any) -> NotifierLink:
        """That link."""
        return self._link


@implementer(IListener)
class NotifierListener(Service):
    """Listens on a unix socket while it runs; see ``IListener``.

    ``privilegedStartService`` makes the directory if there is none and binds; ``startService``
    reads the spool and then listens. Until then notifiers are refused by the kernel, and use the
    spool. Both raise ``ConfigError``.

    Counters, besides those of ``Intake``: ``links_refused.<reason>``.
    """

    port = 0

    def __init__(
        self,
        context: IPluginContext,
        path: str,
        channel: str,
        site: ILinkSite,
        settings: LinkSettings,
        **limits: Any,
    ) -> None:
        self._context = context
        self._reactor: Any = context.clock
        self._path = path
        self._site = site
        self._admission = admission_of(settings)
        self._intake = Intake(context, path, channel, site, settings, **limits)
        self._limited = LimitedLog(context.log, now=context.clock.seconds)
        self._socket: socket.socket | None = None
        self._lock = -1
        self._acceptor: Acceptor | None = None
        self._watch: Any = None
        self._poll: IDelayedCall | None = None

    @property
    def service(self) -> NotifierListener:
        """The service is the listener."""
        return self

    def privilegedStartService(self) -> None:
        """Prepare the directory and bind."""
        super().privilegedStartService()
        self._bind()

    def startService(self) -> None:
        """Read what was spooled, then listen."""
        super().startService()
        self._bind()
        directory = os.path.dirname(self._path)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(
                f"the directory '{directory}' is not accessible to the daemon's user",
                rc=CANNOT_LISTEN,
                hint=f"give it to that user: chown {os.geteuid()} {directory}",
            )
        self._start_watching(directory)
        self._intake.start(self._listen)
        self._poll_later()

    def stopService(self) -> None:
        """Remove the socket, accept no more and close the links. Lines that were not answered go
        to the spool."""
        super().stopService()
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.stopReading()
            watch.connectionLost(None)
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        self._unbind()
        self._intake.stop()

    # The socket

    def _bind(self) -> None:
        if self._socket is not None:
            return
        prepare_directory(os.path.dirname(self._path), 0o700)
        self._lock = lock(self._path)
        try:
            self._socket = bound_socket(self._path, "notifier")
        except BaseException:
            os.close(self._lock)
            raise

    def _unbind(self) -> None:
        bound, self._socket = self._socket, None
        if bound is None:
            return
        try:
            os.unlink(self._path)
        except OSError:
            pass  # Somebody has tidied up.
        bound.close()
        os.close(self._lock)

    def _listen(self) -> None:
        """The spool has been read: take connections."""
        assert self._socket is not None
        self._socket.listen(BACKLOG)
        self._acceptor = Acceptor(
            *(self._reactor, self._socket, self._accepted, self._admission),
            where=self._path,
            on_this_host=True,
        )

    def _accepted(self, connection: socket.socket, _address: object) -> None:
        """Somebody has connected. Closed by the caller: what becomes a link is duplicated."""
        pid, uid, gid = peer_process(connection)
        who = f"pid {pid} of uid {uid}"
        whose = f"uid {uid}"
        if uid not in (0, os.geteuid()):
            self._refuse("uid", who, "not permitted: neither root nor the daemon's user")
        elif not self._intake.enabled:
            self._refuse("off", who, MESSAGES_OFF)
        elif objection := self._admission.objection(whose, on_this_host=True):
            self._refuse("too_many", who, objection)
        else:
            place = self._admission.enter(whose)
            link = NotifierLink(self._intake, pid, Credential(uid, gid), place)
            try:
                self._reactor.adoptStreamConnection(
                    connection.fileno(), socket.AF_UNIX, _LinkFactory(link)
                )
            except OSError as error:
                place.left()
                self._refuse("descriptors", who, f"no descriptor: {error.strerror}")

    def _refuse(self, counter: str, who: str, reason: str) -> None:
        self._context.stats.add(f"links_refused.{counter}")
        self._site.link_refused(f"{self._path}, {who}", reason)

    # The spool

    def _start_watching(self, directory: str) -> None:
        """Have the kernel tell when the spool grows."""
        try:
            from twisted.internet.inotify import INotify, INotifyError
        except (ImportError, OSError, AttributeError) as error:
            self._cannot_watch(error)
            return
        try:
            watch = INotify(self._reactor)
        except INotifyError as error:
            self._cannot_watch(error)
            return
        try:
            watch.watch(FilePath(directory), mask=_IN_MODIFY, callbacks=[self._changed])
        except INotifyError as error:
            watch.connectionLost(None)
            self._cannot_watch(error)
            return
        watch.startReading()
        self._watch = watch

    def _cannot_watch(self, error: Exception) -> None:
        self._limited.emit(
            "inotify",
            LogLevel.warn,
            "{path}: no inotify ({error}): the spool is looked at every {seconds:g} s",
            path=self._path,
            error=error,
            seconds=POLL_ONLY_SECONDS,
        )

    def _changed(self, _watch: object, _path: object, _mask: int) -> None:
        """Something was written in the directory."""
        self._intake.look()

    def _poll_later(self) -> None:
        seconds = POLL_SECONDS if self._watch is not None else POLL_ONLY_SECONDS
        self._poll = self._context.clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._poll_later()
        self._intake.count_lost()
        self._intake.look()


def lock(path: str) -> int:
    """Keep other daemons away from that socket and its spool, until the descriptor is closed.

    Notifiers know nothing of it. Raises ``ConfigError``.
    """
    name = f"{path}.lock"
    try:
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(file)
            raise
    except BlockingIOError:
        raise in_use(path, "notifier") from None
    except OSError as error:
        raise ConfigError(f"'{name}': {error.strerror}", rc=CANNOT_LISTEN) from None
    return file
