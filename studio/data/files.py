"""A file of any kind as a stream of its first rows, and as a table that is read at any place.

jsonl and Arrow are read where they lie, through an index. Everything else is written once into the
cache: Parquet as Arrow (its blocks are too large to be unpacked for a row), the others as jsonl.
"""

import codecs
import json
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson

from studio.data import arrow, cache, stream
from studio.data.arrow import ArrowTable
from studio.data.cache import Shelf
from studio.data.example import Broken, Row
from studio.data.jsonl import TOO_LONG, Index, JsonlTable, Place, index, parse
from studio.data.jsonrows import json_rows
from studio.data.kinds import File
from studio.data.progress import Report
from studio.data.table import Table
from studio.data.textrows import paragraphs, table_rows
from studio.settings import Settings

Numbered = tuple[int, Row | Broken]
_SMALL = 2 * 2**20
# How much larger what is packed is, about.
_UNPACKED = 10
_CHECK_EVERY = 64 * 2**20
_TELL_EVERY = 1000
_TABLES = ("parquet", "arrow")


def rows(file: File, progress: stream.Progress | None = None) -> tuple[str, Iterator[Numbered]]:
    """What to say of how the file is read, and its rows from the beginning, each with its line (in
    a table, its number). Raises StudioError at the place from which on it can't be read."""
    name, source = file.path.name, (file.path, file.packed, file.encoding, progress)
    match file.kind:
        case "jsonl":
            return "", _json_lines(file)
        case "json":
            return "", json_rows(name, stream.text(*source))
        case "csv" | "tsv":
            return table_rows(name, stream.lines(*source), file.kind)
        case "txt":
            note, found = paragraphs(stream.lines(*source))
            return f"{name}: {note}.", found
        case _:
            return "", _table_rows(file)


def _json_lines(file: File) -> Iterator[Numbered]:
    if not _is_utf8(file):
        for number, text in stream.lines(file.path, file.packed, file.encoding):
            if text.strip():
                yield number, parse(text.encode())
        return
    before, waiting, length = 0, list[bytes](), 0
    for piece in chain(stream.pieces(file.path, file.packed), [b"\n"]):
        first, *rest = piece.split(b"\n")
        waiting.append(first)
        length += len(first)
        if rest:
            whole = [b"".join(waiting), *rest[:-1]]
            for number, line in enumerate(whole, before + 1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line and not line.isspace():
                    yield number, parse(line)
            before += len(whole)
            waiting, length = [rest[-1]], len(rest[-1])
        if length > stream.LONGEST:
            # Where the next row begins is known to those who read on for it.
            yield before + 1, TOO_LONG
            return


def _is_utf8(file: File) -> bool:
    return codecs.lookup(file.encoding).name in ("utf-8", "utf-8-sig", "ascii")


def _table_rows(file: File) -> Iterator[Numbered]:
    done = 0
    with _unpacked(file) as path:
        for batch in arrow.batches(path, file.kind):
            with arrow.readable(path.name):
                found = batch.to_pylist()
            for row in found:
                done += 1
                yield done, arrow.plain(row)


@contextmanager
def _unpacked(file: File, folder: Path | None = None) -> Iterator[Path]:
    """The file, or one beside it that holds what is packed in it."""
    if not file.packed:
        yield file.path
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix="unpacked-") as aside:
        path = Path(aside) / file.path.name
        with path.open("wb") as out:
            _copy(stream.pieces(file.path, packed=True), out, path.parent, file.path.name)
        yield path


def _copy(pieces: Iterator[bytes], out: BinaryIO, folder: Path, name: str) -> None:
    written = 0
    for piece in pieces:
        out.write(piece)
        written += len(piece)
        if written > _CHECK_EVERY:
            cache.check_disk(folder, name)
            written = 0


def _name(file: File) -> tuple[str, str]:
    """What all folders of the file begin with in the cache, and the name of the one."""
    prefix = cache.key(str(file.path))[:12] + "-"
    return prefix, prefix + cache.key(cache.stamp(file.path), file.kind, file.encoding)


def is_small(found: Sequence[File]) -> bool:
    """Whether the files together are read sooner than their index is looked up."""
    sizes = (file.path.stat().st_size * (_UNPACKED if file.packed else 1) for file in found)
    return sum(sizes) <= _SMALL


