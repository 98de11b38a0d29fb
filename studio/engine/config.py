"""From the spec to what trl is told: the one place where each training setting arrives."""

from dataclasses import fields
from typing import Any

import torch
from trl import DPOConfig, GRPOConfig, KTOConfig, RewardConfig, SFTConfig
from trl.experimental.orpo import ORPOConfig

from studio.engine.load import Hardware
from studio.runs import Run
from studio.spec import MEASURED, REWARDS, RunSpec

CONFIGS: dict[str, Any] = {
    "sft": SFTConfig,
    "cpt": SFTConfig,
    "dpo": DPOConfig,
    "kto": KTOConfig,
    "orpo": ORPOConfig,
    "reward": RewardConfig,
    "grpo": GRPOConfig,
}
# What trl's configs have no field for: where it arrives is said there.
OURS = {
    "trainer",  # which config this is
    "engine",  # engine.quick
    "early_stopping_patience",  # engine.stopping
    "early_stopping_threshold",
    "add_eos_token",  # engine.encode
    "pattern",  # engine.rewards
    "length",
    "reward_model",
    *REWARDS.values(),
}
_PACKED = ("packing", "packing_strategy")


def trainer_config(spec: RunSpec, run: Run, where: Hardware, *, evaluate: bool) -> Any:
    """The trainer's settings: trl's config of that trainer. Every field of the train, eval and the
    trainer's own section goes in by its own name; the rest says where we differ from trl's
    defaults. `evaluate`: whether there are rows to evaluate on."""
    trainer = spec.train.trainer
    kind = CONFIGS[trainer]
    on_cpu = where.device == "cpu"
    settings = {**spec.train.model_dump(), **spec.eval.model_dump(), **_own(spec)}
    settings = {name: value for name, value in settings.items() if name not in OURS}
    if not evaluate:
        settings |= {"eval_strategy": "no", "eval_on_start": False}
    if settings["eval_strategy"] == "no":
        settings["eval_on_start"] = False
    if kind is not SFTConfig:
        # Only sft and cpt pack; the spec refuses it for the others.
        settings = {name: value for name, value in settings.items() if name not in _PACKED}
    settings["lr_scheduler_kwargs"] = {**_schedule(spec), **settings["lr_scheduler_kwargs"]}
    if trainer == "grpo":
        # What bounds a prompt is done by us; answers have a length of their own.
        settings.pop("max_length")
    known = {field.name for field in fields(kind)}
    assert set(settings) <= known, set(settings) - known
    return kind(
        output_dir=str(run.checkpoints),
        **settings,
        logging_strategy="steps",
        use_cpu=on_cpu,
        # trl turns bf16 on where nothing is said, a CPU included.
        bf16=where.dtype is torch.bfloat16,
        fp16=where.dtype is torch.float16,
        dataloader_pin_memory=not on_cpu,
        # With the filter on, a loss of NaN shows as the last good one.
        logging_nan_inf_filter=False,
        # Early stopping goes on counting where it was.
        restore_callback_states_from_checkpoint=True,
        # Trackio's; the others read theirs from the environment.
        project="atelier",
        disable_tqdm=True,
    )


def _schedule(spec: RunSpec) -> dict[str, Any]:
    """What a scheduler that looks at the evaluations is told where nothing else is said."""
    name, rate = spec.train.lr_scheduler_type, spec.train.learning_rate
    if name not in MEASURED:
        return {}
    # As transformers tells which checkpoint is the best.
    better = "min" if spec.eval.metric_for_best_model.endswith("loss") else "max"
    if name != "greedy":
        return {"mode": better}
    # Its own bounds, 0.001 and 1, are above what an adapter is trained with: it could only rise.
    # The rate that was chosen is the largest that anybody has called safe.
    return {"mode": better, "min_lr": rate / 100, "max_lr": rate}


def _own(spec: RunSpec) -> dict[str, Any]:
    """What this trainer is told beyond what all are told."""
    # trl switches dropout off for those that compare; one that is asked for is kept.
    quiet = {"disable_dropout": not _drops(spec)}
    match spec.train.trainer:
        case "sft" | "cpt":
            # Rows come tokenized, cut and packed.
            return {"dataset_kwargs": {"skip_prepare_dataset": True}}
        case "grpo":
            weights = [getattr(spec.grpo, name) for name in REWARDS.values()]
            # The rows come in our order.
            return {
                **spec.grpo.model_dump(),
                **quiet,
                "reward_weights": [weight for weight in weights if weight],
                "shuffle_dataset": False,
            }
        case "reward" | "orpo" as own:
            # Our rows say where the answer begins, too.
            held = getattr(spec, own).model_dump()
            return {**held, **quiet, "remove_unused_columns": False}
        case "kto" if spec.kto.loss_type == "kto":
            # The rows are shuffled before they are paired.
            return {**spec.kto.model_dump(), **quiet, "train_sampling_strategy": "sequential"}
        case other:
            return {**getattr(spec, other).model_dump(), **quiet}


def _drops(spec: RunSpec) -> bool:
    """Whether the adapter is to drop inputs."""
    method = spec.adapter.method
    section = spec.adapter if method in ("lora", "none") else getattr(spec, method)
    return any(value for name, value in section.model_dump().items() if "dropout" in name)
