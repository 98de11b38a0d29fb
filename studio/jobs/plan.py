"""What a recipe will take, on this machine or on another GPU: the plan, what auto would choose, and
a probe of a few real steps that refines it."""

import shutil
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from studio.data import is_ready, open_data
from studio.data.measure import characters
from studio.errors import StudioError
from studio.jobs.bench import Bench
from studio.jobs.export import busy
from studio.jobs.spawn import spawn, writing
from studio.plan.auto import Choice, choose
from studio.plan.device import device_lock
from studio.plan.estimate import ROOM, Plan, plan
from studio.plan.gpus import NAMES, with_gpu
from studio.plan.learned import NOTHING, Learned, learned
from studio.plan.lengths import Rows
from studio.plan.machine import Machine, machine
from studio.plan.memory import engine_of, on_gpu, plain_because
from studio.plan.model import planned
from studio.plan.summary import Summary
from studio.runs import Run, RunState, RunStore, events
from studio.runs.lock import is_held
from studio.settings import Settings
from studio.spec import RunSpec, with_values

_SAMPLE = 200
# Where the rows are not here: a thousand of a thousand characters.
_ASSUMED = Rows.of_characters(950, 50, [1000.0])
# Steps that a probe times after the first, which warms up and compiles. On a GPU a step may record
# its shape or ask for more memory, which those that follow need not.
TIMED = {"cpu": 1, "gpu": 4}
_PROBE: dict[str, Any] = {
    "train.logging_steps": 1,
    "train.lr_scheduler_type": "constant",
    "train.lr_scheduler_kwargs": {},
    "train.warmup_steps": 0.0,
    "train.save_strategy": "no",
    "train.report_to": [],
    "eval.eval_strategy": "no",
    "eval.eval_on_start": False,
    "eval.load_best_model_at_end": False,
    "eval.early_stopping_patience": None,
}


def plan_recipe(
    store: RunStore, settings: Settings, spec: RunSpec, gpu: str = "", probe: bool = False
) -> dict[str, Any]:
    """All that is known beforehand of a run of `spec`, as JSON takes it. `gpu` names a GPU, which
    need not be here; `probe` runs a few steps on this machine. Raises StudioError."""
    summary = planned(spec.model.name_or_path, settings, spec.model.revision)
    if not summary.parameters:
        raise StudioError(
            f"Nothing is known of {spec.model.name_or_path} before it is fetched.",
            "Put its config.json into a folder and name that as the model, or fetch it first.",
        )
    here = _machine(gpu)
    rows = _rows(settings, spec)
    known, rows = rows is not None, rows or _ASSUMED
    taught = NOTHING if gpu else _learned(store, spec, here, summary)
    told: dict[str, Any] = {}
    if probe:
        if gpu:
            raise StudioError("A probe runs on this machine.", "Leave --gpu out.")
        told["probe"], taught = _probed(settings, spec, summary, here, rows)
    made = plan(spec, summary, here, rows, taught)
    choice = choose(spec, summary, here, rows, taught)
    return {
        "model": spec.model.name_or_path,
        "parameters": summary.parameters,
        "machine": here.gpus[0].name if on_gpu(spec, here) else f"CPU, {here.cores} cores",
        "rows_known": known,
        "runs_learned_from": taught.runs,
        **_told(made),
        "engine_why": plain_because(spec, here, summary),
        **told,
        **(_chosen(choice) if choice else {}),
    }


def _machine(gpu: str) -> Machine:
    here = machine()
    if not gpu:
        return here
    there = with_gpu(here, gpu)
    if there is None:
        raise StudioError(f"There is no GPU {gpu} in the table.", f"Known are {', '.join(NAMES)}.")
    return there


def _rows(settings: Settings, spec: RunSpec) -> Rows | None:
    if not is_ready(spec.data, settings):
        return None
    data = open_data(spec.data, settings)
    parts = data.parts(spec.train.seed)
    return Rows.of_characters(len(parts.train), len(parts.validation), characters(data, _SAMPLE))


