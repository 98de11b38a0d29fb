"""From the spec to what trl and peft are told: the one place where each setting arrives."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from peft import LoraConfig
from trl import DPOConfig, KTOConfig, SFTConfig

from studio.engine.load import Hardware
from studio.runs import Run
from studio.spec import RunSpec

_CONFIGS = {"sft": SFTConfig, "dpo": DPOConfig, "kto": KTOConfig}


def trainer_config(spec: RunSpec, run: Run, where: Hardware, *, evaluate: bool) -> Any:
    """The trainer's settings: trl's SFTConfig, DPOConfig or KTOConfig. Every field of the train,
    eval and the trainer's own section goes in by its own name; the rest says where we differ from
    trl's defaults."""
    kind = _CONFIGS[spec.train.trainer]
    on_cpu = where.device == "cpu"
    train = spec.train.model_dump(exclude={"trainer"})
    evaluation = spec.eval.model_dump()
    own: dict[str, Any] = {}
    if spec.train.trainer == "sft":
        # Rows come tokenized, cut and packed.
        own = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    else:
        own = getattr(spec, spec.train.trainer).model_dump()
        # Only sft packs; the spec refuses it for the others.
        train.pop("packing")
    if spec.train.trainer == "kto" and spec.kto.loss_type == "kto":
        # The rows are shuffled before they are paired.
        train["train_sampling_strategy"] = "sequential"
    known = {field.name for field in fields(kind)}
    assert set(train) <= known, set(train) - known
    return kind(
        output_dir=str(run.checkpoints),
        **train,
        **{**evaluation, "eval_on_start": evaluation["eval_on_start"] and evaluate},
        **own,
        eval_strategy="steps" if evaluate else "no",
        logging_strategy="steps",
        save_strategy="steps",
        use_cpu=on_cpu,
        # trl turns bf16 on where nothing is said, a CPU included.
        bf16=where.dtype is torch.bfloat16,
        fp16=where.dtype is torch.float16,
        dataloader_pin_memory=not on_cpu,
        # With the filter on, a loss of NaN shows as the last good one.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )


def lora_config(spec: RunSpec, new_tokens: Mapping[str, list[int]]) -> LoraConfig:
    """The adapter's settings: every field of the adapter section by its own name. `new_tokens` are
    those that were added, by the module in which they have a row: it is trained with the rest."""
    trained = {"trainable_token_indices": dict(new_tokens)} if new_tokens else {}
    return LoraConfig(task_type="CAUSAL_LM", **trained, **spec.adapter.model_dump())
