"""``ldmsjob ls``: what ``ldms_ls`` does, for people and for scripts."""

from __future__ import annotations

import argparse
import errno
import json
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ldmsjob.cli.options import add_connection_options, exit_status
from ldmsjob.cli.output import complain, printable

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ldmsjob.cli.client import Connect
    from ldmsjob.peer import Peer
    from ldmsjob.sets.decoded import DecodedSet
    from ldmsjob.wire.setevents import DirectoryEntry

NOTHING_FOUND = 1

EXIT_STATUS = exit_status(
    {
        0: "all was shown",
        1: "there is no set, or none that a NAME means, or one went before it was read",
        errno.ENODATA: "with -P: a set was not pushed in time",
        errno.EPROTO: "the peer broke the protocol, or what came is no metric set",
        130: "interrupted",
    }
)

GROUP_SCHEMA = "ldmsd_grp_schema"
GROUP_MEMBER = "    grp_member: "
"""How the info of a group of sets names its members."""

READ_AHEAD = 16
"""Sets that are asked for while an earlier one is awaited."""

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "ls",
        help="show the metric sets of an LDMS daemon",
        description="List the metric sets of a daemon, or show what is in them (-l).",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add_connection_options(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="sets to show (all)")
    parser.add_argument("-l", "--long", action="store_true", help="show the values of the metrics")
    parser.add_argument(
        *("-v", "--verbose"),
        action="count",
        default=0,
        help="show sizes, owners and times; twice: more",
    )
    parser.add_argument(
        *("-u", "--user_data"), action="store_true", help="show the metrics' user data, with -l"
    )
    parser.add_argument(
        *("-E", "--regex"),
        action="store_true",
        help="NAME is a POSIX extended regular expression, which matches anywhere",
    )
    parser.add_argument("-S", "--schema", action="store_true", help="NAME is the name of a schema")
    parser.add_argument(
        *("-I", "--instance"),
        action="store_false",
        dest="schema",
        help="NAME is the name of a set (the default)",
    )
    parser.add_argument(
        *("-f", "--format"), choices=("json", "tab"), help="print JSON, or fields with tabs between"
    )
    parser.add_argument(
        "--json", action="store_const", dest="format", const="json", help="the same as -f json"
    )
    parser.add_argument(
        *("-d", "--decomposition"),
        action="store_true",
        help="print a template for decomposing these sets in a store",
    )
    parser.add_argument(
        *("-P", "--push"), action="store_true", help="have the sets pushed; implies -l"
    )
    parser.add_argument(
        *("-w", "--wait"),
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for each answer (%(default)g)",
    )
    parser.add_argument(
        *("-m", "--memory"),
        type=memory_size,
        default=memory_size("64M"),
        metavar="SIZE",
        help="refuse sets that are larger than this, such as 20M (64M)",
    )
    parser.add_argument("-V", "--version", action="store_true", help="print versions and exit")
    parser.set_defaults(run=run)


def seconds(text: str) -> float:
    """A time to wait, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds above 0 and up to 1000000"
        )
    return number


def memory_size(text: str) -> int:
    """``20M`` or ``20mb`` or ``4096``, for argparse."""
    match = re.fullmatch(r"\s*(\d+)\s*([BKMGT]?)B?\s*", text.upper(), re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 20M")
    return int(match[1]) * _UNITS[match[2]]


def run(arguments: argparse.Namespace) -> int:
    """List; returns the exit status. Raises ``ConfigError``."""
    from ldmsjob.cli.client import run_tool
    from ldmsjob.cli.commandline import INTERRUPTED, USAGE
    from ldmsjob.errors import ConfigError

    if arguments.version:
        return print_versions()
    try:
        selection = Selection(arguments)
    except ValueError as error:
        raise ConfigError(str(error), rc=USAGE) from None
    listing = Listing(arguments, selection, sys.stdout)
    return run_tool(arguments, listing.run, interrupted=INTERRUPTED)


def print_versions() -> int:
    """What ``-V`` prints."""
    from ldmsjob import __version__
    from ldmsjob.sets.layout import VERSION

    print(f"ldmsjob Version: {__version__}")
    print(f"LDMS Protocol Version: {'.'.join(map(str, VERSION))}")
    return 0


class Selection:
    """The sets that the command line means. Raises ``ValueError`` for a wrong expression.

    Without -E a name means itself: ``ldms_ls`` takes it for an expression from end to end.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        from ldmsjob.ere import Ere, EreError

        self._by_schema = arguments.schema
        self._tests: list[tuple[str, Callable[[str], bool]]] = []
        for name in arguments.names:
            if arguments.regex:
                try:
                    self._tests.append((name, Ere(name).search))
                except EreError as error:
                    raise ValueError(f"{name!r} is no expression: {error}") from None
            else:
                self._tests.append((name, name.__eq__))

    def choose(self, entries: Sequence[DirectoryEntry]) -> tuple[list[DirectoryEntry], list[str]]:
        """The sets that are meant, with the members of groups, in the order in which ``ldms_ls``
        shows them; and the names that mean none."""
        missing = [
            name
            for name, test in self._tests
            if not any(test(self._name(each)) for each in entries)
        ]
        by_name = {entry.name: entry for entry in entries}
        chosen = {
            entry.name: entry
            for entry in by_name.values()
            if not self._tests or any(test(self._name(entry)) for _, test in self._tests)
        }
        for entry in list(chosen.values()):
            if entry.schema == GROUP_SCHEMA:
                for item in entry.info:
                    member = by_name.get(item.key.removeprefix(GROUP_MEMBER))
                    if member is not None and item.key.startswith(GROUP_MEMBER):
                        chosen.setdefault(member.name, member)
        return list(chosen.values())[::-1], missing

    def _name(self, entry: DirectoryEntry) -> str:
        return entry.schema if self._by_schema else entry.name


