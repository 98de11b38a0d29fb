"""Data sets of the Hub, through `datasets`, whose Arrow files are then read where they lie.

What a name, a split and a revision led to is remembered for a day, with the commit: the preview,
the audit and the run read the same rows, and no page waits for a network.
"""

import errno
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from studio.data import cache
from studio.data.arrow import ArrowTable, plain
from studio.data.example import Broken, Row
from studio.data.progress import Report, Silent
from studio.data.table import Tables
from studio.errors import StudioError
from studio.settings import Settings

_REMEMBERED_S = 86_400.0
_FALLBACK_S = 600.0
# A split's name, or a slice of it whose begin is a row's number.
_SLICE = re.compile(r"(?P<name>\w+)(\[(?P<begin>\d*):(?P<end>\d*)\])?")


@dataclass(frozen=True)
class HubSet:
    """One split of a data set, or a part of it. See `sources.Opened` for what its methods do."""

    path: str
    name: str | None
    split: str
    revision: str | None
    settings: Settings

    def is_ready(self) -> bool:
        """Whether it was downloaded, within a day."""
        found = self._remembered()
        return found is not None and time.time() - found["time"] < _REMEMBERED_S

    def is_small(self) -> bool:
        """Nobody knows before it is there."""
        return False

    def stamp(self) -> list[Any]:
        """The Arrow files, whose names hold the commit."""
        found = self._remembered()
        return [self.path, *(found["parts"] if found else [])]

    def table(self, report: Report) -> Tables:
        """Its rows; asks the Hub where nothing is remembered, or it is long ago."""
        found = self._remembered()
        if found is None or not self.is_ready():
            found = self._asked(report, found)
        parts = [
            ArrowTable(
                [Path(file) for file, _ in part["files"]],
                f"{self.path} ({part['split']})",
                (part["begin"], part["end"]),
            )
            for part in found["parts"]
        ]
        return Tables(parts)

    def flows(self) -> bool:
        """Whether its first rows can be had before it is downloaded."""
        return not self.is_ready() and _SLICE.fullmatch(self.split) is not None

    def first(self) -> Iterator[tuple[str, Row | Broken]]:
        """Its rows, one by one over the network where the split allows it."""
        wanted = _SLICE.fullmatch(self.split)
        if self.is_ready() or wanted is None:
            table = self.table(Silent())
            for number in range(table.size):
                yield table.where(number), table.read(np.array([number]))[0]
            return
        begin, end = int(wanted["begin"] or 0), int(wanted["end"]) if wanted["end"] else None
        with self._words():
            import datasets

            rows = datasets.load_dataset(
                self.path, self.name, split=wanted["name"], revision=self.revision, streaming=True
            )
            # Pictures stay bytes: nobody looks at them here.
            for number, row in enumerate(islice(rows.decode(False), begin, end), begin + 1):
                yield f"{self.path} ({wanted['name']}), row {number}", plain(dict(row))

    def _asked(self, report: Report, old: dict[str, Any] | None) -> dict[str, Any]:
        """What the Hub has now, downloaded; or what it had, where it does not answer."""
        report.stage(f"asking the Hub for {self.path}")
        try:
            with self._words():
                found = {"time": time.time(), "parts": self._downloaded(report)}
        except StudioError as error:
            if old is None:
                raise
            report.note(f"{error.message} The rows of an earlier download are used.")
            # For a while: else every look at a row would wait for the network again.
            found = {**old, "time": time.time() - _REMEMBERED_S + _FALLBACK_S}
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        cache.write_json(self._memory, found)
        return found

    def _downloaded(self, report: Report) -> list[dict[str, Any]]:
        import datasets

        datasets.disable_progress_bars()
        builder = datasets.load_dataset_builder(self.path, self.name, revision=self.revision)
        report.stage(f"downloading {self.path}")
        builder.download_and_prepare()
        lengths = {name: split.num_examples for name, split in builder.info.splits.items()}
        parts = []
        for part in datasets.ReadInstruction.from_spec(self.split).to_absolute(lengths):
            whole = builder.as_dataset(split=part.splitname)
            files = [Path(file["filename"]) for file in whole.cache_files]
            parts.append(
                {
                    "split": part.splitname,
                    "files": [[str(path), path.stat().st_size] for path in files],
                    "begin": part.from_ or 0,
                    "end": lengths[part.splitname] if part.to is None else part.to,
                }
            )
        return parts

    @property
    def _memory(self) -> Path:
        name = cache.key(self.path, self.name, self.split, self.revision)
        return self.settings.home / "cache" / "data" / "hub" / f"{name}.json"

    def _remembered(self) -> dict[str, Any] | None:
        """What `_asked` found once, if the files are still there."""
        try:
            found: dict[str, Any] = cache.read_json(self._memory)
            files = [file for part in found["parts"] for file in part["files"]]
            whole = all(Path(path).stat().st_size == size for path, size in files)
        except (OSError, ValueError, KeyError):
            return None
        return found if whole else None

    @contextmanager
    def _words(self) -> Iterator[None]:
        """Turns what `datasets` and the Hub's client say into words."""
        import datasets
        from httpx2 import HTTPError

        try:
            yield
        except datasets.exceptions.DatasetGenerationError as error:
            reason = _first_line(error.__cause__ or error)
            raise StudioError(
                f"The files of {self.path} can't be read as rows: {reason}.",
                "Choose another revision, or download the files and mend them.",
            ) from None
        except (OSError, ValueError, RuntimeError, HTTPError) as error:
            if getattr(error, "errno", None) in _DISK:
                raise
            raise self._told(error) from None

    def _told(self, error: Exception) -> StudioError:
        kind, reason = type(error).__name__, str(error)
        for told, message, hint in _TOLD:
            if told in f"{kind}: {reason}":
                listed = _QUOTED.findall(reason[reason.rfind("[") :])
                values = vars(self) | {"there": ", ".join(listed)}
                return StudioError(message.format(**values), hint)
        return StudioError(
            f"The Hub gave no rows of {self.path}: {_first_line(error)}.",
            "Check the id, the configuration, the split and the revision.",
        )


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
_QUOTED = re.compile(r"'([^']+)'")
# A part of the error's class and text, and what it means. The first that is found counts.
_TOLD = (
    (
        "GatedRepo",
        "{path} is gated: its owner wants to know who uses it.",
        "Accept its terms on its Hub page, then run `hf auth login`.",
    ),
    (
        "gated dataset",
        "{path} is gated: its owner wants to know who uses it.",
        "Accept its terms on its Hub page, then run `hf auth login`.",
    ),
    ("Revision", "{path} has no revision {revision}.", "Check the branch, tag or commit."),
    (
        "Config name is missing",
        "{path} has several configurations: {there}.",
        "Set data.name to one of them.",
    ),
    (
        "BuilderConfig",
        "{path} has no configuration {name}; it has {there}.",
        "Set data.name to one of them.",
    ),
    ("Unknown split", "{path} has no split {split}; it has {there}.", "Choose one of them."),
    ("Bad split", "{path} has no split {split}; it has {there}.", "Choose one of them."),
    (
        "Unrecognized instruction",
        "{split} is no way to name a split.",
        "Write it as train, train[0:800] or train[:10%].",
    ),
    (
        "slice boundaries",
        "{split} is no way to name a split.",
        "Write it as train, train[0:800] or train[:10%].",
    ),
    (
        "Dataset scripts",
        "{path} is a program that makes its rows, and those are not run.",
        "Try the revision refs/convert/parquet, where the Hub keeps a copy in files.",
    ),
    (
        "EmptyDataset",
        "{path} holds no files with rows.",
        "Look at its page on the Hub; it may be meant for another program.",
    ),
    (
        "DataFilesNotFound",
        "{path} holds no files with rows.",
        "Look at its page on the Hub; it may be meant for another program.",
    ),
    (
        "Couldn't reach",
        "{path} is not on this machine, and the Hub can't be reached.",
        "Check the network or HF_ENDPOINT, unset HF_HUB_OFFLINE, or use a file.",
    ),
    (
        "Server error",
        "The Hub does not answer for {path}: it has a fault of its own.",
        "Try again later, or use a file.",
    ),
    (
        "NotFound",
        "The Hub has no data set {path}, or it is private.",
        "Check the spelling; a private one needs `hf auth login`.",
    ),
)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
