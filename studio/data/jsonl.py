"""A file with a JSON object a line, read by byte ranges through an index of every few kilobytes.

The whole file is never in memory. The index holds, for every row with which a new block of 8 KiB
begins, its number, its offset and its line; blank lines count as lines and not as rows.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from studio.data.example import Broken, Row
from studio.data.progress import Report
from studio.data.stream import LONGEST, encoding_hint
from studio.data.table import Numbers, runs
from studio.errors import StudioError

_BLOCK_BITS = 13
_READ = 4 * 2**20
_BOM = b"\xef\xbb\xbf"
TOO_LONG = Broken(
    f"It is longer than {LONGEST // 2**20} MiB.",
    "Put each row on a line of its own, or leave that one out.",
)
_SPACE = np.frombuffer(b" \t\n\r\x0b\x0c", np.uint8)


@dataclass(frozen=True)
class Index:
    """`marks` has a row each for the number, offset and line of the marked rows and one more for
    the end of the file; `long` are the numbers of the rows that are longer than is read."""

    size: int
    marks: Numbers
    long: Numbers

    def save(self, folder: Path) -> None:
        """Writes the index into the folder."""
        np.save(folder / "marks.npy", self.marks)
        np.save(folder / "long.npy", self.long)

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """The index that `save` wrote."""
        marks = np.load(folder / "marks.npy")
        return cls(int(marks[0, -1]), marks, np.load(folder / "long.npy"))


def index(path: Path, report: Report) -> Index:
    """Looks once at every byte of the file, some hundred megabytes a second."""
    builder = _Builder()
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        base = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(base)
        carry, skipped = b"", 0
        while True:
            report.stage(f"indexing {path.name}", min(total, base + len(carry) + skipped), total)
            piece = file.read(_READ)
            if not piece and not carry and not skipped:
                break
            chunk = carry + piece if piece else carry + b"\n"
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                carry = chunk
                if skipped or len(carry) > LONGEST:
                    carry, skipped = b"", skipped + len(carry)
                continue
            builder.add(chunk[:cut], base, skipped)
            base, carry, skipped = base + skipped + cut, chunk[cut:], 0
            if not piece:
                break
    return builder.finish(min(base, total))


class _Builder:
    def __init__(self) -> None:
        self._rows, self._lines = 0, 1
        self._block = -1
        self._long: list[int] = []
        self._marks: list[Numbers] = []

    def add(self, chunk: bytes, base: int, skipped: int) -> None:
        """Whole lines that begin at `base`; of the first one `skipped` bytes are not in them."""
        data = np.frombuffer(chunk, np.uint8)
        ends = np.flatnonzero(data == 10)
        begins = np.concatenate([[0], ends[:-1] + 1])
        blank = np.isin(data[begins], _SPACE)
        for number in np.flatnonzero(blank):
            blank[number] = not chunk[begins[number] : ends[number]].strip()
        lengths = ends - begins
        if skipped:
            blank[0], lengths[0] = False, lengths[0] + skipped
        offsets = begins + base
        offsets[1:] += skipped
        kept = np.flatnonzero(~blank)
        if len(kept):
            self._mark(offsets[kept], self._lines + kept, lengths[kept])
        self._rows += len(kept)
        self._lines += len(ends)

    def _mark(self, offsets: Numbers, lines: Numbers, lengths: Numbers) -> None:
        blocks = offsets >> _BLOCK_BITS
        new = np.diff(blocks, prepend=self._block) != 0
        self._block = int(blocks[-1])
        long = np.flatnonzero(lengths > LONGEST)
        if len(long):
            # Marked, and so is what follows: nothing else is read together with it.
            new[long] = True
            new[np.minimum(long + 1, len(new) - 1)] = True
            self._long += (self._rows + long).tolist()
            if long[-1] == len(new) - 1:
                self._block = -1
        at = np.flatnonzero(new)
        self._marks.append(np.stack([self._rows + at, offsets[at], lines[at]]).astype(np.int64))

    def finish(self, end: int) -> Index:
        last = np.array([[self._rows], [end], [self._lines]], np.int64)
        return Index(
            self._rows, np.concatenate([*self._marks, last], axis=1), np.array(self._long, np.int64)
        )


@dataclass(frozen=True)
class Place:
    """Where rows come from that were written to this file from another one: its name and, where
    they are not those of this file, the lines. With `numbered` the row's number is said too."""

    name: str
    lines: Numbers | None = None
    numbered: bool = False