class Listing:
    """One run of the tool."""

    def __init__(self, arguments: argparse.Namespace, selection: Selection, output: TextIO) -> None:
        self._arguments = arguments
        self._selection = selection
        self._output = output
        self._is_terminal = output.isatty()
        self._status = 0
        self._waiting: deque[tuple[DirectoryEntry, Deferred[DecodedSet]]] = deque()
        self._long = arguments.long or arguments.push or arguments.decomposition

    async def run(self, clock: Any, connect: Connect) -> int:
        """Connect, show, close. Raises ``LdmsJobError`` and what ``connect`` fails with."""
        from ldmsjob.cli.client import ToolError
        from ldmsjob.peer import Peer

        arguments = self._arguments
        peer = Peer(clock, timeout=arguments.wait, max_set_bytes=arguments.memory)
        opened = connect(peer, peer.settings)

        def too_late(_result: Any, _timeout: float) -> Any:
            raise ToolError(f"{arguments.host}:{arguments.port}: no answer", errno.ETIMEDOUT)

        opened.addTimeout(arguments.wait, clock, too_late)
        await opened
        address = peer.address
        entries, missing = self._selection.choose(await peer.dir())
        for name in missing:
            self._complain(f"no set matches {name!r}", NOTHING_FOUND)
        if not entries and not missing:
            self._complain(f"{address} shows no sets", NOTHING_FOUND)
        try:
            await self._show(peer, entries)
            self._output.flush()
        except BrokenPipeError:
            return self._status  # Whoever reads has enough. What was wrong till then stays wrong.
        finally:
            for _, coming in self._waiting:
                coming.addErrback(lambda _failure: None)
        await peer.close()
        return self._status

    async def _show(self, peer: Peer, entries: list[DirectoryEntry]) -> None:
        arguments = self._arguments
        if arguments.decomposition:
            from ldmsjob.cli.ls_json import decomposition

            readings = [each async for _, each in self._readings(peer, entries) if each is not None]
            self._dump(decomposition(readings))
        elif arguments.format == "json":
            await self._show_json(peer, entries)
        elif arguments.format == "tab":
            await self._show_tab(peer, entries)
        else:
            await self._show_text(peer, entries)

    async def _show_json(self, peer: Peer, entries: list[DirectoryEntry]) -> None:
        from ldmsjob.cli.ls_json import entry_record, reading_record

        arguments = self._arguments
        records = {entry.name: entry_record(entry) for entry in entries}
        if self._long:
            async for entry, reading in self._readings(peer, entries):
                if reading is None:
                    del records[entry.name]
                else:
                    records[entry.name].update(reading_record(reading))
        host, port = split_address(peer.address)
        self._dump(
            {
                "peer": {
                    "host": arguments.host,
                    "address": host,
                    "port": port,
                    "transport": arguments.xprt,
                },
                "sets": [records[name] for name in sorted(records)],
            }
        )

    async def _show_tab(self, peer: Peer, entries: list[DirectoryEntry]) -> None:
        from ldmsjob.cli.ls_text import directory_tab, set_tab

        arguments = self._arguments
        verbose = arguments.verbose
        if verbose > 1:
            host, port = split_address(peer.address)
            kind = "ipv6_address" if ":" in host else "ip_address"
            self._write(f"#hostname\t{kind}\tport\ttransport\n")
            self._write(f"{arguments.host}\t{host}\t{port}\t{arguments.xprt}\n")
        if verbose:
            for line in directory_tab(entries, digest=verbose > 1, now=time.time()):
                self._write(line)
        elif not self._long:
            self._write("#instance\n")
            for entry in entries:
                self._write(f"{entry.name}\n")
        if self._long:
            async for _, reading in self._readings(peer, entries):
                if reading is not None:
                    pushed = self._is_pushed(reading.schema)
                    self._write(set_tab(reading, user_data=arguments.user_data, pushed=pushed))

    async def _show_text(self, peer: Peer, entries: list[DirectoryEntry]) -> None:
        from ldmsjob.cli.ls_text import directory_foot, directory_head, entry_line, set_text

        arguments = self._arguments
        verbose = arguments.verbose
        if self._is_terminal and not self._long:
            from ldmsjob.cli.ls_table import print_table

            print_table(entries, self._output, verbose=verbose, now=time.time())
            return
        if verbose > 1:
            host, port = split_address(peer.address)
            kind = "IPv6 Address" if ":" in host else "IP Address  "
            self._write(f"Hostname     : {arguments.host}\n{kind} : {host}\n")
            self._write(f"Port         : {port}\nTransport    : {arguments.xprt}\n")
        if verbose:
            self._write(directory_head(digest=verbose > 1))
            for entry in entries:
                self._write(entry_line(entry, digest=verbose > 1))
            self._write(directory_foot(entries, digest=verbose > 1, long=self._long))
        elif not self._long:
            for entry in entries:
                self._write(f"{entry.name}\n")
        if self._long:
            async for _, reading in self._readings(peer, entries):
                if reading is not None:
                    pushed = self._is_pushed(reading.schema)
                    self._write(set_text(reading, user_data=arguments.user_data, pushed=pushed))

    # Reading

    async def _readings(
        self, peer: Peer, entries: Sequence[DirectoryEntry]
    ) -> AsyncIterator[tuple[DirectoryEntry, DecodedSet | None]]:
        """Each set and its values in that order; None for one that cannot be shown.

        Raises ``RequestFailed`` when the peer does not answer or goes.
        """
        from twisted.internet.defer import Deferred

        from ldmsjob.errors import RequestFailed, SetImageError

        waiting = self._waiting
        remaining = iter(entries)
        while True:
            while len(waiting) < READ_AHEAD and (entry := next(remaining, None)) is not None:
                waiting.append((entry, Deferred.fromCoroutine(self._reading(peer, entry))))
            if not waiting:
                return
            entry, coming = waiting.popleft()
            try:
                yield entry, await coming
            except SetImageError as error:
                self._complain(str(error), errno.EPROTO)
                yield entry, None
            except RequestFailed as error:
                if error.rc in (errno.ETIMEDOUT, errno.ECONNRESET, errno.ENOTCONN):
                    raise
                gone = error.rc == errno.ENOENT
                self._complain(str(error), NOTHING_FOUND if gone else error.rc)
                yield entry, None

    async def _reading(self, peer: Peer, entry: DirectoryEntry) -> DecodedSet:
        from ldmsjob.errors import RequestFailed

        found = await peer.lookup(entry.name)
        if not found:
            raise RequestFailed(f"{peer.address}: {entry.name!r} is gone", rc=errno.ENOENT)
        if self._is_pushed(entry.schema):
            return await first_push(found[0])
        return await found[0].update()

    def _is_pushed(self, schema: str) -> bool:
        """Whether such a set is shown as it is pushed. Groups never change, hence are read."""
        return bool(self._arguments.push) and schema != GROUP_SCHEMA

    # Writing

    def _dump(self, value: Any) -> None:
        json.dump(value, self._output, allow_nan=False, indent=2)
        self._output.write("\n")

    def _write(self, text: str) -> None:
        if self._is_terminal:
            self._output.write(printable(text))
        else:
            self._output.buffer.write(text.encode("utf-8", "surrogateescape"))

    def _complain(self, text: str, rc: int) -> None:
        self._status = self._status or rc
        complain(text)


async def first_push(remote_set: Any) -> DecodedSet:
    """The first reading that the set's owner pushes. Raises ``LdmsJobError``."""
    from twisted.internet.defer import Deferred

    from ldmsjob.errors import LdmsJobError, RequestFailed

    got: Deferred[DecodedSet] = Deferred()

    def pushed(reading: DecodedSet) -> None:
        if not got.called:
            got.callback(reading)

    def ended(reason: LdmsJobError | None) -> None:
        if not got.called:
            got.errback(reason)  # None is only told after ``close``.

    def too_late(_result: Any, timeout: float) -> Any:
        raise RequestFailed(
            f"{remote_set.instance!r} was not pushed in {timeout:g} s", rc=errno.ENODATA
        )

    push = remote_set.on_push(pushed, ended)
    got.addTimeout(remote_set.peer.timeout, remote_set.peer.clock, too_late)
    try:
        return await got
    finally:
        push.close().addErrback(lambda _failure: None)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``10.0.0.7:411`` or ``[fe80::1]:411``; a path has the port 0."""
    if address.startswith("/"):
        return address, 0
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
