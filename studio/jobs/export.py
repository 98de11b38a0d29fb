"""Making files of a run's result, in a worker of its own that several can watch."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from studio.errors import StudioError
from studio.jobs.spawn import spawn, writing
from studio.runs import ENDED, Run, RunState, RunStore, events, files, fold, queue
from studio.settings import Settings
from studio.spec import not_merged


def export(
    store: RunStore, settings: Settings, run: Run, kind: str, out: Path | None = None
) -> Iterator[RunState]:
    """Makes the adapter or the merged model; yields the worker's states.

    Without `out` it goes to the run's export folder, where what is there already is kept, and an
    export that goes on already is only watched. Raises StudioError where it fails.
    """
    if not run.tuned:
        raise StudioError(
            f"The run {run.id} has no adapter.",
            "Choose one that finished or was stopped after a step.",
        )
    refuse(run, kind)
    target = out or run.export / kind
    if out is None and target.is_dir():
        return
    settings.check_writable()
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudioError(f"{out} is not empty.", "Name a new folder.")
    log = target.with_name(f"{target.name}.events.jsonl")
    pid = run.export_pid(kind)
    # No run is started in between: whoever does that sees the worker by its pid.
    with writing(target.parent), writing(pid.parent), queue.changing(store.root) as waiting:
        # One that has said its end takes a moment to go; the next worker waits for that.
        if files.read_process(pid) is None or _has_ended(log):
            if kind == "merged":
                _refuse_beside_a_run(store, waiting)
            log.unlink(missing_ok=True)
            log.touch()
            arguments = ["export", str(run.path), "--format", kind, "--out", str(target)]
            process = spawn(arguments, run.log, settings)
            with suppress(psutil.NoSuchProcess):
                files.write_process(pid, process.pid)
        elif out is not None or not log.exists():
            raise StudioError(f"The {kind} of {run.id} is being made already.", "Wait for that.")
    yield from _watch(run, pid, log)
    if out is not None:
        log.unlink(missing_ok=True)


def _refuse_beside_a_run(store: RunStore, waiting: list[str]) -> None:
    active = store.active()
    if active is not None:
        raise StudioError(
            f"The run {active.id} needs this machine's memory now.", "Merge when it has ended."
        )
    if waiting:
        raise StudioError(
            f"The run {waiting[0]} waits to be started, and needs this machine's memory.",
            "Merge when it has ended, or take it out of the queue.",
        )


def refuse(run: Run, kind: str) -> None:
    """Raises StudioError where there is no such thing as the `kind` of what the run trained."""
    method = run.spec().adapter.method
    if kind == "merged" and (reason := not_merged(method)):
        raise StudioError(f"This adapter can't be merged: {reason}", "Take the adapter itself.")
    if kind == "adapter" and method == "none":
        raise StudioError(
            "All of the model's weights were trained in this run: there is no adapter.",
            "Take the merged model; it is what was trained.",
        )


def _watch(run: Run, pid: Path, log: Path) -> Iterator[RunState]:
    state, offset = RunState(), 0
    while state.status not in ENDED:
        alive = files.read_process(pid) is not None
        new, offset = events.tail(log, offset)
        state = fold(state, new)
        if state.problem:
            raise StudioError(state.problem["message"], state.problem["hint"])
        if not alive and not new and state.status not in ENDED:
            raise StudioError(
                "The export ended without a word.", f"It may have run out of memory; see {run.log}."
            )
        yield state
        time.sleep(0.1)


def _has_ended(log: Path) -> bool:
    return fold(RunState(), list(events.read(log))).status in ENDED


def busy(store: RunStore) -> Run | None:
    """The run whose model is being merged now, if any."""
    return next((r for r in store.list() if files.read_process(r.export_pid("merged"))), None)
