"""A resume is exact with every kind of setting: optimizers, schedules, early stopping, trainers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.runs import Run
from studio.runs.events import read
from tests.engine.helpers import ended
from tests.engine.test_resume import LONG, cut_off, weights
from tests.engine.test_trainers import ROWS, sections, written

NewRun = Callable[..., Run]
TrainHere = Callable[[Run], int]
EACH_STEP = {"eval_steps": 1, "eval_on_start": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "plateau": {
        "train": {
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "threshold": 0.5},
        },
        "eval": {**EACH_STEP, "load_best_model_at_end": True},
    },
    "8 bits and restarts": {
        "train": {
            "optim": "adamw_8bit", "lr_scheduler_type": "cosine_with_restarts",
            "lr_scheduler_kwargs": {"num_cycles": 2}, "warmup_steps": 2, "weight_decay": 0.1,
            "neftune_noise_alpha": 5.0,
        },
    },
    "adalora": {
        "adapter": {"method": "adalora"},
        "adalora": {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 1, "deltaT": 1},
    },
    "adalora, at its end": {
        "adapter": {"method": "adalora"},
        "adalora": {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 3, "deltaT": 1},
    },
    "ademamix": {"train": {"optim": "ademamix", "lr_scheduler_type": "inverse_sqrt"}},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_resume_exactly(new_run: NewRun, train_here: TrainHere, name: str) -> None:
    given = {**OPTIONS[name], "train": {**LONG, **OPTIONS[name].get("train", {})}}
    _same_after_resume(new_run, train_here, given)


@pytest.mark.parametrize("trainer", ["orpo", "reward", "grpo"])
def test_trainers_resume_exactly(
    new_run: NewRun, train_here: TrainHere, tmp_path: Path, trainer: str
) -> None:
    given = sections(trainer, written(tmp_path, ROWS[trainer]))
    given["train"] |= LONG
    given["data"]["test"] = "0"
    _same_after_resume(new_run, train_here, given)


def _same_after_resume(new_run: NewRun, train_here: TrainHere, given: dict[str, Any]) -> None:
    whole = new_run(**given)
    assert train_here(whole) == 0, ended(whole)
    run = new_run(**given)
    cut_off(whole, run, 4)
    assert train_here(run) == 0, ended(run)
    assert weights(run) == weights(whole)
    for name in ("step", "loss", "learning_rate", "eval_loss", "num_tokens"):
        assert [p.get(name) for p in run.history()] == [p.get(name) for p in whole.history()]


def test_early_stopping_goes_on_counting_where_it_was(
    new_run: NewRun, train_here: TrainHere
) -> None:
    # No evaluation is that much better: every one after the first counts.
    stopping = {**EACH_STEP, "early_stopping_patience": 4, "early_stopping_threshold": 100.0}
    given = {"train": {**LONG, "max_steps": 9}, "eval": stopping}
    whole = new_run(**given)
    assert train_here(whole) == 0
    assert (ended(whole)["status"], ended(whole)["step"]) == ("finished", 5)
    notes = [event["text"] for event in read(whole.events) if event["type"] == "note"]
    assert any("Stopped early at step 5 of 9" in text for text in notes)
    run = new_run(**given)
    cut_off(whole, run, 3)
    assert train_here(run) == 0
    assert ended(run)["step"] == 5 and weights(run) == weights(whole)
