"""Going on: with a run that ended early, beyond the end of one, or anew from a checkpoint."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from studio.errors import StudioError
from studio.jobs import conduct
from studio.jobs.spawn import writing
from studio.runs import GOING, Run, RunStore, checkpoints, events, files, keep, queue
from studio.settings import Settings
from studio.spec import RunSpec, diff, dump, with_values

# What a checkpoint does not hold, so that a run that goes on from it may have it otherwise.
_FREE = frozenset(
    "train.num_train_epochs train.max_steps train.learning_rate train.lr_scheduler_type "
    "train.warmup_steps train.logging_steps train.save_steps train.save_total_limit".split()
)
_MOST_EPOCHS = 1000


def resume(store: RunStore, settings: Settings, run: Run) -> None:
    """Has a run that ended before its last step go on from its newest checkpoint, in its turn; one
    without a checkpoint begins again. Raises StudioError where there is nothing to go on with."""
    settings.check_writable()
    with writing(settings.home), queue.changing(store.root) as waiting:
        _check_idle(store, run, waiting)
        if store.state(run).status == "finished":
            raise StudioError(
                f"The run {run.id} has finished.",
                "Train it longer, or start a new one from one of its checkpoints.",
            )
        run.spec()
        waiting.append(run.id)
    conduct.ensure(settings)


def extend(store: RunStore, settings: Settings, run: Run, epochs: float) -> None:
    """Has a finished run train `epochs` more, from its last checkpoint, in its turn. The learning
    rate follows its schedule over the new length. Raises StudioError where it can't."""
    settings.check_writable()
    with writing(settings.home), queue.changing(store.root) as waiting:
        _check_idle(store, run, waiting)
        state = store.state(run)
        if state.status != "finished":
            raise StudioError(f"The run {run.id} has not finished.", "Resume it first.")
        found, _ = checkpoints.newest(run.checkpoints)
        if found is None or checkpoints.step_of(found) != state.step:
            raise StudioError(
                f"The checkpoint of its last step, {state.step}, is gone.",
                "Start a new run from one of its other checkpoints.",
            )
        spec = run.spec()
        longer = _longer(spec, state.step, state.epoch, epochs)
        files.write_text(run.path / "spec.yaml", dump(longer))
        waiting.append(run.id)
    conduct.ensure(settings)


def _longer(spec: RunSpec, step: int, epoch: float, epochs: float) -> RunSpec:
    """The spec with that many epochs more. Raises SpecError for what is no number of them."""
    if not 0 < epochs <= _MOST_EPOCHS:
        raise StudioError(
            f"{epochs:g} more epochs can't be trained.",
            f"Use a number above 0, up to {_MOST_EPOCHS}.",
        )
    if spec.train.max_steps > 0:
        # So many steps as took that long before.
        more = round(step / epoch * epochs) if epoch else 0
        return with_values(spec, {"train.max_steps": step + max(1, more)})
    return with_values(spec, {"train.num_train_epochs": spec.train.num_train_epochs + epochs})


def branch(
    store: RunStore,
    settings: Settings,
    run: Run,
    step: int,
    spec: RunSpec | None = None,
    name: str = "",
) -> Run:
    """A new run, in the queue, that goes on from the checkpoint of that step; with `spec`, which
    may differ in what a checkpoint does not hold. Raises StudioError for any other difference."""
    settings.check_writable()
    old = run.spec()
    wanted = spec or old
    _check_same(old, wanted)
    source = checkpoints.at(run.checkpoints, step)
    with writing(settings.home), queue.changing(store.root) as waiting:
        made = store.create(wanted, name or run.name)
        try:
            made.checkpoints.mkdir()
            _copy(source, made.checkpoints)
            state, seconds = store.state(run), 0.0
            for event in events.shown(events.read(run.events)):
                if event["step"] <= step:
                    seconds = events.seconds(event, state) or seconds
                    events.append(made.events, {**event, "seconds": seconds})
            rate = wanted.train.learning_rate
            changed = {} if rate == old.train.learning_rate else {"learning_rate": rate}
            told = {"run": run.id, "step": step, "seconds": seconds, **changed}
            events.append(made.events, {"type": "branch", **told})
            keep.describe(made, title=f"{keep.meta(run).title or run.name} from step {step}")
        except BaseException:
            shutil.rmtree(made.path, ignore_errors=True)
            raise
        waiting.append(made.id)
    conduct.ensure(settings)
    return made


def _check_same(old: RunSpec, new: RunSpec) -> None:
    changed = diff(new, old)
    held = [f"{s}.{n}" for s, fields in changed.items() for n in fields if s not in ("generate",)]
    other = [key for key in held if key not in _FREE and not key.startswith("eval.")]
    if other:
        raise StudioError(
            f"{', '.join(other)} can't change in the middle: the checkpoint was made with "
            "another value.",
            "Set it as it was, or start a run of its own.",
        )


def _check_idle(store: RunStore, run: Run, waiting: list[str]) -> None:
    if run.id in waiting or store.state(run).status in GOING:
        raise StudioError(f"The run {run.id} is going, or waits for its turn.", "Wait for its end.")


def _copy(source: Path, folder: Path) -> None:
    """The checkpoint under its name in `folder`, and the best one until then; by links where the
    disk has them, since nobody ever writes into one."""
    state = json.loads((source / "trainer_state.json").read_text(encoding="utf-8"))
    best = source.with_name(f"checkpoint-{state.get('best_global_step')}")
    for found in {source, best}:
        if found == source or not checkpoints.fault(found):
            aside = Path(tempfile.mkdtemp(dir=folder, prefix=".copying-"))
            shutil.copytree(found, aside / found.name, copy_function=_linked)
            (aside / found.name).rename(folder / found.name)
            aside.rmdir()


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
