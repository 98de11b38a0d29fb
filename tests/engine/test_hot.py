"""What is asked of a run while it goes, and going on from where it was."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from studio import jobs
from studio.errors import StudioError
from studio.runs import Run, RunStore, checkpoints, queue
from studio.runs.control import Wishes, ask
from studio.runs.events import read
from studio.settings import Settings
from studio.spec import with_values
from tests.engine.helpers import ended, wait_until
from tests.engine.test_resume import LONG, cut_off, weights

NewRun = Callable[..., Run]
Train = Callable[[Run], int]
ENDLESS = {"max_steps": 100_000, "save_steps": 100_000, "learning_rate": 1e-4}


def of_kind(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in read(run.events) if event["type"] == kind]


@pytest.fixture
def no_conductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put into the queue stays there: the test trains it itself."""
    monkeypatch.setattr("studio.jobs.conduct.ensure", lambda settings: None)


@pytest.fixture
def whole(new_run: NewRun, train_here: Train) -> Run:
    run = new_run(train={**LONG, "lr_scheduler_type": "cosine"})
    assert train_here(run) == 0
    return run


def test_what_is_asked_is_done_and_a_pause_goes_on(
    new_run: NewRun, worker: Any, settings: Settings, train_here: Train, no_conductor: None
) -> None:
    run = new_run(train=ENDLESS, eval={"eval_steps": 100_000, "eval_on_start": False})
    with pytest.raises(StudioError, match="not going"):
        ask(run, "save")
    process = worker("train", str(run.path))
    wait_until(lambda: bool(of_kind(run, "log")))
    for wrong in (0.0, -1.0, 2.0, float("nan"), None):
        with pytest.raises(StudioError, match="no learning rate"):
            ask(run, "learning_rate", wrong)
    ask(run, "save")
    ask(run, "evaluate")
    ask(run, "learning_rate", 3e-4)
    wait_until(lambda: all(of_kind(run, kind) for kind in ("save", "eval", "change")))
    (change,) = of_kind(run, "change")
    wait_until(lambda: of_kind(run, "log")[-1]["step"] > change["step"] + 1)
    rates = {log["step"]: log["learning_rate"] for log in of_kind(run, "log")}
    assert rates[change["step"]] == pytest.approx(1e-4, rel=0.01)
    assert rates[change["step"] + 1] == pytest.approx(3e-4, rel=0.01)
    jobs.pause(run)
    process.communicate(timeout=60)
    store = RunStore(settings.runs)
    state = store.state(run)
    assert (state.status, state.paused, process.returncode) == ("stopped", True, 0)
    assert checkpoints.steps(run.checkpoints)[-1] == state.step
    # It goes on with the rate that was set, though its settings say another.
    jobs.resume(store, settings, run)
    assert queue.waiting(settings.runs) == [run.id]
    jobs.remove(store, run)
    run.stop.unlink()
    process = worker("train", str(run.path))
    wait_until(lambda: of_kind(run, "log")[-1]["step"] > state.step)
    assert of_kind(run, "log")[-1]["learning_rate"] == pytest.approx(3e-4, rel=0.01)
    jobs.stop(run, discard=True)
    process.communicate(timeout=60)
    assert RunStore(settings.runs).state(run).status == "stopped"
    assert not run.checkpoints.exists() and not run.adapter.exists()


def test_a_changed_rate_is_changed_again_after_a_crash(
    new_run: NewRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Wishes.take
    asked = iter([{}, {}, {"learning_rate": 0.005}])
    monkeypatch.setattr(Wishes, "take", lambda self: next(asked, {}))
    changed = new_run(train=LONG)
    # The first look is the one that forgets what was asked of an earlier attempt.
    assert train_here(changed) == 0
    (change,) = of_kind(changed, "change")
    assert (change["step"], change["value"]) == (2, 0.005)
    monkeypatch.setattr(Wishes, "take", take)
    again = new_run(train=LONG)
    cut_off(changed, again, 1)
    with again.events.open("a", encoding="utf-8") as file:
        file.write(json.dumps(change) + "\n")
    assert train_here(again) == 0
    assert weights(again) == weights(changed)
    # Cut off once more, before the change: it is not forgotten on the way.
    third = new_run(train=LONG)
    cut_off(changed, third, 1)
    lines = again.events.read_text(encoding="utf-8").splitlines(keepends=True)
    until = next(n for n, line in enumerate(lines) if '"attempt"' in line)
    third.events.write_text("".join(lines[: until + 1]), encoding="utf-8")
    assert train_here(third) == 0
    assert weights(third) == weights(changed)


def test_a_run_cut_off_between_its_last_step_and_its_end_only_ends(
    whole: Run, new_run: NewRun, train_here: Train, settings: Settings
) -> None:
    run = new_run(train={**LONG, "lr_scheduler_type": "cosine"})
    cut_off(whole, run, 7)
    assert train_here(run) == 0
    assert weights(run) == weights(whole)
    first, second = ended(whole), ended(run)
    for name in ("status", "step", "train_loss", "eval_loss"):
        assert first[name] == second[name], name
    assert checkpoints.steps(run.checkpoints) == list(range(1, 8))


def test_a_finished_run_trains_longer(
    new_run: NewRun, train_here: Train, settings: Settings, no_conductor: None
) -> None:
    store = RunStore(settings.runs)
    short = new_run(train={"max_steps": -1, "num_train_epochs": 1.0, "save_steps": 2})
    assert train_here(short) == 0
    with pytest.raises(StudioError, match="has finished"):
        jobs.resume(store, settings, short)
    with pytest.raises(StudioError, match="0 more epochs"):
        jobs.extend(store, settings, short, 0)
    jobs.extend(store, settings, short, 0.5)
    assert store.state(short).status == "queued"
    with queue.changing(settings.runs) as waiting:
        waiting.clear()
    assert train_here(short) == 0
    state = store.state(short)
    assert (state.status, state.step, state.max_steps) == ("finished", 6, 6)
    assert [point["step"] for point in short.history() if "loss" in point] == [1, 2, 3, 4, 5, 6]


def test_a_branch_goes_on_from_a_checkpoint(
    whole: Run, train_here: Train, settings: Settings, no_conductor: None
) -> None:
    store = RunStore(settings.runs)
    same = jobs.branch(store, settings, whole, 4)
    assert store.state(same).status == "queued" and store.state(same).step == 4
    with queue.changing(settings.runs) as waiting:
        waiting.clear()
    assert store.state(same).status == "created"
    assert train_here(same) == 0
    assert weights(same) == weights(whole)
    assert [p["step"] for p in same.history()] == [p["step"] for p in whole.history()]
    other = with_values(whole.spec(), {"train.learning_rate": 1e-5})
    slow = jobs.branch(store, settings, whole, 4, other, "slow")
    assert train_here(slow) == 0
    rates = [log["learning_rate"] for log in of_kind(slow, "log")]
    ratio = rates[-1] / of_kind(whole, "log")[-1]["learning_rate"] if rates[-1] else 0
    assert rates[4] == pytest.approx(of_kind(whole, "log")[4]["learning_rate"] * 1e-5 / 0.02)
    assert ratio in (0, pytest.approx(1e-5 / 0.02))
    assert weights(slow) != weights(whole)
    wider = with_values(whole.spec(), {"adapter.r": 8})
    with pytest.raises(StudioError, match=r"adapter\.r can't change"):
        jobs.branch(store, settings, whole, 4, wider)
    with pytest.raises(StudioError, match="no checkpoint of step 5000"):
        jobs.branch(store, settings, whole, 5000)
