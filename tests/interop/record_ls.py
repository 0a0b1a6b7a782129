"""Has C's ``ldms_ls`` show the recorded sets, and keeps what it prints in tests/vectors/ls.

Run in the project's directory as ``python -m tests.interop.record_ls PREFIX``, with the prefix of a
C build. What is written is compared by tests/test_cli_ls_text.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import implementer

from ldmsjob.interfaces import ILink, ILinkSite, LinkSettings
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.sock import SockTransport
from ldmsjob.wire.setevents import (
    READ_OK,
    READ_UNKNOWN_KEY,
    AnnounceSet,
    AnswerDirectory,
    AnswerReads,
    DirectoryWanted,
    FailLookup,
    Info,
    LookupWanted,
    ReadsWanted,
)
from tests.set_owners import VECTORS, Image

reactor: Any = installed_reactor

GOLDEN = Path(__file__).parent.parent / "vectors" / "ls"

MORE_OPTIONS = {"lu": ("-l", "-u"), "tab": ("-l", "-f", "tab"), "tabu": ("-l", "-f", "tab", "-u")}
"""Endings of files, and what they are printed with, for some sets. All are printed with -l."""

SHOWN_MORE = ("set-jobset", "set-metagn", "set-recordarray")

DIRECTORY_OPTIONS = {"": (), "v": ("-v",), "vv": ("-v", "-v"), "tab": ("-f", "tab")}
"""The same for the directory of all sets."""


@implementer(ILinkSite)
class ImageSite:
    """Serves images as they are."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}

    def link_opened(self, link: ILink) -> None:
        """Wait for requests."""

    def link_events(self, link: ILink, events: Sequence[Any]) -> None:
        """Answer."""
        images = list(self.images.values())
        for event in events:
            if isinstance(event, DirectoryWanted):
                link.send(AnswerDirectory(event.xid, [image.entry for image in images]))
            elif isinstance(event, LookupWanted):
                image = self.images.get(event.path)
                if image is None:
                    link.send(FailLookup(event.xid, 2))
                else:
                    number = images.index(image) + 1
                    link.send(AnnounceSet(event.xid, image.announced(number)))
            elif isinstance(event, ReadsWanted):
                for read in event.reads:
                    number = int.from_bytes(read.key, "little")
                    offset = read.address - (number << 32)
                    if 0 < number <= len(images):
                        data = images[number - 1].whole[offset : offset + read.length]
                        link.send(AnswerReads([(read, READ_OK, data)]))
                    else:
                        link.send(AnswerReads([(read, READ_UNKNOWN_KEY, b"")]))

    def link_drained(self, link: ILink) -> None:
        """Nothing waits."""

    def link_closed(self, link: ILink, reason: Failure) -> None:
        """The program has ended."""

    def link_refused(self, peer_address: str, reason: str) -> None:
        """No C program comes here."""


def recorded_sets() -> dict[str, Image]:
    """The recorded images by what their files are called: last states, and one in a transaction."""
    result = {path.stem: Image.recorded(path.stem) for path in sorted(VECTORS.glob("set-*.json"))}
    result["set-live-meminfo"].info = (Info("updt_hint_us", "1000000:0"), Info("colour", "red"))
    result["set-recordlist-open"] = Image.recorded("set-recordlist")
    result["set-recordlist-open"].put_copy("trans_flags", 1)
    return result


async def record(prefix: Path) -> None:
    """Write all files."""
    site = ImageSite()
    transport = SockTransport(SimpleNamespace(clock=reactor))  # type: ignore[arg-type]
    settings = LinkSettings(messages_enabled=lambda: False)
    listener = transport.listen("127.0.0.1", 0, site, NoneAuthenticator(), settings)
    listener.service.startService()
    command = (
        *(str(prefix / "sbin" / "ldms_ls"), "-h", "127.0.0.1", "-x", "sock", "-a", "none"),
        *("-p", str(listener.port)),
    )

    async def run(name: str, options: Sequence[str]) -> None:
        done = await deferToThread(
            subprocess.run,
            [*command, *options],
            capture_output=True,
            timeout=20,
            env={**os.environ, "TZ": "UTC"},
        )
        print(name, done.returncode, len(done.stdout), done.stderr.decode())
        (GOLDEN / name).write_bytes(done.stdout)

    GOLDEN.mkdir(exist_ok=True)
    images = recorded_sets()
    for name, image in images.items():
        site.images = {image.names[0]: image}
        await run(f"{name}.l.txt", ["-l"])
        for ending, options in MORE_OPTIONS.items() if name in SHOWN_MORE else ():
            await run(f"{name}.{ending}.txt", options)
    site.images = {image.names[0]: image for image in images.values()}
    for ending, options in DIRECTORY_OPTIONS.items():
        await run(f"directory{ending and '.' + ending}.txt", options)
    await listener.service.stopService()


if __name__ == "__main__":
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    react(lambda _reactor: Deferred.fromCoroutine(record(Path(sys.argv[1]))))
