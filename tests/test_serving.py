"""Serving sets, against links that remember what they were told."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob import readers, serving, slices
from ldmsjob.limits import Limits
from ldmsjob.links import LinkSite
from ldmsjob.messages import MessageHub
from ldmsjob.serving import SetService
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.registry import SetRegistry
from ldmsjob.sets.schema import Schema
from ldmsjob.stats import Stats
from ldmsjob.turns import Turn
from ldmsjob.values import CHAR_ARRAY, U64
from ldmsjob.wire.events import Credential
from ldmsjob.wire.setevents import (
    NOTIFY_ALL,
    NOTIFY_MODIFIED,
    NOTIFY_USER_DATA,
    READ_NOT_ALLOWED,
    READ_OK,
    READ_OUTSIDE,
    READ_UNKNOWN_KEY,
    SET_ADDED,
    SET_CHANGED,
    AcknowledgeDeletion,
    AnnouncedSet,
    AnnounceSet,
    AnswerDirectory,
    AnswerReads,
    DeleteSet,
    DeletionAcknowledged,
    DeletionWanted,
    DirectoryAnswered,
    DirectoryCancelled,
    DirectoryEntry,
    DirectoryWanted,
    FailLookup,
    Info,
    LookupWanted,
    Notify,
    NotifyCancelled,
    NotifyWanted,
    Push,
    PushCancelled,
    PushWanted,
    Read,
    ReadAnswer,
    ReadsWanted,
    Time,
    UpdateDirectory,
)
from tests.fake_links import FakeLink, FakeRail

S = 1_000_000
NOW = 1_800_000_000 * S
XID = b"xid-----"
PUSH_ID = b"push----"
ALICE = Credential(1000, 100)


def make_schema(name: str = "some", array_card: int = 1) -> Schema:
    """A schema with a META and a DATA metric."""
    schema = Schema(name, array_card=array_card)
    schema.add_metric("who", CHAR_ARRAY, 8, meta=True)
    schema.add_metric("n", U64)
    return schema


SCHEMA = make_schema()


class ServingTestCase(SynchronousTestCase):
    """A service behind a link site, and two open links."""

    def setUp(self) -> None:
        """Make them."""
        self.stats = Stats()
        self.clock = Clock()
        self.turn = Turn()
        self.registry = SetRegistry()
        self.sets = SetService(
            self.registry, self.stats, self.turn, self.clock, now=self.clock.seconds
        )
        hub = MessageHub(Stats(), self.turn)
        self.site = LinkSite(hub, Stats(), self.turn, self.clock, sets=self.sets)
        self.link, self.other = FakeLink("10.0.0.1:1"), FakeLink("10.0.0.2:2")
        for link in (self.link, self.other):
            self.site.link_opened(link)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.site.close)

    def limit(self, **limits: Any) -> None:
        """Have the service keep to limits."""
        self.sets.limits = Limits(**limits)

    def add_set(self, name: str = "node/a", schema: Schema = SCHEMA, **options: Any) -> MetricSet:
        """Offer a set that has had one transaction."""
        metric_set = MetricSet(name, schema, clock=lambda: NOW, **{"perm": 0o440, **options})
        with metric_set.transaction():
            metric_set.put("n", 1)
        self.registry.add(metric_set)
        return metric_set

    def ask(self, *events: Any, link: FakeLink | None = None) -> list[Any]:
        """Have a link bring events in one read, and return what it is told."""
        link = link or self.link
        link.sent.clear()
        self.site.link_events(link, events)
        return list(link.sent)

    def announced(self, link: FakeLink | None = None, **request: Any) -> list[AnnouncedSet]:
        """Look up, and return what is announced; holds that ``more`` is right."""
        answers = self.ask(self.lookup(**request), link=link)
        if isinstance(answers[-1], FailLookup):
            self.assertEqual(len(answers), 1)
            return []
        self.assertEqual([one.more for one in answers], [True] * (len(answers) - 1) + [False])
        return [one.announced for one in answers]

    def lookup(
        self, path: str = "node/a", by_schema: bool = False, is_regex: bool = False
    ) -> LookupWanted:
        """A lookup."""
        return LookupWanted(XID, path, by_schema, is_regex)

    def grant(self, path: str = "node/a", link: FakeLink | None = None) -> AnnouncedSet:
        """Look one set up."""
        (announced,) = self.announced(path=path, link=link)
        return announced

    def read(
        self, announced: AnnouncedSet, offset: int, length: int, link: FakeLink | None = None
    ) -> tuple[int, bytes]:
        """Read announced memory: status and data."""
        wanted = Read(XID, b"context-", announced.key, announced.address + offset, length)
        ((read, status, data),) = self.answers(self.ask(ReadsWanted([wanted]), link=link))
        self.assertIs(read, wanted)
        return status, bytes(data)

    def answers(self, sent: list[Any]) -> list[ReadAnswer]:
        """The answers to reads in what was sent, which is nothing else."""
        self.assertEqual({type(one) for one in sent} - {AnswerReads}, set())
        return [answer for one in sent for answer in one.answers]

    def change(self, metric_set: MetricSet, value: int = 7) -> list[Any]:
        """One transaction; returns what the first link is told."""
        self.link.sent.clear()
        with self.turn, metric_set.transaction():
            metric_set.put("n", value)
        return list(self.link.sent)

    def counted(self, *names: str) -> list[int]:
        """Counters."""
        return [self.stats.get(name) for name in names]


class DirectoryTests(ServingTestCase):
    """What the directory says, and when."""

    def names(self, answers: list[Any]) -> list[str]:
        """The names in the one answer."""
        (answer,) = answers
        assert isinstance(answer, AnswerDirectory)
        self.assertEqual(answer.xid, XID)
        return [entry.name for entry in answer.entries]

    def test_an_entry(self) -> None:
        """An entry has all that readers want to know, of the image as it is now."""
        metric_set = self.add_set(uid=5, gid=6, perm=0o640)
        self.registry.set_info("node/a", "updt_hint_us", "1000000:0")
        metric_set.begin(NOW)
        metric_set.end(NOW + 3 * S + 4)
        (answer,) = self.ask(DirectoryWanted(XID, False))
        (entry,) = answer.entries
        expected = DirectoryEntry(
            name="node/a",
            schema="some",
            digest=SCHEMA.digest.hex().upper(),
            flags="CL ",
            meta_size=len(metric_set.meta_bytes()),
            data_size=len(metric_set.data_bytes()),
            heap_size=0,
            uid=5,
            gid=6,
            perm="-rw-r-----",
            card=2,
            array_card=1,
            meta_gn=metric_set.meta_generation,
            data_gn=metric_set.data_generation,
            timestamp=Time(1_800_000_003, 4),
            duration=Time(3, 4),
            info=(Info("updt_hint_us", "1000000:0"),),
        )
        self.assertEqual(entry, expected)

    def test_inconsistent(self) -> None:
        """A set that no transaction has finished is not marked consistent."""
        self.registry.add(MetricSet("node/b", SCHEMA, clock=lambda: 0))
        (answer,) = self.ask(DirectoryWanted(XID, False))
        self.assertEqual(answer.entries[0].flags, " L ")

    def test_once(self) -> None:
        """Without updates nothing more is told; it ends an earlier wish for them."""
        self.add_set("node/b")
        self.add_set("node/a")
        self.assertEqual(self.names(self.ask(DirectoryWanted(XID, True))), ["node/a", "node/b"])
        self.ask(DirectoryWanted(XID, False))
        self.link.sent.clear()
        self.add_set("node/c")
        self.assertEqual(self.link.sent, [])

    def test_updates(self) -> None:
        """Added and changed sets are told to those who asked, with their request's number."""
        self.ask(DirectoryWanted(XID, True))
        self.link.sent.clear()
        self.add_set("node/a")
        self.registry.set_info("node/a", "k", "v")
        told = [(one.xid, one.kind, one.entry.name, one.entry.info) for one in self.link.sent]
        self.assertEqual(
            told,
            [
                (XID, SET_ADDED, "node/a", ()),
                (XID, SET_CHANGED, "node/a", (Info("k", "v"),)),
            ],
        )
        self.assertEqual(self.other.sent, [])
        self.registry.remove("node/a")
        self.assertEqual(len(self.link.sent), 2)

    def test_updates_of_one_turn(self) -> None:
        """A set that is added and changed in one turn is told once, one that is gone not at all."""
        self.ask(DirectoryWanted(XID, True))
        self.link.sent.clear()
        with self.turn:
            self.add_set("node/a")
            self.registry.set_info("node/a", "k", "v")
            self.add_set("node/b")
            self.registry.remove("node/b")
        self.assertEqual([(one.kind, one.entry.name) for one in self.link.sent], [(2, "node/a")])

    def test_cancel(self) -> None:
        """After a cancel nothing is told."""
        self.ask(DirectoryWanted(XID, True), DirectoryCancelled())
        self.link.sent.clear()
        self.add_set()
        self.assertEqual(self.link.sent, [])

    def test_permission(self) -> None:
        """Only what a link may read is listed and told; also once it may."""
        self.link.credential = ALICE
        mine = self.add_set("node/mine", uid=1000)
        hidden = self.add_set("node/hidden")
        self.assertEqual(self.names(self.ask(DirectoryWanted(XID, True))), ["node/mine"])
        self.link.sent.clear()
        later = self.add_set("node/later")
        self.assertEqual(self.link.sent, [])
        for metric_set in (hidden, later, mine):
            metric_set.set_owner(1000, 0, 0o400)
            self.registry.changed(metric_set.instance)
            self.registry.changed(metric_set.instance)
        told = [(one.kind, one.entry.name) for one in self.link.sent]
        self.assertEqual(
            told,
            [
                (SET_ADDED, "node/hidden"),
                (SET_CHANGED, "node/hidden"),
                (SET_ADDED, "node/later"),
                (SET_CHANGED, "node/later"),
                (SET_CHANGED, "node/mine"),
                (SET_CHANGED, "node/mine"),
            ],
        )
        self.link.sent.clear()
        mine.set_owner(0, 0, 0o400)
        self.registry.changed("node/mine")
        self.assertEqual(self.link.sent, [])

    def test_many_sets(self) -> None:
        """A long list comes in parts, one in each turn: the sets that there were, without those
        that have gone meanwhile."""
        self.patch(slices, "SLICE_BYTES", 2 * readers.ENTRY_BYTES)
        for letter in "abcdef":
            self.add_set(f"node/{letter}")
        sent = self.link.sent
        self.site.link_events(self.link, [DirectoryWanted(XID, False)])
        self.assertEqual([self.names([part]) for part in sent], [["node/a", "node/b"]])
        self.registry.remove("node/c")
        self.registry.remove("node/d")
        self.add_set("node/d")
        while self.clock.getDelayedCalls():
            self.clock.advance(0)
        self.assertEqual(
            [self.names([part]) for part in sent], [["node/a", "node/b"], ["node/e", "node/f"]]
        )
        self.assertEqual([part.more for part in sent], [True, False])

    def test_changes_in_a_long_list(self) -> None:
        """What has changed while a list is under way is told behind its last part."""
        self.patch(slices, "SLICE_BYTES", 2 * readers.ENTRY_BYTES)
        for letter in "abc":
            self.add_set(f"node/{letter}")
        sent = self.link.sent
        self.site.link_events(self.link, [DirectoryWanted(XID, True)])
        self.add_set("node/aa")
        self.registry.changed("node/c")
        self.assertEqual(len(sent), 1)
        self.clock.advance(0)
        self.assertEqual(self.names(sent[1:2]), ["node/c"])
        self.assertEqual(
            [(one.kind, one.entry.name) for one in sent[2:]],
            [(SET_ADDED, "node/aa"), (SET_CHANGED, "node/c")],
        )

    def test_list_for_a_link_that_does_not_read(self) -> None:
        """The next part of a list waits until the one before was read."""
        self.patch(slices, "SLICE_BYTES", readers.ENTRY_BYTES)
        for letter in "abc":
            self.add_set(f"node/{letter}")
        self.site.link_events(self.link, [DirectoryWanted(XID, False)])
        self.link.choked = True
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual([self.names([part]) for part in self.link.sent], [["node/a"]])
        self.link.choked = False
        self.site.link_drained(self.link)
        self.clock.advance(0)
        self.assertEqual([part.more for part in self.link.sent], [True, True, False])

    def test_link_that_does_not_read(self) -> None:
        """Updates wait for a link that does not read; what is gone meanwhile is not told."""
        self.ask(DirectoryWanted(XID, True))
        self.link.sent.clear()
        self.link.choked = True
        self.add_set("node/a")
        self.add_set("node/b")
        self.registry.remove("node/a")
        self.assertEqual(self.link.sent, [])
        self.link.choked = False
        self.site.link_drained(self.link)
        self.assertEqual([one.entry.name for one in self.link.sent], ["node/b"])


