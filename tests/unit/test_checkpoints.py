"""Checkpoints are whole or absent, and damage is seen before it is used."""

from pathlib import Path

import pytest

from studio.errors import StudioError
from studio.runs import checkpoints


def saved(root: Path, step: int, text: str = "weights") -> Path:
    aside = root / f".saving-{step}"
    (aside / "part").mkdir(parents=True)
    (aside / "adapter_model.safetensors").write_text(text)
    (aside / "part" / "optimizer.pt").write_bytes(b"x" * 3000)
    target = root / f"checkpoint-{step}"
    checkpoints.publish(aside, target)
    return target


def test_a_checkpoint_is_there_when_it_is_whole(tmp_path: Path) -> None:
    folder = saved(tmp_path, 5)
    assert checkpoints.fault(folder) == "" and checkpoints.at(tmp_path, 5) == folder
    assert checkpoints.step_of(folder) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-5"]


def test_the_same_step_saved_again_takes_the_place_of_a_damaged_one_only(tmp_path: Path) -> None:
    folder = saved(tmp_path, 5)
    weights = saved(tmp_path, 5, "newer") / "adapter_model.safetensors"
    assert weights.read_text() == "weights"
    weights.write_text("damaged")
    assert (saved(tmp_path, 5, "newer") / "adapter_model.safetensors").read_text() == "newer"
    assert checkpoints.fault(folder) == ""
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "manifest.json").unlink(), "never finished"),
        (lambda f: (f / "manifest.json").write_text("{"), "can't be read"),
        (lambda f: (f / "manifest.json").write_text('{"files": []}'), "can't be read"),
        (lambda f: (f / "manifest.json").write_text('{"files": {}}'), "empty"),
        (lambda f: (f / "part" / "optimizer.pt").unlink(), "part/optimizer.pt is missing"),
        (lambda f: (f / "part" / "optimizer.pt").write_bytes(b"x" * 2999), "is damaged"),
        (lambda f: (f / "adapter_model.safetensors").write_text("Weights"), "is damaged"),
    ],
)
def test_damage_is_told_and_the_one_before_is_taken(
    tmp_path: Path, damage: object, words: str
) -> None:
    good, bad = saved(tmp_path, 9), saved(tmp_path, 10)
    damage(bad)  # type: ignore[operator]
    assert words in checkpoints.fault(bad)
    found, told = checkpoints.newest(tmp_path)
    assert found == good and len(told) == 1 and "step 10" in told[0] and words in told[0]
    with pytest.raises(StudioError, match="can't be used"):
        checkpoints.at(tmp_path, 10)


def test_steps_are_numbers_and_not_words(tmp_path: Path) -> None:
    for step in (100, 9, 20):
        saved(tmp_path, step)
    (tmp_path / "checkpoint-x").mkdir()
    assert checkpoints.steps(tmp_path) == [9, 20, 100]
    assert checkpoints.steps(tmp_path / "nix") == []
    with pytest.raises(StudioError, match="no checkpoint of step 21") as caught:
        checkpoints.at(tmp_path, 21)
    assert "9, 20, 100" in caught.value.hint


def test_what_a_cut_off_save_left_is_swept_and_never_taken(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    (tmp_path / ".saving-6" / "checkpoint-6").mkdir(parents=True)
    assert checkpoints.newest(tmp_path)[0] == tmp_path / "checkpoint-5"
    checkpoints.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize(("keep", "left"), [(1, [3]), (2, [2, 3]), (5, [1, 2, 3]), (0, [])])
def test_old_ones_are_removed(tmp_path: Path, keep: int, left: list[int]) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step)
    freed = checkpoints.rotate(tmp_path, keep)
    assert checkpoints.steps(tmp_path) == left
    assert (freed > 0) == (len(left) < 3)


def test_the_best_one_is_kept_and_counts(tmp_path: Path) -> None:
    for step in range(1, 6):
        saved(tmp_path, step)
    checkpoints.rotate(tmp_path, 3, tmp_path / "checkpoint-1")
    assert checkpoints.steps(tmp_path) == [1, 4, 5]
    checkpoints.rotate(tmp_path, 1, tmp_path / "checkpoint-1")
    assert checkpoints.steps(tmp_path) == [1, 5]
    checkpoints.rotate(tmp_path, 1, tmp_path / "checkpoint-5")
    assert checkpoints.steps(tmp_path) == [5]
