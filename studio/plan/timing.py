"""Time of a run: flops and bytes against what the device reaches, and what the host costs.

A GPU's shares and bytes are fitted to runs of five shapes on an H100 and an H200; what waits for
the host depends on that, too (docs/planner-gpu.md). What was measured in earlier runs here corrects
them (`learned`).
"""

from dataclasses import dataclass

from studio.plan.gpus import kind_of
from studio.plan.lengths import Rows, Shape
from studio.plan.machine import Machine
from studio.plan.memory import engine_of, on_gpu, read_by_adapters
from studio.plan.shapes import widths
from studio.plan.summary import Summary
from studio.spec import RunSpec

# The share of a large product's speed that a step's products reach; in float8, of bfloat16's.
_SHARE = {"plain": 0.547, "fast": 0.936, "float8": 1.417}
# The same of attention by a kernel that reads a mask.
_MASKED_SHARE = 0.05
# Bytes moved beside the products: on the fast path for each number that a layer hands on; on the
# plain one for each score of the vocabulary, and for each token and layer with an adapter in
# float32.
_LAYER_BYTES, _SCORE_BYTES, _CAST_BYTES = 30.2, 700.0, 1.15e6
# Seconds for a layer's pass beside that: the start of its kernels. In int8 the GPU waits for them.
_STARTS, _STARTS_INT8 = {"plain": 2.46e-3, "fast": 2.2e-4}, 8.3e-3
# Flops a second and core in float32, measured; what bfloat16 makes of it without instructions for
# it, and quantized weights.
_CORE = 5.5e10
_CPU_FACTORS = {"bfloat16": 0.3, "nf4": 0.85, "int8": 0.87, "fp4": 0.85}
# With instructions for it: the embedded model, plain and fast, 1.03 and 1.34 times float32's speed.
_CPU_BFLOAT16 = 1.2
# Seconds that each layer's pass costs beyond its flops, and each micro-batch.
_CPU_LAYER, _CPU_BATCH = 3e-4, 0.01
# Seconds of a core for each token and word of the vocabulary: 20 passes at 10 GB/s.
_CPU_TILE = 20 * 4 / 1e10
_START = {"cpu": 15.0, "gpu": 30.0}
_COMPILING = 15.0


@dataclass(frozen=True)
class Times:
    """Seconds: before the first step, of the steps, of the evaluations."""

    start: float
    steps: float
    evaluations: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.start + self.steps + self.evaluations


def flops_per_token(spec: RunSpec, summary: Summary, length: float, scored: float = 1.0) -> float:
    """Flops that a trained token needs: 4 for each frozen weight it is multiplied by, 6 where that
    is trained too, and attention to half of its row; checkpointing adds a pass of 2."""
    trained = spec.adapter.method == "none"
    w = widths(summary.config or {}, summary.hidden_size)
    linear = summary.linear_parameters
    head = summary.vocab_size * summary.hidden_size * scored
    attention = 6.0 * w.query * length * summary.layers
    again = 2.0 * linear * replayed_share(spec, summary.layers)
    return (6.0 if trained else 4.0) * (linear + head) + again + attention


def replayed_share(spec: RunSpec, layers: int) -> float:
    """The share of layers that are computed again."""
    if spec.fast.replay and spec.train.engine != "plain":
        return min(1.0, spec.fast.replay / max(1, layers))
    return 1.0 if spec.train.activation_checkpointing else 0.0


def micro_batch(
    spec: RunSpec, summary: Summary, machine: Machine, shape: Shape, rows: Rows
) -> float:
    """Seconds of a micro-batch, forward and backward."""
    length = rows.cut(spec.train.max_length).mean
    engine = engine_of(spec, machine, summary)
    # A CPU scores only what counts on the fast path; a GPU's shapes stay fixed.
    gpu = on_gpu(spec, machine)
    scored = rows.scored if engine == "fast" and not gpu else 1.0
    work = shape.usual * flops_per_token(spec, summary, length, scored)
    if not gpu:
        starting = _CPU_LAYER * (2 + replayed_share(spec, summary.layers)) * summary.layers
        tile = 0.0
        if engine == "plain":
            # Without a GPU's kernel the loss goes over its tiles again and again.
            tile = shape.usual * summary.vocab_size * _CPU_TILE / machine.cores
        return work / _cpu_speed(spec, machine) + starting + tile + _CPU_BATCH
    return _on_gpu(spec, summary, machine, shape, work)


def _on_gpu(spec: RunSpec, summary: Summary, machine: Machine, shape: Shape, work: float) -> float:
    kind, train = kind_of(machine.gpus[0].name), spec.train
    engine = engine_of(spec, machine, summary)
    w = widths(summary.config or {}, summary.hidden_size)
    layers = (2 + replayed_share(spec, summary.layers)) * summary.layers
    passed = shape.usual * layers
    starts = layers * _STARTS[engine]
    if engine == "fast":
        moved = passed * (w.inner + 2 * w.hidden + w.query + w.pair) * _LAYER_BYTES
        # Dropout's inputs are written and read once more in 16 bits: 4.8% of a step of Mistral-7B's
        # shape on an H100, where 4.4% were measured.
        moved += passed * read_by_adapters(spec, summary) * 4.0
        share = _SHARE["float8" if spec.fast.float8 else "fast"]
        return work / (kind.flops * share) + moved / (kind.bandwidth * 1e9) + starts
    moved = shape.usual * summary.vocab_size * _SCORE_BYTES
    if spec.model.quantization == "none":
        moved += passed * _CAST_BYTES
    width = train.max_length if train.packing else shape.usual / train.per_device_train_batch_size
    masked = 4.0 * passed * width * w.query
    found = (
        work / (kind.flops * _SHARE["plain"])
        + masked / (kind.flops * _MASKED_SHARE)
        + moved / (kind.bandwidth * 1e9)
        + starts
    )
    return max(found, layers * _STARTS_INT8) if spec.model.quantization == "int8" else found


def _cpu_speed(spec: RunSpec, machine: Machine) -> float:
    speed = _CORE * machine.cores
    for name in (spec.model.dtype, spec.model.quantization):
        speed *= _CPU_FACTORS.get(name, 1.0)
    if spec.model.dtype == "bfloat16" and machine.cpu_bfloat16:
        speed *= _CPU_BFLOAT16 / _CPU_FACTORS["bfloat16"]
    return speed


def times(spec: RunSpec, summary: Summary, machine: Machine, shape: Shape, rows: Rows) -> Times:
    """Seconds of the run, by part."""
    gpu = on_gpu(spec, machine)
    each = micro_batch(spec, summary, machine, shape, rows)
    steps = shape.steps * spec.train.gradient_accumulation_steps * each
    start = _START["gpu" if gpu else "cpu"]
    if gpu and engine_of(spec, machine, summary) == "fast" and spec.fast.compile != "never":
        start += _COMPILING
    per_token = each / max(1.0, shape.usual)
    tokens = rows.eval * rows.cut(spec.train.max_length).mean
    # An evaluation has no backward pass: half of the work of a trained token.
    evaluations = evaluations_of(spec, shape.steps) * 0.5 * per_token * tokens if rows.eval else 0.0
    return Times(start, steps, evaluations)


def evaluations_of(spec: RunSpec, steps: int) -> int:
    """How often the held-back rows are measured in a run of `steps`."""
    evaluation = spec.eval
    counted = {
        "no": 0,
        "epoch": -(-spec.train.num_train_epochs // 1),
        "steps": steps // evaluation.eval_steps,
    }[evaluation.eval_strategy]
    return int(counted) + (evaluation.eval_on_start and evaluation.eval_strategy != "no")
