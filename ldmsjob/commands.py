"""The commands of the configuration language: a table of verbs, and what each one does."""

from __future__ import annotations

import errno
import getopt
import shlex
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, overload

import msgspec
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.logger import Logger

from ldmsjob.config import (
    Command,
    expand,
    nearest,
    parse_boolean,
    parse_integer,
    parse_size,
    parse_time,
)
from ldmsjob.errors import ConfigError
from ldmsjob.keeping import JournalSettings
from ldmsjob.limits import LIMITS, LimitSpec
from ldmsjob.listeners import LISTEN_ATTRIBUTES
from ldmsjob.logformat import parse_level
from ldmsjob.options import OPTIONS, commands_of

if TYPE_CHECKING:
    from ldmsjob.interpreter import Interpreter

DEFAULT_PORT = "411"
UNLIMITED = "-1"
METRICS_HOST = "127.0.0.1"

_NOT_YET = """
advertise advertiser_add advertiser_del advertiser_start advertiser_stop auth_del banner
bridge_add bridge_del bridge_start bridge_stop cfg_cntr daemon daemon_exit daemon_status
default_quota dump_cfg exit failover_config failover_mod failover_peercfg_start
failover_peercfg_stop failover_start failover_status failover_stop greeting log_status
logrotate metric_sets_default_authz msg_client_stats msg_stats oneshot plugn_sets plugn_status
prdcr_add prdcr_del prdcr_hint_tree prdcr_listen_add prdcr_listen_del prdcr_listen_start
prdcr_listen_status prdcr_listen_stop prdcr_set_status prdcr_start prdcr_start_regex
prdcr_stats prdcr_status prdcr_stop prdcr_stop_regex prdcr_stream_status prdcr_subscribe
prdcr_unsubscribe profiling profiling_disable profiling_enable publish_kernel qgroup_config
qgroup_info qgroup_member_add qgroup_member_del qgroup_start qgroup_stop set_sec_mod set_stats
setgroup_add setgroup_del setgroup_ins setgroup_mod setgroup_rm smplrp_add smplrp_del
smplrp_start smplrp_stop stats_reset storage_queue storage_threads store_time_stats
stream_client_dump stream_disable stream_enable stream_publish stream_status strgp_add
strgp_del strgp_metric_add strgp_metric_del strgp_prdcr_add strgp_prdcr_del strgp_start
strgp_status strgp_stop subscribe tenant_add tenant_del tenant_status thread_stats udata
udata_regex unsubscribe update_time_stats updtr_add updtr_del updtr_match_add updtr_match_del
updtr_match_list updtr_prdcr_add updtr_prdcr_del updtr_start updtr_status updtr_stop updtr_task
usage version worker_threads xprt_stats
"""

NOT_YET = frozenset(_NOT_YET.split())
"""Commands of the C daemon that this one does not have."""


class Arguments:
    """What a verb's function reads: values with their variables replaced.

    ``unset`` gathers the names of variables that were asked for and are not set.
    """

    def __init__(self, source: Command, environ: MutableMapping[str, str] | None) -> None:
        self.source = source
        self.where = source.where
        self.unset: list[str] = []
        self._environ = environ
        self._values = dict(source.attributes)

    def _expand(self, value: str) -> str:
        if self._environ is None:
            return value
        result, unset = expand(value, self._environ)
        self.unset += unset
        return result

    @overload
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: str) -> str: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value, or ``default`` when the attribute is absent."""
        return self[name] if name in self._values else default

    def __getitem__(self, name: str) -> str:
        value = self._values[name]
        if value is None:
            raise ConfigError(f"the attribute '{name}' needs a value", hint=f"{name}=…")
        return self._expand(value)

    @property
    def text(self) -> str:
        """Everything behind the verb."""
        return self._expand(self.source.text)

    def pairs(self, *without: str) -> dict[str, str | None]:
        """All attributes but those named; keywords have the value None."""
        return {
            name: None if value is None else self._expand(value)
            for name, value in self._values.items()
            if name not in without
        }


class Verb(msgspec.Struct, frozen=True):
    """One command. ``any_attribute``: further attributes are for a plugin, or free names."""

    name: str
    run: Callable[[Interpreter, Arguments], None]
    help: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    priority: bool = False
    any_attribute: bool = False
    whole_text: bool = False
    """It reads its text itself."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Required and optional ones."""
        return self.required + self.optional


