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
from studio.engine.takers import row_limit
from studio.errors import StudioError
from studio.spec import PAIRED, RunSpec

POSITION = "position"
_NUMBERS = Features({"rows": Listed(Value("int32"))})
_PLACES = Features({"rows": Listed(Value("int32")), "places": Listed(Value("int32"))})


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


class Groups(Order):
    """The order of prompts of which several answers are tried: `prompts` at a time, each `answers`
    times in a row, and all of that again for each of the `passes` that learn from it: those that
    make up a step, as often as steps learn from the same answers. The last prompts of an epoch that
    fill no step are left out."""

    def __init__(self, order: Order, prompts: int, answers: int, passes: int) -> None:
        self._order = order
        self._shape = (prompts, answers, passes)

    def set_epoch(self, epoch: int) -> None:
        """The epoch, from 0, that the next iteration is for."""
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        prompts, answers, passes = self._shape
        return len(self._order) // prompts * prompts * answers * passes

    def __iter__(self) -> Iterator[int]:
        prompts, answers, passes = self._shape
        rows = list(self._order)
        for start in range(0, len(rows) - prompts + 1, prompts):
            group = [row for row in rows[start : start + prompts] for _ in range(answers)]
            for _ in range(passes):
                yield from group


def batch_size(spec: RunSpec) -> int:
    """Rows that the trainer gets at once. Answers are tried for a whole step at once."""
    size = spec.train.per_device_train_batch_size
    return size * spec.train.gradient_accumulation_steps if spec.train.trainer == "grpo" else size


def order(spec: RunSpec, dataset: Dataset) -> Order:
    """The order in which a run goes through `dataset`. Raises StudioError where there are too few
    rows for a single step."""
    # The rows of kto are paired within a batch beforehand: they were shuffled before that.
    paired = spec.train.trainer == "kto" and spec.kto.loss_type == "kto"
    strategy = "sequential" if paired else spec.train.train_sampling_strategy
    lengths = dataset["length"] if "length" in dataset.column_names else [0] * len(dataset)
    batch = spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps
    if spec.train.trainer != "grpo":
        return Order(strategy, spec.train.seed, list(lengths), batch)
    answers = spec.grpo.num_generations
    prompts = batch // answers
    if len(dataset) < prompts:
        raise StudioError(
            f"A step takes {prompts} prompts, and there are {len(dataset)}.",
            "Lower train.per_device_train_batch_size, or hold back fewer rows.",
        )
    plain = Order("random", spec.train.seed, list(lengths), batch)
    passes = spec.train.gradient_accumulation_steps * spec.grpo.num_iterations
    return Groups(plain, prompts, answers, passes)


def arranged(spec: RunSpec, dataset: Dataset, *, train: bool) -> Dataset:
    """The prepared rows as the trainer goes through them: packed, or paired, where that is asked
    for. Keeps the column `position`, a list of positions where rows are packed."""
    if spec.train.trainer == "kto" and spec.kto.loss_type == "kto":
        return _paired(spec, dataset, shuffle=train)
    if spec.train.packing and row_limit(spec) > spec.train.max_length:
        return _filled(dataset, spec.train.max_length, spec.train.packing_strategy)
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


def _filled(dataset: Dataset, max_length: int, strategy: str) -> Dataset:
    """Rows put together, of which one may go on in another sequence; as `_packed` otherwise."""
    numbers = dataset.select_columns(["length"]).map(
        _spread_out, batched=True, with_indices=True, remove_columns=["length"], features=_PLACES
    )
    packed = pack_dataset(numbers.with_format("arrow"), max_length, strategy).with_format(None)
    pieces = partial(_pieces, dataset.with_format("numpy"))
    made = packed.map(pieces, batched=True, batch_size=200, remove_columns=packed.column_names)
    # Where rows see each other, nothing tells the trainer where one ends.
    return made.rename_column("seq_lengths", "lengths") if strategy == "wrapped" else made


