"""The fastest settings that fit: what `auto` chooses, and why. What is learned stays the same: the
rows of a step, their length, the adapter, the optimizer's rates."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from studio.errors import SpecError
from studio.plan.able import quantized_as
from studio.plan.estimate import ROOM, Plan, plan
from studio.plan.known import KNOWN, known_config
from studio.plan.learned import NOTHING, Learned
from studio.plan.lengths import Rows
from studio.plan.machine import Machine, gb
from studio.plan.memory import on_gpu, plain_because
from studio.plan.model import outline
from studio.plan.possible import problems
from studio.plan.shapes import unfit, unknown
from studio.plan.summary import Summary
from studio.spec import NEXT_TOKEN, RunSpec, refusals, value_at, with_values

_SHORTEST = 256


@dataclass(frozen=True)
class Reason:
    """One choice: the field, its value, what it was, and why."""

    field: str
    value: Any
    was: Any
    why: str


@dataclass(frozen=True)
class Choice:
    """`changes` are the fields that are set otherwise than they were; `reasons` tell of all that
    was decided. `remedy` says, where nothing fits, by how much, and what would."""

    spec: RunSpec
    plan: Plan
    changes: dict[str, Any]
    reasons: tuple[Reason, ...]
    threads: int
    remedy: str = ""


def choose(
    spec: RunSpec,
    summary: Summary,
    machine: Machine,
    rows: Rows,
    learned: Learned = NOTHING,
) -> Choice | None:
    """The choice for such a run, or None where nothing is known of the model."""
    if not summary.parameters:
        return None
    base = _possible(spec, machine, summary)
    made = [
        (changed, plan(changed, summary, machine, rows, learned))
        for changed in _candidates(base, summary, machine, rows)
    ]
    fitting = [(s, p) for s, p in made if (p.memory or math.inf) <= ROOM * p.free]
    if fitting:
        best, found = min(fitting, key=lambda pair: _cost(pair, base))
        remedy = ""
    else:
        best, found = min(made, key=lambda pair: pair[1].memory or math.inf)
        remedy = _remedy(best, found, summary, machine, rows)
    changes = _differences(spec, best)
    return Choice(best, found, changes, _reasons(spec, best, found, summary, machine),
                  machine.cores, remedy)  # fmt: skip


def _cost(pair: tuple[RunSpec, Plan], base: RunSpec) -> tuple[float, int]:
    """The time, to the nearest two per cent; then how much is changed."""
    changed, found = pair
    return round(math.log(found.seconds or math.inf) / 0.02), len(_differences(base, changed))


_CHOSEN = (
    "train.engine",
    "model.quantization",
    "model.dtype",
    "train.per_device_train_batch_size",
    "train.gradient_accumulation_steps",
    "train.activation_checkpointing",
    "fast.replay",
    "train.packing",
    "train.max_length",
    "train.train_sampling_strategy",
    "train.optim",
)


def _differences(before: RunSpec, after: RunSpec) -> dict[str, Any]:
    return {
        key: value_at(after, key)
        for key in _CHOSEN
        if value_at(after, key) != value_at(before, key)
    }


def _possible(spec: RunSpec, machine: Machine, summary: Summary) -> RunSpec:
    """The spec with what this machine or model can't do mended, and in the numbers that it is best
    at."""
    for problem in problems(spec, machine, config=summary.config):
        spec = _with(spec, problem.changes) or spec
    return _with(spec, {"model.dtype": "auto"}) or spec


def _with(spec: RunSpec, changes: dict[str, Any]) -> RunSpec | None:
    """The spec with the changes, or None where it does not allow them."""
    try:
        return with_values(spec, changes)
    except SpecError:
        return None


def _candidates(spec: RunSpec, summary: Summary, machine: Machine, rows: Rows) -> Iterator[RunSpec]:
    """The spec, and all that learns the same in another way."""
    yield spec
    for engine in _engines(spec, machine, summary):
        for quantization in _quantizations(spec, summary):
            for order in _orders(spec, machine, engine, rows):
                for kept in _kept(engine, summary.layers):
                    changes = {
                        "train.engine": engine,
                        "model.quantization": quantization,
                        **order,
                        **kept,
                    }
                    changed = _with(spec, changes)
                    if changed is not None:
                        yield changed


def _engines(spec: RunSpec, machine: Machine, summary: Summary) -> list[str]:
    """auto on a GPU; a CPU is not what auto means by fast, but gains from it too: rows without
    padding, and no loss for what is not scored."""
    config = summary.config or {}
    if refusals(spec) or unfit(config) or unknown(config):
        return ["auto"]
    return ["auto"] if on_gpu(spec, machine) else ["fast", "auto"]


def _quantizations(spec: RunSpec, summary: Summary) -> list[str]:
    if spec.adapter.method == "none" or quantized_as(summary.config):
        return ["none"]
    return ["none", "nf4"]


def _kept(engine: str, layers: int) -> Iterator[dict[str, Any]]:
    """What is kept for backward: all, half of the layers' numbers, or only their inputs."""
    yield {"train.activation_checkpointing": False, "fast.replay": 0}
    yield {"train.activation_checkpointing": False, "fast.replay": layers // 2}
    yield {"train.activation_checkpointing": True, "fast.replay": 0}


def _orders(spec: RunSpec, machine: Machine, engine: str, rows: Rows) -> Iterator[dict[str, Any]]:
    """Ways to put the rows of a step into micro-batches."""
    train = spec.train
    effective = train.per_device_train_batch_size * train.gradient_accumulation_steps
    strategies = [train.train_sampling_strategy]
    if train.trainer != "grpo" and train.train_sampling_strategy == "random" and not train.packing:
        strategies.append("group_by_length")
    for size in (n for n in range(effective, 0, -1) if effective % n == 0):
        for strategy in strategies:
            yield {
                "train.per_device_train_batch_size": size,
                "train.gradient_accumulation_steps": effective // size,
                "train.train_sampling_strategy": strategy,
            }
    if on_gpu(spec, machine) and not train.packing and train.trainer in NEXT_TOKEN:
        yield from _packed(spec, rows, effective)


def _packed(spec: RunSpec, rows: Rows, effective: int) -> Iterator[dict[str, Any]]:
    """The same tokens a step as full sequences, where a step has as many as the longest row. Only
    where all rows were counted: by a guess other rows would be in a step, and the longest cut."""
    train = spec.train
    cut = rows.cut(train.max_length)
    tokens = effective * cut.mean
    if not rows.exact or tokens < cut.longest or len(cut.lengths) < 2:
        return
    length = min(train.max_length, 8 * math.ceil(tokens / 8))
    sequences = max(1, round(tokens / (0.96 * length)))
    for size in (n for n in range(sequences, 0, -1) if sequences % n == 0):
        yield {
            "train.packing": True,
            "train.max_length": length,
            "train.per_device_train_batch_size": size,
            "train.gradient_accumulation_steps": sequences // size,
        }


def _reasons(
    before: RunSpec, after: RunSpec, found: Plan, summary: Summary, machine: Machine
) -> tuple[Reason, ...]:
    words = {
        "train.engine": _about_engine(after, found, summary, machine),
        "model.quantization": _about_weights(before, after, found, machine),
        "model.dtype": _about_dtype(after, machine),
        "train.per_device_train_batch_size": _about_batch(after, before),
        "train.activation_checkpointing": _about_activations(after, found),
        "train.packing": _about_packing(after, machine, found),
    }
    return tuple(
        Reason(key, value_at(after, key), value_at(before, key), why) for key, why in words.items()
    )


def _about_engine(spec: RunSpec, found: Plan, summary: Summary, machine: Machine) -> str:
    if found.engine == "plain":
        return f"The plain path: {plain_because(spec, machine, summary)}."
    if on_gpu(spec, machine):
        return "The fast path applies: compiled layers, attention by document, no logits held."
    return "The fast path computes no padding, and no loss where none is scored; the same losses."


def _about_weights(before: RunSpec, spec: RunSpec, found: Plan, machine: Machine) -> str:
    kind, held = spec.model.quantization, gb(found.parts.weights if found.parts else 0)
    if kind == "none":
        return f"The weights fit as they are ({held} GB), which is the most exact and the fastest."
    if kind == before.model.quantization:
        return f"As it was: {kind}, in which the weights take {held} GB; nothing else is faster."
    return f"In {kind} the weights take {held} GB; unquantized, too little would be left."


def _about_dtype(spec: RunSpec, machine: Machine) -> str:
    if on_gpu(spec, machine):
        new = machine.gpus[0].capability >= 8
        return f"{'bfloat16' if new else 'float16'} is what this GPU computes in."
    if machine.cpu_bfloat16:
        return "float32: bfloat16 takes less memory and time here, and learned a little less."
    return "float32: bfloat16 was three times slower on such a CPU when it was measured."


def _about_batch(spec: RunSpec, before: RunSpec) -> str:
    train, was = spec.train, before.train
    rows = was.per_device_train_batch_size * was.gradient_accumulation_steps
    size, passes = train.per_device_train_batch_size, train.gradient_accumulation_steps
    what = "sequences" if train.packing else "rows"
    kept = f"the {rows} rows of a step stay" if not was.packing else "a step stays as it is"
    return f"{size} {what} at a time, {passes} time{'s' if passes > 1 else ''} a step: {kept}."


def _about_activations(spec: RunSpec, found: Plan) -> str:
    held = gb(found.parts.activations if found.parts else 0)
    if spec.fast.replay and found.engine == "fast":
        return f"{spec.fast.replay} layers are computed again, so that {held} GB are enough."
    if spec.train.activation_checkpointing:
        return f"Layers are computed again in backward, so that {held} GB are enough."
    return f"All activations fit ({held} GB), so none is computed twice."


def _about_packing(spec: RunSpec, machine: Machine, found: Plan) -> str:
    if spec.train.packing:
        return "Full sequences: no padding, and shapes that never change."
    if found.engine == "fast":
        return "Not needed: rows stand one after the other, without padding."
    if spec.train.train_sampling_strategy == "group_by_length":
        return "Rows of like length together instead: less padding, and the rows of a step stay."
    return "A step has too few tokens to be packed without more rows in it."


def _remedy(spec: RunSpec, found: Plan, summary: Summary, machine: Machine, rows: Rows) -> str:
    """By how much the smallest is too large, and what smaller thing would fit."""
    needs, room = found.memory or 0.0, ROOM * found.free
    words = f"Even the smallest needs {gb(needs)} GB, {gb(needs - room)} GB more than there is."
    length = spec.train.max_length
    while length // 2 >= _SHORTEST:
        length //= 2
        changed = _with(spec, {"train.max_length": length})
        if changed and (plan(changed, summary, machine, rows).memory or math.inf) <= room:
            return f"{words} With max_length at {length} it would fit."
    smaller = _smaller_model(spec, summary, machine, rows)
    return f"{words} {smaller} would fit." if smaller else f"{words} No model known here would fit."


def _smaller_model(spec: RunSpec, summary: Summary, machine: Machine, rows: Rows) -> str:
    """The largest known model below this one that fits; of the same family, if there is one."""
    found: list[tuple[bool, int, str]] = []
    family = (summary.config or {}).get("model_type")
    for name in KNOWN:
        other = outline(name, known_config(name) or {})
        if other.parameters >= summary.parameters:
            continue
        made = plan(spec, other, machine, rows)
        if (made.memory or math.inf) <= ROOM * made.free:
            same = (other.config or {}).get("model_type") == family
            found.append((same, other.parameters, name))
    return max(found)[2] if found else ""
