"""How long the rows are, in tokens: what both memory and time follow from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

from studio.spec import RunSpec

# English in a vocabulary of some ten thousands, and what a chat template writes around a row.
_CHARACTERS_PER_TOKEN = 3.6
_AROUND = 30
_SCORED = 0.5  # of a chat's tokens: its answers
_PACKED = 0.96  # of a sequence that is filled with whole rows
_FROM_BINS = 500  # lengths that stand for those of a histogram
_LEAST = 256  # tokens; below it a GPU is no faster


def rung(number: int, least: int = _LEAST) -> int:
    """The next of the lengths that the fast path uses on a GPU: `least`, then four to each
    doubling. At most a quarter is added, and a tenth on average."""
    if number <= least:
        return least
    step = max(1, 1 << ((number - 1).bit_length() - 3))
    return -(-number // step) * step


@dataclass(frozen=True)
class Rows:
    """`train` rows to learn from and `eval` held back; `lengths` are the tokens of some of them, or
    of all, before they are cut. `exact` tells whether they were counted or guessed."""

    train: int
    eval: int
    lengths: tuple[int, ...]
    exact: bool = False
    # The share of tokens that are scored.
    scored: float = 1.0

    @classmethod
    def of_characters(cls, train: int, eval: int, characters: Sequence[float]) -> "Rows":
        """From the rows' lengths in characters; about."""
        tokens = (round(n / _CHARACTERS_PER_TOKEN) + _AROUND for n in characters)
        return cls(train, eval, tuple(tokens) or (_AROUND,), scored=_SCORED)

    @classmethod
    def of_bins(
        cls,
        train: int,
        eval: int,
        bins: Sequence[tuple[int, int, int]],
        longest: int,
        scored: float,
    ) -> "Rows":
        """From a count of all rows: `bins` of (from, to, rows) in tokens, the longest row's tokens
        and the share of tokens that are scored."""
        total = sum(count for _, _, count in bins)
        tokens: list[int] = []
        for begin, end, count in bins:
            tokens += [(begin + end) // 2] * round(_FROM_BINS * count / max(1, total))
        return cls(train, eval, (*(min(n, longest) for n in tokens), longest), True, scored)

    def cut(self, most: int) -> "Cut":
        """The rows' lengths with what is longer than `most` tokens cut off."""
        if most not in self._cuts:
            self._cuts[most] = Cut(tuple(sorted(min(most, max(1, n)) for n in self.lengths)))
        return self._cuts[most]

    @cached_property
    def _cuts(self) -> "dict[int, Cut]":
        return {}


@dataclass(frozen=True)
class Cut:
    """Lengths as the trainer gets them, the shortest first."""

    lengths: tuple[int, ...]

    @cached_property
    def mean(self) -> float:
        """Tokens of a row on average."""
        return sum(self.lengths) / len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.lengths[-1]

    def longest_of(self, rows: int) -> float:
        """The longest of so many rows that chance puts together, on average."""
        count = len(self.lengths)
        # The chance that the longest is one of the first i: (i / count) ** rows.
        return sum(
            length * (((i + 1) / count) ** rows - (i / count) ** rows)
            for i, length in enumerate(self.lengths)
        )


@dataclass(frozen=True)
class Shape:
    """A micro-batch in tokens: `most` that one may hold, `usual` that one computes, padding and
    all, `real` ones among them; `steps` of the run."""

    most: float
    usual: float
    real: float
    steps: int


def evaluated(spec: RunSpec, rows: Rows, *, fast: bool) -> float:
    """Tokens in a batch of an evaluation, padding and all; 0 where none is made."""
    if not rows.eval or spec.eval.eval_strategy == "no":
        return 0.0
    size, cut = (
        min(spec.eval.per_device_eval_batch_size, rows.eval),
        rows.cut(spec.train.max_length),
    )
    return size * (cut.mean if fast else cut.longest_of(size))


def batch_shape(spec: RunSpec, rows: Rows, steps: int, fast: bool, gpu: bool) -> Shape:
    """What a micro-batch holds. `fast`: rows stand one after the other, without padding."""
    train = spec.train
    cut, size = rows.cut(train.max_length), train.per_device_train_batch_size
    if train.packing:
        full = size * train.max_length
        # The fast path fills every batch up on a GPU; a CPU computes what is there.
        usual = full if gpu and fast else _PACKED * full
        least = min(full, rows.train * cut.mean)
        real = min(_PACKED * full, least)
        return Shape(full if gpu and fast else least, min(usual, max(least, real)), real, steps)
    real = size * cut.mean
    if fast:
        longest = _sum_of_longest(cut, size, steps * train.gradient_accumulation_steps)
        # A GPU wants one of a few lengths.
        return Shape(rung(math.ceil(longest)) if gpu else longest, (1.1 if gpu else 1.0) * real,
                     real, steps)  # fmt: skip
    sorted_rows = train.train_sampling_strategy == "group_by_length"
    usual = size * (cut.mean if sorted_rows else cut.longest_of(size))
    return Shape(size * cut.longest, usual, real, steps)


def _sum_of_longest(cut: Cut, size: int, batches: int) -> float:
    """About the most tokens that so many batches without padding come to: as far above the mean as
    the largest of so many normal draws is (Blom, 1958), never more than the longest rows
    together."""
    variance = sum((n - cut.mean) ** 2 for n in cut.lengths) / len(cut.lengths)
    above = NormalDist().inv_cdf((max(2, batches) - 0.375) / (max(2, batches) + 0.25))
    return float(min(size * cut.longest, size * cut.mean + above * (size * variance) ** 0.5))
