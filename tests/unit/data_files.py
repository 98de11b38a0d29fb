"""Files of every kind with the same rows, and how tests open data."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from studio.data import Data, open_data
from studio.settings import Settings
from studio.spec import DataSection

ROWS = [
    {"question": "Wer, bist du?", "answer": 'Ich sagte: "Bramble".\nZeile 2'},
    {"question": "نعم؟", "answer": "☕ \u2028 still the same line"},
    {"question": " b ", "answer": "c"},
]
TEXTUAL = ("jsonl", "json", "csv", "tsv")


def write(path: Path, content: str | bytes) -> Path:
    """A file with that content; packed where its name says so."""
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def jsonl(path: Path, rows: list[Any]) -> Path:
    """A file with a row a line."""
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def as_text(kind: str, rows: list[dict[str, str]] = ROWS) -> str:
    """The rows as a file of that kind."""
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if kind == "json":
        return json.dumps(rows, indent=1)
    sign = "," if kind == "csv" else "\t"
    quoted = [sign.join('"' + v.replace('"', '""') + '"' for v in row.values()) for row in rows]
    return sign.join(rows[0]) + "\r\n" + "\r\n".join(quoted) + "\r\n"


def as_bytes(kind: str, folder: Path) -> bytes:
    """The rows as a file of any kind but txt."""
    if kind in TEXTUAL:
        return as_text(kind).encode()
    table, path = pyarrow.Table.from_pylist(ROWS), folder / "made"
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
        with new(str(path), table.schema) as writer:
            writer.write_table(table)
    raw = path.read_bytes()
    path.unlink()
    return raw


def section(path: Path | str, **fields: Any) -> DataSection:
    """A section with all rows to learn from."""
    return DataSection(path=str(path), **{"validation": "0", **fields})


def opened(settings: Settings, path: Path | str, **fields: Any) -> Data:
    """The data of such a section."""
    return open_data(section(path, **fields), settings)


def rows_of(settings: Settings, path: Path | str, **fields: Any) -> list[Any]:
    """All rows of such data."""
    data = opened(settings, path, **fields)
    return data.raw(0, data.size)
