"""The page of all settings is current, and the last run keeps what an earlier one has found."""

import re
from typing import Any

import pytest

from studio.settings import PROJECT
from studio.spec import SECTIONS, fields, parse
from studio.spec.final import final
from studio.spec.reference import reference


def test_the_page_of_settings_is_current() -> None:
    page = (PROJECT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m studio settings --write docs/settings.md"


def test_every_setting_has_a_line_with_its_help() -> None:
    lines = {m[1]: m[0] for m in re.finditer(r"^\| `([a-z0-9_]+\.\w+)` \|.*$", reference(), re.M)}
    assert list(lines) == [f"{section}.{name}" for section, name, _, _ in fields()]
    for section, name, info, meta in fields():
        line = lines[f"{section}.{name}"]
        assert str(info.description).replace("|", "\\|") in line
        assert not meta.link or f"]({meta.link})" in line
    assert set(re.findall(r"^## (\w+)$", reference(), re.M)) == set(SECTIONS)


FOUND: dict[str, Any] = {
    "train": {"learning_rate": 1e-3, "lr_scheduler_type": "reduce_lr_on_plateau", "max_steps": 90},
    "eval": {"load_best_model_at_end": True, "early_stopping_patience": 2, "eval_steps": 10},
    "data": {"validation": "20%", "test": "5"},
}


def test_the_final_run_learns_from_all_rows_with_the_same_settings() -> None:
    spec = final(parse(FOUND), epochs=1.5, steps=40)
    assert (spec.data.validation, spec.data.test) == ("0", "0")
    assert (spec.train.learning_rate, spec.train.max_steps) == (1e-3, 40)
    # What looks at evaluations has nothing to look at.
    assert spec.eval.eval_strategy == "no" and not spec.eval.load_best_model_at_end
    assert spec.eval.early_stopping_patience is None
    assert spec.train.lr_scheduler_type == "constant"
    train = FOUND["train"] | {"lr_scheduler_type": "greedy", "lr_scheduler_kwargs": {"factor": 0.9}}
    spec = final(parse({**FOUND, "train": train}))
    assert (spec.train.lr_scheduler_type, spec.train.lr_scheduler_kwargs) == ("constant", {})


@pytest.mark.parametrize(("epochs", "wanted"), [(1.5, 1.5), (None, 3.0)])
def test_where_epochs_decide_the_best_one_counts(epochs: float | None, wanted: float) -> None:
    spec = final(parse({"train": {"save_strategy": "best"}}), epochs=epochs, steps=40)
    assert (spec.train.num_train_epochs, spec.train.max_steps) == (wanted, -1)
    assert spec.train.save_strategy == "steps"


def test_a_final_run_of_a_final_run_is_the_same() -> None:
    once = final(parse({}))
    assert final(once) == once
