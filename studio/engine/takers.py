"""Which rows a trainer takes, and how much of each."""

from studio.data import Example, RowError
from studio.spec import RunSpec

_ENDLESS = 2**31 - 1


def row_limit(spec: RunSpec) -> int:
    """How many tokens of a row are kept at most: all of them, where a long row goes on in the next
    sequence."""
    goes_on = spec.train.packing and spec.train.packing_strategy != "bfd"
    return _ENDLESS if goes_on else spec.train.max_length


# The trainers that take a row of each kind, the one to suggest first.
_TAKERS = {
    "chat": ("sft", "grpo"),
    "text": ("sft", "cpt"),
    "completion": ("sft", "cpt"),
    "preference": ("dpo", "orpo", "reward"),
    "unpaired": ("kto",),
}
_ROWS = {
    "sft": "rows with one answer each",
    "cpt": "rows of plain text",
    "dpo": "rows with a better and a worse answer",
    "kto": "rows marked good or bad",
    "grpo": "rows with a question and its answer",
}
_ROWS |= {"orpo": _ROWS["dpo"], "reward": _ROWS["dpo"]}


def example_problem(example: Example, trainer: str) -> RowError | None:
    """Why the trainer can't take such a row, if it can't."""
    takers = _TAKERS[example.kind]
    if trainer in takers:
        return None
    has = _ROWS["cpt" if example.kind == "text" else takers[0]]
    other = f" or {takers[-1]}" if len(takers) > 1 else ""
    return RowError(
        f"The data has {has}, and the trainer {trainer} needs {_ROWS[trainer]}.",
        f"Set train.trainer to {', '.join(takers[:-1]) or takers[0]}{other}, or choose other data "
        "or another layout.",
    )
