"""The fast path through the worker's own way of training: the plain run, with other means."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from studio.engine import quick
from studio.engine.gauges import Smi
from studio.engine.load import Hardware
from studio.errors import SpecError
from studio.runs import Run
from studio.runs.events import read
from studio.spec import parse
from tests.engine.helpers import Recorder, ended, wait_until
from tests.engine.test_resume import LONG, cut_off, weights

NewRun = Callable[..., Run]
TrainHere = Callable[[Run], int]
CPU = Hardware("cpu", torch.float32)


def of_kind(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in read(run.events) if event["type"] == kind]


def curve(run: Run, kind: str, name: str) -> list[float]:
    return [event[name] for event in of_kind(run, kind) if event.get(name) is not None]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"packing": True, "per_device_train_batch_size": 2},
        {"packing": True, "packing_strategy": "wrapped", "per_device_train_batch_size": 2},
        {"gradient_accumulation_steps": 2, "activation_checkpointing": True},
    ],
    ids=["padded", "packed", "wrapped", "checkpointed"],
)
def test_a_fast_run_is_the_plain_run(
    new_run: NewRun, train_here: TrainHere, changes: dict[str, Any]
) -> None:
    runs = {}
    for engine in ("plain", "fast"):
        runs[engine] = run = new_run(train={**changes, "engine": engine})
        assert train_here(run) == 0
        assert ended(run)["status"] == "finished"
        (start,) = of_kind(run, "start")
        assert start["engine"].startswith(engine)
    plain, fast = runs["plain"], runs["fast"]
    # The gradients' norm is that of the adapter's, before they are cut.
    for kind, name in (("log", "loss"), ("log", "grad_norm"), ("eval", "eval_loss")):
        expected = curve(plain, kind, name)
        assert len(expected) >= 2
        assert curve(fast, kind, name) == pytest.approx(expected, rel=2e-3), name
    # What the preview says of the first batch is true of both.
    assert of_kind(plain, "batch")[0]["sha256"] == of_kind(fast, "batch")[0]["sha256"]
    found, held = (load_file(r.adapter / "adapter_model.safetensors") for r in (fast, plain))
    assert set(found) == set(held)
    for name, weight in held.items():
        torch.testing.assert_close(found[name], weight, rtol=2e-3, atol=2e-4)


def test_a_fast_run_that_was_cut_off_ends_with_the_same_weights(
    new_run: NewRun, train_here: TrainHere
) -> None:
    settings = {**LONG, "engine": "fast"}
    whole = new_run(train=settings)
    assert train_here(whole) == 0
    run = new_run(train=settings)
    cut_off(whole, run, 3)
    assert train_here(run) == 0
    assert weights(run) == weights(whole)
    assert curve(run, "log", "loss")[-1] == curve(whole, "log", "loss")[-1]


def test_the_last_rows_are_measured_on_it_too(new_run: NewRun, train_here: TrainHere) -> None:
    losses = []
    for engine in ("plain", "fast"):
        run = new_run(train={"engine": engine}, data={"test": "10%"})
        assert train_here(run) == 0
        losses.append(ended(run)["test_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_the_best_checkpoint_is_loaded_on_it(new_run: NewRun, train_here: TrainHere) -> None:
    run = new_run(
        train={"engine": "fast", "learning_rate": 0.3}, eval={"load_best_model_at_end": True}
    )
    assert train_here(run) == 0
    state = run.checkpoints / "checkpoint-4" / "trainer_state.json"
    assert "checkpoint-" in state.read_text()


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto wants the fast path here too."""
    monkeypatch.setattr(quick, "_new_enough", lambda where: True)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"adapter": {"bias": "lora_only"}}, "bias"),
        ({"adapter": {"method": "loha"}}, "loha"),
        # What only the libraries' objects tell.
        ({"fast": {"tokens": 64}, "adapter": {"use_rslora": True, "lora_dropout": 0.1}}, ""),
    ],
    ids=["bias", "method", "fits"],
)
@pytest.mark.usefixtures("as_on_a_gpu")
def test_where_auto_does_not_apply_the_plain_path_goes_on_and_says_why(
    new_run: NewRun, train_here: TrainHere, changes: dict[str, Any], word: str
) -> None:
    run = new_run(**changes)
    assert train_here(run) == 0
    notes = " ".join(event["text"] for event in of_kind(run, "note"))
    assert word in notes
    assert of_kind(run, "start")[0]["engine"].startswith("plain" if word else "fast")


