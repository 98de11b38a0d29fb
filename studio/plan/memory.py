"""Memory of a run by part, in bytes, from the model's shapes and the run's settings.

The formulas were counted byte by byte on this stack, or fitted to what was measured: where one
stands, it says which. docs/planner.md holds them against measurements.
"""

import math
from dataclasses import asdict, dataclass, replace

from studio.plan.machine import Machine
from studio.plan.shapes import Widths, unfit, unknown, widths
from studio.plan.summary import Summary
from studio.plan.trained import trainable
from studio.spec import NEXT_TOKEN, RunSpec, refusals

# Bytes a parameter: int8 has a scale a row; nf4 and fp4 a scale a block of 64, which double
# quantization shrinks to a byte and shares one in 256 of.
_BYTES = {"int8": 1.01, "nf4": 0.5625, "fp4": 0.5625, "hqq": 0.5625, "torchao": 1.01}
_DOUBLE = 0.516
# Bytes that an optimizer keeps for a parameter that it trains in float32, measured with what is
# pinned here.
_OPTIMIZER = {
    "adamw_torch": 8.0,
    "adamw_torch_fused": 8.0,
    "adamw_bnb_8bit": 2.03,
    "adamw_8bit": 2.03,
    "paged_adamw_32bit": 8.0,
    "paged_adamw_8bit": 2.03,
    "ademamix": 12.0,
    "ademamix_8bit": 3.05,
    "paged_ademamix_32bit": 12.0,
    "paged_ademamix_8bit": 3.05,
    "lion_32bit": 4.0,
    "lion_8bit": 1.02,
    "paged_lion_32bit": 4.0,
    "paged_lion_8bit": 1.02,
    "adafactor": 0.008,
    "sgd": 0.0,
    "adagrad": 4.0,
    "rmsprop": 4.0,
    "rmsprop_bnb": 4.0,
    "rmsprop_bnb_8bit": 1.02,
    "rmsprop_bnb_32bit": 4.0,
}
# torch's own keep their state in the parameter's own numbers.
_FOLLOWS_DTYPE = ("adamw_torch", "adamw_torch_fused", "adagrad", "rmsprop")
# The interpreter with its libraries; a GPU's context with the kernels it has loaded.
_CONTEXT = {"cpu": 0.62e9, "plain": 0.64e9, "fast": 0.81e9}
_HEAD_CHUNK, _HEAD_COLUMNS = 4096, 32_768  # trl's own
# Under autocast casts are kept too. Measured on three shapes on an H100, with adapters in float32
# and, of a quantized model, in bfloat16; and what packed rows add, whose attention has a mask.
_AUTOCAST = {4: 1.24, 2: 1.06}
_MASKED = 0.1
# What the libraries below hold while a GPU computes on the fast path, measured.
_FAST_WORKSPACE = 0.29e9


@dataclass(frozen=True)
class Parts:
    """Bytes at the peak of a step, by what they hold. `context` is what the libraries take before
    the first weight, `fragmentation` what the allocator holds and can't use."""

    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    workspace: float
    context: float
    fragmentation: float

    @property
    def total(self) -> float:
        """All of it."""
        return math.fsum(asdict(self).values())

    @property
    def allocated(self) -> float:
        """What torch's allocator would call its peak."""
        return self.total - self.context - self.fragmentation

    def scaled(self, factor: float) -> "Parts":
        """All of it, by a factor."""
        return Parts(**{name: value * factor for name, value in asdict(self).items()})


def on_gpu(spec: RunSpec, machine: Machine) -> bool:
    """Whether the run will be on a GPU."""
    return bool(machine.gpus) and spec.model.device_map != "cpu"


def engine_of(spec: RunSpec, machine: Machine, summary: Summary) -> str:
    """The engine that the run will train with, as far as it is known before it: plain or fast."""
    return "plain" if plain_because(spec, machine, summary) else "fast"


def plain_because(spec: RunSpec, machine: Machine, summary: Summary) -> str:
    """Why the plain path will train the run, or nothing where the fast one will."""
    engine = spec.train.engine
    if engine == "plain":
        return "it was chosen"
    if engine == "auto" and not (on_gpu(spec, machine) and machine.gpus[0].capability >= 8):
        return "auto takes the fast path on GPUs from Ampere on"
    if reasons := refusals(spec):
        return reasons[0].rstrip(".")
    # A layer that the fast path does not know is trained the plain way, which takes more memory:
    # what is not sure is planned so.
    config = summary.config or {}
    return unfit(config) or unknown(config)


def dtype_bytes(spec: RunSpec, machine: Machine) -> int:
    """Bytes of one unquantized weight."""
    if spec.model.dtype == "auto":
        return 2 if on_gpu(spec, machine) else 4
    return 4 if spec.model.dtype == "float32" else 2


