"""How many parameters each method trains, told from the shapes of the model's weights.

The formulas are those of peft's layers, and are tested against them."""

import math
import re
from collections.abc import Iterable

from studio.plan.summary import Shape, Summary, number
from studio.spec import LAYERWISE, RunSpec


def trainable(spec: RunSpec, summary: Summary) -> int:
    """Parameters that the run trains; 0 where the shapes of the model are not known yet."""
    method = spec.adapter.method
    if method == "none":
        return summary.parameters
    if method not in LAYERWISE:
        return _prompt(spec, summary) if summary.hidden_size else 0
    targets = [s for s in summary.targets(spec.adapter.target_modules) if _chosen(spec, s)]
    own = sum(_layer(spec, shape) for shape in targets)
    if method == "vera" and not targets:
        return 0
    return own + _biases(spec, summary, targets) + _saved(spec, summary)


def _chosen(spec: RunSpec, shape: Shape) -> bool:
    """Whether the weight lies in one of the layers that are asked for."""
    layers = spec.adapter.layers_to_transform if spec.adapter.method != "ia3" else []
    found = re.search(r"\.(\d+)\.", shape.name)
    return not layers or (found is not None and int(found[1]) in layers)


def _layer(spec: RunSpec, shape: Shape) -> int:
    """What the method adds to one linear layer of `outputs` x `inputs`."""
    outputs, inputs = shape.dims
    match spec.adapter.method:
        case "lora":
            rank = _pattern(spec.adapter.rank_pattern, shape, spec.adapter.r)
            return rank * (inputs + outputs) + (outputs if spec.adapter.use_dora else 0)
        case "adalora":
            return spec.adalora.init_r * (inputs + outputs + 1)
        case "ia3":
            inner = shape.name.split(".")[-2] in spec.ia3.feedforward_modules
            return inputs if inner else outputs
        case "loha":
            return 2 * spec.loha.r * (inputs + outputs)
        case "lokr":
            return _kronecker(spec, outputs, inputs)
        case "oft":
            block = min(spec.oft.oft_block_size, inputs)
            blocks = 1 if spec.oft.block_share else inputs // block
            return blocks * block * (block - 1) // 2
    return spec.vera.r + outputs


def _pattern(pattern: dict[str, int], shape: Shape, default: int) -> int:
    """peft's rule: a key is an expression that the end of the layer's name matches."""
    name = shape.name.removesuffix(".weight")
    for key, value in pattern.items():
        try:
            if re.match(rf"(.*\.)?({key})$", name):
                return value
        except re.error:
            continue
    return default


def _kronecker(spec: RunSpec, outputs: int, inputs: int) -> int:
    own = spec.lokr
    out_small, out_large = factors(outputs, own.decompose_factor)
    in_small, in_large = factors(inputs, own.decompose_factor)
    low = own.decompose_both and own.r < max(out_small, in_small) / 2
    small = own.r * (out_small + in_small) if low else out_small * in_small
    low = own.r < max(out_large, in_large) / 2
    return small + (own.r * (out_large + in_large) if low else out_large * in_large)


def factors(size: int, factor: int) -> tuple[int, int]:
    """The two factors that LoKr splits a size into: the smaller one first, as close to `factor`, or
    else to the square root, as its divisors allow."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor == -1 else factor
    small = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0 and d <= most)
    return small, size // small


def _biases(spec: RunSpec, summary: Summary, targets: Iterable[Shape]) -> int:
    section = spec.adapter if spec.adapter.method == "lora" else getattr(spec, spec.adapter.method)
    kind = getattr(section, "bias", "none")
    if kind == "none":
        return 0
    own = {s.name.removesuffix(".weight") for s in targets}
    return sum(
        math.prod(s.dims)
        for s in summary.shapes
        if s.name.endswith(".bias") and (kind == "all" or s.name.removesuffix(".bias") in own)
    )


def _saved(spec: RunSpec, summary: Summary) -> int:
    """Modules that are trained whole. A head that shares the embedding's weight is a copy of it."""
    wanted = spec.adapter.modules_to_save
    held = sum(
        math.prod(s.dims)
        for s in summary.shapes
        # peft's rule: the end of a module's name.
        if s.name.rpartition(".")[0].endswith(tuple(wanted))
    )
    if "lm_head" in wanted and not any(s.name.startswith("lm_head.") for s in summary.shapes):
        held += summary.vocab_size * summary.hidden_size
    return held


def _prompt(spec: RunSpec, summary: Summary) -> int:
    width, method = summary.hidden_size, spec.adapter.method
    match method:
        case "prompt_tuning":
            return spec.prompt_tuning.num_virtual_tokens * width
        case "prefix_tuning":
            return _prefix(spec, summary)
        case "p_tuning":
            return _encoder(spec, width)
    own = spec.multitask_prompt_tuning
    return own.num_virtual_tokens * width + own.num_ranks * (own.num_virtual_tokens + width)


def _prefix(spec: RunSpec, summary: Summary) -> int:
    """Keys and values of all layers, or the network that makes them."""
    own, config = spec.prefix_tuning, summary.config or {}
    heads = number(config, "num_attention_heads") or 1
    pairs = number(config, "num_key_value_heads") or heads
    width = (number(config, "head_dim") or summary.hidden_size // heads) * pairs
    made = summary.layers * 2 * width
    if not own.prefix_projection:
        return own.num_virtual_tokens * made
    inner = own.encoder_hidden_size
    return own.num_virtual_tokens * width + inner * (width + 1) + made * (inner + 1)


def _encoder(spec: RunSpec, width: int) -> int:
    """The network of P-tuning, with the embedding that it reads."""
    own = spec.p_tuning
    inner, read = own.encoder_hidden_size, own.num_virtual_tokens * width
    if own.encoder_reparameterization_type == "MLP":
        return read + inner * (width + 1) + inner * (inner + 1) + width * (inner + 1)
    # A layer of an LSTM has four gates, each with two biases, and reads from both sides.
    layers = [width] + [2 * inner] * (own.encoder_num_layers - 1)
    gates = sum(2 * 4 * inner * (size + inner + 2) for size in layers)
    return read + gates + 2 * inner * (2 * inner + 1) + width * (2 * inner + 1)
