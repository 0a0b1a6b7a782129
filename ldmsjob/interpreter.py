"""Runs commands: those of a daemon's command line and files, and later ones.

Files are run in two passes, as in C: first the priority commands of all files, then the others,
each time in the order in which they stand. An `include` takes its place in both. What can be seen
without running anything (unknown verbs, attributes that do not belong there) is looked for in the
first pass in all commands.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING

from twisted.logger import Logger

from ldmsjob.commands import VERBS, Arguments, find_verb
from ldmsjob.config import Command, parse
from ldmsjob.errors import ConfigError

if TYPE_CHECKING:
    from ldmsjob.daemon import Daemon


class Interpreter:
    """Runs commands on a daemon. ``environ`` is what `${NAME}` reads and `env` writes."""

    log = Logger(namespace="config")

    def __init__(self, daemon: Daemon, environ: MutableMapping[str, str]) -> None:
        self.daemon = daemon
        self.environ = environ
        self._open_files: list[str] = []
        self._later: list[tuple[Command, tuple[str, ...]]] | None = None
        self._including: tuple[str, ...] = ()

    def read(self, options: Iterable[Command], files: Sequence[str]) -> None:
        """Run a daemon's command line and its files, in two passes.

        Raises ``ConfigError`` with ``where`` at the first command that fails.
        """
        later: list[tuple[Command, tuple[str, ...]]] = []
        self._later = later
        for one in options:
            self._first(one)
        for file in files:
            for one in self._read(file):
                self._first(one)
        self._later = None
        self.daemon.settle()
        for one, self._including in later:
            self.execute(one)
        self._including = ()

    def execute(self, one: Command, *, trusted: bool = True) -> None:
        """Run one command now. Variables are replaced if it is trusted, that is from a file.

        Raises ``ConfigError`` with ``where``.
        """
        arguments = Arguments(one, self.environ if trusted else None)
        try:
            find_verb(one).run(self, arguments)
        except ConfigError as error:
            self._place(error, one, arguments.unset)
            raise

    def _first(self, one: Command) -> None:
        """First pass: run it if it has priority, else check it and keep it for the second."""
        verb = VERBS.get(one.verb)
        if verb is None or verb.priority:
            self.execute(one)
            return
        try:
            find_verb(one)
        except ConfigError as error:
            self._place(error, one, [])
            raise
        assert self._later is not None
        self._later.append((one, self._including))

    def _place(self, error: ConfigError, one: Command, unset: list[str]) -> None:
        """Say in the error where it happened, unless a command inside of this one has done so."""
        if error.where:
            return
        error.where = one.where
        hints = [error.hint] if error.hint else []
        hints += [f"${{{name}}} is not set here" for name in unset]
        hints += [f"included from {where}" for where in reversed(self._including)]
        error.hint = "; ".join(hints)

    def include(self, path: str, where: str) -> None:
        """Run the commands of a file in place."""
        outer = self._including
        self._including = (*outer, where)
        try:
            for one in self._read(path):
                if self._later is None:
                    self.execute(one)
                else:
                    self._first(one)
        finally:
            self._including = outer

    def _read(self, path: str) -> Iterator[Command]:
        """The commands of a file, which counts as open until the last one has been taken."""
        real = os.path.realpath(path)
        if real in self._open_files:
            raise ConfigError(
                f"'{path}' includes itself",
                rc=errno.ELOOP,
                hint=" -> ".join([*self._open_files[self._open_files.index(real) :], real]),
            )
        try:
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                text = file.read()
        except OSError as error:
            raise ConfigError(
                f"cannot open the configuration file '{path}': {error.strerror}",
                rc=error.errno or errno.EIO,
                hint="" if os.path.isabs(path) else f"the path is relative to {os.getcwd()}",
            ) from None
        self._open_files.append(real)
        try:
            yield from parse(text, path)
        finally:
            self._open_files.remove(real)
