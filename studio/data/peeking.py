"""The first rows of data that is not opened yet, read from the files' beginning only."""

import time
from collections.abc import Iterator
from copy import copy
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

from studio.data.example import Broken, Row
from studio.data.hub import HubSet
from studio.data.layouts import Layout
from studio.data.opening import LOOKED_AT, layout_of
from studio.data.progress import Report
from studio.data.sources import find, origins
from studio.data.steps import Look, Tests
from studio.settings import Settings
from studio.spec import DataSection, Step, Take

# How long it is looked for rows that the filters let pass.
_SECONDS = 1.0


@dataclass(frozen=True)
class Peek:
    """The first rows of the data, before anything is known of the rest, and their places."""

    rows: list[Row | Broken]
    layout: Layout
    where: list[str]

    def tree(self) -> dict[str, Any]:
        """In JSON's types, without the rows that can't be read."""
        kept = [(r, w) for r, w in zip(self.rows, self.where, strict=True) if type(r) is not Broken]
        rows, where = [row for row, _ in kept], [place for _, place in kept]
        return {"rows": rows, "layout": asdict(self.layout), "where": where}

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Peek":
        """What `tree` made of it."""
        return cls(tree["rows"], Layout(**tree["layout"]), tree["where"])


def peek_ahead(section: DataSection, settings: Settings, count: int, report: Report) -> Peek | None:
    """What `peek` sees of a set of the Hub that has to be downloaded; None for files, and
    where the Hub gives no rows before the rest. Raises StudioError."""
    first = find(origins(section)[0], section.encoding, settings)
    if not isinstance(first, HubSet) or not first.flows():
        return None
    report.stage(f"asking the Hub for the first rows of {first.path}")
    return peek(section, settings, count)


def peek(section: DataSection, settings: Settings, count: int) -> Peek:
    """At most `count` of the first rows, after the filters and what drops columns; the order of a
    shuffle, weights and what compares rows need all of them and are left out. Raises StudioError
    where a file is no data."""
    rows, where = list[Row | Broken](), list[str]()
    layouts: list[Layout] = []
    through = None
    end = 0.0
    for place, row, source in _streamed(section, settings, layouts):
        if through is None:
            # The first layout is known with the first row.
            through, end = _Through(section, layouts), time.monotonic() + _SECONDS
        seen = through.see(row, source)
        if seen is not None:
            rows.append(seen)
            where.append(place)
        if len(rows) == count or through.full or time.monotonic() > end:
            break
    return Peek(rows, layouts[0], where)


def _streamed(
    section: DataSection, settings: Settings, layouts: list[Layout]
) -> Iterator[tuple[str, Row | Broken, int]]:
    """The rows of all sources with their place and source, whose layout is in `layouts` by then;
    up to a further source that has to be downloaded first."""
    for number, origin in enumerate(origins(section)):
        source = find(origin, section.encoding, settings)
        if number and isinstance(source, HubSet) and not source.is_ready():
            # The first ones are known by then: nobody waits for a network to see more.
            return
        rows = source.first()
        head = list(islice(rows, LOOKED_AT))
        layouts.append(layout_of([row for _, row in head], section, origin.path))
        yield from ((place, row, number) for place, row in chain(head, rows))


class _Through:
    """What the steps do to one row after another."""

    def __init__(self, section: DataSection, layouts: list[Layout]) -> None:
        look = Look(layouts, section)
        # Each step with the look of the rows before it; takes count.
        self._steps: list[tuple[Step, Look, Tests]] = []
        for step in section.steps:
            tests = Tests()
            tests.add(step)
            self._steps.append((step, copy(look), tests))
            look.add(step)
        self._look = look
        self._seen = [0] * len(self._steps)
        self.full = False

    def see(self, row: Row | Broken, source: int) -> Row | Broken | None:
        """The row as it is then, or None where it is left out."""
        for number, (step, look, tests) in enumerate(self._steps):
            if tests and not tests.passes(look.see(row, source), look):
                return None
            if isinstance(step, Take):
                self._seen[number] += 1
                taken = self._seen[number] - step.skip
                self.full = self.full or taken >= step.rows
                if taken < 1:
                    return None
        return self._look.see(row, source)
