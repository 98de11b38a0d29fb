"""Every setting arrives at trl, peft and transformers under its own name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import DPOConfig, KTOConfig, SFTConfig

from studio.engine.config import trainer_config
from studio.engine.load import Hardware, hardware, quantization_config
from studio.errors import StudioError
from studio.runs import Run
from studio.spec import DEFAULTS, SECTIONS, ModelSection, RunSpec, parse

CPU = Hardware("cpu", torch.float32)
# For each field a value that is not its default. A field that is missing here fails the test.
CHANGED: dict[str, dict[str, Any]] = {
    "train": {
        "num_train_epochs": 1.5,
        "max_steps": 7,
        "learning_rate": 3e-5,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 5,
        "max_length": 77,
        "packing": True,
        "activation_checkpointing": True,
        "optim": "sgd",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.2,
        "weight_decay": 0.05,
        "max_grad_norm": 0.3,
        "neftune_noise_alpha": 5.0,
        "seed": 7,
        "logging_steps": 3,
        "save_steps": 9,
        "save_total_limit": 4,
        "train_sampling_strategy": "group_by_length",
    },
    "eval": {"eval_steps": 11, "eval_on_start": False, "per_device_eval_batch_size": 2},
}
CHANGED |= {
    "dpo": {"beta": 0.3, "loss_type": "ipo", "label_smoothing": 0.2},
    "kto": {
        "beta": 0.4,
        "loss_type": "apo_zero_unpaired",
        "desirable_weight": 2.0,
        "undesirable_weight": 3.0,
    },
}
TRAINER = [(s, n) for s in ("train", "eval") for n in SECTIONS[s].model_fields if n != "trainer"]
OTHERS = [(s, n) for s in ("dpo", "kto") for n in SECTIONS[s].model_fields]


def sft(spec: RunSpec, where: Hardware = CPU, *, evaluate: bool = True) -> SFTConfig:
    return trainer_config(spec, Run(Path("run")), where, evaluate=evaluate)


@pytest.mark.parametrize(("section", "name"), TRAINER)
def test_every_training_setting_arrives(section: str, name: str) -> None:
    assert name in {field.name for field in dataclasses.fields(SFTConfig)}
    value = CHANGED[section][name]
    before, after = sft(DEFAULTS), sft(parse({section: {name: value}}))
    assert getattr(before, name) == getattr(getattr(DEFAULTS, section), name)
    assert getattr(after, name) == value != getattr(before, name)


@pytest.mark.parametrize(("section", "name"), OTHERS)
def test_every_setting_of_another_trainer_arrives(section: str, name: str) -> None:
    value = CHANGED[section][name]
    train = {"trainer": section}
    after = getattr(sft(parse({"train": train, section: {name: value}})), name)
    # trl takes several losses at once and keeps them as a list.
    assert (after[0] if isinstance(after, list) else after) == value
    assert value != getattr(getattr(DEFAULTS, section), name)


@pytest.mark.parametrize(("trainer", "kind"), [("dpo", DPOConfig), ("kto", KTOConfig)])
@pytest.mark.parametrize(("section", "name"), TRAINER)
def test_the_other_trainers_get_the_same_settings(
    section: str, name: str, trainer: str, kind: type
) -> None:
    if name == "packing":
        pytest.skip("only sft packs, and the spec says so")
    value = CHANGED[section][name]
    tree = {"train": {"trainer": trainer}}
    tree.setdefault(section, {})[name] = value
    config = sft(parse(tree))
    assert isinstance(config, kind)
    if trainer == "kto" and name == "train_sampling_strategy":
        # Its rows are shuffled, or not, before they are paired.
        value = "sequential"
    assert getattr(config, name) == value


def test_without_rows_held_back_nothing_is_evaluated() -> None:
    config = sft(DEFAULTS, evaluate=False)
    assert (str(config.eval_strategy.value), config.eval_on_start) == ("no", False)


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"),
    [(torch.float32, False, False), (torch.bfloat16, True, False)],
)
def test_the_numbers_follow_the_hardware(dtype: torch.dtype, bf16: bool, fp16: bool) -> None:
    config = sft(DEFAULTS, Hardware("cpu", dtype))
    assert (config.use_cpu, config.bf16, config.fp16) == (True, bf16, fp16)


def test_nothing_hides_a_nan_or_reports_elsewhere() -> None:
    config = sft(DEFAULTS)
    assert config.logging_nan_inf_filter is False
    assert config.report_to == []
    assert config.trust_remote_code is False


def test_a_cpu_computes_in_float32_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware(ModelSection()) == CPU
    assert hardware(ModelSection(dtype="bfloat16")).dtype is torch.bfloat16
    with pytest.raises(StudioError, match="float16"):
        hardware(ModelSection(dtype="float16"))


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)]
)
def test_a_gpu_gets_bfloat16_only_where_it_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert hardware(ModelSection()) == Hardware("cuda", dtype)


def test_quantization_is_always_spelled_out() -> None:
    assert quantization_config(ModelSection(), torch.float32) is None
    section = ModelSection(quantization="int8", llm_int8_threshold=3.5)
    eight = quantization_config(section, torch.float32)
    assert eight.load_in_8bit and not eight.load_in_4bit and eight.llm_int8_threshold == 3.5
    for kind in ("nf4", "fp4"):
        section = ModelSection(quantization=kind, bnb_4bit_use_double_quant=False)
        four = quantization_config(section, torch.float16)
        assert four.load_in_4bit and four.bnb_4bit_quant_storage is torch.uint8
        assert (four.bnb_4bit_quant_type, four.bnb_4bit_compute_dtype) == (kind, torch.float16)
        assert four.bnb_4bit_use_double_quant is False
    section = ModelSection(
        quantization="nf4", bnb_4bit_compute_dtype="bfloat16", bnb_4bit_quant_storage="float32"
    )
    four = quantization_config(section, torch.float16)
    assert four.bnb_4bit_compute_dtype is torch.bfloat16
    assert four.bnb_4bit_quant_storage is torch.float32


def test_the_device_is_the_one_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert hardware(ModelSection(device_map="cuda")).device == "cuda"
    assert hardware(ModelSection(device_map="cpu")) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudioError, match="no GPU here"):
        hardware(ModelSection(device_map="cuda"))
