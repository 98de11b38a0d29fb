"""The order of the rows, how they are packed and paired, and what a digest tells apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from studio.data import open_data
from studio.engine import trainers
from studio.engine.batches import Order, arranged, bare, collator, digest, order
from studio.engine.dataset import prepare
from studio.engine.load import hardware, load_model
from studio.engine.tokenizer import load_tokenizer
from studio.engine.train import build
from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import RunSpec, parse
from tests.engine.helpers import Recorder

STRATEGIES = ("random", "sequential", "group_by_length")
LENGTHS = [5, 60, 7, 8, 90, 11, 12, 30, 14, 15, 16, 17]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_order_is_a_function_of_seed_and_epoch(strategy: str) -> None:
    def drawn(seed: int, epoch: int) -> list[int]:
        # Another one each time, and whatever else is drawn meanwhile.
        torch.rand(3)
        made = Order(strategy, seed, LENGTHS, 4)
        made.set_epoch(epoch)
        return list(made)

    for seed, epoch in ((1, 0), (1, 1), (2, 0)):
        assert drawn(seed, epoch) == drawn(seed, epoch)
        assert sorted(drawn(seed, epoch)) == list(range(len(LENGTHS)))
    others = {tuple(drawn(seed, epoch)) for seed in (1, 2, 3) for epoch in (0, 1, 2)}
    assert len(others) == (1 if strategy == "sequential" else 9)


def test_like_lengths_come_together() -> None:
    lengths = [length % 50 for length in range(1000)]

    def padding(strategy: str) -> int:
        rows = [lengths[n] for n in Order(strategy, 1, lengths, 8)]
        return sum(8 * max(rows[n : n + 8]) - sum(rows[n : n + 8]) for n in range(0, 1000, 8))

    assert 4 * padding("group_by_length") < padding("random")


def spec_of(trainer: str = "sft", **train: Any) -> RunSpec:
    fields = {"trainer": trainer, "per_device_train_batch_size": 4, "max_length": 16, **train}
    return parse({"train": fields})


def sft_rows(lengths: list[int]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "input_ids": [100 * n + i for i in range(length)],
                "labels": [-100, *[100 * n + i for i in range(1, length)]],
                "position": 7 * n,
                "length": length,
            }
            for n, length in enumerate(lengths)
        ]
    )


def test_packing_keeps_every_token_of_every_row_and_tells_which_are_where() -> None:
    rows = sft_rows([5, 16, 7, 3, 9, 2, 2])
    packed = arranged(spec_of(packing=True), rows, train=True)
    assert len(packed) < len(rows)
    seen = []
    for row in packed:
        assert row["length"] == len(row["input_ids"]) == sum(row["seq_lengths"]) <= 16
        start = 0
        for position, length in zip(row["positions"], row["seq_lengths"], strict=True):
            whole = rows[position // 7]
            assert row["input_ids"][start : start + length] == whole["input_ids"]
            assert row["labels"][start : start + length] == whole["labels"]
            seen.append(position)
            start += length
    assert sorted(seen) == rows["position"][:]
    batch = collator(spec_of(packing=True), 0)(list(bare(packed)))
    # A row begins again at 0: none sees another.
    assert int((batch["position_ids"] == 0).sum()) == len(rows)
    assert int((batch["labels"] != -100).sum()) == sum(length - 1 for length in rows["length"])


def kto_rows(count: int) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt_ids": [n], "completion_ids": [50 + n] * (1 + n % 3), "label": n % 2 == 0,
                "position": n, "length": 2 + n % 3,
            }
            for n in range(count)
        ]
    )  # fmt: skip


@pytest.mark.parametrize("count", [8, 9, 10])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_kto_pairs_each_question_with_anothers_answer_in_its_batch(
    strategy: str, count: int
) -> None:
    spec = spec_of("kto", train_sampling_strategy=strategy)
    rows = arranged(spec, kto_rows(count), train=True)
    assert sorted(rows["position"]) == list(range(count))
    assert list(order(spec, rows)) == list(range(count))
    for start in range(0, count, 4):
        batch = rows[start : start + 4]
        own = [ids[0] for ids in batch["completion_ids"]]
        other = [ids[0] for ids in batch["KL_completion_ids"]]
        assert all(a != b for a, b in zip(own, other, strict=True))
        # A last row alone has nobody in its batch to be paired with.
        assert sorted(other) == sorted(own) or len(own) == 1
    if strategy == "sequential":
        assert rows["position"][:] == list(range(count))
    else:
        assert rows["position"][:] != list(range(count))
    again = arranged(spec, kto_rows(count), train=True)
    assert again[:] == rows[:]


def test_kto_without_the_estimate_pairs_nobody() -> None:
    spec = parse({"train": {"trainer": "kto"}, "kto": {"loss_type": "apo_zero_unpaired"}})
    rows = arranged(spec, kto_rows(8), train=True)
    assert "KL_completion_ids" not in rows.column_names
    assert list(order(spec, rows)) != list(range(8))


def test_a_digest_tells_shapes_ids_labels_and_answers_apart() -> None:
    ids, mask = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, 0, 1, 1]])
    batches: list[dict[str, torch.Tensor]] = [
        {"input_ids": ids, "labels": ids},
        {"input_ids": ids, "labels": torch.tensor([[-100, 2, 3, 4]])},
        {"input_ids": ids.view(2, 2), "labels": ids.view(2, 2)},
        {"input_ids": ids + 1, "labels": ids},
        {"input_ids": ids, "completion_mask": mask},
        {"input_ids": ids, "completion_mask": 1 - mask},
    ]
    more = {"KL_input_ids": ids, "KL_completion_mask": mask}
    batches += [{**batches[4], **more}, {**batches[4], **more, "KL_input_ids": ids + 1}]
    made = [digest(batch) for batch in batches]
    assert len(set(made)) == len(made) and all(len(one) == 64 for one in made)
    # Of which kind the numbers are, and where, is of no matter.
    assert digest({"input_ids": ids.int(), "labels": ids.int()}) == made[0]
    labels = torch.tensor([[-100, -100, 3, 4]])
    assert digest({"input_ids": ids, "labels": labels}) == made[4]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_goes_on_gets_the_batches_that_it_had_not_yet(
    settings: Settings,
    spec_with: Callable[..., RunSpec],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
) -> None:
    """In the middle of the second epoch; accelerate must neither draw an order of its own nor
    begin the epoch again."""
    train = {
        "max_steps": 8, "save_steps": 5, "train_sampling_strategy": strategy,
        "gradient_accumulation_steps": 1,
    }  # fmt: skip
    spec = spec_with(train=train, data={"validation": "0"}, eval={"eval_on_start": False})
    data = open_data(spec.data, settings)
    loaded = load_tokenizer(tiny_model, spec.data)
    prepared = prepare(data, loaded.tokenizer, spec, settings, Recorder())
    run = RunStore(settings.runs).create(spec, "on")
    where = hardware(spec.model)
    told: list[str] = []
    before = trainers.Base.training_step

    def step(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        told.append(digest(inputs))
        return before(self, model, inputs, *rest, **more)

    monkeypatch.setattr(trainers.Base, "training_step", step)

    def trainer() -> Any:
        model = load_model(spec.model, tiny_model, where, Recorder())
        return build(run, spec, where, model, loaded, prepared, tiny_model)

    trainer().train()
    whole = told[:]
    told.clear()
    trainer().train(resume_from_checkpoint=str(run.checkpoints / "checkpoint-5"))
    # 20 rows are 5 batches an epoch; the sixth begins the second.
    assert len(whole) == 8 and told == whole[5:]
    assert (whole[5:] == whole[:3]) == (strategy == "sequential")
