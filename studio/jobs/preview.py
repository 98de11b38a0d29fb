"""Asking the bench for rows, lengths and batches. Each yields replies with a `stage` in words, and
at last one that holds `done` and what was asked for; see `studio.engine.preview`."""

from collections.abc import Iterator
from typing import Any

from studio import spec as specs
from studio.jobs.bench import Bench, Reply
from studio.settings import Settings
from studio.spec import RunSpec


def preview(
    settings: Settings, spec: RunSpec, start: int, rows: int, most: int | None = None
) -> Iterator[Reply]:
    """Rows as the trainer will get them; of longer ones than `most` tokens, the two ends."""
    yield from _ask(settings, spec, "preview", start=start, rows=rows, most=most)


def batch(settings: Settings, spec: RunSpec, number: int) -> Iterator[Reply]:
    """A batch of the first epoch, 0 being the run's first."""
    yield from _ask(settings, spec, "batch", number=number)


def lengths(settings: Settings, spec: RunSpec, sample: int) -> Iterator[Reply]:
    """How long the rows are in tokens, from a sample of them."""
    yield from _ask(settings, spec, "lengths", sample=sample)


def find(
    settings: Settings, spec: RunSpec, text: str, start: int, *, forward: bool = True
) -> Iterator[Reply]:
    """The next row that holds the text."""
    yield from _ask(settings, spec, "find", text=text, start=start, forward=forward)


def tree(settings: Settings, spec: RunSpec) -> Iterator[Reply]:
    """The model's modules as `print(model)` shows them, and how much of it would be trained."""
    yield from _ask(settings, spec, "tree")


def code(settings: Settings, spec: RunSpec) -> Iterator[Reply]:
    """The Python files that come with the model, with their text; none of them is run."""
    yield from _ask(settings, spec, "code")


def _ask(settings: Settings, spec: RunSpec, op: str, **values: Any) -> Iterator[Reply]:
    yield from Bench(settings).ask({"op": op, "spec": specs.diff(spec), **values})
