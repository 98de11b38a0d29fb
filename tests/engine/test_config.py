"""Every setting arrives at trl, peft and transformers under its own name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_scheduler, training_args
from transformers.utils import ExplicitEnum
from trl import SFTConfig

from studio.engine.config import CONFIGS, OURS, trainer_config
from studio.engine.load import Hardware, hardware, quantization_config
from studio.errors import SpecError, StudioError
from studio.runs import Run
from studio.spec import DEFAULTS, SECTIONS, ModelSection, RunSpec, tree, used, with_values
from tests.alternatives import pairs

CPU = Hardware("cpu", torch.float32)
# What is done by us, so that trl is told another thing: kto's rows are shuffled before they are
# paired, and a prompt is bounded before it is asked.
ELSEWHERE = {("kto", "train_sampling_strategy"), ("grpo", "max_length")}


def sft(spec: RunSpec, where: Hardware = CPU, *, evaluate: bool = True) -> SFTConfig:
    return trainer_config(spec, Run(Path("run")), where, evaluate=evaluate)


def arrived(config: Any, name: str) -> Any:
    """The setting as trl holds it: several losses at once as a list, a choice as a constant."""
    held = getattr(config, name)
    held = held[0] if name == "loss_type" and isinstance(held, list) else held
    return str(held.value) if isinstance(held, ExplicitEnum) else held


@pytest.mark.parametrize("trainer", CONFIGS)
def test_every_setting_arrives_under_its_own_name(
    monkeypatch: pytest.MonkeyPatch, trainer: str
) -> None:
    monkeypatch.setattr(training_args, "is_torch_tf32_available", lambda: True)
    own = [trainer] if trainer in SECTIONS else []
    seen = 0
    for section, name in (
        (s, n) for s in ("train", "eval", *own) for n in SECTIONS[s].model_fields
    ):
        for _, spec in pairs(f"{section}.{name}"):
            try:
                spec = with_values(spec, {"train.trainer": trainer})
            except SpecError:
                continue
            config = sft(spec)
            assert type(config) is CONFIGS[trainer]
            if name in OURS or not used(f"{section}.{name}", tree(spec)):
                continue
            if (trainer, name) not in ELSEWHERE:
                assert arrived(config, name) == getattr(getattr(spec, section), name), name
                seen += 1
    assert seen > 40


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


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy"])
def test_a_scheduler_that_looks_at_evaluations_knows_which_way_is_better(name: str) -> None:
    def mode(metric: str, **given: str) -> object:
        train = {"train.lr_scheduler_type": name, "train.lr_scheduler_kwargs": given}
        spec = with_values(DEFAULTS, {**train, "eval.metric_for_best_model": metric})
        return sft(spec).lr_scheduler_kwargs["mode"]

    assert mode("eval_loss") == "min" and mode("eval_mean_token_accuracy") == "max"
    assert mode("eval_mean_token_accuracy", mode="min") == "min"


def test_greedy_moves_below_the_learning_rate_unless_told_otherwise() -> None:
    told = {"train.lr_scheduler_type": "greedy", "train.learning_rate": 1e-4}
    kwargs = sft(with_values(DEFAULTS, told)).lr_scheduler_kwargs
    assert (kwargs["min_lr"], kwargs["max_lr"]) == (pytest.approx(1e-6), 1e-4)
    told["train.lr_scheduler_kwargs"] = {"max_lr": 1e-3, "patience": 0, "factor": 0.5}
    kwargs = sft(with_values(DEFAULTS, told)).lr_scheduler_kwargs
    assert kwargs["max_lr"] == 1e-3
    # It takes what it is told, and goes both ways.
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-4)
    scheduler = get_scheduler("greedy", optimizer, scheduler_specific_kwargs=kwargs)
    rates = []
    for loss in (2.0, 1.0, 3.0, 3.0, 3.0):
        scheduler.step(loss)
        rates.append(scheduler.get_last_lr()[0])
    assert rates == pytest.approx([2e-4, 4e-4, 2e-4, 1e-4, 5e-5])


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
