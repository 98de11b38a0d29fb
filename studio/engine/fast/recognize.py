"""What a model is made of, read from its layers, and why the fast path may not fit it.

Only what is known to be sound passes. The names are those of the parts, which the families share;
a model's own name plays no role.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from studio.engine.fast.storage import parts_of

_ATTENTION = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "gate_up_proj", "down_proj"}
_NORMS = {"input_layernorm", "post_attention_layernorm"}
_EXPERTS = {"experts", "router", "gate", "shared_expert", "block_sparse_moe"}


@dataclass(frozen=True)
class Anatomy:
    """The parts that the fast path touches."""

    trunk: Any  # the decoder: embed_tokens, layers, norm
    head: Tensor  # the output head's weight [V, h]
    adapted: tuple[Any, ...]  # PEFT's LoRA layers
    bare: tuple[Any, ...]  # linear layers without an adapter
    # For each decoder layer its last product, where nothing but the layer's output reads it.
    tails: tuple[Any, ...]

    @property
    def config(self) -> Any:
        """The text model's config, whose attention implementation the layers read."""
        return self.trunk.config

    @property
    def layers(self) -> list[Any]:
        """The decoder layers that run."""
        return list(self.trunk.layers)


def read(model: Any) -> tuple[Anatomy | None, list[str]]:
    """The model's anatomy, or None, and the reasons against it, in words."""
    if not isinstance(model, PeftModel):
        return None, ["The model has no adapter."]
    reasons = _adapter_reasons(model)
    base = model.get_base_model()
    trunk: Any = getattr(base, getattr(base, "base_model_prefix", ""), None)
    head = model.get_output_embeddings()
    if not all(hasattr(trunk, part) for part in ("layers", "embed_tokens", "norm")):
        return None, [
            *reasons,
            "It is no plain text decoder made of embed_tokens, layers and norm.",
        ]
    reasons += _head_reasons(head, base.config)
    kinds = {type(layer) for layer in trunk.layers}
    if len(kinds) != 1:
        reasons.append(f"Its layers are of {len(kinds)} kinds; one is expected.")
    layer_reasons: dict[str, None] = {}
    for layer in trunk.layers:
        layer_reasons.update(dict.fromkeys(_layer_reasons(layer)))
    reasons += layer_reasons
    adapted = tuple(m for m in trunk.layers.modules() if isinstance(m, LoraLayer))
    reasons += _trained_elsewhere(model, adapted)
    if reasons:
        return None, reasons
    inside = {id(part) for m in adapted for part in m.modules()}
    bare = tuple(m for m in trunk.layers.modules() if _is_linear(m) and id(m) not in inside)
    tails = tuple(tail_of(layer) for layer in trunk.layers)
    return Anatomy(trunk, head.weight, adapted, bare, tails), []


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "weight")


def _adapter_reasons(model: PeftModel) -> list[str]:
    if len(model.peft_config) != 1:
        return [f"It has {len(model.peft_config)} adapters; the fast path knows one."]
    config = next(iter(model.peft_config.values()))
    if str(config.peft_type.value) != "LORA":
        return [f"The adapter is {config.peft_type.value}, not LoRA."]
    wrong = {
        "DoRA needs the decoded weights' norms in every step.": config.use_dora,
        "Biases are trained too.": config.bias != "none" or config.lora_bias,
        "Whole modules are trained beside the adapter.": bool(config.modules_to_save),
        "Single tokens' embeddings are trained too.": bool(config.trainable_token_indices),
    }
    reasons = [reason for reason, holds in wrong.items() if holds]
    if not reasons and any(m.lora_variant for m in model.modules() if isinstance(m, LoraLayer)):
        reasons.append("The adapter is a variant of LoRA.")
    if any(m.merged for m in model.modules() if isinstance(m, LoraLayer)):
        reasons.append("The adapter is merged into the weights.")
    return reasons


def _head_reasons(head: Any, config: Any) -> list[str]:
    reasons = []
    if getattr(head, "weight", None) is None or not head.weight.is_floating_point():
        reasons.append("Its output head is quantized or missing.")
    elif head.weight.requires_grad or getattr(head, "bias", None) is not None:
        reasons.append("Its output head is trained or has a bias.")
    changes = ("final_logit_softcapping", "logits_scaling", "logit_scale")
    return reasons + [
        f"It changes its logits ({name}), which the fused loss does not do."
        for name in changes
        if getattr(config, name, None) not in (None, 1, 1.0)
    ]


