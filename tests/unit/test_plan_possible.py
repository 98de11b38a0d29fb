"""What a machine, or the number of rows, can't honour: at its field, with what mends it."""

from typing import Any

import pytest

from studio.plan.extras import REPORTERS
from studio.plan.machine import Gpu, Machine
from studio.plan.possible import judged, problems, refused
from studio.spec import DEFAULTS, parse, with_values

CPU = Machine(2, 8 * 10**9, 6 * 10**9, ())
T4 = Machine(2, 8 * 10**9, 6 * 10**9, (Gpu("T4", 16 * 10**9, 0, 7.5),))
H100 = Machine(2, 8 * 10**9, 6 * 10**9, (Gpu("H100", 80 * 10**9, 0, 9.0),))
Tree = dict[str, dict[str, Any]]
PLATEAU: Tree = {"train": {"lr_scheduler_type": "reduce_lr_on_plateau"}}


@pytest.mark.parametrize(
    ("machine", "tree", "field"),
    [
        (CPU, {"train": {"optim": "paged_adamw_32bit"}}, "train.optim"),
        (CPU, {"train": {"optim": "paged_lion_8bit"}}, "train.optim"),
        (CPU, {"train": {"tf32": True}}, "train.tf32"),
        (T4, {"train": {"tf32": True}}, "train.tf32"),
        (CPU, {"model": {"dtype": "float16"}}, "model.dtype"),
        (T4, {"model": {"dtype": "bfloat16"}}, "model.dtype"),
    ],
)
def test_what_the_machine_lacks_is_refused_with_what_mends_it(
    machine: Machine, tree: Tree, field: str
) -> None:
    spec = parse(tree)
    (problem,) = problems(spec, machine)
    assert problem.field == field and problem.hint
    assert problems(with_values(spec, problem.changes), machine) == []
    assert problems(spec, H100) == []


@pytest.mark.parametrize(
    ("tree", "steps", "held", "field"),
    [
        ({"train": {"warmup_steps": 50}}, 40, 5, "train.warmup_steps"),
        ({"eval": {"load_best_model_at_end": True}}, 12, 5, "eval.eval_steps"),
        (
            {"train": {"lr_scheduler_type": "reduce_lr_on_plateau"}},
            90,
            0,
            "train.lr_scheduler_type",
        ),
        ({"train": {"lr_scheduler_type": "greedy"}}, 90, 0, "train.lr_scheduler_type"),
        ({"train": {"save_strategy": "best"}}, 90, 0, "train.save_strategy"),
        ({"eval": {"load_best_model_at_end": True}}, 90, 0, "eval.load_best_model_at_end"),
        ({"eval": {"early_stopping_patience": 2}}, 90, 0, "eval.early_stopping_patience"),
    ],
)
def test_what_the_rows_are_too_few_for(tree: Tree, steps: int, held: int, field: str) -> None:
    spec = parse(tree)
    (problem,) = problems(spec, CPU, steps, held)
    assert problem.field == field and problem.changes
    assert problems(spec, CPU, 10_000, 100) == []


def test_all_is_told_at_once_that_of_the_spec_and_that_of_the_machine() -> None:
    tree = {"train": {"optim": "paged_adamw_8bit", "max_steps": 0}, "adapter": {"r": 0}}
    assert {p.field for p in judged(tree, CPU)} == {"train.optim", "train.max_steps", "adapter.r"}
    assert {p.field for p in judged(tree, H100)} == {"train.max_steps", "adapter.r"}


def test_a_reporter_that_is_not_installed_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("studio.plan.extras.find_spec", lambda name: name == "trackio" or None)
    spec = parse({"train": {"report_to": ["tensorboard", "trackio"]}})
    (problem,) = problems(spec, CPU)
    assert problem.changes == {"train.report_to": ["trackio"]}
    assert "TensorBoard" in problem.message and "pip install tensorboard" in problem.hint
    assert set(refused(CPU)["train.report_to"]) == {"tensorboard", "wandb"}
    assert set(REPORTERS) == {"tensorboard", "trackio", "wandb"}


def test_what_can_not_be_chosen_is_told_beforehand() -> None:
    assert set(refused(H100)["train.optim"]) == set()
    paged = refused(CPU)["train.optim"]
    assert len(paged) == 6 and all(name.startswith("paged_") for name in paged)


def test_adalora_needs_a_step_to_prune_in() -> None:
    spec = with_values(DEFAULTS, {"adapter.method": "adalora", "adalora.tfinal": 3})
    assert [p.field for p in problems(spec, CPU, 4)] == ["adalora.tinit"]
    assert problems(spec, CPU, 5) == []
    assert problems(with_values(spec, {"adapter.method": "lora"}), CPU, 4) == []
