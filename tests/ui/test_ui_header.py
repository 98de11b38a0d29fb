"""The bar: what is chosen, what to do next, and the active run at a glance."""

import os
from html import unescape
from re import sub
from typing import Any

import pytest

from studio.runs import Run, RunStore
from studio.runs.events import append
from studio.runs.files import write_process
from studio.spec import DEFAULTS, parse
from studio.ui.header import beat, chosen


def words(store: RunStore, tree: dict[str, Any] | None = None, rows: int = 257) -> str:
    """The line as a person reads it."""
    made = chosen(store, DEFAULTS.model_dump() if tree is None else tree, "persona", rows)
    return unescape(sub(r"<[^>]*>", " ", made))


def ended(store: RunStore, status: str, *, adapter: bool) -> Run:
    run = store.create(DEFAULTS, "persona")
    append(run.events, {"type": "end", "status": status})
    if adapter:
        run.adapter.mkdir()
        (run.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    return run


def test_what_is_chosen_is_said_in_one_line(store: RunStore) -> None:
    tree = parse(
        {
            "model": {"quantization": "nf4"},
            "data": {"path": "deep/down/mine.jsonl"},
            "train": {"learning_rate": 1e-3, "num_train_epochs": 2},
            "adapter": {"r": 8},
        }
    ).model_dump()
    said = " ".join(words(store, tree, rows=1234).split())
    for part in ("persona", "SmolLM2-135M-Instruct", "in nf4", "mine.jsonl", "1,234 rows", "r 8"):
        assert part in said
    assert "2 epochs at 1e-3" in said and "deep/down" not in said
    one = parse({"train": {"num_train_epochs": 1}, "adapter": {"method": "adalora"}}).model_dump()
    assert "AdaLoRA , 1 epoch at" in " ".join(words(store, one).split())


def test_a_limit_of_steps_is_said_in_place_of_the_epochs(store: RunStore) -> None:
    said = words(store, parse({"train": {"max_steps": 20}}).model_dump())
    assert "20 steps" in said and "epochs" not in said


def test_nothing_is_said_of_rows_that_are_not_counted(store: RunStore) -> None:
    assert "rows" not in words(store, rows=0)


def test_at_first_the_next_step_is_to_start(store: RunStore) -> None:
    assert "just press Start" in " ".join(words(store).split())


def test_wrong_settings_are_to_be_mended_first(store: RunStore) -> None:
    tree = DEFAULTS.model_dump()
    tree["adapter"]["r"] = None
    assert "mend 1 setting under Tune" in " ".join(words(store, tree).split())
    tree["train"]["learning_rate"] = "fast"
    assert "mend 2 settings under Tune" in " ".join(words(store, tree).split())


@pytest.mark.parametrize("missing", ["train", "model", "data", "adapter"])
def test_a_form_that_is_not_whole_is_still_a_line(store: RunStore, missing: str) -> None:
    tree = DEFAULTS.model_dump()
    tree.pop(missing)
    assert "recipe" in words(store, tree)


def test_while_a_run_goes_the_next_step_is_to_watch(store: RunStore) -> None:
    run = store.create(DEFAULTS, "persona")
    write_process(run.pid, os.getpid())
    append(run.events, {"type": "start", "max_steps": 9})
    assert "watch it learn" in words(store)


@pytest.mark.parametrize(
    ("status", "adapter", "said"),
    [
        ("finished", True, "talk to it"),
        ("stopped", True, "talk to it"),
        ("stopped", False, "press Start training"),
        ("failed", False, "why the last run failed"),
        ("failed", True, "why the last run failed"),
    ],
)
def test_after_a_run_the_next_step_follows_from_how_it_ended(
    store: RunStore, status: str, adapter: bool, said: str
) -> None:
    ended(store, status, adapter=adapter)
    assert said in " ".join(words(store).split())


def test_a_run_that_vanished_is_to_be_looked_at(store: RunStore) -> None:
    run = store.create(DEFAULTS, "persona")
    run.pid.write_text("{}", encoding="utf-8")
    assert "why the last run failed" in words(store)


def test_the_bar_shows_the_machine_alone_where_nothing_runs(store: RunStore) -> None:
    told = beat(store)
    assert "GB used" in told["machine"]
    assert told["run"] is None and told["latest"] == []
    run = ended(store, "finished", adapter=True)
    assert beat(store)["run"] is None and beat(store)["latest"] == [run.id, "finished"]


def test_the_bar_shows_the_active_run_with_its_last_losses(store: RunStore) -> None:
    run = store.create(DEFAULTS, "persona")
    write_process(run.pid, os.getpid())
    append(run.events, {"type": "start", "max_steps": 900})
    for step in range(1, 301):
        append(run.events, {"type": "log", "step": step, "loss": float(step)})
    shown = beat(store)["run"]
    assert (shown["id"], shown["step"], shown["max_steps"]) == (run.id, 300, 900)
    assert shown["losses"] == [float(n) for n in range(261, 301)]
