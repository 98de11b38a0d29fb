"""Having data indexed by a process of its own: a large file takes seconds, and the page none."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from studio.data import Peek, is_ready
from studio.data.cache import key
from studio.errors import StudioError
from studio.jobs.spawn import alone, spawn, writing
from studio.runs import ENDED, RunState, events, files, fold
from studio.settings import Settings
from studio.spec import DataSection

_LOOK_S = 0.1
# What was said of an old one interests nobody.
_KEPT_S = 7 * 86_400.0


def index(settings: Settings, section: DataSection) -> Iterator[RunState]:
    """Makes the data ready to be opened; yields the worker's states until it is.

    One that goes on already is only watched, and goes on where nobody watches. Raises StudioError
    where a source can't be read, or where it was stopped.
    """
    if is_ready(section, settings):
        return
    folder = _folder(settings, section)
    with writing(folder), alone(folder.parent / "lock"):
        if not _goes_on(folder):
            _tidy(folder.parent, folder)
            for left in ("events.jsonl", "stop", "pid", "first.json"):
                (folder / left).unlink(missing_ok=True)
            text = json.dumps(section.model_dump(mode="json"))
            files.write_text(folder / "section.json", text)
            process = spawn(["index", str(folder)], folder / "worker.log", settings)
            with suppress(psutil.NoSuchProcess):
                files.write_process(folder / "pid", process.pid)
    yield from _watch(folder)


def first_rows(settings: Settings, section: DataSection) -> Peek | None:
    """The first rows of a set of the Hub, from the moment that the worker that indexes it has seen
    them: before the rest is downloaded."""
    try:
        text = (_folder(settings, section) / "first.json").read_text(encoding="utf-8")
        return Peek.from_tree(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stop_index(settings: Settings, section: DataSection) -> None:
    """Asks the worker that indexes this data to stop; what it has written aside is removed."""
    folder = _folder(settings, section)
    if files.read_process(folder / "pid") is not None:
        (folder / "stop").touch()


def _goes_on(folder: Path) -> bool:
    """Whether a worker is at it. One that has said its last word may live on for a moment."""
    alive = files.read_process(folder / "pid") is not None
    said, _ = events.tail(folder / "events.jsonl")
    return alive and fold(RunState(), said).status not in ENDED


def _folder(settings: Settings, section: DataSection) -> Path:
    told = section.model_dump(mode="json", exclude={"accepted"})
    return settings.home / "index" / key(told)


def _watch(folder: Path) -> Iterator[RunState]:
    state, offset = RunState(), 0
    while state.status not in ENDED:
        # Before the log is read: a worker that ends in between has written its end by then.
        alive = files.read_process(folder / "pid") is not None
        new, offset = events.tail(folder / "events.jsonl", offset)
        state = fold(state, new)
        if state.problem:
            raise StudioError(state.problem["message"], state.problem["hint"])
        if state.status == "stopped":
            raise StudioError("Reading the data was stopped.", "Choose it again to go on.")
        if not alive and not new and state.status not in ENDED:
            raise StudioError(
                "Reading the data ended without a word.",
                f"It may have run out of memory; see {folder / 'worker.log'}.",
            )
        yield state
        time.sleep(_LOOK_S)


def _tidy(root: Path, ours: Path) -> None:
    for folder in root.iterdir():
        old = time.time() - folder.stat().st_mtime > _KEPT_S
        if folder.is_dir() and folder != ours and old and not files.read_process(folder / "pid"):
            shutil.rmtree(folder, ignore_errors=True)
