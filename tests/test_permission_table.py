"""The tables of who may do what, tried over real links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.serving import SetService
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.sets.schema import Schema
from ldmsjob.stats import Stats
from ldmsjob.transports.memory import MemoryPair
from ldmsjob.turns import Turn
from ldmsjob.values import U64
from ldmsjob.wire.events import Credential, Message, Publish, Subscribe
from ldmsjob.wire.setevents import (
    READ_NOT_ALLOWED,
    READ_OK,
    SET_ADDED,
    DirectoryAnswered,
    DirectoryUpdated,
    LookUp,
    LookupFailed,
    MemoryRead,
    Notified,
    Pushed,
    ReadMemory,
    SetAnnounced,
    WantDirectory,
    WantNotify,
    WantPush,
)
from tests.fake_links import FakeLink, message
from tests.fake_sites import FakeSite, Proves
from tests.permission_table import (
    GROUP,
    LINKS,
    NOISE,
    OWNER,
    PUBLISHING,
    READING,
    cells,
    identities,
)

SCHEMA = Schema("some")
SCHEMA.add_metric("n", U64)

BITS = list(dict.fromkeys(int(column, 8) for _, column, _ in cells(READING)))
PERMS = [bits | noise for bits in BITS for noise in NOISE]
READABLE = {
    (who, int(column, 8) | noise): allowed
    for who, column, allowed in cells(READING)
    for noise in NOISE
}
"""By who it is and the permission bits of an object."""


class TableTestCase(SynchronousTestCase):
    """A daemon's side, and peers at the other end of real links."""

    def setUp(self) -> None:
        """Make it."""
        self.clock = Clock()
        self.stats = Stats()
        self.turn = Turn()
        self.registry = SetRegistry()
        sets = SetService(self.registry, self.stats, self.turn, self.clock, now=self.clock.seconds)
        self.hub = MessageHub(self.stats, self.turn, now=self.clock.seconds)
        self.hub.enable()
        self.site = LinkSite(self.hub, Stats(), self.turn, self.clock, sets=sets)
        self.addCleanup(self.site.close)

    def connect(self, who: str) -> tuple[MemoryPair, FakeSite]:
        """A peer of ours, and what it hears."""
        heard = FakeSite()
        pair = MemoryPair(self.site, heard, self.clock, left_authenticator=Proves(LINKS[who]))
        pair.settle()
        self.addCleanup(pair.right.close)
        return pair, heard

    def ask(self, pair: MemoryPair, heard: FakeSite, *commands: Any) -> list[Any]:
        """What it hears of what it asks."""
        heard.events.clear()
        for command in commands:
            pair.right.send(command)
        pair.settle()
        return list(heard.events)

    def offer(self, perms: list[int], prefix: str = "node") -> dict[str, MetricSet]:
        """Sets with these permissions."""
        made = {}
        for perm in perms:
            name = f"{prefix}/{perm:03o}"
            made[name] = MetricSet(name, SCHEMA, clock=lambda: 1, uid=OWNER, gid=GROUP, perm=perm)
            made[name].commit(1)
            self.registry.add(made[name])
        return made

    def expected(self, who: str, prefix: str = "node") -> list[str]:
        """The names of the sets that somebody may read."""
        return sorted(f"{prefix}/{perm:03o}" for perm in PERMS if READABLE[who, perm])


