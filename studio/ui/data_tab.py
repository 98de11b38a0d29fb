"""The Data tab: the rows, and each row exactly as the model will see it."""

import filecmp
import re
import shutil
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr

from studio import jobs
from studio.data import BUNDLED, SUFFIXES, Layout, Rows, detect, iterate, locate, to_messages
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui import html
from studio.ui.context import QUIET, STREAM, Context, Updates, Values, lenient, model_folder
from studio.ui.form import Tree

_SHOWN = 100
# What a row looks like depends on these fields alone.
_SEEN = ("data.", "train.max_length", "model.name_or_path", "model.revision")


def choices(settings: Settings) -> list[tuple[str, str]]:
    """Data to pick from: the bundled sets, what was uploaded, what lies in the workspace."""
    found = [(f"{name} (bundled)", name) for name in BUNDLED]
    uploads = settings.uploads.iterdir() if settings.uploads.is_dir() else ()
    found += [
        (f"{p.name} (uploaded)", str(p)) for p in sorted(uploads) if p.suffix.lower() in SUFFIXES
    ]
    local = (p for s in SUFFIXES for p in sorted(settings.workspace.glob(f"*{s}")))
    return found + [(p.name, p.name) for p in local if not p.name.startswith("package")]


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
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                self.path = context.form.make("data.path", choices=choices(context.settings))
                self.upload = gr.UploadButton(
                    f"Upload a file ({', '.join(SUFFIXES)})",
                    file_types=list(SUFFIXES),
                    elem_id="data-upload",
                )
                self.about = gr.HTML(elem_id="data-about")
                self.table = gr.Dataframe(
                    headers=["row", "question", "answer"],
                    column_widths=["52px", "45%", "45%"],
                    interactive=False,
                    max_height=380,
                    elem_id="data-table",
                    show_label=False,
                    buttons=[],
                    wrap=False,
                )
                context.form.advanced("data")
            with gr.Column(scale=5, min_width=320):
                with gr.Row(elem_classes="row-picker"):
                    self.back = gr.Button("← Previous", elem_id="row-previous", min_width=90)
                    self.row = gr.Number(
                        1,
                        label="Row",
                        precision=0,
                        minimum=1,
                        elem_id="row-number",
                        min_width=90,
                        scale=1,
                    )
                    self.forth = gr.Button("Next →", elem_id="row-next", min_width=90)
                self.seen = gr.HTML(elem_id="row-seen")

    def wire(self, context: Context) -> None:
        """Shows the rows when the tab opens and whenever what they look like changes."""
        settings, form = context.settings, context.form

        def look(values: Values) -> Updates:
            words, table = overview(settings, lenient(form.tree(values)))
            return {self.about: words, self.table: table}

        def see(values: Values) -> Iterator[str]:
            number = min(max(1, int(values[self.row] or 1)), 10**12)
            yield from seen(settings, lenient(form.tree(values)), number)

        def upload(path: str) -> Updates:
            try:
                kept = take_upload(settings, path)
            except OSError as error:
                refusal = StudioError(
                    f"The file can't be kept: {error.strerror}.", "Free some disk."
                )
                return {self.about: html.problem(refusal)}
            return {self.path: gr.Dropdown(choices(settings), value=kept)}

        def look_again(values: Values) -> Any:
            return look(values) if values[context.opened] == "Data" else gr.skip()

        def wish(values: Values) -> Any:
            # While nobody looks, the model's process stays away, and its memory with it.
            return int(values[wished] or 0) + 1 if values[context.opened] == "Data" else gr.skip()

        # No State: one that changes past the queue tells nobody.
        wished = gr.Number(0, visible="hidden")
        opened = context.tab["Data"].select
        looked = [c.change for k, c in form.components.items() if k.startswith(_SEEN)]
        last: dict[str, Any] = {"trigger_mode": "always_last"}
        inputs = context.fields | {self.row, context.opened}
        overview_parts = [self.about, self.table]
        opened(look, inputs, overview_parts, **QUIET)
        gr.on(looked, look_again, inputs, overview_parts, **last, **QUIET)
        stream: dict[str, Any] = {"concurrency_limit": 8, **STREAM}
        opened(see, inputs, self.seen, **stream)
        changes = [self.row.change, *looked]
        gr.on(changes, wish, {wished, context.opened}, wished, **last, **QUIET)
        wished.change(see, inputs, self.seen, **last, **stream)
        self.back.click(lambda n: max(1, int(n or 1) - 1), self.row, self.row, **QUIET)
        self.forth.click(lambda n: int(n or 0) + 1, self.row, self.row, **QUIET)
        self.table.select(_row_of, None, self.row, **QUIET)
        self.upload.upload(upload, self.upload, [self.path, self.about], **QUIET)


def _row_of(event: gr.SelectData) -> int:
    return int(event.index[0]) + 1


