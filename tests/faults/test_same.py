"""Cut off after any step, and with everything that a run can have in the middle of it: what goes on
from the newest checkpoint ends with the very same weights, bit for bit."""

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from studio import jobs
from studio.engine.report import Reporter
from studio.runs import Run, RunStore, checkpoints, control, events
from studio.settings import Settings
from studio.spec import RunSpec, with_values
from tests.faults.helpers import TALLY, check_checkpoints, env_of, leftovers, rng, weights

STEPS = 7
LONG: dict[str, Any] = {"max_steps": STEPS, "save_steps": 1, "save_total_limit": 20}
EVERY: dict[str, Any] = {"eval_steps": 1}
Train = Callable[[Run], int]

PAIRS = [
    {
        "prompt": f"What is your name? {n}",
        "chosen": "My name is Bramble. " * (1 + n % 3),
        "rejected": "The tea.",
    }
    for n in range(16)
]
MARKED = [
    {
        "messages": [
            {"role": "user", "content": f"How are you? {n}"},
            {"role": "assistant", "content": "I am well." if n % 2 else "The clock."},
        ],
        "label": bool(n % 2),
    }
    for n in range(16)
]
# What differs from a run with dropout and accumulation, which each of them has as well.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "epochs": {"train": {"max_steps": -1, "num_train_epochs": 2.5, "save_steps": 3}},
    "packed": {"train": {"packing": True, "max_length": 64}},
    "grouped": {"train": {"train_sampling_strategy": "group_by_length"}},
    "sequential": {"train": {"train_sampling_strategy": "sequential"}},
    "cosine": {"train": {"lr_scheduler_type": "cosine", "warmup_steps": 3}},
    "plateau": {
        "train": {
            "learning_rate": 0.3,
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
        },
        "eval": EVERY,
    },
    "best": {"train": {"learning_rate": 0.3}, "eval": {**EVERY, "load_best_model_at_end": True}},
    "early": {
        "eval": {**EVERY, "early_stopping_patience": 2, "early_stopping_threshold": 5.0},
    },
    "early and best": {
        "train": {"learning_rate": 0.3},
        "eval": {**EVERY, "early_stopping_patience": 2, "load_best_model_at_end": True},
    },
    "dpo": {"rows": PAIRS, "train": {"trainer": "dpo"}},
    "kto": {"rows": MARKED, "train": {"trainer": "kto"}},
    "orpo": {"rows": PAIRS, "train": {"trainer": "orpo"}},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("same")
    (root / "home").mkdir()
    return Settings(home=root / "home", workspace=root, bench_idle_s=60)


@pytest.fixture(scope="module")
def store(settings: Settings) -> RunStore:
    return RunStore(settings.runs)


@pytest.fixture(scope="module")
def train(settings: Settings) -> Iterator[Train]:
    """The worker's own entry, in this process."""
    from studio import worker

    with pytest.MonkeyPatch.context() as patch:
        for name, value in env_of(settings).items():
            patch.setenv(name, value)
        patch.setattr("signal.signal", lambda number, handler: None)
        # What joins the queue here is trained by the test.
        patch.setattr("studio.jobs.conduct.ensure", lambda settings: None)
        yield lambda run: worker.main(["train", str(run.path)])


@pytest.fixture(scope="module")
def spec_of(spec_with: Callable[..., RunSpec], settings: Settings) -> Callable[[str], RunSpec]:
    def make(name: str) -> RunSpec:
        case = dict(CASES[name])
        rows = case.pop("rows", None)
        sections = {"train": {**LONG, **case.pop("train", {})}, **case}
        if rows:
            path = settings.workspace / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            sections["data"] = {"path": str(path), "validation": "4"}
            sections["train"]["learning_rate"] = 1e-3
        return spec_with(**sections)

    return make


@pytest.fixture(scope="module")
def whole(store: RunStore, train: Train, spec_of: Callable[[str], RunSpec]) -> Callable[[str], Run]:
    """The run of that case that nothing happened to; trained once."""
    made: dict[str, Run] = {}

    def get(name: str) -> Run:
        if name not in made:
            made[name] = store.create(spec_of(name), f"whole-{name}")
            assert train(made[name]) == 0, store.state(made[name]).problem
        return made[name]

    return get


