"""How the model is loaded.

A new option is one entry here: the form, the recipe, the command line and the documentation follow
from it. Names are those of transformers, trl, peft and bitsandbytes, so that what one knows from
there holds here."""

from typing import Literal

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_BNB = f"{_HF}/transformers/quantization/bitsandbytes"


class ModelSection(Section):
    """Which model, and in which numbers its frozen weights are held."""

    name_or_path: str = option(
        "SmolLM2-135M-Instruct",
        "A model of the catalogue, a folder with config.json and safetensors, or a Hub id. "
        "Larger models learn more and cost more memory and time.",
        label="Model",
        group="Model",
        basic=True,
        min_length=1,
        link=f"{_HF}/hub/models",
    )
    revision: str | None = option(
        None,
        "Branch, tag or commit of a Hub model. Name a commit to get the same weights forever.",
        label="Revision",
        group="Loading",
    )
    quantization: Literal["none", "int8", "nf4", "fp4"] = option(
        "none",
        "How the frozen weights are held. nf4 takes a quarter of the memory and costs a little "
        "quality; none is the most exact.",
        label="Quantization",
        group="Model",
        basic=True,
        widget="radio",
        link=_BNB,
    )
    bnb_4bit_use_double_quant: bool = option(
        True,
        "Quantize the scales of a 4-bit model too: saves 0.4 bits a weight, costs nothing you "
        "will see.",
        label="Double quantization",
        group="Loading",
        link=_BNB,
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "The numbers that unquantized weights are computed in. auto: bfloat16 where the hardware "
        "has it, else float16 on a GPU and float32 on a CPU.",
        label="dtype",
        group="Loading",
        link=f"{_HF}/transformers/models",
    )
    attn_implementation: Literal["sdpa", "eager"] = option(
        "sdpa",
        "How attention is computed. sdpa is faster; eager is the reference.",
        label="Attention",
        group="Loading",
        link=f"{_HF}/transformers/attention_interface",
    )