class LookupTests(ServingTestCase):
    """What is announced."""

    def setUp(self) -> None:
        """Three sets of two schemas."""
        super().setUp()
        self.a = self.add_set("node/a")
        self.b = self.add_set("node/b")
        self.c = self.add_set("node/c", make_schema("else", 3))

    def found(self, link: FakeLink | None = None, **request: Any) -> list[str]:
        """The names that a lookup finds."""
        return [one.instance for one in self.announced(link, **request)]

    def test_announcement(self) -> None:
        """What is announced describes the set's memory."""
        self.registry.set_info("node/c", "k", "v")
        one = self.grant("node/c")
        self.assertEqual(
            (one.schema, one.instance, one.card, one.array_card, one.info),
            ("else", "node/c", 2, 3, (Info("k", "v"),)),
        )
        self.assertEqual(one.meta_size, len(self.c.meta_bytes()))
        self.assertEqual(one.data_size * 3, len(self.c.data_bytes()))
        self.assertEqual((len(one.key), len(one.set_id)), (4, 8))

    def test_kinds(self) -> None:
        """Sets are found by name, schema, or a regular expression searched in either."""
        self.assertEqual(self.found(path="node/b"), ["node/b"])
        self.assertEqual(self.found(path="some", by_schema=True), ["node/a", "node/b"])
        self.assertEqual(self.found(path="[bc]$", is_regex=True), ["node/b", "node/c"])
        self.assertEqual(self.found(path="^el", by_schema=True, is_regex=True), ["node/c"])
        self.assertEqual(self.found(path=".", is_regex=True), ["node/a", "node/b", "node/c"])

    def test_nothing_found(self) -> None:
        """What finds nothing is errno 2; what is no expression is errno 22."""
        for request, rc in (
            ({"path": "node"}, 2),
            ({"path": "node/a", "by_schema": True}, 2),
            ({"path": "^a", "is_regex": True}, 2),
            ({"path": "(", "is_regex": True}, 22),
            ({"path": "(", "is_regex": True, "by_schema": True}, 22),
        ):
            self.assertEqual(self.ask(self.lookup(**request)), [FailLookup(XID, rc)])

    def test_permission(self) -> None:
        """Nobody has announced what he may not read, by name or otherwise; ``more`` is right."""
        self.link.credential = ALICE
        self.assertEqual(self.ask(self.lookup()), [FailLookup(XID, 2)])
        self.assertEqual(self.ask(self.lookup(".", is_regex=True)), [FailLookup(XID, 2)])
        self.a.set_owner(1000, 0, 0o400)
        self.assertEqual(self.found(path="node/a"), ["node/a"])
        self.assertEqual(self.found(path="some", by_schema=True), ["node/a"])

    def test_handles(self) -> None:
        """A link has one handle of a set; another set, and another link, other ones."""
        first = self.grant("node/a")
        self.assertEqual(self.grant("node/a"), first)
        second = self.grant("node/b")
        self.assertEqual(len({first.key, second.key}), 2)
        self.assertEqual(len({first.set_id, second.set_id}), 2)

    def test_too_many(self) -> None:
        """A link cannot have more than so many sets; what it has goes on."""
        self.limit(lookups_per_link=2)
        *answers, last = self.ask(self.lookup(".", is_regex=True))
        self.assertEqual([type(one) for one in answers], [AnnounceSet, AnnounceSet])
        self.assertEqual(last, FailLookup(XID, 12))
        self.assertEqual(self.counted("refused.handles"), [1])
        self.assertEqual(self.ask(self.lookup("node/c")), [FailLookup(XID, 12)])
        self.assertEqual(self.found(path="node/a"), ["node/a"])
        self.assertEqual(self.found(path="node/c", link=self.other), ["node/c"])

    def test_too_many_of_all_links(self) -> None:
        """All links together cannot have more than so many; room is made by a link that closes,
        and by a deletion that is acknowledged or was given up."""
        self.limit(lookups=3)
        for path in ("node/a", "node/b"):
            self.grant(path)
        self.assertEqual(self.found(path="node/a", link=self.other), ["node/a"])
        wanted = self.lookup("node/b")
        self.assertEqual(self.ask(wanted, link=self.other), [FailLookup(XID, 12)])
        self.registry.remove("node/a")
        self.assertEqual(self.ask(wanted, link=self.other)[-1], FailLookup(XID, 12))
        deletion = next(one for one in self.link.sent if isinstance(one, DeleteSet))
        self.ask(DeletionAcknowledged(deletion.token))
        self.assertEqual(self.sets.handles, 2)
        self.clock.advance(3600)
        self.assertEqual(self.sets.handles, 1)
        self.assertEqual(self.found(path="node/b", link=self.other), ["node/b"])
        for link, left in ((self.link, 1), (self.other, 0)):
            self.site.link_closed(link, Failure(ConnectionDone()))
            self.assertEqual(self.sets.handles, left)

    def step(self) -> bool:
        """Make the next delayed call, and not those that it leads to; False when there is none."""
        if not self.clock.calls:
            return False
        call = self.clock.calls.pop(0)
        call.called = 1
        call.func(*call.args, **call.kw)
        return True

    def test_long_search(self) -> None:
        """A search goes on in later turns when it takes long, and misses nothing that stays."""
        self.patch(slices, "SLICE_BYTES", 64)
        self.link.sent.clear()
        self.site.link_events(
            self.link, [self.lookup("node/[abc]", is_regex=True), self.lookup("node/c")]
        )
        self.assertEqual(self.link.sent, [])
        self.registry.remove("node/b")
        while self.step():
            pass
        told = [(one.announced.instance, one.more) for one in self.link.sent]
        self.assertEqual(told, [("node/a", True), ("node/c", False), ("node/c", False)])

    def test_long_search_without_an_end(self) -> None:
        """When the last that was found goes before it is announced, the lookup ends in errno 2."""
        self.patch(slices, "SLICE_BYTES", 64)
        self.link.sent.clear()
        self.site.link_events(self.link, [self.lookup("[abc]", is_regex=True)])
        while not self.link.sent:
            self.step()
        for name in ("node/b", "node/c"):
            self.registry.remove(name)
        while self.step():
            pass
        (first, last) = self.link.sent
        self.assertEqual((first.announced.instance, first.more), ("node/a", True))
        self.assertEqual(last, FailLookup(XID, 2))

    def test_search_of_a_link_that_goes(self) -> None:
        """A search ends with its link: nothing more is found for it."""
        self.patch(slices, "SLICE_BYTES", 64)
        self.site.link_events(self.link, [self.lookup(".", is_regex=True)])
        self.site.link_closed(self.link, Failure(ConnectionDone()))
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.counted("announced", "lookups_failed"), [0, 0])

    def test_many_expressions(self) -> None:
        """Expressions take of a slice, also bad ones, and where there is no set to search."""
        for name in ("node/a", "node/b", "node/c"):
            self.registry.remove(name)
        for pattern in ("[[:alpha:]]{{1,90}}{}", "[[:alpha:]]{{1,1000}}{}"):
            wanted = [self.lookup(pattern.format(n), is_regex=True) for n in range(100)]
            most = slices.SLICE_BYTES // readers.COMPILE_BYTES
            self.assertIn(len(self.ask(*wanted)), (most - 1, most))
            self.step()
            self.assertIn(len(self.link.sent), (2 * most - 1, 2 * most))
            while self.step():
                pass
            self.assertEqual(len(self.link.sent), len(wanted))


