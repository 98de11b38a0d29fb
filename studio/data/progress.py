"""How the data's own long passes say how far they are, and learn that they should stop."""

from typing import Protocol


class Report(Protocol):
    """Where progress goes. `stage` may raise to end the work."""

    def stage(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """What is being done now, in words, with a count where there is one."""

    def note(self, text: str) -> None:
        """Something the person should know."""


class Silent:
    """Nobody listens."""

    def stage(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
