"""Loading models: which device, which numbers, and errors in words."""

import functools
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    HqqConfig,
    PreTrainedModel,
    TorchAoConfig,
)
from transformers.utils import logging

from studio.engine.explain import first_line
from studio.engine.report import Report
from studio.errors import SpecError, StudioError
from studio.plan.able import stored_problems
from studio.spec import ModelSection


@dataclass(frozen=True)
class Hardware:
    """Where a model lives ("cuda" or "cpu") and the numbers that it computes in."""

    device: str
    dtype: torch.dtype

    @property
    def words(self) -> str:
        """E.g. "NVIDIA H100, bfloat16" or "CPU, float32"."""
        name = torch.cuda.get_device_name(0) if self.device == "cuda" else "CPU"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}"


def hardware(section: ModelSection) -> Hardware:
    """The device and dtype that the section gets on this machine. Raises StudioError where the
    machine can't honour the section."""
    cuda = torch.cuda.is_available() and section.device_map != "cpu"
    if section.device_map == "cuda" and not cuda:
        raise StudioError("There is no GPU here.", "Set device_map to auto.")
    if section.dtype != "auto":
        if section.dtype == "float16" and not cuda:
            raise StudioError(
                "float16 is not computed on a CPU here.", "Set dtype to auto, float32 or bfloat16."
            )
        return Hardware("cuda" if cuda else "cpu", getattr(torch, section.dtype))
    if not cuda:
        # bfloat16 is emulated on most CPUs and three times slower there.
        return Hardware("cpu", torch.float32)
    # A T4 says that it supports bfloat16, and emulates it: the compute capability tells.
    native = torch.cuda.get_device_capability(0) >= (8, 0)
    return Hardware("cuda", torch.bfloat16 if native else torch.float16)


def quantization_config(section: ModelSection, dtype: torch.dtype) -> Any:
    """What the quantizer is told, or None. bitsandbytes' own defaults are fp4 and float32, so
    everything is said."""
    match section.quantization:
        case "none":
            return None
        case "int8":
            return BitsAndBytesConfig(
                load_in_8bit=True, llm_int8_threshold=section.llm_int8_threshold
            )
        case "hqq":
            return HqqConfig(nbits=4, group_size=64)
        case "torchao":
            from torchao.quantization import Int8WeightOnlyConfig

            return TorchAoConfig(Int8WeightOnlyConfig())
    compute = section.bnb_4bit_compute_dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.quantization,
        bnb_4bit_compute_dtype=dtype if compute == "auto" else getattr(torch, compute),
        bnb_4bit_quant_storage=section.bnb_4bit_quant_storage,
        bnb_4bit_use_double_quant=section.bnb_4bit_use_double_quant,
    )


def load_model(
    section: ModelSection, folder: Path, where: Hardware, report: Report, scorer: bool = False
) -> PreTrainedModel:
    """The model on its device, quantized as the section says; as a `scorer` it gives one number in
    place of tokens. Raises StudioError in words."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if found := list(stored_problems(section, "lora", config)):
        raise SpecError(found)
    if section.quantization == "int8":
        drop_kept_inputs()
    with _weights_counted(report):
        model, info = _guarded(
            folder,
            dtype=where.dtype,
            quantization_config=quantization_config(section, where.dtype),
            attn_implementation=section.attn_implementation,
            **trust(section),
            device_map={"": 0 if where.device == "cuda" else "cpu"},
            **_as(scorer),
        )
    check_complete(info)
    return model


def drop_kept_inputs() -> None:
    """Has bitsandbytes' int8 product forget its input where its weight is frozen. It keeps it, for
    a gradient that nobody asks for, where checkpointing can't reach it: 3 GB of a model with 7
    billion parameters and 2,000 tokens."""
    from bitsandbytes.autograd._functions import MatMul8bitLt

    before = MatMul8bitLt.forward
    if hasattr(before, "__wrapped__"):
        return

    @functools.wraps(before)
    def forward(ctx: Any, a: Any, b: Any, *rest: Any) -> Any:
        output = before(ctx, a, b, *rest)
        if not ctx.needs_input_grad[1] and not ctx.is_empty:
            ctx.tensors = (None, None, None)
        return output

    MatMul8bitLt.forward = staticmethod(forward)


def trust(section: ModelSection) -> dict[str, bool]:
    """What may be opened and run. `resolve` has asked for the consent by then."""
    return {
        "use_safetensors": section.use_safetensors,
        "trust_remote_code": section.trust_remote_code,
    }


def load_plain(
    section: ModelSection, folder: Path, dtype: torch.dtype, report: Report, scorer: bool = False
) -> PreTrainedModel:
    """The model unquantized in `dtype`, on the CPU; `scorer` as for `load_model`. Raises
    StudioError in words."""
    with _weights_counted(report):
        model, info = _guarded(
            folder, dtype=dtype, device_map={"": "cpu"}, **trust(section), **_as(scorer)
        )
    check_complete(info)
    return model


def fit_embeddings(model: PreTrainedModel, tokens: int) -> None:
    """Room for `tokens` tokens in the model's embeddings. What is new begins as the mean of what
    is there (Hewitt, 2021), the same one each time; a model with room enough stays as it is."""
    before = model.get_input_embeddings().weight.shape[0]
    if tokens <= before:
        return
    model.resize_token_embeddings(tokens, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None:
            weight = module.weight.data
            weight[before:] = weight[:before].float().mean(dim=0).to(weight.dtype)


def _as(scorer: bool) -> dict[str, Any]:
    return {"auto": AutoModelForSequenceClassification, "num_labels": 1} if scorer else {}


def check_complete(info: dict[str, Any]) -> None:
    """Raises StudioError where the files lacked weights: transformers fills those with noise. Only
    a scorer's head of one number is new, unless it was loaded."""
    missing = sorted(set(info["missing_keys"]) - {"score.weight"}) + sorted(
        str(key[0]) for key in info["mismatched_keys"]
    )
    if missing:
        raise StudioError(
            f"The model's files lack {len(missing)} of its weights, or have them in another shape: "
            f"{missing[0]}, …",
            "Copy or download the folder again; its config.json has to belong to these weights.",
        )


def _guarded(
    folder: Path, auto: Any = AutoModelForCausalLM, **arguments: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        return auto.from_pretrained(
            folder,
            output_loading_info=True,
            # Reported with the missing ones, by `check_complete`, instead of by a riddle.
            ignore_mismatched_sizes=True,
            **arguments,
        )
    except (torch.OutOfMemoryError, MemoryError, ImportError):
        raise
    # Each architecture and each quantizer fails in its own way: the words are theirs.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise StudioError(
            f"The model can't be loaded: {first_line(error)}",
            "Check that its folder is whole and that its architecture is part of transformers.",
        ) from error


@contextmanager
def _weights_counted(report: Report) -> Iterator[None]:
    """Turns transformers' progress bars into counts of our stage while the block runs."""

    def bar(factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        items = args[0] if args else kwargs.get("iterable")
        if kwargs.get("desc") != "Loading weights" or not hasattr(items, "__len__"):
            return factory(*args, **kwargs)
        return _counted(items, report)

    report.stage("loading the model")
    before = logging.set_tqdm_hook(bar)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _counted(items: Any, report: Report) -> Iterator[Any]:
    for number, item in enumerate(items, 1):
        yield item
        report.stage("loading the model", number, len(items))


def free_memory() -> None:
    """Gives back what models that nobody holds any more still take."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
