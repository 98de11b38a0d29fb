"""Pairs of training settings that can't be honoured together, each with what mends it."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from studio.errors import Problem
from studio.spec.data import DataSection
from studio.spec.evaluate import EvalSection
from studio.spec.grpo import REWARDS, GrpoSection
from studio.spec.optimizer import MEASURED, SCHEDULER_KWARGS, WARMED
from studio.spec.train import NEXT_TOKEN, TrainSection

if TYPE_CHECKING:
    from studio.spec.recipe import RunSpec

_NOTHING = re.compile(r"0+(\.0*)?\s*%?")
# The schedulers that can't be made without one of these.
_NEEDED = {
    "cosine_with_min_lr": ("min_lr_rate", "min_lr"),
    "cosine_warmup_with_min_lr": ("min_lr_rate", "min_lr"),
    "warmup_stable_decay": ("num_decay_steps",),
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 10},
}
# What a trainer tells of an evaluation besides its loss.
_METRICS = {
    "sft": ("eval_mean_token_accuracy",),
    "cpt": ("eval_mean_token_accuracy",),
    "dpo": ("eval_rewards/accuracies", "eval_rewards/margins"),
    "orpo": ("eval_rewards/accuracies", "eval_rewards/margins"),
    "kto": ("eval_rewards/margins",),
    "reward": ("eval_accuracy", "eval_margin"),
    "grpo": ("eval_reward",),
}


def check_training(spec: "RunSpec") -> Iterator[Problem]:
    """Every such problem of the sections train and eval, and of the trainer's own."""
    yield from _length(spec.train)
    yield from _schedule(spec.train)
    yield from _rows(spec)
    yield from _evaluation(spec)
    yield from _best(spec.train, spec.eval)
    match spec.train.trainer:
        case "dpo":
            if spec.dpo.loss_type == "robust" and not spec.dpo.label_smoothing:
                yield Problem(
                    "dpo.label_smoothing",
                    "is 0, and the loss robust needs it.",
                    "Try 0.1.",
                    {"dpo.label_smoothing": 0.1},
                )
        case "kto":
            if spec.kto.loss_type == "kto" and spec.train.per_device_train_batch_size < 2:
                yield Problem(
                    "train.per_device_train_batch_size",
                    "is 1, and the loss kto compares the rows of a batch.",
                    "Use 2 or more, or the loss apo_zero_unpaired.",
                    {"train.per_device_train_batch_size": 2},
                )
        case "grpo":
            yield from _rewards(spec.grpo)
            yield from _groups(spec)


def _length(train: TrainSection) -> Iterator[Problem]:
    if train.max_steps == 0:
        yield Problem(
            "train.max_steps",
            "0 steps would train nothing.",
            "Use -1 to let the epochs decide, or a number above 0.",
            {"train.max_steps": -1},
        )
    elif train.warmup_steps >= 1 and 0 < train.max_steps <= train.warmup_steps:
        yield Problem(
            "train.warmup_steps",
            f"is not shorter than the run of {train.max_steps} steps.",
            "Lower it, or use a share such as 0.03.",
            {"train.warmup_steps": 0.03},
        )


def _schedule(train: TrainSection) -> Iterator[Problem]:
    name, given = train.lr_scheduler_type, train.lr_scheduler_kwargs
    if train.warmup_steps > 0 and name not in WARMED:
        other = ", or the scheduler constant_with_warmup" if name == "constant" else ""
        yield Problem(
            "train.warmup_steps",
            f"is ignored by the scheduler {name}.",
            f"Use 0{other}.",
            {"train.warmup_steps": 0.0},
        )
    elif train.warmup_steps >= 1 and train.warmup_steps != int(train.warmup_steps):
        whole = int(train.warmup_steps)
        yield Problem(
            "train.warmup_steps",
            "is neither a share below 1 nor whole steps.",
            f"Use {whole}, or a share such as 0.03.",
            {"train.warmup_steps": whole},
        )
    known = SCHEDULER_KWARGS.get(name, ())
    needed = _NEEDED.get(name, ())
    unknown = [key for key in given if key not in known]
    if unknown:
        takes = f"It takes {', '.join(known)}." if known else "It takes none: empty it."
        yield Problem(
            "train.lr_scheduler_kwargs",
            f"has {', '.join(unknown)}, which the scheduler {name} does not take.",
            takes,
            {"train.lr_scheduler_kwargs": {k: v for k, v in given.items() if k in known}},
        )
    elif needed and not set(needed) & set(given):
        yield Problem(
            "train.lr_scheduler_kwargs",
            f"needs {' or '.join(needed)} for the scheduler {name}.",
            f"Write {', '.join(f'{k} = {v}' for k, v in _EXAMPLES[name].items())}.",
            {"train.lr_scheduler_kwargs": {**given, **_EXAMPLES[name]}},
        )
    elif {"min_lr", "min_lr_rate"} <= set(given):
        yield Problem(
            "train.lr_scheduler_kwargs",
            "has both min_lr and min_lr_rate, which say the same in two ways.",
            "Keep one of them.",
            {"train.lr_scheduler_kwargs": {k: v for k, v in given.items() if k != "min_lr"}},
        )


def _rows(spec: "RunSpec") -> Iterator[Problem]:
    trainer = spec.train.trainer
    if spec.train.packing and trainer not in NEXT_TOKEN:
        why = {"kto": "compares whole rows", "grpo": "tries whole answers"}
        yield Problem(
            "train.packing",
            f"the trainer {trainer} {why.get(trainer, 'compares whole rows')}, which can't be "
            "packed.",
            "Turn it off.",
            {"train.packing": False},
        )
    if trainer == "cpt" and spec.data.train_on not in ("assistant", "everything"):
        yield Problem(
            "data.train_on",
            "the trainer cpt learns all of a text.",
            "Set it back to assistant.",
            {"data.train_on": "assistant"},
        )
    elif trainer not in NEXT_TOKEN and spec.data.train_on != "assistant":
        yield Problem(
            "data.train_on",
            f"the trainer {trainer} always judges the answer.",
            "Set it back to assistant.",
            {"data.train_on": "assistant"},
        )


