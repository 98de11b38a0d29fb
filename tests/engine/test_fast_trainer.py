"""TRL's trainer with the fast path in it: the same losses, the same adapter, ordinary files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from studio.engine.fast import Applied, FastTrainer, Plan, Refused
from tests.engine.helpers import Recorder


def data(number: int = 24) -> Dataset:
    """Rows of 6 to 28 tokens; the first quarter of each is not learned."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for index in range(number):
        length = 6 + (index * 7) % 23
        ids = torch.randint(3, 300, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (length // 4) + ids[length // 4 :]})
    return Dataset.from_list(rows)


def trainer(folder: Path, out: Path, evaluate: bool = False, **changes: Any) -> FastTrainer:
    """A trainer for the tiny model, not switched yet."""
    lora = changes.pop("lora", {})
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "max_length": 64,
        "dataloader_pin_memory": False,
        "dataset_kwargs": {"skip_prepare_dataset": not changes.get("packing")},
        **({"eval_strategy": "steps", "eval_steps": 2} if evaluate else {}),
        **changes,
    }
    return FastTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=SFTConfig(output_dir=str(out), **settings),
        train_dataset=data(),
        eval_dataset=data(7) if evaluate else None,
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", **lora
        ),
    )


def engaged(trainer: FastTrainer, plan: Plan | None = None) -> Applied:
    """The trainer's fast path."""
    answer = trainer.engage(plan or Plan(), Recorder().note)
    assert isinstance(answer, Applied), answer
    return answer


def logged(trainer: FastTrainer, name: str) -> list[float]:
    """A figure's values over the run."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(
    ("changes", "plan"),
    [
        ({}, Plan()),
        ({"packing": True, "per_device_train_batch_size": 1}, Plan()),
        ({"activation_checkpointing": True}, Plan()),
        ({}, Plan(replay=1, chunk=7)),
    ],
    ids=["padded", "packed", "checkpointed", "chunks"],
)
@pytest.mark.filterwarnings("ignore")
def test_the_run_is_the_plain_run(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any], plan: Plan
) -> None:
    slow = trainer(tiny_model, tmp_path / "slow", evaluate=True, **changes)
    slow.train()
    quick = trainer(tiny_model, tmp_path / "fast", evaluate=True, **changes)
    engaged(quick, plan)
    quick.train()
    # TRL averages these two over micro-batches, the fast path over tokens.
    loosely = {"entropy": 0.02, "mean_token_accuracy": 0.02}
    for name in ("loss", "eval_loss", "grad_norm", *loosely):
        found, expected = logged(quick, name), logged(slow, name)
        assert len(expected) >= 2
        assert found == pytest.approx(expected, rel=2e-3, abs=loosely.get(name, 0.0)), name
    # TRL counts a packed row's fill as well; the fast path counts tokens.
    if not changes.get("packing"):
        assert logged(quick, "num_tokens") == logged(slow, "num_tokens")
    for name, parameter in quick.model.named_parameters():
        if parameter.requires_grad:
            expected = slow.model.get_parameter(name)
            torch.testing.assert_close(parameter, expected, rtol=1e-3, atol=1e-4)


def test_checkpointing_computes_a_layer_twice(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tiny_model, tmp_path, activation_checkpointing=True, max_steps=1)
    passes = []
    mlp = type(run.model.get_base_model().model.layers[0].mlp)
    before = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda *a, **k: (passes.append(1), before(*a, **k))[1])
    engaged(run)
    passes.clear()
    run.train()
    layers = run.model.config.num_hidden_layers
    assert len(passes) == layers * run.args.gradient_accumulation_steps * 2


def test_what_it_saves_is_an_ordinary_adapter(tiny_model: Path, tmp_path: Path) -> None:
    run = trainer(tiny_model, tmp_path / "run")
    engaged(run)
    run.train()
    run.model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    ids = torch.tensor([data()[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(
            again(input_ids=ids).logits, run.model(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_goes_on_from_its_checkpoint(
    tiny_model: Path, tmp_path: Path, dropout: float
) -> None:
    settings: dict[str, Any] = {
        "save_strategy": "steps", "save_steps": 2, "lora": {"lora_dropout": dropout},
    }  # fmt: skip
    whole = trainer(tiny_model, tmp_path / "whole", **settings)
    engaged(whole)
    whole.train()
    rest = trainer(tiny_model, tmp_path / "rest", **settings)
    engaged(rest)
    rest.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert rest.state.global_step == 4
    assert logged(rest, "loss")[-2:] == pytest.approx(logged(whole, "loss")[-2:], rel=1e-4)


def test_generation_and_the_base_are_there_while_it_is_on(tiny_model: Path, tmp_path: Path) -> None:
    run = trainer(tiny_model, tmp_path)
    ids = torch.tensor([data()[0]["input_ids"]])
    options = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        base = run.model(input_ids=ids).logits
    fast = engaged(run)
    run.train()
    run.model.eval()
    with torch.no_grad(), run.model.disable_adapter():
        torch.testing.assert_close(run.model(input_ids=ids).logits, base, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        tuned = run.model(input_ids=ids).logits
    words = run.model.generate(input_ids=ids, **options)
    assert words.shape[1] == ids.shape[1] + 5
    fast.restore()
    with torch.no_grad():
        torch.testing.assert_close(run.model(input_ids=ids).logits, tuned, rtol=1e-4, atol=1e-4)
    assert torch.equal(run.model.generate(input_ids=ids, **options), words)
    merged = run.model.merge_and_unload()
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, tuned, rtol=1e-3, atol=1e-3)


def test_merging_asks_for_restore_first(tiny_model: Path, tmp_path: Path) -> None:
    run = trainer(tiny_model, tmp_path)
    engaged(run)
    with pytest.raises(RuntimeError, match="restore"):
        run.model.merge_and_unload()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"neftune_noise_alpha": 5.0}, "NEFTune"),
        ({"loss_type": "dft"}, "loss"),
        ({"lora": {"use_dora": True}}, "DoRA"),
        ({"lora": {"bias": "lora_only"}}, "Biases"),
    ],
)
def test_settings_that_it_declines(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    run = trainer(tiny_model, tmp_path, **changes)
    collator = run.data_collator
    answer = run.engage(Plan(), Recorder().note)
    assert isinstance(answer, Refused)
    assert word in answer.reason
    assert run.data_collator is collator
    assert run.fast is None


def test_without_engage_it_is_trls_own(tiny_model: Path, tmp_path: Path) -> None:
    run = trainer(tiny_model, tmp_path, max_steps=1)
    run.train()
    assert run.fast is None
    assert len(logged(run, "loss")) == 1
