"""The console script ``ldmsjob``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ldmsjob import notify


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sub-command that ``argv`` names; returns the exit status as
    ``ldmsjob.cli.commandline.run`` does, and raises what that does."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["notify"]:
        return notify.main(arguments[1:])
    # Not for `notify`: every job waits for that, and this would be a quarter of its time.
    from ldmsjob.cli import commandline

    return commandline.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
