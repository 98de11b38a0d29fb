"""The queue: which runs wait, in their order. A file beside the run folders, changed only under a
lock that the kernel takes back, and replaced whole."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio.runs import files

_NAME = "queue.json"


def path(root: Path) -> Path:
    """The queue's file."""
    return root / _NAME


def waiting(root: Path) -> list[str]:
    """The ids of the runs that wait, the next one first. A file that can't be read is an empty
    queue: the runs themselves are in their folders."""
    try:
        held = json.loads(path(root).read_text(encoding="utf-8"))
    except files.UNREADABLE:
        return []
    runs = held.get("runs") if isinstance(held, dict) else None
    known = [run for run in runs if isinstance(run, str)] if isinstance(runs, list) else []
    # A folder that was deleted by hand waits for nothing.
    return [run for run in dict.fromkeys(known) if (root / run / "spec.yaml").is_file()]


@contextmanager
def changing(root: Path) -> Iterator[list[str]]:
    """The waiting ids, to be changed in place; nobody else changes them, or starts one of them,
    until the block ends."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".queue.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = waiting(root)
        before = list(runs)
        yield runs
        if runs != before:
            files.write_text(path(root), json.dumps({"runs": list(dict.fromkeys(runs))}))
