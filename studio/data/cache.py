"""Where work on data is kept between processes: folders that are whole or absent."""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from studio.data.progress import Report
from studio.errors import StudioError
from studio.runs.files import whole_folder, write_text
from studio.settings import Settings

# Part of every key: rows are read, or chosen, otherwise than in an earlier version.
_VERSION = 2
# So much of the disk is left to others.
_RESERVE = 2**30
# Selections are small, and every change of a step makes one.
_KEPT = 30
_UNUSED_S = 60 * 86_400.0
_WAIT_S = 0.2


def key(*parts: Any) -> str:
    """A name for what is made from `parts`, which JSON can hold."""
    text = json.dumps([_VERSION, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def stamp(path: Path) -> list[Any]:
    """What changes when the file does."""
    state = path.stat()
    return [str(path), state.st_size, state.st_mtime_ns]


class Shelf:
    """One kind of folders in the cache."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.folder = settings.home / "cache" / "data" / name

    def get(self, name: str) -> Path | None:
        """The folder of that name, where it is complete."""
        path = self.folder / name
        if not path.is_dir():
            return None
        # The last use, for `tidy`.
        with suppress(OSError):
            path.touch()
        return path

    @contextmanager
    def make(self, name: str, report: Report) -> Iterator[Path | None]:
        """An empty folder to fill, which is there under its name afterwards; None where another
        process made it while this one waited."""
        with _words(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        # One of a few locks, so that their files do not pile up.
        with (self.folder / f".lock-{name[-1]}").open("a") as lock:
            while not _locked(lock):
                report.stage("waiting for another process that reads data")
                time.sleep(_WAIT_S)
            if self.get(name) is not None:
                yield None
                return
            # Of a process that was killed while it wrote; nobody else writes this one now.
            for left in self.folder.glob(f".{name}.*"):
                shutil.rmtree(left, ignore_errors=True)
            with _words(self.folder), whole_folder(self.folder / name) as path:
                yield path

    def tidy(self, keep: int = _KEPT) -> None:
        """Removes all but the folders that were used last."""
        found = [p for p in self.folder.glob("[!.]*") if p.is_dir()]
        for path in sorted(found, key=_used, reverse=True)[keep:]:
            shutil.rmtree(path, ignore_errors=True)

    def forget(self, prefix: str, name: str) -> None:
        """Removes the folders that begin so, but for the one: of a file as it was before it
        changed. And those that nobody has used for long."""
        for path in self.folder.glob("[!.]*"):
            older = path.name.startswith(prefix) and path.name != name
            if older or time.time() - _used(path) > _UNUSED_S:
                shutil.rmtree(path, ignore_errors=True)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    # Another process tidies too.
    except OSError:
        return 0.0


def _locked(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudioError(
            f"{folder} can't be written: {error.strerror or error}.",
            "Free some disk, or set STUDIO_HOME to a folder that is yours.",
        ) from None


def check_disk(folder: Path, name: str) -> None:
    """Raises StudioError where the disk is nearly full, before it is."""
    free = shutil.disk_usage(folder).free
    if free < _RESERVE:
        raise StudioError(
            f"Reading {name} takes more disk than there is: {free / 2**30:.1f} GB are left on "
            f"{folder}.",
            "Free some disk, or set STUDIO_HOME to a folder on a larger one.",
        )


def write_json(path: Path, value: Any) -> None:
    """Writes the value."""
    write_text(path, json.dumps(value))


def read_json(path: Path) -> Any:
    """The value that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
