"""The answers that a run of the trainer grpo has tried, to be read while it goes."""

import json
from typing import Any

from studio.runs import Run

# So much of the file's end is read: some dozen steps.
_BYTES = 200_000
_STEPS = 10


def tried(run: Run) -> list[dict[str, Any]]:
    """The last steps of which answers were kept, the newest first: {"step", "rows"}. A step that
    an attempt did again is there once."""
    try:
        with run.completions.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    steps: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            steps[int(entry["step"])] = {"step": int(entry["step"]), "rows": list(entry["rows"])}
        except (ValueError, KeyError, TypeError):
            # The first line may be half of one, and so may the last.
            continue
    return [steps[step] for step in sorted(steps, reverse=True)[:_STEPS]]
