"""Rows as the trainer will get them, for the data page and `preview`: the same functions that
training uses, applied to a few rows."""

import json
from pathlib import Path
from typing import Any

from studio.data import Layout, detect, load_rows, locate
from studio.engine.prepare import encode_row
from studio.engine.report import Report
from studio.engine.source import resolve
from studio.engine.tokenizer import Tokenizer, load_tokenizer
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import DataSection, ModelSection, RunSpec

Rows = list[dict[str, Any]]
Reply = dict[str, Any]


class Preview:
    """Keeps the last model's tokenizer and the last rows, as long as their files stay the same."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: tuple[ModelSection, Path] | None = None
        self._tokenizer: tuple[object, Tokenizer] | None = None
        self._rows: tuple[object, Rows] | None = None

    def show(self, spec: RunSpec, start: int, count: int, report: Report) -> Reply:
        """`total`, `layout`, `context` (tokens the model can hold, or None), `note` and the rows
        from `start` on. A row that fails carries its `problem`. Raises StudioError where the
        model or the data can't be read at all."""
        rows = self._load_rows(spec.data, report)
        layout = detect(rows)
        folder = self._resolve(spec.model, report)
        loaded = self._load_tokenizer(folder, report)
        chosen = range(max(0, start), min(len(rows), max(0, start) + count))
        return {
            "total": len(rows),
            "layout": {"name": layout.name, "reason": layout.reason},
            "context": _context(folder),
            "note": loaded.note,
            "rows": [_row(index, rows[index], layout, loaded, spec) for index in chosen],
        }

    def _resolve(self, section: ModelSection, report: Report) -> Path:
        # Asking the Hub again for every row that is looked at would take seconds without a network.
        if (
            self._model is None
            or self._model[0] != section
            or not (self._model[1] / "config.json").is_file()
        ):
            self._model = (section, resolve(section, self._settings, report, weights=False))
        return self._model[1]

    def _load_tokenizer(self, folder: Path, report: Report) -> Tokenizer:
        key = _signature(folder)
        if self._tokenizer is None or self._tokenizer[0] != key:
            report.stage("loading the tokenizer")
            self._tokenizer = (key, load_tokenizer(folder))
        return self._tokenizer[1]

    def _load_rows(self, section: DataSection, report: Report) -> Rows:
        source = section.model_copy(
            update={"test_size": 0.0, "system_prompt": None, "train_on": "everything"}
        )
        found = locate(section.path, self._settings)
        key = (source, _signature(found) if found else None)
        if self._rows is None or self._rows[0] != key:
            report.stage("reading the data")
            self._rows = (key, load_rows(section, self._settings))
        return self._rows[1]


def _signature(path: Path) -> object:
    """Changes when the file, or a file of the folder, does."""
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = ((p.name, p.stat()) for p in paths if p.is_file())
    return (path, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


def _context(folder: Path) -> int | None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    length = config.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def _row(
    index: int, row: dict[str, Any], layout: Layout, loaded: Tokenizer, spec: RunSpec
) -> Reply:
    data, length = spec.data, spec.train.max_length
    try:
        messages, encoded = encode_row(
            row, layout, loaded.tokenizer, data.train_on, length, data.system_prompt
        )
    except StudioError as error:
        return {
            "index": index,
            "messages": [],
            "text": "",
            "input_ids": [],
            "tokens": [],
            "trained": [],
            "cut": [],
            "problem": str(error),
        }
    return {
        "index": index,
        "messages": messages,
        "text": encoded.text,
        "input_ids": encoded.input_ids,
        "tokens": encoded.pieces,
        "trained": encoded.trained,
        "cut": encoded.cut,
        "problem": None,
    }
