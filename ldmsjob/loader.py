"""Finding plugins by kind and name, and checking what a user configures them with.

Drop-in modules are those that ``twisted.plugin`` would find in the package ``ldmsjob.plugins``;
every module-level object that provides ``IPlugin`` and a factory interface counts. They are
imported one by one here rather than through ``getPlugins``, which would report one that fails to
import by a traceback without its file, and tells nobody where a plugin came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from twisted.plugin import IPlugin
from twisted.python.modules import getModule

import ldmsjob.plugins
from ldmsjob.config import nearest, parse_boolean, parse_integer, parse_octal, parse_time
from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import (
    AttributeSpec,
    IAuthenticatorFactory,
    IJobManagerFactory,
    IPluginFactory,
    ISamplerFactory,
    ISubscriberFactory,
    ITransportFactory,
)

KINDS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("plugin", (IJobManagerFactory, ISamplerFactory, ISubscriberFactory)),
    ("transport", (ITransportFactory,)),
    ("authentication plugin", (IAuthenticatorFactory,)),
)
"""What a name must be unique among, and the interfaces that make it up."""


class Loader:
    """All factories of a package of drop-ins, read once.

    ``problems`` has one line for each drop-in that could not be imported, naming its file: it is
    left out, the others work. Raises ``ConfigError`` when two plugins have one name.
    """

    def __init__(self, package: ModuleType = ldmsjob.plugins) -> None:
        self.problems: list[str] = []
        self._found: dict[str, dict[str, tuple[Any, str]]] = {kind: {} for kind, _ in KINDS}
        for module in getModule(package.__name__).iterModules():
            path = module.filePath.path
            try:
                namespace = vars(module.load())
            except (Exception, SystemExit) as error:
                self.problems.append(
                    f"the plugins of {path} are left out: it cannot be imported:"
                    f" {type(error).__name__}: {error}"
                )
                continue
            for value in list(namespace.values()):
                if IPlugin.providedBy(value) and IPluginFactory.providedBy(value):
                    self.add(value, path)

    def add(self, factory: Any, path: str) -> None:
        """Make a factory known; ``path`` says where it is from. Raises ``ConfigError`` rc 17."""
        for kind, interfaces in KINDS:
            if any(interface.providedBy(factory) for interface in interfaces):
                known, known_path = self._found[kind].setdefault(factory.name, (factory, path))
                if known is not factory:
                    raise ConfigError(
                        f"two {kind}s have the name '{factory.name}'",
                        rc=17,
                        hint=f"remove one of {known_path} and {path}",
                    )

    def factories(self, kind: str) -> list[Any]:
        """All factories of a kind (a word of ``KINDS``), by name."""
        return [factory for _, (factory, _) in sorted(self._found[kind].items())]

    def path(self, factory: Any) -> str:
        """The file of the drop-in that a factory came from."""
        for found in self._found.values():
            for known, path in found.values():
                if known is factory:
                    return path
        raise KeyError(factory.name)

    def find(self, kind: str, name: str) -> Any:
        """The factory of that kind and name. Raises ``ConfigError`` (rc 2) naming the nearest."""
        found = self._found[kind].get(name)
        if found is not None:
            return found[0]
        names = sorted(self._found[kind])
        quoted = ", ".join(f"'{one}'" for one in names)
        hints = [nearest(name, names) or f"this version has {quoted}"]
        hints += self.problems
        raise ConfigError(f"there is no {kind} '{name}'", rc=2, hint="; ".join(hints))


def check_attributes(
    specs: Sequence[AttributeSpec],
    given: Mapping[str, str | None],
    subject: str,
    *,
    also: Iterable[str] = (),
) -> dict[str, str]:
    """What a plugin's ``configure`` gets: ``given`` in the form of its kind, defaults filled in.

    ``subject`` is who takes the attributes, for messages; ``also`` names attributes that others
    have taken out already, for hints. Raises ``ConfigError``: unknown, missing or bad attribute.
    """
    by_name = {spec.name: spec for spec in specs}
    result = {}
    for name, value in given.items():
        spec = by_name.get(name)
        if spec is None:
            known = [*by_name, *also]
            raise ConfigError(
                f"{subject} has no attribute '{name}'",
                hint=nearest(name, known)
                or (f"it has: {', '.join(known)}" if known else "it has none"),
            )
        result[name] = _checked(spec, value)
    for spec in specs:
        if spec.name not in result:
            if spec.required:
                raise ConfigError(
                    f"the attribute '{spec.name}' is required by {subject}",
                    hint=f"{spec.name}=…: {spec.meaning}",
                )
            if spec.default is not None:
                result[spec.name] = _checked(spec, spec.default)
    return result


def _seconds(name: str, text: str) -> str:
    return f"{parse_time(name, text, 's') / 1e6:.6f}".rstrip("0").rstrip(".")


_FORMS: dict[str, Callable[[str, str], str]] = {
    "text": lambda name, text: text,
    "path": lambda name, text: text,
    "integer": lambda name, text: str(parse_integer(name, text)),
    "seconds": _seconds,
    "boolean": lambda name, text: "true" if parse_boolean(name, text) else "false",
    "octal": lambda name, text: f"{parse_octal(name, text):o}",
}


def _checked(spec: AttributeSpec, value: str | None) -> str:
    if value is None:
        if spec.kind != "boolean":
            raise ConfigError(
                f"the attribute '{spec.name}' needs a value",
                hint=f"{spec.name}=…: {spec.meaning}",
            )
        value = "true"
    form = _FORMS.get(spec.kind)
    if form is not None:
        return form(spec.name, value)
    words = spec.kind.split("|")
    if value not in words:
        raise ConfigError(
            f"{spec.name} '{value}' invalid",
            hint=nearest(value, words) or f"it must be one of {', '.join(words)}",
        )
    return value