class ReadTests(ServingTestCase):
    """Reading announced memory."""

    def setUp(self) -> None:
        """A set that was looked up."""
        super().setUp()
        self.set = self.add_set()
        self.one = self.grant()
        self.size = len(self.set.image)

    def test_contents(self) -> None:
        """A read gets the bytes of the image as they are when it is answered."""
        self.assertEqual(self.read(self.one, 0, self.size), (READ_OK, bytes(self.set.image)))
        self.change(self.set, 99)
        at = self.one.meta_size
        status, data = self.read(self.one, at, self.size - at)
        self.assertEqual((status, data), (READ_OK, bytes(self.set.data_bytes())))
        self.assertEqual(self.read(self.one, self.size, 0), (READ_OK, b""))
        self.assertEqual(self.counted("reads"), [3])

    def test_order(self) -> None:
        """Reads of one turn are answered in their order, each from the state of that moment."""
        wanted = [
            Read(XID, bytes([n] * 8), self.one.key, self.one.address, n) for n in (5, 3, 0, 7)
        ]
        answers = self.answers(self.ask(ReadsWanted(wanted[:3]), ReadsWanted(wanted[3:])))
        self.assertEqual([read for read, _, _ in answers], wanted)
        self.assertEqual([len(data) for _, _, data in answers], [5, 3, 0, 7])
        self.assertEqual(self.counted("reads", "read_bytes"), [4, 15])

    def test_mixed(self) -> None:
        """Each of several reads that come together gets its own status."""
        good = Read(XID, XID, self.one.key, self.one.address, 1)
        unknown = Read(XID, XID, b"nope", self.one.address, 1)
        outside = Read(XID, XID, self.one.key, self.one.address - 1, 1)
        answers = self.answers(self.ask(ReadsWanted([good, unknown, outside, good])))
        self.assertEqual(
            [(status, len(data)) for _, status, data in answers],
            [(READ_OK, 1), (READ_UNKNOWN_KEY, 0), (READ_OUTSIDE, 0), (READ_OK, 1)],
        )
        self.assertEqual(self.counted("reads", "reads_refused.17", "reads_refused.18"), [2, 1, 1])

    def test_outside(self) -> None:
        """What is not all inside the set is refused, and its address does not wrap around."""
        for offset, length in (
            (-1, 1),
            (self.size, 1),
            (0, self.size + 1),
            (1, self.size),
            (-self.one.address, 1),
            ((1 << 64) - 1 - self.one.address, 2),
            ((1 << 64) - self.size - self.one.address, self.size),
            (0, 0xFFFFFFFF),
        ):
            self.assertEqual(self.read(self.one, offset, length), (READ_OUTSIDE, b""))
        self.assertEqual(self.counted("reads_refused.18", "reads"), [8, 0])

    @given(
        st.integers(0, (1 << 64) - 1) | st.integers(1 << 32, (1 << 32) + 1000),
        st.integers(0, 0xFFFFFFFF) | st.integers(0, 1000),
    )
    def test_any_place(self, address: int, length: int) -> None:
        """Whatever is read is a part of the image, or nothing."""
        offset = address - self.one.address
        inside = offset >= 0 and offset + length <= self.size
        expected = (
            (READ_OK, bytes(self.set.image[offset : offset + length]))
            if inside
            else (READ_OUTSIDE, b"")
        )
        self.assertEqual(self.read(self.one, offset, length), expected)

    def test_other_link(self) -> None:
        """A key is good on its own link only: no other one knows it."""
        self.add_set("node/b")
        self.grant("node/b")
        second = self.grant("node/b")
        self.grant("node/a", link=self.other)
        self.assertEqual(self.read(second, 0, 1, self.other), (READ_UNKNOWN_KEY, b""))
        self.assertEqual(self.read(second, 0, 1)[0], READ_OK)

    def test_permission(self) -> None:
        """A link that may read the set no longer is refused."""
        self.link.credential = ALICE
        self.assertEqual(self.read(self.one, 0, 1), (READ_NOT_ALLOWED, b""))
        self.set.set_owner(1000, 0, 0o400)
        self.assertEqual(self.read(self.one, 0, 1)[0], READ_OK)

    def test_changed_metadata_shows_in_data(self) -> None:
        """The generation of the metadata is in the copy that readers look at, once it changed."""
        at = self.one.meta_size
        before = self.read(self.one, at, 96)[1]
        with self.set.transaction():
            self.set.put("who", "alice")
        after = self.read(self.one, at, 96)[1]
        generation = self.set.meta_generation.to_bytes(8, "little")
        self.assertEqual(after[40:48], generation)
        self.assertNotEqual(before[40:48], generation)

    def test_asking_without_reading(self) -> None:
        """What a peer asks for that does not read waits, in order, and is answered when it does."""
        self.link.choked = True
        self.link.sent.clear()
        wanted = [Read(XID, bytes([n] * 8), self.one.key, self.one.address, n) for n in (1, 2)]
        self.site.link_events(self.link, [ReadsWanted([read]) for read in wanted])
        self.assertEqual(self.link.sent, [])
        self.link.choked = False
        self.site.link_drained(self.link)
        self.assertEqual([read for read, _, _ in self.answers(self.link.sent)], wanted)

    def test_asking_too_much_without_reading(self) -> None:
        """A peer that goes on asking and never reads loses its link, and nobody else anything."""
        self.limit(waiting_bytes=10 * slices.REQUEST_BYTES)
        self.link.choked = True
        wanted = ReadsWanted([Read(XID, XID, self.one.key, self.one.address, 1)] * 2)
        for _ in range(2):
            self.site.link_events(self.link, [wanted] * 5)
            self.assertEqual(self.link.state, "open")
            self.link.choked = False
            self.site.link_drained(self.link)
            self.link.choked = True
        self.site.link_events(self.link, [wanted] * 5)
        self.assertEqual(self.link.state, "open")
        self.site.link_events(self.link, [ReadsWanted(wanted.reads[:1])])
        self.assertTrue(self.link.state.startswith("aborted"))
        self.assertEqual(self.counted("refused.waiting"), [1])
        other = self.grant(link=self.other)
        self.assertEqual(self.read(other, 0, 1, self.other)[0], READ_OK)

    def test_much_in_one_turn(self) -> None:
        """One link gets a slice in a turn; the rest comes in the next ones."""
        self.patch(slices, "SLICE_BYTES", 2 * self.size)
        wanted = [
            Read(XID, bytes([n] * 8), self.one.key, self.one.address, self.size) for n in range(7)
        ]
        answers = self.answers(self.ask(ReadsWanted(wanted[:])))
        self.assertEqual(len(answers), 2)
        wanted.append(Read(XID, XID, b"nope", 0, 1))
        self.site.link_events(self.link, [ReadsWanted(wanted[7:])])
        while self.clock.getDelayedCalls():
            self.clock.advance(0)
        answers = self.answers(self.link.sent)
        self.assertEqual([read for read, _, _ in answers], wanted)
        self.assertEqual([status for _, status, _ in answers], [READ_OK] * 7 + [READ_UNKNOWN_KEY])
        self.assertEqual(self.counted("reads", "read_bytes"), [7, 7 * self.size])

    def test_much_without_reading(self) -> None:
        """The rest of what was begun waits for a peer that has stopped reading."""
        self.patch(slices, "SLICE_BYTES", self.size)
        wanted = Read(XID, XID, self.one.key, self.one.address, self.size)
        self.link.choked = True
        self.ask(ReadsWanted([wanted] * 3))
        self.link.choked = False
        self.site.link_drained(self.link)
        self.link.choked = True
        self.clock.advance(0)
        self.assertEqual(len(self.answers(self.link.sent)), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.link.choked = False
        self.site.link_drained(self.link)
        while self.clock.getDelayedCalls():
            self.clock.advance(0)
        self.assertEqual(len(self.answers(self.link.sent)), 3)


class PushTests(ServingTestCase):
    """Pushes."""

    def setUp(self) -> None:
        """A set that was looked up."""
        super().setUp()
        self.set = self.add_set()
        self.one = self.grant()

    def want(self, on_change: bool = True, link: FakeLink | None = None) -> list[Any]:
        """Ask for pushes."""
        return self.ask(PushWanted(self.one.set_id, PUSH_ID, on_change), link=link)

    def check(self, sent: list[Any], offset: int) -> None:
        """One push of the image as it is now, from that offset on."""
        (push,) = sent
        self.assertEqual((type(push), push.push_id, push.last), (Push, PUSH_ID, False))
        self.assertEqual((push.offset, bytes(push.data)), (offset, bytes(self.set.image[offset:])))

    def test_on_change(self) -> None:
        """The first push is all of the set, later ones are its data, until META changes."""
        self.assertEqual(self.want(), [])
        self.check(self.change(self.set), 0)
        self.check(self.change(self.set), self.one.meta_size)
        self.set.put("who", "bob")
        self.check(self.change(self.set), 0)
        self.check(self.change(self.set), self.one.meta_size)
        self.assertEqual(self.other.sent, [])

    def test_copies(self) -> None:
        """Of a set of several copies the first push has all and later ones the current copy."""
        self.set = self.add_set("node/c", make_schema("c", 3))
        self.one = self.grant("node/c")
        self.want()
        self.check(self.change(self.set), 0)
        (push,) = self.change(self.set)
        at = self.set.copy_offset
        self.assertEqual(push.offset, at)
        self.assertEqual(bytes(push.data), bytes(self.set.image[at : at + self.one.data_size]))

    def test_one_push_for_a_turn(self) -> None:
        """Several transactions of one turn are one push, of the last state."""
        self.want()
        self.link.sent.clear()
        with self.turn:
            for value in (1, 2, 3):
                with self.set.transaction():
                    self.set.put("n", value)
            self.assertEqual(self.link.sent, [])
        self.check(self.link.sent, 0)

    def test_explicit(self) -> None:
        """Without ``on_change`` only what the daemon pushes is pushed."""
        self.want(on_change=False)
        self.assertIsNone(self.set.watcher)
        self.assertEqual(self.change(self.set), [])
        self.sets.push(self.set)
        self.check(self.link.sent, 0)

    def test_registering_again(self) -> None:
        """A further wish replaces the first, and begins with all of the set."""
        self.want()
        self.change(self.set)
        self.ask(PushWanted(self.one.set_id, b"another-", True))
        (push,) = self.change(self.set)
        self.assertEqual((push.push_id, push.offset), (b"another-", 0))

    def test_cancel(self) -> None:
        """A cancelled wish is answered by a last push, once."""
        self.want()
        self.assertIsNotNone(self.set.watcher)
        cancel = PushCancelled(self.one.set_id)
        self.assertEqual(self.ask(cancel), [Push(PUSH_ID, 0, b"", last=True)])
        self.assertEqual(self.ask(cancel), [])
        self.assertEqual(self.change(self.set), [])
        self.assertIsNone(self.set.watcher)

    def test_unknown(self) -> None:
        """A handle of another link is unknown and gets no answer."""
        self.assertEqual(self.want(link=self.other), [])
        self.assertEqual(self.ask(PushCancelled(b"\xff" * 8)), [])
        self.assertEqual(self.counted("refused.push"), [1])
        self.change(self.set)
        self.assertEqual(self.other.sent, [])

    def test_permission(self) -> None:
        """Who may read the set no longer gets a last push instead of what is in it."""
        self.want()
        self.link.credential = ALICE
        self.assertEqual(self.change(self.set), [Push(PUSH_ID, 0, b"", last=True)])
        self.assertEqual(self.change(self.set), [])

    def test_link_that_does_not_read(self) -> None:
        """A peer that does not read gets one push, of the state then, when it has read."""
        self.want()
        self.link.choked = True
        self.assertEqual(self.change(self.set, 1), [])
        self.assertEqual(self.change(self.set, 2), [])
        self.assertEqual(self.counted("pushes_put_off", "pushes"), [2, 0])
        self.link.choked = False
        self.site.link_drained(self.link)
        self.check(self.link.sent, 0)

    def test_deleted(self) -> None:
        """A set's deletion ends the wish: what changed in the same turn, then a last push."""
        self.want()
        self.change(self.set)
        self.link.sent.clear()
        with self.turn:
            with self.set.transaction():
                self.set.put("n", 5)
            self.registry.remove("node/a")
        data, last, deletion = self.link.sent
        self.check([data], self.one.meta_size)
        self.assertEqual(last, Push(PUSH_ID, 0, b"", last=True))
        self.assertIsInstance(deletion, DeleteSet)
        self.link.choked = True

    def test_link_gone(self) -> None:
        """When the last link that wants to know is gone nobody is told of transactions."""
        self.want()
        self.site.link_closed(self.link, Failure(ConnectionDone()))
        self.assertIsNone(self.set.watcher)
        self.assertEqual(self.change(self.set), [])


class NotifyTests(ServingTestCase):
    """Notifications."""

    def setUp(self) -> None:
        """A set that was looked up."""
        super().setUp()
        self.set = self.add_set()
        self.one = self.grant()

    def test_kinds(self) -> None:
        """Modified, user data, or both, as was asked for; the last wish counts."""
        modified, data = Notify(XID, NOTIFY_MODIFIED), Notify(XID, NOTIFY_USER_DATA, b"hello")
        for what, expected in (
            (NOTIFY_ALL, [modified, data]),
            (NOTIFY_MODIFIED, [modified]),
            (NOTIFY_USER_DATA, [data]),
        ):
            self.assertEqual(self.ask(NotifyWanted(XID, self.one.set_id, what)), [])
            self.change(self.set)
            self.sets.notify(self.set, b"hello")
            self.assertEqual(self.link.sent, expected)
        self.ask(NotifyCancelled(self.one.set_id))
        self.change(self.set)
        self.sets.notify(self.set, b"hello")
        self.assertEqual(self.link.sent, [])
        self.assertIsNone(self.set.watcher)

    def test_not_told(self) -> None:
        """Unknown handles, links that do not read, and those without permission hear nothing."""
        self.ask(NotifyWanted(XID, self.one.set_id, NOTIFY_ALL), link=self.other)
        self.ask(NotifyCancelled(b"\0" * 8))
        self.change(self.set)
        self.assertEqual(self.other.sent, [])
        self.ask(NotifyWanted(XID, self.one.set_id, NOTIFY_ALL))
        self.link.choked = True
        self.assertEqual(self.change(self.set), [])
        self.link.choked = False
        self.link.credential = ALICE
        self.assertEqual(self.change(self.set), [])
        self.assertEqual(self.counted("refused.notify", "notifications_dropped"), [1, 1])


class DeletionTests(ServingTestCase):
    """Sets that go."""

    def setUp(self) -> None:
        """A set that one link looked up."""
        super().setUp()
        self.set = self.add_set()
        self.one = self.grant()

    def delete(self) -> int:
        """Remove the set; returns the number in what the link is told."""
        self.link.sent.clear()
        self.registry.remove("node/a")
        (told,) = self.link.sent
        self.assertEqual((type(told), told.instance), (DeleteSet, "node/a"))
        return int(told.token)

    def test_told_to_readers_only(self) -> None:
        """Who looked the set up is told; who only listed it, or asked in vain, never."""
        self.ask(DirectoryWanted(XID, True), self.lookup("node/b"), link=self.other)
        self.other.sent.clear()
        self.delete()
        self.assertEqual(self.other.sent, [])
        self.assertEqual(self.ask(self.lookup()), [FailLookup(XID, 2)])

    def test_acknowledged(self) -> None:
        """The memory can be read until the reader says that it is done."""
        token = self.delete()
        self.assertEqual(self.read(self.one, 0, 10), (READ_OK, bytes(self.set.image[:10])))
        self.assertEqual(self.ask(DeletionAcknowledged(token)), [])
        self.assertEqual(self.read(self.one, 0, 10), (READ_UNKNOWN_KEY, b""))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.ask(DeletionAcknowledged(token))
        self.assertEqual(
            self.counted("deletions", "deletions_acknowledged", "refused.deletion_acknowledged"),
            [1, 1, 1],
        )

    def test_never_acknowledged(self) -> None:
        """After a while the memory goes anyway: one timer for all sets and links."""
        self.add_set("node/b")
        second = self.grant("node/b", link=self.other)
        self.delete()
        self.clock.advance(20)
        self.registry.remove("node/b")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(serving.DELETE_SECONDS - 20)
        self.assertEqual(self.read(self.one, 0, 1)[0], READ_UNKNOWN_KEY)
        self.assertEqual(self.read(second, 0, 1, self.other)[0], READ_OK)
        self.clock.advance(20)
        self.assertEqual(self.read(second, 0, 1, self.other)[0], READ_UNKNOWN_KEY)
        self.assertEqual(self.counted("deletions_timed_out"), [2])

    def test_requests_for_a_deleted_set(self) -> None:
        """Pushes and notifications of a deleted set cannot be asked for."""
        self.delete()
        self.ask(PushWanted(self.one.set_id, PUSH_ID, True))
        self.ask(NotifyWanted(XID, self.one.set_id, NOTIFY_ALL))
        self.assertEqual(self.change(self.set), [])
        self.assertEqual(self.counted("refused.push", "refused.notify"), [1, 1])

    def test_link_gone(self) -> None:
        """A link that goes takes what waited for it along."""
        self.delete()
        self.site.link_closed(self.link, Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_offered_again(self) -> None:
        """A set of the same name is told of when the reader is done with the first one, and has
        handles of its own."""
        self.ask(DirectoryWanted(XID, True))
        self.link.sent.clear()
        with self.turn:
            self.registry.remove("node/a")
            self.add_set("node/a")
            self.add_set("node/b")
        deletion, update = self.link.sent
        self.assertEqual(update.entry.name, "node/b")
        (update,) = self.ask(DeletionAcknowledged(deletion.token))
        self.assertEqual((update.kind, update.entry.name), (SET_ADDED, "node/a"))
        self.assertNotEqual(self.grant().key, self.one.key)

    def test_offered_twice_again(self) -> None:
        """It is told of when the reader is done with all that had the name, not with one."""
        self.ask(DirectoryWanted(XID, True))
        first = self.delete()
        self.add_set("node/a")
        self.grant()
        second = self.delete()
        self.add_set("node/a")
        self.assertEqual(self.ask(DeletionAcknowledged(first)), [])
        (update,) = self.ask(DeletionAcknowledged(second))
        self.assertEqual((update.kind, update.entry.name), (SET_ADDED, "node/a"))

    def test_offered_again_to_a_rail(self) -> None:
        """A set that was looked up over one endpoint of a rail and is laid out anew is told of over
        the one with the directory, when the reader is done with the first."""
        rail = FakeRail(2)
        watching, reading = rail.link(0), rail.link(1)
        for link in (watching, reading):
            self.site.link_opened(link)
        self.ask(DirectoryWanted(XID, True), link=watching)
        self.grant(link=reading)
        for link in (watching, reading):
            link.sent.clear()
        with self.turn:
            self.registry.remove("node/a")
            self.add_set("node/a")
        (deletion,) = reading.sent
        self.assertEqual(watching.sent, [])
        self.ask(DeletionAcknowledged(deletion.token), link=reading)
        (update,) = watching.sent
        self.assertEqual((update.kind, update.entry.name), (SET_ADDED, "node/a"))
        for link in (reading, watching):
            self.site.link_closed(link, Failure(ConnectionDone()))
        self.assertEqual(len(self.sets._departures), 1)

    def test_offered_again_without_an_answer(self) -> None:
        """It is told of after the time-out when the reader never answers."""
        self.ask(DirectoryWanted(XID, True))
        self.delete()
        self.add_set("node/a")
        self.link.sent.clear()
        self.clock.advance(serving.DELETE_SECONDS)
        (update,) = self.link.sent
        self.assertIsInstance(update, UpdateDirectory)

    def test_peer_deletes_something(self) -> None:
        """A peer that says that a set of its goes is answered: we use none."""
        self.assertEqual(self.ask(DeletionWanted(XID, "x")), [AcknowledgeDeletion(XID)])

    def test_unexpected_answer(self) -> None:
        """An answer to what was never asked is ignored."""
        self.assertEqual(self.ask(DirectoryAnswered(1, ())), [])


class CostTests(ServingTestCase):
    """A daemon without readers."""

    def test_nothing_is_kept(self) -> None:
        """Links that ask for nothing are not told anything, and leave nothing behind."""
        metric_set = self.add_set()
        self.change(metric_set)
        self.registry.changed("node/a")
        self.registry.remove("node/a")
        self.assertEqual((self.link.sent, self.other.sent), ([], []))
        self.assertIsNone(metric_set.watcher)
        self.assertEqual(self.stats.values, {})
