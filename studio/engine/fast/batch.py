"""Rows of any length as one row of documents, filled up to one of a few lengths.

Shapes that come again are what compiled code and recorded graphs live on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from studio.plan.lengths import rung

IGNORED = -100
_LEAST_DOCUMENTS = 8


@dataclass(frozen=True)
class Flat:
    """The collator: one row [1, T] for a micro-batch.

    Each document's first label is dropped, as nothing before it predicts it. What fills the row up
    is documents of its own that are not scored. `longest` is what attention is prepared for.
    """

    pad_token_id: int
    longest: int
    tokens: int | None = None
    # Where nothing is compiled or recorded, no shape has to come again, and nothing is filled up.
    exact: bool = False

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`examples` hold input_ids and may hold labels and, where packed, seq_lengths."""
        lengths = [
            int(n)
            for example in examples
            for n in example.get("seq_lengths") or [len(example["input_ids"])]
            if n
        ]
        real = sum(lengths)
        total = self.tokens if self.tokens and real <= self.tokens else self._length(real)
        ids = np.full(total, self.pad_token_id, dtype=np.int64)
        labels = np.full(total, IGNORED, dtype=np.int64)
        ids[:real] = np.concatenate([np.asarray(e["input_ids"]) for e in examples])
        labels[:real] = np.concatenate(
            [np.asarray(e.get("labels", e["input_ids"])) for e in examples]
        )
        left = total - real
        lengths += [min(self.longest, left - at) for at in range(0, left, self.longest)]
        starts = np.cumsum([0, *lengths])
        labels[starts[:-1]] = IGNORED
        positions = np.arange(total) - np.repeat(starts[:-1], lengths)
        # The bounds get a length that comes again as well, by documents of no token at the end:
        # they cost next to nothing, so the rungs are further apart.
        documents = max(_LEAST_DOCUMENTS, 1 << (len(lengths) - 1).bit_length())
        bounds = np.full(documents + 1, total, dtype=np.int32)
        bounds[: len(starts)] = starts
        return {
            "input_ids": torch.from_numpy(ids)[None],
            "labels": torch.from_numpy(labels)[None],
            "position_ids": torch.from_numpy(positions)[None],
            "cu_seq_lens_q": torch.from_numpy(bounds),
            "max_length_q": max(self.longest, *lengths),
            "num_tokens": real,
        }

    def _length(self, real: int) -> int:
        return real if self.exact else rung(real)
