"""What the page shows of the rows, in pieces as they become known: the facts and the table, one
row, lengths, a batch, what was found, the audit. Each function yields what to show next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from studio import jobs
from studio.data import (
    Broken,
    Data,
    Layout,
    Peek,
    RowError,
    confine,
    is_ready,
    locate,
    open_data,
    peek,
    to_example,
)
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui import audit_view, html, row_view, steps
from studio.ui.context import lenient, model_folder
from studio.ui.form import Tree

_PAGE = 50
# How many rows are looked at for lengths, and before a start.
_LENGTHS = 1000
_JUDGED = 1000
# Of one row; a page with more of them is slow.
_TOKENS = 4000

Table = list[list[Any]]
Overview = tuple[str, Table, list[str]]


@dataclass(frozen=True)
class Counts:
    """How many rows there are after the steps, and how they are divided."""

    total: int
    train: int
    validation: int
    test: int


def opened(settings: Settings, spec: RunSpec) -> Data | None:
    """The data where it can be opened at once. Raises StudioError where it never can."""
    confine(spec.data, settings)
    return open_data(spec.data, settings) if is_ready(spec.data, settings) else None


def counts(settings: Settings, spec: RunSpec) -> Counts | None:
    """The counts, or None while they are not known. Raises StudioError."""
    data = opened(settings, spec)
    if data is None:
        return None
    parts = data.parts(spec.train.seed)
    return Counts(data.total, len(parts.train), len(parts.validation), len(parts.test))


def judge(settings: Settings, spec: RunSpec) -> None:
    """Raises StudioError where the data can't be trained on, as far as that is known here: the
    first rows are looked at, and what an audit found counts. The run looks at all of them."""
    confine(spec.data, settings)
    jobs.refuse_found(settings, spec)
    if not is_ready(spec.data, settings):
        return
    data = open_data(spec.data, settings)
    if data.total < 2:
        raise StudioError(
            f"{spec.data.path} has fewer than two rows.", "Choose another file, or remove a step."
        )
    for position, row in enumerate(data.raw(0, _JUDGED)):
        try:
            data.example(row)
        except RowError as error:
            if error.fault not in {*spec.data.accepted, *data.token_drops}:
                where = data.where(position)
                raise StudioError(f"{where}: {error.message}", error.hint) from None


def total(settings: Settings, tree: Tree) -> int:
    """How many rows, for a form that may hold errors; 0 where that is not known."""
    try:
        data = opened(settings, lenient(tree))
    except StudioError:
        return 0
    return data.total if data else 0


def page_start(number: int) -> int:
    """The first row of the table's page that row `number` is on, from 1."""
    return (number - 1) // _PAGE * _PAGE + 1


def overview(settings: Settings, spec: RunSpec, number: int) -> Iterator[Overview]:
    """Words about the data, a page of its rows with row `number`, and its columns."""
    try:
        confine(spec.data, settings)
        if not is_ready(spec.data, settings):
            yield from _indexed(settings, spec)
        data = open_data(spec.data, settings)
        parts = data.parts(spec.train.seed)
        held = [
            f"{len(rows):,} {words}"
            for rows, words in ((parts.validation, "for evaluation"), (parts.test, "for the test"))
            if len(rows)
        ]
        start = page_start(min(max(1, number), max(1, data.size)))
        shown = data.raw(start - 1, _PAGE)
        words = _facts(spec, data.layout, f"{data.total:,} rows", ", ".join(held))
        last = start + len(shown) - 1
        words += "".join(map(html.soft, data.notes))
        words += html.soft(f"The table shows rows {start:,} to {last:,}.")
        yield words, [_line(start + n, row, data) for n, row in enumerate(shown)], data.columns
    except StudioError as error:
        yield html.problem(error), [], []


def _indexed(settings: Settings, spec: RunSpec) -> Iterator[Overview]:
    """The first rows, and how the indexing goes on in a process of its own."""
    here = locate(spec.data.path, settings) is not None
    first = peek(spec.data, settings, _PAGE) if here else None
    known, table, columns = _first(first, spec)
    yield known + html.wait("reading the rows"), table, columns
    for state in jobs.index(settings, spec.data):
        if first is None and (first := jobs.first_rows(settings, spec.data)):
            known, table, columns = _first(first, spec)
        yield known + html.wait(jobs.words(state)), table, columns


def _first(first: Peek | None, spec: RunSpec) -> Overview:
    if first is None:
        return "", [], []
    table = [[n, *_cells(row, first.layout, spec)] for n, row in enumerate(first.rows, 1)]
    columns = list(first.rows[0]) if first.rows and isinstance(first.rows[0], dict) else []
    return _facts(spec, first.layout, "First rows", ""), table, columns


def _facts(spec: RunSpec, layout: Layout, rows: str, held: str) -> str:
    held = f", {held}" if held else ""
    said = [f"<li>{escape(steps.words(step.model_dump()))}</li>" for step in spec.data.steps]
    summary = f"<summary>after {len(said)} step{'s' if len(said) > 1 else ''}</summary>"
    done = f"<details>{summary}<ol>{''.join(said)}</ol></details>" if said else ""
    return (
        f"<p class='soft'><b>{rows}</b>{held}. Layout <b>{escape(layout.name)}</b>: "
        f"{html.ticked(layout.reason)}.</p>{done}"
    )


def _line(number: int, row: Any, data: Data) -> list[Any]:
    try:
        return [number, *row_view.cells(data.example(row))]
    except RowError as error:
        return [number, f"⚠ {error.message} ({data.where(number - 1)})", ""]