def is_ready(file: File, settings: Settings) -> bool:
    """Whether `table` would only have to open the file."""
    return Shelf(settings, "files").get(_name(file)[1]) is not None


def table(file: File, settings: Settings, report: Report, *, small: bool = False) -> Table:
    """The file as a table. What that takes is done once, and found again until the file changes;
    where it is `small`, no more than it must. Raises StudioError where the file can't be read to
    its end."""
    in_place = file.kind == "jsonl" and not file.packed and _is_utf8(file)
    if in_place and small:
        return JsonlTable(file.path, index(file.path, report), notes=file.notes)
    shelf, (prefix, name) = Shelf(settings, "files"), _name(file)
    folder = shelf.get(name)
    if folder is None:
        shelf.forget(prefix, name)
        with shelf.make(name, report) as aside:
            if aside is not None:
                _build(file, aside, report, in_place)
        folder = shelf.folder / name
    facts = cache.read_json(folder / "facts.json")
    notes = (*file.notes, *facts["notes"])
    if file.kind in _TABLES:
        path = folder / "rows.arrow" if facts["rewritten"] else file.path
        return ArrowTable([path], file.path.name, notes=notes)
    path = folder / "rows.jsonl" if facts["rewritten"] else file.path
    lines = np.load(folder / "lines.npy", mmap_mode="r") if facts["lines"] else None
    place = Place(file.path.name, lines, numbered=file.kind == "json")
    return JsonlTable(path, Index.load(folder), place, notes)


def _build(file: File, folder: Path, report: Report, in_place: bool) -> None:
    """Fills a folder of the cache."""
    facts = {"notes": list[str](), "rewritten": True, "lines": False}
    if file.kind in _TABLES:
        with _unpacked(file, folder) as path:
            if file.kind == "arrow" and not file.packed and arrow.is_sound(path):
                facts["rewritten"] = False
            else:
                check = partial(cache.check_disk, folder, file.path.name)
                arrow.rewrite(path, file.kind, folder / "rows.arrow", report, check)
    elif in_place:
        facts["rewritten"] = False
        index(file.path, report).save(folder)
    else:
        if file.kind == "jsonl":
            _unpack_lines(file, folder, report)
        else:
            facts["notes"] = _convert(file, folder, report)
            facts["lines"] = True
        index(folder / "rows.jsonl", report).save(folder)
    cache.write_json(folder / "facts.json", facts)


def _unpack_lines(file: File, folder: Path, report: Report) -> None:
    """The lines as they are, unpacked and in UTF-8."""
    progress, total = stream.Progress(), file.path.stat().st_size

    def told() -> Iterator[bytes]:
        source = (file.path, file.packed)
        for piece in (
            stream.pieces(*source, progress)
            if _is_utf8(file)
            else (text.encode() for text in stream.text(*source, file.encoding, progress))
        ):
            report.stage(f"unpacking {file.path.name}", progress.done, total)
            yield piece

    with (folder / "rows.jsonl").open("wb") as out:
        _copy(told(), out, folder, file.path.name)


def _convert(file: File, folder: Path, report: Report) -> list[str]:
    """Writes each row as a line of JSON, and where it came from; gives what is to be said of it."""
    progress, total = stream.Progress(), file.path.stat().st_size
    note, found = rows(file, progress)
    lines = array("q")

    def told() -> Iterator[bytes]:
        for line, row in found:
            lines.append(line)
            if len(lines) % _TELL_EVERY == 1:
                report.stage(f"reading {file.path.name}", progress.done, total)
            yield _dump(row) + b"\n"

    with (folder / "rows.jsonl").open("wb") as out:
        _copy(told(), out, folder, file.path.name)
    np.save(folder / "lines.npy", np.frombuffer(lines, np.int64) if lines else np.zeros(0, int))
    return [note] if note else []


def _dump(row: Row | Broken) -> bytes:
    value = ["broken", row.reason, row.hint] if isinstance(row, Broken) else row
    try:
        return orjson.dumps(value)
    # Half a character, or a number of more than 64 bits.
    except TypeError:
        return json.dumps(value).encode()
