"""The steps: which rows are left after them, in which order, and how each then looks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from studio.data.convert import to_example, unread_keys, with_system
from studio.data.example import (
    SOFT_FAULTS,
    Broken,
    Example,
    Message,
    Row,
    RowError,
    soft_faults,
)
from studio.data.filters import test_of
from studio.data.glimpse import glimpse
from studio.data.layouts import Layout
from studio.data.near import again
from studio.data.progress import Report
from studio.data.table import Numbers, Tables
from studio.errors import StudioError
from studio.spec import DataSection, Drop, DropColumns, Filter, Shuffle, Step, System, Take

CHUNK = 2000
# What a row alone shows, what only rows together show, and what takes a tokenizer.
ALONE = ("broken", "unreadable", "empty_answer", *SOFT_FAULTS)
TOGETHER = ("duplicate", "near_duplicate", "duplicate_answer", "other_language")
BY_TOKENS = ("rejected", "nothing_trained", "cut")


class Tagged(Row):
    """A row that knows which source it is from, where the sources are laid out differently."""

    __slots__ = ("source",)

    def __init__(self, row: Row, source: int) -> None:
        super().__init__(row)
        self.source = source


class Look:
    """How rows look after the steps that were added."""

    def __init__(self, layouts: Sequence[Layout], section: DataSection) -> None:
        """`layouts` has one for each source."""
        self._layouts = layouts
        self._section = section
        self._gone: frozenset[str] = frozenset()
        self._systems: tuple[System, ...] = ()

    def add(self, step: Step) -> None:
        """From here on, the step changes how rows look."""
        if isinstance(step, DropColumns):
            self._gone |= frozenset(step.columns)
        if isinstance(step, System):
            self._systems = (*self._systems, step)

    def mixed(self) -> bool:
        """Whether the sources are laid out differently."""
        return any((x.name, x.columns) != (y.name, y.columns) for x, y in pairwise(self._layouts))

    def see(self, row: Row | Broken, source: int = 0) -> Row | Broken:
        """The row without what was dropped; it remembers a source other than the first."""
        if isinstance(row, Broken):
            return row
        if self._gone:
            row = {name: value for name, value in row.items() if name not in self._gone}
        return Tagged(row, source) if source else row

    def example(self, row: Row | Broken) -> Example:
        """What the row says. Raises RowError."""
        if isinstance(row, Broken):
            raise row.error()
        example = to_example(row, self._layout(row), self._section)
        for step in self._systems:
            example = with_system(example, step)
        return example

    def glimpse(self, row: Row | Broken) -> list[Message]:
        """What can be shown of a row of which there is no example."""
        if isinstance(row, Broken) or self._section.prompt_template:
            return []
        return glimpse(row, self._layout(row))

    def unread(self, row: Row | Broken) -> set[str]:
        """The keys in its turns under which something stands that is not read."""
        if isinstance(row, Broken) or self._section.prompt_template:
            return set()
        return unread_keys(row, self._layout(row))

    def _layout(self, row: Row) -> Layout:
        return self._layouts[row.source if isinstance(row, Tagged) else 0]


class View(Look):
    """Rows by number, as the steps that were added leave them."""

    def __init__(
        self,
        tables: Tables,
        sources: Sequence[int],
        layouts: Sequence[Layout],
        section: DataSection,
    ) -> None:
        """`sources` says of each table which source's layout it has."""
        super().__init__(layouts, section)
        self._tables = tables
        self._sources = np.array(sources)

    def read(self, numbers: Numbers) -> list[Row | Broken]:
        """The rows of these numbers."""
        rows = self._tables.read(numbers)
        if self.mixed():
            sources = self._sources[self._tables.owners(numbers)].tolist()
            return [self.see(row, source) for row, source in zip(rows, sources, strict=True)]
        return [self.see(row) for row in rows] if self._gone else rows


@dataclass
class Tests:
    """What rows have to pass, gathered from several steps to look at each row once."""

    filters: list[Callable[[Row | Broken], bool]] = field(default_factory=list)
    faults: set[str] = field(default_factory=set)

    def add(self, step: Step) -> bool:
        """Whether the step is such a test; it is added then."""
        if isinstance(step, Filter):
            self.filters.append(test_of(step))
        elif isinstance(step, Drop) and step.what in ALONE:
            self.faults.add(step.what)
        else:
            return False
        return True

    def __bool__(self) -> bool:
        return bool(self.filters or self.faults)

    def passes(self, row: Row | Broken, look: Look) -> bool:
        """Whether the row stays."""
        if not all(test(row) for test in self.filters):
            return False
        if not self.faults:
            return True
        try:
            example = look.example(row)
        except RowError as error:
            return error.fault not in self.faults
        return not (self.faults & set(SOFT_FAULTS) and self.faults & soft_faults(example))


def choose(
    view: View, rows: Numbers, steps: Sequence[Step], scratch: Path, report: Report
) -> Numbers:
    """The numbers of the rows that are left, in their order. `view` has all steps added then;
    `scratch` is a folder for what takes room. Raises StudioError where no row is left."""
    tests, begin = Tests(), 1
    for number, step in enumerate(steps, 1):
        if tests.add(step):
            continue
        wanted = step.skip + step.rows if isinstance(step, Take) else None
        rows = _passing(view, rows, tests, wanted, report)
        match step:
            case Take():
                rows = rows[step.skip : step.skip + step.rows]
            case Shuffle():
                rows = np.random.default_rng(step.seed).permutation(rows)
            case Drop() if step.what in TOGETHER:
                rows = rows[~again(view, rows, step, scratch, report)]
            case _:
                view.add(step)
        _check_left(rows, begin, number)
        tests, begin = Tests(), number + 1
    rows = _passing(view, rows, tests, None, report)
    _check_left(rows, begin, len(steps))
    return rows


def _check_left(rows: Numbers, begin: int, end: int) -> None:
    if not len(rows):
        which = f"step {end}" if begin >= end else f"steps {begin} to {end}"
        raise StudioError(
            f"After {which} of data.steps no row is left.", "Change it, or take it back."
        )


def _passing(
    view: View, rows: Numbers, tests: Tests, wanted: int | None, report: Report
) -> Numbers:
    """Those of the rows that pass; the first `wanted` of them are enough."""
    if not tests:
        return rows
    # Each once, and in the order in which they lie: read in one go.
    looked_at, back = (rows, None) if wanted else np.unique(rows, return_inverse=True)
    kept, found = np.zeros(len(looked_at), bool), 0
    for begin, chunk in chunks(looked_at):
        report.stage("choosing rows", begin, len(looked_at))
        passed = [tests.passes(row, view) for row in view.read(chunk)]
        kept[begin : begin + len(chunk)] = passed
        found += sum(passed)
        if wanted is not None and found >= wanted:
            break
    return rows[kept if back is None else kept[back]]


def chunks(rows: Numbers, size: int = CHUNK) -> Iterator[tuple[int, Numbers]]:
    """The array in pieces, each with where it begins."""
    for begin in range(0, len(rows), size):
        yield begin, rows[begin : begin + size]


def for_held_out(steps: Sequence[Step]) -> list[Step]:
    """Those of the steps that judge or change a row by itself: a held-out file goes through these
    and keeps its order and its number."""
    return [
        step
        for step in steps
        if isinstance(step, Filter | DropColumns | System)
        or (isinstance(step, Drop) and step.what in ALONE)
    ]