class SetTests(TableTestCase):
    """Sets, each with other bits."""

    def test_list(self) -> None:
        """The directory has what the peer may read, and so have its updates."""
        self.offer(PERMS)
        for number, who in enumerate(LINKS):
            with self.subTest(who=who):
                pair, heard = self.connect(who)
                answers = self.ask(pair, heard, WantDirectory(1, updates=True))
                listed = [
                    entry.name
                    for answer in answers
                    if isinstance(answer, DirectoryAnswered)
                    for entry in answer.entries
                ]
                self.assertEqual(sorted(listed), self.expected(who))
                heard.events.clear()
                with self.turn:
                    self.offer(PERMS, f"new{number}")
                pair.settle()
                told = [
                    entry.name
                    for event in heard.events
                    if isinstance(event, DirectoryUpdated)
                    for entry in event.entries
                ]
                self.assertEqual(sorted(told), self.expected(who, f"new{number}"))
                for name in [name for name in self.registry.names() if name.startswith("new")]:
                    self.registry.remove(name)

    def test_appearing(self) -> None:
        """A set that becomes readable is told as added to those who may read it now."""
        for who in LINKS:
            with self.subTest(who=who):
                ((name, metric_set),) = self.offer([0o000]).items()
                pair, heard = self.connect(who)
                self.ask(pair, heard, WantDirectory(1, updates=True))
                heard.events.clear()
                for perm in (0o040, 0o440):
                    metric_set.set_owner(OWNER, GROUP, perm)
                    self.registry.changed(name)
                pair.settle()
                kinds = [one.kind for one in heard.events if isinstance(one, DirectoryUpdated)]
                told = READABLE[who, 0o040] + READABLE[who, 0o440]
                if who == "root":
                    self.assertNotIn(SET_ADDED, kinds)
                elif told:
                    self.assertEqual(kinds.count(SET_ADDED), 1)
                self.assertEqual(len(kinds), told)
                self.registry.remove(name)

    def test_look_up_by_name(self) -> None:
        """A name finds what the peer may read; nobody learns that there is anything else."""
        names = list(self.offer(PERMS))
        for who in LINKS:
            with self.subTest(who=who):
                pair, heard = self.connect(who)
                lookups = [LookUp(token, name) for token, name in enumerate(names, 1)]
                answers = self.ask(pair, heard, *lookups, LookUp(99, "node/none"))
                found = [one.announced for one in answers if isinstance(one, SetAnnounced)]
                self.assertEqual(sorted(one.instance for one in found), self.expected(who))
                failures = {one.rc for one in answers if isinstance(one, LookupFailed)}
                self.assertEqual(failures, set() if LINKS[who] is None else {2})

    def test_look_up_by_expression_and_schema(self) -> None:
        """So does an expression, in either kind of name, and so does a schema."""
        self.offer(PERMS)
        for who in LINKS:
            for lookup in (
                LookUp(1, "^node/[0-7]+$", is_regex=True),
                LookUp(1, "some", by_schema=True),
                LookUp(1, "o.e", by_schema=True, is_regex=True),
            ):
                with self.subTest(who=who, lookup=lookup):
                    pair, heard = self.connect(who)
                    answers = self.ask(pair, heard, lookup)
                    found = [one.announced for one in answers if isinstance(one, SetAnnounced)]
                    self.assertEqual(sorted(one.instance for one in found), self.expected(who))

    def looked_up(self, who: str) -> tuple[MemoryPair, FakeSite, dict[int, tuple[Any, MetricSet]]]:
        """A peer that looked up sets while all could read them; now each has other bits.

        Who is not authenticated has got hold of what another peer was announced.
        """
        sets = self.offer(PERMS)
        for metric_set in sets.values():
            metric_set.set_owner(OWNER, GROUP, 0o444)
        pair, heard = self.connect(who)
        other = self.connect("root") if LINKS[who] is None else (pair, heard)
        announced = {
            one.announced.instance: one.announced
            for one in self.ask(*other, LookUp(1, "some", by_schema=True))
        }
        granted = {}
        for perm, (name, metric_set) in zip(PERMS, sets.items(), strict=True):
            granted[perm] = announced[name], metric_set
        return pair, heard, granted

    def restrict(self, granted: dict[int, tuple[Any, MetricSet]]) -> None:
        """Give each set its bits."""
        for perm, (_, metric_set) in granted.items():
            metric_set.set_owner(OWNER, GROUP, perm)

    def clear(self) -> None:
        """Remove all sets."""
        for name in self.registry.names():
            self.registry.remove(name)

    def test_read(self) -> None:
        """What was looked up is read as long as the permission to read it lasts."""
        for who in LINKS:
            with self.subTest(who=who):
                pair, heard, granted = self.looked_up(who)
                self.restrict(granted)
                reads = [ReadMemory(perm + 1, granted[perm][0], 0, 8) for perm in PERMS]
                answers = self.ask(pair, heard, *reads)
                status = {one.token: one.status for one in answers if isinstance(one, MemoryRead)}
                self.assertEqual(
                    status,
                    {}
                    if LINKS[who] is None
                    else {
                        perm + 1: READ_OK if READABLE[who, perm] else READ_NOT_ALLOWED
                        for perm in PERMS
                    },
                )
                data = [one.data for one in answers if isinstance(one, MemoryRead) and one.status]
                self.assertEqual(b"".join(data), b"")
                self.clear()

    def change(self, granted: dict[int, tuple[Any, MetricSet]], heard: FakeSite) -> None:
        """A transaction of each set."""
        heard.events.clear()
        with self.turn:
            for _, metric_set in granted.values():
                with metric_set.transaction():
                    metric_set.put("n", 1)

    def push_ids(self, heard: FakeSite, *, last: bool) -> list[int]:
        """Permissions of the sets that were pushed, or whose pushes ended."""
        pushes = [one for one in heard.events if isinstance(one, Pushed) and one.last is last]
        self.assertTrue(all(one.data for one in pushes) != last or not pushes)
        return sorted({int.from_bytes(one.push_id, "big") for one in pushes})

    def test_push(self) -> None:
        """Pushes, wished for before or after the permission changed, go to who may read."""
        for who in LINKS:
            for before in (True, False):
                with self.subTest(who=who, before=before):
                    pair, heard, granted = self.looked_up(who)
                    wishes = [
                        WantPush(announced, perm.to_bytes(8, "big"))
                        for perm, (announced, _) in granted.items()
                    ]
                    if not before:
                        self.restrict(granted)
                    self.ask(pair, heard, *wishes)
                    refused = self.push_ids(heard, last=True)
                    if before:
                        self.restrict(granted)
                    self.change(granted, heard)
                    pair.settle()
                    allowed = sorted(perm for perm in PERMS if READABLE[who, perm])
                    denied = sorted(set(PERMS) - set(allowed)) if LINKS[who] else []
                    self.assertEqual(self.push_ids(heard, last=False), allowed)
                    ended = self.push_ids(heard, last=True)
                    self.assertEqual((refused, ended), ([], denied) if before else (denied, []))
                    self.clear()

    def test_subscribe(self) -> None:
        """Notifications likewise."""
        for who in LINKS:
            for before in (True, False):
                with self.subTest(who=who, before=before):
                    pair, heard, granted = self.looked_up(who)
                    wishes = [
                        WantNotify(perm + 1, announced.set_id)
                        for perm, (announced, _) in granted.items()
                    ]
                    if not before:
                        self.restrict(granted)
                    self.ask(pair, heard, *wishes)
                    if before:
                        self.restrict(granted)
                    self.change(granted, heard)
                    pair.settle()
                    notified = [one.token - 1 for one in heard.events if isinstance(one, Notified)]
                    allowed = sorted(perm for perm in PERMS if READABLE[who, perm])
                    self.assertEqual(sorted(notified), allowed)
                    self.clear()


