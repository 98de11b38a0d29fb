"""Starting and stopping runs, and talking to what they made."""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import psutil

from studio import spec as specs
from studio.errors import StudioError
from studio.jobs import conduct
from studio.jobs.audit import refuse_found
from studio.jobs.bench import Bench, Reply
from studio.jobs.export import busy, export
from studio.jobs.spawn import writing
from studio.jobs.words import words
from studio.runs import ENDED, Run, RunState, RunStore, files, queue
from studio.runs.lock import try_lock
from studio.settings import Settings
from studio.spec import GenerateSection, RunSpec

Messages = list[dict[str, str]]
SIDES = ("base", "tuned", "merged")
_TERM_S = 15.0


def start(store: RunStore, settings: Settings, spec: RunSpec, name: str) -> Run:
    """Makes a run folder and has a worker started for it. Raises StudioError while another trains
    or waits, and where an audit found what would ruin it."""
    settings.check_writable()
    refuse_found(settings, spec)
    with writing(settings.home), queue.changing(store.root) as waiting:
        active = store.active()
        if active is not None:
            raise StudioError(
                f"The run {active.id} is still going.",
                "Stop it, wait until it ends, or put this one into the queue.",
            )
        if waiting:
            raise StudioError(
                f"The run {waiting[0]} waits to be started.",
                "Put this one into the queue behind it.",
            )
        merging = busy(store)
        if merging is not None:
            raise StudioError(
                f"The model of {merging.id} is being merged, which takes this machine's memory.",
                "Start when that is done.",
            )
        run = store.create(spec, name)
        waiting.append(run.id)
    conduct.ensure(settings)
    return run


def stop(run: Run, *, now: bool = False, discard: bool = False) -> None:
    """Asks the worker to finish its step, save and end; `now` ends it without waiting for that,
    and `discard` besides removes what it has learned: checkpoints and adapter."""
    process = _going(run)
    _leave(run, "discard" if discard else "now" if now else "")
    if not (now or discard):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, psutil.Error):
            os.killpg(process.pid, number)
            with suppress(psutil.TimeoutExpired):
                process.wait(_TERM_S)
                break
    if discard:
        # Its lock says that nobody saves there any more.
        with try_lock(run.path / "lock", _TERM_S):
            for folder in (run.checkpoints, run.adapter):
                shutil.rmtree(folder, ignore_errors=True)


def pause(run: Run) -> None:
    """Asks the worker to finish its step, save a checkpoint, and give the memory back; `resume`
    has it go on."""
    _going(run)
    _leave(run, "pause")


def _going(run: Run) -> psutil.Process:
    process = run.process()
    if process is None:
        raise StudioError(f"The run {run.id} is not going.", "There is nothing to stop.")
    return process


def _leave(run: Run, wish: str) -> None:
    with writing(run.path):
        files.write_text(run.stop, wish)


def follow(store: RunStore, run: Run, every_s: float = 0.3) -> Iterator[RunState]:
    """The run's state, again and again until it has ended; the last one is the end."""
    while True:
        state = store.state(run)
        yield state
        # One that was taken out of the queue has ended before it began.
        if state.status in (*ENDED, "created"):
            return
        time.sleep(every_s)


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
    _refuse_while_training(store)
    if run is None and set(sides) != {"base"}:
        raise StudioError("There is no tuned model yet.", "Start a run first.")
    if run is not None and set(sides) != {"base"} and run.spec().train.trainer == "reward":
        raise StudioError(
            f"The run {run.id} made a reward model, which scores answers and writes none.",
            "Name it in grpo.reward_model, or choose another run.",
        )
    if run is not None and "merged" in sides:
        told = ""
        for state in export(store, settings, run, "merged"):
            if words(state) != told:
                told = words(state)
                yield {"stage": told}
        _refuse_while_training(store)
    request: dict[str, Any] = {
        "op": "chat",
        "spec": specs.diff(spec),
        "run": str(run.path) if run else None,
        "sides": dict(sides),
        "generate": generate.model_dump(),
    }
    try:
        yield from Bench(settings).ask(request, lambda: _refuse_while_training(store))
    except StudioError:
        # A run that starts takes the memory, and ends the bench for it.
        _refuse_while_training(store)
        raise


def _refuse_while_training(store: RunStore) -> None:
    active = store.active()
    if active is not None:
        raise StudioError(
            f"The run {active.id} needs this machine's memory now.",
            "The chat is back when it ends.",
        )
