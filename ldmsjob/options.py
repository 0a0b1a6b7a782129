"""The options of the command line, each of which says what a command of the language says."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ldmsjob.config import Command, command
from ldmsjob.errors import ConfigError


class Option(msgspec.Struct, frozen=True):
    """A command-line option: what it is called and the command that says the same."""

    name: str
    help: str
    verb: str = ""
    attribute: str = ""
    argument: bool = True
    command_line_only: bool = False
    removed: str = ""
    """Set for an option that only C has, or had: what to do instead."""


OPTIONS = {
    "x": Option(
        "xprt", "Listen: XPRT:PORT[:HOST] or XPRT:/PATH. May be repeated.", command_line_only=True
    ),
    "c": Option("config", "Configuration file. May be repeated.", command_line_only=True),
    "a": Option("default_auth", "Authentication plugin.", "default_auth", "plugin"),
    "A": Option("default_auth_args", "NAME=VALUE for it. May be repeated."),
    "m": Option("set_memory", "Accepted and without effect.", "set_memory", "size"),
    "n": Option("daemon_name", "First part of set names.", "daemon_name", "name"),
    "r": Option("pid_file", "Write the process id to this file.", "pid_file", "path"),
    "l": Option("log_file", "Log file, or 'syslog'; standard output.", "log_file", "path"),
    "v": Option("log_level", "Least level of log lines; ERROR.", "log_level", "level"),
    "V": Option("", "Print the version and exit.", argument=False, command_line_only=True),
    "u": Option("", "Print the usage of a plugin, or 'all', and exit.", command_line_only=True),
    "F": Option("", "Accepted and without effect.", argument=False, command_line_only=True),
    "y": Option("", "", removed="YAML files are not read; write a configuration file, -c FILE"),
    "L": Option("", "", removed="there is no log of commands; use -v INFO"),
    "P": Option("", "", removed="use the command 'worker_threads' of a C ldmsd; not needed here"),
    "k": Option("", "", removed="use the command 'publish_kernel' of a C ldmsd; not needed here"),
    "s": Option("", "", removed="there is no replacement"),
    "B": Option("", "", removed="use the command 'banner' of a C ldmsd; not needed here"),
    "C": Option("", "", removed="use the attribute 'quota' of the command 'listen'"),
}
"""The options of ``twistd ldmsjob`` by letter: C's, where it has one."""


def commands_of(pairs: Iterable[tuple[str, str]], where: str) -> list[Command]:
    """The commands that say the same as these options (letter and value), in order.

    ``where`` is where they stand, for messages. Raises ``ConfigError``.
    """
    result = []
    auth: dict[str, str | None] = {}
    auth_place = f"{where} -A"
    for letter, value in pairs:
        option = OPTIONS[letter]
        place = f"{where} -{letter}"
        if option.removed:
            raise ConfigError(f"there is no option -{letter}", where=place, hint=option.removed)
        if letter == "A":
            name, equals, text = value.partition("=")
            if not name or not equals:
                raise ConfigError(f"-A '{value}' invalid", where=place, hint="-A NAME=VALUE")
            auth[name] = text
        elif letter == "a":
            auth_place = place
            auth["plugin"] = value
        elif letter == "x":
            result.append(_listen_option(value, place))
        elif option.verb:
            result.append(command(option.verb, {option.attribute: value}, place))
    if auth:
        result.append(command("default_auth", {"plugin": "none", **auth}, auth_place))
    return result


def _listen_option(value: str, where: str) -> Command:
    xprt, *rest = value.split(":", 2)
    if not xprt or not rest:
        raise ConfigError(
            f"Bad xprt format '{value}'", where=where, hint="-x XPRT:PORT[:HOST] or -x XPRT:/PATH"
        )
    if rest[0].startswith("/"):
        return command("listen", {"xprt": xprt, "path": ":".join(rest)}, where)
    attributes: dict[str, str | None] = {"xprt": xprt, "port": rest[0]}
    if len(rest) == 2:
        attributes["host"] = rest[1]
    return command("listen", attributes, where)
