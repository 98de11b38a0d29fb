"""A few real steps before a run, in a folder of their own: what they take refines its plan.

The steps have the device's lock while they are made, so that a run started meanwhile waits for
them. What was measured is kept for these very settings, rows and device.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from studio.data import fingerprint
from studio.data.cache import key
from studio.errors import StudioError
from studio.jobs.bench import Bench
from studio.jobs.export import busy
from studio.jobs.spawn import spawn, writing
from studio.plan.device import device_lock
from studio.plan.estimate import plan
from studio.plan.learned import Learned
from studio.plan.lengths import Rows
from studio.plan.machine import Machine, machine
from studio.plan.memory import engine_of, on_gpu
from studio.plan.summary import Summary
from studio.runs import Run, RunStore, events, files
from studio.runs.lock import is_held
from studio.settings import Settings
from studio.spec import DEFAULTS, RunSpec, with_values

_LOOK_S = 0.3
_KEPT = 50
# Steps that are timed after the first, which warms up and compiles. On a GPU a step may record its
# shape or ask for more memory, which those that follow need not.
TIMED = {"cpu": 1, "gpu": 4}
# What takes no part in a step is left out, or as it is by default, so that it asks for no new one.
_STEPS: dict[str, Any] = {
    "train.num_train_epochs": 1,
    "train.learning_rate": DEFAULTS.train.learning_rate,
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


def probe(store: RunStore, settings: Settings, spec: RunSpec) -> Iterator[str]:
    """Makes the steps and keeps what they took; yields in words how far they are. Closed before its
    end, it ends them. Raises StudioError, also where `stop_probe` has ended them."""
    if store.active() is not None or busy(store) is not None or is_held(device_lock(settings)):
        raise StudioError(
            "This machine is at work on a run or a model.", "Probe when that has ended."
        )
    settings.check_writable()
    here, own = machine(), RunStore(settings.home / "probes" / f"{os.getpid()}-{time.time_ns()}")
    _stop(settings).unlink(missing_ok=True)
    with writing(own.root):
        run = own.create(_few(spec, here), "probe")
    try:
        # The model of the chat takes the memory that the steps need.
        Bench(settings).quit()
        yield from _watch(own, run, settings)
        kept = _measured(own, run)
        with writing(settings.home):
            _tidy(settings.home / "probes")
            files.write_text(_file(settings, spec, here), json.dumps(kept))
    finally:
        with suppress(OSError):
            _stop(settings).unlink(missing_ok=True)
            shutil.rmtree(own.root)


def stop_probe(settings: Settings) -> None:
    """Ends the steps that are made now."""
    with writing(settings.home):
        _stop(settings).touch()


def _stop(settings: Settings) -> Path:
    return settings.home / "probes" / "stop"


def _watch(own: RunStore, run: Run, settings: Settings) -> Iterator[str]:
    process = spawn(["train", str(run.path)], run.log, settings)
    try:
        said = ""
        while process.poll() is None:
            state = own.state(run)
            words = f"step {state.step}" if state.step else state.stage or "starting"
            if words != said:
                yield words
                said = words
            if _stop(settings).exists():
                raise StudioError("The steps were stopped; nothing was measured.")
            time.sleep(_LOOK_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _measured(own: RunStore, run: Run) -> dict[str, Any]:
    state, told = own.state(run), list(events.read(run.events))
    points = [e for e in told if e["type"] == "log"]
    measured = state.measured or {}
    if state.status != "finished" or not measured.get("raw_memory") or len(points) < 2:
        problem = state.problem or {"message": "The probe did not end well.", "hint": ""}
        raise StudioError(problem["message"], problem["hint"])
    return {
        "memory": measured["memory"],
        "raw_memory": measured["raw_memory"],
        "points": [{name: point[name] for name in ("time", "num_tokens")} for point in points],
    }


def probed(
    settings: Settings, spec: RunSpec, summary: Summary, here: Machine, rows: Rows
) -> dict[str, Any] | None:
    """What the steps of these settings took, and the factors by which that differs from what is
    planned for them; None where none were made."""
    try:
        kept = json.loads(_file(settings, spec, here).read_text(encoding="utf-8"))
        memory, points = kept["memory"], kept["points"]
        ratio = memory / kept["raw_memory"]
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, StudioError):
        return None
    made = plan(spec, summary, here, rows)
    if made.times is None:
        return None
    usual = made.times.steps / max(1, made.steps)
    real = made.real * spec.train.gradient_accumulation_steps
    seconds = usual_step(points, real)
    factor = memory_factor(spec, here, engine_of(spec, here, summary), ratio)
    return {
        "memory": memory,
        "seconds_a_step": round(seconds, 3),
        "tokens_a_step": round(real),
        "memory_factor": round(factor, 3),
        "time_factor": round(seconds / usual, 3) if usual else 1.0,
    }


def taught(found: dict[str, Any]) -> Learned:
    """What a plan learns from `probed`."""
    return Learned(found["memory_factor"], found["time_factor"], 1)


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


def _few(spec: RunSpec, here: Machine) -> RunSpec:
    count = 1 + TIMED["gpu" if on_gpu(spec, here) else "cpu"]
    return with_values(spec, {**_STEPS, "train.max_steps": count})


def _file(settings: Settings, spec: RunSpec, here: Machine) -> Path:
    device = here.gpus[0].name if on_gpu(spec, here) else f"CPU, {here.cores}"
    few = _few(spec, here).model_dump_json()
    name = key(few, fingerprint(spec.data, settings), device)
    return settings.home / "probes" / f"{name}.json"


def _tidy(folder: Path) -> None:
    """Removes all but the newest results, and what probes left behind that were killed."""
    results = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in results[: -_KEPT + 1]:
        path.unlink(missing_ok=True)
    for left in folder.glob("[0-9]*-*/"):
        store = RunStore(left)
        going = any(files.read_process(run.pid) for run in store.list())
        if not going and not psutil.pid_exists(int(left.name.partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