def find_verb(one: Command) -> Verb:
    """The verb of a command, if its attributes may stand there. Raises ``ConfigError``."""
    verb = VERBS.get(one.verb)
    if verb is None:
        raise _unknown_verb(one.verb)
    if verb.whole_text:
        return verb
    if one.fault:
        raise ConfigError(one.fault)
    given = [name for name, _ in one.attributes]
    if not verb.any_attribute:
        for name in given:
            if name not in verb.attributes:
                raise _misplaced(verb, name)
    for name in verb.required:
        if name not in given:
            raise ConfigError(
                f"the attribute '{name}' is required by '{verb.name}'", hint=_usage(verb)
            )
    return verb


def _usage(verb: Verb) -> str:
    """How to write a command: ``load name=… [plugin=…]``."""
    parts = [verb.name, *(f"{name}=…" for name in verb.required)]
    parts += [f"[{name}=…]" for name in verb.optional]
    return " ".join(parts)


def _unknown_verb(word: str) -> ConfigError:
    if word in NOT_YET:
        return ConfigError(
            f"'{word}' is a command of the C daemon that ldmsjob does not have yet",
            rc=errno.ENOSYS,
            hint="remove the line, or leave its task to a C ldmsd",
        )
    hint = nearest(word, VERBS) or nearest(word.lower(), VERBS)
    if not hint and "=" in word:
        hint = "a line begins with a command; is a backslash missing at the end of the line before?"
    return ConfigError(
        f"unknown command '{word}'", rc=errno.ENOSYS, hint=hint or f"there are: {_verb_names()}"
    )


def _verb_names() -> str:
    return ", ".join(sorted({verb.name for verb in VERBS.values()}))


def _misplaced(verb: Verb, name: str) -> ConfigError:
    hint = nearest(name, verb.attributes)
    if not hint:
        known = ", ".join(verb.attributes)
        hint = f"it has: {known}" if known else "it has none"
        if verb.name in ("load", "start", "jobmgr_start"):
            hint += "; attributes of a plugin belong to its 'config' line"
        else:
            others = [other for other in _TABLE if name in other.attributes and other is not verb]
            if others:
                hint += f"; '{name}' belongs to '{others[0].name}'"
    return ConfigError(f"'{verb.name}' has no attribute '{name}'", hint=hint)


# --------------------------------------------------------------------------------------------
# What the verbs do


def _listen(interpreter: Interpreter, arguments: Arguments) -> None:
    xprt = arguments["xprt"]
    host, port = _address(interpreter, xprt, arguments)
    interpreter.daemon.listen(
        xprt,
        host,
        port,
        attributes=arguments.pairs("xprt", *LISTEN_ATTRIBUTES),
        auth=arguments.get("auth") or None,
        quota=parse_integer("quota", arguments.get("quota", UNLIMITED), -1),
        rx_rate=parse_integer("rx_rate", arguments.get("rx_rate", UNLIMITED), -1),
        where=arguments.where,
    )


def _address(interpreter: Interpreter, xprt: str, arguments: Arguments) -> tuple[str | None, int]:
    """Host and port; for a transport without ports its path and 0."""
    path = arguments.get("path")
    if interpreter.daemon.has_ports(xprt):
        if path is not None:
            raise ConfigError(f"'path' is not for xprt={xprt}", hint="give port=… and host=…")
        port = parse_integer("port", arguments.get("port", DEFAULT_PORT), 1, 65535)
        return arguments.get("host") or None, port
    for name in ("port", "host"):
        if arguments.get(name) is not None:
            raise ConfigError(f"'{name}' is not for xprt={xprt}", hint="give path=/…")
    if not path or not path.startswith("/"):
        problem = f"path '{path}' invalid" if path else f"xprt={xprt} requires the attribute 'path'"
        raise ConfigError(problem, hint="path=/…: where the socket is, from the root on")
    return path, 0


