"""All rows of a data set, tokenized and split, ready for the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from studio.data import detect, split
from studio.engine.prepare import Encoded, encode_row
from studio.engine.report import Report
from studio.errors import StudioError
from studio.spec import RunSpec


@dataclass(frozen=True)
class Prepared:
    """Data sets with the columns input_ids and labels; `held_back` is None where no row is held
    back. `cut` counts rows that were too long, `dropped` those with nothing left to learn."""

    train: Dataset
    held_back: Dataset | None
    cut: int
    dropped: int
    notes: tuple[str, ...]


def prepare(
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    spec: RunSpec,
    report: Report,
) -> Prepared:
    """Tokenizes every row. Raises StudioError that names the row it can't use."""
    layout = detect(rows)
    total = len(rows)
    kept: dict[int, Encoded] = {}
    cut = 0
    for index, row in enumerate(rows):
        report.stage(f"tokenizing {index} of {total}", index, total)
        try:
            _, encoded = encode_row(
                row,
                layout,
                tokenizer,
                spec.data.train_on,
                spec.train.max_length,
                spec.data.system_prompt,
            )
        except StudioError as error:
            raise StudioError(f"Row {index + 1} of the data: {error.message}", error.hint) from None
        cut += bool(encoded.cut)
        if any(encoded.trained):
            kept[index] = encoded
    report.stage(f"tokenizing {total} of {total}", total, total)
    return _split(kept, total, cut, spec)


def _split(kept: dict[int, Encoded], total: int, cut: int, spec: RunSpec) -> Prepared:
    train, held_back = split(total, spec.data.test_size, spec.train.seed)
    train = [index for index in train if index in kept]
    if not train:
        raise StudioError(
            f"No row has anything to learn within its first {spec.train.max_length} tokens.",
            "Raise train.max_length, or look at the data page: all answers are cut off there.",
        )
    wanted = bool(held_back)
    held_back = [index for index in held_back if index in kept]
    dropped = total - len(kept)
    return Prepared(
        train=_dataset([kept[index] for index in train]),
        held_back=_dataset([kept[index] for index in held_back]) if held_back else None,
        cut=cut,
        dropped=dropped,
        notes=tuple(_notes(cut, dropped, total, spec, missing=wanted and not held_back)),
    )


def _notes(cut: int, dropped: int, total: int, spec: RunSpec, *, missing: bool) -> list[str]:
    notes = []
    if cut:
        notes.append(
            f"{cut} of {total} rows are longer than {spec.train.max_length} tokens and were cut."
        )
    if dropped:
        notes.append(f"{dropped} of {total} rows have nothing to learn left and were left out.")
    if missing:
        notes.append(
            "None of the rows held back has anything to learn, so there is no evaluation loss."
        )
    return notes


def _dataset(rows: Sequence[Encoded]) -> Dataset:
    # As arrays of four bytes a number: lists of Python's integers would take ten times as much.
    return Dataset.from_dict(
        {
            "input_ids": [np.asarray(row.input_ids, dtype=np.int32) for row in rows],
            "labels": [np.asarray(row.labels, dtype=np.int32) for row in rows],
        }
    )
