"""Where crashes and new inputs are kept, and how a crash is told from others."""

from __future__ import annotations

import traceback
from pathlib import Path

from tests.fuzz.target import Target, cost, run

COSTED = 100
"""So many of the first runs are measured, then one in ``COSTED_EVERY``: measuring is slow."""
COSTED_EVERY = 50


class Finds:
    """Tries inputs on one target and keeps the shortest one for each different crash."""

    def __init__(self, target: Target, directory: Path) -> None:
        self.runs = 0
        self.crashes: dict[str, Path] = {}
        self._target = target
        self._directory = directory

    def attempt(self, data: bytes, *, measure: bool = True) -> None:
        """Run the target; what it raises is kept and not raised."""
        try:
            if measure and self._is_measured():
                cost(self._target, data)
            else:
                run(self._target, data)
        except Exception as error:
            self._keep(data, error)

    def _is_measured(self) -> bool:
        self.runs += 1
        return self.runs <= COSTED or self.runs % COSTED_EVERY == 0

    def _keep(self, data: bytes, error: Exception) -> None:
        place = _place(error)
        path = self.crashes.get(place)
        if path is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"{self._target.name}-{len(self.crashes) + 1}"
            self.crashes[place] = path
        elif path.stat().st_size <= len(data):
            return
        path.write_bytes(data)
        text = "".join(traceback.format_exception(error))
        again = f"python -m tests.fuzz --replay {path} {self._target.name}"
        path.with_name(f"{path.name}.txt").write_text(f"{again}\n\n{text}")


def _place(error: Exception) -> str:
    """What two crashes of one cause have in common: kind, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename}:{frame.lineno}" for frame in frames[-2:]]
    return " ".join((type(error).__name__, *where))
