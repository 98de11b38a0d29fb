"""The Model tab: which model, in which numbers, and what follows from that."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from studio import jobs
from studio.errors import StudioError
from studio.plan.able import kernel_settings, quantized_as, refusal
from studio.plan.catalogue import CATALOGUE, EMBEDDED
from studio.plan.machine import gb, machine
from studio.plan.memory import dtype_bytes, weight_bytes
from studio.plan.model import summarize
from studio.plan.summary import Summary
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui import acts, html, modules
from studio.ui.chat_tab import answer
from studio.ui.context import (
    FORM,
    QUIET,
    STREAM,
    Context,
    Updates,
    Values,
    lenient,
    model_folder,
)
from studio.ui.form import Tree

_KINDS = (
    ("none", "as it is", "the most exact"),
    ("int8", "8 bits", "nearly the same answers"),
    ("nf4", "4 bits", "the usual choice for QLoRA"),
    ("fp4", "4 bits", "like nf4, a little less exact"),
    ("hqq", "4 bits", "groups of 64, fitted without data"),
    ("torchao", "8 bits", "int8 weights of torchao"),
)
# What the module tree, the files and the answer are of, and the sections that choose in the tree.
_MODEL = ("model.name_or_path", "model.revision")
_SHOWN = ("adapter.", "ia3.")


def choices(settings: Settings) -> list[tuple[str, str]]:
    """Models to pick from: the catalogue's, then those in the home and the workspace."""
    found = [(f"{name} (embedded)" if name == EMBEDDED else name, name) for name in CATALOGUE]
    folders = sorted(
        p.parent
        for p in settings.workspace.glob("*/config.json")
        if list(p.parent.glob("*.safetensors"))
    )
    return found + [(f"{p.name} (folder)", p.name) for p in folders]


class ModelTab:
    """The tab's components."""

    def __init__(self, context: Context) -> None:
        with gr.Row(elem_classes="actions"):
            gr.HTML(
                html.lead("Choose a model", "The small embedded one needs no download and no GPU."),
                elem_classes="lead",
            )
            self.start = gr.Button("Start with these settings", elem_id="start-model")
            self.primary = gr.Button("Look at your data", variant="primary", elem_id="next-model")
        self.acts = acts.component(modules.ATTRIBUTE)
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                context.form.make("model.name_or_path", choices=choices(context.settings))
                context.form.make("model.quantization")
                inside = {"Loading": self._make_token, "Trust": self._make_code}
                context.form.advanced("model", inside=inside)
                self._make_trial()
            with gr.Column(scale=5, min_width=320):
                self.summary = gr.HTML(elem_id="model-summary")
                self.look = gr.Button("Show its modules", size="sm", elem_id="modules-look")
                self.modules = gr.HTML(elem_id="modules")
        self.tree = gr.State({})

    def _make_token(self) -> None:
        """For models that are private or gated. What is typed goes to a file of the home at once,
        and into no other place."""
        self.token = gr.Textbox(
            label="Hub token",
            info="For private and gated models. Kept in the home, readable by you alone; it is in "
            "no recipe, run, log or draft. Without one: that of `hf auth login`, or HF_TOKEN.",
            type="password",
            elem_id="hub-token",
        )
        with gr.Row(elem_classes="token-row"):
            self.kept = gr.HTML(elem_id="token-state")
            self.keep = gr.Button("Keep it", size="sm", elem_id="token-keep", min_width=80)
            self.forget = gr.Button("Forget it", size="sm", elem_id="token-forget", min_width=80)

    def _make_code(self) -> None:
        self.list = gr.Button("List the Python files", size="sm", elem_id="code-list")
        self.code = gr.HTML(elem_id="code-files")

    def _make_trial(self) -> None:
        with gr.Column(elem_classes="card trial"):
            gr.HTML("<h3>Try it before you train it</h3>")
            with gr.Row():
                self.text = gr.Textbox(
                    placeholder="Who are you?",
                    show_label=False,
                    max_lines=4,
                    container=False,
                    elem_id="trial-text",
                    scale=8,
                    min_width=160,
                )
                self.ask = gr.Button("Ask", size="sm", elem_id="trial-ask", scale=1, min_width=70)
                self.stop = gr.Button("Stop", size="sm", elem_id="trial-stop", min_width=70)
            self.answer = gr.HTML(elem_id="trial-answer")

    def wire(self, context: Context) -> None:
        """The module tree, the consent, the token and the question before training."""
        settings, form, fields = context.settings, context.form, context.fields
        many: dict[str, Any] = {"concurrency_limit": 4, **STREAM}

        model = context.follow(*_MODEL)

        def look(values: Values) -> Iterator[Updates]:
            made = modules.ask(settings, lenient(form.tree(values)))
            for kept, words in model.stream(values, made):
                yield {self.tree: kept, self.modules: words}

        def draw(values: Values) -> str:
            return modules.shown(values[self.tree], lenient(form.tree(values)))

        def redraw(values: Values) -> Any:
            return draw(values) or gr.skip()

        def pick(values: Values, event: gr.EventData) -> Any:
            act = acts.read(event)
            return (
                form.set(modules.toggled(form.tree(values), act) or modules.consented(act))
                or gr.skip()
            )

        def code(values: Values) -> Iterator[str]:
            yield from model.stream(values, modules.ask_code(settings, lenient(form.tree(values))))

        def ask(values: Values) -> Iterator[str]:
            said = tried(context, form.tree(values), str(values[self.text] or ""))
            yield from model.stream(values, said)

        given = fields | {model.state}
        looked = self.look.click(look, given, [self.tree, self.modules], **many)
        # What is chosen of it may have been changed in the meantime.
        looked.then(redraw, fields | {self.tree}, self.modules, **FORM)
        chosen = context.follow(*_SHOWN)
        chosen.on_change(draw, fields | {self.tree}, self.modules, **FORM)
        of_model = [self.modules, self.code, self.answer]
        model.on_change(lambda: ["", "", ""], None, of_model, **FORM)
        self.acts.select(pick, fields, list(fields), trigger_mode="multiple", **QUIET)
        self.list.click(code, given, self.code, **many)
        asked = gr.on(
            [self.ask.click, self.text.submit], ask, given | {self.text}, self.answer, **many
        )
        self.stop.click(None, None, None, cancels=[asked])
        token = [self.token, self.kept]
        self.keep.click(lambda text: ("", keep(settings, text)), self.token, token, **QUIET)
        self.forget.click(lambda: ("", keep(settings, None)), None, token, **QUIET)
        opened = context.tab["Model"].select
        opened(lambda: token_words(settings), None, self.kept, **QUIET)


