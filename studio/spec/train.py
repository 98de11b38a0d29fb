"""How it is trained and evaluated.

A new option is one entry here: the form, the recipe, the command line and the documentation follow
from it. Names are those of transformers, trl, peft and bitsandbytes, so that what one knows from
there holds here."""

from typing import Literal

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_TRAINER = f"{_HF}/transformers/main_classes/trainer"


class TrainSection(Section):
    """How the adapter is trained. Every name but `trainer` is a field of trl's SFTConfig."""

    trainer: Literal["sft", "dpo", "kto"] = option(
        "sft",
        "How the rows teach: sft learns their answers; dpo learns which of two answers is better; "
        "kto learns from answers marked good or bad.",
        label="Trainer",
        group="Trainer",
        link=f"{_HF}/trl/index",
    )
    num_train_epochs: float = option(
        3.0,
        "How often the model sees every row. More learns the data better and, in the end, by "
        "heart.",
        label="Epochs",
        group="Training",
        basic=True,
        gt=0,
        le=1000,
        link=_TRAINER,
    )
    max_steps: int = option(
        -1,
        "Stop after this many steps, whatever the epochs say. -1: the epochs decide.",
        label="Max steps",
        group="Length",
        ge=-1,
        le=10_000_000,
        link=_TRAINER,
    )
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
    per_device_train_batch_size: int = option(
        8,
        "Rows in one forward pass. Lower it when memory runs out, and raise accumulation by as "
        "much.",
        label="Batch size",
        group="Training",
        basic=True,
        ge=1,
        le=4096,
        link=_TRAINER,
    )
    gradient_accumulation_steps: int = option(
        1,
        "Passes that make up one step: a larger effective batch in the same memory, at more time "
        "a step.",
        label="Gradient accumulation",
        group="Length",
        ge=1,
        le=4096,
        link=_TRAINER,
    )
    max_length: int = option(
        1024,
        "Tokens kept of each row; the rest is cut off. Raise it if the data page shows cut tokens.",
        label="Max length",
        group="Training",
        basic=True,
        ge=8,
        le=1_048_576,
        link=f"{_HF}/trl/sft_trainer",
    )
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = option(
        "random",
        "The order of the rows. group_by_length puts rows of like length together: less padding, "
        "a little less chance. sequential keeps the file's order.",
        label="Row order",
        group="Memory and speed",
        link=_TRAINER,
    )
    packing: bool = option(
        False,
        "Put several short rows into one sequence without letting them see each other: less "
        "padding, "
        "fewer and fuller steps.",
        label="Packing",
        group="Memory and speed",
        link=f"{_HF}/trl/reducing_memory_usage",
    )
    activation_checkpointing: bool = option(
        False,
        "Compute activations twice instead of keeping them: about a quarter slower, far less "
        "memory.",
        label="Activation checkpointing",
        group="Memory and speed",
        link=_TRAINER,
    )
    optim: Literal[
        "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "lion_8bit", "adafactor", "sgd"
    ] = option(
        "adamw_torch",
        "The optimizer. The 8-bit ones save memory; adamw_torch is the safe choice.",
        label="Optimizer",
        group="Optimizer",
        link=_TRAINER,
    )
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = option(
        "linear",
        "How the learning rate falls over the run. constant keeps it; cosine falls late.",
        label="Scheduler",
        group="Optimizer",
        link=_TRAINER,
    )
    warmup_steps: float = option(
        0.0,
        "Steps over which the learning rate rises from 0; below 1 it is a share of the run. "
        "Raise it if "
        "the first losses jump.",
        label="Warmup",
        group="Optimizer",
        ge=0,
        le=1_000_000,
        link=_TRAINER,
    )
    weight_decay: float = option(
        0.0,
        "Pull of the adapter's weights towards 0. Raise it towards 0.1 against overfitting.",
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
    seed: int = option(
        42,
        "Decides the order of the rows, the held-back ones and the adapter's start. Same seed, "
        "same run.",
        label="Seed",
        group="Length",
        ge=0,
        le=2**31 - 1,
        link=_TRAINER,
    )
    logging_steps: int = option(
        1,
        "A point on the chart every so many steps.",
        label="Log every … steps",
        group="Saving",
        ge=1,
        le=100_000,
        link=_TRAINER,
    )
    save_steps: int = option(
        100,
        "A checkpoint every so many steps: less is lost when the machine fails, more disk is used.",
        label="Save every … steps",
        group="Saving",
        ge=1,
        le=10_000_000,
        link=_TRAINER,
    )
    save_total_limit: int = option(
        2,
        "Checkpoints kept; older ones are deleted.",
        label="Checkpoints kept",
        group="Saving",
        ge=1,
        le=1000,
        link=_TRAINER,
    )


class EvalSection(Section):
    """When the loss on the held-back rows is measured."""

    eval_steps: int = option(
        20,
        "Measure the evaluation loss every so many steps. More often shows overfitting sooner "
        "and takes time.",
        label="Evaluate every … steps",
        group="Evaluation",
        ge=1,
        le=10_000_000,
        link=_TRAINER,
    )
    eval_on_start: bool = option(
        True,
        "Measure it once before the first step, so that the chart begins where the base model "
        "stands.",
        label="Evaluate before the first step",
        group="Evaluation",
        link=_TRAINER,
    )
    per_device_eval_batch_size: int = option(
        8,
        "Rows in one pass of the evaluation. Lower it when memory runs out.",
        label="Evaluation batch size",
        group="Evaluation",
        ge=1,
        le=4096,
        link=_TRAINER,
    )
