"""The live view: a tick costs what is new, and a long chart keeps what matters."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from studio import jobs
from studio.jobs import conduct
from studio.runs import Run, RunStore, checkpoints
from studio.runs.events import append
from studio.runs.files import write_process
from studio.settings import Settings
from studio.spec import DEFAULTS
from studio.ui.live import tick

START = {
    "type": "start", "time": 1_800_000_000.0, "max_steps": 200_000, "num_train_epochs": 3,
    "train_rows": 150, "eval_rows": 10, "parameters": 134_515_008, "trainable": 4_884_480,
    "device": "CPU",
}  # fmt: skip


def point(step: int, loss: float = 2.3456) -> dict[str, Any]:
    """What the worker writes after a step."""
    return {
        "type": "log", "time": 1_800_000_000.0 + step, "step": step, "epoch": step / 66_666,
        "loss": loss, "learning_rate": 1.9432e-4, "grad_norm": 1.2345, "num_tokens": 512 * step,
        "tokens_per_second": 812.34,
    }  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def made(store: RunStore, steps: int, first: int = 1) -> Run:
    """A run that goes on and has logged its steps from the first to that one."""
    run = store.create(DEFAULTS, "long")
    write_process(run.pid, psutil.Process().pid)
    with run.events.open("w", encoding="utf-8") as file:
        file.write(json.dumps(START) + "\n")
        file.writelines(json.dumps(point(n)) + "\n" for n in range(first, steps + 1))
    return run


def test_a_tick_brings_what_is_new(store: RunStore) -> None:
    run = made(store, 3)
    first = tick({"run": run.id, "offset": 0}, store)
    assert [p["step"] for p in first["points"]] == [1, 2, 3]
    assert first["points"][2]["seconds"] == 3.0 and "time" not in first["points"][2]
    assert (first["state"]["step"], first["state"]["max_steps"]) == (3, 200_000)
    assert first["state"]["status"] == "running" and first["state"]["words"] == "training"
    again = tick({"run": run.id, "offset": first["offset"]}, store)
    assert again["points"] == [] and again["offset"] == first["offset"]
    append(run.events, {"type": "eval", "step": 3, "eval_loss": 1.5})
    new = tick({"run": run.id, "offset": again["offset"]}, store)
    assert [(p["step"], p["eval_loss"]) for p in new["points"]] == [(3, 1.5)]
    assert new["state"]["eval_loss"] == 1.5


def test_a_reader_that_comes_later_gets_the_whole_chart(store: RunStore) -> None:
    run = made(store, 50)
    tick({"run": run.id, "offset": 0}, store)
    assert len(tick({"run": run.id, "offset": 0}, store)["points"]) == 50
    assert len(tick({"run": run.id, "offset": 0}, RunStore(store.root))["points"]) == 50


@pytest.mark.parametrize("offset", [-5, "x", None, 1.5, [1]])
def test_an_offset_that_is_none_means_from_the_beginning(store: RunStore, offset: object) -> None:
    run = made(store, 3)
    assert len(tick({"run": run.id, "offset": offset}, store)["points"]) == 3


class Cost:
    """Bytes sent, bytes read and seconds of CPU of the ticks after a run's first so many steps."""

    def __init__(self, store: RunStore, steps: int) -> None:
        # Twenty thousand lines are enough to notice that they are read again.
        run = made(store, steps, max(1, steps - 20_000))
        offset = tick({"run": run.id, "offset": run.events.stat().st_size}, store)["offset"]
        sent, read, seconds = [], [], []
        process = psutil.Process()
        for step in range(steps + 1, steps + 41):
            append(run.events, point(step))
            before, began = process.io_counters().read_chars, time.thread_time()
            answer = tick({"run": run.id, "offset": offset}, store)
            seconds.append(time.thread_time() - began)
            read.append(process.io_counters().read_chars - before)
            assert [p["step"] for p in answer["points"]] == [step]
            offset = answer["offset"]
            sent.append(len(json.dumps(answer)))
        self.sent, self.read = statistics.mean(sent), statistics.median(read)
        self.seconds = statistics.median(seconds)


