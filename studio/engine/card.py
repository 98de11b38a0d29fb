"""The README.md that goes with an adapter: what it is, what it was made from, how to use it."""

from pathlib import PurePath

from studio.engine.source import origin_of
from studio.plan.catalogue import CATALOGUE
from studio.spec import RunSpec, diff


def model_card(spec: RunSpec) -> str:
    """The card in Markdown, with the front matter that the Hub reads. No path of this machine."""
    base = _public(origin_of(spec.model))
    method = spec.adapter.method
    title = f"# {base}, fine-tuned" if method == "none" else f"# {_NAMES[method]} for {base}"
    scores = spec.train.trainer == "reward"
    kind = "ForSequenceClassification" if scores else "ForCausalLM"
    library, name = (
        ("transformers", f"AutoModel{kind}")
        if method == "none"
        else ("peft", f"AutoPeftModel{kind}")
    )
    labels = ", num_labels=1" if scores else ""
    use = [
        "```python",
        f"from {library} import {name}",
        "",
        f'model = {name}.from_pretrained("this folder"{labels})',
        "```",
    ]
    return "\n".join([*_front(spec), "", title, "", _story(spec), "", *_table(spec), *use, ""])


_NAMES = {
    "lora": "A LoRA adapter",
    "adalora": "An AdaLoRA adapter",
    "ia3": "An IA3 adapter",
    "loha": "A LoHa adapter",
    "lokr": "A LoKr adapter",
    "oft": "An OFT adapter",
    "vera": "A VeRA adapter",
    "prompt_tuning": "A tuned prompt",
    "prefix_tuning": "A tuned prefix",
    "p_tuning": "A P-tuned prompt",
    "multitask_prompt_tuning": "A multitask tuned prompt",
}


def _front(spec: RunSpec) -> list[str]:
    entry = CATALOGUE.get(spec.model.name_or_path)
    known = [f"base_model: {entry.hub_id}", f"license: {entry.licence.lower()}"] if entry else []
    method = spec.adapter.method
    library = "transformers" if method == "none" else "peft"
    kind = "full" if method == "none" else method.replace("_", "-")
    tags = [
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        f"tags: [{kind}, {spec.train.trainer}, atelier]",
    ]
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
    how = {
        "lora": f"rank {adapter.r}, alpha {adapter.lora_alpha}",
        "none": "all of its weights trained",
    }.get(adapter.method, adapter.method.replace("_", " "))
    frozen = "" if adapter.method == "none" else f"; the frozen weights were {held}"
    return (
        f"Trained on `{_public(spec.data.path)}` by {train.trainer} with Atelier: {how}, learning "
        f"rate {train.learning_rate:g}, {length}, batches of {rows} rows, seed "
        f"{train.seed}{frozen}."
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
