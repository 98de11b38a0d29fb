"""How long rows are, before any tokenizer has seen them."""

from typing import Any

from studio.data.opened import Data


def characters(data: Data, sample: int) -> tuple[int, ...]:
    """Characters of all texts in each of the first `sample` rows."""
    return tuple(_count(row) for row in data.raw(0, sample))


def _count(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 0
