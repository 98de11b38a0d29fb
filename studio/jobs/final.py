"""One more run with the settings of another, over all of the rows."""

from typing import Any

from studio.errors import StudioError
from studio.jobs.waiting import enqueue
from studio.runs import Run, RunStore
from studio.settings import Settings
from studio.spec import RunSpec
from studio.spec.final import final as final_spec


def final(store: RunStore, settings: Settings, run: Run) -> Run:
    """The new run, in the queue. Raises StudioError for a run that has not finished, or held no
    rows back."""
    if store.state(run).status != "finished":
        raise StudioError(
            f"The run {run.id} has not finished.",
            "A final run takes over its settings once they have proved themselves.",
        )
    spec = run.spec()
    wanted = final_spec(spec, *_length(store, run, spec))
    if wanted == spec:
        raise StudioError(
            f"The run {run.id} has learned from all of the rows already.",
            "Another one would end the same.",
        )
    return enqueue(store, settings, wanted, f"{run.name}-final")


def _length(store: RunStore, run: Run, spec: RunSpec) -> tuple[float | None, int | None]:
    """The epochs and the steps after which the run was best, where it ended with that; after which
    it stopped, where it stopped early; else nothing."""
    state = store.state(run)
    points: list[dict[str, Any]] = list(run.history())
    step = state.step if spec.eval.early_stopping_patience and state.step < state.max_steps else 0
    if spec.eval.load_best_model_at_end:
        metric = spec.eval.metric_for_best_model
        sign = 1 if metric.endswith("loss") else -1
        measured = [p for p in points if isinstance(p.get(metric), float) and p["step"]]
        if measured:
            step = int(min(measured, key=lambda p: sign * float(p[metric]))["step"])
    epochs = [p["epoch"] for p in points if "epoch" in p and p["step"] <= step]
    return (float(epochs[-1]), step) if step and epochs else (None, None)
