"""Starting and stopping runs, exporting their results, talking to them."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from studio import spec as specs
from studio.errors import StudioError
from studio.jobs.bench import Bench, Reply
from studio.jobs.spawn import spawn
from studio.runs import ENDED, Run, RunState, RunStore, events, files, fold
from studio.settings import Settings
from studio.spec import GenerateSection, RunSpec

Messages = list[dict[str, str]]
SIDES = ("base", "tuned", "merged")
_TERM_S = 15.0


def start(store: RunStore, settings: Settings, spec: RunSpec, name: str) -> Run:
    """Makes a run folder and a detached worker for it. Raises StudioError while another trains."""
    with _writing(settings.home), _alone(settings.home / "start.lock"):
        active = store.active()
        if active is not None:
            raise StudioError(
                f"The run {active.id} is still going.", "Stop it, or wait until it ends."
            )
        # The bench's model takes the memory that the run needs.
        Bench(settings).quit()
        run = store.create(spec, name)
        process = spawn(["train", str(run.path)], run.log, settings)
        # It may have ended already; then its own events say why.
        with suppress(psutil.NoSuchProcess):
            files.write_process(run.pid, process.pid)
    return run


def stop(run: Run, *, now: bool = False) -> None:
    """Asks the worker to finish its step, save and end; `now` ends it without waiting for that."""
    process = run.process()
    if process is None:
        raise StudioError(f"The run {run.id} is not going.", "There is nothing to stop.")
    run.stop.touch()
    if not now:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, psutil.Error):
            os.killpg(process.pid, number)
            with suppress(psutil.TimeoutExpired):
                process.wait(_TERM_S)
                return


def follow(store: RunStore, run: Run, every_s: float = 0.3) -> Iterator[RunState]:
    """The run's state, again and again until it has ended; the last one is the end."""
    while True:
        state = store.state(run)
        yield state
        if state.status in ENDED:
            return
        time.sleep(every_s)


def export(settings: Settings, run: Run, kind: str, out: Path | None = None) -> Iterator[RunState]:
    """Makes the adapter or the merged model, in a worker of its own; yields its states.

    Without `out` it goes to the run's export folder, where what is there already is kept.
    Raises StudioError where it fails.
    """
    if not (run.adapter / "adapter_config.json").is_file():
        raise StudioError(
            f"The run {run.id} has no adapter.",
            "Choose one that finished or was stopped after a step.",
        )
    target = out or run.export / kind
    if out is None and target.is_dir():
        return
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudioError(f"{out} is not empty.", "Name a new folder.")
    with _writing(target.parent):
        log = target.with_name(f"{target.name}.events.jsonl")
        log.unlink(missing_ok=True)
        arguments = ["export", str(run.path), "--format", kind, "--out", str(target)]
        process = spawn(arguments, run.log, settings)
    state, offset = RunState(), 0
    while state.status not in ENDED:
        alive = process.poll() is None
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
    log.unlink(missing_ok=True)


def chat(
    store: RunStore,
    settings: Settings,
    run: Run | None,
    spec: RunSpec,
    sides: Mapping[str, Messages],
    generate: GenerateSection,
) -> Iterator[Reply]:
    """Answers the last message of each side (base, tuned, merged); see `Bench.ask` for the replies.

    The merged model is made first where it is not there yet.
    """
    active = store.active()
    if active is not None:
        raise StudioError(
            f"The run {active.id} needs this machine's memory now.",
            "The chat is back when it ends.",
        )
    if run is None and set(sides) != {"base"}:
        raise StudioError("There is no tuned model yet.", "Start a run first.")
    if run is not None and "merged" in sides:
        told = ""
        for state in export(settings, run, "merged"):
            if words(state) != told:
                told = words(state)
                yield {"stage": told}
    request: dict[str, Any] = {
        "op": "chat",
        "spec": specs.diff(spec),
        "run": str(run.path) if run else None,
        "sides": dict(sides),
        "generate": generate.model_dump(),
    }
    yield from Bench(settings).ask(request)


def preview(settings: Settings, spec: RunSpec, start: int, rows: int) -> Iterator[Reply]:
    """Rows as the trainer will get them; the last reply holds `rows`, `total` and `layout`."""
    yield from Bench(settings).ask(
        {"op": "preview", "spec": specs.diff(spec), "start": start, "rows": rows}
    )


def words(state: RunState) -> str:
    """The state's stage in words, with its count where it has one: "tokenizing 120 of 150"."""
    if state.done is not None and state.total and str(state.total) not in state.stage:
        return f"{state.stage} ({100 * state.done // state.total} %)"
    return state.stage or state.status


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until nobody else of this machine is in here; the kernel frees what died inside."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Makes the folder, and turns a full or read-only disk into words."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StudioError(
            f"{folder} can't be written: {error.strerror}.",
            "Free some disk, or set STUDIO_HOME to a folder that is yours.",
        ) from None
