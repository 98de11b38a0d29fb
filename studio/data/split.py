"""Which rows are learned from, and which are held back to evaluate and to test."""

import random
import re
from dataclasses import dataclass

import numpy as np

from studio.data.table import Numbers
from studio.errors import StudioError
from studio.spec import COUNT, SHARE, SLICE, DataSection

# From here on Python's own dice take a list of all rows.
_MANY = 100_000


@dataclass(frozen=True)
class Parts:
    """Positions to learn from, to evaluate on and to test on; each ascending."""

    train: Numbers
    validation: Numbers
    test: Numbers


def names_rows(text: str) -> bool:
    """Whether the text of data.validation or data.test speaks of the rows that there are: a share,
    a count or a slice. Else it names a file or a split."""
    text = text.strip()
    return bool(SHARE.fullmatch(text) or COUNT.fullmatch(text) or SLICE.fullmatch(text))


def split(
    size: int,
    repeated: Numbers | None,
    held: dict[str, Numbers],
    section: DataSection,
    seed: int,
) -> Parts:
    """Splits the positions 0 to `size`. Where rows are `repeated` it says which row stands at each
    position: one that stands at several is in one part only, and is held back once. `held` are the
    parts that lie elsewhere. Raises StudioError where there are too few rows."""
    # `same` numbers the rows, `order` the positions at which each stands for the first time.
    if repeated is None:
        same = order = np.arange(size)
    else:
        _, first, same = np.unique(repeated, return_index=True, return_inverse=True)
        order = np.sort(first)
    taken = np.zeros(len(order), bool)
    parts = dict(held)
    for name in ("validation", "test"):
        if name in held:
            continue
        text = getattr(section, name).strip()
        if found := SLICE.fullmatch(text):
            chosen = _sliced(name, found, size)
            chosen = chosen[np.unique(same[chosen], return_index=True)[1]]
            if taken[same[chosen]].any():
                raise StudioError(
                    f"data.{name}: {text} holds rows that are held back for evaluation already.",
                    "Choose another slice.",
                )
        else:
            free = order[~taken[same[order]]]
            chosen = _drawn(name, text, free, len(order), seed)
        taken[same[chosen]] = True
        parts[name] = np.sort(chosen)
    train = np.flatnonzero(~taken[same]).astype(np.int64)
    if not len(train) and size:
        raise StudioError("All rows are held back; none is left to learn from.", "Hold back fewer.")
    return Parts(train, parts["validation"], parts["test"])


def _sliced(name: str, found: re.Match[str], size: int) -> Numbers:
    begin, end = _bound(found["begin"], size, 0), min(_bound(found["end"], size, size), size)
    if begin >= end:
        raise StudioError(
            f"data.{name}: there are {size:,} rows, and {found.group()} is none of them.",
            "Choose another slice.",
        )
    return np.arange(begin, end, dtype=np.int64)


def _bound(text: str | None, size: int, default: int) -> int:
    if text is None:
        return default
    return round(size * int(text[:-1]) / 100) if text.endswith("%") else int(text)


def _drawn(name: str, text: str, free: Numbers, size: int, seed: int) -> Numbers:
    """A share of `size` rows, or a count, drawn from those that are `free`. A share above 0 holds
    back one at least and leaves one at least."""
    found = SHARE.fullmatch(text)
    if found:
        share = float(found["percent"]) / 100 if found["percent"] else float(found["share"])
        count = min(max(1, round(size * share)), len(free) - 1) if share and len(free) > 1 else 0
    else:
        count = int(text)
        if count >= max(1, len(free)) and count:
            raise StudioError(
                f"data.{name}: {count:,} rows are to be held back, and there are {len(free):,}.",
                "Hold back fewer, or a share such as 10%.",
            )
    if len(free) > _MANY:
        drawn = np.random.default_rng([seed, len(name)]).choice(len(free), count, replace=False)
        return free[np.sort(drawn)]
    # The evaluation's rows are those of earlier versions.
    dice = random.Random(seed if name == "validation" else f"{name} {seed}")
    return free[sorted(dice.sample(range(len(free)), count))]
