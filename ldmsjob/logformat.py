"""Log lines as the C daemon writes them, and its levels.

A line is ``[STAMP: ]LEVEL: LOGGER: MESSAGE``. The logger is the namespace of the
``twisted.logger.Logger`` that wrote it. An event with ``always=True`` cannot be filtered and shows
nine blanks for its level. See docs/operating.md, Log.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import sys
import syslog
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from zope.interface import implementer

from ldmsjob.config import nearest
from ldmsjob.errors import ConfigError

LOGGERS = (
    "ldmsd",
    "config",
    "ldms.msg",
    "xprt.ldms",
    "xprt.zap",
    "xprt.zap.sock",
    "sampler",
    "jobmgr",
)
"""The loggers of the daemon itself. Plugin instances have ``jobmgr.<plugin>.<instance>`` and
``sampler.<plugin>.<instance>``; their levels may be set before they are loaded."""

_LOGGER_OF_MODULE = {
    "ldmsjob": "ldmsd",
    "ldmsjob.commands": "config",
    "ldmsjob.interpreter": "config",
    "ldmsjob.messages": "ldms.msg",
    "ldmsjob.links": "xprt.ldms",
    "ldmsjob.transports": "xprt.zap",
    "ldmsjob.transports.sock": "xprt.zap.sock",
    "ldmsjob.jobservice": "jobmgr",
    "twisted": "ldmsd",
    "log_legacy": "ldmsd",
}

_ORDER = (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical)
_NAMES = {
    LogLevel.debug: "DEBUG",
    LogLevel.info: "INFO",
    LogLevel.warn: "WARNING",
    LogLevel.error: "ERROR",
    LogLevel.critical: "CRITICAL",
}
_WORDS = {
    "DEBUG": LogLevel.debug,
    "INFO": LogLevel.info,
    "WARN": LogLevel.warn,
    "WARNING": LogLevel.warn,
    "ERROR": LogLevel.error,
    "CRIT": LogLevel.critical,
    "CRITICAL": LogLevel.critical,
}
_PRIORITIES = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

LevelSet = frozenset[Any]


@functools.lru_cache(maxsize=1024)
def logger_name(namespace: str) -> str:
    """The name that a ``twisted.logger`` namespace has in log lines.

    A logger that is a class attribute has its class's dotted name for a namespace, whatever it was
    given; ours and Twisted's then get the name of the part of C's daemon that does their work.
    """
    prefix = namespace
    while prefix:
        if prefix in _LOGGER_OF_MODULE:
            return _LOGGER_OF_MODULE[prefix]
        prefix = prefix.rpartition(".")[0]
    return namespace


def parse_level(text: str) -> LevelSet | None:
    """The levels that a word of the configuration language lets through.

    ``NAME``: that level and all above; ``NAME,``: only that one; ``A,B``: exactly these; ``QUIET``:
    none. ``default`` and ``reset`` give None: as the default logger. Raises ``ConfigError``.
    """
    words = [word.strip().upper() for word in text.split(",")]
    if words in (["DEFAULT"], ["RESET"]):
        return None
    if words == ["QUIET"]:
        return frozenset()
    if len(words) == 1 and words[0] in _WORDS:
        return frozenset(_ORDER[_ORDER.index(_WORDS[words[0]]) :])
    named = words[:-1] if words[-1] == "" else words
    if not named or not all(word in _WORDS for word in named):
        raise ConfigError(
            f"The given level {text} is invalid.",
            hint="levels are DEBUG, INFO, WARNING, ERROR, CRITICAL, QUIET, one of them with a "
            "comma for that level alone, several with commas between them, or 'default'",
        )
    return frozenset(_WORDS[word] for word in named)


class Levels:
    """Which levels each logger lets through. The default is ERROR and above, as in C."""

    def __init__(self) -> None:
        self._default = parse_level("ERROR") or frozenset()
        self._rules: list[tuple[re.Pattern[str], LevelSet | None]] = []
        self._known: dict[str, LevelSet] = {}

    def set_default(self, levels: LevelSet | None) -> None:
        """Set what loggers without a level of their own let through; None is ERROR and above."""
        self._default = parse_level("ERROR") or frozenset() if levels is None else levels
        self._known.clear()

    def set_named(self, name: str, levels: LevelSet | None) -> None:
        """Set the level of one logger. Raises ``ConfigError`` (rc 2) when there is none such."""
        if name not in LOGGERS and not name.startswith(("sampler.", "jobmgr.")):
            raise ConfigError(
                f"The given log {name} does not exist.", rc=2, hint=nearest(name, LOGGERS)
            )
        self._add(re.compile(rf"\A{re.escape(name)}\Z"), levels)

    def set_matching(self, regex: str, levels: LevelSet | None) -> None:
        """Set the level of all loggers whose names the regular expression is found in."""
        try:
            self._add(re.compile(regex), levels)
        except re.error as error:
            raise ConfigError(f"regex '{regex}' invalid", hint=str(error)) from None

    def _add(self, pattern: re.Pattern[str], levels: LevelSet | None) -> None:
        self._rules.append((pattern, levels))
        self._known.clear()

    def of(self, logger: str) -> LevelSet:
        """The levels that this logger lets through now; the last rule that fits decides."""
        levels = self._known.get(logger)
        if levels is None:
            levels = self._default
            for pattern, chosen in reversed(self._rules):
                if pattern.search(logger):
                    levels = self._default if chosen is None else chosen
                    break
            self._known[logger] = levels
        return levels


class LevelLogger(Logger):
    """A logger that makes no event at all for a level that is off.

    Plugins get these, so that a debug line on the way of every message costs one dictionary
    look-up while nobody wants it.
    """

    def __init__(self, namespace: str, levels: Levels) -> None:
        super().__init__(namespace=namespace)
        self._levels = levels

    def emit(self, level: Any, format: str | None = None, **kwargs: object) -> None:
        """Write, if the level is on or ``always`` is given."""
        if level in self._levels.of(self.namespace) or "always" in kwargs:
            super().emit(level, format, **kwargs)


def stamp_from(environ: Mapping[str, str]) -> Callable[[float], str]:
    """What stands in front of each line: chosen by ``LDMSD_LOG_TIME_SEC`` and
    ``LDMSD_LOG_DATE_TIME``, by default nothing."""
    if environ.get("LDMSD_LOG_TIME_SEC"):
        return lambda now: f"{now:.6f}: "
    if environ.get("LDMSD_LOG_DATE_TIME"):
        return lambda now: f"{time.asctime(time.localtime(now))}: "
    return lambda now: ""


@implementer(ILogObserver)
class LineObserver:
    """Writes events as lines to standard output, to a file, or to syslog.

    A line that cannot be written is dropped and counted in ``lost``: a full disk must not stop the
    daemon.
    """

    def __init__(self, levels: Levels, stamp: Callable[[float], str], output: TextIO) -> None:
        self.levels = levels
        self.lost = 0
        self._stamp = stamp
        self._output = output
        self._in_file = False
        self._path = ""
        self._syslog = False

    def __call__(self, event: LogEvent) -> None:
        """Write the event if its logger lets it through."""
        level = event.get("log_level", LogLevel.info)
        logger = logger_name(event.get("log_namespace", "ldmsd"))
        always = event.get("always", False)
        if not always and level not in self.levels.of(logger):
            return
        text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", formatEvent(event))
        if "log_failure" in event:
            failure = event["log_failure"]
            text = f"{text}\n{failure.getTraceback().rstrip()}" if text else failure.getTraceback()
        if self._syslog:
            priority = syslog.LOG_NOTICE if always else _PRIORITIES[level]
            syslog.syslog(priority, f"{logger}: {text}")
            return
        name = "" if always else _NAMES[level]
        try:
            self._output.write(f"{self._stamp(event['log_time'])}{name:>9}: {logger}: {text}\n")
            self._output.flush()
        except (OSError, ValueError):
            self.lost += 1

    def open(self, path: str) -> None:
        """Write to this file from now on, or to syslog when the path is that word.

        Raises ``ConfigError`` when the file cannot be opened.
        """
        if path == "syslog":
            syslog.openlog("ldmsd", syslog.LOG_PID, syslog.LOG_DAEMON)
            self._close()
            self._syslog = True
            return
        try:
            output = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(
                f"the log file '{path}' cannot be opened: {error.strerror}", rc=error.errno or 22
            ) from None
        self._close()
        self._output, self._in_file, self._syslog = output, True, False
        self._path = os.path.abspath(path)  # the working directory may be another one later

    def reopen(self) -> None:
        """Go on in the file that has the name now, or in a new one, as after a rotation.

        Raises ``ConfigError``, and goes on in the old file, when it cannot be opened.
        """
        if self._in_file:
            self.open(self._path)

    def hand_over(self, uid: int, gid: int) -> None:
        """Give the file to the user as whom this process will go on, who is to open it again.
        Raises ``OSError``."""
        if self._in_file:
            fd = self._output.fileno()
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                os.fchown(fd, uid, gid)

    def _close(self) -> None:
        if self._in_file:
            self._output.close()
            self._in_file, self._output = False, sys.__stdout__ or self._output
