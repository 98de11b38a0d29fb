"""Rows of Arrow files, mapped into memory and never read as a whole, and of Parquet files."""

import mmap
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from studio.data.example import Broken, Row
from studio.data.progress import Report
from studio.data.table import Numbers, runs
from studio.errors import StudioError

# Rows of a batch: few enough to be decoded for one row's sake.
_BATCH = 1000
_BUFFER = 2**20
# Types whose values JSON does not have.
_ODD = re.compile("binary|date|time|duration|decimal|interval|map<")


class ArrowTable:
    """The rows of Arrow files, one after another; of a range of them where one is given."""

    def __init__(
        self,
        files: list[Path],
        name: str,
        rows: tuple[int, int] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.notes = notes
        self._name = name
        self._maps = [_Mapped(path) for path in files]
        self._batches = [batch for mapped in self._maps for batch in mapped.batches]
        ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)
        self._begins = ends - [batch.num_rows for batch in self._batches]
        whole = int(ends[-1]) if len(ends) else 0
        self._first, end = rows or (0, whole)
        self.size = max(0, min(end, whole) - self._first)
        # A name that is no text is found out here.
        with readable(name):
            self._odd = bool(self._batches) and _is_odd(self._batches[0].schema)

    def read(self, numbers: Numbers) -> list[Row | Broken]:
        """See `Table.read`."""
        wanted = numbers + self._first
        owners = np.searchsorted(self._begins, wanted, side="right") - 1
        rows: list[Row | Broken] = []
        for begin, end in runs(np.diff(owners) != 0, len(numbers)):
            owner = int(owners[begin])
            rows += self._read(owner, wanted[begin:end] - int(self._begins[owner]))
        for mapped in self._maps:
            mapped.forget()
        return rows

    def where(self, number: int) -> str:
        """See `Table.where`."""
        return f"{self._name}, row {number + self._first + 1}"

    def _read(self, owner: int, inside: Numbers) -> list[Row]:
        batch, first, count = self._batches[owner], int(inside[0]), len(inside)
        with readable(self._name):
            if int(inside[-1]) - first == count - 1 and (np.diff(inside) == 1).all():
                rows = batch.slice(first, count).to_pylist()
            else:
                rows = batch.take(inside).to_pylist()
        return [plain(row) for row in rows] if self._odd else rows


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turns what pyarrow says of a broken file into a sentence."""
    import pyarrow

    try:
        yield
    # A broken file is an OSError to pyarrow too, or text that can't be decoded.
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise StudioError(f"{name} is not a whole file: {reason}.", "Write it again.") from None


class _Mapped:
    """A file's bytes, in memory only where they are looked at, and the batches that they are."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        with readable(path.name):
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.bytes = pyarrow.py_buffer(self._map)
            if self._map[:6] == b"ARROW1":
                reader = pyarrow.ipc.open_file(self.bytes)
                self.batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
            else:
                reader = pyarrow.ipc.open_stream(self.bytes)
                self.batches = list(reader)
            self.schema = reader.schema

    def holds(self, batch: Any) -> bool:
        """Whether all of the batch lies in the file, and none was unpacked."""
        begin, size = self.bytes.address, self.bytes.size
        buffers = [b for column in batch.columns for b in column.buffers() if b and b.size]
        return all(0 <= b.address - begin < size for b in buffers)

    def forget(self) -> None:
        """Takes out of memory what was looked at; it is read again where it is needed."""
        self._map.madvise(mmap.MADV_DONTNEED)


def is_sound(path: Path) -> bool:
    """Whether every value can be looked at without harm, and lies in the file as it is used: not
    packed. Raises StudioError where the file is broken. Reads all of it."""
    mapped = _Mapped(path)
    inside = True
    for batch in mapped.batches:
        with readable(path.name):
            batch.validate(full=True)
            inside = inside and mapped.holds(batch)
        mapped.forget()
    return inside


def batches(path: Path, kind: str) -> Iterator[Any]:
    """The rows of a Parquet or an Arrow file in small batches, each of which was validated."""
    from pyarrow import parquet

    with readable(path.name):
        if kind == "parquet":
            with path.open("rb") as file:
                # Through a buffer, or all of a column's block would be in memory: perhaps all of
                # the file.
                whole = parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
                for part in whole.iter_batches(batch_size=_BATCH):
                    part.validate(full=True)
                    yield part
            return
        mapped = _Mapped(path)
        for batch in mapped.batches:
            for begin in range(0, batch.num_rows, _BATCH):
                part = batch.slice(begin, _BATCH)
                part.validate(full=True)
                yield part
            mapped.forget()


def rewrite(path: Path, kind: str, target: Path, report: Report, check: Callable[[], None]) -> None:
    """Writes the file's rows as an Arrow file that can be read at any place. `check` is called
    from time to time, and raises where there is no room for more."""
    import pyarrow

    done, writer = 0, None
    try:
        for batch in batches(path, kind):
            check()
            writer = writer or pyarrow.ipc.new_file(str(target), batch.schema)
            writer.write_batch(batch)
            done += batch.num_rows
            report.stage(f"reading {path.name}, {done:,} rows")
        writer = writer or pyarrow.ipc.new_file(str(target), _schema(path, kind))
    finally:
        if writer is not None:
            writer.close()


def _schema(path: Path, kind: str) -> Any:
    """The columns, which a file without rows has too."""
    from pyarrow import parquet

    with readable(path.name):
        return parquet.read_schema(path) if kind == "parquet" else _Mapped(path).schema


def _is_odd(schema: Any) -> bool:
    return any(_ODD.search(str(kind)) for kind in schema.types)


def plain(value: Any) -> Any:
    """The value in JSON's types: bytes become text where they are text, and else their number."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return f"({len(value):,} bytes)"
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | timedelta) else value
