"""The errors a person sees: what happened, and what to do about it."""

import dataclasses
from dataclasses import dataclass
from typing import Any


class StudioError(Exception):
    """Something went wrong that the person can mend.

    `message` says what happened in one sentence, `hint` what to do.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one field, e.g. `train.learning_rate`. `changes` are fields with
    the values that mend it, where a program can tell them; a button on the page sets them."""

    field: str
    message: str
    hint: str = ""
    changes: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.field}: {self.message} {self.hint}".strip()


class SpecError(StudioError):
    """Every problem of a spec at once, so that nobody mends them one run at a time."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems
