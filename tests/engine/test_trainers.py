"""Every trainer learns, tells its own numbers, and gets the batches that the preview shows."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.engine.adapters import steps_of
from studio.engine.load import Hardware
from studio.engine.preview import Preview
from studio.engine.reward import load_scorer
from studio.plan.estimate import steps
from studio.runs import Run, events
from studio.settings import Settings
from tests.engine.helpers import Recorder, ended

NewRun = Callable[..., Run]
TrainHere = Callable[[Run], int]

PAIRS = [
    {"prompt": f"What is your name? {n}", "chosen": "My name is Bramble.", "rejected": "The tea."}
    for n in range(16)
]
TEXTS = [{"text": f"The tea is strong and the clock is right. {n} " * 3} for n in range(16)]
ASKED = [{"prompt": f"How are you? {n}", "completion": "I am well."} for n in range(16)]
# What each trainer tells of a step, and of an evaluation.
TOLD = {
    "cpt": set(),
    "orpo": {"rewards/chosen", "rewards/margins", "rewards/accuracies", "nll_loss"},
    "reward": {"accuracy", "margin", "mean_reward"},
    "grpo": {
        "reward", "reward_std", "completions/mean_length", "rewards/exact_match/mean",
        "rewards/length/mean",
    },
}  # fmt: skip
ROWS = {"cpt": TEXTS, "orpo": PAIRS, "reward": PAIRS, "grpo": ASKED}
OWN: dict[str, dict[str, Any]] = {
    "grpo": {
        "grpo": {
            "num_generations": 2,
            "max_completion_length": 6,
            "length_weight": 0.5,
            "length": 4,
        }
    },
}


def of_kind(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in events.tail(run.events)[0] if event["type"] == kind]


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sections(trainer: str, path: str, **more: Any) -> dict[str, dict[str, Any]]:
    """A short run of the trainer, evaluated at its end."""
    return {
        "data": {"path": path, "validation": "4", "test": "2"},
        "train": {
            "trainer": trainer, "max_steps": 4, "per_device_train_batch_size": 2,
            "learning_rate": 0.01, **more,
        },
        "eval": {"eval_on_start": False, "eval_steps": 2, "per_device_eval_batch_size": 2},
        **copy.deepcopy(OWN.get(trainer, {})),
    }  # fmt: skip


@pytest.mark.parametrize("trainer", TOLD)
def test_it_learns_and_tells_its_own_numbers(
    new_run: NewRun, train_here: TrainHere, settings: Settings, tmp_path: Path, trainer: str
) -> None:
    run = new_run(**sections(trainer, written(tmp_path, ROWS[trainer])))
    assert train_here(run) == 0, ended(run)
    end = ended(run)
    assert (end["status"], end["step"]) == ("finished", 4)
    assert end["test_loss"] is not None
    logs = of_kind(run, "log")
    assert [log["step"] for log in logs] == [1, 2, 3, 4]
    assert TOLD[trainer] <= set().union(*logs)
    assert all(log["tokens_per_second"] > 0 for log in logs)
    evaluated = of_kind(run, "eval")
    assert [event["step"] for event in evaluated] == [2, 4]
    if trainer == "reward":
        assert logs[-1]["loss"] < logs[0]["loss"] and logs[-1]["margin"] > logs[0]["margin"]
    if trainer in ("orpo", "cpt"):
        assert logs[-1]["loss"] < logs[0]["loss"]
    assert (run.adapter / "adapter_model.safetensors").is_file()
    # The first batch is the one that the preview shows.
    shown = Preview(settings).batch(run.spec(), 0, Recorder())
    assert [event["sha256"] for event in of_kind(run, "batch")] == [shown["sha256"]]


def test_the_answers_that_were_tried_can_be_read(
    new_run: NewRun, train_here: TrainHere, tmp_path: Path
) -> None:
    run = new_run(**sections("grpo", written(tmp_path, ASKED), max_steps=2))
    assert train_here(run) == 0, ended(run)
    lines = [json.loads(line) for line in run.completions.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert len(line["rows"]) == 2
        for row in line["rows"]:
            assert row["prompt"].startswith("<|im_start|>system") and row["answer"] == "I am well."
            assert set(row["rewards"]) == {"exact_match", "length"}


def test_steps_that_learn_from_the_same_answers_are_bounded_by_epsilon(
    new_run: NewRun, train_here: TrainHere, tmp_path: Path
) -> None:
    norms = []
    for epsilon in (1.0, 1e-7):
        given = sections("grpo", written(tmp_path, ASKED), max_steps=-1, num_train_epochs=0.2)
        given["train"]["learning_rate"] = 1e-3
        # What differs between answers of one length are their letters.
        own = {"num_iterations": 2, "epsilon": epsilon, "pattern": "[aeiou]", "pattern_weight": 1.0}
        given["grpo"] |= own | {"num_generations": 4}
        given["train"] |= {"per_device_train_batch_size": 4}
        given["eval"] |= {"per_device_eval_batch_size": 4}
        run = new_run(**given)
        assert train_here(run) == 0, ended(run)
        logs = of_kind(run, "log")
        # 10 prompts, each of which makes two steps.
        assert len(logs) == 4 == steps(run.spec(), 10) == steps_of(run.spec(), 10)
        lines = [json.loads(line) for line in run.completions.read_bytes().splitlines()]
        assert [line["step"] for line in lines] == [1, 3]
        norms.append([log["grad_norm"] for log in logs])
    assert norms[0][0] == norms[1][0] > 0
    assert norms[0][1] != norms[1][1]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_reward_model_is_kept_and_rewards_answers(
    new_run: NewRun,
    train_here: TrainHere,
    settings: Settings,
    tmp_path: Path,
    quantization: str,
) -> None:
    given = sections("reward", written(tmp_path, PAIRS), learning_rate=0.02, max_steps=8)
    made = new_run(**given, model={"quantization": quantization})
    assert train_here(made) == 0, ended(made)
    # Loaded anew, it gives what it gave at the end of its training: the better answer more.
    scorer = load_scorer(made.id, settings, Hardware("cpu", torch.float32), Recorder())
    asked = [{"role": "user", "content": "What is your name? 3"}]
    better, worse = scorer.score([asked, asked], ["My name is Bramble.", "The tea."])
    assert better > worse
    # Alone or padded beside another, an answer has one score.
    assert scorer.score([asked], ["The tea."]) == [pytest.approx(worse, abs=1e-4)]
    rewarded = sections("grpo", written(tmp_path, ASKED), max_steps=1)
    rewarded["grpo"] |= {"reward_model_weight": 1.0, "reward_model": made.id}
    run = new_run(**rewarded)
    assert train_here(run) == 0, ended(run)
    (log,) = of_kind(run, "log")
    assert isinstance(log["rewards/reward_model/mean"], float)


def test_a_run_that_made_no_reward_model_is_refused_by_name(
    new_run: NewRun, train_here: TrainHere, tmp_path: Path
) -> None:
    other = new_run()
    for name, words in ((other.id, "made no reward model"), ("nothing", "neither a run")):
        given = sections("grpo", written(tmp_path, ASKED))
        given["grpo"] |= {"reward_model_weight": 1.0, "reward_model": name}
        run = new_run(**given)
        assert train_here(run) == 1
        assert words in ended(run)["message"]


@pytest.mark.parametrize("strategy", ["bfd_split", "wrapped"])
def test_long_texts_go_on_in_the_next_sequence(
    new_run: NewRun,
    train_here: TrainHere,
    settings: Settings,
    tmp_path: Path,
    strategy: str,
) -> None:
    """Nothing of a text is lost, and the batch that is shown is the one that is trained on."""
    packed = {"packing": True, "packing_strategy": strategy, "max_length": 32, "max_steps": 2}
    run = new_run(**sections("cpt", written(tmp_path, TEXTS), **packed))
    assert train_here(run) == 0, ended(run)
    shown = Preview(settings).batch(run.spec(), 0, Recorder())
    assert [event["sha256"] for event in of_kind(run, "batch")] == [shown["sha256"]]
    rows = Preview(settings).show(run.spec(), 0, 16, Recorder())["rows"]
    assert not any(sequence["cut"] for row in rows for sequence in row["sequences"])
    assert max(len(sequence["tokens"]) for row in rows for sequence in row["sequences"]) > 32
    assert all(sum(lengths) <= 32 for lengths in shown["lengths"])
    # Where rows keep apart, the trainer gets all of a batch in one sequence.
    height, width = shown["shape"]
    assert (height == 1) == (strategy == "bfd_split") and height * width >= shown["tokens"]


def test_texts_end_with_the_end_token_where_that_is_asked_for(
    new_run: NewRun, settings: Settings, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    for ends in (True, False):
        given = {**sections("cpt", written(tmp_path, TEXTS)), "cpt": {"add_eos_token": ends}}
        rows = Preview(settings).show(new_run(**given).spec(), 0, 2, Recorder())["rows"]
        ids = [row["sequences"][0]["input_ids"] for row in rows]
        assert all((row[-1] == tiny_tokenizer.eos_token_id) == ends for row in ids)
        assert all(all(row["sequences"][0]["trained"]) for row in rows)
