"""What the notes on all rows add up to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.data import Data, Numbers
from studio.data.alike import first_like
from studio.data.languages import UNKNOWN, main_language
from studio.engine.audit_rows import FLAGS, Noted
from studio.engine.report import Report
from studio.spec import Drop

Mask = npt.NDArray[np.bool_]
# From here on rows are nearly the same; a step may name another likeness.
NEAR = Drop(what="near_duplicate").threshold
_SHARES = (50, 90, 95, 99)
# What is told of other flags, and is no count of its own.
_SILENT = ("tools", "thoughts")


@dataclass(frozen=True)
class Sums:
    """`counts` has every figure by its name; `which` says for each finding which rows have it, and
    `like` for each row which earlier one it is like (its own number where there is none).
    `lengths` are those of all rows that could be encoded."""

    counts: dict[str, int | float]
    which: dict[str, Mask]
    like: Numbers
    lengths: Numbers
    languages: dict[str, int]
    main_language: str

    @classmethod
    def of(
        cls,
        data: Data,
        positions: Numbers,
        part: Numbers,
        noted: Noted,
        languages: Sequence[str],
        report: Report,
    ) -> "Sums":
        """Adds up. `positions` ascend, `part` is 0 for rows to learn from; `languages` are the
        names by their numbers."""
        gone = noted.has(*data.token_drops)
        which = {name: noted.has(name) & ~gone for name in FLAGS if name not in _SILENT}
        read = np.flatnonzero(noted.compared & ~gone)
        told, main, other = _languages(noted.language, read, languages)
        which["other_language"] = other
        counts: dict[str, int | float] = {
            "rows": len(positions),
            **{f"{name}_rows": int((part == n).sum()) for n, name in enumerate(_PARTS)},
            "dropped": int(gone.sum()),
        }
        encoded = np.flatnonzero((noted.length > 0) & ~gone)
        counts |= _tokens(noted, encoded)
        report.stage("comparing rows")
        alike = _Alike(data, positions, part, noted, read)
        which |= alike.which
        counts |= {name: int(mask.sum()) for name, mask in which.items()}
        lengths = noted.length[encoded].astype(np.int64)
        return cls(counts, which, alike.like, lengths, told, main)


_PARTS = ("train", "validation", "test")


def _tokens(noted: Noted, encoded: Numbers) -> dict[str, int | float]:
    counts: dict[str, int | float] = {}
    columns = (("tokens", noted.tokens), ("trained_tokens", noted.trained))
    for name, column in (*columns, ("cut_tokens", noted.lost)):
        counts[name] = int(column[encoded].sum(dtype=np.int64))
    for name, column in (("length", noted.length), ("trained", noted.trained)):
        values: Any = column[encoded] if len(encoded) else np.zeros(1, np.int32)
        counts[f"{name}_mean"] = round(float(values.mean()), 1)
        for share in _SHARES:
            # A length that some row has.
            found = np.percentile(values, share, method="inverted_cdf")
            counts[f"{name}_p{share}"] = int(found)
        counts[f"{name}_max"] = int(values.max())
    return counts


def _languages(
    language: npt.NDArray[np.uint8], read: Numbers, names: Sequence[str]
) -> tuple[dict[str, int], str, Mask]:
    """Rows by language, the most frequent first; that one; and which rows are in another."""
    times = np.bincount(language[read], minlength=len(names)).tolist()
    ranked = sorted(zip(times, names, strict=True), key=lambda pair: -pair[0])
    told = {name: count for count, name in ranked if count}
    main = main_language(language[read], names)
    other = np.zeros(len(language), bool)
    if main is not None:
        other[read] = ~np.isin(language[read], (main, names.index(UNKNOWN)))
    return told, UNKNOWN if main is None else names[main], other


class _Alike:
    """Rows that say the same."""

    def __init__(
        self, data: Data, positions: Numbers, part: Numbers, noted: Noted, read: Numbers
    ) -> None:
        self._size, self._read = len(positions), read
        same, near = first_like(noted.key[read], noted.signature, NEAR, read)
        own = positions[read] < data.total
        # A row that counts twice is not its own duplicate.
        once = np.zeros(len(read), bool)
        once[np.unique(data.numbers(positions[read]), return_index=True)[1]] = True
        again = _repeated(same, own & once)
        nearly = _repeated(near, own & once) & ~_repeated(same, once)
        learned = part[read] == 0
        again_here = _repeated(same, own & once & learned)
        nearly_here = _repeated(near, own & once & learned) & ~again_here
        leaked_exact = ~learned & np.isin(same, same[learned])
        answers = noted.answer[read].astype(np.int64)
        answered = once & (answers != 0) & ~_repeated(same, once)
        self.which = {
            "duplicate": self._wide(again),
            "duplicate_in_train": self._wide(again_here),
            "near_duplicate": self._wide(nearly),
            "near_duplicate_in_train": self._wide(nearly_here),
            "leaked": self._wide(~learned & np.isin(near, near[learned])),
            "leaked_exact": self._wide(leaked_exact),
            "duplicate_answer": self._wide(_repeated(answers, answered)),
        }
        self.like = np.arange(self._size)
        self.like[read] = read[near]
        # Of what leaks, the row that is learned from.
        groups, first = np.unique(near[learned], return_index=True)
        leaks = np.flatnonzero(~learned & np.isin(near, groups))
        at = first[np.searchsorted(groups, near[leaks])]
        self.like[read[leaks]] = read[np.flatnonzero(learned)[at]]

    def _wide(self, mask: Mask) -> Mask:
        """From the rows that were read to all rows."""
        wide = np.zeros(self._size, bool)
        wide[self._read[mask]] = True
        return wide


def _repeated(groups: Numbers, mask: Mask) -> Mask:
    """Which of the masked rows are not the first of them in their group."""
    chosen = np.flatnonzero(mask)
    again = mask.copy()
    again[chosen[np.unique(groups[chosen], return_index=True)[1]]] = False
    return again
