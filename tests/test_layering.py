"""Who may import whom: docs/architecture.md, Layers, held as data."""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import ldmsjob

PACKAGE = Path(ldmsjob.__file__).parent

LAYERS: dict[str, tuple[str, ...]] = {
    "package": ("ldmsjob", "ldmsjob.recordings", "ldmsjob.cli", "ldmsjob.notify", "ldmsjob.spank"),
    "values": (
        "ldmsjob.errors",
        "ldmsjob.facts",
        "ldmsjob.limits",
        "ldmsjob.notices",
        "ldmsjob.permissions",
        "ldmsjob.values",
    ),
    "events": ("ldmsjob.events",),
    "sets": ("ldmsjob.sets", "ldmsjob.sets.*"),
    "wire": ("ldmsjob.wire", "ldmsjob.wire.*"),
    "interfaces": ("ldmsjob.interfaces",),
    "declarations": ("ldmsjob.plugin",),
    "aids": (
        "ldmsjob.clocks",
        "ldmsjob.admission",
        "ldmsjob.ere",
        "ldmsjob.limitedlog",
        "ldmsjob.memory",
        "ldmsjob.sdnotify",
        "ldmsjob.stats",
        "ldmsjob.subscriber",
        "ldmsjob.turns",
    ),
    "hubs": (
        "ldmsjob.attempts",
        "ldmsjob.departures",
        "ldmsjob.fanout",
        "ldmsjob.filling",
        "ldmsjob.grants",
        "ldmsjob.heldcredit",
        "ldmsjob.jobimage",
        "ldmsjob.jobnodes",
        "ldmsjob.jobroom",
        "ldmsjob.jobrules",
        "ldmsjob.jobschema",
        "ldmsjob.jobs",
        "ldmsjob.jobservice",
        "ldmsjob.jobsets",
        "ldmsjob.jobtable",
        "ldmsjob.journal",
        "ldmsjob.journal.*",
        "ldmsjob.knownjobs",
        "ldmsjob.links",
        "ldmsjob.memberships",
        "ldmsjob.messages",
        "ldmsjob.outlets",
        "ldmsjob.waiting",
        "ldmsjob.readers",
        "ldmsjob.requests",
        "ldmsjob.searches",
        "ldmsjob.serving",
        "ldmsjob.setdescription",
        "ldmsjob.slices",
        "ldmsjob.users",
    ),
    "transports": ("ldmsjob.transports", "ldmsjob.transports.*"),
    "jobmgr": ("ldmsjob.jobmgr", "ldmsjob.jobmgr.*"),
    "samplers": ("ldmsjob.samplers", "ldmsjob.samplers.*"),
    "drop-ins": ("ldmsjob.plugins", "ldmsjob.plugins.*"),
    "daemon": (
        "ldmsjob.authentications",
        "ldmsjob.commands",
        "ldmsjob.config",
        "ldmsjob.contexts",
        "ldmsjob.daemon",
        "ldmsjob.instances",
        "ldmsjob.interpreter",
        "ldmsjob.keeping",
        "ldmsjob.listeners",
        "ldmsjob.loader",
        "ldmsjob.logformat",
        "ldmsjob.metrics",
        "ldmsjob.options",
        "ldmsjob.problems",
        "ldmsjob.sampling",
        "ldmsjob.services",
        "ldmsjob.status",
        "ldmsjob.webmetrics",
    ),
    "testing": ("ldmsjob.testing",),
    "clients": ("ldmsjob.connecting", "ldmsjob.peer", "ldmsjob.remoteset"),
    "tap": ("ldmsjob.tap", "ldmsjob.eventloop"),
    "replay": ("ldmsjob.replay",),
    "tools": ("ldmsjob.cli.*",),
}
"""Every module belongs to exactly one layer; the first pattern that fits decides."""

BELOW_HUBS = frozenset(
    {"package", "values", "events", "sets", "wire", "interfaces", "declarations", "aids"}
)
PLUGIN_MAY = BELOW_HUBS
EVERYTHING = frozenset(LAYERS)

MAY_IMPORT: dict[str, frozenset[str]] = {
    "package": frozenset(),
    "values": frozenset({"values"}),
    "events": frozenset({"values"}),
    "sets": frozenset({"values", "sets", "interfaces"}),
    "wire": frozenset({"values", "wire"}),
    "interfaces": frozenset(),
    "declarations": frozenset({"interfaces"}),
    "aids": frozenset({"values", "events", "interfaces", "aids"}),
    "hubs": BELOW_HUBS | {"hubs"},
    "transports": PLUGIN_MAY | {"transports"},
    "jobmgr": PLUGIN_MAY | {"jobmgr"},
    "samplers": PLUGIN_MAY | {"samplers"},
    "drop-ins": frozenset({"declarations", "interfaces"}),
    "daemon": BELOW_HUBS | {"hubs", "drop-ins", "daemon"},
    "testing": BELOW_HUBS | {"hubs", "daemon", "transports", "replay"},
    "replay": BELOW_HUBS,
    "clients": BELOW_HUBS | {"clients", "daemon"},
    "tap": EVERYTHING,
    "tools": EVERYTHING,
}
"""Layers of ours whose modules each layer may import while it runs."""

NO_TWISTED = {"package", "values", "events", "sets", "wire", "interfaces"}
INTERNET_FOR_HUBS = {
    "twisted.internet.defer",
    "twisted.internet.error",
    "twisted.internet.interfaces",
    "twisted.internet.threads",
}
"""What hubs and their aids may take from twisted.internet: a clock is passed in."""

REACTOR_IMPORTED_BY = {"tap", "tools"}
WIRE_IO = {"asyncio", "logging", "os", "select", "socket", "subprocess", "threading", "time"}
"""Modules of the standard library that bring input, output or the time of day into wire/."""


