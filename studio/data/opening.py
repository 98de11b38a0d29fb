"""Opening data: its sources are found and indexed, and the steps carried out."""

import random
import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.data import cache
from studio.data.cache import Shelf
from studio.data.example import Broken, Row
from studio.data.layouts import Layout, detect, kind_of
from studio.data.near import groups
from studio.data.opened import About, Chosen, Data
from studio.data.progress import Report, Silent
from studio.data.sources import Opened, Origin, find, has_splits, locate, origins, touched
from studio.data.split import names_rows
from studio.data.steps import ALONE, TOGETHER, Look, View, choose, for_held_out
from studio.data.table import Numbers, Tables
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import DataSection, Drop, Filter, System

# Rows that are looked at to tell the layout.
LOOKED_AT = 20
# A split's name, or a slice of one.
_BARE = re.compile(r"\w+(\[[\d:%]*\])?")
# Whose random part of a source it is.
_WEIGHT_SEED = 42
# What does not change which rows are left.
_AFTER_ROWS = {
    "accepted",
    "add_template_tokens",
    "chat_template",
    "chat_template_jinja",
    "test",
    "train_on",
    "validation",
}


@dataclass(frozen=True)
class _Plan:
    """What the section names, found."""

    section: DataSection
    settings: Settings
    sources: list[Opened]
    weights: list[float]
    held: dict[str, Opened]

    @property
    def all(self) -> list[Opened]:
        return [*self.sources, *self.held.values()]

    @property
    def passes(self) -> bool:
        """Whether every row has to be looked at to know which are left."""
        return any(
            isinstance(step, Filter)
            or (isinstance(step, Drop) and step.what in (*ALONE, *TOGETHER, "leaked"))
            for step in self.section.steps
        )

    @property
    def compares(self) -> bool:
        """Whether rows are held against each other, which takes long."""
        return any(
            isinstance(step, Drop)
            and step.what in (*TOGETHER, "leaked")
            and step.what != "duplicate"
            for step in self.section.steps
        )

    def key(self, *, whole: bool = False) -> str:
        """Equal where the same rows are left; as a `whole`, where the same is done to them too."""
        told = self.section.model_dump(mode="json", exclude={"accepted"} if whole else _AFTER_ROWS)
        return cache.key(told, [source.stamp() for source in self.all], list(self.held))


def _plan(section: DataSection, settings: Settings) -> _Plan:
    named = origins(section)
    sources = [find(origin, section.encoding, settings) for origin in named]
    held = {
        part: find(origin, section.encoding, settings)
        for part, origin in _named_parts(section, settings)
    }
    return _Plan(section, settings, sources, [origin.weight for origin in named], held)


def _named_parts(section: DataSection, settings: Settings) -> Iterator[tuple[str, Origin]]:
    """The held-out parts that are not drawn from the rows, and where each lies."""
    for part in ("validation", "test"):
        text = getattr(section, part).strip()
        if not names_rows(text):
            yield part, _held(part, text, origins(section)[0], settings)


def confine(section: DataSection, settings: Settings) -> None:
    """Raises StudioError where something that would be read lies outside of the settings' roots,
    before any of it is."""
    for origin in origins(section):
        for path in touched(origin, settings):
            settings.confine(str(path))
    for _, origin in _named_parts(section, settings):
        for path in touched(origin, settings):
            settings.confine(str(path))


def _held(part: str, text: str, first: Origin, settings: Settings) -> Origin:
    """What a held-out part's name means: a file, or a split of the first source. On the Hub a bare
    name is a split, whatever is called so here."""
    bare = _BARE.fullmatch(text) is not None and locate(first.path, settings) is None
    if not bare and locate(text, settings) is not None:
        return Origin(text)
    if not has_splits(first, settings):
        raise StudioError(
            f"data.{part}: {text} is neither a share, a count, a slice nor a file.",
            "Write it as 10%, 200, [800:1000] or the path of a file.",
        )
    return Origin(first.path, first.name, text, first.revision)


def open_data(section: DataSection, settings: Settings, report: Report | None = None) -> Data:
    """The data. What that takes is done once, and found again until the sources change.
    Raises StudioError where a source can't be read or no row is left."""
    report = report or Silent()
    plan = _plan(section, settings)
    opened = [source.table(report) for source in plan.all]
    for table, name in zip(opened, _names(plan), strict=True):
        if not table.size:
            raise StudioError(f"{name} has no rows.", "Choose a file with at least two rows.")
    tables = Tables(opened)
    for note in tables.notes:
        report.note(note)
    layouts = [
        layout_of(table.read(np.arange(min(LOOKED_AT, table.size))), section, name)
        for table, name in zip(opened, _names(plan), strict=True)
    ]
    kind = _one_kind(plan, layouts)
    view = View(tables, range(len(opened)), layouts, section)
    chosen = _chosen(plan, opened, view, report)
    for step in section.steps:
        view.add(step)
    rows = view.read(np.arange(min(LOOKED_AT, tables.size)))
    columns = dict.fromkeys(name for row in rows if not isinstance(row, Broken) for name in row)
    about = About(layouts[0], kind, list(columns), plan.key(whole=True))
    return Data(section, tables, view, chosen, about)


