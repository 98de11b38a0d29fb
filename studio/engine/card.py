"""The README.md that goes with an adapter: what it is, what it was made from, how to use it."""

from pathlib import PurePath

from studio.engine.source import origin_of
from studio.plan.catalogue import CATALOGUE
from studio.spec import RunSpec, diff


def model_card(spec: RunSpec) -> str:
    """The card in Markdown, with the front matter that the Hub reads. No path of this machine."""
    base, data = _public(origin_of(spec.model)), _public(spec.data.path)
    front = ["---", "library_name: peft", "pipeline_tag: text-generation", "tags: [lora, sft, atelier]"]
    entry = CATALOGUE.get(spec.model.name_or_path)
    if entry is not None:
        front += [f"base_model: {entry.hub_id}", f"license: {entry.licence.lower()}"]
    changed = [
        f"| `{section}.{name}` | {_public(str(value))} |"
        for section, fields in diff(spec).items() if section != "generate"
        for name, value in fields.items() if name != "system_prompt"
    ]
    lines = [
        *front, "---", "", f"# A LoRA adapter for {base}", "",
        f"Trained on `{data}` with Atelier: rank {spec.adapter.r}, alpha {spec.adapter.lora_alpha}, learning rate "
        f"{spec.train.learning_rate:g}, {_length(spec)}, batches of "
        f"{spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps} rows, "
        f"seed {spec.train.seed}; the frozen weights were held as {spec.model.quantization}.", "",
    ]
    if changed:
        lines += ["Settings other than Atelier's defaults:", "", "| setting | value |", "|---|---|", *changed, ""]
    lines += [
        "```python", "from peft import AutoPeftModelForCausalLM", "",
        'model = AutoPeftModelForCausalLM.from_pretrained("this folder")', "```", "",
    ]
    return "\n".join(lines)


def _length(spec: RunSpec) -> str:
    train = spec.train
    return f"at most {train.max_steps} steps" if train.max_steps > 0 else f"{train.num_train_epochs:g} epochs"


def _public(name: str) -> str:
    """A Hub id or a bundled name as it is; of a path only its last part."""
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return PurePath(name).name if is_path else name
