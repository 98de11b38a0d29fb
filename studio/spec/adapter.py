"""What is trained beside the frozen model, or instead of it.

A new option is one entry here: the form, the recipe, the command line and the documentation follow
from it. Names are those of peft, so that what one knows from there holds here. What only the
methods other than LoRA use is in `methods`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, NonNegativeInt, PositiveInt

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_LORA = f"{_HF}/peft/package_reference/lora"
_INIT = f"{_HF}/peft/developer_guides/lora#initialization"

# Those that put something beside each chosen layer; the others learn a text in front of the row.
LAYERWISE = ("lora", "adalora", "ia3", "loha", "lokr", "oft", "vera")
PROMPTS = ("prompt_tuning", "prefix_tuning", "p_tuning", "multitask_prompt_tuning")
METHODS = (*LAYERWISE, *PROMPTS, "none")
_LAYERWISE: Any = (("adapter.method", LAYERWISE),)
_IS_LORA: Any = (("adapter.method", ("lora",)),)


def _names(value: object) -> object:
    """Accepts what people write: "q_proj, v_proj", a list, or a list that holds all-linear."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list):
        return value
    stripped = [n.strip() if isinstance(n, str) else n for n in names]
    kept = [n for n in stripped if n != ""]
    return "all-linear" if "all-linear" in kept else kept


def listed(value: object) -> object:
    """Accepts "lm_head, norm" for a list."""
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def _numbers(value: object) -> object:
    """Accepts "0, 3, 8-11" for a list of numbers; what is none is left for the spec to judge."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        return value
    found: list[object] = []
    for part in parts:
        text = part.strip() if isinstance(part, str) else part
        first, dash, last = text.partition("-") if isinstance(text, str) else ("", "", "")
        if dash and first.strip().isdecimal() and last.strip().isdecimal():
            found += range(int(first), min(int(last), int(first) + 10_000) + 1)
        elif isinstance(text, str) and text.isdecimal():
            found.append(int(text))
        elif text != "":
            found.append(text)
    return found


def not_merged(method: str) -> str:
    """Why what a method trains can't be merged into the base, or nothing where it can."""
    if method not in PROMPTS:
        return ""
    return (
        "it is a learned text in front of each row, which is no change of the model's weights and "
        "can't become one."
    )


class AdapterSection(Section):
    """How the model is changed: a method, the layers it works on, and what LoRA is told."""

    method: Literal[
        "lora",
        "adalora",
        "ia3",
        "loha",
        "lokr",
        "oft",
        "vera",
        "prompt_tuning",
        "prefix_tuning",
        "p_tuning",
        "multitask_prompt_tuning",
        "none",
    ] = option(
        "lora",
        "What is trained. lora is the usual choice; prompts train least and learn least; none "
        "trains all of the model's own weights, in the most memory.",
        label="Method",
        group="Adapter",
        basic=True,
        link=f"{_HF}/peft/index",
    )
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
        when=_IS_LORA,
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
        when=_IS_LORA,
    )
    target_modules: Annotated[Literal["all-linear"] | list[str], BeforeValidator(_names)] = option(
        "all-linear",
        "The layers that get an adapter. all-linear learns best; q_proj and v_proj alone take "
        "less memory. A click in the model's tree on the Model page adds or removes one.",
        label="Target modules",
        group="Layers",
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
        when=_LAYERWISE,
    )
    layers_to_transform: Annotated[list[NonNegativeInt], BeforeValidator(_numbers)] = option(
        [],
        "Numbers of the layers that get an adapter, such as 0, 1, 8-11. Empty: all of them. Fewer "
        "take less memory.",
        label="Layers to transform",
        group="Layers",
        widget="numbers",
        link=_LORA,
        when=(("adapter.method", tuple(m for m in LAYERWISE if m != "ia3")),),
    )
    modules_to_save: Annotated[list[str], BeforeValidator(listed)] = option(
        [],
        "Modules that are trained and saved whole beside the adapter, such as lm_head. They cost "
        "much memory; use them for new tokens.",
        label="Modules to save",
        group="Layers",
        widget="names",
        link=_LORA,
        when=_LAYERWISE,
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
        when=_IS_LORA,
    )
    bias: Literal["none", "all", "lora_only"] = option(
        "none",
        "Which bias terms are trained as well. none keeps the base model untouched when the "
        "adapter is off.",
        label="Bias",
        group="LoRA details",
        link=_LORA,
        when=_IS_LORA,
    )
    use_rslora: bool = option(
        False,
        "Scale by alpha / sqrt(r): steadier at ranks of 64 and more.",
        label="rsLoRA",
        group="LoRA details",
        link="https://arxiv.org/abs/2312.03732",
        when=_IS_LORA,
    )
    use_dora: bool = option(
        False,
        "Train direction and magnitude apart: often better at low rank, about a third slower.",
        label="DoRA",
        group="LoRA details",
        link="https://arxiv.org/abs/2402.09353",
        when=_IS_LORA,
    )
    loraplus_lr_ratio: float = option(
        1.0,
        "LoRA+: how much faster the second half (B) learns than the first (A). 1 is plain LoRA; 16 "
        "often learns faster at half of the learning rate.",
        label="LoRA+ ratio",
        group="LoRA details",
        ge=1,
        le=256,
        link="https://arxiv.org/abs/2402.12354",
        when=_IS_LORA,
    )
    init_lora_weights: Literal[
        "default", "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_16"
    ] = option(
        "default",
        "Where the adapter begins. default starts as the base model; pissa and olora start from "
        "the weights' own directions and often learn faster.",
        label="LoRA initialization",
        group="LoRA details",
        link=_INIT,
        when=_IS_LORA,
    )
    rank_pattern: dict[str, PositiveInt] = option(
        {},
        "Another rank for some layers, such as down_proj = 32, q_proj = 8. Raise it where more "
        "has to be learned.",
        label="Rank pattern",
        group="LoRA details",
        widget="mapping",
        link=_LORA,
        when=_IS_LORA,
    )
    alpha_pattern: dict[str, PositiveInt] = option(
        {},
        "Another alpha for some layers, such as down_proj = 64: keep it at twice their rank.",
        label="Alpha pattern",
        group="LoRA details",
        widget="mapping",
        link=_LORA,
        when=_IS_LORA,
    )
