"""Runs, from start to their last event: finished, stopped, failed at each stage."""

import json
import math
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from studio.engine.trainers import Base
from studio.runs import Run, RunStore, events
from studio.runs.lock import try_lock
from studio.settings import Settings
from tests.engine.helpers import ended, wait_until

NewRun = Callable[..., Run]
TrainHere = Callable[[Run], int]
Worker = Callable[..., subprocess.Popen[str]]


def of_kind(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in events.tail(run.events)[0] if event["type"] == kind]


def test_a_run_tells_its_whole_story(trained: Run) -> None:
    told = events.tail(trained.events)[0]
    # Another test may have had the very same rows tokenized before.
    done = ("tokenizing 20 of 20", "the rows are tokenized already")
    said = [event["text"] for event in told if event["type"] == "stage"]
    stages = ["tokenized" if text in done else text for text in said]
    order = [
        "loading the libraries",
        "finding the model",
        "reading the data",
        "tokenized",
        "loading the model",
        "adding the adapter",
        "training",
        "saving the adapter",
    ]
    assert [stage for stage in dict.fromkeys(stages) if stage in order] == order
    (start,) = of_kind(trained, "start")
    assert (start["max_steps"], start["train_rows"], start["eval_rows"]) == (4, 16, 4)
    assert 0 < start["trainable"] < start["parameters"]
    assert start["device"] == "CPU, float32"
    logs = of_kind(trained, "log")
    assert [log["step"] for log in logs] == [1, 2, 3, 4]
    assert logs[-1]["loss"] < logs[0]["loss"]
    for log in logs:
        assert log["tokens_per_second"] > 0
        assert log["grad_norm"] > 0
        assert log["learning_rate"] >= 0
    assert [log["num_tokens"] for log in logs] == sorted({log["num_tokens"] for log in logs})
    assert [event["step"] for event in of_kind(trained, "eval")] == [0, 2, 4]
    assert [event["step"] for event in of_kind(trained, "save")] == [2, 4]


def test_the_end_holds_the_results(trained: Run) -> None:
    end = ended(trained)
    losses = [log["loss"] for log in of_kind(trained, "log")]
    assert (end["type"], end["status"], end["step"]) == ("end", "finished", 4)
    assert end["train_loss"] == pytest.approx(sum(losses) / 4, abs=1e-4)
    assert end["eval_loss"] == of_kind(trained, "eval")[-1]["eval_loss"]
    state = RunStore(trained.path.parent).state(trained)
    assert (state.status, state.problem) == ("finished", None)


