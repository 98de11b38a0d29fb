"""Rows by their number, read from where they lie: what every source becomes in the end."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from studio.data.example import Broken, Row

Numbers = npt.NDArray[np.int64]


class Table(Protocol):
    """`size` rows of one file or of one part of a data set."""

    size: int
    notes: tuple[str, ...]

    def read(self, numbers: Numbers) -> list[Row | Broken]:
        """The rows of these numbers, in this order; fastest where they ascend without a gap.
        Raises StudioError where the file is not what it was."""

    def where(self, number: int) -> str:
        """The row's place, as in "rows.jsonl, line 17"."""


def runs(parted: npt.NDArray[np.bool_], size: int) -> Iterator[tuple[int, int]]:
    """Where stretches of `size` things begin and end; `parted` says of each two whether they lie
    in two of them."""
    cuts = [0, *(np.flatnonzero(parted) + 1).tolist(), size]
    return ((begin, end) for begin, end in pairwise(cuts) if begin < end)


class Tables:
    """Several tables, one after another, as one."""

    def __init__(self, tables: Sequence[Table], notes: tuple[str, ...] = ()) -> None:
        self._tables = list(tables)
        self._ends = np.cumsum([table.size for table in tables], dtype=np.int64)
        self.size = int(self._ends[-1]) if len(self._ends) else 0
        self.notes = (*notes, *(note for table in tables for note in table.notes))

    def read(self, numbers: Numbers) -> list[Row | Broken]:
        """See `Table.read`."""
        if len(self._tables) == 1:
            return self._tables[0].read(numbers)
        owners = self.owners(numbers)
        rows: list[Row | Broken] = []
        for begin, end in runs(np.diff(owners) != 0, len(numbers)):
            owner = int(owners[begin])
            rows += self._tables[owner].read(numbers[begin:end] - self._begin(owner))
        return rows

    def where(self, number: int) -> str:
        """See `Table.where`."""
        owner = int(self.owners(np.array(number)))
        return self._tables[owner].where(number - self._begin(owner))

    def owners(self, numbers: Numbers) -> Numbers:
        """Which of the tables each row is in."""
        return np.searchsorted(self._ends, numbers, side="right").astype(np.int64)

    def _begin(self, owner: int) -> int:
        return int(self._ends[owner - 1]) if owner else 0
