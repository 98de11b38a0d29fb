"""The Data tab: where the rows come from, what is done to them, what is wrong with them, and each
row exactly as the model will see it. What is shown is drawn in `rows`, `row_view`, `audit_view`."""

import random
from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio import jobs
from studio.data import FORMATS, SUFFIXES
from studio.errors import StudioError
from studio.ui import acts, html, rows, steps
from studio.ui.context import FORM, QUIET, STREAM, Context, Updates, Values, lenient
from studio.ui.follow import Follow
from studio.ui.form import field_id
from studio.ui.uploads import choices, take_upload

# What a row looks like depends on these fields alone.
_SEEN = (
    "data.",
    "cpt.",
    "train.max_length",
    "train.trainer",
    "train.packing",
    "model.name_or_path",
    "model.revision",
)
# And what the batches are made of.
_BATCH = ("data.", "model.name_or_path", "model.revision", "train.", "cpt.", "kto.", "grpo.")
_MANY: dict[str, Any] = {"concurrency_limit": 8, **STREAM}


class DataTab:
    """The tab's components."""

    def __init__(self, context: Context) -> None:
        with gr.Row(elem_classes="actions"):
            gr.HTML(
                html.lead(
                    "Look at your data",
                    "Every row as the model will see it: what you see here is what is trained.",
                ),
                elem_classes="lead",
            )
            self.start = gr.Button("Start with these settings", elem_id="start-data")
            self.primary = gr.Button("Set up the training", variant="primary", elem_id="next-data")
        self.acts = acts.component()
        self.row = gr.Number(1, precision=0, visible="hidden", elem_id="row-number")
        # Counts the searches for words; the first row of the page that the table shows.
        self.search = gr.Number(0, precision=0, visible="hidden")
        self.page = gr.Number(1, precision=0, visible="hidden")
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                self._make_left(context)
            with gr.Column(scale=5, min_width=320):
                self._make_right()

    def _make_left(self, context: Context) -> None:
        self.path = context.form.make("data.path", choices=choices(context.settings))
        self.upload = gr.UploadButton(
            "Upload a file", file_types=list(SUFFIXES), elem_id="data-upload"
        )
        self.about = gr.HTML(elem_id="data-about")
        with gr.Column(elem_classes="card audit"):
            with gr.Row(elem_classes="audit-head"):
                gr.HTML("<h3>Is anything wrong with it?</h3>")
                self.check = gr.Button("Check all rows", size="sm", elem_id="audit-start")
                self.halt = gr.Button("Stop", size="sm", visible=False, elem_id="audit-stop")
            self.report = gr.HTML(elem_id="audit")
        self.table = gr.Dataframe(
            headers=["row", "question", "answer"],
            column_widths=["64px", "45%", "45%"],
            interactive=False,
            max_height=380,
            elem_id="data-table",
            show_label=False,
            buttons=[],
            wrap=False,
        )
        inside = {
            "Steps": self._make_steps,
            "More sources": self._make_sources,
            "Prompt template": self._make_formats,
        }
        context.form.advanced("data", inside=inside)

    def _make_steps(self) -> None:
        self.steps = gr.HTML(elem_id=field_id("data.steps"), elem_classes="field list-field")
        self.kind = gr.Dropdown(
            list(steps.KINDS), value="filter", label="A step to add", elem_id="step-kind"
        )
        self.boxes: dict[str, Any] = {
            "column": gr.Dropdown(
                [], label="Column", allow_custom_value=True, elem_id="step-column"
            ),
            "keep": gr.Dropdown(
                list(steps.KEEPS), value="equals", label="Test", elem_id="step-keep"
            ),
            "text": gr.Textbox(label="Value", elem_id="step-text"),
            "when": gr.Checkbox(
                False, label="Only where there is none", visible=False, elem_id="step-when"
            ),
            "number": gr.Number(
                1000, label="Rows", precision=0, visible=False, elem_id="step-number"
            ),
            "skip": gr.Number(
                0, label="After the first …", precision=0, visible=False, elem_id="step-skip"
            ),
            "fault": gr.Dropdown(
                list(steps.FAULTS),
                value="duplicate",
                label="Which",
                visible=False,
                elem_id="step-fault",
            ),
        }
        self.add = gr.Button("Add the step", size="sm", elem_id="step-add")

    def _make_sources(self) -> None:
        self.sources = gr.HTML(elem_id=field_id("data.also"), elem_classes="field list-field")
        self.more = gr.Textbox(
            label="Another source",
            placeholder="more.jsonl, or owner/name on the Hub",
            max_lines=1,
            elem_id="source-path",
        )
        self.more_split = gr.Textbox(
            "train", label="Its split, on the Hub", max_lines=1, elem_id="source-split"
        )
        self.more_name = gr.Textbox(
            label="Its configuration, on the Hub", max_lines=1, elem_id="source-name"
        )
        self.more_revision = gr.Textbox(
            label="Its revision, on the Hub", max_lines=1, elem_id="source-revision"
        )
        self.more_weight = gr.Number(1, label="Its weight", elem_id="source-weight")
        self.more_add = gr.Button("Add the source", size="sm", elem_id="source-add")

    def _make_formats(self) -> None:
        self.formats = gr.Dropdown(
            [name for name, *_ in FORMATS],
            value=None,
            label="Start from a ready format",
            info="Fills the two templates below; change them as you like.",
            elem_id="prompt-format",
        )

    def _make_right(self) -> None:
        with gr.Row(elem_classes="row-picker"):
            self.back = gr.Button("←", elem_id="row-previous", min_width=44)
            self.goto = gr.Textbox(
                label="Row number, or words to find",
                placeholder="17, or words to find",
                max_lines=1,
                elem_id="row-goto",
                min_width=120,
                scale=4,
            )
            self.forth = gr.Button("→", elem_id="row-next", min_width=44)
            self.any = gr.Button("Any row", elem_id="row-random", min_width=84)
        self.found = gr.HTML(elem_id="row-found")
        self.seen = gr.HTML(elem_id="row-seen")
        self.lengths = gr.HTML(elem_id="data-lengths")
        with gr.Accordion("What the trainer gets, batch by batch", open=False, elem_id="batches"):
            self.batch_number = gr.Number(
                1, label="Batch of the first epoch", precision=0, elem_id="batch-number"
            )
            self.batch_show = gr.Button("Show the batch", size="sm", elem_id="batch-show")
            self.batch = gr.HTML(elem_id="batch")

    def wire(self, context: Context) -> None:
        """Shows the rows when the tab opens and whenever what they look like changes."""
        # While nobody looks, the model's process stays away, and its memory with it.
        self.rows = context.follow(*_SEEN, tab="Data")
        self.one = Follow([*self.rows.components, self.row])
        context.follows.append(self.one)
        self.lists = context.follow("data.steps", "data.also")
        self._wire_row(context)
        self._wire_look(context)
        self._wire_audit(context)
        self._wire_changes(context)

        def opened(values: Values) -> Updates:
            self.rows.note(values)
            self.one.note(values)
            return {**self.rows.again(values), **self.lists.again(values)}

        given = self.rows.inputs | self.one.inputs | self.lists.inputs
        asked = [*self.rows.counts, *self.lists.counts]
        context.tab["Data"].select(opened, given, asked, **FORM)

    def _wire_look(self, context: Context) -> None:
        """The facts and the table: first rows at once, all else when the rows are indexed."""
        settings, form = context.settings, context.form

        def look(values: Values) -> Iterator[Updates]:
            spec, number = lenient(form.tree(values)), int(values[self.row] or 1)
            made = self.rows.stream(values, rows.overview(settings, spec, number))
            for words, table, columns in made:
                yield {
                    self.about: words,
                    self.table: table,
                    self.boxes["column"]: gr.Dropdown(columns),
                }

        def lists(values: Values) -> Updates:
            data = form.tree(values)["data"]
            held = {n: data[n] if isinstance(data[n], list) else [] for n in ("steps", "also")}
            return {
                self.steps: steps.listed(held["steps"]),
                self.sources: steps.sources(held["also"]),
            }

        inputs = context.fields | {self.row, self.rows.state}
        outputs = [self.about, self.table, self.boxes["column"]]
        self.rows.on_change(look, inputs, outputs, **_MANY)
        self.page.change(look, inputs, outputs, trigger_mode="always_last", **_MANY)
        self.lists.on_change(lists, context.fields, [self.steps, self.sources], **FORM)

    def _wire_row(self, context: Context) -> None:
        """One row from all sides, the lengths of many, and a batch."""
        settings, form = context.settings, context.form

        batch = context.follow(*_BATCH)

        def row(values: Values) -> Iterator[Updates]:
            spec = lenient(form.tree(values))
            number = min(max(1, int(values[self.row] or 1)), 10**12)
            for seen in rows.seen(settings, spec, number):
                yield {self.seen: seen}
            yield {self.page: rows.page_start(number)}

        def turned(values: Values) -> Iterator[Updates]:
            yield from self.one.stream(values, row(values))

        def all_of_it(values: Values) -> Iterator[Updates]:
            yield {self.lengths: ""}
            yield from turned(values)
            # Of all rows, so that another row changes nothing.
            for lengths in rows.lengths(settings, lenient(form.tree(values))):
                yield {self.lengths: lengths}

        def see(values: Values) -> Iterator[Updates]:
            yield from self.rows.stream(values, all_of_it(values))

        def show(values: Values) -> Iterator[str]:
            number = max(1, int(values[self.batch_number] or 1))
            spec = lenient(form.tree(values))
            yield from batch.stream(values, rows.batch(settings, spec, number))

        def turn(values: Values) -> Any:
            self.one.note(values)
            return at.note(values) or gr.skip()

        inputs = context.fields | {self.row, self.rows.state, self.one.state}
        outputs = [self.seen, self.page, self.lengths]
        self.rows.on_change(see, inputs, outputs, **_MANY)
        at = Follow([self.row], context.opened, "Data")
        at.on_change(turned, inputs, outputs[:2], **_MANY)
        last: dict[str, Any] = {"trigger_mode": "always_last", **FORM}
        self.row.change(turn, self.one.inputs | at.inputs, at.counts, **last)
        self._wire_moves(context, context.fields | {self.row})
        self.table.select(_row_of, self.row, self.row, **QUIET)
        # Other data may have fewer rows than the number that was looked at.
        context.follow("data.path").on_change(lambda: 1, None, self.row, **QUIET)
        asked = context.fields | {self.batch_number, batch.state}
        self.batch_show.click(show, asked, self.batch, **_MANY)
        # A batch of other settings would be a wrong one.
        batch.on_change(lambda: "", None, self.batch, **QUIET)

    def _wire_moves(self, context: Context, inputs: set[Any]) -> None:
        """The ways to another row."""
        settings, form = context.settings, context.form

        def to(values: Values, number: int) -> Updates:
            # The row comes with its number: what else there is to say of it takes two more events.
            now = rows.at_once(settings, lenient(form.tree(values)), number)
            return {self.row: number, self.seen: now}

        def go(values: Values) -> Any:
            text = values[self.goto] or ""
            if number := _number(text):
                return {**to(values, number), self.found: ""}
            again = int(values[self.search] or 0) + 1
            return {self.search: again} if text.strip() else gr.skip()

        def step(by: int) -> Any:
            return lambda values: to(values, max(1, int(values[self.row] or 1 - (by > 0)) + by))

        def chance(values: Values) -> Updates:
            spec = lenient(form.tree(values))
            return to(values, rows.any_row(settings, spec, random.random()))

        def find(values: Values) -> Iterator[Updates]:
            spec, text = lenient(form.tree(values)), str(values[self.goto] or "").strip()
            found = rows.find(settings, spec, text, int(values[self.row] or 1))
            for number, words in self.rows.stream(values, found):
                yield {self.found: words, **({self.row: number} if number else {})}

        shown = [self.row, self.seen]
        self.back.click(step(-1), inputs, shown, **FORM)
        self.forth.click(step(1), inputs, shown, **FORM)
        given = inputs | {self.goto, self.search}
        self.goto.submit(go, given, [*shown, self.found, self.search], **FORM)
        searched = inputs | {self.goto, self.rows.state}
        self.search.change(find, searched, [self.row, self.found], **_MANY)
        self.any.click(chance, context.fields, shown, **FORM)

    def _wire_audit(self, context: Context) -> None:
        settings, form = context.settings, context.form

        def watch(values: Values) -> Iterator[Updates]:
            made = rows.audit(settings, lenient(form.tree(values)))
            for words, going in self.rows.stream(values, made):
                yield {
                    self.report: words,
                    self.halt: gr.Button(visible=going),
                    self.check: gr.Button(visible=not going),
                }

        def glance(values: Values) -> Any:
            words, going = rows.audited(settings, lenient(form.tree(values)))
            return {
                self.report: words,
                self.halt: gr.Button(visible=going),
                self.check: gr.Button("Check all rows", visible=not going),
            }

        def halt(values: Values) -> None:
            jobs.stop_audit(settings, lenient(form.tree(values)))

        outputs = [self.report, self.halt, self.check]
        self.check.click(watch, context.fields | {self.rows.state}, outputs, **_MANY)
        self.halt.click(halt, context.fields, None, **QUIET)
        self.rows.on_change(glance, context.fields, outputs, **FORM)

    def _wire_changes(self, context: Context) -> None:
        """What changes the form: buttons in drawn HTML, added steps and sources, an upload."""
        form = context.form

        def act(values: Values, event: gr.EventData) -> Any:
            wanted = acts.read(event)
            if wanted.get("do") == "row":
                at = wanted.get("at")
                return {self.row: at + 1} if isinstance(at, int) and at >= 0 else gr.skip()
            return form.set(acts.changes(wanted, form.tree(values), form)) or gr.skip()

        def add(values: Values) -> Any:
            boxes = {name: values[box] for name, box in self.boxes.items()}
            wanted = {"do": "add", "step": steps.made(values[self.kind], boxes)}
            return form.set(acts.changes(wanted, form.tree(values), form)) or gr.skip()

        def boxes(kind: str) -> Updates:
            shown = steps.BOXES[kind]
            return {box: _shown(name, kind, name in shown) for name, box in self.boxes.items()}

        multiple: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
        self.acts.select(act, context.fields, [*context.fields, self.row], **multiple)
        listed = form.components["data.steps"]
        self.add.click(add, context.fields | {self.kind, *self.boxes.values()}, listed, **QUIET)
        self.kind.change(boxes, self.kind, list(self.boxes.values()), **QUIET)
        self._wire_sources(context)

    def _wire_sources(self, context: Context) -> None:
        """Further sources, ready prompt formats, and an upload."""
        settings, form = context.settings, context.form
        named = {"name": self.more_name, "revision": self.more_revision}

        def add(values: Values) -> Any:
            path = str(values[self.more] or "").strip()
            if not path:
                return gr.skip()
            source: dict[str, Any] = {"path": path}
            split, weight = str(values[self.more_split] or "").strip(), values[self.more_weight]
            source |= {"split": split} if split not in ("", "train") else {}
            for key, box in named.items():
                text = str(values[box] or "").strip()
                source |= {key: text} if text else {}
            source |= {"weight": weight} if weight not in (None, 1) else {}
            also = form.tree(values)["data"]["also"]
            listed = [*(also if isinstance(also, list) else []), source]
            emptied = dict.fromkeys([self.more, *named.values()], "")
            return {**form.set({"data.also": listed}), **emptied}

        def fill(name: str) -> Any:
            found = next((f for f in FORMATS if f[0] == name), None)
            if found is None:
                return gr.skip()
            return form.set(
                {"data.prompt_template": found[1], "data.completion_template": found[2]}
            )

        def upload(path: str) -> Updates:
            try:
                kept = take_upload(settings, path)
            except OSError as error:
                refusal = StudioError(
                    f"The file can't be kept: {error.strerror}.", "Free some disk."
                )
                return {self.about: html.problem(refusal)}
            return {self.path: gr.Dropdown(choices(settings), value=kept)}

        also = form.components["data.also"]
        inputs = context.fields | {self.more, self.more_split, self.more_weight, *named.values()}
        self.more_add.click(add, inputs, [also, self.more, *named.values()], **QUIET)
        templates = [form.components[f"data.{n}_template"] for n in ("prompt", "completion")]
        self.formats.input(fill, self.formats, templates, **QUIET)
        self.upload.upload(upload, self.upload, [self.path, self.about], **QUIET)


def _number(text: str) -> int:
    """The row that the text names by its number, from 1; 0 for words."""
    plain = (text or "").strip().replace(",", "")
    return max(1, int(plain[:12])) if plain.isdecimal() else 0


def _shown(name: str, kind: str, shown: bool) -> Any:
    label = steps.LABELS.get((kind, name))
    update: dict[str, Any] = {"visible": shown, **({"label": label} if label else {})}
    if name == "number" and shown:
        update["value"] = 42 if kind == "shuffle" else 1000
    return gr.update(**update)


def _row_of(event: gr.SelectData, now: int) -> int:
    """The table shows the page that the row now shown is on."""
    return rows.page_start(int(now or 1)) + int(event.index[0])