def _names(plan: _Plan) -> list[str]:
    section = plan.section
    return [
        *(origin.path for origin in origins(section)),
        *(getattr(section, part) for part in plan.held),
    ]


def layout_of(rows: list[Row | Broken], section: DataSection, name: str) -> Layout:
    """The layout of a source that begins with these rows. Raises StudioError that names it."""
    look = Look([], section)
    for step in section.steps:
        look.add(step)
    try:
        return detect([look.see(row) for row in rows], section)
    except StudioError as error:
        raise StudioError(f"{Path(name).name}: {error.message}", error.hint) from None


def _one_kind(plan: _Plan, layouts: list[Layout]) -> Any:
    section, names = plan.section, _names(plan)
    kinds = [kind_of(layout, section) for layout in layouts]
    for name, layout, kind in zip(names, layouts, kinds, strict=True):
        if kind != kinds[0]:
            raise StudioError(
                f"{name} is laid out as {layout.name} and {names[0]} as {layouts[0].name}: they "
                "can't be learned from together.",
                "Choose sources of one kind, or one layout for all of them.",
            )
    if kinds[0] in ("text", "completion") and any(isinstance(s, System) for s in section.steps):
        raise StudioError(
            "A system message can't be added to raw text.",
            "Take the step back, or write the message into the prompt template.",
        )
    return kinds[0]


def fingerprint(section: DataSection, settings: Settings) -> str:
    """The fingerprint that `open_data` would give, without opening anything. Raises StudioError
    where a source is not there."""
    return _plan(section, settings).key(whole=True)


def is_ready(section: DataSection, settings: Settings) -> bool:
    """Whether `open_data` takes no longer than a page can wait. Raises StudioError where a source
    is not there."""
    plan = _plan(section, settings)
    if not all(source.is_ready() for source in plan.all):
        return False
    if not plan.passes or Shelf(settings, "rows").get(plan.key()) is not None:
        return True
    return not plan.compares and all(source.is_small() for source in plan.all)


def _chosen(plan: _Plan, tables: list[Tables], view: View, report: Report) -> Chosen:
    """Which rows are left, computed or found in the cache."""
    if not plan.passes:
        return _choose(plan, tables, view, plan.settings.home, report)
    shelf, key = Shelf(plan.settings, "rows"), plan.key()
    folder = shelf.get(key)
    if folder is None:
        shelf.tidy()
        with shelf.make(key, report) as aside:
            if aside is not None:
                _save(_choose(plan, tables, view, aside, report), aside)
        folder = shelf.folder / key
    return _load(folder)


def _choose(plan: _Plan, tables: list[Tables], view: View, scratch: Path, report: Report) -> Chosen:
    steps = plan.section.steps
    ends = np.cumsum([table.size for table in tables]).tolist()
    ranges = list(zip([0, *ends], ends, strict=False))
    own, held = ranges[: len(plan.sources)], ranges[len(plan.sources) :]
    rows = np.concatenate(
        [_weighted(*bounds, weight) for bounds, weight in zip(own, plan.weights, strict=True)]
    )
    left = copy(view)
    rows = choose(left, rows, steps, scratch, report)
    positions, total = {}, len(rows)
    for part, (begin, end) in zip(plan.held, held, strict=True):
        kept = choose(copy(view), np.arange(begin, end), for_held_out(steps), scratch, report)
        positions[part] = np.arange(len(rows), len(rows) + len(kept))
        rows = np.concatenate([rows, kept])
    leaked = next((s for s in steps if isinstance(s, Drop) and s.what == "leaked"), None)
    alike = groups(left, rows, leaked, scratch, report) if leaked else None
    repeats = max(plan.weights) > 1
    as_they_come = np.array_equal(rows, np.arange(sum(table.size for table in tables)))
    return Chosen(total, None if as_they_come else rows, repeats, positions, alike)


def _weighted(begin: int, end: int, weight: float) -> Numbers:
    """The numbers of a source's rows, each as often as its weight says, a random part once more."""
    every = np.arange(begin, end)
    rest = round((weight % 1) * len(every)) or int(weight < 1)
    drawn = sorted(random.Random(_WEIGHT_SEED).sample(range(len(every)), rest))
    return np.concatenate([*[every] * int(weight), every[drawn]])


def _save(chosen: Chosen, folder: Path) -> None:
    for name, array in (("rows", chosen.rows), ("groups", chosen.groups)):
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    held = {part: [int(p[0]), int(p[-1]) + 1] for part, p in chosen.held.items()}
    facts = {"total": chosen.total, "repeats": chosen.repeats, "held": held}
    cache.write_json(folder / "facts.json", facts)


def _load(folder: Path) -> Chosen:
    facts = cache.read_json(folder / "facts.json")
    found = {}
    for name in ("rows", "groups"):
        path = folder / f"{name}.npy"
        found[name] = np.load(path, mmap_mode="r") if path.is_file() else None
    held = {part: np.arange(*bounds) for part, bounds in facts["held"].items()}
    return Chosen(facts["total"], found["rows"], facts["repeats"], held, found["groups"])