def keep(settings: Settings, text: str | None) -> str:
    """Keeps the token, or forgets it where it is None; HTML that says which."""
    try:
        jobs.keep_token(settings, text)
    except StudioError as error:
        return html.problem(error)
    return token_words(settings)


def token_words(settings: Settings) -> str:
    """Whether a token is kept."""
    words = "A token is kept." if settings.hub_token else "No token is kept here."
    return f"<p class='soft'>{words}</p>"


def tried(context: Context, tree: Tree, text: str) -> Iterator[str]:
    """The answer of the model as it is, as it grows."""
    try:
        if not text.strip():
            raise StudioError("There is no question yet.", "Write one.")
        base = lenient(tree)
        store, settings = context.store, context.settings
        for grown, words in answer(
            store, settings, None, base, text.strip(), ("base",), {}, base.generate
        ):
            said = grown["base"][-1]["content"]
            yield (html.bubbles(grown["base"]) if said else "") + words
    except StudioError as error:
        yield html.problem(error)


def right(settings: Settings, spec: RunSpec) -> str:
    """What is known of the chosen model, and what each quantization would take here."""
    try:
        source = model_folder(settings, spec)
        summary = summarize(spec.model.name_or_path, settings, spec.model.revision)
    except StudioError as error:
        return html.card(spec.model.name_or_path, html.problem(error))
    where = "on this disk" if summary.ready else "fetched at the start of the first run"
    if not summary.parameters:
        return html.card(
            summary.name,
            f"<p class='soft'>{escape(where)}. Its size is known once its files are here.</p>",
        )
    about = html.facts(
        [
            ("Parameters", _count(summary.parameters), f"{summary.parameters:,}"),
            ("Layers", str(summary.layers), f"width {summary.hidden_size}"),
            ("Context", f"{summary.context:,}", "tokens"),
            ("Chat template", summary.template, ""),
            ("Architecture", summary.architecture, f"vocabulary {summary.vocab_size:,}"),
            ("Licence", summary.licence, ""),
        ]
    )
    stored = quantized_as(summary.config)
    if stored:
        settings_of = ", ".join(f"{k} {v}" for k, v in kernel_settings(summary.config).items())
        about += f"<p>Its weights are quantized already: <b>{escape(stored)}</b>"
        about += f" ({escape(settings_of)}).</p>" if settings_of else ".</p>"
    files = f"<p class='soft'>{escape(where)}{f' ({escape(source.name)})' if source else ''}</p>"
    return html.card(summary.name, about, files) + html.card(
        "What its frozen weights take here", _quantizations(spec, summary)
    )


def _quantizations(spec: RunSpec, summary: Summary) -> str:
    here = machine()
    rows = []
    stored = quantized_as(summary.config)
    for kind, label, words in _KINDS:
        # Why it can't be had stands where its figures would.
        reason = refusal(kind, here) or (
            f"the weights are stored as {stored}" if stored and kind != "none" else ""
        )
        if reason:
            rows.append(
                f"<tr class='off'><td>{kind}</td><td>{label}</td>"
                f"<td colspan='3' class='soft'>not here: {escape(reason)}</td></tr>"
            )
            continue
        need = weight_bytes(
            summary, kind, spec.model.bnb_4bit_use_double_quant, dtype_bytes(spec, here)
        )
        share = min(100.0, 100 * need / here.free)
        fits = "" if need < here.free else " <span class='bad'>does not fit</span>"
        chosen = " class='chosen-row'" if kind == spec.model.quantization else ""
        rows.append(
            f"<tr{chosen}><td>{kind}</td><td>{label}</td><td style='width:40%'><div class='amount'>"
            f"<i class='{'over' if fits else ''}' style='width:{share:.1f}%'></i></div></td>"
            f"<td class='nowrap'>{gb(need)} GB{fits}</td><td class='soft'>{words}</td></tr>"
        )
    where = (
        "the GPU"
        if here.gpus
        else "this computer's memory; without a GPU, quantized models work but train slower"
    )
    free = f"<p class='soft'>Of {gb(here.free)} GB free in {where}.</p>"
    return f"<table class='plain'>{''.join(rows)}</table>{free}"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"
