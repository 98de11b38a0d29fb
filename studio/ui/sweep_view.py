"""Several runs at once: a field or two, the values to try, and the queue fills with them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from studio import jobs
from studio import spec as specs
from studio.errors import SpecError, StudioError
from studio.runs import Run
from studio.settings import Settings
from studio.spec import RunSpec, fields
from studio.ui import html, live
from studio.ui.context import QUIET, Context, Updates, Values
from studio.ui.form import LISTS
from studio.ui.run_acts import button
from studio.ui.run_view import label, worded

_GRID, _PAIRED = "grid", "paired"
_HOW = [("Every value with every other", _GRID), ("First with first, second with second", _PAIRED)]
# What a run does not depend on, or what one doesn't type in a line.
_LEFT_OUT = ("generate",)


@dataclass
class Sweep:
    """What was typed: the values by field, and everything that is wrong with it, in words."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    paired: bool = False

    def sets(self) -> list[dict[str, Any]]:
        """What each run says otherwise, by field; nothing while something is wrong."""
        return [] if self.wrong or not all(self.values.values()) else self.combined()

    def combined(self) -> list[dict[str, Any]]:
        """All combinations. Raises StudioError where there are too many, or no pairs."""
        return jobs.combinations(self.values, paired=self.paired)


class SweepView:
    """The form, in a closed group below the runs."""

    def __init__(self, judge: Callable[[Settings, RunSpec], None]) -> None:
        """`judge` raises StudioError where runs of these settings can't be started."""
        self._judge = judge
        names = [(f"{meta.label} ({s}.{n})", f"{s}.{n}") for s, n, _i, meta in fields()
                 if s not in _LEFT_OUT and meta.widget not in LISTS]  # fmt: skip
        with gr.Accordion("Try several values", open=False, elem_id="sweep"):
            with gr.Row():
                self.first = gr.Dropdown(
                    names, value="train.learning_rate", label="Field", elem_id="sweep-field",
                    info="All other settings are those of the form.",
                )  # fmt: skip
                self.values = gr.Textbox(
                    label="Values", placeholder="1e-4, 2e-4, 5e-4", elem_id="sweep-values",
                    max_lines=8, info="With commas between them, or one a line.",
                )  # fmt: skip
            with gr.Row():
                self.second = gr.Dropdown(
                    [("none", ""), *names], value="", label="And another field",
                    elem_id="sweep-field-2",
                )  # fmt: skip
                self.values_2 = gr.Textbox(
                    label="Its values", placeholder="8, 16", elem_id="sweep-values-2", max_lines=8
                )
            self.how = gr.Radio(_HOW, value=_GRID, label="Together", elem_id="sweep-how")
            self.seen = gr.HTML(elem_id="sweep-seen")
            self.add = gr.Button("Add to the queue", elem_id="sweep-add")

    def wire(self, context: Context, view: gr.HTML, message: gr.HTML) -> None:
        """Says what would be made while one types, and makes it."""
        mine: list[Any] = [self.first, self.values, self.second, self.values_2, self.how]
        inputs = context.fields | {*mine, context.recipe}

        def look(values: Values) -> Updates:
            try:
                return {self.seen: shown(self._read(context.form.spec(values), values))}
            except StudioError as error:
                return {self.seen: html.problem(error)}

        def make(values: Values) -> Updates:
            name = str(values[context.recipe])
            try:
                runs = self._make(context, values, name)
            except SpecError as error:
                return {self.seen: html.problems(error.problems)}
            except StudioError as error:
                return {self.seen: html.problem(error)}
            compare = button("Compare them", {"do": "compare", "runs": [r.id for r in runs]})
            words = f"{len(runs)} runs wait in the queue. {compare}"
            note = f"<div class='note said-line' role='status'>{words}</div>"
            return {message: note, self.seen: "", view: live.told(runs[0].id),
                    context.run: runs[0].id}  # fmt: skip

        gr.on(
            [c.change for c in mine], look, inputs, self.seen, trigger_mode="always_last", **QUIET
        )
        self.add.click(make, inputs, [self.seen, message, view, context.run], **QUIET)

    def _make(self, context: Context, values: Values, name: str) -> list[Run]:
        spec = context.form.spec(values)
        sweep = self._read(spec, values)
        if not sweep.sets():
            words = "; ".join(f"{value}: {why}" for value, why in sweep.wrong)
            raise StudioError("Nothing was added.", words or "Type the values to try.")
        self._judge(context.settings, spec)
        return jobs.sweep(
            context.store, context.settings, spec, name, sweep.values, paired=sweep.paired
        )

    def _read(self, spec: RunSpec, values: Values) -> Sweep:
        typed = [(values[self.first], values[self.values])]
        if values[self.second]:
            typed.append((values[self.second], values[self.values_2]))
        return read(spec, typed, paired=values[self.how] == _PAIRED)