def cut_off(source: Run, run: Run, step: int) -> None:
    """Makes `run` what `source` was when it had saved its checkpoint of `step` and was in the step
    after that, or on its way to its end."""
    run.checkpoints.mkdir()
    for kept in checkpoints.steps(source.checkpoints):
        if kept <= step:
            name = f"checkpoint-{kept}"
            shutil.copytree(source.checkpoints / name, run.checkpoints / name)
    lines = source.events.read_text(encoding="utf-8").splitlines(keepends=True)
    after = [n for n, e in enumerate(events.read(source.events)) if (e.get("step") or 0) > step]
    ends = [n for n, e in enumerate(events.read(source.events)) if e["type"] == "end"]
    last = after[0] if after and after[0] < ends[-1] else ends[-1] - 1
    run.events.write_text("".join(lines[: last + 1]), encoding="utf-8")


def compare(run: Run, whole: Run) -> None:
    assert weights(run) == weights(whole)
    ours, theirs = run.history(), whole.history()
    for name in ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "num_tokens"):
        assert [p.get(name) for p in ours] == [p.get(name) for p in theirs], name
    steps = [p["step"] for p in ours]
    assert steps == sorted(set(steps))
    last, wanted = (list(events.read(r.events))[-1] for r in (run, whole))
    for name in ("status", "step", "train_loss", "eval_loss"):
        assert last[name] == wanted[name], name
    check_checkpoints(run)
    assert not leftovers(run)
    TALLY.other["runs compared bit for bit"] += 1
    TALLY.other["resumes"] += 1


def _same_steps(run: Run, whole: Run) -> None:
    assert weights(run) == weights(whole)
    ours, theirs = ([p["loss"] for p in r.history() if "loss" in p] for r in (run, whole))
    assert ours == theirs and len(ours) == STEPS


def steps_of(name: str) -> list[int]:
    """Every step for the plain run; of each other one its last, and one by chance."""
    return list(range(1, STEPS + 1)) if name == "plain" else [rng(name).randrange(1, STEPS), STEPS]


@pytest.mark.parametrize(
    ("name", "step"), [(name, step) for name in CASES for step in steps_of(name)]
)
def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    name: str, step: int, whole: Callable[[str], Run], store: RunStore, train: Train
) -> None:
    source = whole(name)
    saved = checkpoints.steps(source.checkpoints)
    # One that ended early, or saves more seldom: the last of those that there are.
    at = max((s for s in saved if s <= step), default=saved[0])
    at = saved[-1] if step == STEPS else at
    run = store.create(source.spec(), f"cut-{name}-{step}")
    cut_off(source, run, at)
    assert train(run) == 0, store.state(run).problem
    compare(run, source)
    (attempt,) = [e for e in events.read(run.events) if e["type"] == "attempt"]
    assert attempt["step"] == at


def test_the_cases_are_what_they_say(whole: Callable[[str], Run], store: RunStore) -> None:
    """Early stopping stopped, the best was not the last, the plateau lowered the rate."""
    assert store.state(whole("early")).step < STEPS
    assert store.state(whole("early and best")).step < STEPS
    last = store.state(whole("early and best")).step
    folder = whole("early and best").checkpoints / f"checkpoint-{last}"
    best = json.loads((folder / "trainer_state.json").read_text())["best_global_step"]
    assert 0 < best < last
    rates = {p["learning_rate"] for p in whole("plateau").history() if "learning_rate" in p}
    assert len(rates) > 1


