"""How the weights are moved: optimizer, schedule of the learning rate, what keeps steps small.

Names are those of transformers' TrainingArguments, which trl's configs inherit."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_OPTIMIZERS = f"{_HF}/transformers/optimizers"
_SCHEDULES = f"{_HF}/transformers/main_classes/optimizer_schedules"
_TRAINER = f"{_HF}/transformers/main_classes/trainer"
_ADAM = "https://arxiv.org/abs/1711.05101"

# All that transformers offers and that run with what is installed here; the others need packages
# of their own. Those of bitsandbytes come in 8 and 32 bits, and paged.
Optimizers = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_bnb_8bit",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
]
Schedulers = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "warmup_stable_decay",
    "reduce_lr_on_plateau",
    "greedy",
]
_BETAS = tuple(o for o in get_args(Optimizers) if re.search("adam|adema|lion", o))
_EPSILON = tuple(o for o in _BETAS if "lion" not in o)
# Those that find the rate themselves, by how the evaluations go.
MEASURED = ("reduce_lr_on_plateau", "greedy")
# The others keep their rate from the first step on, or find it themselves.
WARMED = tuple(s for s in get_args(Schedulers) if s not in ("constant", *MEASURED))
# What each scheduler takes of its own; the others take nothing.
SCHEDULER_KWARGS: dict[str, tuple[str, ...]] = {
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": (
        "num_decay_steps",
        "num_stable_steps",
        "warmup_type",
        "decay_type",
        "min_lr_ratio",
        "num_cycles",
    ),
    "reduce_lr_on_plateau": (
        "mode",
        "factor",
        "patience",
        "threshold",
        "threshold_mode",
        "cooldown",
        "min_lr",
        "eps",
    ),
    "greedy": (
        "mode",
        "factor",
        "patience",
        "threshold",
        "cooldown",
        "warmup",
        "min_lr",
        "max_lr",
    ),
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def _numbers(value: Any) -> Any:
    """What was typed into the form is text: a number is read as one."""
    if not isinstance(value, Mapping):
        return value
    return {name: _number(held) for name, held in value.items()}


def _number(value: Any) -> Any:
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return value
    number = float(value)
    return int(number) if re.fullmatch(r"[-+]?\d+", value.strip()) else number


class OptimizerFields(Section):
    """The part of the train section that is about steps of the weights."""

    learning_rate: float = option(
        2e-4,
        "Size of each step. Lower it if the loss jumps, raise it if the loss hardly moves.",
        label="Learning rate",
        group="Training",
        basic=True,
        widget="sci",
        gt=0,
        le=1,
        link=_TRAINER,
    )
    optim: Optimizers = option(
        "adamw_torch",
        "The optimizer. adamw_torch is the safe choice; the 8-bit ones save memory; the paged ones "
        "move to the computer's memory when a GPU's runs out.",
        label="Optimizer",
        group="Optimizer",
        link=_OPTIMIZERS,
    )
    adam_beta1: float = option(
        0.9,
        "How long Adam and Lion remember the direction of earlier gradients. Raise it towards 0.95 "
        "if the loss is noisy.",
        label="Adam beta 1",
        group="Optimizer",
        ge=0,
        lt=1,
        link=_ADAM,
        when=(("train.optim", _BETAS),),
    )
    adam_beta2: float = option(
        0.999,
        "How long Adam and Lion remember the size of earlier gradients. Lower it towards 0.95 for "
        "short runs or if the loss spikes.",
        label="Adam beta 2",
        group="Optimizer",
        ge=0,
        lt=1,
        link=_ADAM,
        when=(("train.optim", _BETAS),),
    )
    adam_epsilon: float = option(
        1e-8,
        "Keeps Adam's steps finite where gradients are tiny. Raise it towards 1e-6 if float16 or "
        "bfloat16 runs become unsteady.",
        label="Adam epsilon",
        group="Optimizer",
        widget="sci",
        gt=0,
        le=1,
        link=_ADAM,
        when=(("train.optim", _EPSILON),),
    )
    weight_decay: float = option(
        0.0,
        "Pull of the trained weights towards 0. Raise it towards 0.1 against overfitting.",
        label="Weight decay",
        group="Optimizer",
        ge=0,
        le=1,
        link=_TRAINER,
    )
    max_grad_norm: float = option(
        1.0,
        "Gradients longer than this are cut to it. Lower it if the loss jumps; 0 turns it off.",
        label="Max gradient norm",
        group="Optimizer",
        ge=0,
        le=1000,
        link=_TRAINER,
    )
    neftune_noise_alpha: float | None = option(
        None,
        "Noise on the embeddings while training; 5 is usual and often makes answers fuller. "
        "Empty: off.",
        label="NEFTune noise",
        group="Optimizer",
        ge=0,
        le=100,
        link="https://arxiv.org/abs/2310.05914",
    )
    lr_scheduler_type: Schedulers = option(
        "linear",
        "How the learning rate falls over the run. constant keeps it, cosine falls late; where the "
        "evaluation gets no better, reduce_lr_on_plateau lowers it, and greedy does until it gets "
        "better again.",
        label="Scheduler",
        group="Schedule",
        link=_SCHEDULES,
    )
    warmup_steps: float = option(
        0.0,
        "Steps over which the learning rate rises from 0; below 1 it is a share of the run. "
        "Raise it if the first losses jump.",
        label="Warmup",
        group="Schedule",
        ge=0,
        le=1_000_000,
        link=_TRAINER,
        when=(("train.lr_scheduler_type", WARMED),),
    )
    lr_scheduler_kwargs: Annotated[dict[str, float | int | str], BeforeValidator(_numbers)] = (
        option(
            {},
            "What the scheduler takes of its own, such as num_cycles = 3 for cosine_with_restarts, "
            "patience = 2 for reduce_lr_on_plateau, or max_lr = 1e-3 for greedy, which is the "
            "learning rate otherwise. Empty: its defaults.",
            label="Scheduler's own settings",
            group="Schedule",
            widget="mapping",
            link=_SCHEDULES,
            when=(("train.lr_scheduler_type", tuple(SCHEDULER_KWARGS)),),
        )
    )
