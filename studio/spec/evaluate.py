"""When the held-back rows are measured, and what follows from it.

Names are those of transformers' TrainingArguments and its EarlyStoppingCallback."""

from typing import Literal

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_TRAINER = f"{_HF}/transformers/main_classes/trainer"
_CALLBACK = f"{_HF}/transformers/main_classes/callback#transformers.EarlyStoppingCallback"

Metrics = Literal[
    "eval_loss",
    "eval_mean_token_accuracy",
    "eval_rewards/accuracies",
    "eval_rewards/margins",
    "eval_accuracy",
    "eval_margin",
    "eval_reward",
]

_ON = (("eval.eval_strategy", ("steps", "epoch")),)


class EvalSection(Section):
    """When the loss on the held-back rows is measured."""

    eval_strategy: Literal["steps", "epoch", "no"] = option(
        "steps",
        "When the held-back rows are measured: every so many steps, after each epoch, or never. "
        "epoch saves time when an epoch is short.",
        label="Evaluate",
        group="Evaluation",
        link=_TRAINER,
    )
    eval_steps: int = option(
        20,
        "Measure the evaluation loss every so many steps. More often shows overfitting sooner "
        "and takes time.",
        label="Evaluate every … steps",
        group="Evaluation",
        ge=1,
        le=10_000_000,
        link=_TRAINER,
        when=(("eval.eval_strategy", ("steps",)),),
    )
    eval_on_start: bool = option(
        True,
        "Measure it once before the first step, so that the chart begins where the base model "
        "stands. Turn it off to start sooner.",
        label="Evaluate before the first step",
        group="Evaluation",
        link=_TRAINER,
        when=_ON,
    )
    per_device_eval_batch_size: int = option(
        8,
        "Rows in one pass of the evaluation, and of the test at the end. Lower it when memory runs "
        "out.",
        label="Evaluation batch size",
        group="Evaluation",
        ge=1,
        le=4096,
        link=_TRAINER,
    )
    load_best_model_at_end: bool = option(
        False,
        "End with the best checkpoint instead of the last one. Turn it on if the evaluation gets "
        "worse towards the end; it needs a checkpoint at every evaluation.",
        label="End with the best checkpoint",
        group="Best checkpoint",
        link=_TRAINER,
        when=_ON,
    )
    metric_for_best_model: Metrics = option(
        "eval_loss",
        "What decides which checkpoint is the best, when to stop early, and when a scheduler "
        "lowers the learning rate. Of a loss, lower is better; of all others, higher.",
        label="Best by",
        group="Best checkpoint",
        link=_TRAINER,
        when=_ON,
    )
    early_stopping_patience: int | None = option(
        None,
        "Stop once so many evaluations in a row were no better than the best. Raise it if the "
        "evaluation is noisy. Empty: never.",
        label="Early stopping after",
        group="Best checkpoint",
        ge=1,
        le=1000,
        link=_CALLBACK,
        when=_ON,
    )
    early_stopping_threshold: float = option(
        0.0,
        "How much better an evaluation must be to count as better. Raise it to stop sooner, once "
        "only crumbs are gained.",
        label="Early stopping threshold",
        group="Best checkpoint",
        ge=0,
        le=1000,
        link=_CALLBACK,
        when=_ON,
    )