def test_the_adapter_loads_into_its_base(trained: Run, tiny_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = torch.arange(20)[None]
    before = base(ids).logits
    tuned = PeftModel.from_pretrained(base, str(trained.adapter))
    assert not torch.allclose(tuned(ids).logits, before, atol=1e-3)
    assert (trained.adapter / "tokenizer.json").is_file()


def test_the_adapter_says_where_it_comes_from(trained: Run, tiny_model: Path) -> None:
    config = json.loads((trained.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)
    card = (trained.adapter / "README.md").read_text()
    assert "rows.jsonl" in card and "rank 4" in card
    # A card is made to be given away: nothing of this machine stands in it.
    assert str(tiny_model.parent) not in card


def test_a_checkpoint_is_whole(trained: Run) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json", "adapter_model.safetensors"):
        assert (trained.checkpoints / "checkpoint-4" / name).is_file()


def test_a_stop_ends_after_the_step_and_saves(new_run: NewRun, worker: Worker) -> None:
    run = new_run(train={"max_steps": 100_000, "save_steps": 100_000}, eval={"eval_steps": 100_000})
    process = worker("train", str(run.path))
    wait_until(lambda: bool(of_kind(run, "log")))
    run.stop.touch()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    end = ended(run)
    assert (end["status"], end["step"]) == ("stopped", of_kind(run, "log")[-1]["step"])
    assert end["step"] >= 1 and end["train_loss"] > 0
    assert (run.checkpoints / f"checkpoint-{end['step']}" / "optimizer.pt").is_file()
    assert (run.adapter / "adapter_model.safetensors").is_file()


def test_a_term_signal_is_a_stop_too(new_run: NewRun, worker: Worker) -> None:
    run = new_run(train={"max_steps": 100_000, "save_steps": 100_000}, eval={"eval_steps": 100_000})
    process = worker("train", str(run.path))
    wait_until(lambda: bool(of_kind(run, "log")))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (process.returncode, ended(run)["status"]) == (0, "stopped")


def test_a_stop_before_training_leaves_no_adapter(new_run: NewRun, train_here: TrainHere) -> None:
    run = new_run()
    run.stop.touch()
    assert train_here(run) == 0
    assert ended(run)["status"] == "stopped"
    assert not run.adapter.exists()


def test_a_library_that_is_broken_fails_in_words(
    new_run: NewRun, worker: Worker, tmp_path: Path
) -> None:
    broken = tmp_path / "first" / "trl"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("from trl.gone import SFTTrainer\n")
    run = new_run()
    process = worker("train", str(run.path), PYTHONPATH=str(broken.parent))
    output, _ = process.communicate(timeout=90)
    end = ended(run)
    assert (process.returncode, end["status"]) == (1, "failed")
    assert "trl.gone" in end["message"] and "make run" in end["hint"]
    assert end["stage"] == "loading the libraries"
    assert "Traceback" in output


def break_model(run: Run, settings: Settings) -> dict[str, Any]:
    folder = Path(run.spec().model.name_or_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    return {"undo": lambda: weights.write_bytes(whole), "says": "can't be loaded"}


def break_row(run: Run, settings: Settings) -> dict[str, Any]:
    path = Path(run.spec().data.path)
    whole = path.read_text()
    path.write_text(whole + '{"messages": [{"role": "wizard", "content": "?"}]}\n')
    return {"undo": lambda: path.write_text(whole), "says": "line 21"}


def break_adapter(run: Run, settings: Settings) -> dict[str, Any]:
    run.adapter.write_text("a file where the folder should be")
    return {"undo": run.adapter.unlink, "says": "NotADirectoryError"}


def break_checkpoint(run: Run, settings: Settings) -> dict[str, Any]:
    run.checkpoints.write_text("a file where the folder should be")
    return {"undo": run.checkpoints.unlink, "says": "FileExistsError"}


@pytest.mark.parametrize(
    ("breakage", "stage"),
    [
        (break_row, "tokenizing 21 of 21"),
        (break_model, "loading the model"),
        (break_checkpoint, "adding the adapter"),
        (break_adapter, "saving the adapter"),
    ],
)
def test_a_crash_at_any_stage_says_why_and_the_next_start_works(
    new_run: NewRun,
    train_here: TrainHere,
    settings: Settings,
    breakage: Callable[[Run, Settings], dict[str, Any]],
    stage: str,
) -> None:
    run = new_run(train={"max_steps": 1})
    broken = breakage(run, settings)
    try:
        assert train_here(run) == 1
    finally:
        broken["undo"]()
    end = ended(run)
    assert end["status"] == "failed"
    assert broken["says"] in end["message"]
    assert end["hint"]
    assert end["stage"] == stage
    assert not run.adapter.exists()
    again = new_run(train={"max_steps": 1})
    assert train_here(again) == 0
    assert ended(again)["status"] == "finished"


def test_a_module_that_the_model_lacks(new_run: NewRun, train_here: TrainHere) -> None:
    run = new_run(adapter={"target_modules": ["q_proj", "query"]})
    assert train_here(run) == 1
    end = ended(run)
    assert "no module query" in end["message"] and "q_proj" in end["hint"]


def test_rows_longer_than_the_model_was_made_for_are_refused(
    new_run: NewRun, train_here: TrainHere, tiny_model: Path
) -> None:
    context = json.loads((tiny_model / "config.json").read_text())["max_position_embeddings"]
    run = new_run(train={"max_length": context + 8})
    assert train_here(run) == 1
    assert str(context) in ended(run)["message"]
    assert of_kind(run, "log") == []


def test_a_loss_that_explodes_is_named_with_its_step(
    new_run: NewRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "torch.optim.AdamW.step",
        lambda self, closure=None: [
            p.data.fill_(float("nan")) for g in self.param_groups for p in g["params"]
        ],
    )
    run = new_run(eval={"eval_on_start": False, "eval_steps": 1000})
    assert train_here(run) == 1
    end = ended(run)
    assert end["message"] == "The loss became NaN at step 2."
    assert "learning rate" in end["hint"]


def test_only_one_run_trains_at_a_time(
    new_run: NewRun, train_here: TrainHere, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run()
    # For that long it waits for one that is about to go.
    monkeypatch.setattr("studio.worker._GONE_S", 0.3)
    with try_lock(settings.home / "train.lock") as ours:
        assert ours
        assert train_here(run) == 1
    assert "Another run is being trained" in ended(run)["message"]
    again = new_run(train={"max_steps": 1})
    assert train_here(again) == 0


def test_the_last_step_is_on_the_chart_whatever_logging_steps_says(
    new_run: NewRun, train_here: TrainHere
) -> None:
    run = new_run(train={"max_steps": 3, "logging_steps": 2}, data={"validation": "0"})
    assert train_here(run) == 0
    assert [log["step"] for log in of_kind(run, "log")] == [2, 3]
    assert of_kind(run, "eval") == []
    assert ended(run)["eval_loss"] is None


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"quantization": "nf4"}},
        {"model": {"quantization": "int8"}},
        {"model": {"dtype": "bfloat16"}},
        {"train": {"packing": True}},
        {"train": {"train_sampling_strategy": "group_by_length"}},
        {"train": {"activation_checkpointing": True, "optim": "adamw_bnb_8bit"}},
        {"adapter": {"use_dora": True, "use_rslora": True}, "train": {"neftune_noise_alpha": 5}},
        {"data": {"train_on": "everything"}, "train": {"gradient_accumulation_steps": 2}},
    ],
    ids=lambda sections: "-".join(k for fields in sections.values() for k in fields),
)
def test_the_settings_people_change_train(
    new_run: NewRun, train_here: TrainHere, sections: dict[str, dict[str, Any]]
) -> None:
    sections.setdefault("train", {})["max_steps"] = 2
    run = new_run(**sections)
    assert train_here(run) == 0, ended(run)
    assert ended(run)["status"] == "finished"
    assert ended(run)["train_loss"] > 0