def _cells(row: Any, layout: Layout, spec: RunSpec) -> tuple[str, str]:
    try:
        if isinstance(row, Broken):
            raise row.error()
        return row_view.cells(to_example(row, layout, spec.data))
    except RowError as error:
        return "⚠ " + error.message, ""


def seen(settings: Settings, spec: RunSpec, number: int) -> Iterator[str]:
    """Row `number` (from 1) as chat at once, then as exact text and tokens from the very function
    that feeds the trainer."""
    chat = ""
    try:
        model_folder(settings, spec)
        data = opened(settings, spec)
        if data is None:
            # What is shown until now is of other data.
            yield html.card("As the model sees it", html.wait("reading the rows"))
        else:
            chat = _at_once(data, number)
            yield chat
            if number > data.size:
                return
        for reply in jobs.preview(settings, spec, number - 1, 1, _TOKENS):
            if not reply.get("done"):
                stage = html.wait(str(reply.get("stage", "")))
                yield chat + html.card("As the model sees it", stage)
            else:
                yield _row(reply, number, spec.data.accepted)
    except StudioError as error:
        yield chat + html.card("As the model sees it", html.problem(error))


def at_once(settings: Settings, spec: RunSpec, number: int) -> str:
    """What can be said of row `number` (from 1) in the moment that it is asked for."""
    try:
        data = opened(settings, spec)
        return html.wait("reading the rows") if data is None else _at_once(data, number)
    except StudioError as error:
        return html.problem(error)


def _at_once(data: Data, number: int) -> str:
    """The row as a chat, before any tokenizer is there."""
    if number > data.size:
        words = f"There is no row {number:,}; the last is {data.size:,}."
        return html.card("Row", html.soft(words))
    (row,) = data.raw(number - 1, 1)
    try:
        said, wrong = data.example(row).messages, ""
    except StudioError as error:
        said, wrong = data.glimpse(row), html.problem(error)
    return html.card(row_view.place(number, data.total), html.bubbles(said), wrong)


def _row(reply: dict[str, Any], number: int, accepted: Sequence[str]) -> str:
    findings = reply.get("findings", ())
    notes = audit_view.notes(findings, accepted)
    if not reply["rows"]:
        words = f"There is no row {number:,}; the data has {reply['total']:,}."
        return notes + html.card("Row", html.soft(words))
    row = row_view.row(reply, reply["rows"][0])
    # What does no harm comes last.
    return row + notes if all(f["severity"] == "info" for f in findings) else notes + row


def lengths(settings: Settings, spec: RunSpec) -> Iterator[str]:
    """A histogram of lengths: of all rows where they were audited, else of a sample."""
    try:
        confine(spec.data, settings)
        report = jobs.audit_result(settings, spec)
        if report is not None:
            found = report.lengths
        else:
            *_, found = jobs.lengths(settings, spec, _LENGTHS)
        yield html.card("How long the rows are", audit_view.lengths(found))
    except StudioError:
        # The row above says already what can't be read.
        yield ""


def batch(settings: Settings, spec: RunSpec, number: int) -> Iterator[str]:
    """Batch `number` (from 1) of the first epoch."""
    try:
        confine(spec.data, settings)
        for reply in jobs.batch(settings, spec, number - 1):
            done = reply.get("done")
            yield row_view.batch(reply) if done else html.wait(str(reply.get("stage", "")))
    except StudioError as error:
        yield html.problem(error)


def find(settings: Settings, spec: RunSpec, text: str, after: int) -> Iterator[tuple[int, str]]:
    """The number of the next row after `after` that holds the text, or 0, and words. After the
    last row it goes on with the first."""
    try:
        confine(spec.data, settings)
        for begin in (after, 0):
            for reply in jobs.find(settings, spec, text, begin):
                if not reply.get("done"):
                    yield 0, html.wait(str(reply.get("stage", "")))
            if reply.get("index") is not None:
                yield reply["index"] + 1, "" if begin else html.soft("From the first row on again.")
                return
        yield 0, html.soft(f"No row holds “{text}”.")
    except StudioError as error:
        yield 0, html.problem(error)


def any_row(settings: Settings, spec: RunSpec, chance: float) -> int:
    """The number of some row."""
    try:
        data = opened(settings, spec)
    except StudioError:
        return 1
    return 1 + int(chance * data.total) if data and data.total else 1


def audit(settings: Settings, spec: RunSpec) -> Iterator[tuple[str, bool]]:
    """The audit's progress and at last its report; True while it goes on."""
    try:
        confine(spec.data, settings)
        model_folder(settings, spec)
        for state in jobs.audit(settings, spec):
            yield html.wait(jobs.words(state)), True
    except StudioError as error:
        yield html.problem(error), False
        return
    yield audited(settings, spec)


def audited(settings: Settings, spec: RunSpec) -> tuple[str, bool]:
    """The report for these very settings, or what to do to get it; True while one is made."""
    try:
        confine(spec.data, settings)
        report = jobs.audit_result(settings, spec)
        going = jobs.audit_going(settings, spec)
    except StudioError as error:
        return html.problem(error), False
    if report is not None:
        return audit_view.report(report, spec.data.accepted), False
    if going:
        return html.wait("checking all rows"), True
    words = (
        "Reads every row once, as the trainer would: rows cut or never learned, empty and double "
        "ones, leaks into the evaluation, broken text. Some thousand rows take some seconds."
    )
    return f"<p class='soft'>{words}</p>", False