def _learned(store: RunStore, spec: RunSpec, here: Machine, summary: Summary) -> Learned:
    device = here.gpus[0].name if on_gpu(spec, here) else "CPU"
    return learned(store, spec, device, engine_of(spec, here, summary))


def _told(made: Plan) -> dict[str, Any]:
    assert made.parts is not None and made.times is not None
    return {
        "parts": {name: round(size) for name, size in asdict(made.parts).items()},
        "total": round(made.memory or 0),
        "free": round(made.free),
        "fits": made.fits,
        "tight": made.tight,
        "lacks": max(0, round((made.memory or 0) - made.free)),
        "seconds": round(made.seconds or 0, 2),
        "times": {name: round(value, 2) for name, value in asdict(made.times).items()},
        "steps": made.steps,
        "tokens_per_micro_batch": round(made.tokens),
        "trainable": made.trainable,
        "engine": made.engine,
    }


def _chosen(choice: Choice) -> dict[str, Any]:
    return {
        "chosen": [asdict(reason) for reason in choice.reasons],
        "changes": choice.changes,
        "threads": choice.threads,
        "remedy": choice.remedy,
        "with_auto": _told(choice.plan),
        "room": ROOM,
    }


def _probed(
    settings: Settings, spec: RunSpec, summary: Summary, here: Machine, rows: Rows
) -> tuple[dict[str, Any], Learned]:
    """What a few real steps took, and how far that is from what was planned for them."""
    count = 1 + TIMED["gpu" if on_gpu(spec, here) else "cpu"]
    state, told = _few_steps(settings, with_values(spec, {**_PROBE, "train.max_steps": count}))
    points = [e for e in told if e["type"] == "log"]
    measured = state.measured or {}
    if state.status != "finished" or not measured.get("raw_memory") or len(points) < 2:
        problem = state.problem or {"message": "The probe did not end well.", "hint": ""}
        raise StudioError(problem["message"], problem["hint"])
    engine = engine_of(spec, here, summary)
    memory = memory_factor(spec, here, engine, measured["memory"] / measured["raw_memory"])
    before = plan(spec, summary, here, rows)
    assert before.times is not None
    usual = before.times.steps / max(1, before.steps)
    real = before.real * spec.train.gradient_accumulation_steps
    seconds = usual_step(points, real)
    time = seconds / usual if usual else 1.0
    return {
        "memory": measured["memory"],
        "seconds_a_step": round(seconds, 3),
        "tokens_a_step": round(real),
        "memory_factor": round(memory, 3),
        "time_factor": round(time, 3),
    }, Learned(memory, time, 1)


def memory_factor(spec: RunSpec, here: Machine, engine: str, measured: float) -> float:
    """What a probe says of the plan's memory. Where a GPU records each shape of a batch it has seen
    but few, and what all will take together is better known to the formulas."""
    recorded = on_gpu(spec, here) and engine == "fast" and not spec.train.packing
    return max(1.0, measured) if recorded else measured


def usual_step(points: list[events.Event], tokens: float) -> float:
    """Seconds of a step with so many tokens, from the logs of some: the fastest, as far as it is
    not so for having fewer tokens."""
    each = [
        (after["time"] - before["time"], after["num_tokens"] - before["num_tokens"])
        for before, after in pairwise(points)
    ]
    return float(min(s * max(1.0, tokens / max(1, had)) for s, had in each))


def _few_steps(settings: Settings, spec: RunSpec) -> tuple[RunState, list[events.Event]]:
    """Trains in a folder of its own, which is removed afterwards."""
    runs = RunStore(settings.runs)
    here = runs.active() is not None or busy(runs) is not None
    if here or is_held(device_lock(settings)):
        raise StudioError(
            "This machine is at work on a run or a model.", "Probe when that has ended."
        )
    store = RunStore(settings.home / "probe")
    with writing(store.root):
        run: Run = store.create(spec, "probe")
    try:
        # The model of the chat takes the memory that the steps need.
        Bench(settings).quit()
        spawn(["train", str(run.path)], run.log, settings).wait()
        return store.state(run), list(events.read(run.events))
    finally:
        with suppress(OSError):
            shutil.rmtree(store.root)
