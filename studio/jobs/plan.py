"""What a recipe will take, on this machine or on another GPU: the plan, what auto would choose, and
a probe of a few real steps that refines it."""

from dataclasses import asdict
from typing import Any

from studio.data import Data, is_ready, open_data
from studio.data.measure import characters
from studio.errors import StudioError
from studio.jobs.audit import audit_result
from studio.jobs.probe import probe as make_steps
from studio.jobs.probe import probed, taught
from studio.plan.auto import Choice, choose
from studio.plan.estimate import ROOM, Plan, plan
from studio.plan.gpus import NAMES, with_gpu
from studio.plan.learned import NOTHING, Learned, learned
from studio.plan.lengths import Rows
from studio.plan.machine import Machine, machine
from studio.plan.memory import engine_of, on_gpu, plain_because
from studio.plan.model import planned
from studio.plan.summary import Summary
from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import NEXT_TOKEN, RunSpec

_SAMPLE = 200
# Where the rows are not here: a thousand of a thousand characters.
_ASSUMED = Rows.of_characters(950, 50, [1000.0])


def plan_recipe(
    store: RunStore, settings: Settings, spec: RunSpec, gpu: str = "", probe: bool = False
) -> dict[str, Any]:
    """All that is known beforehand of a run of `spec`, as JSON takes it. `gpu` names a GPU, which
    need not be here; `probe` runs a few steps on this machine. Raises StudioError."""
    summary = planned(spec.model.name_or_path, settings, spec.model.revision)
    if not summary.parameters:
        raise StudioError(
            f"Nothing is known of {spec.model.name_or_path} before it is fetched.",
            "Put its config.json into a folder and name that as the model, or fetch it first.",
        )
    here = _machine(gpu)
    rows = _rows(settings, spec)
    known, rows = rows is not None, rows or _ASSUMED
    if probe:
        if gpu:
            raise StudioError("A probe runs on this machine.", "Leave --gpu out.")
        for _ in make_steps(store, settings, spec):
            pass
    steps = None if gpu else probed(settings, spec, summary, here, rows)
    known_by = NOTHING if gpu else learned_by(store, spec, summary, here, steps)
    made = plan(spec, summary, here, rows, known_by)
    choice = choose(spec, summary, here, rows, known_by)
    return {
        "model": spec.model.name_or_path,
        "parameters": summary.parameters,
        "machine": here.gpus[0].name if on_gpu(spec, here) else f"CPU, {here.cores} cores",
        "rows_known": known,
        "runs_learned_from": 0 if steps else known_by.runs,
        **_told(made),
        "engine_why": plain_because(spec, here, summary),
        **({"probe": steps} if steps else {}),
        **(_chosen(choice) if choice else {}),
    }


def _machine(gpu: str) -> Machine:
    here = machine()
    if not gpu:
        return here
    there = with_gpu(here, gpu)
    if there is None:
        raise StudioError(f"There is no GPU {gpu} in the table.", f"Known are {', '.join(NAMES)}.")
    return there


def _rows(settings: Settings, spec: RunSpec) -> Rows | None:
    if not is_ready(spec.data, settings):
        return None
    data = open_data(spec.data, settings)
    parts = data.parts(spec.train.seed)
    return rows_of(settings, spec, data, len(parts.train), len(parts.validation))


def rows_of(settings: Settings, spec: RunSpec, data: Data, train: int, held: int) -> Rows:
    """`train` rows to learn from and `held` ones, with their lengths: of all, where they were
    checked, else guessed from the characters of the first."""
    report = audit_result(settings, spec) if spec.train.trainer in NEXT_TOKEN else None
    if report is None or not report.lengths:
        return Rows.of_characters(train, held, characters(data, _SAMPLE))
    scored = report.counts["trained_tokens"] / max(1, report.counts["tokens"])
    told = report.lengths
    return Rows.of_bins(train, held, told["bins"], told["longest"], scored)


def learned_by(
    store: RunStore,
    spec: RunSpec,
    summary: Summary,
    here: Machine,
    steps: dict[str, Any] | None,
) -> Learned:
    """How plans of such runs differ from what they take, by a few steps of this one (`probed`) or,
    without them, by earlier runs."""
    if steps is not None:
        return taught(steps)
    device = here.gpus[0].name if on_gpu(spec, here) else "CPU"
    return learned(store, spec, device, engine_of(spec, here, summary))


def _told(made: Plan) -> dict[str, Any]:
    assert made.parts is not None and made.times is not None
    return {
        "parts": {name: round(size) for name, size in asdict(made.parts).items()},
        "total": round(made.memory or 0),
        "free": round(made.free),
        "fits": made.fits,
        "tight": made.tight,
        "lacks": max(0, round((made.memory or 0) - made.free)),
        "seconds": round(made.seconds or 0, 2),
        "times": {name: round(value, 2) for name, value in asdict(made.times).items()},
        "steps": made.steps,
        "tokens_per_micro_batch": round(made.tokens),
        "trainable": made.trainable,
        "engine": made.engine,
    }


def _chosen(choice: Choice) -> dict[str, Any]:
    return {
        "chosen": [asdict(reason) for reason in choice.reasons],
        "changes": choice.changes,
        "threads": choice.threads,
        "remedy": choice.remedy,
        "with_auto": _told(choice.plan),
        "room": ROOM,
    }
