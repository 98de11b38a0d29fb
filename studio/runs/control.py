"""What is asked of a run while it goes: small files that its worker takes away when it does what
they say."""

import math
import os
from contextlib import suppress

from studio.errors import StudioError
from studio.runs import files
from studio.runs.store import Run

_TRIES = 5
WISHES = ("save", "evaluate", "learning_rate")


def ask(run: Run, wish: str, value: float | None = None) -> None:
    """Leaves a wish for the worker: `save` or `evaluate` now, or another `learning_rate`.

    Raises StudioError for one that can't be heeded.
    """
    if run.process() is None:
        raise StudioError(f"The run {run.id} is not going.", "Resume it first.")
    if wish not in WISHES:
        raise StudioError(f"{wish} can't be asked of a run.", f"There are: {', '.join(WISHES)}.")
    if wish == "learning_rate" and not (value and math.isfinite(value) and 0 < value <= 1):
        raise StudioError(f"{value} is no learning rate.", "Use a number above 0, up to 1.")
    folder = run.path / "control"
    for _ in range(_TRIES):
        # The worker takes the folder away when it has taken what was in it.
        with suppress(FileNotFoundError):
            folder.mkdir(exist_ok=True)
            files.write_text(folder / wish, "" if value is None else repr(float(value)))
            return


class Wishes:
    """The worker's side: what is asked, each wish once."""

    def __init__(self, run: Run) -> None:
        self._folder = run.path / "control"
        self._path = str(self._folder)

    def take(self) -> dict[str, float | None]:
        """The wishes since the last look. Costs a microsecond or two where there are none."""
        if not os.path.exists(self._path):  # noqa: PTH110 - half of Path's cost, at every step
            return {}
        taken: dict[str, float | None] = {}
        for wish in WISHES:
            path = self._folder / wish
            try:
                text = path.read_text(encoding="utf-8")
                path.unlink()
                taken[wish] = float(text) if text else None
            except (OSError, ValueError):
                continue
        with suppress(OSError):
            self._folder.rmdir()
        return taken

    def clear(self) -> None:
        """Forgets what was asked of an earlier attempt."""
        self.take()