def _layer_reasons(layer: Any) -> list[str]:
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    names = {name.rsplit(".", 1)[-1] for name, _ in layer.named_modules()}
    if names & _EXPERTS:
        return ["It is a mixture of experts; which weights a token needs changes at every step."]
    if not hasattr(attention, "o_proj") or not hasattr(mlp, "down_proj"):
        return ["Its layers are not made of self_attn with o_proj and mlp with down_proj."]
    reasons = _attention_reasons(attention)
    for name, module in layer.named_modules():
        reasons += _module_reasons(name, module)
    return reasons


def _attention_reasons(attention: Any) -> list[str]:
    reasons = []
    if getattr(attention, "attention_dropout", 0.0):
        reasons.append("Its attention has dropout.")
    if getattr(attention, "attn_logit_softcapping", None) is not None:
        reasons.append(
            "Its attention scores are soft-capped, which torch's variable-length attention does "
            "not do."
        )
    if getattr(attention, "sinks", None) is not None:
        reasons.append("Its attention has sinks.")
    if not getattr(attention, "is_causal", True):
        reasons.append("Its attention looks ahead.")
    return reasons


def _module_reasons(path: str, module: nn.Module) -> list[str]:
    parents, _, name = path.rpartition(".")
    if isinstance(module, LoraLayer):
        base = module.base_layer
        return _linear_reasons(name, base)
    if any(step in _ATTENTION | _MLP for step in parents.split(".")):
        return []  # inside a LoRA layer
    if isinstance(module, nn.Dropout) and module.p > 0:
        return ["Its layers have dropout."]
    if _is_linear(module):
        return _linear_reasons(name, module)
    own = list(module.parameters(recurse=False))
    if own and not ("norm" in name and all(p.dim() == 1 for p in own)):
        return [f"Its layers hold something that the fast path does not know: {name}."]
    return []


def _linear_reasons(name: str, linear: Any) -> list[str]:
    if name not in _ATTENTION | _MLP:
        return [f"Its layers have a linear layer that the fast path does not know: {name}."]
    try:
        parts_of(linear)
    except ValueError as error:
        return [f"Its weights are not dense and not 4-bit: {error}."]
    return []


def _trained_elsewhere(model: PeftModel, adapted: tuple[Any, ...]) -> list[str]:
    known = {id(p) for layer in adapted for p in layer.parameters()}
    strange = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    return [f"Something outside the layers' adapters is trained: {strange[0]}."] if strange else []


def tail_of(layer: Any) -> Any:
    """The layer's down_proj if the layer's output is a residual plus what down_proj gives, else
    None. Its gradient then needs no value of it, so a replay can leave that product out."""
    children = {name for name, child in layer.named_children() if list(child.parameters())}
    mlp = {name for name, child in layer.mlp.named_children() if list(child.parameters())}
    plain = children == {"self_attn", "mlp"} | _NORMS and mlp <= _MLP
    return layer.mlp.down_proj if plain and isinstance(layer.mlp.down_proj, LoraLayer) else None


def recordable(trunk: Any) -> bool:
    """Whether nothing in the decoder asks the GPU for a number, so that a graph can hold it. Rotary
    embeddings that depend on the length do."""
    kind = getattr(getattr(trunk, "rotary_emb", None), "rope_type", "default")
    kinds = set(kind.values()) if isinstance(kind, dict) else {kind}
    return not kinds & {"dynamic", "longrope"}


def machine_reasons(device: torch.device, dtype: torch.dtype, float8: bool) -> list[str]:
    """Why this device can't do it."""
    if device.type == "cpu":
        return ["float8 products need a GPU."] if float8 else []
    if device.type != "cuda":
        return [f"The fast path knows CUDA GPUs and CPUs, not {device.type}."]
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return [f"The {name} is too old: its attention kernels need an Ampere GPU or newer."]
    if dtype is not torch.bfloat16:
        return [f"The model computes in {str(dtype)[6:]}; the fast path does it in bfloat16."]
    if float8 and capability < (8, 9):
        return [f"The {name} has no float8 products; Ada, Hopper and Blackwell have."]
    return []
