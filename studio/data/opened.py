"""Data, opened: its rows after the steps, by their position, and the parts they are split into."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from studio.data.example import Broken, Example, Kind, Message, Row, RowError
from studio.data.filters import as_text
from studio.data.layouts import Layout
from studio.data.progress import Report, Silent
from studio.data.split import Parts, split
from studio.data.steps import BY_TOKENS, View
from studio.data.table import Numbers, Tables
from studio.errors import StudioError
from studio.spec import DataSection, Drop

_FIND = 500


@dataclass(frozen=True)
class Chosen:
    """Which rows are left. `total` of them are split; those that follow are `held` out by a name.

    `rows` has the number of the row at each position, or is None where they are as they come.
    With `repeats` a row may stand at several positions. `groups`, where leaks are dropped, is
    equal for rows that are alike.
    """

    total: int
    rows: Numbers | None = None
    repeats: bool = False
    held: dict[str, Numbers] = field(default_factory=dict)
    groups: Numbers | None = None


@dataclass(frozen=True)
class About:
    """What is known of the rows as a whole."""

    layout: Layout
    kind: Kind
    columns: list[str]
    fingerprint: str


class Data:
    """Rows by position. Those from `total` on, up to `size`, belong to held-out files or splits.

    `kind` is what every row's example is; `columns` are those of the first rows; `notes` say what
    a person should know of the files. `token_drops` are the drop steps that only the tokenizer can
    carry out. `fingerprint` changes when the rows, or what is done to them, may have changed.
    """

    def __init__(
        self, section: DataSection, tables: Tables, view: View, chosen: Chosen, about: About
    ) -> None:
        self._section = section
        self._tables = tables
        self._view = view
        self._chosen = chosen
        self.total = chosen.total
        self.size = tables.size if chosen.rows is None else len(chosen.rows)
        self.layout = about.layout
        self.kind = about.kind
        self.columns = about.columns
        self.fingerprint = about.fingerprint
        self.notes = tables.notes
        drops = {step.what for step in section.steps if isinstance(step, Drop)}
        self.token_drops = frozenset(drops & set(BY_TOKENS))

    def raw(self, start: int, count: int) -> list[Row | Broken]:
        """Rows `start` to `start + count`, fewer at the end; those of a held-out file too."""
        return self._read(np.arange(max(0, start), min(start + count, self.size)))

    def row(self, position: int) -> Row:
        """One row. Raises RowError where it is broken."""
        row = self._at(position)
        if isinstance(row, Broken):
            raise row.error()
        return row

    def example(self, row: Row | Broken) -> Example:
        """What the row says. Raises RowError (fault, message, hint); see `where` for its place."""
        return self._view.example(row)

    def glimpse(self, row: Row | Broken) -> list[Message]:
        """What can be shown of a row of which there is no example: turns to look at."""
        return self._view.glimpse(row)

    def unread(self, row: Row | Broken) -> set[str]:
        """The keys in its turns under which something stands that is not read."""
        return self._view.unread(row)

    def example_at(self, position: int) -> Example:
        """What the row at the position says. Raises RowError that begins with its place."""
        row = self._at(position)
        try:
            return self.example(row)
        except RowError as error:
            told = f"{self.where(position)}: {error.message}"
            raise RowError(told, error.hint, error.fault) from None

    def where(self, position: int) -> str:
        """Where the row was read, as in "rows.jsonl, line 17"."""
        return self._tables.where(int(self.numbers(self._one(position))[0]))

    def iterate(
        self, positions: Numbers, chunk: int = 1000
    ) -> Iterator[tuple[Numbers, list[Row | Broken]]]:
        """The rows at `positions`, in that order, in chunks; fastest where it is theirs."""
        for begin in range(0, len(positions), chunk):
            part = positions[begin : begin + chunk]
            yield part, self._read(part)

    def find(
        self, text: str, start: int, forward: bool = True, report: Report | None = None
    ) -> int | None:
        """The next position from `start` on (`start` itself too) whose row holds the text, in
        large or small letters."""
        report, wanted = report or Silent(), text.casefold()
        start = min(max(0, start), self.size) if forward else min(start, self.size - 1)
        positions = np.arange(start, self.size) if forward else np.arange(start, -1, -1)
        for begin in range(0, len(positions), _FIND):
            report.stage("looking for the words", begin, len(positions))
            part = positions[begin : begin + _FIND]
            # Read in the order in which they lie, told in the order that is asked for.
            rows = self._read(part) if forward else self._read(part[::-1])[::-1]
            for position, row in zip(part.tolist(), rows, strict=True):
                if not isinstance(row, Broken) and _holds(row, wanted):
                    return int(position)
        return None

    def parts(self, seed: int) -> Parts:
        """How the rows are split; a row that counts several times is in one part only. Rows that
        leak into a held-out part are in none. Raises StudioError where there are too few."""
        chosen = self._chosen
        rows = chosen.rows[: self.total] if chosen.repeats and chosen.rows is not None else None
        parts = split(self.total, rows, chosen.held, self._section, seed)
        if chosen.groups is None:
            return parts
        held = chosen.groups[np.concatenate([parts.validation, parts.test])]
        leaks = np.isin(chosen.groups[parts.train], held)
        return Parts(parts.train[~leaks], parts.validation, parts.test)

    def numbers(self, positions: Numbers) -> Numbers:
        """Which row stands at each position; where sources have weights, one may at several."""
        rows = self._chosen.rows
        return positions if rows is None else np.asarray(rows[positions])

    def _one(self, position: int) -> Numbers:
        if not 0 <= position < self.size:
            raise StudioError(
                f"There is no row {position + 1}; the data has {self.size:,}.",
                "Choose one of these.",
            )
        return np.array([position])

    def _at(self, position: int) -> Row | Broken:
        return self._read(self._one(position))[0]

    def _read(self, positions: Numbers) -> list[Row | Broken]:
        return self._view.read(self.numbers(positions))


def _holds(value: Any, wanted: str) -> bool:
    """Whether one of the texts in the value holds the text, which is in small letters."""
    if isinstance(value, dict):
        return any(_holds(inner, wanted) for inner in value.values())
    if isinstance(value, list):
        return any(_holds(inner, wanted) for inner in value)
    return wanted in as_text(value).casefold()
