"""What is trained beside the frozen model.

A new option is one entry here: the form, the recipe, the command line and the documentation follow
from it. Names are those of transformers, trl, peft and bitsandbytes, so that what one knows from
there holds here."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_LORA = f"{_HF}/peft/package_reference/lora"


def _names(value: object) -> object:
    """Accepts what people write: "q_proj, v_proj", a list, or a list that holds all-linear."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list):
        return value
    stripped = [n.strip() if isinstance(n, str) else n for n in names]
    kept = [n for n in stripped if n != ""]
    return "all-linear" if "all-linear" in kept else kept


class AdapterSection(Section):
    """The LoRA adapter: the small part that is trained."""

    r: int = option(
        16,
        "Rank: the size of the adapter. Raise it if the model can't learn the task; lower it if "
        "it parrots.",
        label="LoRA rank (r)",
        group="LoRA",
        basic=True,
        ge=1,
        le=1024,
        link=_LORA,
    )
    lora_alpha: int = option(
        32,
        "How strongly the adapter speaks: its output is scaled by alpha / r. Twice r is a common "
        "choice.",
        label="LoRA alpha",
        group="LoRA",
        basic=True,
        ge=1,
        le=4096,
        link=_LORA,
    )
    lora_dropout: float = option(
        0.0,
        "Share of the adapter's inputs dropped while training. Raise it towards 0.1 if "
        "evaluation loss rises early.",
        label="LoRA dropout",
        group="LoRA details",
        ge=0.0,
        le=0.9,
        link=_LORA,
    )
    target_modules: Annotated[Literal["all-linear"] | list[str], BeforeValidator(_names)] = option(
        "all-linear",
        "The layers that get an adapter. all-linear learns best; q_proj and v_proj alone take "
        "less memory.",
        label="Target modules",
        group="LoRA details",
        widget="choices",
        choices=(
            "all-linear",
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ),
        link=_LORA,
        min_length=1,
    )
    bias: Literal["none", "all", "lora_only"] = option(
        "none",
        "Which bias terms are trained as well. none keeps the base model untouched when the "
        "adapter is off.",
        label="Bias",
        group="LoRA details",
        link=_LORA,
    )
    use_rslora: bool = option(
        False,
        "Scale by alpha / sqrt(r): steadier at ranks of 64 and more.",
        label="rsLoRA",
        group="LoRA details",
        link="https://arxiv.org/abs/2312.03732",
    )
    use_dora: bool = option(
        False,
        "Train direction and magnitude apart: often better at low rank, about a third slower.",
        label="DoRA",
        group="LoRA details",
        link="https://arxiv.org/abs/2402.09353",
    )
