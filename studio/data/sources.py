"""Where rows come from: a bundled set, a file, a folder, a saved data set, or the Hub."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from studio.data import cache, files
from studio.data.example import Broken, Row
from studio.data.hub import HubSet
from studio.data.kinds import SUFFIXES, File, is_data, look
from studio.data.progress import Report
from studio.data.table import Tables
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import DataSection

BUNDLED = {
    "persona": "persona.jsonl",
    "persona-pairs": "persona_pairs.jsonl",
    "persona-marks": "persona_marks.jsonl",
    "workshop-texts": "workshop_texts.jsonl",
    "workshop-sums": "workshop_sums.jsonl",
}
_STATE, _SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True)
class Origin:
    """One source, as the section names it."""

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    weight: float = 1.0


class Opened(Protocol):
    """A source that was found."""

    def is_ready(self) -> bool:
        """Whether `table` takes no longer than a page can wait."""

    def is_small(self) -> bool:
        """Whether all of its rows can be looked at while a page waits."""

    def stamp(self) -> list[Any]:
        """What changes when the rows may have changed; JSON."""

    def table(self, report: Report) -> Tables:
        """All of its rows. Raises StudioError."""

    def first(self) -> Iterator[tuple[str, Row | Broken]]:
        """Its rows from the beginning, each with its place."""


def origins(section: DataSection) -> list[Origin]:
    """All sources of the section, the first one first."""
    first = Origin(section.path, section.name, section.split, section.revision, section.weight)
    others = [Origin(s.path, s.name, s.split, s.revision, s.weight) for s in section.also]
    return [first, *others]


def locate(path: str, settings: Settings) -> Path | None:
    """The file or folder that `path` means, or None where it can only be a Hub data set's id."""
    if path in BUNDLED:
        return settings.presets / "data" / BUNDLED[path]
    for base in (settings.workspace, settings.presets.parent):
        full = settings.resolve(path, base)
        if full.exists():
            return full
    looks_local = (
        path.startswith((".", "/", "~")) or path.lower().endswith(SUFFIXES) or path.count("/") > 1
    )
    if looks_local:
        raise StudioError(
            f"There is no file {path}.", "Check the spelling; paths start at the workspace."
        )
    return None


def find(origin: Origin, encoding: str, settings: Settings) -> Opened:
    """The source. Raises StudioError where it is not there or is no data."""
    found = locate(origin.path, settings)
    if found is None:
        return HubSet(origin.path, origin.name, origin.split, origin.revision, settings)
    saved = (found / _SPLITS).is_file()
    for part in ("name", "revision") if saved else ("name", "split", "revision"):
        default = getattr(Origin(""), part)
        if getattr(origin, part) != default:
            raise StudioError(
                f"data.{part} is for data sets of the Hub; {origin.path} is on this disk.",
                f"Set it back to {default}." if default else "Leave it empty.",
            )
    if saved:
        found = _split_of(found, origin.split)
    return Files(*_files(found, encoding), settings)


def touched(origin: Origin, settings: Settings) -> Iterator[Path]:
    """Whatever `find` reads on this disk, each before anything in it is looked at: who may not read
    all of the disk judges it. Raises StudioError where the source is not there."""
    found = locate(origin.path, settings)
    if found is None:
        return
    yield found
    if (found / _SPLITS).is_file():
        yield found / _SPLITS
        found = _split_of(found, origin.split)
        yield found
    if (found / _STATE).is_file():
        yield found / _STATE
    yield from _paths(found)[0]


def has_splits(origin: Origin, settings: Settings) -> bool:
    """Whether the source has splits with names."""
    found = locate(origin.path, settings)
    return found is None or (found / _SPLITS).is_file()


def _split_of(folder: Path, split: str) -> Path:
    splits = _json(folder / _SPLITS).get("splits", [])
    # What came from elsewhere may name a folder beside this one.
    plain = Path(split).name == split != ".."
    if split not in splits or not plain:
        raise StudioError(
            f"{folder.name} has no split {split}.", f"It has {', '.join(map(str, splits))}."
        )
    return folder / split


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise StudioError(f"{path} can't be read.", "Save the data set again.") from None
    return value


def _files(found: Path, encoding: str) -> tuple[tuple[File, ...], tuple[str, ...]]:
    """The files that are meant, and what is to be said of others."""
    paths, notes = _paths(found)
    return tuple(look(path, encoding) for path in paths), notes


def _paths(found: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Where they lie; none is looked at."""
    if not found.is_dir():
        return [found], ()
    if (found / _STATE).is_file():
        named = [Path(str(f["filename"])).name for f in _json(found / _STATE)["_data_files"]]
        return [found / name for name in named], ()
    inside = sorted(p for p in found.iterdir() if p.is_file() and is_data(p))
    # An empty one of several is no fault: tools that write in parts leave such.
    full = [path for path in inside if path.stat().st_size] or inside
    if not full:
        raise StudioError(
            f"{found.name} holds no data files.", f"They end in {', '.join(SUFFIXES[:7])}."
        )
    notes = tuple(f"{path.name} is empty and left out." for path in inside if path not in full)
    return full, notes


class Files:
    """Files on this disk."""

    def __init__(self, found: tuple[File, ...], notes: tuple[str, ...], settings: Settings) -> None:
        self._files = found
        self._notes = notes
        self._settings = settings

    def is_ready(self) -> bool:
        """See `Opened`."""
        return self.is_small() or all(files.is_ready(f, self._settings) for f in self._files)

    def is_small(self) -> bool:
        """See `Opened`."""
        return files.is_small(self._files)

    def stamp(self) -> list[Any]:
        """See `Opened`."""
        return [[*cache.stamp(file.path), file.kind, file.encoding] for file in self._files]

    def table(self, report: Report) -> Tables:
        """See `Opened`."""
        small = self.is_small()
        found = [files.table(f, self._settings, report, small=small) for f in self._files]
        return Tables(found, self._notes)

    def first(self) -> Iterator[tuple[str, Row | Broken]]:
        """See `Opened`."""
        for file in self._files:
            word = "row" if file.kind in ("parquet", "arrow") else "line"
            for number, row in files.rows(file)[1]:
                yield f"{file.path.name}, {word} {number}", row
