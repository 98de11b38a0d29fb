"""What a run will take: steps, memory, time. An estimate, and said to be one on the page."""

import math
from dataclasses import dataclass

from studio.plan.learned import NOTHING, Learned
from studio.plan.lengths import Rows, batch_shape, evaluated
from studio.plan.machine import Machine
from studio.plan.memory import Parts, engine_of, on_gpu, parts
from studio.plan.summary import Summary
from studio.plan.timing import Times, times
from studio.plan.trained import trainable
from studio.spec import RunSpec

# Above this share of what is free it may fit, and may not.
ROOM = 0.92


@dataclass(frozen=True)
class Plan:
    """Memory in bytes, time in seconds; what is None is not known before the model is fetched.
    `memory` and `seconds` are as corrected by earlier runs; `parts` and `times` add up to them.
    `tokens` are the most in a micro-batch, `real` those of a usual one without padding;
    `raw` is memory and seconds of the steps as the formulas say them."""

    train_rows: int
    eval_rows: int
    steps: int
    trainable: int
    memory: float | None
    seconds: float | None
    fits: bool | None
    parts: Parts | None = None
    times: Times | None = None
    engine: str = "plain"
    tight: bool = False
    tokens: float = 0.0
    real: float = 0.0
    free: float = 0.0
    raw: tuple[float, float] = (0.0, 0.0)


def steps(spec: RunSpec, train_rows: int) -> int:
    """Optimizer steps of the run, as the Trainer counts them; without packing."""
    if spec.train.max_steps > 0:
        return spec.train.max_steps
    if spec.train.trainer == "grpo":
        # A row is a prompt, and only whole steps of prompts are taken; several may learn from one.
        each = spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps
        prompts = max(1, each // spec.grpo.num_generations)
        times = max(1, train_rows // prompts) * spec.grpo.num_iterations
        return math.ceil(times * spec.train.num_train_epochs)
    batches = math.ceil(train_rows / spec.train.per_device_train_batch_size)
    per_epoch = max(1, math.ceil(batches / spec.train.gradient_accumulation_steps))
    return math.ceil(per_epoch * spec.train.num_train_epochs)


def packed_steps(spec: RunSpec, rows: Rows) -> int:
    """Steps of the run, also where rows are packed: about, as sequences are nearly full then."""
    if not spec.train.packing:
        return steps(spec, rows.train)
    full = 0.96 * spec.train.max_length
    return steps(spec, max(1, math.ceil(rows.train * rows.cut(spec.train.max_length).mean / full)))


def plan(
    spec: RunSpec,
    summary: Summary,
    machine: Machine,
    rows: Rows,
    learned: Learned = NOTHING,
) -> Plan:
    """The plan of a run on these rows; `learned` is how earlier runs here differed from theirs."""
    count = packed_steps(spec, rows)
    if not summary.parameters:
        return Plan(rows.train, rows.eval, count, 0, None, None, None)
    engine, gpu = engine_of(spec, machine, summary), on_gpu(spec, machine)
    shape = batch_shape(spec, rows, count, engine == "fast", gpu)
    # Of pairs both answers go through the model at once.
    sides = 2 if spec.train.trainer in ("dpo", "orpo", "reward") else 1
    trained = trainable(spec, summary)
    looks = sides * evaluated(spec, rows, fast=engine == "fast")
    held = parts(spec, summary, machine, sides * shape.most, rows.scored, trained, looks)
    taken = times(spec, summary, machine, shape, rows)
    raw = (held.total, sides * (taken.steps + taken.evaluations))
    factor = sides * learned.time
    taken = Times(taken.start, taken.steps * factor, taken.evaluations * factor)
    held = held.scaled(learned.memory)
    free = machine.free if gpu else machine.available
    return Plan(
        rows.train,
        rows.eval,
        count,
        trained,
        held.total,
        taken.total,
        held.total < free,
        held,
        taken,
        engine,
        ROOM * free < held.total < free,
        shape.most,
        shape.real,
        free,
        raw,
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
