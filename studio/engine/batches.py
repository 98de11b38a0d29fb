"""From prepared rows to batches: the order, the packing, the collator, and a batch's digest.

All of it is made here, for the trainer and for the preview alike, so that what the preview says of
a batch is true of the run.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Value
from datasets import Sequence as Listed
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import pack_dataset
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from studio.engine.encode import IGNORED
from studio.spec import RunSpec

POSITION = "position"
_NUMBERS = Features({"rows": Listed(Value("int32"))})


class Order(Sampler[int]):
    """The order of the rows in each epoch: a function of the seed and the epoch's number alone, so
    that a preview can tell it and a resumed run finds its place."""

    def __init__(self, strategy: str, seed: int, lengths: list[int], batch: int) -> None:
        self._strategy = strategy
        self._seed = seed
        self._lengths = lengths
        self._batch = batch
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch, from 0, that the next iteration is for."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        count = len(self._lengths)
        if self._strategy == "sequential":
            yield from range(count)
            return
        dice = torch.Generator()
        dice.manual_seed(self._seed * 1_000_003 + self._epoch)
        if self._strategy == "group_by_length":
            yield from get_length_grouped_indices(self._lengths, self._batch, generator=dice)
        else:
            yield from torch.randperm(count, generator=dice).tolist()


def order(spec: RunSpec, dataset: Dataset) -> Order:
    """The order in which a run goes through `dataset`."""
    # The rows of kto are paired within a batch beforehand: they were shuffled before that.
    paired = spec.train.trainer == "kto" and spec.kto.loss_type == "kto"
    strategy = "sequential" if paired else spec.train.train_sampling_strategy
    lengths = dataset["length"] if "length" in dataset.column_names else [0] * len(dataset)
    batch = spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps
    return Order(strategy, spec.train.seed, list(lengths), batch)


def arranged(spec: RunSpec, dataset: Dataset, *, train: bool) -> Dataset:
    """The prepared rows as the trainer goes through them: packed, or paired, where that is asked
    for. Keeps the column `position`, a list of positions where rows are packed."""
    if spec.train.trainer == "kto" and spec.kto.loss_type == "kto":
        return _paired(spec, dataset, shuffle=train)
    if spec.train.packing:
        return _packed(dataset, spec.train.max_length)
    return dataset


def _packed(dataset: Dataset, max_length: int) -> Dataset:
    """Rows put together without ever being cut; `seq_lengths` says where each ends."""
    # What packs goes by the lengths of lists: the rows' numbers stand in for their tokens, of which
    # no more copies are made than the one that is the result.
    numbers = dataset.select_columns(["length"]).map(
        _spread, batched=True, with_indices=True, remove_columns=["length"], features=_NUMBERS
    )
    packed = pack_dataset(numbers.with_format("arrow"), max_length, "bfd").with_format(None)
    gathered = partial(_gathered, dataset.with_format("numpy"))
    return packed.map(gathered, batched=True, batch_size=200, remove_columns=["rows"])


def _spread(rows: dict[str, Any], numbers: list[int]) -> dict[str, Any]:
    pairs = zip(numbers, rows["length"], strict=True)
    return {"rows": [np.full(length, number, np.int32) for number, length in pairs]}


def _gathered(dataset: Dataset, packed: dict[str, Any]) -> dict[str, Any]:
    """The rows that were put together, once for each of their tokens, as one."""
    made: dict[str, Any] = {"input_ids": [], "labels": [], "positions": [], "length": []}
    for rows, lengths in zip(packed["rows"], packed["seq_lengths"], strict=True):
        starts = np.cumsum([0, *lengths[:-1]])
        held = dataset[[rows[start] for start in starts]]
        for name in ("input_ids", "labels"):
            made[name].append(np.concatenate(held[name]).astype(np.int32))
        made["positions"].append(held[POSITION])
        made["length"].append(len(rows))
    return made


def _paired(spec: RunSpec, dataset: Dataset, *, shuffle: bool) -> Dataset:
    """Each row with the answer of the row before it in its batch, by which kto estimates how far
    the model has moved: (x1, yn), (x2, y1), …, as trl pairs them. The batches are made here, so
    their order is chosen here too, and is the same in every epoch."""
    size = spec.train.per_device_train_batch_size
    if shuffle:
        chosen = Order(
            spec.train.train_sampling_strategy, spec.train.seed, list(dataset["length"]), size
        )
        dataset = dataset.select(list(chosen))

    def pair(rows: dict[str, Any], numbers: list[int]) -> dict[str, Any]:
        answers = rows["completion_ids"]
        # A last batch of one row would be paired with itself.
        alone = len(answers) == 1 and numbers[0] > 0
        before = dataset[numbers[0] - 1]["completion_ids"] if alone else answers[-1]
        return {"KL_completion_ids": [before, *answers[:-1]]}

    return dataset.map(pair, batched=True, batch_size=size, with_indices=True, desc=None)


def bare(dataset: Dataset) -> Dataset:
    """The rows without what only we need to know of them."""
    ours = [c for c in (POSITION, "positions", "length") if c in dataset.column_names]
    return dataset.remove_columns(ours)


def collator(spec: RunSpec, pad_token_id: int) -> Any:
    """What makes a batch of rows."""
    if spec.train.trainer == "dpo":
        return DataCollatorForPreference(pad_token_id=pad_token_id)
    if spec.train.trainer == "kto":
        return DataCollatorForUnpairedPreference(pad_token_id=pad_token_id)
    return DataCollatorForLanguageModeling(
        pad_token_id=pad_token_id, padding_free=spec.train.packing
    )


def digest(batch: Mapping[str, Any]) -> str:
    """sha256, in hex, over `input_ids` and `labels` of a batch: of each its shape and its numbers,
    as little-endian 64-bit integers. A batch of dpo or kto has no labels; theirs are the ids where
    the answer is, else -100, and kto's mismatched answers count too."""
    made = hashlib.sha256()
    for prefix in ("", "KL_"):
        if f"{prefix}input_ids" not in batch:
            continue
        ids = batch[f"{prefix}input_ids"]
        labels = batch.get(f"{prefix}labels")
        if labels is None:
            labels = ids.masked_fill(batch[f"{prefix}completion_mask"] == 0, IGNORED)
        for numbers in (ids, labels):
            array = numbers.detach().to("cpu").numpy().astype("<i8")
            made.update(np.asarray(array.shape, dtype="<i8").tobytes())
            made.update(array.tobytes())
    return made.hexdigest()