def holds_back(data: DataSection) -> bool:
    """Whether any rows are to be held back for the evaluation."""
    return not _NOTHING.fullmatch(data.validation.strip())


def holds_test(data: DataSection) -> bool:
    """Whether any rows are to be kept for a test at the end."""
    return not _NOTHING.fullmatch(data.test.strip())


def _evaluation(spec: "RunSpec") -> Iterator[Problem]:
    """What needs evaluations, where there are none."""
    train, evaluation = spec.train, spec.eval
    if evaluation.eval_strategy == "no":
        where, remedy = "nothing is evaluated", "Set eval.eval_strategy to steps"
        change: dict[str, Any] = {"eval.eval_strategy": "steps"}
    elif not holds_back(spec.data):
        where, remedy = "no rows are held back", "Hold back some (data.validation: 10%)"
        change = {"data.validation": "10%"}
    else:
        return
    if train.lr_scheduler_type in MEASURED:
        yield Problem(
            "train.lr_scheduler_type",
            f"{train.lr_scheduler_type} looks at the evaluations, and {where}.",
            f"{remedy}, or choose another scheduler.",
            change,
        )
    if train.save_strategy == "best":
        yield Problem(
            "train.save_strategy",
            f"best is told by the evaluations, and {where}.",
            f"{remedy}, or save by steps.",
            change,
        )
    if evaluation.load_best_model_at_end:
        yield Problem(
            "eval.load_best_model_at_end",
            f"the best is told by the evaluations, and {where}.",
            f"{remedy}, or turn it off.",
            change,
        )
    if evaluation.early_stopping_patience is not None:
        yield Problem(
            "eval.early_stopping_patience",
            f"early stopping looks at the evaluations, and {where}.",
            f"{remedy}, or empty it.",
            change,
        )


def _best(train: TrainSection, evaluation: EvalSection) -> Iterator[Problem]:
    metric = evaluation.metric_for_best_model
    known = ("eval_loss", *_METRICS[train.trainer])
    if metric not in known:
        yield Problem(
            "eval.metric_for_best_model",
            f"the trainer {train.trainer} does not tell {metric}.",
            f"It tells {', '.join(known)}.",
            {"eval.metric_for_best_model": "eval_loss"},
        )
    if not evaluation.load_best_model_at_end or evaluation.eval_strategy == "no":
        return
    if train.save_strategy not in (evaluation.eval_strategy, "best"):
        yield Problem(
            "train.save_strategy",
            f"is {train.save_strategy}, and the best checkpoint needs one after each evaluation "
            f"({evaluation.eval_strategy}).",
            f"Set it to {evaluation.eval_strategy}, or to best.",
            {"train.save_strategy": evaluation.eval_strategy},
        )
    elif train.save_strategy == "steps" and train.save_steps % evaluation.eval_steps:
        rounds = max(1, round(train.save_steps / evaluation.eval_steps))
        better = evaluation.eval_steps * rounds
        yield Problem(
            "train.save_steps",
            f"{train.save_steps} is no multiple of the {evaluation.eval_steps} steps between "
            "evaluations, so the best could not be kept.",
            f"Use {better}, or turn eval.load_best_model_at_end off.",
            {"train.save_steps": better},
        )


def _rewards(grpo: GrpoSection) -> Iterator[Problem]:
    if not any(getattr(grpo, weight) for weight in REWARDS.values()):
        yield Problem(
            "grpo.exact_match_weight",
            "is 0 like all other weights, so no answer would be better than another.",
            "Give at least one reward a weight.",
            {"grpo.exact_match_weight": 1.0},
        )
    if grpo.pattern_weight and not grpo.pattern:
        yield Problem(
            "grpo.pattern",
            "is empty, and its weight is above 0.",
            "Write a regular expression, or set the weight to 0.",
            {"grpo.pattern_weight": 0.0},
        )
    try:
        re.compile(grpo.pattern)
    except re.error as error:
        yield Problem(
            "grpo.pattern",
            f"{grpo.pattern!r} is no regular expression: {error}.",
            "Mend the pattern.",
        )
    if grpo.reward_model_weight and not grpo.reward_model:
        yield Problem(
            "grpo.reward_model",
            "is empty, and its weight is above 0.",
            "Name a run of the trainer reward, or set the weight to 0.",
            {"grpo.reward_model_weight": 0.0},
        )


def _groups(spec: "RunSpec") -> Iterator[Problem]:
    """Whole groups of answers have to fit into a step and into a pass of the evaluation."""
    train, each = spec.train, spec.grpo.num_generations
    size = train.per_device_train_batch_size
    if size * train.gradient_accumulation_steps % each:
        better = each * max(1, round(size / each))
        yield Problem(
            "train.per_device_train_batch_size",
            f"a step of {size * train.gradient_accumulation_steps} answers can't hold whole groups "
            f"of {each}.",
            f"Use {better}, or change grpo.num_generations.",
            {"train.per_device_train_batch_size": better},
        )
    held = spec.eval.per_device_eval_batch_size
    if (spec.eval.eval_strategy != "no" or holds_test(spec.data)) and held % each:
        better = each * max(1, round(held / each))
        yield Problem(
            "eval.per_device_eval_batch_size",
            f"a pass of {held} answers can't hold whole groups of {each}.",
            f"Use {better}.",
            {"eval.per_device_eval_batch_size": better},
        )
