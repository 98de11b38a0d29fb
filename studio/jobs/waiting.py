"""The queue as people use it: a run joins it, moves in it, leaves it."""

from studio.errors import StudioError
from studio.jobs import conduct
from studio.jobs.audit import refuse_found
from studio.jobs.spawn import writing
from studio.plan.device import gpu_lock
from studio.runs import Run, RunStore, queue
from studio.runs.lock import is_held
from studio.settings import Settings
from studio.spec import RunSpec


def enqueue(store: RunStore, settings: Settings, spec: RunSpec, name: str) -> Run:
    """A new run at the end of the queue; it starts when those before it have ended. Raises
    StudioError where an audit found what would ruin it."""
    settings.check_writable()
    refuse_found(settings, spec)
    with writing(settings.home), queue.changing(store.root) as waiting:
        run = store.create(spec, name)
        waiting.append(run.id)
    conduct.ensure(settings)
    return run


def move(store: RunStore, run: Run, place: int) -> None:
    """Puts a waiting run at `place`, 1 being the next to start."""
    with writing(store.root), queue.changing(store.root) as waiting:
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
    with writing(store.root), queue.changing(store.root) as waiting:
        _check(run, waiting)
        waiting.remove(run.id)


def waits_for(store: RunStore) -> str:
    """What the next run waits for, in words."""
    gpu, home = gpu_lock(), store.root.parent
    if store.active() is None and is_held(gpu or home / "train.lock"):
        if any((home / "probes").glob("[0-9]*-*/")):
            return "waits for the steps that are being measured"
        if gpu is not None:
            return "waits for the GPU, which a run of another home has"
    return "waits for its turn"


def _check(run: Run, waiting: list[str]) -> None:
    if run.id not in waiting:
        raise StudioError(
            f"The run {run.id} does not wait in the queue.",
            "`python -m studio queue list` shows it.",
        )
