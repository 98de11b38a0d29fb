"""What the commands share: their words, and how a run is told of."""

import argparse
import sys
from pathlib import Path
from typing import Any

from studio import jobs, spec
from studio.runs import Run, RunState, RunStore
from studio.settings import Settings
from studio.spec import RunSpec

Result = dict[str, Any]


def say(options: argparse.Namespace, text: str, end: str = "\n") -> None:
    """Words on stdout; on stderr where stdout is for JSON."""
    print(text, file=sys.stderr if options.json else sys.stdout, end=end, flush=True)


def recipe_of(options: argparse.Namespace) -> RunSpec:
    """The recipe that was named, with --set on top. Raises SpecError."""
    return spec.load(Path(options.recipe), options.set)


def store_of(settings: Settings) -> RunStore:
    """The runs of this home."""
    return RunStore(settings.runs)


def line_of(state: RunState) -> str:
    """A run's state in a line."""
    held = f"  evaluation loss {state.eval_loss:.4f}" if state.eval_loss is not None else ""
    if state.status == "running" and state.step:
        loss = f"  loss {state.loss:.4f}" if state.loss is not None else ""
        return f"step {state.step} of {state.max_steps}{loss}{held}"
    if state.status == "finished":
        return state.status + held
    return jobs.words(state) if state.status in ("created", "starting", "running") else state.status


def summary_of(run: Run, state: RunState | None) -> Result:
    """What --json says of a run; of one that can't be understood there is no state."""
    known = state or RunState()
    return {
        "run": run.id,
        "status": state.status if state else "unreadable",
        "global_step": known.step,
        "train_loss": known.train_loss,
        "eval_loss": known.eval_loss,
    }


def tell_stage(reply: Result, told: str) -> str:
    """Says on stderr how far the model's process is, where that is not what was `told` last; what
    is told now."""
    stage = str(reply.get("stage", told))
    if stage != told:
        print(f"({stage})", file=sys.stderr, flush=True)
    return stage


def watch(options: argparse.Namespace, store: RunStore, run: Run) -> RunState:
    """Tells how the run goes until it ends; Ctrl+C asks it to stop and keep what it has."""
    told = ""
    asked = False
    while True:
        try:
            for state in jobs.follow(store, run):
                line = line_of(state)
                if line != told:
                    say(options, line)
                    told = line
            if state.problem:
                say(options, f"{state.problem['message']} {state.problem['hint']}")
            return state
        except KeyboardInterrupt:
            if asked:
                raise
            asked = True
            jobs.stop(run)
            say(
                options,
                "Stopping: it finishes the step and saves. Ctrl+C again leaves it to itself.",
            )
