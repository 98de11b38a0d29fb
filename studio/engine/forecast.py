"""What is planned for a run, by its worker, which knows its rows to the token; and how that
compares to what the run took."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.engine.encode import IGNORED
from studio.engine.load import Hardware
from studio.engine.quick import PLAIN
from studio.errors import StudioError
from studio.plan.estimate import Plan, plan
from studio.plan.learned import learned
from studio.plan.lengths import Rows, evaluated
from studio.plan.machine import Machine, machine
from studio.plan.memory import engine_of, parts
from studio.plan.model import summarize
from studio.plan.summary import Summary
from studio.plan.timing import flops_per_token
from studio.runs import Run, RunStore
from studio.settings import Settings
from studio.spec import RunSpec, with_values

_MOST_ROWS = 20_000
_LABELS = 200


@dataclass(frozen=True)
class Forecast:
    """The plan of a run that is about to train."""

    spec: RunSpec
    summary: Summary
    machine: Machine
    rows: Rows
    plan: Plan

    @property
    def flops(self) -> float:
        """Flops a trained token."""
        length = self.rows.cut(self.spec.train.max_length).mean
        return flops_per_token(self.spec, self.summary, length, self.rows.scored)

    def event(self) -> dict[str, Any]:
        """What the event `predicted` says."""
        made = self.plan
        assert made.parts is not None
        return {
            "engine": made.engine,
            "memory": round(made.parts.total),
            "seconds": round((made.seconds or 0.0) - (made.times.start if made.times else 0.0), 4),
            "steps": made.steps,
            "raw_memory": round(made.raw[0]),
            "raw_seconds": round(made.raw[1], 4),
            "context": round(made.parts.context),
            "parts": {name: round(value) for name, value in vars(made.parts).items()},
        }

    def beside(self, measured: dict[str, Any]) -> dict[str, Any]:
        """What was measured, and what the formulas say for the largest batch that there was."""
        tokens = measured.get("most_tokens") or self.plan.tokens
        looks = evaluated(self.spec, self.rows, fast=self.plan.engine == "fast")
        at = parts(self.spec, self.summary, self.machine, tokens, self.rows.scored, held=looks)
        return {**measured, "raw_memory": round(at.total)}


def forecast(
    run: Run, spec: RunSpec, settings: Settings, where: Hardware, prepared: Any, engine: str
) -> Forecast | None:
    """The plan for the engine that the run really has, or None for a model whose shapes can't be
    told."""
    try:
        summary = summarize(spec.model.name_or_path, settings, spec.model.revision)
        told = with_values(spec, {"train.engine": "plain"}) if engine == PLAIN else spec
    except StudioError:
        return None
    if not summary.parameters:
        return None
    here = machine()
    rows = _rows(spec, prepared)
    device = here.gpus[0].name if where.device == "cuda" and here.gpus else "CPU"
    taught = learned(RunStore(run.path.parent), told, device, engine_of(told, here, summary))
    return Forecast(told, summary, here, rows, plan(told, summary, here, rows, taught))


def _rows(spec: RunSpec, prepared: Any) -> Rows:
    train = prepared.train
    every = max(1, -(-len(train) // _MOST_ROWS))
    lengths = (
        train.with_format("numpy")["length"][::every] if "length" in train.column_names else ()
    )
    counted = tuple(int(n) for n in lengths) or (spec.train.max_length,)
    return Rows(len(train), len(prepared.validation or ()), counted, True, _scored(train))


def _scored(train: Any) -> float:
    """The share of the first rows' tokens that are learned."""
    if "labels" not in train.column_names:
        return 1.0
    labels = [np.asarray(row) for row in train[:_LABELS]["labels"]]
    total = sum(len(row) for row in labels)
    return sum(int((row != IGNORED).sum()) for row in labels) / max(1, total)