def _load(interpreter: Interpreter, arguments: Arguments) -> None:
    name = arguments["name"]
    interpreter.daemon.load(name, arguments.get("plugin") or name)


def _config(interpreter: Interpreter, arguments: Arguments) -> None:
    instance = interpreter.daemon.instance(arguments["name"])
    instance.configure(arguments.pairs("name", "exclusive_thread"), arguments.where)


def _start(interpreter: Interpreter, arguments: Arguments) -> None:
    sampler = interpreter.daemon.sampler(arguments["name"])
    sampler.check_samplable()
    interval = parse_time("interval", arguments["interval"])
    if interval <= 0:
        raise ConfigError(f"interval '{arguments['interval']}' invalid", hint="it must be positive")
    offset = 0
    offset_text = arguments.get("offset")
    if offset_text is not None:
        offset = parse_time("offset", offset_text)
        if interval < 10 or interval < 2 * abs(offset):
            raise ConfigError(
                f"offset '{offset_text}' is incompatible with interval '{arguments['interval']}'",
                hint="the interval must be at least 10 us and twice the offset",
            )
    if arguments.get("exclusive_thread") not in (None, "0"):
        interpreter.log.info("exclusive_thread has no effect: everything runs on one thread")
    sampler.request_sampling(interval, offset)


def _stop(interpreter: Interpreter, arguments: Arguments) -> None:
    interpreter.daemon.sampler(arguments["name"]).request_stop()


def _term(interpreter: Interpreter, arguments: Arguments) -> None:
    interpreter.daemon.terminate(arguments["name"])


def _jobmgr_start(interpreter: Interpreter, arguments: Arguments) -> None:
    instance = interpreter.daemon.job_manager(arguments["name"])
    if not interpreter.daemon.hub.enabled:
        raise ConfigError(
            f"jobmgr {instance.name} start error: {errno.EOPNOTSUPP}: messages are not enabled",
            rc=errno.EOPNOTSUPP,
            hint="put the line 'msg_enable' into the configuration",
        )
    instance.request_start(arguments.where)


def _jobmgr_stop(interpreter: Interpreter, arguments: Arguments) -> None:
    interpreter.daemon.job_manager(arguments["name"]).request_stop()


def _msg_enable(interpreter: Interpreter, arguments: Arguments) -> None:
    interpreter.daemon.hub.enable()


def _msg_disable(interpreter: Interpreter, arguments: Arguments) -> None:
    interpreter.daemon.hub.disable()


def _env(interpreter: Interpreter, arguments: Arguments) -> None:
    pairs = arguments.pairs()
    if not pairs:
        raise ConfigError("'env' sets no variable", hint="env NAME=VALUE …")
    for name, value in pairs.items():
        if value is None:
            raise ConfigError(f"'{name}' has no value", hint=f"env {name}=VALUE")
    # In order, so that a later one may refer to an earlier one of the same line.
    for name in pairs:
        interpreter.environ[name] = arguments[name]


def _include(interpreter: Interpreter, arguments: Arguments) -> None:
    interpreter.include(arguments["path"], arguments.where)


def _log_level(interpreter: Interpreter, arguments: Arguments) -> None:
    levels = parse_level(arguments["level"])
    name, regex = arguments.get("name"), arguments.get("regex")
    if name is not None and regex is not None:
        raise ConfigError("'log_level' takes a name or a regex, not both")
    known = interpreter.daemon.levels
    if name is not None:
        known.set_named(name, levels)
    elif regex is not None:
        known.set_matching(regex, levels)
    elif interpreter.daemon.set_once("log_level", arguments["level"], arguments.where):
        known.set_default(levels)
    if parse_boolean("test", arguments.get("test") or "false"):
        for write in ("debug", "info", "warn", "error", "critical"):
            getattr(Logger(namespace=name or "ldmsd"), write)("TEST {word}", word=write)


def _log_file(interpreter: Interpreter, arguments: Arguments) -> None:
    if interpreter.daemon.set_once("log_file", arguments["path"], arguments.where):
        interpreter.daemon.use_log_file(arguments["path"])


