"""What earlier runs teach: how far their plans were from what was measured, as factors."""

import math
from dataclasses import dataclass
from statistics import median
from typing import Any

from studio.errors import StudioError
from studio.runs import RunState, RunStore
from studio.spec import RunSpec

_MOST_RUNS = 50
_OF_A_KIND = 5
# A factor beyond these says that something else happened, not that the formulas are off.
_LEAST, _MOST = 0.1, 10.0


@dataclass(frozen=True)
class Learned:
    """Factors for the next plan, and from how many runs they are."""

    memory: float = 1.0
    time: float = 1.0
    runs: int = 0


NOTHING = Learned()


def learned(store: RunStore, spec: RunSpec, device: str, engine: str) -> Learned:
    """The factors from the newest runs of this kind: the same device ("CPU" or the GPU's name), and
    engine, quantization and checkpointing; of the same model, where there are such."""
    kin: list[tuple[bool, float, float]] = []
    for run in store.list()[:_MOST_RUNS]:
        state = store.look(run)
        if state is None or state.status != "finished" or not state.device.startswith(device):
            continue
        found = factors(state)
        if found is None or (state.predicted or {}).get("engine") != engine:
            continue
        try:
            other = run.spec()
        except StudioError:
            continue
        if _kind(other) == _kind(spec):
            kin.append((other.model.name_or_path == spec.model.name_or_path, *found))
    nearest = [k for k in kin if k[0]][:_OF_A_KIND] or kin[:_OF_A_KIND]
    if not nearest:
        return NOTHING
    return Learned(median(k[1] for k in nearest), median(k[2] for k in nearest), len(nearest))


def factors(state: RunState) -> tuple[float, float] | None:
    """Measured over planned by the formulas alone, of the memory and of the time of the steps; None
    where the run did not tell both."""
    planned, measured = state.predicted or {}, state.measured or {}
    # By the formulas for the largest batch that there was, where the run told it.
    memory_then = _number(measured, "raw_memory") or _number(planned, "raw_memory")
    memory = _ratio(_number(measured, "memory"), memory_then)
    # A run that went on after an end, or ended early, took only the steps that it made.
    part = _number(measured, "steps") / (_number(planned, "steps") or 1.0) or 1.0
    time = _ratio(_number(measured, "seconds"), part * _number(planned, "raw_seconds"))
    return None if memory is None or time is None else (memory, time)


def _number(held: dict[str, Any], name: str) -> float:
    value = held.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _ratio(found: float, planned: float) -> float | None:
    if found <= 0 or planned <= 0:
        return None
    ratio = found / planned
    return ratio if _LEAST < ratio < _MOST else None


def _kind(spec: RunSpec) -> tuple[Any, ...]:
    return spec.model.quantization, spec.model.dtype, spec.train.activation_checkpointing
