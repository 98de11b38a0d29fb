"""The queue as people use it: a run joins it, moves in it, leaves it."""

from studio.errors import StudioError
from studio.jobs import conduct
from studio.jobs.spawn import writing
from studio.runs import Run, RunStore, queue
from studio.settings import Settings
from studio.spec import RunSpec


def enqueue(store: RunStore, settings: Settings, spec: RunSpec, name: str) -> Run:
    """A new run at the end of the queue; it starts when those before it have ended."""
    with writing(settings.home), queue.changing(store.root) as waiting:
        run = store.create(spec, name)
        waiting.append(run.id)
    conduct.ensure(settings)
    return run


def resume(store: RunStore, settings: Settings, run: Run) -> None:
    """Has a run that ended before its last step go on from its newest checkpoint, in its turn; one
    without a checkpoint begins again. Raises StudioError where there is nothing to go on with."""
    with writing(settings.home), queue.changing(store.root) as waiting:
        if run.process() is not None or run.id in waiting:
            raise StudioError(f"The run {run.id} is going, or waits for its turn.", "Let it.")
        if store.state(run).status == "finished":
            raise StudioError(
                f"The run {run.id} has finished.", "Start a new one with more epochs."
            )
        waiting.append(run.id)
    conduct.ensure(settings)


def move(store: RunStore, run: Run, place: int) -> None:
    """Puts a waiting run at `place`, 1 being the next to start."""
    with queue.changing(store.root) as waiting:
        _check(run, waiting)
        if not 1 <= place <= len(waiting):
            raise StudioError(
                f"There is no place {place} in a queue of {len(waiting)}.",
                "1 is the next to start.",
            )
        waiting.remove(run.id)
        waiting.insert(place - 1, run.id)


def remove(store: RunStore, run: Run) -> None:
    """Takes a run out of the queue; its folder stays."""
    with queue.changing(store.root) as waiting:
        _check(run, waiting)
        waiting.remove(run.id)


def _check(run: Run, waiting: list[str]) -> None:
    if run.id not in waiting:
        raise StudioError(
            f"The run {run.id} does not wait in the queue.",
            "`python -m studio queue list` shows it.",
        )
