"""The Model tab: which model, in which numbers, and what follows from that."""

from html import escape

import gradio as gr

from studio.errors import StudioError
from studio.plan.catalogue import CATALOGUE, EMBEDDED
from studio.plan.estimate import dtype_bytes, weight_bytes
from studio.plan.machine import gb, machine
from studio.plan.model import Summary, summarize
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui import html
from studio.ui.context import Context, model_folder

_KINDS = (
    ("none", "as it is", "the most exact"),
    ("int8", "8 bits", "nearly the same answers"),
    ("nf4", "4 bits", "the usual choice for QLoRA"),
    ("fp4", "4 bits", "like nf4, a little less exact"),
)


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
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                context.form.make("model.name_or_path", choices=choices(context.settings))
                context.form.make("model.quantization")
                context.form.advanced("model")
            with gr.Column(scale=5, min_width=320):
                self.summary = gr.HTML(elem_id="model-summary")


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
    files = f"<p class='soft'>{escape(where)}{f' ({escape(source.name)})' if source else ''}</p>"
    return html.card(summary.name, about, files) + html.card(
        "What its frozen weights take here", _quantizations(spec, summary)
    )


def _quantizations(spec: RunSpec, summary: Summary) -> str:
    here = machine()
    rows = []
    for kind, label, words in _KINDS:
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