@pytest.mark.usefixtures("as_on_a_gpu")
def test_float8_that_is_not_to_be_had_leaves_the_weights_as_they_are(
    new_run: NewRun, train_here: TrainHere
) -> None:
    run = new_run(fast={"float8": True})
    assert train_here(run) == 0
    (note,) = [e["text"] for e in of_kind(run, "note") if "frozen weights" in e["text"]]
    assert "GPU" in note
    assert of_kind(run, "start")[0]["engine"] == "fast, not compiled"


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_compiler_that_fails_costs_a_note_and_not_the_run(
    new_run: NewRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no compiler of C here")

    monkeypatch.setattr("studio.engine.fast.runner.inductor", fails)
    plain = new_run(train={"engine": "plain"})
    run = new_run(fast={"compile": "always"})
    assert train_here(plain) == train_here(run) == 0
    notes = " ".join(event["text"] for event in of_kind(run, "note"))
    assert "no compiler of C here" in notes
    assert curve(run, "log", "loss") == pytest.approx(curve(plain, "log", "loss"), rel=2e-3)


def test_a_model_of_another_kind_is_told() -> None:
    recorder = Recorder()

    class Odd:
        data_collator = None

        def engage(self, plan: Any, note: Any) -> Any:
            from studio.engine.fast import Refused

            return Refused(("Its layers are of 3 kinds; one is expected.",))

    spec = parse({"train": {"engine": "fast"}})
    assert quick.engage(Odd(), spec, CPU, recorder) == "plain"
    assert "3 kinds" in recorder.notes[0]


@pytest.mark.parametrize(
    "tree",
    [
        {"train": {"trainer": "dpo"}},
        {"adapter": {"method": "ia3"}},
        {"adapter": {"use_dora": True}},
        {"adapter": {"bias": "all"}},
        {"model": {"quantization": "int8"}},
        {"fast": {"float8": True}, "model": {"quantization": "nf4"}},
    ],
)
def test_what_is_asked_for_by_name_and_can_not_be_had_is_refused(tree: dict[str, Any]) -> None:
    tree = {**tree, "train": {**tree.get("train", {}), "engine": "fast"}}
    with pytest.raises(SpecError) as error:
        parse(tree)
    assert any(p.field == "train.engine" for p in error.value.problems)
    parse({**tree, "train": {**tree["train"], "engine": "auto"}})


def test_a_run_tells_what_was_planned_and_what_it_took(
    new_run: NewRun, train_here: TrainHere
) -> None:
    run = new_run(train={"engine": "fast"})
    assert train_here(run) == 0
    (before,), (after,) = of_kind(run, "predicted"), of_kind(run, "measured")
    assert before["engine"] == "fast"
    assert sum(before["parts"].values()) == pytest.approx(before["memory"], abs=20)
    assert 0 < before["context"] < before["raw_memory"] and before["raw_seconds"] > 0
    assert after["steps"] == before["steps"] == 4
    # The largest batch is planned for as chance makes it.
    assert after["memory"] > 5e7 and 0 < after["raw_memory"] < 1.02 * before["raw_memory"]
    # Prompts are not trained.
    assert 0 < after["trained"] < after["tokens"]
    clocks = [after[name] for name in ("data", "training", "evaluating", "saving")]
    assert all(clock > 0 for clock in clocks)
    assert sum(clocks) == pytest.approx(after["seconds"], rel=0.2)
    first = of_kind(run, "use")[0]
    assert first["peak"] > 0 and first["trained_per_second"] > 0 and first["share"] > 0
    assert "power" not in first


def test_nvidia_smi_is_asked_beside_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nsleep 0.3\necho '412.5, 61'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    smi = Smi(Hardware("cuda", torch.bfloat16))
    began = time.monotonic()
    assert smi.look() == {} and time.monotonic() - began < 0.25
    wait_until(lambda: smi.look() == {"power": 412.5, "temperature": 61.0}, 10)
    program.write_text("#!/bin/sh\necho '[N/A], [N/A]'\n")
    odd = Smi(Hardware("cuda", torch.bfloat16))
    odd.look()
    wait_until(lambda: odd._asked is None or odd._asked.poll() is not None, 10)
    assert odd.look() == {}
    assert Smi(CPU).look() == {}