def test_a_tick_at_step_100000_costs_what_it_costs_at_step_100(tmp_path: Path) -> None:
    early = Cost(RunStore(tmp_path / "a"), 100)
    late = Cost(RunStore(tmp_path / "b"), 100_000)
    assert late.sent == pytest.approx(early.sent, rel=0.1)
    assert late.read == pytest.approx(early.read, rel=0.1)
    # Loosely, since others use these cores too: bench/ measures it well. Reading the whole log
    # would take hundreds of times as long.
    assert late.seconds < 3 * early.seconds


def test_a_long_chart_is_thinned_and_keeps_every_spike_and_every_evaluation(
    store: RunStore,
) -> None:
    run = made(store, 0)
    spikes = {777: 99.0, 5_003: 98.0, 11_999: 97.0}
    dips = {1_234: 0.01, 9_876: 0.02}
    with run.events.open("a", encoding="utf-8") as file:
        for step in range(1, 12_001):
            loss = spikes.get(step) or dips.get(step) or 2.0 + (step * 37 % 101) / 1000
            file.write(json.dumps(point(step, loss)) + "\n")
            if step % 200 == 0:
                file.write(json.dumps({"type": "eval", "step": step, "eval_loss": 1.0}) + "\n")
    points = tick({"run": run.id, "offset": 0}, store)["points"]
    losses = {p["step"]: p["loss"] for p in points if "loss" in p}
    assert spikes.items() <= losses.items() and dips.items() <= losses.items()
    assert len([p for p in points if "eval_loss" in p]) == 60
    assert 1_000 < len(points) < 2_500
    steps = [p["step"] for p in points]
    assert steps == sorted(steps)


def test_a_short_chart_is_not_thinned(store: RunStore) -> None:
    assert len(tick({"run": made(store, 2_000).id, "offset": 0}, store)["points"]) == 2_000


def test_what_ended_is_said_with_why(store: RunStore) -> None:
    run = made(store, 2)
    end = {
        "type": "end",
        "status": "failed",
        "message": "Out of memory.",
        "hint": "Less.",
        "stage": "training",
    }
    append(run.events, {"type": "note", "text": "slow disk"})
    append(run.events, end)
    state = tick({"run": run.id, "offset": 0}, store)["state"]
    assert state["status"] == "failed" and state["notes"] == ["slow disk"]
    assert state["problem"] == {"message": "Out of memory.", "hint": "Less.", "stage": "training"}
    assert "remaining" not in state


def test_a_run_that_is_asked_to_stop_says_so(store: RunStore) -> None:
    run = made(store, 2)
    run.stop.touch()
    state = tick({"run": run.id, "offset": 0}, store)["state"]
    assert state["status"] == "stopping" and "saving" in state["words"]
    append(run.events, {"type": "end", "status": "stopped", "step": 2})
    state = tick({"run": run.id, "offset": 0}, store)["state"]
    assert state["words"] == "stopped at step 2"


def test_a_run_that_pauses_says_so_and_where_it_waits(store: RunStore) -> None:
    run = made(store, 2)
    run.stop.write_text("pause")
    state = tick({"run": run.id, "offset": 0}, store)["state"]
    assert state["words"].startswith("pausing")
    append(run.events, {"type": "end", "status": "stopped", "step": 2, "paused": True})
    state = tick({"run": run.id, "offset": 0}, store)["state"]
    assert state["words"] == "paused at step 2" and state["paused"] is True


def attempt(began: float, first: int, last: int) -> list[dict[str, Any]]:
    """A second a step, after ten of loading and a look before the first one that took five."""
    logs = [{**point(n), "time": began + 15 + n - first} for n in range(first + 1, last + 1)]
    return [
        {"type": "attempt", "step": first, "time": began},
        {**START, "time": began + 10},
        {"type": "eval", "step": first, "eval_loss": 2.0, "time": began + 15},
        *logs,
    ]


def times(points: list[dict[str, Any]]) -> dict[int, float]:
    """The seconds of each step, in their order, as they are shown."""
    found = [p["seconds"] for p in points]
    assert found == sorted(found)
    return {p["step"]: p["seconds"] for p in points if "loss" in p}


