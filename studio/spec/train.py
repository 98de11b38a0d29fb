"""How it is trained: the trainer, how long, in which batches, what is saved and told.

A new option is one entry here: the form, the recipe, the command line and the documentation follow
from it. Names are those of transformers, trl, peft and bitsandbytes, so that what one knows from
there holds here."""

from typing import Literal, get_args

from studio.spec.field import option
from studio.spec.optimizer import OptimizerFields

_HF = "https://huggingface.co/docs"
_TRAINER = f"{_HF}/transformers/main_classes/trainer"
_REPORT = f"{_HF}/transformers/main_classes/callback"

Trainers = Literal["sft", "cpt", "dpo", "kto", "orpo", "reward", "grpo"]
TRAINERS: tuple[str, ...] = get_args(Trainers)
# Those that learn every token as the next one, and so may pack rows.
NEXT_TOKEN = ("sft", "cpt")
PAIRED = ("dpo", "orpo", "reward")


class TrainSection(OptimizerFields):
    """How the adapter is trained. Every name but `trainer` and `engine` is one of trl's configs."""

    trainer: Trainers = option(
        "sft",
        "How the rows teach. sft learns answers, cpt plain text; dpo, orpo and reward learn which "
        "of two answers is better, kto from marks; grpo tries answers and is rewarded.",
        label="Trainer",
        group="Trainer",
        basic=True,
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
        "Stop after this many steps, whatever the epochs say. Lower it for a quick try. -1: the "
        "epochs decide.",
        label="Max steps",
        group="Length",
        ge=-1,
        le=10_000_000,
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
    seed: int = option(
        42,
        "Decides the order of the rows, the held-back ones and the adapter's start. Same seed, "
        "same run; try another one to see what is chance.",
        label="Seed",
        group="Length",
        ge=0,
        le=2**31 - 1,
        link=_TRAINER,
    )
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = option(
        "random",
        "The order of the rows. group_by_length puts rows of like length together: less padding, "
        "a little less chance. sequential keeps the file's order.",
        label="Row order",
        group="Memory and speed",
        link=_TRAINER,
        when=(("train.trainer", ("sft", "cpt", "dpo", "kto", "orpo", "reward")),),
    )
    packing: bool = option(
        False,
        "Put several short rows into one sequence without letting them see each other: less "
        "padding, fewer and fuller steps.",
        label="Packing",
        group="Memory and speed",
        link=f"{_HF}/trl/reducing_memory_usage#packing",
        when=(("train.trainer", NEXT_TOKEN),),
    )
    packing_strategy: Literal["bfd", "bfd_split", "wrapped"] = option(
        "bfd",
        "How rows are packed. bfd keeps each whole; bfd_split goes on with a long row in the next "
        "sequence; wrapped fills every sequence and lets rows see each other.",
        label="Packing strategy",
        group="Memory and speed",
        link=f"{_HF}/trl/reducing_memory_usage#packing",
        when=(("train.trainer", NEXT_TOKEN), ("train.packing", (True,))),
    )
    activation_checkpointing: bool = option(
        False,
        "Compute activations twice instead of keeping them: about a quarter slower, far less "
        "memory.",
        label="Activation checkpointing",
        group="Memory and speed",
        link=f"{_HF}/transformers/grad_checkpointing",
    )
    engine: Literal["auto", "plain", "fast"] = option(
        "auto",
        "How a step is computed. auto: the fast path on an Ampere GPU or newer where it fits, else "
        "trl's own; plain is the reference; fast insists. They learn the same.",
        label="Engine",
        group="Memory and speed",
        link=f"{_HF}/trl/reducing_memory_usage",
    )
    tf32: bool = option(
        False,
        "Round float32 products to 19 bits on GPUs from Ampere on. Turn it on for a faster "
        "float32 run; it changes nothing in bfloat16.",
        label="TF32",
        group="Memory and speed",
        link=f"{_HF}/transformers/perf_train_gpu_one#tf32",
    )
    logging_steps: int = option(
        1,
        "A point on the chart every so many steps. Raise it for runs of many thousand steps.",
        label="Log every … steps",
        group="Saving",
        ge=1,
        le=100_000,
        link=_TRAINER,
    )
    logging_first_step: bool = option(
        False,
        "A point for the first step too, where not every step has one. Turn it on to see where "
        "the loss begins.",
        label="Log the first step",
        group="Saving",
        link=_TRAINER,
    )
    save_strategy: Literal["steps", "epoch", "best", "no"] = option(
        "steps",
        "When a checkpoint is saved: every so many steps, after each epoch, whenever an "
        "evaluation is the best so far, or never. no saves disk; a crash then loses all.",
        label="Save",
        group="Saving",
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
        when=(("train.save_strategy", ("steps",)),),
    )
    save_total_limit: int = option(
        2,
        "Checkpoints kept; older ones are deleted. Raise it to be able to go back further.",
        label="Checkpoints kept",
        group="Saving",
        ge=1,
        le=1000,
        link=_TRAINER,
        when=(("train.save_strategy", ("steps", "epoch", "best")),),
    )
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = option(
        [],
        "Where the numbers are written besides the chart here: files in the run's folder, sent "
        "nowhere. Choose what you already use.",
        label="Also report to",
        group="Saving",
        widget="many",
        link=_REPORT,
    )
