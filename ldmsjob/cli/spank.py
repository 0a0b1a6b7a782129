"""``ldmsjob spank build|plugstack``: our notifier for Slurm, compiled and set up."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmsjob.cli.output import complain
from ldmsjob.errors import ConfigError
from ldmsjob.spank import DEFAULT_PATH, FLAGS, LINK_FLAGS, LONGEST_PATH, SOURCE

if TYPE_CHECKING:
    import subprocess

PLUGIN = "ldmsjob_notifier.so"
FAILED = 1
NOT_THERE = 2

_PROBE = "#include <slurm/spank.h>\nldmsjob_version SLURM_VERSION_NUMBER\n"
_BUILD_HINT = (
    "install libslurm-dev (Debian, Ubuntu), slurm-devel (Red Hat, SUSE), or name with --include"
    " the directory that holds slurm/spank.h"
)


def add_parser(subparsers: Any) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "spank",
        help="compile our notifier for Slurm, and say how to load it",
        description="Our notifier tells the daemon of a node what Slurm does there: a SPANK plugin"
        " in C, compiled for the Slurm that is to load it.",
        epilog="docs/slurm.md, The notifier, tells more.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    build = actions.add_parser(
        "build",
        help="compile it",
        description="Compile the notifier against the headers of Slurm that are installed here."
        " A plugin that Slurm has loaded may be replaced: the new one is put in place by a rename.",
        epilog=f"Exit status: 0; {FAILED} when the plugin was compiled, but not for the Slurm that"
        f" is installed here, or when it does not compile; {NOT_THERE} when the compiler or the"
        " headers are missing.",
    )
    build.add_argument(
        "--output", default=PLUGIN, metavar="FILE", help="what to write (./%(default)s)"
    )
    build.add_argument("--include", metavar="DIR", help="where slurm/spank.h is, if elsewhere")
    build.add_argument(
        "--cc",
        default=os.environ.get("CC") or "cc",
        metavar="CC",
        help="the compiler (%(default)s)",
    )
    build.set_defaults(run=run_build)

    plugstack = actions.add_parser(
        "plugstack",
        help="print the line for plugstack.conf",
        description="Print the line to add to plugstack.conf; on standard error, where that is.",
    )
    plugstack.add_argument(
        "--path", default=DEFAULT_PATH, help="the socket of the daemon (%(default)s)"
    )
    plugstack.add_argument(
        "--plugin", default=PLUGIN, metavar="FILE", help="the compiled plugin (./%(default)s)"
    )
    plugstack.set_defaults(run=run_plugstack)


def run_build(arguments: argparse.Namespace) -> int:
    """Compile it; returns the exit status."""
    compiler = arguments.cc.split()
    if not compiler or shutil.which(compiler[0]) is None:
        raise ConfigError(
            f"there is no compiler '{arguments.cc}'",
            rc=NOT_THERE,
            hint="install gcc, or name another with --cc",
        )
    include = _include(arguments.include)
    version = headers_version([*compiler, *include])
    output = Path(arguments.output).absolute()
    compile_plugin([*compiler, *include], output)
    print(f"{output}: compiled by '{arguments.cc}' for Slurm {version}")
    return _compare(version, installed_version())


def run_plugstack(arguments: argparse.Namespace) -> int:
    """Print the line; returns the exit status."""
    plugin = Path(arguments.plugin).absolute()
    for option, value in (("--plugin", str(plugin)), ("--path", arguments.path)):
        if re.search(r"\s", value):
            raise ConfigError(
                f"{option}: plugstack.conf cannot hold a path with space in it: '{value}'",
                rc=NOT_THERE,
            )
    if not arguments.path.startswith("/") or len(os.fsencode(arguments.path)) > LONGEST_PATH:
        raise ConfigError(
            f"--path: '{arguments.path}' is no absolute path of at most {LONGEST_PATH} bytes",
            rc=NOT_THERE,
        )
    print(f"optional {plugin} path={arguments.path}", flush=True)
    print(
        "Add this line to plugstack.conf on every compute node (next to slurm.conf, unless"
        " PlugStackConfig in there says otherwise), then restart slurmd.\n"
        "On the nodes where jobs are submitted it is of use only for WORKFLOW_ID in the first and"
        " last event of a job.",
        file=sys.stderr,
    )
    if not plugin.exists():
        complain(f"there is no {plugin} yet; see 'ldmsjob spank build'")
    return 0


def _include(directory: str | None) -> list[str]:
    """The compiler's option for that directory. One without the headers would have it silently take
    those of another place, and of another version."""
    if not directory:
        return []
    if not (Path(directory) / "slurm" / "spank.h").is_file():
        raise ConfigError(
            f"--include: there is no {directory}/slurm/spank.h", rc=NOT_THERE, hint=_BUILD_HINT
        )
    return ["-I", directory]


def headers_version(compiler: Sequence[str]) -> str:
    """The version of Slurm's headers as that compiler finds them, as in ``22.05.8``."""
    result = _run([*compiler, "-E", "-P", "-x", "c", "-"], _PROBE)
    found = re.search(r"^ldmsjob_version\s+(0x[0-9a-fA-F]+)", result.stdout, re.M)
    if result.returncode != 0 or found is None:
        reason = re.search(r"(?:fatal )?error: (.*)", result.stderr)
        raise ConfigError(
            "Slurm's headers cannot be used: "
            + (reason.group(1) if reason else "they name no version"),
            rc=NOT_THERE,
            hint=_BUILD_HINT,
        )
    number = int(found.group(1), 16)
    return f"{number >> 16}.{number >> 8 & 0xFF:02}.{number & 0xFF}"


def installed_version() -> str | None:
    """The version of the Slurm whose programs are found here; ``None`` without any."""
    for program in ("slurmd", "srun"):
        if shutil.which(program):
            found = re.search(r"(\d+\.\d+\.\d+)", _run([program, "-V"]).stdout)
            if found:
                return found.group(1)
    return None


def compile_plugin(compiler: Sequence[str], output: Path) -> None:
    """Write the plugin to that file. One that slurmd has loaded stays whole until it is closed."""
    if not os.access(output.parent, os.W_OK):
        raise ConfigError(f"cannot write {output}: no such directory, or not allowed", rc=FAILED)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        result = _run([*compiler, *FLAGS, "-o", str(partial), str(SOURCE), *LINK_FLAGS])
        sys.stderr.write(result.stderr)
        if result.returncode != 0:
            raise ConfigError("the notifier does not compile", rc=FAILED)
        partial.chmod(0o755)
        partial.replace(output)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}", rc=FAILED) from None
    finally:
        partial.unlink(missing_ok=True)


def _compare(headers: str, installed: str | None) -> int:
    """Tell whether the Slurm that is installed would load it; returns the exit status."""
    if installed is None:
        print("no Slurm is installed here: not compared with the one that is to load it")
        return 0
    if installed.split(".")[:2] == headers.split(".")[:2]:
        return 0
    complain(
        f"the Slurm that is installed here, {installed}, will refuse it: its headers are of"
        f" {headers}; {_BUILD_HINT}"
    )
    return FAILED


def _run(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program, in English, with that standard input."""
    import subprocess

    return subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
    )