def test_the_time_of_a_point_is_what_was_trained_until_then(store: RunStore) -> None:
    run = store.create(DEFAULTS, "resumed")
    # Killed after step 12, gone on from the checkpoint of step 10 much later, and once more.
    parts = attempt(100, 0, 12), attempt(1000, 10, 13), attempt(5000, 13, 14)
    for event in (e for part in parts for e in part):
        append(run.events, event)
    wanted = {n: float(n) for n in range(1, 11)} | {11: 13.0, 12: 14.0, 13: 15.0, 14: 16.0}
    told = tick({"run": run.id, "offset": 0}, store)
    assert times(told["points"]) == wanted
    # Who looked in between is told the same.
    half = run.events.read_bytes().rfind(b'"attempt"')
    half = run.events.read_bytes().rfind(b"\n", 0, half) + 1
    late = tick({"run": run.id, "offset": half}, store)["points"]
    assert times(late) == {14: 16.0}


def test_a_branch_knows_what_was_trained_before_it(
    store: RunStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conduct, "ensure", lambda _: None)
    run = store.create(DEFAULTS, "source")
    for event in (*attempt(100, 0, 12), *attempt(1000, 10, 13)):
        append(run.events, event)
    append(run.events, {"type": "end", "status": "finished", "step": 13})
    for n in (11, 13):
        folder = run.checkpoints / f"checkpoint-{n}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text("{}")
        checkpoints.seal(folder)
    made = jobs.branch(store, settings, run, 11)
    jobs.remove(store, made)
    for event in attempt(9000, 11, 13):
        append(made.events, event)
    wanted = {n: float(n) for n in range(1, 11)} | {11: 13.0, 12: 14.0, 13: 15.0}
    told = tick({"run": made.id, "offset": 0}, store)
    assert times(told["points"]) == wanted


def test_a_clock_that_was_set_back_makes_no_time_negative(store: RunStore) -> None:
    run = store.create(DEFAULTS, "ahead")
    write_process(run.pid, psutil.Process().pid)
    for event in (START, point(1), point(2)):
        append(run.events, {**event, "time": time.time() + 10_000})
    state = tick({"run": run.id, "offset": 0}, store)["state"]
    assert state["status"] == "running" and state["elapsed"] == state["remaining"] == 0.0


def test_a_long_look_before_the_first_step_makes_what_remains_no_longer(store: RunStore) -> None:
    run = store.create(DEFAULTS, "looks first")
    write_process(run.pid, psutil.Process().pid)
    looked = {"type": "eval", "step": 0, "eval_loss": 2.0}
    for event, ago in ((START, 100), (looked, 10), (point(1), 0)):
        append(run.events, {**event, "time": time.time() - ago})
    state = tick({"run": run.id, "offset": 0}, store)["state"]
    each, left = 10, START["max_steps"] - 1
    assert state["remaining"] == pytest.approx(each * left, rel=0.05)
    assert state["elapsed"] == pytest.approx(100, rel=0.05)


def test_what_a_run_takes_stands_in_its_head_and_its_plan_beside_it_at_the_end(
    store: RunStore,
) -> None:
    run = made(store, 3)
    assert "figures" not in tick({"run": run.id, "offset": 0}, store)["state"]
    use = {"memory": 1.5e9, "peak": 2.1e9, "trained_per_second": 812.0, "share": 0.42}
    gpu = {"power": 412.0, "temperature": 61.0, "data": 0.2, "evaluating": 65.0, "saving": 2.0}
    append(run.events, {"type": "use", "step": 3, **use, **gpu})
    told = tick({"run": run.id, "offset": 0}, store)
    assert told["state"]["figures"] == [
        ("1.5 GB", "memory, 2.1 GB at its peak"), ("812", "trained tokens/s"),
        ("42 %", "of this machine's peak"), ("412 W", "GPU, 61 °C"),
        ("1 min 5 s", "evaluating"), ("2 s", "saving"),
    ]  # fmt: skip
    # A use is no point of the chart.
    assert [p["step"] for p in told["points"]] == [1, 2, 3]
    append(run.events, {"type": "predicted", "memory": 2e9, "seconds": 100.0})
    append(run.events, {"type": "measured", "memory": 2.2e9, "seconds": 90.0, "saving": 3.0})
    append(run.events, {"type": "end", "status": "finished"})
    run.pid.unlink()
    assert tick({"run": run.id, "offset": 0}, store)["state"]["figures"] == [
        ("2.2 GB (+10%)", "memory, planned 2.0 GB"),
        ("1 min 30 s (-10%)", "time, planned 1 min 40 s"), ("3 s", "saving"),
    ]  # fmt: skip