def weight_bytes(
    summary: Summary, quantization: str, double: bool, dtype_bytes: int, float8: bool = False
) -> float:
    """Memory of the frozen weights. Only the layers' matrices are quantized."""
    linear = summary.linear_parameters
    per = _BYTES.get(quantization) or (1.002 if float8 else dtype_bytes)
    if quantization in ("nf4", "fp4") and double:
        per = _DOUBLE
    return linear * per + (summary.parameters - linear) * dtype_bytes


def parts(
    spec: RunSpec,
    summary: Summary,
    machine: Machine,
    tokens: float,
    scored: float = 1.0,
    count: int | None = None,
    held: float = 0.0,
) -> Parts:
    """The peak of a step with `tokens` in a micro-batch, of which the share `scored` counts;
    `count` are the trained parameters, where they are known, `held` the tokens in a batch of an
    evaluation."""
    gpu, fast = on_gpu(spec, machine), engine_of(spec, machine, summary) == "fast"
    each = dtype_bytes(spec, machine)
    full = spec.adapter.method == "none"
    held_in = _trained_bytes(spec, each, fast)
    if count is None:
        count = trainable(spec, summary)
    float8 = fast and gpu and spec.fast.float8
    # Where all of the model is trained, it is held in float32, and there are no other weights.
    weights = 0.0 if full else _weights(spec, summary, each, float8)
    state = _OPTIMIZER[spec.train.optim]
    if spec.train.optim in _FOLLOWS_DTYPE:
        state *= held_in / 4
    made = Parts(
        weights=weights,
        adapter=count * held_in,
        gradients=count * held_in,
        optimizer=count * state,
        activations=_activations(spec, summary, tokens, each, fast, gpu),
        logits=max(
            _logits(spec, summary, tokens, each, fast, gpu, scored),
            0.0 if gpu else _looked_at(spec, summary, held, fast, scored),
        ),
        workspace=_workspace(spec, summary, each, gpu) + (_FAST_WORKSPACE if gpu and fast else 0.0),
        context=_CONTEXT[("fast" if fast else "plain") if gpu else "cpu"],
        fragmentation=0.0,
    )
    return replace(made, fragmentation=_fragmentation(spec, made, fast, gpu))


def _weights(spec: RunSpec, summary: Summary, each: int, float8: bool) -> float:
    double = spec.model.bnb_4bit_use_double_quant
    return weight_bytes(summary, spec.model.quantization, double, each, float8)


def _trained_bytes(spec: RunSpec, each: int, fast: bool) -> int:
    """Bytes of a trained parameter: peft holds an adapter in float32, trl that of a quantized model
    in bfloat16, but the fast path all in float32."""
    quantized = spec.model.quantization != "none"
    return 2 if quantized and each == 2 and not fast and spec.model.dtype != "float16" else 4


def _activations(
    spec: RunSpec, summary: Summary, tokens: float, each: int, fast: bool, gpu: bool
) -> float:
    """What the forward pass keeps for the backward pass."""
    w = widths(summary.config or {}, summary.hidden_size)
    rank = spec.adapter.r if spec.adapter.method == "lora" else 0
    small = 14 * rank * each / 2 + 4 * w.heads
    # Compiled, what is elementwise is made again in backward. The plain path keeps what dropout
    # leaves of each adapter's input, with what it dropped: a byte on a GPU.
    compiled = fast and spec.fast.compile != "never" and (gpu or spec.fast.compile == "always")
    left = 0.0 if fast else read_by_adapters(spec, summary) * (each + (1 if gpu else each))
    if compiled or (fast and not gpu):
        one = _of_fast(w, compiled) * each + small
        # The gradients of the layer that is in hand.
        passing = (2.0 * w.inner + 2 * w.hidden) * each if compiled else 0.0
    else:
        one, passing = _of_plain(spec, w, small + 8, each, fast)
    if w.normed and not compiled:
        # The norms of queries and keys work in float32.
        one += (4 + each) * (w.query + w.pair)
    if not fast and not gpu:
        # A CPU's attention keeps its scores, for each row of the batch or the packed one.
        rows = 1 if spec.train.packing else spec.train.per_device_train_batch_size
        one += w.heads * tokens / rows * each
    one += left
    layers = summary.layers
    replayed = _replayed(spec, layers, fast)
    inputs = replayed * w.hidden * each * (0 if fast and gpu and spec.fast.host else 1)
    return tokens * ((layers - replayed) * one + inputs + (one if replayed else 0) + passing)


