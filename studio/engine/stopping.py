"""Ending a run before its time, once its evaluations get no better; and never beginning one whose
settings its rows can't honour."""

import json
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback

from studio.errors import SpecError
from studio.plan.machine import machine
from studio.plan.possible import problems
from studio.spec import RunSpec


def refuse_impossible(
    spec: RunSpec,
    steps: int | None = None,
    held: int | None = None,
    folder: Path | None = None,
) -> None:
    """Raises SpecError with all that this machine can't honour, or, where they are known, the model
    in `folder`, a run of so many `steps` or so few rows `held` back."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else None
    found = problems(spec, machine(), steps, held, config)
    if found:
        raise SpecError(found)


def stop_early(trainer: Any, spec: RunSpec) -> None:
    """Gives the trainer the means to stop early, where that is asked for and there are rows to
    evaluate on. A checkpoint holds how long it has been waiting."""
    patience = spec.eval.early_stopping_patience
    if patience is not None and trainer.args.eval_strategy != "no":
        threshold = spec.eval.early_stopping_threshold
        trainer.add_callback(EarlyStoppingCallback(patience, threshold))


def go_on(trainer: Any, spec: RunSpec, longer: bool) -> bool:
    """Called once a checkpoint was taken up, with which transformers puts back how long the run
    had been waiting, but also how long it was to wait: the settings say that. One that had finished
    and is trained `longer` begins to wait anew. Returns whether the run has stopped early before it
    was cut off."""
    over = False
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            patience = spec.eval.early_stopping_patience or 1
            callback.early_stopping_patience = patience
            callback.early_stopping_threshold = spec.eval.early_stopping_threshold
            if longer:
                callback.early_stopping_patience_counter = 0
            over = callback.early_stopping_patience_counter >= patience
    return over


def stopped_early(trainer: Any) -> str:
    """Why the run ended early, in words; nothing if it did not."""
    state = trainer.state
    for callback in trainer.callback_handler.callbacks:
        if not isinstance(callback, EarlyStoppingCallback):
            continue
        waited = callback.early_stopping_patience_counter
        if waited >= callback.early_stopping_patience and state.global_step < state.max_steps:
            best = f", the best of step {state.best_global_step}" if state.best_global_step else ""
            times = "evaluation was" if waited == 1 else f"{waited} evaluations in a row were"
            return (
                f"Stopped early at step {state.global_step} of {state.max_steps}: {times} no "
                f"better than the best before{best}."
            )
    return ""
