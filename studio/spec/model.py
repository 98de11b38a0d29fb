"""How the model is loaded.

A new option is one entry here: the form, the recipe, the command line and the documentation follow
from it. Names are those of transformers, trl, peft and bitsandbytes, so that what one knows from
there holds here."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from studio.spec.adapter import listed
from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_BNB = f"{_HF}/transformers/quantization/bitsandbytes"
_MODELS = f"{_HF}/transformers/models"
FOUR_BITS = ("nf4", "fp4")
_FOUR_BITS: Any = (("model.quantization", FOUR_BITS),)


class ModelSection(Section):
    """Which model, and in which numbers its frozen weights are held."""

    name_or_path: str = option(
        "SmolLM2-135M-Instruct",
        "A model of the catalogue, a folder with config.json, a GGUF file, or a Hub id. "
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
    quantization: Literal["none", "int8", "nf4", "fp4", "hqq", "torchao"] = option(
        "none",
        "How the frozen weights are held. nf4 takes a quarter of the memory and costs a little "
        "quality; none is the most exact, and leaves a GPTQ or AWQ model as it came.",
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
        group="Quantization",
        link=_BNB,
        when=_FOUR_BITS,
    )
    bnb_4bit_compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "The numbers that 4-bit weights are unpacked into. auto: those of dtype. float32 is exact "
        "and slow on a GPU.",
        label="Compute dtype",
        group="Quantization",
        link=_BNB,
        when=_FOUR_BITS,
    )
    bnb_4bit_quant_storage: Literal["uint8", "float16", "bfloat16", "float32"] = option(
        "uint8",
        "How packed 4-bit weights are stored. uint8 is usual; the others let several GPUs share a "
        "model (FSDP).",
        label="Storage dtype",
        group="Quantization",
        link=_BNB,
        when=_FOUR_BITS,
    )
    llm_int8_threshold: float = option(
        6.0,
        "Inputs larger than this are computed unquantized. Lower it for more exact and slower "
        "answers; 0 turns it off.",
        label="int8 threshold",
        group="Quantization",
        ge=0,
        le=1000,
        link=_BNB,
        when=(("model.quantization", ("int8",)),),
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "The numbers that unquantized weights are computed in. auto: bfloat16 where the hardware "
        "has it, else float16 on a GPU and float32 on a CPU.",
        label="dtype",
        group="Loading",
        link=_MODELS,
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = option(
        "sdpa",
        "How attention is computed. sdpa is fast everywhere; flash_attention_2 is faster on long "
        "rows where it is installed; eager is the reference. The fast path has one of its own.",
        label="Attention",
        group="Loading",
        link=f"{_HF}/transformers/attention_interface",
    )
    device_map: Literal["auto", "cpu", "cuda"] = option(
        "auto",
        "Where the model lives. auto: the first GPU, or else the CPU. cpu leaves the GPU to others "
        "and is much slower.",
        label="Device",
        group="Loading",
        link=f"{_HF}/accelerate/concept_guides/big_model_inference",
    )
    use_safetensors: bool = option(
        True,
        "Take weights in safetensors only. Turn it off for a model that has only pickle files, and "
        "only if you trust who made them.",
        label="safetensors only",
        group="Trust",
        link=f"{_HF}/safetensors/index",
    )
    trust_remote_code: bool = option(
        False,
        "Run the Python files that come with the model. Turn it on only for files that you have "
        "read and trust: they can do all that you can.",
        label="Run the model's own code",
        group="Trust",
        link=_MODELS,
    )
    trusted_files: Annotated[list[str], BeforeValidator(listed)] = option(
        [],
        "The files that may run, each as name=sha256. Filled in by the button that lists them; a "
        "file that has changed since asks again.",
        label="Files that may run",
        group="Trust",
        widget="names",
        link=_MODELS,
        when=(("model.trust_remote_code", (True,)),),
    )
