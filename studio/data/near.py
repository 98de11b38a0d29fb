"""Rows that are alike, found among rows of any number: their signatures lie on disk meanwhile."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from studio.data.example import Broken, Example, Row, RowError, last_answer, likeness
from studio.data.progress import Report
from studio.data.table import Numbers
from studio.spec import Drop

_CHUNK = 2000

Mask = npt.NDArray[np.bool_]


class Readable(Protocol):
    """Rows by number, and what they say."""

    def read(self, numbers: Numbers) -> list[Row | Broken]:
        """The rows."""

    def example(self, row: Row | Broken) -> Example:
        """What a row says. Raises RowError."""


def again(view: Readable, rows: Numbers, step: Drop, scratch: Path, report: Report) -> Mask:
    """Which of the rows have the step's fault, one that only rows together show; see
    `studio.data.findings`. The first of those that are alike has none, and one that stands at
    several places has it at all of them or at none."""
    unique, first, back = np.unique(rows, return_index=True, return_inverse=True)
    faulty = np.zeros(len(unique), bool)
    if step.what == "other_language":
        usable, found = _foreign(view, unique, report)
        faulty[usable] = found
    else:
        same, near, usable = _groups(view, unique, step, scratch, report)
        # In the order in which they stand, so that the first one stays.
        order = np.argsort(first[usable], kind="stable")
        found = _repeated(same[order])
        if step.what == "near_duplicate":
            found = _repeated(near[order]) & ~found
        if step.what == "duplicate_answer":
            order = order[~found]
            found = _given_before(view, unique[usable[order]], report)
        faulty[usable[order]] = found
    wide: Mask = faulty[back.reshape(-1)]
    return wide


def _given_before(view: Readable, rows: Numbers, report: Report) -> Mask:
    """Whose answer one of the rows before gave, letter by letter."""
    seen = set[bytes]()
    found = np.zeros(len(rows), bool)
    for numbers, examples in _examples(view, rows, report):
        for number, said in zip(numbers, map(last_answer, examples), strict=True):
            if said:
                raw = said.encode("utf-8", "replace")
                digest = hashlib.blake2b(raw, digest_size=8).digest()
                found[number] = digest in seen
                seen.add(digest)
    return found


def _foreign(view: Readable, rows: Numbers, report: Report) -> tuple[Numbers, Mask]:
    """Those rows that can be read, and which of them are in another language than most."""
    # Here: its model takes a moment, and the page needs none of it.
    from studio.data.languages import UNKNOWN, Languages, main_language

    languages, usable, told = Languages(), list[int](), [np.zeros(0, np.uint8)]
    for numbers, examples in _examples(view, rows, report):
        usable += numbers
        told.append(languages.tell([likeness(example) for example in examples]))
    spoken = np.concatenate(told)
    main = main_language(spoken, languages.names)
    known = (main, languages.names.index(UNKNOWN)) if main is not None else ()
    return np.array(usable, np.int64), ~np.isin(spoken, known) & (main is not None)


def groups(view: Readable, rows: Numbers, step: Drop, scratch: Path, report: Report) -> Numbers:
    """For each of the rows a number that is equal for those that are nearly alike."""
    unique, back = np.unique(rows, return_inverse=True)
    _, near, usable = _groups(view, unique, step, scratch, report)
    result = unique.copy()
    result[usable] = unique[usable[near]]
    found: Numbers = result[back.reshape(-1)]
    return found


def _repeated(groups: Numbers) -> Mask:
    """Which are not the first of their group."""
    found = np.ones(len(groups), bool)
    found[np.unique(groups, return_index=True)[1]] = False
    return found


def _groups(
    view: Readable, rows: Numbers, step: Drop, scratch: Path, report: Report
) -> tuple[Numbers, Numbers, Numbers]:
    """The number of the first one of the rows that each is equal to, and that it is nearly alike
    to, among those that can be read; and which these are."""
    # Here: the page needs none of what it loads.
    from studio.data import alike

    exact = step.what in ("duplicate", "duplicate_answer")
    with tempfile.TemporaryDirectory(dir=scratch, prefix="alike-") as folder:
        keys = np.zeros(len(rows), "V16")
        shape = (len(rows), alike.PERMUTATIONS)
        marks = None if exact else open_memmap(Path(folder) / "marks.npy", "w+", np.uint32, shape)
        usable = list[int]()
        for numbers, said in _said(view, rows, report):
            part = slice(len(usable), len(usable) + len(said))
            if marks is None:
                keys[part] = np.array([np.void(alike.exact_key(text)) for text in said], "V16")
            else:
                keys[part], marks[part] = alike.marks(said)
            usable += numbers
        report.stage("comparing the rows")
        there = np.array(usable, np.int64)
        keys = keys[: len(there)]
        if marks is None:
            same = near = alike.first_alike(keys)
        else:
            same, near = alike.first_like(keys, marks[: len(there)], step.threshold)
    return same, near, there


def _said(view: Readable, rows: Numbers, report: Report) -> Iterator[tuple[list[int], list[str]]]:
    """What the rows say, for those that can be read; many at a time."""
    for numbers, examples in _examples(view, rows, report):
        yield numbers, [likeness(example) for example in examples]


def _examples(
    view: Readable, rows: Numbers, report: Report
) -> Iterator[tuple[list[int], list[Example]]]:
    """The rows that can be read, as examples; many at a time."""
    for begin in range(0, len(rows), _CHUNK):
        report.stage("reading what the rows say", begin, len(rows))
        numbers, found = list[int](), list[Example]()
        for number, row in enumerate(view.read(rows[begin : begin + _CHUNK]), begin):
            try:
                found.append(view.example(row))
            except RowError:
                continue
            numbers.append(number)
        if found:
            yield numbers, found