def _spread_out(rows: dict[str, Any], numbers: list[int]) -> dict[str, Any]:
    places = [np.arange(length, dtype=np.int32) for length in rows["length"]]
    return {**_spread(rows, numbers), "places": places}


def _pieces(dataset: Dataset, packed: dict[str, Any]) -> dict[str, Any]:
    """The pieces of rows that were put together, as one."""
    names = ("input_ids", "labels", "positions", "seq_lengths", "length")
    made: dict[str, Any] = {name: [] for name in names}
    for rows, places in zip(packed["rows"], packed["places"], strict=True):
        numbers, at = np.asarray(rows), np.asarray(places)
        # Another row begins, or the same one anew elsewhere.
        starts = np.flatnonzero(np.r_[True, (np.diff(numbers) != 0) | (np.diff(at) != 1)])
        lengths = np.diff(np.r_[starts, len(numbers)])
        held = dataset[numbers[starts].tolist()]
        for name in ("input_ids", "labels"):
            cut = [
                row[begin : begin + length]
                for row, begin, length in zip(held[name], at[starts], lengths, strict=True)
            ]
            made[name].append(np.concatenate(cut).astype(np.int32))
        made["positions"].append(held[POSITION])
        made["seq_lengths"].append(lengths)
        made["length"].append(len(numbers))
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
    names = (POSITION, "positions", "length", "lengths")
    ours = [c for c in names if c in dataset.column_names]
    return dataset.remove_columns(ours)


class WholeOfTheBetter(DataCollatorForPreference):
    """A batch of pairs that also says what orpo learns: all of the better one, and of the other
    the answer."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Adds `learned_mask`, of the shape of `input_ids`."""
        batch: dict[str, Any] = super().torch_call(examples)
        learned = batch["completion_mask"].clone()
        better = len(learned) // 2
        learned[:better] = batch["attention_mask"][:better]
        return {**batch, "learned_mask": learned}


def collator(spec: RunSpec, pad_token_id: int) -> Any:
    """What makes a batch of rows."""
    match spec.train.trainer:
        case "orpo":
            return WholeOfTheBetter(pad_token_id=pad_token_id)
        case trainer if trainer in PAIRED:
            return DataCollatorForPreference(pad_token_id=pad_token_id)
        case "kto":
            return DataCollatorForUnpairedPreference(pad_token_id=pad_token_id)
        case "grpo":
            # The answers are not there yet.
            return list
    apart = spec.train.packing and spec.train.packing_strategy != "wrapped"
    return DataCollatorForLanguageModeling(pad_token_id=pad_token_id, padding_free=apart)


def learned(batch: Mapping[str, Any], prefix: str = "") -> Any:
    """A batch's labels: the ids of those tokens that are learned or judged, else -100. A batch of
    pairs or of marked answers has none, but says where the answers are."""
    if f"{prefix}labels" in batch:
        return batch[f"{prefix}labels"]
    mask = batch.get(f"{prefix}learned_mask")
    if mask is None:
        mask = batch[f"{prefix}completion_mask"]
    return batch[f"{prefix}input_ids"].masked_fill(mask == 0, IGNORED)


def digest(batch: Any) -> str:
    """sha256, in hex, over `input_ids` and labels (see `learned`) of a batch: of each its shape
    and its numbers, as little-endian 64-bit integers. kto's mismatched answers count too. A batch
    of grpo is a list of prompts, of which there are only ids."""
    made = hashlib.sha256()

    def add(array: Any) -> None:
        made.update(np.asarray(array.shape, dtype="<i8").tobytes())
        made.update(array.astype("<i8").tobytes())

    if isinstance(batch, list):
        for row in batch:
            add(np.asarray(row["prompt"]))
        return made.hexdigest()
    for prefix in ("", "KL_"):
        if f"{prefix}input_ids" in batch:
            for numbers in (batch[f"{prefix}input_ids"], learned(batch, prefix)):
                add(numbers.detach().to("cpu").numpy())
    return made.hexdigest()