def read(spec: RunSpec, typed: list[tuple[str, str]], *, paired: bool) -> Sweep:
    """The sweep that was typed as (field, values). Each value that the field, or the settings
    together, don't take is named with why."""
    sweep = Sweep(paired=paired and len(typed) > 1)
    for key, text in typed:
        if key in sweep.values:
            sweep.wrong.append((label(key), "it is chosen twice: choose another field."))
            continue
        sweep.values[key] = _values(spec, key, str(text or ""), sweep.wrong)
    try:
        for row in sweep.sets():
            _judge_together(spec, row, sweep.wrong)
    except StudioError as error:
        sweep.wrong.append((error.message, error.hint))
    return sweep


def _values(spec: RunSpec, key: str, text: str, wrong: list[tuple[str, str]]) -> list[Any]:
    """The values of one field, each once, in the order in which they were typed."""
    section, _, name = key.partition(".")
    info = specs.SECTIONS[section].model_fields[name]
    listed = "list[" in str(info.annotation)
    parts = text.split("\n") if "\n" in text or listed else text.split(",")
    found: list[Any] = []
    for part in filter(None, (p.strip() for p in parts)):
        try:
            value = _value(spec, section, name, part)
        except SpecError as error:
            problem = next((p for p in error.problems if p.field == key), error.problems[0])
            wrong.append((part, f"{problem.message} {problem.hint}".strip()))
            continue
        if value in found:
            wrong.append((part, "it stands there twice."))
        else:
            found.append(value)
    return found


def _value(spec: RunSpec, section: str, name: str, text: str) -> Any:
    """The value, where the field takes it. What is wrong only beside the form's other settings is
    judged later, together with the other field. Raises SpecError."""
    said = [f"{section}.{name}={text}"]
    try:
        held = specs.with_overrides(spec, said)
    except SpecError:
        held = specs.with_overrides(specs.DEFAULTS, said)
    return getattr(getattr(held, section), name)


def _judge_together(spec: RunSpec, row: dict[str, Any], wrong: list[tuple[str, str]]) -> None:
    try:
        specs.with_values(spec, row)
    except SpecError as error:
        said = ", ".join(worded(value) for value in row.values())
        wrong.append((said, str(error.problems[0])))


def shown(sweep: Sweep) -> str:
    """HTML: how many runs, which, and what is wrong."""
    if sweep.wrong:
        items = "".join(f"<li><b>{escape(v)}</b> {html.ticked(why)}</li>" for v, why in sweep.wrong)
        return f"<div class='note problem' role='alert'><ul class='flat'>{items}</ul></div>"
    sets = sweep.sets()
    if not sets:
        return "<p class='soft'>Type the values to try.</p>"
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(worded(v))}</td>' for v in row.values())}</tr>" for row in sets
    )
    head = "".join(f"<th>{escape(label(key))}</th>" for key in sweep.values)
    count = f"{len(sets)} run{'s' if len(sets) > 1 else ''}"
    return (
        f"<p role='status'><b>{count}</b>, one after the other:</p>"
        f"<table class='plain'><tr>{head}</tr>{rows}</table>"
    )
