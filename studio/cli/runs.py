"""The commands for runs. Each returns the exit status and what `--json` prints."""

import argparse
from pathlib import Path

from studio import jobs, spec
from studio.cli.shared import Result, line_of, recipe_of, say, store_of, summary_of, watch
from studio.errors import StudioError
from studio.runs import keep
from studio.settings import Settings


def run(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Train a recipe; exit 0 only if the run finished."""
    wanted = recipe_of(options)
    store = store_of(settings)
    run = jobs.start(store, settings, wanted, Path(options.recipe).stem)
    if options.detach:
        say(options, f"{run.id} has started. `python -m studio show {run.id}` tells how it goes.")
        return 0, summary_of(run, store.state(run))
    say(options, f"run {run.id}")
    state = watch(options, store, run)
    return (0 if state.status == "finished" else 1), summary_of(run, state)


def runs(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """List all runs."""
    store = store_of(settings)
    found = [summary_of(run, store.look(run)) for run in store.list()]
    for row in found:
        loss = f"{row['train_loss']:.4f}" if row["train_loss"] is not None else "-"
        say(
            options,
            f"{row['run']:<44} {row['status']:<12} step {row['global_step']:<7} loss {loss}",
        )
    if not found:
        say(options, "No runs yet. Start one: python -m studio run presets/persona.yaml")
    return 0, {"runs": found}


def show(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """One run: its state, settings, chart, and what went wrong."""
    store = store_of(settings)
    run = store.get(options.run)
    state = store.state(run)
    points = run.history()
    problem = None
    if state.problem:
        problem = {
            "what": state.problem["message"],
            "do": state.problem["hint"],
            "stage": state.problem["stage"],
        }
        say(options, f"{problem['what']} {problem['do']}")
    say(options, f"{run.id}: {line_of(state)}\n{spec.dump(run.spec())}".rstrip())
    return 0, {
        **summary_of(run, state),
        "max_steps": state.max_steps,
        "history": [point for point in points if "loss" in point],
        "evaluations": [
            {"step": point["step"], "eval_loss": point["eval_loss"]}
            for point in points
            if "eval_loss" in point
        ],
        "problem": problem,
        "notes": list(state.notes),
        "folder": str(run.path),
    }


def stop(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Finish the step, save, end."""
    store = store_of(settings)
    run = store.get(options.run)
    jobs.stop(run, now=options.now)
    state = store.state(run) if options.detach else list(jobs.follow(store, run))[-1]
    say(options, f"{run.id}: {state.status} at step {state.step}")
    return 0, summary_of(run, state)


def pause(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Finish the step, save, give the memory back."""
    store = store_of(settings)
    run = store.get(options.run)
    jobs.pause(run)
    state = store.state(run) if options.detach else list(jobs.follow(store, run))[-1]
    word = "paused" if state.paused else state.status
    say(options, f"{run.id}: {word} at step {state.step}")
    return 0, {**summary_of(run, state), "paused": state.paused}


def resume(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Go on from the newest checkpoint; from another as a new run."""
    store = store_of(settings)
    run = store.get(options.run)
    if options.as_new != (options.checkpoint is not None):
        raise StudioError(
            "--checkpoint and --as-new go together.",
            "A run goes on from its newest checkpoint; from an earlier one, a new run does.",
        )
    if options.as_new:
        wanted = spec.with_overrides(run.spec(), options.set)
        run = jobs.branch(store, settings, run, options.checkpoint, wanted)
    elif options.set:
        raise StudioError("--set changes no run that has begun.", "Use it with --as-new.")
    elif options.epochs is not None:
        jobs.extend(store, settings, run, options.epochs)
    else:
        jobs.resume(store, settings, run)
    state = store.state(run) if options.detach else watch(options, store, run)
    say(options, f"{run.id}: {state.status} at step {state.step}")
    return (0 if options.detach or state.status == "finished" else 1), summary_of(run, state)


def final(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """A run's settings once more, over all of its rows."""
    store = store_of(settings)
    run = jobs.final(store, settings, store.get(options.run))
    say(options, f"run {run.id}")
    state = store.state(run) if options.detach else watch(options, store, run)
    return (0 if options.detach or state.status == "finished" else 1), summary_of(run, state)


def ask(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Of a run that goes: save, evaluate, learning_rate."""
    run = store_of(settings).get(options.run)
    jobs.ask(run, options.wish, options.value)
    say(options, f"{run.id} does that after its present step.")
    return 0, {"run": run.id, "wish": options.wish, "value": options.value}


def archive(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Write a run as one file."""
    run = store_of(settings).get(options.run)
    out = settings.resolve(options.file, Path.cwd())
    keep.pack(run, out)
    say(options, f"{run.id} is in {out}.")
    return 0, {"run": run.id, "file": str(out), "bytes": out.stat().st_size}


def take_in(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Make a run of such a file."""
    store = store_of(settings)
    run = keep.unpack(store, settings.resolve(options.file, Path.cwd()))
    say(options, f"{run.id} is here now.")
    return 0, summary_of(run, store.state(run))
