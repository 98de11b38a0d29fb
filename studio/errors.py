"""The errors a person sees: what happened, and what to do about it."""

from dataclasses import dataclass


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
    """One thing that is wrong with one field, e.g. `train.learning_rate`."""

    field: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.message} {self.hint}".strip()


class SpecError(StudioError):
    """Every problem of a spec at once, so that nobody mends them one run at a time."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems
