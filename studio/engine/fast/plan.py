"""What the fast path is asked to do, and how it declines."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Plan:
    """How a run is made fast. Every field stands for one ingredient.

    `None` for `compile` and `graphs` means: where it helps, that is on a GPU.
    """

    # float8 halves the memory of 16-bit weights and doubles the products' speed; it is not exact.
    frozen: Literal["as_loaded", "float8"] = "as_loaded"
    compile: bool | None = None
    # Records a micro-batch's GPU work once and starts it as a whole: the host stops being the
    # limit, which counts most where micro-batches are small.
    graphs: bool | None = None
    # How many layers, from the first on, are run again in backward instead of being kept.
    replay: int = 0
    # Replayed layers' inputs wait in the host's memory instead of the GPU's.
    host: bool = False
    # Tokens whose logits exist at a time.
    chunk: int = 2048
    # Tokens that every micro-batch is filled up to; None: up to the next of a few lengths.
    tokens: int | None = None


@dataclass(frozen=True)
class Refused:
    """Why the fast path does not apply; the plain one goes on. `reasons` are in plain words."""

    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return " ".join(self.reasons)