def _daemon_name(interpreter: Interpreter, arguments: Arguments) -> None:
    if interpreter.daemon.set_once("daemon_name", arguments["name"], arguments.where):
        interpreter.daemon.use_name(arguments["name"])


def _pid_file(interpreter: Interpreter, arguments: Arguments) -> None:
    if interpreter.daemon.set_once("pid_file", arguments["path"], arguments.where):
        interpreter.daemon.pid_file = arguments["path"]


def _journal(interpreter: Interpreter, arguments: Arguments) -> None:
    path = arguments.get("path")
    if path is not None and not path.startswith("/"):
        raise ConfigError(f"path '{path}' invalid", hint="it must begin with /")
    defaults = JournalSettings()
    max_age, max_size = arguments.get("max_age"), arguments.get("max_size")
    settings = JournalSettings(
        parse_boolean("enabled", arguments.get("enabled", "true")),
        path,
        defaults.max_age_seconds if max_age is None else parse_time("max_age", max_age, "s") / 1e6,
        defaults.max_bytes if max_size is None else parse_size("max_size", max_size),
    )
    if interpreter.daemon.set_once("journal", arguments.text, arguments.where):
        interpreter.daemon.use_journal(settings)


def _limits(interpreter: Interpreter, arguments: Arguments) -> None:
    pairs = arguments.pairs()
    known = {one.name: one for one in LIMITS}
    if not pairs:
        raise ConfigError("'limits' sets no limit", hint=f"there are: {', '.join(known)}")
    for name in pairs:
        if name not in known:
            hint = nearest(name, known) or f"there are: {', '.join(known)}"
            raise ConfigError(f"there is no limit '{name}'", hint=hint)
    for name in pairs:
        spec, text = known[name], arguments[name]
        value = _limit_value(spec, text)
        if not spec.least <= value <= spec.most:
            unit = f" {spec.unit}" if spec.unit else ""
            raise ConfigError(
                f"{name} '{text}' invalid", hint=f"it may be {spec.least} to {spec.most}{unit}"
            )
        if interpreter.daemon.set_once(f"limits {name}", text, arguments.where):
            interpreter.daemon.use_limit(name, value)


def _limit_value(spec: LimitSpec, text: str) -> int:
    if spec.unit == "bytes":
        return parse_size(spec.name, text)
    if spec.unit == "seconds":
        return parse_time(spec.name, text, "s") // 1_000_000
    return parse_integer(spec.name, text)


def _metrics(interpreter: Interpreter, arguments: Arguments) -> None:
    port = parse_integer("port", arguments["port"], 1, 65535)
    host = arguments.get("host") or METRICS_HOST
    if not (isIPAddress(host) or isIPv6Address(host)):
        raise ConfigError(f"host '{host}' invalid", hint="an address, such as 127.0.0.1 or ::1")
    if interpreter.daemon.set_once("metrics", arguments.text, arguments.where):
        interpreter.daemon.serve_metrics(host, port, arguments.where)


def _set_memory(interpreter: Interpreter, arguments: Arguments) -> None:
    parse_size("size", arguments["size"])
    if interpreter.daemon.set_once("set_memory", arguments["size"], arguments.where):
        interpreter.log.info("set_memory has no effect: sets take the memory that they need")


def _default_auth(interpreter: Interpreter, arguments: Arguments) -> None:
    options = arguments.pairs("plugin")
    if interpreter.daemon.set_once("default_auth", arguments["plugin"], arguments.where):
        interpreter.daemon.authentications.use_default(
            arguments["plugin"], options, arguments.where
        )


def _auth_add(interpreter: Interpreter, arguments: Arguments) -> None:
    name = arguments["name"]
    plugin = arguments.get("plugin") or name
    options = arguments.pairs("name", "plugin")
    interpreter.daemon.authentications.add(name, plugin, options, arguments.where)


