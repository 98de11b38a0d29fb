"""Writes docs/matrix.md: which methods train on which weights with which trainers, and what can be
merged afterwards. What stands there is what the spec refuses and what it lets through; that what it
lets through trains is what tests/engine/test_matrix.py is for."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studio.errors import SpecError
from studio.settings import PROJECT
from studio.spec import METHODS, TRAINERS, not_merged, parse

OUT = PROJECT / "docs" / "matrix.md"
QUANTIZATIONS = ("none", "nf4", "fp4", "int8")
# What a trainer can't do without, whatever the method.
NEEDED: dict[str, dict[str, Any]] = {"grpo": {"grpo": {"num_generations": 2}}}
_HEAD = """# What trains on what

Made by `python bench/matrix.py` from what the settings refuse; a test compares. Another test trains
for two steps on a tiny model, saves, loads, generates, merges where that is possible, and compares
the merged model with the adapter: every method on plain, nf4 and int8 weights with sft, and every
other trainer with every method on one of them. `make matrix` tries all of these with all trainers.

Each trainer trains with each method on each quantization that has a tick; there is no pair of a
trainer and a method that is refused, unless a line below says so.
"""


def refusals(method: str, quantization: str, trainer: str) -> dict[str, str]:
    """Why the spec refuses the three together: the reason by field; nothing where it lets them."""
    tree = {
        "adapter": {"method": method},
        "model": {"quantization": quantization},
        "train": {"trainer": trainer},
        **NEEDED.get(trainer, {}),
    }
    try:
        parse(tree)
    except SpecError as error:
        return {problem.field: problem.message for problem in error.problems}
    return {}


def table() -> str:
    """The document."""
    lines = [
        "| method | " + " | ".join(QUANTIZATIONS) + " | merges |",
        "|---|" + "---|" * (len(QUANTIZATIONS) + 1),
        *(_row(method) for method in METHODS),
    ]
    return "\n".join([_HEAD, *lines, "", *_notes(), ""])


def _row(method: str) -> str:
    cells = ["no" if refusals(method, kind, "sft") else "✓" for kind in QUANTIZATIONS]
    merged = "no: the adapter is exported" if not_merged(method) else "yes"
    if method == "none":
        merged = "all weights are trained: they are exported as they are"
    return f"| `{method}` | {' | '.join(cells)} | {merged} |"


def _notes() -> Iterator[str]:
    """Each reason once, with where it holds."""
    where: dict[str, list[str]] = {}
    for method in METHODS:
        for kind in QUANTIZATIONS:
            plain = refusals(method, kind, "sft")
            for trainer in TRAINERS:
                found = refusals(method, kind, trainer)
                others = {} if trainer == "sft" else plain
                for field, reason in found.items():
                    if field not in others:
                        pair = f"{method} on {kind}" + ("" if trainer == "sft" else f", {trainer}")
                        where.setdefault(reason, []).append(pair)
    yield "Refused before the start, with the reason that the page shows:"
    yield ""
    yield from (f"- {', '.join(pairs)}: {reason}" for reason, pairs in where.items())
    reason = next(not_merged(m) for m in METHODS if not_merged(m))
    yield f"- Not merged, of the prompt methods: {reason}"


def main() -> int:
    """Writes the document; with --check only says whether it is the one that stands there."""
    if "--check" in sys.argv[1:]:
        return int(OUT.read_text(encoding="utf-8") != table())
    OUT.write_text(table(), encoding="utf-8")
    print(f"{OUT.relative_to(PROJECT)} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
