"""What a run will take: steps, memory, time. An estimate, and said to be one on the page."""

import math
from dataclasses import dataclass

from studio.plan.machine import Machine
from studio.plan.model import Summary, number
from studio.plan.trained import trainable
from studio.spec import RunSpec

# Bytes a parameter: int8 has a scale a row; nf4 and fp4 a scale a block of 64, which double
# quantization shrinks.
_BYTES = {"none": 0.0, "int8": 1.01, "nf4": 0.5625, "fp4": 0.5625, "hqq": 0.5625, "torchao": 1.01}
# Bytes that an optimizer keeps for a parameter that it trains, measured with what is pinned here.
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
_RUNTIME = {"cpu": 0.7e9, "gpu": 1.2e9}
_CHARACTERS_PER_TOKEN = 3.6
# Flops that a trained token really gets here before any run has been measured: LoRA needs
# 4 flops a parameter and token. A core gives 70 GFLOP/s in float32, a GPU 120 TFLOP/s.
_FLOPS_CORE = 7.0e10
_FLOPS_GPU = 1.2e14


@dataclass(frozen=True)
class Plan:
    """Memory in bytes, time in seconds; both and `fits` are None where the model is not known
    before it is fetched."""

    train_rows: int
    eval_rows: int
    steps: int
    trainable: int
    memory: float | None
    seconds: float | None
    fits: bool | None


def weight_bytes(summary: Summary, quantization: str, double: bool, dtype_bytes: int) -> float:
    """Memory of the frozen weights. Only the layers' matrices are quantized."""
    linear = sum(math.prod(s.dims) for s in summary.shapes if s.is_linear)
    linear = linear or int(summary.parameters - summary.vocab_size * summary.hidden_size)
    per = _BYTES[quantization] or dtype_bytes
    if quantization in ("nf4", "fp4") and double:
        per = 0.516
    return linear * per + (summary.parameters - linear) * dtype_bytes


def dtype_bytes(spec: RunSpec, machine: Machine) -> int:
    """Bytes of one unquantized weight."""
    if spec.model.dtype == "auto":
        return 2 if machine.gpus else 4
    return 4 if spec.model.dtype == "float32" else 2


def steps(spec: RunSpec, train_rows: int) -> int:
    """Optimizer steps of the run, as the Trainer counts them; without packing."""
    if spec.train.max_steps > 0:
        return spec.train.max_steps
    if spec.train.trainer == "grpo":
        # A row is a prompt, and only whole steps of prompts are taken.
        each = spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps
        prompts = max(1, each // spec.grpo.num_generations)
        return math.ceil(max(1, train_rows // prompts) * spec.train.num_train_epochs)
    batches = math.ceil(train_rows / spec.train.per_device_train_batch_size)
    per_epoch = max(1, math.ceil(batches / spec.train.gradient_accumulation_steps))
    return math.ceil(per_epoch * spec.train.num_train_epochs)


def activation_bytes(spec: RunSpec, summary: Summary, tokens: float, each: int) -> float:
    """What the forward pass keeps for the backward pass, in bytes, for a batch of `tokens`.

    For a token and a layer of Llama's kind in bfloat16: 8i + 14h + 2q + 4kv + 14r + 4 heads + 8
    (i: intermediate, h: hidden, q and kv: widths of the projections, r: the adapter's rank),
    counted on this stack byte by byte. All but the last two are numbers of two bytes, which
    float32 doubles. Checkpointing keeps a layer's input, and one layer at a time.
    """
    config, hidden = summary.config or {}, summary.hidden_size
    heads = number(config, "num_attention_heads")
    kv_heads = number(config, "num_key_value_heads") or heads
    width = number(config, "head_dim") or (hidden // heads if heads else 0)
    # Four times the hidden size is the usual width where the config does not say.
    inner = number(config, "intermediate_size") or 4 * hidden
    query, pair = heads * width or hidden, kv_heads * width or hidden
    rank = {"lora": spec.adapter.r, "adalora": spec.adalora.init_r}.get(spec.adapter.method, 0)
    parts = 8 * inner + 14 * hidden + 2 * query + 4 * pair + 14 * rank
    layer = parts * each / 2 + 4 * heads + 8
    if spec.train.activation_checkpointing:
        return tokens * (summary.layers * hidden * each + layer)
    return tokens * summary.layers * layer


def memory_bytes(spec: RunSpec, summary: Summary, machine: Machine, tokens: float) -> float:
    """The most that a run takes at once, in bytes, with `tokens` in a batch."""
    each = dtype_bytes(spec, machine)
    double = spec.model.bnb_4bit_use_double_quant
    weights = weight_bytes(summary, spec.model.quantization, double, each)
    if spec.adapter.method == "none":
        # They are what is trained, and counted there; two trainers keep a copy to compare with.
        weights = summary.parameters * 4.0 if spec.train.trainer in ("dpo", "kto") else 0.0
    # What is trained is held in float32, as are its gradients.
    adapter = trainable(spec, summary) * (4.0 + 4.0 + _OPTIMIZER[spec.train.optim])
    # trl computes the loss in chunks of the vocabulary and never holds all logits.
    head = each * min(tokens, 4096) * 32_768 + 8.0 * tokens * summary.hidden_size
    runtime = _RUNTIME["gpu" if machine.gpus else "cpu"]
    return weights + adapter + activation_bytes(spec, summary, tokens, each) + head + runtime


def plan(
    spec: RunSpec,
    summary: Summary,
    machine: Machine,
    train_rows: int,
    eval_rows: int,
    characters: float,
    seconds_per_token: float | None = None,
) -> Plan:
    """The plan for rows of `characters` each on average. `seconds_per_token`, from an earlier run
    of this model here, takes the place of the machine's assumed speed."""
    train = spec.train
    length = min(train.max_length, max(16.0, characters / _CHARACTERS_PER_TOKEN + 30))
    count = steps(spec, train_rows)
    if not summary.parameters:
        return Plan(train_rows, eval_rows, count, 0, None, None, None)
    batch_tokens = train.per_device_train_batch_size * length
    memory = memory_bytes(spec, summary, machine, batch_tokens)
    flops = _FLOPS_GPU if machine.gpus else _FLOPS_CORE * machine.cores
    each = seconds_per_token or summary.parameters * 4.0 / flops * (
        1.5 if train.activation_checkpointing else 1.0
    )
    tokens = count * batch_tokens * train.gradient_accumulation_steps
    evaluations = _evaluations(spec, count) if eval_rows else 0
    # An evaluation has no backward pass: half of the work of a trained token.
    seconds = each * (tokens + 0.5 * evaluations * eval_rows * length) + 15
    parameters = trainable(spec, summary)
    fits = memory < machine.free
    return Plan(train_rows, eval_rows, count, parameters, memory, seconds, fits)


def _evaluations(spec: RunSpec, count: int) -> int:
    """How often the held-back rows are measured in a run of `count` steps."""
    evaluation = spec.eval
    times = {
        "no": 0,
        "epoch": math.ceil(spec.train.num_train_epochs),
        "steps": count // evaluation.eval_steps,
    }[evaluation.eval_strategy]
    return times + (evaluation.eval_on_start and evaluation.eval_strategy != "no")


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