class JsonlTable:
    """The rows of such a file."""

    def __init__(
        self,
        path: Path,
        index: Index,
        place: Place | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.size = index.size
        self.notes = notes
        self._place = place or Place(path.name)
        self._marks = index.marks
        self._long = frozenset(index.long.tolist())
        self._long_marks = np.searchsorted(index.marks[0], index.long)
        self._file = path.open("rb")
        self._opened = self._state()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def read(self, numbers: Numbers) -> list[Row | Broken]:
        """See `Table.read`."""
        if self._state() != self._opened:
            raise StudioError(
                f"{self._place.name} was changed while it was being read.", "Open it again."
            )
        rows: list[Row | Broken] = []
        marks = np.searchsorted(self._marks[0], numbers, side="right") - 1
        for begin, end in self._stretches(marks):
            rows += self._read(numbers[begin:end], int(marks[begin]), int(marks[end - 1]) + 1)
        return rows

    def where(self, number: int) -> str:
        """See `Table.where`."""
        lines = self._place.lines
        line = self._line(number) if lines is None else int(lines[number])
        if self._place.numbered:
            return f"{self._place.name}, row {number + 1} (line {line})"
        return f"{self._place.name}, line {line}"

    def _state(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns

    def _stretches(self, marks: Numbers) -> Iterator[tuple[int, int]]:
        """Parts of `marks` that are read at once: without a gap, up to a few megabytes, and a row
        that is too long by itself."""
        steps = np.diff(marks)
        parted = (steps < 0) | (steps > 1)
        if self._long:
            long = np.isin(marks, self._long_marks)
            parted |= (steps == 1) & (long[1:] | long[:-1])
        for cut, end in runs(parted, len(marks)):
            begin = cut
            while begin < end:
                first = int(marks[begin])
                if int(marks[end - 1]) - first <= _READ >> _BLOCK_BITS:
                    stop = end
                else:
                    far = np.searchsorted(self._marks[1], self._marks[1, first] + _READ)
                    stop = begin + int(np.searchsorted(marks[begin:end], max(far, first + 1)))
                yield begin, stop
                begin = stop

    def _read(self, numbers: Numbers, first: int, last: int) -> list[Row | Broken]:
        """Rows that lie between two marks."""
        begin, base = int(self._marks[0, first]), int(self._marks[1, first])
        if begin in self._long:
            return [TOO_LONG] * len(numbers)
        raw = os.pread(self._file.fileno(), int(self._marks[1, last]) - base, base)
        lines = raw.removesuffix(b"\n").split(b"\n")
        if len(lines) != int(self._marks[0, last]) - begin:
            lines = [line for line in lines if line and not line.isspace()]
        return [parse(lines[number - begin]) for number in numbers.tolist()]

    def _line(self, number: int) -> int:
        mark = int(np.searchsorted(self._marks[0], number, side="right")) - 1
        row, base, line = (int(value) for value in self._marks[:, mark])
        if row == number:
            return line
        size = int(self._marks[1, mark + 1]) - base
        for text in os.pread(self._file.fileno(), size, base).split(b"\n"):
            if text and not text.isspace():
                if row == number:
                    break
                row += 1
            line += 1
        return line


def parse(line: bytes) -> Row | Broken:
    """A line's row. What was broken in the file that this one was made from is a list of its
    reason and its remedy."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_with_care(line)
    if isinstance(value, dict):
        return value
    return _no_row(value)


def _parse_with_care(line: bytes) -> Row | Broken:
    """What orjson refuses is read all the same where Python can: NaN, half a character."""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Broken(
            f"Byte 0x{line[error.start]:02x}, number {error.start + 1} of the line, is no UTF-8.",
            encoding_hint(line, error.start),
        )
    except json.JSONDecodeError as error:
        return Broken(f"It is not JSON: {error.msg} at character {error.colno}.")
    # Thousands of digits, or of brackets.
    except (ValueError, RecursionError) as error:
        return Broken(f"It is not JSON that can be read: {str(error).split(';')[0]}.")
    return value if isinstance(value, dict) else _no_row(value)


def _no_row(value: Any) -> Broken:
    if isinstance(value, list) and len(value) == 3 and value[0] == "broken":
        return Broken(str(value[1]), str(value[2]))
    return Broken("It is not an object with columns.", 'Each row looks like {"messages": [...]}.')
