"""The Export tab: the adapter or the merged model, as files that work anywhere."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from studio import jobs
from studio.errors import StudioError
from studio.plan.catalogue import CATALOGUE
from studio.plan.machine import gb
from studio.runs import Run, RunStore
from studio.settings import Settings
from studio.ui import html
from studio.ui.chat_tab import choose
from studio.ui.context import QUIET, STREAM, Context, Updates

_KINDS = [
    ("Adapter: small, used on top of the base model", "adapter"),
    ("Merged: a whole model of its own", "merged"),
]


class ExportTab:
    """The tab's components."""

    def __init__(self, context: Context) -> None:
        with gr.Row(elem_classes="actions"):
            gr.HTML(
                html.lead(
                    "Take it home",
                    "Plain files, as transformers and peft read them. They need nothing from here.",
                ),
                elem_classes="lead",
            )
            self.primary = gr.Button("Make the files", variant="primary", elem_id="export")
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                self.run = gr.Dropdown(
                    [], label="Run", elem_id="export-run", allow_custom_value=True
                )
                self.kind = gr.Radio(_KINDS, value="adapter", label="Form", elem_id="export-kind")
            with gr.Column(scale=5, min_width=320):
                self.result = gr.HTML(elem_id="export-result")

    def wire(self, context: Context) -> None:
        """Shows what is there, and makes what is not."""
        store, settings = context.store, context.settings

        def opening(chosen: str, looked: str, kind: str) -> Updates:
            update, value = choose(store, chosen, looked)
            return {self.run: update, self.result: there(store, value, kind)}

        def export(run_id: str, kind: str) -> Iterator[str]:
            yield from make(store, settings, run_id, kind)

        chosen = [self.run, self.kind]
        opened = context.tab["Export"].select
        inputs = [self.run, context.run, self.kind]
        opened(opening, inputs, [self.run, self.result], **QUIET)
        changes = [self.run.change, self.kind.change]
        gr.on(
            changes, lambda run_id, kind: there(store, run_id, kind), chosen, self.result, **QUIET
        )
        self.primary.click(export, chosen, self.result, concurrency_limit=2, **STREAM)


def there(store: RunStore, run_id: str | None, kind: str) -> str:
    """What can be taken home of this run now."""
    if not run_id:
        words = "When a run has ended, its files are made here."
        return html.card("Nothing to take home yet", f"<p class='soft'>{words}</p>")
    try:
        return done(store.get(run_id), kind)
    except StudioError as error:
        return html.card(run_id, html.problem(error))


def make(store: RunStore, settings: Settings, run_id: str | None, kind: str) -> Iterator[str]:
    """Makes the files and yields HTML: the stages, then where the files are and how to use them."""
    try:
        if not run_id:
            raise StudioError(
                "There is no tuned model yet.",
                "Start a run first; its result can be taken home when it ends.",
            )
        run = store.get(run_id)
        if kind == "merged" and store.active():
            raise StudioError(
                "A run is going and needs this machine's memory.", "Merge when it has ended."
            )
        yield html.card("Making the files", html.wait("starting"))
        for state in jobs.export(store, settings, run, kind):
            yield html.card("Making the files", html.wait(jobs.words(state)))
        yield done(run, kind)
    except StudioError as error:
        yield html.card("Nothing was made", html.problem(error))


def done(run: Run, kind: str) -> str:
    """The files of an export that is there, with links and a way to use them; or a hint."""
    folder = run.export / kind
    if not folder.is_dir():
        jobs.refuse(run, kind)
        return html.card(
            "Not made yet",
            "<p class='soft'>Press “Make the files”. The adapter takes a second, a merged "
            "model as long as writing its weights.</p>",
        )
    files = sorted(p for p in folder.iterdir() if p.is_file())
    rows = "".join(
        f"<tr><td><a href='/gradio_api/file={quote(p.as_posix())}' "
        f"download='{escape(p.name)}'>{escape(p.name)}</a></td>"
        f"<td class='nowrap'>{_size(p)}</td></tr>"
        for p in files
    )
    where = f"<p class='soft'>In <code>{escape(str(folder))}</code></p>"
    return html.card("Your files", where, f"<table class='plain'>{rows}</table>") + html.card(
        "Use them anywhere", f"<pre class='code'>{escape(_usage(run, kind, folder))}</pre>"
    )


def _size(path: Path) -> str:
    size = path.stat().st_size
    return (
        f"{gb(size)} GB"
        if size >= 1e9
        else f"{size / 1e6:.1f} MB"
        if size >= 1e5
        else f"{size / 1e3:.1f} kB"
    )


def _usage(run: Run, kind: str, folder: Path) -> str:
    head = "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
    if kind == "merged":
        load = f'model = AutoModelForCausalLM.from_pretrained("{folder.name}")\n'
    else:
        name = run.spec().model.name_or_path
        base = CATALOGUE[name].hub_id if name in CATALOGUE else name
        head = "from peft import PeftModel\n" + head
        load = (
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
            f'model = PeftModel.from_pretrained(base, "{folder.name}")\n'
        )
    return (
        head
        + f'\ntokenizer = AutoTokenizer.from_pretrained("{folder.name}")\n'
        + load
        + 'prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Who are you?"}],\n'
        + '    add_generation_prompt=True, return_tensors="pt", return_dict=True)\n'
        + "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=64)[0]))"
    )
