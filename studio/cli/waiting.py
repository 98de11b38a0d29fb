"""The queue."""

import argparse
from pathlib import Path
from typing import Any

from studio import jobs, spec
from studio.cli.shared import Result, line_of, say, store_of
from studio.errors import StudioError
from studio.runs import Run, queue
from studio.settings import Settings


def line(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Runs that wait: add RECIPE, list, move RUN PLACE, remove RUN."""
    store = store_of(settings)
    added: list[Run] = []
    match options.action:
        case "add":
            added = _added(options, settings, Path(_given(options, "a recipe")))
        case "move":
            run = store.get(_given(options, "a run"))
            if options.place is None:
                raise StudioError("The place is missing.", "`queue move RUN 1` makes it the next.")
            jobs.move(store, run, options.place)
        case "remove":
            jobs.remove(store, store.get(_given(options, "a run")))
        case _:
            # Whoever looks sees to it that somebody works on it.
            jobs.ensure(settings)
    for run in added:
        say(options, f"{run.id} waits for its turn.")
    waiting = queue.waiting(store.root)
    active = store.active()
    if active is not None:
        say(options, f"   {active.id:<44} {line_of(store.state(active))}")
    for place, run_id in enumerate(waiting, 1):
        why = f"  {jobs.waits_for(store)}" if active is None and place == 1 else ""
        say(options, f"{place:>2} {run_id}{why}")
    if active is None and not waiting:
        say(options, "Nothing trains and nothing waits.")
    result: Result = {"active": active.id if active else None, "waiting": waiting}
    return 0, {**result, "added": [run.id for run in added]} if added else result


def _added(options: argparse.Namespace, settings: Settings, recipe: Path) -> list[Run]:
    """The recipe in the queue, once or, with --sweep, once for each combination of values."""
    wanted, store = spec.load(recipe, options.set), store_of(settings)
    if not options.sweep:
        return [jobs.enqueue(store, settings, wanted, recipe.stem)]
    values: dict[str, list[Any]] = {}
    for text in options.sweep:
        key, equals, listed = text.partition("=")
        if not equals:
            raise StudioError(
                f"{text} is not SECTION.FIELD=VALUE,VALUE,….",
                "As in --sweep train.learning_rate=1e-4,2e-4",
            )
        values[key.strip()] = [
            spec.value_of(key.strip(), one.strip()) for one in listed.split(",") if one.strip()
        ]
    return jobs.sweep(store, settings, wanted, recipe.stem, values, paired=options.paired)


def _given(options: argparse.Namespace, what: str) -> str:
    if options.item is None:
        raise StudioError(f"Say {what}.", f"As in `queue {options.action} NAME`.")
    return str(options.item)