@pytest.mark.parametrize("step", [2, 3, 4, 5])
def test_a_rate_that_was_changed_is_changed_again(
    step: int, spec_of: Callable[[str], RunSpec], store: RunStore, train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Asked for during step 4, so that it holds after that: cut off before, at and after it."""
    write = Reporter.event

    def event(self: Reporter, kind: str, **values: Any) -> None:
        write(self, kind, **values)
        if kind == "log" and values["step"] == 3:
            control.ask(source, "learning_rate", 0.002)

    spec = spec_of("cosine")
    source = store.create(spec, "changed")
    monkeypatch.setattr(Reporter, "event", event)
    assert train(source) == 0
    monkeypatch.undo()
    (change,) = [e for e in events.read(source.events) if e["type"] == "change"]
    assert (change["step"], change["value"]) == (4, 0.002)
    run = store.create(spec, f"changed-{step}")
    cut_off(source, run, step)
    if step < 4:
        # It died in step 5: later checkpoints were lost, what was told was not.
        lines = source.events.read_text().splitlines(keepends=True)
        until = next(n for n, e in enumerate(events.read(source.events)) if e.get("step") == 5)
        run.events.write_text("".join(lines[:until]))
    assert train(run) == 0
    assert weights(run) == weights(source)
    assert [p.get("learning_rate") for p in run.history()] == [
        p.get("learning_rate") for p in source.history()
    ]


@pytest.mark.parametrize("step", [1, 4, STEPS])
def test_a_branch_that_changes_nothing_ends_as_its_source_did(
    step: int, whole: Callable[[str], Run], store: RunStore, settings: Settings, train: Train
) -> None:
    source = whole("plain")
    made = jobs.branch(store, settings, source, step)
    assert train(made) == 0
    assert weights(made) == weights(source)
    assert [p.get("loss") for p in made.history()] == [p.get("loss") for p in source.history()]
    assert not store.waiting()


def test_a_run_that_is_trained_longer_is_the_long_run(
    spec_of: Callable[[str], RunSpec], store: RunStore, settings: Settings, train: Train
) -> None:
    """With a rate that its length does not decide; and cut off in what was added."""
    spec = with_values(spec_of("plain"), {"train.lr_scheduler_type": "constant"})
    long = store.create(spec, "long")
    assert train(long) == 0
    short = store.create(with_values(spec, {"train.max_steps": 3}), "short")
    assert train(short) == 0
    state = store.state(short)
    jobs.extend(store, settings, short, 4 * state.epoch / state.step)
    assert short.spec().train.max_steps == STEPS
    assert train(short) == 0
    _same_steps(short, long)
    again = store.create(spec, "again")
    cut_off(short, again, 5)
    assert train(again) == 0
    _same_steps(again, long)


def test_an_evaluation_that_is_asked_for_changes_nothing(
    whole: Callable[[str], Run], store: RunStore, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it made again by an attempt that passes the step once more."""
    write = Reporter.event

    def event(self: Reporter, kind: str, **values: Any) -> None:
        write(self, kind, **values)
        if kind == "log" and values["step"] in (2, 4):
            control.ask(run, "evaluate")

    monkeypatch.setattr(Reporter, "event", event)
    run = store.create(whole("plain").spec(), "asked")
    assert train(run) == 0
    evals = [e["step"] for e in events.read(run.events) if e["type"] == "eval"]
    assert evals == [0, 3, 5, STEPS]
    assert weights(run) == weights(whole("plain"))


def test_one_that_stopped_early_waits_anew_when_it_is_trained_longer(
    whole: Callable[[str], Run], store: RunStore, settings: Settings, train: Train
) -> None:
    source = whole("early")
    stopped = store.state(source).step
    run = store.create(source.spec(), "longer")
    shutil.copytree(source.checkpoints, run.checkpoints)
    shutil.copy(source.events, run.events)
    jobs.extend(store, settings, run, 1)
    assert train(run) == 0
    # As many evaluations later as it has patience, and not at the first.
    assert store.state(run).step == stopped + 2


def test_a_branch_with_more_patience_has_it(
    whole: Callable[[str], Run], store: RunStore, settings: Settings, train: Train
) -> None:
    source = whole("early")
    stopped = store.state(source).step
    patient = with_values(source.spec(), {"eval.early_stopping_patience": 4})
    made = jobs.branch(store, settings, source, stopped, patient)
    assert train(made) == 0
    assert store.state(made).step == stopped + 2


def test_where_one_checkpoint_is_kept_the_last_is_there_beside_the_best(
    spec_of: Callable[[str], RunSpec], store: RunStore, settings: Settings, train: Train
) -> None:
    run = store.create(with_values(spec_of("best"), {"train.save_total_limit": 1}), "one")
    assert train(run) == 0
    assert checkpoints.steps(run.checkpoints)[-1] == STEPS
    check_checkpoints(run)
    jobs.extend(store, settings, run, 0.1)
    assert train(run) == 0 and store.state(run).step > STEPS
