"""The registry of sets."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import SchemaError, SetExists
from ldmsjob.sets.metricset import MetricSet
from ldmsjob.sets.registry import Offer, SetRegistry
from ldmsjob.sets.schema import Schema

SCHEMA = Schema("s")


def new_set(name: str) -> MetricSet:
    """An empty set."""
    return MetricSet(name, SCHEMA, clock=lambda: 0)


class Later:
    """What makes an empty set when it is asked for one."""

    def __init__(self, name: str) -> None:
        self.instance = name
        self.made: MetricSet | None = None

    @property
    def metric_set(self) -> MetricSet:
        """The set."""
        if self.made is None:
            self.made = new_set(self.instance)
        return self.made


class RegistryTests(SynchronousTestCase):
    """Adding, finding, removing, and who hears of it."""

    def setUp(self) -> None:
        """A registry with two sets."""
        self.registry = SetRegistry()
        self.b, self.a = new_set("b"), new_set("a")
        self.registry.add(self.b)
        self.registry.add(self.a)

    def test_finding(self) -> None:
        """Sets are found by name and listed in name order."""
        self.assertIs(self.registry.get("b"), self.b)
        self.assertIsNone(self.registry.get("c"))
        self.assertEqual(self.registry.names(), ["a", "b"])
        self.assertEqual(list(self.registry), [self.a, self.b])
        self.assertEqual(len(self.registry), 2)
        self.assertIn("a", self.registry)
        self.assertNotIn("c", self.registry)

    def test_one_set_for_a_name(self) -> None:
        """A name that is taken is refused, even for the same set, and the first set stays."""
        self.assertRaises(SetExists, self.registry.add, new_set("a"))
        self.assertRaises(SetExists, self.registry.add, self.a)
        self.assertIs(self.registry.get("a"), self.a)

    def test_removing(self) -> None:
        """A removed set is gone, and its name is free."""
        self.registry.remove("a")
        self.registry.remove("a")
        self.assertFalse(self.registry.offers(self.a))
        self.assertEqual(self.registry.names(), ["b"])
        self.registry.add(new_set("a"))

    def test_removing_while_iterating(self) -> None:
        """An iteration goes over the sets that there were when it began."""
        for metric_set in self.registry:
            self.registry.remove(metric_set.instance)
        self.assertEqual(len(self.registry), 0)

    def test_made_when_asked_for(self) -> None:
        """What stands for a set is told to observers, and asked for the set only when somebody
        wants it."""
        later = Later("c")
        told: list[Offer] = []
        self.registry.observe(lambda change, offer: told.append(offer))
        self.registry.add(later)
        self.assertEqual(self.registry.names(), ["a", "b", "c"])
        self.assertTrue(self.registry.offers(later))
        self.assertRaises(SetExists, self.registry.add, Later("c"))
        sets = iter(self.registry)
        self.assertEqual([next(sets), next(sets)], [self.a, self.b])
        self.registry.changed("c")
        self.assertIsNone(later.made)
        self.assertIs(self.registry.get("c"), later.made)
        self.assertEqual(list(sets), [later.made])
        self.registry.remove("c")
        self.assertEqual(told, [later] * 3)

    def test_info(self) -> None:
        """Set info is kept by key; observers hear of changes, and of nothing that is none."""
        told: list[str] = []
        self.registry.observe(lambda change, offer: told.append(change))
        self.registry.set_info("a", "updt_hint_us", "1000000:0")
        self.registry.set_info("a", "updt_hint_us", "1000000:0")
        self.registry.set_info("a", "unknown", None)
        self.registry.set_info("nobody", "updt_hint_us", "1000000:0")
        self.assertEqual(self.a.info, {"updt_hint_us": "1000000:0"})
        self.assertEqual(self.b.info, {})
        self.registry.set_info("a", "updt_hint_us", None)
        self.assertEqual(self.a.info, {})
        self.assertEqual(told, ["changed", "changed"])

    def test_info_that_cannot_be_told(self) -> None:
        """What an announcement has no room for is refused and not kept."""
        self.registry.set_info("a", "k" * 254, "v" * 254)
        for key, value in (("k" * 255, "v"), ("k", "v" * 255), ("k", "\0")):
            self.assertRaises(SchemaError, self.registry.set_info, "a", key, value)
        self.assertEqual(list(self.a.info), ["k" * 254])

    def test_observers(self) -> None:
        """Observers hear of each change after it was made, until they stop."""
        heard: list[tuple[str, str, bool]] = []
        stop = self.registry.observe(
            lambda change, offer: heard.append(
                (change, offer.instance, offer.instance in self.registry)
            )
        )
        self.registry.add(new_set("c"))
        self.registry.changed("c")
        self.registry.changed("no such set")
        self.registry.remove("c")
        self.registry.remove("c")
        self.assertRaises(SetExists, self.registry.add, self.a)
        stop()
        stop()
        self.registry.remove("a")
        self.assertEqual(
            heard, [("added", "c", True), ("changed", "c", True), ("removed", "c", False)]
        )
