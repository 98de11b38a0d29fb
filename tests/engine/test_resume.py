"""A run that goes on from a checkpoint ends where it would have ended: bit for bit."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from studio.runs import Run, RunStore, checkpoints
from studio.runs.events import read
from studio.settings import Settings

LONG = {"max_steps": 7, "save_steps": 1, "save_total_limit": 10, "logging_steps": 1}


def weights(run: Run) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def cut_off(source: Run, run: Run, step: int) -> None:
    """Makes `run` what `source` was right after its checkpoint of that step and one step more."""
    run.checkpoints.mkdir()
    for kept in range(1, step + 1):
        name = f"checkpoint-{kept}"
        shutil.copytree(source.checkpoints / name, run.checkpoints / name)
    lines = source.events.read_text().splitlines(keepends=True)
    told = list(enumerate(read(source.events)))
    saved = next(n for n, e in told if e["type"] == "save" and e["step"] == step)
    last = next((n for n, e in told if e.get("step") == step + 1), saved)
    run.events.write_text("".join(lines[: last + 1]))


@pytest.fixture
def whole(new_run: Callable[..., Run], train_here: Callable[[Run], int]) -> Run:
    run = new_run(train=LONG)
    assert train_here(run) == 0
    return run


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_resumed_run_ends_with_the_same_weights(
    whole: Run, new_run: Callable[..., Run], train_here: Callable[[Run], int], step: int,
    settings: Settings,
) -> None:  # fmt: skip
    run = new_run(train=LONG)
    cut_off(whole, run, step)
    assert train_here(run) == 0
    assert weights(run) == weights(whole)
    # The chart is the same, with each step once, and so is what was counted.
    steps = [point["step"] for point in run.history()]
    assert steps == sorted(set(steps)) == [point["step"] for point in whole.history()]
    for name in ("loss", "num_tokens", "eval_loss"):
        assert [p.get(name) for p in run.history()] == [p.get(name) for p in whole.history()]
    state = RunStore(settings.runs).state(run)
    assert (state.status, state.step, state.first_step) == ("finished", 7, step)


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(
    whole: Run, new_run: Callable[..., Run], train_here: Callable[[Run], int]
) -> None:
    run = new_run(train=LONG)
    cut_off(whole, run, 3)
    (run.checkpoints / "checkpoint-3" / "optimizer.pt").write_bytes(b"half")
    (run.checkpoints / ".saving-x").mkdir()
    assert train_here(run) == 0
    assert weights(run) == weights(whole)
    (attempt,) = [e for e in read(run.events) if e["type"] == "attempt"]
    assert attempt["step"] == 2
    notes = [e["text"] for e in read(run.events) if e["type"] == "note"]
    assert any("step 3" in text and "damaged" in text for text in notes)
    assert not list(run.checkpoints.glob(".*"))


def test_every_checkpoint_of_a_run_is_whole(whole: Run) -> None:
    found = checkpoints.steps(whole.checkpoints)
    assert found == list(range(1, 8))
    for step in found:
        folder: Any = checkpoints.at(whole.checkpoints, step)
        assert [p.name for p in folder.glob("*.bin")] == ["training_args.bin"] and (
            folder / "adapter_model.safetensors"
        ).is_file()
