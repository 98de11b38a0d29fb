"""Reading rows: a bundled set, a file, a folder with files, or a data set of the Hub."""

import csv
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import DataSection

Rows = list[dict[str, Any]]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
BUNDLED = {"persona": "persona.jsonl"}


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


def load_rows(section: DataSection, settings: Settings) -> Rows:
    """All rows that the section names, as dictionaries, in their order. Raises StudioError."""
    found = locate(section.path, settings)
    rows = _hub(section) if found is None else list(local_rows(section, found))
    if not rows:
        raise StudioError(f"{section.path} has no rows.", "Choose a file with at least two rows.")
    return rows


def local_rows(section: DataSection, found: Path) -> Iterator[dict[str, Any]]:
    """The rows of `found`, the section's file or folder, one by one. Raises StudioError where the
    section asks of it what only a data set of the Hub has."""
    for name in ("name", "split", "revision"):
        default = DataSection.model_fields[name].default
        if getattr(section, name) != default:
            raise StudioError(
                f"data.{name} is for data sets of the Hub; {section.path} is on this disk.",
                f"Set it back to {default}." if default else "Leave it empty.",
            )
    yield from islice(iterate(found), section.max_rows)


def iterate(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, or of all files of a folder in the order of their names, one by one."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not files:
            raise StudioError(
                f"{path.name} holds no data files.", f"They end in {', '.join(SUFFIXES)}."
            )
        for file in files:
            yield from iterate(file)
        return
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise StudioError(
            f"{path.name} is not a kind of file that is read here.", f"Use {', '.join(SUFFIXES)}."
        )
    try:
        yield from reader(path)
    except UnicodeDecodeError:
        raise StudioError(
            f"{path.name} is not UTF-8 text.", "Save it again with the encoding UTF-8."
        ) from None
    except OSError as error:
        raise StudioError(
            f"{path.name} can't be read: {error.strerror or error}.",
            "Check that the file is there and yours.",
        ) from None


def _row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StudioError(
            f"{where} is not an object with columns.", 'Each row looks like {"messages": [...]}.'
        )
    return value


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise StudioError(
                    f"{path.name}, line {number}, is not JSON: {_reason(error)}.",
                    "Mend or remove that line.",
                ) from None
            yield _row(value, f"{path.name}, line {number},")


def _json(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise StudioError(
            f"{path.name} is not JSON{where}: {_reason(error)}.",
            "Mend that line; a file with one object a line ends in .jsonl.",
        ) from None
    if not isinstance(value, list):
        raise StudioError(
            f"{path.name} is not a list of rows.", "The file starts with [ and holds objects."
        )
    for number, item in enumerate(value, 1):
        yield _row(item, f"{path.name}, row {number},")


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error).split(";")[0]


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    # A cell may hold a whole book; the module's own limit is 131,072 characters.
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strict, or a quote that is never closed would swallow the rest of the file unseen.
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise StudioError(
                        f"{path.name}, line {reader.line_num}, has another number of cells than "
                        "the header.",
                        "Mend that line; text with commas stands in quotes.",
                    )
                yield dict(row)
        except csv.Error as error:
            raise StudioError(
                f"{path.name}, line {reader.line_num + 1}, is not CSV: {error}.",
                "Mend that line; a quote inside quoted text is written twice.",
            ) from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    with path.open("rb") as file:
        try:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=1000):
                yield from batch.to_pylist()
        # A broken file is an OSError to pyarrow too, or text that can't be decoded.
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise StudioError(
                f"{path.name} is not a whole parquet file: {reason}.", "Write it again."
            ) from None


def _hub(section: DataSection) -> Rows:
    # Imported here: it takes a fifth of a second that a page with local data need not wait for.
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        loaded = datasets.load_dataset(
            section.path, section.name, split=section.split, revision=section.revision
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise StudioError(
            f"The Hub gave no data set {section.path} (split {section.split}): "
            f"{str(error).splitlines()[0]}",
            "Check the id, the configuration and the split; a gated set needs `hf auth login`; "
            "without a network use a file.",
        ) from None
    return [dict(row) for row in islice(loaded, section.max_rows)]


def split(count: int, test_size: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers to train on and to hold back, each ascending. A share above 0 holds back at
    least one row and leaves at least one."""
    if test_size == 0 or count < 2:
        return list(range(count)), []
    held = min(max(1, round(count * test_size)), count - 1)
    chosen = set(random.Random(seed).sample(range(count), held))
    return [i for i in range(count) if i not in chosen], sorted(chosen)
