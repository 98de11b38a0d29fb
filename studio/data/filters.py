"""Which rows a filter keeps."""

import json
from collections.abc import Callable
from typing import Any

import regex  # type: ignore[import-untyped]  # it has no types of its own

from studio.data.example import Broken, Row
from studio.errors import StudioError
from studio.spec import Filter

# Of one pattern on one row. Some patterns need longer than the sun will shine.
_SECONDS = 1.0


def test_of(step: Filter) -> Callable[[Row | Broken], bool]:
    """The filter as a test of a row. What is broken passes, so that it is seen as broken."""
    test = _tests(step)

    def passes(row: Row | Broken) -> bool:
        return isinstance(row, Broken) or test(row.get(step.column))

    return passes


def _tests(step: Filter) -> Callable[[Any], bool]:
    value = step.value
    match step.keep:
        case "equals":
            return lambda cell: _equals(cell, value)
        case "not_equals":
            return lambda cell: not _equals(cell, value)
        case "contains":
            return lambda cell: value in as_text(cell)
        case "matches":
            return _matcher(value)
        case "longer":
            return lambda cell: length(cell) > int(value)
        case "shorter":
            return lambda cell: length(cell) < int(value)
        case "present":
            return _is_there
        case "absent":
            return lambda cell: not _is_there(cell)


def _matcher(pattern: str) -> Callable[[Any], bool]:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise StudioError(
            f"{pattern!r} is no regular expression: {error}.", "Mend the pattern."
        ) from None

    def matches(cell: Any) -> bool:
        try:
            return compiled.search(as_text(cell), timeout=_SECONDS) is not None
        except TimeoutError:
            raise StudioError(
                f"The pattern {pattern!r} takes too long on some rows.",
                "Make it simpler: no repetition inside of a repetition.",
            ) from None

    return matches


def _equals(cell: Any, value: str) -> bool:
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        try:
            return cell == float(value)
        except ValueError:
            return False
    return as_text(cell) == value


def _is_there(cell: Any) -> bool:
    return bool(cell.strip()) if isinstance(cell, str) else cell not in (None, [], {})


def as_text(cell: Any) -> str:
    """The cell as one would write it: nothing is no text, lists and objects are JSON."""
    if isinstance(cell, str):
        return cell
    return "" if cell is None else json.dumps(cell, ensure_ascii=False, default=str)


def length(cell: Any) -> int:
    """How many characters are said in it: of lists and objects the texts alone count."""
    if isinstance(cell, dict):
        return sum(map(length, cell.values()))
    if isinstance(cell, list):
        return sum(map(length, cell))
    return len(as_text(cell))
