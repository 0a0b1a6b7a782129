"""The source of our notifier for Slurm, a SPANK plugin in C.

It is compiled where it runs, by ``ldmsjob spank build``: Slurm takes no plugin that was compiled
against the headers of another version. docs/slurm.md, The notifier.
"""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).parent / "ldmsjob_notifier.c"
"""The file to compile. It includes the headers next to it."""

FLAGS = (
    *("-std=c11", "-O2", "-fPIC", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"),
    *("-Wall", "-Wextra"),
)
"""How it is compiled."""

LINK_FLAGS = ("-shared", "-Wl,-z,relro", "-Wl,-z,now")
"""How it is linked: what a context of Slurm does not have is found when it is loaded, not later."""

DEFAULT_PATH = "/run/ldmsjob/notifier.sock"
"""Where it looks for the daemon, unless plugstack.conf says otherwise."""

LONGEST_PATH = 107
"""The most bytes of the address of a unix socket."""
