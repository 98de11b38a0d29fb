"""Files that are whole or absent, and the identity of a process."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one step: readers see the old text or the new, never a half."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill beside `path`, which takes the place of `path` once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield aside
        aside.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_process(path: Path, pid: int) -> None:
    """Stores who runs here: the pid with the process's start time, since pids are used again."""
    write_text(path, json.dumps({"pid": pid, "create_time": psutil.Process(pid).create_time()}))


def read_process(path: Path) -> psutil.Process | None:
    """The living process that `write_process` stored, or None."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        process = psutil.Process(int(stored["pid"]))
        same = abs(process.create_time() - float(stored["create_time"])) < 0.05
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