def module_name(path: Path) -> str:
    """The dotted name of a source file of the package."""
    parts = ["ldmsjob", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    """All modules of the package by name."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(module: str) -> str | None:
    """The layer that a module belongs to."""
    for layer, patterns in LAYERS.items():
        if any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns):
            return layer
    return None


def is_type_checking(node: ast.stmt) -> bool:
    """Whether this is an ``if TYPE_CHECKING:`` block."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def imported_names(body: list[ast.stmt]) -> Iterator[str]:
    """Dotted names that the statements import while they run, inside functions too.

    ``from a.b import c`` gives ``a.b.c``, which may be a module or something in one.
    """
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.stmt) and is_type_checking(node):
            assert isinstance(node, ast.If)
            pending.extend(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            pending.extend(ast.iter_child_nodes(node))


def imports() -> Iterator[tuple[str, str, str]]:
    """Every import of the package as (importing module, its layer, dotted name imported)."""
    for module, path in modules().items():
        layer = layer_of(module)
        assert layer is not None, module
        for name in imported_names(ast.parse(path.read_text("utf-8")).body):
            yield module, layer, name


def own_module(name: str) -> str:
    """The module of ours that an imported dotted name means or is in."""
    return name if name in modules() else name.rpartition(".")[0]


class LayerTests(SynchronousTestCase):
    """The import table, by reading the source."""

    def test_every_module_has_a_layer(self) -> None:
        """A new module must be given a place in the table before anything else."""
        self.assertEqual([module for module in modules() if layer_of(module) is None], [])

    def test_only_lower_layers_are_imported(self) -> None:
        """No module imports one of ours that its layer may not know."""
        wrong = []
        for module, layer, name in imports():
            if name == "ldmsjob" or name.startswith("ldmsjob."):
                target = layer_of(own_module(name))
                if target not in MAY_IMPORT[layer]:
                    wrong.append(f"{module} ({layer}) imports {name} ({target})")
        self.assertEqual(wrong, [])

    def test_pure_layers_know_no_twisted(self) -> None:
        """Values, sets, wire and interfaces do not import Twisted."""
        wrong = [
            f"{module} imports {name}"
            for module, layer, name in imports()
            if layer in NO_TWISTED and name.split(".")[0] == "twisted"
        ]
        self.assertEqual(wrong, [])

    def test_wire_does_no_input_or_output(self) -> None:
        """The wire layer imports nothing that opens, waits, logs or reads a clock."""
        wrong = [
            f"{module} imports {name}"
            for module, layer, name in imports()
            if layer in {"wire", "sets"} and name.split(".")[0] in WIRE_IO
        ]
        self.assertEqual(wrong, [])

    def test_hubs_take_little_of_twisted(self) -> None:
        """Hubs use Deferreds and the logger; sockets, services and timers are other rooms."""
        wrong = [
            f"{module} imports {name}"
            for module, layer, name in imports()
            if layer in {"hubs", "aids", "declarations"}
            and name.startswith("twisted.internet.")
            and not INTERNET_FOR_HUBS & {name, name.rpartition(".")[0]}
        ]
        self.assertEqual(wrong, [])

    def test_one_place_picks_the_reactor(self) -> None:
        """Only the twistd entry and the command line tools import the reactor."""
        wrong = [
            f"{module} imports {name}"
            for module, layer, name in imports()
            if name.startswith("twisted.internet.reactor") and layer not in REACTOR_IMPORTED_BY
        ]
        self.assertEqual(wrong, [])

    def test_rich_is_for_the_tools(self) -> None:
        """Drawing on terminals is no business of the daemon."""
        wrong = [
            f"{module} imports {name}"
            for module, layer, name in imports()
            if name.split(".")[0] == "rich" and layer != "tools"
        ]
        self.assertEqual(wrong, [])


LOADED_AT_THE_START = (
    "ldmsjob.tap",
    "ldmsjob.plugins.builtin",
    "ldmsjob.transports.sock",
    "ldmsjob.transports.auth_none",
    "ldmsjob.journal.journal",
    "ldmsjob.jobmgr.slurm",
    "ldmsjob.samplers.jobevents",
)
"""What a daemon with a plain configuration loads before it listens, with all that these import."""


def loaded_by(*names: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after importing ``names``."""
    code = f"import sys, {', '.join(names)}\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return set(result.stdout.split())


class FreshInterpreterTests(SynchronousTestCase):
    """The same from outside: what really gets loaded."""

    def test_wire_and_sets_load_no_twisted(self) -> None:
        """Whoever uses the codecs alone pays for, and depends on, no reactor."""
        names = [name for name in modules() if layer_of(name) in {"wire", "sets"}]
        twisted = sorted(name for name in loaded_by(*names) if name.split(".")[0] == "twisted")
        self.assertEqual(twisted, [])

    def test_looking_for_plugins_loads_none(self) -> None:
        """The list of plugins is made without importing a plugin's own module or the reactor."""
        loaded = loaded_by("ldmsjob.plugins.builtin")
        wrong = sorted(
            name
            for name in loaded
            if layer_of(name) in {"transports", "jobmgr", "samplers", "hubs", "daemon"}
            or name == "twisted.internet.reactor"
        )
        self.assertEqual(wrong, [])

    def test_what_every_daemon_loads_is_soon_loaded(self) -> None:
        """No dataclass stands in the way of the start, and no named tuple: declaring one takes as
        long as declaring thirty, or six, structs of msgspec."""
        loaded = loaded_by(*LOADED_AT_THE_START)
        wrong = [
            f"{module} imports {name}"
            for module, _, name in imports()
            if module in loaded
            and (name.split(".")[0] == "dataclasses" or name == "typing.NamedTuple")
        ]
        self.assertEqual(wrong, [])