def _option(interpreter: Interpreter, arguments: Arguments) -> None:
    try:
        given, rest = getopt.gnu_getopt(
            shlex.split(arguments.text),
            "".join(letter + ":" * flag.argument for letter, flag in OPTIONS.items()),
            [flag.name + "=" * flag.argument for flag in OPTIONS.values() if flag.name],
        )
    except getopt.GetoptError as error:
        raise ConfigError(f"option: {error.msg}", rc=errno.ENOENT) from None
    except ValueError as error:
        raise ConfigError(f"option: {error}") from None
    if rest:
        raise ConfigError(f"option: '{rest[0]}' is not an option", rc=errno.ENOENT)
    long_names = {f"--{flag.name}": letter for letter, flag in OPTIONS.items() if flag.name}
    pairs = [(long_names.get(word) or word[1:], value) for word, value in given]
    for letter, _ in pairs:
        if OPTIONS[letter].command_line_only:
            raise ConfigError(f"-{letter} cannot be set by 'option'", hint="use the command line")
    for one in commands_of(pairs, arguments.where):
        interpreter.execute(one)


_TABLE = (
    Verb("msg_enable", _msg_enable, "Switch the message service on.", priority=True),
    Verb("msg_disable", _msg_disable, "Switch the message service off.", priority=True),
    Verb(
        "listen",
        _listen,
        "Accept connections of peers.",
        required=("xprt",),
        optional=LISTEN_ATTRIBUTES,
        priority=True,
        any_attribute=True,
    ),
    Verb("load", _load, "Make an instance of a plugin.", ("name",), ("plugin",)),
    Verb(
        "config",
        _config,
        "Configure a plugin instance; see 'ldmsjob plugins NAME' for its attributes.",
        required=("name",),
        any_attribute=True,
    ),
    Verb(
        "start",
        _start,
        "Let a sampler take readings at an interval.",
        ("name", "interval"),
        ("offset", "exclusive_thread"),
    ),
    Verb("stop", _stop, "Let a sampler take no more readings.", ("name",)),
    Verb("term", _term, "Remove a plugin instance that is stopped.", ("name",)),
    Verb("jobmgr_start", _jobmgr_start, "Start a job manager.", ("name",)),
    Verb("jobmgr_stop", _jobmgr_stop, "Stop a job manager; its jobs stay.", ("name",)),
    Verb("env", _env, "Set environment variables.", priority=True, any_attribute=True),
    Verb("include", _include, "Run the commands of another file.", ("path",), priority=True),
    Verb(
        "log_level",
        _log_level,
        "Choose which log lines are written.",
        required=("level",),
        optional=("name", "regex", "test"),
        aliases=("loglevel",),
        priority=True,
    ),
    Verb("log_file", _log_file, "Write the log to a file or to syslog.", ("path",), priority=True),
    Verb("daemon_name", _daemon_name, "First part of set names.", ("name",), priority=True),
    Verb(
        "journal",
        _journal,
        "Keep what is accepted on disk, and for how long; on without it.",
        optional=("enabled", "path", "max_age", "max_size"),
        priority=True,
    ),
    Verb(
        "limits",
        _limits,
        "How much the daemon takes on, of connections, messages, jobs, ….",
        priority=True,
        any_attribute=True,
    ),
    Verb(
        "metrics",
        _metrics,
        "Serve counters to Prometheus, over HTTP.",
        required=("port",),
        optional=("host",),
        priority=True,
    ),
    Verb("pid_file", _pid_file, "Write the process id to a file.", ("path",), priority=True),
    Verb(
        "default_auth",
        _default_auth,
        "How peers authenticate where a listener names nothing.",
        required=("plugin",),
        priority=True,
        any_attribute=True,
    ),
    Verb(
        "auth_add",
        _auth_add,
        "Name a way to authenticate, for the attribute 'auth' of 'listen'.",
        required=("name",),
        optional=("plugin",),
        priority=True,
        any_attribute=True,
    ),
    Verb(
        "set_memory",
        _set_memory,
        "Accepted and without effect: there is no memory pool.",
        required=("size",),
        aliases=("memory",),
        priority=True,
    ),
    Verb("option", _option, "Options as on the command line.", priority=True, whole_text=True),
)

VERBS = {word: verb for verb in _TABLE for word in (verb.name, *verb.aliases)}
"""All verbs by name and alias."""