def take_upload(settings: Settings, path: str) -> str:
    """Keeps an uploaded file in the home, whole or not at all, under its own name or, where another
    file has that, one with a number; returns the path for the form."""
    source = Path(path)
    name = re.sub(r"[^\w.-]+", "-", source.name).lstrip(".-") or "upload"
    settings.uploads.mkdir(parents=True, exist_ok=True)
    target, number = settings.uploads / name, 1
    while target.exists() and not filecmp.cmp(source, target, shallow=False):
        number += 1
        target = settings.uploads / f"{Path(name).stem}-{number}{Path(name).suffix}"
    aside = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, aside)
    aside.replace(target)
    return str(target)


def overview(settings: Settings, spec: RunSpec) -> tuple[str, list[list[Any]]]:
    """Words about the data and its first rows, from a local file; for a Hub set the words say that
    its rows come with the preview."""
    try:
        path = _local(settings, spec)
        if path is None:
            return (
                f"<p class='soft'>{escape(spec.data.path)} is a data set of the Hub. Its rows "
                "are fetched to look at one.</p>",
                [],
            )
        listed: Rows = list(islice(iterate(path), min(_SHOWN, spec.data.max_rows or _SHOWN)))
        layout = detect(listed)
        total = count(settings, spec)
    except StudioError as error:
        return html.problem(error), []
    more = f" The first {_SHOWN} are listed." if total > len(listed) else ""
    found = f"layout <b>{escape(layout.name)}</b>: {escape(layout.reason)}"
    words = f"<p class='soft'><b>{total:,} rows</b>, {found}.{more}</p>"
    return words, [[n, *_cells(row, layout, spec)] for n, row in enumerate(listed, 1)]


def _local(settings: Settings, spec: RunSpec) -> Path | None:
    path = locate(spec.data.path, settings)
    return None if path is None else settings.confine(str(path))


def count(settings: Settings, spec: RunSpec) -> int:
    """How many rows the local data holds, within max_rows."""
    path = _local(settings, spec)
    try:
        return 0 if path is None else _counted(path, _stamp(path), spec.data.max_rows)
    except OSError as error:
        raise StudioError(
            f"{spec.data.path} can't be read: {error.strerror}.", "Is it there still?"
        ) from None


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a file, or a file of a folder, does."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple((p.name, (s := p.stat()).st_mtime_ns, s.st_size) for p in found)


@lru_cache(maxsize=32)
def _counted(path: Path, stamp: object, limit: int | None) -> int:
    # Counting reads the whole file; every change of a field asks for it.
    return sum(1 for _ in islice(iterate(path), limit))


def rows(settings: Settings, tree: Tree) -> int:
    """`count` for a form that may hold errors; 0 where the rows can't be counted."""
    try:
        return count(settings, lenient(tree))
    except StudioError:
        return 0


def _cells(row: dict[str, Any], layout: Layout, spec: RunSpec) -> tuple[str, str]:
    try:
        messages = to_messages(row, layout, spec.data.system_prompt)
    except StudioError as error:
        return "⚠ " + error.message, ""
    asked = next((m["content"] for m in messages if m["role"] == "user"), "")
    answer = next((m["content"] for m in messages if m["role"] == "assistant"), "")
    return asked[:200], answer[:200]


def seen(settings: Settings, spec: RunSpec, number: int) -> Iterator[str]:
    """Row `number` (from 1) as chat at once, then as exact text and tokens from the very function
    that feeds the trainer."""
    chat = ""
    try:
        model_folder(settings, spec)
        path = _local(settings, spec)
        if path is not None:
            found = list(islice(iterate(path), number - 1, number))
            if not found:
                yield html.card("Row", f"<p class='soft'>There is no row {number}.</p>")
                return
            try:
                messages = to_messages(found[0], detect(found), spec.data.system_prompt)
                chat = html.card(f"Row {number} as a chat", html.bubbles(messages))
            except StudioError as error:
                chat = html.card(f"Row {number}", html.problem(error))
        for reply in jobs.preview(settings, spec, number - 1, 1):
            if not reply.get("done"):
                yield chat + html.card(
                    "As the model sees it", html.wait(str(reply.get("stage", "")))
                )
            else:
                yield _rendered(reply, number)
    except StudioError as error:
        yield chat + html.card("As the model sees it", html.problem(error))


def _rendered(reply: dict[str, Any], number: int) -> str:
    if not reply["rows"]:
        return html.card(
            "Row", f"<p class='soft'>There is no row {number}; the data has {reply['total']}.</p>"
        )
    row = reply["rows"][0]
    chat = (
        html.card(f"Row {number} of {reply['total']:,} as a chat", html.bubbles(row["messages"]))
        if row["messages"]
        else ""
    )
    if row["problem"]:
        return chat + html.card(
            f"Row {number}",
            html.problem(StudioError(row["problem"], "Such a row would stop the run.")),
        )
    return (
        chat
        + html.card("Its tokens, coloured by what is learned", html.tokens(row))
        + html.card("The exact text", html.exact(row["text"]))
    )


def mean_characters(settings: Settings, spec: RunSpec, sample: int) -> float:
    """Mean length in characters of the first rows, for the estimate of time and memory."""
    path = _local(settings, spec)
    if path is None:
        return 0.0
    lengths = [
        _characters(row) for row in islice(iterate(path), min(sample, spec.data.max_rows or sample))
    ]
    return sum(lengths) / max(1, len(lengths))


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0
