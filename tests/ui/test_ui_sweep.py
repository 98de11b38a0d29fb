"""Trying several values: what is typed becomes runs in the queue, or is named as wrong."""

import errno
from collections.abc import Iterator

import pytest

from studio.errors import SpecError, StudioError
from studio.jobs import sweep as add
from studio.jobs.conduct import _lock
from studio.runs import Run, RunStore, keep, queue
from studio.runs.lock import try_lock
from studio.settings import Settings
from studio.spec import DEFAULTS, RunSpec, with_overrides
from studio.ui.sweep_view import read, shown

RATE, RANK, BATCH = "train.learning_rate", "adapter.r", "train.per_device_train_batch_size"


@pytest.fixture(autouse=True)
def nobody_starts_what_waits(settings: Settings) -> Iterator[None]:
    with try_lock(_lock(settings)) as ours:
        assert ours
        yield


@pytest.mark.parametrize("text", ["1e-4, 2e-4", "1e-4\n2e-4\n", " 1e-4 ,2e-4,"])
def test_values_stand_with_commas_or_one_a_line(text: str) -> None:
    sweep = read(DEFAULTS, [(RATE, text)], paired=False)
    assert sweep.values == {RATE: [1e-4, 2e-4]} and sweep.wrong == []
    assert "<b>2 runs</b>" in shown(sweep)


def test_two_fields_make_a_grid_or_pairs() -> None:
    typed = [(RATE, "1e-4, 2e-4, 3e-4"), (RANK, "8, 16")]
    assert len(read(DEFAULTS, typed, paired=False).sets()) == 6
    assert "<b>6 runs</b>" in shown(read(DEFAULTS, typed, paired=False))
    paired = read(DEFAULTS, typed, paired=True)
    assert paired.sets() == [] and "one length" in shown(paired)
    typed = [(RATE, "1e-4, 2e-4"), (RANK, "8, 16")]
    assert read(DEFAULTS, typed, paired=True).sets() == [
        {RATE: 1e-4, RANK: 8}, {RATE: 2e-4, RANK: 16},
    ]  # fmt: skip


def test_each_wrong_value_is_named() -> None:
    sweep = read(DEFAULTS, [(RATE, "1e-4, fast, 7, 1e-4"), (BATCH, "0, 4")], paired=False)
    assert [value for value, _why in sweep.wrong] == ["fast", "7", "1e-4", "0"]
    assert sweep.sets() == []
    words = shown(sweep)
    assert "not a number" in words and "too large" in words and "twice" in words
    assert "<script>" not in shown(read(DEFAULTS, [(RATE, "<script>")], paired=False))


def test_the_same_field_twice_and_none_at_all() -> None:
    twice = read(DEFAULTS, [(RATE, "1e-4"), (RATE, "2e-4")], paired=False)
    assert "another field" in shown(twice)
    assert "Type the values" in shown(read(DEFAULTS, [(RATE, " ")], paired=False))
    assert "Type the values" in shown(read(DEFAULTS, [(RATE, "1e-4"), (RANK, "")], paired=False))


def test_values_that_are_wrong_only_together_are_named() -> None:
    typed = [("train.trainer", "sft, dpo"), ("train.packing", "true")]
    with pytest.raises(SpecError):
        with_overrides(DEFAULTS, ["train.trainer=dpo", "train.packing=true"])
    sweep = read(DEFAULTS, typed, paired=False)
    assert [value for value, _why in sweep.wrong] == ["dpo, on"]
    # With the form as it is, one of them is wrong, and the other field mends it.
    packed = with_overrides(DEFAULTS, ["train.packing=true"])
    typed = [("train.trainer", "dpo"), ("train.packing", "false")]
    assert len(read(packed, typed, paired=False).sets()) == 1
    assert "packed" in shown(read(packed, [("train.trainer", "sft, dpo")], paired=False))


def test_a_fields_own_words_are_taken_as_they_are() -> None:
    sweep = read(DEFAULTS, [("eval.eval_strategy", "no, epoch")], paired=False)
    assert sweep.values == {"eval.eval_strategy": ["no", "epoch"]} and sweep.wrong == []


def test_too_many_are_refused_before_they_are_made() -> None:
    many = ", ".join(str(n) for n in range(1, 60))
    sweep = read(DEFAULTS, [(RANK, many), (BATCH, many)], paired=False)
    assert "more than" in shown(sweep) and sweep.wrong


def test_what_was_typed_becomes_runs_that_say_what_differs(
    store: RunStore, settings: Settings
) -> None:
    spec = with_overrides(DEFAULTS, ["train.seed=9"])
    sweep = read(spec, [(RATE, "1e-4, 2e-4"), (RANK, "8")], paired=False)
    runs = add(store, settings, spec, "try", sweep.values)
    assert queue.waiting(store.root) == [run.id for run in runs] and len(runs) == 2
    assert [run.spec().train.learning_rate for run in runs] == [1e-4, 2e-4]
    assert {run.spec().train.seed for run in runs} == {9}
    assert "2e-4" in keep.meta(runs[1]).title
    assert keep.meta(runs[0]).tags == keep.meta(runs[1]).tags != ()


def test_of_a_sweep_that_the_disk_has_no_room_for_nothing_is_left(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real, made = RunStore(settings.runs), RunStore.create, list[str]()

    def create(store: RunStore, spec: RunSpec, name: str) -> Run:
        if len(made) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(name)
        return real(store, spec, name)

    monkeypatch.setattr(RunStore, "create", create)
    with pytest.raises(StudioError, match="No space left"):
        add(store, settings, DEFAULTS, "n", {RANK: [4, 8, 16]})
    assert len(made) == 2 and store.list() == [] and queue.waiting(store.root) == []