def _of_fast(w: Widths, compiled: bool) -> float:
    """Numbers that a token and layer keep on the fast path. Compiled, the products alone, which is
    within 3 % of what was measured on three shapes; else what stands between them as well, but no
    copies for a mask or for padding, and one input for the products that share it."""
    if compiled:
        normed = w.query + w.pair if w.normed else 0
        return 2 * w.inner + 2 * w.hidden + 2 * w.query + 2 * w.pair + normed
    return 4 * w.inner + 4 * w.hidden + 2 * w.query + 2 * w.pair


def _of_plain(spec: RunSpec, w: Widths, small: float, each: int, fast: bool) -> tuple[float, float]:
    """Bytes that a token and layer of Llama's kind keep, and that one layer takes in passing.
    Counted byte by byte in bfloat16 as 8i + 14h + 2q + 4kv, which float32 doubles, and what is
    `small`: 14r + 4 heads + 8."""
    kept = (8 * w.inner + 14 * w.hidden + 2 * w.query + 4 * w.pair) * each / 2 + small
    if each != 2 or fast:
        return kept, 0.0
    held = _trained_bytes(spec, each, fast)
    kept *= _AUTOCAST[held] + (_MASKED if spec.train.packing else 0.0)
    # The inputs of adapters in float32, cast anew in backward.
    return kept, 4.0 * (w.inner + w.hidden) if held == 4 else 0.0


def read_by_adapters(spec: RunSpec, summary: Summary) -> float:
    """Numbers a token and layer that adapters with dropout read."""
    if spec.adapter.method != "lora" or not spec.adapter.lora_dropout:
        return 0.0
    targets = summary.targets(spec.adapter.target_modules)
    return sum(s.dims[-1] for s in targets) / max(1, summary.layers)


def _replayed(spec: RunSpec, layers: int, fast: bool) -> int:
    """Layers that are computed again in backward."""
    if fast and spec.fast.replay:
        return min(spec.fast.replay, layers)
    return layers if spec.train.activation_checkpointing else 0


def _logits(
    spec: RunSpec, summary: Summary, tokens: float, each: int, fast: bool, gpu: bool, scored: float
) -> float:
    """The loss's own memory: the fast path's and trl's losses never hold all logits; those that
    compare answers do."""
    vocabulary, hidden = summary.vocab_size, summary.hidden_size
    if fast:
        chunk = min(spec.fast.chunk, tokens * (1 if gpu else scored))
        # On a GPU the gradient takes the logits' place; a CPU holds some float32 copies.
        return chunk * vocabulary * (each if gpu else 16) + tokens * hidden * each
    if spec.train.trainer in NEXT_TOKEN:
        # A GPU's kernel works in the tile's place; without it backward holds nine of them, in
        # float32: the tile, the logits at two scales, their logarithms and exponentials, the
        # gradient and what it is made of.
        columns = min(vocabulary, _HEAD_COLUMNS) if not gpu else _HEAD_COLUMNS
        tile = min(tokens, _HEAD_CHUNK) * columns
        return tile * (each if gpu else 9 * 4) + 8.0 * tokens * hidden
    if spec.train.trainer == "reward":
        return 8.0 * tokens * hidden
    return 12.0 * tokens * vocabulary


def _looked_at(spec: RunSpec, summary: Summary, tokens: float, fast: bool, scored: float) -> float:
    """The logits of an evaluation's batch on a CPU, whose allocator keeps what the steps took: four
    float32 copies of each, as measured."""
    if fast:
        return 16.0 * min(spec.fast.chunk, tokens * scored) * summary.vocab_size
    if spec.train.trainer not in NEXT_TOKEN:
        return 12.0 * tokens * summary.vocab_size
    return 16.0 * min(tokens, _HEAD_CHUNK) * min(summary.vocab_size, _HEAD_COLUMNS)


def _workspace(spec: RunSpec, summary: Summary, each: int, gpu: bool) -> float:
    """The largest quantized weight, unpacked."""
    if spec.model.quantization == "none" or spec.adapter.method == "none":
        return 0.0
    sizes = [math.prod(s.dims) for s in summary.linear]
    w = widths(summary.config or {}, summary.hidden_size)
    return float(max(sizes, default=w.inner * w.hidden) * (each if gpu else 4))


def _fragmentation(spec: RunSpec, made: Parts, fast: bool, gpu: bool) -> float:
    """What lies between what is allocated and what is reserved: 2 to 5 % measured where shapes
    come again. On the fast path where they don't, what a new shape needs the first time lies beside
    what the recorded ones hold."""
    if not gpu:
        return 0.05 * (made.activations + made.logits)
    if fast and not spec.train.packing:
        return made.activations
    return (0.025 if fast else 0.04) * made.allocated