def test_an_evaluation_changes_nothing_about_the_training(
    new_run: NewRun, train_here: TrainHere
) -> None:
    """4-bit weights on a CPU lose their gradient at an evaluation, unless that is prevented."""
    losses = []
    for on_start in (True, False):
        run = new_run(
            model={"quantization": "nf4"},
            train={"max_steps": 4},
            eval={"eval_on_start": on_start, "eval_steps": 100},
        )
        assert train_here(run) == 0
        losses.append([log["loss"] for log in of_kind(run, "log")])
    assert losses[0] == losses[1]


def test_the_same_seed_gives_the_same_run(new_run: NewRun, train_here: TrainHere) -> None:
    losses = []
    for seed in (1, 1, 2):
        run = new_run(train={"max_steps": 2, "seed": seed})
        assert train_here(run) == 0
        losses.append([log["loss"] for log in of_kind(run, "log")])
    assert losses[0] == losses[1] != losses[2]


PAIRS = [
    {"prompt": f"What is your name? {n}", "chosen": "My name is Bramble.", "rejected": "The tea."}
    for n in range(12)
]
MARKED = [
    {
        "messages": [
            {"role": "user", "content": f"How are you? {n}"},
            {"role": "assistant", "content": "I am well." if n % 2 else "The clock."},
        ],
        "label": bool(n % 2),
    }
    for n in range(12)
]


@pytest.mark.parametrize(("trainer", "compared"), [("dpo", PAIRS), ("kto", MARKED)])
def test_answers_that_are_compared_move_apart(
    new_run: NewRun, train_here: TrainHere, tmp_path: Path, trainer: str, compared: list[Any]
) -> None:
    path = tmp_path / "compared.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in compared), encoding="utf-8")
    run = new_run(
        data={"path": str(path), "validation": "4", "test": "2"},
        train={"trainer": trainer, "max_steps": 6, "per_device_train_batch_size": 2},
        eval={"eval_on_start": False, "eval_steps": 3},
    )
    assert train_here(run) == 0, ended(run)
    logs = of_kind(run, "log")
    assert [log["step"] for log in logs] == [1, 2, 3, 4, 5, 6]
    # The base, which the adapter is held against, is the same model without it: at first they are
    # of one mind, whatever they say.
    assert logs[0]["loss"] == pytest.approx(math.log(2) if trainer == "dpo" else 0.5, abs=1e-3)
    names = {"rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"}
    names |= {"rewards/accuracies", "rewards/margins"} if trainer == "dpo" else {"kl"}
    seen: set[str] = set()
    for log in logs:
        numbers = {k: v for k, v in log.items() if "/" in k or k == "kl"}
        assert all(isinstance(value, float) for value in numbers.values())
        assert log["tokens_per_second"] > 0
        seen |= set(numbers)
    assert names <= seen
    evaluated = of_kind(run, "eval")
    assert [event["step"] for event in evaluated] == [3, 6]
    assert any(k.startswith("eval_rewards/") for k in evaluated[-1])
    end = ended(run)
    assert end["status"] == "finished" and end["test_loss"] > 0
    state = RunStore(run.path.parent).state(run)
    assert (state.status, state.step) == ("finished", 6)
    if trainer == "dpo":
        assert logs[-1]["rewards/margins"] > logs[0]["rewards/margins"] == 0
        assert logs[-1]["loss"] < logs[0]["loss"]


def test_the_test_rows_are_measured_once_at_the_end(new_run: NewRun, train_here: TrainHere) -> None:
    run = new_run(data={"validation": "0", "test": "5"}, train={"max_steps": 2})
    assert train_here(run) == 0, ended(run)
    (start,) = of_kind(run, "start")
    assert (start["train_rows"], start["eval_rows"], start["test_rows"]) == (15, 0, 5)
    assert of_kind(run, "eval") == [] and ended(run)["test_loss"] > 0
    assert ended(run)["eval_loss"] is None


def test_what_was_trained_is_kept_where_the_test_rows_can_not_be_measured(
    new_run: NewRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room for the answers")

    monkeypatch.setattr(Base, "evaluate", evaluate)
    run = new_run(data={"validation": "0", "test": "5"}, train={"max_steps": 1})
    assert train_here(run) == 0, ended(run)
    assert (run.adapter / "adapter_model.safetensors").is_file()
    end = ended(run)
    assert (end["status"], end["test_loss"]) == ("finished", None)
    (note,) = [e["text"] for e in of_kind(run, "note") if "test loss" in e["text"]]
    assert "no room for the answers" in note
