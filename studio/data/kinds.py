"""What kind of file something is: told from its first bytes, and from its name where they can't.

A suffix that lies is seen through where the content is certain, and said.
"""

import json
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from studio.data.stream import encoding_of, opened
from studio.errors import StudioError

KINDS = ("jsonl", "json", "csv", "tsv", "parquet", "arrow", "txt")
SUFFIXES = (*(f".{kind}" for kind in KINDS), *(f".{kind}.gz" for kind in KINDS))
_ALIASES = {"ndjson": "jsonl", "pq": "parquet", "feather": "arrow", "text": "txt"}
_HEAD = 256 * 2**10

_GZIP = b"\x1f\x8b"
_TABLES = ((b"PAR1", "parquet"), (b"ARROW1\0\0", "arrow"), (b"\xff\xff\xff\xff", "arrow"))
# What is often mistaken for data, and how it is named.
_OTHERS = (
    (b"PK\x03\x04", "a zip archive (or an office document)", "Unpack it, or save the table as csv"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "Unpack it, or pack it with gzip"),
    (b"\xfd7zXZ\0", "packed with xz", "Unpack it, or pack it with gzip"),
    (b"BZh", "packed with bzip2", "Unpack it, or pack it with gzip"),
    (b"SQLite format 3\0", "a database", "Export the table as csv"),
    (b"%PDF", "a PDF", "Save its text as txt"),
    (b"\x80\x04\x95", "a pickle, which can run any code when it is opened", "Save it as jsonl"),
    (b"\x93NUMPY", "an array of numbers", "Save the rows as jsonl"),
)


@dataclass(frozen=True)
class File:
    """A file and how it is to be read. `notes` say what of its name is not true."""

    path: Path
    kind: str
    packed: bool
    encoding: str
    notes: tuple[str, ...] = ()


def look(path: Path, encoding: str = "auto") -> File:
    """Looks at the file. Raises StudioError where it is empty, can't be read or is no data."""
    try:
        return _look(path, encoding)
    except OSError as error:
        raise StudioError(
            f"{path.name} can't be read: {error.strerror or error}.",
            "Check that the file is there and yours.",
        ) from None
    except LookupError:
        raise StudioError(
            f"{encoding} is no encoding that is known here.",
            "Set data.encoding to auto, utf-16 or windows-1252.",
        ) from None


def is_data(path: Path) -> bool:
    """Whether the file's name says that it holds rows."""
    return _named(path)[0] in KINDS


def _named(path: Path) -> tuple[str, bool]:
    """The kind in the file's name, and whether that says it is packed."""
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes[-2:]]
    packed = suffixes[-1:] == ["gz"]
    name = (suffixes[:-1] if packed else suffixes)[-1:] or [""]
    return _ALIASES.get(name[0], name[0]), packed


def _look(path: Path, encoding: str) -> File:
    named, said_packed = _named(path)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    notes = []
    packed = head.startswith(_GZIP)
    if packed:
        head = _unpacked_head(path)
        if not said_packed:
            notes.append(f"{path.name} is packed with gzip, though its name does not say so.")
    elif said_packed and head:
        notes.append(f"{path.name} is not packed, though its name says so.")
    kind, text = _binary(path, head), ""
    if kind is None:
        encoding = encoding_of(head) if encoding == "auto" else encoding
        text = head.decode(encoding, "replace").lstrip("\ufeff")
        if not text.strip():
            raise StudioError(f"{path.name} is empty.", "Choose a file with rows.")
        kind = _textual(path, named, text)
    if named in KINDS and kind != named and {kind, named} != {"csv", "tsv"}:
        notes.append(f"{path.name} is read as {kind}, which it is in spite of its name.")
    return File(path, kind, packed, encoding if text else "", tuple(notes))


def _unpacked_head(path: Path) -> bytes:
    with closing(opened(path, packed=True)) as file:
        head = file.read(_HEAD)
    if head.startswith(_GZIP):
        raise StudioError(f"{path.name} is packed twice.", "Unpack it once.")
    return head


def _binary(path: Path, head: bytes) -> str | None:
    for magic, kind in _TABLES:
        if head.startswith(magic):
            return kind
    for magic, what, remedy in _OTHERS:
        if head.startswith(magic):
            raise StudioError(f"{path.name} is {what}.", f"{remedy}.")
    return None


def _textual(path: Path, named: str, head: str) -> str:
    """The kind of a text that begins so."""
    certain = _json_kind(head)
    if certain is not None:
        return certain
    if named in ("parquet", "arrow"):
        raise StudioError(
            f"{path.name} is no {named} file.", "Write it again, or name it after what it is."
        )
    if named in ("json", "jsonl") and not _may_be_json(head, named):
        begin = head.strip().split("\n")[0]
        shown = begin if len(begin) <= 40 else f"{begin[:37]}..."
        raise StudioError(
            f"{path.name} is no JSON; it begins with {shown!r}.",
            "Name it .csv, .tsv or .txt if it is one of those.",
        )
    if named not in KINDS:
        raise StudioError(
            f"{path.name} is not a kind of file that is read here.",
            f"Use {', '.join(KINDS)}; each may be packed with gzip.",
        )
    return named


def _may_be_json(head: str, named: str) -> bool:
    if head.lstrip()[0] in "{[":
        return True
    # One line that is broken leaves the others.
    return named == "jsonl" and any(isinstance(_value(x), dict) for x in head.split("\n")[:100])


_LIST = re.compile(r'\s*\[\s*\{\s*"')
# The first line of an object that goes on over the next ones.
_OBJECT = re.compile(r'\s*\{\s*("[^"]*"\s*:\s*[\[{][\s\[{]*)?\n')


def _json_kind(head: str) -> str | None:
    """json or jsonl where the text can be nothing else."""
    lines = [line for line in head.lstrip().split("\n")[:3] if line.strip()]
    first = _value(lines[0])
    if isinstance(first, dict):
        more = [line.lstrip().startswith("{") for line in lines[1:]]
        return "jsonl" if more and all(more) else None
    if isinstance(first, list):
        rows = bool(first) and all(isinstance(row, dict) for row in first)
        return "json" if rows and len(lines) == 1 else None
    return "json" if _LIST.match(head) or _OBJECT.match(head) else None


def _value(line: str) -> object:
    """The line's JSON, or None."""
    try:
        value: object = json.loads(line)
        return value
    except (ValueError, RecursionError):
        return None