class MessageTests(TableTestCase):
    """Messages, each with other bits."""

    def test_receive(self) -> None:
        """Subscriptions of every kind bring what the peer may read."""
        origin = FakeLink("publisher")
        for who in LINKS:
            for subscription in (
                Subscribe("chan"),
                Subscribe("^ch.n$", is_regex=True),
                Subscribe("chan", rate=1_000_000),
            ):
                with self.subTest(who=who, subscription=subscription):
                    pair, heard = self.connect(who)
                    self.ask(pair, heard, subscription)
                    heard.events.clear()
                    for perm in PERMS:
                        each = message("chan", uid=OWNER, gid=GROUP, perm=perm)
                        self.assertTrue(self.hub.deliver([each], origin)[0])
                    pair.settle()
                    got = [one.perm for one in heard.events if isinstance(one, Message)]
                    self.assertEqual(got, [perm for perm in PERMS if READABLE[who, perm]])
                    pair.right.close()
                    pair.settle()

    def test_publish(self) -> None:
        """A peer publishes in the names that it may use, and in no other, whatever the bits."""
        got: list[Message] = []
        self.hub.subscribe("chan", got.append, "test", publishers=[*range(1000, 1100)])
        for who, column, allowed in cells(PUBLISHING):
            link = LINKS[who]
            uid, gid = identities(link or Credential(0, 0, {901}))[column]
            with self.subTest(who=who, column=column):
                pair, heard = self.connect(who)
                got.clear()
                self.ask(
                    pair,
                    heard,
                    *(Publish("chan", b"\0", uid=uid, gid=gid, perm=perm) for perm in PERMS),
                )
                self.assertEqual(len(got), len(PERMS) * allowed)
                self.assertEqual({(one.uid, one.gid) for one in got} or {(uid, gid)}, {(uid, gid)})


class NobodyTests(TableTestCase):
    """A peer that has not authenticated."""

    def test_any_request_ends_the_link(self) -> None:
        """It is never a link of ours: whatever it asks for, it hears nothing and is closed."""
        self.offer(PERMS)
        for command in (
            WantDirectory(1),
            LookUp(1, "node/444"),
            Subscribe("chan"),
            Publish("chan", b"\0"),
        ):
            with self.subTest(command=command):
                pair, heard = self.connect("not authenticated")
                self.assertEqual(self.site.links, ())
                self.assertEqual(self.ask(pair, heard, command), [])
                self.assertEqual(heard.calls[-1], "closed")
                self.assertEqual(self.site.links, ())
        self.assertEqual(self.stats.get("lookups") + self.stats.get("directories"), 0)


class DocumentTests(SynchronousTestCase):
    """The tables are those of the guide."""

    def test_printed(self) -> None:
        """docs/security.md has them word for word."""
        page = Path(__file__).parent.parent / "docs" / "security.md"
        text = page.read_text("utf-8")
        for table in (READING, PUBLISHING):
            self.assertIn(table, text)

    def test_complete(self) -> None:
        """Every link and every combination of read bits is in the tables."""
        for table in (READING, PUBLISHING):
            self.assertEqual(list(dict.fromkeys(who for who, _, _ in cells(table))), list(LINKS))
        self.assertEqual(sorted(BITS), sorted({bits & 0o444 for bits in range(0o1000)}))
