"""``ldmsjob plugins [NAME]``: which plugins there are, and what `config` takes for one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ldmsjob.instances import JOB_MANAGER_ATTRIBUTES, SUBSCRIBER_ATTRIBUTES
from ldmsjob.interfaces import (
    AttributeSpec,
    IJobManagerFactory,
    ISamplerFactory,
    ISubscriberFactory,
)
from ldmsjob.loader import KINDS, Loader


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "plugins",
        help="list plugins, or print how to use one",
        description="List all plugins; or, for each NAME, print what a configuration says to use"
        " it, and its attributes.",
        epilog="Exit status: 0, or 2 when there is no such plugin.",
    )
    parser.add_argument("name", nargs="*", metavar="NAME", help="a plugin of that list")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    if arguments.name:
        return print_usage(arguments.name)
    loader = Loader()
    _print_problems(loader)
    for kind, _ in KINDS:
        for factory in loader.factories(kind):
            print(f"{factory.name:<24} {_kind_word(factory, kind):<22} {factory.summary}")
    return 0


def print_usage(names: Sequence[str]) -> int:
    """Print the usage of these plugins, of all job managers and samplers when none is named.

    Returns the exit status: 2 for a name that there is not.
    """
    loader = Loader()
    _print_problems(loader)
    factories = [_find(loader, name) for name in names] or [
        (factory, "plugin") for factory in loader.factories("plugin")
    ]
    print("\n\n".join(usage(factory, kind, loader.path(factory)) for factory, kind in factories))
    return 0


def _print_problems(loader: Loader) -> None:
    for problem in loader.problems:
        print(problem, file=sys.stderr)


def _find(loader: Loader, name: str) -> tuple[Any, str]:
    for kind, _ in KINDS[1:]:
        for factory in loader.factories(kind):
            if factory.name == name:
                return factory, kind
    return loader.find("plugin", name), "plugin"


def _kind_word(factory: Any, kind: str) -> str:
    if IJobManagerFactory.providedBy(factory):
        return "job manager"
    if ISubscriberFactory.providedBy(factory):
        return "subscriber"
    return "sampler" if ISamplerFactory.providedBy(factory) else kind


def usage(factory: Any, kind: str, path: str) -> str:
    """The usage text of a plugin, from the attributes that it declares."""
    word = _kind_word(factory, kind)
    lines = [f"{factory.name}: {word}", f"  {factory.summary}", f"  from {path}", ""]
    if kind == "plugin":
        lines += [
            f"  load name={factory.name}",
            f"  config name={factory.name} [ATTRIBUTE=VALUE …]",
        ]
        if word == "job manager":
            lines.append(f"  jobmgr_start name={factory.name}")
    elif kind == "transport":
        place = "[port=PORT] [host=HOST]" if factory.has_ports else "path=PATH"
        more = "" if factory.authenticates and not factory.has_ports else " [auth=NAME]"
        attributes = " [ATTRIBUTE=VALUE …]" if factory.attributes else ""
        lines.append(f"  listen xprt={factory.name} {place}{more}{attributes}")
    else:
        lines.append(f"  auth_add name=NAME plugin={factory.name} [ATTRIBUTE=VALUE …]")
    lines += _attribute_lines("Attributes:", factory.attributes)
    if word == "job manager":
        declared = {spec.name for spec in factory.attributes}
        others = [spec for spec in JOB_MANAGER_ATTRIBUTES if spec.name not in declared]
        lines += _attribute_lines("Attributes of every job manager:", others)
    elif word == "subscriber":
        lines += _attribute_lines("Attributes of every subscriber:", SUBSCRIBER_ATTRIBUTES)
    return "\n".join(lines)


def _attribute_lines(title: str, specs: Sequence[AttributeSpec]) -> list[str]:
    if not specs:
        return []
    lines = ["", f"  {title}"]
    for spec in specs:
        if spec.required:
            note = "required"
        else:
            note = "optional" if spec.default is None else f"default '{spec.default}'"
        lines.append(f"    {spec.name:<18} {spec.kind:<12} {spec.meaning} ({note})")
    return lines
