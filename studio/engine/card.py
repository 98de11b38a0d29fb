"""The README.md that goes with an adapter: what it is, what it was made from, how to use it."""

from pathlib import PurePath

from studio.engine.source import origin_of
from studio.plan.catalogue import CATALOGUE
from studio.spec import RunSpec, diff


def model_card(spec: RunSpec) -> str:
    """The card in Markdown, with the front matter that the Hub reads. No path of this machine."""
    base = _public(origin_of(spec.model))
    lines = [*_front(spec), "", f"# A LoRA adapter for {base}", "", _story(spec), "", *_table(spec)]
    return "\n".join([*lines, *_USE, ""])


_USE = [
    "```python",
    "from peft import AutoPeftModelForCausalLM",
    "",
    'model = AutoPeftModelForCausalLM.from_pretrained("this folder")',
    "```",
]


def _front(spec: RunSpec) -> list[str]:
    entry = CATALOGUE.get(spec.model.name_or_path)
    known = [f"base_model: {entry.hub_id}", f"license: {entry.licence.lower()}"] if entry else []
    tags = ["library_name: peft", "pipeline_tag: text-generation", "tags: [lora, sft, atelier]"]
    return ["---", *tags, *known, "---"]


def _story(spec: RunSpec) -> str:
    train, adapter = spec.train, spec.adapter
    rows = train.per_device_train_batch_size * train.gradient_accumulation_steps
    length = (
        f"at most {train.max_steps} steps"
        if train.max_steps > 0
        else f"{train.num_train_epochs:g} epochs"
    )
    held = {"none": "unquantized"}.get(
        spec.model.quantization, f"held as {spec.model.quantization}"
    )
    return (
        f"Trained on `{_public(spec.data.path)}` with Atelier: rank {adapter.r}, alpha "
        f"{adapter.lora_alpha}, learning rate {train.learning_rate:g}, {length}, batches of {rows} "
        f"rows, seed {train.seed}; the frozen weights were {held}."
    )


def _table(spec: RunSpec) -> list[str]:
    """What differs from the defaults. What a step or a template says may be long or private and
    stays out."""
    rows = [
        f"| `{section}.{name}` | {_public(str(value))} |"
        for section, fields in diff(spec).items()
        if section != "generate"
        for name, value in fields.items()
        if not isinstance(value, list | dict) and not name.endswith(("_template", "_jinja"))
    ]
    if not rows:
        return []
    return [
        "Settings other than Atelier's defaults:",
        "",
        "| setting | value |",
        "|---|---|",
        *rows,
        "",
    ]


def _public(name: str) -> str:
    """A Hub id or a bundled name as it is; of a path only its last part."""
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return PurePath(name).name if is_path else name
