"""What of a model this machine can load and train: packages, hardware, and how its weights are
stored. Asked without torch."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from studio.errors import Problem
from studio.plan.machine import Machine
from studio.plan.shapes import text_config
from studio.spec import LAYERWISE, AdapterSection, ModelSection, RunSpec, used

# Ways in which a checkpoint may be quantized already, and peft trains an adapter on it: the module
# that unpacks it.
_TRAINABLE = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "torchao": "torchao",
    "eetq": "eetq",
    "quanto": "optimum.quanto",
}
# Of those, the ones whose layers are no linear layers of torch's: the methods for which peft has a
# layer of its own. A text in front of the rows needs none.
_ON_PACKED = {"gptq": ("lora", "adalora", "oft", "vera"), "awq": ("lora", "oft", "vera")}
# Where an adapter can begin without a look at the weights.
_BLIND = ("default", "gaussian")
# Quantizations that we make ourselves.
_MAKERS = {"torchao": "torchao"}
# Its class in transformers 5.23 lacks the part that puts weights into this form.
_NO_HQQ = "transformers 5.23 can't load weights as hqq"
_ATTENTION = {"flash_attention_2": "flash_attn"}
# What of a checkpoint's own quantization is worth a look.
_KERNEL = ("bits", "group_size", "desc_act", "sym", "backend", "version", "zero_point", "format")


def here(module: str) -> bool:
    """Whether the module is installed; it is not imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def quantized_as(config: dict[str, Any] | None) -> str | None:
    """How the checkpoint is quantized already ("gptq", "awq", …), by its config.json; None where it
    is not."""
    found = (config or {}).get("quantization_config")
    if not isinstance(found, dict):
        return None
    method = str(found.get("quant_method") or "")
    return method or ("bitsandbytes" if found.get("load_in_4bit") else "unknown")


def kernel_settings(config: dict[str, Any] | None) -> dict[str, str]:
    """The checkpoint's own settings of its quantization, as its config.json has them."""
    found = (config or {}).get("quantization_config")
    held = found if isinstance(found, dict) else {}
    return {name: str(held[name]) for name in _KERNEL if name in held}


def refusal(kind: str, machine: Machine) -> str:
    """Why weights can't be quantized as `kind` here, or nothing where they can."""
    if kind == "hqq":
        return _NO_HQQ
    module = _MAKERS.get(kind)
    return f"the package {module} is not installed here" if module and not here(module) else ""


def attention_refusal(kind: str, machine: Machine) -> str:
    """Why attention can't be computed as `kind` here, or nothing where it can."""
    if kind in ("flash_attention_2", "flex_attention") and not machine.gpus:
        return "it needs a GPU, and there is none here"
    module = _ATTENTION.get(kind)
    return f"the package {module} is not installed here" if module and not here(module) else ""


def model_problems(
    spec: RunSpec, machine: Machine, config: dict[str, Any] | None = None
) -> Iterator[Problem]:
    """What the section model asks of this machine that it does not have. `config` is the model's
    config.json, where it is known."""
    section = spec.model
    if section.device_map == "cuda" and not machine.gpus:
        yield Problem(
            "model.device_map",
            "asks for a GPU, and there is none here.",
            "Use auto.",
            {"model.device_map": "auto"},
        )
    if reason := attention_refusal(section.attn_implementation, machine):
        yield Problem(
            "model.attn_implementation",
            f"{section.attn_implementation} can't be used: {reason}.",
            "Use sdpa.",
            {"model.attn_implementation": "sdpa"},
        )
    elif section.attn_implementation.startswith("flash_") and section.dtype == "float32":
        yield Problem(
            "model.attn_implementation",
            f"{section.attn_implementation} is not computed in float32.",
            "Use sdpa, or another dtype.",
            {"model.attn_implementation": "sdpa"},
        )
    if reason := refusal(section.quantization, machine):
        yield Problem(
            "model.quantization",
            f"{section.quantization} can't be used: {reason}.",
            "Use nf4 or int8.",
            {"model.quantization": "nf4"},
        )
    yield from stored_problems(section, spec.adapter.method, config)
    yield from packed_problems(spec.adapter, quantized_as(config))
    layers = text_config(config or {}).get("num_hidden_layers")
    above = [n for n in spec.adapter.layers_to_transform if isinstance(layers, int) and n >= layers]
    if above and used("adapter.layers_to_transform", {"adapter": {"method": spec.adapter.method}}):
        yield Problem(
            "adapter.layers_to_transform",
            f"the model has no layer {above[0]}: its {layers} are counted from 0.",
            "Leave it out.",
            {
                "adapter.layers_to_transform": [
                    n for n in spec.adapter.layers_to_transform if n not in above
                ]
            },
        )


def stored_problems(
    section: ModelSection, method: str, config: dict[str, Any] | None
) -> Iterator[Problem]:
    """What a checkpoint that is quantized already does not go with, by its config.json."""
    stored = quantized_as(config)
    if stored is None:
        return
    if section.quantization != "none":
        yield Problem(
            "model.quantization",
            f"these weights are quantized already ({stored}) and can't be quantized again.",
            "Use none: they are loaded as they are.",
            {"model.quantization": "none"},
        )
    if stored == "hqq":
        yield Problem(
            "model.name_or_path",
            f"its weights are stored as hqq, and {_NO_HQQ}.",
            "Choose the unquantized version of the model.",
        )
    elif stored not in _TRAINABLE:
        yield Problem(
            "model.name_or_path",
            f"its weights are stored as {stored}, on which peft trains nothing.",
            "Choose the unquantized version of the model.",
        )
    elif not here(_TRAINABLE[stored]):
        yield Problem(
            "model.name_or_path",
            f"its weights are stored as {stored}, and the package {_TRAINABLE[stored]}, which "
            "unpacks them, is not installed here.",
            f"Install {_TRAINABLE[stored]}, or choose the unquantized version of the model.",
        )
    if method == "none":
        yield Problem(
            "adapter.method",
            f"is none, and {stored} weights are rounded and can't be trained themselves.",
            "Choose lora.",
            {"adapter.method": "lora"},
        )


def packed(stored: str | None) -> bool:
    """Whether weights that are `stored` so are held in layers that torch does not know as linear
    ones."""
    return stored in _ON_PACKED


def packed_problems(adapter: AdapterSection, stored: str | None) -> Iterator[Problem]:
    """What of an adapter peft can't put on the layers of a checkpoint that is `stored` so."""
    able = _ON_PACKED.get(stored or "")
    if able is None:
        return
    if adapter.method in LAYERWISE and adapter.method not in able:
        yield Problem(
            "adapter.method",
            f"is {adapter.method}, and peft has no layer of that kind for {stored} weights.",
            f"Use {', '.join(able[:-1])} or {able[-1]}.",
            {"adapter.method": "lora"},
        )
    if adapter.method != "lora":
        return
    if adapter.use_dora:
        yield Problem(
            "adapter.use_dora",
            f"DoRA needs the size of each weight, which peft can't read from {stored} ones.",
            "Turn it off.",
            {"adapter.use_dora": False},
        )
    if adapter.init_lora_weights not in _BLIND:
        yield Problem(
            "adapter.init_lora_weights",
            f"{adapter.init_lora_weights} starts from the weights, and {stored} ones are packed.",
            "Use default or gaussian.",
            {"adapter.init_lora_weights": "default"},
        )
