"""Sweeps: several runs at once that differ in some fields, for which the queue is made."""

import itertools
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studio.errors import Problem, SpecError, StudioError
from studio.jobs import conduct
from studio.jobs.audit import refuse_found
from studio.jobs.spawn import writing
from studio.runs import Run, RunStore, keep, queue
from studio.settings import Settings
from studio.spec import RunSpec, show, with_values

_MOST = 200


def combinations(
    values: Mapping[str, Sequence[Any]], *, paired: bool = False
) -> list[dict[str, Any]]:
    """The values of each run by field: every combination, or the first of each list, then the
    second, … where they are `paired`. Raises StudioError for what is no sweep."""
    empty = [key for key, listed in values.items() if not listed]
    if not values or empty:
        raise StudioError(
            f"There are no values for {', '.join(empty)}." if empty else "No field is named.",
            "Name a field and its values, as in `train.learning_rate=1e-4,2e-4`.",
        )
    lengths = {len(listed) for listed in values.values()}
    if paired and len(lengths) > 1:
        counts = ", ".join(f"{key} has {len(listed)}" for key, listed in values.items())
        raise StudioError(f"Pairs need lists of one length: {counts}.", "Or make it a grid.")
    rows = zip(*values.values(), strict=True) if paired else itertools.product(*values.values())
    found = [dict(zip(values, row, strict=True)) for row in itertools.islice(rows, _MOST + 1)]
    if len(found) > _MOST:
        raise StudioError(f"That is more than {_MOST} runs.", "Leave some values out.")
    return found


def sweep(
    store: RunStore,
    settings: Settings,
    spec: RunSpec,
    name: str,
    values: Mapping[str, Sequence[Any]],
    *,
    paired: bool = False,
) -> list[Run]:
    """A run for each combination, at the end of the queue, with a title that says what differs and
    a tag that all of them share. Raises SpecError with every wrong value, and StudioError where an
    audit found what would ruin one of them; then none is made."""
    settings.check_writable()
    chosen = combinations(values, paired=paired)
    specs = list(_specs(spec, chosen))
    for one in specs:
        refuse_found(settings, one)
    tag = f"sweep-{time.strftime('%m%d-%H%M%S')}"
    runs: list[Run] = []
    with writing(settings.home):
        try:
            with queue.changing(store.root) as waiting:
                for one, changed in zip(specs, chosen, strict=True):
                    said = {key.partition(".")[2]: show(value) for key, value in changed.items()}
                    runs.append(store.create(one, f"{name}-{'-'.join(said.values())}"))
                    title = ", ".join(f"{field} {value}" for field, value in said.items())
                    keep.describe(runs[-1], title=title, tags=[tag])
                waiting.extend(run.id for run in runs)
        except BaseException:
            # All of them or none: half a grid says nothing.
            for run in runs:
                shutil.rmtree(run.path, ignore_errors=True)
            raise
    conduct.ensure(settings)
    return runs


def _specs(spec: RunSpec, chosen: Sequence[Mapping[str, Any]]) -> Iterator[RunSpec]:
    problems: dict[tuple[str, str], Problem] = {}
    for changed in chosen:
        try:
            yield with_values(spec, changed)
        except SpecError as error:
            # One that many combinations share is one.
            problems |= {(p.field, p.message): p for p in error.problems}
    if problems:
        raise SpecError(list(problems.values()))
